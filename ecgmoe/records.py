"""One recording: twelve leads by name, in mV, read from and written to WFDB files, checked on the way."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal, cast

import numpy as np

from ecgmoe import _wfdb_files
from ecgmoe._wfdb_files import Header

#: The twelve standard leads in the order used everywhere in this library.
LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

#: How many of a unit make one mV, by the lower-case name of the unit.
PER_MV = {"mv": 1.0, "uv": 1e3, "v": 1e-3}

#: No heart reaches it, mV; what does is an artefact, or in another unit.
LARGEST_MV = 20.0

#: Source files that decide what is read: part of the keys of whatever is kept of it.
SOURCES = (__file__, _wfdb_files.__file__)

#: Steps per mV of signals that were resampled, or that come from a format which 16 bits do not hold.
STANDARD_GAIN = 1000.0

_MISSING_16, _MAX_16 = -(2**15), 2**15 - 1  # the smallest step of format 16 stands for a missing sample
_MAX_MV, _MAX_GAIN = 1e6, 1e12  # no body and no recorder comes near
_MAX_BASELINE = 2**20  # up to here every step is a float32 of its own
_MAX_RATIO = 50_000  # rates whose ratio needs larger terms are no rates of recorders
_AGAIN = "download the recording again"


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
    gain : ndarray of shape (leads,)
        float64, steps of the file per mV.
    baseline : ndarray of shape (leads,)
        int64, the step that stands for 0 mV. The signal of a file of format 16 is ``(steps - baseline) / gain``,
        rounded to float32, to the last bit.
    files : tuple of str
        Header and signal files, relative to the folder of the header.
    warnings : tuple of str
        Faults that were forgiven.
    """

    signal: np.ndarray
    fs: float
    leads: tuple[str, ...]
    name: str
    gain: np.ndarray = field(default_factory=lambda: np.empty(0))
    baseline: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_record(
    path: str | os.PathLike[str],
    *,
    checksum: Literal["error", "warn"] = "error",
    missing: Literal["error", "keep"] = "error",
) -> Record:
    """Read one WFDB recording.

    Parameters
    ----------
    path : path
        Of the record, with or without the extension ``.hea`` or ``.dat``.
    checksum : {"error", "warn"}
        What becomes of samples that do not match the checksums in the header: an error, or a line in ``warnings``.
    missing : {"error", "keep"}
        What becomes of missing samples: an error, or NaN in the signal and a line in ``warnings``.

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
    Format 16 is read here, all others by ``wfdb``, and every number is the one that ``wfdb`` gives. Where ``wfdb``
    guesses, this is an error: a lead without a gain, and lines of a header that follow the format only in part. Date
    and time are not looked at.
    """
    folder, stem = os.path.split(_without_suffix(os.fspath(path)))
    return _read(folder, stem, stem, checksum, missing)[0]


def read_standard(
    path: str | os.PathLike[str],
    fs: float,
    seconds: float = 10.0,
    *,
    name: str | None = None,
    checksum: Literal["error", "warn"] = "error",
) -> Record:
    """Read a twelve-lead recording of known duration at a sampling rate of choice.

    Parameters
    ----------
    path : path
        Of the record, with or without the extension ``.hea`` or ``.dat``.
    fs : float
        Sampling rate wanted, Hz.
    seconds : float
        Duration that the recording must have.
    name : str, optional
        What errors call the record; by default the name of its file.
    checksum : {"error", "warn"}
        As in :func:`read_record`.

    Returns
    -------
    Record
        The leads of :data:`LEADS`. Its signal is ``(steps - baseline) / gain`` of whole 16-bit steps, rounded to
        float32, so that :func:`to_steps` loses nothing.

    Raises
    ------
    RecordError
        As in :func:`read_record`; a standard lead that is missing, there twice, or constant; another duration.

    Notes
    -----
    Recordings of another rate pass an anti-aliasing filter without phase shift (``scipy.signal.resample_poly``); those,
    and recordings of formats that 16 bits do not hold, are rounded to 1 / :data:`STANDARD_GAIN` mV, or to the coarser
    power-of-two multiple of it that their largest value needs.
    """
    folder, stem = os.path.split(_without_suffix(os.fspath(path)))
    name = stem if name is None else name
    if not 0 < fs < float("inf"):
        raise ValueError(f"fs = {fs}; pass a sampling rate in Hz")
    record, exact = _read(folder, stem, name, checksum)
    record = standard_leads(record)
    if abs(record.signal.shape[1] - seconds * record.fs) > 1e-6:
        n = record.signal.shape[1]
        length = f"{n / record.fs:g} s long, not {seconds:g} s ({n:,} samples at {record.fs:.12g} Hz)"
        raise RecordError(name, length, "leave the recording out, or cut it to length")
    _require_variation(record)
    if record.fs != fs:
        return _in_standard_steps(replace(record, signal=resampled(record, fs), fs=float(fs)))
    if not exact:
        try:
            to_steps(record)
        except RecordError:
            return _in_standard_steps(record)
    return record


def to_steps(record: Record) -> np.ndarray:
    """Return the signal in 16-bit steps: :func:`from_steps` gives it back to the last bit.

    Returns
    -------
    ndarray of shape (leads, samples)
        int16.

    Raises
    ------
    RecordError
        There are no such steps for the gain and baseline of the record.
    """
    if len(record.gain) == len(record.baseline) == len(record.signal):
        values = np.rint(record.signal * record.gain[:, None] + record.baseline[:, None])
        if (np.abs(values) <= _MAX_16).all():
            steps = values.astype(np.int16)
            back = from_steps(steps, record.gain, record.baseline)
            if np.array_equal(back.view(np.int32), np.ascontiguousarray(record.signal).view(np.int32)):
                return steps
    raise RecordError(record.name, "the signal is no whole number of 16-bit steps", "read it by read_standard")


def from_steps(steps: np.ndarray, gain: np.ndarray, baseline: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return signals in mV: ``(steps - baseline) / gain``, correctly rounded to float32.

    Parameters
    ----------
    steps : ndarray of shape (..., leads, samples)
        int16.
    gain, baseline : ndarray of shape (..., leads)
        Steps per mV, and the step that stands for 0 mV.
    out : ndarray of shape (..., leads, samples), optional
        float32; filled and returned instead of a new array.

    Returns
    -------
    ndarray of shape (..., leads, samples)
        float32.
    """
    if out is None:
        out = np.empty(steps.shape, np.float32)
    divisor, shift = gain[..., None], baseline[..., None]
    shifted = bool(shift.any())
    if (divisor == (single := divisor.astype(np.float32))).all() and not (shifted and np.abs(shift).max() > 2**23):
        # Whole numbers below 2**24 and the gain are float32 themselves, and so division rounds but once.
        if shifted:
            np.subtract(steps, shift.astype(np.float32), out=out)
        else:
            out[...] = steps
        return np.divide(out, single, out=out)
    # A float64 quotient rounded to float32 is what wfdb gives.
    out[...] = (steps - shift.astype(np.float64)) / divisor
    return out


def resampled(record: Record, fs: float) -> np.ndarray:
    """Return the signal at another sampling rate, anti-aliased, without phase shift.

    Returns
    -------
    ndarray of shape (leads, samples)
        float64, mV.

    Raises
    ------
    RecordError
        The rates have no ratio of small whole numbers.
    """
    from scipy.signal import resample_poly  # takes a second to import, and most recordings have the right rate

    ratio = Fraction(fs).limit_denominator(_MAX_RATIO) / Fraction(record.fs).limit_denominator(_MAX_RATIO)
    if not 0 < max(ratio.numerator, ratio.denominator) <= _MAX_RATIO:
        reason = f"a sampling rate of {record.fs:g} Hz, which cannot be brought to {fs:g} Hz"
        raise RecordError(record.name, reason, "leave the recording out")
    n = round(record.signal.shape[1] / record.fs * fs)
    wide = record.signal.astype(np.float64)
    return resample_poly(wide, ratio.numerator, ratio.denominator, axis=1, padtype="line")[:, :n]


def safe_name(name: object) -> str | None:
    """Return a record's name without extension, or None where it would lead out of the folder that it is relative to.

    None too for what is no text, like the missing values of a table.
    """
    if not isinstance(name, str):
        return None
    path = PurePosixPath(_without_suffix(name))
    if not path.name or path.is_absolute() or ".." in path.parts or any(c in name for c in "\\:\0"):
        return None
    return str(path)


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
    order = [names.index(lead) for lead in wanted]
    signal = record.signal if order == list(range(len(names))) else record.signal[order]
    gain, baseline = (x[order] if len(x) else x for x in (record.gain, record.baseline))
    return replace(record, signal=signal, leads=LEADS, gain=gain, baseline=baseline)


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
        NaN, values that do not fit into 16 bits, or a name that WFDB does not allow.
    """
    path = Path(path)
    if signal.ndim != 2 or len(signal) != len(leads):
        reason = f"a signal of shape {signal.shape} for {len(leads)} leads"
        raise RecordError(path.name, reason, "pass (leads, samples)")
    if not re.fullmatch(r"[-\w]+", path.name, re.ASCII):
        raise RecordError(path.name, "no name of a recording", "use letters, digits, - and _ only")
    steps = np.rint(np.asarray(signal, np.float64) * gain)
    if not (gain > 0 and steps.size and np.abs(steps).max() <= _MAX_16):
        raise RecordError(path.name, "samples are NaN, absent, or too large for 16 bits", "check unit and gain")
    digital = steps.astype("<i2")
    lines = [f"{path.name} {len(leads)} {fs:.12g} {digital.shape[1]}"]
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


def _without_suffix(path: str) -> str:
    root, extension = os.path.splitext(path)
    return root if extension in (".hea", ".dat") else path


def _damaged(name: str, reason: str) -> RecordError:
    return RecordError(name, reason, _AGAIN)


def _not_opened(name: str, kind: str, error: OSError) -> RecordError:
    file = os.path.basename(error.filename or "")
    if isinstance(error, FileNotFoundError):
        return RecordError(name, f"there is no {kind} file {file}", f"check the path, or {_AGAIN}")
    return RecordError(name, f"{kind} file {file} cannot be opened ({error.strerror})", "check path and permissions")


def _read(
    folder: str, stem: str, name: str, checksum: str, missing: str = "error", *, is_part: bool = False
) -> tuple[Record, bool]:
    """Read a record, and say whether its signal is known to be whole steps of 16 bits."""
    if checksum not in ("error", "warn"):
        raise ValueError(f"checksum = {checksum!r}; pass 'error' or 'warn'")
    if missing not in ("error", "keep"):
        raise ValueError(f"missing = {missing!r}; pass 'error' or 'keep'")
    header = _read_header(folder, stem, name)
    if header.n_leads == 0 or header.length == 0 or header.parts == ():
        raise _damaged(name, "the recording holds no samples")
    if header.parts is not None:
        if is_part:
            raise _damaged(name, "a part of the recording is made of parts itself")
        return _read_parts(folder, stem, name, header, checksum, missing), False

    if not all(header.gains):
        raise RecordError(name, "a lead has no gain in the header", "add the gain, in steps per mV")
    if unknown := sorted(unit for unit in set(header.units) if unit.lower() not in PER_MV):
        raise RecordError(name, f"unit {', '.join(unknown)} is no voltage", "correct the units in the header")
    if any(header.skews):
        raise RecordError(name, "missing samples (leads are shifted in time)", "leave the recording out")
    gains = [cast(float, gain) * PER_MV[unit.lower()] for gain, unit in zip(header.gains, header.units, strict=True)]
    if (largest := max(map(abs, gains))) > _MAX_GAIN:
        raise _damaged(name, f"a gain of {largest:g} steps per mV")
    gain, baseline, leads = np.array(gains), np.array(header.baselines), header.leads

    reach = max(max(header.baselines), -min(header.baselines))
    is_16 = (
        len(set(header.files)) == 1
        and set(header.formats) == {"16"}
        and set(header.per_frame) == {1}
        and header.length is not None
        and reach <= _MAX_BASELINE
        and (reach + 2**15) <= _MAX_MV * min(map(abs, gains))
    )
    try:
        _wfdb_files.require_samples(folder, header)
        if is_16:
            steps = _wfdb_files.read_16(folder, header)
        else:
            wide, sums = _wfdb_files.read_by_wfdb(os.path.join(folder, stem), gain, baseline)
    except OSError as error:
        raise _not_opened(name, "signal", error) from error
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    if is_16:
        sums = steps.view(np.uint16).sum(axis=1, dtype=np.uint16).tolist()
        mv = from_steps(steps, gain, baseline)
        absent = steps[:, :0] == _MISSING_16
        if steps.min() == _MISSING_16:
            absent = steps == _MISSING_16
            mv[absent] = np.nan
    else:
        absent = np.isnan(wide)
        if np.abs(wide).max(initial=0, where=~np.isnan(wide)) > _MAX_MV:
            raise _damaged(name, f"values of more than {_MAX_MV:,.0f} mV")
        mv = np.ascontiguousarray(wide, np.float32)

    warnings = []
    pairs = zip(leads, header.checksums, sums, strict=True)
    wrong = [lead for lead, stated, found in pairs if stated is not None and (stated - found) % 2**16]
    if wrong:
        reason = f"lead {', '.join(wrong)} does not match the checksum in the header"
        if checksum != "warn":
            raise _damaged(name, reason)
        warnings.append(reason)
    if absent.any():
        found = ", ".join(leads[i] for i in absent.any(axis=1).nonzero()[0])
        reason = f"missing samples (NaN) in lead {found}"
        if missing != "keep":
            raise RecordError(name, reason, "leave the recording out")
        warnings.append(reason)
    files = dict.fromkeys([f"{stem}.hea", *header.files])
    return Record(mv, header.fs, leads, name, gain, baseline, tuple(files), tuple(warnings)), is_16


def _read_header(folder: str, stem: str, name: str) -> Header:
    try:
        with open(os.path.join(folder, f"{stem}.hea"), "rb", buffering=0) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > _wfdb_files.MAX_BYTES:
                raise ValueError(f"a header of {size:,} bytes")
            header = _wfdb_files.parse(stream.read())
    except OSError as error:
        raise _not_opened(name, "header", error) from error
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    if header.fs <= 0:
        raise _damaged(name, "a sampling rate of 0 Hz")
    return header


def _read_parts(folder: str, stem: str, name: str, header: Header, checksum: str, missing: str) -> Record:
    """Join a recording that is stored in several parts; each must hold all leads."""
    segments = cast(tuple[tuple[str, int], ...], header.parts)
    layout = _read_header(folder, segments[0][0], name) if segments[0][1] == 0 else None
    segments = segments[1:] if layout else segments
    names = [segment for segment, _ in segments]
    if "~" in names:
        raise RecordError(name, "missing samples (a gap between the parts)", "leave the recording out")
    if len(set(names)) < len(names) or sum(n for _, n in segments) != header.length:
        raise _damaged(name, "the parts do not add up to the whole")
    parts = [_read(folder, segment, name, checksum, missing, is_part=True)[0] for segment in names]
    if any(part.signal.shape[1] != n or part.fs != header.fs for part, (_, n) in zip(parts, segments, strict=True)):
        raise _damaged(name, "a part has another length or rate than the header says")
    # A layout names all leads, and parts hold them in any order.
    leads = layout.leads if layout else parts[0].leads
    if len(set(leads)) < len(leads) or len(leads) != header.n_leads:
        raise _damaged(name, "the parts have other leads than the header says")
    if any(set(part.leads) != set(leads) or not (layout or part.leads == leads) for part in parts):
        raise RecordError(name, "missing samples (not all leads are in all parts)", "leave the recording out")
    signal = np.hstack([part.signal[[part.leads.index(lead) for lead in leads]] for part in parts])
    order = [parts[0].leads.index(lead) for lead in leads]
    return Record(
        signal,
        header.fs,
        leads,
        name,
        parts[0].gain[order],
        parts[0].baseline[order],
        tuple(dict.fromkeys([f"{stem}.hea", *(file for part in parts for file in part.files)])),
        tuple(warning for part in parts for warning in part.warnings),
    )


def _require_variation(record: Record) -> None:
    is_flat = record.signal.min(axis=1) == record.signal.max(axis=1)
    if is_flat.any():
        flat = ", ".join(np.array(record.leads)[is_flat])
        raise RecordError(record.name, f"lead {flat} is constant", "leave the recording out")


def _in_standard_steps(record: Record) -> Record:
    peak = np.abs(record.signal).max(axis=1)
    halvings = np.ceil(np.log2(np.maximum(peak * STANDARD_GAIN / _MAX_16, 1)))
    gain = np.ldexp(STANDARD_GAIN, -halvings.astype(int))
    steps = np.rint(record.signal * gain[:, None]).astype(np.int16)
    baseline = np.zeros(len(gain), np.int64)
    record = replace(record, signal=from_steps(steps, gain, baseline), gain=gain, baseline=baseline)
    _require_variation(record)
    return record
