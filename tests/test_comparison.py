"""What ``docs/comparison.md`` says of other ways to freeze, prune and save, each beside what letitgo does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import bits
from lightning.fabric.utilities.throughput import measure_flops
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint, ModelPruning
from lightning.pytorch.utilities.model_summary import ModelSummary
from networks import WIDTH, Tied, WithToken, inputs, step
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import letitgo
from letitgo import BadRequest, freeze, select, thaw
from letitgo.callbacks.lightning import FreezeSchedule
from letitgo.weights import copied, seeded


class Net(pl.LightningModule):
    """A backbone with BatchNorm and dropout, and a head; ``asked`` is whether the backbone trained, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH, momentum=0.3), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH)
        )
        self.head = nn.Linear(WIDTH, 2)
        self.asked: list[bool] = []

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(self.backbone(batch))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        self.asked.append(self.backbone[0].weight.requires_grad)
        return self(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor]) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.1)


def net(seed: int = 0) -> Net:
    return seeded(Net, seed)


def by_flags(module: nn.Module) -> None:
    module.requires_grad_(False)


def moved(module: nn.Module, work: Callable[[], object]) -> set[str]:
    before = bits(copied(module))
    work()
    after = bits(copied(module))
    return {name for name in before if before[name] != after[name]}


def fit(module: Net, folder: Path, epochs: int, *callbacks: pl.Callback, resume: Path | None = None) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[*callbacks, ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(TensorDataset(inputs()), batch_size=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data, data, ckpt_path=resume)
    return trainer


# Frozen


@pytest.mark.parametrize("rival", [by_flags, BaseFinetuning.freeze])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_under_a_live_optimiser_flags_hold_where_gradients_are_none(rival: Any, set_to_none: bool) -> None:
    def moves(freezing: Callable[[nn.Module], None]) -> bool:
        module = net()
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(2):
            step(module, optimizer, set_to_none)
        freezing(module)
        return bool(moved(module.backbone[0], lambda: step(module, optimizer, set_to_none)))

    assert moves(lambda module: rival(module.backbone)) == (not set_to_none)  # type: ignore[arg-type,operator]
    assert not moves(lambda module: freeze(module, select(module, "backbone")))


def test_statistics_and_dropout_of_what_flags_freeze_go_on() -> None:
    module = net()
    module.backbone.eval()
    by_flags(module.backbone)
    module.train()
    assert "1.running_mean" in moved(module.backbone, lambda: module(inputs()))
    assert not torch.equal(module.backbone(inputs()), module.backbone(inputs()))

    module = net()
    freeze(module, select(module, "backbone"), statistics="frozen", dropout="off")
    module.eval()
    module.train()
    assert not moved(module.backbone, lambda: module(inputs()))
    assert torch.equal(module.backbone(inputs()), module.backbone(inputs()))


def test_lightning_trains_batch_norms_unless_told_and_then_normalises_by_the_batch() -> None:
    module = net()
    module.backbone.requires_grad_(False)
    BaseFinetuning.freeze(module.backbone)
    assert module.backbone[1].weight.requires_grad
    assert "1.running_mean" in moved(module.backbone, lambda: module.train()(inputs()))

    norm = net().backbone[1].train()
    BaseFinetuning.freeze(norm, train_bn=False)
    assert not moved(norm, lambda: norm(inputs()))
    assert not torch.allclose(norm(inputs())[:4], norm(inputs()[:4]))

    module = net()
    freeze(module, select(module, "backbone"), statistics="frozen")
    norm = module.train().backbone[1]
    assert not norm.weight.requires_grad
    assert torch.allclose(norm(inputs())[:4], norm(inputs()[:4]))


def test_lightning_leaves_a_backbone_in_evaluation_mode(tmp_path: Path) -> None:
    module = net()
    module.backbone.requires_grad_(False).eval()
    assert not moved(module.backbone, lambda: fit(module, tmp_path, 2))


# Chosen


def test_lightning_freezes_a_token_only_with_its_container() -> None:
    module = WithToken(nn.Linear(WIDTH, WIDTH))
    BaseFinetuning.freeze(module)
    assert not module.cls_token.requires_grad
    with pytest.raises(TypeError):
        BaseFinetuning.freeze(module.cls_token)  # type: ignore[arg-type]

    module = WithToken(nn.Linear(WIDTH, WIDTH))
    freeze(module, select(module, "cls_token"))
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["cls_token"]


def test_only_letitgo_tells_of_ties() -> None:
    for freezing in (by_flags, BaseFinetuning.freeze):
        module = Tied()
        freezing(module.decode)  # type: ignore[operator]
        assert not module.encode.weight.requires_grad

    module = Tied()
    prune.l1_unstructured(module.decode, "weight", 0.5)
    assert module.encode.weight is module.decode.weight_orig
    assert (module.decode.weight == 0).any()
    assert not (module.encode.weight == 0).any()

    with pytest.raises(BadRequest, match=r"decode\.weight is tied to encode\.weight"):
        select(Tied(), "decode.weight")


def test_a_typo(tmp_path: Path) -> None:
    class Other(Net):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = self.backbone
            del self.backbone

    with pytest.raises(AttributeError, match="no attribute 'backbone'"):
        fit(Other(), tmp_path, 1, BackboneFinetuning())
    with pytest.raises(AttributeError, match="no attribute 'wieght'"):
        prune.l1_unstructured(nn.Linear(2, 2), "wieght", 0.5)
    with pytest.raises(BadRequest, match="'bakcbone' matches no layer: did you mean backbone"):
        select(net(), "bakcbone")


def test_single_weights() -> None:
    """A mask on the gradient holds no weight under decay and saves no state; a held part does both."""
    module, mask = nn.Linear(WIDTH, WIDTH), torch.zeros(WIDTH, WIDTH)
    mask[0] = 1
    start = module.weight.detach().clone()
    module.weight.register_hook(lambda gradient: gradient * mask)
    optimizer = torch.optim.AdamW([module.weight], lr=0.1)
    step(module, optimizer)
    assert not torch.equal(module.weight[1:], start[1:])
    assert optimizer.state[module.weight]["exp_avg"].numel() == WIDTH * WIDTH

    module = nn.Linear(WIDTH, WIDTH)
    start = module.weight.detach().clone()
    with letitgo.hold(module, letitgo.entries(module, {"weight": mask})) as held:
        optimizer = torch.optim.AdamW(held.parameters(), lr=0.1)
        step(module, optimizer)
    assert torch.equal(module.weight[1:], start[1:])
    assert not torch.equal(module.weight[0], start[0])
    assert sum(state["exp_avg"].numel() for state in optimizer.state.values()) == WIDTH


# Pruning


def test_pruned_weights_are_zero_the_values_beneath_move_and_after_remove_they_train() -> None:
    module = nn.Linear(WIDTH, WIDTH)
    prune.l1_unstructured(module, "weight", 0.5)
    gone = module.weight_mask == 0
    beneath = module.weight_orig[gone].clone()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.1)
    step(module, optimizer)
    module(inputs())
    assert (module.weight[gone] == 0).all()
    assert not torch.equal(module.weight_orig[gone], beneath)
    assert optimizer.state[module.weight_orig]["exp_avg"].numel() == WIDTH * WIDTH
    prune.remove(module, "weight")
    step(module, torch.optim.AdamW(module.parameters(), lr=0.1))
    assert (module.weight[gone] != 0).any()

    module = nn.Linear(WIDTH, WIDTH)
    kept = letitgo.entries(module, {"weight": ~gone})
    letitgo.zero_out(module, letitgo.entries(module, {"weight": gone}))
    with letitgo.hold(module, kept) as held:
        step(module, torch.optim.AdamW(held.parameters(), lr=0.1, weight_decay=0.1))
    assert (module.weight[gone] == 0).all()


def test_keys_and_objects() -> None:
    module = nn.Linear(WIDTH, WIDTH)
    own = module.weight
    prune.identity(module, "weight")
    assert list(module.state_dict()) == ["bias", "weight_orig", "weight_mask"]
    with pytest.raises(RuntimeError, match="Missing key"):
        nn.Linear(WIDTH, WIDTH).load_state_dict(module.state_dict())
    prune.remove(module, "weight")
    assert [name for name, _ in module.named_parameters()] == ["bias", "weight"]
    assert module.weight is own

    module = nn.Linear(WIDTH, WIDTH)
    own = module.weight
    with letitgo.hold(module, letitgo.fraction(module, 0.5)):
        assert list(module.state_dict()) == ["weight", "bias"]
        assert module.weight is own
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]


def test_copies() -> None:
    module = nn.Linear(WIDTH, WIDTH)
    prune.identity(module, "weight")
    module(inputs())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)

    module = net()
    freeze(module, select(module, "backbone"), statistics="frozen", dropout="off")
    other = copy.deepcopy(module).train()
    assert not moved(other.backbone, lambda: step(other, torch.optim.AdamW(other.parameters(), lr=0.1)))

    single = nn.Linear(WIDTH, WIDTH)
    part = letitgo.fraction(single, 0.5)
    letitgo.hold(single, part)
    loose = copy.deepcopy(single)
    step(loose, torch.optim.AdamW(loose.parameters(), lr=0.1))
    assert not torch.equal(loose.weight[~part.entries["weight"]], single.weight[~part.entries["weight"]])


# Thawed


def test_only_letitgo_remembers_what_was_frozen_before() -> None:
    def flags(module: Net) -> list[bool]:
        return [p.requires_grad for p in module.backbone.parameters()]

    module = net()
    module.backbone[0].bias.requires_grad_(False)
    before = flags(module)
    freeze(module, select(module, "backbone"))
    thaw(module, select(module, "backbone"))
    assert flags(module) == before
    BaseFinetuning.freeze(module.backbone)
    BaseFinetuning.make_trainable(module.backbone)
    assert all(flags(module))


def test_lightning_leaves_out_of_the_optimiser_what_equals_something_in_it() -> None:
    module = nn.Sequential(nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))
    BaseFinetuning.freeze(module[0])
    optimizer = torch.optim.AdamW(module[1].parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="already exist within another group"):
        BaseFinetuning.unfreeze_and_add_param_group(module[0], optimizer)
    assert len(optimizer.param_groups) == 1

    module = nn.Sequential(nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    freeze(module, select(module, "0"))
    thaw(module, select(module, "0"))
    assert moved(module[0], lambda: step(module, optimizer)) == {"weight", "bias"}


class AllHanded(Net):
    """The same with all parameters in the optimiser, as ``FreezeSchedule`` asks."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def test_resumed_after_the_unfreezing_lightning_leaves_the_backbone_frozen(tmp_path: Path) -> None:
    whole = net()
    trainer = fit(whole, tmp_path, 4, BackboneFinetuning(1))
    assert whole.asked == [False] * 2 + [True] * 6
    assert trainer.optimizers[0].param_groups[1]["lr"] < trainer.optimizers[0].param_groups[0]["lr"] * 0.9
    before, after = net(), net()
    fit(before, tmp_path, 4, BackboneFinetuning(1), resume=tmp_path / "epoch=0.ckpt")
    fit(after, tmp_path, 4, BackboneFinetuning(1), resume=tmp_path / "epoch=1.ckpt")
    assert before.asked == [True] * 6
    assert after.asked == [False] * 4

    ours = seeded(AllHanded, 0)
    trainer = fit(ours, tmp_path / "ours", 4, FreezeSchedule({0: ["backbone"], 1: []}))
    assert len(trainer.optimizers[0].param_groups) == 1
    resumed = seeded(AllHanded, 0)
    schedule = FreezeSchedule({0: ["backbone"], 1: []})
    fit(resumed, tmp_path / "ours", 4, schedule, resume=tmp_path / "ours" / "epoch=1.ckpt")
    assert resumed.asked == [True] * 4


def test_no_state_dict_says_what_is_frozen() -> None:
    for ours in (True, False):
        module, other = net(0), net(1)
        freeze(module, select(module, "backbone")) if ours else by_flags(module.backbone)
        other.load_state_dict(module.state_dict())
        assert all(p.requires_grad for p in other.parameters())

    kept = select(net(), "backbone").to_json()
    other = net()
    freeze(other, letitgo.Selection.from_json(kept))
    assert not other.backbone[0].weight.requires_grad


# Saved


def test_what_trained_is_loaded_onto_any_base_by_hand_and_onto_its_own_by_letitgo(tmp_path: Path) -> None:
    base, other = net(0), net(1)
    pristine = copied(base)
    freeze(base, select(base, "backbone"), statistics="frozen")
    step(base, torch.optim.AdamW(letitgo.trainable(base), lr=0.1))
    trained = {name: p for name, p in base.named_parameters() if p.requires_grad}
    assert set(trained) == {"head.weight", "head.bias"}
    net(1).load_state_dict(trained, strict=False)

    letitgo.save(base, tmp_path / "change.safetensors", base=pristine)
    with pytest.raises(BadRequest, match="the base is not the one"):
        letitgo.load(other, tmp_path / "change.safetensors")


def test_checkpoints_of_pruning_grow(tmp_path: Path) -> None:
    module = nn.Linear(64, 64)
    pristine = copied(module)
    torch.save(module.state_dict(), tmp_path / "whole.pt")
    pruned = copy.deepcopy(module)
    prune.l1_unstructured(pruned, "weight", 0.9)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    with torch.no_grad():
        module.weight[:6] += 1
    letitgo.save(module, tmp_path / "change.safetensors", base=pristine)
    size = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert size["pruned"] > 1.8 * size["whole"]
    assert size["change"] < 0.2 * size["whole"]


# Told


def test_cost_is_the_same_count_as_lightnings() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))
    freeze(module, select(module, "0", "2"))
    theirs = measure_flops(module, lambda: module(inputs()), lambda outputs: outputs.square().mean())
    ours = letitgo.step_cost(module, inputs())
    assert theirs == len(inputs()) * (ours.forward + ours.backward)
    assert ours.step == ours.forward + ours.backward - ours.prefix < ours.forward + ours.backward


def test_lightning_counts_no_lstm_on_a_cpu() -> None:
    class Recurrent(nn.LSTM):
        def forward(self, batch: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(batch.unsqueeze(1))[0]

    module = Recurrent(WIDTH, WIDTH)
    assert measure_flops(module, lambda: module(inputs())) == 0
    assert letitgo.step_cost(module, inputs()).forward > 0


def test_status() -> None:
    module = net()
    module.backbone[0].bias.requires_grad_(False)
    summary = ModelSummary(module, max_depth=-1)
    assert summary.total_parameters - summary.trainable_parameters == WIDTH
    assert "irregular" not in str(summary)

    rows = {row.layer: row for row in letitgo.status(module).rows}
    assert rows["backbone.0"].status == "partial"
    with letitgo.hold(module, letitgo.fraction(module, 0.5, within=select(module, "head"))):
        assert letitgo.status(module).trainable == WIDTH + 1


def test_cost_of_a_choice_is_told_before_it_is_made() -> None:
    module = net()
    told = letitgo.cost(module, inputs(), select(module, "backbone"))
    assert all(p.requires_grad for p in module.parameters())
    assert 0 < told.frozen.backward < told.thawed.backward


def test_structured_masks_and_a_schedule_of_pruning_are_there_and_not_here(tmp_path: Path) -> None:
    module = nn.Linear(WIDTH, WIDTH)
    prune.ln_structured(module, "weight", 0.5, n=2, dim=0)
    assert ((module.weight == 0).all(1).sum()) == WIDTH // 2

    trained = net()
    fit(trained, tmp_path, 1, ModelPruning("l1_unstructured", [(trained.head, "weight")], amount=0.5))
    assert (trained.head.weight == 0).sum() == WIDTH
    assert not hasattr(letitgo.callbacks, "PruneSchedule")


# peft and timm, where they are installed


@pytest.fixture
def peft() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("peft")


def test_peft_changes_keys_and_gives_them_back_frozen(peft: Any) -> None:
    module = net().backbone
    keys, objects = list(module.state_dict()), [id(p) for p in module.parameters()]
    adapted = peft.get_peft_model(module, peft.LoraConfig(target_modules=["0"], r=2))
    assert list(module.state_dict())[:2] == ["0.base_layer.weight", "0.base_layer.bias"]
    touched = moved(module, lambda: step(adapted, torch.optim.AdamW(adapted.parameters(), lr=0.1)))
    lora = {"0.lora_A.default.weight", "0.lora_B.default.weight"}
    assert touched - lora == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert touched & lora
    assert adapted.train().base_model.model[2].training
    copy.deepcopy(adapted)
    back = adapted.unload()
    assert (list(back.state_dict()), [id(p) for p in back.parameters()]) == (keys, objects)
    assert not any(p.requires_grad for p in back.parameters())


def test_peft_refuses_when_no_target_matches_and_not_when_one_does(peft: Any) -> None:
    with pytest.raises(ValueError, match="not found in the base model"):
        peft.get_peft_model(net().backbone, peft.LoraConfig(target_modules=["9"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.get_peft_model(net().backbone, peft.LoraConfig(target_modules=["0", "9"], modules_to_save=["haed"]))


def test_peft_saves_the_adapter_alone_and_loads_it_onto_another_base(peft: Any, tmp_path: Path) -> None:
    adapted = peft.get_peft_model(net(0).backbone, peft.LoraConfig(target_modules=["0"], r=1))
    adapted.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == 2 * WIDTH
    again = peft.PeftModel.from_pretrained(net(1).backbone, tmp_path, is_trainable=True)
    assert sum(p.numel() for p in again.parameters() if p.requires_grad) == 2 * WIDTH


def test_peft_trains_single_weights_of_linear_layers(peft: Any) -> None:
    adapted = peft.get_peft_model(net().backbone, peft.ShiraConfig(target_modules=["0"], r=1))
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 2 * WIDTH
    with pytest.raises(TypeError, match="not supported"):
        peft.get_peft_model(nn.Sequential(nn.Conv2d(1, 2, 3)), peft.ShiraConfig(target_modules=["0"], r=1))


def test_peft_tells_of_adapter_layers(peft: Any) -> None:
    adapted = peft.get_peft_model(net().backbone, peft.LoraConfig(target_modules=["0"], r=1))
    assert [layer.name for layer in adapted.get_layer_status()] == ["model.0"]


def test_timm_replaces_batch_norms() -> None:
    utils: Any = pytest.importorskip("timm.utils.model")

    def pictures() -> nn.Module:
        return nn.ModuleDict({"a": nn.Conv2d(1, 2, 3), "b": nn.BatchNorm2d(2, momentum=0.3), "c": nn.BatchNorm1d(2)})

    module = pictures()
    keys, own = list(module.state_dict()), module["b"].weight
    utils.freeze(module, ["a", "b"])
    module.train()
    assert not moved(module["b"], lambda: module["b"](torch.randn(4, 2, 3, 3)))
    assert set(keys) - set(module.state_dict()) == {"b.num_batches_tracked"}
    assert not list(module["b"].parameters())
    utils.unfreeze(module, ["a", "b"])
    assert list(module.state_dict()) == keys
    assert module["b"].weight is not own
    assert module["b"].momentum == 0.1

    everything = pictures()
    utils.freeze(everything, [])
    assert not any(p.requires_grad for p in everything.parameters())
    assert "running_mean" in moved(everything["c"], lambda: everything["c"](torch.randn(4, 2)))
    with pytest.raises(AttributeError, match="is not an nn"):
        utils.freeze(WithToken(nn.Linear(2, 2)), ["cls_token"])
