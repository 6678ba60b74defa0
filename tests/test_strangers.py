"""Files that are no store's are left alone; stores that strangers made are read without a surprise."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256 as hashed
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_store import ADDRESS, BODY, FOLDER, KEY, MEASURE, TENSORS, fill

from letitgo.catalogue.clean import find_rubbish, remove
from letitgo.catalogue.merge import merge
from letitgo.cli.main import run
from letitgo.errors import BadRequest, WorkFailed
from letitgo.plan.measures import Measure
from letitgo.store import Store, claimed, claims, open_store
from letitgo.store.addresses import MARK, NoAddress, is_address, is_file, is_folder
from letitgo.value import canonical, sha256

STUDY = f"studies/{KEY}"
EVIL = b"what a stranger wrote"


def record(key: str = KEY, body: Any = None, tensors: bytes | None = None) -> bytes:
    """A record with a right digest, whatever it says."""
    about = {} if tensors is None else {"tensors": {"sha256": hashed(tensors).hexdigest(), "bytes": len(tensors)}}
    told = {"key": key, "body": {} if body is None else body, **about}
    return canonical([told, sha256(canonical(told))]).encode()


def put(root: Path, files: dict[str, bytes], hours: float = 0.0) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in root.rglob("*"):
        os.utime(path, (time.time() - hours * 3600,) * 2, follow_symlinks=False)


def files_in(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != MARK
    }


# Addresses

segments = st.sampled_from(
    [
        "",
        ".",
        "..",
        "~",
        "states",
        "studies",
        "evaluations",
        "claims",
        "damaged",
        "partial",
        "ab",
        "cd",
        KEY,
        "000000023",
        f"{KEY}.json",
        "000000023.json",
        "000000023.safetensors",
        "C:",
        "\\",
        "a\x00b",
        "x\n",
        "ａb",
        "*",
        MARK,
    ]
) | st.text(max_size=4)
paths = st.builds("/".join, st.lists(segments, max_size=6)) | st.text(max_size=20)


@given(path=paths)
@example(path=f"{ADDRESS}.json")
@example(path=f"{ADDRESS}.json\n")
@example(path=f"/{ADDRESS}.json")
@example(path=f"{FOLDER}/../../../x.json")
@example(path=f"states/cd/{KEY}/000000023.json")
@settings(max_examples=300)
def test_a_path_of_a_store_stays_below_it(path):
    for taken in (is_file(path), is_folder(path), is_address(path)):
        if taken:
            assert os.path.normpath("/base/" + path) == f"/base/{path}".rstrip("/")
            assert not set(path.replace("<locals>", "")) & set('\\:*?~\0\n\r"<>| ')
            assert not {"", ".", ".."} & set(path.split("/")) or path == ""


@pytest.fixture(params=["folder", "memory"])
def anywhere(request, tmp_path) -> Store:
    place = tmp_path / "store" if request.param == "folder" else f"memory://{sha256(str(tmp_path))[:12]}/store"
    return open_store(place)


@given(path=paths.filter(lambda path: not is_file(path)))
def test_no_other_path_is_read_or_written_anywhere(path, anywhere):
    files = anywhere.files
    good = f"{ADDRESS}.json"
    calls: list[Callable[[], Any]] = [
        lambda: files.read(path),
        lambda: files.open(path, 1),
        lambda: files.put(path, [EVIL]),
        lambda: files.create(path, EVIL),
        lambda: files.remove(path),
        lambda: files.move(path, good),
        lambda: files.move(good, path),
        lambda: files.age(path),
    ]
    for call in calls:
        with pytest.raises(NoAddress):
            call()
    if not is_folder(path):
        for listed in (files.names, files.folders, lambda folder: list(files.walk(folder))):
            with pytest.raises(NoAddress):
                listed(path)


HOSTILE = [
    "/{out}/a",
    "../b",
    "../../c",
    f"{FOLDER}/../../../../d",
    "x/../../e",
    "evaluations/ab/f",
    ".git/config",
    "g",
]


def hostile(out: Path) -> dict[str, bytes]:
    """Files of a stranger's store: a good result, and others whose names lead elsewhere."""
    names = [name.format(out=out) for name in HOSTILE]
    return {
        **{f"{name}.json": record(tensors=EVIL) for name in names},
        **{f"{name}.safetensors": EVIL for name in names},
        f"{MEASURE}.json": record(),
        MARK: b'{"format": 1}',
    }


@pytest.mark.parametrize("back_end", ["s3", "zip", "tar", "memory"])
def test_merging_writes_nothing_outside_the_store(back_end, tmp_path, request):
    out, home = tmp_path / "out", tmp_path / "home" / "deep"
    files = hostile(out)
    if back_end == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"store/{name}", data)
        url = f"zip://store::{tmp_path}/x.zip"
    elif back_end == "tar":
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            for name, data in files.items():
                about = tarfile.TarInfo(f"store/{name}")
                about.size = len(data)
                archive.addfile(about, BytesIO(data))
        url = f"tar://store::{tmp_path}/x.tar"
    elif back_end == "memory":
        import fsspec

        memory: Any = fsspec.filesystem("memory")
        base = f"/{sha256(str(tmp_path))[:12]}/store"
        for name, data in files.items():
            memory.makedirs(f"{base}/x".rpartition("/")[0], exist_ok=True)
            memory.store[f"{base}/{name}"] = fsspec.implementations.memory.MemoryFile(memory, f"{base}/{name}", data)
        url = f"memory:/{base}"
    else:
        url = request.getfixturevalue("stranger")(files)
    before = files_in(tmp_path)
    target = home / "store"
    assert not [path for path in paths_of(url) if not is_file(path)]
    done = merge(open_store(url, make=False), open_store(target))
    assert done.copied == 1
    assert files_in(target) == {f"{MEASURE}.json": record()}
    shutil.rmtree(target)
    assert files_in(tmp_path) == before
    assert not out.exists()


def paths_of(url: str) -> list[str]:
    """All that any listing tells of a store."""
    files = open_store(url, make=False).files
    found, folders = [entry.path for entry in files.walk()], [""]
    for folder in folders:
        inside = f"{folder}/" if folder else ""
        found += [inside + name for name in files.names(folder)]
        folders += [inside + name for name in files.folders(folder)]
        assert len(folders) < 100
    return found


def test_a_bucket_of_hostile_names_alone_is_no_store(stranger, tmp_path, capsys):
    url = stranger(
        {name: data for name, data in hostile(tmp_path).items() if "evaluations" not in name and name != MARK}
    )
    assert run(["merge", url, "--store", str(tmp_path / "store")]) == 2
    assert "is no store" in capsys.readouterr().err
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.fixture
def stranger():
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    from s3_stub import s3

    with s3() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

        def fill_bucket(files: dict[str, bytes]) -> str:
            client = boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"])
            client.create_bucket(Bucket="strangers")
            for name, data in files.items():
                client.put_object(Bucket="strangers", Key=f"store/{name}", Body=data)
            return "s3://strangers/store"

        yield fill_bucket
        s3fs.S3FileSystem.clear_instance_cache()


def test_measures_of_others_have_addresses():
    @dataclass(frozen=True, eq=False)
    class Own(Measure):
        number: int = 1

    assert "<locals>" in Own().address
    assert is_address(Own().address)
    for odd in ("a..b", ".a", "a.", "<locals", "<x>", "1a", "a b"):
        assert not is_address(f"{odd}/ab/{KEY}")


# Folders that are no store

THESIS = {"thesis/chapter1.tex": b"three years", ".ssh/config": b"x", "states/notes.json": b"{}", "a.json": b"[]"}


@pytest.mark.parametrize(
    "command",
    [["runs"], ["show", "abcd"], ["clean"], ["clean", "--remove", "--hours", "0"], ["export", "a.parquet"]]
    + [["train", "--epochs", "1", "--widths", "4", "--workers", workers] for workers in "01"],
)
def test_a_folder_that_is_no_store_is_refused_and_left_as_it_is(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "home", THESIS, hours=5)
    before = files_in(tmp_path / "home")
    assert run([*command, "--store", str(tmp_path / "home")]) == 2
    told = capsys.readouterr().err
    assert f"no store (it has no {MARK})" in told
    assert told.count("\n") == 1
    assert files_in(tmp_path / "home") == before
    assert not (tmp_path / "home" / MARK).exists()


def test_merge_takes_from_and_writes_to_stores_alone(tmp_path, capsys):
    put(tmp_path / "home", THESIS)
    fill(open_store(tmp_path / "store"))
    for one, other in (("home", "store"), ("store", "home")):
        assert run(["merge", str(tmp_path / one), "--store", str(tmp_path / other)]) == 2
        assert f"no store (it has no {MARK})" in capsys.readouterr().err
    assert files_in(tmp_path / "home") == THESIS


@pytest.mark.parametrize("back_end", ["folder", "memory"])
def test_every_write_refuses_what_is_no_store(back_end, tmp_path):
    if back_end == "folder":
        put(tmp_path / "home", THESIS)
        place = tmp_path / "home"
    else:
        import fsspec

        place = f"memory://{sha256(str(tmp_path))[:12]}"
        fsspec.filesystem("memory").pipe_file(f"/{sha256(str(tmp_path))[:12]}/thesis.tex", b"three years")
    source = open_store(tmp_path / "store")
    fill(source)

    def claim() -> None:
        with claimed(Store(place), KEY, "me"):
            raise AssertionError("it is claimed")

    for write in (
        lambda: fill(Store(place)),
        lambda: source.copy(ADDRESS, Store(place)),
        lambda: remove(Store(place), find_rubbish(source)),
        claim,
        lambda: open_store(place),
    ):
        with pytest.raises(BadRequest, match="is not empty and is no store"):
            write()
    assert back_end == "memory" or files_in(tmp_path / "home") == THESIS


def test_a_store_without_a_mark_is_known_by_its_records_and_marked_when_it_is_written(tmp_path, capsys):
    root = tmp_path / "old"
    store = open_store(root)
    fill(store)
    mark = (root / MARK).read_bytes()
    (root / MARK).unlink()
    assert run(["runs", "--store", str(root)]) == 0
    assert not (root / MARK).exists()
    assert run(["clean", "--store", str(root), "--remove"]) == 0
    assert (root / MARK).read_bytes() == mark
    (root / MARK).unlink()
    (root / f"{ADDRESS}.json").write_bytes(b"[]")
    with pytest.raises(BadRequest, match="is no store"):
        open_store(root)


def test_a_store_of_a_later_version_is_refused(tmp_path, capsys):
    put(tmp_path, {MARK: b'{"format": 2}'})
    with pytest.raises(BadRequest, match="has format 2, this version reads up to 1: update letitgo"):
        open_store(tmp_path)


@pytest.mark.parametrize("odd", [b"", b"[]", b'{"format": true}', b"[" * 100_000, b"\xff"])
def test_a_torn_mark_is_none_and_is_written_anew(odd, tmp_path):
    for other, taken in (({}, True), ({f"{MEASURE}.json": record()}, True), ({"thesis.tex": b"x"}, False)):
        shutil.rmtree(tmp_path)
        put(tmp_path, {MARK: odd, **other})
        if taken:
            assert open_store(tmp_path).root == tmp_path
            assert json.loads((tmp_path / MARK).read_bytes()) == {"format": 1}
        else:
            with pytest.raises(BadRequest, match="is not empty and is no store"):
                open_store(tmp_path)
            assert (tmp_path / MARK).read_bytes() == odd


def test_clean_removes_only_what_is_a_stores_by_name_and_by_contents(tmp_path, capsys):
    root = tmp_path / "store"
    ours = {
        f"{MEASURE}.json": record(),
        f"{ADDRESS}.json": record(tensors=b"x"),
        f"{ADDRESS}.safetensors": (2).to_bytes(8, "little") + b"{}",
        f"{FOLDER}/.000000023.json.0123456789ab.partial": b"",
        f"damaged/{MEASURE}.json": b"anything",
    }
    others = {
        **THESIS,
        f"evaluations/ab/{KEY[:-1]}1.json": b'{"my": "notes"}',
        f"evaluations/ab/{KEY[:-1]}2.json": record(),  # of another key
        f"{FOLDER}/000000024.safetensors": b"no tensors at all",
        f"{FOLDER}/000000023 (copy).json": record(),
        f"{FOLDER}/notes.txt": b"x",
        "claims/letter.txt": b"x",
        f"claims/{KEY}.claim": b"a letter",
        "evaluations/ab/thesis.partial": b"x",
        "damaged/car.jpg": b"x",
    }
    put(root, {**ours, **others, MARK: b'{"format": 1}'}, hours=5)
    assert run(["clean", "--remove", "--store", str(root)]) == 0
    assert files_in(root) == others
    assert (root / MARK).exists()


# Links


@pytest.mark.parametrize("where", ["states", "states/ab", FOLDER, f"{FOLDER}/partial", "damaged", "claims"])
def test_links_out_of_a_store_are_never_followed(where, tmp_path):
    diary = {
        "20240101.json": record(),
        "000000023.json": record(tensors=b"x"),
        f"{KEY}.claim": b"{}",
        f"ab/{KEY}/000000023.json": record(tensors=b"x"),
        f"{KEY}/000000023.json": record(tensors=b"x"),
    }
    put(tmp_path / "diary", diary, hours=5)
    root = tmp_path / "store"
    store = open_store(root)
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).symlink_to(tmp_path / "diary")
    assert not list(store.files.walk())
    remove(store, find_rubbish(store))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert store.read(ADDRESS, KEY) is None
    for write in (
        lambda: fill(store, f"{FOLDER}/partial/000000023" if where.endswith("partial") else ADDRESS),
        lambda: store.remove(ADDRESS),
        lambda: claimed(store, KEY, "me").__enter__(),
    ):
        with suppress(WorkFailed, OSError):
            write()
    assert files_in(tmp_path / "diary") == diary


def test_a_link_in_a_files_place_is_neither_read_nor_written_through(tmp_path):
    put(tmp_path, {"precious.json": record(), "precious.safetensors": b"x"})
    store = open_store(tmp_path / "store")
    fill(store)
    for kind in ("json", "safetensors"):
        path = store.root / f"{ADDRESS}.{kind}"
        path.unlink()
        path.symlink_to(tmp_path / f"precious.{kind}")
    assert ADDRESS not in store
    assert list(store.under(FOLDER)) == []
    with pytest.raises(OSError, match="symbolic link"):
        store.examine(ADDRESS)
    fill(store)
    assert store.intact(ADDRESS, KEY)
    store.remove(ADDRESS)
    assert files_in(tmp_path) == {"precious.json": record(), "precious.safetensors": b"x"}


# Records of strangers

COMMANDS = [["runs"], ["show", KEY], ["clean"], ["clean", "--states"], ["export", "x.parquet"], ["merge", "s"]]


def outcome(root: Path, capsys: Any) -> str:
    """What the commands say, of a store that somebody else made."""
    told = ""
    for command in COMMANDS:
        place = str(root) if command[0] != "merge" else str(root.with_name("target"))
        run([str(root) if part == "s" else part for part in command] + ["--store", place])
        captured = capsys.readouterr()
        told += captured.out + captured.err
    return told


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from([ADDRESS, MEASURE, STUDY, "states/ab/x/y", "../x", "/etc/passwd", "Subspace", 10**400]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["at", "run", "trains", "kind", "within", "begin", "model", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FIELDS = ["value", "summary", "recipe", "result", "versions", "frozen", "seconds", "host", "optimizer", "curve"]
STUDY_FIELDS = ["study", "recipes", "options", "values", "begun"]
SOUND = {
    STUDY: {"study": "Map", "recipes": [{"model": "x"}], "options": {}, "values": [MEASURE], "begun": 0.0},
    MEASURE: {"value": {"kind": "Evaluation", "state": {"at": ADDRESS}}, "result": {"accuracy": 1}},
    ADDRESS: {"value": {"run": {"begin": 0, "trains": ["a"]}}, "recipe": {"model": "x"}, "frozen": []},
}


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_a_record_says_the_commands_answer_or_refuse(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "s"
    shutil.rmtree(root, ignore_errors=True)
    bodies = {address: dict(body) for address, body in SOUND.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        address = data.draw(st.sampled_from(list(bodies)))
        field = data.draw(st.sampled_from(STUDY_FIELDS if address == STUDY else FIELDS))
        bodies[address][field] = data.draw(anything)
    put(root, {f"{address}.json": record(body=body) for address, body in bodies.items()} | {MARK: b'{"format": 1}'})
    assert "nobody foresaw" not in outcome(root, capsys)


CASES: dict[str, dict[str, Any]] = {
    "a study without recipes": {STUDY: {}},
    "a study of numbers": {STUDY: {**SOUND[STUDY], "values": 7}},
    "values that are no addresses": {STUDY: {**SOUND[STUDY], "values": ["../x", "/etc/passwd"]}},
    "values that have no hash": {STUDY: {**SOUND[STUDY], "values": [{}]}},
    "a list for a recipe": {ADDRESS: {"recipe": [1]}},
    "a list for a summary": {ADDRESS: {"summary": [1]}, MEASURE: {**SOUND[MEASURE], "summary": [1]}},
    "names that are none": {ADDRESS: {"summary": {"frozen": [1], "part": [2], "begin": "x"}}, MEASURE: SOUND[MEASURE]},
    "a list for a value": {MEASURE: {"value": [1], "result": {}}},
    "a number that is none of floating point": {MEASURE: {"value": {}, "result": {"a": 10**400}}},
    "a seed beyond 64 bits": {ADDRESS: {"recipe": {"seed": 2**70}}, MEASURE: SOUND[MEASURE]},
    "a state that is no step": {MEASURE: {"value": {"state": {"at": "states/ab/x/y"}}, "result": {"a": 1}}},
    "a chain that bites its tail": {MEASURE: {"value": {"state": {"at": MEASURE}}, "result": {}}},
    "lists in lists": {MEASURE: {"value": {"x": json.loads("[" * 900 + "]" * 900)}, "result": {}}},
}


@pytest.mark.parametrize("name", CASES)
def test_a_strange_record_surprises_no_command(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "s"
    put(root, {f"{address}.json": record(body=body) for address, body in CASES[name].items()})
    put(root, {MARK: b'{"format": 1}'})
    assert "nobody foresaw" not in outcome(root, capsys)


def test_pipes_and_holes_are_no_records(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "s"
    put(root, {f"{MEASURE}.json": record(), MARK: b'{"format": 1}'})
    pipe = root / f"evaluations/ab/{KEY[:-1]}1.json"
    os.mkfifo(pipe)
    os.truncate(root / f"{MEASURE}.json", 60 << 30)
    assert "nobody foresaw" not in outcome(root, capsys)
    store = open_store(root)
    for address in (MEASURE, f"evaluations/ab/{KEY[:-1]}1"):
        with pytest.raises(OSError, match=r"no file|too large"):
            store.examine(address)
    assert pipe.is_fifo()


def test_nothing_a_store_holds_steers_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, evil = tmp_path / "s", "\x1b]0;owned\x07\x1b[2J\x9b1m\u202e"
    study = {**SOUND[STUDY], "study": evil, "recipes": [{"model": evil}], "options": {evil: evil}}
    bodies = {STUDY: study, MEASURE: {"host": evil}, ADDRESS: {"recipe": {"model": evil}, "host": evil}}
    put(root, {f"{address}.json": record(body=body) for address, body in bodies.items()} | {MARK: b'{"format": 1}'})
    told = outcome(root, capsys)
    for command in (["runs"], ["show", KEY], ["show", STUDY.rpartition("/")[2]]):
        for form in ("csv", "json"):
            run([*command, "--store", str(root), "--format", form])
    told += capsys.readouterr().out
    assert "owned" in told
    assert not set("\x1b\x07\x9b\u202e") & set(told)


def test_a_claim_names_a_process_and_no_file(tmp_path, monkeypatch):
    store = open_store(tmp_path / "store")
    put(tmp_path, {"stat": b"1 (x) S " + b"0 " * 30})
    for process in (f"../{tmp_path}", "self", [1], None, 1.5, True):
        claim = {"owner": "you", "machine": claims._machine(), "pid": process, "since": "x"}
        store.files.put(f"claims/{KEY}.claim", [json.dumps(claim).encode()])
        assert claims._since(process) == ""
    for odd in (b"[" * 100_000, b"[]", b"3", b"\xff"):
        store.files.put(f"claims/{KEY}.claim", [odd])
        assert claims.live(store, f"claims/{KEY}.claim")


def test_a_strangers_result_under_another_key_is_not_taken(tmp_path):
    other = tmp_path / "other"
    put(other, {f"{MEASURE}.json": record("f" * 64), MARK: b'{"format": 1}'})
    done = merge(open_store(other), open_store(tmp_path / "store"))
    assert done.damaged == {MEASURE: "it is the result of something else"}
    assert done.copied == 0


def test_bodies_and_tensors_of_our_own_pass(store):
    store.write(ADDRESS, KEY, BODY, TENSORS)
    assert store.examine(ADDRESS)["body"] == BODY
