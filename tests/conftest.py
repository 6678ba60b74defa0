from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from letitgo.recipes import data
from letitgo.store import Store, open_store

torch.set_num_threads(1)
settings.register_profile(
    "laws",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("laws")


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data are decoded once for all tests; worker processes find the networks of ``helpers``; nothing is fetched."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("LETITGO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield


@pytest.fixture(scope="module", autouse=True)
def _imported_is_no_garbage() -> None:
    """Collections do not look through what is there already: torch and the like, a tenth of the time of all tests."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _store_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETITGO_STORE", str(tmp_path / "store"))


@pytest.fixture
def store() -> Store:
    return open_store()


@pytest.fixture(scope="session")
def ray_token() -> Iterator[None]:
    """For all tests on Ray, which reads these variables once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        pytest.importorskip("ray")
        yield


@pytest.fixture
def all_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that have learned nothing are judged all the same: those of tests train for a moment only."""
    monkeypatch.setattr(data.Data, "learned", lambda *_: True)


@pytest.fixture
def svg_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PNG and PDF of a figure, which take most of the time, are empty files."""
    from letitgo.report import draw

    render = draw.render
    monkeypatch.setattr(draw, "render", lambda figure, form, of: render(figure, form, of) if form == "svg" else b"")


@pytest.fixture
def noise_for_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mnist``, ``fashion_mnist`` and ``cifar10`` are noise: decoding them takes most of the time."""

    def noise(name: str, reading: dict[str, str]) -> data.Decoded:
        shape = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[name]
        generator = torch.Generator().manual_seed(len(name))
        splits = {
            split: (torch.randint(256, (size, *shape), dtype=torch.uint8, generator=generator), torch.arange(size) % 10)
            for split, size in {"train": 5000, "test": 1000}.items()
        }
        return data.Decoded("images", splits, 10)

    monkeypatch.delenv("LETITGO_DATA", raising=False)
    monkeypatch.setenv("LETITGO_CACHE", str(tmp_path / "noise"))
    monkeypatch.setattr(data, "_from_hub", noise)
