"""Reports as files: one self-contained HTML page, and each figure as PNG, SVG and PDF beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from letitgo.report.files import to_files
from letitgo.report.grammar import MARKS, Report
from letitgo.report.pictures import VERDICTS


def to_page(report: Report, folder: str | Path, about: Mapping[str, Any], workers: int = 0) -> Path:
    """Write ``NAME.html`` and the figures into a folder.

    Args:
        report: What to write.
        folder: Made if need be; files of an earlier report are overwritten.
        about: ``command``, ``took``, ``versions`` and ``failures`` of the study.
        workers: Number of processes that draw, this one among them; 0 or 1: this one alone.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = to_files({folder / name: picture for name, picture in report.pictures.items()}, workers)
    svgs = {id(picture): Markup(svg) for picture, svg in zip(report.pictures.values(), drawn, strict=True)}
    path = folder / f"{report.name}.html"
    page = _environment().get_template("page.html.j2").render(report=report, drawn=svgs, **about)
    path.write_text(page, encoding="utf-8")
    return path


def fragment(report: Report) -> str:
    """The answers and main tables as HTML, for a notebook."""
    return _environment().get_template("fragment.html.j2").render(report=report)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("letitgo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"colours": VERDICTS, "marks": MARKS, "id": id}
    return environment
