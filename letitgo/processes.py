"""Worker processes, forked from one that has imported everything: importing takes seconds, a fork milliseconds.

That process, the server, forks a worker at each request, notes how it ends, and kills what a worker started once the
worker is gone, and all workers once the driver is. It imports letitgo and torch, never code of the user's own, and no
thread runs in it. Where a fork is not safe, on a GPU or on a system other than Linux, a worker starts afresh instead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import NoReturn

FORKS = sys.platform == "linux"
"""Whether a fork is safe here, on the CPU."""

_START = """
import sys
sys.path[:] = filter(None, sys.path)  # not the working directory: a file in it may have any module's name
from letitgo import processes
processes.{function}(*map(int, sys.argv[1:]))
"""
_PRELOADED = ("letitgo.execute.jobs", "torch._dynamo")  # an optimiser imports the latter when it is made
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Process:
    """A worker process. Lines go there and come back; it starts in the folder and with the environment of the driver.

    Args:
        main: The module whose function ``main(orders, replies)`` it runs, two text files with a line for each message.
        forked: Whether it is forked from the server; else Python starts afresh.

    Raises:
        OSError: It cannot be started.

    Attributes:
        pid: Its process id; 0 before it started.
        code: How it ended, as :attr:`subprocess.Popen.returncode`; None while it runs.
    """

    def __init__(self, main: str, forked: bool = FORKS) -> None:
        self.code: int | None = None
        self.pid = 0
        self._ended = threading.Event()
        self._socket, theirs = socket.socketpair()
        fate, tell = os.pipe()
        try:
            self._server = _server(forked)
            self._server.start(theirs.fileno(), tell)
        except BaseException:
            os.close(fate)
            self._socket.close()
            raise
        finally:
            os.close(tell)
            theirs.close()
        threading.Thread(target=self._watch, args=(fate,), daemon=True).start()
        folder = ""
        with contextlib.suppress(OSError):  # it was removed
            folder = os.getcwd()
        self.send(json.dumps({"main": main, "environment": {**os.environ, **_THREADS}, "folder": folder}))

    def send(self, line: str) -> None:
        """Say something.

        Raises:
            OSError: Nobody hears.
        """
        self._socket.sendall(f"{line}\n".encode())

    def lines(self) -> Iterator[str]:
        """What it says, to its end or that of the last process that it started."""
        with self._socket.makefile(encoding="utf-8") as lines:
            yield from lines

    def end(self) -> int:
        """End it, whatever it is at; give its exit code."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        if not self._ended.wait(1) and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._ended.wait()
        self._socket.close()
        return self.code or 0

    def _watch(self, fate: int) -> None:
        with open(fate, encoding="utf-8") as lines:
            self.pid = int(lines.readline() or 0)
            end = lines.readline()
        self.code = int(end) if end else self._server.code()
        self._ended.set()


def prepare() -> None:
    """Start the server, so that it imports while the caller does something else."""
    _server(FORKS)


class _Server:
    """The driver's side of the server.

    Args:
        forked: Whether workers are forked.
    """

    def __init__(self, forked: bool) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._used = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START.format(function="serve"), str(theirs.fileno()), str(int(forked))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_THREADS},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
        atexit.register(self._end)

    def runs(self) -> bool:
        return self._process.poll() is None

    def start(self, connection: int, tell: int) -> None:
        """Have a worker started.

        Args:
            connection: Its end of the socket to it.
            tell: Where its process id goes and, later, its exit code.
        """
        with self._lock, contextlib.ExitStack() as opened:
            try:
                errors = os.dup(2)
            except OSError:  # the driver has none
                errors = os.open(os.devnull, os.O_RDWR)
            opened.callback(os.close, errors)
            self._used = True
            socket.send_fds(self._control, [b"+"], [connection, tell, errors])

    def code(self) -> int:
        """The exit code of the server, which is gone and so cannot say how a worker ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1)
        return 1

    def _end(self) -> None:
        self._control.close()
        if not self._used:  # it may still be importing
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)


_servers: dict[object, _Server] = {}
_starting = threading.Lock()


def _server(forked: bool) -> _Server:
    """The server of this process: one for each way to start Python, which reads its variables only then."""
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith("PYTHON"))
    key = (os.getpid(), sys.executable, tuple(variables), forked)
    with _starting:
        server = _servers.get(key)
        if server is None or not server.runs():
            server = _servers[key] = _Server(forked)
        return server


def serve(control: int, forked: int) -> NoReturn:
    """Start workers as the driver asks, until it is gone. The server's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what an interrupt ends is for the driver to decide
    requests = socket.socket(fileno=control)
    ended, wake = socket.socketpair()
    for end in (ended, wake):
        end.setblocking(False)
    if forked:
        gc.disable()
        for module in _PRELOADED:
            importlib.import_module(module)
        gc.enable()
        gc.freeze()  # so that collections in workers do not write to the memory that they share
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    workers: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            ended.recv(1 << 16)
            _bury(workers)
        if requests in ready:
            message, passed, *_ = socket.recv_fds(requests, 1, 3)
            if not message:
                break
            connection, tell, errors = passed
            if (worker := os.fork()) == 0:
                for open_here in (requests, ended, wake):
                    open_here.close()
                for other in (tell, *workers.values()):
                    os.close(other)
                _become_worker(connection, errors, bool(forked))
            workers[worker] = tell
            os.write(tell, f"{worker}\n".encode())
            os.close(connection)
            os.close(errors)
    for worker in workers:
        _kill_group(worker)
    os._exit(0)


def _bury(workers: dict[int, int]) -> None:
    """Say how workers ended, and kill what they started."""
    while workers:
        worker, status = os.waitpid(-1, os.WNOHANG)
        if worker == 0:
            return
        _kill_group(worker)
        tell = workers.pop(worker)
        with contextlib.suppress(OSError):
            os.write(tell, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os.close(tell)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _become_worker(connection: int, errors: int, forked: bool) -> NoReturn:
    """What the server's child does first."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(errors, 2)
        os.dup2(errors, 1)  # whatever a network prints
        os.close(errors)
        if not forked:
            os.set_inheritable(connection, True)
            os.execv(sys.executable, [sys.executable, "-c", _START.format(function="work"), str(connection)])
        work(connection)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def work(connection: int) -> NoReturn:
    """Take orders from the driver. A worker's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = socket.socket(fileno=connection)
    orders, replies = lines.makefile(encoding="utf-8"), lines.makefile("w", encoding="utf-8")
    first = orders.readline()
    if first:
        about = json.loads(first)
        _enter(about["environment"], about["folder"])
        importlib.import_module(about["main"]).main(orders, replies)
    os._exit(0)


def _enter(environment: Mapping[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if folder:
        with contextlib.suppress(OSError):
            os.chdir(folder)
