"""Saving what changed, 5 % of the weights trained, against a plain safetensors save of the whole network.

Goals: at most 5.5 % of the full checkpoint and twice its time. Single values scattered at random also cost their
places, which no code brings below 0.9 % of an fp32 checkpoint (the entropy of which 5 % they are): 6.3 % is what to
expect there. 67 MB. Then a change of all values, in three types of numbers. Takes about a minute.
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
    """Convolutions with statistics and linear layers, 16.7 million weights."""
    convolutions = [nn.Sequential(nn.Conv2d(256, 256, 3), nn.BatchNorm2d(256)) for _ in range(14)]
    return nn.Sequential(*convolutions, *(nn.Linear(1024, 820) for _ in range(10)))


def rows(place: int, tensor: Tensor) -> None:
    """5 % of the filters or neurons of every layer."""
    tensor[torch.randperm(len(tensor))[: round(len(tensor) / 20)]] += 1


def layer(place: int, tensor: Tensor) -> None:
    """One linear layer, whole."""
    if place == 15:
        tensor += 1


def values(place: int, tensor: Tensor) -> None:
    """5 % of the values, anywhere."""
    tensor[torch.rand_like(tensor) < 0.05] += 1


def full(place: int, tensor: Tensor) -> None:
    """All values, by 0.5 % of their standard deviation, as a fine-tune of everything does."""
    tensor += 0.005 * tensor.float().std().to(tensor.dtype) * torch.randn_like(tensor)


def trained(base: State, change: Callable[[int, Tensor], None]) -> nn.Module:
    """The network with about 5 % of its weights moved, and the running means."""
    module = network().to(next(iter(base.values())).dtype)
    load_state(module, base)
    torch.manual_seed(1)
    weights = [tensor for tensor in module.parameters() if tensor.ndim > 1]
    means = [tensor for name, tensor in module.named_buffers() if name.endswith("running_mean")]
    with torch.no_grad():
        for place, weight in enumerate(weights):
            change(place, weight)
        for mean in means:
            mean.add_(1)
    return module


def report(change: Callable[[int, Tensor], None], base: State, folder: Path) -> None:
    """Print size and time against a base in memory and one in a file."""
    full, file, plain = folder / "base", folder / "delta", folder / "plain"
    save_file(base, full)
    model = trained(base, change)
    state = model.state_dict()
    moved = sum(int((state[name] != old).sum()) for name, old in base.items())
    share = moved / sum(old.numel() for old in base.values())
    for kind, against in {"state dict": base, "file": full}.items():
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(hand.seconds(lambda against=against: save(model, file, base=against)))
            theirs.append(hand.seconds(lambda: save_file(state, plain)))
        size, time = file.stat().st_size / plain.stat().st_size, hand.median(ours) / hand.median(theirs)
        print(
            f"{change.__name__}, {share:.2%} of the values, base a {kind}: size {size:.2%}, "
            f"time {time:.2f} ({hand.median(ours):.3f} s / {hand.median(theirs):.3f} s)"
        )
    other = network().to(next(iter(base.values())).dtype)
    load_state(other, base)
    print(f"{change.__name__}: loaded in {hand.seconds(lambda: load(other, file)):.3f} s")
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


torch.manual_seed(0)
pretrained = copied(network())
for kind_of_change in (rows, layer, values):
    with tempfile.TemporaryDirectory() as place:
        report(kind_of_change, pretrained, Path(place))
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    print(dtype, end=": ")
    with tempfile.TemporaryDirectory() as place:
        report(full, copied(network().to(dtype)), Path(place))
