"""The store.

A result is a JSON record and, for states, a safetensors file beside it. Each file is written under another name and
then renamed, the record last, so a result is there as a whole or not at all. The record carries its own digest and the
tensors'; both are checked on reading. What fails the check is set aside in ``damaged/`` with a warning, and is then
absent: it will be computed again.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from letitgo.errors import BadRequest
from letitgo.value import canonical, sha256

Record = dict[str, Any]


class DamagedResult(UserWarning):
    """A result failed its check and was set aside."""


def open_store(root: str | Path | None = None, make: bool = True) -> Store:
    """The store in a folder: ``root``, else ``$LETITGO_STORE``, else ``.letitgo`` in the working directory.

    Args:
        root: The folder.
        make: Make it if need be, and see that it can be written; otherwise only look.

    Raises:
        BadRequest: The folder cannot be written.
    """
    path = Path(root or os.environ.get("LETITGO_STORE") or ".letitgo").expanduser().resolve()
    store = Store(path)
    if not make:
        return store
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadRequest(
            f"the store {path} cannot be written ({error.strerror}): name another folder with --store"
        ) from error
    return store


class Store:
    """Results by address, a relative path that follows from a value's key.

    Args:
        root: The folder. It is not touched before the first result is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __contains__(self, address: str) -> bool:
        """Whether there is a record; what it holds is checked on reading."""
        return self._record(address).exists()

    def write(self, address: str, key: str, body: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Put a result under its address.

        Args:
            address: Where.
            key: The value's key; reading asks for the same.
            body: JSON.
            tensors: By name; none are aliases of one another.

        Raises:
            OSError: The folder cannot be written.
        """
        record = {"key": key, "body": body}
        if tensors is not None:
            data = save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})
            record["tensors"] = {"sha256": sha256(data), "bytes": len(data)}
            self._put(self._tensors(address), data)
        self._put(self._record(address), canonical([record, sha256(canonical(record))]).encode())

    def read(self, address: str, key: str) -> dict[str, Any] | None:
        """The body of a result; None where it is absent or was set aside just now."""
        record = self._checked(address, key)
        return None if record is None else record["body"]

    def read_tensors(self, address: str, key: str) -> dict[str, Tensor] | None:
        """The tensors of a result; None where it is absent or was set aside just now."""
        record = self._checked(address, key)
        if record is None:
            return None
        try:
            data = self._tensors(address).read_bytes()
        except OSError:
            data = b""
        if sha256(data) != record["tensors"]["sha256"]:
            return self._set_aside(address, "its tensors are not the ones that were written")
        return load_tensors(data)

    def intact(self, address: str, key: str) -> bool:
        """Whether a result is there and passes every check."""
        record = self._checked(address, key)
        return record is not None and ("tensors" not in record or self.read_tensors(address, key) is not None)

    def under(self, folder: str) -> Iterator[str]:
        """Addresses of the results in a folder, in order."""
        return (f"{folder}/{path.stem}" for path in sorted((self.root / folder).glob("*.json")))

    def remove(self, address: str) -> None:
        """Delete a result, its record first. A result that is absent is no error."""
        self._record(address).unlink(missing_ok=True)
        self._tensors(address).unlink(missing_ok=True)

    def _record(self, address: str) -> Path:
        return self.root / f"{address}.json"

    def _tensors(self, address: str) -> Path:
        return self.root / f"{address}.safetensors"

    def _checked(self, address: str, key: str) -> Record | None:
        try:
            data = self._record(address).read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            return self._set_aside(address, "its record cannot be read")
        try:
            record, digest = json.loads(data)
            sound = sha256(canonical(record)) == digest
        except (ValueError, TypeError):
            return self._set_aside(address, "its record cannot be read")
        if not sound:
            return self._set_aside(address, "its record is not the one that was written")
        if record["key"] != key:
            return self._set_aside(address, "it is the result of something else")
        return record

    def _set_aside(self, address: str, reason: str) -> None:
        """Move a damaged result out of the way, the record first."""
        for path in (self._record(address), self._tensors(address)):
            target = self.root / "damaged" / path.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.replace(target)
        warnings.warn(
            f"{self._record(address)} is damaged ({reason}): it was set aside in {self.root / 'damaged'} "
            "and will be computed again",
            DamagedResult,
            stacklevel=2,
        )

    def _put(self, path: Path, data: bytes) -> None:
        """Write under another name and rename. Not flushed to the disk: what a power cut tears, the digest tells."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
