"""What cached features save of an epoch, over what they could save. Goal: at least 0.9.

A vision transformer from a configuration, with its embeddings and half of its blocks frozen, trained in a plain loop
over a loader, with features and without, an epoch each in turn, one thread. What they could save is the share that the
frozen part has in the counted operations of a step; what they save is one minus the time of the epoch with features
over that without. The caching itself is timed apart. Seconds are of the processor: on a busy machine others count less.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import hand
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

from letitgo import cache_features, freeze, select, step_cost, trainable

torch.set_num_threads(1)
EXAMPLES, BATCH, ROUNDS, BLOCKS = 128, 32, 7, 6
SIZES = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}


def vit() -> Any:
    """With half of its blocks frozen."""
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=4, num_labels=10, num_hidden_layers=BLOCKS, **SIZES)
    module = ViTForImageClassification(config).train()
    freeze(module, select(module, "vit.embeddings", *(f"vit.layers.{i}" for i in range(BLOCKS // 2))))
    return module


def epoch(module: Any, optimizer: torch.optim.Optimizer, examples: Any) -> float:
    """Seconds of the processor."""
    begin = time.process_time()
    for inputs, labels in DataLoader(examples, BATCH, shuffle=True):
        optimizer.zero_grad()
        cross_entropy(module(inputs).logits, labels).backward()
        optimizer.step()
    return time.process_time() - begin


data = TensorDataset(torch.randn(EXAMPLES, 3, 32, 32), torch.randint(10, (EXAMPLES,)))
counted = step_cost(vit(), data.tensors[0][:2])
could = 1 - counted.step / counted.whole
plain, cached = vit(), vit()
with tempfile.TemporaryDirectory() as folder:
    begin = time.process_time()
    features = cache_features(cached, data, Path(folder) / "features.safetensors", BATCH)
    caching = time.process_time() - begin
    optimizers = [torch.optim.AdamW(trainable(module)) for module in (plain, cached)]
    epochs = [(epoch(plain, optimizers[0], data), epoch(cached, optimizers[1], features)) for _ in range(ROUNDS + 1)]
rounds = epochs[1:]  # the first warms up
saved = sorted(1 - short / long for long, short in rounds)
took = hand.median([long for long, _ in rounds])
print(f"{features}")
print(f"an epoch without: {took:.2f} s; caching: {caching:.2f} s, {caching / took:.2f} of it")
print(f"saved: {hand.median(saved):.3f} of an epoch ({saved[0]:.3f} to {saved[-1]:.3f}, {ROUNDS} rounds)")
print(f"could be saved: {could:.3f} of the operations; saved over that: {hand.median(saved) / could:.3f}")
