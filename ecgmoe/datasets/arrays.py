"""A cohort of recordings that lie in memory, with labels of your own."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ecgmoe import tasks
from ecgmoe.datasets import TEST_FOLD, Card, Cohort, DatasetError, hashed_fold
from ecgmoe.records import LARGEST_MV

#: Smallest and largest value that a label may have, by column, and how to give it.
RANGES = {"rr_interval": (200.0, 5000.0, "milliseconds"), "age": (0.0, 130.0, "years")}
#: Values that the other labels may have, and how to give them.
VALUES: dict[str, tuple[tuple[Any, ...], str]] = {
    "sex": ((0, 1), "0 for male, 1 for female, NaN where it is unknown"),
    "potassium_abnormal": ((0, 1), "0 for normal, 1 for abnormal, NaN where it is unknown"),
    "rhythm": (tasks.RHYTHMS, "one of ecgmoe.tasks.RHYTHMS, None where it is unknown"),
}
#: Seconds that a recording lasts, as everywhere in this library.
SECONDS = 10.0


def cohort(signal: ArrayLike, fs: int, labels: pd.DataFrame, *, name: str = "arrays") -> Cohort:
    """Give recordings and their labels as the rest of the library takes them.

    Parameters
    ----------
    signal : array of shape (records, 12, samples)
        mV, ten seconds each, leads in the order of ``records.LEADS``.
    fs : int
        Sampling rate in Hz.
    labels : DataFrame
        A row a record, its index what records are called. ``patient_id`` keeps all records of a patient in one part.
        Any of ``rr_interval`` (ms), ``age`` (years), ``sex`` (0 male, 1 female), ``potassium_abnormal`` (0, 1) and
        ``rhythm`` (of ``tasks.RHYTHMS``), NaN or None where missing; what is not there is no task. ``fold`` (1-7 to
        train, 8 to choose, 9 to report) is a hash of the patient where it is not given.
    name : str
        Of the data, for tables and provenance.

    Returns
    -------
    Cohort
        Records with samples that are not finite, with values that no heart reaches, or with a constant lead, are left
        out and listed in ``skipped``.

    Raises
    ------
    DatasetError
        Shapes do not agree, recordings do not last ten seconds, there is no label, a label has a value that it cannot
        have, a patient is in two folds, or a part of the three has no record; the message names the record and says
        what to do.
    """
    signal_BCT = np.asarray(signal)
    if signal_BCT.ndim != 3 or signal_BCT.shape[1] != 12 or len(signal_BCT) != len(labels):
        said = f"signal has shape {signal_BCT.shape} and labels {len(labels)} rows"
        raise DatasetError(f"{said}; pass (records, 12, samples), and a row of labels a record")
    if not isinstance(fs, int | np.integer) or signal_BCT.shape[2] != SECONDS * fs:
        said = f"{signal_BCT.shape[2]:,} samples at fs = {fs!r}"
        raise DatasetError(f"{said}; pass recordings of {SECONDS:g} s, and a whole number of Hz")
    signal_BCT = signal_BCT.astype(np.float32)
    table = _checked(labels)
    low_BC, high_BC = signal_BCT.min(axis=2), signal_BCT.max(axis=2)
    reason = pd.Series("", table.index)
    reason[(low_BC == high_BC).any(axis=1)] = "a lead is constant"
    reason[(np.maximum(-low_BC, high_BC) > LARGEST_MV).any(axis=1)] = f"more than {LARGEST_MV:g} mV: is the unit right?"
    reason[~(np.isfinite(low_BC) & np.isfinite(high_BC)).all(axis=1)] = "samples are not finite"
    kept = (reason == "").to_numpy()
    skipped = pd.DataFrame({"record": table["path"], "reason": reason})[~kept].reset_index(drop=True)
    table = table[kept].set_index(pd.RangeIndex(1, kept.sum() + 1, name="ecg_id"))
    card = Card(name, f"{len(table):,} recordings in memory", "that of the data", "", ())
    found = Cohort(card, table, signal_BCT[kept], int(fs), skipped, {"listed": len(labels)})
    for part in ("train", "validation", "test"):
        if not (found.split == part).any():
            lost = [
                f"; left out: {len(skipped)}, such as {line.record} ({line.reason})" for line in skipped.itertuples()
            ]
            cure = f"give more patients, or the column fold{lost[0] if lost else ''}"
            raise DatasetError(f"no record is in the {part} part; {cure}")
    return found


def _checked(labels: pd.DataFrame) -> pd.DataFrame:
    """The table of a cohort: every label column, those that were not given empty; DatasetError for what cannot be."""
    patient = labels.get("patient_id", pd.Series(np.nan, labels.index, dtype=object))
    if patient.isna().any():
        cure = "without it a patient may be in two parts; where every record is of another one, give each a number"
        raise DatasetError(f"labels need the column patient_id, a value a record: {cure}")
    table = pd.DataFrame({"patient_id": patient, "path": labels.index.astype(str)}, index=labels.index)
    table["fold"] = labels["fold"] if "fold" in labels else patient.map(_fold)
    _refuse(table, "fold", ~table["fold"].isin(range(1, TEST_FOLD + 1)), f"a whole number from 1 to {TEST_FOLD}")
    _refuse(table, "patient_id", table.groupby("patient_id")["fold"].transform("nunique") > 1, "in one fold alone")
    for column in (*RANGES, *VALUES):
        table[column] = labels.get(column, pd.Series(np.nan, labels.index)).astype(object)
        known = table[column].notna()
        if column in RANGES:
            low, high, unit = RANGES[column]
            valid = pd.to_numeric(table[column], errors="coerce").between(low, high)
            _refuse(table, column, known & ~valid, f"{unit} from {low:g} to {high:g}, NaN where it is unknown")
        else:
            values, wanted = VALUES[column]
            _refuse(table, column, known & ~table[column].isin(values), wanted)
        table[column] = table[column].where(known, None) if column == "rhythm" else table[column].astype(float)
    if not tasks.available(table):
        raise DatasetError(f"labels hold none of {', '.join((*RANGES, *VALUES))}; pass one that a model can learn")
    return table.astype({"fold": np.int64})


def _fold(patient: object) -> int:
    if isinstance(patient, float | np.floating) and float(patient).is_integer():
        patient = int(patient)  # whole numbers are floats where a table has gaps
    return hashed_fold(patient, TEST_FOLD)


def _refuse(table: pd.DataFrame, column: str, wrong: pd.Series, wanted: str) -> None:
    """Raise for the first record whose value is wrong."""
    if wrong.any():
        first = int(wrong.to_numpy().argmax())
        value = table[column].tolist()[first]
        raise DatasetError(f"{table['path'].iloc[first]}: {column} is {value!r}; it must be {wanted}")
