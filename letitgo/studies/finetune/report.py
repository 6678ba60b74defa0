"""What the rows of a fine-tuning study say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from letitgo.report import NEW, TEST, Column, N, Report, Section, Table, by_block, numbers, pivot, words
from letitgo.report.pictures import BLACK, GREY, PALETTE, Panel, Picture, Points, Rule, points, series
from letitgo.studies.finetune.study import phrase

if TYPE_CHECKING:
    from letitgo.recipes.tasks import Metric
    from letitgo.studies.finetune.study import Finetune
    from letitgo.studies.subject import Subject

Row = dict[str, Any]

SOURCE = "Lee et al., Surgical fine-tuning improves adaptation to distribution shifts (arXiv:2210.11466)."
STARTS = {"pretrained": ("pretrained", PALETTE[0]), "initialization": ("from initialization", PALETTE[4])}
NO_SAVING = 0.995
"""Share of the arithmetic above which a way saves nothing to speak of."""
CROWD = 0.95
"""Share of the arithmetic beyond which points of the figure lie too close together for their names."""
ALL_NUMBERS = (
    Column("layer", "layer"),
    Column("intervention", "way", "none: no training; all: everything trained; frozen, only: the layer is."),
    Column("start", "start"),
    Column("trained", "trained", "Number of weights trained.", numbers.count),
    Column("share", "takes", "Counted training arithmetic, as a share of full fine-tuning's.", numbers.percent),
    TEST,
    Column("drop", "drop", "Everything trained from the same start, minus this.", numbers.points, "verdict"),
    NEW,
    Column("gain", "gain", "From the pretrained network, minus the same from initialization.", numbers.points),
    Column("lead", "lead", "This, minus the best other of its kind.", numbers.points),
    Column("behind", "behind", "The recommended way, minus this.", numbers.points),
    Column("gradient", "‖g‖/‖θ‖", "Relative gradient norm at the start, first five batches.", numbers.significant),
    Column("steady", "steady", "How often it is recommended with one seed left out.", numbers.percent),
    Column("mark", "mark"),
    N,
)


def report(study: Finetune, rows: Sequence[Row]) -> Report:
    """The report of a fine-tuning study."""
    parts = [[row for row in part if row["n"]] for _, part in words.groups(study, rows)]
    sections = [
        _section(study, of, part)
        for of, part in zip(study.subjects, parts, strict=True)
        if any(row["recommended"] for row in part)
    ]
    metric = words.metric_of(study)
    drop = "minus this" if metric.share else f"against this, in {metric.unit} of {metric.name}"
    note = (
        f"{words.over_seeds(study)} Differences are in {metric.unit} of test {metric.name}. A drop is "
        "everything trained from "
        f"the same start, {drop}. Robust: the whole interval is below {words.within(study.tolerance, metric.unit)}; "
        "gains count. Critical: the whole interval is beyond. Undecided: neither. The recommendation is the way "
        f"with the best mean {metric.name} within the budget{words.on_held_out(study)}."
    )
    return Report("finetune", study.QUESTION, sections, note, SOURCE)


def _section(study: Finetune, of: Any, rows: list[Row]) -> Section:
    single = [row for row in rows if row["scope"] == "layer"]
    sets = [row for scope in ("first", "last") for row in rows if row["scope"] == scope]
    marked = [
        row | {"mark": ", ".join(name for name in ("recommended", "advised") if row[name]) or None} for row in rows
    ]
    metric = words.metric_of(study)
    old = study.old_metric if study.old_task(of) else None
    tables = [_verdicts(part, metric.unit, old) for part in (single, sets) if part]
    everything = [*words.judged_by(metric, ALL_NUMBERS), *words.held_out_drop(study), *_of_the_old_task(old)]
    tables.append(Table(words.told(everything, rows), marked, "All numbers"))
    full = _one(rows, "all")
    if full and (section := words.unlearned(study, of.recipe, full, tables[-1])):
        return section
    pictures = {"layers": _layers(rows, single, metric)} if single else {}
    if sets:
        pictures["sets"] = _sets(rows, sets, metric)
    pictures["cost"] = _cost(rows, study.budget, metric)
    if old:
        pictures["forgetting"] = _forgetting(rows, metric, old)
    sentences = [*_sentences(study, rows), *_forgotten(study, of, rows)]
    if head := study.new_head(of):
        sentences.append(f"The output layer, {head}, is drawn anew: the pretrained one is for other classes.")
        sentences.append("A new output layer cannot answer the old task, so what is forgotten is not measured.")
    return Section(
        f"{words.heading(of.recipe, study.swept)}, pretrained: {before(study, of)}",
        _answer(study, rows),
        sentences,
        tables,
        len(tables) - 1,
        pictures,
        words.resolved(of.recipe) | pretraining(study, of),
    )


def before(study: Finetune, of: Subject) -> str:
    """What a network was pretrained on, or the file that its weights are in."""
    source = study.source(of)
    if source is None:
        return Path(str(study.file)).name
    return f"{words.length(source)} {f'of {source.task}' if source.own else f'on {source.data}'}"


def pretraining(study: Finetune, of: Subject) -> Row:
    """What differs in pretraining."""
    source = study.source(of)
    if source is None:
        return {"pretrained": before(study, of)}
    same = words.resolved(of.recipe)
    return {f"pretraining: {name}": value for name, value in words.resolved(source).items() if same.get(name) != value}


def _answer(study: Finetune, rows: Sequence[Row]) -> str:
    best = next(row for row in rows if row["recommended"])
    budget = "" if study.budget == 1 else f"within {100 * study.budget:g} % of the arithmetic, "
    where = words.on_held_out(study) or " on the test set"
    if best["intervention"] == "all":
        mean = f"mean {words.metric_of(study).name}{where}"
        said = f"{budget}freeze nothing: no freeze has a better {mean} than training everything"
    else:
        frozen = f"freeze {best['layer']} and train the rest"
        what = frozen if best["intervention"] == "frozen" else f"train only {best['layer']} and freeze the rest"
        saved = numbers.percent(1 - best["share"])
        effect, shown = _effect(best, words.metric_of(study).unit), _shown(study, best)
        said = f"{budget}{what}: saves {saved} of the training arithmetic, {effect}{shown}"
    if best["n"] < 2:
        return f"Nothing is decided at one seed. So far: {said}."
    if best["verdict"] == "undecided":
        return f"So far, {said}."
    return f"{said[0].upper()}{said[1:]}."


def _shown(study: Finetune, row: Row) -> str:
    """What the interval of a way's drop shows of the tolerance."""
    limit = words.within(study.tolerance, words.metric_of(study).unit)
    says = {
        "undecided": f", not shown to be within {limit} of training everything",
        "critical": f", surely more than {limit}",
    }
    return f"{says.get(row['verdict'], '')} ({row['verdict']})"


def _sentences(study: Finetune, rows: Sequence[Row]) -> list[str]:
    best, metric = next(row for row in rows if row["recommended"]), words.metric_of(study)
    full, untrained = _one(rows, "all"), _one(rows, "none")
    own = [row for row in rows if row["start"] == "pretrained" and row["scope"] == "layer"]
    said = words.for_new_examples(study, [best] if best["verdict"] else own, phrase)
    if full and untrained:
        scratch = _one(rows, "all", "initialization")
        also = f", {words.value(scratch, metric)} from initialization" if scratch else ""
        said.append(f"Everything trained: {words.reached(full, metric)}{also}, n = {full['n']}.")
        said += words.of_the_error(study, full)
        said.append(f"The pretrained network without any training: {words.value(untrained, metric)}.")
        if _worth(metric)(untrained) >= _worth(metric)(best):
            reached = words.value(best, metric)
            said.append(f"On average training nothing is no worse than the recommended way, which reaches {reached}.")
        said += [
            f"{name.replace('_', ' ').capitalize()}: {_number(untrained, name)} without any training, "
            f"{_number(full, name)} with everything trained, {_number(best, name)} as recommended."
            for name in words.other_numbers(rows)
        ]
    said += _sureness(study, rows, best)
    kinds = {"only": "Trained alone", "frozen": "Frozen"}
    said += [
        f"{text}: {words.verdicts(found)}."
        for kind, text in kinds.items()
        if (found := [row for row in own if row["intervention"] == kind])
    ]
    said += _cheapest(study, rows)
    alone = max((r for r in own if r["intervention"] == "only"), key=_worth(metric, study.chosen), default=None)
    if alone:
        lead = f", {_lead(alone, metric.unit)}" if alone["lead_mean"] is not None else ""
        said.append(f"Best single layer to train alone: {alone['layer']}, {words.value(alone, metric)}{lead}.")
    said += [_adviser(study, rows, best)] if study.recipes[0].own is None else []
    return said + words.still_undecided(study, own, phrase)


def _forgotten(study: Finetune, of: Subject, rows: Sequence[Row]) -> list[str]:
    """A sentence on the old task, before and after; nothing where networks are not judged on it."""
    old, metric = study.old_task(of), study.old_metric
    untrained, full, best = _one(rows, "none"), _one(rows, "all"), next(row for row in rows if row["recommended"])
    if not (old and untrained and full):
        return []
    [column] = _of_the_old_task(metric)[:1]
    before, trained, chosen = (column.cell(row) + (" %" if metric.share else "") for row in (untrained, full, best))
    change = "a drop of" if metric.more_is_better else "a rise of"
    gap = numbers.points(best["forgotten_mean"], best["forgotten_ci95"])
    return [
        f"Old task, {old.task if old.own else old.data}: {before} test {metric.name} without any training, {trained} "
        f"with everything trained, {chosen} as recommended, {change} {gap} {metric.unit}."
    ]


def _of_the_old_task(metric: Metric | None) -> list[Column]:
    """Columns of what is known of the old task; none where networks are not judged on it."""
    if metric is None:
        return []
    head, shown = ("old task, %", numbers.points) if metric.share else ("old task", numbers.decimal)
    says = f"How much worse that is than before fine-tuning, in {metric.unit}."
    return [
        Column(f"old_{metric.name}", head, f"Test {metric.name} on what the start was trained for.", shown),
        Column("forgotten", "forgotten", says, numbers.points),
    ]


def _sureness(study: Finetune, rows: Sequence[Row], best: Row) -> list[str]:
    """How far ahead of the next best, and how often it is chosen with a seed left out."""
    if best["n"] < 2:
        return []
    rivals = [row for row in rows if row["meets"] and row is not best and row["behind_mean"] is not None]
    if not rivals:
        return ["Nothing else meets the budget."]
    # What is as good on every seed is as a rule the same run under another name.
    rivals = [row for row in rivals if (row["behind_mean"], row["behind_ci95"]) != (0, 0)]
    if not rivals:
        return ["Every other way within the budget reaches the same under each seed."]
    metric = words.metric_of(study)
    rival = max(rivals, key=_worth(metric, study.chosen))
    differ = "the two differ" if _apart(rival, "behind") else "the two cannot be told apart"
    steady, rounds = round(best["steady"] * best["n"]), best["n"]
    return [
        f"Next best within the budget: {phrase(rival)}, {_standing(study, rival)}; {differ}.",
        f"With each seed left out in turn, the same way is recommended in {steady} of {rounds} rounds.",
    ]


def _cheapest(study: Finetune, rows: Sequence[Row]) -> list[str]:
    unit = words.metric_of(study).unit
    near = [row for row in rows if row["start"] == "pretrained" and study.passes(row) and row["trained"]]
    row = min(near, key=lambda row: row["share"], default=None)
    if row is None or row["share"] > NO_SAVING:
        return [f"No cheaper way is {words.nearness(study, unit, 'training everything')}."]
    share = numbers.percent(row["share"])
    said = f"{phrase(row)}, {share} of the arithmetic, {_effect(row, unit)}{words.judgement(row)}"
    return [f"Cheapest way {words.nearness(study, unit, 'training everything')}: {said}."]


def _effect(row: Row, unit: str) -> str:
    """What a way costs or gains against training everything."""
    mean, half = row["drop_mean"], row["drop_ci95"]
    return f"{'gains' if mean < 0 else 'costs'} {numbers.points(abs(mean), half)} {unit}"


def _standing(study: Finetune, row: Row, than: str = "") -> str:
    """How far a way is behind the recommended one, or ahead of it."""
    mean, unit = row["behind_mean"], words.metric_of(study).unit
    side = f"ahead{than and f' of {than}'}{words.on_test(study)}" if mean < 0 else f"behind{than and f' {than}'}"
    return f"{numbers.points(abs(mean), row['behind_ci95'])} {unit} {side}"


def _lead(row: Row, unit: str) -> str:
    side = "behind" if row["lead_mean"] < 0 else "ahead of"
    gap = f"{numbers.points(abs(row['lead_mean']), row['lead_ci95'])} {unit} {side} the next"
    return gap if _apart(row, "lead") else f"{gap}, so the two cannot be told apart"


def _adviser(study: Finetune, rows: Sequence[Row], best: Row) -> str:
    row = next((row for row in rows if row["advised"]), None)
    if row is None:
        return "The relative gradient norm (Auto-RGN) chooses no layer: training none alone meets the budget."
    choice = f"The relative gradient norm (Auto-RGN) chooses to train only {row['layer']}"
    if row is not best:
        return f"{choice}: {_standing(study, row, 'the recommendation')}."
    rivals = any(r["meets"] and r["intervention"] == "only" and r is not best for r in rows)
    return f"{choice}, {'as recommended' if rivals else 'the only layer that meets the budget'}."


def _apart(row: Row, name: str) -> bool:
    half = row[f"{name}_ci95"]
    return half is not None and abs(row[f"{name}_mean"]) > half


def _one(rows: Sequence[Row], kind: str, start: str = "pretrained") -> Row | None:
    return next((row for row in rows if (row["intervention"], row["start"]) == (kind, start)), None)


def _number(row: Row, name: str) -> str:
    return Column(name, "", shown=numbers.significant).cell(row)


def _worth(metric: Metric, split: str = "") -> Callable[[Row], float]:
    """What orders rows by their mean on a split, the best last."""
    sign = 1 if metric.more_is_better else -1
    return lambda row: sign * row[f"{split}{metric.name}_mean"]


def _scaled(metric: Metric) -> tuple[str, float]:
    """The label of an axis for a metric, and the factor of its numbers there."""
    return (f"test {metric.name}, %", 100.0) if metric.share else (f"test {metric.name}", 1.0)


def _verdicts(rows: Sequence[Row], unit: str, old: Metric | None) -> Table:
    """Layers down; trained alone and frozen across. The old task without intervals, for which there is no room."""
    own = [row for row in rows if row["start"] == "pretrained"]
    values = ("drop", "verdict", "share", *([f"old_{old.name}_mean"] if old else ()))
    wide = pivot(own, ("layer", "scope", "parameters"), lambda row: row["intervention"], values)
    columns = [Column("layer", "layer"), Column("parameters", "weights", "Number of weights.", numbers.count)]
    for kind, head in (("only", "trained alone"), ("frozen", "frozen")):
        if any(row["intervention"] == kind for row in own):
            columns.append(Column(f"{kind} drop", head, "", numbers.points, f"{kind} verdict"))
            columns.append(Column(f"{kind} share", "takes", "", numbers.percent))
            if old:
                shown = numbers.percent if old.share else numbers.significant
                columns.append(Column(f"{kind} old_{old.name}_mean", "old", "", shown))
    title = f"drop from training everything, {unit}; share of its arithmetic"
    return Table(columns, by_block(wide), f"{title}; old: test {old.name} on the old task" if old else title)


def _layers(rows: Sequence[Row], single: Sequence[Row], metric: Metric) -> Picture:
    """The relative gradient norms if known, and what each layer trained alone or frozen reaches, from either start."""
    names = list(dict.fromkeys(row["layer"] for row in single))
    norms = [row for row in single if row["gradient_mean"] is not None]
    marks = []
    for advised, colour, label in ((False, GREY, ""), (True, BLACK, "the adviser's choice")):
        own = [row for row in norms if row["advised"] is advised]
        places = [float(names.index(row["layer"])) for row in own]
        look: Row = {"label": label if own else "", "colour": colour, "shape": "D"}
        marks.append(points(own, places, "gradient", sideways=True, **look))
    panels = [Panel(marks, "relative gradient norm", "‖g‖/‖θ‖ when pretrained", places=names, xlim=(0, None))]
    for kind, title in (("only", "trained alone"), ("frozen", "frozen, the rest trained")):
        own = [row for row in single if row["intervention"] == kind]
        if own:
            marks = [*_rules(rows, metric), *_both(own, names, metric)]
            panels.append(Panel(marks, title, _scaled(metric)[0], places=names))
    caption = (
        f"test {metric.name} with one layer trained alone or frozen, with 95 % intervals; lines: everything trained, "
        "or nothing."
    )
    if not norms:
        return Picture([panels[1:]], f"{caption[0].upper()}{caption[1:]}")
    left = "Left: the relative gradient norm of each layer of the pretrained network, over the first batches. Right: "
    return Picture([panels], left + caption, [0.8] + [1] * (len(panels) - 1))


def _rules(rows: Sequence[Row], metric: Metric) -> list[Rule]:
    rules = []
    for kind, start, line in (
        ("all", "pretrained", "-"),
        ("none", "pretrained", ":"),
        ("all", "initialization", "-"),
    ):
        if row := _one(rows, kind, start):
            name, colour = STARTS[start]
            what = "everything trained" if kind == "all" else "nothing trained"
            rules.append(Rule(_scaled(metric)[1] * row[f"{metric.name}_mean"], True, f"{name}, {what}", colour, line))
    return rules


def _sets(rows: Sequence[Row], sets: Sequence[Row], metric: Metric) -> Picture:
    """The test metric against how many of the first or last layers are trained."""
    label_y, factor = _scaled(metric)
    marks: list[Rule | Points] = [
        Rule(factor * row[f"{metric.name}_mean"], label=label, colour=BLACK, line=line)
        for kind, label, line in (("all", "everything trained", "-"), ("none", "nothing trained", ":"))
        if (row := _one(rows, kind))
    ]
    for scope, colour in (("first", PALETTE[0]), ("last", PALETTE[1])):
        own = [row for row in sets if (row["scope"], row["start"]) == (scope, "pretrained")]
        numbered = [row | {"count": count} for count, row in enumerate(own, start=2)]
        look = {"": {"label": f"the {scope} layers", "colour": colour}}
        marks += series(numbered, "count", metric.name, looks=look, factor=factor)
    panel = Panel(marks, x="layers trained", y=label_y, ticks=_counts(len(sets) // 4))
    return Picture([[panel]], f"Test {metric.name} with only the first or only the last layers fine-tuned.")


def _counts(sets: int) -> range:
    """Ticks at whole numbers of layers, from two on."""
    return range(2, sets + 2, max(1, sets // 10))


def _both(rows: Sequence[Row], names: Sequence[str], metric: Metric) -> list[Points]:
    """A point for each layer and start, the pretrained one above the other."""
    marks = []
    for (start, (label, colour)), shift in zip(STARTS.items(), (-0.12, 0.12), strict=True):
        own = [row for row in rows if row["start"] == start]
        places = [names.index(row["layer"]) + shift for row in own]
        marks.append(points(own, places, metric.name, _scaled(metric)[1], sideways=True, label=label, colour=colour))
    return marks


def _by_kind(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[str], Row]]:
    """Of each kind of way from the pretrained start: its rows, their names where these are few, and its look."""
    looks: dict[str, Row] = {
        "none": {"label": "nothing trained", "colour": GREY, "shape": "X"},
        "all": {"label": "everything trained", "colour": BLACK, "shape": "s"},
        "frozen": {"label": "frozen", "colour": PALETTE[2]},
        "only": {"label": "trained alone", "colour": PALETTE[1], "shape": "D"},
        "recommended": {"label": "recommended", "colour": PALETTE[0], "shape": "*"},
    }
    for kind, look in looks.items():
        own = [
            row
            for row in rows
            if row["start"] == "pretrained" and kind == ("recommended" if row["recommended"] else row["intervention"])
        ]
        if own:
            named = len(own) <= 8 and kind in ("frozen", "only", "recommended")
            yield own, [row["layer"] for row in own] if named else [], look


def _forgetting(rows: Sequence[Row], metric: Metric, old: Metric) -> Picture:
    """The new task against the old one, and the arithmetic of each way."""
    (x, across), (y, up) = _scaled(metric), _scaled(old)
    marks = []
    for own, names, look in _by_kind([row for row in rows if row.get(f"old_{old.name}_mean") is not None]):
        new = points(own, f"{metric.name}_mean", metric.name, across)
        notes = [f"{name} {numbers.percent(row['share'])}" for name, row in zip(names, own, strict=False)]
        shares = [row["share"] for row in own]
        more: Row = {"across": new.half, "areas": shares, "notes": notes}
        marks.append(points(own, new.y, f"old_{old.name}", up, **more, **look))
    panel = Panel(marks, x=f"new task: {x}", y=f"old task: {y}")
    caption = (
        f"Test {metric.name} on the new task against test {old.name} on what the start was trained for, with 95 % "
        "intervals. The disc around a point, and the number beside its name, are the share of training arithmetic."
    )
    return Picture([[panel]], caption)


def _cost(rows: Sequence[Row], budget: float, metric: Metric) -> Picture:
    """The test metric against the arithmetic of each way, and the budget."""
    label, factor = _scaled(metric)
    marks: list[Points | Rule] = [Rule(100 * budget, True, "budget")] if budget < 1 else []
    for own, names, look in _by_kind(rows):
        notes = [name if row["share"] < CROWD else "" for name, row in zip(names, own, strict=False)]
        marks.append(points(own, [100 * row["share"] for row in own], metric.name, factor, notes=notes, **look))
    panel = Panel(marks, x="training arithmetic, % of full fine-tuning", y=label, xlim=(-4, 112))
    return Picture([[panel]], f"Test {metric.name} against counted training arithmetic, with 95 % intervals.")
