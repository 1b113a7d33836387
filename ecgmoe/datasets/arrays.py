"""A cohort of recordings that lie in memory, with labels of your own."""

import hashlib

import numpy as np
import pandas as pd

from ecgmoe import tasks
from ecgmoe.datasets import TEST_FOLD, Card, Cohort, DatasetError

#: Values that a label may have, and how to give it, by column; those without an entry are numbers above 0.
_ALLOWED = {
    "sex": ((0.0, 1.0), "0 for male, 1 for female, NaN where it is unknown"),
    "potassium_abnormal": ((0.0, 1.0), "0 for normal, 1 for abnormal, NaN where it is unknown"),
    "rhythm": (tasks.RHYTHMS, "one of ecgmoe.tasks.RHYTHMS, None where it is unknown"),
}


def cohort(signal: np.ndarray, fs: int, labels: pd.DataFrame, *, name: str = "arrays") -> Cohort:
    """Give recordings and their labels as the rest of the library takes them.

    Parameters
    ----------
    signal : ndarray of shape (records, 12, samples)
        mV, leads in the order of ``records.LEADS``.
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
        Records with samples that are not finite, or with a constant lead, are left out and listed in ``skipped``.

    Raises
    ------
    DatasetError
        Shapes do not agree, a label has a value that it cannot have, a patient is in two folds, a part of the three has
        no record, or no record can be used; the message names the record and says what to do.
    """
    if signal.ndim != 3 or signal.shape[1] != 12 or len(signal) != len(labels):
        said = f"signal has shape {signal.shape} and labels {len(labels)} rows"
        raise DatasetError(f"{said}; pass (records, 12, samples), and a row of labels a record")
    if "patient_id" not in labels or labels["patient_id"].isna().any():
        cure = "without it a patient may be in two parts; where every record is of another one, give each a number"
        raise DatasetError(f"labels need the column patient_id, a value a record: {cure}")
    fold = labels["fold"] if "fold" in labels else labels["patient_id"].map(_fold)
    table = pd.DataFrame({"patient_id": labels["patient_id"], "fold": fold, "path": labels.index.astype(str)})
    _refuse(table, "fold", ~table["fold"].isin(range(1, TEST_FOLD + 1)), f"a whole number from 1 to {TEST_FOLD}")
    _refuse(table, "patient_id", table.groupby("patient_id")["fold"].transform("nunique") > 1, "in one fold alone")
    for column in (task.column for task in tasks.TASKS.values()):
        given = labels[column] if column in labels else pd.Series(np.nan, labels.index)
        values, wanted = _ALLOWED.get(column, (None, "a number above 0, NaN where it is unknown"))
        if column == "rhythm":
            table[column] = given.astype(object).where(given.notna(), None)
            valid = given.isin(values or ())
        else:
            number = pd.to_numeric(given, errors="coerce")
            table[column] = number.astype(float)
            valid = number.isin(values) if values else (number > 0) & np.isfinite(number)
        _refuse(table.assign(**{column: given}), column, given.notna() & ~valid, wanted)
    reason = pd.Series("", table.index)
    low, high = signal.min(axis=2, initial=np.inf), signal.max(axis=2, initial=-np.inf)
    reason[((low == high) | (low > high)).any(axis=1)] = "a lead is constant"
    reason[~(np.isfinite(low) & np.isfinite(high)).all(axis=1)] = "samples are not finite"
    kept = (reason == "").to_numpy()
    skipped = pd.DataFrame({"record": table["path"], "reason": reason})[~kept].reset_index(drop=True)
    table = table[kept].set_index(pd.RangeIndex(1, kept.sum() + 1, name="ecg_id")).astype({"fold": np.int64})
    card = Card(name, f"{len(table):,} recordings in memory", "that of the data", "", ())
    found = Cohort(card, table, np.ascontiguousarray(signal[kept], np.float32), fs, skipped, {"listed": len(labels)})
    for part in ("train", "validation", "test"):
        if not (found.split == part).any():
            such = [
                f"; left out: {len(skipped)}, such as {line.record} ({line.reason})" for line in skipped.itertuples()
            ]
            raise DatasetError(
                f"no record is in the {part} part; give more patients, or the column fold{''.join(such[:1])}"
            )
    return found


def _fold(patient: object) -> int:
    return int.from_bytes(hashlib.sha256(str(patient).encode()).digest()[:8], "big") % TEST_FOLD + 1


def _refuse(table: pd.DataFrame, column: str, wrong: pd.Series, wanted: str) -> None:
    """Raise for the first record whose value is wrong."""
    if wrong.any():
        first = int(wrong.to_numpy().argmax())
        value = table[column].tolist()[first]
        raise DatasetError(f"{table['path'].iloc[first]}: {column} is {value!r}; it must be {wanted}")
