"""What making and reading a store share: the listing, the files, and what can be wrong with them."""

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ecgmoe import cache
from ecgmoe.records import LEADS, InputError

FORMAT = 1
SECONDS = 10.0  # length of every recording in a store
IDENTITY, MANIFEST, SKIPPED, WARNINGS, LOCK = "identity.json", "manifest.json", "skipped.csv", "warnings.csv", ".lock"

#: Columns of the table that the store adds to those of the listing.
MADE_COLUMNS = ("gain", "baseline", "r_peaks", "beat_confidence", "quality", "source_digest")


class StoreError(InputError):
    """A store cannot be made or opened; the message names the cure."""


@dataclass(frozen=True)
class Listing:
    """The records of a data set before any of them is read.

    Attributes
    ----------
    dataset : str
        Name of the module of :mod:`ecgmoe.datasets` that made it and that turns its table into labels.
    root : Path
        Folder that the paths of the table start from.
    fs : int
        Sampling rate that is wanted, Hz; recordings of another rate are resampled.
    table : DataFrame
        One row a record, indexed by ``ecg_id`` (int64, unique, in a fixed order); ``path`` (record name relative to
        ``root``, never leading out of it), ``patient_id`` (int64), ``fold`` (int64) and whatever else the data set
        knows of a record before its signal is read: numbers, strings, or lists of strings.
    skipped : DataFrame
        Columns ``record`` and ``reason``: rows of the data set's own tables that cannot be used.
    counts : dict of str to int
        What was counted on the way.
    checksum : {"error", "warn"}
        Whether a record that does not match the checksum in its header is left out or only listed: some data sets
        are published with wrong ones.
    """

    dataset: str
    root: Path
    fs: int
    table: pd.DataFrame
    skipped: pd.DataFrame
    counts: dict[str, int] = field(default_factory=dict)
    checksum: Literal["error", "warn"] = "error"


def is_store(folder: Path | str) -> bool:
    """Whether a folder holds a store, complete or not."""
    return (Path(folder).expanduser() / IDENTITY).is_file()


def record_shape(fs: int) -> tuple[int, int]:
    """Leads and samples of every record."""
    return len(LEADS), round(SECONDS * fs)


def shard_path(folder: Path, number: int, suffix: str) -> Path:
    """Path of one of the three files of a shard."""
    return folder / "shards" / f"{number:05d}.{suffix}"


def read_json(path: Path) -> Any:
    """Content of a file, or None where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def to_json(content: object) -> bytes:
    """Content of a file that :func:`read_json` reads."""
    return (json.dumps(content, indent=1) + "\n").encode()


def write(path: Path, *chunks: bytes | memoryview) -> dict[str, Any]:
    """Write a file, complete or not at all; return size and digest of what was to be written."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    sha = hashlib.sha256()
    try:
        with partial.open("xb") as file:
            for chunk in chunks:
                sha.update(chunk)
                file.write(chunk)
            size = file.tell()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return {"bytes": size, "sha256": sha.hexdigest()}


def digest(entry: dict[str, Any]) -> str:
    """Digest of what an entry says, without the digest that it holds of itself."""
    return cache.digest({key: value for key, value in entry.items() if key != "digest"})


def damage(folder: Path, number: int, entry: dict[str, Any], *, digests: bool = True) -> str | None:
    """What is wrong with the array or the table of a shard, by size and digest; None where nothing is."""
    for suffix, key in (("npy", "signal"), ("parquet", "table")):
        path, stated = shard_path(folder, number, suffix), entry[key]
        if not path.is_file():
            return f"{path.name} is missing"
        if path.stat().st_size != stated["bytes"]:
            return f"{path.name} has {path.stat().st_size:,} bytes instead of {stated['bytes']:,}"
        if digests:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != stated["sha256"]:
                    return f"{path.name} does not match its digest"
    return None
