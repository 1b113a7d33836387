"""Reading, checking and writing one recording."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgmoe.records import LEADS, Record, RecordError, read_record, standard_leads, write_record

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
        (damage_header, "damaged or truncated"),
        (empty_header, "damaged or truncated"),
        (lose_header, "no header file r1.hea"),
        (lose_samples, "no signal file r1.dat"),
        (truncate_within_a_frame, "damaged or truncated"),
        (truncate_by_a_frame, "damaged or truncated"),
        (empty_samples, ""),
        (flip_a_bit, "checksum"),
        (miss_a_sample, "missing samples (NaN) in lead II"),
        (announce_too_much, "damaged or truncated"),
        (announce_no_leads, "no samples"),
        (stop_the_clock, ""),
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


def test_leads_of_several_rates_are_read_as_by_wfdb(tmp_path: Path) -> None:
    samples = np.arange(40, dtype="<i2")
    samples.tofile(tmp_path / "s.dat")
    lines = ["s 2 100 10", "s.dat 16x3 1000(0)/mV 16 0 0 570 0 I", "s.dat 16 1000(0)/mV 16 0 3 210 0 II"]
    (tmp_path / "s.hea").write_text("\n".join(lines) + "\n")
    expected = wfdb.rdrecord(str(tmp_path / "s")).p_signal.T.astype(np.float32)
    np.testing.assert_array_equal(read_record(tmp_path / "s").signal, expected)


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


@pytest.mark.parametrize("bad", [np.full((12, 5), np.nan), np.full((12, 5), 40.0), np.zeros((12, 0)), np.zeros((3, 5))])
def test_what_does_not_fit_is_not_written(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(RecordError):
        write_record(tmp_path / "r", bad, 100)
    assert not list(tmp_path.iterdir())


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
