"""The version of the package, and of what its numbers depend on."""

from __future__ import annotations

import platform
from collections.abc import Mapping

__version__ = "0.1.0"


def versions(device: str = "cpu") -> dict[str, str]:
    """What a result is computed with: letitgo, torch, Python, and the processor's instructions that torch uses.

    Args:
        device: Where. Of one that is no CPU also its model (``device``) and the version of CUDA.
    """
    import torch

    found = {
        "letitgo": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        found |= {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda or torch.version.hip)}
    elif device != "cpu":
        found["device"] = device  # cuda where only other machines of a cluster have a GPU
    return found


def other_versions(recorded: Mapping[str, str], device: str = "cpu") -> str:
    """What rounds differently here, as in ``torch 2.5.1``: the recorded versions that are others now; empty if none.

    Args:
        recorded: Of a result. What it lacks, and Python's, are not compared; without a device it is of the CPU.
        device: Where one would compute here. Instructions of the CPU count on a CPU alone.
    """
    here, elsewhere = versions(device), other_device(recorded, device)
    names = ["letitgo", "torch", *(() if elsewhere else ("cuda",) if "device" in here else ("cpu",))]
    others = [name for name in names if name in here and recorded.get(name, here[name]) != here[name]]
    said = [f"{name} {recorded[name]}" for name in others]
    return ", ".join([*said, f"device {elsewhere}"] if elsewhere else said)


def other_device(recorded: Mapping[str, str], device: str) -> str:
    """The device that a result is of, where that is of another kind or another model of GPU than here; else empty."""
    theirs, ours = recorded.get("device", "cpu"), versions(device).get("device", "cpu")
    return "" if theirs == ours or (ours == "cuda" and theirs not in ("cpu", "mps")) else theirs
