"""Reports as files: one self-contained HTML page, and each figure as PNG, SVG and PDF beside it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from letitgo.report.grammar import MARKS, Report
from letitgo.report.pictures import VERDICTS, Picture
from letitgo.value import sha256


def to_page(report: Report, folder: str | Path, about: Mapping[str, Any]) -> Path:
    """Write ``NAME.html`` and the figures into a folder.

    Args:
        report: What to write.
        folder: Made if need be; files of an earlier report are overwritten.
        about: ``command``, ``took``, ``versions`` and ``failures`` of the study.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {id(picture): Markup(_drawn(picture, folder / name)) for name, picture in report.pictures.items()}
    path = folder / f"{report.name}.html"
    page = _environment().get_template("page.html.j2").render(report=report, drawn=drawn, **about)
    path.write_text(page, encoding="utf-8")
    return path


def _drawn(picture: Picture, path: Path) -> str:
    """The picture as SVG; its files are written unless the SVG there, the last to be written, says it is the same."""
    svg, png, pdf = (path.with_name(f"{path.name}.{form}") for form in ("svg", "png", "pdf"))
    code = Path(__file__).with_name("draw.py").read_text(encoding="utf-8")
    digest = sha256(f"{code}{version('matplotlib')}{picture!r}")
    if not (png.is_file() and pdf.is_file() and svg.is_file() and digest in svg.read_text(encoding="utf-8")):
        from letitgo.report.draw import render, to_figure

        figure = to_figure(picture)
        for file, form in ((png, "png"), (pdf, "pdf"), (svg, "svg")):
            file.write_bytes(render(figure, form, digest))
            figure.set_layout_engine("none")  # the layout of the first file does for all
    text = svg.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


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
