"""On a full disk a file stays as it was, and the error names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import small_recipe

from letitgo.catalogue.export import export
from letitgo.errors import LetItGoError
from letitgo.recipes.data import _write
from letitgo.recipes.splits import Decoded
from letitgo.store import Store
from letitgo.studies.compute import compute
from letitgo.studies.train.study import Train
from letitgo.weights import save

WIDE = small_recipe(epochs=1, widths="256")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def weights_of_a_run(path: Path, store: Store) -> None:
    Train((WIDE,), save=str(path)).finish(store)


def decoded_data(path: Path, store: Store) -> None:
    _write(path, {"train_inputs": torch.zeros(9, 1, 99, 99, dtype=torch.uint8)}, Decoded("images", {}, 10))


def measures(path: Path, store: Store) -> None:
    export(store, path)


def change(path: Path, store: Store) -> None:
    module = WIDE.network()
    base = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    save(module, path, base=base)


@pytest.mark.parametrize("write", [weights_of_a_run, decoded_data, measures, change])
def test_a_full_disk_leaves_the_file_of_before(write: Callable[[Path, Store], None], tmp_path, store):
    compute(Train((WIDE,)), store)
    path = tmp_path / "kept"
    path.write_text("as it was")
    with (
        full_disk(),
        pytest.raises(LetItGoError, match=r"(kept|test_a_full_disk).* cannot be|cannot be .* to .*(kept|test_a_full)"),
    ):
        write(path, store)
    assert path.read_text() == "as it was"
    assert not list(tmp_path.glob(".kept*"))
