"""What status tells, held against what freezing did."""

from __future__ import annotations

import io

import pytest
import torch
from helpers import NormNet
from hypothesis import given
from networks import Tied, WithToken, cases
from rich.console import Console
from torch import nn

from letitgo.weights import everything, fraction, freeze, hold, layers, select, status, thaw


def of(module: nn.Module) -> dict[str, str]:
    return {row.layer: row.status for row in status(module).rows}


@given(case=cases())
def test_every_weight_is_counted_once_and_as_it_trains(case):
    module = case.module()
    freeze(module, case.selection)
    told = status(module)
    assert [row.layer for row in told.rows] == list(layers(module))
    assert told.parameters == sum(p.numel() for p in module.parameters())
    assert told.trainable == sum(p.numel() for p in module.parameters() if p.requires_grad)
    for row in told.rows:
        flags = {name not in case.chosen for name in layers(module)[row.layer]}
        assert row.status == ("partial" if len(flags) == 2 else "trainable" if flags == {True} else "frozen")
    thaw(module, case.selection)
    assert status(module) == status(case.module())


def test_a_layer_held_in_part_is_partial():
    module = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 2))
    with hold(module, fraction(module, 0.5, within=select(module, "0"))):
        rows = status(module).rows
        assert [(row.status, row.trainable) for row in rows] == [("partial", 35), ("frozen", 0)]
    assert [row.status for row in status(module).rows] == ["trainable", "trainable"]


def test_a_bias_alone_makes_a_layer_partial():
    module = NormNet((4,), 2)
    freeze(module, select(module, "fc1.bias", "head"))
    assert of(module) == {
        "fc1": "partial",
        "norm1": "trainable",
        "fc2": "trainable",
        "norm2": "trainable",
        "head": "frozen",
    }


def statistics(module: nn.Module) -> list[str]:
    return [row.statistics for row in status(module).rows]


def test_statistics_follow_unless_they_are_held():
    module = NormNet((4,), 2)
    assert statistics(module) == ["none", "followed", "none", "followed", "none"]
    freeze(module, select(module, "norm1"))
    assert statistics(module)[1] == "followed"
    freeze(module, select(module, "norm1"), statistics="frozen")
    assert statistics(module)[1::2] == ["frozen", "followed"]
    module.eval()  # says nothing of training
    assert statistics(module)[1::2] == ["frozen", "followed"]
    thaw(module, everything(module))
    assert statistics(module)[1::2] == ["followed", "followed"]


def test_a_norm_in_evaluation_mode_while_the_rest_trains_is_frozen():
    module = NormNet((4,), 2).train()
    module.norm2.eval()
    assert statistics(module)[1::2] == ["followed", "frozen"]


def test_a_norm_without_statistics_has_none():
    module = nn.Sequential(
        nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4), nn.InstanceNorm1d(4, affine=True)
    )
    assert statistics(module) == ["none", "none", "none"]


def test_ties_are_named():
    told = status(Tied())
    assert told.ties == ("decode.weight is encode.weight",)
    assert [(row.layer, row.parameters) for row in told.rows] == [("encode", 42), ("decode", 6)]
    assert "decode.weight is encode.weight" in str(told)
    assert list(told.frame["ties"]) == ["decode.weight is encode.weight", ""]


def test_a_tied_language_model():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.lm_head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.lm_head.weight = self.wte.weight

    told = status(Model())
    assert told.ties == ("lm_head.weight is wte.weight",)
    assert told.parameters == 20


def test_the_type_of_a_layer():
    module = nn.Sequential(WithToken(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))), nn.Conv1d(1, 1, 1))
    assert [(row.layer, row.type) for row in status(module).rows] == [
        ("0.cls_token", "Parameter"),
        ("0.inner", "ParametrizedLinear"),
        ("1", "Conv1d"),
    ]


def test_a_frame_and_a_table_say_the_same():
    module = NormNet((4,), 2)
    freeze(module, select(module, "fc1"))
    told = status(module)
    assert list(told.frame.columns) == [
        "layer",
        "type",
        "parameters",
        "trainable",
        "status",
        "statistics",
        "ties",
        "happened",
    ]
    assert told.frame["parameters"].sum() == told.parameters
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(told)
    table = console.export_text()
    for text in (table, str(told)):
        lines = text.splitlines()
        for row in told.rows:
            line = next(line for line in lines if line.startswith(f"│{row.layer} "))
            assert row.type in line
            assert row.status in line
            assert f"{row.parameters:,}" in line
        assert f"{told.parameters:,} parameters in 5 layers, {told.trainable:,} of them train" in text
    assert not any(line != line.rstrip() for line in str(told).splitlines())


def test_names_are_printed_as_they_are():
    module = nn.ModuleDict({"[red]": nn.Linear(2, 2)})
    assert "[red]" in str(status(module))


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Sequential()])
def test_a_network_without_parameters(module):
    told = status(module)
    assert told.rows == ()
    assert "0 parameters in 0 layers, 0 of them train" in str(told)
    assert len(told.frame) == 0


def test_structure_is_enough():
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(100_000, 100_000), nn.BatchNorm1d(100_000))
    assert status(module).parameters == 100_000**2 + 3 * 100_000
