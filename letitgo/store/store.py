"""The store.

A result is a JSON record and, for states, a safetensors file beside it. The record is written last and is the mark that
the result is there: where files are renamed into place as where there is no rename, a result is there as a whole or not
at all. The record carries its own digest and the tensors'; both are checked on reading. What fails the check is set
aside in ``damaged/`` with a warning, and is then absent: it will be computed again.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from letitgo.errors import BadRequest, WorkFailed
from letitgo.store.files import LOCAL, Bytes, Files, LocalFiles, RemoteFiles, is_url
from letitgo.store.mark import settle
from letitgo.store.records import Record, examined, parsed
from letitgo.value import canonical, sha256
from letitgo.version import other_versions

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 22
"""Bytes that are copied at once."""


class DamagedResult(UserWarning):
    """A result failed its check and was set aside."""


def open_store(root: str | Path | None = None, make: bool = True) -> Store:
    """The store in a folder or at a URL: ``root``, else ``$LETITGO_STORE``, else ``.letitgo`` in the working directory.

    Args:
        root: The folder, or a URL that fsspec knows, as in ``s3://bucket/folder``.
        make: Make it if need be, and see that it can be written; otherwise only look.

    Raises:
        BadRequest: It is a file, holds other things, cannot be written, or a package is missing that reaches there.
    """
    name = root or os.environ.get("LETITGO_STORE") or ".letitgo"
    if not is_url(name):
        for scheme in LOCAL:
            name = str(name).removeprefix(scheme)
        name = Path(name).expanduser().resolve()
        if name.is_file():
            raise BadRequest(f"the store {name} is a file: name a folder with --store")
    store = Store(name)
    if make:
        try:
            store.settle()
            store.files.make()
        except OSError as error:
            raise BadRequest(
                f"the store {name} cannot be written ({error.strerror or error}): name another folder with --store"
            ) from error
    return store


class Store:
    """Results by address, a relative path that follows from a value's key.

    Args:
        root: The folder, or a URL that fsspec knows. It is not touched before the first result is written.
        recompute_other_versions: Results of another letitgo, torch, processor or device are not intact, so they are
            computed again and replaced.
        device: Where they would be computed.
    """

    def __init__(self, root: Path | str, recompute_other_versions: bool = False, device: str = "cpu") -> None:
        self.root = root if is_url(root) else Path(root)
        self.recompute_other_versions, self.device = recompute_other_versions, device
        self._settled = False

    @cached_property
    def files(self) -> Files:
        """Where it lies."""
        return LocalFiles(self.root) if isinstance(self.root, Path) else RemoteFiles(self.root)

    def settle(self) -> None:
        """See that results may be written here: a store stays one, an empty place becomes one.

        Raises:
            BadRequest: The place holds other things.
            OSError: It cannot be read or written.
        """
        if not self._settled:
            settle(self.files, self.root)
            self._settled = True

    def __contains__(self, address: str) -> bool:
        """Whether there is a record; what it holds is checked on reading."""
        return self.files.exists(_record(address))

    def write(self, address: str, key: str, body: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Put a result under its address.

        Args:
            address: Where.
            key: The value's key; reading asks for the same.
            body: JSON.
            tensors: By name; none are aliases of one another.

        Raises:
            WorkFailed: The store cannot be written.
        """
        record: Record = {"key": key, "body": body}
        try:
            self.settle()
            if tensors is not None:
                from letitgo.store.tensors import written

                record["tensors"] = self._put_hashed(_tensors(address), written(tensors))
            self._put_record(address, record)
        except OSError as error:
            raise self._failed(address, "written", error) from error

    def read(self, address: str, key: str) -> dict[str, Any] | None:
        """The body of a result; None where it is absent or was set aside just now."""
        record = self._checked(address, key)
        return None if record is None else record["body"]

    def read_tensors(self, address: str, key: str) -> dict[str, Tensor] | None:
        """The tensors of a result; None where it is absent or was set aside just now."""
        record = self._checked(address, key)
        if record is None:
            return None
        from letitgo.store.tensors import NoTensors, read

        about = record["tensors"]
        try:
            with self.files.open(_tensors(address), about["bytes"]) as file:
                return read(file, about["bytes"], about["sha256"])
        except (FileNotFoundError, NoTensors):
            return self._set_aside(address, "its tensors are not the ones that were written")
        except OSError as error:
            raise self._failed(address, "read", error) from error

    def intact(self, address: str, key: str) -> bool:
        """Whether a result is there and passes every check."""
        record = self._checked(address, key)
        if record is None:
            return False
        if self.recompute_other_versions and other_versions(record["body"].get("versions", {}), self.device):
            return False
        if "tensors" in record and not self._same_tensors(address, record):
            self._set_aside(address, "its tensors are not the ones that were written")
            return False
        return True

    def under(self, folder: str) -> Iterator[str]:
        """Addresses of the results in a folder, in order."""
        names = self.files.names(folder)
        return (f"{folder}/{name[:-5]}" for name in names if name.endswith(".json"))

    def remove(self, address: str) -> None:
        """Delete a result, its record first. A result that is absent is no error."""
        self.files.remove(_record(address))
        self.files.remove(_tensors(address))

    def examine(self, address: str) -> Record:
        """The record of a result, for whoever has no value to ask with: ``key``, ``body``, and ``tensors`` of a state.

        Nothing is set aside.

        Raises:
            FileNotFoundError: It is absent.
            ValueError: It is damaged; the message says how.
        """
        return examined(self.files.read(_record(address)), address)

    def copy(self, address: str, target: Store) -> None:
        """Put a result into another store too, a piece at a time.

        Raises:
            FileNotFoundError: It is absent.
            ValueError: It is damaged; the other store then has none of it that is read.
            WorkFailed: The other store cannot be written.
        """
        record = self.examine(address)
        about = record.get("tensors")
        try:
            target.settle()
            if about is not None:
                with self.files.open(_tensors(address), about["bytes"]) as file:
                    got = target._put_hashed(_tensors(address), iter(lambda: file.read(PIECE), b""))
                if got != about:
                    target.files.remove(_tensors(address))
                    raise ValueError("its tensors are not the ones that were written")
            target._put_record(address, record)
        except FileNotFoundError as error:
            raise ValueError("its tensors are missing") from error
        except OSError as error:
            raise target._failed(address, "written", error) from error

    def _same_tensors(self, address: str, record: Record) -> bool:
        about, hashed, left = record["tensors"], hashlib.sha256(), record["tensors"]["bytes"]
        try:
            with self.files.open(_tensors(address), about["bytes"]) as file:
                while piece := file.read(PIECE):
                    hashed.update(piece)
                    left -= len(piece)
                    if left < 0:
                        return False
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(address, "read", error) from error
        return left == 0 and hashed.hexdigest() == about["sha256"]

    def _put_hashed(self, path: str, data: Iterator[Bytes]) -> dict[str, Any]:
        hashed, size = hashlib.sha256(), 0

        def passing() -> Iterator[Bytes]:
            nonlocal size
            for piece in data:
                hashed.update(piece)
                size += len(piece)
                yield piece

        self.files.put(path, passing())
        return {"sha256": hashed.hexdigest(), "bytes": size}

    def _put_record(self, address: str, record: Record) -> None:
        self.files.put(_record(address), [canonical([record, sha256(canonical(record))]).encode()])

    def _checked(self, address: str, key: str) -> Record | None:
        try:
            record = parsed(self.files.read(_record(address)))
        except FileNotFoundError:
            return None
        except OSError as error:
            if not isinstance(self.root, Path):
                raise self._failed(address, "read", error) from error
            return self._set_aside(address, "its record cannot be read")
        except ValueError as error:
            return self._set_aside(address, str(error))
        if record["key"] != key:
            return self._set_aside(address, "it is the result of something else")
        return record

    def _set_aside(self, address: str, reason: str) -> None:
        """Move a damaged result out of the way, the record first."""
        damaged = f"{self.root}/damaged"
        try:
            self.settle()
            for path in (_record(address), _tensors(address)):
                self.files.move(path, f"damaged/{path}")
            what = f"it was set aside in {damaged}"
        except OSError as error:
            what = f"it could not be set aside in {damaged} ({error.strerror or error})"
        warnings.warn(
            f"{self.root}/{_record(address)} is damaged ({reason}): {what} and will be computed again",
            DamagedResult,
            stacklevel=2,
        )

    def _failed(self, address: str, what: str, error: OSError) -> WorkFailed:
        return WorkFailed(f"{self.root}/{address} cannot be {what} ({error.strerror or error})")


def _record(address: str) -> str:
    return f"{address}.json"


def _tensors(address: str) -> str:
    return f"{address}.safetensors"
