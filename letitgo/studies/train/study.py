"""One run: some layers frozen at their initialization, or from an epoch on, or a ticket, the rest trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from letitgo import weights
from letitgo.errors import BadRequest
from letitgo.plan import Absent, Initial, Kept, Masked, Measure, Run, Stored, open_ticket
from letitgo.recipes import Recipe
from letitgo.report import TEST, TRAINING, Column, Report, Section, Table, numbers
from letitgo.report.words import heading, ignoring_inputs, judged_by, metric_of, reached, resolved, told
from letitgo.store import Store
from letitgo.studies.cell import CellStudy, Row, evaluated, judged, others
from letitgo.studies.subject import Subject
from letitgo.studies.train.options import TrainOptions
from letitgo.whole import replaced

COLUMNS = (
    Column("frozen", "frozen", "Patterns of what is frozen."),
    Column("epoch", "from epoch", "The epoch from which it is frozen.", numbers.count),
    Column("trained", "trained", "Weights that train.", numbers.count),
    TEST,
    Column("loss", "loss", "Test loss, in nats.", numbers.significant),
    TRAINING,
    Column("gap", "gap", "Training minus test accuracy, in points.", numbers.points),
)
"""For a task that is judged by accuracy; the gap is left out for others."""


class Train(TrainOptions, CellStudy):
    """One run for each recipe. See :class:`TrainOptions` for the options."""

    takes_own = True

    def check_subject(self, of: Subject) -> None:
        if not self.run(of.recipe).moves:
            raise BadRequest(f"{' '.join(self.freeze)} freezes everything: nothing is left to train")

    def run(self, recipe: Recipe) -> Run:
        """The run of one of the recipes."""
        of = self._subject(recipe)
        base = of.baseline(recipe)
        if self.ticket is not None:
            return self._of_ticket(self.ticket, of, base)
        if not self.freeze:
            return base
        frozen = weights.select(of.module, *self.freeze)
        begin = self.freeze_at * recipe.steps_per_epoch
        trains = of.but(name for name in of.trainable if name in frozen)
        return of.run(base.at(begin), trains, recipe, begin, resume=begin > 0)

    def _of_ticket(self, path: str, of: Subject, base: Run) -> Run:
        """What the ticket keeps, from where it says: initial weights, or a step of the run that it is from."""
        recipe = base.recipe
        mask, about = open_ticket(path, recipe.network)
        seed, step = about.get("seed", recipe.seed), about.get("step", 0)
        if type(seed) is not int or type(step) is not int or step < 0:
            raise BadRequest(f"{path} names no start that can be read: seed and step are whole numbers")
        if step and about.get("recipe_key") != recipe.key:
            there, own = about.get("recipe"), recipe.fields()
            differs = [item for item in there.items() if item[1] != own.get(item[0])] if isinstance(there, dict) else []
            other = [f"{name} {'by default' if value is None else value}" for name, value in differs]
            raise BadRequest(
                f"{path} starts from step {step} of another recipe ({', '.join(other) or 'it does not say which'}): "
                "give that one, or a ticket that was found with rewind 0"
            )
        if step >= recipe.steps:
            raise BadRequest(f"{path} starts from step {step}, but training ends with step {recipe.steps}")
        start = base.at(step) if step else Initial(recipe.network, seed)
        besides = tuple(name for name in base.moves if name not in mask.names)
        return of.run(Masked(start, mask), Kept(mask, besides), recipe, step)

    def _subject(self, recipe: Recipe) -> Subject:
        return next(subject for subject in self.subjects if subject.recipe == recipe)

    def evaluations(self, recipe: Recipe) -> dict[str, Measure]:
        """What it ends with, by split; on the training split, with the labels it was trained on."""
        return self._subject(recipe).evaluations(recipe, self.run(recipe).final, *evaluated(recipe))

    def stages(self, store: Store) -> Iterator[list[Stored]]:
        yield [measure for recipe in self.recipes for measure in self.evaluations(recipe).values()]

    def rows(self, store: Store) -> list[Row]:
        """One row for each recipe that the store holds the results of. Accuracies are fractions."""
        rows = []
        for of in self.subjects:
            try:
                found = {split: one.result(store) for split, one in self.evaluations(of.recipe).items()}
            except Absent:
                continue
            columns = {name: getattr(of.recipe, name) for name in self.swept}
            rows.append(columns | self._row(of, found, store))
        return rows

    def seed_rows(self, store: Store) -> list[Row]:
        """A run has one seed, so these are the rows."""
        return self.rows(store)

    def _row(self, of: Subject, found: Row, store: Store) -> Row:
        return {
            **({"ticket": self.ticket} if self.ticket else {}),
            "frozen": " ".join(self.freeze),
            "epoch": self.freeze_at,
            "parameters": sum(of.sizes.values()),
            "trained": self._trained(of, store),
            **{"accuracy": None, "train_accuracy": None, "gap": None},
            **{name: value for name, value in judged(of.metric, found).items() if "drop" not in name},
            **{
                f"{prefix}loss": found.get(split, {}).get("loss")
                for split, prefix in (("test", ""), ("train", "train_"))
            },
            **others(of, found),
            "seed": of.recipe.seed,
        }

    def _trained(self, of: Subject, store: Store) -> int:
        run, sizes = self.run(of.recipe), dict(of.sizes)
        if isinstance(run.trains, Kept):
            sizes |= {name: int(mask.sum()) for name, mask in run.trains.mask.load(store).items()}
        return sum(sizes[name] for name in run.moves)

    def finish(self, store: Store) -> list[str]:
        """Write the trained weights, if a file is named.

        Raises:
            BadRequest: The file cannot be written.
        """
        if self.save is None:
            return []
        from safetensors.torch import save as packed

        state = self.run(self.recipes[0]).final.load(store)
        try:
            with replaced(Path(self.save)) as partial:
                partial.write_bytes(packed(state))
        except OSError as error:
            raise BadRequest(
                f"the weights cannot be saved to {self.save} ({error.strerror}): name another file"
            ) from error
        return [f"weights: {self.save}"]

    def report(self, rows: Sequence[Row]) -> Report:
        swept = [Column(name, name.replace("_", " ")) for name in self.swept]
        recipe, metric = self.recipes[0], metric_of(self)
        columns = [column for column in COLUMNS if column.name != "gap" or metric.share]
        table = Table((*swept, *told(judged_by(metric, columns), rows)), rows)
        choose = max if metric.more_is_better else min
        best = choose(
            (row for row in rows if row[metric.name] is not None), key=lambda row: row[metric.name], default=None
        )
        answer = f"{reached(best, metric)}." if best else ""
        if best and "data" in self.swept:
            answer = "Runs on different data do not compare: see the table."
        elif best and len(rows) > 1:
            at = ", ".join(f"{name.replace('_', '-')} {best[name]}" for name in self.swept)
            answer = f"The best is {reached(best, metric)}, at {at}: the test set chose it, which flatters it."
        elif best and not recipe.dataset.learned(metric, best[metric.name], None):
            answer += f" It is no better than {ignoring_inputs(recipe.dataset, metric)}."
        section = Section(heading(recipe), answer, tables=[table], details=resolved(recipe))
        note = "One run for each recipe; accuracies in per cent."
        return Report("train", self.QUESTION, [section] if rows else [], note)
