"""One recording: twelve leads by name, in mV, read from and written to WFDB files, checked on the way."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: The twelve standard leads in the order used everywhere in this library.
LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

#: What one unit of a signal is worth in mV, by the lower-case name of the unit.
MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3}

#: wfdb has no error class of its own for damaged files: these are what its parser and NumPy raise on them.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)

#: Smallest value of format 16, which stands for a missing sample.
_MISSING_16 = -(2**15)


class InputError(ValueError):
    """What the user gave cannot be used; notebooks show its message and not the way it took through the library."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class RecordError(InputError):
    """A recording cannot be used.

    Attributes
    ----------
    record : str
        Name of the recording.
    reason : str
        What is wrong with it.
    cure : str
        What to do about it.
    """

    def __init__(self, record: str, reason: str, cure: str) -> None:
        super().__init__(record, reason, cure)
        self.record, self.reason, self.cure = record, reason, cure

    def __str__(self) -> str:
        return f"{self.record}: {self.reason}; {self.cure}"


@dataclass(frozen=True)
class Record:
    """One recording.

    Attributes
    ----------
    signal : ndarray of shape (leads, samples)
        float32, mV, no NaN.
    fs : float
        Sampling rate in Hz.
    leads : tuple of str
        Lead names as the file spells them, in the order of ``signal``.
    name : str
    """

    signal: np.ndarray
    fs: float
    leads: tuple[str, ...]
    name: str


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read one WFDB recording.

    Parameters
    ----------
    path : path
        Of the record, with or without the extension ``.hea`` or ``.dat``.

    Returns
    -------
    Record
        All leads of the file in its own order, scaled to mV by gain and baseline of the header.

    Raises
    ------
    RecordError
        A missing file, a header that cannot be read, a signal file that is shorter than the header says or whose
        checksum differs, no gain, no samples, missing samples, or units that are no voltage.

    Notes
    -----
    All formats that ``wfdb`` reads can be read, with the numbers that it gives. Checksums are verified, except where
    the leads of a file have several sampling rates.
    """
    import wfdb

    path = Path(path)
    if path.suffix in (".hea", ".dat"):
        path = path.with_suffix("")
    name = path.name
    fetch = "download the recording again"
    header = path.parent / f"{name}.hea"
    if not header.is_file():
        raise RecordError(name, f"there is no header file {header.name}", "check the path, or " + fetch)
    try:
        raw = wfdb.rdrecord(str(path.absolute()), physical=False)
        if isinstance(raw, wfdb.MultiRecord) or raw.d_signal is None or raw.d_signal.size == 0:
            raise RecordError(name, "the recording holds no samples", fetch)
        checksums = raw.calc_checksum()
        _require_gain(header)
        mv = raw.dac() * _mv_per_unit(name, raw.units)
    except FileNotFoundError as error:
        raise RecordError(name, f"there is no signal file {Path(str(error.filename)).name}", fetch) from error
    except RecordError:
        raise
    except _UNREADABLE as error:
        reason = f"header or signal file is damaged or truncated ({type(error).__name__}: {error})"
        raise RecordError(name, reason, fetch) from error

    averaged = any(n > 1 for n in raw.samps_per_frame)  # leads of several rates: wfdb brings them to the lowest
    for lead, stated, found in zip(raw.sig_name, raw.checksum, checksums, strict=True):
        if stated is not None and (stated - found) % 2**16 and not averaged:
            raise RecordError(name, f"lead {lead} does not match the checksum in the header", fetch)
    missing = np.isnan(mv).any(axis=0)
    if missing.any():
        leads = ", ".join(np.array(raw.sig_name)[missing])
        raise RecordError(name, f"missing samples (NaN) in lead {leads}", "leave the recording out")
    if not np.isfinite(raw.fs) or raw.fs <= 0:
        raise RecordError(name, f"a sampling rate of {raw.fs} Hz", fetch)
    return Record(np.ascontiguousarray(mv.T, dtype=np.float32), float(raw.fs), tuple(raw.sig_name), name)


def _require_gain(header: Path) -> None:
    """Refuse a signal without a gain, or with a gain of 0: ``wfdb`` would take 200 steps a mV, right or wrong."""
    lines = [line.split() for line in header.read_text("utf-8", errors="replace").splitlines()]
    signals = [words for words in lines if words and not words[0].startswith("#")][1:]
    if any(len(words) < 3 or not re.match(r"0*[1-9]|0*\.0*[1-9]", words[2].lstrip("+-")) for words in signals):
        raise RecordError(header.stem, "a lead has no gain in the header", "add the gain, in steps per mV")


def _mv_per_unit(name: str, units: Sequence[str]) -> np.ndarray:
    unknown = sorted({unit for unit in units if unit.lower() not in MV_PER_UNIT})
    if unknown:
        raise RecordError(name, f"unit {', '.join(unknown)} is no voltage", "correct the units in the header")
    return np.array([MV_PER_UNIT[unit.lower()] for unit in units])


def standard_leads(record: Record) -> Record:
    """Return the recording with the twelve leads of :data:`LEADS`, in that order.

    Leads are found by name, whatever their order in the file and the case of their letters; others are dropped.

    Raises
    ------
    RecordError
        A lead is missing, or there twice.
    """
    names = [lead.strip().lower() for lead in record.leads]
    wanted = [lead.lower() for lead in LEADS]
    for problem, leads in (
        ("is missing", [lead for lead in LEADS if lead.lower() not in names]),
        ("is there more than once", [lead for lead in LEADS if names.count(lead.lower()) > 1]),
    ):
        if leads:
            raise RecordError(record.name, f"lead {', '.join(leads)} {problem}", "twelve standard leads are needed")
    return Record(record.signal[[names.index(lead) for lead in wanted]], record.fs, LEADS, record.name)


def write_record(
    path: str | os.PathLike[str],
    signal: np.ndarray,
    fs: float,
    leads: Sequence[str] = LEADS,
    *,
    gain: float = 1000.0,
    comments: Sequence[str] = (),
) -> None:
    """Write one recording as WFDB format 16, each file complete or not there at all.

    Parameters
    ----------
    path : path
        Of the record, without extension. Its folder must exist.
    signal : ndarray of shape (leads, samples)
        mV.
    fs : float
        Sampling rate in Hz.
    leads : sequence of str
    gain : float
        Steps of the file per mV.
    comments : sequence of str
        Lines at the end of the header.

    Raises
    ------
    RecordError
        NaN, or values that do not fit into 16 bits.
    """
    path = Path(path)
    if signal.ndim != 2 or len(signal) != len(leads):
        reason = f"a signal of shape {signal.shape} for {len(leads)} leads"
        raise RecordError(path.name, reason, "pass (leads, samples)")
    steps = np.rint(np.asarray(signal, np.float64) * gain)
    if not np.isfinite(steps).all() or steps.size == 0 or steps.min() <= _MISSING_16 or steps.max() >= 2**15:
        raise RecordError(path.name, "samples are NaN, absent, or too large for 16 bits", "check unit and gain")
    digital = steps.astype("<i2")
    lines = [f"{path.name} {len(leads)} {fs:g} {digital.shape[1]}"]
    lines += [
        f"{path.name}.dat 16 {gain}(0)/mV 16 0 {row[0]} {int(row.sum(dtype=np.int64)) % 2**16} 0 {lead}"
        for row, lead in zip(digital, leads, strict=True)
    ]
    lines += [f"# {comment}" for comment in comments]
    for suffix, content in ((".dat", digital.T.tobytes()), (".hea", ("\n".join(lines) + "\n").encode())):
        partial = path.parent / f"{path.name}{suffix}.{os.getpid()}.partial"
        try:
            partial.write_bytes(content)
            os.replace(partial, path.parent / f"{path.name}{suffix}")
        finally:
            partial.unlink(missing_ok=True)
