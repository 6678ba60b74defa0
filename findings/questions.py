"""The six questions: for each what the rows say, in numbers, and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, pairwise
from math import factorial, inf
from statistics import mean, median
from typing import Any

from findings.rows import (
    RESULTS,
    Ranks,
    Row,
    bootstrap,
    claim,
    correlation,
    one,
    ranked,
    table,
    where,
)
from letitgo.report.numbers import count, decimal, percent, points
from letitgo.report.pictures import BLACK, GREY, PALETTE, Grid, Panel, Picture, Points, Rule
from letitgo.studies.statistics import ci95

TOLERANCE = 0.01
"""The drop in accuracy that counts as no cost."""


@dataclass(frozen=True)
class Finding:
    """What one question found.

    Attributes:
        values: What the template inserts, as text or as rows of tables.
        picture: The figure.
    """

    values: Mapping[str, Any]
    picture: Picture


@dataclass(frozen=True)
class Trained:
    """A study that froze and re-initialised the layers of one network.

    Attributes:
        study: The folder of its rows.
        network: As the document calls it.
        data: Likewise.
        only: Which of its rows, where it swept something.
        beside: The end of the names of the studies of tickets and of alignment of the same network, if there are any.
    """

    study: str
    network: str
    data: str
    only: Mapping[str, Any]
    beside: str = ""

    @property
    def rows(self) -> list[Row]:
        return where(table(self.study), **self.only)

    @property
    def name(self) -> str:
        return f"{self.network}, {self.data}"

    def drops(self, intervention: str, epoch: float | None = 0.0) -> dict[str, Row]:
        """Layer → its row."""
        found = where(self.rows, intervention=intervention, epoch=epoch)
        return {
            row["layer"]: row for row in found if row["scope"] in ("layer", "block") and row["drop_mean"] is not None
        }


MAPS = (
    Trained("map-mnist", "fully connected, 3 × 256", "MNIST, all", {}),
    Trained("map-widths", "fully connected, 3 × 32", "MNIST", {"widths": 32.0}, "widths"),
    Trained("map-widths", "fully connected, 3 × 128", "MNIST", {"widths": 128.0}, "widths"),
    Trained("map-widths", "fully connected, 3 × 512", "MNIST", {"widths": 512.0}, "widths"),
    Trained("map-fashion", "fully connected, 3 × 256", "Fashion-MNIST", {}, "fashion"),
    Trained("map-lenet", "LeNet", "MNIST", {}, "lenet"),
    Trained("map-lenet-fashion", "LeNet", "Fashion-MNIST", {}),
    Trained("map-cifar10", "fully connected, 3 × 256", "CIFAR-10", {}),
    Trained("map-lenet-cifar10", "LeNet", "CIFAR-10", {}),
    Trained("map-vit", "small ViT", "MNIST", {}),
    Trained("map-resnet-digits", "ResNet-20", "digits", {}),
)
"""Both interventions on the same layers."""
REINITIALISED = (
    Trained("map-vgg11", "VGG-11", "CIFAR-10", {}),
    Trained("map-resnet20", "ResNet-20", "CIFAR-10", {}),
)
"""Re-initialised only."""


def is_robust(row: Row, of: str = "drop") -> bool:
    """Whether the whole interval of the drop lies within the tolerance."""
    return row[f"{of}_mean"] + row[f"{of}_ci95"] <= TOLERANCE


def is_critical(row: Row) -> bool:
    """Whether the whole interval of the drop lies beyond the tolerance."""
    return row["drop_mean"] - row["drop_ci95"] > TOLERANCE


def _summary(study: Trained, frozen: list[Row], put_back: list[Row]) -> dict[str, Any]:
    """A network's line in the table of question 1."""
    base = one(study.rows, intervention="baseline")
    line = {"network": study.network, "data": study.data, "n": int(base["n"]), "layers": len(put_back)}
    line["accuracy"] = f"{points(base['accuracy_mean'])} %"
    for name, rows in (("frozen", frozen), ("back", put_back)):
        if rows:
            line[f"{name}_robust"] = sum(map(is_robust, rows))
            line[f"{name}_critical"] = sum(map(is_critical, rows))
            line[f"{name}_worst"] = points(max(row["drop_mean"] for row in rows))
    return line


def _cost_of_first(study: Trained) -> tuple[float, float]:
    """What freezing the first layer costs, and half its interval."""
    row = study.drops("frozen")["fc1"]
    return row["drop_mean"], row["drop_ci95"]


def capacity() -> list[dict[str, Any]]:
    """What putting the second layer back costs, by width, learning rate and length of training."""
    costs = {
        tuple(row[name] for name in SETTINGS): row
        for row in where(table("map-length"), layer="fc2", intervention="reinitialised", epoch=0.0)
    }
    for (width, rate, epochs), row in costs.items():
        claim(row["drop_mean"] >= costs[width, rate, 10.0]["drop_mean"], "fc2 costs no less after longer training")
        claim(row["drop_mean"] >= costs[width, 0.01, epochs]["drop_mean"], "fc2 costs no less at a larger rate")
        claim(row["drop_mean"] <= costs[256.0, rate, epochs]["drop_mean"], "fc2 costs less in the wider network")
    return [
        {
            "width": count(width),
            "rate": f"{rate:g}",
            "n": int(costs[width, rate, 10.0]["n"]),
            "drops": [
                points(row["drop_mean"], row["drop_ci95"]) for row in (costs[width, rate, e] for e in (10.0, 30.0))
            ],
        }
        for width, rate in dict.fromkeys(settings[:2] for settings in costs)
    ]


def at_length() -> dict[str, Any]:
    """What the same costs in the paper's own protocol, in points."""
    row = one(table("reproduce-zbs19"), quantity="drop when fc2 is re-initialised, points")
    [short] = where(table("map-mnist"), layer="fc2", intervention="reinitialised", epoch=0.0)
    claim(row["within"] == "False", "the second layer costs more than a point after as many epochs as ZBS19's")
    claim(row["measured"] >= 100 * short["drop_mean"], "it costs no less than after a tenth of them")
    return {"drop": decimal(row["measured"], row["ci95"]), "n": int(row["n"])}


SETTINGS = ("widths", "lr", "epochs")
COLOURS = (*PALETTE, BLACK)


def residual_blocks() -> int:
    """How many blocks the residual networks with LayerNorm have."""
    blocks = [row for study in RESIDUAL for row in where(table(study), row="unit") if row["parameters"] == BLOCK]
    claim(all(is_robust(row) and is_robust(row, "fall") for row in blocks), "every block with LayerNorm is robust")
    return len(blocks)


def resnet() -> dict[str, str]:
    """What putting the first and the last block of ResNet-20 back costs."""
    study = MAPS[-1]
    blocks = {layer: row for layer, row in study.drops("reinitialised").items() if layer.startswith("layer")}
    first, *_, last = blocks.values()
    claim(max(row["drop_mean"] for row in blocks.values()) == first["drop_mean"], "the first block costs most put back")
    claim(is_critical(first) and not is_critical(last), "the first block is critical put back, and the last is not")
    claim(not any(map(is_critical, study.drops("frozen").values())), "freezing any block costs little")
    return {
        f"resnet_{name}": points(row["drop_mean"], row["drop_ci95"]) for name, row in (("first", first), ("last", last))
    }


RESIDUAL = ("advisers-residual", "advisers-fashion-residual")
BLOCK = 4800.0
"""Parameters of a block of theirs."""


def routing() -> Finding:
    """Q1: does training route around a frozen layer where a trained network cannot be put back?"""
    lines, marks, both = [], [], []
    for i, study in enumerate(MAPS):
        frozen, put_back = study.drops("frozen"), study.drops("reinitialised")
        pairs = [(frozen[layer], put_back[layer]) for layer in frozen if layer in put_back]
        both += pairs
        lines.append(_summary(study, [f for f, _ in pairs], [r for _, r in pairs]))
        marks.append(
            Points(
                [100 * f["drop_mean"] for f, _ in pairs],
                [100 * r["drop_mean"] for _, r in pairs],
                [100 * r["drop_ci95"] for _, r in pairs],
                across=[100 * f["drop_ci95"] for f, _ in pairs],
                label=study.name,
                colour=COLOURS[i % len(COLOURS)],
                shape="osD^vPX*hdp"[i],
            )
        )
    dearer = sum(r["drop_mean"] > f["drop_mean"] for f, r in both)
    rescued = sum(is_critical(r) and is_robust(f) for f, r in both)
    opposite = sum(is_critical(f) and is_robust(r) for f, r in both)
    claim(dearer > 0.7 * len(both), "putting a layer back costs more than freezing it, for most layers")
    costs = [_cost_of_first(study)[0] for study in MAPS[1:4]]
    claim(costs[0] > costs[1] > costs[2], "the wider the network, the less freezing its first layer costs")
    claim(rescued > opposite, "more layers are critical only when put back than critical only when frozen")
    gap = sorted(r["drop_mean"] - f["drop_mean"] for f, r in both)
    high = max(100 * r["drop_mean"] for _, r in both)
    diagonal = Points([0, high], [0, high], shape="", line="--", colour=GREY, label="equal cost")
    along, up = "drop where frozen, points", "drop where put back, points"
    whole = Panel([diagonal, *marks], title="all layers", x=along, y=up)
    near = Panel([diagonal, *marks], title="those near the origin", x=along, y=up, xlim=(-1, 4), ylim=(-1, 10))
    caption = "Each layer frozen at its initialization, and put back to it after training. Bars are 95 % intervals."
    values = {
        "table": lines,
        "only": [_summary(study, [], list(study.drops("reinitialised").values())) for study in REINITIALISED],
        "capacity": capacity(),
        "at_length": at_length(),
        "blocks": residual_blocks(),
        **resnet(),
        "vit": one(lines, network="small ViT")["accuracy"],
        "layers": len(both),
        "dearer": dearer,
        "rescued": rescued,
        "opposite": opposite,
        "apart": sum(r["drop_mean"] - r["drop_ci95"] > f["drop_mean"] + f["drop_ci95"] for f, r in both),
        "survives": sum(is_robust(r) for _, r in both),
        "survives_both": sum(is_robust(r) and is_robust(f) for f, r in both),
        "narrow": points(*_cost_of_first(MAPS[1])),
        "wide": points(*_cost_of_first(MAPS[3])),
        "gap": points(median(gap)),
        "gap_low": points(gap[len(gap) // 4]),
        "gap_high": points(gap[-1 - len(gap) // 4]),
    }
    return Finding(values, Picture([[whole, near]], caption))


NETS = {
    "fcn": ("fully connected, 5 × 64", "digits"),
    "mnist": ("fully connected, 3 × 128", "MNIST, 10,000"),
    "fashion_mnist": ("fully connected, 3 × 128", "Fashion-MNIST, 10,000"),
    "conv": ("four convolutions", "digits"),
    "residual": ("four residual blocks", "digits"),
}


@dataclass(frozen=True)
class Sets:
    """All subsets of a network's units, each frozen from the start; drops are paired by seed."""

    units: tuple[str, ...]
    seeds: int
    baseline: float
    test: Mapping[frozenset[str], float]
    validation: Mapping[frozenset[str], float]
    saved: Mapping[frozenset[str], float]
    by_seed: Mapping[frozenset[str], Mapping[float, float]]

    @cached_property
    def totals(self) -> dict[frozenset[str], float]:
        """Each set of two units or more → the sum of the drops of its units."""
        several = (chosen for chosen in self.test if len(chosen) > 1)
        return {chosen: sum(self.test[frozenset([unit])] for unit in sorted(chosen)) for chosen in several}

    @property
    def dearer(self) -> int:
        """How many of them cost more than that."""
        return sum(self.test[chosen] > total for chosen, total in self.totals.items())

    @property
    def largest(self) -> frozenset[str]:
        """The set that saves most of those within the tolerance on held-out examples."""
        within = (chosen for chosen in self.saved if self.validation[chosen] <= TOLERANCE)
        return max(within, key=self.saved.__getitem__)

    def excess(self, seeds: Sequence[float]) -> dict[frozenset[str], float]:
        """Each set of two units or more → the mean over seeds of its drop less the sum of its units' drops."""
        alone = {unit: mean(self.by_seed[frozenset([unit])][seed] for seed in seeds) for unit in self.units}
        return {
            chosen: mean(self.by_seed[chosen][seed] for seed in seeds) - sum(alone[unit] for unit in sorted(chosen))
            for chosen in self.totals
        }

    def mean_excess(self) -> tuple[float, float]:
        """The mean of the same over all these sets but the whole network, and half its 95 % interval over seeds."""
        each = [
            mean(over for chosen, over in self.excess([seed]).items() if len(chosen) < len(self.units))
            for seed in next(iter(self.by_seed.values()))
        ]
        half = ci95(each)
        assert half is not None  # there are several seeds
        return mean(each), half


@cache
def all_subsets(net: str) -> Sets:
    """What freezing every subset of a network's units cost."""
    accuracy: dict[str, dict[frozenset[str], dict[float, float]]] = {"test": {}, "validation": {}}
    saved = {}
    for row in table("search-subsets", f"{net}-sets.csv"):
        name = row["set"]
        chosen = frozenset((str(int(name)) if isinstance(name, float) else name or "").split())
        saved[chosen] = row["saved"]
        for split, found in accuracy.items():
            found.setdefault(chosen, {})[row["seed"]] = row[split]
    seeds = set.intersection(*(set(found) for found in accuracy["test"].values()))
    drops = {}
    for split, found in accuracy.items():
        drops[split] = {
            chosen: {seed: found[frozenset()][seed] - found[chosen][seed] for seed in seeds} for chosen in found
        }
    units = tuple(sorted({unit for chosen in saved for unit in chosen}))
    means = {split: {chosen: mean(each.values()) for chosen, each in found.items()} for split, found in drops.items()}
    baseline = mean(accuracy["test"][frozenset()][seed] for seed in seeds)
    return Sets(units, len(seeds), baseline, means["test"], means["validation"], saved, drops["test"])


SIZES = ((5, 16), (5, 32), (5, 64), (5, 128), (5, 256), (2, 64), (3, 64), (7, 64))
"""Hidden layers and their units, of the networks whose subsets were trained on the digits."""


def sizes() -> list[dict[str, Any]]:
    """How far the costs of layers are from adding up, by width and depth."""
    lines = []
    for depth, width in SIZES:
        sets = all_subsets("fcn" if (depth, width) == (5, 64) else f"fcn-{depth}x{width}")
        over, half = sets.mean_excess()
        best = sets.saved[sets.largest]
        lines.append(
            {
                "depth": depth,
                "width": width,
                "baseline": f"{points(sets.baseline)} %",
                "singles": sum(sets.test[frozenset([unit])] for unit in sets.units),
                "more": sets.dearer,
                "of": len(sets.totals),
                "over": over,
                "half": half,
                "excess": points(over, half),
                "best": best,
                "saved": percent(best),
            }
        )
    return lines


def shapley(sets: Sets) -> dict[str, float]:
    """Each unit's share of the drop of freezing all: the mean over all orders of what it adds."""
    count, values = len(sets.units), {}
    for unit in sets.units:
        others = [other for other in sets.units if other != unit]
        values[unit] = sum(
            (sets.test[frozenset(before) | {unit}] - sets.test[frozenset(before)])
            * factorial(size)
            * factorial(count - size - 1)
            / factorial(count)
            for size in range(count)
            for before in combinations(others, size)
        )
    return values


def _share_over(excess: Iterable[Mapping[frozenset[str], float]]) -> float:
    every = [each for found in excess for each in found.values()]
    return sum(each > 0 for each in every) / len(every)


def sums() -> Finding:
    """Q2: when do frozen layers add up, and when do they cost more than their sum?"""
    lines, marks, more, interactions, multiple, largest = [], [], 0, [], 0, []
    for i, (net, (network, data)) in enumerate(NETS.items()):
        sets = all_subsets(net)
        single = {unit: sets.test[frozenset([unit])] for unit in sets.units}
        more += sets.dearer
        multiple += len(sets.totals)
        pairs = [sets.test[frozenset(pair)] - single[pair[0]] - single[pair[1]] for pair in combinations(sets.units, 2)]
        interactions += pairs
        best = sets.largest
        robust = frozenset(unit for unit in sets.units if sets.validation[frozenset([unit])] <= TOLERANCE)
        shares = shapley(sets)
        largest.append(max(shares.values()) / sum(shares.values()))
        everything = frozenset(sets.units)
        lines.append(
            {
                "network": network,
                "data": data,
                "n": sets.seeds,
                "sets": len(sets.saved),
                "singles": points(sum(single.values())),
                "together": points(sets.test[everything]),
                "interaction": points(mean(pairs)),
                "best": " + ".join(sorted(best)),
                "of": len(sets.units),
                "saved": percent(sets.saved[best]),
                "cost": points(sets.test[best]),
                "robust": points(sets.test[robust]),
                "robust_count": len(robust),
            }
        )
        without_all = [chosen for chosen in sets.totals if chosen != everything]
        marks.append(
            Points(
                [100 * sets.totals[chosen] for chosen in without_all],
                [100 * sets.test[chosen] for chosen in without_all],
                label=f"{network}, {data}",
                colour=PALETTE[i],
                shape="osD^v"[i],
            )
        )
    every = [all_subsets(net) for net in NETS]
    seeds = sorted(next(iter(every[0].by_seed.values())))
    low_share, high_share = bootstrap(seeds, lambda drawn: _share_over([each.excess(drawn) for each in every]), 200)
    claim(more > 0.6 * multiple, "most sets cost more than the sum of their layers")
    low = min(min(mark.x) for mark in marks)
    high = max(max(mark.x) for mark in marks)
    diagonal = Points([low, high], [low, high], shape="", line="--", colour=GREY, label="the sum")
    panel = Panel([diagonal, *marks], x="sum of the drops of single layers, points", y="drop of the set, points")
    caption = (
        "Left: every set of two layers or more, all layers excepted, against the sum of its layers frozen one at a "
        "time. Right: how far such sets are over that sum, by width; 95 % intervals over seeds."
    )
    by_size = sizes()
    wide = [line for line in by_size if line["depth"] == SIZES[0][0]]
    for narrower, wider in pairwise(wide[1:]):
        claim(wider["over"] < narrower["over"], "from 32 units on, the wider the network, the nearer costs add up")
    for narrower, wider in pairwise(wide):
        claim(wider["singles"] < narrower["singles"], "wider networks lose less by each frozen layer")
    claim(wide[-1]["over"] <= wide[-1]["half"], "with 256 units no excess over the sum shows")
    claim(wide[-1]["best"] > wide[1]["best"] > wide[0]["best"], "more may stay frozen in wider networks")
    over = Points(
        [line["width"] for line in wide],
        [100 * line["over"] for line in wide],
        [100 * line["half"] for line in wide],
        line="-",
    )
    by_width = Panel(
        [over, Rule(0.0)],
        title="five hidden layers, digits",
        x="units of each",
        y="mean over the sum, points",
        xlog=True,
        ticks=[line["width"] for line in wide],
    )
    values = {
        "table": lines,
        "sizes": by_size,
        "narrow": wide[1],
        "wide": wide[-1],
        "more": more,
        "multiple": multiple,
        "least_share": percent(min(largest)),
        "most_share": percent(max(largest)),
        "share": percent(more / multiple),
        "share_low": percent(low_share),
        "share_high": percent(high_share),
        "positive": sum(pair > 0 for pair in interactions),
        "pairs": len(interactions),
    }
    return Finding(values, Picture([[panel, by_width]], caption))


TIMED = (
    Trained("map-mnist", "fully connected", "MNIST, all", {}),
    Trained("map-fashion", "fully connected", "Fashion-MNIST", {}),
    Trained("map-cifar10", "fully connected", "CIFAR-10", {}),
    Trained("map-lenet", "LeNet", "MNIST", {}),
    Trained("map-lenet-fashion", "LeNet", "Fashion-MNIST", {}),
    Trained("map-lenet-cifar10", "LeNet", "CIFAR-10", {}),
)


LAYERS = ("fc1", "fc2", "fc3", "fc4", "conv1", "conv2")
"""In the order of their colours."""


def timing() -> Finding:
    """Q3: how early is each layer done?"""
    lines, panels, done_early, count = [], [], 0, 0
    for study in TIMED:
        rows = [row for row in where(study.rows, scope="layer", intervention="frozen") if row["drop_mean"] is not None]
        epochs = sorted({row["epoch"] for row in rows})
        series = []
        for layer in dict.fromkeys(row["layer"] for row in rows):
            own = sorted(where(rows, layer=layer), key=lambda row: row["epoch"])
            done = next((row["epoch"] for row in own if is_robust(row)), inf)
            line = {"network": study.network, "data": study.data, "layer": layer, "done": done, "n": int(own[0]["n"])}
            lines.append(line)
            count += 1
            done_early += done <= 2
            series.append(
                Points(
                    [row["epoch"] for row in own],
                    [100 * row["drop_mean"] for row in own],
                    [100 * row["drop_ci95"] for row in own],
                    label=layer,
                    colour=PALETTE[LAYERS.index(layer)],
                    line="-",
                )
            )
        rule = Rule(100 * TOLERANCE)
        panel = Panel([*series, rule], title=study.name, x="frozen from epoch", y="drop, points", ticks=epochs)
        panels.append(panel)
    open_still = [line for line in lines if line["done"] > 5]
    claim(
        [(line["network"], line["data"], line["layer"]) for line in open_still] == [("LeNet", "CIFAR-10", "fc1")],
        "all layers but fc1 of LeNet on CIFAR-10 are done by epoch 5",
    )
    claim(done_early > 0.5 * count, "most layers are done within two epochs")
    for study in TIMED:
        own = where(lines, network=study.network, data=study.data)
        latest = max(line["done"] for line in own)
        claim(one(own, layer="fc1")["done"] == latest, "no layer is done later than fc1")
    last = one(TIMED[-1].rows, intervention="frozen", layer="fc1", epoch=5.0)
    caption = (
        f"The drop of freezing a layer from an epoch on. The dashed line is the tolerance of {100 * TOLERANCE:g} point."
    )
    values = {
        "table": [
            {
                "network": study.network,
                "data": study.data,
                "n": own[0]["n"],
                "done": ", ".join(
                    f"{line['layer']} {'none' if line['done'] == inf else format(line['done'], 'g')}" for line in own
                ),
            }
            for study in TIMED
            for own in [where(lines, network=study.network, data=study.data)]
        ],
        "layers": count,
        "early": done_early,
        "at_start": sum(line["done"] == 0 for line in lines),
        "open": len(open_still),
        "lenet": points(last["drop_mean"], last["drop_ci95"]),
    }
    return Finding(values, Picture([panels[:3], panels[3:]], caption))


SUBSPACE = "random subspace"
"""Trained with an optimiser and a rate of its own, and so compared with training everything in that way."""


def _curves(noise: float) -> dict[str, list[tuple[float, float, float]]]:
    """For each way of training less: numbers of trained values, test accuracies in per cent, their intervals."""
    filters = where(table("fraction-noise"), label_noise=noise, policy="filters", rest="initial")
    alone = [row for row in table("fraction-noise") if row["label_noise"] == noise and row["policy"].endswith(" only")]
    return {
        "one layer trained": _curve([row for row in alone if row["policy"] != "biases only"], "learned"),
        "one layer frozen": _curve(where(table("map-noise"), label_noise=noise, intervention="frozen"), "trained"),
        "random filters": _curve(filters, "learned"),
        SUBSPACE: _curve(where(table("dimension-noise"), label_noise=noise, row="d"), "d"),
        "lottery ticket": _curve(where(table("ticket-noise"), label_noise=noise, variant="ticket"), "weights_left"),
    }


def counted() -> Finding:
    """Q4: generalization against the number of trained values, with and without label noise."""
    panels, best, lines = [], {}, []
    adam = {noise: one(table("dimension-noise"), label_noise=noise, row="baseline") for noise in (0.0, 0.5)}
    for noise in (0.0, 0.5):
        curves = _curves(noise)
        base = one(table("map-noise"), label_noise=noise, intervention="baseline")
        marks: list[Any] = [Rule(100 * base["accuracy_mean"], label="everything trained", colour=BLACK)]
        for i, (name, curve) in enumerate(curves.items()):
            look: dict[str, Any] = {"line": "", "shape": "D"} if name.startswith("one layer") else {"line": "-"}
            at, accuracy, half = ([row[j] for row in curve] for j in range(3))
            marks.append(Points(at, accuracy, half, label=name, colour=PALETTE[i], **look))
            top = max(curve, key=lambda row: row[1])
            best[name, noise] = top
            lines.append(
                {
                    "noise": percent(noise),
                    "way": name,
                    "number": count(top[0]),
                    "share": percent(top[0] / base["parameters"]),
                    "accuracy": f"{top[1]:.1f} ± {top[2]:.1f}",
                    "over": f"{top[1] - 100 * (adam[noise] if name == SUBSPACE else base)['accuracy_mean']:+.1f}",
                }
            )
        title = f"{percent(noise)} of the labels random" if noise else "true labels"
        panels.append(Panel(marks, title=title, x="trained values", y="test accuracy, %", xlog=True))
    base = {noise: one(table("map-noise"), label_noise=noise, intervention="baseline") for noise in (0.0, 0.5)}
    reached = 100 * (base[0.5]["accuracy_mean"] + base[0.5]["accuracy_ci95"])
    for name in ("one layer frozen", "random filters", "random subspace", "lottery ticket"):
        claim(best[name, 0.5][1] - best[name, 0.5][2] > reached, f"{name} helps where labels are random")
    tickets = _curves(0.5)["lottery ticket"]
    better = [row[0] for row in tickets if row[1] > 100 * base[0.5]["accuracy_mean"]]
    claim(better == [row[0] for row in tickets][: len(better)], "only where few weights are left are tickets better")
    claim(len(better) < len(tickets) / 2, "the tickets that are better are the sparsest alone")
    worst = min(tickets, key=lambda row: row[1])
    claim(worst[1] + worst[2] < 100 * base[0.5]["accuracy_mean"] - 5, "most tickets do harm where labels are random")
    gains = [top[1] - 100 * base[0.0]["accuracy_mean"] for (_, noise), top in best.items() if not noise]
    claim(max(gains) < 0.5, "no way gains much where labels are true")
    worst_row = one(table("ticket-noise"), label_noise=0.5, variant="ticket", weights_left=worst[0])
    fit = worst_row["train_accuracy_mean"] - base[0.5]["train_accuracy_mean"]
    claim(fit > 0.1, "tickets memorise random labels better than the whole network")
    top = best[SUBSPACE, 0.5]
    gained = top[1] - top[2] - 100 * (adam[0.5]["accuracy_mean"] + adam[0.5]["accuracy_ci95"])
    claim(gained > 0, "a random subspace helps where labels are random, against training everything in the same way")
    caption = "Test accuracy against the number of trained values; 95 % intervals. The dashed line trains everything."
    values = {
        "table": lines,
        "n": int(base[0.0]["n"]),
        "all": count(base[0.0]["parameters"]),
        "clean": f"{100 * base[0.0]['accuracy_mean']:.1f} ± {100 * base[0.0]['accuracy_ci95']:.1f}",
        "noisy": f"{100 * base[0.5]['accuracy_mean']:.1f} ± {100 * base[0.5]['accuracy_ci95']:.1f}",
        "best": {name: f"{top[1]:.1f}" for (name, noise), top in best.items() if noise},
        "best_at": {name: count(top[0]) for (name, noise), top in best.items() if noise},
        "worst": f"{worst[1]:.1f} ± {worst[2]:.1f}",
        "worst_at": count(worst[0]),
        "gain": f"{max(gains):.1f}",
        "adam": f"{100 * adam[0.5]['accuracy_mean']:.1f} ± {100 * adam[0.5]['accuracy_ci95']:.1f}",
        "adam_clean": f"{100 * adam[0.0]['accuracy_mean']:.1f}",
        "rate": f"{_rate():g}",
        "worst_train": f"{100 * worst_row['train_accuracy_mean']:.1f}",
        "noisy_train": f"{100 * base[0.5]['train_accuracy_mean']:.1f}",
    }
    return Finding(values, Picture([panels], caption))


def _rate() -> float:
    """Adam's learning rate that is best for random subspaces on held-out examples, over both shares of wrong labels."""
    rows = [row for row in table("dimension-rates") if row["row"] == "d" and row["d"]]
    rates = {row["lr"]: mean(other["accuracy_mean"] for other in where(rows, lr=row["lr"])) for row in rows}
    best = max(rates, key=lambda rate: rates[rate])
    command = (RESULTS / "dimension-noise" / "command").read_text(encoding="utf-8")
    claim(f"--lr {best:g} " in command, "subspaces train at the rate that is best on held-out examples")
    return best


def _curve(rows: Iterable[Row], at: str) -> list[tuple[float, float, float]]:
    found = {row[at]: row for row in rows if row[at] and row["accuracy_mean"] is not None}
    return [(x, 100 * row["accuracy_mean"], 100 * (row["accuracy_ci95"] or 0)) for x, row in sorted(found.items())]


NOTIONS = {
    "drop_mean": "cost of freezing",
    "fall_mean": "cost of putting back",
    "distance_mean": "distance moved",
    "gradient_mean": "gradient at the start",
    "parameters": "size",
}
FURTHER = {
    "density": "density in a ticket",
    "ratio_mean": "nearness to rank one",
    "dimension": "dimensions it needs alone",
}
"""Notions that another group of networks was asked for."""


def settled() -> dict[str, str]:
    """What experiments say that were run where a result contradicted a paper."""
    tickets = {
        shift: one(
            table("carry-permuted"),
            source_data="mnist 10000",
            target_data=f"mnist permute-{shift} 10000",
            variant="ticket",
            level=6,
        )
        for shift in ("labels", "pixels")
    }
    above = {shift: (row["above_random_mean"], row["above_random_ci95"]) for shift, row in tickets.items()}
    claim(above["labels"][0] > above["labels"][1], "tickets carry where labels are permuted")
    claim(abs(above["pixels"][0]) < above["pixels"][1], "tickets are worth random ones where pixels are permuted")
    rates = table("fraction-rates")
    tried = {policy: where(rates, policy=policy) for policy in ("norms only", "random values")}
    best = {policy: max(rows, key=lambda row: row["validation_accuracy_mean"]) for policy, rows in tried.items()}
    ends = {policy: (row["accuracy_mean"], row["accuracy_ci95"]) for policy, row in best.items()}
    claim(
        ends["norms only"][0] - ends["norms only"][1] > ends["random values"][0] + ends["random values"][1],
        "norms alone are above random values where each has its own rate",
    )
    signs = {row["above_random_mean"] > 0 for row in tried["norms only"]}
    claim(signs == {True, False}, "the sign of norms against random values depends on the rate")
    return {
        **{name: points(*found) for name, found in above.items()},
        "norms": points(*ends["norms only"]),
        "random": points(*ends["random values"]),
    }


ADVISERS = tuple(
    f"advisers-{net}" for net in ("fcn", "conv", "residual", "fashion-fcn", "fashion-lenet", "fashion-residual")
)
ALONE = ("widths", "fashion", "lenet")
"""Networks whose layers were trained alone in subspaces."""
LEVEL = 2
"""The ticket whose densities are compared: a quarter of the weights is left."""


def densities(study: Trained) -> dict[str, float]:
    """The share of each layer's weights in a ticket; not of the last layer, which pruning spares."""
    ticket = one(table(f"ticket-{study.beside}"), level=LEVEL, **study.only)
    shares = dict(part.rsplit(" ", 1) for part in ticket["layers"].split(", "))
    *named, _ = ((name.removesuffix(".weight"), float(share)) for name, share in shares.items())
    return dict(named)


def alone(study: Trained) -> dict[str, float]:
    """The dimensions in which each layer reaches 90 % of the baseline, all others frozen; infinite where none do."""
    if study.beside not in ALONE:
        return {}
    answers = where(table(f"dimension-layers-{study.beside}"), row="answer", threshold=0.9, **study.only)
    return {row["layer"]: inf if row["fitted_d"] is None else row["fitted_d"] for row in answers}


def noted(study: Trained) -> list[Row]:
    """The layers of a network, with what every notion says of them."""
    frozen, put_back, density = study.drops("frozen"), study.drops("reinitialised"), densities(study)
    aligned = where(table(f"align-{study.beside}"), **study.only)
    dimensions = alone(study)
    last = max(row["epoch"] for row in aligned)
    ratios = {row["layer"]: row["ratio_mean"] for row in aligned if row["epoch"] == last}
    return [
        {
            "drop_mean": frozen[layer]["drop_mean"],
            "fall_mean": put_back[layer]["drop_mean"],
            "density": density.get(layer),
            "ratio_mean": ratios.get(layer),
            "dimension": dimensions.get(layer),
            "parameters": frozen[layer]["parameters"],
        }
        for layer in frozen
    ]


def both(a: str, b: str, groups: Iterable[list[Row]]) -> list[Ranks]:
    """Ranks by two notions in each group, of the layers that have both; groups of fewer than three are left out."""
    pairs = [[(row[a], row[b]) for row in group if row[a] is not None and row[b] is not None] for group in groups]
    return [ranked(each) for each in pairs if len(each) > 2]


def _agreement(notion: str, name: str, groups: Sequence[list[Row]]) -> dict[str, Any]:
    """A notion's line in the table of question 5: its agreement with both costs."""
    line: dict[str, Any] = {
        "notion": name,
        "layers": sum(row[notion] is not None for group in groups for row in group),
        "networks": sum(any(row[notion] is not None for row in group) for group in groups),
    }
    for cost in ("drop_mean", "fall_mean"):
        if cost != notion:
            ranks = both(cost, notion, groups)
            found = bootstrap(ranks, correlation)
            low, high = (decimal(end) for end in found)
            line[cost] = f"{decimal(correlation(ranks))} ({low} to {high})"
            line[f"{cost}_value"] = correlation(ranks)
            line[f"{cost}_decided"] = found[0] > 0 or found[1] < 0
    return line


def notions() -> Finding:
    """Q5: do the notions of "critical" agree?"""
    groups = [where(table(study), row="unit") for study in ADVISERS]
    names = list(NOTIONS)
    cells = [[1.0 if a == b else correlation(both(a, b, groups)) for b in names] for a in names]
    others = [noted(study) for study in MAPS if study.beside]
    lines = [_agreement(name, NOTIONS[name], groups) for name in names[1:]]
    lines += [_agreement(name, what, others) for name, what in FURTHER.items()]
    labels = [NOTIONS[name] for name in names]
    grid = Grid(cells, "rank correlation", "{:.2f}", -1, 1)
    panel = Panel([grid], places=labels, steps=[label.replace(" ", "\n", 1) for label in labels])
    caption = "Rank correlations over layers, ranked within each network."
    values = {"table": lines, "layers": sum(map(len, groups)), "networks": len(groups), "main": lines[0]["drop_mean"]}
    density, ratio, dimension = lines[-3:]
    best = {cost: max(lines[1:], key=lambda line: abs(line[f"{cost}_value"])) for cost in ("drop_mean", "fall_mean")}
    claim(best["drop_mean"] is density, "density in a ticket agrees best with the cost of freezing")
    claim(best["fall_mean"] is ratio, "nearness to rank one agrees best with the cost of putting back")
    by_size = correlation(both("parameters", "density", others))
    claim(by_size < -0.5, "the layers that pruning thins out most are the largest")
    values |= {"density": density, "ratio": ratio}
    claim(density["drop_mean_decided"] and density["drop_mean_value"] < 0, "thin layers are dear to freeze")
    claim(
        dimension["drop_mean_decided"] and dimension["drop_mean_value"] < 0,
        "what needs few dimensions is dear to freeze",
    )
    claim(ratio["fall_mean_decided"] and ratio["fall_mean_value"] > 0, "layers near rank one are dear to put back")
    return Finding(values, Picture([[panel]], caption))


TUNED = {
    "noise": ("finetune", "fully connected, 4 × 256", "MNIST → MNIST with noise", {"shift": "noise"}),
    "labels": ("finetune", "fully connected, 4 × 256", "MNIST → MNIST, labels permuted", {"shift": "permute-labels"}),
    "fashion": ("finetune-lenet-fashion", "LeNet", "MNIST → Fashion-MNIST", {}),
    "invert": ("finetune-lenet-invert", "LeNet", "MNIST → MNIST, inverted", {}),
}


def starts() -> Finding:
    """Q6: does a pre-trained start change any of it?"""
    lines, marks, groups = [], [], []
    for i, (study, network, data, only) in enumerate(TUNED.values()):
        rows = where(table(study), scope="layer", intervention="frozen", **only)
        fresh = {row["layer"]: row for row in rows if row["start"] == "initialization"}
        tuned = {row["layer"]: row for row in rows if row["start"] == "pretrained"}
        groups.append(ranked([(fresh[layer]["drop_mean"], tuned[layer]["drop_mean"]) for layer in fresh]))
        lines += [
            {
                "network": network,
                "data": data,
                "layer": layer,
                "fresh": points(fresh[layer]["drop_mean"], fresh[layer]["drop_ci95"]),
                "tuned": points(tuned[layer]["drop_mean"], tuned[layer]["drop_ci95"]),
                "n": int(fresh[layer]["n"]),
                "fresh_robust": is_robust(fresh[layer]),
                "tuned_robust": is_robust(tuned[layer]),
                "fresh_critical": is_critical(fresh[layer]),
                "tuned_critical": is_critical(tuned[layer]),
            }
            for layer in fresh
        ]
        marks.append(
            Points(
                [100 * fresh[layer]["drop_mean"] for layer in fresh],
                [100 * tuned[layer]["drop_mean"] for layer in fresh],
                [100 * tuned[layer]["drop_ci95"] for layer in fresh],
                across=[100 * fresh[layer]["drop_ci95"] for layer in fresh],
                label=data,
                colour=PALETTE[i],
                shape="osD^"[i],
                notes=list(fresh),
            )
        )
    by_layer = {(line["data"], line["layer"]): line for line in lines}
    noise, permuted = TUNED["noise"][2], TUNED["labels"][2]
    claim(by_layer[noise, "fc1"]["fresh_critical"], "fc1 must train from scratch where pixels are noisy")
    claim(not by_layer[noise, "fc1"]["tuned_critical"], "fc1 costs little to freeze there after pre-training")
    claim(by_layer[permuted, "fc1"]["tuned"].startswith("-"), "fc1 is better frozen where labels are permuted")
    for layer in ("fc2", "fc3"):
        line = by_layer[permuted, layer]
        claim(line["tuned_critical"] and line["fresh_robust"], f"{layer} must train only after pre-training there")
    ends = [min(min(mark.x) for mark in marks), max(max(mark.x) for mark in marks)]
    diagonal = Points(ends, ends, shape="", line="--", colour=GREY, label="equal cost")
    along, up = "drop from scratch, points", "drop from a pre-trained start, points"
    panel = Panel([diagonal, *marks], x=along, y=up)
    low, high = bootstrap(groups, correlation)
    caption = "Each layer frozen, from an initialization and from pre-trained weights, on the same new task."
    values = {
        "table": lines,
        "layers": len(lines),
        "n": lines[0]["n"],
        "correlation": decimal(correlation(groups)),
        "low": decimal(low),
        "high": decimal(high),
        "undecided": low <= 0 <= high,
        "fresh_critical": sum(line["fresh_critical"] for line in lines),
        "tuned_critical": sum(line["tuned_critical"] for line in lines),
        "moved": sum(line["fresh_critical"] and line["tuned_robust"] for line in lines),
        "back": sum(line["tuned_critical"] and line["fresh_robust"] for line in lines),
    }
    return Finding(values, Picture([[panel]], caption))


QUESTIONS = {
    "routing": routing,
    "sums": sums,
    "timing": timing,
    "counted": counted,
    "notions": notions,
    "starts": starts,
}
