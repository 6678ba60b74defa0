"""What goes wrong, in one sentence each.

Every message names the thing that is wrong and says what would be right. The command line prints it
without a traceback and leaves with ``exit_code``.
"""


class LetItGoError(Exception):
    """Base of the errors a caller may want to catch."""

    exit_code = 1


class BadRequest(LetItGoError, ValueError):
    """The request cannot be carried out as it was put: nothing was started."""

    exit_code = 2


class WorkFailed(LetItGoError, RuntimeError):
    """The work was started and did not come through; what was finished stays in the store."""


class PartlyFailed(UserWarning):
    """Some jobs of a study failed: rows are missing or rest on fewer seeds."""


def named(error: BaseException) -> str:
    """Type and first line of an error that somebody else's code raised."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def typed(value: object) -> str:
    """The type of what was given, with its article: ``an int``, ``a Tensor``."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    says = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and not isinstance(error, LetItGoError)
        and ("out of memory" in says or "can't allocate memory" in says or "not enough memory" in says)
    )


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A half-sentence naming what is close to ``name``, or all there is when nothing is."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"choose from {shown}" if shown else "there is none"
