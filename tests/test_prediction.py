"""Predictions on anyone's ECG: windows, leads, warnings, intervals, and that all doors give the same answers."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import ecg, toy_cohort

import ecgmoe
from ecgmoe import backbones, caution, inference, plots, prediction, windows
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.prediction import COLUMNS, Calibration, ModelError, Predictor
from ecgmoe.records import LEADS, RecordError
from ecgmoe.sources import Recording
from ecgmoe.tasks import RHYTHMS, TASKS

TASKS_HERE = ("rr", "age", "sex", "rhythm")
CALIBRATION = Calibration({"rr": 7.0, "age": 15.0}, {"sex": 2.0, "rhythm": 0.5}, {"sex": -0.1})


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(40)


@pytest.fixture(scope="module")
def predictor(cohort) -> Predictor:
    """A model that answers something of its own for every record, over one small backbone."""
    network = backbones.build("dlinear", "compact-random")
    torch.manual_seed(0)
    model = ECGMoE(ECGMoEConfig({"dlinear": network.d_features}, tasks=TASKS_HERE)).eval()
    inputs = inference.made_for(model, torch.from_numpy(cohort.signal))
    with torch.no_grad():
        inputs = inputs._replace(features={"dlinear": network.features(cohort.signal, cohort.fs)})
    model.fit_scales(inputs, {name: torch.from_numpy(values) for name, values in cohort.targets().items()})
    for layer in (*model.heads.values(), *model.shortcut.values()):
        torch.nn.init.normal_(layer.weight, std=0.05)
    covariance = np.mean([np.cov(one) for one in cohort.signal], axis=0)
    return Predictor(model, {"dlinear": network}, {}, CALIBRATION, covariance)


def cut(predictor: Predictor, recording: Recording):
    return windows.cut(recording, predictor.model.config.fs, predictor.lead_covariance)


def test_the_columns_are_those_that_are_promised(predictor, cohort):
    table = predictor.predict(cohort.signal[:3], cohort.fs)
    assert tuple(table.columns) == COLUMNS
    assert ",".join(COLUMNS) == (
        "record,start_s,rr_ms,rr_ms_low,rr_ms_high,age_years,age_years_low,age_years_high,sex,sex_female_probability,"
        "rhythm,rhythm_probability,warnings,potassium_abnormal_probability"
    )
    assert table["record"].tolist() == [0, 1, 2] and (table["start_s"] == 0).all()
    assert set(table["rhythm"]) <= set(RHYTHMS) and set(table["sex"]) <= {"male", "female"}
    assert table["potassium_abnormal_probability"].isna().all()


def test_answers_are_those_of_the_model_with_its_calibration(predictor, cohort):
    table = predictor.predict(cohort.signal, cohort.fs)
    plain = inference.answer(predictor.model, predictor.networks, cohort.signal, cohort.fs).predictions
    np.testing.assert_allclose(table["rr_ms"], plain["rr"], rtol=1e-5)
    np.testing.assert_allclose(table["age_years"], plain["age"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(table["age_years_high"] - table["age_years"], 15, rtol=1e-6)
    np.testing.assert_allclose(table["age_years_low"], np.maximum(table["age_years"] - 15, 0), atol=1e-6)
    logit = np.log(plain["sex"] / (1 - plain["sex"]))
    np.testing.assert_allclose(table["sex_female_probability"], 1 / (1 + np.exp(0.1 - 2 * logit)), rtol=1e-3)
    assert ((table["sex"] == "female") == (table["sex_female_probability"] > 0.5)).all()
    assert (table["rhythm"] == np.array(RHYTHMS)[plain["rhythm"].argmax(1)]).all()
    softer = plain["rhythm"] ** 0.5
    np.testing.assert_allclose(table["rhythm_probability"], (softer / softer.sum(1, keepdims=True)).max(1), rtol=1e-4)


def test_without_calibration_there_are_no_intervals(predictor, cohort):
    bare = Predictor(predictor.model, predictor.networks)
    table = bare.predict(cohort.signal[:2], cohort.fs)
    assert table["rr_ms"].notna().all() and table[["rr_ms_low", "age_years_high"]].isna().all(None)


def test_one_recording_is_a_batch_of_one_and_batches_change_nothing(predictor, cohort, monkeypatch):
    whole = predictor.predict(cohort.signal, cohort.fs)
    alone = predictor.predict(cohort.signal[7], cohort.fs)
    monkeypatch.setattr(prediction, "BATCH", 3)
    parts = predictor.predict(cohort.signal, cohort.fs)
    for column in COLUMNS[2:8]:
        np.testing.assert_allclose(alone[column][0], whole[column][7], rtol=1e-4)
        np.testing.assert_allclose(parts[column], whole[column], rtol=1e-4, atol=1e-3)


def test_a_longer_recording_has_a_row_for_every_ten_seconds(predictor):
    signal, _ = ecg([0.8] * 60, 250.0, seconds=34.0)
    table = predictor.predict(signal[0], 250.0)
    assert table["start_s"].tolist() == [0, 10, 20]
    np.testing.assert_allclose(table["rr_ms"], 800, atol=5)


@pytest.mark.parametrize("fs", [50.0, 128.0, 257.0, 360.0, 500.0, 1000.0])
def test_the_rate_of_a_recording_does_not_matter(predictor, fs):
    signal, _ = ecg([0.9] * 20, fs, noise=0.0)
    table = predictor.predict(signal[0], fs)
    assert table["rr_ms"][0] == pytest.approx(900, abs=6)
    assert ("sampled at 50 Hz" in table["warnings"][0]) == (fs == 50)


def test_only_what_is_asked_for_is_answered(predictor, cohort):
    table = predictor.predict(cohort.signal[:2], cohort.fs, tasks=("sex",))
    assert table["sex"].notna().all()
    assert table[["rr_ms", "age_years", "rhythm", "rhythm_probability"]].isna().all(None)
    nothing = predictor.predict(cohort.signal[:2], cohort.fs, tasks=("potassium",))
    assert len(nothing) == 2 and nothing["rr_ms"].isna().all(), "a task that the model does not know is left empty"
    with pytest.raises(ValueError, match="unknown task height"):
        predictor.predict(cohort.signal[:2], cohort.fs, tasks=("height",))


def test_leads_are_found_by_name(predictor, cohort):
    order = np.random.default_rng(0).permutation(12)
    mixed = predictor.predict(cohort.signal[:4][:, order], cohort.fs, [LEADS[i].upper() for i in order])
    pd.testing.assert_frame_equal(mixed, predictor.predict(cohort.signal[:4], cohort.fs))


def einthoven(signal_LT: np.ndarray) -> np.ndarray:
    """The same recording with limb leads that obey Einthoven's law."""
    one, two = signal_LT[0].copy(), np.roll(signal_LT[1], 3)
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([limbs, signal_LT[6:]]).astype(np.float32)


def test_limb_leads_are_computed_from_any_two_of_them(predictor, cohort):
    signal = einthoven(cohort.signal[0])
    whole = predictor.predict(signal, cohort.fs)
    for there in ((0, 1), (2, 3), (4, 5), (1, 4)):
        rows = [*there, *range(6, 12)]
        found = predictor.predict(signal[rows], cohort.fs, [LEADS[i] for i in rows])
        np.testing.assert_allclose(found["age_years"], whole["age_years"], rtol=1e-3)
        gone = ", ".join(LEADS[i] for i in range(6) if i not in there)
        assert found["warnings"][0].startswith(f"missing: {gone}; computed from other limb leads: {gone}")


def test_other_leads_are_guessed_and_this_is_said(predictor, cohort):
    window = next(cut(predictor, Recording("a", cohort.signal[0, :6], cohort.fs, LEADS[:6])))
    assert window.warnings == (
        "missing: V1, V2, V3, V4, V5, V6",
        "guessed from the other leads: V1, V2, V3, V4, V5, V6",
    )
    assert np.abs(window.signal_LT[6:]).max() > 0
    truth, made = cohort.signal[0, 6:], window.signal_LT[6:]
    assert np.square(truth - made).mean() < 0.1 * np.square(truth - truth.mean()).mean()
    bare = Predictor(predictor.model, predictor.networks)
    window = next(cut(bare, Recording("a", cohort.signal[0, :6], cohort.fs, LEADS[:6])))
    assert np.abs(window.signal_LT[6:]).max() == 0 and window.warnings == ("missing: V1, V2, V3, V4, V5, V6",)


def test_the_guess_is_the_linear_one_with_the_least_squared_error():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 12)) @ rng.normal(size=(12, 5000))
    there = np.arange(12) < 7
    made = windows.guess(np.cov(x), there) @ x[there]
    best = np.linalg.lstsq(x[there].T, x[~there].T, rcond=None)[0].T @ x[there]
    np.testing.assert_allclose(np.square(made - x[~there]).mean(), np.square(best - x[~there]).mean(), rtol=0.02)


def test_a_lead_with_missing_samples_or_without_a_signal_is_as_one_that_is_not_there(predictor, cohort):
    signal = einthoven(cohort.signal[0])
    damaged = signal.copy()
    damaged[2, 100:110] = np.nan
    damaged[4] = 0.3
    table = predictor.predict(damaged, cohort.fs)
    assert "gap of 100 ms in: III; flat: aVL; computed from other limb leads: III, aVL" in table["warnings"][0]
    whole = predictor.predict(signal, cohort.fs)
    np.testing.assert_allclose(table["age_years"], whole["age_years"], rtol=1e-3)


def test_a_short_gap_is_bridged_and_a_long_one_harms_no_other_window(predictor):
    signal, _ = ecg([0.8] * 60, 500.0, seconds=30.0)
    whole = predictor.predict(signal[0], 500.0)
    holes = signal[0].copy()
    holes[:, 4060:4080] = np.nan  # between T and the next P
    bridged = predictor.predict(holes, 500.0)
    np.testing.assert_allclose(bridged["rr_ms"], whole["rr_ms"], atol=0.1)
    np.testing.assert_allclose(bridged["age_years"], whole["age_years"], atol=2)
    assert (bridged["warnings"] == whole["warnings"]).all()
    holes[:] = signal[0] + 5
    holes[:, 5000:10000] = np.nan
    first, second, third = cut(predictor, Recording("a", holes, 500.0, LEADS))
    reference = list(cut(predictor, Recording("a", signal[0] + 5, 500.0, LEADS)))
    assert first.usable and third.usable and not second.usable
    assert np.abs(first.signal_LT - reference[0].signal_LT)[:, :-20].max() < 0.01


@pytest.mark.parametrize("fs", [333.333, 499.99987, 256.41])
def test_rates_without_a_neat_ratio_are_read(predictor, fs):
    signal, _ = ecg([0.8] * 30, fs, seconds=21.0)
    table = predictor.predict(signal[0], fs)
    assert len(table) == 2 and table["rr_ms"].to_numpy() == pytest.approx(800, abs=6)


def test_leads_that_are_not_used_are_said(predictor, cohort):
    said = predictor.predict(cohort.signal[0, :2], cohort.fs, ["MCL1", "V5"])["warnings"][0]
    assert said.startswith("not used: MCL1") and "missing: I, II" in said


def test_a_limb_lead_on_the_chest_counts_as_the_limb_lead_and_this_is_said(predictor, cohort):
    found = predictor.predict(cohort.signal[0, [1, 10]], cohort.fs, ["MLII", "V5"])
    assert found["warnings"][0].startswith("MLII taken as II; missing: I, III")
    same = predictor.predict(cohort.signal[0, [1, 10]], cohort.fs, ["II", "V5"])
    assert found["age_years"].equals(same["age_years"]) and "taken" not in same["warnings"][0]


def test_what_has_no_heartbeat_is_not_answered_and_costs_no_other_record(predictor, cohort):
    signal = cohort.signal[:4].copy()
    signal[1] = 0.0
    signal[2] = np.nan
    signal[3] *= 30
    table = predictor.predict(signal, cohort.fs)
    answers = [column for column in COLUMNS[2:12] if column != "warnings"]
    assert table.loc[[0], answers].notna().all(None)
    assert table.loc[[1, 2, 3], answers].isna().all(None)
    assert prediction.answered(table) == 1
    assert table["warnings"][1].endswith("no lead to answer from") and "missing: I" in table["warnings"][2]
    assert "is the unit right?" in table["warnings"][3]


ANSWERS = [column for column in COLUMNS[2:12] if column != "warnings"]


def noise(millivolt: float, seed: int = 0) -> np.ndarray:
    return (millivolt * np.random.default_rng(seed).standard_normal((12, 1000))).astype(np.float32)


def test_where_nothing_beats_for_long_nothing_is_answered(predictor):
    single, _ = ecg([20.0], 100.0, noise=0.0)
    heart, _ = ecg([0.8] * 20, 100.0, noise=0.0)
    ends, silent = heart[0].copy(), heart[0].copy()
    ends[:, 300:] = noise(0.005)[:, 300:]
    silent[:, 500:] = 0.0
    table = predictor.predict(np.stack([single[0], ends, silent, noise(0.02)]), 100.0)
    assert table[ANSWERS].isna().all(None)
    said = table["warnings"].str.extract(r"no heartbeat for (\d\.\d) s: pause, asystole or loss of signal")[0]
    np.testing.assert_allclose(said[:3].astype(float), [9.5, 7.0, 5.0], atol=0.5)
    assert "no heartbeat found" in table["warnings"][3] or np.isfinite(float(said[3]))


@pytest.mark.parametrize("rr_s", [2.0, 2.4, 2.5])
def test_a_slow_heart_is_answered(predictor, rr_s):
    signal, _ = ecg([rr_s] * 10, 100.0, noise=0.0)
    table = predictor.predict(signal[0], 100.0)
    assert table[ANSWERS[3:6]].notna().all(None) and "no heartbeat" not in table["warnings"][0]


def test_beats_that_differ_tenfold_in_size_are_not_answered(predictor):
    signal, at = ecg([0.8] * 20, 100.0, noise=0.0)
    small = signal[0].copy()
    small[:, int(at[3]) - 30 : int(at[3]) + 40] *= 0.08
    large = signal[0].copy()
    large[:, int(at[3]) - 30 : int(at[3]) + 40] *= 3
    found = prediction.beats.detect_r_peaks(small[None], 100.0)[0]
    table = predictor.predict(np.stack([small, large]), 100.0)
    if len(found) == len(at):  # else the detector did not take the small one for a beat
        assert table.loc[[0], ANSWERS].isna().all(None) and "differ in size" in table["warnings"][0]
    assert table.loc[[1], ANSWERS].notna().all(None) and "differ in size" not in table["warnings"][1]


def test_beats_unlike_each_other_are_said_to_be_and_one_premature_beat_is_not(predictor):
    signal, at = ecg([0.8] * 20, 100.0)
    odd = signal[0].copy()
    odd[:, int(at[4]) - 5 : int(at[4]) + 6] *= -2
    table = predictor.predict(np.stack([signal[0], odd, signal[0] + noise(0.2)]), 100.0)
    unlike = table["warnings"].str.contains("beats unlike each other: RR interval and rhythm may be wrong")
    assert unlike.tolist() == [False, False, True]


def test_where_no_beat_is_like_another_nothing_is_answered(predictor):
    """Ventricular flutter, which is no class: waves of a changing rate and size without any QRS complex; or noise."""
    rng, t = np.random.default_rng(3), np.arange(1000) / 100.0
    turned = 2 * np.pi * np.cumsum(4.5 + 1.5 * np.interp(t, np.arange(11), rng.standard_normal(11))) / 100
    size = 0.6 + 0.2 * np.interp(t, np.arange(0, 10.1, 0.5), rng.uniform(-1, 1, 21))
    flutter = (rng.uniform(0.5, 1.5, (12, 1)) * size * np.sin(turned + rng.uniform(0, 6, (12, 1)))).astype(np.float32)
    signal, _ = ecg([0.8] * 20, 100.0)
    table = predictor.predict(np.stack([signal[0], flutter, noise(0.1), noise(0.5), noise(2.0)]), 100.0)
    assert table[ANSWERS].notna().all(axis=1).tolist() == [True] + 4 * [False]
    assert table.loc[1:, ANSWERS].isna().all(None)
    assert "no beat is like another: ventricular flutter, or noise" in table["warnings"][1]


def test_exchanged_limb_leads_are_told_of(predictor):
    signal, _ = ecg([0.8] * 20, 100.0, noise=0.0)
    signal = einthoven(signal[0])
    exchanged, scaled, torn = signal[[0, 1, 2, 3, 5, 4, *range(6, 12)]], signal.copy(), signal.copy()
    scaled[3] *= 2
    torn[2] *= 2
    said = predictor.predict(np.stack([signal, exchanged, scaled, torn]), 100.0)["warnings"].tolist()
    assert "exchanged" not in said[0] and "the sum of" not in said[0]
    assert "aVL, aVF: not what I and II make of them: exchanged, or of another gain?" in said[1]
    assert "aVR: not what I and II make" in said[2] and "lead II is not the sum of I and III" in said[3]


def test_the_quality_of_leads_that_were_guessed_is_not_spoken_of(predictor, cohort):
    wander = 5 * np.sin(2 * np.pi * 0.3 * np.arange(1000) / 100)
    two = np.stack([cohort.signal[0, 1], cohort.signal[0, 6] + wander.astype(np.float32)])
    said = predictor.predict(two, cohort.fs, leads=("II", "V1"))["warnings"][0]
    assert "poor quality: V1" in said and "poor quality: V1, V2" not in said


def test_flat_tops_are_said_to_be_clipped(predictor):
    signal, _ = ecg([0.8] * 20, 500.0)
    clipped = signal[0].copy()
    clipped[3:5] = np.clip(clipped[3:5], -0.1, 0.15)
    first, second = predictor.predict(np.stack([signal[0], clipped]), 500.0)["warnings"]
    assert "clipped" not in first and "clipped: aVR, aVL" in second


@pytest.mark.parametrize("off", [-0.5, 0.0, 0.07, 0.4])
@pytest.mark.parametrize("hz", windows.MAINS_HZ)
@pytest.mark.parametrize("fs", [137.7, 250.0, 1000 / 3, 500.0, 1000.0])
def test_hum_of_the_mains_is_filtered_out_and_told_of(predictor, fs, hz, off):
    """Up to both ends, of a recording that ends within a window; other leads stay as they are."""
    signal, _ = ecg([0.8] * 30, fs, seconds=19.0, noise=0.0)
    signal = signal[0].astype(np.float32)
    humming = signal.copy()
    humming[1:3] += (0.3 * np.sin(2 * np.pi * (hz + off) * np.arange(signal.shape[1]) / fs)).astype(np.float32)
    (plain,), (heard,) = (tuple(cut(predictor, Recording("a", one, fs, LEADS))) for one in (signal, humming))
    assert not any("hum" in said for said in plain.warnings)
    (said,) = (said for said in heard.warnings if "hum" in said)
    assert said.startswith(f"hum of {hz:g} Hz, up to 0.") and said.endswith("mV, filtered out of: II, III")
    assert 0.2 < float(said.split("up to ")[1].split()[0]) < 0.35
    left = heard.signal_LT - plain.signal_LT
    assert np.abs(left).max() < 0.01 and (left[[0, *range(3, 12)]] == 0).all()


def test_hum_of_two_mains_is_filtered_out_of_the_windows_that_have_it_alone(predictor):
    signal, _ = ecg([0.8] * 40, 500.0, seconds=30.0, noise=0.0)
    signal, at = signal[0].astype(np.float32), np.arange(15000) / 500
    humming = signal.copy()
    humming[1] += (0.3 * np.sin(100 * np.pi * at) * ((at >= 12) & (at < 18))).astype(np.float32)
    humming[1] += (0.1 * np.sin(120 * np.pi * at) * (at < 20)).astype(np.float32)
    plain, heard = ([*cut(predictor, Recording("a", one, 500.0, LEADS))] for one in (signal, humming))
    said = [[said.split(",")[0] for said in window.warnings if "hum" in said] for window in heard]
    assert said == [["hum of 60 Hz"], ["hum of 50 Hz", "hum of 60 Hz"], []]
    left = [np.abs(one.signal_LT - other.signal_LT) for one, other in zip(heard, plain, strict=True)]
    assert left[0].max() < 0.01 and left[2][:, 10:].max() < 0.01
    inside = np.r_[0:150, 250:750, 850:980]  # not where hum begins or ends: a filter cannot follow at once
    assert left[1][:, inside].max() < 0.01


@pytest.mark.parametrize("beats_per_minute", [60, 75, 100, 150])
def test_steep_waves_of_a_regular_rhythm_are_not_called_hum(predictor, beats_per_minute):
    signal, _ = ecg([60 / beats_per_minute] * 40, 500.0)
    spikes = signal[0].astype(np.float32)
    spikes[:, :: round(500 * 60 / beats_per_minute)] += 10
    (window,) = cut(predictor, Recording("a", spikes, 500.0, LEADS))
    assert not any("hum" in said for said in window.warnings)


def test_noise_is_not_called_hum(predictor):
    signal, _ = ecg([0.8] * 20, 500.0, noise=0.7)
    (window,) = cut(predictor, Recording("a", signal[0].astype(np.float32), 500.0, LEADS))
    assert not any("hum" in said for said in window.warnings)


def test_hum_is_left_where_a_rate_is_too_low_to_tell(predictor):
    signal, _ = ecg([0.8] * 20, 100.0)
    signal = signal[0].astype(np.float32)
    signal[1] += 0.3 * np.cos(np.pi * np.arange(1000)).astype(np.float32)
    (window,) = cut(predictor, Recording("a", signal, 100.0, LEADS))
    assert not any("hum" in said for said in window.warnings)
    np.testing.assert_array_equal(window.signal_LT, signal)


def test_many_single_samples_that_are_missing_are_told_of(predictor, cohort):
    half, few = cohort.signal[0].copy(), cohort.signal[0].copy()
    half[1:3, 1::2] = np.nan
    few[1, ::100] = np.nan
    said = predictor.predict(np.stack([half, few]), cohort.fs)["warnings"]
    assert "up to 50 % of the samples are missing and interpolated in: II, III" in said[0] and "missing" not in said[1]


def test_a_gap_is_told_from_a_lead_that_is_missing(predictor, cohort):
    signal = cohort.signal[0].copy()
    signal[:, 300:320] = np.nan
    table = predictor.predict(signal, cohort.fs)
    assert table["warnings"][0] == f"gap of 200 ms in: {', '.join(LEADS)}; no lead to answer from"
    assert table[ANSWERS].isna().all(None)
    signal[3] = np.nan
    signal[4, 300:330] = np.nan
    said = predictor.predict(signal, cohort.fs)["warnings"][0]
    assert said.startswith("missing: aVR; gap of 300 ms in: aVL; gap of 200 ms in: I, II, III, aVF")


@pytest.mark.parametrize(
    ("leads", "empty"),
    [
        (LEADS, ()),
        (("I", "II", *LEADS[6:]), ()),  # the other limb leads follow from two of them
        (LEADS[:6], ("sex", "interval")),
        (("II",), ("sex", "interval")),
        (("II", "V2"), ("interval",)),
        (("II", "V6"), ("sex", "interval")),
        (("I", "V5", "V6"), ("sex", "interval")),
        (("V2",), ("sex", "rhythm", "interval")),
        (LEADS[6:], ("sex", "rhythm", "interval")),
    ],
)
def test_what_rests_on_guessed_leads_is_withheld_and_said(predictor, cohort, leads, empty):
    at = [LEADS.index(lead) for lead in leads]
    table = predictor.predict(cohort.signal[:2, at], cohort.fs, leads)
    rests = {
        "sex": (["sex", "sex_female_probability"], "no sex without"),
        "rhythm": (["rhythm", "rhythm_probability"], "no rhythm without"),
        "interval": (["age_years_low", "age_years_high"], "no interval of age"),
    }
    for name, (columns, words) in rests.items():
        assert (table[columns].isna() == (name in empty)).all(axis=None), name
        assert table["warnings"].str.contains(words).all() == (name in empty), name
    assert table[["rr_ms", "rr_ms_low", "age_years"]].notna().all(None)
    recordings = [Recording("a", cohort.signal[0, at], cohort.fs, tuple(leads))]
    (all_said,) = predictor.stream(recordings, any_leads=True)
    assert all_said.table[ANSWERS].notna().all(None), "what is withheld can be measured"


def test_an_rr_interval_beyond_what_the_model_knows_is_left_empty(predictor, monkeypatch):
    signal, _ = ecg([3.0] * 10, 100.0, noise=0.0)
    table = predictor.predict(signal[0], 100.0)
    rr = ["rr_ms", "rr_ms_low", "rr_ms_high"]
    assert table[rr].isna().all(None) and np.isfinite(table["age_years"][0])
    assert "RR interval beyond what the model can say" in table["warnings"][0]


def test_masked_samples_are_missing_and_single_names_are_taken(predictor, cohort):
    mask = np.zeros(cohort.signal[0].shape, bool)
    mask[:, 300:320] = True
    table = predictor.predict(np.ma.masked_array(cohort.signal[0], mask), cohort.fs)
    assert "gap of 200 ms" in table["warnings"][0]
    one = predictor.predict(cohort.signal[0, :2][1:], cohort.fs, "II", tasks="rr")
    assert one["rr_ms"].notna().all() and one["rhythm"].isna().all()
    for fs in ("500", None):
        with pytest.raises(ValueError, match="give it as a number"):
            predictor.predict(cohort.signal[0], fs)


def test_random_backbones_are_built_from_their_seed(cohort, tmp_path):
    networks = {"dlinear": backbones.build("dlinear", "compact-random", seed=3)}
    torch.manual_seed(0)
    model = ECGMoE(ECGMoEConfig({"dlinear": networks["dlinear"].d_features}, tasks=("sex",), preset="compact-random"))
    prediction.save(model, tmp_path / "model", seed=3)
    again = prediction.load(tmp_path / "model")
    assert backbones.weights_digest(again.networks["dlinear"]) == backbones.weights_digest(networks["dlinear"])
    (tmp_path / "model" / "card.json").unlink()
    with pytest.raises(ModelError, match="no card.json says from which seed"):
        prediction.load(tmp_path / "model")
    compact = ECGMoE(replace(model.config, preset="compact"))
    prediction.save(compact, tmp_path / "compact")
    card = json.loads((tmp_path / "compact" / "card.json").read_text())
    assert card["backbones"] == {"dlinear": prediction.sha256(prediction.SHIPPED_BACKBONES / "dlinear.safetensors")}
    assert "seed" not in card and prediction.load(tmp_path / "compact").calibration is None


def test_a_disturbed_lead_is_said_to_be_poor(predictor, cohort):
    signal = cohort.signal[0].copy()
    signal[9] += 5 * np.sin(2 * np.pi * 0.3 * np.arange(signal.shape[1]) / cohort.fs)  # the baseline wanders
    assert "poor quality: V4" in predictor.predict(signal, cohort.fs)["warnings"][0]
    signal = einthoven(cohort.signal[0])
    assert predictor.predict(signal, cohort.fs)["warnings"][0] == ""
    signal[2] *= 1.5
    assert "lead II is not the sum of I and III" in predictor.predict(signal, cohort.fs)["warnings"][0]
    assert "the sum" not in predictor.predict(signal[1:], cohort.fs, LEADS[1:])["warnings"][0], "I is not there"


@pytest.mark.parametrize("per_minute", caution.BEATS_PER_MINUTE)
def test_the_rr_interval_of_slow_and_fast_hearts_is_right(per_minute):
    signal, _ = ecg([60 / per_minute] * 60, 500.0)
    table = prediction.load().predict(signal, 500.0, tasks="rr")
    assert table["rr_ms"][0] == pytest.approx(60_000 / per_minute, abs=10)


def test_what_cannot_be_used_is_refused(predictor, cohort):
    for signal, fs, leads, reason in (
        (cohort.signal[0, :, :900], 100, None, "9 s long, shorter than 10 s"),
        (cohort.signal[0, :, :999], 100, None, "9.99 s long"),
        (cohort.signal[0, :2], 100, ("X", "Y"), "none of its leads"),
        (cohort.signal[0, 0], 100, None, "shape"),
        (cohort.signal[0], 1e-9, None, "rates from 25 to"),
        (cohort.signal[0], 1e9, None, "rates from 25 to"),
    ):
        with pytest.raises(RecordError, match=reason):
            predictor.predict(signal, fs, leads)
    with pytest.raises(ValueError, match="positive"):
        predictor.predict(cohort.signal[0], 0)
    assert len(predictor.predict(cohort.signal[:0], 100)) == 0


def test_where_the_model_looked_is_given_for_every_beat_and_drawn(predictor, cohort):
    recording = Recording("a", cohort.signal[0], cohort.fs, LEADS)
    (one,) = predictor.explain(recording)
    assert list(one.attention.index) == [TASKS[name].title for name in TASKS_HERE]
    assert one.attention.shape[1] == len(one.peaks) <= 16
    np.testing.assert_allclose(one.experts.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(one.paths.sum(1), 1, rtol=1e-5)
    assert (one.attention.sum(1) <= 1 + 1e-5).all() and (one.attention.to_numpy() >= 0).all()
    fig = plots.explained(one)
    assert f"{one.row['age_years']:.0f} [" in fig.get_suptitle() and one.row["rhythm"] in fig.get_suptitle()
    for probability, said in ((1.0, "> 99 %"), (0.995, "> 99 %"), (0.994, "99 %"), (0.005, "< 1 %"), (0.006, "1 %")):
        row = pd.Series({**one.row, "rhythm_probability": probability})
        assert f"{one.row['rhythm']} ({said})" in plots.explained(one._replace(row=row)).get_suptitle(), probability
    flat = replace(recording, signal=np.zeros_like(recording.signal))
    (nothing,) = predictor.explain(flat)
    assert "nothing could be predicted" in plots.explained(nothing).get_suptitle()
    with pytest.raises(RecordError, match="shorter"):
        predictor.explain(replace(recording, signal=recording.signal[:, :10]))


@pytest.fixture
def shipped(predictor, tmp_path, monkeypatch):
    """The predictor as a shipped model named ``toy``."""
    weights = prediction.SHIPPED_BACKBONES / "dlinear.safetensors"
    model = ECGMoE(replace(predictor.model.config, preset="compact"))
    model.load_state_dict(predictor.model.state_dict())
    folder = tmp_path / "models" / "toy"
    model.save_pretrained(folder)
    card = {
        "files": {"model.safetensors": prediction.sha256(folder / "model.safetensors")},
        "backbones": {"dlinear": prediction.sha256(weights)},
        "calibration": {"half_width": {"rr": 7.0, "age": 15.0}, "scale": {"sex": 2.0}, "shift": {"sex": 0.0}},
        "lead_covariance": predictor.lead_covariance.tolist(),
    }
    (folder / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(prediction, "SHIPPED", folder.parent)
    return folder


def test_an_installation_without_the_shipped_models_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "SHIPPED", tmp_path / "data" / "models")  # of a wheel
    with pytest.raises(prediction.ModelError, match=r"no model compact-ptbxl; .* install a checkout in place"):
        ecgmoe.load()


def test_a_shipped_model_is_loaded_by_name_or_folder(shipped, cohort, capsys):
    by_name, by_folder = ecgmoe.load("toy"), prediction.load(shipped)
    assert capsys.readouterr().out == "", "standard output belongs to predictions"
    assert by_name.calibration.level == 0.95 and by_name.card["files"]
    pd.testing.assert_frame_equal(
        by_name.predict(cohort.signal[:3], cohort.fs), by_folder.predict(cohort.signal[:3], cohort.fs)
    )


def test_files_that_are_not_those_of_the_card_are_refused(shipped):
    with pytest.raises(ModelError, match="shipped are toy"):
        prediction.load("other")
    card = json.loads((shipped / "card.json").read_text())
    (shipped / "card.json").write_text(json.dumps(card | {"backbones": {"dlinear": "0" * 64}}))
    with pytest.raises(ModelError, match="other weights of this backbone"):
        prediction.load("toy")
    (shipped / "card.json").write_text(json.dumps(card))
    data = (shipped / "model.safetensors").read_bytes()
    (shipped / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match="SHA-256"):
        prediction.load("toy")
    (shipped / "card.json").write_text("{")
    with pytest.raises(ModelError, match="card.json cannot be read"):
        prediction.load("toy")
    (shipped / "card.json").unlink()
    (shipped / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        prediction.load("toy")
    (shipped / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no such file"):
        prediction.load("toy")
