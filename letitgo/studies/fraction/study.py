"""How much of a network has to be learned? The values to compute, and the rows they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, get_args

from letitgo import plan, weights
from letitgo.errors import BadRequest
from letitgo.plan import Delta, Initial, Measure, PerUnit, Run, Scattered, State, Zeroed
from letitgo.recipes import Recipe
from letitgo.store import Store
from letitgo.studies.cell import Cell, CellStudy, Results, evaluated
from letitgo.studies.fraction.options import FractionOptions, Of, Only, Rest
from letitgo.studies.subject import Subject

RANDOM, PER_UNIT = "random values", "random values per unit"


@dataclass(frozen=True)
class Policy:
    """What is learned of a network, and what becomes of the rest.

    Attributes:
        name: ``everything``, ``filters``, ``weights``, ``norms only``, …, ``random values``.
        norms: Whether scales and shifts of norms are learned; ``none`` where there are none.
        classifier: Whether the last layer is; ``share``: the same share of it as of any other.
        names: The parameters that are learned as a whole.
        share: Of the filters or weights of each layer; None where it is not about shares.
        rest: What the rest of a layer is that is learned in part.
        within: The parameters of which a share is learned, or in which values are scattered.
        count: How many values are scattered at random.
        each: How many weights of each unit are chosen at random.
    """

    name: str
    norms: str
    classifier: str
    names: tuple[str, ...] = ()
    share: float | None = None
    rest: Rest = "initial"
    within: tuple[str, ...] = ()
    count: int = 0
    each: int = 0

    @property
    def is_control(self) -> bool:
        """Whether it is there for others to be compared with."""
        return bool(self.count or self.each)

    def choice(self, seed: int) -> plan.Fraction | Scattered | PerUnit | None:
        """What moves down to single weights, drawn under a seed; None where whole parameters move alone."""
        if self.each:
            return PerUnit(self.each, seed, self.within)
        if self.count:
            return Scattered(self.count, seed, self.within)
        if self.share is None or not self.within:
            return None
        return plan.Fraction(self.share, self.of, seed, self.within, self.names)

    @property
    def of(self) -> Of:
        """What a share is of."""
        return "weights" if self.name == "weights" else "filters"

    def size(self, of: Subject) -> int:
        """How many values of a network may move."""
        choice = self.choice(of.recipe.seed)
        if self.count or choice is None:
            return self.count or of.size(self.names)
        part = choice.part(of.module)
        return of.size(part.whole) + sum(int(mask.sum()) for mask in part.entries.values())


class Fraction(FractionOptions, CellStudy):
    """How much of a network has to be learned? See :class:`FractionOptions` for the options."""

    takes_own = True

    quantities: ClassVar[tuple[str, ...]] = (
        *("accuracy", "train_accuracy", "gap", "drop", "above_random"),
        *("delta_bytes", "whole_bytes", "moved"),
    )
    summaries: ClassVar[tuple[str, ...]] = ("mean", "ci95", "max")

    def check_subject(self, of: Subject) -> None:
        for what, names in (("norms", of.norms), ("biases", of.biases)):
            if what in (self.only or ()) and not names:
                hint = " (fcn and lenet have them with model-args '{\"norm\": true}')" if what == "norms" else ""
                raise BadRequest(f"only names {what}, but {of.recipe.model!r} has none{hint}")
        policies = self.policies(of)
        if self.per_unit and not any(policy.each for policy in policies):
            raise BadRequest(
                f"per-unit: in {of.recipe.model!r} neither norms nor biases alone are one or two values for each unit"
            )
        for policy in policies:
            module = weights.seeded(of.recipe.network, of.recipe.seed)
            self.run(of, policy, of.recipe).prepare(module)
            try:
                of.recipe.make_optimizer(weights.trainable(module))
            except BadRequest as error:
                raise BadRequest(f"{policy.name}, {policy.size(of):,} values: {error}") from error

    def cells(self, of: Subject, store: Store) -> Iterator[list[Cell]]:
        everything, *others = self.policies(of)
        base = self._cell(of, everything, {})
        controls = {policy.count: self._cell(of, policy, {"base": base}) for policy in others if policy.count}
        parts = []
        for policy in others:
            if not policy.count:  # random weights of each unit are compared with those of the whole network too
                control = controls.get(policy.size(of))
                parts.append(self._cell(of, policy, {"base": base} | ({"control": control} if control else {})))
        yield [base, *parts, *controls.values()]

    def _cell(self, of: Subject, policy: Policy, against: Mapping[str, Cell]) -> Cell:
        def measures(recipe: Recipe) -> Mapping[str, Measure]:
            run = self.run(of, policy, recipe)
            chosen = "lr" in self.swept or not policy.is_control  # controls are not advised, but may have a rate
            splits = (*evaluated(recipe), *(self.held_out if chosen else ()))
            return {**of.evaluations(recipe, run.final, *splits), "delta": Delta(run.final, run.start)}

        labels = {name: getattr(policy, name) for name in ("share", "rest", "norms", "classifier")}
        sizes = {"learned": policy.size(of), "parameters": sum(of.sizes.values())}
        return Cell({"policy": policy.name, **labels, **sizes}, measures, against, judged="base" in against)

    def numbers(self, cell: Cell, results: Results) -> Mapping[str, float | None]:
        delta, control, share = results["delta"], results.get("control"), self.recipes[0].dataset.task.share
        return {
            "above_random": share.drop(results["test"], control["test"]) if share and control else None,
            "delta_bytes": delta["bytes"],
            "whole_bytes": delta["whole"],
            "moved": delta["moved"],
        }

    def run(self, of: Subject, policy: Policy, recipe: Recipe) -> Run:
        """The training run of a policy, under one of the seeds."""
        start: State = Initial(recipe.network, recipe.seed)
        choice = policy.choice(recipe.seed)
        if choice is not None and policy.rest == "zero":
            start = Zeroed(start, choice)
        return of.run(start, choice or policy.names, recipe)

    def policies(self, of: Subject) -> list[Policy]:
        """Everything, the shares, the parts alone, and the controls; none that only repeats everything.

        Raises:
            BadRequest: There is nothing to learn a share of, or a pattern matches nothing.
        """
        norms = "learned" if of.norms else "none"
        everything = Policy("everything", norms, "learned", of.trainable)
        parts = [part for part in (*self._shares(of), *self._alone(of)) if part.size(of) < of.size(of.trainable)]
        if self.per_unit:
            parts += [control for part in parts if (control := self._per_unit(of, part))]
        counts = sorted({part.size(of) for part in parts}, reverse=True) if self.controls else []
        norms = "random" if of.norms else "none"
        return [everything, *parts, *(Policy(RANDOM, norms, "random", within=of.trainable, count=n) for n in counts)]

    def _per_unit(self, of: Subject, part: Policy) -> Policy | None:
        """As many random weights of each unit as norms or biases alone have values for it; None where that is no one
        number."""
        if part.name not in ("norms only", "biases only"):
            return None
        layers = of.recipe.network.layers.values()
        if part.name == "norms only":
            layers = [names for names in layers if not {*names} & {*of.norms, *of.head.parameters}]
        else:
            layers = [names for names in layers if {*names} & {*part.names}]
        within = of.ordered(name for names in layers for name in names if of.module.get_parameter(name).ndim > 1)
        units = sum(len(of.module.get_parameter(name)) for name in within)
        each, rest = divmod(part.size(of), units) if units else (0, 1)
        norms = "random" if of.norms else "none"
        return Policy(PER_UNIT, norms, "random", within=within, each=each) if not rest and each in (1, 2) else None

    def _shares(self, of: Subject) -> Iterator[Policy]:
        norms_of = self.norms if of.norms else ("none",)
        for what, rest, norms, classifier in product(self.of, self.rest, norms_of, self.classifier):
            head = () if classifier == "share" else of.head.parameters
            within = of.but((*of.norms, *head))
            names = of.ordered((*(of.norms if norms == "learned" else ()), *(head if classifier == "learned" else ())))
            if self.shares and not any(of.module.get_parameter(name).ndim > 1 for name in within):
                raise BadRequest(
                    f"{of.recipe.model!r} has no filters but those of its classifier {of.head.name}: "
                    "learn a share of that with classifier 'share'"
                )
            for share in sorted(self.shares, reverse=True):
                policy = Policy(what, norms, classifier, names, share, rest, within)
                yield _whole(of, policy) if share == 1 else policy

    def _alone(self, of: Subject) -> Iterator[Policy]:
        asked = get_args(Only) if self.only is None else self.only
        groups = {"norms": of.norms, "biases": of.biases, "classifier": of.head.parameters}
        parts = [(name, names) for name, names in groups.items() if name in asked and names]
        known = {frozenset(of.head.parameters)} if "classifier" in asked else set()
        units = (
            of.units(self.layers, self.blocks, self.by, () if self.layers else of.norms) if "layers" in asked else []
        )
        parts += [(unit.name, unit.parameters) for unit in units if frozenset(unit.parameters) not in known]
        for name, names in parts:
            norms = _learned(of.norms, names) if of.norms else "none"
            yield Policy(f"{name} only", norms, _learned(of.head.parameters, names), names)


def _whole(of: Subject, policy: Policy) -> Policy:
    """A share of 1: it needs no masks."""
    choice = plan.Fraction(1.0, policy.of, 0, policy.within, policy.names)
    names = choice.parameters(of.recipe.network)
    return Policy(policy.name, policy.norms, policy.classifier, names, 1.0, policy.rest)


def _learned(group: Sequence[str], names: Sequence[str]) -> str:
    inside = sum(name in names for name in group)
    return "frozen" if not inside else "learned" if inside == len(group) else "in part"
