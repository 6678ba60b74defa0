"""Compiled graphs and flags: what ``torch.compile`` made before something was thawed must not run after it."""

from __future__ import annotations

import sys

import torch

_GUARDED = (2, 13)
"""The first version of torch that was seen to look at ``requires_grad`` before it runs a graph again."""


def drop_stale_graphs() -> None:
    """Have what is compiled compiled anew, where torch would run graphs that give thawed weights no gradient.

    Before version 2.13 a graph that was made while a parameter was frozen runs on after it asks for a gradient
    (pytorch#139476), and the parameter silently never trains.
    """
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < _GUARDED and "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
