"""Recordings as users have them: WFDB records, folders of them, CSV and npy files, with whatever leads they hold."""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from ecgmoe.records import LEADS, PER_MV, RecordError, read_record, safe_name

#: Leads of which a limb lead's electrodes lie on the chest: near it, and not the same.
_ON_CHEST = {"mli": "I", "ml1": "I", "mlii": "II", "ml2": "II", "mliii": "III", "ml3": "III"}
_STANDARD = {
    **{lead.lower(): lead for lead in LEADS},
    **{name: lead for lead in LEADS[:3] for name in (f"d{lead.lower()}", f"d{len(lead)}")},
    **{f"c{i}": f"V{i}" for i in range(1, 7)},
    **_ON_CHEST,
}
_PREFIX = re.compile(r"((ecg|lead)[\s_-]+)+")
#: Columns of a table that are no leads and go without a word: those that a user skips, and those that count.
_SKIPPED, _COUNTERS = ("", "-"), ("index", "sample", "samples", "unnamed: 0")
_TIME = re.compile(r"(time|t|seconds|s|ms)(?:[\s_]*[(\[]?(s|sec|seconds|ms|msec)[)\]]?)?", re.IGNORECASE)
_UNIT = re.compile(r"\s*[(\[]([muµμ]?v)[)\]]$")


@dataclass(frozen=True)
class Recording:
    """A recording of any length, rate and number of leads.

    Attributes
    ----------
    name : str
    signal : ndarray of shape (leads, samples)
        mV; NaN where a sample is missing.
    fs : float
        Sampling rate in Hz.
    leads : tuple of str
        Names of the leads, in the order of ``signal``.
    notes : tuple of str
        What a reader of the answers should know; a lead that is taken as another is added.
    """

    name: str
    signal: np.ndarray
    fs: float
    leads: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        taken = [f"{lead.strip()} taken as {standard_name(lead)}" for lead in self.leads if _bare(lead) in _ON_CHEST]
        object.__setattr__(self, "notes", tuple(dict.fromkeys([*self.notes, *taken])))


def standard_name(lead: str) -> str | None:
    """Return the name of a lead as :data:`ecgmoe.records.LEADS` spells it, None where it is none of the twelve.

    Other spellings are known: ``DII`` and ``D2`` for II, ``C1`` for V1, ``ECG`` or ``Lead`` before a name, a unit in
    brackets after it. ``MLII`` or ``ML2``, a lead II whose electrodes lie on the chest, counts as II.
    """
    return _STANDARD.get(_bare(lead))


def _bare(lead: str) -> str:
    """Name of a lead in lower case, without what may stand before and after it."""
    return _PREFIX.sub("", _UNIT.sub("", lead.strip().lower()), count=1)


@dataclass(frozen=True)
class Files:
    """How files that do not say it themselves are to be read.

    Attributes
    ----------
    fs : float, optional
        Sampling rate of CSV and npy files in Hz; WFDB records say their own.
    leads : tuple of str
        Names of the leads of CSV and npy files, in their order; ``-`` for one to skip. By default the header of a CSV
        file names them, and a npy file has the twelve standard leads in standard order.
    unit : {"mV", "uV", "V"}
        Of CSV and npy files.
    """

    fs: float | None = None
    leads: tuple[str, ...] = ()
    unit: str = "mV"

    def __post_init__(self) -> None:
        if self.unit.lower() not in PER_MV:
            raise ValueError(f"unknown unit {self.unit!r}; known are mV, uV, V")
        if self.fs is not None and not 0 < self.fs < float("inf"):
            raise ValueError(f"a sampling rate of {self.fs} Hz; it must be positive")


def read(paths: Iterable[Path], files: Files = Files()) -> Iterator[Recording | RecordError]:
    """Read recordings one after the other; what cannot be read is given as its error, and reading goes on.

    Parameters
    ----------
    paths : iterable of Path
        WFDB records, by name or by a file of theirs; folders, whose records are those of their file ``RECORDS`` or else
        all with a header somewhere below; CSV files, a column a lead and a row a sample; npy files of shape (leads,
        samples) or (records, leads, samples).
    files : Files

    Yields
    ------
    Recording or RecordError
        Named after its file, or by its path where another had that name before. What is given twice is read once.
    """
    seen: set[str] = set()
    done: set[str] = set()
    for short, path in named(paths):
        file = os.path.abspath(path).removesuffix(".hea")
        if file in done:
            continue
        done.add(file)
        name = short if short not in seen else str(path).removesuffix(".hea")
        seen.add(name)
        try:
            match path.suffix.lower():
                case ".csv":
                    yield _from_csv(name, path, files)
                case ".npy":
                    yield from _from_npy(name, path, files)
                case _ if path.is_dir():
                    tables = any(file.suffix.lower() in (".csv", ".npy") for file in path.iterdir())
                    cure = "name CSV and npy files one by one" if tables else "give a folder with .hea files"
                    raise RecordError(name, "no WFDB record lies in this folder", cure)
                case _:
                    found = read_record(path, checksum="warn", missing="keep")
                    yield Recording(name, found.signal, found.fs, found.leads, found.warnings)
        except RecordError as error:
            yield RecordError(name, error.reason, error.cure)


def named(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Name and path of every recording that paths stand for; a folder without records stands for itself."""
    for path in paths:
        beside = Path(f"{os.path.abspath(path)}.hea")  # of "." too, which has no name
        if not path.is_dir():
            header = path.with_suffix(".hea")
            is_part = path.suffix in (".hea", ".dat") or (path.suffix in (".mat", ".atr") and header.is_file())
            yield (header.stem, header) if is_part else (path.name, path)
            continue
        if beside.is_file():
            yield beside.stem, beside
            continue
        found = False
        for record in _in_folder(path):
            found = True
            yield record, path / f"{record}.hea"
        if not found:
            yield str(path), path


def _in_folder(folder: Path, prefix: str = "") -> Iterator[str]:
    """Records of a folder, relative to it, in order; folders that ``RECORDS`` lists are looked into."""
    listing = folder / "RECORDS"
    if not listing.is_file():
        headers = sorted(folder.rglob("*.hea"))
        parts = {part for header in headers for part in _parts(header)}
        yield from (
            prefix + path.relative_to(folder).with_suffix("").as_posix() for path in headers if path not in parts
        )
        return
    for line in map(str.strip, listing.read_text("utf-8", "replace").splitlines()):
        inner = folder / line
        if line and safe_name(line) and inner.is_dir() and not inner.with_name(f"{inner.name}.hea").is_file():
            yield from _in_folder(inner, f"{prefix}{line.rstrip('/')}/")
        elif line:
            yield prefix + line.removesuffix(".hea")


def _parts(header: Path) -> list[Path]:
    """Headers of the parts of a recording of several; they are no recordings of their own."""
    try:
        text = header.read_text("utf-8", "replace")
    except OSError:
        return []  # said when it is read
    names = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [header.parent / f"{name}.hea" for name in names[1:]] if names and "/" in names[0] else []


def _rate(name: str, files: Files) -> float:
    if files.fs is None:
        raise RecordError(name, "this file does not say its sampling rate", "give it in Hz: --fs, or fs in Python")
    return float(files.fs)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _from_csv(name: str, path: Path, files: Files) -> Recording:
    """Read a table: commas, or semicolons or tabs with decimal commas; every cell a number or empty."""
    fs = _rate(name, files)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            first = stream.readline()
            separator = next((one for one in ";\t" if one in first), ",")
            head = _cells(first, separator)
            cells = head if separator == "," else [cell.replace(",", ".") for cell in head]
            has_header = not files.leads or not all(map(_is_number, cells))
            columns = list(files.leads) or head
            if files.leads and len(files.leads) != len(head):
                reason = f"{len(head)} columns for {len(files.leads)} lead names"
                raise RecordError(name, reason, "name every column, in order; - for one to skip")
            known = [standard_name(column) for column in columns]
            kept = [i for i, lead in enumerate(known) if lead]
            if first and not kept:
                reason = f"no column is one of the twelve leads: {', '.join(columns[:15])}"
                raise RecordError(name, reason, "name the columns I, II, ..., V6 in the first line, or give --leads")
            found = [_UNIT.search(columns[i].lower()) for i in kept]
            units = {re.sub("[µμ]", "u", unit[1]) for unit in found if unit}
            if wrong := units - {files.unit.lower()}:
                unit = f"{wrong.pop()[:-1]}V"
                raise RecordError(
                    name, f"the first line says {unit}, to be read as {files.unit}", f"give --unit {unit}"
                )
            n_samples = _last_line(name, stream, first, separator) - has_header
        if n_samples < 1:
            raise RecordError(name, "there are no samples", "check path and file")
        times = [i for i, column in enumerate(head) if has_header and not known[i] and _TIME.fullmatch(column)][:1]
        # A blank line is a sample too, which a table of one lead lacks; those at the end are none.
        table = pd.read_csv(
            path, sep=separator, names=range(len(head)), skiprows=int(has_header), usecols=kept + times, dtype=str,
            encoding="utf-8-sig", encoding_errors="replace", keep_default_na=False, skip_blank_lines=False,
            nrows=n_samples, index_col=False,
        )[kept + times]  # fmt: skip
    except RecordError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pandas' own errors are ValueErrors
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"it is no CSV table ({error})"
        raise RecordError(name, reason, "check path and file") from None
    if separator != ",":
        table = table.apply(lambda column: column.str.replace(",", "."))
    numbers = table.apply(pd.to_numeric, errors="coerce")
    unread = numbers.isna() & ~table.apply(lambda column: column.str.strip().str.lower()).isin(["", "nan", "na"])
    if unread[kept].any(axis=None):
        row, column = (int(index[0]) for index in np.nonzero(unread[kept].to_numpy()))
        reason = f"line {row + 1 + has_header}, lead {known[kept[column]]}: {table.iloc[row, column]!r} is no number"
        raise RecordError(name, reason, "mend the file; a missing sample is an empty cell")
    signal = (numbers[kept].to_numpy(np.float64).T / PER_MV[files.unit.lower()]).astype(np.float32)
    notes = [note for i in times if (note := _other_rate(head[i], numbers[i].to_numpy(np.float64), fs))]
    unused = [columns[i] for i, lead in enumerate(known) if not lead and i not in times]
    if unused := [column for column in unused if column.lower() not in (*_SKIPPED, *_COUNTERS)]:
        notes.append(f"not used: {', '.join(unused)}")
    return Recording(name, signal, fs, tuple(columns[i] for i in kept), tuple(notes))


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])] or [""]


def _last_line(name: str, rest: Iterable[str], first: str, separator: str) -> int:
    """Count the lines of a table up to the last one that is not blank; one with more cells than the first is refused.

    Empty cells at the end of a line do not count.
    """
    last, most = int(bool(first.strip())), len(_cells(first, separator))
    for number, line in enumerate(rest, 2):
        if not line.strip(" \r\n"):
            continue
        last = number
        if line.count(separator) >= most and any((cells := _cells(line, separator))[most:]):
            reason = f"line {number} has {len(cells)} cells, the first line {most}"
            raise RecordError(name, reason, "mend the file; beside decimal commas, a semicolon ends a cell")
    return last


def _other_rate(column: str, time_T: np.ndarray, fs: float) -> str | None:
    """Say so where a column of times has another sampling rate than the one that is given.

    Without a unit these are seconds, or milliseconds where seconds would make a rate that shows no heartbeat.
    """
    lag = min(100, len(time_T) - 1)  # times may be rounded, and over many samples that is little
    steps = (time_T[lag:] - time_T[:-lag]) / lag if lag else time_T
    steps = steps[np.isfinite(steps)]
    step = float(np.median(steps)) if lag and len(steps) else 0.0
    name, unit = cast(re.Match[str], _TIME.fullmatch(column)).groups()
    unit = (unit or name).lower()
    thousandths = unit.startswith("ms") or (unit in ("time", "t") and step > 1 / 25)
    rate = (1000 if thousandths else 1) / step if step > 0 else fs
    if abs(rate / fs - 1) <= 0.02:
        return None
    return f"column {column} has {rate:.4g} Hz, read at {fs:g} Hz: is the rate right?"


def _from_npy(name: str, path: Path, files: Files) -> Iterator[Recording]:
    fs = _rate(name, files)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it is no npy file of numbers"
        raise RecordError(name, reason, "check path and file") from None
    if not isinstance(array, np.ndarray):
        raise RecordError(name, "it holds several arrays", "save one array, by numpy.save")
    leads = files.leads or LEADS
    if array.ndim not in (2, 3) or array.shape[-2] != len(leads) or array.dtype.kind not in "fiu" or not array.size:
        reason = f"an array of {array.dtype} of shape {array.shape} for {len(leads)} leads"
        raise RecordError(name, reason, "save numbers as (leads, samples) or (records, leads, samples); name the leads")
    kept = [i for i, lead in enumerate(leads) if lead not in _SKIPPED]
    for i, record in enumerate(array if array.ndim == 3 else array[None]):
        signal = (np.asarray(record[kept], np.float64) / PER_MV[files.unit.lower()]).astype(np.float32)
        yield Recording(f"{name}[{i}]" if array.ndim == 3 else name, signal, fs, tuple(leads[i] for i in kept))


def rows_of(signal: np.ndarray, leads: Iterable[str], name: str = "signal") -> np.ndarray:
    """Return the twelve standard leads of a signal, (12, samples); NaN for those that it does not have.

    Raises
    ------
    RecordError
        None of the standard leads is there, one is there twice, or there are more or fewer names than rows.
    """
    leads = tuple(leads)
    if signal.ndim != 2 or len(signal) != len(leads):
        raise RecordError(name, f"a signal of shape {signal.shape} for {len(leads)} leads", "give (leads, samples)")
    own = [standard_name(lead) for lead in leads]
    known = [lead for lead in own if lead]
    if not known:
        reason = f"none of its leads is one of the twelve: {', '.join(leads[:15])}"
        raise RecordError(name, reason, f"leads are {', '.join(LEADS)}")
    if twice := sorted({lead for lead in known if known.count(lead) > 1}):
        same = ", ".join(lead for lead, standard in zip(leads, own, strict=True) if standard in twice)
        raise RecordError(name, f"lead {', '.join(twice)} is there more than once: {same}", "keep one of them")
    rows = np.full((len(LEADS), signal.shape[1]), np.nan, np.float32)
    for lead, row in zip(own, signal, strict=True):
        if lead:
            rows[LEADS.index(lead)] = row
    return rows
