"""The tables of options in the documents: those of the options classes. Run it to write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from letitgo.cli.options import metavar, spelled
from letitgo.studies import STUDIES, find_options

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- written by tests/test_option_tables.py -->\n", "<!-- end -->\n"
CLASSES = {name: find_options(name) for name in STUDIES} | {
    "deep-linear": find_options("deep-linear", "letitgo.deep_linear")
}


def table(cls) -> str:
    lines = ["| option | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, about in cls.__pydantic_fields__.items():
        if name == "recipes":
            continue
        says, _, default = about.description.partition(" [default: ")
        default = default.removesuffix("]") or (f"`{shown}`" if (shown := spelled(about.default)) else "none")
        kind = "" if about.annotation is bool else f"`{metavar(about.annotation)}`"
        cells = f"`--{name.replace('_', '-')}`", kind, default, says
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def written(name: str) -> str:
    """A document with its table of options as it has to be."""
    before, _, rest = (DOCS / f"{name}.md").read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + BEGIN + table(CLASSES[name]) + end + after


@pytest.mark.parametrize("name", [name for name in CLASSES if (DOCS / f"{name}.md").exists()])
def test_a_document_has_the_options_of_its_command(name):
    assert (DOCS / f"{name}.md").read_text() == written(name), "run: python tests/test_option_tables.py"


if __name__ == "__main__":
    for document in CLASSES:
        if (DOCS / f"{document}.md").exists():
            (DOCS / f"{document}.md").write_text(written(document))
