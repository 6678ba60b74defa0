"""Interrupts that are not lost: a library that is being imported may swallow one, and go on or fail in its own way."""

from __future__ import annotations

import signal
import threading
from typing import Any

_seen = threading.Event()


def watch() -> None:
    """From here on remember interrupts, unless they are ignored, as in a shell's background."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def seen() -> bool:
    """Whether there was one."""
    return _seen.is_set()


def check() -> None:
    """Raise ``KeyboardInterrupt`` where there was one."""
    if seen():
        raise KeyboardInterrupt


def _interrupt(*_: Any) -> None:
    _seen.set()
    raise KeyboardInterrupt
