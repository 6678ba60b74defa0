"""Saving what changed, 5 % of the weights trained, against a plain safetensors save of the whole network.

Goals: at most 5.5 % of the full checkpoint's size and twice its time. Single values scattered at random also cost their
places, which no code brings below 0.9 % of an fp32 checkpoint (the entropy of which 5 % they are): there 6.3 % is what
to expect. One thread, 67 MB. Takes about a minute.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import hand
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from letitgo import load, save
from letitgo.weights import State, copied, load_state

torch.set_num_threads(1)
ROUNDS = 15


def network() -> nn.Module:
    """Convolutions and linear layers, 16.7 million weights."""
    convolutions = [nn.Conv2d(256, 256, 3) for _ in range(14)]
    linear = [nn.Linear(1024, 1024, bias=False) for _ in range(8)]
    return nn.Sequential(*convolutions, *(nn.BatchNorm2d(256) for _ in range(14)), *linear)


def rows(place: int, tensor: Tensor) -> None:
    """5 % of the filters or neurons of every layer."""
    tensor[torch.randperm(len(tensor))[: len(tensor) // 20]] += 1


def layer(place: int, tensor: Tensor) -> None:
    """One layer in twenty or so."""
    if place == 10:
        tensor += 1


def values(place: int, tensor: Tensor) -> None:
    """5 % of the values, anywhere."""
    tensor[torch.rand_like(tensor) < 0.05] += 1


def trained(base: State, change: Callable[[int, Tensor], None]) -> nn.Module:
    """The network with 5 % of its weights moved, and the statistics."""
    module = network()
    load_state(module, base)
    torch.manual_seed(1)
    with torch.no_grad():
        for place, weight in enumerate(w for w in module.parameters() if w.ndim > 1):
            change(place, weight)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer += 1
    return module


torch.manual_seed(0)
base = copied(network())
with tempfile.TemporaryDirectory() as folder:
    full, file, plain = (Path(folder) / name for name in ("base", "delta", "plain"))
    save_file(base, full)
    for change in (rows, layer, values):
        model = trained(base, change)
        state = model.state_dict()
        share = sum(int((state[name] != old).sum()) for name, old in base.items()) / sum(
            map(torch.numel, base.values())
        )
        for kind, against in (("state dict", base), ("file", full)):
            pairs = [
                (hand.seconds(lambda: save(model, file, base=against)), hand.seconds(lambda: save_file(state, plain)))
                for _ in range(ROUNDS)
            ]
            ours, theirs = (hand.median(list(times)) for times in zip(*pairs, strict=True))
            size = file.stat().st_size / plain.stat().st_size
            print(
                f"{change.__name__} ({share:.1%} of the values), base a {kind}: size {size:.2%}, "
                f"time {ours / theirs:.2f} ({ours:.3f} s / {theirs:.3f} s)"
            )
        other = network()
        load_state(other, base)
        loading = hand.seconds(lambda: load(other, file))
        assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
        print(f"{change.__name__}: loaded in {loading:.3f} s")
