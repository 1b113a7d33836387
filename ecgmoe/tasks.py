"""The five tasks of the paper: label, unit, classes, loss, metric and exclusions, each defined here and nowhere else.

Two labels need a definition of their own and get it here: the rhythm class of a PTB-XL record
(:func:`rhythm_from_scp`) and the RR interval of a window (:func:`mean_rr_interval`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

#: The 15 classes of the arrhythmia task, in the order of the sister code's label encoder (EnECG, arXiv 2511.22935).
RHYTHMS: tuple[str, ...] = (
    "sinus rhythm",
    "sinus bradycardia",
    "sinus tachycardia",
    "atrial fibrillation",
    "sinus rhythm with borderline 1st degree a-v block",
    "sinus rhythm with 1st degree a-v block",
    "atrial fibrillation with rapid ventricular response",
    "sinus arrhythmia",
    "sinus rhythm with pac(s)",
    "ventricular pacing",
    "consider acute st elevation mi",
    "warning: data quality may affect interpretation",
    "sinus rhythm with pvc(s)",
    "possible ectopic atrial rhythm",
    "other",
)

#: PTB-XL statements that describe a rhythm; a record without any of them has no rhythm label.
SCP_RHYTHM_CODES = frozenset("SR AFIB STACH SARRH SBRAD PACE SVARR BIGU AFLT SVTAC PSVT TRIGU".split())

#: First match wins. AFIB is split by rate in :func:`rhythm_from_scp`.
SCP_TO_RHYTHM: tuple[tuple[str, str], ...] = (
    ("PACE", "ventricular pacing"),
    ("AFIB", "atrial fibrillation"),
    ("PVC", "sinus rhythm with pvc(s)"),
    ("PAC", "sinus rhythm with pac(s)"),
    ("1AVB", "sinus rhythm with 1st degree a-v block"),
    ("LPR", "sinus rhythm with borderline 1st degree a-v block"),
    ("STACH", "sinus tachycardia"),
    ("SBRAD", "sinus bradycardia"),
    ("SARRH", "sinus arrhythmia"),
    *((code, "other") for code in ("AFLT", "SVTAC", "PSVT", "SVARR", "BIGU", "TRIGU")),
    ("SR", "sinus rhythm"),
)

#: Ventricular rate above which fibrillation counts as having a rapid ventricular response, per minute.
RAPID_RATE_BPM = 100.0

#: Ages above this are published as one censored value and are left out of every age figure, years.
AGE_CENSORED_ABOVE = 89


@dataclass(frozen=True)
class Task:
    """One prediction task.

    Attributes
    ----------
    name : str
        Key used for columns, heads and results.
    title : str
        For figures and tables.
    kind : {"regression", "binary", "multiclass"}
    column : str
        Column of ``Cohort.table`` that holds the label; missing labels are NaN / None there.
    metric : str
        Headline metric: ``mae``, ``macro_f1`` or ``accuracy`` (the paper's own choice for each task).
    higher_is_better : bool
    unit : str
        Unit of the label and of a regression's error; empty for classes.
    classes : tuple of str
        Class names in the order of the class index; empty for regression.
    """

    name: str
    title: str
    kind: Literal["regression", "binary", "multiclass"]
    column: str
    metric: Literal["mae", "macro_f1", "accuracy"]
    higher_is_better: bool
    unit: str = ""
    classes: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        """Width of the head: one value or logit, or one logit a class."""
        return len(self.classes) if self.kind == "multiclass" else 1

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        """Labels of ``table`` as float32 of shape (records,): value or class index, NaN where there is none."""
        column = table[self.column]
        if self.name == "age":
            return column.mask(column > AGE_CENSORED_ABOVE).to_numpy(np.float32)
        if self.kind == "multiclass":
            index = pd.Categorical(column, categories=list(self.classes)).codes.astype(np.float32)
            return np.where(index < 0, np.float32(np.nan), index)
        return column.to_numpy(np.float32)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("rr", "RR interval", "regression", "rr_interval", "mae", False, unit="ms"),
        Task("age", "Age", "regression", "age", "mae", False, unit="years"),
        Task("sex", "Sex", "binary", "sex", "macro_f1", True, classes=("male", "female")),
        Task(
            "potassium",
            "Potassium abnormality",
            "binary",
            "potassium_abnormal",
            "macro_f1",
            True,
            classes=("normal", "abnormal"),
        ),
        Task("rhythm", "Arrhythmia", "multiclass", "rhythm", "accuracy", True, classes=RHYTHMS),
    )
}


def available(table: pd.DataFrame) -> dict[str, Task]:
    """Tasks for which ``table`` holds at least one label, in the order of :data:`TASKS`."""
    return {name: task for name, task in TASKS.items() if np.isfinite(task.targets(table)).any()}


def mean_rr_interval(peaks: np.ndarray, fs: float) -> float:
    """Mean RR interval of a window in ms: the mean of the intervals between its first and last beat.

    Parameters
    ----------
    peaks : ndarray of shape (beats,)
        R-peak positions in samples, ascending.
    fs : float
        Sampling rate in Hz.

    Returns
    -------
    float
        NaN with fewer than two beats.
    """
    if len(peaks) < 2:
        return float("nan")
    return float((peaks[-1] - peaks[0]) / (len(peaks) - 1) * 1000.0 / fs)


def rhythm_from_scp(codes: Collection[str], rate_bpm: float = float("nan")) -> str | None:
    """Class of a PTB-XL record from the SCP-ECG codes it carries, whatever their likelihood.

    Parameters
    ----------
    codes : collection of str
        Keys of ``scp_codes``. A likelihood of 0 there means "not stated", so it must not be used as a filter.
    rate_bpm : float
        Mean ventricular rate by the reference detectors; needed for atrial fibrillation only.

    Returns
    -------
    str or None
        One of :data:`RHYTHMS`; None where no rhythm code is present, or where fibrillation has no known rate.
    """
    if not SCP_RHYTHM_CODES.intersection(codes):
        return None
    rhythm = next(rhythm for code, rhythm in SCP_TO_RHYTHM if code in codes)
    if rhythm == "atrial fibrillation":
        if np.isnan(rate_bpm):
            return None
        if rate_bpm > RAPID_RATE_BPM:
            return "atrial fibrillation with rapid ventricular response"
    return rhythm
