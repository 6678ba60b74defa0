"""Rules of freezing in a loop of one's own: by epoch, step and share of training, and in rotation."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import bits
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import OPTIMIZERS, WIDTH, step
from torch import Tensor, nn

from letitgo import BadRequest, WorkFailed, cost, entries, freeze, hold, select, thaw
from letitgo.callbacks import Plateau, Recorder, Rotate, Schedule, tensorboard
from letitgo.weights import copied, seeded

STEPS, EPOCH = 12, 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.second(torch.tanh(self.norm(self.first(inputs))))


class Stack(nn.Module):
    """Four blocks between two layers, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Linear(WIDTH, WIDTH), nn.ModuleList(Block() for _ in range(4))
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = self.embed(inputs)
        for block in self.layers:
            inputs = block(inputs)
        return self.head(self.drop(inputs))


def network() -> Stack:
    return seeded(Stack, 0)


def frozen_names(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


PATTERNS = ["embed", "layers.0", "layers.1", "layers.2.first", "head"]
times = st.one_of(
    st.integers(0, 5),
    st.integers(0, STEPS + 5).map(lambda number: f"{number}it"),
    st.floats(0.01, 0.99).map(lambda share: round(share, 2)),
)
mappings = st.dictionaries(times, st.lists(st.sampled_from(PATTERNS), max_size=4, unique=True), min_size=1, max_size=5)


def start(when: Any) -> int:
    if isinstance(when, str):
        return int(when.removesuffix("it"))
    return round(when * STEPS) if isinstance(when, float) else when * EPOCH


def unambiguous(rule: Mapping[Any, Any]) -> bool:
    return len(set(map(start, rule))) == len(rule)


rotations = st.builds(
    Rotate,
    k=st.integers(1, 3),
    every=st.integers(1, 5),
    seed=st.integers(0, 99),
    blocks=st.sampled_from([(), "layers.*"]),
)
beyond_the_end = pytest.mark.filterwarnings("ignore:the schedule names")
rules = st.one_of(mappings.filter(unambiguous), rotations)


@beyond_the_end
@settings(max_examples=25)
@given(rule=mappings.filter(unambiguous), at=st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=8))
def test_the_latest_time_that_has_come_says_what_is_frozen(rule: Any, at: list[int]) -> None:
    """In whatever order the steps are asked for."""
    module = network()
    schedule = Schedule(rule)
    schedule.begin(module, [torch.optim.SGD(module.parameters())], steps_per_epoch=EPOCH, steps=STEPS)
    for now in at:
        schedule.enter(step=now)
        begun = {start(when): patterns for when, patterns in rule.items() if start(when) <= now}
        patterns = begun[max(begun)] if begun else []
        assert frozen_names(module) == {
            name for name, _ in module.named_parameters() if any(f"{name}.".startswith(f"{p}.") for p in patterns)
        }
    schedule.end()
    assert not frozen_names(module)


def train(module: nn.Module, optimizers: list[torch.optim.Optimizer], rule: Any, steps: range, **options: Any) -> Any:
    """The frozen set of each step. Dropout of a step is drawn as in a loop that seeds its steps."""
    schedule, seen = Schedule(rule, **options), []
    schedule.begin(module, optimizers, steps_per_epoch=EPOCH, steps=STEPS)
    for now in steps:
        schedule.enter(step=now)
        seen.append(frozen_names(module))
        before = bits(dict(module.named_parameters()))
        torch.manual_seed(now)
        for optimizer in optimizers:
            step(module, optimizer)
        after = bits(dict(module.named_parameters()))
        assert not any(before[name] != after[name] for name in seen[-1])
    schedule.end()
    return seen


def optimizers_for(name: str, module: nn.Module) -> list[torch.optim.Optimizer]:
    made = [OPTIMIZERS[name](list(module.parameters()))]
    if name == "Muon":  # takes matrices alone
        made.append(torch.optim.SGD([p for p in module.parameters() if p.ndim != 2], lr=0.1, momentum=0.9))
    return made


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "LBFGS"])
@beyond_the_end
@settings(max_examples=3)
@given(rule=rules, stop=st.integers(1, STEPS - 1), factor=st.sampled_from([1.0, 0.1]))
def test_stopped_at_any_step_training_goes_on_to_the_same_bits(name: str, rule: Any, stop: int, factor: float) -> None:
    """Weights, optimiser state and frozen sets; nothing of the schedule is stored."""
    options = {} if isinstance(rule, Rotate) else {"thawed_lr": factor}
    whole = network()
    optimizers = optimizers_for(name, whole)
    seen = train(whole, optimizers, rule, range(STEPS), **options)

    first = network()
    early = optimizers_for(name, first)
    until = train(first, early, rule, range(stop), **options)
    saved = copy.deepcopy([first.state_dict(), *(optimizer.state_dict() for optimizer in early)])

    again = network()
    late = optimizers_for(name, again)
    for to, state in zip([again, *late], saved, strict=True):
        to.load_state_dict(state)  # type: ignore[attr-defined]
    assert until + train(again, late, rule, range(stop, STEPS), **options) == seen
    assert bits(copied(again)) == bits(copied(whole))
    for one, other in zip(late, optimizers, strict=True):
        mine, theirs = one.state_dict(), other.state_dict()
        assert mine["param_groups"] == theirs["param_groups"]
        assert [bits_of(mine["state"][i]) for i in mine["state"]] == [
            bits_of(theirs["state"][i]) for i in theirs["state"]
        ]


def bits_of(state: Mapping[str, Any]) -> Any:
    return bits({key: value for key, value in state.items() if isinstance(value, Tensor)})


@given(k=st.integers(1, 7), every=st.integers(1, 30), seed=st.integers(0, 9), now=st.integers(0, 10**6))
def test_a_rotation_is_a_function_of_the_step_alone(k: int, every: int, seed: int, now: int) -> None:
    rotate = Rotate(k=k, every=every, seed=seed)
    drawn = rotate.drawn(now // every, 8)
    assert len(set(drawn)) == k
    assert drawn == sorted(drawn) == Rotate(k=k, every=1, seed=seed).drawn(now // every, 8)


def test_a_rotation_draws_every_block_as_often_and_independently() -> None:
    draws = [tuple(Rotate(k=2).drawn(draw, 5)) for draw in range(2000)]
    often = Counter(draws)
    assert len(often) == 10
    assert all(abs(count - 200) < 4 * 200**0.5 for count in often.values())
    stays = sum(one == other for one, other in pairwise(draws))
    assert abs(stays - 200) < 4 * 200**0.5
    assert [Rotate(k=2).drawn(draw, 5) for draw in range(9)] != [
        Rotate(k=2, seed=1).drawn(draw, 5) for draw in range(9)
    ]


def test_a_rotation_is_the_same_on_every_machine() -> None:
    assert [Rotate(k=2).drawn(draw, 32) for draw in range(4)] == [[5, 26], [4, 23], [6, 27], [6, 22]]


def test_what_is_in_no_block_trains_all_the_time() -> None:
    module = network()
    seen = train(module, optimizers_for("AdamW", module), Rotate(k=1, every=3), range(STEPS))
    assert {len({name.split(".")[1] for name in names}) for names in seen} == {3}
    assert not any(name.startswith(("embed", "head")) for names in seen for name in names)
    assert all(seen[now] == seen[now - now % 3] for now in range(STEPS))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, as it compiles
def test_a_rotation_of_blocks_that_are_compiled_needs_two_graphs() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = network().eval()
    for block in module.layers:
        block.compile(backend="aot_eager")
    seen = train(module, optimizers_for("AdamW", module), Rotate(k=2, every=1), range(STEPS))
    assert len(set(map(frozenset, seen))) > 3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_what_was_frozen_by_hand_before_a_rotation_stays_so() -> None:
    module = network()
    module.embed.requires_grad_(False)
    seen = train(module, optimizers_for("AdamW", module), Rotate(k=1, every=3), range(STEPS))
    assert all({"embed.weight", "embed.bias"} < names for names in seen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k is 0: give a whole number from 1 on"),
        ({"every": 2.5}, "every is 2.5"),
        ({"seed": -1}, "seed is -1: give a whole number from 0 on"),
        ({"k": True}, "k is True"),
        ({"blocks": 3}, "blocks is 3: give patterns, as in 'model.layers"),
    ],
)
def test_a_rotation_that_is_none_is_refused(options: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        Rotate(**options)


@pytest.mark.parametrize(
    ("rule", "begin", "enter", "said"),
    [
        ({"5it": ["haed"]}, {}, {}, "^step 5: the pattern 'haed' matches no layer: did you mean head?"),
        ({0.5: ["."]}, {"steps": 9}, {}, "^0.5 of training: the pattern '.' matches no layer"),
        ({0.5: ["head"]}, {}, {}, "0.5 of training cannot be told, since the number of steps is not known"),
        (
            {1: [], "9it": ["head"]},
            {},
            {},
            "epoch 1 stands beside steps or shares, and the number of steps in an epoch",
        ),
        ({1: []}, {"steps": "9"}, {}, "steps is '9': give a whole number from 1 on"),
        ({1: []}, {"steps_per_epoch": 0}, {}, "steps_per_epoch is 0: give a whole number from 1 on"),
        ({0.5: [], "9it": ["head"]}, {"steps": 18}, {}, "0.5 of training and step 9 are the same step, 9: keep one"),
        (
            {"5it": ["head"]},
            {},
            {"epoch": 1},
            "the schedule names step 5: call enter.step=…. before each optimiser step",
        ),
        (
            {1: ["head"]},
            {},
            {"step": 1},
            "the schedule names epoch 1: give enter.epoch=…., or begin.steps_per_epoch=….",
        ),
        (Rotate(), {}, {"epoch": 1}, "Rotate counts optimiser steps: call enter.step=…. before each"),
        (
            Rotate(k=4),
            {},
            {},
            "Rotate trains 4 blocks at a time, and the network has 4: layers.0, layers.1, layers.2, ",
        ),
        (Rotate(blocks="layer.*"), {}, {}, "the pattern 'layer.*' matches no block: did you mean layers"),
        ({"3it": ["embed", "layers", "head"]}, {}, {}, "from step 3 on everything is frozen, and nothing is left"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(rule: Any, begin: Any, enter: Any, said: str) -> None:
    module = network()
    schedule = Schedule(rule)

    def carry_out() -> None:
        schedule.begin(module, [torch.optim.SGD(module.parameters())], **begin)
        schedule.enter(**enter)

    with pytest.raises(BadRequest, match=said):
        carry_out()
    assert not frozen_names(module)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.optim.SGD(network().parameters()), "optimizers is of type SGD: give a list of all"),
        (None, "optimizers is of type NoneType"),
        ([3], r"optimizers holds int: give a list of all the network's optimisers, as in \[optimizer\]"),
    ],
)
def test_optimisers_are_given_as_a_list(given: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        Schedule({1: []}).begin(network(), given)


@pytest.mark.parametrize(
    ("rule", "length", "said"),
    [
        ({1: ["head"], 2: []}, {"steps_per_epoch": 4, "steps": 8}, "names epoch 2, .* it has 2 epochs$"),
        ({1: ["head"]}, {"steps_per_epoch": 4, "steps": 3}, "names epoch 1, .* it has 1 epoch$"),
        ({"8it": ["head"]}, {"steps": 8}, "names step 8, .* it has 8 steps$"),
        ({0.97: ["head"]}, {"steps": 8}, "names 0.97 of training, .* it has 8 steps$"),
        ({2: ["head"]}, {"steps_per_epoch": 4, "steps": 9}, None),
        ({"7it": ["head"]}, {"steps": 8}, None),
        ({99: ["head"]}, {"steps": 8}, None),  # an epoch may be a step
        ({99: ["head"], "99it": []}, {"steps_per_epoch": 4}, None),
    ],
)
def test_a_time_after_the_end_of_training_is_told(rule: Any, length: Any, said: str | None) -> None:
    module = network()
    optimizers = [torch.optim.SGD(module.parameters())]
    if said is None:
        Schedule(rule).begin(module, optimizers, **length)
        return
    with pytest.warns(UserWarning, match=said):
        Schedule(rule).begin(module, optimizers, **length)


def test_a_rotation_needs_an_optimiser_of_all_blocks() -> None:
    module = network()
    schedule = Schedule(Rotate(k=1))
    with pytest.raises(
        BadRequest, match=r"layers\.2\.first\.weight is in no optimiser, but trains while layers\.2 trains"
    ):
        schedule.begin(
            module, [torch.optim.SGD([p for n, p in module.named_parameters() if not n.startswith("layers.2")])]
        )


def test_a_rotation_of_a_network_without_blocks_asks_for_them() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(module.parameters())
    with pytest.raises(BadRequest, match=r"the network has 0: none\. Name others, as in Rotate"):
        Schedule(Rotate(k=1)).begin(module, [optimizer])
    Schedule(Rotate(k=1, blocks="*")).begin(module, [optimizer])


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad", "Adafactor"])
def test_a_rate_for_what_is_thawed_is_that_of_a_group_of_its_own(name: str) -> None:
    """The factor is for what an earlier phase froze, from its thawing on; groups and their rates are not touched."""
    ours, theirs = network(), network()
    optimizer = OPTIMIZERS[name](list(ours.parameters()))
    lr, count = optimizer.param_groups[0]["lr"], len(list(ours.parameters()))
    schedule = Schedule({0: ["layers.0", "layers.1"], "2it": ["layers.0"], "4it": ["head"], "6it": []}, thawed_lr=0.125)
    schedule.begin(ours, [optimizer])
    reference = OPTIMIZERS[name](list(theirs.parameters()))
    options = {key: value for key, value in reference.param_groups[0].items() if key != "params"}
    reference.param_groups[:] = [{**options, "params": [parameter]} for parameter in theirs.parameters()]
    for now in range(8):
        schedule.enter(step=now)
        slow = [(), (), ("layers.1",), ("layers.1",), ("layers.0", "layers.1"), ("layers.0", "layers.1")]
        slow += 2 * [("layers.0", "layers.1", "head")]
        for (full, parameter), group in zip(theirs.named_parameters(), reference.param_groups, strict=True):
            parameter.requires_grad_(ours.get_parameter(full).requires_grad)
            group["lr"] = 0.125 * lr if full.startswith(slow[now]) and slow[now] else lr
        for module, each in ((ours, optimizer), (theirs, reference)):
            torch.manual_seed(now)
            step(module, each, set_to_none=True)
        assert bits(copied(ours)) == bits(copied(theirs))
        assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [(count, lr)]
    schedule.end()
    before = ours.layers[0].first.weight.detach().clone()
    step(ours, optimizer)
    step(theirs, reference)
    assert not ours.layers[0].first.weight.equal(before)
    assert not ours.layers[0].first.weight.equal(theirs.layers[0].first.weight)  # at the full rate again


def test_a_rate_for_what_is_thawed_survives_a_step_that_raises() -> None:
    class Breaks(torch.optim.SGD):
        broken = False

        def step(self, closure: Any = None) -> Any:
            if self.broken:
                raise KeyError("out of luck")
            return super().step(closure)

    module = network()
    optimizer = Breaks(list(module.parameters()), lr=0.1)
    schedule = Schedule({0: ["head"], "1it": [], "3it": ["embed"]}, thawed_lr=0.5)
    schedule.begin(module, [optimizer])
    held = list(map(id, optimizer.param_groups[0]["params"]))
    for now, broken in enumerate([False, True, False, True, False]):
        schedule.enter(step=now)
        optimizer.broken = broken
        try:
            step(module, optimizer)
        except KeyError:
            continue
        assert [list(map(id, group["params"])) for group in optimizer.param_groups] == [held]


def test_a_rate_is_refused_where_there_is_none_to_multiply() -> None:
    module = network()
    for factor in (0, -1.0, True, "0.1", float("inf"), float("nan")):
        with pytest.raises(BadRequest, match=r"thawed_lr is .*: give a factor above 0"):
            Schedule({0: []}, thawed_lr=factor)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="a rotation thaws all its blocks in turn"):
        Schedule(Rotate(), thawed_lr=0.1)
    optimizer = torch.optim.SGD(module.parameters())
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(BadRequest, match="no learning rate to multiply"):
        Schedule({0: ["head"], 1: []}, thawed_lr=0.1).begin(module, [optimizer])


def test_an_optimiser_that_counts_by_group_is_named() -> None:
    class Counts(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> Any:
            closure()
            for group in self.param_groups:
                group["largest"] = max(group["lr"], group.get("largest", 0))

    module = network()
    optimizer = Counts(module.parameters(), {"lr": 0.1})
    schedule = Schedule({0: ["head"], "1it": []}, thawed_lr=2)
    schedule.begin(module, [optimizer])
    schedule.enter(step=0)
    step(module, optimizer)
    schedule.enter(step=1)
    with pytest.raises(WorkFailed, match="Counts keeps largest for a group, not for a parameter"):
        step(module, optimizer)


@pytest.mark.parametrize(
    ("options", "seen", "places"),
    [
        ({}, [3, 2, 2, 2, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2]),
        ({}, [float("nan"), float("nan"), 1, 2, 2], [0, 1, 1, 1, 2]),
        ({"mode": "max"}, [1, 2, 3, 2, 2, 4], [0, 0, 0, 0, 1, 1]),
        ({"min_delta": 0.5}, [3, 2.6, 2.4, 2.2, 2.0], [0, 0, 0, 0, 1]),
    ],
)
def test_a_phase_ends_after_values_that_are_no_better(options: Any, seen: list[float], places: list[int]) -> None:
    module = network()
    schedule = Schedule(Plateau([["head"], ["embed"], []], "loss", patience=2, **options))
    schedule.begin(module, [torch.optim.SGD(module.parameters())])
    for value, place in zip(seen, places, strict=True):
        schedule.seen.append(value)
        schedule.enter()
        assert {name.split(".")[0] for name in frozen_names(module)} == [{"head"}, {"embed"}, set()][place]


@pytest.mark.parametrize(
    ("phases", "options", "said"),
    [
        ([["head"]], {}, "phases is .*: give what is frozen in each of two or more"),
        ("head", {}, "phases is 'head'"),
        ([[], 3], {}, "phase 1 freezes 3, which is no list"),
        ([[], ["head"]], {"patience": 0}, "patience is 0: give a whole number from 1 on"),
        ([[], ["head"]], {"mode": "least"}, "^mode is 'least': give 'min' or 'max'"),
        ([[], ["head"]], {"metric": 3}, "^metric is 3: give its name"),
        ([[], ["head"]], {"min_delta": -1}, "min_delta is -1: give a number from 0 on"),
        ([[], ["haed"]], {}, "phase 1: the pattern 'haed' matches no layer"),
    ],
)
def test_phases_that_are_none_are_refused(phases: Any, options: Any, said: str) -> None:
    module = network()
    with pytest.raises(BadRequest, match=said):
        Schedule(Plateau(phases, **{"metric": "loss", **options})).begin(module, [torch.optim.SGD(module.parameters())])


# What is logged


def logged(module: nn.Module, rule: Any, steps: range, **options: Any) -> Any:
    """The points that are logged, and of each step how many weights train and which blocks are frozen."""
    points, truth = [], {}
    schedule, optimizer = Schedule(rule), torch.optim.SGD(module.parameters())
    log = options.pop("log", lambda values, step: points.append((step, values)))
    schedule.begin(module, [optimizer], steps_per_epoch=EPOCH, steps=STEPS, log=log, **options)
    for now in steps:
        schedule.enter(step=now)
        frozen = frozen_names(module)
        counts = {name: parameter.numel() for name, parameter in module.named_parameters()}
        truth[now] = {"freezing/trainable": sum(counts[name] for name in counts if name not in frozen)}
        for block in ("embed", "layers.0", "layers.1", "layers.2", "layers.3", "head"):
            own = [name for name in counts if name.startswith(f"{block}.")]
            share = sum(counts[name] for name in own if name in frozen) / sum(counts[name] for name in own)
            truth[now][f"frozen/{block}"] = pytest.approx(share)
    schedule.end()
    return points, truth


@beyond_the_end
@settings(max_examples=15)
@given(rule=rules, first=st.integers(0, STEPS - 1))
def test_what_is_logged_tells_what_is_frozen_in_each_step(rule: Any, first: int) -> None:
    """Each point is true, and between two points nothing changes, or they are a step apart: curves have no slopes."""
    points, truth = logged(network(), rule, range(first, STEPS))
    shown = {step: {name: value for name, value in values.items() if "share" not in name} for step, values in points}
    assert [step for step, _ in points] == sorted(shown)
    assert {first, STEPS - 1} <= set(shown)
    assert all(values == truth[step] for step, values in shown.items())
    for one, other in pairwise(shown):
        assert other == one + 1 or all(truth[step] == truth[one] for step in range(one, other + 1))
    assert all(values["freezing/trainable_share"] <= 1 for _, values in points)


def test_the_arithmetic_that_is_logged_is_that_of_cost() -> None:
    module, example = network(), torch.randn(2, WIDTH)
    frozen = {0: [], 4: ["embed", "layers.0"], 8: ["layers.3.second"]}
    points, _ = logged(module, {f"{step}it": patterns for step, patterns in frozen.items()}, range(10), example=example)
    saved = {step: values["freezing/arithmetic_saved"] for step, values in points}
    assert saved[0] == saved[3] == 0
    assert saved[4] == saved[7] == pytest.approx(1 - cost(module, example, select(module, *frozen[4])).share)
    assert saved[8] == saved[9] == pytest.approx(1 - cost(module, example, select(module, *frozen[8])).share)
    assert saved[4] > 4 * saved[8] > 0


def test_logging_changes_no_bit_of_training() -> None:
    """Weights, statistics, gradients and random numbers; and it trains what it is to train."""
    ends = []
    for options in ({}, {"log": lambda values, step: None, "example": torch.randn(2, WIDTH)}):
        module = seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3)), 0)
        optimizer = OPTIMIZERS["AdamW"](list(module.parameters()))
        schedule = Schedule({0: ["0"], "3it": ["3"], "5it": []}, statistics="frozen")
        schedule.begin(module, [optimizer], **options)
        torch.manual_seed(1)
        for now in range(7):
            schedule.enter(step=now)
            module(torch.randn(4, WIDTH)).square().mean().backward()
            optimizer.step()  # gradients add up: what is counted in between leaves them alone
        ends.append((bits(copied(module)), torch.get_rng_state().tolist(), module.training))
    assert ends[0] == ends[1]


def test_tensorboard_shows_what_was_logged(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        logged(network(), {0: ["embed"], "5it": []}, range(8), log=tensorboard(writer))
    read = events.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in read.Scalars("frozen/embed")] == [(0, 1), (4, 1), (5, 0), (7, 0)]
    assert len(read.Tags()["scalars"]) == 8


def test_what_is_frozen_by_hand_is_recorded_too() -> None:
    points: list[Any] = []
    module = network()
    recorder = Recorder(module, lambda values, step: points.append((step, values)), torch.randn(2, WIDTH))
    freeze(module, "layers.1")
    recorder.record(2)
    thaw(module)
    with hold(module, entries(module, {"head.weight": torch.eye(WIDTH)})):
        recorder.record(9)
    recorder.close(9)
    assert [step for step, _ in points] == [2, 8, 9]
    (_, first), (_, before), (_, last) = points
    assert first == before
    assert {name for name, value in first.items() if value == 1} == {"frozen/layers.1"}
    assert last["freezing/trainable"] == WIDTH
    assert 0 < last["frozen/head"] < 1 == last["frozen/embed"]


def test_what_cannot_be_logged_is_refused_before_training() -> None:
    module, log = network(), lambda values, step: None
    optimizer = torch.optim.SGD(module.parameters())
    schedule = Schedule({0: ["head"]})
    with pytest.raises(BadRequest, match="the network does not take the example: RuntimeError: mat1 and mat2"):
        schedule.begin(module, [optimizer], log=log, example=torch.randn(2, WIDTH + 1))
    with pytest.raises(BadRequest, match="no arithmetic is counted in this network"):
        Recorder(nn.LayerNorm(4), log, torch.randn(2, 4))
    schedule = Schedule(Plateau([["head"], []], "loss"))
    schedule.begin(module, [optimizer], log=log)
    with pytest.raises(BadRequest, match="what is logged is of a step or an epoch: call enter"):
        schedule.enter()
    assert not frozen_names(module)
