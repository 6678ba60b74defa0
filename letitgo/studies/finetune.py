"""Which layers should be frozen when a network is fine-tuned?

The start is a network trained on other data. For each layer: it keeps the start's values while the rest is fine-tuned,
or it alone is fine-tuned (surgical fine-tuning, Lee et al., arXiv:2210.11466). The same from initialization tells what
the start is worth. The relative gradient norm of each layer at the start is the cheap adviser (their Auto-RGN).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any, Literal

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Evaluation, Gradients, Initial, Run, State, Stored, fitted, open_weights
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.check import check_recipe
from letitgo.studies.map import Unit
from letitgo.studies.statistics import ci95, mean, verdict
from letitgo.studies.sweep import make_recipe, with_seed, with_seeds

Kind = Literal["none", "all", "frozen", "only"]
Origin = Literal["pretrained", "initialization"]
Row = dict[str, Any]
BySeed = dict[int, float]

_OF_THE_TARGET = ("shift", "examples", "label_noise")
_OF_THE_OPTIMIZER = ("lr", "momentum", "weight_decay", "optimizer_args")


@dataclass(frozen=True)
class Tuning:
    """A way to fine-tune: from where, and which unit is frozen or trained alone."""

    unit: Unit
    kind: Kind
    origin: Origin


@dataclass(frozen=True)
class FineTune:
    """The study, as a value: nothing is computed before its values are.

    Args:
        recipes: What the network is fine-tuned on: one recipe, or those of a sweep.
        start: What it was trained on before: the name of a data set, or fields of a recipe, all others but ``shift``,
            ``examples`` and ``label_noise`` being as in fine-tuning; or a safetensors file of its weights.
        swept: Names of the recipe fields that differ; they become columns.
        seeds: Number of seeds, counted up from the recipe's.
        budget: Share of full fine-tuning's training arithmetic that what is recommended may take.
        together: Also fine-tune only the first two layers, three, and so on, and only the last ones.
        tolerance: Largest drop in accuracy that does no harm, a fraction.
        layers: Patterns of the layers to act on; all by default.
        blocks: Patterns of modules that are acted on as one.
        statistics: Whether running statistics of frozen normalization layers follow the data.

    Raises:
        BadRequest: A number is out of range.
    """

    recipes: tuple[Recipe, ...]
    start: str | Mapping[str, Any]
    swept: tuple[str, ...] = ()
    seeds: int = 3
    budget: float = 1.0
    together: bool = False
    tolerance: float = 0.01
    layers: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    statistics: Literal["follow", "frozen"] = "follow"

    def __post_init__(self) -> None:
        if isinstance(self.recipes, Recipe) or not self.recipes:
            raise BadRequest("recipes is to be a tuple of at least one recipe, as in FineTune((Recipe(),), 'mnist')")
        if self.seeds < 1:
            raise BadRequest(f"seeds is {self.seeds}: at least 1 is needed, and 2 for intervals")
        if not 0 < self.budget <= 1:
            raise BadRequest(f"budget is {self.budget:g}: give a share of full fine-tuning above 0 and at most 1")
        if not 0 <= self.tolerance < 1:
            raise BadRequest(f"tolerance is {100 * self.tolerance:g} points: give at least 0 and less than 100")

    @property
    def file(self) -> str | None:
        """The file that the start is read from; None where it is trained."""
        given = self.start
        return given if isinstance(given, str) and (given.endswith(".safetensors") or Path(given).is_file()) else None

    @cached_property
    def tuned(self) -> list[Tuned]:
        """One part of the study per recipe."""
        return [Tuned(self, recipe) for recipe in self.recipes]

    def check(self) -> None:
        """Make sure that every recipe can be trained, from the start too.

        Raises:
            BadRequest: One cannot, the start does not fit, a pattern matches nothing that trains, or nothing meets the
                budget.
        """
        for part in self.tuned:
            check_recipe(part.recipe)
            if part.source is not None:
                check_recipe(part.source)
                if part.source == part.recipe:
                    raise BadRequest(f"the start is trained on the {part.source.data} of fine-tuning: give other data")
            part.start(part.recipe)
            if not part.units:
                raise BadRequest(f"none of the layers asked for trains in {part.recipe.model!r}")
            ways = [item for item in part.items if item.origin == "pretrained" and item.kind != "none"]
            cheapest = min(ways, key=part.share)
            if part.share(cheapest) > self.budget:
                raise BadRequest(
                    f"nothing meets a budget of {100 * self.budget:g} % of full fine-tuning in {part.recipe.model!r}: "
                    f"the cheapest, {told(cheapest.kind, cheapest.unit.name)}, "
                    f"takes {100 * part.share(cheapest):.3g} %"
                )

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        """The values to compute."""
        yield [value for part in self.tuned for value in part.values()]

    def rows(self, store: Store) -> list[Row]:
        """One row per way to fine-tune and recipe, over the seeds that the store holds."""
        rows = []
        for part in self.tuned:
            columns = {name: getattr(part.recipe, name) for name in self.swept}
            rows += [{**columns, **row} for row in part.rows(store)]
        return rows


def told(kind: Kind, layer: str) -> str:
    """A way to fine-tune in words."""
    if kind == "none":
        return "no training"
    if kind == "all":
        return "training everything"
    return f"freezing {layer}" if kind == "frozen" else f"training only {layer}"


@dataclass(frozen=True)
class Tuned:
    """The study of one recipe."""

    study: FineTune
    recipe: Recipe

    @cached_property
    def source(self) -> Recipe | None:
        """What the start was trained on; None where it is a file.

        Raises:
            BadRequest: A field of it is wrong.
        """
        if self.study.file is not None:
            return None
        given = {"data": self.study.start} if isinstance(self.study.start, str) else dict(self.study.start)
        if "seed" in given:
            raise BadRequest("the start names a seed: it is trained under the seed of what is fine-tuned")
        left_out = {*_OF_THE_TARGET, *(_OF_THE_OPTIMIZER if "optimizer" in given else ())}
        own = {field.name: getattr(self.recipe, field.name) for field in fields(Recipe)}  # type: ignore[arg-type]
        return make_recipe(**{name: value for name, value in own.items() if name not in left_out} | given)

    def start(self, recipe: Recipe) -> State:
        """The pre-trained network under a recipe's seed.

        Raises:
            BadRequest: It does not fit the network.
        """
        if self.source is None:
            assert self.study.file is not None
            return fitted(open_weights(self.study.file, recipe.network), recipe.network, recipe.seed)
        source = with_seed(self.source, recipe.seed)
        module = weights.seeded(source.network, source.seed)
        run = Run(Initial(source.network, source.seed), weights.trainable_names(module), source)
        return fitted(run.final, recipe.network, recipe.seed)

    @property
    def new_head(self) -> str | None:
        """The last layer, where the start's is for other classes and it is drawn anew."""
        state = self.start(self.recipe)
        base = getattr(state, "base", None)
        return list(self.recipe.network.layers)[-1] if isinstance(base, Initial) else None

    @cached_property
    def _seeds(self) -> list[Recipe]:
        return with_seeds(self.recipe, self.study.seeds)

    @cached_property
    def _starts(self) -> dict[tuple[Origin, int], State]:
        starts: dict[tuple[Origin, int], State] = {}
        for recipe in self._seeds:
            starts["pretrained", recipe.seed] = self.start(recipe)
            starts["initialization", recipe.seed] = Initial(recipe.network, recipe.seed)
        return starts

    @cached_property
    def _module(self) -> nn.Module:
        return weights.seeded(self.recipe.network, self.recipe.seed)

    @cached_property
    def _all(self) -> Unit:
        return Unit("all", "all", weights.trainable_names(self._module))

    @cached_property
    def units(self) -> list[Unit]:
        """The layers, those of a block together, that have something to train and were asked for."""
        module = self._module
        wanted = weights.select(module, *self.study.layers).parameters
        blocks = weights.blocks(module, *self.study.blocks)
        groups: dict[str, list[str]] = {}
        for layer, names in self.recipe.network.layers.items():
            block = next((block for block in blocks if layer == block or layer.startswith(f"{block}.")), layer)
            groups.setdefault(block, []).extend(n for n in names if n in wanted and n in self._all.parameters)
        return [Unit(name, "layer", tuple(names)) for name, names in groups.items() if names]

    @cached_property
    def items(self) -> list[Tuning]:
        """All ways to fine-tune, from the start and from initialization."""
        units = self.units
        ways: list[tuple[Unit, Kind]] = [(self._all, "none"), (self._all, "all")]
        for unit in units:
            if len(unit.parameters) < len(self._all.parameters):
                ways.append((unit, "frozen"))
                ways.append((unit, "only"))
        if self.study.together:
            # To freeze the first layers is to train the last ones only, so one of the two says it all.
            for i in range(2, len(units) - 1):
                ways.append((_joined("first", units[:i]), "only"))
                ways.append((_joined("last", units[-i:]), "only"))
        return [Tuning(unit, kind, origin) for origin in ("pretrained", "initialization") for unit, kind in ways]

    def state(self, item: Tuning, recipe: Recipe) -> State:
        """The network that a way to fine-tune ends in."""
        return self._starts[item.origin, recipe.seed] if item.kind == "none" else self.run(item, recipe).final

    def run(self, item: Tuning, recipe: Recipe) -> Run:
        """The training of a way to fine-tune."""
        inside = item.unit.parameters
        trains = tuple(n for n in self._all.parameters if (n in inside) is not (item.kind == "frozen"))
        whole = len(trains) == len(self._all.parameters)
        statistics = "follow" if whole else self.study.statistics
        return Run(self._starts[item.origin, recipe.seed], trains, recipe, statistics=statistics)

    def evaluation(self, item: Tuning, recipe: Recipe) -> Evaluation:
        """The test accuracy it leaves."""
        return Evaluation(self.state(item, recipe), recipe.dataset, "test")

    def gradients(self, recipe: Recipe) -> Gradients:
        """What the adviser looks at."""
        return Gradients(self._starts["pretrained", recipe.seed], recipe)

    def values(self) -> list[Stored]:
        """The measures that the rows are read from."""
        return [
            value
            for recipe in self._seeds
            for value in (self.gradients(recipe), *(self.evaluation(item, recipe) for item in self.items))
        ]

    def share(self, item: Tuning) -> float:
        """The counted training arithmetic, as a share of full fine-tuning's."""
        if item.kind == "none":
            return 0.0
        whole = Tuning(self._all, "all", item.origin)
        return self.run(item, self.recipe).cost() / self.run(whole, self.recipe).cost()

    def rows(self, store: Store) -> list[Row]:
        """Tidy rows; accuracies and what is made of them are fractions."""
        found = {item: self._accuracies(item, store) for item in self.items}
        norms = {unit: self._norms(unit, store) for unit in {item.unit for item in self.items}}
        shares = {item: self.share(item) for item in self.items}
        within = [
            item
            for item in self.items
            if item.origin == "pretrained" and item.kind != "none" and shares[item] <= self.study.budget and found[item]
        ]
        # Of two names for one run, as freezing the first of two layers and training only the second, one will do.
        different = list({self.run(item, self.recipe).moves: item for item in reversed(within)}.values())[::-1]
        best = _best(different, found, shares)
        advice = [item for item in within if item.kind == "only" and norms[item.unit]]
        advised = max(advice, key=lambda item: mean(norms[item.unit]) or 0.0, default=None)
        rounds = _left_out(different, found, shares)
        rows = []
        for item in self.items:
            own, norm = found[item], norms[item.unit] if item.kind == "only" and item.origin == "pretrained" else []
            full = found[Tuning(self._all, "all", item.origin)]
            rivals = [
                rival
                for rival in self.items
                if (rival.kind, rival.origin, rival.unit.scope) == (item.kind, item.origin, item.unit.scope)
                and rival != item
            ]
            rival = _best([rival for rival in rivals if found[rival]], found, shares)
            drops, pretrained = _minus(full, own), item.origin == "pretrained"
            gains = _minus(own, found[Tuning(item.unit, item.kind, "initialization")]) if pretrained else []
            behind = _minus(found[best], own) if best and pretrained else []
            leads = _minus(own, found[rival]) if rival else []
            rows.append(
                {
                    "layer": item.unit.name,
                    "scope": item.unit.scope,
                    "start": item.origin,
                    "intervention": item.kind,
                    "parameters": self._size(item.unit),
                    "trained": 0 if item.kind == "none" else self._trained(item),
                    "share": shares[item],
                    "accuracy_mean": mean(list(own.values())),
                    "accuracy_ci95": ci95(list(own.values())),
                    "drop_mean": mean(drops),
                    "drop_ci95": ci95(drops),
                    "gain_mean": mean(gains),
                    "gain_ci95": ci95(gains),
                    "lead_mean": mean(leads),
                    "lead_ci95": ci95(leads),
                    "behind_mean": mean(behind),
                    "behind_ci95": ci95(behind),
                    "gradient_mean": mean(norm),
                    "gradient_ci95": ci95(norm),
                    "meets": item in within,
                    "recommended": item == best,
                    "advised": item == advised,
                    "steady": rounds.count(item) / len(rounds) if rounds and item in within else None,
                    "n": len(own),
                    "verdict": None if item.kind == "all" else verdict(drops, self.study.tolerance),
                }
            )
        return rows

    def _accuracies(self, item: Tuning, store: Store) -> BySeed:
        """Test accuracy by seed, of the seeds that the store holds."""
        found = {}
        for recipe in self._seeds:
            try:
                found[recipe.seed] = self.evaluation(item, recipe).result(store)["accuracy"]
            except Absent:
                continue
        return found

    def _norms(self, unit: Unit, store: Store) -> list[float]:
        """‖g‖ / ‖θ‖ of a unit at the start, mean over batches, of each seed that the store holds."""
        norms = []
        for recipe in self._seeds:
            try:
                squares = self.gradients(recipe).result(store)
            except Absent:
                continue
            parts = [squares[name] for name in unit.parameters]
            size = sum(part["weights"] for part in parts)
            batches = [sum(batch) for batch in zip(*(part["gradients"] for part in parts), strict=True)]
            if size > 0:
                norms.append(sum(sqrt(batch / size) for batch in batches) / len(batches))
        return norms

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {name: parameter.numel() for name, parameter in self._module.named_parameters()}

    def _size(self, unit: Unit) -> int:
        return sum(self._sizes[name] for name in unit.parameters)

    def _trained(self, item: Tuning) -> int:
        size = self._size(item.unit)
        return self._size(self._all) - size if item.kind == "frozen" else size


def _joined(scope: str, units: Sequence[Unit]) -> Unit:
    names = tuple(name for unit in units for name in unit.parameters)
    return Unit(f"{units[0].name}…{units[-1].name}", scope, names)


def _minus(a: BySeed, b: BySeed) -> list[float]:
    """Paired differences, over the seeds that both have."""
    return [value - b[seed] for seed, value in a.items() if seed in b]


def _best(
    items: Sequence[Tuning], found: Mapping[Tuning, BySeed], shares: Mapping[Tuning, float], without: int | None = None
) -> Tuning | None:
    """The highest mean accuracy, over all seeds but one; where two are equal, the cheaper."""

    def rank(item: Tuning) -> tuple[float, float]:
        return mean([value for seed, value in found[item].items() if seed != without]) or 0.0, -shares[item]

    return max(items, key=rank, default=None)


def _left_out(
    items: Sequence[Tuning], found: Mapping[Tuning, BySeed], shares: Mapping[Tuning, float]
) -> list[Tuning | None]:
    """What would be recommended with each seed left out in turn; nothing of fewer than two."""
    seeds = {seed for item in items for seed in found[item]}
    return [_best(items, found, shares, without=seed) for seed in seeds] if len(seeds) > 1 else []
