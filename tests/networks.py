"""Random networks, random choices of their weights, and every optimiser: what the property tests range over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from helpers import bits
from hypothesis import strategies as st
from torch import Tensor, nn

from letitgo.weights import Selection, copied, parameter_names, seeded

WIDTH = 6


class WithToken(nn.Module):
    """A container that owns a parameter of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, WIDTH))
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs + self.cls_token)


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.decode.weight = self.encode.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.encode(inputs)))


LEAVES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "no bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "conv": lambda: nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten(), _halve()),
    "image conv": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 1, 3, padding=1), nn.Flatten()),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "dropout": lambda: nn.Dropout(0.3),
    "relu": nn.ReLU,
    "token": lambda: WithToken(nn.Linear(WIDTH, WIDTH)),
    "token on norm": lambda: WithToken(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU())),
    "tied": Tied,
}


def _halve() -> nn.Module:
    return nn.Linear(2 * WIDTH, WIDTH)


def build(tree: Any) -> nn.Module:
    return LEAVES[tree]() if isinstance(tree, str) else nn.Sequential(*map(build, tree))


trees = st.lists(
    st.recursive(st.sampled_from(list(LEAVES)), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=4),
    min_size=1,
    max_size=3,
)


@dataclass(frozen=True)
class Case:
    """A network and a choice of its parameters."""

    tree: Any
    chosen: tuple[str, ...]

    def module(self, seed: int = 0) -> nn.Module:
        return seeded(lambda: build([*self.tree, "linear"]), seed)

    @property
    def selection(self) -> Selection:
        return Selection(self.chosen, parameter_names(self.module()))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tree = draw(trees)
    names = parameter_names(Case(tree, ()).module())
    flags = draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    return Case(tree, tuple(name for name, flag in zip(names, flags, strict=True) if flag))


def inputs() -> Tensor:
    return torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(1))


def step(module: nn.Module, optimizer: torch.optim.Optimizer, set_to_none: bool = False) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = (module(inputs()) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, weight_decay=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, weight_decay=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["Muon"] = lambda p: torch.optim.Muon([x for x in p if x.ndim == 2], lr=0.1, weight_decay=0.1)


def portrait(module: nn.Module) -> dict[str, Any]:
    """Everything freezing might leave behind."""
    return {
        "parameters": [(name, id(p), p.requires_grad) for name, p in module.named_parameters(remove_duplicate=False)],
        "modules": [(name, id(part), part.training, sorted(vars(part))) for name, part in module.named_modules()],
        "keys": list(module.state_dict()),
        "bits": bits(copied(module)),
    }


def behaviour(module: nn.Module) -> list[bool]:
    """How the parts take ``train()`` and ``eval()``."""
    module = copy.deepcopy(module)
    return [part.training for mode in (False, True) for part in module.train(mode).modules()]
