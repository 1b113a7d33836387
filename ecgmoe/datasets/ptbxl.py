"""PTB-XL as PhysioNet ships it (versions 1.0.1 to 1.0.3), and any cohort written in its layout.

A file ``simulated_labels.csv`` beside the table of records marks a simulated cohort; it holds the labels for which
PTB-XL has no column, and those then take the place of measured ones.
"""

import ast
import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgmoe import cache, records, tasks
from ecgmoe.datasets import TEST_FOLD, VALIDATION_FOLD, Card, Cohort, DatasetError, reference

TABLE, SIMULATED_LABELS = "ptbxl_database.csv", "simulated_labels.csv"

#: Columns of the table that are needed, by sampling rate for the last one.
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold")
FILE_COLUMN = {100: "filename_lr", 500: "filename_hr"}
SIMULATED_COLUMNS = ("ecg_id", "potassium", "potassium_abnormal", "rhythm", "rr_ms", "cause")

#: Length of a recording, s.
SECONDS = 10

#: Folds from which a limited selection is drawn; the tenth fold is never read.
SELECTION_FOLDS = (7, VALIDATION_FOLD, TEST_FOLD)

#: Age given to patients over 89, years; the table says 300.
OVER_89 = tasks.AGE_CENSORED_ABOVE + 1

#: Records in the published table, by version.
VERSIONS = {21837: "1.0.1 or 1.0.2", 21799: "1.0.3"}

CARD = Card(
    name="PTB-XL",
    about="Clinical 12-lead ECGs of ten seconds, recorded by devices of Schiller AG between 1989 and 1996, each with "
    "statements by one or two cardiologists; ten folds that keep every patient together.",
    licence="CC BY 4.0",
    doi="10.13026/kfzx-aw45",
    references=(
        "Wagner et al. PTB-XL, a large publicly available electrocardiography dataset. Scientific Data 7:154 (2020)",
        "Goldberger et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215 (2000)",
    ),
    notes=(
        "Ages over 89 are published as one value; they are left out of every age figure.",
        "Folds 9 and 10 were wholly validated by a human, folds 1-8 to about two thirds. Fold 10 is not used here.",
        "No potassium and no RR interval are published. The RR interval is measured by two public detectors.",
        "Statements carry a likelihood, where 0 means that none was stated: it is no reason to drop a statement.",
    ),
)

SIMULATED_CARD = Card(
    name="Simulated cohort",
    about="ECGs computed from known causes by a dynamical model of the heart's dipole, in the layout of PTB-XL. It "
    "shows that the methods run and find what was put in; it says nothing about real hearts.",
    licence="CC BY 4.0",
    doi="",
    references=(
        "McSharry et al. A dynamical model for generating synthetic electrocardiogram signals. IEEE Trans. Biomed. "
        "Eng. 50:289 (2003)",
        "Sameni et al. Multichannel ECG and noise modeling. EURASIP J. Adv. Signal Process. 043407 (2007)",
    ),
    notes=("All five labels are true by construction, potassium included.",),
)

#: Files that give away another data set, with its name.
_OTHERS = {
    "record_list.csv": "MIMIC-IV-ECG",
    "machine_measurements.csv": "MIMIC-IV-ECG",
    "ludb.csv": "LUDB",
    "features/12sl_features.csv": "PTB-XL+",
    "ConditionNames_SNOMED-CT.csv": "Chapman-Shaoxing-Ningbo",
    "exams.csv": "CODE-15%",
}


def find_root(data_root: Path) -> Path:
    """Return ``data_root`` once it is clear that it holds PTB-XL's table.

    Raises
    ------
    DatasetError
        Missing, empty, or another data set; the message says which and what to do.
    """
    if not data_root.is_dir():
        what = "is a file" if data_root.exists() else "does not exist"
        raise DatasetError(f'data_root {data_root} {what}; pass the folder that holds {TABLE}, or "simulated"')
    if (data_root / TABLE).is_file():
        return data_root
    below = sorted(path for depth in ("*/", "*/*/") for path in data_root.glob(depth + TABLE))
    if below:
        raise DatasetError(f"{TABLE} is not in {data_root} but further down; pass data_root={below[0].parent}")
    entries = sorted(path.name for path in data_root.iterdir())
    if not entries:
        raise DatasetError(f"data_root {data_root} is empty; download PTB-XL there (https://doi.org/{CARD.doi})")
    other = next((name for file, name in _OTHERS.items() if (data_root / file).exists()), None)
    if other:
        raise DatasetError(
            f"{data_root} holds {other}, which is not supported in this version; "
            f'pass the folder of PTB-XL (https://doi.org/{CARD.doi}) or "simulated"'
        )
    shown = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "")
    raise DatasetError(f"{data_root} is not PTB-XL: it holds {shown} but no {TABLE}")


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} cannot be read as CSV ({error}); download it again") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DatasetError(f"{path.name} has no column {', '.join(missing)}; download it again")
    ids = pd.to_numeric(table["ecg_id"], errors="coerce")
    if ids.isna().any() or (ids % 1).any():
        raise DatasetError(f"{path.name} has rows whose ecg_id is no whole number; download it again")
    if ids.duplicated().any():
        twice = ", ".join(str(int(i)) for i in ids[ids.duplicated()].unique()[:5])
        raise DatasetError(f"{path.name} lists ecg_id {twice} more than once; download it again")
    return table.set_axis(pd.Index(ids.astype(int), name="ecg_id"))


def _codes(text: object) -> tuple[str, ...] | None:
    """Statements of a record, or None where the field is no dictionary."""
    try:
        parsed = ast.literal_eval(str(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return tuple(map(str, parsed)) if isinstance(parsed, dict) else None


def _safe_name(name: str | float) -> str | None:
    """Record name relative to the data set's folder, or None where it would lead out of it."""
    text = str(name)
    path = PurePosixPath(text)
    if path.suffix in (".hea", ".dat"):
        path = path.with_suffix("")
    if pd.isna(name) or not path.name or path.is_absolute() or ".." in path.parts or any(c in text for c in "\\:\0"):
        return None
    return str(path)


def read_table(root: Path, fs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the table of records, with clean columns, and the rows that cannot be used.

    Parameters
    ----------
    root : Path
    fs : {100, 500}
        Which of the two files of a record is wanted.

    Returns
    -------
    table : DataFrame
        Indexed by ``ecg_id``; columns ``patient_id``, ``fold``, ``path``, ``age``, ``sex``, ``codes``.
    skipped : DataFrame
        Columns ``record``, ``reason`` and, as index, ``ecg_id``; ``fold`` where it is known.

    Raises
    ------
    DatasetError
        Not CSV, a column missing, ``ecg_id`` that are no numbers or not unique.
    """
    raw = _read_csv(root / TABLE, (*COLUMNS, FILE_COLUMN[fs]))
    age, sex, patient, fold = (
        pd.to_numeric(raw[column], errors="coerce") for column in ("age", "sex", "patient_id", "strat_fold")
    )
    table = pd.DataFrame(
        {
            "patient_id": patient,
            "fold": fold,
            "path": raw[FILE_COLUMN[fs]].map(_safe_name),
            "age": age.mask(age < 0).clip(upper=OVER_89),
            "sex": sex.where(sex.isin([0, 1])).astype(float),
            "codes": raw["scp_codes"].map(_codes),
        }
    )
    faults = {
        "the table names no patient": patient.isna(),
        "the table gives no fold from 1 to 10": ~fold.isin(range(1, 11)),
        "scp_codes in the table cannot be read": table["codes"].isna(),
        "the file name in the table is absent or leads out of the folder": table["path"].isna(),
    }
    reason = pd.Series(None, index=table.index, dtype=object)
    for text, where in faults.items():
        reason[where & reason.isna()] = text
    bad = reason.notna()
    skipped = pd.DataFrame({"record": raw[FILE_COLUMN[fs]].astype(str)[bad], "reason": reason[bad], "fold": fold[bad]})
    table = table[~bad].astype({"patient_id": int, "fold": int})
    homes = table.groupby("patient_id")["fold"].nunique()
    if (homes > 1).any():
        raise DatasetError(f"{TABLE} puts patient {homes[homes > 1].index[0]} into several folds; download it again")
    return table, skipped


def select(table: pd.DataFrame, max_records: int) -> pd.DataFrame:
    """Select up to ``max_records`` of folds 7-9, or all of folds 1-9 with 0.

    Every fold keeps its share. Patients come whole, in the order of a hash of their number, so that the choice is the
    same on every machine and for every seed. A fold gives at least one record if one of its patients has just one.
    """
    if max_records < 0:
        raise ValueError(f"max_records = {max_records}; pass 0 for all records, or a positive number")
    if max_records == 0:
        return table[table["fold"] <= TEST_FOLD]
    table = table[table["fold"].isin(SELECTION_FOLDS)]
    if len(table) <= max_records:
        return table
    chosen: list[int] = []
    for _, part in table.groupby("fold"):
        room = max(1, max_records * len(part) // len(table))
        sizes = part.groupby("patient_id").size()
        for patient in sorted(sizes.index, key=lambda p: hashlib.sha256(str(p).encode()).digest()):
            if sizes[patient] <= room:
                chosen.append(patient)
                room -= sizes[patient]
    return table[table["patient_id"].isin(chosen)]


def _read_one(root: Path, name: str, fs: int) -> np.ndarray:
    """Signal of one record in standard order; RecordError where it is not what the data set promises."""
    record = records.read_record(root / name)
    if record.fs != fs:
        raise records.RecordError(name, f"sampled at {record.fs:g} instead of {fs} Hz", "resample it")
    if record.signal.shape[1] != SECONDS * fs:
        n_samples = record.signal.shape[1]
        raise records.RecordError(name, f"{n_samples} samples instead of {SECONDS * fs}", "download it again")
    record = records.standard_leads(record)
    constant = np.ptp(record.signal, axis=1) == 0
    if constant.any():
        leads = ", ".join(lead for lead, flat in zip(records.LEADS, constant, strict=True) if flat)
        raise records.RecordError(name, f"lead {leads} is constant", "leave the recording out")
    return record.signal


def read_signals(root: Path, names: list[str], fs: int) -> tuple[np.ndarray, dict[str, str]]:
    """Read all records that can be used, and say the reason for each that cannot.

    Kept in the cache for as long as name, size and time of change of every file stay the same.

    Returns
    -------
    signal : ndarray of shape (records, 12, samples)
        float32, mV, in the order of ``names`` without the failed ones.
    failed : dict of str to str
        Reason by name.
    """

    def read() -> dict[str, np.ndarray]:
        signals, failed = [], {}
        for name in tqdm(names, desc="Reading recordings", unit="record", disable=None):
            try:
                signals.append(_read_one(root, name, fs))
            except records.RecordError as error:
                failed[name] = error.reason
        shape = (len(signals), len(records.LEADS), SECONDS * fs)
        return {
            "signal": np.stack(signals) if signals else np.empty(shape, np.float32),
            "failed": np.frombuffer(json.dumps(failed).encode(), np.uint8),
        }

    reader = [cache.source_digest(__file__, records.__file__), version("wfdb")]
    stats = [(root / f"{name}{suffix}").stat() for name in names for suffix in (".hea", ".dat")]
    files = {"root": str(root.resolve()), "names": names, "fs": fs, "reader": reader}
    state = np.array([(stat.st_size, stat.st_mtime_ns) for stat in stats], np.int64)
    arrays = cache.cached("signals", {**files, "state": cache.digest(state)}, read)
    return arrays["signal"], json.loads(arrays["failed"].tobytes())


def load(data_root: Path | str, fs: int = 100, max_records: int = 3000) -> Cohort:
    """Load a cohort from a folder in PTB-XL's layout.

    Parameters
    ----------
    data_root : path
        The folder that holds ``ptbxl_database.csv``, as downloaded.
    fs : {100, 500}
        Sampling rate in Hz.
    max_records : int
        Of a real data set: see :func:`select`. A simulated cohort is always taken whole.

    Returns
    -------
    Cohort
        ``skipped`` lists all records of the folds in question that are not on disk or cannot be used.

    Raises
    ------
    DatasetError
        The folder is missing, empty or another data set, its table is damaged, or no record of it can be used.
    """
    if fs not in FILE_COLUMN:
        raise ValueError(f"fs = {fs}; records are there at {' and '.join(map(str, FILE_COLUMN))} Hz")
    root = find_root(Path(data_root).expanduser())
    simulated = (root / SIMULATED_LABELS).is_file()
    listed, bad_rows = read_table(root, fs)
    n_listed = len(listed) + len(bad_rows)
    folds = set(SELECTION_FOLDS if max_records and not simulated else range(1, TEST_FOLD + 1))
    asked = listed[listed["fold"].isin(folds)]
    bad_rows = bad_rows[~bad_rows["fold"].isin(set(range(1, 11)) - folds)]
    on_disk = asked["path"].map(lambda name: all((root / f"{name}{end}").is_file() for end in (".hea", ".dat")))
    table = select(asked[on_disk], 0 if simulated else max_records)
    signal, failed = read_signals(root, table["path"].tolist(), fs)
    skipped = pd.concat(
        [
            bad_rows[["record", "reason"]],
            pd.DataFrame({"record": asked["path"][~on_disk], "reason": "not on disk"}),
            pd.DataFrame({"record": failed.keys(), "reason": failed.values()}),
        ],
        ignore_index=True,
    )
    table = table[~table["path"].isin(failed)]
    if table.empty:
        reasons = skipped["reason"].value_counts()
        why = f"{len(skipped)} left out, most often: {reasons.index[0]}" if len(reasons) else "the table lists none"
        raise DatasetError(f"no record of {root} can be used ({why}); see that {FILE_COLUMN[fs]} leads to the files")

    counts = {"listed": n_listed, "not on disk": int((~on_disk).sum()), "skipped": len(skipped), "used": len(table)}
    if simulated:
        labels = _simulated_labels(root, table)
        card = SIMULATED_CARD
    else:
        labels, measured = _measured_labels(table, signal, fs)
        counts |= measured
        card = replace(CARD, name=f"PTB-XL {VERSIONS.get(n_listed, f'of unknown version ({n_listed:,} records)')}")
    counts |= {
        "age over 89": int((table["age"] > tasks.AGE_CENSORED_ABOVE).sum()),
        "age or sex missing": int(table[["age", "sex"]].isna().any(axis=1).sum()),
    }
    table = pd.concat([table.drop(columns="codes"), labels], axis=1)
    return Cohort(card, table, signal, fs, skipped, counts)


def _simulated_labels(root: Path, table: pd.DataFrame) -> pd.DataFrame:
    labels = _read_csv(root / SIMULATED_LABELS, SIMULATED_COLUMNS).reindex(table.index)
    unknown = set(labels["rhythm"].dropna()) - set(tasks.RHYTHMS)
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise DatasetError(f"{SIMULATED_LABELS} names rhythms that are no class: {names}")
    try:
        numbers = labels[["rr_ms", "potassium", "potassium_abnormal"]].astype(float)
    except ValueError as error:
        raise DatasetError(f"{SIMULATED_LABELS} holds text where numbers belong ({error})") from error
    numbers = numbers.rename(columns={"rr_ms": "rr_interval"})
    words = labels[["rhythm", "cause"]].astype(object)
    return pd.concat([numbers, words.where(words.notna(), None)], axis=1)


def _measured_labels(table: pd.DataFrame, signal: np.ndarray, fs: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """RR interval and rhythm of real records; potassium is not available."""
    rr_ms, rate_bpm = reference.measure(signal, fs)
    rhythm = [tasks.rhythm_from_scp(codes, rate) for codes, rate in zip(table["codes"], rate_bpm, strict=True)]
    no_code = table["codes"].map(lambda codes: not tasks.SCP_RHYTHM_CODES.intersection(codes))
    columns = {"rr_interval": rr_ms, "potassium": np.nan, "potassium_abnormal": np.nan, "rhythm": rhythm}
    labels = pd.DataFrame(columns, index=table.index).astype({"rhythm": object})
    counts = {
        "RR interval: detectors find no two beats": int(np.isnan(rate_bpm).sum()),
        "RR interval: detectors disagree": int((np.isnan(rr_ms) & ~np.isnan(rate_bpm)).sum()),
        "rhythm: no code": int(no_code.sum()),
        "rhythm: fibrillation of unknown rate": int((labels["rhythm"].isna() & ~no_code).sum()),
        "rhythm: several codes": int(table["codes"].map(lambda c: len(tasks.SCP_RHYTHM_CODES & set(c)) > 1).sum()),
    }
    return labels, counts
