"""PTB-XL and cohorts in its layout: the table, the selection, the labels, and what is left out."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecgmoe import datasets, tasks
from ecgmoe.datasets import DatasetError, ptbxl, reference
from ecgmoe.records import LEADS, RecordError, read_record, write_record

N_RECORDS, N_PATIENTS = 24, 16


def beat_train(rr_s: float, fs: int = 100, seed: int = 0) -> np.ndarray:
    """Ten seconds of narrow beats with a little noise on twelve leads, mV."""
    t = np.arange(10 * fs) / fs
    beats = sum(np.exp(-0.5 * ((t - at) / 0.012) ** 2) for at in np.arange(0.4, 10, rr_s))
    waves = sum(0.2 * np.exp(-0.5 * ((t - at - 0.25) / 0.04) ** 2) for at in np.arange(0.4, 10, rr_s))
    noise = np.random.default_rng(seed).normal(0, 0.01, (12, len(t)))
    return np.linspace(0.8, 1.2, 12)[:, None] * (beats + waves) + noise


RR_S = np.linspace(0.6, 1.2, N_RECORDS)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty-four records of sixteen patients in folds 6 to 10, in PTB-XL's layout, and a cache of their own."""
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "ptb-xl"
    (folder / "records100" / "00000").mkdir(parents=True)
    ids = np.arange(1, N_RECORDS + 1)
    patients = ids % N_PATIENTS
    codes = np.where(
        ids % 3 == 0, "{'AFIB': 0.0}", np.where(ids % 3 == 1, "{'NORM': 80.0, 'SR': 0.0}", "{'NORM': 0.0}")
    )
    names = [f"records100/00000/{i:05d}_lr" for i in ids]
    pd.DataFrame(
        {
            "ecg_id": ids,
            "patient_id": patients.astype(float),
            "age": np.where(ids == 5, 300.0, 40.0 + ids),
            "sex": ids % 2,
            "scp_codes": codes,
            "strat_fold": 6 + patients % 5,
            "filename_lr": names,
            "filename_hr": [name.replace("100/", "500/").replace("_lr", "_hr") for name in names],
        }
    ).to_csv(folder / "ptbxl_database.csv", index=False)
    upper = tuple(lead.upper() for lead in LEADS)
    for name, rr_s, seed in zip(names, RR_S, ids, strict=True):
        write_record(folder / name, beat_train(rr_s, seed=seed), 100, upper)
    return folder


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


def test_a_limit_takes_whole_patients_of_folds_7_to_9(root: Path) -> None:
    everyone = datasets.load(root, max_records=0).table
    some = datasets.load(root, max_records=9).table
    assert 0 < len(some) <= 9
    assert set(some["fold"]) == {7, 8, 9}
    whole = everyone.groupby("patient_id").size()
    pd.testing.assert_series_equal(some.groupby("patient_id").size(), whole[whole.index.isin(some["patient_id"])])
    pd.testing.assert_frame_equal(some, datasets.load(root, max_records=9).table)
    assert len(datasets.load(root, max_records=1000).table) == (everyone["fold"] >= 7).sum()


def test_the_choice_of_patients_depends_on_neither_order_nor_seed(root: Path) -> None:
    first = set(datasets.load(root, max_records=9).table.index)
    change_table(root, lambda table: table.sample(frac=1, random_state=1))
    assert set(datasets.load(root, max_records=9).table.index) == first


def test_second_reading_comes_from_the_cache_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = datasets.load(root, max_records=0)
    with monkeypatch.context() as patch:
        patch.setattr(ptbxl, "_read_one", lambda *_: pytest.fail("read again"))
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
    write_record(path, beat_train(0.8), 50)


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
        (other_rate, "50 instead of 100 Hz"),
        (other_length, "500 samples instead of 1000"),
        (constant_lead, "lead V2 is constant"),
        (missing_samples, "missing samples (NaN) in lead AVR"),
    ],
)
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
def test_a_damaged_row_is_listed_and_left_out(root: Path, column: str, value: object, reason: str) -> None:
    edit(root, column, 2, value)
    assert reason in reason_of(datasets.load(root, max_records=0), 2)


@pytest.mark.parametrize("name", ["../outside/00002_lr", "/etc/00002_lr", "records100/../../00002_lr", "C:\\00002_lr"])
def test_a_file_name_cannot_leave_the_folder(root: Path, name: str) -> None:
    (root.parent / "outside").mkdir()
    for suffix in (".hea", ".dat"):
        shutil.copy(record_path(root, 2).with_suffix(suffix), root.parent / f"outside/00002_lr{suffix}")
    edit(root, "filename_lr", 2, name)
    assert "leads out of the folder" in reason_of(datasets.load(root, max_records=0), 2)


def test_a_file_name_may_carry_its_extension(root: Path) -> None:
    edit(root, "filename_lr", 2, "records100/00000/00002_lr.hea")
    assert datasets.load(root, max_records=0).table["path"][2] == "records100/00000/00002_lr"


def test_missing_age_and_sex_are_missing_labels(root: Path) -> None:
    edit(root, "age", 2, "")
    edit(root, "sex", 2, 7)
    cohort = datasets.load(root, max_records=0)
    assert cohort.table.loc[2, ["age", "sex"]].isna().all()
    assert cohort.counts["age or sex missing"] == 1


def nowhere(root: Path) -> Path:
    return root / "nowhere"


def a_file(root: Path) -> Path:
    return root / "ptbxl_database.csv"


def empty(root: Path) -> Path:
    (root.parent / "empty").mkdir()
    return root.parent / "empty"


def above(root: Path) -> Path:
    return root.parent


def another(name: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root.parent / "other").mkdir()
        (root.parent / "other" / name).write_text("")
        return root.parent / "other"

    return make


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
        (nowhere, "does not exist"),
        (a_file, "is a file"),
        (empty, "is empty"),
        (above, "further down"),
        (another("machine_measurements.csv"), "MIMIC-IV-ECG, which is not supported in this version"),
        (another("record_list.csv"), "MIMIC-IV-ECG, which is not supported in this version"),
        (another("photo.png"), "it holds photo.png but no ptbxl_database.csv"),
        (without_column, "no column strat_fold"),
        (twice, "ecg_id 1 more than once"),
        (nameless, "no whole number"),
        (across_folds, "several folds"),
        (not_csv, "cannot be read as CSV"),
        (no_text, "cannot be read as CSV"),
        (no_files, "most often: not on disk"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(root: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        datasets.load(make(root), max_records=0)


def test_impossible_requests_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="fs = 250"):
        datasets.load(root, fs=250)
    with pytest.raises(ValueError, match="max_records = -1"):
        datasets.load(root, max_records=-1)
    with pytest.raises(DatasetError, match="filename_hr"):
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


def test_simulated_is_a_name_for_the_default_cohort(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_labels(root)
    monkeypatch.setattr("ecgmoe.datasets.simulated.ensure", lambda: root)
    assert datasets.load().digest == datasets.load(root).digest


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
