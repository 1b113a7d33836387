"""Signals of the records of a listing, read from WFDB files and kept in the cache."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgmoe import _wfdb_files, cache, records
from ecgmoe.store.files import SECONDS, Listing

#: Records that are cached together: an interrupted run goes on after the last that was complete.
CHUNK = 512


class Signals(NamedTuple):
    """What was read.

    Attributes
    ----------
    signal : ndarray of shape (records, 12, samples)
        float32, mV, leads in the order of ``records.LEADS``; rows in the order of the table, without the failed ones.
    failed, warnings : dict of str to str
        Why a record cannot be used, and what was forgiven in one that is, by path.
    """

    signal: np.ndarray
    failed: dict[str, str]
    warnings: dict[str, str]


def read_signals(listing: Listing, table: pd.DataFrame) -> Signals:
    """Read all records that can be used, and say the reason for each that cannot.

    Kept in the cache for as long as name, size and time of change of every file stay the same.

    Parameters
    ----------
    listing : Listing
        Its ``root``, ``fs`` and ``checksum`` count.
    table : DataFrame
        Rows of its table.

    Returns
    -------
    Signals
    """
    names = table["path"].tolist()
    reader = [cache.source_digest(__file__, records.__file__, _wfdb_files.__file__), version("wfdb"), version("scipy")]
    key = {"root": str(listing.root.resolve()), "fs": listing.fs, "checksum": listing.checksum, "reader": reader}
    signal = np.empty((len(names), len(records.LEADS), round(SECONDS * listing.fs)), np.float32)
    n_read = 0
    failed: dict[str, str] = {}
    warnings: dict[str, str] = {}
    with tqdm(total=len(names), desc="Reading recordings", unit="record", disable=None) as bar:
        for first in range(0, len(names), CHUNK):
            part = names[first : first + CHUNK]
            files = [listing.root / f"{name}{suffix}" for name in part for suffix in (".hea", ".dat")]
            state = cache.digest(np.array([_state(file) for file in files], np.int64))
            arrays = cache.cached("signals", {**key, "names": part, "state": state}, lambda: _read(listing, part))
            chunk = arrays["signal"]
            signal[n_read : n_read + len(chunk)] = chunk
            n_read += len(chunk)
            notes = json.loads(arrays["notes"].tobytes())
            failed |= notes["failed"]
            warnings |= notes["warnings"]
            bar.update(len(part))
    return Signals(signal[:n_read], failed, warnings)


def _state(file: Path) -> tuple[int, int]:
    """Size and time of change; -1 for a file that is not there."""
    try:
        stat = file.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _read(listing: Listing, names: list[str]) -> dict[str, np.ndarray]:
    signals = []
    notes: dict[str, dict[str, str]] = {"failed": {}, "warnings": {}}
    for name in names:
        try:
            record = records.read_standard(
                listing.root / name, listing.fs, SECONDS, name=name, checksum=listing.checksum
            )
        except records.RecordError as error:
            notes["failed"][name] = error.reason
            continue
        signals.append(record.signal)
        if record.warnings:
            notes["warnings"][name] = "; ".join(record.warnings)
    shape = (len(signals), len(records.LEADS), round(SECONDS * listing.fs))
    return {
        "signal": np.stack(signals) if signals else np.empty(shape, np.float32),
        "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
    }
