"""The simulated cohort as MIMIC-IV-ECG and MIMIC-IV hosp would hold it; written by :mod:`ecgmoe.datasets.simulated`.

Signals and labels are those of the layout of PTB-XL, with three differences that the layout brings: steps of 5 instead
of 1 µV, RR intervals in whole ms, and times that are moved so that all records of a patient fall into one year (the
age is the same in all of them there, too).
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from ecgmoe import tasks
from ecgmoe.datasets import _waves
from ecgmoe.records import LEADS, write_record

#: Leads in the order of MIMIC-IV-ECG's files: aVF comes before aVL.
ORDER = [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]
#: Steps of the files per mV.
GAIN = 200.0
FIRST_SUBJECT, FIRST_STUDY, FIRST_YEAR = 10_000_000, 40_000_000, 150

#: First lines of the machine's report by class; the classes that are no rhythm come with one.
_LINES = {
    "atrial fibrillation": ("Atrial fibrillation",),
    "sinus rhythm with borderline 1st degree a-v block": ("Sinus rhythm with borderline 1st degree A-V block",),
    "sinus rhythm with 1st degree a-v block": ("Sinus rhythm with 1st degree A-V block",),
    "sinus rhythm with pac(s)": ("Sinus rhythm with PAC(s)",),
    "sinus rhythm with pvc(s)": ("Sinus rhythm with PVC(s)",),
    "consider acute st elevation mi": ("*** CONSIDER ACUTE ST ELEVATION MI ***", "Sinus rhythm"),
    "warning: data quality may affect interpretation": (
        "--- Warning: Data quality may affect interpretation ---",
        "Sinus rhythm",
    ),
}
_OTHER_LINES = {
    "AFLT": "Atrial flutter",
    "SVTAC": "Supraventricular tachycardia",
    "BIGU": "Sinus rhythm with bigeminal PVCs",
    "TRIGU": "Sinus rhythm with trigeminal PVCs",
}
_MISSING = 29999
_REPORTS = [f"report_{i}" for i in range(18)]
_MARKS = ["p_onset", "p_end", "qrs_onset", "qrs_end", "t_end"]
_LAB_COLUMNS = (
    "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime value valuenum valueuom "
    "ref_range_lower ref_range_upper flag priority comments"
).split()


def tables(labels: pd.DataFrame, signal: np.ndarray, fiducials: list[np.ndarray], seed: int) -> dict[str, pd.DataFrame]:
    """Rows of all tables for some patients, by file name.

    Parameters
    ----------
    labels : DataFrame
        As in ``Simulation``.
    signal : ndarray of shape (records, 12, 5000)
    fiducials : list of ndarray of shape (beats, 6)
    seed : int
        Of the laboratory values that are not asked for.
    """
    ids = pd.DataFrame(
        {
            "subject_id": FIRST_SUBJECT + labels["patient_id"].astype(int),
            "study_id": FIRST_STUDY + labels["ecg_id"],
            "ecg_time": _times(labels),
        }
    )
    folders = [
        f"p{subject // 10_000}/p{subject}/s{study}" for subject, study in zip(*ids.T.to_numpy()[:2], strict=True)
    ]
    paths = [f"files/{folder}/{study}" for folder, study in zip(folders, ids["study_id"], strict=True)]
    reports = pd.DataFrame([_report(row) for _, row in labels.iterrows()], ids.index).reindex(columns=range(18))
    measured = [_measure(marks, leads) for marks, leads in zip(fiducials, signal, strict=True)]
    first = ~ids["subject_id"].duplicated()
    known = labels[["potassium", "potassium_abnormal", "rhythm", "rr_ms", "cause"]]
    return {
        "record_list.csv": ids.assign(file_name=ids["study_id"], path=paths)[
            ["subject_id", "study_id", "file_name", "ecg_time", "path"]
        ],
        "machine_measurements.csv": pd.concat(
            [
                ids.assign(cart_id=1)[["subject_id", "study_id", "cart_id", "ecg_time"]],
                reports.set_axis(_REPORTS, axis=1),
                pd.DataFrame({"bandwidth": "0.005-150 Hz", "filtering": "none"}, ids.index),
                labels["rr_ms"].round().astype(int).rename("rr_interval"),
                pd.DataFrame(measured, ids.index, [*_MARKS, "p_axis", "qrs_axis", "t_axis"]),
            ],
            axis=1,
        ),
        "simulated_labels.csv": pd.concat([ids["study_id"], labels["strat_fold"].rename("fold"), known], axis=1),
        "hosp/patients.csv.gz": pd.DataFrame(
            {
                "subject_id": ids["subject_id"],
                "gender": np.where(labels["sex"] == 0, "M", "F"),
                "anchor_age": labels["age"].mask(labels["age"] > tasks.AGE_CENSORED_ABOVE, 91).astype(int),
                "anchor_year": ids["ecg_time"].dt.year,
                "anchor_year_group": "2008 - 2010",
                "dod": "",
            }
        )[first],
        "hosp/labevents.csv.gz": _labs(ids, labels["potassium"], seed),
    }


def write_records(root: Path, table: pd.DataFrame, signal: np.ndarray) -> None:
    """Write the recordings of ``record_list.csv`` at 500 Hz, one folder a study."""
    for name, subject, leads in zip(table["path"], table["subject_id"], signal, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        names = [LEADS[lead] for lead in ORDER]
        write_record(root / name, leads[ORDER], _waves.FS, names, gain=GAIN, comments=[f"<subject_id>: {subject}"])


def _times(labels: pd.DataFrame) -> pd.Series:
    """Times 90 days apart as in PTB-XL's layout, with the first in the first half of a year long after."""
    visit = pd.to_timedelta(90 * ((labels["ecg_id"] - 1) % 3), "D")
    first = pd.to_datetime(labels["recording_date"]) - visit
    year = pd.to_datetime((first.dt.year + FIRST_YEAR).astype(str) + "-01-01")
    return year + pd.to_timedelta(first.dt.dayofyear % 180, "D") + (first - first.dt.normalize()) + visit


def _report(row: pd.Series) -> list[str]:
    """Lines of a machine's report, now and then in capitals or with a full stop, as makers do."""
    rhythm = str(row["rhythm"])
    codes = ast.literal_eval(row["scp_codes"])
    if rhythm == "other":
        lines = [next(line for code, line in _OTHER_LINES.items() if code in codes)]
    else:
        lines = list(_LINES.get(rhythm, (rhythm.capitalize(),)))
    lines.append("Normal ECG" if "NORM" in codes else "Abnormal ECG")
    spelling = row["ecg_id"] % 7
    return [line.upper() if spelling == 3 else f"{line}." if spelling == 5 else line for line in lines]


def _measure(marks: np.ndarray, signal: np.ndarray) -> list[int]:
    """Onsets and ends on the median beat, in ms from 40 ms before its start, and the frontal axes in degrees."""
    has_wave = np.isfinite(marks).any(axis=0)
    median = np.array(
        [np.nanmedian(column) if has else np.nan for column, has in zip((marks - marks[:, 2:3]).T, has_wave)]
    )
    start = median[0] if has_wave[0] else median[2] - 80
    times = 40 + (median[[0, 1, 2, 3, 5]] - start) * 1000 / _waves.FS
    axes = []
    for on, off in ((0, 1), (2, 3), (4, 5)):
        spans = marks[:, [on, off]]
        spans = spans[(spans >= 0).all(axis=1) & (spans < _waves.SAMPLES).all(axis=1)].astype(int)
        areas = [(signal[[0, 5], a:b] - signal[[0, 5], a : a + 1]).sum(axis=1) for a, b in spans]
        left, foot = np.mean(areas, axis=0) if areas else (np.nan, np.nan)
        axes.append(np.degrees(np.arctan2(2 * foot / np.sqrt(3), left)))
    return np.nan_to_num(np.rint([*times, *axes]), nan=_MISSING).astype(int).tolist()


def _labs(ids: pd.DataFrame, potassium: pd.Series, seed: int) -> pd.DataFrame:
    """Laboratory values around each ECG: the one that counts, and others that must not."""
    rows = []
    for (subject, study, time), level in zip(ids.itertuples(index=False), potassium, strict=True):
        rng = np.random.default_rng([seed, study, 3])
        sign = rng.choice([-1, 1], 3)
        nearest, farther, outside = rng.integers([10, 150, 300], [110, 235, 2400]) * sign
        item = 50822 if study % 5 == 0 else 50971
        others = np.round(rng.uniform(2.8, 6.2, 2), 1)
        rows += [
            (subject, item, time + pd.Timedelta(minutes=nearest), level, "mEq/L", 3.3, 5.1, ""),
            (subject, 50971, time + pd.Timedelta(minutes=farther), others[0], "mEq/L", 3.3, 5.1, ""),
            (subject, 50971, time + pd.Timedelta(minutes=outside), others[1], "mEq/L", 3.3, 5.1, ""),
            (subject, 50983, time, np.round(rng.normal(139, 3)), "mEq/L", 133, 145, ""),
            (subject, 50971, time, np.nan, "mEq/L", 3.3, 5.1, "HEMOLYZED, SPECIMEN UNSUITABLE."),
        ]
    columns = "subject_id itemid charttime valuenum valueuom ref_range_lower ref_range_upper comments".split()
    table = pd.DataFrame(rows, columns=columns).sort_values(["subject_id", "charttime"], kind="stable")
    inside = table["valuenum"].between(table["ref_range_lower"], table["ref_range_upper"]) | table["valuenum"].isna()
    table["flag"] = np.where(inside, "", "abnormal")
    table["value"] = table["valuenum"].map("{:g}".format).where(table["valuenum"].notna(), "___")
    return table.assign(storetime=table["charttime"]).reindex(columns=_LAB_COLUMNS)
