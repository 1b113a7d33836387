"""The simulated cohort: reproducible, written as PTB-XL writes, and with the effects it claims."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from ecgmoe import cache, tasks
from ecgmoe.datasets import _effects, _waves, simulated
from ecgmoe.records import LEADS

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "simulated_sample"
SPLITS = {**dict.fromkeys(range(1, 8), "train"), 8: "validation", 9: "test"}


@pytest.fixture(scope="module")
def cohort() -> simulated.Simulation:
    """One block of patients: every rhythm at least three times."""
    return simulated.simulate(100, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated.write(tmp_path_factory.mktemp("simulated") / "cohort", n_patients=5, seed=3)


def quiet(rhythm: str, potassium: float = 4.2, seed: int = 0, age: float = 50.0, sex: int = 0):
    """A record without noise, and its draw; the same seed gives the same heart whatever the other arguments."""
    heart = _waves.draw_heart(np.random.default_rng([seed, 1]), age, sex)
    draw = _waves.draw_record(np.random.default_rng([seed, 2]), heart, rhythm, potassium)
    draw.levels[:] = draw.mains[:] = 0.0
    return _waves.render([draw])[0], draw


def height(signal: np.ndarray, draw: _waves.Draw, on: int, off: int) -> float:
    """Mean over beats of the largest deflection (RMS over leads, mV) between two fiducial columns."""
    spans = draw.fiducials[:, [on, off]]
    spans = spans[(spans[:, 0] > 0) & (spans[:, 1] < _waves.SAMPLES - 1)].astype(int)
    power = np.sqrt((signal**2).mean(0))
    return float(np.mean([power[a : b + 1].max() for a, b in spans]))


def test_same_seed_same_cohort_other_seed_another(cohort: simulated.Simulation) -> None:
    again, other = simulated.simulate(3, seed=0), simulated.simulate(3, seed=1)
    records = len(again.labels)
    np.testing.assert_array_equal(again.signal, simulated.simulate(3, seed=0).signal)
    np.testing.assert_allclose(again.signal, cohort.signal[:records], atol=1e-4)
    assert np.abs(again.signal[0] - other.signal[0]).max() > 0.1


def test_a_record_depends_on_its_patient_only(cohort: simulated.Simulation) -> None:
    part = simulated.simulate(4, seed=0, first=60)
    where = np.flatnonzero(cohort.labels["patient_id"].between(61, 64))
    np.testing.assert_allclose(part.signal, cohort.signal[where], atol=1e-4)
    pd.testing.assert_frame_equal(part.labels, cohort.labels.iloc[where].reset_index(drop=True), check_dtype=False)
    for mine, whole in zip(part.r_peaks, where, strict=True):
        np.testing.assert_array_equal(mine, cohort.r_peaks[whole])


def test_every_rhythm_is_in_every_split_and_sinus_rhythm_leads(cohort: simulated.Simulation) -> None:
    counts = pd.crosstab(cohort.labels["rhythm"], cohort.labels["strat_fold"].map(SPLITS))
    assert set(counts.index) == set(tasks.RHYTHMS)
    assert (counts[["train", "validation", "test"]] > 0).all(axis=None)
    share = (cohort.labels["rhythm"] == "sinus rhythm").mean()
    assert 0.33 < share < 0.45


def test_folds_are_by_patient_and_seven_to_one_to_two() -> None:
    places = [place for block in range(10) for place in simulated._block(0, block)]
    splits = pd.Series([SPLITS[fold] for _, fold in places]).value_counts(normalize=True)
    assert splits.to_dict() == {"train": 0.7, "test": 0.2, "validation": 0.1}
    per_rhythm = pd.crosstab(*np.array([(rhythm, SPLITS[fold] == "test") for rhythm, fold in places]).T)
    assert (per_rhythm[1] * 5 == per_rhythm.sum(axis=1)).all()


def test_no_patient_is_in_two_folds(cohort: simulated.Simulation) -> None:
    assert (cohort.labels.groupby("patient_id")["strat_fold"].nunique() == 1).all()
    assert cohort.labels["ecg_id"].is_unique
    assert cohort.labels["patient_id"].duplicated().any()


def test_labels_agree_with_each_other(cohort: simulated.Simulation) -> None:
    labels = cohort.labels
    rr = [tasks.mean_rr_interval(peaks, _waves.FS) for peaks in cohort.r_peaks]
    np.testing.assert_allclose(labels["rr_ms"], rr, atol=1e-3)
    assert (labels["potassium_abnormal"] == ~labels["potassium"].between(3.5, 5.0)).all()
    absent = {
        "consider acute st elevation mi",
        "warning: data quality may affect interpretation",
        "possible ectopic atrial rhythm",
    }
    known = {code for code, *_ in simulated.SCP_STATEMENTS}
    for row in labels.itertuples():
        codes = ast.literal_eval(row.scp_codes)
        assert known.issuperset(codes)
        if row.rhythm not in absent:
            assert tasks.rhythm_from_scp(codes, 60_000 / row.rr_ms) == row.rhythm
        causes = dict(part.split(":") for part in row.cause.split(";"))
        assert ("potassium" in causes) == bool(row.potassium_abnormal)
        assert {"rr", "age", "sex", "rhythm"} <= causes.keys()


def test_ages_above_89_are_censored_as_in_ptbxl() -> None:
    ages = {simulated._patient(0, patient)[1][0]["age"] for patient in range(120)}
    assert simulated.AGE_ABOVE_89 in ages
    assert max(ages - {simulated.AGE_ABOVE_89}) <= tasks.AGE_CENSORED_ABOVE


def test_signals_are_plausible_and_obey_einthoven_and_goldberger(cohort: simulated.Simulation) -> None:
    one, two, three, avr, avl, avf = cohort.signal[:, :6].transpose(1, 0, 2)
    for left, right in (
        (three, two - one),
        (avr, -(one + two) / 2),
        (avl, (one - three) / 2),
        (avf, (two + three) / 2),
    ):
        np.testing.assert_allclose(left, right, atol=1e-5)
    assert np.isfinite(cohort.signal).all()
    assert cohort.signal.std(axis=2).min() > 1e-3
    assert np.abs(cohort.signal).max() < 15


def test_files_are_what_wfdb_reads(folder: Path) -> None:
    table = pd.read_csv(folder / "ptbxl_database.csv")
    assert list(table) == simulated.PTBXL_COLUMNS
    part = simulated.simulate(5, seed=3)
    for column, fs in (("filename_lr", 100), ("filename_hr", 500)):
        for row, name in enumerate(table[column]):
            record = wfdb.rdrecord(str(folder / name), physical=False)
            assert (record.fs, record.sig_len) == (fs, fs * 10)
            assert record.sig_name == [lead.upper() for lead in LEADS]
            assert set(record.fmt) == {"16"} and set(record.adc_gain) == {1000.0}
            assert [c % 65536 for c in record.calc_checksum()] == record.checksum
            digital = record.d_signal
            assert np.abs(digital[:, 2] - (digital[:, 1] - digital[:, 0])).max() <= 2
            if fs == 500:
                np.testing.assert_allclose(digital.T / 1000, part.signal[row], atol=6e-4)
            else:
                assert np.corrcoef(digital[100:-100, 1], part.signal[row, 1, 500:-500:5])[0, 1] > 0.85
    assert sorted(path.name for path in folder.glob("*.csv")) == [
        "ptbxl_database.csv",
        "scp_statements.csv",
        "simulated_beats.csv",
        "simulated_labels.csv",
    ]


def test_true_beats_lie_beside_the_records(folder: Path) -> None:
    beats = pd.read_csv(folder / "simulated_beats.csv")
    labels = pd.read_csv(folder / "simulated_labels.csv").set_index("ecg_id")
    assert list(labels) == simulated.SIMULATED_COLUMNS[1:]
    assert list(beats) == ["ecg_id", "r", *_waves.FIDUCIALS]
    rr = beats.groupby("ecg_id")["r"].agg(lambda r: tasks.mean_rr_interval(r.to_numpy(), _waves.FS))
    pd.testing.assert_series_equal(rr, labels["rr_ms"], check_names=False, atol=1e-3)
    assert (beats["qrs_on"] < beats["r"]).all() and (beats["r"] < beats["qrs_off"]).all()
    assert (beats["t_off"] > beats["t_on"]).all() and (beats["t_on"] > beats["r"]).all()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_CHUNK", 1)
    original, calls = simulated._write_records, []

    def interrupted(root: Path, part: simulated.Simulation) -> None:
        original(root, part)
        calls.append(root)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(simulated, "_write_records", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulated.write(tmp_path / "cohort", n_patients=3)
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_a_folder_in_use_and_simulate_an_empty_cohort(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name a folder that does not exist"):
        simulated.write(tmp_path, n_patients=1)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(ValueError, match="at least 1"):
        simulated.simulate(0)
    with pytest.raises(ValueError, match='choose "ptbxl" or "mimic-iv-ecg"'):
        simulated.write(tmp_path / "new", n_patients=1, layout="mimic")
    assert not (tmp_path / "new").exists()


def test_ensure_writes_once_and_clears_what_a_killed_run_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path))
    root = simulated.ensure(n_patients=1, seed=5)
    assert root.parent == cache.cache_dir() and (root / "ptbxl_database.csv").is_file()
    written = (root / "ptbxl_database.csv").stat().st_mtime_ns
    assert simulated.ensure(n_patients=1, seed=5) == root
    assert (root / "ptbxl_database.csv").stat().st_mtime_ns == written

    leftover = tmp_path / f".{simulated.ensure(n_patients=1, seed=6).name}-dead"
    leftover.mkdir()
    other = tmp_path / leftover.name[1:-5]
    other.rename(tmp_path / "moved")
    simulated.ensure(n_patients=1, seed=6)
    assert other.is_dir() and not leftover.exists()


@pytest.mark.parametrize("seed", range(3))
def test_potassium_changes_t_p_qrs_and_u_in_the_stated_direction(seed: int) -> None:
    normal, low, mild, high = (quiet("sinus rhythm", level, seed) for level in (4.2, 2.6, 6.0, 7.5))
    t = [height(*record, 4, 5) for record in (low, normal, mild, high)]
    assert t == sorted(t) and t[3] > 1.5 * t[1] and t[0] < 0.8 * t[1]
    assert height(*high, 0, 1) < 0.8 * height(*normal, 0, 1)
    widths = [np.diff(draw.fiducials[:, 2:4]).mean() for _, draw in (normal, high)]
    assert widths[1] > widths[0] + 3
    u = [draw.kernels[:, _waves.U, 2:] for _, draw in (normal, low)]
    assert np.linalg.norm(u[1], axis=1).min() > 3 * np.linalg.norm(u[0], axis=1).max()
    st = [signal[10, draw.fiducials[4:6, 3].astype(int) + 30].mean() for signal, draw in (low, normal)]
    assert st[0] < st[1] - 0.02


def p_to_qrs(signal: np.ndarray, draw: _waves.Draw) -> np.ndarray:
    """From the largest deflection of lead II before each QRS to its onset, ms."""
    ends = draw.fiducials[:, 2]
    ends = ends[(ends > 220) & (ends < _waves.SAMPLES)].astype(int)
    before = [np.abs(signal[1, end - 170 : end - 8] - np.median(signal[1, end - 200 : end - 8])) for end in ends]
    return np.array([2.0 * (170 - part.argmax()) for part in before])


@pytest.mark.parametrize("seed", range(4))
def test_pr_is_longer_in_block_and_measurable(seed: int) -> None:
    block = "sinus rhythm with 1st degree a-v block"
    borderline = "sinus rhythm with borderline 1st degree a-v block"
    measured = {}
    for rhythm, (shortest, longest) in (
        ("sinus rhythm", (110.0, 200.0)),
        (borderline, (200.0, 220.0)),
        (block, (220.0, 320.0)),
        ("possible ectopic atrial rhythm", (90.0, 120.0)),
    ):
        signal, draw = quiet(rhythm, seed=seed, age=35.0)
        pr = 2.0 * (draw.fiducials[:, 2] - draw.fiducials[:, 0])
        assert shortest <= pr.min() and pr.max() <= longest
        measured[rhythm] = np.median(p_to_qrs(signal, draw))
    assert measured["sinus rhythm"] < measured[borderline] < measured[block]


def test_premature_beats_pauses_and_missing_p_waves() -> None:
    _, draw = quiet("sinus rhythm with pvc(s)")
    width = draw.fiducials[:, 3] - draw.fiducials[:, 2]
    early = np.flatnonzero(width > 60)
    rr = np.diff(draw.r)
    usual = np.median(rr)
    assert len(early) and np.isnan(draw.fiducials[early, 0]).all()
    inner = early[(early > 0) & (early < len(draw.r) - 1)]
    assert (rr[inner - 1] < 0.75 * usual).all()
    np.testing.assert_allclose(rr[inner - 1] + rr[inner], 2 * usual, rtol=0.12)

    _, draw = quiet("sinus rhythm with pac(s)")
    rr = np.diff(draw.r)
    first = int(rr.argmin())
    assert rr[first] < 0.8 * np.median(rr) and rr[first] + rr[first + 1] < 1.98 * np.median(rr)
    assert np.isfinite(draw.fiducials[:, 0]).all()

    for rhythm in ("atrial fibrillation", "atrial fibrillation with rapid ventricular response"):
        signal, draw = quiet(rhythm)
        assert np.isnan(draw.fiducials[:, 0]).all()
        assert np.diff(draw.r).std() / np.diff(draw.r).mean() > 0.1
        gaps = zip(draw.fiducials[:-1, 5].astype(int) + 60, draw.fiducials[1:, 2].astype(int) - 5, strict=True)
        waves = [signal[6, on:off].std() for on, off in gaps if 0 <= on < off - 40 and off < _waves.SAMPLES]
        assert not waves or np.median(waves) > 0.01


def test_st_elevation_has_a_territory_and_a_reciprocal_depression() -> None:
    seen = {}
    for seed in range(25):
        signal, draw = quiet("consider acute st elevation mi", seed=seed, sex=1)
        plain, other = quiet("sinus rhythm", seed=seed, sex=1)
        beat = [marks[3].astype(int) + 25 for marks in (draw.fiducials[4], other.fiducials[4])]
        shift = signal[:, beat[0]] - plain[:, beat[1]]
        territory = next(code for code in draw.codes if code in _effects.INJURY)
        seen.setdefault(territory, []).append(dict(zip(LEADS, shift, strict=True)))
    mean = {key: pd.DataFrame(rows).mean() for key, rows in seen.items()}
    assert mean["AMI"]["V3"] > 0.2 and mean["AMI"]["III"] < -0.05
    assert mean["IMI"]["III"] > 0.2 and mean["IMI"]["aVL"] < -0.1
    assert mean["LMI"]["aVL"] > 0.1 and mean["LMI"]["III"] < -0.1


def test_sex_and_age_shift_intervals_and_waves() -> None:
    def hearts(age: float, sex: int) -> list[_waves.Heart]:
        return [_waves.draw_heart(np.random.default_rng([seed, 1]), age, sex) for seed in range(60)]

    def mean(group: list[_waves.Heart], name: str) -> float:
        return float(np.mean([getattr(heart, name) for heart in group]))

    men, women, old, young = hearts(50, 0), hearts(50, 1), hearts(80, 0), hearts(25, 0)
    assert mean(men, "qrs_ms") > mean(women, "qrs_ms") + 4
    assert mean(men, "qtc_ms") < mean(women, "qtc_ms") - 8
    assert mean(old, "pr_ms") > mean(young, "pr_ms") + 8
    assert mean(old, "rsa") < 0.6 * mean(young, "rsa")
    front = [-np.mean([heart.t[2] for heart in group]) for group in (young, men, old, women)]
    assert front[0] > front[1] > front[2] and front[1] > front[3]
    voltage = [np.mean([np.linalg.norm(heart.qrs[1]) for heart in group]) for group in (young, men, old, women)]
    assert voltage[0] > voltage[1] > voltage[2] and voltage[1] > voltage[3]


def test_qt_follows_the_cube_root_of_rr() -> None:
    qt, rr = [], []
    for rhythm in ("sinus bradycardia", "sinus rhythm", "sinus tachycardia"):
        _, draw = quiet(rhythm)
        qt.append(2.0 * (draw.fiducials[:, 5] - draw.fiducials[:, 2]).mean())
        rr.append(np.diff(draw.r).mean() / _waves.FS)
    corrected = np.array(qt) / np.cbrt(rr)
    assert qt[0] > qt[1] > qt[2]
    assert np.ptp(corrected) < 4.0


def test_the_committed_sample_is_what_the_library_writes() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*")) < 2_000_000
    table = pd.read_csv(SAMPLE / "ptbxl_database.csv")
    part = simulated.simulate(8, seed=0)
    assert table["ecg_id"].tolist() == part.labels["ecg_id"].tolist()
    labels = pd.read_csv(SAMPLE / "simulated_labels.csv")
    pd.testing.assert_frame_equal(labels, part.labels[simulated.SIMULATED_COLUMNS], check_dtype=False)
    for signal, name in zip(part.signal, table["filename_hr"], strict=True):
        stored = np.fromfile(SAMPLE / f"{name}.dat", "<i2").reshape(-1, 12).T
        assert np.abs(stored - 1000 * signal).max() <= 1.0
