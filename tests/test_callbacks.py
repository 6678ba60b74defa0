"""Freezing by a schedule, and checkpoints of what changed, where people train."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import bits, python
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import OPTIMIZERS, Case, cases, portrait, step
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from letitgo import BadRequest, WorkFailed, select
from letitgo.callbacks import Plateau, Rotate, Schedule, load_changed
from letitgo.callbacks.changed import MARK, digests
from letitgo.weights import copied, seeded

EPOCHS: dict[int, Any] = {0: ["backbone"], 1: ["head"], 3: []}
FROZEN = ["backbone", "head", "head", ""]
"""What begins with this is frozen in epochs 0 to 3."""
RULES: dict[str, Any] = {
    "epochs": EPOCHS,
    "steps": {0: ["backbone"], "1it": ["head"], 1: [], 0.625: ["backbone.1"], "7it": ["head"]},
    "rotation": Rotate(k=1, every=1, seed=3, blocks=["backbone.*", "head"]),
}
"""For eight steps in four epochs."""
RATES = {"epochs": 1.0, "steps": 0.5, "rotation": 1.0}
"""The factors of the rates of what is thawed."""
BY_STEP: dict[str, list[str]] = {
    "epochs": ["backbone", "backbone", "head", "head", "head", "head", "", ""],
    "steps": ["backbone", "head", "", "", "", "backbone.1", "backbone.1", "head"],
}
"""What begins with this is frozen in each step."""


class Backboned(nn.Module):
    """A backbone with a BatchNorm, a head, and two biases of equal values."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.Linear(5, 5)
        nn.init.zeros_(self.backbone[0].bias)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))


def network(seed: int = 0) -> Backboned:
    return seeded(Backboned, seed)


def moved(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def expected(module: nn.Module, rule: str) -> list[list[str]]:
    """The frozen parameters in each of eight steps."""
    if rule in BY_STEP:
        return [[n for n, _ in module.named_parameters() if start and n.startswith(start)] for start in BY_STEP[rule]]
    blocks = ["backbone.0", "backbone.1", "head"]
    places = [RULES[rule].drawn(step, 3)[0] for step in range(8)]
    assert set(places) == {0, 1, 2}
    return [[n for n, _ in module.named_parameters() if not n.startswith(blocks[place])] for place in places]


def whole(state: Mapping[str, Tensor]) -> set[str]:
    return {name for name, tensor in state.items() if tensor.shape != MARK}


# The schedule, in a loop of one's own


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "LBFGS"])
@settings(max_examples=6)
@given(case=cases(), data=st.data(), statistics=st.sampled_from(["follow", "frozen"]))
def test_frozen_bits_stay_and_the_others_train(name: str, case: Case, data: st.DataObject, statistics: Any) -> None:
    module = case.module()
    assume(len(module(torch.ones(2, 6))) and 0 < len(case.selection) < len(case.selection.of))
    phases = {0: case.selection, 1: ~case.selection, 2: data.draw(st.sampled_from([case.selection, []])), 4: []}
    optimizers = [OPTIMIZERS[name](list(module.parameters()))]
    if name == "Muon":  # takes matrices alone
        optimizers.append(torch.optim.SGD([p for p in module.parameters() if p.ndim != 2], lr=0.1, weight_decay=0.1))
    held = [id(p) for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    module.train()
    before = portrait(module)
    schedule = Schedule(phases, statistics=statistics)
    schedule.begin(module, optimizers)
    for epoch in range(5):
        schedule.enter(epoch)
        frozen = set(phases[max(start for start in phases if start <= epoch)])
        at_start = bits(dict(module.named_parameters()))
        module.eval()
        module.train()
        set_to_none = data.draw(st.booleans())
        for _ in range(2):
            for optimizer in optimizers:
                step(module, optimizer, set_to_none)
        changed = moved(at_start, bits(dict(module.named_parameters())))
        assert not changed & frozen
        pulled = {n for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-3}
        assert pulled <= changed
    schedule.end()
    assert [id(p) for optimizer in optimizers for p in optimizer.param_groups[0]["params"]] == held
    after = portrait(module)
    assert {key: after[key] for key in after if key != "bits"} == {key: before[key] for key in before if key != "bits"}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_what_is_thawed_trains_again_as_if_it_had_been_away(name: str) -> None:
    """Epochs in which a layer is frozen leave its part of the optimiser as it was: it waits."""

    def states(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
        return bits(optimizer.state[module.head.weight])  # type: ignore[attr-defined]

    module = network()
    optimizer = OPTIMIZERS[name](list(module.parameters()))
    schedule = Schedule({1: ["head"], 2: []})
    schedule.begin(module, [optimizer])
    kept = []
    for epoch in range(3):
        schedule.enter(epoch)
        before = bits(copied(module))
        step(module, optimizer)
        kept.append(states(module, optimizer))
        assert ("head.weight" in moved(before, bits(copied(module)))) == (epoch != 1)
    assert kept[0] == kept[1] != kept[2]


def test_a_schedule_takes_selections_single_patterns_and_exceptions() -> None:
    module = network()
    schedule = Schedule({0: "backbone", 1: ["!head"], 2: select(module, types=nn.BatchNorm1d)})
    schedule.begin(module, [torch.optim.SGD(module.parameters())])
    for epoch, frozen in enumerate(["backbone.", "backbone.", "backbone.1."]):
        schedule.enter(epoch)
        assert [n for n, p in module.named_parameters() if not p.requires_grad] == [
            n for n, _ in module.named_parameters() if n.startswith(frozen)
        ]


def test_what_was_frozen_by_hand_stays_so() -> None:
    module = network()
    module.backbone[0].requires_grad_(False)
    schedule = Schedule({0: ["head"], 1: []})
    schedule.begin(module, [torch.optim.SGD(module.parameters())])
    for epoch in range(2):
        schedule.enter(epoch)
        assert not module.backbone[0].weight.requires_grad
    schedule.end()
    assert not module.backbone[0].weight.requires_grad
    assert module.head.weight.requires_grad


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ({}, r"what is frozen from when on, not \{\}: \{0: \['backbone'\], 3: \[\]\} freezes"),
        (["backbone"], r"not \['backbone'\]"),
        ({-1: ["head"]}, "-1 is no time: give an epoch from 0 on, as in 3, optimiser steps, as in '500it', or a share"),
        ({1.5: ["head"]}, "1.5 is no time"),
        ({1.0: ["head"]}, "1.0 is no time"),
        ({True: ["head"]}, "True is no time"),
        ({"500": ["head"]}, "'500' is no time"),
        ({"5it": 3}, "step 5 freezes 3, which is no list of patterns"),
        ({2: 3}, "epoch 2 freezes 3, which is no list of patterns"),
        ({2: None}, "epoch 2 freezes None"),
    ],
)
def test_a_schedule_that_is_none_is_refused(epochs: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        Schedule(epochs)


def everything_of(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters())


@pytest.mark.parametrize(
    ("epochs", "optimizer", "said"),
    [
        ({0: [], 7: ["haed"]}, everything_of, "^epoch 7: the pattern 'haed' matches no layer: did you mean head?"),
        ({4: ["backbone", "head"]}, everything_of, "from epoch 4 on everything is frozen, and nothing is left"),
        ({0: ["head"]}, lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS moves all its parameters at once"),
        (
            {0: ["backbone"], 2: []},
            lambda m: torch.optim.AdamW(m.head.parameters()),
            "backbone.0.weight is in no optimiser, but trains from epoch 2 on: give the optimiser all parameters",
        ),
        (  # as large as another's: membership is by identity
            {3: ["backbone.0"]},
            lambda m: torch.optim.SGD([p for n, p in m.named_parameters() if n != "backbone.0.bias"]),
            "backbone.0.bias is in no optimiser, but trains from epoch 0 on",
        ),
        ({0: select(nn.Linear(2, 2))}, everything_of, "the selection is of another network"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_training(epochs: Any, optimizer: Any, said: str) -> None:
    module = network()
    before = portrait(module)
    with pytest.raises(BadRequest, match=said):
        Schedule(epochs).begin(module, [optimizer(module)])
    assert portrait(module) == before


def test_an_optimizer_may_lack_what_never_trains() -> None:
    module = network()
    Schedule({0: ["backbone"]}).begin(module, [torch.optim.SGD(module.head.parameters())])


def test_an_unknown_treatment_of_statistics_is_refused_before_training() -> None:
    module = network()
    with pytest.raises(BadRequest, match="statistics is 'still'"):
        Schedule({0: [], 9: ["head"]}, statistics="still").begin(module, [everything_of(module)])  # type: ignore[arg-type]


def test_what_was_frozen_by_hand_is_not_the_schedules() -> None:
    module = network()
    module.head.bias.requires_grad_(False)
    with pytest.raises(BadRequest, match=r"head\.bias asks for no gradient before training begins"):
        Schedule({0: ["head"], 2: []}).begin(module, [everything_of(module)])


def test_a_schedule_is_begun_before_it_is_entered() -> None:
    with pytest.raises(BadRequest, match="was not begun"):
        Schedule({0: ["head"]}).enter(0)


def test_equal_bits_of_another_type_or_shape_have_another_digest() -> None:
    tensors = [
        torch.zeros(4),
        torch.zeros(2, 2),
        torch.zeros(4, dtype=torch.int32),
        torch.zeros(2).double(),
        -torch.zeros(4),
    ]
    tensors += [torch.zeros(8, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.complex64), torch.zeros(())]
    assert len({digests({"w": tensor})["w"] for tensor in tensors}) == len(tensors)
    assert digests({"w": torch.arange(4.0)[::2]}) == digests({"w": torch.tensor([0.0, 2.0])})


def test_no_framework_is_imported_with_the_package_and_a_missing_one_is_told_in_one_sentence() -> None:
    script = (
        "import importlib, sys, letitgo.callbacks, letitgo.weights\n"
        "print({'lightning', 'transformers', 'accelerate'} & set(sys.modules))\n"
        "for package in 'lightning', 'transformers':\n"
        "    sys.modules[package] = None\n"
        "    try:\n        importlib.import_module(f'letitgo.callbacks.{package}')\n"
        "    except letitgo.BadRequest as error:\n        print(error)"
    )
    imported, *told = python(script).stdout.splitlines()
    assert imported == "set()"
    assert len(told) == 2
    for package, sentence in zip(("lightning", "transformers"), told, strict=True):
        assert f"pip install 'letitgo[{package}]'" in sentence


# Lightning

its_own_warnings = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*callbacks used to create the checkpoint",
    "ignore:.*your dataloader is not resumable",
    "ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",
)


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch")


@pytest.fixture
def lit(lightning: Any, tmp_path: Path) -> Any:
    """The pieces of training with Lightning on eight equal batches of random numbers, two an epoch."""
    from letitgo.callbacks.lightning import ChangedWeights, FreezeSchedule

    class Module(lightning.LightningModule):
        def __init__(self, seed: int = 0, optimizer: Any = None) -> None:
            super().__init__()
            inner = network(seed)
            self.backbone, self.head = inner.backbone, inner.head
            self.make = optimizer or OPTIMIZERS["AdamW"]

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.backbone(inputs))

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return (self(batch[0]) - 1).square().mean()

        def validation_step(self, batch: list[Tensor]) -> None:
            self(3 * batch[0])

        def configure_optimizers(self) -> Any:
            return self.make(list(self.parameters()))

        def loader(self) -> Any:
            numbers = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).repeat(2, 1)
            return DataLoader(TensorDataset(numbers), batch_size=8)

        train_dataloader = val_dataloader = loader

    class Probe(lightning.Callback):
        """The module's state when an epoch's training begins, and after its validation."""

        def __init__(self) -> None:
            self.starts: list[dict[str, bytes]] = []
            self.ends: list[dict[str, bytes]] = []
            self.flags: list[list[str]] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.flags.append([n for n, p in pl_module.named_parameters() if not p.requires_grad])

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            self.starts.append(bits(copied(pl_module)))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.ends.append(bits(copied(pl_module)))

    class Lit:
        def trainer(self, *callbacks: Any, epochs: int = 4, **options: Any) -> Any:
            quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
            options = {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1, **quiet, **options}
            return lightning.Trainer(
                max_epochs=epochs, callbacks=list(callbacks), default_root_dir=tmp_path / "lightning", **options
            )

        def saving(self, *callbacks: Any, epochs: int = 4, **options: Any) -> Any:
            folder = tmp_path / f"checkpoints-{len(list(tmp_path.iterdir()))}"
            options = {"every_n_epochs": 1, **options}
            save = lightning.pytorch.callbacks if hasattr(lightning, "pytorch") else lightning.callbacks
            checkpoint = save.ModelCheckpoint(folder, filename="{epoch}-{step}", save_top_k=-1, **options)
            return self.trainer(*callbacks, checkpoint, epochs=epochs, enable_checkpointing=True), folder

    pieces = Lit()
    pieces.Module, pieces.Probe = Module, Probe  # type: ignore[attr-defined]
    pieces.FreezeSchedule, pieces.ChangedWeights = FreezeSchedule, ChangedWeights  # type: ignore[attr-defined]
    return pieces


@its_own_warnings
@pytest.mark.parametrize("statistics", ["follow", "frozen"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "RMSprop"])
def test_lightning_freezes_and_thaws_by_the_epoch(lit: Any, statistics: Any, optimizer: str) -> None:
    module, probe = lit.Module(optimizer=OPTIMIZERS[optimizer]), lit.Probe()
    before = portrait(module)
    trainer = lit.trainer(lit.FreezeSchedule(EPOCHS, statistics=statistics), probe)
    trainer.fit(module)
    parameters = {name for name, _ in module.named_parameters()}
    for frozen, start, end in zip(FROZEN, probe.starts, probe.ends, strict=True):
        still = {name for name in start if frozen and name.startswith(frozen)}
        if statistics == "follow":
            still &= parameters
        assert moved(start, end) == set(start) - still
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in module.parameters()]
    after = portrait(module)
    assert after["parameters"] == before["parameters"]
    assert [(name, keys) for name, _, _, keys in after["modules"][1:]] == [
        (name, keys) for name, _, _, keys in before["modules"][1:]
    ]


@its_own_warnings
@pytest.mark.parametrize(
    ("rule", "changed"), [("epochs", False), ("epochs", True), ("steps", True), ("rotation", True)]
)
@pytest.mark.parametrize(
    "save", [{"every_n_epochs": 1}, {"every_n_train_steps": 1}, {"save_on_train_epoch_end": False}]
)
def test_lightning_resumes_with_the_frozen_set_and_the_same_bits(
    lit: Any, save: dict[str, Any], changed: bool, rule: str
) -> None:
    if "every_n_train_steps" in save:
        save = {"every_n_epochs": None, **save}
    extra = [lit.ChangedWeights()] if changed else []
    module = lit.Module()
    whole = lit.Probe()
    trainer, folder = lit.saving(lit.FreezeSchedule(RULES[rule], "frozen", RATES[rule]), *extra, whole, **save)
    trainer.fit(module)
    assert whole.flags == expected(module, rule)
    checkpoints = sorted(folder.iterdir())
    assert len(checkpoints) >= 4
    for checkpoint in checkpoints[:-1]:
        steps = int(checkpoint.stem.rpartition("=")[2])
        again, probe = lit.Module(), lit.Probe()
        extra = [lit.ChangedWeights()] if changed else []
        schedule = lit.FreezeSchedule(RULES[rule], "frozen", RATES[rule])
        lit.trainer(schedule, *extra, probe).fit(again, ckpt_path=checkpoint)
        assert probe.flags == whole.flags[steps:]
        assert bits(copied(again)) == bits(copied(module))


@its_own_warnings
def test_lightning_counts_optimiser_steps_where_gradients_are_accumulated(lit: Any) -> None:
    probe = lit.Probe()
    schedule = lit.FreezeSchedule({0: ["backbone"], "1it": ["head"], 3: [], 0.75: ["backbone"]})
    lit.trainer(schedule, probe, epochs=8, accumulate_grad_batches=2).fit(lit.Module())
    started = [flags[0].partition(".")[0] if flags else "" for flags in probe.flags]
    assert started == 2 * ["backbone"] + 4 * ["head"] + 6 * [""] + 4 * ["backbone"]


@its_own_warnings
def test_lightning_logs_what_is_frozen_to_the_trainers_loggers(lit: Any, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    def values(rows: list[tuple[int, dict[str, float]]]) -> list[tuple[int, float, float]]:
        return [(step, row["freezing/trainable"], row["frozen/backbone.0"]) for step, row in rows]

    logger = CSVLogger(tmp_path / "csv", version="one")
    schedule = lit.FreezeSchedule({0: ["backbone"], "3it": ["head"], 3: []}, example=torch.randn(2, 6))
    lit.trainer(schedule, logger=logger, log_every_n_steps=1).fit(lit.Module())
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        written = [{name: float(x) for name, x in row.items() if x} for row in csv.DictReader(file)]
    rows = [(int(row["step"]), row) for row in written if "freezing/trainable" in row]
    seen = [(0, 30, 1), (2, 30, 1), (3, 45, 0), (5, 45, 0), (6, 75, 0), (7, 75, 0)]
    assert values(rows) == seen
    saved = [row["freezing/arithmetic_saved"] for _, row in rows]
    assert saved[0] == saved[1] > saved[2] == saved[3] > saved[4] == saved[5] == 0

    points: list[Any] = []
    schedule = lit.FreezeSchedule({0: ["backbone"], 3: []}, log=lambda row, step: points.append((step, row)))
    lit.trainer(schedule, accumulate_grad_batches=2).fit(lit.Module())  # one optimiser step in an epoch
    assert values(points) == [(0, 30, 1), (2, 30, 1), (3, 75, 0)]


@its_own_warnings
def test_lightning_multiplies_the_rate_of_what_is_thawed(lit: Any) -> None:
    ends = []
    for factor in (1.0, 0.5):
        module = lit.Module()
        lit.trainer(lit.FreezeSchedule({0: ["backbone"], "3it": []}, "frozen", factor), epochs=2).fit(module)
        ends.append(bits(copied(module)))
    assert {"backbone.0.weight", "backbone.0.bias"} <= moved(*ends)
    assert not moved(*ends) & {"head.weight", "head.bias"}  # its last gradient is from before the step that differs


@its_own_warnings
def test_lightning_refuses_shares_where_training_has_no_end(lit: Any) -> None:
    for rule, said in (({0.5: ["head"]}, "0.5 of training cannot be told"), ({1: [], "9it": ["head"]}, "epoch 1 stan")):
        module = lit.Module()
        module.automatic_optimization = False
        with pytest.raises(BadRequest, match=said):
            lit.trainer(lit.FreezeSchedule(rule)).fit(module)


@its_own_warnings
@pytest.mark.parametrize("save", [{}, {"every_n_epochs": None, "every_n_train_steps": 1}])
def test_lightning_ends_phases_that_do_not_help_and_resumes_in_them(lit: Any, save: dict[str, Any]) -> None:
    plateau = Plateau([["backbone"], ["head"], []], "gone wrong", patience=1, mode="max")

    class Module(lit.Module):
        def validation_step(self, batch: list[Tensor]) -> None:
            self.log("gone wrong", [3.0, 2.0, 4.0, 4.0, 4.0][self.trainer.current_epoch])

    module, whole = Module(), lit.Probe()
    trainer, folder = lit.saving(lit.FreezeSchedule(plateau, "frozen"), whole, epochs=5, **save)
    trainer.fit(module)
    begins = ["backbone", "backbone", "head", "head", ""]
    assert whole.flags[::2] == [[n for n, _ in module.named_parameters() if b and n.startswith(b)] for b in begins]
    steps = {checkpoint: int(checkpoint.stem.rpartition("=")[2]) for checkpoint in sorted(folder.iterdir())[:-1]}
    for checkpoint, done in steps.items():
        if save and done % 2 == 0:  # written between an epoch's last step and its validation, which is not repeated
            continue
        again, probe = Module(), lit.Probe()
        lit.trainer(lit.FreezeSchedule(plateau, "frozen"), probe, epochs=5).fit(again, ckpt_path=checkpoint)
        assert probe.flags == whole.flags[done:]
        assert bits(copied(again)) == bits(copied(module))
    with pytest.raises(BadRequest, match="there is no metric loss: validation logged gone wrong"):
        lit.trainer(lit.FreezeSchedule(Plateau([["head"], []], "loss"))).fit(Module())


@its_own_warnings
def test_lightning_refuses_a_typo_before_training(lit: Any) -> None:
    module = lit.Module()
    before = bits(copied(module))
    with pytest.raises(BadRequest, match="epoch 30: the pattern 'backbones' matches no layer: did you mean backbone"):
        lit.trainer(lit.FreezeSchedule({30: ["backbones"]})).fit(module)
    assert bits(copied(module)) == before


@its_own_warnings
def test_lightning_tells_of_a_time_after_the_end_of_training(lit: Any) -> None:
    with pytest.warns(UserWarning, match="the schedule names epoch 30, and training ends before it: it has 4 epochs"):
        lit.trainer(lit.FreezeSchedule({30: ["backbone"]})).fit(lit.Module())


@its_own_warnings
def test_lightning_refuses_an_optimizer_of_a_part(lit: Any) -> None:
    module = lit.Module(optimizer=lambda parameters: torch.optim.AdamW(parameters[-2:]))
    with pytest.raises(BadRequest, match=r"backbone\.0\.weight is in no optimiser, but trains from epoch 1 on"):
        lit.trainer(lit.FreezeSchedule({0: ["backbone"], 1: []})).fit(module)


@its_own_warnings
def test_lightning_gives_the_module_back_after_an_error(lit: Any, lightning: Any) -> None:
    class Breaks(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise KeyError("out of luck")

    module = lit.Module()
    with pytest.raises(KeyError):
        lit.trainer(lit.FreezeSchedule(EPOCHS, statistics="frozen"), lit.ChangedWeights(), Breaks()).fit(module)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any("train" in vars(part) or part._load_state_dict_pre_hooks for part in module.modules())


@its_own_warnings
def test_lightning_checkpoints_hold_what_changed(lit: Any) -> None:
    module = lit.Module()
    trainer, folder = lit.saving(
        lit.FreezeSchedule({0: ["backbone"], 1: []}, statistics="frozen"), lit.ChangedWeights(), epochs=2
    )
    trainer.fit(module)
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in sorted(folder.iterdir()))
    assert set(first) == set(second) == set(module.state_dict())
    assert whole(first) == {"head.weight", "head.bias"}
    assert whole(second) == set(module.state_dict())


@its_own_warnings
def test_lightning_loads_onto_the_base_and_no_other(lit: Any) -> None:
    module = lit.Module()
    trainer, folder = lit.saving(lit.FreezeSchedule({0: ["backbone"]}, "frozen"), lit.ChangedWeights(), epochs=1)
    trainer.fit(module)
    (checkpoint,) = folder.iterdir()
    for load in (
        lambda net: lit.trainer(lit.ChangedWeights()).validate(net, ckpt_path=checkpoint, verbose=False),
        lambda net: load_changed(net, checkpoint),
    ):
        again = lit.Module()
        load(again)
        assert bits(copied(again)) == bits(copied(module))
        other = lit.Module(seed=1)
        before = bits(copied(other))
        with pytest.raises(
            BadRequest, match=r"leaves out backbone\.0\.weight, which did not change in training but are"
        ):
            load(other)
        assert bits(copied(other)) == before
    with pytest.raises(RuntimeError, match=r"size mismatch for backbone\.0\.weight"):  # without it: loud, not wrong
        lit.trainer().validate(lit.Module(), ckpt_path=checkpoint, verbose=False)


LIGHTNING_DDP = """
import sys
import lightning.pytorch as pl, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from letitgo import BadRequest
from letitgo.callbacks.lightning import FreezeSchedule

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.seen = []
    def training_step(self, batch):
        return (self.b(torch.relu(self.a(batch[0]))) - 1).square().mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(16, 4, generator=torch.Generator().manual_seed(1))), batch_size=4)
    def on_train_epoch_start(self):
        self.start = [p.detach().clone() for p in self.parameters()]
    def on_train_epoch_end(self):
        moved = [not torch.equal(p, q) for p, q in zip(self.parameters(), self.start)]
        one = torch.cat([p.detach().flatten() for p in self.parameters()])
        same = bool((self.all_gather(one) == one).all())
        self.seen.append((moved, same))

def fit(strategy):
    module = Module()
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[FreezeSchedule({0: ["a"], 1: ["b"], 2: []})])
    trainer.fit(module)
    return trainer.global_rank, module.seen

try:
    rank, seen = fit(sys.argv[1])
    if rank == 0: print(seen)
except BadRequest as error:
    print(error)
"""


def ran(tmp_path: Path, script: str, *args: str, launcher: tuple[str, ...] = ()) -> str:
    file = tmp_path / "script.py"
    file.write_text(script)
    run = [sys.executable, "-W", "ignore", *launcher, str(file), *args]
    done = subprocess.run(run, check=False, text=True, capture_output=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_lightning_freezes_under_ddp(lightning: Any, tmp_path: Path) -> None:
    seen = ran(tmp_path, LIGHTNING_DDP, "ddp_find_unused_parameters_true")
    a, b, both = "[False, False, True, True]", "[True, True, False, False]", "[True, True, True, True]"
    assert f"[({a}, True), ({b}, True), ({both}, True)]" in seen


@pytest.mark.slow
def test_lightning_refuses_ddp_that_waits_for_frozen_gradients(lightning: Any, tmp_path: Path) -> None:
    assert "give Trainer(strategy='ddp_find_unused_parameters_true')" in ran(tmp_path, LIGHTNING_DDP, "ddp")


# Hugging Face's Trainer


@pytest.fixture
def hf(tmp_path: Path) -> Any:
    """The pieces of training with the Trainer: eight examples, two steps an epoch."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from letitgo.callbacks.transformers import ChangedWeights, FreezeSchedule

    class Module(Backboned):
        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = super().forward(inputs)
            return {"loss": (outputs - labels).square().mean(), "logits": outputs}

    class Examples(Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(index)
            return {"inputs": torch.randn(6, generator=generator), "labels": torch.ones(5)}

    class Words(Examples):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            ids = torch.randint(11, (5,), generator=torch.Generator().manual_seed(index))
            return {"input_ids": ids, "labels": ids}

    class Probe(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.starts: list[dict[str, bytes]] = []
            self.ends: list[dict[str, bytes]] = []
            self.flags: list[list[str]] = []

        def on_epoch_begin(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
            self.starts.append(bits(copied(model)))

        def on_step_begin(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
            self.flags.append([n for n, p in model.named_parameters() if not p.requires_grad])

        def on_evaluate(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
            self.ends.append(bits(copied(model)))

    class Pieces:
        def module(self, seed: int = 0) -> nn.Module:
            return seeded(Module, seed)

        def language(self, seed: int = 0) -> Any:
            config = transformers.GPT2Config(
                vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
            )
            return seeded(lambda: transformers.GPT2LMHeadModel(config), seed)

        def trainer(self, module: nn.Module, *callbacks: Any, epochs: int = 4, **options: Any) -> Any:
            options = {
                **{"save_strategy": "no", "eval_strategy": "epoch", "learning_rate": 0.1, "weight_decay": 0.1},
                **{"per_device_train_batch_size": 4, "report_to": [], "disable_tqdm": True, "use_cpu": True},
                **{"logging_strategy": "no", "dataloader_pin_memory": False, "remove_unused_columns": False},
                **options,
            }
            examples = Examples() if isinstance(module, Backboned) else Words()
            return transformers.Trainer(
                module,
                transformers.TrainingArguments(str(tmp_path / "out"), num_train_epochs=epochs, **options),
                train_dataset=examples,
                eval_dataset=examples,
                callbacks=list(callbacks),
            )

        def checkpoints(self) -> list[Path]:
            return sorted((tmp_path / "out").iterdir())

    pieces = Pieces()
    pieces.Probe = Probe  # type: ignore[attr-defined]
    pieces.FreezeSchedule, pieces.ChangedWeights = FreezeSchedule, ChangedWeights  # type: ignore[attr-defined]
    return pieces


@pytest.mark.parametrize("statistics", ["follow", "frozen"])
@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd", "rmsprop"])
def test_the_trainer_freezes_and_thaws_by_the_epoch(hf: Any, statistics: Any, optimizer: str) -> None:
    module, probe = hf.module(), hf.Probe()
    before = portrait(module)
    options = {"optim_args": "momentum=0.9"} if optimizer == "sgd" else {}
    trainer = hf.trainer(module, hf.FreezeSchedule(EPOCHS, statistics=statistics), probe, optim=optimizer, **options)
    trainer.train()
    parameters = {name for name, _ in module.named_parameters()}
    for frozen, start, end in zip(FROZEN, probe.starts, probe.ends, strict=True):
        still = {name for name in start if frozen and name.startswith(frozen)}
        if statistics == "follow":
            still &= parameters
        assert moved(start, end) == set(start) - still
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters())
    assert portrait(module)["parameters"] == before["parameters"]
    assert not any("train" in vars(part) for part in module.modules())


@pytest.mark.parametrize(("rule", "changed"), [("epochs", False), ("steps", True), ("rotation", True)])
def test_the_trainer_resumes_with_the_frozen_set_and_the_same_bits(hf: Any, changed: bool, rule: str) -> None:
    extra = [hf.ChangedWeights()] if changed else []
    module, whole = hf.module(), hf.Probe()
    schedule = hf.FreezeSchedule(RULES[rule], "frozen", RATES[rule])
    hf.trainer(module, schedule, *extra, whole, save_strategy="steps", save_steps=1).train()
    assert whole.flags == expected(module, rule)
    for checkpoint in hf.checkpoints()[:-1]:
        again, probe = hf.module(), hf.Probe()
        extra = [hf.ChangedWeights()] if changed else []
        trainer = hf.trainer(again, hf.FreezeSchedule(RULES[rule], "frozen", RATES[rule]), *extra, probe)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert probe.flags == whole.flags[int(checkpoint.name.rpartition("-")[2]) :]
        assert bits(copied(again)) == bits(copied(module))


def test_the_trainer_goes_on_to_the_next_epoch_where_one_is_broken_off(hf: Any) -> None:
    class Breaks(hf.Probe):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_epoch_stop = True

    probe = Breaks()
    hf.trainer(hf.module(), hf.FreezeSchedule(EPOCHS), probe).train()
    assert [flags[0].partition(".")[0] if flags else "" for flags in probe.flags] == FROZEN


def test_the_trainer_counts_optimiser_steps_where_gradients_are_accumulated(hf: Any) -> None:
    probe = hf.Probe()
    schedule = hf.FreezeSchedule({0: ["backbone"], "1it": ["head"], 1: [], 0.75: ["backbone"]})
    hf.trainer(hf.module(), schedule, probe, per_device_train_batch_size=2, gradient_accumulation_steps=2).train()
    started = [flags[0].partition(".")[0] if flags else "" for flags in probe.flags]
    assert started == ["backbone", "head", "", "", "", "", "backbone", "backbone"]


def test_the_trainer_logs_what_is_frozen(hf: Any) -> None:
    from letitgo.callbacks.transformers import logged_by

    module = hf.language()
    trainer = hf.trainer(module, logging_strategy="steps", logging_steps=1)
    example = {"input_ids": torch.zeros(1, 5, dtype=torch.long)}
    rule = {0: ["transformer.h.0"], "3it": []}
    trainer.add_callback(hf.FreezeSchedule(rule, log=logged_by(trainer), example=example))
    trainer.train()
    history = trainer.state.log_history
    found = [
        (row["step"], row["frozen/transformer.h.0"], row["frozen/transformer.h.1"], row["freezing/arithmetic_saved"])
        for row in history
        if "freezing/trainable" in row
    ]
    (first, second) = found
    assert first == (0, 1, 0, pytest.approx(first[3]))
    assert second == (3, 0, 0, 0)
    assert 0.05 < first[3] < 0.5
    assert sum("loss" in row for row in history) == 8


def test_the_trainer_multiplies_the_rate_of_what_is_thawed(hf: Any) -> None:
    ends = []
    for factor in (1.0, 0.5):
        module = hf.module()
        hf.trainer(module, hf.FreezeSchedule({0: ["backbone"], "3it": []}, "frozen", factor), epochs=2).train()
        ends.append(bits(copied(module)))
    assert {"backbone.0.weight", "backbone.0.bias"} <= moved(*ends)
    assert not moved(*ends) & {"head.weight", "head.bias"}  # its last gradient is from before the step that differs


def test_the_trainer_ends_phases_that_do_not_help_and_resumes_in_them(hf: Any) -> None:
    plateau = Plateau([["backbone"], ["head"], []], "eval_loss", patience=1, min_delta=1e9)
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    module, whole = hf.module(), hf.Probe()
    hf.trainer(module, hf.FreezeSchedule(plateau, "frozen"), whole, **options).train()
    begins = 6 * ["backbone"] + 2 * ["head"]  # the first value is better than none
    assert whole.flags == [[n for n, _ in module.named_parameters() if n.startswith(b)] for b in begins]
    for checkpoint in hf.checkpoints()[:-1]:
        again, probe = hf.module(), hf.Probe()
        trainer = hf.trainer(again, hf.FreezeSchedule(plateau, "frozen"), probe, **options)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert probe.flags == whole.flags[int(checkpoint.name.rpartition("-")[2]) :]
        assert bits(copied(again)) == bits(copied(module))
    with pytest.raises(BadRequest, match="there is no metric eval_f1: the evaluation gave eval_loss"):
        hf.trainer(hf.module(), hf.FreezeSchedule(Plateau([["head"], []], "eval_f1"))).train()


def test_the_trainer_rotates_the_blocks_of_a_language_model(hf: Any) -> None:
    module, probe = hf.language(), hf.Probe()
    hf.trainer(module, hf.FreezeSchedule(Rotate(k=1, every=2, seed=1)), probe).train()
    names = {n for n, _ in module.named_parameters()}
    for done, flags in enumerate(probe.flags):
        (trains,) = Rotate(k=1, every=2, seed=1).drawn(done // 2, 2)
        assert set(flags) == {n for n in names if n.startswith(f"transformer.h.{1 - trains}.")}
    assert len({tuple(flags) for flags in probe.flags}) == 2


@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_trls_trainer_rotates_and_resumes_to_the_same_bits(hf: Any, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset as Table
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(11)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1")
    table = Table.from_list([{"input_ids": [(i * j) % 9 + 2 for j in range(1, 8)]} for i in range(16)])
    options: dict[str, Any] = {"max_steps": 8, "save_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True}
    options |= {"bf16": False, "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False}

    def train(rule: Any, resume: str | None = None) -> tuple[Any, nn.Module]:
        probe, module = hf.Probe(), hf.language()
        config = trl.SFTConfig(str(tmp_path / "sft"), **options)
        callbacks = [hf.FreezeSchedule(rule), probe]
        trainer = trl.SFTTrainer(module, config, train_dataset=table, processing_class=tokenizer, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return probe.flags, module

    for rule in (Rotate(k=1, every=2, seed=1), {"2it": ["transformer.h.0"], 0.75: []}):
        flags, module = train(rule)
        assert len({tuple(names) for names in flags}) == 2
        again, resumed = train(rule, str(tmp_path / "sft" / "checkpoint-3"))
        assert again == flags[3:]
        assert bits(copied(resumed)) == bits(copied(module))


def test_the_trainer_refuses_a_typo_before_training(hf: Any) -> None:
    module = hf.module()
    before = bits(copied(module))
    with pytest.raises(BadRequest, match="epoch 30: the pattern 'backbones' matches no layer: did you mean backbone"):
        hf.trainer(module, hf.FreezeSchedule({30: ["backbones"]})).train()
    assert bits(copied(module)) == before


def test_the_trainer_tells_of_a_time_after_the_end_of_training(hf: Any) -> None:
    with pytest.warns(UserWarning, match="the schedule names epoch 30, and training ends before it: it has 4 epochs"):
        hf.trainer(hf.module(), hf.FreezeSchedule({30: ["backbone"]})).train()


def test_the_trainer_refuses_what_was_frozen_by_hand(hf: Any) -> None:
    module = hf.module()
    module.backbone.requires_grad_(False)
    with pytest.raises(BadRequest, match=r"backbone\.0\.weight asks for no gradient before training begins"):
        hf.trainer(module, hf.FreezeSchedule({0: ["backbone"], 1: []})).train()


def test_the_trainer_trains_again_after_an_error(hf: Any) -> None:
    class Breaks(hf.Probe):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyError("out of luck")

    module, breaks = hf.module(), Breaks()
    trainer = hf.trainer(module, hf.FreezeSchedule(EPOCHS), hf.ChangedWeights(), breaks)
    with pytest.raises(KeyError):
        trainer.train()
    trainer.remove_callback(breaks)
    trainer.train()
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_trainers_checkpoints_hold_what_changed(hf: Any) -> None:
    from safetensors.torch import load_file

    module = hf.module()
    schedule = hf.FreezeSchedule({0: ["backbone"], 1: []}, statistics="frozen")
    hf.trainer(module, schedule, hf.ChangedWeights(), epochs=2, save_strategy="epoch").train()
    first, second = (load_file(folder / "model.safetensors") for folder in hf.checkpoints())
    assert set(first) == set(second) == set(module.state_dict())
    assert whole(first) == {"head.weight", "head.bias"}
    assert whole(second) == set(module.state_dict())
    assert not [file for folder in hf.checkpoints() for file in folder.glob("*.part")]


def test_the_trainer_loads_onto_the_base_and_no_other(hf: Any) -> None:
    module = hf.module()
    trainer = hf.trainer(
        module, hf.FreezeSchedule({0: ["backbone"]}, "frozen"), hf.ChangedWeights(), epochs=1, save_strategy="epoch"
    )
    trainer.train()
    (checkpoint,) = hf.checkpoints()
    again = hf.module()
    load_changed(again, checkpoint)
    assert bits(copied(again)) == bits(copied(module))
    said = r"leaves out backbone\.0\.weight, which did not change in training but are not the same in this network"
    other = hf.module(seed=1)
    before = bits(copied(other))
    with pytest.raises(BadRequest, match=said):
        load_changed(other, checkpoint)
    with pytest.raises(BadRequest, match=said):
        hf.trainer(other, hf.ChangedWeights(), epochs=2).train(resume_from_checkpoint=str(checkpoint))
    assert bits(copied(other)) == before
    with pytest.raises(BadRequest, match=r"it leaves out backbone\.0\.bias, which this one does not have"):
        load_changed(nn.Linear(2, 2), checkpoint)
    with pytest.raises(RuntimeError, match=r"size mismatch for backbone\.0\.weight"):  # without it: loud, not wrong
        hf.trainer(hf.module(), epochs=2).train(resume_from_checkpoint=str(checkpoint))


def test_the_trainer_asks_for_the_model_before_it_is_loaded(hf: Any) -> None:
    trainer = hf.trainer(hf.module())
    trainer.add_callback(hf.ChangedWeights())
    with pytest.raises(BadRequest, match="ChangedWeights has to see the model before anything is loaded into it"):
        trainer.train()


@pytest.mark.parametrize("frozen", ["transformer.h.0", "transformer.wte"])  # wte is the head's weight too
def test_a_language_model_keeps_its_ties_and_is_not_drawn_at_random(hf: Any, frozen: str) -> None:
    module = hf.language()
    schedule = hf.FreezeSchedule({0: frozen})
    hf.trainer(module, schedule, hf.ChangedWeights(), epochs=1, save_strategy="epoch").train()
    (checkpoint,) = hf.checkpoints()
    again = hf.language()
    load_changed(again, checkpoint)
    assert bits(copied(again)) == bits(copied(module))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(module).from_pretrained(checkpoint)


def test_the_trainer_tells_when_the_best_model_is_a_mixture(hf: Any) -> None:
    options = {"save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    for schedule, mixed in (({0: ["backbone"]}, False), ({0: ["backbone"], 1: []}, True)):
        module = hf.module()
        best = hf.trainer(
            module,
            hf.FreezeSchedule(schedule, "frozen"),
            hf.ChangedWeights(),
            epochs=2,
            greater_is_better=True,  # the worst, so that it is the first
            **options,
        )
        if mixed:
            with pytest.raises(BadRequest, match=r"leaves out backbone\.0\.bias, .* which did not change in training"):
                best.train()
        else:
            best.train()
            again = hf.module()
            load_changed(again, best.state.best_model_checkpoint)
            assert bits(copied(again)) == bits(copied(module))


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("none.ckpt", None, BadRequest, "there is no checkpoint"),
        ("torn.ckpt", b"PK", WorkFailed, "cannot be read"),
        ("torn.safetensors", b"12", WorkFailed, "cannot be read"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=f"{said}.*|.*{name}.*{said}") as caught:
        load_changed(network(), tmp_path / name)
    assert name in str(caught.value)


TRAINER_DDP = """
import sys
import torch, torch.distributed as dist
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from letitgo import BadRequest
from letitgo.callbacks.transformers import FreezeSchedule

class Module(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, inputs):
        return {"loss": (self.b(torch.relu(self.a(inputs))) - 1).square().mean()}

class Probe(TrainerCallback):
    seen = []
    def on_epoch_begin(self, *args, model, **kwargs):
        self.start = [p.detach().clone() for p in model.parameters()]
    def on_epoch_end(self, *args, model, **kwargs):
        moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), self.start)]
        one = torch.cat([p.detach().flatten() for p in model.parameters()])
        other = [torch.empty_like(one) for _ in range(2)]
        dist.all_gather(other, one)
        self.seen.append((moved, torch.equal(*other)))

numbers = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
arguments = TrainingArguments("out", num_train_epochs=3, use_cpu=True, ddp_backend="gloo", report_to=[],
    save_strategy="no", disable_tqdm=True, learning_rate=0.1, weight_decay=0.1, per_device_train_batch_size=4,
    ddp_find_unused_parameters={"true": True, "false": False}.get(sys.argv[1]), dataloader_pin_memory=False)
schedule = FreezeSchedule({0: ["a"], 1: ["b"], 2: []})
trainer = Trainer(Module(), arguments, train_dataset=[{"inputs": x} for x in numbers], callbacks=[schedule, Probe()])
try:
    trainer.train()
    if dist.get_rank() == 0: print(Probe.seen)
except BadRequest as error:
    print(error)
dist.destroy_process_group()
"""
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


HELD_DDP = (
    TRAINER_DDP[: TRAINER_DDP.index("schedule =")].replace(
        "FreezeSchedule\n", "FreezeSchedule\nfrom letitgo import entries, hold\n"
    )
    + """
module = Module()
start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
with hold(module, entries(module, {"a.weight": torch.eye(4)})) as held:
    optimizer = torch.optim.AdamW(held.parameters(), lr=0.1, weight_decay=0.1)
    data = [{"inputs": x} for x in numbers]
    Trainer(module, arguments, train_dataset=data, callbacks=[Probe()], optimizers=(optimizer, None)).train()
changed = {name: tensor.ne(start[name]).nonzero().tolist() for name, tensor in module.state_dict().items()}
if dist.get_rank() == 0: print([same for _, same in Probe.seen], changed)
dist.destroy_process_group()
"""
)


@pytest.mark.slow
def test_the_trainer_trains_held_entries_under_ddp(hf: Any, tmp_path: Path) -> None:
    seen = ran(tmp_path, HELD_DDP, "default", launcher=TWO_PROCESSES)
    diagonal = [[i, i] for i in range(4)]
    assert f"[True, True, True] {{'a.weight': {diagonal}, 'a.bias': [], 'b.weight': [], 'b.bias': []}}" in seen


@pytest.mark.slow
def test_the_trainer_freezes_under_ddp(hf: Any, tmp_path: Path) -> None:
    a, b, both = "[False, False, True, True]", "[True, True, False, False]", "[True, True, True, True]"
    seen = ran(tmp_path, TRAINER_DDP, "default", launcher=TWO_PROCESSES)
    assert f"[({a}, True), ({b}, True), ({both}, True)]" in seen
    refused = ran(tmp_path, TRAINER_DDP, "false", launcher=TWO_PROCESSES)
    assert "give TrainingArguments(ddp_find_unused_parameters=True)" in refused
