"""MIMIC-IV-ECG and cohorts in its layout: tables, joins, labels, folds, and what damage does."""

import filecmp
import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgmoe import datasets, paper, records, tasks
from ecgmoe.datasets import DatasetError, _hosp, _mimic_layout, mimic_iv_ecg, simulated
from ecgmoe.store import Listing

N_PATIENTS = 24
TIME = pd.Timestamp("2150-03-01 12:00:00")


@pytest.fixture(scope="module")
def simulation() -> simulated.Simulation:
    return simulated.simulate(N_PATIENTS, seed=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated.write(tmp_path_factory.mktemp("mimic") / "cohort", N_PATIENTS, seed=3, layout="mimic-iv-ecg")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six records of four subjects as tables only, with hosp inside, and a cache of their own."""
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mimic-iv-ecg"
    (folder / "hosp").mkdir(parents=True)
    (folder / "files").mkdir()
    subjects, studies = [11, 11, 12, 13, 13, 14], [21, 22, 23, 24, 25, 26]
    times = [str(TIME + pd.Timedelta(days=day)) for day in (3, 1, 0, 0, 2, 0)]
    ids = pd.DataFrame({"subject_id": subjects, "study_id": studies, "ecg_time": times})
    paths = [f"files/p00/p{subject}/s{study}/{study}" for subject, study in zip(subjects, studies, strict=True)]
    ids.assign(file_name=studies, path=paths).to_csv(folder / "record_list.csv", index=False)
    ids.assign(
        report_0=["Sinus rhythm", "Sinus tachycardia", "Atrial flutter", "Normal ECG", None, "ATRIAL FIBRILLATION."],
        report_1=["Normal ECG", None, None, None, None, "with rapid ventricular response"],
        rr_interval=[800, 500, 0, 29999, 65535, 150],
    ).to_csv(folder / "machine_measurements.csv", index=False)
    pd.DataFrame(
        {
            "subject_id": [11, 12, 13],
            "gender": ["M", "F", ""],
            "anchor_age": [50, 91, 88],
            "anchor_year": [2148, 2148, 2147],
        }
    ).to_csv(folder / "hosp" / "patients.csv.gz", index=False)
    write_labs(folder / "hosp" / "labevents.csv.gz", [(12, 50971, 30, 4.1, "")])
    return folder


def write_labs(path: Path, rows: list[tuple[int, int, float, object, str]]) -> None:
    """Rows of subject, item, minutes after ``TIME``, value and flag."""
    table = pd.DataFrame(rows, columns=["subject_id", "itemid", "minutes", "valuenum", "flag"])
    table["charttime"] = [str(TIME + pd.Timedelta(minutes=minutes)) for minutes in table.pop("minutes")]
    table.assign(value="x", comments='a "quoted", comment').to_csv(path, index=False)


def change(path: Path, edit: Callable[[pd.DataFrame], object]) -> None:
    """Change a table in place; ``edit`` may return another one."""
    table = pd.read_csv(path).astype(object)
    edited = edit(table)
    (table if edited is None else edited).to_csv(path, index=False)


def edit_cell(path: Path, row: int, column: str, value: object) -> None:
    change(path, lambda table: table.__setitem__(column, [*table[column][:row], value, *table[column][row + 1 :]]))


def cohort(listed: Listing) -> datasets.Cohort:
    """Cohort of all records of a listing, as if every signal had been read."""
    table = mimic_iv_ecg.select(listed.table, 0)
    return mimic_iv_ecg.cohort(listed, table, np.zeros((len(table), 12, 1), np.float32), listed.skipped)


# --- the simulated cohort in this layout -----------------------------------------------------------------------------


def test_labels_agree_with_the_other_layout(simulation: simulated.Simulation, written: Path) -> None:
    found, truth = cohort(mimic_iv_ecg.listing(written, 500)), simulation.labels
    table = found.table.sort_index()
    assert (table.index - _mimic_layout.FIRST_STUDY).tolist() == truth["ecg_id"].tolist()
    assert (table["patient_id"] - _mimic_layout.FIRST_SUBJECT).tolist() == truth["patient_id"].tolist()
    assert table["fold"].tolist() == truth["strat_fold"].tolist()
    assert table["age"].tolist() == truth["age"].clip(upper=tasks.AGE_CENSORED_ABOVE + 1).tolist()
    for column in ("sex", "potassium", "potassium_abnormal", "rhythm", "cause"):
        assert table[column].tolist() == truth[column].tolist(), column
    np.testing.assert_allclose(table["rr_interval"], truth["rr_ms"], atol=0.5)
    assert list(found.tasks) == list(tasks.TASKS)
    assert found.card == mimic_iv_ecg.SIMULATED_CARD
    assert set(table["potassium_item"]) == set(_hosp.POTASSIUM_ITEMS)
    assert table["potassium_hours"].abs().max() < 2
    assert found.counts["rhythm: in other words than the class's"] == 0
    assert found.counts["potassium: the laboratory's flag says otherwise"] == sum(
        (truth["potassium_abnormal"] == 1) == truth["potassium"].between(3.3, 5.1)
    )


def test_every_class_of_rhythm_comes_back_from_its_report() -> None:
    labels = simulated.simulate(100, seed=0).labels
    found = [tasks.rhythm_from_report(_mimic_layout._report(row)) for _, row in labels.iterrows()]
    assert found == labels["rhythm"].tolist()
    assert set(found) == set(tasks.RHYTHMS)


def test_recordings_are_the_simulated_ones_with_leads_in_the_order_of_mimic(
    simulation: simulated.Simulation, written: Path
) -> None:
    listed = mimic_iv_ecg.listing(written, 500)
    for row in (0, len(simulation.labels) - 1):
        name = listed.table.sort_index()["path"].iloc[row]
        record = records.read_record(written / name)
        assert record.leads[3:6] == ("aVR", "aVF", "aVL")
        np.testing.assert_allclose(records.standard_leads(record).signal, simulation.signal[row], atol=2.6e-3)


def test_measurements_follow_the_true_beats(simulation: simulated.Simulation, written: Path) -> None:
    table = pd.read_csv(written / "machine_measurements.csv")
    has_p = np.array([np.isfinite(marks[:, 0]).any() for marks in simulation.fiducials])
    assert ((table["p_onset"] == 29999) == ~has_p).all() and ((table["p_axis"] == 29999) == ~has_p).all()
    assert (table["qrs_onset"] < table["qrs_end"]).all() and (table["qrs_end"] < table["t_end"]).all()
    assert table.loc[has_p, "p_end"].sub(table.loc[has_p, "p_onset"]).between(60, 150).all()
    narrow = simulation.labels["rhythm"] == "sinus rhythm"
    assert table.loc[narrow, "qrs_axis"].between(-60, 120).all()


def test_the_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = simulated.write(tmp_path / "again", N_PATIENTS, seed=3, layout="mimic-iv-ecg")
    names = [path.relative_to(written) for path in written.rglob("*") if path.is_file()]
    assert len(names) == 2 * len(pd.read_csv(written / "record_list.csv")) + 6
    assert filecmp.cmpfiles(written, again, names, shallow=False)[0] == names


def test_both_layouts_load_as_the_same_cohort(written: Path, tmp_path: Path) -> None:
    one = datasets.load(simulated.write(tmp_path / "ptbxl", N_PATIENTS, seed=3), fs=500)
    two = datasets.load(written, fs=500)
    columns = ["age", "sex", "potassium", "potassium_abnormal", "rhythm", "cause", "fold"]
    other = two.table[columns].set_axis(two.table.index - _mimic_layout.FIRST_STUDY, axis=0).sort_index()
    pd.testing.assert_frame_equal(one.table[columns], other, check_names=False, check_dtype=False)
    order = np.argsort(two.table.index)
    np.testing.assert_allclose(two.signal[order], one.signal, atol=3.1e-3)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_the_tree_is_taken_as_it_comes(root: Path, tmp_path: Path) -> None:
    home = mimic_iv_ecg.listing(root, 500)
    assert home.root == root and home.table["path"].str.startswith("files/p00/").all()
    assert mimic_iv_ecg.listing(root.parent, 500).table.equals(home.table)
    (root / "files").rmdir()
    assert mimic_iv_ecg.listing(root, 500).table["path"].str.startswith("p00/").all()
    deep = tmp_path / "physionet.org" / "files" / "mimic-iv-ecg"
    deep.mkdir(parents=True)
    root.rename(deep / "1.0")
    assert mimic_iv_ecg.find_root(tmp_path) == deep / "1.0"
    hosp = deep.parent / "mimiciv" / "3.1" / "hosp"
    hosp.parent.mkdir(parents=True)
    (deep / "1.0" / "hosp").rename(hosp)
    assert mimic_iv_ecg.listing(tmp_path, 500).table["potassium"].notna().sum() == 1
    shutil.copytree(deep / "1.0", tmp_path / "copy")
    with pytest.raises(DatasetError, match="several copies"):
        mimic_iv_ecg.find_root(tmp_path)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        mimic_iv_ecg.find_root(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        mimic_iv_ecg.find_root(tmp_path / "file")
    with pytest.raises(DatasetError, match=r"holds no record_list\.csv"):
        mimic_iv_ecg.find_root(tmp_path)


@pytest.mark.parametrize("place", ["hosp", "mimic-iv-3.1/hosp", "mimiciv/hosp", "mimiciv-2.2/hosp"])
def test_hosp_is_found_beside(root: Path, place: str) -> None:
    known = mimic_iv_ecg.listing(root, 500).table
    (root.parent / place).parent.mkdir(exist_ok=True)
    (root / "hosp").rename(root.parent / place)
    assert mimic_iv_ecg.listing(root, 500).table.equals(known)


def test_hosp_may_be_named_and_unpacked(root: Path, tmp_path: Path) -> None:
    known = mimic_iv_ecg.listing(root, 500).table
    (tmp_path / "else").mkdir()
    for name in ("patients.csv", "labevents.csv"):
        packed = root / "hosp" / f"{name}.gz"
        (root / "hosp" / name).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    (root / "hosp").rename(tmp_path / "else" / "hosp")
    for folder in (tmp_path / "else", tmp_path / "else" / "hosp"):
        assert mimic_iv_ecg.listing(root, 500, hosp_root=folder).table.equals(known)
    with pytest.raises(DatasetError, match="holds neither patients"):
        mimic_iv_ecg.listing(root, 500, hosp_root=tmp_path / "elsewhere")


def test_without_hosp_or_measurements_their_tasks_are_not_available(root: Path) -> None:
    shutil.rmtree(root / "hosp")
    found = cohort(mimic_iv_ecg.listing(root, 500))
    assert list(found.tasks) == ["rr", "rhythm"]
    assert found.counts["age: not available without patients.csv.gz of MIMIC-IV hosp"] == 6
    assert found.card.notes[-1] == "Potassium: not available without labevents.csv.gz of MIMIC-IV hosp."
    (root / "machine_measurements.csv").unlink()
    found = cohort(mimic_iv_ecg.listing(root, 500))
    assert found.tasks == {} and len(found) > 0
    assert any("without machine_measurements.csv" in note for note in found.card.notes)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_and_their_counts(root: Path) -> None:
    listed = mimic_iv_ecg.listing(root, 500)
    found = mimic_iv_ecg.cohort(listed, listed.table, np.zeros((6, 12, 1), np.float32), listed.skipped)
    nan = float("nan")
    assert found.table.index.tolist() == [21, 22, 23, 24, 25, 26]
    np.testing.assert_array_equal(found.table["rr_interval"], [800, 500, nan, nan, nan, nan])
    np.testing.assert_array_equal(found.table["age"], [52, 52, 90, 90, 90, nan])
    np.testing.assert_array_equal(found.table["sex"], [0, 0, 1, nan, nan, nan])
    np.testing.assert_array_equal(found.table["potassium_abnormal"], [nan, nan, 0, nan, nan, nan])
    rapid = "atrial fibrillation with rapid ventricular response"
    assert found.table["rhythm"].tolist() == ["sinus rhythm", "sinus tachycardia", "other", None, None, rapid]
    assert found.card.name == "MIMIC-IV-ECG, 6 records"
    expected = {
        "listed": 6,
        "RR interval: missing, or stated as missing (0, 29999 and above)": 3,
        "RR interval: impossible in ten seconds": 1,
        "rhythm: no statement of a rhythm": 2,
        "rhythm: in other words than the class's": 1,
        "potassium: none near the ECG": 5,
        "potassium: chemistry (50971)": 1,
        "age over 89": 3,
        "age or sex missing": 3,
    }
    assert {name: found.counts[name] for name in expected} == expected
    whole = replace(listed, counts={"listed": 800_035})
    assert mimic_iv_ecg.cohort(whole, listed.table, found.signal, listed.skipped).card.name == "MIMIC-IV-ECG 1.0"


def test_an_age_before_birth_is_no_age(root: Path) -> None:
    edit_cell(root / "hosp" / "patients.csv.gz", 0, "anchor_year", 2300)
    edit_cell(root / "hosp" / "patients.csv.gz", 2, "anchor_age", "old")
    assert mimic_iv_ecg.listing(root, 500).table["age"].dropna().tolist() == [90.0]


CHEMISTRY, BLOOD = 50971, 50822


@pytest.mark.parametrize(
    ("labs", "expected"),
    [
        ([(12, CHEMISTRY, -60, 4.0, ""), (12, CHEMISTRY, 59, 5.5, "abnormal")], (5.5, CHEMISTRY, 59)),
        ([(12, CHEMISTRY, 60, 4.0, ""), (12, BLOOD, -60, 3.0, "abnormal")], (3.0, BLOOD, -60)),  # the earlier
        ([(12, BLOOD, 10, 3.0, ""), (12, CHEMISTRY, 10, 4.0, "")], (4.0, CHEMISTRY, 10)),  # of one time: chemistry
        ([(12, CHEMISTRY, 240, 4.0, "")], (4.0, CHEMISTRY, 240)),
        ([(12, CHEMISTRY, -240, 4.0, "")], (4.0, CHEMISTRY, -240)),
        ([(12, CHEMISTRY, 241, 4.0, "")], None),
        ([(14, CHEMISTRY, 0, 4.0, "")], None),
        ([(99, CHEMISTRY, 0, 4.0, "")], None),
        ([(12, 50983, 0, 4.0, "")], None),
        ([(12, CHEMISTRY, 0, value, "") for value in ("", "hemolyzed", 0.0, 140.0)], None),
        ([(12, CHEMISTRY, 0, "", ""), (12, CHEMISTRY, 90, 4.4, "")], (4.4, CHEMISTRY, 90)),
        ([], None),
    ],
)
def test_the_nearest_potassium_counts(
    root: Path, labs: list[tuple[int, int, float, object, str]], expected: tuple[float, int, float] | None
) -> None:
    write_labs(root / "hosp" / "labevents.csv.gz", labs)
    found = mimic_iv_ecg.listing(root, 500).table.loc[23, ["potassium", "potassium_item", "potassium_hours"]]
    if expected is None:
        assert found.isna().all()
    else:
        assert found.tolist() == [expected[0], expected[1], expected[2] / 60]


def test_the_window_is_a_parameter(root: Path) -> None:
    write_labs(root / "hosp" / "labevents.csv.gz", [(12, CHEMISTRY, 300, 4.0, ""), (14, BLOOD, 0, 6.0, "abnormal")])

    def found(window_h: float) -> list[int]:
        table = mimic_iv_ecg.listing(root, 500, window_h=window_h).table
        return table.index[table["potassium"].notna()].tolist()

    assert (found(0), found(4.0), found(5.0)) == ([26], [26], [23, 26])


def test_a_flag_that_contradicts_the_range_is_counted(root: Path) -> None:
    rows = [(11, CHEMISTRY, 1440, 5.1, ""), (12, CHEMISTRY, 0, 3.4, ""), (13, CHEMISTRY, 0, 3.2, "abnormal")]
    write_labs(root / "hosp" / "labevents.csv.gz", rows)
    listed = mimic_iv_ecg.listing(root, 500)
    found = mimic_iv_ecg.cohort(listed, listed.table, np.zeros((6, 12, 1), np.float32), listed.skipped)
    assert found.table["potassium_abnormal"].dropna().tolist() == [1, 1, 1]
    assert found.counts["potassium: the laboratory's flag says otherwise"] == 2


# --- folds -----------------------------------------------------------------------------------------------------------


def many(n_subjects: int, ecgs: int = 2) -> pd.DataFrame:
    """A list of records with several ECGs a subject, the later one first."""
    subjects = np.repeat(np.arange(n_subjects) + 10_000_000, ecgs)
    studies = np.arange(n_subjects * ecgs) + 40_000_000
    days = np.tile(np.arange(ecgs)[::-1], n_subjects)
    times = [str(TIME + pd.Timedelta(days=int(day))) for day in days]
    return pd.DataFrame(
        {"subject_id": subjects, "study_id": studies, "ecg_time": times, "path": [f"a/{s}" for s in studies]}
    )


def test_folds_by_hash_are_even_and_the_same_for_every_part(tmp_path: Path) -> None:
    table = many(2000)
    table.to_csv(tmp_path / "record_list.csv", index=False)
    whole = mimic_iv_ecg.listing(tmp_path, 500).table
    assert (whole.groupby("patient_id")["fold"].nunique() == 1).all()
    assert whole["fold"].value_counts(normalize=True).between(0.08, 0.12).all() and set(whole["fold"]) == set(
        range(1, 11)
    )
    table.sample(frac=0.3, random_state=0).to_csv(tmp_path / "record_list.csv", index=False)
    part = mimic_iv_ecg.listing(tmp_path, 500).table
    assert part["fold"].equals(whole["fold"].reindex(part.index))
    assert part["patient_id"].is_monotonic_increasing
    chosen = mimic_iv_ecg.select(whole, 100)
    assert len(chosen) <= 100 and set(chosen["fold"]) == {7, 8, 9}
    assert whole["patient_id"].isin(chosen["patient_id"]).sum() == len(chosen)


def test_the_papers_cohorts_are_disjoint_and_split_by_subject(tmp_path: Path) -> None:
    many(301).to_csv(tmp_path / "record_list.csv", index=False)
    parts = [mimic_iv_ecg.listing(tmp_path, 500, protocol="paper", cohort=which).table for which in (1, 2, 3)]
    subjects = pd.concat(parts)["patient_id"]
    assert subjects.is_unique and subjects.tolist() == sorted(subjects) and len(subjects) == 300
    for part in parts:
        assert (part.index % 2 == 1).all()  # the later study is the earlier ECG
        split = part["fold"].map(lambda fold: min(fold, 7) if fold < 8 else fold).value_counts()
        assert (part["fold"] < 8).sum() == 70 and split[8] == 20 and split[9] == 10
        assert set(part["fold"]) == set(range(1, 10))
    again = mimic_iv_ecg.listing(tmp_path, 500, protocol="paper", cohort=1, seed=7).table
    assert again.index.equals(parts[0].index) and not again["fold"].equals(parts[0]["fold"])


def test_the_papers_protocol_needs_subjects_and_a_known_choice(root: Path) -> None:
    change(root / "record_list.csv", lambda table: table.iloc[:2])
    with pytest.raises(DatasetError, match="cannot be divided"):
        mimic_iv_ecg.listing(root, 500, protocol="paper")
    for options in ({"protocol": "papers"}, {"cohort": 4}, {"window_h": -1.0}):
        with pytest.raises(ValueError, match="no such choice"):
            mimic_iv_ecg.listing(root, 500, **options)


def test_no_more_than_thirty_thousand_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimic_iv_ecg, "PAPER_SUBJECTS", 30)
    many(100, ecgs=1).to_csv(tmp_path / "record_list.csv", index=False)
    last = mimic_iv_ecg.listing(tmp_path, 500, protocol="paper", cohort=3).table
    assert last["patient_id"].tolist() == list(range(10_000_020, 10_000_030))


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [
        (1, "path", "../../etc/passwd", "absent or leads out"),
        (1, "path", "/etc/passwd", "absent or leads out"),
        (1, "path", "", "absent or leads out"),
        (1, "ecg_time", "yesterday", "time in the list cannot be read"),
        (1, "ecg_time", "9999-01-01 00:00:00", "time in the list cannot be read"),
        (1, "ecg_time", "", "time in the list cannot be read"),
        (1, "subject_id", "", "names no subject"),
        (1, "subject_id", 10**30, "names no subject"),
        (1, "subject_id", 11.5, "names no subject"),
        (1, "subject_id", 99, "are another subject's"),
    ],
)
def test_rows_that_cannot_be_used_are_listed(root: Path, row: int, column: str, value: object, reason: str) -> None:
    edit_cell(root / "record_list.csv", row, column, value)
    listed = mimic_iv_ecg.listing(root, 500)
    assert 22 not in listed.table.index and len(listed.table) == 5
    assert len(listed.skipped) == 1 and reason in listed.skipped["reason"][0]
    assert listed.skipped["record"][0] == (
        "study 22" if value == "" and column == "path" else listed.skipped["record"][0]
    )
    assert listed.table["patient_id"].dtype == np.int64 and listed.table["fold"].dtype == np.int64


def test_records_and_measurements_need_not_match(root: Path) -> None:
    change(root / "machine_measurements.csv", lambda table: table.iloc[1:])
    change(root / "record_list.csv", lambda table: table.iloc[:-1])
    listed = mimic_iv_ecg.listing(root, 500)
    assert listed.counts["without a row of measurements"] == listed.counts["measurements without a record"] == 1
    assert len(listed.table) == 5 and np.isnan(listed.table.loc[21, "rr_interval"])
    assert listed.table.loc[21, "report"] is None


TABLES = ("record_list.csv", "machine_measurements.csv", "hosp/patients.csv.gz", "hosp/labevents.csv.gz")


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("record_list.csv", "study_id"),
        ("record_list.csv", "path"),
        ("machine_measurements.csv", "rr_interval"),
        ("machine_measurements.csv", "report_0"),
        ("hosp/patients.csv.gz", "anchor_year"),
        ("hosp/labevents.csv.gz", "valuenum"),
        ("hosp/labevents.csv.gz", "subject_id"),
    ],
)
def test_a_missing_column_is_named(root: Path, name: str, column: str) -> None:
    change(root / name, lambda table: table.drop(columns=column))
    with pytest.raises(DatasetError, match=rf"{Path(name).name}.*{column}.*download it again"):
        mimic_iv_ecg.listing(root, 500)


@pytest.mark.parametrize("name", TABLES[:3])
def test_a_number_that_is_there_twice_is_named(root: Path, name: str) -> None:
    change(root / name, lambda table: pd.concat([table, table.iloc[:1]]))
    with pytest.raises(DatasetError, match=rf"{Path(name).name} lists \w+_id (21|11) more than once"):
        mimic_iv_ecg.listing(root, 500)


@pytest.mark.parametrize("value", ["", "x", 10**30, 2.5])
@pytest.mark.parametrize("name", TABLES[:2])
def test_a_study_without_a_number_is_refused(root: Path, name: str, value: object) -> None:
    edit_cell(root / name, 0, "study_id", value)
    with pytest.raises(DatasetError, match=rf"{name} has rows whose study_id is no whole number"):
        mimic_iv_ecg.listing(root, 500)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00a,b\n\x80\n", b'a,b\n"1,2\n'])
@pytest.mark.parametrize("name", TABLES)
def test_what_is_no_table_is_refused(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DatasetError, match=rf"{Path(name).name}.*download it again"):
        mimic_iv_ecg.listing(root, 500)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("name", TABLES[2:])
def test_a_truncated_archive_is_refused(root: Path, written: Path, name: str, share: float) -> None:
    whole = (written / name).read_bytes()
    (root / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=rf"{Path(name).name} cannot be read.*download it again"):
        mimic_iv_ecg.listing(root, 500)


def test_a_changed_byte_in_an_archive_is_found(root: Path, written: Path) -> None:
    whole = bytearray((written / "hosp/labevents.csv.gz").read_bytes())
    for at in np.random.default_rng(0).integers(20, len(whole), 10):
        broken = whole.copy()
        broken[at] ^= 0x10
        (root / "hosp/labevents.csv.gz").write_bytes(broken)
        with pytest.raises(DatasetError, match=r"labevents\.csv\.gz cannot be read"):
            mimic_iv_ecg.listing(root, 500)


@pytest.mark.parametrize("name", TABLES)
def test_mutated_tables_never_end_in_another_error(root: Path, name: str) -> None:
    path = root / name
    whole = path.read_bytes()
    text = gzip.decompress(whole) if name.endswith(".gz") else whole
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(25):
        broken = bytearray(text)
        for at in rng.integers(0, len(text), rng.integers(1, 6)):
            broken[at] = rng.choice([*b'0,"-.\n\x00\xff9Z', rng.integers(256)])
        path.write_bytes(gzip.compress(broken, 1) if name.endswith(".gz") else broken)
        try:
            listed = mimic_iv_ecg.listing(root, 500)
            cohort(listed)
            outcomes.add("read")
            assert listed.counts["listed"] == len(listed.table) + len(listed.skipped)
        except DatasetError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_marker_without_folds_leaves_those_by_hash(root: Path) -> None:
    known = mimic_iv_ecg.listing(root, 500).table["fold"]
    marker = pd.DataFrame({"study_id": [21, 22, 23, 24], "fold": [3, "x", 11, ""], "cause": "rr:RR"})
    marker.to_csv(root / "simulated_labels.csv", index=False)
    found = mimic_iv_ecg.listing(root, 500).table
    assert found["fold"].tolist() == [3, *known.iloc[1:]] and found["cause"].notna().sum() == 4


# --- laboratory values at full size ----------------------------------------------------------------------------------


def test_laboratory_values_are_read_once_for_the_same_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = _hosp._stream_potassium
    monkeypatch.setattr(_hosp, "_stream_potassium", lambda *given: calls.append(given) or original(*given))
    first = mimic_iv_ecg.listing(root, 500).table
    assert mimic_iv_ecg.listing(root, 500).table.equals(first) and len(calls) == 1
    write_labs(root / "hosp" / "labevents.csv.gz", [(12, CHEMISTRY, 0, 6.1, ""), (12, BLOOD, 1, 4.0, "")])
    assert mimic_iv_ecg.listing(root, 500).table.loc[23, "potassium"] == 6.1 and len(calls) == 2
    assert set(_hosp.read_potassium(root / "hosp" / "labevents.csv.gz", np.array([12]))["value"]) == {6.1, 4.0}
    assert _hosp.read_potassium(root / "hosp" / "labevents.csv.gz", np.array([13])).empty
    assert len(calls) == 2, "other subjects are taken from the same reading"


def test_an_archive_of_several_members_is_read_to_its_end(root: Path) -> None:
    path = root / "hosp" / "labevents.csv.gz"
    head, *rows = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(head) + b"".join(gzip.compress(row.replace(b"12,5", b"14,5")) for row in rows * 3))
    assert _hosp.read_potassium(path, np.array([14]))["value"].tolist() == [4.1] * 3


MEASURE = """
import sys, time
from pathlib import Path
import numpy as np
from ecgmoe.datasets import _hosp
start = time.perf_counter()
found = _hosp._stream_potassium(Path(sys.argv[1]))
seconds = time.perf_counter() - start
# Not ru_maxrss, which begins with the peak of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(found["value"]), seconds, int(peak.split()[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_stays_flat_while_laboratory_values_are_streamed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = (
        "labevent_id,subject_id,specimen_id,itemid,charttime,storetime,value,valuenum,valueuom,flag,priority,comments\n"
    )
    rows = "".join(
        f"{i},{10_000_000 + rng.integers(200_000)},{rng.integers(10**8)},"
        f"{rng.choice([50971, 50822]) if i % 50 == 0 else rng.integers(50_800, 50_970)},2150-01-0{1 + i % 9} 10:00:00,"
        f'2150-01-01 11:00:00,{i % 70 / 10},{i % 70 / 10},mEq/L,,ROUTINE,"___, of a patient"\n'
        for i in range(100_000)
    ).encode()
    fields = [line.split(b",") for line in rows.splitlines()]
    potassium = sum(int(line[3]) in _hosp.POTASSIUM_ITEMS and 1 <= float(line[7]) <= 15 for line in fields)
    assert potassium > 1000
    block = gzip.compress(rows, 1)
    peak = {}
    for n_blocks in (20, 80):  # 2 and 8 million rows
        path = tmp_path / "labevents.csv.gz"
        path.write_bytes(gzip.compress(head.encode()) + block * n_blocks)
        run = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
        kept, seconds, peak[n_blocks] = map(float, run.stdout.split())
        assert kept == n_blocks * potassium
        print(f"{n_blocks / 10:g} M rows: {n_blocks / 10 / seconds:.2f} M rows/s, peak {peak[n_blocks]:.0f} MB")
    grown = 60 * len(rows) / 1e6
    assert peak[80] - peak[20] < grown / 2 and peak[80] < 1200


# --- the open measurements themselves --------------------------------------------------------------------------------


def test_rr_intervals_of_the_open_measurements(recordings: Path) -> None:
    table = pd.read_csv(recordings / "mimic_iv_ecg" / "machine_measurements_subset.csv")
    stated = table["rr_interval"].to_numpy(float)
    measured = paper.mimic_rr_measured(stated)
    assert (len(table), (stated >= 29999).sum(), (stated <= 0).sum(), measured.sum()) == (19861, 73, 6, 19782)
    kept = stated[measured]
    assert kept.min() > mimic_iv_ecg.RR_LIMITS_MS[0] and kept.max() < mimic_iv_ecg.RR_LIMITS_MS[1]
    first = table[measured].drop_duplicates("subject_id")["rr_interval"]
    assert first.mean() == pytest.approx(817.0, abs=0.5) and first.std() == pytest.approx(188.0, abs=0.5)
    assert (first - first.mean()).abs().mean() == pytest.approx(149.2, abs=0.3)


def test_the_loader_reads_the_open_measurements(recordings: Path, tmp_path: Path) -> None:
    table = pd.read_csv(recordings / "mimic_iv_ecg" / "machine_measurements_subset.csv")
    table["report_0"] = np.where(table["label_af"] == 1, "Atrial fibrillation", "Sinus rhythm")
    table.to_csv(tmp_path / "machine_measurements.csv", index=False)
    table["path"] = [
        f"files/p{s // 10_000}/p{s}/s{n}/{n}" for s, n in zip(table["subject_id"], table["study_id"], strict=True)
    ]
    table[["subject_id", "study_id", "ecg_time", "path"]].to_csv(tmp_path / "record_list.csv", index=False)
    listed = mimic_iv_ecg.listing(tmp_path, 500)
    assert len(listed.table) == 19861 and len(listed.skipped) == 0
    found = mimic_iv_ecg.cohort(listed, listed.table, np.zeros((19861, 0, 0), np.float32), listed.skipped)
    assert found.counts["RR interval: missing, or stated as missing (0, 29999 and above)"] == 79
    assert found.counts["RR interval: impossible in ten seconds"] == 0
    assert found.table["rr_interval"].mean() == pytest.approx(823.28, abs=0.01)
    paper_cohort = mimic_iv_ecg.listing(tmp_path, 500, protocol="paper", cohort=2).table
    assert len(paper_cohort) == 4116 // 3 and paper_cohort["patient_id"].is_unique
