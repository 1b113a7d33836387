"""Files of repositories on Hugging Face's hub: of one commit, and checked by their digests.

The hub's own cache keeps the files. What a revision was when it was first used is written to a record, ``source.json``:
the commit, and the SHA-256 of each file. Every later load takes that commit and demands those digests.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import huggingface_hub
from filelock import FileLock
from huggingface_hub import errors
from huggingface_hub.hf_api import RepoFile

from ecgmoe.backbones.published.containers import SIDECARS, SUFFIXES, WeightsError

#: Name of the record.
RECORD = "source.json"

_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_SECONDS = 5.0  # that the hub has to answer
_FAILURES = (OSError, ValueError, errors.HTTPError)  # of a network, of an address, of the hub


def split_id(weights: str) -> tuple[str, str | None] | None:
    """Repository and revision of ``owner/name`` or ``owner/name@revision``; None of anything else."""
    match = _ID.fullmatch(weights)
    return None if match is None else (match["repository"], match["revision"])


def check(folder: Path) -> None:
    """Compare the files of a folder with what its record says of them, where there is one.

    Raises
    ------
    WeightsError
        A file is not the one that was recorded.
    """
    for pin in _read(folder / RECORD).values():
        for name, digest in pin["sha256"].items():
            if (path := folder / name).is_file():
                _demand(path, digest, f"{folder / RECORD} says")


def fetch(repository: str, files: tuple[str, ...], revision: str, folder: Path, usual: tuple[str, ...] = ()) -> Path:
    """Get files of a repository, from the hub's cache where they are there.

    Parameters
    ----------
    repository : str
        ``owner/name``.
    files : tuple of str
        The checkpoint and what has to lie beside it. Empty for a checkpoint of a usual name or the only one of the
        repository, with its configuration files.
    revision : str
        Branch, tag or commit.
    folder : Path
        Where the record is kept, and where errors ask for the files.
    usual : tuple of str
        Usual names of checkpoints, the first one first.

    Returns
    -------
    Path
        The checkpoint.

    Raises
    ------
    WeightsError
        The hub cannot be reached, has no such thing, or a file is not what the hub or the record says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record, key = folder / RECORD, f"{repository}@{revision}"
    with FileLock(record.with_suffix(".lock")):
        pins = _read(record)
        said, commit, digests = "the hub states", revision, {}
        if key in pins:
            said, commit, digests = f"{record} says", pins[key]["commit"], pins[key]["sha256"]
        try:
            if not digests:
                commit, digests = _ask(repository, files, revision, usual)
            paths = {file: _cached(repository, file, commit) or _download(repository, file, commit) for file in digests}
        except WeightsError:
            raise
        except _FAILURES as error:
            local = {file: _cached(repository, file, commit) for file in files}
            if key in pins or not files or None in local.values():
                raise _unreachable(repository, files, revision, folder, error) from None
            paths = {file: path for file, path in local.items() if path is not None}
            commit, digests = (
                _commit(paths[files[0]], revision),
                {file: path.resolve().name for file, path in paths.items()},
            )
        sha256 = {file: _demand(path, digests[file], said) for file, path in paths.items()}
        if key not in pins:
            partial = record.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(pins | {key: {"commit": commit, "sha256": sha256}}, indent=1) + "\n")
            os.replace(partial, record)
    return next(iter(paths.values()))


def _ask(repository: str, files: tuple[str, ...], revision: str, usual: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Commit of a revision, and the digest that the hub states of each file: SHA-256, or Git's of small files."""
    api = huggingface_hub.HfApi()
    info = api.model_info(repository, revision=revision, timeout=_SECONDS)
    if not files:
        names = sorted(entry.rfilename for entry in info.siblings or [] if "/" not in entry.rfilename)
        checkpoints = [name for name in names if name.endswith(SUFFIXES)]
        checkpoints = [name for name in usual if name in checkpoints][:1] or checkpoints
        if len(checkpoints) != 1:
            listed = ", ".join(checkpoints) or "none"
            cure = "download the one that is meant, and pass its path"
            raise WeightsError(repository, f"it takes one checkpoint, and the repository has {listed}", cure)
        files = (*checkpoints, *(name for name in names if name in SIDECARS or name.endswith((".yaml", ".yml"))))
    stated = {}
    for entry in api.get_paths_info(repository, list(files), revision=info.sha):
        if isinstance(entry, RepoFile):
            stated[entry.path] = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if absent := [file for file in files if file not in stated]:
        reason = f"the repository has no {', '.join(absent)} at revision {revision}"
        raise WeightsError(repository, reason, "check name and revision")
    return str(info.sha), {file: stated[file] for file in files}


def _cached(repository: str, file: str, commit: str) -> Path | None:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=commit, local_files_only=True))
    except _FAILURES:
        return None


def _download(repository: str, file: str, commit: str) -> Path:
    huggingface_hub.HfApi().model_info(repository, revision=commit, timeout=_SECONDS)  # fails at once, unlike the next
    return Path(huggingface_hub.hf_hub_download(repository, file, revision=commit, etag_timeout=_SECONDS))


def _commit(path: Path, revision: str) -> str:
    """Commit that a file of the hub's cache is of, by the folder it lies in."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else revision


def _demand(path: Path, digest: str, said: str) -> str:
    """Give the SHA-256 of a file that has the digest which it is said to have (none, where that is no digest)."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = sha256
    if re.fullmatch("[0-9a-f]{40}", digest):  # Git's digest of a file that is not in large-file storage
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    elif not re.fullmatch("[0-9a-f]{64}", digest):
        return sha256
    if found != digest:
        reason = f"has the digest {found}, and not {digest}, which {said}"
        raise WeightsError(path, reason, "delete it and download it again")
    return sha256


def _unreachable(
    repository: str, files: tuple[str, ...], revision: str, folder: Path, error: Exception
) -> WeightsError:
    address = f"{huggingface_hub.constants.ENDPOINT}/{repository}"
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(repository, f"the repository has no revision {revision}", f"see {address}")
    if isinstance(error, errors.RepositoryNotFoundError):
        reason = "there is no such repository on the hub, or it is not public"
        return WeightsError(repository, reason, f"check the name, see {address}")
    why = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    names = " and ".join(files) or "there is no such file or folder, and of the hub's repository of that name all"
    addresses = ", ".join(f"{address}/resolve/{revision}/{file}" for file in files) or address
    return WeightsError(
        repository,
        f"{names} cannot be downloaded ({why})",
        f"get {addresses} where there is a network, and put {'it' if len(files) == 1 else 'them'} into {folder}",
    )


def _read(record: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(record.read_text())
        valid = all(isinstance(pin["commit"], str) and isinstance(pin["sha256"], dict) for pin in content.values())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        valid = False
    if not valid:
        raise WeightsError(record, "cannot be read", "delete it, and the hub is asked again")
    pins: dict[str, dict[str, Any]] = content
    return pins
