"""Import paths such as ``package.module:factory``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from letitgo.errors import BadRequest


def import_object(path: str, what: str) -> Callable[..., Any]:
    """The callable at ``package.module:name``; modules in the working directory are found too, after all others.

    Raises:
        BadRequest: The module does not import, has no such name, or it is not callable.
    """
    module_name, _, name = path.partition(":")
    if "" not in sys.path and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadRequest(
            f"the {what} {path!r} does not import: {module_name} raises {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise BadRequest(f"the {what} {path!r} does not import: {module_name} has no function or class {name!r}")
    return found


def arguments(function: Callable[..., Any], what: str) -> Mapping[str, inspect.Parameter]:
    """What a callable is called with.

    Raises:
        BadRequest: Python cannot tell.
    """
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the {what} cannot be used: {error}; wrap it in a function of its own") from error


def source_digest(path: str, function: Callable[..., Any]) -> str:
    """SHA-256 of the file that defines ``function``: editing it makes new keys, so no stale result is read.

    Code that the file imports is not covered. Empty for a name of our own, which ``value.FORMAT`` covers, and for
    what is built into Python.

    Raises:
        BadRequest: It has no source file, as in a notebook.
    """
    if ":" not in path:
        return ""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    defined = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        if source := inspect.getsourcefile(defined):
            return hashlib.sha256(Path(source).read_bytes()).hexdigest()
        built_in = not inspect.isfunction(defined)
    except TypeError:
        built_in = True
    except OSError:
        built_in = False
    if built_in:
        return ""
    raise BadRequest(
        f"{path} has no source file, so results of another version of it would pass for its own: "
        "move it to a module (a .py file)"
    )
