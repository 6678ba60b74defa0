"""Who is at what: two that work on one store do not compute the same thing at the same time.

A claim is a small file that its owner touches while at work. Losing one costs no more than computing something twice:
results are whole and the same whoever writes them.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from letitgo.errors import WorkFailed
from letitgo.store.store import Store

BEAT = 5.0
"""Seconds between two signs of life."""
LEASE = 30.0
"""Seconds without one after which a claim is void."""


@contextmanager
def claimed(store: Store, key: str, owner: str) -> Iterator[bool]:
    """Yields whether the work is the owner's now; False where somebody else is at it.

    A claim is void at once where its owner asks again, so that a worker's death costs no time, and where its process
    ran on this machine and has ended.

    Args:
        store: Where the work's result will be.
        key: Of the work.
        owner: Who asks: workers that never do the same at once may share a name.

    Raises:
        WorkFailed: The store cannot be written.
        BadRequest: The place holds other things than a store.
    """
    path = f"claims/{key}.claim"
    data = json.dumps({"owner": owner, **here()}).encode()
    try:
        store.settle()
        mine = store.files.create(path, data)
        if not mine and _void(store, path, owner):
            store.files.put(path, [data])
            mine = True
    except OSError as error:
        raise WorkFailed(f"{store.root}/{path} cannot be written ({error.strerror or error})") from error
    if not mine:
        yield False
        return
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # what matters is whether the result can be written
                store.files.put(path, [data])

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            store.files.remove(path)


def live(store: Store, path: str) -> bool:
    """Whether the owner of a claim is still at it."""
    return not _void(store, path, owner="")


def here() -> dict[str, object]:
    """This process, so that others on this machine can tell whether it still runs."""
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "since": _since(os.getpid())}


def _void(store: Store, path: str, owner: str) -> bool:
    try:
        claim = json.loads(store.files.read(path))
        if claim["owner"] == owner:
            return True
        if claim["machine"] == _machine() and claim["since"] and _since(claim["pid"]) != claim["since"]:
            return True
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # being written just now, or torn: its age tells
    except FileNotFoundError:
        return True
    try:
        return store.files.age(path) > LEASE
    except FileNotFoundError:
        return True
    except OSError:
        return False  # who may only read cannot ask what time it is there


@lru_cache(maxsize=1)
def _machine() -> str:
    """Where a process id means one process: a machine since it started, and there a container."""
    found = [socket.gethostname()]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        found.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(found)


def _since(process: object) -> str:
    """When a process started, so that its number taken by another is noticed; empty where it is not to be seen."""
    if type(process) is not int:
        return ""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else rest[18]
