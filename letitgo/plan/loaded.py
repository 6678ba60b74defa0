"""Weights that come from outside: a safetensors file, or what ``torch.save`` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, WorkFailed, nearest
from letitgo.plan.states import Graft, Initial, State
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.value import sha256


@dataclass(frozen=True, eq=False)
class Loaded(State):
    """The tensors of a file: what it holds is in its key, where it lies is not.

    Attributes:
        of: The network they are for. Of another class count, only a graft of the rest fits it: see :func:`adapted`.
        path: Where the file lies.
        digest: SHA-256 of the file.
    """

    of: Network
    path: str
    digest: str

    def identity(self) -> dict[str, Any]:
        return {"of": self.of, "digest": self.digest}

    @property
    def network(self) -> Network:
        return self.of

    def load(self, store: Store) -> weights.State:
        """The tensors, in the network's own precision, second names of tied ones left out.

        Raises:
            WorkFailed: The file is not there any more, or is another.
        """
        return _loaded(self)


def open_weights(path: str, network: Network) -> Loaded:
    """The weights in a file: safetensors, ``.pt``, ``.pth`` or ``.bin``.

    Raises:
        BadRequest: There is no such file, or it holds no weights.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadRequest(f"the weights {path!r} cannot be read ({error.strerror}): name a file") from error
    weights.read_weights(path, data)
    return Loaded(network, str(Path(path).resolve()), sha256(data))


@lru_cache(maxsize=2)
def _loaded(value: Loaded) -> weights.State:
    try:
        data = Path(value.path).read_bytes()
    except OSError as error:
        raise WorkFailed(f"the weights {value.path} cannot be read any more ({error.strerror})") from error
    if sha256(data) != value.digest:
        raise WorkFailed(f"the weights {value.path} are not those that the study was started with")
    module = weights.seeded(value.of, 0)
    own, second = weights.once(weights.copied(module)), weights.ties(module)
    tensors = {name: tensor for name, tensor in weights.read_weights(value.path, data).items() if name not in second}
    return {name: x.to(own[name].dtype) if name in own else x for name, x in tensors.items()}


def adapted(donor: State, network: Network, seed: int) -> State:
    """The donor's weights as a state of a network, whose output layer is drawn anew where the donor's does not fit.

    Args:
        donor: Weights of a network with the same names.
        network: The network that they are to be weights of.
        seed: Of the new output layer.

    Raises:
        BadRequest: Names differ, or shapes do elsewhere than in the output layer.
    """
    own = _shapes(weights.seeded(network, 0))
    shapes = _shapes(_loaded(donor) if isinstance(donor, Loaded) else weights.seeded(donor.network, 0))
    head = network.layers[network.head]
    for name in shapes:
        if name not in own:
            raise BadRequest(f"the start has {name!r}, which {network.factory!r} has not: {nearest(name, tuple(own))}")
    for name, shape in own.items():
        if name in head:
            continue
        if name not in shapes:
            raise BadRequest(
                f"the start lacks {name!r} of {network.factory!r}: it may lack the output layer, {network.head}, only"
            )
        if shapes[name] != shape:
            raise BadRequest(
                f"the start's {name!r} has shape {shapes[name]}, that of {network.factory!r} here "
                f"{shape}: only the output layer, {network.head}, may differ, and is then drawn anew"
            )
    if all(shapes.get(name) == own[name] for name in head):
        return donor
    rest = tuple(name for name in own if name not in head)  # running statistics too: they belong to these weights
    return Graft(Initial(network, seed), rest, donor)


def _shapes(of: nn.Module | weights.State) -> dict[str, tuple[int, ...]]:
    state = weights.once(weights.copied(of)) if isinstance(of, nn.Module) else of
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
