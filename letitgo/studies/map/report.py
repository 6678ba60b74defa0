"""What the rows of a map say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from letitgo.report import NEW, TEST, TRAINING, Column, N, Report, Section, Table, by_block, numbers, pivot, words
from letitgo.report.grammar import MARKS
from letitgo.report.pictures import BLACK, GREY, PALETTE, Band, Bars, Panel, Picture, Points, Rule, grid, judged, series

if TYPE_CHECKING:
    from letitgo.recipes.tasks import Metric
    from letitgo.studies.map.study import Map

Row = dict[str, Any]

TITLE = "Which layers need training?"
SOURCE = "Zhang, Bengio and Singer, Are all layers created equal? (arXiv:1902.01996)."
QUESTIONS = {
    "frozen": "Frozen at initialization",
    "reinitialised": "Put back to initialization after training",
    "rerandomised": "Drawn afresh after training",
}
ALL_NUMBERS = (
    Column("layer", "layer"),
    Column("intervention", "intervention"),
    Column("epoch", "epoch", shown=numbers.count),
    Column("parameters", "parameters", "Weights of the layer or set.", numbers.count),
    TEST,
    TRAINING,
    Column("drop", "drop", "Baseline minus this, in points.", numbers.points, verdict="verdict"),
    NEW,
    Column("distance_l2", "L2", "‖trained − put back‖₂ / √weights.", numbers.significant),
    Column("distance_linf", "L∞", "Largest change of a weight.", numbers.significant),
    Column("saved", "saves", "Share of the training arithmetic that freezing saves.", numbers.percent),
    N,
)


def report(study: Map, rows: Sequence[Row]) -> Report:
    """The report of a map."""
    sections = [
        _section(study, recipe, found)
        for recipe, part in words.groups(study, rows)
        if (found := [row for row in part if row["n"]]) and found[0]["intervention"] == "baseline"
    ]
    if len(study.swept) == 1 and len(sections) > 1:
        sections.insert(0, _over_sweep(study, [row for row in rows if row["n"]]))
    metric = words.metric_of(study)
    note = (
        f"{words.over_seeds(study)} A drop is the baseline minus the network in question. "
        f"Robust: the whole interval is below {words.within(study.tolerance, metric.unit)}; gains count. "
        "Critical: the whole interval is beyond. Undecided: neither."
    )
    return Report("map", TITLE, sections, note, SOURCE)


def _section(study: Map, recipe: Any, rows: list[Row]) -> Section:
    base = rows[0]
    layers = [row for row in rows if row["scope"] == "layer"]
    sets = [row for row in rows if row["scope"] not in ("all", "layer")]
    metric = words.metric_of(study)
    tables = [_verdicts(metric, layers)]
    tables += [_by_epoch(metric, layers)] if len(study.freeze_at) > 1 else []
    tables += [_verdicts(metric, sets)] if sets else []
    everything = [*words.judged_by(metric, ALL_NUMBERS), *words.held_out_drop(study)]
    tables.append(Table(words.told(everything, rows), rows, "All numbers"))
    if section := words.unlearned(study, recipe, base, tables[-1]):
        return section
    pictures = {"heatmap": _heatmap(metric, base, layers)}
    pictures |= {"heatmap-sets": _heatmap(metric, base, sets)} if sets else {}
    if study.freeze_at:
        pictures |= {"cost": _cost(study, layers)} | ({"cost-sets": _cost(study, sets)} if sets else {})
    if metric.share and base["train_accuracy_mean"] is not None:
        pictures["generalization"] = _generalization(rows)
    if moved := [row for row in layers if row["intervention"] == "reinitialised"]:
        pictures["distances"] = _distances(moved)
    return Section(
        words.heading(recipe, study.swept),
        _answer(study, rows),
        _sentences(study, rows),
        tables,
        len(tables) - 1,
        pictures,
        words.resolved(recipe),
    )


def question(row: Row) -> str:
    """What was done to a layer, as the head of a column."""
    if row["intervention"] == "frozen":
        return "frozen" if row["epoch"] == 0 else f"frozen from {row['epoch']}"
    if row["intervention"] == "reinitialised":
        return "re-initialised" if row["epoch"] == 0 else f"put back to {row['epoch']}"
    return "re-randomised"


def _verdicts(metric: Metric, rows: Sequence[Row]) -> Table:
    """Layers down, questions across; of the epochs of each question, the first."""
    first = min((row["epoch"] for row in rows if row["intervention"] == "frozen"), default=0)
    shown = [row for row in rows if row["epoch"] == {"frozen": first, "reinitialised": 0}.get(row["intervention"])]
    wide = pivot(shown, ("layer", "scope", "parameters"), question, ("drop", "verdict"))
    saved = {row["layer"]: row["saved"] for row in reversed(rows) if row["intervention"] == "frozen"}
    columns = [Column("layer", "layer"), Column("parameters", "weights", "Number of weights.", numbers.count)]
    for name in dict.fromkeys(map(question, shown)):
        columns.append(Column(f"{name} drop", name, "", numbers.points, f"{name} verdict"))
    if saved:
        columns.append(
            Column("saved", "saves", "Share of the training arithmetic that freezing saves.", numbers.percent)
        )
    wide = by_block(row | {"saved": saved.get(row["layer"])} for row in wide)
    return Table(columns, wide, words.lost(metric))


def _by_epoch(metric: Metric, rows: Sequence[Row]) -> Table:
    """Layers down, the epochs from which they are frozen across."""
    frozen = [row for row in rows if row["intervention"] == "frozen"]
    wide = pivot(frozen, ("layer", "scope"), question, ("drop", "verdict"))
    columns = [Column("layer", "layer")]
    for name in dict.fromkeys(map(question, frozen)):
        columns.append(Column(f"{name} drop", name, "", numbers.points, f"{name} verdict"))
    return Table(columns, by_block(wide), f"frozen from an epoch on: {words.lost(metric)}")


def _answer(study: Map, rows: Sequence[Row]) -> str:
    """The freeze that saves most of those within the tolerance where choices are read from."""
    unit, best = words.metric_of(study).unit, _best(study, rows)
    if not study.freeze_at:
        kind = _first(rows)
        return f"{QUESTIONS[kind]}: {words.verdicts(_singles(rows, kind))}."
    if best is None:
        near = words.nearness(study, unit)
        idle = any(study.passes(row) for row in rows if row["intervention"] == "frozen")
        none = f"No freeze that is {near} saves any arithmetic" if idle else f"No freeze is {near}"
        return f"{none}: {words.verdicts(_singles(rows, 'frozen')) or 'no runs'}{words.on_test(study)}."
    since = f"from epoch {best['epoch']} on" if best["epoch"] else "from the start"
    saved = numbers.percent(best["saved"])
    costs = f"costs {words.cost(best, unit)}{words.judgement(best)}"
    return f"Freeze {best['layer']} {since}: saves {saved} of the training arithmetic, {costs}."


def _first(rows: Sequence[Row]) -> str:
    """The intervention that the answer is about: the first that there is."""
    return next((kind for kind in QUESTIONS if _singles(rows, kind)), "frozen")


def _best(study: Map, rows: Sequence[Row]) -> Row | None:
    frozen = [row for row in rows if row["intervention"] == "frozen"]
    worth = (row for row in frozen if row["saved"] and study.passes(row))
    return max(worth, key=lambda row: row["saved"], default=None)


def _passed_over(study: Map, rows: Sequence[Row], best: Row | None) -> list[str]:
    """Why a layer that is robust on the test set and would save more is not the answer."""
    saved = best["saved"] if best else 0.0
    found = [row for row in _singles(rows, "frozen") if row["verdict"] == "robust" and row["saved"] > saved]
    found = [row for row in found if not study.passes(row)]
    if not found or not study.held_out:
        return []
    most, unit = max(found, key=lambda row: row["saved"]), words.metric_of(study).unit
    drop = numbers.points(most["validation_drop_mean"])
    return [
        f"{most['layer']} would save {numbers.percent(most['saved'])} and is robust on the test set, but advice is "
        f"chosen on the held-out examples: there it costs {drop} {unit} on average."
    ]


def _singles(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if (row["scope"], row["intervention"]) == ("layer", kind) and row["epoch"] in (0, None)]


def _sentences(study: Map, rows: Sequence[Row]) -> list[str]:
    base, metric, best = rows[0], words.metric_of(study), _best(study, rows)

    def name(row: Row) -> str:
        return f"{row['layer']} {question(row)}"

    said = words.for_new_examples(
        study, [best] if best else [row for row in rows if row["intervention"] == "frozen"], name
    )
    said += [
        *_passed_over(study, rows, best),
        f"Baseline: {words.reached(base, metric)}, {base['parameters']:,} weights, n = {base['n']}.",
        *words.of_the_error(study, base),
        *_repeats(base, metric),
    ]
    found = [f"{text}: {words.verdicts(own)}." for kind, text in QUESTIONS.items() if (own := _singles(rows, kind))]
    said += found if study.freeze_at else found[1:]  # the first is the answer
    for row in rows:
        if row["scope"] == "robust":
            names, how = row["layer"].removeprefix("robust ").split("+"), question(row)
            what = f"{words.listed(names)}, each alone {words.nearness(study, metric.unit)}, together {how}"
            said.append(f"{what}: {words.cost(row, metric.unit)}, {row['verdict']}.")
    asked = [row for row in rows if row["intervention"] == "frozen" or not row["epoch"]]
    return said + words.still_undecided(study, asked, name)


def _repeats(base: Row, metric: Metric) -> list[str]:
    """Whether training code of the user's own gives the same network twice."""
    if (distance := base.get("repeat_l2")) is None:
        return []
    if not distance:
        return ["Two runs under one seed give the same weights."]
    return [
        f"Two runs under one seed differ: by {numbers.points(abs(base['repeat_drop']))} {metric.unit} of test "
        f"{metric.name}, and by {numbers.significant(distance)} in the L2 norm of all weights. So results do not "
        "repeat to the bit."
    ]


def _heatmap(metric: Metric, base: Row, rows: Sequence[Row]) -> Picture:
    """Test error by layer and intervention, as ZBS19 draws it, with freezing beside it; for others their metric."""

    def error(row: Row) -> float:
        value = row[f"{metric.name}_mean"]
        return 100 * (1 - value) if metric.share else value

    shown = "test error" if metric.name == "accuracy" else f"1 − test {metric.name}"
    what, unit = (shown, " %") if metric.share else (f"test {metric.name}", "")
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    titles = {
        "frozen": ("frozen", "from epoch"),
        "rerandomised": ("drawn", "afresh"),
        "reinitialised": ("put back", "to epoch"),
    }
    panels = []
    for kind, (title, below) in titles.items():
        own = [row for row in rows if row["intervention"] == kind]
        steps = sorted({row["epoch"] for row in own}, key=lambda epoch: epoch or 0)
        if own:
            cells = grid(
                own,
                "layer",
                "epoch",
                error,
                "",
                layers,
                steps,
                shown="{:.1f}",
                low=max(error(base), 0.01),
                high=max(map(error, rows)),
                log=True,
            )
            names = ["" if step is None else str(step) for step in steps]
            panels.append(Panel([cells], title, below, places=layers, steps=names))
    last = panels[-1].marks[0]
    panels[-1] = Panel(
        [_labelled(last, f"{what},{unit}".removesuffix(","))],
        panels[-1].title,
        panels[-1].x,
        places=layers,
        steps=panels[-1].steps,
    )
    caption = (
        f"{what.capitalize()}, mean over seeds. The colours begin at the baseline's {error(base):.2f}{unit}. Frozen: a "
        "layer is frozen from an epoch on. Drawn afresh, put back: a layer of the trained network is."
    )
    return Picture([panels], caption, [len(panel.steps) + 0.6 for panel in panels])


def _labelled(mark: Any, label: str) -> Any:
    from dataclasses import replace

    return replace(mark, label=label)


def _cost(study: Map, rows: Sequence[Row]) -> Picture:
    frozen = [row for row in rows if row["intervention"] == "frozen"]
    names = [row["layer"] + (f", from epoch {row['epoch']}" if row["epoch"] else "") for row in frozen]
    saves = Panel([Bars([100 * row["saved"] for row in frozen])], x="training arithmetic saved, %", places=names)
    low = min([0.0, *(100 * (row["drop_mean"] - (row["drop_ci95"] or 0)) for row in frozen)])
    marks = [Band(low, study.tolerance, label="within the tolerance"), Rule(0, upright=True, line="-"), *judged(frozen)]
    drops = Panel(marks, x=words.lost(words.metric_of(study)), places=names)
    return Picture([[saves, drops]], "What freezing saves, and what it costs: mean drops with 95 % intervals.")


def _generalization(rows: Sequence[Row]) -> Picture:
    """Training and test accuracy against the number of trained weights: the question of the paper."""
    shown = [row for row in rows if row["intervention"] in ("baseline", "frozen") and not row["epoch"]]
    kinds = {"all": ("nothing frozen", BLACK), "layer": ("a layer frozen", PALETTE[0]), "sets": ("a set frozen", GREY)}
    accuracy, gap = [], []
    for kind, (label, colour) in kinds.items():
        own = [row for row in shown if (row["scope"] if row["scope"] in kinds else "sets") == kind]
        x = [row["trained"] for row in own]
        notes = [row["layer"] for row in own] if kind == "layer" and len(own) <= 8 else []
        halves = [100 * (row["accuracy_ci95"] or 0) for row in own]
        test, train = ([100 * row[f"{of}_mean"] for row in own] for of in ("accuracy", "train_accuracy"))
        accuracy.append(
            Points(x, train, label=f"{label}, training" if own else "", colour=colour, shape="s", hollow=True)
        )
        accuracy.append(Points(x, test, halves, label=f"{label}, test" if own else "", colour=colour, notes=notes))
        gap.append(Points(x, [100 * row["gap_mean"] for row in own], colour=colour, notes=notes))
    sizes = [row["trained"] for row in shown]
    wide = max(sizes) > 20 * min(sizes) > 0
    panels = [
        Panel(accuracy, x="trained weights", y="accuracy, %", xlog=wide),
        Panel([Rule(0), *gap], x="trained weights", y="training − test accuracy, points", xlog=wide),
    ]
    return Picture([panels], "Generalization against the number of trained weights.")


def _distances(rows: Sequence[Row]) -> Picture:
    """How far training moved each layer: ZBS19's panels of weight distances."""
    layers, epochs = (list(dict.fromkeys(row[name] for row in rows)) for name in ("layer", "epoch"))
    panels = [
        Panel(
            [
                grid(
                    rows,
                    "layer",
                    "epoch",
                    lambda row, key=key: row[f"{key}_mean"],
                    label,
                    layers,
                    epochs,
                    shown="{:.2g}",
                    low=0,
                )
            ],
            x="epoch k",
            places=layers,
            steps=[str(epoch) for epoch in epochs],
        )
        for key, label in (("distance_l2", "‖θ_T − θ_k‖₂ / √weights"), ("distance_linf", "‖θ_T − θ_k‖∞"))
    ]
    return Picture([panels], "Distance of each layer's trained weights from those of an epoch.")


def _count(rows: Sequence[Row]) -> str:
    """How many layers have which verdict: ``3 ✓ 1 ?``."""
    kinds = [row["verdict"] for row in rows]
    return "  ".join(f"{kinds.count(kind)} {mark}" for kind, mark in MARKS.items() if kind in kinds)


def _over_sweep(study: Map, rows: Sequence[Row]) -> Section:
    """Drops of each layer along a sweep over one field, a panel for each question."""
    (field,) = study.swept
    values = list(dict.fromkeys(row[field] for row in rows))
    panels = []
    for kind, text in QUESTIONS.items():
        own = [row | {"step": values.index(row[field])} for row in _singles(rows, kind)]
        if own:
            marks = [Rule(study.tolerance), *series(own, "step", "drop", "layer", factor=100)]
            panels.append(
                Panel(
                    marks,
                    text,
                    field.replace("_", " "),
                    words.lost(words.metric_of(study)),
                    steps=list(map(str, values)),
                )
            )
    counts = [
        {field: value}
        | {kind: _count([row for row in _singles(rows, kind) if row[field] == value]) for kind in QUESTIONS}
        for value in values
    ]
    heads = {"frozen": "frozen", "reinitialised": "re-initialised", "rerandomised": "re-randomised"}
    columns = [Column(field, field.replace("_", " "))]
    columns += [Column(kind, head) for kind, head in heads.items() if _singles(rows, kind)]
    pictures = {
        "sweep": Picture(
            [panels], f"{words.lost(words.metric_of(study)).capitalize()}, along the sweep. Dashed: the tolerance."
        )
    }
    first = _first(rows)
    verdicts = {value: [row["verdict"] for row in _singles(rows, first) if row[field] == value] for value in values}
    said = ", ".join(
        f"{found.count('robust') if any(found) else 'no verdicts'} at {value}" for value, found in verdicts.items()
    )
    how = QUESTIONS[first][0].lower() + QUESTIONS[first][1:]
    answer = f"Layers that are robust when {how}, along {field.replace('_', '-')}: {said}."
    conditions = f"{words.heading(study.recipes[0], without=(field,))}, over {field.replace('_', '-')}"
    return Section(conditions, answer, tables=[Table(columns, counts)], pictures=pictures)
