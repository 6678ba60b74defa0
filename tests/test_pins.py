"""Every study on the digits: numbers and keys that may not change, and what an outcome offers.

``tests/pins/rows`` holds the rows and ``tests/pins/keys.json`` the digest of the keys of each kind of value, recorded
at the first release candidate. A column may be renamed here; a change after which a description gives other numbers
raises ``FORMAT`` in ``letitgo/value.py`` and records both anew.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from letitgo.deep_linear.study import DeepLinear
from letitgo.recipes import Recipe
from letitgo.report.terminal import drawn
from letitgo.store import open_store
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.compute import compute
from letitgo.studies.dimension.study import Dimension
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
    "dimension": lambda: Dimension(small(), seeds=2, resolution=0.5),
    "dimension-grid": lambda: Dimension(
        small(), 2, (0.5, 0.9), 0.3, kind="sparse", grid=(10, 50), layers=("fc1",), exclude=("*.bias",)
    ),
    "align": lambda: Align(small(), seeds=2),
    "deep-linear": lambda: DeepLinear(steps=3, seeds=2, widths=(4, 4)),
}


@pytest.fixture(scope="module", params=STUDIES)
def computed(request, tmp_path_factory):
    name = request.param
    study, store = STUDIES[name](), open_store(tmp_path_factory.mktemp("pins"))
    outcome = compute(study, store)
    assert outcome.failures == []
    return name, study, store, outcome


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="another processor rounds otherwise")
def test_rows_are_what_they_have_always_been(computed):
    name, _, _, outcome = computed
    rows = outcome.rows
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


def test_an_outcome_shows_the_answer_first_and_tables_of_80_columns(computed):
    _, _, _, outcome = computed
    console = Console(width=80, file=io.StringIO(), record=True)
    outcome.show(console)
    text = " ".join(console.export_text().split())
    for section in outcome.said.sections:
        assert section.answer.endswith(".")
        assert "\n" not in section.answer
        assert text.index(" ".join(section.heading.split())) < text.index(" ".join(section.answer.split()))
        wide = Console(width=500, file=io.StringIO(), record=True)
        wide.print(drawn(section.tables[0]))
        assert max(len(line.rstrip()) for line in wide.export_text().splitlines()) <= 80


def test_an_outcome_has_frames_latex_and_a_form_for_notebooks(computed):
    _, study, _, outcome = computed
    assert len(outcome.frame) == len(outcome.rows)
    if len(outcome.seeds):
        assert outcome.seeds["seed"].nunique() <= 2
        assert len(outcome.seeds) >= len(outcome.rows)
    assert outcome.to_latex().count(r"\begin{tabular}") == sum(part.shown for part in outcome.said.sections)
    assert repr(outcome).startswith(f"<Outcome of {type(study).__name__}, {len(outcome.rows)} rows")
    assert (
        html.escape(outcome.answers[0], quote=False) in html.unescape(outcome._repr_html_())
        or "<b>" in outcome._repr_html_()
    )
    for text in outcome.answers:
        assert "None" not in text
        assert "nan" not in text.split()


def test_a_page_is_whole_and_asks_nobody(computed, tmp_path):
    name, _, _, outcome = computed
    page = outcome.report(tmp_path, f"letitgo {name}").read_text()
    for outside in ('src="http', "url(http", "<script", "<link"):
        assert outside not in page
    assert f"letitgo {name}" in page
    assert page.count("<svg") == len(outcome.said.pictures)
    for picture in outcome.said.pictures:
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{picture}.pdf").read_bytes().startswith(b"%PDF")
        assert "<text" in (tmp_path / f"{picture}.svg").read_text()  # real text, not paths
    assert set(outcome.figures()) == set(outcome.said.pictures)


def test_every_heading_names_each_field_that_is_not_the_default(computed):
    _, study, _, outcome = computed
    for section in outcome.said.sections if study.recipes else ():
        if any(part in section.heading for part in study.recipes[0].model.split()):
            for field, value in SMALL.items():
                if study.recipes[0].fields()[field] == value and field not in study.swept:
                    assert str(value) in section.heading


def test_every_pin_is_checked():
    assert {path.stem for path in (PINS / "rows").iterdir()} == set(KEYS) == set(STUDIES)


def _near(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    if all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
        return pytest.approx(value, rel=1e-6, abs=1e-9)
    return value
