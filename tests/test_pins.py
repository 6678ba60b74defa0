"""Numbers and keys that may not change: every study on the digits, as it was before its code was moved.

``tests/pins/rows`` holds the rows and ``tests/pins/keys.json`` the digest of the keys of each kind of value, recorded
at the first release candidate. A column may be renamed here; a change after which a description gives other numbers
raises ``FORMAT`` in ``letitgo/value.py`` and records both anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from letitgo.deep_linear.study import DeepLinear
from letitgo.recipes import Recipe
from letitgo.store import open_store
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.compute import compute
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.map.study import Map
from letitgo.studies.sweep import sweep
from letitgo.studies.ticket.options import VARIANTS
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train
from letitgo.value import sha256

PINS = Path(__file__).parent / "pins"
KEYS = json.loads((PINS / "keys.json").read_text())
SMALL = {"widths": "8", "depth": 2, "epochs": 2, "examples": 200, "batch_size": 50}

RENAMED = {
    "distance_l2": "distance_l2_mean",
    "distance_linf": "distance_linf_mean",
    "floor": "floor_mean",
}
"""Old name of a column → the new one."""


def small(**fields: Any) -> Recipe:
    return Recipe(**(SMALL | fields))


STUDIES: dict[str, Callable[[], Any]] = {
    "map": lambda: Map(small(), seeds=2, freeze_at=(0, 1), reinit_at=(0, 1), together=True, tolerance=5.0),
    "map-sweep": lambda: Map(sweep(**SMALL, lr=[0.01, 0.1]), seeds=2),
    "map-norms": lambda: Map(
        small(model_args={"norm": True}, label_noise=0.2), seeds=2, re_estimate=True, statistics="frozen"
    ),
    "map-blocks": lambda: Map(
        small(model="lenet", widths=None, depth=None, fit="1x28x28", epochs=1), seeds=1, blocks=("conv*",)
    ),
    "train": lambda: Train(sweep(**SMALL, seed=[0, 1]), freeze=("fc1",), freeze_at=1),
    "finetune": lambda: Finetune(
        small(shift="invert"), {"data": "digits", "epochs": 1}, seeds=2, together=True, budget=0.9
    ),
    "ticket": lambda: Ticket(small(validation=50), seeds=2, levels=2, variants=VARIANTS, at=(2,), rewind="1it"),
    "ticket-stability": lambda: Ticket(
        Recipe(widths="8", depth=1, epochs=1),
        seeds=2,
        levels=1,
        variants=("random mask",),
        stability=True,
        scope="global",
        one_shot=True,
    ),
    "carry": lambda: Carry(sweep(**SMALL, half=["a", "b"]), seeds=2, levels=1),
    "align": lambda: Align(small(), seeds=2),
    "deep-linear": lambda: DeepLinear(steps=3, seeds=2, widths=(4, 4)),
}


@pytest.fixture(scope="module", params=STUDIES)
def computed(request, tmp_path_factory):
    name = request.param
    study, store = STUDIES[name](), open_store(tmp_path_factory.mktemp("pins"))
    outcome = compute(study, store)
    assert outcome.failures == []
    return name, study, store, outcome.rows


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="another processor rounds otherwise")
def test_rows_are_what_they_have_always_been(computed):
    name, _, _, rows = computed
    before = json.loads((PINS / "rows" / f"{name}.json").read_text())
    assert len(rows) == len(before)
    for row, old in zip(json.loads(json.dumps(rows)), before, strict=True):
        for column, value in old.items():
            now = row[RENAMED.get(column, column)]
            assert now == _near(value), (column, old)


def test_keys_are_what_they_have_always_been(computed):
    name, study, store, _ = computed
    found: dict[str, set[str]] = {}
    ahead = [value for stage in study.stages(store) for value in stage]
    while ahead:
        value = ahead.pop()
        kind = value.description["kind"]
        if value.key not in found.setdefault(kind, set()):
            found[kind].add(value.key)
            ahead += value.inputs()
    assert {kind: [len(keys), sha256(" ".join(sorted(keys)))] for kind, keys in found.items()} == KEYS[name]


def test_every_pin_is_checked():
    assert {path.stem for path in (PINS / "rows").iterdir()} == set(KEYS) == set(STUDIES)


def _near(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    if all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
        return pytest.approx(value, rel=1e-6, abs=1e-9)
    return value
