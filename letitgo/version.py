"""The version of the package, and of what its numbers depend on."""

from __future__ import annotations

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """What a result is computed with: letitgo, torch and Python."""
    import torch

    return {"letitgo": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
