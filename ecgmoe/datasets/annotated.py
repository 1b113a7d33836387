"""Recordings whose beats are annotated, as test sets for R-peak detectors: MIT-BIH, LUDB, CPSC2019, simulated cohorts.

:func:`load` takes a folder as downloaded and returns a :class:`BeatSet`: windows at 500 Hz, the annotated beats, and
that part of each window in which detections are judged. Nothing here is a label that a model learns from.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ecgmoe.datasets import Card, DatasetError
from ecgmoe.datasets.ptbxl import SIMULATED_CARD
from ecgmoe.records import Record, read_record, resampled, standard_leads

#: Rate of all windows, Hz, and length of a window that is cut from a longer recording, s.
FS, WINDOW_S = 500, 10.0

#: Annotations of MIT-BIH that mark a beat (PhysioBank codes), and those that mark ventricular flutter.
BEAT_SYMBOLS, FLUTTER_SYMBOLS = tuple("NLRBAaJSVrFejnE/fQ?"), ("[", "!", "]")


@dataclass(frozen=True)
class BeatSet:
    """Windows of one data set with their annotated beats.

    Attributes
    ----------
    name, title : str
    card : Card
    signal : ndarray of shape (windows, leads, samples)
        float32, mV; one lead, or twelve in the order of ``records.LEADS``.
    fs : int
        Sampling rate in Hz.
    truth : list of ndarray
        Annotated beats a window: positions in samples, float64, ascending.
    symbols : list of ndarray
        What kind of beat each one is, in the letters of the data set (``"N"`` where it does not say).
    scored : ndarray of shape (windows, 2)
        First and last sample that is judged; outside, a beat is no miss and a detection no false alarm.
    recording : ndarray of shape (windows,)
        Name of the recording that a window comes from.
    number : ndarray of shape (windows,)
        Number of that recording: odd and even ones can be kept apart.
    apart : ndarray of shape (windows,)
        True where a window is reported by itself, outside the totals: ventricular flutter has no QRS complexes.
    """

    name: str
    title: str
    card: Card
    signal: np.ndarray
    fs: int
    truth: list[np.ndarray]
    symbols: list[np.ndarray]
    scored: np.ndarray
    recording: np.ndarray
    number: np.ndarray
    apart: np.ndarray

    def __len__(self) -> int:
        return len(self.signal)

    def select(self, rows: np.ndarray) -> "BeatSet":
        """Return only some windows, by mask or by index."""
        index = np.arange(len(self))[rows]
        return replace(
            self,
            truth=[self.truth[i] for i in index],
            symbols=[self.symbols[i] for i in index],
            **{name: getattr(self, name)[index] for name in ("signal", "scored", "recording", "number", "apart")},
        )


class _Window(NamedTuple):
    signal: np.ndarray  # (leads, samples) at FS
    truth: np.ndarray
    symbols: np.ndarray
    scored: tuple[float, float]
    recording: str
    apart: bool = False


class _Source(NamedTuple):
    title: str
    card: Card
    folders: tuple[str, ...]  # beginnings of the folder's name, in lower case
    marker: str  # glob of a file that gives the set away
    files: str  # glob of one file a recording
    windows: Callable[[Path, list[Path]], Iterator[_Window]]
    cure: str


def load(name: str, root: str | os.PathLike[str], max_recordings: int = 0) -> BeatSet:
    """Read one set of annotated recordings.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`: ``mitdb`` (lead 0 in windows of ten seconds, resampled from 360 Hz, the last part of a
        recording that fills none left out), ``ludb`` (twelve leads, annotation of lead II), ``cpsc2019`` (one lead) or
        ``simulated`` (twelve leads, true R positions).
    root : path
        The folder as downloaded and unpacked, or the one above it. For ``simulated`` also ``"simulated"``: the default
        cohort, made on first use.
    max_recordings : int
        The first so many recordings; 0 takes all.

    Returns
    -------
    BeatSet
        At 500 Hz. Judged is what lies 0.2 s inside a window (CPSC2019: 0.5 s; LUDB: from the first annotated beat to
        the last).

    Raises
    ------
    DatasetError
        The folder is missing, another data set, or damaged.
    RecordError
        A recording cannot be read.
    """
    if name not in _SOURCES:
        raise DatasetError(f"there is no set of annotated recordings {name!r}; choose from {', '.join(NAMES)}")
    source = _SOURCES[name]
    folder = find_root(name, root)
    files = sorted(folder.glob(source.files), key=lambda path: (_number(path.stem), path.stem))
    windows = list(source.windows(folder, files[:max_recordings] if max_recordings else files))
    if not any(len(window.truth) for window in windows):
        raise DatasetError(f"{source.title} in {folder} holds no annotated beat; {source.cure}")
    lengths = {window.signal.shape for window in windows}
    if len(lengths) > 1:
        raise DatasetError(f"{source.title} in {folder} holds recordings of several shapes {lengths}; {source.cure}")
    return BeatSet(
        name,
        source.title,
        source.card,
        np.stack([window.signal for window in windows]),
        FS,
        [window.truth for window in windows],
        [window.symbols for window in windows],
        np.array([window.scored for window in windows], np.float64),
        np.array([window.recording for window in windows]),
        np.array([_number(window.recording) for window in windows]),
        np.array([window.apart for window in windows]),
    )


def card(name: str) -> Card:
    """Card of one of :data:`NAMES`."""
    return _SOURCES[name].card


def find_root(name: str, root: str | os.PathLike[str]) -> Path:
    """Return the folder that holds the files of set ``name``: ``root`` itself or one below it.

    For ``simulated`` also ``"simulated"``: the default cohort, made on first use.

    Raises
    ------
    DatasetError
        There is none; the message says where to download it.
    """
    source = _SOURCES[name]
    if name == "simulated" and str(root) == "simulated":
        from ecgmoe.datasets import simulated

        root = simulated.ensure()
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}; pass the folder of {source.title}, or {source.cure}")
    named = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower().startswith(source.folders)]
    for folder in (root, *named):
        for place in (folder, *sorted(folder.glob("[0-9]*.[0-9]*/")), folder / "train"):
            if next(place.glob(source.marker), None):
                return place
    raise DatasetError(f"{root} does not hold {source.title}: there is no {source.marker} in it; {source.cure}")


def _number(name: str) -> int:
    return int("".join(filter(str.isdigit, name)) or 0)


def _at_fs(record: Record) -> np.ndarray:
    """(leads, samples) at ``FS``, float32."""
    return resampled(record, FS).astype(np.float32)


def _parse(name: str, file: Path, parser: Callable[[], Any]) -> Any:
    """What ``parser`` makes of a file; parsers of other packages raise whatever they stumble over."""
    try:
        return parser()
    except Exception as error:
        reason = f"{file.name} is missing or damaged ({type(error).__name__}: {error})"
        raise DatasetError(f"{_SOURCES[name].title}: {reason}; {_SOURCES[name].cure}") from error


def _annotation(name: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    import wfdb

    marks = _parse(name, file, lambda: wfdb.rdann(str(file.with_suffix("").absolute()), file.suffix[1:]))
    return np.asarray(marks.sample, np.float64), np.asarray(marks.symbol)


def _matrix(file: Path, variable: str) -> np.ndarray:
    from scipy.io import loadmat

    return _parse("cpsc2019", file, lambda: loadmat(file)[variable].ravel().astype(np.float64))


def _mitdb(folder: Path, files: list[Path]) -> Iterator[_Window]:
    length = int(WINDOW_S * FS)
    for file in files:
        record = read_record(file.with_suffix(""))
        lead = _at_fs(record)[:1]
        at, symbols = _annotation("mitdb", file)
        at *= FS / record.fs
        beat, flutter = np.isin(symbols, BEAT_SYMBOLS), np.isin(symbols, FLUTTER_SYMBOLS)
        for start in range(0, lead.shape[1] - length + 1, length):
            inside = (at >= start) & (at < start + length)
            yield _Window(
                lead[:, start : start + length],
                at[inside & beat] - start,
                symbols[inside & beat],
                (0.2 * FS, length - 0.2 * FS),
                file.stem,
                bool((inside & flutter).any()),
            )


def _ludb(folder: Path, files: list[Path]) -> Iterator[_Window]:
    for file in files:
        record = standard_leads(read_record(file.with_suffix("")))
        at, symbols = _annotation("ludb", file)
        beat = symbols == "N"
        at = at[beat] * FS / record.fs
        ends = (at[0], at[-1]) if len(at) else (0.0, -1.0)
        yield _Window(_at_fs(record), at, symbols[beat], ends, file.stem)


def _cpsc2019(folder: Path, files: list[Path]) -> Iterator[_Window]:
    for file in files:
        lead = _matrix(file, "ecg").astype(np.float32)[None]
        beats = _matrix(folder / "ref" / file.name.replace("data_", "R_"), "R_peak")
        if not np.isfinite(lead).all():
            raise DatasetError(f"{file.name} holds missing samples; {_SOURCES['cpsc2019'].cure}")
        ends = (0.5 * FS, lead.shape[1] - 0.5 * FS)
        yield _Window(lead, np.sort(beats), np.full(len(beats), "N"), ends, file.stem.removeprefix("data_"))


def _simulated(folder: Path, files: list[Path]) -> Iterator[_Window]:
    file = folder / "simulated_beats.csv"
    beats = _parse("simulated", file, lambda: pd.read_csv(file)[["ecg_id", "r"]].astype(np.float64))
    truth = {int(ecg_id): np.sort(rows["r"].to_numpy()) for ecg_id, rows in beats.groupby("ecg_id")}
    for file in files:
        record = standard_leads(read_record(file.with_suffix("")))
        name = file.stem.removesuffix("_hr")
        at = truth.get(_number(name), np.empty(0))
        ends = (0.2 * FS, record.signal.shape[1] - 0.2 * FS)
        yield _Window(_at_fs(record), at, np.full(len(at), "N"), ends, name)


_PHYSIONET = "download it from https://doi.org/"

_SOURCES: dict[str, _Source] = {
    "mitdb": _Source(
        "MIT-BIH Arrhythmia Database",
        Card(
            name="MIT-BIH Arrhythmia Database 1.0.0",
            about="48 half-hour recordings of two leads at 360 Hz from 47 patients (Boston, 1975-1979), each beat "
            "annotated by two cardiologists. Here: the first lead, at 500 Hz, in windows of ten seconds.",
            licence="ODC-By 1.0",
            doi="10.13026/C2F305",
            references=(
                "Moody and Mark. The impact of the MIT-BIH Arrhythmia Database. IEEE Eng. Med. Biol. 20(3):45 (2001)",
                "Goldberger et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215 (2000)",
            ),
            notes=(
                "25 of the recordings were chosen for rare arrhythmias: shares of beats are not those of patients.",
                "Windows that touch ventricular flutter are reported by themselves. The first and last 0.2 s of a "
                "window are free: a beat there is no miss, a detection no false alarm.",
            ),
        ),
        ("mitdb", "mit-bih-arrhythmia"),
        "*.atr",
        "*.atr",
        _mitdb,
        f"{_PHYSIONET}10.13026/C2F305",
    ),
    "ludb": _Source(
        "LUDB",
        Card(
            name="Lobachevsky University Electrocardiography Database 1.0.1",
            about="200 recordings of ten seconds, twelve leads, 500 Hz; P, QRS and T annotated by hand in each lead.",
            licence="ODC-By 1.0",
            doi="10.13026/eegm-h675",
            references=(
                "Kalyakulina et al. LUDB: A new open-access validation tool for electrocardiogram delineation "
                "algorithms. IEEE Access 8:186181 (2020)",
            ),
            notes=(
                "Truth is the annotation of lead II. First and last beats of a recording are often not annotated: "
                "judged is what lies between the first annotated beat and the last.",
            ),
        ),
        ("ludb", "lobachevsky"),
        "data/*.ii",
        "data/*.ii",
        _ludb,
        f"{_PHYSIONET}10.13026/eegm-h675",
    ),
    "cpsc2019": _Source(
        "CPSC2019",
        Card(
            name="China Physiological Signal Challenge 2019, training data",
            about="2,000 recordings of one lead, ten seconds, 500 Hz, from patients with cardiovascular disease, many "
            "of them noisy; R peaks annotated.",
            licence="none stated; published for the challenge",
            doi="10.1166/jmihi.2019.2800",
            references=(
                "Gao et al. An open-access ECG database for algorithm evaluation of QRS detection and heart rate "
                "estimation. J. Med. Imaging Health Inform. 9:1853 (2019)",
            ),
            notes=("The first and last 0.5 s are free, as in the challenge.",),
        ),
        ("cpsc2019", "cpsc-2019", "train"),
        "data/data_*.mat",
        "data/data_*.mat",
        _cpsc2019,
        "download train.rar from http://2019.icbeb.org/Challenge.html and unpack it",
    ),
    "simulated": _Source(
        "Simulated",
        SIMULATED_CARD,
        ("simulated",),
        "simulated_beats.csv",
        "records500/*/*_hr.hea",
        _simulated,
        "write it again (python -m ecgmoe simulate FOLDER)",
    ),
}

#: Sets of annotated recordings that :func:`load` reads, and those of them that come from real hearts.
NAMES: tuple[str, ...] = tuple(_SOURCES)
REAL: tuple[str, ...] = NAMES[:-1]
