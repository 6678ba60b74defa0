"""Weights that come from outside: a file of safetensors or of ``torch.save``, or several in a folder as on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest, WorkFailed, nearest
from letitgo.plan.states import Graft, Initial, State
from letitgo.recipes.libraries import is_of_library, renamed
from letitgo.recipes.networks import Network
from letitgo.store import Store
from letitgo.value import canonical, sha256


@dataclass(frozen=True, eq=False)
class Loaded(State):
    """The tensors of a file or folder: what it holds is in its key, where it lies is not.

    Attributes:
        of: The network they are for. Of another class count, only a graft of the rest fits it: see :func:`adapted`.
        path: Where the file or folder lies.
        digest: SHA-256 of the file; of several, of their digests.
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
        return self.tensors()

    def tensors(self) -> weights.State:
        """In the network's own precision, second names of tied ones left out.

        Raises:
            WorkFailed: The file is not there any more, or is another.
        """
        return _loaded(self)


def open_weights(path: str, network: Network) -> Loaded:
    """The weights in a file (safetensors, ``.pt``, ``.pth`` or ``.bin``) or in a folder, here or on the hub.

    Args:
        path: Of the file or folder; ``transformers:OWNER/NAME``, or ``timm:NAME`` for ``timm/NAME`` on the hub.
        network: What they are for.

    Raises:
        BadRequest: There is no such file or folder, or it holds no weights.
        WorkFailed: The hub cannot be reached.
    """
    library, _, name = path.partition(":")
    if is_of_library(path):
        path = str(weights.fetched_weights(f"timm/{name}" if library == "timm" else name))
    try:
        _, digest = _read(path)
    except OSError as error:
        raise BadRequest(f"the weights {path!r} cannot be read ({error.strerror}): name a file or folder") from error
    return Loaded(network, str(Path(path).resolve()), digest)


def _read(path: str) -> tuple[weights.State, str]:
    """All tensors at a path, and the digest of the files."""
    tensors: weights.State = {}
    digests = []
    for file in weights.weight_files(path):
        data = file.read_bytes()
        digests.append(sha256(data))
        tensors |= weights.read_weights(str(file), data)
    return tensors, digests[0] if len(digests) == 1 else sha256(canonical(digests))


@lru_cache(maxsize=2)
def _loaded(value: Loaded) -> weights.State:
    try:
        tensors, digest = _read(value.path)
    except OSError as error:
        raise WorkFailed(f"the weights {value.path} cannot be read any more ({error.strerror})") from error
    if digest != value.digest:
        raise WorkFailed(f"the weights {value.path} are not those that the study was started with")
    module = weights.seeded(value.of, 0)
    own, second = weights.once(weights.copied(module)), weights.ties(module)
    if value.of.factory.startswith("transformers:"):
        tensors = renamed(module, tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in second}
    return {name: x.to(own[name].dtype) if name in own else x for name, x in tensors.items()}


def adapted(donor: State, network: Network, seed: int) -> State:
    """The donor's weights as a state of a network, whose output layer is drawn anew where the donor's does not fit.

    A network of transformers may have several layers after its backbone: those that the donor lacks are drawn anew too.

    Args:
        donor: Weights of a network with the same names.
        network: The network that they are to be weights of.
        seed: Of what is drawn anew.

    Raises:
        BadRequest: Names differ, or shapes do elsewhere than in the output layer.
    """
    module = weights.seeded(network, 0)
    own = _shapes(module)
    shapes = _shapes(_loaded(donor) if isinstance(donor, Loaded) else weights.seeded(donor.network, 0))
    backbone = f"{getattr(module, 'base_model_prefix', None)}."
    behind = [name for name in own if not name.startswith(backbone) or name.startswith(f"{backbone}pooler.")]
    last = {*network.layers[network.head], *(behind if len(behind) < len(own) else ())}
    for name in shapes:
        if name not in own:
            raise BadRequest(f"the start has {name!r}, which {network.factory!r} has not: {nearest(name, tuple(own))}")
    for name, shape in own.items():
        if name in last:
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
    other = {name for name in last if shapes.get(name) != own[name]}
    new = {name for names in network.layers.values() if other.intersection(names) for name in names} | other
    if not new:
        return donor
    rest = tuple(name for name in own if name not in new)  # running statistics too: they belong to these weights
    return Graft(Initial(network, seed), rest, donor)


def _shapes(of: nn.Module | weights.State) -> dict[str, tuple[int, ...]]:
    state = weights.once(weights.copied(of)) if isinstance(of, nn.Module) else of
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
