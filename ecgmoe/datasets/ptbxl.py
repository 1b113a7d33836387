"""PTB-XL as PhysioNet ships it (versions 1.0.1 to 1.0.3), and any cohort written in its layout.

A file ``simulated_labels.csv`` beside the table of records marks a simulated cohort; it holds the labels for which
PTB-XL has no column, and those then take the place of measured ones.

PTB-XL+ is a companion of PTB-XL with what analysis programs measured in its recordings. Where it lies in the folder of
PTB-XL or beside it, the RR interval comes from there: the mean of GE's 12SL and the University of Glasgow's Uni-G, or
no label where they differ by more than ``reference.AGREEMENT_MS``. Its third table (ECGdeli) gives the median of the
intervals, which is another label, and is not used.
"""

import ast
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgmoe import records, tasks
from ecgmoe.datasets import SELECTION_FOLDS, TEST_FOLD, Card, Cohort, DatasetError, reference
from ecgmoe.store import Listing

TABLE, SIMULATED_LABELS = "ptbxl_database.csv", "simulated_labels.csv"

#: Columns of the table that are needed, by sampling rate for the last one.
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold")
FILE_COLUMN = {100: "filename_lr", 500: "filename_hr"}
SIMULATED_COLUMNS = ("ecg_id", "potassium", "potassium_abnormal", "rhythm", "rr_ms", "cause")

#: Columns of notes on the recording, kept where the table has them: free German text, empty where nothing was noted.
NOTE_COLUMNS = {
    "baseline_drift": "baseline drift",
    "static_noise": "static noise",
    "burst_noise": "bursts of noise",
    "electrodes_problems": "electrode problems",
    "extra_beats": "extra beats",
    "pacemaker": "pacemaker",
}

#: Tables of PTB-XL+ that give the mean RR interval of a recording in ms, by the column that takes it.
FEATURES = {"rr_12sl": "12sl_features.csv", "rr_unig": "unig_features.csv"}
FEATURE_RR = "RR_Mean_Global"

#: Age given to patients over 89, years; the table says :data:`STATED_OVER_89`.
OVER_89, STATED_OVER_89 = tasks.AGE_CENSORED_ABOVE + 1, 300
#: Ages above this, years, are an error unless they stand for "over 89".
OLDEST = 120

#: Records in the published table, by version: 1.0.2 took out 36 recordings that were there twice, 1.0.3 two more.
VERSIONS = {21837: "1.0.1", 21801: "1.0.2", 21799: "1.0.3"}

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
        "No potassium is published.",
        "Statements carry a likelihood, where 0 means that none was stated: it is no reason to drop a statement.",
    ),
)

#: Where the RR interval comes from, with and without PTB-XL+.
MEASURED_NOTE = "No RR interval is published. It is the mean of two public detectors, where they agree within 20 ms."
FEATURES_NOTE = "The RR interval is that of PTB-XL+: the mean of 12SL and Uni-G, where they agree within 20 ms."
FEATURES_REFERENCE = (
    "Strodthoff et al. PTB-XL+, a comprehensive electrocardiographic feature dataset. Scientific Data 10:279 (2023)"
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


def find_root(path: Path) -> Path:
    """Return ``path`` if it holds PTB-XL's table; DatasetError where it does not."""
    if not (path / TABLE).is_file():
        raise DatasetError(f"{path} is not PTB-XL: it holds no {TABLE}; see https://doi.org/{CARD.doi}")
    return path


def find_features(root: Path, features_root: Path | None = None) -> Path | None:
    """Return the folder of PTB-XL+'s feature tables, or None where there is none.

    Parameters
    ----------
    root : Path
        Folder of PTB-XL.
    features_root : Path, optional
        The folder, or the one above it. Without it, PTB-XL+ is looked for in ``root``, beside it, and where PhysioNet's
        own tree has it; of several the last by name is taken.

    Raises
    ------
    DatasetError
        ``features_root`` was given and holds none of the tables of :data:`FEATURES`.
    """

    def holds(folder: Path) -> bool:
        return any((folder / name).is_file() for name in FEATURES.values())

    if features_root is None:
        here = root.resolve()
        places = (here, "features"), (here, "*/features"), (here.parent, "*/features")
        tree = (here.parent.parent, "ptb-xl-plus/*/features")
        found = (sorted(folder.glob(pattern), reverse=True) for folder, pattern in (*places, tree))
        return next((folder for folders in found for folder in folders if holds(folder)), None)
    for folder in (features_root, features_root / "features"):
        if holds(folder):
            return folder
    names = " nor ".join(FEATURES.values())
    raise DatasetError(f"features_root {features_root} holds neither {names}; pass the folder of PTB-XL+")


def _read_csv(path: Path, columns: tuple[str, ...], **options: Any) -> pd.DataFrame:
    """Read a table with the columns that are needed, indexed by ``ecg_id``; DatasetError where it is damaged."""
    try:
        table = pd.read_csv(path, low_memory=False, **options)
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
    return table.set_axis(pd.Index(ids.astype(np.int64), name="ecg_id"))


def _statements(text: object) -> str | None:
    """Codes of a record with blanks between, or None where the field is no dictionary.

    The likelihoods go: 0 stands for "not stated" there, so they must not be used as a filter.
    """
    try:
        parsed = ast.literal_eval(str(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return " ".join(map(str, parsed)) if isinstance(parsed, dict) else None


def _note(text: str | float) -> str:
    """Note without the commas and blanks that stand for empty fields."""
    parts = (part.strip() for part in ("" if pd.isna(text) else str(text)).split(","))
    return ", ".join(part for part in parts if part not in ("", "nan"))


def _read_table(root: Path, fs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the table of records with clean columns; apart from it, the rows that cannot be used."""
    raw = _read_csv(root / TABLE, (*COLUMNS, FILE_COLUMN[fs]))
    age, sex, patient, fold = (
        pd.to_numeric(raw[column], errors="coerce") for column in ("age", "sex", "patient_id", "strat_fold")
    )
    table = pd.DataFrame(
        {
            "patient_id": patient,
            "fold": fold,
            "path": [records.safe_name(name) for name in raw[FILE_COLUMN[fs]]],
            "age": age.where(age.between(0, OLDEST) | (age == STATED_OVER_89)).clip(upper=OVER_89),
            "sex": sex.where(sex.isin([0, 1])).astype(float),
            "statements": raw["scp_codes"].map(_statements),
        }
    )
    for column in NOTE_COLUMNS:
        if column in raw:
            table[column] = raw[column].map(_note)
    if "validated_by_human" in raw:
        table["validated_by_human"] = raw["validated_by_human"].astype(str).str.lower().isin(["true", "1", "1.0"])
    faults = {
        "the table names no patient": patient.isna(),
        "the table gives no fold from 1 to 10": ~fold.isin(range(1, 11)),
        "scp_codes in the table cannot be read": table["statements"].isna(),
        "the file name in the table is absent or leads out of the folder": table["path"].isna(),
    }
    reason = pd.Series(None, index=table.index, dtype=object)
    for text, where in faults.items():
        reason[where & reason.isna()] = text
    bad = reason.notna()
    skipped = pd.DataFrame({"record": raw[FILE_COLUMN[fs]].astype(str)[bad], "reason": reason[bad], "fold": fold[bad]})
    table = table[~bad].astype({"patient_id": np.int64, "fold": np.int64})
    homes = table.groupby("patient_id")["fold"].nunique()
    if (homes > 1).any():
        raise DatasetError(f"{TABLE} puts patient {homes[homes > 1].index[0]} into several folds; download it again")
    return table, skipped.reset_index(drop=True)


def listing(root: Path, fs: int, *, features_root: Path | str | None = None) -> Listing:
    """List the records with everything that the tables say of them.

    Parameters
    ----------
    root : Path
        The folder that holds ``ptbxl_database.csv``, as downloaded.
    fs : {100, 500}
        Which of the two files of a record is wanted, by its sampling rate in Hz.
    features_root : path, optional
        Folder of PTB-XL+; see :func:`find_features`.

    Returns
    -------
    Listing
        The index is ``ecg_id``. Beside ``path``, ``patient_id`` and ``fold`` (1-10) the table has ``age`` (years; 90
        stands for all above 89, NaN for what cannot be), ``sex`` (0 male, 1 female), ``statements`` (SCP codes with
        blanks between), ``validated_by_human`` and the columns of :data:`NOTE_COLUMNS` as far as they are there. With
        PTB-XL+ it has the columns of :data:`FEATURES` (ms); a simulated cohort has its labels, and ``cause``.

    Raises
    ------
    DatasetError
        A table is damaged, lacks a column or lists a record twice, or ``features_root`` is not PTB-XL+.
    """
    if fs not in FILE_COLUMN:
        raise ValueError(f"fs = {fs}; records are there at {' and '.join(map(str, FILE_COLUMN))} Hz")
    root = find_root(root)
    table, skipped = _read_table(root, fs)
    codes = table["statements"].str.split()
    n_codes = codes.map(lambda names: len(tasks.SCP_RHYTHM_CODES.intersection(names)))
    counts = {
        "listed": len(table) + len(skipped),
        "listed, age over 89": int((table["age"] > tasks.AGE_CENSORED_ABOVE).sum()),
        "listed, no rhythm code": int((n_codes == 0).sum()),
        "listed, several rhythm codes": int((n_codes > 1).sum()),
    }
    if (root / SIMULATED_LABELS).is_file():
        table = table.join(_simulated_labels(root, table.index))
    elif folder := find_features(root, Path(features_root).expanduser() if features_root is not None else None):
        for column, name in FEATURES.items():
            if (folder / name).is_file():
                wanted = ("ecg_id", FEATURE_RR)
                features = _read_csv(folder / name, wanted, usecols=lambda key: key in wanted)
                rr_ms = pd.to_numeric(features[FEATURE_RR], errors="coerce").reindex(table.index).astype(float)
                table[column] = rr_ms.where((rr_ms > 0) & (rr_ms < 10_000))  # a window has ten seconds
    return Listing("ptbxl", root, fs, table, skipped, counts)


def _simulated_labels(root: Path, index: pd.Index) -> pd.DataFrame:
    labels = _read_csv(root / SIMULATED_LABELS, SIMULATED_COLUMNS).reindex(index)
    unknown = set(labels["rhythm"].dropna()) - set(tasks.RHYTHMS)
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise DatasetError(f"{SIMULATED_LABELS} names rhythms that are no class: {names}")
    try:
        numbers = labels[["rr_ms", "potassium", "potassium_abnormal"]].astype(float)
    except ValueError as error:
        raise DatasetError(f"{SIMULATED_LABELS} holds text where numbers belong ({error})") from error
    return pd.concat([numbers.rename(columns={"rr_ms": "rr_interval"}), _words(labels[["rhythm", "cause"]])], axis=1)


def _words(table: pd.DataFrame) -> pd.DataFrame:
    """Strings, with None where there is none."""
    return table.astype(object).where(table.notna(), None)


def select(table: pd.DataFrame, max_records: int) -> pd.DataFrame:
    """Select up to ``max_records`` of folds 7-9, or all of folds 1-9 with 0; a simulated cohort is always taken whole.

    Every fold keeps its share. Patients come whole, in the order of a hash of their number, so that the choice is the
    same on every machine and for every seed. A fold gives at least one record if one of its patients has just one.
    """
    if max_records < 0:
        raise ValueError(f"max_records = {max_records}; pass 0 for all records, or a positive number")
    if max_records == 0 or "cause" in table:
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


def cohort(listing: Listing, table: pd.DataFrame, signal: np.ndarray, skipped: pd.DataFrame) -> Cohort:
    """Turn what the tables say, and what must be measured, into labels.

    Parameters
    ----------
    listing : Listing
    table : DataFrame
        Selected rows of the listing's table, in the order of ``signal``.
    signal : ndarray of shape (records, 12, samples)
        mV.
    skipped : DataFrame
        Columns ``record`` and ``reason``.

    Returns
    -------
    Cohort
        Beside the labels, its table keeps ``statements``, ``validated_by_human`` and the notes on the recording.
        Fibrillation is rapid by the rate of whatever gives the RR interval.
    """
    counts = listing.counts | {"skipped": len(skipped), "used": len(table)}
    if "cause" in table:
        card = SIMULATED_CARD
        table = table.assign(**_words(table[["rhythm", "cause"]]))
    else:
        labels, measured = _measured_labels(table, signal, listing.fs)
        counts |= measured
        listed = listing.counts["listed"]
        with_features = not table.columns.intersection(list(FEATURES)).empty
        card = replace(
            CARD,
            name=f"PTB-XL {VERSIONS.get(listed, f'of unknown version ({listed:,} records)')}",
            references=CARD.references + ((FEATURES_REFERENCE,) if with_features else ()),
            notes=(*CARD.notes, FEATURES_NOTE if with_features else MEASURED_NOTE),
        )
        table = pd.concat([table.drop(columns=list(FEATURES), errors="ignore"), labels], axis=1)
    counts |= {
        "age over 89": int((table["age"] > tasks.AGE_CENSORED_ABOVE).sum()),
        "age missing or impossible": int(table["age"].isna().sum()),
        "sex missing": int(table["sex"].isna().sum()),
    }
    if "validated_by_human" in table:
        counts["not validated by a human"] = int((~table["validated_by_human"]).sum())
    noted = {f"noted: {text}": column for column, text in NOTE_COLUMNS.items() if column in table}
    counts |= {name: int((table[column] != "").sum()) for name, column in noted.items()}
    return Cohort(card, table, signal, listing.fs, skipped, counts)


def _measured_labels(table: pd.DataFrame, signal: np.ndarray, fs: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """RR interval and rhythm of real records; potassium is not available."""
    published = table[[column for column in FEATURES if column in table]]
    if published.empty:
        rr_ms, rate_bpm = reference.measure(signal, fs)
        counts = {
            "RR interval: detectors find no two beats": int(np.isnan(rate_bpm).sum()),
            "RR interval: detectors disagree": int((np.isnan(rr_ms) & ~np.isnan(rate_bpm)).sum()),
        }
    else:
        there = published.notna().sum(axis=1)
        agree = published.max(axis=1) - published.min(axis=1) <= reference.AGREEMENT_MS
        rr_ms = published.mean(axis=1).where(agree).to_numpy()
        rate_bpm = (60_000.0 / published).mean(axis=1).to_numpy()
        counts = {
            "RR interval: not in PTB-XL+": int((there == 0).sum()),
            "RR interval: only one analysis in PTB-XL+": int((there == 1).sum()),
            "RR interval: analyses of PTB-XL+ disagree": int(((there > 1) & ~agree).sum()),
        }
    codes = table["statements"].str.split()
    rhythm = [tasks.rhythm_from_scp(names, rate) for names, rate in zip(codes, rate_bpm, strict=True)]
    n_codes = codes.map(lambda names: len(tasks.SCP_RHYTHM_CODES.intersection(names)))
    columns = {"rr_interval": rr_ms, "potassium": np.nan, "potassium_abnormal": np.nan, "rhythm": rhythm}
    labels = pd.DataFrame(columns, index=table.index).astype({"rhythm": object})
    counts |= {
        "rhythm: no code": int((n_codes == 0).sum()),
        "rhythm: fibrillation of unknown rate": int((labels["rhythm"].isna() & (n_codes > 0)).sum()),
        "rhythm: several codes": int((n_codes > 1).sum()),
    }
    return labels, counts


def statement_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Count the statements of a cohort, and say which class each leads to.

    Parameters
    ----------
    table : DataFrame
        With the column ``statements``, such as ``Cohort.table``.

    Returns
    -------
    DataFrame
        Indexed by ``statement``, commonest first: ``records`` that carry it; ``class`` that it leads to, unless another
        statement comes first in ``tasks.SCP_TO_RHYTHM``, or empty where the mapping does not use it; ``without a
        class``: records that carry it and have no rhythm code at all.
    """
    codes = table["statements"].str.split()
    no_code = codes.map(lambda names: not tasks.SCP_RHYTHM_CODES.intersection(names))
    long = pd.DataFrame({"statement": codes, "no_code": no_code}).explode("statement").dropna(subset="statement")
    counts = long.groupby("statement")["no_code"].agg(["size", "sum"]).astype(int)
    counts.insert(1, "class", counts.index.map(lambda code: dict(tasks.SCP_TO_RHYTHM).get(code, "")))
    counts.columns = ["records", "class", "without a class"]
    return counts.sort_values("records", ascending=False, kind="stable")
