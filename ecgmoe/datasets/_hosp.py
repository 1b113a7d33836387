"""Age, sex and potassium of MIMIC-IV's patients: the tables of its module hosp, as PhysioNet ships them."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgmoe import cache
from ecgmoe.datasets import DatasetError, ptbxl

PATIENTS, LABS = "patients.csv", "labevents.csv"

#: Laboratory items that count as potassium; of two taken at the same time the first one named here is used.
POTASSIUM_ITEMS = {50971: "chemistry", 50822: "whole blood"}
#: Values outside of these, mmol/l, are taken for errors of entry.
POTASSIUM_LIMITS = (1.0, 15.0)

#: ``anchor_age`` of patients over 89.
ANCHOR_OVER_89 = 91

#: Where hosp may lie from the folder of the list of records.
_HOSP = ("hosp", "../hosp", "../mimic-iv-[0-9]*/hosp", "../mimiciv*/hosp", "../../mimiciv/*/hosp", "../mimic-iv/hosp")


def find_hosp(root: Path, hosp_root: Path | None = None) -> Path | None:
    """Return the folder of MIMIC-IV's module hosp, or None where there is none.

    Parameters
    ----------
    root : Path
        Folder of the list of records.
    hosp_root : Path, optional
        The folder, or the one above it. Without it, hosp is looked for in ``root``, beside it, and in folders beside it
        that bear the name of MIMIC-IV; of several the last by name is taken.

    Raises
    ------
    DatasetError
        ``hosp_root`` was given and holds neither patients nor laboratory values.
    """

    def holds(folder: Path) -> bool:
        return any((folder / f"{name}{end}").is_file() for name in (PATIENTS, LABS) for end in ("", ".gz"))

    if hosp_root is None:
        places = (sorted(root.resolve().glob(pattern)) for pattern in _HOSP)
        return next((folder for found in places for folder in reversed(found) if holds(folder)), None)
    for folder in (hosp_root, hosp_root / "hosp"):
        if holds(folder):
            return folder
    raise DatasetError(
        f"hosp_root {hosp_root} holds neither {PATIENTS}.gz nor {LABS}.gz; pass the folder hosp of MIMIC-IV"
    )


def find(hosp: Path | None, name: str) -> Path | None:
    """A table of hosp, compressed or not."""
    paths = [hosp / f"{name}{end}" for end in (".gz", "")] if hosp is not None else []
    return next((path for path in paths if path.is_file()), None)


def read_csv(path: Path, columns: tuple[str, ...], **options: Any) -> pd.DataFrame:
    """Read a table that may be compressed; DatasetError where it is damaged or lacks a column."""
    try:
        table = pd.read_csv(path, low_memory=False, **options)
    except (ValueError, OSError, EOFError, zlib.error, OverflowError) as error:
        raise DatasetError(f"{path.name} cannot be read as CSV ({error}); download it again") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DatasetError(f"{path.name} has no column {', '.join(missing)}; download it again")
    return table


def numbers(values: pd.Series) -> pd.Series:
    """Whole numbers that an int64 can hold, as float; NaN for everything else."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    return numbers.where((numbers % 1 == 0) & (numbers.abs() < 2**53))


def times(values: pd.Series) -> pd.Series:
    """Times to the second; NaT where there is none."""
    return pd.to_datetime(values, format="ISO8601", errors="coerce").astype("datetime64[s]")


def demographics(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    """Age at the ECG in years and sex (0 male, 1 female); NaN where they are not known."""
    if path is None:
        return pd.DataFrame({"age": np.nan, "sex": np.nan}, index=table.index)
    raw = read_csv(path, ("subject_id", "gender", "anchor_age", "anchor_year"))
    people = raw.set_axis(numbers(raw["subject_id"]), axis=0)
    people = people[people.index.notna()]
    if people.index.has_duplicates:
        twice = people.index[people.index.duplicated()][0]
        raise DatasetError(f"{path.name} lists subject_id {twice:.0f} more than once; download it again")
    mine = people.reindex(table["patient_id"].to_numpy(float)).set_axis(table.index, axis=0)
    anchor = pd.to_numeric(mine["anchor_age"], errors="coerce")
    age = anchor + table["ecg_time"].dt.year - pd.to_numeric(mine["anchor_year"], errors="coerce")
    # How far over 89 is not known, so neither is the age some years before: it counts as censored too.
    age = age.mask(anchor >= ANCHOR_OVER_89, ptbxl.OVER_89).clip(upper=ptbxl.OVER_89)
    sex = mine["gender"].astype(str).str.strip().str.upper().map({"M": 0.0, "F": 1.0})
    return pd.DataFrame({"age": age.mask(age < 0).astype(float), "sex": sex.astype(float)}, index=table.index)


def potassium(table: pd.DataFrame, path: Path | None, window_h: float) -> pd.DataFrame:
    """Potassium nearest to each ECG within the window; NaN where there is none."""
    columns = ["potassium", "potassium_item", "potassium_hours", "potassium_flag"]
    if path is None or table.empty:
        return pd.DataFrame(np.nan, table.index, columns)
    labs = read_potassium(path, table["patient_id"].to_numpy())
    labs = labs.assign(rank=labs["item"].map(list(POTASSIUM_ITEMS).index))
    labs = labs.sort_values(["time", "patient_id", "rank"], kind="stable").drop_duplicates(["patient_id", "time"])
    labs["lab_time"] = labs["time"]
    ecgs = table[["patient_id", "ecg_time"]].rename(columns={"ecg_time": "time"}).reset_index().sort_values("time")
    window = pd.Timedelta(hours=window_h)
    # Of two at the same distance, the nearest one behind wins.
    near = pd.merge_asof(ecgs, labs, on="time", by="patient_id", direction="nearest", tolerance=window)
    hours = (near["lab_time"] - near["time"]).dt.total_seconds() / 3600
    found = pd.DataFrame(dict(zip(columns, (near["value"], near["item"], hours, near["flag"]), strict=True)))
    return found.astype(float).set_axis(pd.Index(near["ecg_id"], name="ecg_id"), axis=0).reindex(table.index)


def read_potassium(path: Path, subjects: np.ndarray) -> pd.DataFrame:
    """Stream a table of laboratory values and keep the potassium of some subjects.

    Parameters
    ----------
    path : Path
        ``labevents.csv.gz``, or the same without compression.
    subjects : ndarray of int
        Numbers of subjects, in any order.

    Returns
    -------
    DataFrame
        Columns ``patient_id``, ``time``, ``item`` (one of :data:`POTASSIUM_ITEMS`), ``value`` (mmol/l) and ``flag``
        (1 where the laboratory marked it as abnormal), in the order of the file. Values without a number or a time,
        and those outside of :data:`POTASSIUM_LIMITS`, are left out.

    Raises
    ------
    DatasetError
        The file is truncated or damaged, or lacks a column.

    Notes
    -----
    Memory grows with the potassium values alone, by about 40 bytes each. Those of all subjects are kept in the cache
    for as long as name, size and time of change of the file stay the same.
    """
    stat = path.stat()
    key = {
        "file": str(path.resolve()),
        "state": [stat.st_size, stat.st_mtime_ns],
        "reader": cache.source_digest(__file__),
    }
    arrays = cache.cached("potassium", key, lambda: _stream_potassium(path))
    asked = np.isin(arrays["patient_id"], subjects)
    arrays = {name: values[asked] for name, values in arrays.items()}
    return pd.DataFrame({**arrays, "time": arrays["time"].astype("datetime64[s]")})


_LAB_COLUMNS = ("subject_id", "itemid", "charttime", "valuenum", "flag")


def _stream_potassium(path: Path) -> dict[str, np.ndarray]:
    """Read block by block; numbers and times are made of the few rows that are kept."""
    import pyarrow as pa
    from pyarrow import compute, csv

    options = csv.ConvertOptions(
        include_columns=list(_LAB_COLUMNS),
        column_types={name: pa.int64() if name.endswith("id") else pa.string() for name in _LAB_COLUMNS},
    )
    blocks = csv.ReadOptions(block_size=2 << 20)
    items = pa.array(list(POTASSIUM_ITEMS), pa.int64())
    kept = [_potassium_rows(pd.DataFrame(columns=list(_LAB_COLUMNS), dtype=object))]
    bar = tqdm(total=path.stat().st_size, desc="Reading laboratory values", unit="B", unit_scale=True, disable=None)
    try:
        # Arrow's own file: its threads read ahead, and must not wait for Python's lock while the interpreter ends
        with bar, pa.OSFile(str(path)) as file:
            source = pa.CompressedInputStream(file, "gzip") if path.suffix == ".gz" else file
            with csv.open_csv(source, blocks, csv.ParseOptions(newlines_in_values=True), options) as reader:
                for block in reader:
                    block = block.filter(compute.is_in(block["itemid"], items))
                    kept.append(_potassium_rows(block.to_pandas()))
                    bar.update(file.tell() - bar.n)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DatasetError(f"{path.name} cannot be read ({error}); download it again") from error
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}


def _potassium_rows(table: pd.DataFrame) -> dict[str, np.ndarray]:
    value, time = pd.to_numeric(table["valuenum"], errors="coerce").astype(float), times(table["charttime"])
    usable = value.between(*POTASSIUM_LIMITS) & time.notna()
    table = table[usable]
    return {
        "patient_id": table["subject_id"].to_numpy(np.int64),
        "time": time[usable].to_numpy("datetime64[s]").astype(np.int64),
        "item": table["itemid"].to_numpy(np.int64),
        "value": value[usable].to_numpy(),
        "flag": (table["flag"].fillna("") == "abnormal").to_numpy(np.float64),
    }
