"""The network under a recipe: its names, sizes, units and head, found once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import At, Estimated, Evaluation, Graft, Initial, Measure, Run, RunningStatistics, State
from letitgo.plan.choices import Choice
from letitgo.recipes import Recipe
from letitgo.recipes.splits import SplitName
from letitgo.recipes.tasks import Metric
from letitgo.studies.options import Statistics
from letitgo.studies.sweep import with_seeds


@dataclass(frozen=True)
class Unit:
    """A layer, a block or a set of layers that is acted on as one.

    Attributes:
        name: What it is called in tables.
        scope: ``layer``, or the kind of set, such as ``prefix``.
        parameters: Names of its parameters that train, in the network's order.
    """

    name: str
    scope: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A network under a recipe and some seeds: what a study acts on.

    Attributes:
        recipe: Under its first seed.
        count: Number of seeds, counted up from the recipe's.
        statistics: What becomes of the running statistics of norms.
        start: What training starts from under a seed; the initial weights by default.
    """

    recipe: Recipe
    count: int = 1
    statistics: Statistics = "follow"
    start: Callable[[Recipe], State] | None = None

    @cached_property
    def seeds(self) -> list[Recipe]:
        """The recipe under each seed."""
        return with_seeds(self.recipe, self.count)

    @cached_property
    def metric(self) -> Metric:
        """What the recipe's task is judged by."""
        return self.recipe.dataset.task.metric

    @property
    def share(self) -> str:
        """The share that networks are compared by: see :attr:`letitgo.recipes.tasks.Task.share`.

        Raises:
            BadRequest: There is none.
        """
        if (found := self.recipe.dataset.task.share) is None:
            hint = "leave metric out" if self.recipe.own is None else "name another, or say share = True in the task"
            raise BadRequest(
                f"this study compares shares, such as an accuracy or r2: {self.metric.name} is none; {hint}"
            )
        return found.name

    @cached_property
    def module(self) -> nn.Module:
        """The network with the initial weights of the first seed. Not to be changed."""
        return weights.seeded(self.recipe.network, self.recipe.seed)

    @cached_property
    def trainable(self) -> tuple[str, ...]:
        """Names of the parameters that train when nothing is frozen."""
        return weights.trainable_names(self.module)

    @cached_property
    def everything(self) -> Unit:
        """All that trains, as one unit."""
        return Unit("all", "all", self.trainable)

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """Names of the parameters of normalization layers that train."""
        return self._found(weights.norms)

    @cached_property
    def biases(self) -> tuple[str, ...]:
        """Names of the biases that train."""
        return self._found(weights.biases)

    def _found(self, choose: object) -> tuple[str, ...]:
        try:
            found = choose(self.module)  # type: ignore[operator]
        except BadRequest:
            return ()
        return tuple(name for name in self.trainable if name in found)

    @cached_property
    def head(self) -> Unit:
        """The output layer, as far as it trains."""
        layer = self.recipe.network.head
        return Unit(layer, "layer", self.ordered(self.recipe.network.layers[layer]))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of weights of each parameter."""
        return {name: parameter.numel() for name, parameter in self.module.named_parameters()}

    def size(self, names: Iterable[str]) -> int:
        """Number of weights of some parameters."""
        return sum(self.sizes[name] for name in names)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some names that train, in the network's order."""
        wanted = set(names)
        return tuple(name for name in self.trainable if name in wanted)

    def but(self, names: Iterable[str]) -> tuple[str, ...]:
        """All that trains but some names, in the network's order."""
        left_out = set(names)
        return tuple(name for name in self.trainable if name not in left_out)

    def layers_of(self, unit: Unit) -> list[str]:
        """Names of the layers that a unit has parameters of."""
        own = set(unit.parameters)
        return [layer for layer, names in self.recipe.network.layers.items() if own.intersection(names)]

    def units(
        self,
        layers: Sequence[str] = (),
        blocks: Sequence[str] = (),
        by: weights.By = "layer",
        leave_out: Iterable[str] = (),
    ) -> list[Unit]:
        """What has something to train, unit by unit, in the order of their first layers.

        Args:
            layers: Patterns of the layers wanted; all by default. A norm is wanted with its layer, except by module.
            blocks: Patterns of modules that are one unit.
            by: What the others are: blocks, layers with their norms, or modules one by one.
            leave_out: Names of parameters that are no unit without others.

        Raises:
            BadRequest: A pattern matches nothing.
        """
        wanted = weights.select(self.module, *layers)
        wanted = wanted if by == "module" else weights.with_norms(self.module, wanted)
        chosen, left_out = set(wanted) & set(self.trainable), set(leave_out)
        owned = self.recipe.network.layers
        own = {layer: tuple(name for name in names if name in chosen) for layer, names in owned.items()}
        groups = weights.units(self.module, [layer for layer, names in own.items() if names], by, blocks)
        found = {unit: tuple(name for layer in group for name in own[layer]) for unit, group in groups.items()}
        return [Unit(unit, "layer", names) for unit, names in found.items() if not left_out.issuperset(names)]

    def baseline(self, recipe: Recipe) -> Run:
        """The run that trains everything, under one of the seeds."""
        start = Initial(recipe.network, recipe.seed) if self.start is None else self.start(recipe)
        return Run(start, self.trainable, recipe)

    def run(
        self, start: State, trains: tuple[str, ...] | Choice, recipe: Recipe, begin: int = 0, resume: bool = False
    ) -> Run:
        """A run under one of the seeds, the statistics of the norms that it freezes as asked.

        Where they stay and no data has reached them, they are taken from the training inputs before the first step.
        """
        run = Run(start, trains, recipe, begin, resume)
        if self.statistics != "frozen" or set(self.trainable) <= set(run.moves):
            return run
        selection = ~weights.Selection(run.moves, weights.parameter_names(self.module))
        still = {*map(id, weights.still(self.module, selection, "frozen").values())}
        if not still:
            return run
        kept = tuple(
            name
            for name in weights.running_statistics(self.module)
            if id(self.module.get_submodule(name.rpartition(".")[0])) in still
        )
        if start.untried and kept and recipe.own is None:
            start = Graft(start, kept, Estimated(RunningStatistics(start, recipe.dataset)))
        return replace(run, start=start, statistics="frozen")

    def frozen(self, names: Iterable[str], recipe: Recipe, epoch: int = 0) -> State:
        """The network trained with some parameters frozen from an epoch on."""
        return self.scheduled({epoch: names}, recipe)

    def scheduled(self, frozen: Mapping[int, Iterable[str]], recipe: Recipe) -> State:
        """The network trained with some parameters frozen from an epoch on, others from later ones on."""
        run, left_out = self.baseline(recipe), set[str]()
        for epoch in sorted(frozen):
            left_out.update(frozen[epoch])
            begin = epoch * recipe.steps_per_epoch
            run = self.run(run.at_epoch(epoch), self.but(left_out), recipe, begin, resume=begin > 0)
            if not run.moves:
                return run.start
        return run.final

    def trainings(self, *states: State) -> float:
        """Arithmetic of training to some states, what they share counted once, in trainings of the whole network.

        What the network was trained on before is not counted.
        """
        reached: dict[Run, int] = {}
        for state in states:
            point = state
            while isinstance(point, At):
                reached[point.run] = max(point.step, reached.get(point.run, 0))
                point = point.run.start if point.run.begin else None
        spent = sum(run.cost() * (step - run.begin) / (run.recipe.steps - run.begin) for run, step in reached.items())
        return spent / self.baseline(self.recipe).cost()

    def evaluation(self, recipe: Recipe, state: State, split: SplitName) -> Evaluation:
        """How good a state is under one of the seeds, with statistics re-estimated where that is asked."""
        if self.statistics == "re-estimate" and weights.running_statistics(self.module):
            state = Estimated(RunningStatistics(state, recipe.dataset))
        return Evaluation.under(recipe, state, split)

    def evaluations(self, recipe: Recipe, state: State, *splits: SplitName) -> dict[str, Measure]:
        """The same by split."""
        return {split: self.evaluation(recipe, state, split) for split in splits}
