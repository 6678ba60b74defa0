"""Figures: what is written in them does not overlap, axes in per cent end at 100, and a repeat draws nothing."""

from __future__ import annotations

import os

import pytest
from matplotlib.text import Annotation

from letitgo.execute import Failure
from letitgo.report import Report, Section, draw, files
from letitgo.report.draw import to_figure
from letitgo.report.files import to_files
from letitgo.report.page import to_page
from letitgo.report.pictures import Panel, Picture, Points
from letitgo.studies.outcome import by_cause

ABOUT = {"command": "letitgo", "took": "", "versions": {}, "failures": []}


def test_axes_in_per_cent_end_at_100_however_wide_the_intervals_are():
    up, sideways = Points([1, 2], [50, 97], [90, 60]), Points([50, 97], [1, 2], [90, 60], sideways=True)
    points = Points([1, 2], [50, 97], [90, 60])
    panels = [
        Panel([up], y="accuracy, %"),
        Panel([sideways], x="test accuracy, %"),
        Panel([points], y="drop in test accuracy, points"),
    ]
    first, second, third = to_figure(Picture([panels], "")).axes
    assert first.get_ylim() == second.get_xlim() == (-2, 102)
    assert all(0 <= tick <= 100 for tick in second.get_xticks())
    assert third.get_ylim()[1] > 102


def test_titles_of_neighbours_do_not_overlap():
    titles = ["Frozen at initialization", "Put back to initialization after training", "Drawn afresh after training"]
    figure = to_figure(Picture([[Panel([Points([0], [1])], title, "lr", "drop, points") for title in titles]], ""))
    figure.draw_without_rendering()
    boxes = [ax._left_title.get_window_extent() for ax in figure.axes]  # type: ignore[attr-defined]
    assert [" ".join(ax.get_title(loc="left").split()) for ax in figure.axes] == titles
    assert all(box.width > 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_notes_keep_off_points_and_each_other():
    names = ["fc1", "fc2", "fc1\u2026fc3", "fc4"]
    marks = [Points([10, 10.5, 11, 90], [50, 50.5, 49, 20], [1, 1, 1, 1], notes=names), Points([0, 100], [0, 100])]
    figure = to_figure(Picture([[Panel(marks, x="cost", y="accuracy")]], ""))
    figure.draw_without_rendering()
    notes = [text for text in figure.axes[0].texts if isinstance(text, Annotation) and text.get_visible()]
    assert {"fc1", "fc4"} <= {note.get_text() for note in notes}
    assert len(notes) >= 3
    boxes = [note.get_window_extent() for note in notes]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])
    places = figure.axes[0].transData.transform([(x, y) for mark in marks for x, y in zip(mark.x, mark.y, strict=True)])
    assert not any(box.contains(*place) for box in boxes for place in places)


def test_a_repeat_draws_what_changed_and_nothing_else(tmp_path, monkeypatch):
    def report(value: float) -> Report:
        same, other = (Picture([[Panel([Points([0, 1], [1, y])])]], "") for y in (1.0, value))
        return Report("map", "", [Section("", "", pictures={"same": same, "other": other})], "")

    drawn = []
    monkeypatch.setattr(draw, "to_figure", lambda picture: drawn.append(picture) or to_figure(picture))
    page = to_page(report(2.0), tmp_path, ABOUT).read_text()
    assert len(drawn) == 2
    assert to_page(report(2.0), tmp_path, ABOUT).read_text() == page
    assert len(drawn) == 2
    to_page(report(3.0), tmp_path, ABOUT)
    assert len(drawn) == 3
    os.remove(next(tmp_path.glob("*same*.pdf")))
    to_page(report(3.0), tmp_path, ABOUT)
    assert len(drawn) == 4
    assert len(list(tmp_path.glob("*same*"))) == 3


def test_a_cause_is_told_once_however_many_jobs_it_fails():
    failures = [Failure(f"training everything, seed {seed}", "no memory") for seed in range(5)]
    failures.append(Failure("training fc1, seed 0", "the loss is not finite"))
    assert by_cause(failures) == [
        "training everything, seed 0 and 4 more: no memory",
        "training fc1, seed 0: the loss is not finite",
    ]


THREE = {name: Picture([[Panel([Points([0, 1], [1, y])])]], "") for y, name in enumerate(("one", "two", "three"))}


@pytest.mark.parametrize("fails", [False, True])
def test_processes_draw_side_by_side_what_one_draws_and_one_that_fails_loses_nothing(tmp_path, monkeypatch, fails):
    drawn = []
    monkeypatch.setattr(draw, "to_figure", lambda picture: drawn.append(picture) or to_figure(picture))
    for folder in ("alone", "together"):
        (tmp_path / folder).mkdir()
    alone = to_files({tmp_path / "alone" / name: picture for name, picture in THREE.items()})
    assert len(drawn) == 3
    if fails:
        monkeypatch.setattr(files.pickle, "dumps", lambda _: b"no pictures")
    together = to_files({tmp_path / "together" / name: picture for name, picture in THREE.items()}, workers=2)
    assert len(drawn) == (6 if fails else 5)
    assert together == alone
    for file in (tmp_path / "alone").iterdir():
        assert (tmp_path / "together" / file.name).read_bytes() == file.read_bytes()
