"""The five tasks of the paper: label, unit, classes, loss, metric and exclusions, each defined here and nowhere else.

Some labels need a definition of their own and get it here: the rhythm class of a PTB-XL record
(:func:`rhythm_from_scp`) and of a machine's report (:func:`rhythm_from_report`), the RR interval of a window
(:func:`mean_rr_interval`), and which potassium is abnormal (:func:`potassium_abnormal`).
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd

#: The 15 classes of the arrhythmia task, in the order of the code of the group's benchmark (arXiv 2512.08954).
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

#: What a line of a machine's report says, in the codes of PTB-XL, so that the order of :data:`SCP_TO_RHYTHM` decides
#: for both data sets. The patterns are searched in the line as :func:`report_line` returns it. A sinus rhythm "with"
#: something for which there is no code is not the plain rhythm.
REPORT_TO_SCP: tuple[tuple[str, str], ...] = (
    ("PACE", r"(?<!atrial )(?<!atrial-)(?<!junctional )\b(?:pacing|paced|pacemaker)\b"),
    ("AFIB", r"\b(?:atrial |a-?)fib(?:rillation)?\b(?! ?/)"),
    ("AFLT", r"\bflut(?:ter)?\b"),
    ("BIGU", r"\bbigemin"),
    ("TRIGU", r"\btrigemin"),
    ("PVC", r"(?<!eminal )\bpvcs?\b|\bpremature ventricular|\bventricular (?:premature|couplet)"),
    ("PAC", r"(?<!eminal )\bpacs?\b|\bpremature (?:atrial|supraventricular)|\b(?:atrial|supraventricular) premature"),
    ("1AVB", r"(?<!borderline )\b(?:1st degree a-v block|prolonged pr\b)"),
    ("LPR", r"\bborderline (?:1st degree a-v block|prolonged pr\b)"),
    ("STACH", r"\bsinus tachycardia\b(?! with)"),
    ("SBRAD", r"\bsinus bradycardia\b(?! with)"),
    ("SARRH", r"\bsinus arrhythmia\b(?! with)"),
    ("SR", r"\bsinus rhythm\b(?! with)"),
)

#: Classes for which PTB-XL has no statement, with the patterns that put a line into them.
REPORT_TO_CLASS: tuple[tuple[str, str], ...] = (
    ("warning: data quality may affect interpretation", r"\bdata quality may affect interpretation\b"),
    ("consider acute st elevation mi", r"\bconsider acute st elevation mi\b|\bacute mi ?/ ?stemi\b"),
    ("possible ectopic atrial rhythm", r"(?<!sinus or )\bectopic atrial rhythm\b"),
)

#: Words that make a line the statement of a rhythm, and words that unmake it or leave it undecided.
_RHYTHM_WORDS = re.compile(
    r"\b(?:rhythm|sinus|a-?fib|flut|fibrillation|flutter|tachycardia|bradycardia|svt|pacing|paced|pacemaker|asystole|"
    r"bigemin\w*|trigemin\w*|(?:2nd|3rd) degree|complete (?:heart|a-v) block|mobitz|wenckebach)\b"
)
_NO_STATEMENT = re.compile(r"\bif rhythm is confirmed\b|\bhas replaced\b|\bcompared (?:with|to)\b")
_UNDECIDED = re.compile(r"\b(?:possibl[ey]|probabl[ey]|consider|cannot rule out|suspect|undetermined|sinus or)\b")
_RAPID = re.compile(r"\b(?:rapid|uncontrolled) (?:ventricular|v-)")
#: A line that goes on with the statement of the one before: "with ...", or one dash and a word.
_CONTINUES = re.compile(r"\s*(?:with\b|-\s*\w)", re.IGNORECASE)

#: Serum potassium that counts as normal, mmol/l, both ends included.
POTASSIUM_NORMAL = (3.5, 5.0)

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


#: The five tasks of the paper, by name.
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


def potassium_abnormal(potassium: np.ndarray) -> np.ndarray:
    """Return 1 where potassium (mmol/l) lies outside of :data:`POTASSIUM_NORMAL`, 0 inside, NaN where it is unknown."""
    low, high = POTASSIUM_NORMAL
    return np.where(np.isnan(potassium), np.nan, ((potassium < low) | (potassium > high)).astype(float))


def report_line(line: str) -> str:
    """Line of a machine's report in one spelling, whatever the maker's.

    Lower case, single spaces, without the stars, dashes and full stops around it; "1st degree", "a-v block", "pacs".
    """
    text = re.sub(r"\s+", " ", line.lower()).strip(" *-.").replace("(s)", "s")
    for ordinal, word in (("1st", "first"), ("2nd", "second"), ("3rd", "third")):
        text = re.sub(rf"\b{word}[ -]degree\b", f"{ordinal} degree", text)
    return re.sub(r"\b(?:av|atrioventricular)(?= block\b)", "a-v", text)


@lru_cache(maxsize=10_000)
def _read_line(line: str) -> tuple[str | None, frozenset[str], bool]:
    """Class that a line names by itself, its codes, and whether it states a rhythm."""
    text = report_line(line)
    named = next((name for name, pattern in REPORT_TO_CLASS if re.search(pattern, text)), None)
    states = bool(_RHYTHM_WORDS.search(text)) and not _NO_STATEMENT.search(text)
    codes = frozenset(code for code, pattern in REPORT_TO_SCP if re.search(pattern, text))
    return named, codes, states


def rhythm_from_report(lines: Iterable[str]) -> str | None:
    """Class of a record from the lines of the machine's report.

    The first line that states a rhythm, warns of the quality of the data or considers an ST elevation infarction
    decides, with the lines that continue it ("with ...", "- ..."). The 15 classes are the commonest first lines of
    MIMIC-IV-ECG, where warning and infarction are printed above the rhythm; notes such as a patient's missing age are
    passed over. Within the statement the first match of :data:`SCP_TO_RHYTHM` counts, as for PTB-XL. Fibrillation is
    rapid where the report says so. A statement that leaves the rhythm open ("probable ...", "sinus or ...") and every
    rhythm that is no class is "other".

    Parameters
    ----------
    lines : iterable of str
        ``report_0``, ``report_1``, ... in their order; spelling, stars, dashes and full stops do not matter.

    Returns
    -------
    str or None
        One of :data:`RHYTHMS`; None where no line states a rhythm.

    Examples
    --------
    >>> from ecgmoe.tasks import rhythm_from_report
    >>> rhythm_from_report(["AGE NOT ENTERED", "Sinus rhythm", "- first degree AV block", "Abnormal ECG"])
    'sinus rhythm with 1st degree a-v block'
    """
    lines = [line for line in lines if line.strip()]
    for at, line in enumerate(lines):
        named, codes, states = _read_line(line)
        if named:
            return named
        if states:
            break
    else:
        return None
    text = report_line(line)
    if _UNDECIDED.search(text):
        return "other"
    for more in lines[at + 1 :]:
        if not _CONTINUES.match(more):
            break
        _, further, states = _read_line(more)
        if states and not further:
            return "other"
        codes, text = codes | further, f"{text} {report_line(more)}"
    rhythm = next((rhythm for code, rhythm in SCP_TO_RHYTHM if code in codes), "other")
    if rhythm == "atrial fibrillation" and _RAPID.search(text):
        return "atrial fibrillation with rapid ventricular response"
    return rhythm
