"""Numbers as people read them. Each takes a value and the half-width of its interval, either of which may be None."""

from __future__ import annotations

from typing import Any

NONE = "–"


def _with(text: str, half: str | None) -> str:
    return text if half is None else f"{text} ± {half}"


def points(mean: float | None, half: float | None = None) -> str:
    """A fraction in points or per cent, without the unit: ``0.31 ± 0.12``."""
    if mean is None:
        return NONE
    return _with(f"{round(100 * mean, 2) + 0.0:.2f}", None if half is None else f"{100 * half:.2f}")


def percent(value: float | None, half: float | None = None) -> str:
    """A share with its unit: ``56 %``."""
    if value is None:
        return NONE
    shown = f"{100 * value:.2g}" if abs(value) < 0.1 else f"{100 * value:.0f}"
    return _with(shown, None if half is None else f"{100 * half:.2g}") + " %"


def decimal(value: float | None, half: float | None = None) -> str:
    """A number with two decimals: ``1.20 ± 0.05``."""
    return NONE if value is None else _with(f"{value:.2f}", None if half is None else f"{half:.2f}")


def correlation(value: float | None, half: float | None = None) -> str:
    """A correlation: ``0.80 ± 0.05``; where the interval reaches beyond 1 or -1, its ends: ``0.93 (0.78 to 1.00)``."""
    if value is None or half is None or abs(value) + half <= 1:
        return decimal(value, half)
    return f"{value:.2f} ({max(value - half, -1.0):.2f} to {min(value + half, 1.0):.2f})"


def significant(value: float | None, half: float | None = None) -> str:
    """A number with three significant digits."""
    return NONE if value is None else _with(f"{value:.3g}", None if half is None else f"{half:.2g}")


def count(value: float | None, half: float | None = None) -> str:
    """A whole number: ``200,960``."""
    return NONE if value is None else _with(f"{value:,.0f}", None if half is None else f"{half:,.0f}")


def size(value: float | None, half: float | None = None) -> str:
    """Bytes: ``1.2 MB``."""
    if value is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def text(value: Any, half: float | None = None) -> str:
    """As it is; nothing for None."""
    return "" if value is None else str(value)


def amount(number: float) -> str:
    """A large number with its unit prefix: ``12.3 G``."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} E"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
