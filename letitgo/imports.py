"""Import paths such as ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
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
    except (Exception, SystemExit) as error:
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
