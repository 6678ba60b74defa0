"""Options of the command line, for every version of cyclopts that a supported Python has."""

from __future__ import annotations

import inspect
from typing import Any

import cyclopts

_KNOWN = inspect.signature(cyclopts.Parameter).parameters


def Parameter(**about: Any) -> cyclopts.Parameter:
    """A parameter of cyclopts. Its last version for Python 3.10 has no ``metavar``, which only help shows."""
    return cyclopts.Parameter(**{name: value for name, value in about.items() if name != "metavar" or name in _KNOWN})
