"""Devices, of which there is none here: what runs on a pretended one gives the bits of the CPU and mixes nothing."""

from __future__ import annotations

import json
import os
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import baseline, bits, freezing, small_recipe
from pretended import Mixed, numbers, pretended
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import letitgo
from letitgo import Advisers, Dimension, Evaluation, Executor, Finetune, Fraction, Map, Place, Recipe, Ticket, Train
from letitgo.catalogue.contents import contents, run_rows
from letitgo.cli.main import run
from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute.cluster import RayExecutor, on_ray
from letitgo.execute.executor import default_workers
from letitgo.execute.jobs import measure, plan_jobs
from letitgo.execute.training import carry_out
from letitgo.plan.advice import Fisher
from letitgo.store import Store, open_store
from letitgo.studies.compute import compute, estimate
from letitgo.training import place as places
from letitgo.training.optimizer_state import pack
from letitgo.version import other_versions, versions
from letitgo.weights import state
from letitgo.weights.projections import draw

TINY: dict[str, Any] = {"widths": "8", "examples": 200, "test_examples": 100, "epochs": 1}


def tiny(**fields: Any) -> Recipe:
    return small_recipe(**TINY | fields)


def convolving(**fields: Any) -> Recipe:
    """A residual network with the norms, the pooling and the augmentation of the papers."""
    data: Any = {"data": "digits", "examples": 40, "test_examples": 30, "batch_size": 20}
    return tiny(model="resnet20", widths=None, **data, augment="flip+crop", **fields)


STUDIES: dict[str, Any] = {
    "a map": lambda: Map((tiny(validation=30),), seeds=1, freeze_at=(0, 1)[:1], reinit_at=(0,), draws=1),
    "convolutions": lambda: Train((convolving(),), freeze=("conv1", "layer1.0")),
    "channels last": lambda: Train((convolving(memory_format="channels-last"),)),
    "statistics": lambda: Train((tiny(model_args={"norm": True}),), freeze=("fc1",), statistics="re-estimate"),
    "single weights": lambda: Fraction((tiny(),), seeds=1, shares=(0.5,), only=("biases",), select="test"),
    "masks and a curve": lambda: Ticket((tiny(validation=50),), seeds=1, levels=1),
    "a subspace": lambda: Dimension((tiny(),), seeds=1, grid=(20,), kind="fastfood"),
    "a sparse subspace with scales": lambda: Dimension((tiny(),), seeds=1, grid=(20,), kind="sparse", said=True),
    "what rules read": lambda: Advisers((tiny(depth=2, model_args={"norm": True}),), seeds=2),
    "gradients": lambda: Finetune((tiny(),), seeds=1, pretrained="digits", select="test", layers=("fc2",)),
    "an optimiser with much state": lambda: Train(
        (tiny(optimizer="adamw", label_noise=0.5, clip=0.1, half="a", shift="permute-pixels"),)
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_on_a_device_gives_the_bits_of_the_cpu_and_mixes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Fisher, "_examples", 10)  # one at a time, and each operation takes long
    study = STUDIES[name]()
    here = compute(study, tmp_path / "here")
    with numbers() as device:
        there = compute(study, tmp_path / "there", place=pretended())
    assert not here.failures
    assert [failure.trace for failure in there.failures] == []
    assert device.operations > 500
    if name == "channels last":  # the strides of some passing results differ, and with them the order of sums
        assert there.rows[0]["loss"] == pytest.approx(here.rows[0]["loss"], rel=1e-4)
    else:
        assert there.rows == here.rows


def test_a_pretended_device_refuses_what_a_gpu_would():
    with numbers(), pytest.raises(Mixed):
        torch.arange(3).to("meta").index_select(0, torch.tensor([0]))
    with numbers():
        assert (torch.arange(3).to("meta") * torch.tensor(2)).tolist() == [0, 2, 4]


def test_a_live_task_is_handed_over_on_the_device_and_its_batches_follow(tmp_path):
    data = TensorDataset(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3)
    loader = DataLoader(data, 20)

    def outcome(store: str, **where: Any) -> letitgo.Outcome:
        return letitgo.map(linear, loader, loader, epochs=1, seeds=1, store=tmp_path / store, draws=1, **where)

    here = outcome("here")
    with numbers() as device:
        there = outcome("there", place=pretended())
    assert device.operations
    assert not there.failures
    assert there.rows == here.rows


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def test_a_run_resumed_on_a_device_is_the_uninterrupted_one_and_no_other_devices_point_is_gone_on_from(tmp_path):
    recipe = tiny(epochs=4, optimizer="adam", model="test_devices:dropping", widths=None)
    whole, first = Store(tmp_path / "whole"), Store(tmp_path / "first")
    base, steps = baseline(recipe), [5, 16]
    seen: list[int] = []
    with numbers():
        carry_out(base, whole, steps, pretended())
        carry_out(base, first, steps[:1], pretended())
        carry_out(base, first, steps[1:], pretended(), seen.append)
        assert seen[0] == 6
        assert bits(base.at(16).load(first)) == bits(base.at(16).load(whole))
        late = freezing(base, "3", start=base.at(5), begin=5, resume=True)
        carry_out(late, first, steps[1:], pretended())
        seen.clear()
        mixed = Store(tmp_path / "mixed")
        carry_out(base, mixed, steps[:1])
        carry_out(base, mixed, steps[1:], pretended(), seen.append)
    assert seen[0] == 1


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10))


def test_what_was_drawn_for_a_subspace_has_one_digest_on_all_devices():
    for kind in ("dense", "sparse", "fastfood"):
        projection = draw(kind, 5000, 40, 0)
        before = bits(projection.drawn)
        with numbers():
            projection.to(torch.device("meta"))
            assert bits(projection.drawn) == before


def test_generators_of_devices_in_use_are_seeded_and_put_back(monkeypatch):
    of_device = torch.Generator().manual_seed(1)
    before = of_device.get_state()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", (of_device,))
    draws = []
    for _ in range(2):
        with state.drawing_from("a step"):
            draws.append(torch.rand(3, generator=of_device).tolist())
            torch.rand(3, generator=of_device)
    assert draws[0] == draws[1]
    assert torch.equal(of_device.get_state(), before)


class TestPlaces:
    def test_auto_takes_the_first_that_is_there(self, monkeypatch):
        assert Place("auto").device == "cpu"
        monkeypatch.setattr(places, "_count", lambda kind: {"cuda": 0, "mps": 1, "cpu": 1}[kind])
        assert Place("auto").device == "mps"
        monkeypatch.setattr(places, "_count", lambda kind: 2)
        assert Place("auto").device == "cuda"

    @pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "meta"])
    def test_what_is_no_device_is_refused(self, device):
        with pytest.raises(BadRequest, match=r"device is '.*': give auto, cpu, cuda, cuda:1"):
            Place(device)

    def test_a_device_that_is_not_there_is_refused_before_anything_starts(self, monkeypatch, tmp_path, capsys):
        for device in ("cuda", "mps"):
            assert run(["train", "--device", device, "--store", str(tmp_path)]) == 2
            assert f"device is '{device}'" in (said := capsys.readouterr().err)
            assert said.count("\n") == 1
            with pytest.raises(BadRequest):
                Executor(Store(tmp_path), place=Place(device))
        monkeypatch.setattr(places, "_count", lambda kind: 2)
        Place("cuda:1").check()
        with pytest.raises(BadRequest, match="2 cuda devices"):
            Place("cuda:2").check()

    def test_workers_share_out_the_gpus(self, monkeypatch):
        monkeypatch.setattr(places, "_count", lambda kind: 2)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert [each.device for each in Place("cuda", 3).spread(3)] == ["cuda:0", "cuda:1", "cuda:0"]
        assert Place("cuda:1").spread(2) == [Place("cuda:1")] * 2
        assert Place().spread(2) == [Place()] * 2
        assert [default_workers(Place(device)) for device in ("cuda", "cuda:1", "mps")] == [2, 1, 1]

    def test_on_cuda_what_would_vary_is_switched_off_and_then_as_it_was(self, monkeypatch):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "device", nullcontext)
        backend = torch.backends.cudnn

        def flags() -> tuple[Any, ...]:
            return backend.enabled, backend.benchmark, backend.deterministic, backend.allow_tf32

        with backend.flags(True, benchmark=True, deterministic=False, allow_tf32=True):
            with places._as_cuda_repeats_itself("cuda:1"):
                assert flags() == (True, False, True, False)
                assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            assert flags() == (True, True, False, True)


class TestRay:
    def test_jobs_reserve_gpus_and_are_sent_to_cuda(self, store):
        (job,) = plan_jobs([baseline(small_recipe()).final], store)
        for executor, share in ((RayExecutor(store, place=Place("cuda")), 1), (RayExecutor(store, gpus=0.25), 0.25)):
            assert executor.needs_of(job)["num_gpus"] == share
            assert executor.request(job)["place"]["device"] == "cuda"
        assert RayExecutor(store).needs_of(job)["num_gpus"] == 0

    @pytest.mark.parametrize(
        ("device", "gpus", "says"),
        [
            ("cuda", 0.0, "gpus is 0"),
            ("cpu", 2.0, "gpus is 2"),
            ("cpu", -1.0, "gpus is -1"),
            ("cuda:1", None, "on Ray"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, device, gpus, says):
        with pytest.raises(BadRequest, match=says):
            on_ray(Place(device), gpus)

    def test_gpus_are_for_ray(self, capsys):
        assert run(["train", "--gpus", "1"]) == 2
        assert "add --on ray" in capsys.readouterr().err


class TestMarks:
    def test_another_device_or_gpu_or_cuda_is_named(self, monkeypatch):
        of_cpu = versions()
        assert "device" not in of_cpu
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "ACME 9")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        here = versions("cuda")
        assert (here["device"], here["cuda"]) == ("ACME 9", "13.0")
        assert other_versions(here, "cuda:1") == ""
        assert other_versions({**here, "cpu": "ABACUS"}, "cuda") == ""
        assert other_versions(here) == "device ACME 9"
        assert other_versions(of_cpu, "cuda") == other_versions({}, "cuda") == "device cpu"
        assert other_versions({**here, "device": "ACME 8", "torch": "1.0"}, "cuda") == "torch 1.0, device ACME 8"
        assert other_versions({**here, "cuda": "12.0"}, "cuda") == "cuda 12.0"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the driver of a cluster
        assert other_versions(here, "cuda") == ""
        assert other_versions(of_cpu, "cuda") == "device cpu"

    def test_a_study_that_mixes_devices_says_so_and_replaces_on_request_once(self, tmp_path):
        study = Train((tiny(),))
        store = open_store(tmp_path / "store")
        compute(study, store)
        with numbers():
            mixed = compute(study, store, place=pretended())
            assert list(mixed.usage.other_versions) == ["device cpu"]
            assert mixed.versions["device"] == "meta"
            again = compute(study, store, place=pretended(), recompute_other_versions=True)
        assert again.usage.other_versions == {}
        assert [row["other_versions"] for row in run_rows(store, contents(store), {})] == ["device meta"]
        replaced = Store(store.root, recompute_other_versions=True, device="meta")
        assert estimate(study, replaced, 0).runs_stored == 1


class TestMemory:
    ERRORS = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                     "tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB). Tried to allocate 1.00 GB on private pool."),
        MemoryError(),
    )  # fmt: skip

    @pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "mps", "python"])
    def test_out_of_memory_says_what_to_lower(self, error):
        with pytest.raises(WorkFailed, match=r"^out of memory on cpu.*: lower batch-size or workers, or take"):  # noqa: SIM117
            with Place().entered():
                raise error

    def test_a_job_that_is_out_of_memory_fails_with_the_sentence(self, store):
        (failure,) = Executor(store).compute([baseline(tiny(model="test_devices:vast", widths=None)).final])
        assert failure.why == (
            f"out of memory on cpu (tried to allocate {1 << 60} bytes): lower batch-size or workers, or take "
            "precision bf16"
        )

    def test_other_errors_stay_what_they_are(self):
        with pytest.raises(RuntimeError, match=r"^out of luck"), Place().entered():
            raise RuntimeError("out of luck")


class Vast(nn.Linear):
    def forward(self, inputs):
        if len(inputs) > 10:  # not where operations are counted
            torch.empty(1 << 60, dtype=torch.uint8)
        return super().forward(inputs.flatten(1))


def vast() -> nn.Module:
    return Vast(64, 10)


class Looking(nn.Module):
    """Notes the type of what its layers give."""

    seen: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, inputs):
        hidden = self.fc1(inputs.flatten(1))
        Looking.seen += (str(hidden.dtype),)
        return self.fc2(hidden.relu())


class TestPrecision:
    def test_it_is_in_the_key_where_it_is_not_the_default(self):
        usual, other = tiny(), tiny(precision="bf16", memory_format="channels-last")
        assert "precision" not in usual.identity()
        assert (other.identity()["precision"], other.identity()["memory_format"]) == ("bf16", "channels-last")
        start = baseline(usual).start
        measures = [Evaluation.under(recipe, start, "test") for recipe in (usual, other)]
        assert measures[0].key == Evaluation(start, usual.dataset, "test").key != measures[1].key

    def test_forward_passes_are_in_bf16_in_training_and_evaluation_and_weights_stay(self, store):
        recipe = tiny(precision="bf16", model="test_devices:Looking", widths=None, optimizer="adam", validation=20)
        run = baseline(recipe)
        Looking.seen = ()
        carry_out(run, store, [recipe.steps])
        trained = set(Looking.seen)
        Looking.seen = ()
        measure(test := Evaluation.under(recipe, run.final, "test"), store)
        assert trained == set(Looking.seen) == {"torch.bfloat16"}
        assert {tensor.dtype for tensor in run.final.load(store).values()} == {torch.float32}
        assert {tensor.dtype for tensor in run.final.optimizer(store)[0].values()} == {torch.float32}
        plain = Evaluation(run.final, recipe.dataset, "test")
        measure(plain, store)
        assert 0 < abs(plain.result(store)["loss"] - test.result(store)["loss"]) < 0.1

    def test_a_stopped_run_is_the_uninterrupted_one_and_what_is_frozen_stays(self, tmp_path):
        recipe = tiny(precision="bf16", epochs=2)
        run = freezing(baseline(recipe), "fc1")
        stores = [Store(tmp_path / name) for name in "ab"]
        carry_out(run, stores[0], [recipe.steps])
        for step in (3, recipe.steps):
            carry_out(run, stores[1], [step])
        assert bits(run.final.load(stores[0])) == bits(run.final.load(stores[1]))
        start = run.start.load(stores[0])
        assert torch.equal(run.final.load(stores[0])["fc1.weight"], start["fc1.weight"])

    @pytest.mark.parametrize("caller", [nullcontext(), torch.autocast("cpu", torch.bfloat16)], ids=["none", "bf16"])
    def test_an_autocast_inside_a_place_sees_what_training_moves_wherever_the_caller_is(self, caller):
        layer, inputs = nn.Linear(4, 4), torch.ones(1, 4)
        with caller:
            with Place().entered():
                assert layer(inputs).dtype == torch.float32
                seen = []
                for _ in range(2):
                    with torch.autocast("cpu", torch.bfloat16):
                        seen.append(layer(inputs))
                    with torch.no_grad():
                        layer.weight.add_(1)
            assert layer(inputs).dtype == (torch.float32 if isinstance(caller, nullcontext) else torch.bfloat16)
        assert not torch.equal(*seen)
        assert torch.autocast_increment_nesting() == 1
        torch.autocast_decrement_nesting()

    def test_the_command_takes_both(self, tmp_path, capsys):
        fields = ["--epochs", "1", "--widths", "8", "--examples", "100", "--model-args", "{}"]
        options = ["--precision", "bf16", "--memory-format", "channels-last", "--device", "auto", "--workers", "0"]
        assert run(["train", *fields, *options, "--report", "none", "--format", "json", "--store", str(tmp_path)]) == 0
        (recipe,) = json.loads(capsys.readouterr().out)["recipes"]
        assert (recipe["precision"], recipe["memory_format"]) == ("bf16", "channels-last")

    def test_images_lie_channels_last_in_training(self, store):
        place = Place()
        module = place.bring(convolving().network(), "channels-last")
        weight = next(p for p in module.parameters() if p.ndim == 4 and min(p.shape) > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
        assert pack(optimizer, module)[0] == {}


def test_the_benchmark_for_gpus_runs_on_the_cpu(capsys, monkeypatch):
    script = str(Path(__file__).parent.parent / "benchmarks" / "gpu.py")
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.syspath_prepend(str(Path(script).parent))
    with pytest.raises(SystemExit) as left:
        runpy.run_path(script, run_name="__main__")
    assert not left.value.code
    assert "no GPU here" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [script, "--device", "cpu", "--quick"])
    runpy.run_path(script, run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("| yes |") == 10
    assert "**no**" not in said
