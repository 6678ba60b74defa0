"""Which layers should be frozen in fine-tuning? The values to compute, and the rows they give.

The relative gradient norm of each layer at the start is the cheap adviser (Auto-RGN of arXiv:2210.11466).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from letitgo import weights
from letitgo.errors import BadRequest, named
from letitgo.plan import Evaluation, Gradients, Graft, Initial, Measure, Run, State, adapted, open_weights
from letitgo.recipes import Recipe
from letitgo.recipes.splits import Split
from letitgo.recipes.tasks import Metric
from letitgo.store import Store
from letitgo.studies.cell import Cell, CellStudy, Results, Row
from letitgo.studies.check import check_recipe
from letitgo.studies.finetune.options import FinetuneOptions
from letitgo.studies.options import holding_out
from letitgo.studies.statistics import mean
from letitgo.studies.subject import Subject, Unit
from letitgo.studies.sweep import with_seed

Start = Literal["pretrained", "initialization"]
BySeed = dict[int, Any]
Found = Mapping[Cell, BySeed]
"""What each way to fine-tune is worth on one split, by seed: its accuracy, or a metric scaled alike."""

_OF_THE_TARGET = ("shift", "examples", "label_noise")
_OF_TRAINING = ("shift", "half", "examples", "label_noise", "validation")
_OF_THE_OPTIMIZER = ("lr", "momentum", "weight_decay", "nesterov", "optimizer_args")


class Finetune(FinetuneOptions, CellStudy):
    """Which layers should be frozen in fine-tuning? See :class:`FinetuneOptions` for the options."""

    takes_own = True

    quantities: ClassVar[tuple[str, ...]] = ("accuracy", "drop", "gain", "gradient")

    def check_subject(self, of: Subject) -> None:
        source = self.source(of)
        if source is not None:
            check_recipe(source)
            if source == of.recipe:
                raise BadRequest(f"pretraining and fine-tuning are the same, on {source.data!r}: give other data")
        self.start(of, of.recipe)
        self.old_task(of)
        if not of.units(self.layers, self.blocks, self.by):
            raise BadRequest(f"none of the layers asked for trains in {of.recipe.model!r}")
        labels = [cell.labels for cell in self._ways(of, "pretrained") if cell.labels["trained"]]
        cheapest = min(labels, key=lambda row: row["share"])
        if cheapest["share"] > self.budget:
            raise BadRequest(
                f"nothing meets a budget of {100 * self.budget:g} % of full fine-tuning in {of.recipe.model!r}: "
                f"the cheapest, {phrase(cheapest)}, takes {100 * cheapest['share']:.3g} %"
            )

    def source(self, of: Subject) -> Recipe | None:
        """What the network is pretrained on; None where its weights are in a file.

        Raises:
            BadRequest: A field of it is wrong.
        """
        if self.file is not None:
            return None
        what = "task" if of.recipe.own and ":" in self.pretrained else "data"
        given: dict[str, Any] = {what: self.pretrained} if isinstance(self.pretrained, str) else self.pretrained
        if of.recipe.own and isinstance(self.pretrained, str) and what == "data":
            raise BadRequest(
                f"pretrained is {self.pretrained!r}: name a file of weights that is there, or another task"
            )
        if "seed" in given:
            raise BadRequest("pretrained names a seed: pretraining has the seed of fine-tuning, so leave it out")
        left_out = {*_OF_THE_TARGET, *(_OF_THE_OPTIMIZER if "optimizer" in given else ())}
        own: dict[str, Any] = {name: getattr(of.recipe, name) for name in of.recipe.fields() if name not in left_out}
        if "epochs" in given:
            own.pop("iterations")
        own = {"seed": of.recipe.seed} if of.recipe.own else own
        found = Recipe(**(own | given))
        self._check_folder(found)
        if self.chooses_on == "test" or "validation" in given:
            return found
        # Of the same data the same examples are held out, so none that a choice is read from was trained on before.
        return holding_out(replace(found, validation=0))

    def _check_folder(self, source: Recipe) -> None:
        """Tell of a folder that holds no data that weights were looked for in it first."""
        if not isinstance(self.pretrained, str) or not Path(self.pretrained).is_dir():
            return
        try:
            assert source.dataset
        except BadRequest as error:
            raise BadRequest(
                f"pretrained is {self.pretrained!r}, a folder without weights (no model.safetensors or "
                f"pytorch_model.bin), and {error}"
            ) from error

    def start(self, of: Subject, recipe: Recipe) -> State:
        """The pretrained network under a seed.

        Raises:
            BadRequest: It does not fit the network.
        """
        source = self.source(of)
        if source is None:
            assert self.file is not None
            return adapted(open_weights(self.file, recipe.network), recipe.network, recipe.seed)
        pretraining = Subject(with_seed(source, recipe.seed))
        return adapted(pretraining.baseline(pretraining.recipe).final, recipe.network, recipe.seed)

    def new_head(self, of: Subject) -> str | None:
        """The output layer, where the pretrained one is for other classes and it is drawn anew."""
        start = self.start(of, of.recipe)
        if not isinstance(start, Graft) or not isinstance(start.base, Initial):
            return None
        owned = of.recipe.network.layers.items()
        return " and ".join(layer for layer, names in owned if not {*names} <= {*start.parameters})

    def old_task(self, of: Subject) -> Recipe | None:
        """What the start was trained for; None where fine-tuned networks are not judged on it.

        Raises:
            BadRequest: ``keep`` names data that they cannot be judged on.
        """
        return self._old_tasks(of)

    @cached_property
    def _old_tasks(self) -> Callable[[Subject], Recipe | None]:
        return cache(self._found_old_task)

    def _found_old_task(self, of: Subject) -> Recipe | None:
        if self.keep == "none":
            return None
        source = self.source(of)
        if self.keep is None:
            return None if source is None or source.own or self._no_answer(of, source) else source
        old = self._kept(of.recipe, source)
        if reason := self._no_answer(of, old):
            raise BadRequest(f"keep is {self.keep!r}: {reason}")
        return old

    def _kept(self, recipe: Recipe, source: Recipe | None) -> Recipe:
        """What ``keep`` names: the task of pretraining, or data read as in pretraining, of a file as in fine-tuning."""
        assert self.keep is not None
        if recipe.own and ":" not in self.keep:
            raise BadRequest(f"keep is {self.keep!r}: {recipe.task!r} trains with its own code, so name another task")
        if recipe.own:
            return Recipe(task=self.keep, seed=recipe.seed)
        if source is not None and source.data == self.keep:
            return source
        given: dict[str, Any] = {name: x for name, x in (source or recipe).fields().items() if name not in _OF_TRAINING}
        given["data"] = self.keep
        return Recipe(**given)

    def _no_answer(self, of: Subject, old: Recipe) -> str | None:
        """Why networks cannot be judged on an old task; None where they can."""
        if head := self.new_head(of):
            return f"the output layer, {head}, is drawn anew, and a new one cannot answer the old task"
        if old.own:
            return "the network is fine-tuned on that" if old.own == of.recipe.own else None
        data, module = old.dataset, weights.seeded(of.recipe.network, 0)
        if _same(data.split("test"), of.recipe.dataset.split("test")):
            return "the network is fine-tuned on that"
        try:
            with torch.no_grad():
                outputs = module.eval()(data.sample).shape[-1]
        except Exception as error:
            return f"{of.recipe.model!r} does not take its inputs of shape {data.shape}: {named(error)}"
        return None if outputs == data.outputs else f"it needs {data.outputs} outputs, and the network has {outputs}"

    @cached_property
    def old_metric(self) -> Metric:
        """What networks are judged by on the old task."""
        [first, *_] = [*filter(None, map(self.old_task, self.subjects)), self.recipes[0]]
        return first.dataset.task.metric

    def names(self, of: Subject) -> list[str]:
        return [*super().names(of), f"old_{self.old_metric.name}", "forgotten"]

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        scratch = self._ways(of, "initialization")
        yield [*self._ways(of, "pretrained", scratch), *scratch]

    def _ways(self, of: Subject, origin: Start, scratch: Sequence[Cell] = ()) -> list[Cell]:
        """All ways to fine-tune from one start: nothing, everything, and each unit frozen or trained alone."""
        pretrained = origin == "pretrained"

        @cache
        def start(recipe: Recipe) -> State:
            return self.start(of, recipe) if pretrained else Initial(recipe.network, recipe.seed)

        twins = {(cell.labels["layer"], cell.labels["scope"], cell.labels["intervention"]): cell for cell in scratch}
        units = of.units(self.layers, self.blocks, self.by)
        ways = [(of.everything, "none")]
        ways += [(u, way) for u in units if len(u.parameters) < len(of.trainable) for way in ("frozen", "only")]
        if self.together:
            # To freeze the first layers is to train the last ones only, so one of the two is enough.
            for i in range(2, len(units) - 1):
                ways += [(_joined("first", units[:i]), "only"), (_joined("last", units[-i:]), "only")]

        def cell(unit: Unit, way: str, **against: Cell) -> Cell:
            twin = twins.get((unit.name, unit.scope, way))
            return self._cell(of, unit, way, origin, start, against | ({"scratch": twin} if twin else {}))

        full = cell(of.everything, "all")
        untrained, *others = (cell(unit, way, base=full) for unit, way in ways)
        return [untrained, full, *others]

    def _cell(
        self, of: Subject, unit: Unit, way: str, origin: Start, start: Callable[[Recipe], State], against: Any
    ) -> Cell:
        trains = {"none": (), "frozen": of.but(unit.parameters)}.get(way, of.ordered(unit.parameters))
        old = self.old_task(of)

        def run(recipe: Recipe) -> Run:
            return of.run(start(recipe), trains, recipe)

        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            own = run(recipe)
            state = own.final if trains else own.start
            found = of.evaluations(recipe, state, "test", *self.held_out)
            if (origin, way) == ("pretrained", "only") and recipe.own is None:
                found["gradients"] = Gradients(start(recipe), recipe)
            if old is not None and origin == "pretrained":
                before, after = (of.evaluation(recipe, x, "test").state for x in (start(recipe), state))
                task = with_seed(old, recipe.seed)
                found |= {
                    "before": Evaluation.under(task, before, "test"),
                    "old": Evaluation.under(task, after, "test"),
                }
            return found

        whole = Run(start(of.recipe), of.trainable, of.recipe)
        labels = {
            "layer": unit.name,
            "scope": unit.scope,
            "start": origin,
            "intervention": way,
            "parameters": of.size(unit.parameters),
            "trained": of.size(trains),
            "share": run(of.recipe).cost() / whole.cost() if trains else 0.0,
        }
        return Cell(
            labels,
            measures,
            against,
            judged=way != "all",
            paired=origin == "pretrained",
            context=(unit.parameters, trains),
        )

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        metric, scratch = self.recipes[0].dataset.task.metric, results.get("scratch")
        old, forgotten = None, None
        if "old" in results:
            old = results["old"].get(self.old_metric.name)
            forgotten = self.old_metric.drop(results["before"], results["old"])
        return {
            f"old_{self.old_metric.name}": old,
            "forgotten": forgotten,
            "gain": metric.drop(results["test"], scratch["test"]) if scratch else None,
            "gradient": _relative(results["gradients"], cell.context[0]) if "gradients" in results else None,
        }

    def rows(self, store: Store) -> list[Row]:
        """One row per way to fine-tune and recipe, over the seeds that the store holds."""
        rows = []
        for recipe, of in zip(self.recipes, self.subjects, strict=True):
            columns = {name: getattr(recipe, name) for name in self.swept}
            [cells] = self.settled(of, store)
            own = {cell: self.row(cell, of, store) for cell in cells}
            numbers = {cell: self.found(cell, of, store) for cell in cells}
            full = next(cell for cell in cells if cell.labels["intervention"] == "all")
            test, chosen = (_worth(of.metric, name, numbers, full) for name in ("", self.chosen))
            rows += [{**columns, **own[cell], **more} for cell, more in self._compared(own, test, chosen).items()]
        return rows

    def _compared(self, rows: Mapping[Cell, Row], found: Found, chosen: Found) -> dict[Cell, Row]:
        """What each way is among the others: the recommended one, the adviser's choice, and how far ahead or behind.

        Args:
            rows: The row of each way.
            found: What each is worth on the test split, of which differences are.
            chosen: What the best is chosen by.
        """
        within = [
            cell
            for cell, row in rows.items()
            if row["start"] == "pretrained" and row["trained"] and row["share"] <= self.budget and row["n"]
        ]
        # Of two names for one run, as freezing the first of two layers and training only the second, one is enough.
        different = list({cell.context[1]: cell for cell in reversed(within)}.values())[::-1]
        best, rounds = _best(different, chosen), _rounds(different, chosen)
        advice = [cell for cell in within if rows[cell]["gradient_mean"] is not None]
        advised = max(advice, key=lambda cell: rows[cell]["gradient_mean"], default=None)
        compared = {}
        for cell, row in rows.items():
            kind = ("intervention", "start", "scope")
            rivals = [
                c for c in rows if c is not cell and all(rows[c][name] == row[name] for name in kind) and found[c]
            ]
            rival = _best(rivals, chosen)
            compared[cell] = {
                **self.summary("lead", _minus(found[cell], found[rival]) if rival else []),
                **self.summary(
                    "behind", _minus(found[best], found[cell]) if best and row["start"] == "pretrained" else []
                ),
                "meets": cell in within,
                "recommended": cell is best,
                "advised": cell is advised,
                "steady": rounds.count(cell) / len(rounds) if rounds and cell in within else None,
            }
        return compared


def phrase(row: Row) -> str:
    """A way to fine-tune in words."""
    words = {"none": "no training", "all": "training everything", "frozen": f"freezing {row['layer']}"}
    return words.get(row["intervention"], f"training only {row['layer']}")


def _same(a: Split, b: Split) -> bool:
    """Whether two splits hold the same inputs, as they reach a network, and labels."""
    tensors = ([one.inputs, one.labels, one.batch(slice(0, 1))] for one in (a, b))
    return all(x.dtype == y.dtype and x.equal(y) for x, y in zip(*tensors, strict=True))


def _joined(scope: str, units: Sequence[Unit]) -> Unit:
    names = tuple(name for unit in units for name in unit.parameters)
    return Unit(f"{units[0].name}…{units[-1].name}", scope, names)


def _worth(metric: Metric, split: str, numbers: Mapping[Cell, BySeed], full: Cell) -> Found:
    """What each way is worth on a split, so that differences are drops."""
    name = f"{split}{metric.name}"
    values = {
        cell: {seed: one[name] for seed, one in by_seed.items() if one.get(name) is not None}
        for cell, by_seed in numbers.items()
    }
    base = list(values[full].values())
    return {cell: dict(zip(own, metric.worth(list(own.values()), base), strict=True)) for cell, own in values.items()}


def _relative(squares: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """‖g‖ / ‖θ‖ of some parameters, mean over batches; None where all weights are 0."""
    size = sum(squares[name]["weights"] for name in names)
    batches = [sum(batch) for batch in zip(*(squares[name]["gradients"] for name in names), strict=True)]
    return sum(sqrt(batch / size) for batch in batches) / len(batches) if size > 0 else None


def _minus(a: BySeed, b: BySeed) -> list[float]:
    """Paired differences, over the seeds that both have."""
    return [value - b[seed] for seed, value in a.items() if seed in b]


def _best(cells: Sequence[Cell], found: Found, without: int | None = None) -> Cell | None:
    """The highest mean accuracy, over all seeds but one; where two are equal, the cheaper."""

    def rank(cell: Cell) -> tuple[float, float]:
        kept = [value for seed, value in found[cell].items() if seed != without]
        return mean(kept) or 0.0, -cell.labels["share"]

    return max(cells, key=rank, default=None)


def _rounds(cells: Sequence[Cell], found: Found) -> list[Cell | None]:
    """What would be recommended with each seed left out in turn; nothing of fewer than two."""
    seeds = {seed for cell in cells for seed in found[cell]}
    return [_best(cells, found, seed) for seed in seeds] if len(seeds) > 1 else []
