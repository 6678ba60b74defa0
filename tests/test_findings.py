"""The document of findings: every number comes from the committed rows, and every sentence is still true of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from findings import build, questions, rows

TEMPLATE = (Path(build.__file__).parent / "findings.md.j2").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return {name: question() for name, question in questions.QUESTIONS.items()}


def test_the_document_says_what_the_rows_say(found):
    document = build.text(found)
    assert document == (build.DOCS / "findings.md").read_text(encoding="utf-8")
    assert build.to_latex(document) == (build.DOCS / "findings.tex").read_text(encoding="utf-8")


def test_each_question_has_an_answer_and_a_figure(found):
    document = build.text(found)
    sections = re.findall(r"^## \d\. (.+?)\n\n\*\*(.+?)\*\*", document, re.MULTILINE | re.DOTALL)
    assert len(sections) == len(found) == 6
    assert all(re.search(r"\d", answer) for _, answer in sections)
    for name in found:
        assert f"(findings/{name}.svg)" in document
        assert all((build.FIGURES / f"{name}.{form}").stat().st_size > 1000 for form in ("svg", "png", "pdf"))


def test_it_is_at_most_ten_pages(found):
    """500 words to a page and three figures to one; bars and rules of tables are no words."""
    words = sum(bool(re.search(r"\w", word)) for word in re.sub(r"\(\S+\)", "", build.text(found)).split())
    assert words / 500 + len(found) / 3 <= 10


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_as_latex_it_is_at_most_ten_pages_and_no_table_is_cut_off(tmp_path):
    shutil.copytree(build.FIGURES, tmp_path / "findings")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", str(build.DOCS / "findings.tex")]
    for _ in range(2):  # the widths of long tables are known the second time
        said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    said = said.replace("\n", "")
    assert all(float(over) < 1 for over in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", said))
    [pages] = re.findall(r"Output written on findings\.pdf \((\d+) pages", said)
    assert int(pages) <= 10


def test_the_template_holds_no_measured_number():
    text = re.sub(r"{[{%].*?[}%]}", "", TEMPLATE, flags=re.DOTALL)
    assert not re.findall(r"\d+\.\d+ ?(?:%|points|±)|± ?\d", text)


def test_another_row_is_another_text(found, monkeypatch, tmp_path):
    shutil.copytree(rows.RESULTS, tmp_path / "results")
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    file = tmp_path / "results" / "finetune-lenet-fashion" / "rows.csv"
    text = file.read_text(encoding="utf-8")
    cell = rows.one(rows.table("finetune-lenet-fashion"), layer="fc3", intervention="frozen", start="pretrained")
    file.write_text(text.replace(str(cell["drop_mean"]), "0.0777"), encoding="utf-8")
    changed = questions.starts()
    assert "7.77 ± " in build.text({**found, "starts": changed})


def test_rows_that_contradict_a_sentence_stop_the_build(monkeypatch):
    table = questions.table
    worse = [{**row, "drop_mean": 0.5} if row.get("intervention") == "frozen" else row for row in table("map-mnist")]
    monkeypatch.setattr(questions, "MAPS", (questions.MAPS[0],))
    monkeypatch.setattr(questions, "table", lambda study: worse if study == "map-mnist" else table(study))
    with pytest.raises(rows.NoLongerTrue, match="putting a layer back costs more"):
        questions.routing()


def test_every_study_of_the_document_has_a_command():
    assert all((rows.RESULTS / study / "command").is_file() for study in build.studies())
