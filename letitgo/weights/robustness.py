"""Which layers of a trained network matter? ZBS19's two questions, asked of any module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import nan, sqrt
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from letitgo.errors import BadRequest, nearest, typed
from letitgo.value import derive
from letitgo.weights.graft import distance
from letitgo.weights.hold import helds, suspended
from letitgo.weights.layers import layers as layers_of
from letitgo.weights.layers import named_in, owner
from letitgo.weights.select import Selection, chosen_of, select
from letitgo.weights.sharded import refuse_sharded
from letitgo.weights.state import State, check_draws, drawing_from, initial_state, seeded
from letitgo.weights.statistics import re_estimate
from letitgo.weights.units import By, with_norms
from letitgo.weights.units import units as units_of

if TYPE_CHECKING:
    from pandas import DataFrame


def robustness(
    model: nn.Module,
    evaluate: Callable[[nn.Module], Any],
    donor: Mapping[str, Tensor] | Callable[[], nn.Module] | None = None,
    layers: Selection | str | Sequence[str] | None = None,
    draws: int = 1,
    seed: int = 0,
    init: Callable[[nn.Module], Any] | None = None,
    statistics: Literal["as is", "re-estimate"] = "as is",
    batches: Iterable[Any] | None = None,
    progress: bool = True,
    blocks: str | Sequence[str] = (),
    by: By = "layer",
    skip: bool = False,
) -> DataFrame:
    """Put each layer of a trained network back to its initial weights, or draw it afresh, and evaluate.

    One layer at a time, all others as trained, nothing trained further (ZBS19, arXiv:1902.01996). Afterwards the model
    is what it was to the bit: parameters, buffers, gradients, ``requires_grad``, modes, the same objects, also where
    ``evaluate`` raises or changes them itself. Nothing is drawn from the caller's random state.

    Args:
        model: The trained network, on any device.
        evaluate: Called with the model, gives one number, **larger is better**. It finds the modes as they are, so it
            calls ``model.eval()`` itself; whatever it changes in the model is put back before the next layer.
        donor: Initial weights, as :func:`initial_state` or a copy made before training gives them (buffers may be
            missing): layers are put back to these. Or the factory that builds the network: layers are redrawn from
            its own law, as ``initial_state(donor, derive(seed, "rerandomised", draw))`` draws them.
        layers: A selection, or patterns as :func:`select` takes them; everything by default. Where only some of a
            layer's parameters are chosen, only those change.
        draws: Fresh draws of each layer; 0 for none.
        seed: A draw without a factory is a function of (seed, layer, draw) alone, on whatever device the model is.
        init: Draws the parameters of a module in place. Without a factory as donor a
            layer is redrawn by its module's ``reset_parameters``, then by ``init``, as in ``network.apply(init)``.
            Where networks initialise themselves in another way, as those of ``transformers`` do, ``reset_parameters``
            is not their law: give a factory or ``init``.
        statistics: ``"as is"``: running statistics of normalization layers stay the trained network's.
            ``"re-estimate"``: they are averaged anew over ``batches`` before a changed network is evaluated.
        batches: Inputs as the model takes them, readable more than once; for ``"re-estimate"`` only.
        progress: Show a bar where stderr is a terminal.
        blocks: Patterns of modules, as ``letitgo map --blocks`` takes them: the chosen layers in each are one unit,
            which is put back and redrawn as a whole, under the module's name.
        by: What a unit is: a ``"layer"``, the norm that belongs to it included; a ``"block"`` of the network's; or each
            ``"module"`` that owns parameters by itself, norms too. With patterns as ``layers``, a norm is chosen with
            its layer unless units are modules; a selection is taken as it is.
        skip: Also leave out each unit, as Veit, Wilber and Belongie (arXiv:1605.06431) leave out residual blocks: its
            input is passed on in place of its output. Needs ``by="block"`` or ``blocks``.

    Returns:
        One row for the trained network (``baseline``), then one per unit left out (``skipped``), per layer put back
        (``reinitialised``) and per layer and draw (``rerandomised``). ``layer``; ``intervention``; ``draw``, from 0;
        ``parameters``, how many weights changed hands or were left out; ``score``; ``drop``, the baseline's score minus
        this one's; ``distance_l2``, from the trained weights, divided by the square root of their number;
        ``distance_linf``, the largest difference. A score that is NaN stays so. It is NaN where a unit cannot be
        skipped: it gives another shape than it takes, or is not called as a module.

    A weight behind ``torch.nn.utils.parametrizations`` is taken from a donor together with the parametrization's
    buffers. Its module's ``reset_parameters`` does not reach it: it is refused unless ``init`` assigns to it.

    Raises:
        BadRequest: The model is spread over processes; the donor does not fit or shares its tensors with the model;
            neither ``reset_parameters`` nor ``init`` draws a parameter; there is nothing to do; ``evaluate`` gives no
            number; ``skip`` without blocks.
    """
    refuse_sharded(model, "robustness")
    _check_skip(skip, by, blocks)
    owned = _chosen(model, layers, by)
    units = units_of(model, owned, by, [blocks] if isinstance(blocks, str) else blocks)
    chosen = {unit: tuple(name for layer in own for name in owned[layer]) for unit, own in units.items()}
    donor = _checked(model, evaluate, donor, draws, init, statistics, batches, skip)
    tensors, modules = _tensors(model), dict(model.named_modules())
    moved = {layer: _with_parametrization(model, names) for layer, names in chosen.items()}
    undone = remembered(model)

    def drawn(unit: str, draw: int) -> tuple[State, list[str]]:
        fresh, undrawn = dict[str, Tensor](), list[str]()
        for layer in units[unit]:
            with undone(), drawing_from(seed, layer, draw):
                own, left = _redrawn(model, _with_parametrization(model, owned[layer]), owned[layer], init)
            fresh, undrawn = fresh | own, undrawn + left
        return fresh, undrawn

    def sources() -> Iterator[tuple[str, str, int | None, Mapping[str, Tensor]]]:
        yield "all", "baseline", None, {}
        yield from ((unit, "skipped", None, {}) for unit in chosen if skip)
        if isinstance(donor, Mapping):
            for layer in chosen:
                yield layer, "reinitialised", None, donor
        for draw in range(draws):
            whole = initial_state(donor, derive(seed, "rerandomised", draw)) if callable(donor) else {}
            for layer in chosen:
                yield layer, "rerandomised", draw, _renamed(model, whole) or drawn(layer, draw)[0]

    def measured(layer: str, intervention: str, draw: int | None, source: Mapping[str, Tensor]) -> dict[str, Any]:
        names = chosen[layer] if source else ()
        trained = {name: tensors[name].detach().cpu().clone() for name in names}
        left_out = modules.get(layer, nn.Module()) if intervention == "skipped" else None
        with undone(), _passed_by(left_out) as passed:
            with torch.no_grad():
                for name in moved[layer] if source else ():
                    tensors[name].copy_(source[name])
            apart = distance(trained, {name: tensors[name].detach().cpu() for name in names}, names)
            if intervention != "baseline" and batches is not None:
                with drawing_from(seed, "statistics"):
                    re_estimate(model, batches)
            score = number(evaluate(model))
        return {
            "layer": layer,
            "intervention": intervention,
            "draw": draw,
            "parameters": apart["count"]
            if source
            else sum(p.numel() for p in (model if left_out is None else left_out).parameters()),
            "score": score if passed and all(passed) else nan,
            "distance_l2": sqrt(apart["squares"] / max(apart["count"], 1)),
            "distance_linf": apart["largest"],
        }

    if donor is not None:
        _check_fit(donor if isinstance(donor, Mapping) else _renamed(model, _built(donor, seed)), tensors, moved)
    if callable(donor):
        check_draws(donor, "the factory given as donor")
    elif draws:
        _check_laws([name for layer in chosen for name in drawn(layer, 0)[1]])
    rows = []
    with _bar(1 + len(chosen) * (draws + isinstance(donor, Mapping) + skip), progress) as advance:
        for source in sources():
            rows.append(measured(*source))
            advance()
    return _with_drops(rows)


def _check_skip(skip: bool, by: By, blocks: str | Sequence[str]) -> None:
    if skip and by != "block" and not blocks:
        raise BadRequest("skip leaves out blocks: give by='block', or patterns as blocks")


def _with_drops(rows: list[dict[str, Any]]) -> DataFrame:
    from pandas import DataFrame

    frame = DataFrame(rows).astype({"draw": "Int64"})
    frame.insert(5, "drop", frame["score"].iloc[0] - frame["score"])
    return frame


@contextmanager
def _passed_by(module: nn.Module | None) -> Iterator[list[bool]]:
    """Within, a module gives what it takes. Yields whether the shapes fit, call by call; of no module, that they do."""
    passed = [] if module is not None else [True]

    def hook(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
        taken = args[0] if args else next(iter(given.values()), None)
        first, *rest = output if isinstance(output, tuple) and output else (output,)
        fits = isinstance(taken, Tensor) and isinstance(first, Tensor) and taken.shape == first.shape
        passed.append(fits)
        if not fits:
            return output
        return (taken, *rest) if isinstance(output, tuple) else taken

    handle = None if module is None else module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield passed
    finally:
        if handle is not None:
            handle.remove()


def _chosen(model: nn.Module, layers: Selection | str | Sequence[str] | None, by: By) -> dict[str, tuple[str, ...]]:
    """Layer → its chosen parameters, for the layers that have some."""
    if not isinstance(layers, Selection):
        layers = select(model, *([layers] if isinstance(layers, str) else layers or ()))
        layers = layers if by == "module" else with_norms(model, layers)
    layers = chosen_of(model, layers)
    owned = {layer: tuple(name for name in names if name in layers) for layer, names in layers_of(model).items()}
    chosen = {layer: names for layer, names in owned.items() if names}
    if not chosen:
        raise BadRequest("no layer is chosen: the network has no parameters, or the selection holds none")
    return chosen


def _with_parametrization(model: nn.Module, names: tuple[str, ...]) -> list[str]:
    """The parameters and the buffers of their parametrizations, without which they do not say what the weight is."""
    within = tuple(f"{name.rpartition('.')[0]}." for name in names if ".parametrizations." in f".{name}")
    return [*names, *(name for name, _ in model.named_buffers() if name.startswith(within))]


def _checked(
    model: nn.Module,
    evaluate: object,
    donor: Any,
    draws: int,
    init: Any,
    statistics: str,
    batches: Iterable[Any] | None,
    skip: bool,
) -> Any:
    """The donor, a state under the model's own names."""
    check_evaluate(evaluate)
    if isinstance(donor, nn.Module):
        raise BadRequest("donor is a network: give its weights, donor.state_dict(), or the factory that builds it")
    if donor is not None and not isinstance(donor, Mapping) and not callable(donor):
        raise BadRequest(f"donor is {typed(donor)}: it can be a state (tensors by name) or a factory")
    if draws < 0 or (draws == 0 and not isinstance(donor, Mapping) and not skip):
        raise BadRequest(f"draws is {draws}: at least 1 is needed, or 0 with initial weights as donor or with skip")
    if init is not None and callable(donor):
        raise BadRequest("init and a factory are two laws for the same draws: give one of them")
    if statistics not in ("as is", "re-estimate"):
        raise BadRequest(f"statistics is {statistics!r}: it can be 'as is' or 're-estimate'")
    if (statistics == "re-estimate") != (batches is not None):
        raise BadRequest("batches and statistics='re-estimate' go together: give both or neither")
    if isinstance(batches, Tensor):
        raise BadRequest("batches is one tensor: give a list of batches, as in [inputs]")
    if batches is not None:
        with drawing_from("first batch"):  # a loader that shuffles draws
            again = iter(batches)
            first = next(again, None)
        if again is batches:
            raise BadRequest("batches can be read only once: give a list or a loader, since each layer reads them anew")
        if first is None:
            raise BadRequest("batches is empty: no statistics can be estimated")
        if isinstance(first, (tuple, list)):
            raise BadRequest("batches gives tuples: give the inputs alone, as in [inputs for inputs, labels in loader]")
    return _renamed(model, donor) if isinstance(donor, Mapping) else donor


def _renamed(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under the model's own names."""
    own = named_in(model, state)
    return {own[name]: tensor for name, tensor in state.items()}


def _built(factory: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    """What the factory makes, to be looked at."""
    module = seeded(factory, seed, "")
    if not isinstance(module, nn.Module):
        raise BadRequest(f"donor() gives {typed(module)}: a factory returns a torch.nn.Module")
    return module.state_dict(keep_vars=True)


def _check_fit(donor: Mapping[str, Tensor], own: Mapping[str, Tensor], moved: Mapping[str, Sequence[str]]) -> None:
    for name in (name for names in moved.values() for name in names):
        if name not in donor:
            raise BadRequest(f"the donor has no {name!r}: {nearest(name, tuple(donor))}")
        if donor[name].shape != own[name].shape:
            raise BadRequest(
                f"the donor is of another network: its {name!r} has shape {tuple(donor[name].shape)}, "
                f"the model's has {tuple(own[name].shape)}"
            )
        if donor[name].numel() and donor[name].data_ptr() == own[name].data_ptr():
            raise BadRequest(
                f"the donor's {name!r} is the model's own tensor, so it went along in training: "
                "copy the weights before training, as letitgo.weights.copied(model) does"
            )


def _check_laws(undrawn: Sequence[str]) -> None:
    if undrawn:
        raise BadRequest(
            f"nothing draws {', '.join(undrawn)}: the module's reset_parameters and init leave them alone or are not "
            "there; give init or the network's factory as donor, or leave them out (layers, or draws=0)"
        )


def _redrawn(
    model: nn.Module, moved: Sequence[str], parameters: Sequence[str], init: Callable[[nn.Module], Any] | None
) -> tuple[State, list[str]]:
    """A fresh draw of one layer, and which of its parameters nothing was written to. Leaves the model changed."""
    module = model.get_submodule(owner(model, parameters[0]))
    module.to("cpu")  # where the same generator gives the same draw for every device
    with torch.no_grad():
        for name in parameters:
            parameter = model.get_parameter(name)
            if _holds_nan(parameter):
                parameter.fill_(torch.nan)  # what is NaN afterwards was not drawn
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        if init is not None:
            init(module)
    now = _tensors(model)
    undrawn = [name for name in parameters if not _holds_nan(now[name]) or bool(now[name].isnan().any())]
    return {name: now[name].detach().clone() for name in moved}, undrawn


def _tensors(model: nn.Module) -> State:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _holds_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def remembered(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """What is done to the model within the result is undone at its end, to the bit and with the same objects.

    Where the model is held, the optimiser's parameters stay as they are meanwhile.
    """
    for held in helds(model).values():
        held()  # what the optimiser's parameters were given reaches the model now
    modules = [
        (module, module.training, [(slots, dict(slots)) for slots in _slots(module)]) for module in model.modules()
    ]
    parameters = list(model.parameters())
    grads = [parameter.grad for parameter in parameters]
    flags = [parameter.requires_grad for parameter in parameters]
    # Aliases of the storage, for it may be left behind: module.to() and parameter.data = ... give an object another.
    tensors = [*parameters, *model.buffers(), *(grad for grad in grads if grad is not None)]
    aliases = [tensor.data for tensor in tensors]
    saved = [alias.clone() for alias in aliases]

    @contextmanager
    def undone() -> Iterator[None]:
        try:
            with suspended(model):
                yield
        finally:
            for module, training, owned in modules:
                module.training = training
                for slots, before in owned:
                    slots.clear()
                    slots.update(before)
            for tensor, alias, content in zip(tensors, aliases, saved, strict=True):
                tensor.data = alias
                alias.copy_(content)
            for parameter, flag, grad in zip(parameters, flags, grads, strict=True):
                parameter.requires_grad_(flag)
                parameter.grad = grad

    return undone


def _slots(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


def check_evaluate(evaluate: object) -> None:
    """Refuse what cannot be called.

    Raises:
        BadRequest: It cannot.
    """
    if not callable(evaluate):
        raise BadRequest(f"evaluate is {evaluate!r}: give a function that takes the model and returns one number")


def number(score: Any) -> float:
    """What ``evaluate`` gave, as a number.

    Raises:
        BadRequest: It is none.
    """
    if isinstance(score, Tensor) and score.numel() == 1:
        score = score.item()
    if not isinstance(score, Real):
        raise BadRequest(f"evaluate gives {typed(score)}: it has to return one number, larger is better")
    return float(score)


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[], None]]:
    """Yields what to call after each evaluation."""
    if not wanted or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("robustness", total=total)
        yield lambda: bar.advance(task)
