"""Reading, checking and writing one recording."""

import os
import re
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgmoe import _wfdb_files
from ecgmoe.records import (
    LEADS,
    Record,
    RecordError,
    from_steps,
    read_record,
    read_standard,
    safe_name,
    standard_leads,
    to_steps,
    write_record,
)

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(0, 0.5, (12, 200)).round(3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_record(tmp_path / "r1", SIGNAL, 100)
    return tmp_path / "r1"


def change_header(path: Path, old: str, new: str) -> None:
    header = path.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new))


def test_written_is_read_back_in_mv(path: Path) -> None:
    record = read_record(path)
    assert (record.fs, record.leads, record.name) == (100.0, LEADS, "r1")
    assert record.signal.dtype == np.float32
    np.testing.assert_allclose(record.signal, SIGNAL, atol=1e-6)


def test_wfdb_reads_the_same_with_right_checksums(path: Path) -> None:
    raw = wfdb.rdrecord(str(path), physical=False)
    assert raw.calc_checksum() == raw.checksum
    assert raw.init_value == raw.d_signal[0].tolist()
    expected = wfdb.rdrecord(str(path)).p_signal.T.astype(np.float32)
    np.testing.assert_array_equal(read_record(path).signal, expected)


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_extension_may_be_given(path: Path, suffix: str) -> None:
    assert read_record(f"{path}{suffix}").name == "r1"


def test_gain_and_baseline_of_the_header_are_used(path: Path) -> None:
    change_header(path, "1000.0(0)/mV", "500.0(100)/mV")
    np.testing.assert_allclose(read_record(path).signal, (SIGNAL * 1000 - 100) / 500, atol=1e-5)


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e-3), ("V", 1e3), ("mv", 1.0)])
def test_other_voltages_become_mv(path: Path, unit: str, factor: float) -> None:
    change_header(path, "/mV", f"/{unit}")
    np.testing.assert_allclose(read_record(path).signal, SIGNAL * factor, rtol=1e-5, atol=1e-9)


def damage_units(path: Path) -> None:
    change_header(path, "/mV", "/mmHg")


def exaggerate_gain(path: Path) -> None:
    change_header(path, "1000.0(0)", "1e308(0)")


def damage_header(path: Path) -> None:
    path.with_suffix(".hea").write_bytes(b"\xff\xfe r1 twelve leads")


def empty_header(path: Path) -> None:
    path.with_suffix(".hea").write_text("")


def lose_header(path: Path) -> None:
    path.with_suffix(".hea").unlink()


def lose_samples(path: Path) -> None:
    path.with_suffix(".dat").unlink()


def truncate_within_a_frame(path: Path) -> None:
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes()[:-5])


def truncate_by_a_frame(path: Path) -> None:
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes()[:-24])


def empty_samples(path: Path) -> None:
    path.with_suffix(".dat").write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.with_suffix(".dat").read_bytes())
    content[40] ^= 1
    path.with_suffix(".dat").write_bytes(content)


def miss_a_sample(path: Path) -> None:
    samples = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12)
    change = -(2**15) - int(samples[3, 1])
    samples[3, 1] = -(2**15)
    samples.tofile(path.with_suffix(".dat"))
    old = wfdb.rdheader(str(path)).checksum[1]
    change_header(path, f" {old} 0 II\n", f" {(old + change) % 2**16} 0 II\n")


def announce_too_much(path: Path) -> None:
    change_header(path, "12 100 200", "12 100 999999999999")


def announce_no_leads(path: Path) -> None:
    change_header(path, "12 100 200", "0 100 200")


def stop_the_clock(path: Path) -> None:
    change_header(path, "12 100 200", "12 0 200")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_units, "unit mmHg"),
        (exaggerate_gain, "a gain of 1e+308 steps per mV"),
        (damage_header, "not ASCII"),
        (empty_header, "the header is empty"),
        (lose_header, "no header file r1.hea"),
        (lose_samples, "no signal file r1.dat"),
        (truncate_within_a_frame, "truncated: it holds 4,795 bytes and should hold 4,800"),
        (truncate_by_a_frame, "truncated"),
        (empty_samples, "truncated"),
        (flip_a_bit, "checksum"),
        (miss_a_sample, "missing samples (NaN) in lead II"),
        (announce_too_much, "truncated"),
        (announce_no_leads, "announces 0 leads and describes 12"),
        (stop_the_clock, "0 Hz"),
    ],
)
def test_damage_is_named_with_record_reason_and_cure(path: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(path)
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert caught.value.record == "r1"
    assert reason in caught.value.reason
    assert caught.value.cure
    assert str(caught.value).startswith("r1: ")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 450), byte=st.integers(0, 255))
def test_changed_header_gives_an_error_or_what_wfdb_gives(path: Path, place: int, byte: int) -> None:
    original = path.with_suffix(".hea").read_bytes()
    changed = bytearray(original)
    changed[place] = byte
    path.with_suffix(".hea").write_bytes(changed)
    try:
        record = read_record(path)
    except RecordError as error:
        assert error.record == "r1"
    else:
        raw = wfdb.rdrecord(str(path))
        if set(raw.units) == {"mV"}:
            np.testing.assert_array_equal(record.signal, raw.p_signal.T.astype(np.float32))
    finally:
        path.with_suffix(".hea").write_bytes(original)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.ascontiguousarray(found).view(np.int32), expected.view(np.int32))


def theirs(path: Path) -> np.ndarray:
    return np.ascontiguousarray(wfdb.rdrecord(str(path)).p_signal.T.astype(np.float32))


def write_16(path: Path, steps: np.ndarray, gains: list[str], baselines: list[int | None], offset: int = 0) -> None:
    """Write int16 steps of shape (leads, samples) with any gain and baseline."""
    path.with_suffix(".dat").write_bytes(bytes(offset) + steps.T.astype("<i2").tobytes())
    lines = [f"{path.name} {len(steps)} 250 {steps.shape[1]}"]
    for row, gain, baseline in zip(steps.astype(int), gains, baselines, strict=True):
        scale = gain if baseline is None else f"{gain}({baseline})"
        form = f"16+{offset}" if offset else "16"
        lines.append(f"{path.name}.dat {form} {scale}/mV 16 3 {row[0]} {row.sum() % 2**16} 0 I")
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


GAINS = st.sampled_from(["1000", "1000.0", "200", "204.8", "-200", "1e3", "2.5e+2", ".5", "3.", "12345.678", "0.7"])
BASELINES = st.one_of(st.none(), st.integers(-2000, 2000), st.integers(-(2**17), 2**17))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), n_leads=st.integers(1, 14), n=st.integers(1, 30), offset=st.sampled_from([0, 24]))
def test_format_16_gives_the_bits_that_wfdb_gives(data: st.DataObject, n_leads: int, n: int, offset: int) -> None:
    gains = data.draw(st.lists(GAINS, min_size=n_leads, max_size=n_leads))
    baselines = data.draw(st.lists(BASELINES, min_size=n_leads, max_size=n_leads))
    steps = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-(2**15) + 1, 2**15, (n_leads, n))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r"
        write_16(path, steps, gains, baselines, offset)
        record = read_record(path)
        assert_same_bits(record.signal, theirs(path))
        np.testing.assert_array_equal(record.gain, [float(gain) for gain in gains])
        np.testing.assert_array_equal(record.baseline, [3 if b is None else b for b in baselines])
        np.testing.assert_array_equal(to_steps(record), steps)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_record(tmp_path / "r", SIGNAL[:, :12], 100)
    file = tmp_path / "r.dat"
    original = file.read_bytes()
    for bit in range(8 * len(original)):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(RecordError, match="does not match the checksum"):
            read_record(tmp_path / "r")


def test_files_are_named_with_the_header_first(tmp_path: Path) -> None:
    write_parts(tmp_path, "parts_a 150\nparts_b 50\n")
    files = read_record(tmp_path / "parts").files
    assert files == ("parts.hea", "parts_a.hea", "parts_a.dat", "parts_b.hea", "parts_b.dat")
    assert all((tmp_path / file).is_file() for file in files)


def test_a_path_may_be_relative_and_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    np.testing.assert_array_equal(read_record("r1").signal, read_record(path).signal)


@pytest.mark.parametrize("path", ["", "nowhere/r1", "a\0b", "x" * 5000])
def test_an_impossible_path_is_an_error_of_ours(path: str) -> None:
    with pytest.raises(RecordError):
        read_record(path)


def test_micro_volts_in_any_encoding_are_micro_volts(path: Path) -> None:
    """wfdb drops the letter that is not ASCII, and takes volts."""
    file = path.with_suffix(".hea")
    plain, expected = file.read_bytes(), read_record(path).signal / 1000
    for micro in (b"u", "\N{MICRO SIGN}".encode(), "\N{GREEK SMALL LETTER MU}".encode(), b"\xb5"):
        file.write_bytes(plain.replace(b"/mV", b"/" + micro + b"V"))
        np.testing.assert_allclose(read_record(path).signal, expected, rtol=1e-6)


def write_other(path: Path, fmt: str, n_leads: int = 2, gain: float = 200.0, scale: float = 50.0) -> None:
    wfdb.wrsamp(
        path.name,
        fs=100,
        units=["mV"] * n_leads,
        sig_name=list(LEADS[:n_leads]),
        d_signal=np.clip(np.rint(SIGNAL[:n_leads].T * scale), -2.5 * scale, 2.5 * scale).astype(np.int64),
        fmt=[fmt] * n_leads,
        adc_gain=[gain] * n_leads,
        baseline=[0] * n_leads,
        write_dir=str(path.parent),
    )


@pytest.mark.parametrize("fmt", ["80", "24", "32", "508", "516", "524"])
def test_other_formats_are_read_as_by_wfdb_and_verified(tmp_path: Path, fmt: str) -> None:
    write_other(tmp_path / "r", fmt)
    record = read_record(tmp_path / "r")
    assert_same_bits(record.signal, theirs(tmp_path / "r"))
    assert_same_bits(from_steps(to_steps(record), record.gain, record.baseline), record.signal)
    change_header(tmp_path / "r", " 0 II", "9 0 II")
    with pytest.raises(RecordError, match="lead II does not match the checksum"):
        read_record(tmp_path / "r")


@pytest.mark.parametrize("fmt", ["16", "212", "80", "516", "8"])
def test_a_header_that_asks_for_gigabytes_costs_none(tmp_path: Path, fmt: str) -> None:
    write_other(tmp_path / "r", fmt if fmt in ("16", "80", "516") else "16")
    change_header(tmp_path / "r", f".dat {fmt if fmt in ('80', '516') else 16} ", f".dat {fmt} ")
    change_header(tmp_path / "r", "2 100 200", "2 100 2000000000")
    tracemalloc.start()
    with pytest.raises(RecordError, match="is truncated"):
        read_record(tmp_path / "r")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_leads_of_several_rates_are_read_as_by_wfdb_and_verified(tmp_path: Path) -> None:
    np.arange(40, dtype="<i2").tofile(tmp_path / "s.dat")
    lines = ["s 2 100 10", "s.dat 16x3 1000(0)/mV 16 0 0 570 0 I", "s.dat 16 1000(0)/mV 16 0 3 210 0 II"]
    (tmp_path / "s.hea").write_text("\n".join(lines) + "\n")
    assert_same_bits(read_record(tmp_path / "s").signal, theirs(tmp_path / "s"))
    change_header(tmp_path / "s", " 570 ", " 571 ")
    with pytest.raises(RecordError, match="lead I does not match the checksum"):
        read_record(tmp_path / "s")


def test_a_file_for_each_lead_is_read_as_by_wfdb(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (RNG.integers(-99, 99, 30)).astype("<i2").tofile(tmp_path / f"{name}.dat")
    (tmp_path / "s.hea").write_text("s 2 100 30\na.dat 16 200\nb.dat 16 100(4)\n")
    record = read_record(tmp_path / "s")
    assert (record.leads, record.files) == (("signal 0", "signal 1"), ("s.hea", "a.dat", "b.dat"))
    assert_same_bits(record.signal, theirs(tmp_path / "s"))


def write_parts(folder: Path, lines: str, n: int = 200, order: slice = slice(None), gain: float = 1000.0) -> None:
    write_record(folder / "parts_a", SIGNAL[:, :150], 100)
    write_record(folder / "parts_b", SIGNAL[order, 150:], 100, LEADS[order], gain=gain)
    (folder / "parts.hea").write_text(f"parts/{len(lines.splitlines())} 12 100 {n}\n{lines}")


def write_layout(folder: Path, leads: tuple[str, ...] = LEADS) -> None:
    lines = [f"parts_layout {len(leads)} 100 0", *(f"~ 0 1000/mV 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / "parts_layout.hea").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("gain", [1000.0, 500.0])
def test_a_recording_in_parts_is_read_as_by_wfdb(tmp_path: Path, gain: float) -> None:
    write_parts(tmp_path, "parts_a 150\nparts_b 50\n", gain=gain)
    assert_same_bits(read_record(tmp_path / "parts").signal, theirs(tmp_path / "parts"))
    standard = read_standard(tmp_path / "parts", 100, 2)
    assert_same_bits(from_steps(to_steps(standard), standard.gain, standard.baseline), standard.signal)


def test_parts_with_a_layout_may_hold_leads_in_any_order(tmp_path: Path) -> None:
    write_parts(tmp_path, "parts_layout 0\nparts_a 150\nparts_b 50\n", order=slice(None, None, -1))
    write_layout(tmp_path)
    record = read_record(tmp_path / "parts")
    assert record.leads == LEADS
    assert_same_bits(record.signal, theirs(tmp_path / "parts"))
    np.testing.assert_allclose(record.signal, SIGNAL, atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "n", "order", "reason"),
    [
        ("parts_a 150\nparts_b 50\n", 201, slice(None), "do not add up"),
        ("parts_a 150\nparts_a 150\n", 300, slice(None), "do not add up"),
        ("parts_a 140\nparts_b 60\n", 200, slice(None), "another length or rate"),
        ("parts_a 150\n~ 50\n", 200, slice(None), "a gap between the parts"),
        ("parts_a 150\nparts_b 50\n", 200, slice(None, None, -1), "not all leads are in all parts"),
        ("parts_layout 0\nparts_a 150\nparts_b 50\n", 200, slice(0, 11), "not all leads are in all parts"),
        ("parts_a 150\nparts 50\n", 200, slice(None), "made of parts itself"),
        ("", 200, slice(None), "no samples"),
        ("\n\n", 200, slice(None), "announces 2 parts and describes 0"),
        ("parts_a 150\n../parts_b 50\n", 200, slice(None), "in another folder"),
        ("parts_a 150\nparts_c 50\n", 200, slice(None), "no header file parts_c.hea"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, lines: str, n: int, order: slice, reason: str) -> None:
    write_parts(tmp_path, lines, n, order)
    write_layout(tmp_path)
    with pytest.raises(RecordError, match=reason):
        read_record(tmp_path / "parts")


def test_parts_with_other_leads_than_announced_are_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, "parts_layout 0\nparts_a 150\nparts_b 50\n")
    write_layout(tmp_path, LEADS[:11])
    with pytest.raises(RecordError, match="other leads than the header says"):
        read_record(tmp_path / "parts")


# The grammar of headers


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_a_header_or_a_value_error(content: bytes) -> None:
    try:
        _wfdb_files.parse(content)
    except ValueError as error:
        assert str(error)


def optional(*fields: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Any number of the first of some fields."""
    return st.tuples(st.integers(0, len(fields)), *fields).map(lambda drawn: "".join(drawn[1 : drawn[0] + 1]))


NUMBERS = st.sampled_from(["0", "7", "-12", "65535", "-32768"])
WHOLE = st.sampled_from(["0", "8", "16"])
SIGNAL_LINES = st.builds(
    "{} {}{}{}".format,
    st.sampled_from(["r.dat", "r-1_b.x", "abc", "r."]),
    st.sampled_from(["16", "212", "8", "516"]),
    st.sampled_from(["", "x2", ":3", "+24", "x4:0+7"]),
    optional(
        st.builds(" {}{}{}".format, GAINS, st.sampled_from(["", "(5)", "(-7)"]), st.sampled_from(["", "/mV", "/uV"])),
        st.builds("\t{}".format, WHOLE),
        st.builds("  {}".format, NUMBERS),
        st.builds(" {}".format, NUMBERS),
        st.builds(" {}".format, NUMBERS),
        st.builds(" {}".format, WHOLE),
        st.sampled_from([" I", " lead one", " V1\trest", " 5"]),
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    signals=st.lists(SIGNAL_LINES, min_size=1, max_size=4),
    rest=optional(
        st.sampled_from([" 360", " 257.5", " 100/50", " 250/1000(12.5)", " 99.999999999"]),
        st.sampled_from([" 1000", " 1"]),
        st.sampled_from([" 12:30:05", " 5"]),
        st.sampled_from([" 31/12/1999", " "]),
    ),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
)
def test_headers_are_understood_as_by_wfdb(signals: list[str], rest: str, end: str) -> None:
    lines = [f"r {len(signals)}{rest}", *signals, "# a comment"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "r.hea").write_bytes(end.join(lines).encode())
        expected = wfdb.rdheader(str(Path(folder, "r")))
        found = _wfdb_files.parse(Path(folder, "r.hea").read_bytes())
    assert (found.fs, found.length, found.n_leads) == (expected.fs, expected.sig_len, expected.n_sig)
    assert list(found.files) == expected.file_name
    assert list(found.formats) == expected.fmt
    assert list(found.per_frame) == expected.samps_per_frame
    assert list(found.skews) == [n or 0 for n in expected.skew]
    assert list(found.offsets) == [n or 0 for n in expected.byte_offset]
    assert [200.0 if gain is None else gain for gain in found.gains] == expected.adc_gain
    assert list(found.baselines) == expected.baseline
    assert list(found.units) == expected.units
    assert list(found.checksums) == expected.checksum
    assert list(found.leads) == [name or f"signal {i}" for i, name in enumerate(expected.sig_name)]


# Leads, steps, rates


def test_leads_are_ordered_by_name_whatever_the_case() -> None:
    order = RNG.permutation(12)
    mixed = Record(SIGNAL[order].astype(np.float32), 100.0, tuple(LEADS[i].upper() for i in order), "mixed")
    found = standard_leads(mixed)
    assert found.leads == LEADS
    np.testing.assert_array_equal(found.signal, SIGNAL.astype(np.float32))


def test_other_leads_are_dropped() -> None:
    more = Record(np.vstack([SIGNAL, SIGNAL[:1]]).astype(np.float32), 100.0, (*LEADS, "vx"), "fifteen")
    assert standard_leads(more).signal.shape == SIGNAL.shape


@pytest.mark.parametrize(
    ("leads", "reason"),
    [(LEADS[:-1], "V6 is missing"), ((*LEADS[:-1], "II"), "V6 is missing"), ((*LEADS, "ii"), "II is there more than")],
)
def test_wrong_leads_are_refused(leads: tuple[str, ...], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        standard_leads(Record(np.zeros((len(leads), 5), np.float32), 100.0, leads, "r"))


def test_gain_and_baseline_follow_their_leads() -> None:
    order = RNG.permutation(12)
    gain, baseline = np.arange(12.0)[order], np.arange(12)[order]
    mixed = Record(SIGNAL[order].astype(np.float32), 100.0, tuple(LEADS[i] for i in order), "mixed", gain, baseline)
    found = standard_leads(mixed)
    np.testing.assert_array_equal(found.gain, np.arange(12))
    np.testing.assert_array_equal(found.baseline, np.arange(12))


STEPS = st.integers(-(2**15) + 1, 2**15 - 1)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(STEPS, min_size=4, max_size=4),
    gain=st.floats(1e-3, 1e9),
    baseline=st.one_of(st.just(0), st.integers(-(2**20), 2**20)),
    exact=st.booleans(),
)
def test_steps_are_found_again_from_a_signal(steps: list[int], gain: float, baseline: int, exact: bool) -> None:
    steps_T = np.array(steps, np.int16)
    gain = float(np.float32(gain)) if exact else gain
    gains, baselines = np.array([gain, -gain]), np.array([baseline, 0])
    signal = from_steps(np.stack([steps_T, steps_T]), gains, baselines)
    wide = np.stack([(steps_T - float(baseline)) / gain, steps_T / -gain]).astype(np.float32)
    assert_same_bits(signal, wide)
    record = Record(signal, 100.0, ("a", "b"), "r", gains, baselines)
    np.testing.assert_array_equal(to_steps(record), [steps_T, steps_T])


def test_a_batch_is_decoded_into_a_buffer_as_record_by_record() -> None:
    steps = RNG.integers(-999, 999, (5, 3, 7)).astype(np.int16)
    gain, baseline = RNG.choice([1000.0, 204.8], (5, 3)), RNG.integers(-9, 9, (5, 3))
    out = np.empty(steps.shape, np.float32)
    assert from_steps(steps, gain, baseline, out=out) is out
    for i in range(5):
        assert_same_bits(out[i], from_steps(steps[i], gain[i], baseline[i]))


@pytest.mark.parametrize("change", [0.3, 40.0, np.nan])
def test_what_is_no_whole_number_of_steps_is_refused(path: Path, change: float) -> None:
    record = read_record(path)
    np.testing.assert_allclose(from_steps(to_steps(record), record.gain, record.baseline), SIGNAL, atol=1e-6)
    signal = record.signal.copy()
    signal[3, 5] += change / 1000 if change < 1 else change
    with pytest.raises(RecordError, match="no whole number of 16-bit steps"):
        to_steps(replace(record, signal=signal))
    with pytest.raises(RecordError, match="no whole number of 16-bit steps"):
        to_steps(Record(record.signal, 100.0, LEADS, "without gain"))


def tones(fs: int, *hz: float, seconds: float = 10.0) -> np.ndarray:
    """Twelve leads of the same tones, each of 1 mV."""
    t = np.arange(round(seconds * fs)) / fs
    return np.tile(sum(np.sin(2 * np.pi * f * t) for f in hz), (12, 1))


@pytest.mark.parametrize(("written", "wanted"), [(500, 100), (360, 100), (257, 500), (100, 500), (1000, 500)])
def test_resampling_keeps_a_tone_in_its_place(tmp_path: Path, written: int, wanted: int) -> None:
    write_record(tmp_path / "r", tones(written, 10), written)
    record = read_standard(tmp_path / "r", wanted)
    assert (record.fs, record.signal.shape) == (wanted, (12, 10 * wanted))
    inner = slice(wanted // 2, -wanted // 2)
    np.testing.assert_allclose(record.signal[:, inner], tones(wanted, 10)[:, inner], atol=6e-3)


def test_a_tone_above_half_the_new_rate_vanishes(tmp_path: Path) -> None:
    """At 100 Hz, 180 Hz would look like 20 Hz."""
    write_record(tmp_path / "low", tones(500, 10), 500)
    write_record(tmp_path / "both", tones(500, 10, 180), 500)
    low, both = (read_standard(tmp_path / name, 100).signal for name in ("low", "both"))
    assert np.abs(both - low)[:, 50:-50].max() < 2e-3


def test_resampling_keeps_a_slope_up_to_its_ends(tmp_path: Path) -> None:
    slope = np.linspace(-2, 2, 5000)
    write_record(tmp_path / "r", np.tile(slope, (12, 1)), 500)
    np.testing.assert_allclose(read_standard(tmp_path / "r", 100).signal, np.tile(slope[::5], (12, 1)), atol=2e-3)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 60.0, 5000.0])
def test_resampled_signals_are_whole_steps(tmp_path: Path, scale: float) -> None:
    write_record(tmp_path / "r", SIGNAL * scale, 100, gain=10_000 / scale)
    once, again = (read_standard(tmp_path / "r", 50, 2) for _ in range(2))
    assert_same_bits(once.signal, again.signal)
    assert_same_bits(from_steps(to_steps(once), once.gain, once.baseline), once.signal)
    peak = np.abs(once.signal).max(axis=1)
    assert ((peak * once.gain < 2**15) & ((once.gain == 1000) | (peak * once.gain * 2 > 2**15 - 2))).all()


def test_records_that_fit_are_not_rounded(tmp_path: Path) -> None:
    write_record(tmp_path / "r", SIGNAL, 100, gain=204.8)
    write_other(tmp_path / "other", "32", 12)
    for name, gain in (("r", 204.8), ("other", 200.0)):
        record = read_standard(tmp_path / name, 100, 2)
        assert_same_bits(record.signal, read_record(tmp_path / name).signal)
        assert set(record.gain) == {gain}


def test_what_16_bits_do_not_hold_is_rounded(tmp_path: Path) -> None:
    write_other(tmp_path / "r", "24", 12, gain=1e5, scale=1e5)
    record = read_standard(tmp_path / "r", 100, 2)
    assert set(record.gain) == {1000.0}
    np.testing.assert_allclose(record.signal, theirs(tmp_path / "r"), atol=5.1e-4)
    assert_same_bits(from_steps(to_steps(record), record.gain, record.baseline), record.signal)


def test_a_baseline_of_millions_is_taken_out(tmp_path: Path) -> None:
    steps = RNG.integers(-999, 999, (12, 20))
    write_16(tmp_path / "r", steps, ["1000"] * 12, [2**27] * 12)
    change = tmp_path / "r.hea"
    lines = change.read_text().splitlines()
    named = [f"{line[:-1]}{lead}" for line, lead in zip(lines[1:], LEADS, strict=True)]
    change.write_text("\n".join([lines[0].replace("250", "2"), *named]) + "\n")
    assert_same_bits(read_record(tmp_path / "r").signal, theirs(tmp_path / "r"))
    record = read_standard(tmp_path / "r", 2)
    assert_same_bits(from_steps(to_steps(record), record.gain, record.baseline), record.signal)


def flat(path: Path) -> None:
    write_record(path, SIGNAL * (np.arange(12) != 4)[:, None], 100)


def faint(path: Path) -> None:
    write_record(path, np.where(np.arange(12)[:, None] == 4, SIGNAL * 2e-4, SIGNAL), 100, gain=10_000)
    change_header(path, " 100 ", " 50 ")


def odd(path: Path) -> None:
    change_header(path, " 100 ", " 99.9 ")


@pytest.mark.parametrize(
    ("damage", "seconds", "fs", "reason"),
    [
        (flat, 2, 100, "lead aVL is constant"),
        (flat, 2, 50, "lead aVL is constant"),
        (faint, 4, 100, "lead aVL is constant"),
        (odd, 2, 100, "2.002 s long, not 2 s (200 samples at 99.9 Hz)"),
        (lose_samples, 2, 100, "no signal file r1.dat"),
        (str, 10, 100, "2 s long, not 10 s (200 samples at 100 Hz)"),
        (str, 2, 123.4567, "cannot be brought to 123.457 Hz"),
    ],
)
def test_what_cannot_be_used_is_refused_by_the_name_given(
    path: Path, damage: Callable[[Path], object], seconds: float, fs: float, reason: str
) -> None:
    damage(path)
    with pytest.raises(RecordError, match=re.escape(reason)) as caught:
        read_standard(path, fs, seconds, name="folder/r1")
    assert caught.value.record == "folder/r1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("records100/00000/00001_lr", "records100/00000/00001_lr"),
        ("./a/b.hea", "a/b"),
        ("a/b.dat", "a/b"),
        ("a//b/", "a/b"),
        ("a.b/c.d", "a.b/c.d"),
        *[
            (bad, None)
            for bad in ("", ".", "..", "../a", "a/../../b", "/etc/passwd", "a\\b", "C:/a", "a\0b", None, 1.5)
        ],
        (float("nan"), None),
    ],
)
def test_names_are_relative_to_the_folder_or_refused(name: object, expected: str | None) -> None:
    assert safe_name(name) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "/", "a", "\\", ":", "~", ".hea", "//", "\0", " "]), max_size=8).map("".join)
)
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    found = safe_name(name)
    if found is not None:
        assert os.path.normpath(os.path.join("/data/set", found)).startswith("/data/set/")
        assert safe_name(found) in (found, found.removesuffix(".hea"))


@pytest.mark.parametrize("bad", [np.full((12, 5), np.nan), np.full((12, 5), 40.0), np.zeros((12, 0)), np.zeros((3, 5))])
def test_what_does_not_fit_is_not_written(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(RecordError):
        write_record(tmp_path / "r", bad, 100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "a.b", "né"])
def test_a_name_that_wfdb_would_not_read_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="no name of a recording"):
        write_record(tmp_path / name, SIGNAL, 100)


def test_a_sampling_rate_keeps_its_digits(tmp_path: Path) -> None:
    write_record(tmp_path / "r", SIGNAL, 1000.125)
    assert read_record(tmp_path / "r").fs == 1000.125


def test_real_recordings_equal_wfdb(recordings: Path) -> None:
    some = sorted(recordings.glob("ptbxl/records100/*/*.hea"))[::200] + sorted(recordings.glob("ludb/data/*.hea"))[::15]
    some += sorted(recordings.glob("mitdb/*.hea"))[::4] + sorted(recordings.glob("cinc2021/**/*.hea"))[::20]
    assert len(some) > 20
    for header in some:
        expected = wfdb.rdrecord(str(header.with_suffix(""))).p_signal.T.astype(np.float32)
        np.testing.assert_array_equal(read_record(header).signal, expected)


@pytest.mark.parametrize("gain", ["", "0/mV", "0(0)/mV"])
def test_a_lead_without_a_gain_is_refused(path: Path, gain: str) -> None:
    """Where none is stated, wfdb takes 200 steps a mV: a wrong number for a file written with 1000."""
    header = path.with_suffix(".hea")
    lines = header.read_text().splitlines()
    words = lines[1].split()
    lines[1] = " ".join([*words[:2], gain, *words[3:]]) if gain else " ".join(words[:2])
    header.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match="no gain in the header"):
        read_record(path)


def test_a_notebook_shows_the_message_and_no_traceback() -> None:
    error = RecordError("00017_lr", "lead V2 is missing", "twelve standard leads are needed")
    assert error._render_traceback_() == [f"RecordError: {error}"]


@pytest.mark.slow
def test_all_real_recordings_equal_wfdb(recordings: Path) -> None:
    headers = sorted(recordings.glob("**/*.hea"))
    assert len(headers) > 2000
    for header in headers:
        path = header.with_suffix("")
        record = read_record(path)
        assert_same_bits(record.signal, theirs(path))
        assert_same_bits(from_steps(to_steps(record), record.gain, record.baseline), record.signal)


def test_choices_that_do_not_exist_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="pass 'error' or 'warn'"):
        read_record(path, checksum="warning")  # type: ignore[arg-type]
    for fs in (0, -100, float("nan")):
        with pytest.raises(ValueError, match="pass a sampling rate"):
            read_standard(path, fs)
