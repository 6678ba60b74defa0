"""What docs/guides/sharded-training.md says of DeepSpeed, run on the CPU in two processes where it is installed."""

from __future__ import annotations

import importlib.util
import socket

import pytest
from helpers import two_processes

SCRIPT = """
import json, os, sys
from pathlib import Path
rank, folder, stage = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
os.environ |= dict(DS_ACCELERATOR="cpu", RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_SIZE="2",
    CROSS_RANK="0", CROSS_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT=sys.argv[4])
import deepspeed, torch
from torch import nn
from letitgo import BadRequest, cost, freeze, hold, load, save, select, thaw, trainable

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))

def engine(model, precision):
    config = {"train_micro_batch_size_per_gpu": 5, "gradient_clipping": 1.0, "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {"lr": 0.1, "torch_adam": True, "weight_decay": 0.1}}, **precision}
    return deepspeed.initialize(model=model, model_parameters=trainable(model), config=config)[0]

def state(model):
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return {name: p.detach().float().clone() for name, p in model.named_parameters()}

def still(model, wrapped):
    before = state(model)
    for step in range(3):
        torch.manual_seed(2 * step + int(rank))
        inputs = torch.randn(5, 6, dtype=next(model.parameters()).dtype)
        wrapped.backward(wrapped(inputs).float().square().mean())
        wrapped.step()
    return [name for name, tensor in state(model).items() if torch.equal(tensor, before[name])]

def refused(change):
    try:
        change()
    except BadRequest as error:
        return str(error)

deepspeed.init_distributed("gloo")
model = network()
freeze(model, "0")
wrapped = engine(model, {})
found = {"fixed": still(model, wrapped)}
changes = [
    lambda it: thaw(it),
    lambda it: freeze(it, select(it, "2")),
    lambda it: hold(it, select(it, "2")),
    lambda it: load(it, folder / "none"),
    lambda it: cost(it, torch.randn(5, 6), "2"),
]
given = (wrapped, model) if stage else (wrapped,)
found["refused"] = [refused(lambda: change(it)) for it in given for change in changes]
found["saving"] = refused(lambda: save(model, folder / rank, base=network()))

for name, parameter in model.named_parameters():  # by flags
    parameter.requires_grad_(not name.startswith("2"))
found["flags"] = still(model, wrapped)

weights = state(model)
wrapped.destroy()
model = network()
model.load_state_dict(weights)
freeze(model, "2")
found["next"] = still(model, engine(model, {}))
found["state"] = {name: tensor.tolist() for name, tensor in state(model).items()}

model = network()
freeze(model, "0")
wrapped = engine(model, {"bf16": {"enabled": True}})
still(model, wrapped)
wrapped.save_checkpoint(folder / "checkpoint", tag="end")
if rank == "0":
    file = next((folder / "checkpoint" / "end").glob("*model_states.pt"))
    held = torch.load(file, weights_only=False)
    found["checkpoint"] = sorted(held["module"]), sorted(held.get("frozen_param_shapes") or [])
(folder / f"{rank}.json").write_text(json.dumps(found))
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", range(4))
def test_deepspeed_keeps_what_was_frozen_before(stage, tmp_path):
    one, other = two_processes(SCRIPT, tmp_path, stage, free_port())
    layer = {number: [f"{number}.weight", f"{number}.bias"] for number in (0, 2)}
    assert one["state"] == other["state"]
    assert one["fixed"] == layer[0]
    assert [s for s in one["refused"] if "DeepSpeed fixes what trains" not in (s or "")] == []
    assert (one["saving"] is None) == (stage < 3)
    # Flags that are set by hand on a running engine are followed without ZeRO alone.
    assert one["flags"] == ([*layer[0], *layer[2]] if stage == 0 else layer[0])
    assert one["next"] == layer[2]
    names, shapes = one["checkpoint"]
    assert names == sorted(f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias"))
    assert shapes == (sorted(layer[0]) if stage > 1 else [])
