"""Sealed files: tensors in one safetensors file, and what is to be known of them as JSON in its metadata.

The metadata holds ``[about, seal]`` under the kind of the file; the seal is a digest of ``about`` and the tensors. It
tells damage, not forgery: whoever writes a file can seal it. Reading runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from xxhash import xxh3_128

from letitgo.errors import BadRequest
from letitgo.value import canonical, sha256
from letitgo.version import versions
from letitgo.weights.coding import raw
from letitgo.whole import replaced

Kind = Literal["letitgo", "letitgo-ticket", "letitgo-subspace"]

WRITERS: dict[Kind, str] = {
    "letitgo": "letitgo.save",
    "letitgo-ticket": "letitgo.save_ticket",
    "letitgo-subspace": "letitgo.save_subspace",
}
"""The function that writes each kind."""

FORMAT = 1


class About(BaseModel):
    """What every kind of file says; each kind adds fields."""

    model_config = ConfigDict(strict=True)

    versions: dict[str, str]


Form = TypeVar("Form", bound=About)


def write(path: str | os.PathLike[str], kind: Kind, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file, replaced as a whole once it is written.

    Args:
        path: The file.
        kind: What it is.
        about: JSON; the format and the versions of letitgo and torch are added.
        tensors: By name, on the CPU.

    Raises:
        BadRequest: It cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise BadRequest(f"{path} is no ordinary file: name another")
    about = {**about, "format": FORMAT, "versions": own_versions()}
    try:
        with replaced(path) as partial:
            partial.touch()
            mode = partial.stat().st_mode  # some versions of safetensors make files that only their owner can read
            save_file(dict(tensors), partial, metadata={kind: canonical([about, seal(about, tensors)])})
            partial.chmod(mode)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadRequest(f"{path} cannot be written ({why}): name another file") from error


def read(
    path: str | os.PathLike[str], kind: Kind, form: type[Form], limit: int | None = None
) -> tuple[Form, dict[str, Tensor]]:
    """What a file says and its tensors, its form and seal checked.

    Args:
        path: What :func:`write` wrote.
        kind: What it is to be.
        form: What is said in files of that kind.
        limit: Most bytes of the header.

    Raises:
        BadRequest: There is no such file, it is damaged, of another kind, or of a newer letitgo.
    """
    metadata, tensors = open_tensors(path, limit)
    if kind not in metadata:
        raise BadRequest(f"{path} is a safetensors file, but not one that {WRITERS[kind]} wrote")
    try:
        about, found = json.loads(metadata[kind])
        newer = about["format"] > FORMAT
        whole = found in (seal(about, tensors), _early_ticket_seal(about, tensors))
        said = form.model_validate(about) if whole and not newer else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(path, "its metadata cannot be read") from error
    if newer:
        raise BadRequest(f"{path} was written by a newer letitgo (format {about['format']}): update letitgo")
    if said is None:
        raise damaged(path, "its contents are not what its digest says")
    return said, tensors


def open_tensors(path: str | os.PathLike[str], limit: int | None = None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. The tensors are views of the mapped file: nothing is allocated.

    Args:
        path: The file.
        limit: Most bytes of its header.

    Raises:
        BadRequest: There is no such file, it is damaged, or its header is longer.
    """
    file = Path(path)
    if not file.is_file():
        raise BadRequest(f"there is no file {path}")
    try:
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        if limit is not None and header > limit:
            raise BadRequest(f"{path} declares a header of {header} bytes, too many for this model")
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadRequest(f"{path} is not a whole safetensors file ({error})") from error


def damaged(path: str | os.PathLike[str], why: str) -> BadRequest:
    """The error for a file that :func:`write` did not leave so."""
    return BadRequest(f"{path} is damaged or was not written by letitgo: {why}")


def own_versions() -> dict[str, str]:
    """The versions that a file names."""
    return {name: versions()[name] for name in ("letitgo", "torch")}


def dtype(tensor: Tensor) -> str:
    """As in ``float32``."""
    return str(tensor.dtype).removeprefix("torch.")


def digests(tensors: Mapping[str, Tensor]) -> list[str]:
    """XXH3-128 over name, dtype, shape and bytes of each tensor, in order of their names.

    It tells tensors from any others one may have by accident, which is all it is for: who writes a file can write any
    weights anyway. SHA-256 would take more time than all the rest of saving.
    """
    found = []
    for name, tensor in sorted(tensors.items()):
        digest = xxh3_128(canonical([name, dtype(tensor), list(tensor.shape)]).encode())
        digest.update(raw(tensor).data)
        found.append(digest.hexdigest())
    return found


def seal(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Digest of what is said and of the tensors."""
    return sha256(canonical([about, digests(tensors)]))


def _early_ticket_seal(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The seal of tickets written before all kinds had the same."""
    digest = hashlib.sha256(canonical(about).encode())
    for name, tensor in sorted(tensors.items()):
        packed = raw(tensor).data
        digest.update(canonical([name, len(packed)]).encode())
        digest.update(packed)
    return digest.hexdigest()
