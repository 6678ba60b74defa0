"""The same guarantees wherever fsspec reaches: a folder, memory, and a real S3 server on loopback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from helpers import baseline, bits, small_recipe
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from test_store import ADDRESS, ANOTHER, BODY, FOLDER, KEY, OTHER, TENSORS, damages, fill

from letitgo.errors import BadRequest, WorkFailed
from letitgo.execute import Executor
from letitgo.execute.training import carry_out
from letitgo.plan import Evaluation
from letitgo.store import Store, claimed, claims, open_store
from letitgo.store.files import SMALL
from letitgo.store.store import DamagedResult
from letitgo.store.tensors import NoTensors, read, written
from letitgo.value import canonical, sha256


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    from s3_stub import make_bucket, s3

    with s3() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        make_bucket("bucket")
        yield "s3://bucket"


@pytest.fixture(params=["folder", "memory", "s3"])
def anywhere(request, tmp_path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path)
    root = "memory://" if request.param == "memory" else f"{request.getfixturevalue('bucket')}/"
    return open_store(f"{root}{sha256(str(tmp_path))[:12]}/store")


def paths(store: Store) -> set[str]:
    return {entry.path for entry in store.files.walk()}


def test_what_is_written_is_read_by_another(anywhere):
    fill(anywhere)
    other = Store(anywhere.root)
    assert ADDRESS in other
    assert other.intact(ADDRESS, KEY)
    assert other.read(ADDRESS, KEY) == BODY
    assert bits(other.read_tensors(ADDRESS, KEY)) == bits(TENSORS)
    assert list(other.under(FOLDER)) == [ADDRESS]
    assert paths(other) == {f"{ADDRESS}.json", f"{ADDRESS}.safetensors"}
    fill(anywhere, f"{FOLDER}/000000000", KEY)
    assert list(other.under(FOLDER)) == [f"{FOLDER}/000000000", ADDRESS]  # nothing is remembered of listings
    anywhere.remove(ADDRESS)
    assert ADDRESS not in other
    assert other.read(ADDRESS, KEY) is None
    anywhere.remove(ADDRESS)


@pytest.mark.parametrize("survived", [0, 1])
def test_a_result_whose_writing_was_cut_off_is_absent(survived, anywhere, monkeypatch):
    put, left = type(anywhere.files).put, [survived]

    def dying(self, path, data):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        put(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(anywhere.files), "put", dying)
        with pytest.raises(KeyboardInterrupt):
            fill(anywhere)
    other = Store(anywhere.root)
    assert ADDRESS not in other
    assert other.read_tensors(ADDRESS, KEY) is None
    assert len(paths(other)) == survived
    fill(anywhere)
    assert other.intact(ADDRESS, KEY)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_damage_is_noticed_and_set_aside(kind, anywhere):
    fill(anywhere)
    path = f"{ADDRESS}.{kind}"
    tried = list(damages(anywhere.files.read(path)).items())
    for what, damaged in tried if isinstance(anywhere.root, str) and "memory" in anywhere.root else tried[::40]:
        fill(anywhere)
        anywhere.files.put(path, [damaged])
        with pytest.warns(DamagedResult, match=r"set aside in .*damaged and will be computed again"):
            assert not anywhere.intact(ADDRESS, KEY), what
        assert ADDRESS not in anywhere
        assert anywhere.files.read(f"damaged/{path}") == damaged


def test_large_states_go_in_parts(anywhere):
    large = {"a": torch.arange(SMALL // 4 + 5, dtype=torch.float32), "b": torch.ones(3, dtype=torch.bool)}
    anywhere.write(ADDRESS, KEY, BODY, large)
    assert bits(Store(anywhere.root).read_tensors(ADDRESS, KEY)) == bits(large)
    assert anywhere.intact(ADDRESS, KEY)


def test_a_large_state_cut_off_in_the_middle_is_absent(anywhere):
    def broken() -> Iterator[bytes]:
        yield bytes(SMALL)
        yield bytes(SMALL)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        anywhere.files.put(f"{ADDRESS}.safetensors", broken())
    assert ADDRESS not in anywhere
    if "memory" not in str(anywhere.root):  # which shows files while they grow; without a record they are not read
        assert f"{ADDRESS}.safetensors" not in paths(anywhere)


def test_results_are_copied_whole_or_not_at_all(anywhere, tmp_path):
    target = open_store(tmp_path / "target")
    fill(anywhere)
    anywhere.copy(ADDRESS, target)
    assert bits(target.read_tensors(ADDRESS, KEY)) == bits(TENSORS)
    fill(anywhere, ANOTHER, OTHER)
    anywhere.files.put(f"{ANOTHER}.safetensors", [b"other"])
    with pytest.raises(ValueError, match="not the ones that were written"):
        anywhere.copy(ANOTHER, target)
    assert not any(OTHER in path for path in paths(target))


def test_only_one_is_at_a_thing(anywhere):
    with claimed(anywhere, "a", "me") as mine, claimed(anywhere, "a", "you") as yours:
        assert mine
        assert not yours
    with claimed(anywhere, "a", "you") as yours, claimed(anywhere, "a", "you") as again:
        assert yours
        assert again
    assert not paths(anywhere)


def test_of_many_only_one_is_at_a_thing(anywhere):
    got, gate, over = [], threading.Barrier(6), threading.Barrier(6)

    def ask(name: str) -> None:
        gate.wait()
        with claimed(anywhere, "a", name) as mine:
            got.append(mine)
            over.wait()

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 1


def test_a_claim_without_signs_of_life_is_void(anywhere, monkeypatch):
    claim = {"owner": "elsewhere", "machine": "another", "pid": 1, "since": "1"}
    anywhere.files.put("claims/a.claim", [json.dumps(claim).encode()])
    with claimed(anywhere, "a", "me") as mine:
        assert not mine
    monkeypatch.setattr(claims, "LEASE", -2.0)
    with claimed(anywhere, "a", "me") as mine:
        assert mine


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads the table of processes in /proc")
def test_the_claim_of_a_process_that_ended_here_is_void_at_once(store):
    script = """
import os, sys
from letitgo.store import Store, claimed
with claimed(Store(sys.argv[1]), "a", "gone") as mine:
    os._exit(0 if mine else 1)
"""
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=True)
    assert list(store.files.walk())
    with claimed(store, "a", "me") as mine:
        assert mine


def test_a_torn_claim_is_waited_for(store):
    store.files.put("claims/a.claim", [b""])
    with claimed(store, "a", "me") as mine:
        assert not mine


def test_a_study_gives_the_same_bits_anywhere(anywhere, tmp_path):
    run = baseline(small_recipe(epochs=1))
    values = [Evaluation(run.final, run.recipe.dataset, "test"), run.final]
    here = open_store(tmp_path / "here")
    assert Executor(here).compute(values) == []
    workers = 0 if "memory" in str(anywhere.root) else 1
    assert Executor(anywhere, workers).compute(values) == []
    assert bits(run.final.load(anywhere)) == bits(run.final.load(here))
    assert values[0].result(anywhere) == values[0].result(here)
    assert not any(path.startswith("claims") or "partial" in path for path in paths(anywhere))


def test_what_somebody_else_is_at_is_waited_for_and_not_done_again(store):
    run = baseline(small_recipe(epochs=1))
    told = threading.Event()

    def other() -> None:
        with claimed(store, run.key, "other"):
            told.set()
            steps: list[int] = []
            carry_out(run, store, [run.recipe.steps], on_step=steps.append)
            assert steps

    thread = threading.Thread(target=other)
    thread.start()
    told.wait()
    steps = []
    executor = Executor(store, on_progress=lambda progress: steps.append(len(progress.finished)))
    assert executor.compute([run.final]) == []
    thread.join()
    assert not store.files.names("claims")
    assert run.final.address in store


def test_a_store_that_is_gone_is_no_damage(bucket):
    s3fs = pytest.importorskip("s3fs")
    from s3_stub import make_bucket, s3

    with s3() as variables, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", variables["AWS_ENDPOINT_URL"])
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        make_bucket("gone")
        store = open_store("s3://gone/store")
        fill(store)
    for act in (
        lambda: store.intact(ADDRESS, KEY),
        lambda: store.read_tensors(ADDRESS, KEY),
        lambda: fill(store),
        lambda: claimed(store, "a", "me").__enter__(),
    ):
        with pytest.raises(
            WorkFailed, match=r"s3://gone/store/.* cannot be"
        ):  # and no warning, which would be an error
            act()


def test_a_folder_that_is_gone_is_not_made_anew(store):
    fill(store)
    store.root.rename(store.root.with_name("elsewhere"))
    with pytest.raises(WorkFailed, match=r"cannot be written \(the store is gone"):
        fill(store)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://", "names no place"),
        ("nothing://a/b", "cannot be reached"),
        ("s3://no-such-bucket/store", "cannot be written"),
    ],
)
def test_a_place_that_is_none_is_a_bad_request(url, what, bucket):
    with pytest.raises(BadRequest, match=what):
        open_store(url)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(lambda name: name != "__metadata__")
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(
    lambda shape, dtype: (torch.rand(shape) * 100).to(dtype), st.lists(st.integers(0, 4), max_size=3), dtypes
)


@given(state=st.dictionaries(names, tensors, max_size=5))
def test_the_format_is_that_of_the_library(state):
    data = b"".join(bytes(part) for part in written(state))
    assert bits_and_types(load(data)) == bits_and_types(state)
    theirs = save(state)
    assert bits_and_types(read(io.BytesIO(theirs), len(theirs), sha256(theirs))) == bits_and_types(state)


def bits_and_types(state):
    return {n: (x.dtype, tuple(x.shape), x.reshape(-1).view(torch.uint8).numpy().tobytes()) for n, x in state.items()}


@given(data=st.binary(max_size=200), length=st.integers(0, 2**64 - 1) | st.integers(0, 300))
def test_a_strangers_file_is_refused(data, length):
    data = length.to_bytes(8, "little") + data
    with pytest.raises(NoTensors):
        read(io.BytesIO(data), len(data), "")


@pytest.mark.parametrize(
    "about",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F999", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        [],
    ],
)
def test_a_head_that_promises_what_is_not_there_takes_no_memory(about):
    text = json.dumps({"x": about}).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    with pytest.raises(NoTensors):
        read(io.BytesIO(data), len(data), sha256(data))


@pytest.mark.parametrize(
    "record", [[], 3, None, {"key": 1, "body": {}}, {"key": KEY, "body": []}, {"key": KEY, "body": {}, "tensors": {}}]
)
def test_a_record_of_another_form_is_damaged(record, store):
    store.files.put(f"{ADDRESS}.json", [canonical([record, sha256(canonical(record))]).encode()])
    with pytest.warns(DamagedResult, match="another form"):
        assert store.read(ADDRESS, KEY) is None
