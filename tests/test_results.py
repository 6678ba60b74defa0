"""The committed results: their rows have the columns that their documents name, and their commands still work."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

from letitgo.cli import run as running
from letitgo.cli.main import run
from letitgo.recipes import Recipe
from letitgo.studies import STUDIES

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = sorted(folder for folder in (DOCS / "results").iterdir() if folder.is_dir())
NAMES = sorted((*STUDIES, "deep-linear", "reproduce"), key=len, reverse=True)


def study_of(folder: Path) -> str:
    return next(name for name in NAMES if folder.name == name or folder.name.startswith(f"{name}-"))


def documented(name: str) -> set[str]:
    """The columns in the table under "Columns" of a study's document."""
    text = (DOCS / f"{name}.md").read_text()
    table = text.partition("\n## Columns\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {_stem(column) for cell in cells for column in re.findall(r"`([^`]+)`", cell)}


def _stem(column: str) -> str:
    return re.sub(r"_(mean|ci95|min|max|…)$", "", column)


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_rows_have_the_columns_that_their_document_names(folder):
    known = documented(study_of(folder))
    fields = set(Recipe().fields())
    for file in folder.glob("*.csv"):
        with file.open() as lines:
            head = next(csv.reader(lines))
        stems = set(map(_stem, head))
        assert stems - fields <= known, f"{file} has columns that docs/{study_of(folder)}.md does not name"


@pytest.mark.usefixtures("noise_for_images")
@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_the_command_beside_the_rows_is_one(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(running, "run_study", lambda study, *_: asked.append(study) or 0)
    assert run(shlex.split((folder / "command").read_text())[1:]) == 0
    assert len(asked) == 1


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_only_rows_commands_and_pictures_that_a_page_shows_are_kept(folder):
    pages = "".join(page.read_text() for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"])
    for file in folder.iterdir():
        assert file.name == "command" or file.suffix == ".csv" or f"results/{folder.name}/{file.name}" in pages
