"""A prepared store: the recordings of one data set as int16 shards with a table beside each, made once, read fast."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd


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
    """

    dataset: str
    root: Path
    fs: int
    table: pd.DataFrame
    skipped: pd.DataFrame
    counts: dict[str, int] = field(default_factory=dict)
