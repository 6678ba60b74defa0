"""The HTML report: one self-contained file, and its figures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from letitgo.recipes import Recipe
from letitgo.report import figures
from letitgo.report.answer import answers, groups, heading, points
from letitgo.report.table import column_name, duration
from letitgo.studies.compute import Outcome
from letitgo.studies.map import Map
from letitgo.studies.usage import Usage
from letitgo.version import versions

Row = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A part of a report: the answer, what it rests on, and how it was come by.

    Attributes:
        heading: What it is about, in one line.
        answers: Sentences.
        figures: Name of the files → figure and caption.
        tables: Title → rows, whose keys are the heads and whose values are shown as they are.
        recipe: What was trained, name → value; :func:`resolved` tells it of a recipe.
    """

    heading: str
    answers: Sequence[str] = ()
    figures: Mapping[str, tuple[Figure, str]] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def write_report(
    name: str,
    title: str,
    note: str,
    sections: Sequence[Section],
    outcome: Outcome,
    folder: str | Path,
    command: str,
    source: str = "",
) -> Path:
    """Write ``NAME.html`` and PNG and SVG of each figure into a folder.

    Args:
        name: Of the page's file.
        title: The question.
        note: How to read the numbers.
        sections: What the page holds.
        outcome: Where its failures are told from.
        folder: Made if need be; files of an earlier report are overwritten.
        command: The command that makes the same report.
        source: The papers, in a sentence.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        {
            "heading": section.heading,
            "answers": section.answers,
            "figures": [
                {"svg": _keep(folder / f"{name}-{mark}", figure), "caption": caption}
                for mark, (figure, caption) in section.figures.items()
            ],
            "tables": [{"title": heading, "rows": rows} for heading, rows in section.tables.items()],
            "recipe": section.recipe,
        }
        for section in sections
    ]
    about = {"title": title, "note": note, "sections": parts, "source": source}
    return _write(folder / f"{name}.html", "study.html.j2", outcome, command, about)


def write_map_report(study: Map, outcome: Outcome, folder: str | Path, command: str) -> Path:
    """Write ``map.html`` and PNG and SVG of each figure into a folder.

    Args:
        study: The study.
        outcome: What came out of it.
        folder: Made if need be; files of an earlier report are overwritten.
        command: The command that makes the same report.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, (recipe, rows) in enumerate(groups(study, outcome.rows), start=1):
        if not any(row["n"] for row in rows):
            continue
        layers = [row for row in rows if row["scope"] in ("all", "layer")]
        sets = [row for row in rows if row["scope"] != "layer"]
        put_back = any(row["intervention"] == "reinitialised" for row in layers)
        drawn = {
            "heatmap": figures.heatmap(layers),
            "heatmap-sets": figures.heatmap(sets) if study.together else None,
            "cost": figures.cost(study, layers),
            "cost-sets": figures.cost(study, sets) if study.together else None,
            "generalization": figures.generalization(rows),
            "distances": figures.distances(layers) if put_back else None,
        }
        mark = f"-{number}" if len(study.recipes) > 1 else ""
        parts.append(
            {
                "heading": heading(study, recipe),
                "answers": answers(study, rows),
                "figures": {n: f and _keep(folder / f"map-{n}{mark}", f) for n, f in drawn.items()},
                "base": next(row for row in rows if row["intervention"] == "baseline"),
                "rows": [row for row in rows if row["intervention"] != "baseline"],
                "recipe": resolved(recipe),
            }
        )
    sweep = figures.swept(study, outcome.rows) if len(study.swept) == 1 else None
    about = {
        "study": study,
        "parts": parts,
        "sweep": _keep(folder / "map-sweep", sweep) if sweep else None,
        "counts": _counts(study, outcome.rows),
    }
    return _write(folder / "map.html", "map.html.j2", outcome, command, about)


def _write(path: Path, template: str, outcome: Outcome, command: str, about: Mapping[str, Any]) -> Path:
    shared = {
        "took": took(outcome.usage),
        "failures": outcome.failures,
        "versions": versions(),
        "colours": figures.COLOURS,
        "command": command,
    }
    path.write_text(_environment().get_template(template).render(**shared, **about), encoding="utf-8")
    return path


def took(usage: Usage) -> str:
    """What a study took, where, and what it was spared, in sentences."""
    if not usage.results:
        return ""
    where = ", ".join(f"{name} {duration(seconds)}" for name, seconds in sorted(usage.core.items()))
    core = duration(sum(usage.core.values()))
    told = [f"Took {duration(usage.wall)}" + (f", and {core} of core time ({where})." if where else ".")]
    if usage.stored:
        told.append(
            f"{usage.stored:,} of {usage.results:,} results were in the store already, "
            f"which saved {duration(usage.saved)} of core time."
        )
    if usage.shared:
        told.append(f"Runs that begin at a point of another were spared {duration(usage.shared)} of core time.")
    return " ".join(told)


def _keep(path: Path, figure: Figure) -> Markup:
    """Write a figure as PNG and SVG, and give the SVG as it stands in a page."""
    svg = figures.render(figure, "svg")
    path.with_suffix(".svg").write_bytes(svg)
    path.with_suffix(".png").write_bytes(figures.render(figure, "png"))
    text = svg.decode()
    return Markup(text[text.index("<svg") :])


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Everything that a recipe says, defaults filled in, for a page."""
    fields = {name: value for name, value in recipe.fields().items() if value not in (None, {}, ())}
    for name in ("optimizer_args", "model_args", "lr", "momentum", "weight_decay"):
        fields.pop(name, None)
    network, data = recipe.network, recipe.dataset
    return {
        **fields,
        "network": ", ".join(f"{name} = {value}" for name, value in network.args.items()),
        "optimizer arguments": ", ".join(f"{name} = {value}" for name, value in recipe.all_optimizer_args.items()),
        "steps": f"{recipe.steps:,} ({recipe.steps_per_epoch:,} per epoch)",
        "examples": f"{len(data.split('train')):,} for training, {len(data.split('test')):,} for testing",
        "digest of the data": data.digest[:16],
    }


def _counts(study: Map, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each recipe of a sweep, how many layers are robust to what."""
    counts = []
    for recipe, part in groups(study, rows):
        row: dict[str, Any] = {name: getattr(recipe, name) for name in study.swept}
        for item in part:
            if item["scope"] == "layer" and item["epoch"] in (0, None):
                name = column_name(item)
                robust, all_of = row.get(name, (0, 0))
                row[name] = (robust + (item["verdict"] == "robust"), all_of + 1)
        counts.append(row)
    return counts


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("letitgo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = points
    environment.filters["column"] = column_name
    return environment
