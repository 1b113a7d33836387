"""Damaged recordings: each kind as the table in the book says, and thousands of random ones.

``python tests/test_faults.py`` writes the table again.
"""

import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import wfdb

from ecgmoe.records import LEADS, PER_MV, RecordError, read_record, read_standard, write_record

PAGE = Path(__file__).resolve().parents[1] / "book" / "faults.md"
SIGNAL = np.random.default_rng(0).normal(0, 0.5, (12, 1000)).round(3)


class Fault(NamedTuple):
    """A kind of damage: what it is called, what does it, and what becomes of the recording.

    ``reading`` is None where it is left out, else what is read.
    """

    words: str
    damage: Callable[[Path], None]
    reading: str | None = None


FAULTS: list[Fault] = []


def fault(words: str, reading: str | None = None) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Add a kind of damage, a function of the path of the recording without extension."""

    def add(damage: Callable[[Path], None]) -> Callable[[Path], None]:
        FAULTS.append(Fault(words, damage, reading))
        return damage

    return add


SAME = "read, with the numbers that `wfdb` gives"


def header(path: Path, old: str, new: str, count: int = -1) -> None:
    """Change the text of a header."""
    file = path.with_suffix(".hea")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


def header_line(path: Path, number: int, change: Callable[[list[str]], list[str]]) -> None:
    """Change the words of a line of a header."""
    file = path.with_suffix(".hea")
    lines = file.read_text().splitlines()
    lines[number] = " ".join(change(lines[number].split()))
    file.write_text("\n".join(lines) + "\n")


def content(path: Path, change: Callable[[bytes], bytes], suffix: str = ".dat") -> None:
    """Change the bytes of a file."""
    file = path.with_name(path.name + suffix)
    file.write_bytes(change(file.read_bytes()))


def write_format(path: Path, fmt: str, steps: np.ndarray, leads: Sequence[str] = LEADS, **fields: object) -> None:
    """Write steps of shape (leads, samples) in any format, 200 steps per mV; wfdb does not write 212."""
    n = len(steps)
    fields = {"fs": 100, "adc_gain": [200.0] * n, "baseline": [0] * n, **fields}
    wfdb.wrsamp(
        path.name,
        units=["mV"] * n,
        sig_name=list(leads),
        d_signal=steps.T.astype(np.int64),
        fmt=["16" if fmt == "212" else fmt] * n,
        write_dir=str(path.parent),
        **fields,
    )
    if fmt == "212":
        one, other = (steps.T.reshape(-1, 2) % 4096).T
        packed = np.stack([one % 256, one // 256 + other // 256 * 16, other % 256], axis=1)
        path.with_suffix(".dat").write_bytes(packed.astype(np.uint8).tobytes())
        header(path, ".dat 16 ", ".dat 212 ")


def rewrite(path: Path, fmt: str) -> None:
    """Write the recording anew in another format."""
    path.with_suffix(".dat").unlink()
    write_format(path, fmt, np.rint(SIGNAL * 200).astype(int))


def in_parts(path: Path, parts: str = "{0}a 400\n{0}b 600\n") -> None:
    """Write the recording anew in two parts."""
    path.with_suffix(".dat").unlink()
    write_record(path.parent / f"{path.name}a", SIGNAL[:, :400], 100)
    write_record(path.parent / f"{path.name}b", SIGNAL[:, 400:], 100)
    lines = parts.format(path.name)
    path.with_suffix(".hea").write_text(f"{path.name}/{len(lines.splitlines())} 12 100 1000\n{lines}")


@fault("The header is missing")
def _(path: Path) -> None:
    path.with_suffix(".hea").unlink()


@fault("The header is empty")
def _(path: Path) -> None:
    path.with_suffix(".hea").write_text("")


@fault("The header is a folder")
def _(path: Path) -> None:
    path.with_suffix(".hea").unlink()
    path.with_suffix(".hea").mkdir()


@fault("The header is no text")
def _(path: Path) -> None:
    path.with_suffix(".hea").write_bytes(np.random.default_rng(0).bytes(300))


@fault("The header is an error page of a web server")
def _(path: Path) -> None:
    path.with_suffix(".hea").write_text("<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n")


@fault("The header is longer than a megabyte")
def _(path: Path) -> None:
    content(path, lambda text: text + b"# much ado\n" * 100_000, ".hea")


@fault("The header ends in the middle of a line")
def _(path: Path) -> None:
    content(path, lambda text: text[:300], ".hea")


@fault("The line of a lead is missing from the header")
def _(path: Path) -> None:
    content(path, lambda text: b"".join(line for line in text.splitlines(True) if not line.endswith(b" V3\n")), ".hea")


@fault("A line of the header is there twice")
def _(path: Path) -> None:
    content(path, lambda text: text + text.splitlines(True)[3], ".hea")


@fault("Fields of a header line are swapped")
def _(path: Path) -> None:
    header_line(path, 2, lambda words: [words[0], words[2], words[1], *words[3:]])


@fault("Text in the header where a number belongs")
def _(path: Path) -> None:
    header(path, "12 100 1000", "twelve 100 1000")


@fault("NUL bytes in the header")
def _(path: Path) -> None:
    content(path, lambda text: text[:40] + bytes(20) + text[60:], ".hea")


@fault("Letters with accents in the name of a lead")
def _(path: Path) -> None:
    content(path, lambda text: text.replace(b" V1\n", " dérivation V1\n".encode()), ".hea")


@fault("The header announces no leads")
def _(path: Path) -> None:
    path.with_suffix(".hea").write_text("r1 0 100 1000\n")


@fault("The header announces thousands of leads")
def _(path: Path) -> None:
    header(path, "12 100 1000", "99999 100 1000")


@fault("The header announces no samples")
def _(path: Path) -> None:
    header(path, "12 100 1000", "12 100 0")


@fault("The header announces more samples than there are")
def _(path: Path) -> None:
    header(path, "12 100 1000", "12 100 999999999999")


@fault("A sampling rate of zero")
def _(path: Path) -> None:
    header(path, "12 100 1000", "12 0 1000")


@fault("A lead without a gain, or with a gain of zero")
def _(path: Path) -> None:
    header(path, "1000.0(0)/mV", "0/mV", 1)


@fault("Lines of the header that end after the gain: leads have no names")
def _(path: Path) -> None:
    file = path.with_suffix(".hea")
    file.write_text(re.sub(r"(/mV) .*", r"\1", file.read_text()))


@fault("A unit that is no voltage")
def _(path: Path) -> None:
    header(path, "/mV", "/mmHg", 1)


@fault("Values that no body produces")
def _(path: Path) -> None:
    header(path, "1000.0(0)/mV", "1e-6(0)/mV")


@fault("The header names a file in another folder")
def _(path: Path) -> None:
    header(path, f"{path.name}.dat", f"../{path.name}.dat", 1)


@fault("A format that does not exist")
def _(path: Path) -> None:
    header(path, ".dat 16 ", ".dat 99 ")


@fault("Leads of one file in several formats")
def _(path: Path) -> None:
    header(path, ".dat 16 ", ".dat 212 ", 1)


@fault("Leads that are shifted against each other")
def _(path: Path) -> None:
    header(path, ".dat 16 ", ".dat 16:5 ", 1)


@fault("The signal file is missing")
def _(path: Path) -> None:
    path.with_suffix(".dat").unlink()


@fault("The signal file is a folder")
def _(path: Path) -> None:
    path.with_suffix(".dat").unlink()
    path.with_suffix(".dat").mkdir()


@fault("The signal file is empty")
def _(path: Path) -> None:
    content(path, lambda data: b"")


@fault("The signal file ends within a sample")
def _(path: Path) -> None:
    content(path, lambda data: data[:-5])


@fault("The signal file ends early")
def _(path: Path) -> None:
    content(path, lambda data: data[: len(data) // 2])


@fault("A bit of a sample has flipped")
def _(path: Path) -> None:
    content(path, lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:])


@fault("The signal file is that of another recording")
def _(path: Path) -> None:
    write_record(path.parent / "other", SIGNAL[:, ::-1] * 0.9, 100)
    shutil.move(path.parent / "other.dat", path.with_suffix(".dat"))


@fault("A checksum in the header is wrong")
def _(path: Path) -> None:
    header_line(path, 1, lambda words: [*words[:6], str(int(words[6]) + 1), *words[7:]])


@fault("A sample is marked as missing")
def _(path: Path) -> None:
    steps = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12)
    change = -(2**15) - int(steps[3, 1])
    steps[3, 1] = -(2**15)
    steps.tofile(path.with_suffix(".dat"))
    header_line(path, 2, lambda words: [*words[:6], str((int(words[6]) + change) % 2**16), *words[7:]])


@fault("A file of format 212 that ends early")
def _(path: Path) -> None:
    rewrite(path, "212")
    content(path, lambda data: data[:-100])


@fault("A sample of a file of format 212 has changed")
def _(path: Path) -> None:
    rewrite(path, "212")
    content(path, lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:])


@fault("A file of format 516 that is no FLAC")
def _(path: Path) -> None:
    rewrite(path, "516")
    content(path, lambda data: b"RIFF" + data[4:], "_1.dat")


@fault("A FLAC file that is damaged inside")
def _(path: Path) -> None:
    rewrite(path, "516")
    content(path, lambda data: data[:8000] + bytes(200) + data[8200:], "_1.dat")


@fault("A part of a recording in parts is missing")
def _(path: Path) -> None:
    in_parts(path)
    (path.parent / f"{path.name}b.hea").unlink()


@fault("A gap between the parts of a recording")
def _(path: Path) -> None:
    in_parts(path, "{0}a 400\n~ 600\n")


@fault("A recording that has itself as a part")
def _(path: Path) -> None:
    in_parts(path, "{0} 1000\n")


@fault("A standard lead is missing")
def _(path: Path) -> None:
    header(path, " V6\n", " V7\n")


@fault("A standard lead is there twice")
def _(path: Path) -> None:
    write_record(path, np.vstack([SIGNAL, SIGNAL[:1]]), 100, (*LEADS, "v6"))


@fault("A lead is constant: an electrode was off")
def _(path: Path) -> None:
    write_record(path, SIGNAL * (np.arange(12) != 4)[:, None], 100)


@fault("The recording is too short or too long")
def _(path: Path) -> None:
    write_record(path, SIGNAL[:, :900], 100)


@fault("Lines of the header end as on Windows", SAME)
def _(path: Path) -> None:
    content(path, lambda text: text.replace(b"\n", b"\r\n"), ".hea")


@fault("The header begins with a byte order mark", SAME)
def _(path: Path) -> None:
    content(path, lambda text: b"\xef\xbb\xbf" + text, ".hea")


@fault("Tabs, double spaces and empty lines in the header", SAME)
def _(path: Path) -> None:
    content(path, lambda text: text.replace(b" 16 ", b"\t16  ").replace(b"\n", b" \n\n"), ".hea")


@fault("Comments that are not ASCII", SAME)
def _(path: Path) -> None:
    content(path, lambda text: text + "# Müller, 54 \N{MALE SIGN}\n".encode() + b"# caf\xe9\n", ".hea")


@fault("The header does not say how many samples there are", SAME)
def _(path: Path) -> None:
    header(path, "12 100 1000", "12 100")


@fault("The signal file goes on after the samples that the header announces", SAME)
def _(path: Path) -> None:
    content(path, lambda data: data + b"left over" * 100)


@fault("Leads in another order, in capitals, or more than twelve", "read; leads are found by name")
def _(path: Path) -> None:
    write_record(path, np.vstack([SIGNAL[::-1], SIGNAL[:1]]), 100, (*(lead.upper() for lead in LEADS[::-1]), "vx"))


@fault("Another sampling rate than asked for", "read, and resampled without shift in time")
def _(path: Path) -> None:
    write_record(path, np.repeat(SIGNAL, 5, axis=1), 500)


@fault("Units of µV, V or MV instead of mV", "read, in mV")
def _(path: Path) -> None:
    content(path, lambda text: text.replace(b"1000.0(0)/mV", "1(0)/µV".encode()), ".hea")


@fault("A date or time that cannot be read", "read; nothing depends on it (format 16 only)")
def _(path: Path) -> None:
    header(path, "12 100 1000", "12 100 1000 25:61:61 99/99/1999")


def read_damaged(damage: Callable[[Path], None], folder: Path) -> np.ndarray | RecordError:
    """Damage a good recording and read it as data sets are read."""
    write_record(folder / "r1", SIGNAL, 100)
    damage(folder / "r1")
    try:
        return read_standard(folder / "r1", 100).signal
    except RecordError as error:
        return error


def table() -> str:
    """All kinds of damage as a table in Markdown, with what was seen."""
    lines = ["| What is wrong | What becomes of the recording | What to do |", "|---|---|---|"]
    for kind in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            found = read_damaged(kind.damage, Path(folder))
        reason = re.sub(r"(wfdb cannot read it \().*\)", r"\1...)", str(getattr(found, "reason", "")))
        outcome = f"left out: `{reason}`" if isinstance(found, RecordError) else kind.reading
        cure = found.cure if isinstance(found, RecordError) else "nothing"
        lines.append(f"| {kind.words} | {outcome} | {cure} |")
    return "\n".join(lines)


def test_the_page_shows_every_kind_with_what_the_reader_says() -> None:
    page = PAGE.read_text()
    shown = re.findall(r"^\|.*\|$", page, re.MULTILINE)
    assert shown == table().splitlines(), "run python tests/test_faults.py"
    assert len(FAULTS) == len({kind.words for kind in FAULTS}) > 25


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.words)
def test_damage_does_what_the_page_says(kind: Fault, tmp_path: Path) -> None:
    found = read_damaged(kind.damage, tmp_path)
    if kind.reading is None:
        assert isinstance(found, RecordError)
        assert found.record == "r1"
        assert found.reason
        assert found.cure
        assert str(tmp_path) not in str(found)
    else:
        assert isinstance(found, np.ndarray)
        assert found.shape == (12, 1000)
    if kind.reading == SAME:
        expected = wfdb.rdrecord(str(tmp_path / "r1")).p_signal.T.astype(np.float32)
        np.testing.assert_array_equal(found, expected)


def test_a_wrong_checksum_can_be_a_warning(tmp_path: Path) -> None:
    write_record(tmp_path / "r1", SIGNAL, 100)
    expected = read_record(tmp_path / "r1").signal
    header_line(tmp_path / "r1", 2, lambda words: [*words[:6], "7", *words[7:]])
    record = read_standard(tmp_path / "r1", 100, checksum="warn")
    assert record.warnings == ("lead II does not match the checksum in the header",)
    np.testing.assert_array_equal(record.signal, expected)


# Random damage


def write_formats(folder: Path) -> None:
    """Small recordings of every kind that damage can meet."""
    signal = SIGNAL[:, :40]
    write_record(folder / "plain", signal, 100, comments=["Age: 54", "Dx: 426783006"])
    steps = np.rint(signal * 200).astype("<i2")
    # As MATLAB files of challenges: the samples begin after a header of 24 bytes; a baseline; date and time.
    (folder / "offset.mat").write_bytes(b"MATLAB header, 24 bytes." + (steps + 7).T.tobytes())
    sums = [int(row.sum()) % 2**16 - 2**16 for row in (steps + 7).astype(int)]
    lines = [f"offset.mat 16+24 200(7)/mV 16 0 0 {total} 0 {lead}" for total, lead in zip(sums, LEADS, strict=True)]
    (folder / "offset.hea").write_text("\n".join(["offset 12 500 40 11:05:00 05/02/2020", *lines]) + "\n")
    few, fields = np.clip(steps[:2], -100, 100), {"fs": 360, "adc_gain": [200.0, 204.8], "baseline": [0, -5]}
    for fmt in ("212", "80", "24", "516"):
        write_format(folder / f"f{fmt}", fmt, few, ("MLII", "V1"), comments=["69 M"], **fields)
    rates = ["rates 2 100 10", "rates.dat 16x3 1000(0)/mV 16 0 0 570 0 I", "rates.dat 16 1000(0)/mV 16 0 3 210 0 II"]
    (folder / "rates.hea").write_text("\n".join(rates) + "\n")
    np.arange(40, dtype="<i2").tofile(folder / "rates.dat")
    files = ["files 2 100 40", "files_a.dat 16 200/mV 12 0 0 780 0 I", "files_b.dat 80 200/mV 8 0 0 0 0 II"]
    (folder / "files.hea").write_text("\n".join(files) + "\n")
    np.arange(40, dtype="<i2").tofile(folder / "files_a.dat")
    (folder / "files_b.dat").write_bytes(bytes([128]) * 40)
    in_two = folder / "parts"
    write_record(folder / "parts_a", signal[:, :15], 100)
    write_record(folder / "parts_b", signal[:, 15:], 100)
    in_two.with_suffix(".hea").write_text("parts/2 12 100 40\nparts_a 15\nparts_b 25\n")


RECORDS = ("plain", "plain", "plain", "offset", "f212", "f80", "f24", "f516", "rates", "files", "parts")
NUMBERS = (
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "3",
    "11",
    "13",
    "16",
    "212",
    "1e3",
    "nan",
    "inf",
    "1e308",
    "0x10",
    "1_0",
    ".5",
    "5.",
)
NUMBERS += (
    "65536",
    "-32768",
    "2147483648",
    "9" * 12,
    "9" * 25,
    "9" * 400,
    "12.5",
    "+24",
    "1/2",
    "10:5",
    "16x2",
    "\u0663",
)
NAMES = (
    "../plain.dat",
    "/etc/passwd",
    "~",
    ".",
    "..",
    "-",
    "plain.dat",
    "f212.dat",
    "plain",
    "C:\\x.dat",
    "*",
    "a b.dat",
)
PIECES = (b"\0", b"\xff", b"\xc2\xb5V", "µ".encode(), b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b"\x0c", b"\x1c", b"\x85")
PIECES += (
    b" ",
    b"\t",
    b"#",
    b"/",
    b"(",
    b")",
    b"+8",
    b":3",
    b"x2",
    b"-",
    b".",
    b"e5",
    b"\\",
    b"~",
    b"/uV",
    b"/V",
    b"(5)",
)


def mutate_text(text: bytes, rng: np.random.Generator) -> bytes:
    """One random change of a header."""
    lines = text.split(b"\n")
    at, line = int(rng.integers(len(text) + 1)), int(rng.integers(len(lines)))
    words = lines[line].split(b" ")
    word = int(rng.integers(len(words)))

    def with_line(*new: bytes) -> bytes:
        return b"\n".join([*lines[:line], *new, *lines[line + 1 :]])

    def with_word(*new: bytes) -> bytes:
        return with_line(b" ".join([*words[:word], *new, *words[word + 1 :]]))

    def digits(match: re.Match[bytes]) -> bytes:
        return str(rng.choice(NUMBERS)).encode()

    match rng.integers(20):
        case 0:
            return text[:at] + bytes([rng.integers(256)]) + text[at + 1 :]
        case 1:
            return text[:at] + bytes([text[at] ^ 1 << rng.integers(8)]) + text[at + 1 :] if at < len(text) else b""
        case 2:
            return text[:at] + bytes([rng.integers(256)]) + text[at:]
        case 3:
            return text[:at] + text[at + int(rng.integers(1, 30)) :]
        case 4:
            return text[:at]
        case 5:
            return with_line(lines[line], lines[line])
        case 6:
            return with_line()
        case 7:
            other = int(rng.integers(len(lines)))
            lines[line], lines[other] = lines[other], lines[line]
            return b"\n".join(lines)
        case 8:
            other = int(rng.integers(len(words)))
            words[word], words[other] = words[other], words[word]
            return with_line(b" ".join(words))
        case 9:
            return with_word()
        case 10:
            return with_word(words[word], words[word])
        case 11 | 12 | 13:
            return with_word(re.sub(rb"-?\d+(\.\d+)?", digits, words[word], count=1))
        case 14:
            return with_line(re.sub(rb"^\S+", lambda _: str(rng.choice(NAMES)).encode(), lines[line]))
        case 15 | 16:
            return text[:at] + PIECES[rng.integers(len(PIECES))] + text[at:]
        case 17:
            return text.replace(b"\n", [b"\r\n", b"\r", b"\n\n", b" \n"][rng.integers(4)])
        case 18:
            return text + text[at:]
        case _:
            return text.swapcase()


def mutate_data(data: bytes, rng: np.random.Generator) -> bytes:
    """One random change of a signal file."""
    if not data:
        return rng.bytes(50)
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 60))
    match rng.integers(9):
        case 0 | 1:
            return data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :]
        case 2:
            return data[:at] + rng.bytes(n) + data[at + n :]
        case 3:
            return data[:at]
        case 4:
            return data + rng.bytes(n)
        case 5:
            return data[:at] + data[at + n :]
        case 6:
            return data[:at] + data[at : at + n] + data[at:]
        case 7:
            return data[:at] + bytes(n) + data[at + n :]
        case _:
            return data[:at] + b"\x00\x80" + data[at + 2 :]


def theirs(path: Path) -> wfdb.Record | Exception:
    """What wfdb gives; it has no error class of its own."""
    try:
        return wfdb.rdrecord(str(path))
    except Exception as error:
        return error


def is_refused(path: Path) -> bool:
    try:
        read_record(path)
    except RecordError:
        return True
    return False


def difference(path: Path) -> str:
    """What our reader does other than raise its own error or give what wfdb gives; empty where it does not."""
    try:
        ours = read_record(path, checksum="warn")
    except RecordError:
        return ""
    if ours.warnings and not is_refused(path):
        return "read with a wrong checksum"
    raw = theirs(path)
    file = path.with_suffix(".hea")
    text = file.read_bytes()
    if isinstance(raw, Exception) and ours.files[1].startswith(("plain", "offset")):
        # Date and time stop wfdb, and not us.
        clean = text.decode("ascii", "ignore")
        first = next(line for line in clean.splitlines() if line.strip() and not line.strip().startswith("#"))
        file.write_text(clean.replace(first, " ".join(first.split()[:4]), 1))
        raw = theirs(path)
        file.write_bytes(text)
    if isinstance(raw, Exception):
        return f"wfdb fails: {raw!r}"
    if not np.isfinite(ours.signal).all():
        return "not finite"
    names = tuple(name or f"signal {i}" for i, name in enumerate(raw.sig_name))
    if (ours.fs, ours.leads) != (raw.fs, names):
        return f"{ours.fs, ours.leads} instead of {raw.fs, names}"
    units = ["uV" if unit == "V" and not text.isascii() else unit for unit in raw.units]  # wfdb drops the letter µ
    expected = raw.p_signal.T.astype(np.float32)
    if {unit.lower() for unit in units} == {"mv"}:
        equal = np.array_equal(ours.signal, expected)
    else:
        scale = [[1 / PER_MV[unit.lower()]] for unit in units]
        equal = np.allclose(ours.signal, raw.p_signal.T * scale, rtol=1e-6, atol=0)
    return "" if equal else "other samples"


def fuzz(folder: Path, n: int, seed: int) -> Iterator[str]:
    """Damage recordings in random ways; yields what went wrong, with all that is needed to see it again."""
    write_formats(folder)
    original = {file.name: file.read_bytes() for file in folder.iterdir()}
    rng = np.random.default_rng(seed)
    for i in range(n):
        record = str(rng.choice(RECORDS))
        data = [name for name in original if name.startswith(record) and not name.endswith(".hea")]
        changed = {f"{record}.hea"} if rng.random() < 0.7 else {str(rng.choice(data))}
        if record == "parts" and rng.random() < 0.5:
            changed.add(str(rng.choice(["parts_a.hea", "parts_b.hea"])))
        if rng.random() < 0.1:
            changed.add(str(rng.choice(data)))
        for name in sorted(changed):
            content = original[name]
            for _ in range(rng.integers(1, 4) if rng.random() < 0.3 else 1):
                content = (mutate_text if name.endswith(".hea") else mutate_data)(content, rng)
            (folder / name).write_bytes(content)
        try:
            fault = difference(folder / record)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        if fault:
            yield f"{i} {record}: {fault}; " + str({name: (folder / name).read_bytes() for name in changed})
        for name in changed:
            (folder / name).write_bytes(original[name])


def test_random_damage_gives_our_error_or_what_wfdb_gives(tmp_path: Path) -> None:
    assert list(fuzz(tmp_path, 1000, seed=0)) == []


@pytest.mark.slow
def test_much_random_damage_gives_our_error_or_what_wfdb_gives_in_little_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert list(fuzz(tmp_path, 30_000, seed=1)) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


if __name__ == "__main__":
    text = re.sub(r"^\|.*\|$\n?", "", PAGE.read_text(), flags=re.MULTILINE).rstrip()
    partial = PAGE.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(f"{text}\n\n{table()}\n")
    partial.replace(PAGE)
    sys.exit()
