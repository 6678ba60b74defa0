"""Cached features: the outputs at the cut of any network, computed once per example, and training on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from xxhash import xxh3_128

from letitgo.errors import BadRequest, WorkFailed, typed
from letitgo.value import canonical, sha256
from letitgo.weights.coding import raw
from letitgo.weights.cut import BATCH, RANDOM, Cut, find_cut, takes_features
from letitgo.weights.layers import parameter_names
from letitgo.weights.prefix import PREFIX_BYTES
from letitgo.weights.sealed import digests, dtype, open_tensors, own_versions
from letitgo.weights.state import drawing_from, same_modes
from letitgo.whole import replaced

KEY = "cached_features"
"""Under which a batch holds features in place of the network's inputs."""

_KIND = "letitgo-features"
_EXAMPLES = 8  # on which the cut is found, and the features checked
_CURES = {
    RANDOM: "freeze(..., dropout='off') keeps dropout off",
    BATCH: "freeze(..., statistics='frozen') uses its own",
}


def cache_features(
    model: nn.Module, data: Any, file: str | os.PathLike[str] | None = None, batch_size: int = 64
) -> CachedFeatures:
    """Compute once per example what a network computes before anything that trains, and let it train on that.

    The cut is found by watching the forward pass on a few examples: any network that runs its parts in a fixed order
    may be given, after :func:`freeze`. From then on the network takes batches of the result, and leaves out what lies
    before the cut; all other inputs it takes as ever. On those few examples this gives the same bits as the whole
    forward pass, or is refused. Freeze first, and call this under the autocast that training uses, if any.

    Args:
        model: The network, some of it frozen; put into training mode meanwhile. :meth:`CachedFeatures.release` gives it
            back as it was.
        data: A data set with a length, or a loader, of which the data set, batch size and ``collate_fn`` are taken. A
            batch is the network's inputs by keyword, or a tuple: inputs (a tensor, or a mapping for keywords), then
            what goes with them, such as labels. All are tensors, shape (N, ...), of the same shape in each batch.
        file: Where the features go: a safetensors file, which is mapped into memory. It is keyed by the weights before
            the cut and by the inputs, used again where these are the same, and replaced where not. Without one they
            stay in memory, up to 1 GiB.
        batch_size: Examples computed at once, for a data set.

    Returns:
        A data set of the same length, to be put into a loader, shuffled or not.

    Raises:
        BadRequest: Nothing frozen can be computed once, dropout, batch statistics or hooks lie among the frozen parts,
            the data are augmented at random or of several shapes, the file is something else or cannot be written, or
            the batch size is no whole number from 1 on.
    """
    if not isinstance(batch_size, Integral) or isinstance(batch_size, bool) or batch_size < 1:
        raise BadRequest(f"batch_size is {batch_size!r}: give a whole number from 1 on")
    parameter_names(model)  # refuses what is lazy
    if any(type(part).__name__ == "OptimizedModule" for part in model.modules()):
        raise BadRequest("the network is compiled: give the module that was handed to torch.compile")
    if any(takes_features(part) for part in model.modules()):
        raise BadRequest("the network takes cached features already: release() them first")
    with same_modes(model), drawing_from("features"), torch.enable_grad():
        if not model.training:
            model.train()
        return _cached(model, _loader(data, batch_size), None if file is None else Path(file))


class CachedFeatures(Dataset):
    """Features in place of inputs, made by :func:`cache_features`.

    An example is what it was in the data, with ``{"cached_features": ...}`` for the inputs, and such inputs beside it
    as the rest of the network uses too (an attention mask, say).

    Attributes:
        features: What the cut gave, shape (N, ...); where there is a file, mapped into memory.
        cut: The module whose output that is.
    """

    def __init__(self, features: Tensor, read: _Read, attached: _Attached) -> None:
        self.features, self.cut = features, attached.cut.name
        self._read, self._attached = read, attached

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, i: int) -> Any:
        inputs = {KEY: self.features[i], **{name: tensor[i] for name, tensor in self._read.needed.items()}}
        return inputs if self._read.alone else (inputs, *(tensor[i] for tensor in self._read.others))

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.features.shape[1:]))
        what = f"{len(self)} examples, outputs of {self.cut or 'the network'}, {shape} {dtype(self.features)}"
        return f"CachedFeatures({what}, {self.features.nbytes / 1e6:,.1f} MB)"

    def release(self) -> None:
        """Let the network go: it takes no features any more."""
        self._attached.release()

    def __enter__(self) -> CachedFeatures:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Any]:  # to worker processes of a loader, which do not need the network
        return {**vars(self), "_attached": None}


@dataclass
class _Read:
    """What is kept of the data besides features, and the digest of all inputs."""

    digest: str
    needed: dict[str, Tensor]
    others: tuple[Tensor, ...]
    alone: bool  # a batch is its inputs


def _loader(data: Any, batch_size: int) -> DataLoader:
    if isinstance(data, DataLoader):
        if data.batch_size is None:
            raise BadRequest("the loader makes batches of its own: give the data set")
        dataset, size, collate, workers = data.dataset, data.batch_size, data.collate_fn, data.num_workers
    else:
        dataset, size, collate, workers = data, batch_size, None, 0
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise BadRequest(f"{type(dataset).__name__} is no data set with a length: its examples cannot be told apart")
    if len(dataset) < 2:  # type: ignore[arg-type]
        raise BadRequest("two examples are needed at least: with one it cannot be seen what depends on it")
    return DataLoader(dataset, size, collate_fn=collate, num_workers=workers)


def _parts(batch: Any) -> tuple[dict[str, Tensor], tuple[Any, ...], bool]:
    """Inputs of a batch by name (``inputs`` for one tensor), what goes with them, and whether they are all there is."""
    alone = not isinstance(batch, (tuple, list))
    inputs, *others = (batch,) if alone else batch
    found = dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}
    for name, value in [*found.items(), *((f"part {i} of a batch", other) for i, other in enumerate(others, 1))]:
        if not isinstance(value, Tensor):
            raise BadRequest(f"{name} is {typed(value)}: a batch has to be of tensors, shape (N, ...)")
    return found, tuple(others), alone


def _called(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the network for a batch."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else ((inputs,), {})


def _cached(model: nn.Module, loader: DataLoader, file: Path | None) -> CachedFeatures:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    few = _few(loader, device)
    inputs, _, _ = _parts(few)
    args, kwargs = _called(few)
    cut = _found(model, args, kwargs)
    names = list(inputs)
    read = _read(loader, {names[i] for i in cut.needed})
    key = _key(model, cut, read, device)
    cut.install()
    try:
        if (features := _stored(file, key)) is None:
            features = _computed(cut, loader, device, read, file, key)
        _check(cut, few, features, loader)
        return CachedFeatures(features, read, _Attached(model, cut, names, bool(kwargs), device))
    except BaseException:
        cut.remove()
        raise


def _found(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cut:
    cut, watch = find_cut(model, *args, **kwargs)
    if watch.lost:
        cure = next((f": {cure}" for reason, cure in _CURES.items() if reason in watch.stop), "")
        raise BadRequest(f"{watch.stop}, so the outputs of the frozen {watch.lost} cannot be computed once{cure}")
    if cut is None:
        why = watch.stop or "the network is not called part by part"
        raise BadRequest(
            f"nothing frozen can be computed once, for {why}: freeze the first parts of the network, in the order it "
            "runs them, whose output is all that flows on"
        )
    return cut


def _rows(count: int) -> list[int]:
    """A few examples from all over the data, the last first."""
    few = min(_EXAMPLES, count)
    return [(count - 1) * i // (few - 1) for i in reversed(range(few))]


def _few(loader: DataLoader, device: torch.device) -> Any:
    data: Any = loader.dataset
    return _on(loader.collate_fn([data[row] for row in _rows(len(data))]), device)


def _on(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {name: _on(value, device) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_on(value, device) for value in batch)
    return batch.to(device) if isinstance(batch, Tensor) else batch


def _hashed(digest: Any, inputs: Mapping[str, Tensor]) -> None:
    for name, tensor in inputs.items():
        digest.update(canonical([name, dtype(tensor), list(tensor.shape)]).encode())
        digest.update(raw(tensor).data)


def _read(loader: DataLoader, needed: set[str]) -> _Read:
    """Read all data once, in order."""
    digest, kept, others, alone = xxh3_128(), [], [], True
    for batch in loader:
        inputs, rest, alone = _parts(batch)
        _hashed(digest, inputs)
        kept.append({name: inputs[name].clone() for name in inputs if name in needed})
        others.append(tuple(tensor.clone() for tensor in rest))
    try:
        return _Read(
            digest.hexdigest(),
            {name: torch.cat([batch[name] for batch in kept]) for name in kept[0]},
            tuple(torch.cat(tensors) for tensors in zip(*others, strict=True)),
            alone,
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise _shapes() from error


def _shapes() -> BadRequest:
    return BadRequest("batches differ in shape: pad all examples to one length")


def _key(model: nn.Module, cut: Cut, read: _Read, device: torch.device) -> str:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = digests({name: tensors[name] for name in cut.used})
    about = [cut.name, list(cut.shape), str(cut.dtype), weights, read.digest, str(_arithmetic(device)), own_versions()]
    return sha256(canonical(about))


def _arithmetic(device: torch.device) -> tuple[bool, torch.dtype | None]:
    """Whether autocast is on, and to what."""
    on = torch.is_autocast_enabled(device.type)
    return on, torch.get_autocast_dtype(device.type) if on else None


def _stored(file: Path | None, key: str) -> Tensor | None:
    """The features in a file, mapped; None where there are none or they are of other weights or data."""
    if file is None or not file.exists():
        return None
    metadata, tensors = open_tensors(file)
    if _KIND not in metadata:
        raise BadRequest(f"{file} was not written by cache_features: name another file")
    return tensors["features"] if json.loads(metadata[_KIND])["key"] == key else None


def _outputs(cut: Cut, loader: DataLoader, device: torch.device, read: _Read) -> Iterator[Tensor]:
    """What the cut gives for one batch after the other, on the CPU."""
    digest = xxh3_128()
    for batch in loader:
        _hashed(digest, _parts(batch)[0])
        args, kwargs = _called(_on(batch, device))
        outputs = cut.capture(*args, **kwargs).cpu()
        if outputs.shape[1:] != cut.shape:
            raise _shapes()
        yield outputs
    if digest.hexdigest() != read.digest:
        by = getattr(loader.dataset, "transform", None) or getattr(loader.dataset, "transforms", None)
        of = f" by {' '.join(str(by).split())}" if by is not None else ""
        raise BadRequest(
            f"the inputs are not the same when they are read again, augmented at random{of}: take that off"
        )


def _computed(cut: Cut, loader: DataLoader, device: torch.device, read: _Read, file: Path | None, key: str) -> Tensor:
    count = len(loader.dataset)  # type: ignore[arg-type]
    if file is None:
        if cut.bytes * count > PREFIX_BYTES:
            raise BadRequest(f"the outputs of {cut.name} take {cut.bytes * count / 1e9:.1f} GB: give a file for them")
        return torch.cat(list(_outputs(cut, loader, device, read)))
    try:
        with replaced(file) as partial, partial.open("wb") as opened:
            opened.write(_head(cut, count, key))
            for outputs in _outputs(cut, loader, device, read):
                opened.write(raw(outputs).data)
    except OSError as error:
        raise BadRequest(f"{file} cannot be written ({error.strerror or error}): name another file") from error
    found = _stored(file, key)
    assert found is not None
    return found


def _head(cut: Cut, count: int, key: str) -> bytes:
    """The beginning of a safetensors file of so many examples, as its own library writes it of one."""
    one = save({"features": torch.empty(1, *cut.shape, dtype=cut.dtype)}, {_KIND: canonical({"key": key})})
    head = json.loads(one[8 : 8 + int.from_bytes(one[:8], "little")])
    head["features"] |= {"shape": [count, *cut.shape], "data_offsets": [0, count * cut.bytes]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check(cut: Cut, few: Any, features: Tensor, loader: DataLoader) -> None:
    """See that examples give the same in other company, up to rounding."""
    args, kwargs = _called(few)
    again = cut.capture(*args, **kwargs).cpu()
    kept = features[_rows(len(loader.dataset))]  # type: ignore[arg-type]
    rounding = 1e-3 if cut.dtype in (torch.float32, torch.float64) else 2e-2
    off = float((again.float() - kept.float()).abs().max() / kept.float().abs().max().clamp_min(1e-30))
    if not off <= rounding:
        raise BadRequest(
            f"the outputs of {cut.name or 'the network'} for an example change with the others in its batch or from "
            f"call to call, by {off:.2g} of their size: they cannot be computed once"
        )


class _Attached:
    """Lets a network take features: hooks on it, and what the calls before the cut do meanwhile."""

    def __init__(self, model: nn.Module, cut: Cut, names: list[str], keywords: bool, device: torch.device) -> None:
        self.cut, self._names, self._keywords, self._arithmetic = cut, names, keywords, _arithmetic(device)
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._used = {name: tensors[name] for name in cut.used}
        self._versions = [tensor._version for tensor in self._used.values()]
        self._digests = digests(self._used)
        self._modes = [(part, part.training) for top in cut.parts for part in top.modules()]
        self._hooks: list[Any] = [
            model.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        self._replaying = False

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.cut.remove()

    def _enter(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = dict(args[0]) if len(args) == 1 and isinstance(args[0], Mapping) else kwargs
        if KEY not in given:
            return None
        kept = given[KEY]
        self._see_unchanged(kept.device)
        leaves = self.cut.blanks(len(kept), kept.device)
        for place, name in enumerate(self._names):
            if name in given:
                leaves[place] = given[name]
            elif place in self.cut.needed:
                raise BadRequest(f"{name} is missing: the network uses it besides {KEY}")
        self.cut.begin(kept)
        self._replaying = True
        if not self._keywords:
            return (leaves[0],), {}
        more = {name: value for name, value in given.items() if name != KEY and name not in self._names}
        return (), {**dict(zip(self._names, leaves, strict=True)), **more}

    def _leave(self, model: nn.Module, args: Any, output: Any) -> None:
        if self._replaying:
            self._replaying = False
            if not self.cut.end() and output is not None:
                raise WorkFailed(f"{self.cut.name} was not called: the network runs its parts in another order now")

    def _see_unchanged(self, device: torch.device) -> None:
        """See that what lies before the cut is as it was."""
        name = next((name for name, tensor in self._used.items() if tensor.requires_grad), None)
        if name is not None:
            raise WorkFailed(f"{name} trains, and its outputs are cached: release() the features")
        if any(part.training != mode for part, mode in self._modes):
            raise WorkFailed(f"parts up to {self.cut.name} are in another mode than when their outputs were cached")
        if _arithmetic(device) != self._arithmetic:
            raise WorkFailed(
                "the features were cached under another autocast: call cache_features under that of training"
            )
        versions = [tensor._version for tensor in self._used.values()]
        if versions != self._versions:
            if digests(self._used) != self._digests:
                raise WorkFailed(
                    f"the weights up to {self.cut.name} changed since their outputs were cached: cache again"
                )
            self._versions = versions
