"""Files of a store: in a folder, or wherever fsspec reaches. A reader sees a file whole, or not at all."""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, ParamSpec, TypeVar

from letitgo.errors import BadRequest

Bytes = bytes | memoryview
P = ParamSpec("P")
T = TypeVar("T")

SMALL = 1 << 24
"""Bytes up to which a file travels in one request."""
EXTRAS = {"s3": "letitgo[s3]", "s3a": "letitgo[s3]", "gs": "letitgo[gs]", "gcs": "letitgo[gs]"}


class Entry(NamedTuple):
    """A file, as a listing tells of it; the time is in seconds of the epoch, by the clock of where it lies."""

    path: str
    bytes: int
    modified: float


def is_url(root: str | Path) -> bool:
    """Whether a store is named by a URL of anything but a folder."""
    return isinstance(root, str) and "://" in root and not root.startswith("file://")


class LocalFiles:
    """Files in a folder. They are written under another name and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen = False

    def exists(self, path: str) -> bool:
        return (self.root / path).exists()

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def open(self, path: str, size: int) -> BinaryIO:
        return (self.root / path).open("rb", buffering=0)

    def put(self, path: str, data: Iterable[Bytes]) -> None:
        """Not flushed to the disk: what a power cut tears, the digest tells."""
        target = self.root / path
        partial = self._partial(target)
        try:
            with partial.open("wb", buffering=0) as file:
                for part in data:
                    _write_all(file, part)
            partial.replace(target)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; says whether it was written."""
        target = self.root / path
        self._make_parent(target)
        try:
            with target.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def remove(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def move(self, path: str, target: str) -> None:
        to = self.root / target
        to.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            (self.root / path).replace(to)

    def names(self, folder: str) -> list[str]:
        """Of what is in a folder, in order."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, in order."""
        return [name for name in self.names(folder) if (self.root / folder / name).is_dir()]

    def walk(self, folder: str = "") -> Iterator[Entry]:
        """All files in a folder and its folders, in no order; what vanishes meanwhile is left out."""
        folders = [os.path.join(self.root, folder) if folder else str(self.root)]
        skip = len(str(self.root)) + 1
        while folders:
            try:
                found = list(os.scandir(folders.pop()))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    folders.append(item.path)
                    continue
                with suppress(FileNotFoundError):
                    about = item.stat()
                    yield Entry(item.path[skip:], about.st_size, about.st_mtime)

    def age(self, path: str) -> float:
        """Seconds since a file was written, by the clock of the disk it lies on."""
        probe = self._partial(self.root / path)
        try:
            probe.touch()
            return probe.stat().st_mtime - (self.root / path).stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def make(self) -> None:
        """Make the folder, and see that it can be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._seen = True
        probe = self._partial(self.root / "probe")
        probe.touch()
        probe.unlink()

    def _partial(self, target: Path) -> Path:
        """Where a file is written first."""
        self._make_parent(target)
        return target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")

    def _make_parent(self, target: Path) -> None:
        """A store that was there and is gone is not made anew in its place."""
        if not target.parent.is_dir():
            if self._seen and not self.root.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the store is gone", str(self.root))
            target.parent.mkdir(parents=True, exist_ok=True)
        self._seen = True


def _write_all(file: Any, data: Bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _reached(method: Callable[P, T]) -> Callable[P, T]:
    """Whatever goes wrong on the way is an ``OSError``, as on a disk."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except OSError:
            raise
        except Exception as error:
            raise OSError(
                errno.EIO, f"{type(error).__name__}: {error}", str(args[1]) if len(args) > 1 else ""
            ) from error

    return call


class RemoteFiles:
    """Files wherever fsspec reaches. An object store shows an object when all of it is there.

    Args:
        url: As in ``s3://bucket/folder``.

    Raises:
        BadRequest: Nothing is known that reaches there.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        protocol = url.partition("://")[0]
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            package = EXTRAS.get(protocol, "the package that fsspec names for it")
            raise BadRequest(f"the store {url} needs a package that is not installed: install {package}") from error
        except Exception as error:
            raise BadRequest(
                f"the store {url} cannot be reached ({error}): name a folder, or a URL that fsspec knows"
            ) from error
        self._root = self._root.rstrip("/")
        if not self._root:
            raise BadRequest(f"the store {url} names no place: give a bucket or folder too, as in s3://bucket/folder")

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @_reached
    def exists(self, path: str) -> bool:
        try:
            return self._fs.info(self._at(path))["type"] == "file"
        except FileNotFoundError:
            return False

    @_reached
    def read(self, path: str) -> bytes:
        return self._fs.cat_file(self._at(path))

    @_reached
    def open(self, path: str, size: int) -> BinaryIO:
        if size <= SMALL:
            return io.BytesIO(self._fs.cat_file(self._at(path)))
        return self._fs.open(self._at(path), "rb", block_size=SMALL, cache_type="readahead")

    @_reached
    def put(self, path: str, data: Iterable[Bytes]) -> None:
        at, first, held = self._at(path), io.BytesIO(), 0
        self._make_parent(at)
        parts = iter(data)
        for part in parts:
            first.write(part)
            held += len(part)
            if held > SMALL:
                break
        else:
            self._fs.pipe_file(at, first.getvalue())
            return
        file = self._fs.open(at, "wb", block_size=SMALL, autocommit=False)
        try:
            file.write(first.getbuffer())
            del first
            for part in parts:
                file.write(part)
            file.close()
        except BaseException:
            with suppress(Exception):
                file.discard()
                file.forced = True  # or closing it would send what there is
                file.close()
            raise
        file.commit()

    @_reached
    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; says whether it was written."""
        at = self._at(path)
        self._make_parent(at)
        try:
            self._fs.pipe_file(at, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.EEXIST or re.search("PreconditionFailed|ConditionalRequestConflict", str(error)):
                return False
            raise
        return True

    @_reached
    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._at(path))

    @_reached
    def move(self, path: str, target: str) -> None:
        self._make_parent(self._at(target))
        with suppress(FileNotFoundError):
            self._fs.cp_file(self._at(path), self._at(target))
            self._fs.rm_file(self._at(path))

    def names(self, folder: str) -> list[str]:
        """Of the files in a folder, in order."""
        return self._names(folder, "file")

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, in order."""
        return self._names(folder, "directory")

    @_reached
    def _names(self, folder: str, kind: str) -> list[str]:
        try:
            found = self._fs.ls(self._at(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(item["name"].rstrip("/").rpartition("/")[2] for item in found if item["type"] == kind)

    def walk(self, folder: str = "") -> Iterator[Entry]:
        """All files in a folder and its folders, in no order."""
        for item in self._found(folder):
            yield Entry(item["name"][len(self._root) + 1 :], item.get("size") or 0, _modified(item))

    @_reached
    def age(self, path: str) -> float:
        """Seconds since a file was written, by the clock of where it lies."""
        probe = self._at(f"{path}.{secrets.token_hex(6)}.partial")
        try:
            self._fs.pipe_file(probe, b"?")
            times = [self._fs.modified(at).timestamp() for at in (probe, self._at(path))]
        except NotImplementedError:
            return 0.0
        finally:
            with suppress(FileNotFoundError):
                self._fs.rm_file(probe)
        return times[0] - times[1]

    @_reached
    def make(self) -> None:
        """See that it can be written."""
        probe = f".{secrets.token_hex(6)}.partial"
        self.put(probe, [b"?"])
        self.remove(probe)

    @_reached
    def _found(self, folder: str) -> list[dict[str, Any]]:
        try:
            return [item for item in self._fs.find(self._at(folder), detail=True).values() if item["type"] == "file"]
        except FileNotFoundError:
            return []

    def _make_parent(self, at: str) -> None:
        """A file's folder must be there before it, but buckets have none, and asking costs a request."""
        protocol = self._fs.protocol
        if not {"s3", "gs", "abfs"} & {protocol, *(protocol if isinstance(protocol, tuple) else ())}:
            self._fs.makedirs(at.rpartition("/")[0], exist_ok=True)


Files = LocalFiles | RemoteFiles
"""Where a store lies; paths are relative, with slashes."""


def _modified(item: dict[str, Any]) -> float:
    for name in ("LastModified", "mtime", "updated", "created", "last_modified"):
        when = item.get(name)
        if isinstance(when, (int, float)):
            return float(when)
        if when is not None and hasattr(when, "timestamp"):
            return when.timestamp()
    return time.time()
