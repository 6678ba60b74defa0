"""The examples of the documents, run as they stand; a few on a smaller network."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    if "```python" in page.read_text()
)
SMALLER = {
    "docs/carry.md": ("epochs=3", "epochs=2, widths='16'"),
    "docs/search.md": ("Recipe()", "Recipe(widths='16', epochs=2)"),
}
"""What takes long on a page, and what stands for it in the test."""


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    """A block that begins with the name of a file is written to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in list(blocks):
        if name := re.match(r"# (\w+\.py)\n", block):
            Path(name[1]).write_text(block)
            monkeypatch.delitem(sys.modules, Path(name[1]).stem, raising=False)
            blocks.remove(block)
    code = "\n".join(blocks)
    if page in SMALLER:
        assert SMALLER[page][0] in code
        code = code.replace(*SMALLER[page])
    exec(compile(code, page, "exec"), {})


def test_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_requests_are_counted_as_the_table_says():
    page = (ROOT / "docs/requests.md").read_text()
    answers = [line.split("|")[3].strip() for line in page.splitlines() if line.startswith("| [")]
    counts = [sum(answer.startswith(kind) for answer in answers) for kind in ("**yes**:", "in part:", "no:")]
    assert sum(counts) == len(answers) == 48
    assert "**{} are answered, {} in part, {} are not.**".format(*counts) in page
