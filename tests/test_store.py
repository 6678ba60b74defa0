"""A result is there whole and checked, or it is absent."""

from __future__ import annotations

import os
import pickle
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers import baseline, bits, python, small_recipe
from hypothesis import given
from hypothesis import strategies as st

from letitgo.errors import BadRequest
from letitgo.execute.training import carry_out
from letitgo.store import Store, open_store
from letitgo.store.store import DamagedResult
from letitgo.value import canonical, sha256

KEY, OTHER = "ab" + 62 * "0", "cd" + 62 * "0"
FOLDER = f"states/ab/{KEY}"
ADDRESS, ANOTHER = f"{FOLDER}/000000023", f"states/cd/{OTHER}/000000023"
MEASURE = f"evaluations/ab/{KEY}"
BODY = {"accuracy": 0.75, "what": "naïve", "list": [1, 2, None]}
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1, 2])}


def fill(store: Store, address: str = ADDRESS, key: str = KEY, add: int = 0) -> None:
    store.write(address, key, BODY, {name: tensor + add for name, tensor in TENSORS.items()})


def files(store: Store, address: str = ADDRESS) -> dict[str, Path]:
    return {kind: store.root / f"{address}.{kind}" for kind in ("json", "safetensors")}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(body=st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=3))
def test_what_is_written_is_read(body, tmp_path):
    with suppress(UnicodeEncodeError):  # half a surrogate pair is no text
        Store(tmp_path / "new").write(MEASURE, KEY, body)
        assert Store(tmp_path / "new").read(MEASURE, KEY) == body


def test_tensors_are_read_to_the_bit(store):
    odd = {
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "nan": torch.tensor([float("nan"), -0.0]),
        "none": torch.ones(0),
    }
    store.write(ADDRESS, KEY, BODY, odd)
    read = Store(store.root).read_tensors(ADDRESS, KEY)
    assert bits(read) == bits(odd)
    assert {name: tensor.shape for name, tensor in read.items()} == {name: tensor.shape for name, tensor in odd.items()}
    assert store.intact(ADDRESS, KEY)


def test_what_was_not_written_is_absent(store):
    assert ADDRESS not in store
    assert store.read(ADDRESS, KEY) is None
    assert store.read_tensors(ADDRESS, KEY) is None
    assert not store.intact(ADDRESS, KEY)
    assert list(store.under(FOLDER)) == []
    store.remove(ADDRESS)


def test_what_is_removed_is_absent(store):
    fill(store)
    store.remove(ADDRESS)
    assert not store.intact(ADDRESS, KEY)
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["letitgo-store.json"]


def test_results_in_a_folder_come_in_order(store):
    for step in (30, 4, 100):
        store.write(f"{FOLDER}/{step:09d}", KEY, BODY)
    assert [int(address[-9:]) for address in store.under(FOLDER)] == [4, 30, 100]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", [0, 1])
def test_a_reader_never_sees_half_a_result(survived, store, monkeypatch):
    left = [survived]
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Killed):
            fill(store)
    reader = Store(store.root)
    assert ADDRESS not in reader
    assert reader.read(ADDRESS, KEY) is None
    assert reader.read_tensors(ADDRESS, KEY) is None
    assert list(reader.under(FOLDER)) == []
    assert not list(store.root.rglob("*.partial"))
    fill(store)
    assert store.intact(ADDRESS, KEY)


@pytest.mark.parametrize("survived", [0, 1])
def test_a_process_killed_in_writing_leaves_nothing_that_is_read(survived, store):
    script = f"""
import os
from pathlib import Path
from test_store import *
left, replace = [{survived}], Path.replace
def dying(self, target):
    if not left[0]:
        os._exit(0)
    left[0] -= 1
    return replace(self, target)
Path.replace = dying
fill(Store(Path({str(store.root)!r})))
raise AssertionError("it should have ended before")
"""
    python(script)
    assert list(store.root.rglob("*.partial"))
    assert ADDRESS not in store
    assert list(store.under(FOLDER)) == []
    fill(store)
    assert store.intact(ADDRESS, KEY)


def damages(data: bytes) -> dict[str, bytes]:
    """Ways in which a file may be damaged."""
    flipped = {
        f"bit of byte {i}": data[:i] + bytes([data[i] ^ (1 << i % 7)]) + data[i + 1 :] for i in range(0, len(data), 3)
    }
    cut = {f"cut at {i}": data[:i] for i in range(0, len(data), 11)}
    return {**flipped, **cut, "longer": data + b" x", "zeros": bytes(len(data))}


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_every_damage_is_noticed_and_set_aside(kind, store):
    fill(store)
    path = files(store)[kind]
    data = path.read_bytes()
    tried = damages(data)
    assert len(tried) > 60
    for what, damaged in tried.items():
        fill(store)
        path.write_bytes(damaged)
        with pytest.warns(
            DamagedResult, match=r"is damaged \(.*\): it was set aside in .*damaged and will be computed"
        ):
            assert store.read_tensors(ADDRESS, KEY) is None, what
        assert ADDRESS not in store, what
        assert (store.root / "damaged" / path.relative_to(store.root)).read_bytes() == damaged, what
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert store.read(ADDRESS, KEY) is None, what


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_intact_notices_damage(kind, store):
    fill(store)
    files(store)[kind].write_bytes(b"")
    with pytest.warns(DamagedResult):
        assert not store.intact(ADDRESS, KEY)
    assert ADDRESS not in store


def test_a_damaged_record_is_noticed_when_only_it_is_read(store):
    store.write(ADDRESS, KEY, BODY)
    path = files(store)["json"]
    path.write_bytes(path.read_bytes().replace(b"0.75", b"0.85"))
    with pytest.warns(DamagedResult, match="its record is not the one that was written"):
        assert store.read(ADDRESS, KEY) is None


def test_missing_tensors_are_noticed(store):
    fill(store)
    files(store)["safetensors"].unlink()
    with pytest.warns(DamagedResult, match="its tensors are not the ones that were written"):
        assert not store.intact(ADDRESS, KEY)


@pytest.mark.parametrize("kinds", [["json"], ["safetensors"], ["json", "safetensors"]])
def test_another_results_files_are_noticed(kinds, store):
    fill(store)
    fill(store, ANOTHER, OTHER, add=1)
    for kind in kinds:
        files(store)[kind].write_bytes(files(store, ANOTHER)[kind].read_bytes())
    with pytest.warns(DamagedResult):
        assert store.read_tensors(ADDRESS, KEY) is None
    assert ADDRESS not in store
    assert bits(store.read_tensors(ANOTHER, OTHER)) == bits({name: tensor + 1 for name, tensor in TENSORS.items()})


def test_a_second_damage_of_one_result_is_set_aside_too(store):
    for text in (b"first", b"second"):
        fill(store)
        files(store)["json"].write_bytes(text)
        with pytest.warns(DamagedResult):
            store.read(ADDRESS, KEY)
    assert (store.root / "damaged" / f"{ADDRESS}.json").read_bytes() == b"second"


def test_a_store_that_cannot_be_written_is_a_bad_request(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        BadRequest, match=r"^the store .* cannot be written \(Not a directory\): name another folder"
    ) as e:
        open_store(tmp_path / "file" / "store")
    assert e.value.exit_code == 2
    with pytest.raises(BadRequest, match="is a file: name a folder"):
        open_store(tmp_path / "file", make=False)


def test_the_store_is_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_store(tmp_path / "a").root == tmp_path / "a"
    monkeypatch.setenv("LETITGO_STORE", str(tmp_path / "b"))
    assert open_store().root == tmp_path / "b"
    monkeypatch.delenv("LETITGO_STORE")
    assert open_store().root == tmp_path / ".letitgo"
    assert not list(tmp_path.rglob("*.partial"))


class Trap:
    """What would happen if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(store, tmp_path):
    trap = tmp_path / "sprung"
    data = pickle.dumps(Trap(trap))
    fill(store)
    files(store)["safetensors"].write_bytes(data)
    record = {"key": KEY, "body": BODY, "tensors": {"sha256": sha256(data), "bytes": len(data)}}
    files(store)["json"].write_text(canonical([record, sha256(canonical(record))]))
    with suppress(Exception), warnings.catch_warnings(record=True):
        store.read_tensors(ADDRESS, KEY)
    assert not trap.exists()
    files(store)["json"].write_bytes(data)
    with pytest.warns(DamagedResult):
        store.read(ADDRESS, KEY)
    assert not trap.exists()
    pickle.loads(data)
    assert trap.exists()


def test_a_state_comes_back_without_pickle(store, monkeypatch):
    run = baseline(small_recipe(optimizer="adam", epochs=1))
    carry_out(run, store, [23])

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("unpickling")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert run.final.load(Store(store.root)).keys() == run.start.load(store).keys()
    assert run.final.optimizer(Store(store.root))[0]
