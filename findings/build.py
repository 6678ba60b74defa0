"""Writes docs/findings.md, its figures and docs/findings.tex from the committed rows of studies.

``python -m findings.build`` takes seconds. ``… recompute`` first runs the command of every study that the document
reads, and says before how long that takes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from findings.questions import ADVISERS, ALONE, MAPS, QUESTIONS, REINITIALISED, TIMED, TUNED, Finding, settled
from findings.rows import RESULTS
from letitgo.report.files import to_files
from letitgo.report.numbers import duration

DOCS = RESULTS.parent
FIGURES = DOCS / "findings"
OTHERS = (
    *("map-noise", "fraction-noise", "dimension-noise", "dimension-rates", "ticket-noise", "map-length"),
    *("carry-permuted", "fraction-rates", "reproduce-zbs19"),
)
PANDOC = "markdown+gfm_auto_identifiers-implicit_figures-tex_math_dollars-citations"
"""How pandoc reads the document: unlike GitHub's dialect this wraps the cells of wide tables."""
SMALL_TABLES = r"\AtBeginEnvironment{longtable}{\scriptsize\setlength{\tabcolsep}{3pt}}"
SUBSETS = 50
"""Minutes of one core that all subsets of small networks take, which is no command of letitgo."""


def studies() -> list[str]:
    """Every study whose rows the document reads."""
    trained = [each.study for each in (*MAPS, *REINITIALISED, *TIMED)]
    beside = [f"{study}-{each.beside}" for each in MAPS if each.beside for study in ("ticket", "align")]
    beside += [f"dimension-layers-{name}" for name in ALONE]
    return sorted({*trained, *beside, *ADVISERS, *OTHERS, *(study for study, *_ in TUNED.values())})


def text(found: dict[str, Finding]) -> str:
    """The document."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = {name: finding.values for name, finding in found.items()}
    captions = {name: finding.picture.caption for name, finding in found.items()}
    return environment.get_template("findings.md.j2").render(**values, captions=captions, settled=settled())


def to_latex(markdown: str) -> str:
    """The document as a LaTeX file of its own, its figures as PDF."""
    import pypandoc

    body = re.sub(r"\(findings/(\w+)\.svg\)", r"(findings/\1.pdf)", markdown)
    title, _, rest = body.partition("\n")
    header = f"---\ntitle: '{title.removeprefix('# ')}'\nheader-includes: '{SMALL_TABLES}'\n---\n"
    options = ["--standalone", "--shift-heading-level-by=-1", "--columns=120", "-V", "geometry:margin=2.5cm"]
    return pypandoc.convert_text(header + rest, "latex", format=PANDOC, extra_args=options)


def draw(found: dict[str, Finding]) -> None:
    """Write every figure, as PNG, PDF and SVG."""
    FIGURES.mkdir(exist_ok=True)
    to_files({FIGURES / name: finding.picture for name, finding in found.items()})


def recompute() -> None:
    """Run every study's command again, into ``$LETITGO_STORE``, and write its rows."""
    commands = {name: (RESULTS / name / "command").read_text(encoding="utf-8").strip() for name in studies()}
    programs = {name: [sys.executable, "-m", *shlex.split(command)] for name, command in commands.items()}
    seconds = 60.0 * SUBSETS
    for name, program in programs.items():
        dry = subprocess.run([*program, "--dry-run", "--format", "json"], check=True, stdout=subprocess.PIPE)
        takes = json.loads(dry.stdout)["dry_run"]["seconds"]
        seconds += takes
        print(f"{name}: {duration(takes)}", flush=True)
    print(f"all subsets: {SUBSETS} min of a core; in all {duration(seconds)} on this machine", flush=True)
    for name, program in programs.items():
        done = subprocess.run([*program, "--format", "csv", "--report", "none"], check=True, stdout=subprocess.PIPE)
        (RESULTS / name / "rows.csv").write_bytes(done.stdout)
    bench = DOCS.parent / "benchmarks" / "bench_search.py"
    store = os.environ.get("LETITGO_STORE", ".letitgo")
    subprocess.run([sys.executable, bench, "truth", f"{store}-subsets"], check=True)


def main(arguments: list[str]) -> None:
    """Build, after computing everything again where ``recompute`` is given."""
    if arguments == ["recompute"]:
        recompute()
    found = {name: question() for name, question in QUESTIONS.items()}
    draw(found)
    document = text(found)
    (DOCS / "findings.md").write_text(document, encoding="utf-8")
    (DOCS / "findings.tex").write_text(to_latex(document), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
