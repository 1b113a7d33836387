"""MIMIC-IV-ECG as PhysioNet ships it, joined with MIMIC-IV's patients and laboratory values where they are there.

The open part (``record_list.csv``, ``machine_measurements.csv`` and the recordings) gives the RR interval and the
rhythm that the machine stated. Age and sex come from ``patients.csv.gz``, potassium from ``labevents.csv.gz``: both
belong to the module hosp of MIMIC-IV, for which PhysioNet asks a training and a signed agreement. Without them these
three tasks are simply not available.

A file ``simulated_labels.csv`` beside the list of records marks a simulated cohort. Its labels come from the same
columns as real ones; the file adds the folds and the causes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from ecgmoe import paper, records, tasks
from ecgmoe.datasets import TEST_FOLD, VALIDATION_FOLD, Card, Cohort, DatasetError, _hosp, hashed_fold, ptbxl
from ecgmoe.store import Listing

RECORDS, MEASUREMENTS, SIMULATED_LABELS = "record_list.csv", "machine_measurements.csv", "simulated_labels.csv"

REPORT_COLUMNS = tuple(f"report_{i}" for i in range(18))

#: RR intervals outside of these, ms, are no measurement of a recording of ten seconds (300 beats a minute; two beats).
RR_LIMITS_MS = (200.0, 10_000.0)

#: Subjects of the paper's protocol (EnECG's code), and shares of train, validation and test (the code of the benchmark,
#: arXiv 2512.08954).
PAPER_SUBJECTS, PAPER_SPLIT = 30_000, (0.7, 0.2, 0.1)

#: Records in the published list, by version.
VERSIONS = {800_035: "1.0"}

CARD = Card(
    name="MIMIC-IV-ECG",
    about="Diagnostic 12-lead ECGs of ten seconds, recorded at Beth Israel Deaconess Medical Center, Boston, between "
    "2008 and 2019, each with the statements and measurements of the machine that recorded it.",
    licence="ODbL 1.0; patients and laboratory values: PhysioNet Credentialed Health Data License",
    doi="10.13026/4nqg-sb35",
    references=(
        "Gow et al. MIMIC-IV-ECG: Diagnostic Electrocardiogram Matched Subset, version 1.0. PhysioNet (2023)",
        "Johnson et al. MIMIC-IV, a freely accessible electronic health record dataset. Scientific Data 10:1 (2023)",
        "Goldberger et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215 (2000)",
    ),
    notes=(
        "RR interval and rhythm are a machine's, not a cardiologist's. The class of rhythm is read from its report.",
        "Potassium is the laboratory value nearest to the ECG; normal is 3.5 to 5.0 mmol/l, whatever the laboratory's "
        "own flag says.",
        "Ages over 89 are published as one value; they are left out of every age figure.",
        "Dates are shifted, by one amount for all of a patient; distances in time hold.",
    ),
)

SIMULATED_CARD = replace(
    ptbxl.SIMULATED_CARD, about=ptbxl.SIMULATED_CARD.about.replace("layout of PTB-XL", "layout of MIMIC-IV-ECG")
)

#: Where the list of records may lie below the folder that a user names.
_BELOW = ("*", "*/*", "physionet.org/files/mimic-iv-ecg/*")


def find_root(path: Path) -> Path:
    """Return the folder that holds the list of records: ``path``, or the one folder below it that PhysioNet named.

    Raises
    ------
    DatasetError
        Missing, without such a list, or with several.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DatasetError(f"data_root {path} {what}; pass the folder that holds {RECORDS}")
    if (path / RECORDS).is_file():
        return path
    below = sorted({found.parent for pattern in _BELOW for found in path.glob(f"{pattern}/{RECORDS}")})
    if not below:
        raise DatasetError(f"{path} is not MIMIC-IV-ECG: it holds no {RECORDS}; see https://doi.org/{CARD.doi}")
    if len(below) > 1:
        names = ", ".join(map(str, below))
        raise DatasetError(f"{path} holds several copies of MIMIC-IV-ECG; pass one of them as data_root: {names}")
    return below[0]


def listing(
    root: Path,
    fs: int,
    *,
    hosp_root: Path | None = None,
    window_h: float = 4.0,
    protocol: Literal["hash", "paper"] = "hash",
    cohort: Literal[1, 2, 3] = 1,
    seed: int = 42,
) -> Listing:
    """List the records with everything that the tables say of them.

    Parameters
    ----------
    root : Path
        As downloaded; see :func:`find_root`.
    fs : int
        Sampling rate that is wanted, Hz.
    hosp_root : Path, optional
        Folder of MIMIC-IV's module hosp; see :func:`ecgmoe.datasets._hosp.find_hosp`.
    window_h : float
        The potassium of an ECG is the value taken nearest to it, at most this many hours before or after; of two at
        the same distance the earlier, of two at the same time chemistry.
    protocol : {"hash", "paper"}
        ``"hash"``: all records; the fold of a subject (1-10) is a hash of its number, the same on every machine and
        for every part of the data set. ``"paper"``: the first ECG of each of the first 30,000 subjects by number, in
        three consecutive disjoint cohorts; in each, 70 % of the subjects are in folds 1-7, 20 % in fold 8 (validation)
        and 10 % in fold 9 (test).
    cohort : {1, 2, 3}
        Which of the paper's cohorts.
    seed : int
        Of the paper's split.

    Returns
    -------
    Listing
        The index is ``study_id``. Beside ``path``, ``patient_id`` and ``fold`` the table has ``ecg_time``, ``report``
        (lines of the machine's report, joined by line ends), ``rr_interval`` as stated, ``age``, ``sex``, ``potassium``
        (mmol/l), ``potassium_item``, ``potassium_hours`` (from the ECG to the laboratory value) and ``potassium_flag``
        (1 where the laboratory marked it as abnormal); a simulated cohort has ``cause``.

    Raises
    ------
    DatasetError
        A table is damaged, lacks a column or lists a study twice, or ``hosp_root`` is not hosp.

    Notes
    -----
    A simulated cohort keeps its own folds under ``"hash"``. ``labevents`` has about 1.2e8 rows: it is streamed once,
    block by block, and what was found is kept in the cache. All 800,035 records take less than 2 GB of memory.
    An ECG whose patient is over 89 at the time that MIMIC-IV calls the anchor counts as over 89 at any time.
    """
    if protocol not in ("hash", "paper") or cohort not in (1, 2, 3) or window_h < 0:
        raise ValueError(f"protocol {protocol!r}, cohort {cohort!r} and window_h {window_h!r} are no such choices")
    root = find_root(Path(root).expanduser())
    table, skipped, counts = _read_records(root)
    if (root / SIMULATED_LABELS).is_file():
        known = _hosp.read_csv(root / SIMULATED_LABELS, ("study_id", "fold", "cause"))
        known = known.set_axis(_whole(known, "study_id", SIMULATED_LABELS), axis=0)
        fold = _hosp.numbers(known["fold"]).reindex(table.index)
        table["fold"] = fold.where(fold.between(1, 10), table["fold"]).astype(np.int64)
        table["cause"] = known["cause"].reindex(table.index).astype(object)
    if protocol == "paper":
        table = _paper_cohort(table, cohort, seed)
    hosp = _hosp.find_hosp(root, Path(hosp_root).expanduser() if hosp_root is not None else None)
    table = table.join(_hosp.demographics(table, _hosp.find(hosp, _hosp.PATIENTS))).join(
        _hosp.potassium(table, _hosp.find(hosp, _hosp.LABS), window_h)
    )
    for name, column in ((_hosp.PATIENTS, "age"), (_hosp.LABS, "potassium")):
        if _hosp.find(hosp, name) is None:
            counts[f"{column}: not available without {name}.gz of MIMIC-IV hosp"] = len(table)
    table["ecg_time"] = table["ecg_time"].astype(str)
    return Listing("mimic_iv_ecg", root, fs, table, skipped, counts)


def select(table: pd.DataFrame, max_records: int) -> pd.DataFrame:
    """Select up to ``max_records`` of folds 7-9, whole patients by a hash, or all of folds 1-9 with 0."""
    return ptbxl.select(table, max_records)


def cohort(listing: Listing, table: pd.DataFrame, signal: np.ndarray, skipped: pd.DataFrame) -> Cohort:
    """Turn what the tables say into labels.

    Parameters
    ----------
    listing : Listing
    table : DataFrame
        Selected rows of the listing's table, in the order of ``signal``.
    signal : ndarray of shape (records, 12, samples)
        mV.
    skipped : DataFrame
        Columns ``record``, ``reason``.

    Returns
    -------
    Cohort
        Potassium is abnormal outside of ``tasks.POTASSIUM_NORMAL``. The rhythm is ``tasks.rhythm_from_report`` of the
        machine's report. An RR interval that stands for a missing one, or that no recording of ten seconds can hold,
        is dropped.
    """
    stated = table["rr_interval"]
    measured = pd.Series(paper.mimic_rr_measured(stated.to_numpy(float)), table.index)
    possible = stated.between(*RR_LIMITS_MS)
    lines = [str(report).split("\n") for report in table["report"].fillna("")]
    rhythm = pd.Series([tasks.rhythm_from_report(report) for report in lines], table.index, dtype=object)
    potassium, item = table["potassium"], table["potassium_item"]
    abnormal = tasks.potassium_abnormal(potassium.to_numpy(float))
    labels = pd.DataFrame(
        {
            "rr_interval": stated.where(measured & possible),
            "age": table["age"],
            "sex": table["sex"],
            "potassium": potassium,
            "potassium_abnormal": abnormal,
            "rhythm": rhythm.where(rhythm.notna(), None),
        }
    )
    counts = listing.counts | {
        "skipped": len(skipped),
        "used": len(table),
        "RR interval: missing, or stated as missing (0, 29999 and above)": int((~measured).sum()),
        "RR interval: impossible in ten seconds": int((measured & ~possible).sum()),
        "rhythm: no statement of a rhythm": int(rhythm.isna().sum()),
        "rhythm: in other words than the class's": sum(
            name not in (None, "other") and tasks.report_line(name) not in map(tasks.report_line, report)
            for name, report in zip(rhythm, lines, strict=True)
        ),
        "potassium: none near the ECG": int(potassium.isna().sum()),
        **{f"potassium: {name} ({code})": int((item == code).sum()) for code, name in _hosp.POTASSIUM_ITEMS.items()},
        "potassium: the laboratory's flag says otherwise": int(
            (np.isfinite(abnormal) & (abnormal != table["potassium_flag"])).sum()
        ),
        "age over 89": int((table["age"] > tasks.AGE_CENSORED_ABOVE).sum()),
        "age or sex missing": int(table[["age", "sex"]].isna().any(axis=1).sum()),
    }
    if "cause" in table:
        labels["cause"] = table["cause"]
        card = SIMULATED_CARD
    else:
        listed = counts["listed"]
        part = f"MIMIC-IV-ECG {VERSIONS[listed]}" if listed in VERSIONS else f"MIMIC-IV-ECG, {listed:,} records"
        absent = tuple(name[0].upper() + name[1:] + "." for name in counts if " not available without " in name)
        card = replace(CARD, name=part, notes=CARD.notes + absent)
    about = table[["patient_id", "fold", "path", "ecg_time", "potassium_item", "potassium_hours"]]
    return Cohort(card, pd.concat([about, labels], axis=1), signal, listing.fs, skipped, counts)


def _whole(table: pd.DataFrame, column: str, name: str) -> pd.Index:
    """Index of unique whole numbers from a column of the table called ``name``."""
    ids = _hosp.numbers(table[column])
    if ids.isna().any():
        raise DatasetError(f"{name} has rows whose {column} is no whole number; download it again")
    if ids.duplicated().any():
        twice = ", ".join(f"{i:.0f}" for i in ids[ids.duplicated()].unique()[:5])
        raise DatasetError(f"{name} lists {column} {twice} more than once; download it again")
    return pd.Index(ids.astype(np.int64), name="ecg_id")


def _read_records(root: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """Records with their measurements, the rows that cannot be used, and what was counted."""
    wanted: tuple[str, ...] = ("subject_id", "study_id", "ecg_time", "path")
    raw = _hosp.read_csv(root / RECORDS, wanted, usecols=lambda name: name in wanted)
    raw = raw.set_axis(_whole(raw, "study_id", RECORDS), axis=0)
    home = "files/" if (root / "files").is_dir() else ""
    names = raw["path"].map(records.safe_name).astype(object)
    table = pd.DataFrame(
        {
            "patient_id": _hosp.numbers(raw["subject_id"]),
            "path": names.where(names.isna(), home + names.str.removeprefix("files/")),
            "ecg_time": _hosp.times(raw["ecg_time"]),
        }
    )
    faults = {
        "the list names no subject": table["patient_id"].isna(),
        "the file name in the list is absent or leads out of the folder": table["path"].isna(),
        "the time in the list cannot be read": table["ecg_time"].isna(),
    }
    counts = {"listed": len(raw)}
    if (root / MEASUREMENTS).is_file():
        measured = _hosp.read_csv(
            root / MEASUREMENTS,
            ("subject_id", "study_id", "rr_interval", REPORT_COLUMNS[0]),
            usecols=lambda name: name in ("subject_id", "study_id", "rr_interval", *REPORT_COLUMNS),
            dtype=dict.fromkeys(REPORT_COLUMNS, "category"),
        )
        measured = measured.set_axis(_whole(measured, "study_id", MEASUREMENTS), axis=0)
        known = measured.index.isin(table.index)
        counts["without a row of measurements"] = int((~table.index.isin(measured.index)).sum())
        counts["measurements without a record"] = int((~known).sum())
        measured = measured[known]
        owner = _hosp.numbers(measured["subject_id"]).reindex(table.index)
        faults["its measurements are another subject's"] = owner.notna() & (owner != table["patient_id"])
        table["rr_interval"] = (
            pd.to_numeric(measured["rr_interval"], errors="coerce").reindex(table.index).astype(float)
        )
        report = _reports(measured).reindex(table.index)
        table["report"] = report.where(report.notna(), None)
    else:
        counts[f"RR interval and rhythm: not available without {MEASUREMENTS}"] = len(raw)
        table["rr_interval"], table["report"] = np.nan, None
    reason = pd.Series(None, index=table.index, dtype=object)
    for text, where in faults.items():
        reason[where & reason.isna()] = text
    bad = reason.notna()
    name = raw["path"].where(raw["path"].notna(), raw.index.map("study {}".format).to_series(raw.index))
    subjects = table["patient_id"].dropna().astype(np.int64).unique()
    fold = table["patient_id"].map({subject: hashed_fold(subject, 10) for subject in subjects}).astype(float)
    skipped = pd.DataFrame({"record": name[bad].astype(str), "reason": reason[bad], "fold": fold[bad]})
    table = table.assign(fold=fold)[~bad].astype({"patient_id": np.int64, "fold": np.int64})
    table = table.sort_index().sort_values("patient_id", kind="stable")
    return table, skipped.reset_index(drop=True), counts


def _reports(measured: pd.DataFrame) -> pd.Series:
    """Lines of each report that say something, joined by line ends."""
    text = np.full(len(measured), "", dtype=object)
    for column in REPORT_COLUMNS:
        if column in measured:
            has_line = measured[column].notna().to_numpy()
            text[has_line] += "\n" + measured[column][has_line].astype(str).to_numpy(object)
    return pd.Series(text, measured.index).str.slice(1).replace("", None)


def _paper_cohort(table: pd.DataFrame, cohort: int, seed: int) -> pd.DataFrame:
    """First ECG of the subjects of one third, with folds of 70/20/10 by subject."""
    first = table.sort_values(["patient_id", "ecg_time"], kind="stable").drop_duplicates("patient_id")
    first = first.iloc[:PAPER_SUBJECTS]
    size = len(first) // 3
    if size == 0:
        raise DatasetError(f"{len(first)} subjects cannot be divided into the paper's three cohorts")
    part = first.iloc[(cohort - 1) * size : cohort * size].copy()
    train, validation = (int(round(size * share)) for share in PAPER_SPLIT[:2])
    place = np.random.default_rng(seed).permutation(size)
    part["fold"] = np.select(
        [place < train, place < train + validation],
        [1 + place * (VALIDATION_FOLD - 1) // max(train, 1), VALIDATION_FOLD],
        TEST_FOLD,
    )
    return part.sort_index()
