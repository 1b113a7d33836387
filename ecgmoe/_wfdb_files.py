"""WFDB files: the grammar of headers, and the samples that they describe.

The grammar takes what the format's description allows (https://www.physionet.org/physiotools/wag/header-5.htm) and
nothing else: a line that fits only in part is an error here, where ``wfdb`` takes the part and guesses the rest.
"""

import codecs
import os
import re
import stat
from typing import NamedTuple, cast

import numpy as np

#: Nobody records more leads than this, and no header is longer, in bytes, or has longer lines, in characters.
MAX_LEADS, MAX_BYTES, MAX_LINE = 512, 2**20, 512

_BYTES_PER_SAMPLE = {
    **{"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4},
    **{"212": 3 / 2, "310": 4 / 3, "311": 4 / 3},
}
_FLAC = ("508", "516", "524")

_NUMBER = r"(?:\d{1,15}\.?\d{0,15}|\.\d{1,15})"
_FLAGS = re.ASCII | re.VERBOSE

# What follows the length are time and date of day: no signal depends on them, and published sets write them in many
# ways.
_RECORD = re.compile(
    rf"""
    [-\w]+ (?:/(?P<parts>\d{{1,6}}))?
    [ \t]+ (?P<leads>\d{{1,6}})
    (?: [ \t]+ (?P<fs>{_NUMBER}) (?:/-?{_NUMBER} (?:\(-?{_NUMBER}\))?)?
        (?: [ \t]+ (?P<length>\d{{1,15}}) (?:[ \t].*)? )? )?
    """,
    _FLAGS,
)

_SIGNAL = re.compile(
    rf"""
    (~|[-\w]+\.?\w*)
    [ \t]+ (\d{{1,3}}) (?:x(\d{{1,6}}))? (?::(\d{{1,15}}))? (?:\+(\d{{1,15}}))?
    (?: [ \t]+ (-?{_NUMBER}(?:e[+-]?\d{{1,3}})?) (?:\((-?\d{{1,15}})\))? (?:/([\w^?%/-]+))?
     (?: [ \t]+ \d{{1,6}}
      (?: [ \t]+ (-?\d{{1,15}})
       (?: [ \t]+ -?\d{{1,15}}
        (?: [ \t]+ (-?\d{{1,15}})
         (?: [ \t]+ \d{{1,15}}
          (?: [ \t]+ ([^\t]+) (?:\t.*)?
    )?)?)?)?)?)?)?
    """,
    _FLAGS,
)

_PART = re.compile(r"([-\w]+|~)[ \t]+(\d{1,15})", re.ASCII)

# A micro sign in Latin-1 or UTF-8, or the Greek letter.
_MICRO = re.compile(rb"(?<=/)(?:\xc2\xb5|\xce\xbc|\xb5)(?=[Vv]\s)")


class Header(NamedTuple):
    """A header: ``length`` counts samples (frames), ``parts`` are (name, length) of a recording in several parts.

    The others have one entry a lead. What a line leaves out is None, or what the format's description says.
    """

    fs: float
    length: int | None
    n_leads: int
    parts: tuple[tuple[str, int], ...] | None
    files: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    per_frame: tuple[int, ...] = ()
    skews: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()
    gains: tuple[float | None, ...] = ()
    baselines: tuple[int, ...] = ()
    units: tuple[str, ...] = ()
    checksums: tuple[int | None, ...] = ()
    leads: tuple[str, ...] = ()


def parse(content: bytes) -> Header:
    """Parse a header file.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        With a message for the reader of an error: what does not fit, and where.
    """
    if not content.isascii():
        content = _MICRO.sub(b"u", content.removeprefix(codecs.BOM_UTF8))
        for line in content.splitlines():
            if not line.isascii() and not line.lstrip().startswith(b"#"):
                raise ValueError(f"the header has letters that are not ASCII: {_shown(line.decode('latin-1'))}")
    lines = [line for line in map(str.strip, content.decode("ascii", "ignore").splitlines()) if line and line[0] != "#"]
    if not lines:
        raise ValueError("the header is empty")
    match = _RECORD.fullmatch(lines[0]) if len(lines[0]) <= MAX_LINE else None
    if match is None:
        raise ValueError(f"the first line of the header cannot be read: {_shown(lines[0])}")
    fs = 250.0 if match["fs"] is None else float(match["fs"])
    fs = float(int(fs)) if round(fs, 8) == int(fs) else fs
    length = None if match["length"] is None else int(match["length"])
    n_leads, n_parts = int(match["leads"]), match["parts"]
    if n_leads > MAX_LEADS:
        raise ValueError(f"the header announces {n_leads:,} leads")
    n_lines, what = (n_leads, "leads") if n_parts is None else (int(n_parts), "parts")
    if len(lines) - 1 != n_lines:
        raise ValueError(f"the header announces {n_lines} {what} and describes {len(lines) - 1}")
    if n_parts is not None:
        return Header(fs, length, n_leads, tuple((name, int(n)) for name, n in _rows(_PART, lines)))
    if n_leads == 0:
        return Header(fs, length, 0, None)
    files, formats, per_frame, skews, offsets, gains, baselines, units, zeros, checksums, leads = zip(
        *_rows(_SIGNAL, lines), strict=True
    )
    return Header(
        fs,
        length,
        n_leads,
        None,
        files,
        formats,
        _whole(per_frame, 1),
        _whole(skews, 0),
        _whole(offsets, 0),
        tuple([gain and float(gain) for gain in gains]),
        tuple([int(baseline or zero or 0) for baseline, zero in zip(baselines, zeros, strict=True)]),
        tuple([unit or "mV" for unit in units]),
        tuple([checksum and int(checksum) for checksum in checksums]),
        tuple([lead or f"signal {i}" for i, lead in enumerate(leads)]),
    )


def _whole(column: tuple[str, ...], default: int) -> tuple[int, ...]:
    if set(column) == {None}:
        return (default,) * len(column)
    return tuple([default if text is None else int(text) for text in column])


def _rows(pattern: re.Pattern[str], lines: list[str]) -> list[tuple[str, ...]]:
    """Fields of all lines but the first."""
    rows = []
    for line in lines[1:]:
        match = pattern.fullmatch(line) if len(line) <= MAX_LINE else None
        if match is None:
            file = line.split(maxsplit=1)[0]
            if "/" in file or "\\" in file:
                raise ValueError(f"the header names a file in another folder: {_shown(file)}")
            raise ValueError(f"a line of the header cannot be read: {_shown(line)}")
        rows.append(match.groups())
    return rows


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 50 else text[:50] + "...")


def require_samples(folder: str, header: Header) -> None:
    """Refuse a header that asks for more than its signal files hold, before memory is taken for it.

    Raises
    ------
    ValueError, OSError
    """
    for file in dict.fromkeys(header.files):
        at = [i for i, name in enumerate(header.files) if name == file]
        kind, offset = header.formats[at[0]], header.offsets[at[0]]
        if any(header.formats[i] != kind or header.offsets[i] != offset for i in at):
            raise ValueError(f"leads of {file} have several formats or offsets")
        status = os.stat(os.path.join(folder, file))
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{file} is no file")
        if kind in _FLAC:
            held, needed = _flac_frames(os.path.join(folder, file)), (header.length or 0) * header.per_frame[at[0]]
        elif kind in _BYTES_PER_SAMPLE:
            frame = sum(header.per_frame[i] for i in at) * _BYTES_PER_SAMPLE[kind]
            held, needed = status.st_size, offset + int((header.length or 1) * frame)
        else:
            raise ValueError(f"format {kind} is not known")
        if held < needed:
            what = "samples" if kind in _FLAC else "bytes"
            raise ValueError(f"{file} is truncated: it holds {held:,} {what} and should hold {needed:,}")


def _flac_frames(file: str) -> int:
    import soundfile

    try:
        return int(soundfile.info(file).frames)
    except RuntimeError as error:
        raise ValueError(f"{os.path.basename(file)} is no FLAC file") from error


def read_16(folder: str, header: Header) -> np.ndarray:
    """Steps of shape (leads, samples) of a file in format 16 that holds all leads.

    Raises
    ------
    ValueError, OSError
    """
    file, offset, n = header.files[0], header.offsets[0], cast(int, header.length)
    steps = np.empty((n, header.n_leads), "<i2")
    with open(os.path.join(folder, file), "rb") as stream:
        stream.seek(offset)
        n_bytes = stream.readinto(steps.data)
    if n_bytes != steps.nbytes:
        raise ValueError(f"{file} became shorter while it was read")
    return np.ascontiguousarray(steps.T)


def read_by_wfdb(path: str, gain: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Signal in mV, float64, of shape (leads, samples), NaN where samples are missing, and checksums, by ``wfdb``.

    Raises
    ------
    ValueError
    """
    import wfdb

    try:
        raw = wfdb.rdrecord(os.path.abspath(path), physical=False, smooth_frames=False)
        sums = raw.calc_checksum(expanded=True)
        raw.d_signal = raw.smooth_frames("digital")  # leads of several rates are brought to the lowest
        raw.adc_gain, raw.baseline = gain.tolist(), baseline.tolist()
        with np.errstate(all="ignore"):
            return raw.dac().T, sums
    except Exception as error:  # neither wfdb nor the packages under it have an error class for damaged files
        raise ValueError(f"wfdb cannot read it ({type(error).__name__}: {error})") from error
