"""Beats: what the detector finds must not depend on scale, polarity, rate or company; oddities must not break it."""

import numpy as np
import pytest
import torch
from synthetic import ecg

from ecgmoe import beats, tasks

FS = 250.0


@pytest.fixture(scope="module")
def regular() -> tuple[np.ndarray, np.ndarray]:
    signal, truth = ecg([0.8] * 20)
    return signal.astype(np.float32), truth


def test_every_beat_is_found_within_a_few_milliseconds(regular):
    signal, truth = regular
    (found,) = beats.detect_r_peaks(signal, FS)
    assert len(found) == len(truth)
    assert np.abs(found - truth).max() < 0.006 * FS
    assert beats.mean_rr([found], FS)[0] == pytest.approx(800, abs=1)


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: 5 * x, lambda x: 0.2 * x, lambda x: x + 3.0])
def test_polarity_scale_and_offset_do_not_matter(regular, change):
    signal, truth = regular
    (found,) = beats.detect_r_peaks(change(signal), FS)
    assert len(found) == len(truth)
    assert np.abs(found - truth).max() < 0.006 * FS


@pytest.mark.parametrize("fs", [100.0, 360.0, 500.0])
def test_sampling_rate_does_not_matter(fs):
    signal, truth = ecg([0.7, 0.9, 0.8, 0.75] * 5, fs)
    (found,) = beats.detect_r_peaks(signal, fs)
    assert len(found) == len(truth)
    assert np.abs(found - truth).max() < 0.008 * fs


def test_a_record_alone_or_in_a_batch_gives_the_same(regular):
    signal, _ = regular
    other, _ = ecg([0.5] * 30)
    (alone,) = beats.detect_r_peaks(signal, FS)
    together = beats.detect_r_peaks(np.concatenate([other, signal]).astype(np.float32), FS)
    np.testing.assert_allclose(together[1], alone, atol=1e-3)


def test_one_lead_and_torch_input(regular):
    signal, truth = regular
    (found,) = beats.detect_r_peaks(torch.from_numpy(signal[:, 3:4]), FS)
    assert len(found) == len(truth)


def test_a_dead_or_drifting_lead_does_not_spoil_the_others(regular):
    signal, truth = regular
    signal = signal.copy()
    signal[:, 0] = 0.0
    signal[:, 5] += 2 * np.sin(np.arange(signal.shape[-1]) / FS * 2 * np.pi * 0.3)
    (found,) = beats.detect_r_peaks(signal, FS)
    assert len(found) == len(truth)


def test_no_beat_one_beat_and_short_recordings():
    flat = np.zeros((1, 12, 2500))
    assert len(beats.detect_r_peaks(flat, FS)[0]) == 0
    assert len(beats.detect_r_peaks(flat[..., :10], FS)[0]) == 0
    assert beats.detect_r_peaks(np.zeros((0, 12, 2500)), FS) == []
    one, truth = ecg([], noise=0.001)
    (found,) = beats.detect_r_peaks(one, FS)
    assert len(found) == 1 and abs(found[0] - truth[0]) < 2
    assert np.isnan(beats.mean_rr([found], FS)[0])


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="records, leads, samples"):
        beats.detect_r_peaks(np.zeros((12, 2500)), FS)
    with pytest.raises(ValueError, match="NaN"):
        beats.detect_r_peaks(np.full((1, 1, 2500), np.nan), FS)
    with pytest.raises(ValueError, match="too low"):
        beats.detect_r_peaks(np.zeros((1, 1, 2500)), 50)


def test_beats_are_cut_around_the_peaks(regular):
    signal, truth = regular
    cut = beats.segment_beats(signal, FS, [truth], length=77, max_beats=8, window=(0.28, 0.48))
    assert cut.beat_BNCL.shape == (1, 8, 12, 77)
    assert cut.mask_BN.all()
    centre = round(0.28 / 0.76 * 76)
    assert (cut.beat_BNCL[0].abs().argmax(-1) == centre).all()
    np.testing.assert_allclose(cut.rr_BN2[0, 1:], 0.8, atol=1e-4)
    assert cut.rr_BN2[0, 0, 0] == 0
    exact = signal[0, 4, round(truth[2])]
    assert cut.beat_BNCL[0, 2, 4, centre] == pytest.approx(exact, abs=0.05)


def test_phase_normalised_beats_stretch_with_the_interval():
    slow, at_slow = ecg([1.0] * 9)
    fast, at_fast = ecg([0.6] * 15)
    uneven, at_uneven = ecg([0.6, 1.1] * 7)
    cut = beats.segment_beats(
        np.concatenate([slow, fast, uneven]), FS, [at_slow, at_fast, at_uneven], window=None, length=90
    )
    # The R-peak lies a third of the way through, whatever the rate, and whatever the neighbouring intervals.
    peak = cut.beat_BNCL[:, 1:6, 11].argmax(-1)
    assert (torch.abs(peak - 30) <= 1).all()


def test_no_beats_are_masked_out_and_median_beat_is_zero():
    signal, truth = ecg([0.8] * 20)
    cut = beats.segment_beats(np.concatenate([signal, signal]), FS, [np.empty(0), truth])
    assert not cut.mask_BN[0].any() and cut.mask_BN[1, :10].all()
    middle = beats.median_beat(cut)
    assert (middle[0] == 0).all() and middle[1].abs().max() > 0.5


def test_characteristics_tell_rate_and_irregularity():
    calm, at_calm = ecg([0.8] * 20)
    wild, at_wild = ecg([0.5, 1.1, 0.7, 0.9, 0.45] * 3)
    table = beats.characteristics(np.concatenate([calm, wild]), FS, [at_calm, at_wild])
    assert table.shape == (2, beats.N_RR_CHARACTERISTICS + 24)
    assert table[0, 0] == pytest.approx(0.8, abs=1e-3)
    assert table[1, 2] > 10 * table[0, 2]
    assert np.isfinite(beats.characteristics(np.zeros((1, 12, 2500)), FS, [np.empty(0)])).all()


def test_classical_intervals_are_those_of_the_waves():
    signal, truth = ecg([0.8] * 20, noise=0.002)
    table = beats.classical_intervals(signal, FS, [truth])
    row = table.iloc[0]
    assert list(table) == list(beats.INTERVALS)
    assert row.rr_mean_ms == pytest.approx(800, abs=1)
    assert row.rr_sd_ms < 2
    assert 40 < row.qrs_ms < 120
    assert 100 < row.pr_ms < 240
    assert 280 < row.qt_ms < 420
    assert row.t_mv > 2 * row.p_mv


def test_intervals_of_a_record_without_beats_are_missing():
    table = beats.classical_intervals(np.zeros((2, 12, 2500)), FS, [np.empty(0), np.empty(0)])
    assert table.isna().all().all()


def test_mean_rr_is_that_of_first_and_last_beat():
    assert tasks.mean_rr_interval(np.array([100.0, 180.0, 300.0]), 100.0) == pytest.approx(1000.0)
