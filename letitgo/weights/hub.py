"""Files of :mod:`letitgo.weights.delta` on the Hugging Face hub, or in a folder that stands for a repository there."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from letitgo.errors import BadRequest, WorkFailed
from letitgo.weights.checkpoint import FILES, indexed
from letitgo.weights.delta import Base, Factory, check_delta, load

FILE = "letitgo.safetensors"


def push_to_hub(path: str | os.PathLike[str], repo_id: str, private: bool = False, revision: str | None = None) -> str:
    """Upload a file that :func:`letitgo.save` wrote, as ``letitgo.safetensors``.

    Args:
        path: The file.
        repo_id: ``owner/name``; made where there is none. Log in with ``hf auth login`` or set ``HF_TOKEN``.
        private: Whether a repository made now is private.
        revision: The branch, ``main`` if not given.

    Returns:
        The address of the commit.

    Raises:
        BadRequest: The file is no such file, or the id is none.
        WorkFailed: The hub cannot be reached or does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    check_delta(path)
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_file(path_or_fileobj=Path(path), path_in_repo=FILE, repo_id=repo_id, revision=revision)
    except HFValidationError as error:
        raise BadRequest(f"{repo_id!r} is no id of a repository: it has the form 'owner/name'") from error
    except Exception as error:  # of the client or of the HTTP library below it, which its versions change
        raise WorkFailed(f"{path} could not be uploaded to {repo_id!r} on the hub: {_line(error)}") from error
    return commit.commit_url


def from_pretrained(
    model: nn.Module,
    repo_or_folder: str | os.PathLike[str],
    base: Base | Factory | None = None,
    revision: str | None = None,
) -> None:
    """Load ``letitgo.safetensors`` of a repository on the hub, or of a local folder, as :func:`letitgo.load` does.

    Args:
        model: Changed in place.
        repo_or_folder: A folder where there is one of this name, else a repository's id.
        base: As for :func:`letitgo.load`.
        revision: A branch, tag or commit of the repository.

    Raises:
        BadRequest: There is no such repository, folder, revision or file, or the file does not fit.
        WorkFailed: The hub cannot be reached.
    """
    load(model, _fetched(repo_or_folder, revision), base)


def fetched_weights(repo_or_folder: str) -> Path:
    """The folder that holds a repository's weights: a local one, or that in the cache, where they are fetched to.

    Raises:
        BadRequest: There is no such repository, or it holds no weights.
        WorkFailed: They are not in the cache and the hub cannot be reached.
    """
    if Path(repo_or_folder).is_dir():
        return Path(repo_or_folder)
    refused: Exception | None = None
    for name in FILES:
        try:
            file = Path(_fetched(repo_or_folder, None, name))
            for part in indexed(file) if file.suffix == ".json" else ():
                _fetched(repo_or_folder, None, part)
            return file.parent
        except (BadRequest, WorkFailed) as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _fetched(place: str | os.PathLike[str], revision: str | None, name: str = FILE) -> str | Path:
    folder = Path(place)
    if folder.is_dir():
        if revision is not None:
            raise BadRequest(f"{place} is a folder and has no revision {revision!r}: leave the revision out")
        return folder / name
    if folder.is_file():
        raise BadRequest(f"{place} is a file: load it with letitgo.load")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return hf_hub_download(str(place), name, revision=revision)
    except HFValidationError as error:
        raise BadRequest(f"{str(place)!r} is neither a folder nor a repository's id such as 'owner/name'") from error
    except RepositoryNotFoundError as error:
        raise BadRequest(
            f"{str(place)!r} is no folder here and no repository on the hub, or a private one: log in to see those"
        ) from error
    except RevisionNotFoundError as error:
        raise BadRequest(f"the repository {str(place)!r} has no revision {revision!r}") from error
    except LocalEntryNotFoundError as error:
        raise WorkFailed(f"{str(place)!r} is no folder here, and the hub cannot be reached: go online") from error
    except EntryNotFoundError as error:
        raise BadRequest(f"the repository {str(place)!r} holds no {name}") from error
    except Exception as error:  # of the client or of the HTTP library below it, which its versions change
        raise WorkFailed(f"{name} of {str(place)!r} could not be fetched from the hub: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
