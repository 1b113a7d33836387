"""Cohorts: records with their labels, patients and official folds, from whatever source.

:func:`load` is the one door: it takes ``"simulated"`` or a folder as downloaded, and returns a :class:`Cohort`.
"""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ecgmoe import cache, tasks
from ecgmoe.records import InputError

#: Fold on which choices are made, and fold that is reported once a configuration; lower folds are trained on.
VALIDATION_FOLD, TEST_FOLD = 8, 9


@dataclass(frozen=True)
class Card:
    """What a reader must know of a data set."""

    name: str
    about: str
    licence: str
    doi: str
    references: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return the card as rows of item and text."""
        rows = [("Name", self.name), ("About", self.about), ("Licence", self.licence)]
        rows += [("DOI", self.doi)] if self.doi else []
        rows += [("Reference", text) for text in self.references] + [("Note", text) for text in self.notes]
        return pd.DataFrame(rows, columns=["item", "text"])


@dataclass(frozen=True)
class Cohort:
    """Records of one data set, ready for use.

    Attributes
    ----------
    card : Card
    table : DataFrame
        One row a record, indexed by ``ecg_id`` (int); columns ``patient_id``, ``fold`` (1-9), ``path`` and the labels
        ``rr_interval`` (ms), ``age`` (years; 90 stands for all above 89), ``sex`` (0 male, 1 female), ``potassium``
        (mmol/l), ``potassium_abnormal`` (0, 1), ``rhythm`` (one of ``tasks.RHYTHMS``). A missing label is NaN or None.
        A simulated cohort also has ``cause``.
    signal : ndarray of shape (records, 12, samples)
        float32, mV, leads in the order of ``records.LEADS``, rows in the order of ``table``.
    fs : int
        Sampling rate in Hz.
    skipped : DataFrame
        Columns ``record`` and ``reason``: every record that was asked for and left out.
    counts : dict of str to int
        What was counted on the way, such as records without a rhythm code.
    """

    card: Card
    table: pd.DataFrame
    signal: np.ndarray
    fs: int
    skipped: pd.DataFrame
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def split(self) -> np.ndarray:
        """``"train"``, ``"validation"`` or ``"test"`` a record, by official fold; shape (records,)."""
        fold = self.table["fold"].to_numpy()
        return np.select([fold == VALIDATION_FOLD, fold == TEST_FOLD], ["validation", "test"], "train")

    @cached_property
    def digest(self) -> str:
        """Digest of signals and table: what every result of this cohort depends on."""
        return cache.digest(self.signal, self.table.to_csv().encode(), self.fs)

    @property
    def tasks(self) -> dict[str, tasks.Task]:
        """The tasks this cohort has labels for."""
        return tasks.available(self.table)

    def summary(self) -> pd.DataFrame:
        """Return records, patients and labels by split: mean ± standard deviation, or largest class and its share."""
        targets, columns = self.targets(), {}
        for name in ("train", "validation", "test"):
            part = self.split == name
            column = {"Records": f"{part.sum():,}", "Patients": f"{self.table['patient_id'][part].nunique():,}"}
            for key, task in tasks.TASKS.items():
                values = targets[key][part] if key in targets else np.empty(0)
                values = values[np.isfinite(values)]
                if key not in targets:
                    text = "not available"
                elif len(values) == 0:
                    text = "no label"
                elif task.kind == "regression":
                    text = f"{values.mean():.1f} ± {values.std():.1f}"
                else:
                    classes, sizes = np.unique(values, return_counts=True)
                    text = f"{task.classes[int(classes[sizes.argmax()])]} {100 * sizes.max() / len(values):.1f} %"
                column[f"{task.title}, {task.unit}" if task.unit else task.title] = text
            columns[name] = column
        return pd.DataFrame(columns).rename_axis("label")

    def skipped_by_reason(self) -> pd.DataFrame:
        """Return how many records were left out for each reason, with one of them by name."""
        reason = self.skipped["reason"].str.replace(r"\s*\(.*\)$", "", regex=True)
        by_reason = self.skipped["record"].groupby(reason).agg(["size", "first"]).sort_values("size", ascending=False)
        return by_reason.set_axis(["records", "for example"], axis=1)

    def targets(self) -> dict[str, np.ndarray]:
        """Labels by task name, float32 of shape (records,), NaN where missing."""
        return {name: task.targets(self.table) for name, task in self.tasks.items()}


class DatasetError(InputError):
    """A folder cannot be read as a data set; the message says what was found and what to do."""


def load(data_root: str | os.PathLike[str] = "simulated", fs: int = 100, max_records: int = 3000) -> Cohort:
    """Load the cohort of a folder, or the simulated one.

    Parameters
    ----------
    data_root : str or path
        ``"simulated"``: the simulated cohort, made on first use and kept in the cache. Else a folder that holds PTB-XL
        as downloaded, or a simulated cohort in its layout.
    fs : {100, 500}
        Sampling rate in Hz.
    max_records : int
        Of real data: up to this many records of folds 7-9, patients picked by a hash; 0 takes all of folds 1-9.
        Fold 10 is never read. A simulated cohort is always taken whole.

    Returns
    -------
    Cohort

    Raises
    ------
    DatasetError
        The folder is missing, empty, damaged or another data set; the message says what to do.
    """
    from ecgmoe.datasets import ptbxl, simulated

    root = simulated.ensure() if data_root == "simulated" else Path(data_root)
    return ptbxl.load(root, fs=fs, max_records=max_records)
