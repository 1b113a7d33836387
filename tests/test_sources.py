"""Files as users have them: what is read from each, and what is said of those that cannot be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import ecg

from ecgmoe import sources
from ecgmoe.records import LEADS, RecordError, write_record
from ecgmoe.sources import Files


@pytest.fixture
def signal() -> np.ndarray:
    return ecg([0.8] * 20, 100)[0][0].astype(np.float32)


def read(*paths: Path, **files: object) -> list[sources.Recording | RecordError]:
    return list(sources.read(paths, Files(**files)))


def one(path: Path, **files: object) -> sources.Recording:
    (found,) = read(path, **files)
    assert isinstance(found, sources.Recording), found
    return found


def error(path: Path, **files: object) -> RecordError:
    (found,) = read(path, **files)
    assert isinstance(found, RecordError), found
    return found


def test_a_record_is_read_with_and_without_extension(tmp_path, signal):
    write_record(tmp_path / "a", signal, 100)
    for path in (tmp_path / "a", tmp_path / "a.hea", tmp_path / "a.dat"):
        found = one(path)
        assert (found.name, found.fs, found.leads) == ("a", 100, LEADS)
        np.testing.assert_allclose(found.signal, signal, atol=6e-4)


def test_a_folder_gives_its_records_in_order_and_what_is_damaged_as_an_error(tmp_path, signal):
    (tmp_path / "sub").mkdir()
    for name in ("b", "a", "sub/c"):
        write_record(tmp_path / name, signal, 100)
    (tmp_path / "b.dat").write_bytes(b"short")
    found = read(tmp_path)
    assert [item.name if isinstance(item, sources.Recording) else item.record for item in found] == ["a", "b", "sub/c"]
    assert isinstance(found[1], RecordError) and found[1].cure


def test_parts_of_a_recording_are_no_recordings_of_their_own(tmp_path, signal):
    for name in ("a_0001", "a_0002", "b"):
        write_record(tmp_path / name, signal, 100)
    n = signal.shape[1]
    (tmp_path / "a.hea").write_text(f"a/2 12 100 {2 * n}\n  \na_0001 {n}\na_0002 {n}\n")
    whole, other = read(tmp_path)
    assert isinstance(whole, sources.Recording) and (whole.name, whole.signal.shape[1]) == ("a", 2 * n)
    assert isinstance(other, sources.Recording) and other.name == "b"


def test_a_header_that_makes_no_sense_costs_no_other_recording(tmp_path, signal):
    write_record(tmp_path / "b", signal, 100)
    for name, text in {"a": " \n\t\n", "c": "c/2 12 100 2000\n../x 10\n/ 10\n", "d": ""}.items():
        (tmp_path / f"{name}.hea").write_text(text)
    found = read(tmp_path)
    assert [isinstance(item, RecordError) for item in found] == [True, False, True, True]


def test_records_are_those_that_a_folder_lists(tmp_path, signal):
    for name in ("a", "b"):
        write_record(tmp_path / name, signal, 100)
    (tmp_path / "inner").mkdir()
    write_record(tmp_path / "inner" / "c", signal, 100)
    (tmp_path / "RECORDS").write_text("b\ninner/\nabsent\n\n")
    *found, absent = read(tmp_path)
    assert [item.name for item in found] == ["b", "inner/c"]
    assert isinstance(absent, RecordError) and absent.record == "absent", "what is listed and not there is said"


def test_a_record_beside_a_folder_of_its_name_is_the_record(tmp_path, signal):
    write_record(tmp_path / "a", signal, 100)
    (tmp_path / "a").mkdir()
    assert one(tmp_path / "a").name == "a"
    assert {item.name for item in read(tmp_path)} == {"a"}


def test_a_name_that_was_there_before_is_given_with_its_path(tmp_path, signal):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_record(tmp_path / folder / "a", signal, 100)
    first, second = read(tmp_path / "x", tmp_path / "y")
    assert first.name == "a" and second.name == str(tmp_path / "y" / "a")


def test_any_file_of_a_record_stands_for_it_and_what_is_given_twice_is_read_once(tmp_path, signal):
    write_record(tmp_path / "a", signal, 100)
    for suffix in (".atr", ".mat"):
        (tmp_path / f"a{suffix}").write_bytes(b"")
    assert [one(path).name for path in sorted(tmp_path.iterdir())] == ["a"] * 4
    assert [item.name for item in read(*sorted(tmp_path.iterdir()), tmp_path / "a", tmp_path)] == ["a"]
    pd.DataFrame(signal.T, columns=LEADS).to_csv(tmp_path / "a.csv")
    given = (tmp_path / "a.csv", tmp_path / "a", tmp_path / "a.csv")
    assert [item.name for item in read(*given, fs=100)] == ["a.csv", "a"]
    assert "b.mat.hea" in error(tmp_path / "b.mat").reason


def test_the_folder_where_one_is_can_be_given(tmp_path, signal, monkeypatch):
    (tmp_path / "inner").mkdir()
    write_record(tmp_path / "inner" / "a", signal, 100)
    monkeypatch.chdir(tmp_path / "inner")
    for path in (Path("."), Path(""), Path("../inner"), Path("..")):
        assert one(path).name.removeprefix("inner/") == "a"
    write_record(tmp_path / "inner", 2 * signal, 100)
    assert one(Path(".")).name == "inner", "the record beside the folder"


def test_an_empty_folder_and_a_missing_file_are_errors_and_reading_goes_on(tmp_path, signal):
    (tmp_path / "empty").mkdir()
    write_record(tmp_path / "a", signal, 100)
    found = read(tmp_path / "empty", tmp_path / "nothing", tmp_path / "a")
    assert [type(item).__name__ for item in found] == ["RecordError", "RecordError", "Recording"]
    assert "no WFDB record" in str(found[0]) and "nothing.hea" in str(found[1])


def test_missing_samples_stay_missing_and_are_said(tmp_path, signal):
    write_record(tmp_path / "a", signal, 100)
    steps = np.fromfile(tmp_path / "a.dat", "<i2").reshape(-1, 12)
    steps[5, 2] = -(2**15)
    steps.tofile(tmp_path / "a.dat")
    found = one(tmp_path / "a")
    assert np.isnan(found.signal).sum() == 1 and np.isnan(found.signal[2, 5])
    assert any("NaN" in note and "III" in note for note in found.notes)
    assert any("checksum" in note for note in found.notes)


@pytest.mark.parametrize("unit, factor", [("mV", 1), ("uV", 1000), ("V", 1e-3)])
def test_a_table_has_a_column_a_lead_in_any_order_and_unit(tmp_path, signal, unit, factor):
    table = pd.DataFrame({"time": np.arange(1000) / 100, "v1": signal[6], " Lead II ": signal[1], "note": "x"})
    table[["v1", " Lead II "]] *= factor
    table.to_csv(tmp_path / "a.csv", index=False)
    found = one(tmp_path / "a.csv", fs=100, unit=unit)
    assert [sources.standard_name(lead) for lead in found.leads] == ["V1", "II"]
    np.testing.assert_allclose(found.signal, signal[[6, 1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("said", "unit"), [("uV", "uV"), ("µV", "uV"), ("mV", "mV"), ("V", "V")])
def test_a_unit_that_the_first_line_says_must_be_the_one_given(tmp_path, said, unit):
    path = tmp_path / "a.csv"
    path.write_text(f"ECG I ({said}),II\n1,2\n")
    assert one(path, fs=100, unit=unit).leads == (f"ECG I ({said})", "II")
    other = "V" if unit == "mV" else "mV"
    assert str(error(path, fs=100, unit=other)).endswith(f"says {unit}, to be read as {other}; give --unit {unit}")


def test_a_table_without_a_header_takes_the_given_names(tmp_path, signal):
    np.savetxt(tmp_path / "a.csv", signal[:2].T, delimiter=",")
    found = one(tmp_path / "a.csv", fs=100, leads=("I", "II"))
    assert found.signal.shape == (2, 1000)
    assert "2 columns for 1 lead names" in error(tmp_path / "a.csv", fs=100, leads=("I",)).reason
    assert "no column is one of the twelve" in error(tmp_path / "a.csv", fs=100).reason


def test_tables_of_any_dialect_are_read_and_damaged_ones_refused(tmp_path, signal):
    path = tmp_path / "a.csv"
    lines = [f"{a:.3f},{b:.3f}," for a, b in signal[:2].T]
    path.write_text("I,II\n" + "\n".join(lines))
    np.testing.assert_allclose(one(path, fs=100).signal, signal[:2], atol=6e-4, err_msg="a comma at the end of lines")
    path.write_text("I;II\n" + "\n".join(line[:-1].replace(",", ";").replace(".", ",") for line in lines))
    np.testing.assert_allclose(one(path, fs=100).signal, signal[:2], atol=6e-4, err_msg="decimal commas")
    path.write_text("\ufeff" + "\n".join(["nan,0.5", *(line[:-1] for line in lines)]), "utf-8")
    found = one(path, fs=100, leads=("I", "II"))
    assert found.signal.shape == (2, 1001) and np.isnan(found.signal[0, 0]), "the first line is no header"
    path.write_text("I,II\n0.1,0.2\n0.3,x\n")
    assert "line 3, lead II: 'x' is no number" in error(path, fs=100).reason
    path.write_text("I,II,II\n0.1,0.2,0.3\n")
    with pytest.raises(RecordError, match="more than once"):
        sources.rows_of(one(path, fs=100).signal, one(path, fs=100).leads)


def test_what_no_table_says_is_asked_for(tmp_path):
    for text in ("", "I,II", "I,II\n\n \r\n"):
        (tmp_path / "a.csv").write_text(text)
        assert error(tmp_path / "a.csv", fs=100).reason == "there are no samples"
        assert error(tmp_path / "a.csv", fs=100, leads=("I", "II")[: 1 + bool(text)]).reason == "there are no samples"
    assert "sampling rate" in error(tmp_path / "a.csv").reason
    assert "no such file" in error(tmp_path / "b.csv", fs=100).reason


def test_an_empty_cell_is_a_missing_sample_of_one_lead_too(tmp_path):
    path = tmp_path / "a.csv"
    for text, leads in (("II\n1\n\n\n4\n \n\n", ()), ("1\n\n\n4\n", ("II",)), ("II,note\n1,\n\n,x\n4\n\n", ())):
        path.write_text(text)
        np.testing.assert_array_equal(one(path, fs=100, leads=leads).signal, [[1, np.nan, np.nan, 4]], text)
    path.write_text("\n2\n")
    np.testing.assert_array_equal(one(path, fs=100, leads=("II",)).signal, [[np.nan, 2]])
    path.write_text("II\n1\n\nx\n")
    assert "line 4, lead II: 'x'" in error(path, fs=100).reason


def test_a_line_with_more_cells_than_the_first_is_refused_unless_they_are_empty(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("I,II\n1,2, ,\n\n3,4,,,\n")
    np.testing.assert_array_equal(one(path, fs=100).signal, [[1, np.nan, 3], [2, np.nan, 4]])
    path.write_text("I,II\n1,2\n0,1,0,2\n")
    assert error(path, fs=100).reason == "line 3 has 4 cells, the first line 2"


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read_without_a_header_too(tmp_path, separator):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(separator.join(["0,125"] * 11 + ["-1,5"]) for _ in range(3)))
    np.testing.assert_array_equal(one(path, fs=100, leads=LEADS).signal, [[0.125] * 3] * 11 + [[-1.5] * 3])


def test_columns_that_are_no_leads_are_said(tmp_path, signal):
    table = pd.DataFrame({"sample": range(1000), "II": signal[1], "MCL1": signal[6], "t": np.arange(1000) / 100})
    table.to_csv(tmp_path / "a.csv")
    assert one(tmp_path / "a.csv", fs=100).notes == ("not used: MCL1",)
    assert one(tmp_path / "a.csv", fs=100, leads=("-", "", "MLII", "-", "-")).notes == ("MLII taken as II",)
    np.save(tmp_path / "a.npy", signal[:3])
    found = one(tmp_path / "a.npy", fs=100, leads=("-", "II", ""))
    assert found.leads == ("II",) and found.notes == ()
    np.testing.assert_array_equal(found.signal, signal[1:2])


@pytest.mark.parametrize(
    ("column", "step", "rate"),
    [
        ("time", 1 / 360, 360),
        ("T", 2.0, 500),
        ("Seconds", 0.004, 250),
        ("s", 1.0, 1),
        ("ms", 0.5, 2000),
        ("time [s]", 0.002, 500),
        ("Time (ms)", 2.0, 500),
        ("time_ms", 4.0, 250),
    ],
)
def test_times_that_contradict_the_rate_are_said(tmp_path, signal, column, step, rate):
    path = tmp_path / "a.csv"
    times = np.round(5 + step * np.arange(1000), 3)  # single steps are off by a tenth
    times[700:] += 60  # a break
    pd.DataFrame({column: times, "II": signal[1]}).to_csv(path, index=False)
    assert one(path, fs=rate).notes == one(path, fs=1.01 * rate).notes == ()
    (said,) = one(path, fs=1.03 * rate).notes
    assert one(path, fs=1.03 * rate, leads=("-", "I")).notes == (said,)
    begin, rest = f"column {column} has ", f" Hz, read at {1.03 * rate:g} Hz: is the rate right?"
    assert said.startswith(begin) and said.endswith(rest)
    assert float(said.removeprefix(begin).removesuffix(rest)) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("times", [["a", "b", "c"], [1, 1, 1], ["", "", ""], [3, 2, 1], [5]])
def test_times_that_tell_no_rate_are_passed_over(tmp_path, times):
    (tmp_path / "a.csv").write_text("time,II\n" + "".join(f"{time},1\n" for time in times))
    assert one(tmp_path / "a.csv", fs=100).notes == ()


def test_a_folder_of_tables_tells_that_they_are_named_one_by_one(tmp_path):
    assert ".hea" in error(tmp_path).cure
    (tmp_path / "a.CSV").write_text("I\n1\n")
    assert error(tmp_path).cure == "name CSV and npy files one by one"


def test_arrays_are_one_recording_or_several(tmp_path, signal):
    np.save(tmp_path / "one.npy", signal)
    np.save(tmp_path / "two.npy", np.stack([signal, 2 * signal]))
    assert one(tmp_path / "one.npy", fs=100).name == "one.npy"
    first, second = read(tmp_path / "two.npy", fs=100)
    assert (first.name, second.name) == ("two.npy[0]", "two.npy[1]")
    np.testing.assert_allclose(second.signal, 2 * first.signal, rtol=1e-6)
    np.save(tmp_path / "few.npy", signal[:3])
    assert one(tmp_path / "few.npy", fs=100, leads=("I", "II", "V1")).leads == ("I", "II", "V1")
    assert "12 leads" in error(tmp_path / "few.npy", fs=100).reason


def test_an_array_file_of_anything_else_is_refused(tmp_path):
    np.save(tmp_path / "text.npy", np.array(["a"] * 12))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "none.npy").write_bytes(b"nothing")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "zero.npy", np.zeros((0, 12, 1000)))
    np.savez(tmp_path / "several.npz", np.zeros(3))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("text", "object", "none", "empty", "zero", "several"):
        error(tmp_path / f"{name}.npy", fs=100)
    assert "no such file" in error(tmp_path / "absent.npy", fs=100).reason


def test_wrong_units_and_rates_are_refused():
    with pytest.raises(ValueError, match="unit"):
        Files(unit="mmHg")
    with pytest.raises(ValueError, match="rate"):
        Files(fs=0)


@pytest.mark.parametrize(
    ("lead", "names"),
    [
        ("I", ["i", "DI", "D1", "ECG I", "Lead-I", "I (mV)", "MLI", "ML1"]),
        ("II", ["DII", "d2", "ecg_ii", "Lead II", "ECG Lead II [uV]", "MLII", "ml2", "ECG MLII"]),
        ("III", ["DIII", "D3", "iii(µV)", "MLIII"]),
        ("aVR", ["AVR", "ECG_avr", "avR (V)"]),
        ("V1", ["C1", "v1", "lead_c1"]),
        ("V6", ["C6", " V6 "]),
        (None, ["", "-", "ECG", "ECG1", "C7", "D4", "MCL1", "V", "LeadII", "I (s)", "(mV)", "II I"]),
    ],
)
def test_a_lead_is_known_by_the_names_that_files_give_it(lead: str | None, names: list[str]) -> None:
    assert {name: sources.standard_name(name) for name in names} == dict.fromkeys(names, lead)


def test_a_lead_that_is_taken_as_another_is_noted_once(tmp_path, signal):
    write_record(tmp_path / "a", signal[:2], 100, ("MLII", "V5"))
    found = one(tmp_path / "a")
    assert found.notes == replace(found, fs=200.0).notes == ("MLII taken as II",)
    write_record(tmp_path / "b", signal[:2], 100, ("DII", "C5"))
    assert one(tmp_path / "b").notes == ()
    with pytest.raises(RecordError, match="lead II is there more than once: II, MLII"):
        sources.rows_of(signal[:2], ["II", "MLII"])


def test_leads_are_put_in_order_and_those_that_are_not_there_are_missing(signal):
    rows = sources.rows_of(signal[:3], ["v6", "AVR", "x"])
    np.testing.assert_array_equal(rows[LEADS.index("V6")], signal[0])
    np.testing.assert_array_equal(rows[LEADS.index("aVR")], signal[1])
    assert np.isnan(rows).all(1).sum() == 10
    for leads, reason in ((["x", "y", "z"], "none"), (["I", "i", "II"], "more than once"), (["I"], "1 leads")):
        with pytest.raises(RecordError, match=reason):
            sources.rows_of(signal[:3], leads)
