"""Interventions on recordings, checked against the simulator's true onsets and ends of waves."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import resample_poly
from synthetic import toy_cohort

from ecgmoe import beats, interventions
from ecgmoe.datasets import Card, Cohort, simulated
from ecgmoe.interventions import MARKS, PHASES, RATE

FS = 100
WITHOUT_P = ("fibrillation", "other", "pacing", "warning", "pac(s)", "pvc(s)")


@pytest.fixture(scope="module")
def simulation():
    return simulated.simulate(60, seed=3)


@pytest.fixture(scope="module")
def cohort(simulation):
    table = simulation.labels.rename(columns={"strat_fold": "fold", "filename_lr": "path", "rr_ms": "rr_interval"})
    signal = resample_poly(simulation.signal, 1, 5, axis=-1, padtype="line").astype(np.float32)
    nothing = pd.DataFrame(columns=["record", "reason"])
    return Cohort(Card("simulated", "made", "none", "none", ()), table, signal, FS, nothing)


@pytest.fixture(scope="module")
def peaks(cohort):
    return beats.detect_r_peaks(cohort.signal, FS)


@pytest.fixture(scope="module")
def usual(cohort):
    return interventions.usual(cohort)


@pytest.fixture(scope="module")
def made(cohort, peaks, usual):
    return interventions.make_usual(cohort.signal, FS, peaks, usual)


@pytest.fixture(scope="module")
def truth(simulation):
    """True onsets and ends in seconds relative to R, the median over a record's beats, columns as ``MARKS``."""
    return np.array(
        [
            np.nanmedian((marks[:, [0, 1, 2, 3, 5]] - r[:, None]) / 500, axis=0) if np.isfinite(marks[:, 0]).any() else
            np.append([np.nan, np.nan], np.median((marks[:, [2, 3, 5]] - r[:, None]) / 500, axis=0))
            for r, marks in zip(simulation.r_peaks, simulation.fiducials, strict=True)
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(cohort):
    """Records with a P wave before every beat, at one distance, and little noise; much potassium wipes P out."""
    steady = [not any(word in rhythm for word in WITHOUT_P) for rhythm in cohort.table["rhythm"]]
    return np.array(steady) & (cohort.table["potassium"] < 6.5).to_numpy()


def between(signal, peaks, start_B, end_B, points=40):
    """Median over beats of each record's signal between two times relative to R, over the line that joins its ends."""
    out = []
    for x_CT, r_N, start, end in zip(signal, peaks, start_B, end_B, strict=True):
        times = r_N[:, None] / FS + np.linspace(start, end, points)
        times = times[(times[:, 0] >= 0) & (times[:, -1] < x_CT.shape[1] / FS)]
        beat_CL = np.median([[np.interp(t, np.arange(x_CT.shape[1]) / FS, x) for x in x_CT] for t in times], axis=0)
        ramp = np.linspace(0, 1, points)
        out.append(beat_CL - beat_CL[:, :1] * (1 - ramp) - beat_CL[:, -1:] * ramp)
    return np.array(out)


def scatter(waves):
    """How far records' waves are from the median record, RMS in mV."""
    return float(np.sqrt(np.mean((waves - np.median(waves, axis=0)) ** 2)))


def test_landmarks_are_near_the_truth_at_every_rate(cohort, peaks, truth, plain):
    found = interventions.landmarks(cohort.signal, FS, peaks)
    error = (found - truth)[plain] * 1000
    assert plain.sum() > 50 and found.shape == (len(cohort), len(MARKS))
    for mark, column in zip(MARKS, error.T, strict=True):
        assert np.nanquantile(np.abs(column), 0.9) < 36, mark
    assert np.isfinite(error).all(1).mean() > 0.93, "P and T are found in nearly all"
    fast = (cohort.table["rhythm"] == "sinus tachycardia").to_numpy()[plain]
    assert fast.sum() >= 3 and np.nanmedian(np.abs(error[fast])) < 25


def test_nothing_but_the_named_part_is_touched(cohort, peaks, made, truth, plain):
    original = cohort.signal.copy()
    assert list(made) == list(PHASES)
    rows = np.flatnonzero(plain)
    seconds = np.arange(1000) / FS
    changes = []
    for phase, first, last in (("P", 0, 2), ("PR", 0, 2), ("QRS", 2, 3), ("ST", 3, 4), ("T", 3, 4)):
        changed, moved = made[phase]
        assert changed.shape == original.shape and changed.dtype == np.float32
        for row in rows[:20]:
            np.testing.assert_array_equal(moved[row], peaks[row])
            inside = np.zeros(1000, bool)
            wide = 0.18 if phase == "T" else 0.03  # U follows T
            early = 0.1 if phase == "PR" else 0.05  # P may be moved forward
            period = np.diff(peaks[row]).mean() / FS
            for r in [peaks[row][0] / FS - period, *(peaks[row] / FS), peaks[row][-1] / FS + period]:
                inside |= (seconds > r + truth[row, first] - early) & (seconds < r + truth[row, last] + wide)
            same = np.isclose(changed[row], original[row], atol=1e-5).all(0)
            assert same[~inside].mean() > 0.97, (phase, row)
            changes.append(not same[inside].all())
    assert np.mean(changes) > 0.95
    np.testing.assert_array_equal(cohort.signal, original)


@pytest.mark.parametrize(("phase", "first", "last"), [("P", 0, 1), ("QRS", 2, 3), ("T", 3, 4)])
def test_a_wave_that_was_made_usual_is_the_same_in_all_records(cohort, peaks, made, truth, plain, phase, first, last):
    start, end = truth[plain, first], truth[plain, last]
    own = [p for p, yes in zip(peaks, plain, strict=True) if yes]
    before = between(cohort.signal[plain], own, start, end)
    after = between(made[phase][0][plain], own, start, end)
    assert scatter(after) < 0.5 * scatter(before)


def test_st_is_brought_to_the_usual_level(cohort, peaks, usual, made, plain):
    def levels(signal):
        beat, rr = interventions._median_beats(signal, FS, peaks), interventions._rr(peaks, FS)
        marks = interventions._landmarks(beat, rr)
        seconds = np.arange(beat.shape[-1]) / RATE - interventions.BEFORE
        return np.stack([interventions._st_level(*pair, seconds) for pair in zip(beat, marks, strict=True)])[plain]

    before, after = levels(cohort.signal), levels(made["ST"][0])
    assert np.abs(before - usual.st).mean() > 0.01
    assert np.abs(after - usual.st).mean() < 0.3 * np.abs(before - usual.st).mean()


def test_every_pr_interval_becomes_the_usual_one_and_p_stays(cohort, peaks, usual, made, plain, truth):
    before, after = (interventions.landmarks(signal, FS, peaks)[plain] for signal in (cohort.signal, made["PR"][0]))
    pr = [(marks[:, 2] - marks[:, 0]) * 1000 for marks in (before, after)]
    assert np.nanstd(pr[0]) > 30
    assert np.mean(np.abs(pr[1] - usual.pr * 1000) < 20) > 0.95
    own = [p for p, yes in zip(peaks, plain, strict=True) if yes]
    heights = [
        np.abs(between(signal, own, marks[:, 0], marks[:, 1])).max((1, 2))
        for signal, marks in ((cohort.signal[plain], before), (made["PR"][0][plain], after))
    ]
    assert np.median(np.abs(heights[1] / heights[0] - 1)) < 0.15


def test_the_pace_is_that_of_a_metronome_and_the_waves_stay(cohort, peaks, usual, made, plain):
    changed, moved = made["RR"]
    for p in moved:
        np.testing.assert_allclose(np.diff(p) / FS, usual.rr, atol=1e-6)
    assert len({len(p) for p in moved}) <= 2
    found = beats.detect_r_peaks(changed[plain], FS)
    intervals = np.concatenate([np.diff(p) for p in found]) / FS
    assert np.mean(np.abs(intervals - usual.rr) < 0.02) > 0.97
    of_old, of_new = (interventions.landmarks(s, FS, p)[plain] for s, p in ((cohort.signal, peaks), (changed, moved)))
    assert np.nanmedian(np.abs(of_new[:, 0] - of_old[:, 0])) < 0.008, "P keeps its place before R"
    assert np.median(np.abs(of_new[:, 3] - of_old[:, 3])) < 0.008, "QRS keeps its duration"
    steps = np.abs(np.diff(changed, axis=-1)).max((1, 2)) / np.abs(np.diff(cohort.signal, axis=-1)).max((1, 2))
    assert np.median(steps[plain]) < 1.1 and np.quantile(steps[plain], 0.95) < 1.5, "no step where cycles meet"


def test_fibrillation_gets_a_p_wave(cohort, usual, made, peaks):
    rows = np.flatnonzero(cohort.table["rhythm"].str.contains("fibrillation"))
    own = [peaks[row] for row in rows]
    seconds, wave = usual.waves["P"]
    marks = interventions.landmarks(made["P"][0][rows], FS, own)
    start = np.where(np.isfinite(marks[:, 0]), marks[:, 0], marks[:, 2] - usual.pr) - interventions.MARGIN
    alike = []
    for signal in (cohort.signal, made["P"][0]):
        waves = between(signal[rows], own, start, start + np.ptp(seconds), len(seconds))
        alike.append(np.median([np.corrcoef(wave.ravel(), found.ravel())[0, 1] for found in waves]))
    assert len(rows) >= 5
    assert alike[0] < 0.5 < alike[1]


def test_recordings_without_beats_are_left_alone(cohort, usual):
    silent = np.zeros((2, 12, 1000), np.float32)
    silent[1] = cohort.signal[0]
    for changed, moved in interventions.make_usual(silent, FS, [np.array([]), np.array([500.0])], usual).values():
        np.testing.assert_array_equal(changed, silent)
        assert list(map(len, moved)) == [0, 1]
    short = interventions.make_usual(cohort.signal[:1, :, :180], FS, [np.array([40.0, 130.0])], usual)
    assert all(np.isfinite(changed).all() for changed, _ in short.values())


def test_usual_needs_beats_in_the_training_part():
    toy = toy_cohort(8)
    with pytest.raises(ValueError, match="take more records"):
        interventions.usual(Cohort(toy.card, toy.table, np.zeros_like(toy.signal), toy.fs, toy.skipped))
