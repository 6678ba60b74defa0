"""What code an object's behaviour depends on: modules of the user's own by digest, installed distributions by version.

A digest is that of the source that runs. An audit hook sees each module of the user's own when Python executes it,
and keeps its source as it is then. What was loaded before is read when the hook is set; a file that changed between the
start of the process and that moment is refused, since nobody knows which version of it was loaded.

Imports are read from the source and not from the modules, so every process finds the same. Versions of torch and of
letitgo are left out: each record holds them, and studies that mix them say so.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import local
from typing import Any

from letitgo.errors import BadRequest

Code = dict[str, str]
"""Module of the user's own → SHA-256 of its source; installed distribution → its version."""

_LEFT_OUT = ("letitgo", "torch")
_INSTALLED = ("site-packages", "dist-packages")
_LIBRARY = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
_HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")


class EditedSince(UserWarning):
    """A module was edited after it was imported; the process goes on with the code that it imported."""


@dataclass(frozen=True)
class _Source:
    """A module's source as it was executed.

    Attributes:
        text: The source; None where nobody knows which version was executed.
        order: The number of the execution, counted over all modules of the user's own.
        inside: The files whose execution it was part of, where another source of the same module was executed before;
            None otherwise.
    """

    text: bytes | None
    order: int
    inside: frozenset[str] | None = None


_executed: dict[str, _Source] = {}
_recorder = local()


def code_of(path: str, found: Any) -> Code:
    """The code that an object's behaviour depends on; empty for a name of ours, and where it is Python's or torch's.

    Not covered are files that the code opens, what a program sets in its modules, and imports by computed names.

    Args:
        path: ``package.module:name``, or a name of ours.
        found: What is found there.

    Raises:
        BadRequest: A module has no source file, as in a notebook, or it is unknown which version of it is loaded.

    Warns:
        EditedSince: A module was edited after it was imported.
    """
    if ":" not in path:
        return {}
    module = path.partition(":")[0]
    function = inspect.unwrap(found.func if isinstance(found, partial) else found)
    homes = [kind.__module__ for kind in (function if inspect.isclass(function) else type(function)).__mro__]
    homes.append(getattr(function, "__module__", None) or module)
    typed_in = getattr(getattr(function, "__code__", None), "co_filename", "")
    if "__main__" in (module, *homes) and typed_in and typed_in != getattr(sys.modules["__main__"], "__file__", None):
        raise _without_source(path)
    return code_of_modules(path, module, *homes)


def code_of_modules(what: str, *modules: str) -> Code:
    """The code that modules depend on, all that they import included.

    Args:
        what: What is defined there, for the message of an error.
        modules: Their names.

    Raises:
        BadRequest: As :func:`code_of`.

    Warns:
        EditedSince: As :func:`code_of`.
    """
    code: Code = {}
    for name, digest, file in _reached(what, tuple(dict.fromkeys(modules)), len(sys.path), _count()):
        code[name] = digest
        if file and digest_of(file) not in (digest, ""):
            warnings.warn(
                f"{file} was edited after it was imported: this process goes on with the code that it imported; "
                "restart it, or call importlib.reload, to use the new one",
                EditedSince,
                stacklevel=2,
            )
    return code


@lru_cache(maxsize=256)
def _reached(what: str, modules: tuple[str, ...], _paths: int, _executions: int) -> tuple[tuple[str, str, str], ...]:
    """Name, digest or version, and file of an executed module, for all that is reached."""
    found: dict[str, tuple[str, str]] = {}
    seen: set[str] = set()
    left = [(name, "") for name in modules]
    while left:
        name, importer = left.pop()
        top = name.partition(".")[0]
        file = _file_of(top)
        library = top in sys.stdlib_module_names and (file is None or file.startswith(_LIBRARY))
        if name in seen or top in _LEFT_OUT or library:
            continue
        seen.add(name)
        if _is_installed(file or _folder_of(top)) and (distribution := _distribution(top)):
            found[distribution.name] = distribution.version, ""
            continue
        file = _file_of(name)
        if file is None:
            if name in modules and name in sys.modules and not _folder_of(name):
                raise _without_source(what)
            continue
        source = _source(file)
        if _is_stale(source, importer):
            raise BadRequest(f"{file} was reloaded after a module that imports it: reload that one too, or restart")
        if source.text is None:
            raise BadRequest(
                f"{file} was edited after this process began and imported before letitgo, so it is unknown which "
                "version runs: call importlib.reload on it, or restart; import letitgo first"
            )
        found[name] = sha256(source.text).hexdigest(), file if source.order else ""
        package = name if os.path.basename(file).startswith("__init__.") else name.rpartition(".")[0]
        left += [(each, file) for each in (name.rpartition(".")[0], *_imports(source.text, package)) if each]
    return tuple((name, *about) for name, about in sorted(found.items()))


@lru_cache(maxsize=1024)
def _imports(source: bytes, package: str) -> tuple[str, ...]:
    """The modules that a source names in its imports, and what may be one."""
    names: list[str] = []
    with suppress(SyntaxError, ValueError):  # a compiled module
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                with suppress(ImportError):  # beyond the top of the package
                    base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                    names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies, found without executing anything."""
    known = getattr(sys.modules.get(name), "__spec__", None)
    if known is not None or name == "__main__":
        return known
    path = None
    if parent := name.rpartition(".")[0]:
        above = _spec(parent)
        path = above and above.submodule_search_locations
        if path is None:
            return None
    found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in found if spec is not None), None)


def _file_of(name: str) -> str | None:
    """The file of a module; None where there is none, as for a namespace package."""
    spec = _spec(name)
    file = spec.origin if spec is not None else getattr(sys.modules.get(name), "__file__", None)
    return os.path.abspath(file) if file and os.path.isabs(file) else None


def _folder_of(name: str) -> str:
    """The first folder of a namespace package; empty where it is none."""
    spec = _spec(name)
    return next(iter((spec and spec.submodule_search_locations) or ()), "")


def _is_installed(file: str) -> bool:
    return any(f"{os.sep}{folder}{os.sep}" in file for folder in _INSTALLED)


@cache
def _distribution(top: str) -> importlib.metadata.Distribution | None:
    """The distribution that installed a top-level module; the one of its name, if there is one, is found quickest."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.distribution(top)
    names = importlib.metadata.packages_distributions().get(top)
    return importlib.metadata.distribution(names[0]) if names else None


def _is_stale(source: _Source, importer: str) -> bool:
    """Whether an importer was executed before a module that it imports was executed with another source."""
    before = _executed.get(importer)
    reloaded = source.inside is not None and importer not in source.inside
    return reloaded and before is not None and before.order < source.order


def _source(file: str) -> _Source:
    """The source that was executed, or that would be."""
    try:
        return _executed.get(file) or _Source(Path(file).read_bytes(), 0)
    except OSError as error:
        raise BadRequest(f"{file} cannot be read ({error.strerror}), so the code that runs is unknown") from error


def digest_of(file: str) -> str:
    """SHA-256 of a file as it is now; empty where it cannot be read."""
    try:
        about = os.stat(file)
        return _digest(file, about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino)
    except OSError:
        return ""


@lru_cache(maxsize=1024)
def _digest(file: str, *_: int) -> str:
    return sha256(Path(file).read_bytes()).hexdigest()


def _without_source(what: str) -> BadRequest:
    return BadRequest(
        f"{what} has no source file, so results of another version of it would pass for its own: "
        "move it to a module (a .py file; in a notebook, a cell that begins with %%writefile nets.py)"
    )


def _count() -> int:
    return max((source.order for source in _executed.values()), default=0)


def _is_own(file: str) -> bool:
    return not (_is_installed(file) or file.startswith((*_LIBRARY, _HERE, "<")))


def _watch(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook: keep the source of each module of the user's own, and the names of files that are opened."""
    if event == "exec" and getattr(args[0], "co_name", "") == "<module>" and _is_own(args[0].co_filename):
        file = os.path.abspath(args[0].co_filename)
        with suppress(OSError):
            text, before = Path(file).read_bytes(), _executed.get(file)
            edited = before is not None and (before.inside is not None or before.text != text)
            _executed[file] = _Source(text, _count() + 1, frozenset(_under_way()) if edited else None)
    elif event == "open" and (files := getattr(_recorder, "files", None)) is not None:
        path, mode, flags = args
        reads = flags & (os.O_WRONLY | os.O_RDWR) == 0 if mode is None else not set(mode) & set("wax+")
        if reads and isinstance(path, (str, bytes)) and len(_under_way()) == _recorder.modules:
            files.append(os.path.abspath(os.fsdecode(path)))


def _under_way() -> list[str]:
    """The files of the modules that are being executed."""
    frame, found = sys._getframe(), list[str]()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            found.append(os.path.abspath(frame.f_code.co_filename))
        frame = frame.f_back
    return found


@contextmanager
def opened() -> Iterator[list[str]]:
    """Note the files of the user's own that this thread opens for reading.

    Left out are modules, and what a module opens when it is imported: whether it is imported here depends on what the
    process did before.

    Yields:
        A list, complete once the block is left. Files that native code opens are not among them.
    """
    files: list[str] = []
    _recorder.files, _recorder.modules = files, len(_under_way())
    try:
        yield files
    finally:
        _recorder.files = None
        system = tuple(os.path.join(os.sep, folder, "") for folder in ("proc", "sys", "dev", "etc"))
        own = [file for file in dict.fromkeys(files) if _is_own(file) and not file.startswith(system)]
        files[:] = [file for file in own if not file.endswith(_CODE) and os.path.isfile(file)]


def _began() -> float:
    """When this process began, in seconds of the epoch; infinite where that cannot be found out."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return float("inf")
    return time.time() - age + 0.02  # clocks of files and of processes tick


def _read_what_is_loaded() -> None:
    began = _began()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and _is_own(file) and file.endswith(".py"):
            with suppress(OSError):
                about, file = os.stat(file), os.path.abspath(file)
                sure = max(about.st_mtime, about.st_ctime) <= began
                _executed[file] = _Source(Path(file).read_bytes() if sure else None, 1)


_read_what_is_loaded()
sys.addaudithook(_watch)
