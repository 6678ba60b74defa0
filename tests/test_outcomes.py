"""What the outcome of every study offers: answers, tables, pages, figures."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from rich.console import Console

from letitgo.deep_linear.study import DeepLinear
from letitgo.recipes import Recipe
from letitgo.recipes.data import Data
from letitgo.report import draw
from letitgo.report.terminal import to_rich
from letitgo.store import open_store
from letitgo.studies.advisers.study import Advisers
from letitgo.studies.align.study import Align
from letitgo.studies.carry.study import Carry
from letitgo.studies.compute import compute
from letitgo.studies.finetune.study import Finetune
from letitgo.studies.map.study import Map
from letitgo.studies.search.study import Search
from letitgo.studies.sweep import sweep
from letitgo.studies.ticket.options import VARIANTS
from letitgo.studies.ticket.study import Ticket
from letitgo.studies.train.study import Train

pytestmark = pytest.mark.usefixtures("all_learned")

SMALL = {"widths": "8", "depth": 2, "epochs": 2, "examples": 200, "batch_size": 50}


def small(**fields: Any) -> Recipe:
    return Recipe(**(SMALL | fields))


STUDIES: dict[str, Callable[[], Any]] = {
    "map": lambda: Map(small(), seeds=2, freeze_at=(0, 1), reinit_at=(0, 1), together=True, tolerance=5.0),
    "map-sweep": lambda: Map(sweep(**SMALL, lr=[0.01, 0.1]), seeds=2),
    "map-norms": lambda: Map(small(model_args={"norm": True}, label_noise=0.2), seeds=2, statistics="re-estimate"),
    "map-blocks": lambda: Map(
        small(model="lenet", widths=None, depth=None, fit="1x28x28", epochs=1), seeds=1, blocks=("conv*",)
    ),
    "train": lambda: Train(sweep(**SMALL, seed=[0, 1]), freeze=("fc1",), freeze_at=1),
    "search": lambda: Search(small(), seeds=2, tolerance=50.0),
    "search-schedule": lambda: Search(small(epochs=3), seeds=2, freeze_at=(0, 1), spend=4.0, tolerance=30.0),
    "advisers": lambda: Advisers(small(depth=3), seeds=2),
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
    with patch.object(Data, "learned", lambda *_: True):  # networks so small are judged all the same
        outcome = compute(study, store)
        assert outcome.failures == []
        yield name, study, store, outcome


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
        wide.print(to_rich(section.tables[0]))
        assert max(len(line.rstrip()) for line in wide.export_text().splitlines()) <= 80


def test_an_outcome_has_frames_latex_and_a_form_for_notebooks(computed):
    name, study, _, outcome = computed
    assert len(outcome.frame) == len(outcome.rows)
    assert 1 <= outcome.seeds["seed"].nunique() <= (4 if name.startswith("search") else 2)  # twice as many baselines
    assert len(outcome.seeds) >= len([row for row in outcome.rows if row.get("row") != "answer"])
    assert outcome.to_latex().count(r"\begin{tabular}") == sum(part.shown for part in outcome.said.sections)
    assert repr(outcome).startswith(f"<Outcome of {type(study).__name__}, {len(outcome.rows)} rows")
    assert (
        html.escape(outcome.answers[0], quote=False) in html.unescape(outcome._repr_html_())
        or "<b>" in outcome._repr_html_()
    )
    for text in outcome.answers:
        assert "None" not in text
        assert "nan" not in text.split()


def test_a_page_is_whole_and_asks_nobody(computed, tmp_path, monkeypatch):
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
    monkeypatch.setattr(draw, "to_figure", lambda picture: picture)
    assert outcome.figures() == outcome.said.pictures


def test_every_heading_names_each_field_that_is_not_the_default(computed):
    _, study, _, outcome = computed
    for section in outcome.said.sections if study.recipes else ():
        if any(part in section.heading for part in study.recipes[0].model.split()):
            for field, value in SMALL.items():
                if study.recipes[0].fields()[field] == value and field not in study.swept:
                    assert str(value) in section.heading
