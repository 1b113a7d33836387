"""Cohorts: records with their labels, patients and official folds, from whatever source.

:func:`load` is the one door: it takes ``"simulated"``, a folder as downloaded, or a store made by
:func:`ecgmoe.store.prepare`, and returns a :class:`Cohort`.

A module of :data:`DATASETS` offers ``CARD``, ``find_root(path)``, ``listing(root, fs, **options)`` (what its tables say
of every record), ``select(table, max_records)`` and ``cohort(listing, table, signal, skipped)`` (labels of the records
whose signals were read).
"""

import hashlib
import inspect
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ecgmoe import cache, tasks
from ecgmoe.records import InputError

if TYPE_CHECKING:
    from ecgmoe.store import Listing

#: Modules of data sets, by name.
DATASETS = ("ptbxl", "mimic_iv_ecg")

#: Fold on which choices are made, and fold that is reported once a configuration; lower folds are trained on.
VALIDATION_FOLD, TEST_FOLD = 8, 9

#: Folds from which a limited selection is drawn; the tenth fold is never read.
SELECTION_FOLDS = (7, VALIDATION_FOLD, TEST_FOLD)


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
        A simulated cohort also has ``cause``; what else a data set says of a record is described by its module.
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

    def label_counts(self) -> pd.DataFrame:
        """Return how many records have each label, by split and in all: a row a class, and one for missing labels."""
        targets, rows = self.targets(), {}
        splits = {name: self.split == name for name in ("train", "validation", "test")}
        splits["all"] = np.full(len(self), True)
        for key, task in tasks.TASKS.items():
            values = targets.get(key, np.full(len(self), np.nan, np.float32))
            known = np.isfinite(values)
            groups = {name: values == index for index, name in enumerate(task.classes)} or {"known": known}
            for name, where in (groups | {"missing": ~known}).items():
                rows[task.title, name] = {split: int((where & part).sum()) for split, part in splits.items()}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["label", "class"])

    def skipped_by_reason(self) -> pd.DataFrame:
        """Return how many records were left out for each reason, with one of them by name."""
        reason = self.skipped["reason"].str.replace(r"\s*\(.*\)$", "", regex=True)
        by_reason = self.skipped["record"].groupby(reason).agg(["size", "first"]).sort_values("size", ascending=False)
        return by_reason.set_axis(["records", "for example"], axis=1)

    def targets(self) -> dict[str, np.ndarray]:
        """Labels by task name, float32 of shape (records,), NaN where missing."""
        return {name: task.targets(self.table) for name, task in self.tasks.items()}


def hashed_fold(patient: object, n_folds: int) -> int:
    """Fold of a patient, 1 to ``n_folds``: a hash of its number or name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(str(patient).encode()).digest()[:8], "big") % n_folds + 1


class DatasetError(InputError):
    """A folder cannot be read as a data set; the message says what was found and what to do."""


#: File that gives a data set away, with the module that reads it.
_MARKERS = {
    "ptbxl_database.csv": "ptbxl",
    "record_list.csv": "mimic_iv_ecg",
    "machine_measurements.csv": "mimic_iv_ecg",
}
#: Files that give away what no module reads, with a name for it and what to do.
_OTHERS = {
    "features/12sl_features.csv": (
        "PTB-XL+, which has no recordings",
        "pass the folder of PTB-XL; PTB-XL+ beside it is found",
    ),
    "12sl_features.csv": ("tables of PTB-XL+", "pass the folder of PTB-XL; PTB-XL+ beside it is found"),
    "labevents.csv.gz": ("tables of MIMIC-IV", "pass the folder of MIMIC-IV-ECG; MIMIC-IV beside it is found"),
    "hosp/labevents.csv.gz": ("MIMIC-IV", "pass the folder of MIMIC-IV-ECG; MIMIC-IV beside it is found"),
    "ludb.csv": ("LUDB, which has none of the five labels", "it is a test set of beat detectors only"),
    "ConditionNames_SNOMED-CT.csv": ("Chapman-Shaoxing-Ningbo, which is not supported", ""),
    "exams.csv": ("CODE-15%, which is not supported", ""),
}
_LEVELS_UP = 5
_DEPTHS = ("*/", "*/*/", "physionet.org/files/*/*/")  # the last is what `wget -r` makes
_LAST_FOLD = "in fold 10, which is never read"


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")


def _first_marker(folders: Iterable[Path]) -> tuple[Path, str] | None:
    """First of some folders that holds a data set, with the name of its module."""
    marked = ((folder, name) for folder in folders for file, name in _MARKERS.items() if (folder / file).is_file())
    return next(marked, None)


def _recognise(data_root: str | os.PathLike[str]) -> tuple[str, Path]:
    """Name of the module that reads a folder, and the folder it wants; DatasetError says what is wrong."""
    if data_root == "simulated":
        from ecgmoe.datasets import simulated

        return "ptbxl", simulated.ensure()
    folder = Path(data_root).expanduser()
    wanted = 'pass the folder of PTB-XL or MIMIC-IV-ECG, a prepared store, or "simulated"'
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DatasetError(f"data_root {folder} {what}; {wanted}")
    if found := _first_marker([folder]):
        return found[1], _module(found[1]).find_root(folder)
    below = (path.parent for depth in _DEPTHS for file in _MARKERS for path in sorted(folder.glob(depth + file)))
    if found := _first_marker(below):
        with suppress(DatasetError):  # some data sets may lie in the folder that their download made
            return found[1], _module(found[1]).find_root(folder)
    for place, found in (("further down", found), ("above", _first_marker(folder.resolve().parents[:_LEVELS_UP]))):
        if found:
            title = _module(found[1]).CARD.name
            raise DatasetError(f"{title} is not in {folder} but {place}; pass data_root={found[0]}")
    entries = sorted(path.name for path in folder.iterdir())
    if not entries:
        dois = " or ".join(f"{_module(name).CARD.name} (https://doi.org/{_module(name).CARD.doi})" for name in DATASETS)
        raise DatasetError(f"data_root {folder} is empty; download {dois} there")
    for file, (title, cure) in _OTHERS.items():
        if (folder / file).exists():
            raise DatasetError(f"{folder} holds {title}; {cure or wanted}")
    shown = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "")
    names = " and no ".join(_MARKERS)
    raise DatasetError(f"{folder} is no data set that is known: it holds {shown} but no {names}; {wanted}")


def listing(data_root: str | os.PathLike[str] = "simulated", fs: int = 100, **options: Any) -> "Listing":
    """List the records of folds 1-9 that are on disk, before any of them is read.

    Parameters
    ----------
    data_root : str or path
        ``"simulated"``, or a folder that holds a data set as downloaded.
    fs : int
        Sampling rate that is wanted, Hz.
    **options
        Of the data set's own ``listing``, such as ``features_root`` of :func:`ecgmoe.datasets.ptbxl.listing`.

    Returns
    -------
    Listing
        ``skipped`` has ``"not on disk"`` for every record whose files are absent, and a column ``fold``, NaN where it
        is not known.

    Raises
    ------
    DatasetError
        The folder is missing, empty, damaged, a store, or another data set, or does not take an option; the message
        says what to do.
    """
    from ecgmoe import store

    if data_root != "simulated" and store.is_store(Path(data_root)):
        raise DatasetError(f"{data_root} is a prepared store; pass the folder that it was made from")
    name, root = _recognise(data_root)
    module = _module(name)
    taken = set(inspect.signature(module.listing).parameters) - {"root", "fs"}
    if unknown := sorted(set(options) - taken):
        known = ", ".join(sorted(taken))
        raise DatasetError(f"{module.CARD.name} takes no {', '.join(unknown)}; its options are {known}")
    every = module.listing(root, fs, **options)
    table = every.table[every.table["fold"] <= TEST_FOLD]
    n_last = len(every.table) - len(table)
    on_disk = np.array([_on_disk(every.root / path) for path in table["path"]], dtype=bool)
    absent = table.loc[~on_disk, ["path", "fold"]].rename(columns={"path": "record"}).assign(reason="not on disk")
    skipped = every.skipped.reindex(columns=["record", "reason", "fold"])
    of_last = skipped["fold"] == TEST_FOLD + 1
    skipped = pd.concat([skipped[~of_last], absent[skipped.columns]], ignore_index=True)
    counts = every.counts | {_LAST_FOLD: n_last + int(of_last.sum())}
    return replace(
        every, table=table[on_disk].rename_axis("ecg_id"), skipped=skipped.astype({"fold": float}), counts=counts
    )


def cards() -> list[Card]:
    """Cards of all data sets that can be read: those with labels, then those with annotated beats."""
    from ecgmoe.datasets import annotated

    return [*(_module(name).CARD for name in DATASETS), *(annotated.card(name) for name in annotated.NAMES)]


def _on_disk(path: Path) -> bool:
    return path.with_name(path.name + ".hea").is_file() and path.with_name(path.name + ".dat").is_file()


def load(
    data_root: str | os.PathLike[str] = "simulated", fs: int = 100, max_records: int = 3000, **options: Any
) -> Cohort:
    """Load the cohort of a folder, or the simulated one.

    Parameters
    ----------
    data_root : str or path
        ``"simulated"``: the simulated cohort, made on first use and kept in the cache. Else a folder that holds PTB-XL
        or MIMIC-IV-ECG as downloaded, a simulated cohort in the layout of either, or a store that
        :func:`ecgmoe.store.prepare` made of one of them.
    fs : {100, 500}
        Sampling rate in Hz.
    max_records : int
        Of real data: up to this many records of folds 7-9, patients picked by a hash; 0 takes all of folds 1-9.
        Fold 10 is never read. A simulated cohort is always taken whole. The patients are picked from those whose files
        are there; from a store, from those whose files could be read.
    **options
        Of the data set's own ``listing``; a store has been made with them.

    Returns
    -------
    Cohort
        The same to the last bit, whether read from the source or from its store. ``skipped`` lists all records of the
        folds in question that are not on disk or cannot be used.

    Raises
    ------
    DatasetError
        The folder is missing, empty, damaged or another data set, or no record of it can be used; the message says what
        to do.
    StoreError
        A store is not complete or damaged.
    """
    from ecgmoe import store
    from ecgmoe.datasets import reading

    prepared = None
    if data_root != "simulated" and store.is_store(Path(data_root)):
        prepared = store.Store(Path(data_root))
        if prepared.fs != fs:
            cure = f"pass fs={prepared.fs}, or prepare a store at {fs} Hz"
            raise DatasetError(f"the store {data_root} was prepared at {prepared.fs} Hz, not {fs}; {cure}")
        if options:
            raise DatasetError(f"the store {data_root} is made already; prepare another one with {', '.join(options)}")
        listed = prepared.listing
        listed = replace(listed, table=listed.table.drop(columns=list(store.files.MADE_COLUMNS)))
    else:
        listed = listing(data_root, fs, **options)
    module = _module(listed.dataset)
    table, skipped = module.select(listed.table, max_records), listed.skipped
    if max_records and "cause" not in listed.table and "fold" in skipped:  # a limited selection
        skipped = skipped[~skipped["fold"].isin(set(range(1, TEST_FOLD + 1)) - set(SELECTION_FOLDS))]
    skipped = skipped[["record", "reason"]]
    if prepared is not None:
        signal = prepared.read(listed.table.index.get_indexer(table.index))
        forgiven = set(prepared.warnings["record"])
    else:
        signal, failed, warnings = reading.read_signals(listed, table)
        table, forgiven = table[~table["path"].isin(failed)], set(warnings)
        more = pd.DataFrame({"record": failed.keys(), "reason": failed.values()}, dtype=object)
        skipped = pd.concat([skipped, more], ignore_index=True)
    if table.empty:
        reasons = skipped["reason"].value_counts()
        why = "its table lists none"
        if len(reasons):
            example = skipped["record"][skipped["reason"] == reasons.index[0]].iloc[0]
            why = f"{len(skipped)} left out, most often: {reasons.index[0]}, such as {example}"
        raise DatasetError(f"no record of {data_root} at {fs} Hz can be used ({why}); see that the files are there")
    counts = listed.counts | {"not on disk": int((skipped["reason"] == "not on disk").sum())}
    counts["not asked for"] = counts["listed"] - counts.get(_LAST_FOLD, 0) - len(skipped) - len(table)
    if forgiven:
        counts["used in spite of a fault"] = int(table["path"].isin(forgiven).sum())
    return module.cohort(replace(listed, counts=counts), table, signal, skipped)
