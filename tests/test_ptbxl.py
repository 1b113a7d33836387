"""PTB-XL and cohorts in its layout: the table, the selection, the labels, and what is left out."""

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from folders import N_RECORDS, RR_S, beat_train, write_ptbxl

from ecgmoe import datasets, records, tasks
from ecgmoe.datasets import DatasetError, ptbxl, reference
from ecgmoe.records import LEADS, RecordError, read_record, write_record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ptbxl(tmp_path / "ptb-xl")


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reference detectors, for tests that are not about what they find."""
    monkeypatch.setattr(
        reference, "measure", lambda signal, fs: reference.Reference(*np.full((2, len(signal)), np.nan))
    )


def change_table(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = root / "ptbxl_database.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def record_path(root: Path, ecg_id: int) -> Path:
    return root / f"records100/00000/{ecg_id:05d}_lr"


def edit(root: Path, column: str, ecg_id: int, value: object) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        table.loc[table["ecg_id"] == ecg_id, column] = value
        return table

    change_table(root, change)


def reason_of(cohort: datasets.Cohort, ecg_id: int) -> str:
    row = cohort.skipped[cohort.skipped["record"].str.contains(f"{ecg_id:05d}_lr")]
    assert len(row) == 1
    assert ecg_id not in cohort.table.index
    assert len(cohort.signal) == len(cohort.table)
    return str(row["reason"].iloc[0])


def test_records_labels_and_splits(root: Path) -> None:
    cohort = datasets.load(root, max_records=0)
    assert set(cohort.table["fold"]) == {6, 7, 8, 9}
    assert set(cohort.split) == {"train", "validation", "test"}
    assert cohort.signal.shape == (len(cohort), 12, 1000)
    assert cohort.signal.dtype == np.float32
    for row, (ecg_id, path) in enumerate(cohort.table["path"].items()):
        np.testing.assert_array_equal(cohort.signal[row], read_record(root / path).signal)
        assert cohort.table["rr_interval"][ecg_id] == pytest.approx(1000 * RR_S[ecg_id - 1], abs=3)
        assert cohort.table["sex"][ecg_id] == ecg_id % 2
    assert cohort.table["age"][5] == 90
    assert np.isnan(cohort.targets()["age"][cohort.table.index.get_loc(5)])
    assert list(cohort.tasks) == ["rr", "age", "sex", "rhythm"]
    assert cohort.counts["skipped"] == len(cohort.skipped) == 0
    assert "unknown version" in cohort.card.name


def test_rhythm_follows_codes_and_rate(root: Path) -> None:
    cohort = datasets.load(root, max_records=0)
    for ecg_id, rhythm in cohort.table["rhythm"].items():
        fast = 60 / RR_S[ecg_id - 1] > 100
        fibrillation = f"atrial fibrillation{' with rapid ventricular response' if fast else ''}"
        assert rhythm == (fibrillation, "sinus rhythm", None)[ecg_id % 3]
    assert cohort.counts["rhythm: no code"] == cohort.table["rhythm"].isna().sum()


@pytest.mark.usefixtures("unmeasured")
def test_a_limit_takes_whole_patients_of_folds_7_to_9(root: Path) -> None:
    everyone = datasets.load(root, max_records=0).table
    some = datasets.load(root, max_records=9).table
    assert 0 < len(some) <= 9
    assert set(some["fold"]) == {7, 8, 9}
    whole = everyone.groupby("patient_id").size()
    pd.testing.assert_series_equal(some.groupby("patient_id").size(), whole[whole.index.isin(some["patient_id"])])
    pd.testing.assert_frame_equal(some, datasets.load(root, max_records=9).table)
    assert len(datasets.load(root, max_records=1000).table) == (everyone["fold"] >= 7).sum()


@pytest.mark.usefixtures("unmeasured")
def test_the_choice_of_patients_depends_on_neither_order_nor_seed(root: Path) -> None:
    first = set(datasets.load(root, max_records=9).table.index)
    change_table(root, lambda table: table.sample(frac=1, random_state=1))
    assert set(datasets.load(root, max_records=9).table.index) == first


def test_second_reading_comes_from_the_cache_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = datasets.load(root, max_records=0)
    with monkeypatch.context() as patch:
        patch.setattr(records, "read_standard", lambda *_, **__: pytest.fail("read again"))
        patch.setattr(reference, "_detected_rr", lambda *_: pytest.fail("measured again"))
        assert datasets.load(root, max_records=0).digest == first.digest
    write_record(record_path(root, 1), beat_train(0.9, seed=99), 100)
    os.utime(record_path(root, 1).with_suffix(".dat"), ns=(1, 1))
    assert datasets.load(root, max_records=0).digest != first.digest


def test_other_lead_order_and_gain_give_the_same_numbers(root: Path) -> None:
    expected = read_record(record_path(root, 1)).signal
    order = [0, 1, 2, 3, 5, 4, *range(6, 12)]
    write_record(record_path(root, 1), expected[order], 100, [LEADS[i] for i in order], gain=200.0)
    cohort = datasets.load(root, max_records=0)
    np.testing.assert_allclose(cohort.signal[cohort.table.index.get_loc(1)], expected, atol=0.0026)


def lose_header(path: Path) -> None:
    path.with_suffix(".hea").unlink()


def lose_samples(path: Path) -> None:
    path.with_suffix(".dat").unlink()


def truncate(path: Path) -> None:
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes()[:-240])


def eleven_leads(path: Path) -> None:
    write_record(path, beat_train(0.8)[:11], 100, LEADS[:11])


def other_rate(path: Path) -> None:
    write_record(path, beat_train(0.8)[:, :500], 99)


def other_length(path: Path) -> None:
    write_record(path, beat_train(0.8)[:, :500], 100)


def constant_lead(path: Path) -> None:
    signal = beat_train(0.8)
    signal[7] = 0.25
    write_record(path, signal, 100)


def missing_samples(path: Path) -> None:
    samples = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12)
    samples[100:200, 3] = -(2**15)
    header = path.with_suffix(".hea")
    checksum = wfdb.rdheader(str(path)).checksum[3]
    samples.tofile(path.with_suffix(".dat"))
    new = int(samples[:, 3].sum(dtype=np.int64)) % 2**16
    header.write_text(header.read_text().replace(f" {checksum} 0 AVR", f" {new} 0 AVR"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lose_header, "not on disk"),
        (lose_samples, "not on disk"),
        (truncate, "truncated"),
        (eleven_leads, "lead V6 is missing"),
        (other_rate, "5.05051 s long, not 10 s"),
        (other_length, "5 s long, not 10 s"),
        (constant_lead, "lead V2 is constant"),
        (missing_samples, "missing samples (NaN) in lead AVR"),
    ],
)
@pytest.mark.usefixtures("unmeasured")
def test_a_damaged_record_is_listed_and_left_out(root: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(record_path(root, 2))
    cohort = datasets.load(root, max_records=0)
    assert reason in reason_of(cohort, 2)
    assert cohort.counts["skipped"] == 1
    assert cohort.counts["not on disk"] == (reason == "not on disk")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("scp_codes", "{'SR': ", "scp_codes"),
        ("scp_codes", "['SR']", "scp_codes"),
        ("scp_codes", "__import__('os').getcwd()", "scp_codes"),
        ("patient_id", "unknown", "no patient"),
        ("strat_fold", 11, "no fold"),
    ],
)
@pytest.mark.usefixtures("unmeasured")
def test_a_damaged_row_is_listed_and_left_out(root: Path, column: str, value: object, reason: str) -> None:
    edit(root, column, 2, value)
    assert reason in reason_of(datasets.load(root, max_records=0), 2)


@pytest.mark.parametrize("name", ["../outside/00002_lr", "/etc/00002_lr", "records100/../../00002_lr", "C:\\00002_lr"])
@pytest.mark.usefixtures("unmeasured")
def test_a_file_name_cannot_leave_the_folder(root: Path, name: str) -> None:
    (root.parent / "outside").mkdir()
    for suffix in (".hea", ".dat"):
        shutil.copy(record_path(root, 2).with_suffix(suffix), root.parent / f"outside/00002_lr{suffix}")
    edit(root, "filename_lr", 2, name)
    assert "leads out of the folder" in reason_of(datasets.load(root, max_records=0), 2)


@pytest.mark.usefixtures("unmeasured")
def test_a_linked_folder_is_the_users_own_decision(root: Path) -> None:
    expected = datasets.load(root, max_records=0).digest
    (root / "records100").rename(root.parent / "elsewhere")
    (root / "records100").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    assert datasets.load(root, max_records=0).digest == expected


@pytest.mark.usefixtures("unmeasured")
def test_a_file_name_may_carry_its_extension(root: Path) -> None:
    edit(root, "filename_lr", 2, "records100/00000/00002_lr.hea")
    assert datasets.load(root, max_records=0).table["path"][2] == "records100/00000/00002_lr"


@pytest.mark.usefixtures("unmeasured")
def test_missing_age_and_sex_are_missing_labels(root: Path) -> None:
    for ecg_id, age in ((2, ""), (3, -1), (5, 300), (7, 0), (8, 200), (10, 91)):
        edit(root, "age", ecg_id, age)
    edit(root, "sex", 2, 7)
    cohort = datasets.load(root, max_records=0)
    assert cohort.table.loc[2, ["age", "sex"]].isna().all()
    assert cohort.table["age"][[3, 8]].isna().all()
    assert cohort.table["age"][[5, 7, 10]].tolist() == [90, 0, 90]
    assert cohort.counts["age missing or impossible"] == 3
    assert cohort.counts["age over 89"] == 2
    assert cohort.counts["sex missing"] == 1


def without_column(root: Path) -> Path:
    change_table(root, lambda table: table.drop(columns="strat_fold"))
    return root


def twice(root: Path) -> Path:
    change_table(root, lambda table: pd.concat([table, table[:1]]))
    return root


def nameless(root: Path) -> Path:
    edit(root, "ecg_id", 2, "two")
    return root


def across_folds(root: Path) -> Path:
    edit(root, "strat_fold", 2, 10)
    return root


def not_csv(root: Path) -> Path:
    (root / "ptbxl_database.csv").write_bytes(b"\x80\x81\xff")
    return root


def no_text(root: Path) -> Path:
    (root / "ptbxl_database.csv").write_bytes(b"")
    return root


def no_files(root: Path) -> Path:
    shutil.rmtree(root / "records100")
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_column, "no column strat_fold"),
        (twice, "ecg_id 1 more than once"),
        (nameless, "no whole number"),
        (across_folds, "several folds"),
        (not_csv, "cannot be read as CSV"),
        (no_text, "cannot be read as CSV"),
        (no_files, "most often: not on disk"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(root: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        datasets.load(make(root), max_records=0)


def test_impossible_requests_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="fs = 250"):
        datasets.load(root, fs=250)
    with pytest.raises(ValueError, match="max_records = -1"):
        datasets.load(root, max_records=-1)
    with pytest.raises(DatasetError, match="not on disk, such as records500"):
        datasets.load(root, fs=500)


def test_records_without_two_beats_have_no_reference_interval() -> None:
    one_beat, step = np.zeros((12, 1000)), np.zeros((12, 1000))
    one_beat[:, 400:404], step[:, 500:] = 1.0, 2.0
    quiet = np.random.default_rng(0).normal(0, 1e-9, (12, 1000))
    odd = [np.zeros((12, 1000)), one_beat, quiet, beat_train(0.8), step]
    found = reference.measure(np.stack(odd).astype(np.float32), 100)
    assert np.isnan(found.rr_ms[:3]).all()
    assert np.isnan(found.rate_bpm[0])
    assert found.rr_ms[3] == pytest.approx(800, abs=2)


def test_detectors_that_disagree_give_a_rate_but_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_detected_rr", lambda *_: [800.0, 825.0])
    found = reference._measure(np.zeros((1, 12, 1000), np.float32), 100)
    assert np.isnan(found["rr_ms"][0])
    assert found["rate_bpm"][0] == pytest.approx((75 + 60_000 / 825) / 2)


def test_measuring_in_pieces_and_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path))
    signal = np.stack([beat_train(rr_s) for rr_s in (0.7, 0.9, 1.1)]).astype(np.float32)
    whole = reference._measure(signal, 100)
    monkeypatch.setattr(reference, "CHUNK", 2)
    monkeypatch.setattr(reference, "_WORTH_PROCESSES", 2)
    monkeypatch.setattr(reference, "_MAX_PROCESSES", 1)
    found = reference.measure(signal, 100)
    np.testing.assert_array_equal(found.rr_ms, whole["rr_ms"])
    np.testing.assert_array_equal(found.rate_bpm, whole["rate_bpm"])
    np.testing.assert_allclose(found.rr_ms, [700, 900, 1100], atol=2)


@pytest.mark.slow
def test_measuring_in_two_processes_changes_nothing() -> None:
    signal = np.stack([beat_train(rr_s) for rr_s in np.linspace(0.5, 1.3, 130)]).astype(np.float32)
    one = np.array(reference._measure_part(signal, 100))
    np.testing.assert_array_equal(np.stack(list(reference._measure(signal, 100).values()), axis=1), one)


def test_an_interrupted_measurement_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path))
    monkeypatch.setattr(reference, "CHUNK", 2)
    signal = np.random.default_rng(0).normal(size=(6, 12, 1000)).astype(np.float32)
    seen: list[int] = []

    def measure_three(record: np.ndarray, fs: int) -> tuple[float, float]:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(next(i for i, row in enumerate(signal) if row is record or np.array_equal(row, record)))
        return float(seen[-1]), 75.0

    monkeypatch.setattr(reference, "_measure_one", measure_three)
    with pytest.raises(KeyboardInterrupt):
        reference.measure(signal, 100)
    first = list(seen)
    for _ in range(2):
        seen.clear()
        with pytest.raises(KeyboardInterrupt) if len(first) < 5 else nullcontext():
            reference.measure(signal, 100)
        first += seen
    assert first == [0, 1, 2, 2, 3, 4, 4, 5]


def write_features(folder: Path, name: str, rr_ms: dict[int, float]) -> Path:
    """A table of PTB-XL+: the key is somewhere in the middle, and the rows are in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"QRS_Dur_Global": 90, "ecg_id": rr_ms.keys(), "RR_Mean_Global": rr_ms.values()})
    table.iloc[::-1].to_csv(folder / name, index=False)
    return folder


@pytest.mark.parametrize("place", ["../ptb-xl-plus-1.0.1/features", "ptb-xl+/features", "features"])
def test_ptbxl_plus_beside_the_folder_gives_the_rr_interval(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "measure", lambda *_: pytest.fail("measured"))
    ids = range(1, N_RECORDS + 1)
    write_features(root / place, "12sl_features.csv", {i: 800.0 + i for i in ids if i != 2} | {7: 0.0, 8: 29_999.0})
    unig = {i: 802.0 + i for i in ids if i not in (2, 5)} | {10: 900.0, 12: 590.0}
    write_features(root / place, "unig_features.csv", unig)
    write_features(root / place, "ecgdeli_features.csv", dict.fromkeys(ids, 1.0))  # a median, which is another label
    cohort = datasets.load(root, max_records=0)
    rr_ms = cohort.table["rr_interval"]
    for ecg_id in cohort.table.index:
        alone = {5: 805.0, 7: 809.0, 8: 810.0}  # one analysis found nothing, or nothing that can be
        missing = ecg_id in (2, 10, 12)  # neither has it; they differ by more than 20 ms
        expected = np.nan if missing else alone.get(ecg_id, 801.0 + ecg_id)
        np.testing.assert_equal(rr_ms[ecg_id], expected)
    inside = cohort.table.index
    assert cohort.counts["RR interval: not in PTB-XL+"] == len(inside.intersection([2]))
    assert cohort.counts["RR interval: only one analysis in PTB-XL+"] == len(inside.intersection([5, 7, 8]))
    assert cohort.counts["RR interval: analyses of PTB-XL+ disagree"] == len(inside.intersection([10, 12]))
    assert 12 in inside, "12 fibrillates, and its rate is known though its interval is not"
    assert cohort.table["rhythm"][12] == "atrial fibrillation"
    assert ptbxl.FEATURES_NOTE in cohort.card.notes and ptbxl.MEASURED_NOTE not in cohort.card.notes
    assert ptbxl.FEATURES_REFERENCE in cohort.card.references
    assert not cohort.table.columns.intersection(list(ptbxl.FEATURES)).any()


def test_ptbxl_plus_may_be_named_and_has_to_be_whole(root: Path, tmp_path: Path) -> None:
    folder = write_features(tmp_path / "far" / "away" / "features", "unig_features.csv", {1: 700.0})
    for features_root in (folder, str(folder.parent)):
        table = datasets.load(root, max_records=0, features_root=features_root).table
        assert table["rr_interval"].to_dict() == pytest.approx(
            {i: 700 if i == 1 else np.nan for i in table.index}, nan_ok=True
        )
    assert ptbxl.MEASURED_NOTE in datasets.load(root, max_records=0).card.notes
    with pytest.raises(DatasetError, match=r"holds neither 12sl_features.csv nor unig_features.csv"):
        datasets.load(root, features_root=tmp_path)
    (folder / "unig_features.csv").write_text("ecg_id,RR\n1,700\n")
    with pytest.raises(DatasetError, match="unig_features.csv has no column RR_Mean_Global"):
        datasets.load(root, features_root=folder)


@pytest.mark.parametrize(("listed", "name"), [(21837, "1.0.1"), (21801, "1.0.2"), (21799, "1.0.3"), (24, "unknown")])
def test_the_version_is_told_by_the_number_of_records(root: Path, listed: int, name: str) -> None:
    whole = ptbxl.listing(root, 100)
    assert whole.counts["listed"] == N_RECORDS
    one = whole.table[:1]
    cohort = ptbxl.cohort(
        replace(whole, counts={"listed": listed}), one, beat_train(0.8)[None].astype(np.float32), whole.skipped
    )
    assert name in cohort.card.name


def test_notes_and_statements_are_carried_and_counted(root: Path) -> None:
    edit(root, "scp_codes", 2, "{}")
    edit(root, "scp_codes", 7, "{'NORM': 100.0, 'STACH': 0.0, 'SR': 0.0}")
    cohort = datasets.load(root, max_records=0)
    table = cohort.table
    assert table["statements"][[1, 2, 7]].tolist() == ["NORM SR", "", "NORM STACH SR"]
    assert table["rhythm"][7] == "sinus tachycardia"
    assert table["static_noise"].to_dict() == {i: "I-AVR" if i % 5 == 0 else "" for i in table.index}
    assert table["validated_by_human"].to_dict() == {i: i > 4 for i in table.index}
    assert cohort.counts["noted: static noise"] == (table.index % 5 == 0).sum()
    assert cohort.counts["not validated by a human"] == (table.index <= 4).sum()
    assert cohort.counts["rhythm: several codes"] == cohort.counts["listed, several rhythm codes"] == 1
    assert cohort.counts["listed, no rhythm code"] == sum(i % 3 == 2 for i in range(1, N_RECORDS + 1))
    counts = ptbxl.statement_counts(table)
    assert counts.loc["NORM", "class"] == "", "the mapping has no use for it"
    assert counts.loc["STACH"].tolist() == [1, "sinus tachycardia", 0]
    assert counts.loc["SR", "records"] == table["statements"].str.contains("SR").sum()
    # Two of three records are normal, and one of these two has no rhythm; number 2 has lost its statement.
    no_code = cohort.counts["rhythm: no code"]
    assert counts.loc["NORM", "without a class"] == no_code - 1 == table["rhythm"].isna().sum() - 1


@pytest.mark.usefixtures("unmeasured")
def test_counts_add_up_to_the_records_listed(root: Path) -> None:
    truncate(record_path(root, 2))
    lose_samples(record_path(root, 3))
    edit(root, "patient_id", 6, "")
    for max_records in (0, 6, 1000):
        counts = datasets.load(root, max_records=max_records).counts
        last = next(name for name in counts if "fold 10" in name)
        assert counts["used"] + counts["skipped"] + counts["not asked for"] + counts[last] == counts["listed"]
        assert counts["listed"] == N_RECORDS
        assert (counts["not asked for"] > 0) == (max_records > 0)


def test_labels_are_counted_by_split(root: Path) -> None:
    cohort = datasets.load(root, max_records=0)
    counts = cohort.label_counts()
    pd.testing.assert_series_equal(
        counts[["train", "validation", "test"]].sum(axis=1), counts["all"], check_names=False
    )
    assert (counts.groupby("label")["all"].sum() == len(cohort)).all()
    assert counts.loc[("Age", "missing"), "all"] == cohort.counts["age over 89"] == 1
    assert counts.loc[("Sex", "female"), "all"] == cohort.table["sex"].sum()
    assert counts.loc[("Potassium abnormality", "missing"), "all"] == len(cohort)
    assert counts.loc[("Arrhythmia", "missing"), "all"] == cohort.counts["rhythm: no code"]


def simulate_labels(root: Path) -> None:
    rows = {"ecg_id": range(1, N_RECORDS + 1), "potassium": 4.0, "potassium_abnormal": 0, "rhythm": "other"}
    rows |= {"rr_ms": 777.0, "cause": "rhythm"}
    table = pd.DataFrame(rows).astype({"potassium": float})
    table.loc[table["ecg_id"] == 2, ["potassium", "rhythm"]] = [np.nan, None]
    table.to_csv(root / "simulated_labels.csv", index=False)


def test_simulated_labels_take_the_place_of_measured_ones(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_labels(root)
    monkeypatch.setattr(reference, "measure", lambda *_: pytest.fail("measured"))
    cohort = datasets.load(root, max_records=3)
    assert len(cohort) == (datasets.load(root, max_records=0).table["fold"] <= 9).sum() > 3
    assert list(cohort.tasks) == list(tasks.TASKS)
    assert (cohort.table["rr_interval"] == 777).all()
    assert set(cohort.table["rhythm"].drop(2)) == {"other"}
    assert cohort.table["rhythm"][2] is None
    assert np.isnan(cohort.table["potassium"][2])
    assert cohort.card == ptbxl.SIMULATED_CARD


def test_damaged_simulated_labels_are_refused(root: Path) -> None:
    simulate_labels(root)
    good = (root / "simulated_labels.csv").read_text()
    (root / "simulated_labels.csv").write_text(good.replace("other", "jazz"))
    with pytest.raises(DatasetError, match="no class: jazz"):
        datasets.load(root)
    (root / "simulated_labels.csv").write_text(good.replace("777.0", "soon"))
    with pytest.raises(DatasetError, match="text where numbers belong"):
        datasets.load(root)


@pytest.mark.usefixtures("unmeasured")
def test_tables_of_the_chapter(root: Path) -> None:
    truncate(record_path(root, 2))
    lose_samples(record_path(root, 3))
    cohort = datasets.load(root, max_records=0)
    summary = cohort.summary()
    assert summary.loc["Potassium abnormality", "train"] == "not available"
    assert summary.loc["Records"].astype(int).sum() == len(cohort)
    assert cohort.skipped_by_reason()["records"].sum() == 2
    assert ("Licence", "CC BY 4.0") in list(cohort.card.table().itertuples(index=False, name=None))


def test_real_ptbxl_with_one_fold_on_disk(recordings: Path) -> None:
    cohort = datasets.load(recordings / "ptbxl", max_records=60)
    assert cohort.card.name == "PTB-XL 1.0.3"
    assert set(cohort.table["fold"]) == {9}
    assert 50 <= len(cohort) <= 60
    assert cohort.counts["not on disk"] == 2176 + 2173
    assert cohort.table["rr_interval"].notna().mean() > 0.95
    assert cohort.table["rr_interval"].dropna().between(300, 2000).all()


@pytest.mark.slow
def test_real_fold_9_whole(recordings: Path) -> None:
    cohort = datasets.load(recordings / "ptbxl", max_records=0)
    counts = cohort.table["rhythm"].value_counts()
    assert len(cohort) == 2183
    assert (cohort.table["rhythm"].notna().sum(), counts["sinus rhythm"], counts.min()) == (2100, 1510, 17)
    assert cohort.table["rr_interval"].notna().mean() > 0.99


def test_reference_detectors_agree_with_annotations_of_ludb(recordings: Path) -> None:
    errors = []
    for header in sorted(recordings.glob("ludb/data/*.hea"))[::5]:
        raw = wfdb.rdrecord(str(header.with_suffix("")))
        marks = wfdb.rdann(str(header.with_suffix("")), "ii")
        true = np.array([at for at, mark in zip(marks.sample, marks.symbol, strict=True) if mark == "N"])
        inside = slice(true[0] - 150, true[-1] + 150)  # annotations leave out beats at both ends
        lead = raw.p_signal[inside, [name.lower() for name in raw.sig_name].index("ii")]
        found = reference._detected_rr(lead, 500)
        if np.ptp(found) <= reference.AGREEMENT_MS:
            errors.append(abs(np.mean(found) - tasks.mean_rr_interval(true, 500)))
    assert len(errors) >= 25
    assert np.mean(errors) < 2.0


def test_record_error_survives_a_process_border() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RecordError("r", "why", "how")))
    assert (error.record, error.reason, error.cure) == ("r", "why", "how")
