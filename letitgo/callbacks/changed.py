"""Checkpoints that hold what changed since training began, and of the rest the digest.

A tensor that is, bit for bit, as it was is replaced by the SHA-256 of its type, shape and bits, in a shape that no
weight has. So such a checkpoint is never mistaken for a whole one: whoever loads it without knowing is told of a size
mismatch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from letitgo.errors import BadRequest, WorkFailed
from letitgo.weights.layers import bare, plain
from letitgo.weights.sharded import refuse_sharded
from letitgo.whole import replaced

MARK = (1, 1, 1, 1, 1, 32)
"""The shape of a digest, as bytes, in a tensor's place."""


class Changed:
    """What a network was when training began: a digest of each tensor."""

    def __init__(self) -> None:
        self._base: dict[str, bytes] | None = None
        self._hook: Any = None

    def watch(self, module: nn.Module) -> None:
        """From now on whatever is loaded into the module has its digests replaced by the module's own tensors."""
        self.release()
        self._base = None
        self._hook = module.register_load_state_dict_pre_hook(self._before_load)

    def begin(self, module: nn.Module) -> None:
        """Take the module as it is for what training begins with, unless a checkpoint was loaded into it since."""
        refuse_sharded(module, "ChangedWeights")
        if self._base is None:
            self._base = digests(module.state_dict())

    def leave_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with digests in place of the tensors that are as they were."""
        now, base = digests(state), self._base or {}
        return {
            name: torch.tensor(list(now[name]), dtype=torch.uint8).view(MARK)
            if name in now and now[name] == base.get(name) and tensor.shape != MARK
            else tensor
            for name, tensor in state.items()
        }

    def rewrite(self, file: Path) -> None:
        """Leave out of a safetensors file what is as it was, in one move."""
        with safe_open(file, framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = opened.metadata()
        with replaced(file) as partial:
            save_file(self.leave_out(state), partial, about)

    def release(self) -> None:
        """Leave the module alone again."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _before_load(self, module: nn.Module, state: MutableMapping[str, Any], prefix: str, *rest: Any) -> None:
        self.begin(module)
        put_back(module, state, prefix)


def load_changed(module: nn.Module, checkpoint: str | Path) -> None:
    """Load a checkpoint that ``ChangedWeights`` wrote onto the network as it was before training.

    Args:
        module: Changed in place.
        checkpoint: A file of Lightning, or a checkpoint folder of the Trainer.

    Raises:
        BadRequest: There is no such checkpoint, or the network is not what training started from.
        WorkFailed: It cannot be read.
    """
    refuse_sharded(module, "load_changed")
    path = Path(checkpoint)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise BadRequest(f"there is no checkpoint {file}")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:
        raise WorkFailed(f"the checkpoint {file} cannot be read: {error}") from error
    own: dict[str, str] = {plain(module, name): name for name in module.state_dict()}
    inside = zip(state, bare(state), strict=True)
    state = {own.get(without, str(name)): state[name] for name, without in inside}
    put_back(module, state)
    _repeat_ties(module, state)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadRequest(f"the checkpoint {file} is of another network: {error}") from None


def put_back(module: nn.Module, state: MutableMapping[str, Any], prefix: str = "") -> None:
    """Replace the digests in a state by the module's own tensors.

    Raises:
        BadRequest: The module's own are not those that were left out.
    """
    own = module.state_dict()
    left_out = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and tensor.shape == MARK]
    left_out = [name for name in left_out if state[name].dtype == torch.uint8 and name.startswith(prefix)]
    wrong = []
    for name in left_out:
        tensor = own.get(name.removeprefix(prefix))
        if tensor is None:
            raise BadRequest(
                f"the checkpoint is of another network: it leaves out {name}, which this one does not have"
            )
        if digests({name: tensor})[name] != bytes(state[name].flatten().tolist()):
            wrong.append(name)
        state[name] = tensor
    if wrong:
        names = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise BadRequest(
            f"the checkpoint leaves out {names}, which did not change in training but are not the same in this "
            "network: load it onto the weights that training started from"
        )


def digests(state: Mapping[str, Any]) -> dict[str, bytes]:
    """Name → SHA-256 over type, shape and bits, for all tensors of a state."""
    found = {}
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            hashed = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            found[name] = hashed.digest()
    return found


def _repeat_ties(module: nn.Module, state: MutableMapping[str, Any]) -> None:
    """safetensors keeps a tied tensor once; ``load_state_dict`` wants it under each of its names."""
    own = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    places = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in own.items() if tensor.numel()}
    kept = {places[name]: tensor for name, tensor in state.items() if name in places}
    for name, place in places.items():
        if name not in state and place in kept:
            state[name] = kept[place]
