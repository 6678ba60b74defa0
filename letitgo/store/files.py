"""Files of a store: in a folder, or wherever fsspec reaches. A reader sees a file whole, or not at all.

Every path is checked before it is joined to the place: any but a store's raises ``NoAddress``, and listings leave it
out. Links are never followed.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, ParamSpec, TypeVar

from letitgo.errors import BadRequest
from letitgo.store.addresses import MARK, NoAddress, checked_file, checked_folder, is_file, is_folder
from letitgo.store.records import LARGEST

Bytes = bytes | memoryview
P = ParamSpec("P")
T = TypeVar("T")

SMALL = 1 << 24
"""Bytes up to which a file travels in one request."""
LOCAL = ("file://", "local://")
"""What the URL of a folder begins with."""
EXTRAS = {"s3": "letitgo[s3]", "s3a": "letitgo[s3]", "gs": "letitgo[gs]", "gcs": "letitgo[gs]"}


class Entry(NamedTuple):
    """A file, as a listing tells of it; the time is in seconds of the epoch, by the clock of where it lies."""

    path: str
    bytes: int
    modified: float


def is_url(root: str | Path) -> bool:
    """Whether a store is named by a URL of anything but a folder."""
    return isinstance(root, str) and "://" in root and not root.startswith(LOCAL)


class LocalFiles:
    """Files in a folder. They are written under another name and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen = False

    def exists(self, path: str) -> bool:
        try:
            return stat.S_ISREG(self._at(path).lstat().st_mode)
        except OSError:
            return False

    def read(self, path: str) -> bytes:
        with self.open(path, 0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            return file.read()

    def open(self, path: str, size: int) -> BinaryIO:
        file = open(self._at(path), "rb", buffering=0, opener=_open_no_link)  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "it is no file", path)
        return file

    def put(self, path: str, data: Iterable[Bytes]) -> None:
        """Not flushed to the disk: what a power cut tears, the digest tells."""
        target = self._at(path)
        partial = self._partial(target)
        try:
            with partial.open("xb", buffering=0) as file:
                for part in data:
                    _write_all(file, part)
            partial.replace(target)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; says whether it was written."""
        target = self._at(path)
        self._make_parent(target)
        try:
            with target.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def remove(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)

    def move(self, path: str, target: str) -> None:
        to = self._at(target)
        to.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._at(path).replace(to)

    def listing(self) -> list[str]:
        """Names of everything at the top, a store's or not."""
        try:
            return os.listdir(self.root)
        except FileNotFoundError:
            return []

    def names(self, folder: str) -> list[str]:
        """Of a store's files in a folder, in order."""
        return sorted(entry.path.rpartition("/")[2] for entry in self._entries(folder) if isinstance(entry, Entry))

    def folders(self, folder: str) -> list[str]:
        """Names of a store's folders in a folder, in order."""
        return sorted(entry.rpartition("/")[2] for entry in self._entries(folder) if isinstance(entry, str))

    def walk(self, folder: str = "") -> Iterator[Entry]:
        """A store's files but its mark, in a folder and its folders, in no order; what has vanished is left out."""
        left = [folder]
        while left:
            for entry in self._entries(left.pop()):
                if not isinstance(entry, Entry):
                    left.append(entry)
                elif entry.path != MARK:
                    yield entry

    def _entries(self, folder: str) -> Iterator[Entry | str]:
        """A store's files in a folder, and the paths of its folders there."""
        inside = f"{checked_folder(folder)}/" if folder else ""
        place = self.root / folder
        try:
            found = [] if self._link_to(place) else list(os.scandir(place))
        except (FileNotFoundError, NotADirectoryError):
            return
        for item in found:
            path = inside + item.name
            with suppress(FileNotFoundError):
                if item.is_dir(follow_symlinks=False):
                    if is_folder(path):
                        yield path
                elif is_file(path) and item.is_file(follow_symlinks=False):
                    about = item.stat(follow_symlinks=False)
                    if not _too_large(path, about.st_size):
                        yield Entry(path, about.st_size, about.st_mtime)

    def age(self, path: str) -> float:
        """Seconds since a file was written, by the clock of the disk it lies on."""
        probe = self._partial(self._at(path))
        try:
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime - self._at(path).lstat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def make(self) -> None:
        """Make the folder, and see that it can be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._seen = True
        probe = self._partial(self.root / MARK)
        probe.touch(exist_ok=False)
        probe.unlink()

    def _at(self, path: str) -> Path:
        target = self.root / checked_file(path)
        if link := self._link_to(target.parent):
            raise OSError(errno.ELOOP, f"{link} is a link, which a store does not follow", str(link))
        return target

    def _link_to(self, folder: Path) -> Path | None:
        """A link on the way from the store to a folder in it."""
        while folder != self.root:
            if folder.is_symlink():
                return folder
            folder = folder.parent
        return None

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


def _too_large(path: str, size: int) -> bool:
    """Whether a file has the name of a record and is larger than any."""
    return path.endswith(".json") and size > LARGEST


def _open_no_link(path: str, flags: int) -> int:
    """Open for reading; never a link, and without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


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
        except (OSError, NoAddress):
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
        return f"{self._root}/{checked_file(path)}"

    def _inside(self, folder: str) -> str:
        return f"{self._root}/{checked_folder(folder)}" if folder else self._root

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

    def listing(self) -> list[str]:
        """Names of everything at the top, a store's or not."""
        return [item["name"].rstrip("/").rpartition("/")[2] for item in self._ls("")]

    def names(self, folder: str) -> list[str]:
        """Of a store's files in a folder, in order."""
        return sorted(path.rpartition("/")[2] for path in self._paths(folder, "file") if is_file(path))

    def folders(self, folder: str) -> list[str]:
        """Names of a store's folders in a folder, in order."""
        return sorted(path.rpartition("/")[2] for path in self._paths(folder, "directory") if is_folder(path))

    def walk(self, folder: str = "") -> Iterator[Entry]:
        """A store's files but its mark, in a folder and its folders, in no order."""
        for item in self._found(folder):
            path, size = item["name"][len(self._root) + 1 :], item.get("size") or 0
            if path != MARK and is_file(path) and not _too_large(path, size):
                yield Entry(path, size, _modified(item))

    def _paths(self, folder: str, kind: str) -> Iterator[str]:
        for item in self._ls(folder):
            path = item["name"].rstrip("/")[len(self._root) + 1 :]
            if path and item["type"] == kind:  # a bucket lists the folder itself where an object has its name
                yield path

    @_reached
    def _ls(self, folder: str) -> list[dict[str, Any]]:
        try:
            return self._fs.ls(self._inside(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []

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
        probe = f"{MARK}.{secrets.token_hex(6)}.partial"
        self.put(probe, [b"?"])
        self.remove(probe)

    @_reached
    def _found(self, folder: str) -> list[dict[str, Any]]:
        try:
            return [
                item for item in self._fs.find(self._inside(folder), detail=True).values() if item["type"] == "file"
            ]
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
