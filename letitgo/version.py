"""The version of the package, and of what its numbers depend on."""

from __future__ import annotations

import platform
from collections.abc import Mapping

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """What a result is computed with: letitgo, torch, Python, and the processor's instructions that torch uses."""
    import torch

    return {
        "letitgo": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def other_versions(recorded: Mapping[str, str]) -> str:
    """What rounds differently here, as in ``torch 2.5.1``: the recorded versions that are others now; empty if none.

    Args:
        recorded: Of a result. What it lacks, and Python's, are not compared.
    """
    here = versions()
    names = [name for name in ("letitgo", "torch", "cpu") if recorded.get(name, here[name]) != here[name]]
    return ", ".join(f"{name} {recorded[name]}" for name in names)
