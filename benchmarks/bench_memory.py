"""Memory of training as ``memory`` counts it, against its measured peak on the CPU.

Goal: within 5 % of what PyTorch's allocator held at most. Each row is a process of its own: the network is built, and
two steps are taken, with AdamW, in a loop that lets go of outputs before the backward pass. The first peak is the
allocator's, by PyTorch's profiler: all tensors, those within kernels too, and nothing else. The second is the growth of
the process's resident set over what it was before the network was built: buffers of oneDNN and the heap's gaps too. One
thread. Takes some minutes; where the processor has no arithmetic in bfloat16, that case of ResNet-50 takes far longer.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from letitgo import freeze, memory, select
from letitgo.weights.units import blocks_in

Shapes = dict[str, tuple[int, ...]]
STEPS = 2
ENVIRONMENT = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""Makes glibc hand back what is freed, which it keeps at will otherwise."""


def vit() -> tuple[nn.Module, Shapes]:
    sizes = {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "intermediate_size": 1536}
    config = transformers.ViTConfig(image_size=128, patch_size=16, num_labels=100, **sizes)
    return transformers.ViTForImageClassification(config), {"pixel_values": (16, 3, 128, 128)}


def resnet() -> tuple[nn.Module, Shapes]:
    config = transformers.ResNetConfig(depths=[3, 4, 6, 3], num_labels=100)  # of bottlenecks: ResNet-50
    return transformers.ResNetForImageClassification(config), {"pixel_values": (4, 3, 160, 160)}


def llama() -> tuple[nn.Module, Shapes]:
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4}
    config = transformers.LlamaConfig(intermediate_size=1376, vocab_size=8000, **sizes)
    return transformers.LlamaForCausalLM(config), {"input_ids": (2, 256)}


MAKE = {"ViT": vit, "ResNet-50": resnet, "Llama": llama}
CASES: dict[str, dict[str, Any]] = {
    "all trains": {},
    "first half of blocks frozen": {"frozen": 0.5},
    "blocks checkpointed": {"checkpoint": True},
    "bf16-mixed": {"precision": "bf16-mixed"},
}


def example(shapes: Shapes) -> dict[str, Tensor]:
    inputs = {name: torch.randn(shape) for name, shape in shapes.items() if name == "pixel_values"}
    tokens = {name: torch.randint(100, shape) for name, shape in shapes.items() if name == "input_ids"}
    return {
        **inputs,
        **tokens,
        "labels": tokens.get("input_ids", torch.randint(100, shapes.get("pixel_values", ())[:1])),
    }


def loss(outputs: Any) -> Tensor:
    return outputs.loss


def frozen_blocks(module: nn.Module, share: float) -> list[str]:
    """The first blocks, and all that comes before them."""
    blocks = blocks_in(module)
    return [*blocks[: round(share * len(blocks))], "*embed*"] if share else []


def count(name: str, case: str) -> tuple[int, int]:
    """Bytes at the peak, and of activations."""
    options = dict(CASES[case])
    with torch.device("meta"):
        module, shapes = MAKE[name]()
    if chosen := frozen_blocks(module, options.pop("frozen", 0)):
        freeze(module, select(module, *chosen))
    found = memory(module, example(shapes), loss=loss, **options)
    return found.peak, found.activations


@contextmanager
def allocations() -> Iterator[list[int]]:
    """Fills in the most bytes that PyTorch's allocator held at once."""
    peak = [0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield peak
    held = 0
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak[0] = max(peak[0], held)


def train(name: str, case: str) -> None:
    options = CASES[case]
    module, shapes = MAKE[name]()
    if chosen := frozen_blocks(module, options.get("frozen", 0)):
        freeze(module, select(module, *chosen))
    if options.get("checkpoint"):
        for block in blocks_in(module):
            checkpointed(module.get_submodule(block))
    module.train()
    inputs = example(shapes)
    optimizer = torch.optim.AdamW([own for own in module.parameters() if own.requires_grad])
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16) if "precision" in options else nullcontext():
            found = loss(module(**inputs))
        found.backward()
        del found
        optimizer.step()
        optimizer.zero_grad()


def checkpointed(block: nn.Module) -> None:
    from torch.utils.checkpoint import checkpoint

    forward = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def resident() -> int:
    """Bytes of the process that are in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(name: str, case: str, how: str) -> int:
    """Bytes at the peak of a process that does nothing else."""
    torch.set_num_threads(1)
    cross_entropy(nn.Linear(8, 8)(torch.randn(4, 8)), torch.zeros(4, dtype=torch.int64)).backward()  # loads libraries
    if how == "allocator":
        with allocations() as peak:
            train(name, case)
        return peak[0]
    with torch.device("meta"):
        MAKE[name]()  # loads its code
    before = resident()
    train(name, case)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def in_a_process(*arguments: str) -> int:
    lines = subprocess.check_output([sys.executable, __file__, *arguments], env=ENVIRONMENT).splitlines()
    return json.loads(lines[-1])


def main() -> None:
    print(f"{'network':10} {'case':28} {'activations':>11} {'counted':>8} {'allocator':>9} {'':>7} {'resident':>8}  MB")
    for name in MAKE:
        for case in CASES:
            peak, activations = count(name, case)
            measured = {how: in_a_process(name, case, how) for how in ("allocator", "resident")}
            held, off = measured["allocator"], 100 * (peak / measured["allocator"] - 1)
            print(
                f"{name:10} {case:28} {activations / 1e6:11.1f} {peak / 1e6:8.1f} {held / 1e6:9.1f} {off:+6.2f}% "
                f"{measured['resident'] / 1e6:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main() if len(sys.argv) == 1 else print(measure(*sys.argv[1:]))
