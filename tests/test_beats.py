"""Beats: what the detector finds must not depend on scale, polarity, rate or company; oddities must not break it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import ecg

from ecgmoe import beats, detection, rpeaks, tasks
from ecgmoe.datasets import annotated

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


def test_a_beat_on_the_border_of_two_blocks_is_found_once():
    # The level is computed in blocks; a beat that moves across their borders must not come twice.
    for start in np.arange(0.0, 1.3, 0.02):
        signal, _ = ecg([0.9] * 12, seconds=11.5)
        cut = signal[..., round(start * FS) : round((start + 10) * FS)]
        (found,) = beats.detect_r_peaks(cut, FS)
        assert np.diff(found).min() > 0.85 * FS


def test_small_beats_beside_large_ones_are_found_and_peaked_t_waves_are_not(regular):
    signal, truth = regular
    t = np.arange(signal.shape[-1])
    weak = signal[:, 1:2].copy()
    for at in truth[::3]:  # every third beat three times as large
        weak *= 1 + 2 * np.exp(-0.5 * ((t - at) / (0.03 * FS)) ** 2)
    (found,) = beats.detect_r_peaks(weak, FS)
    assert len(found) == len(truth)
    peaked = signal[:, 1:2].copy()
    for at in truth:
        peaked += 0.25 * np.exp(-0.5 * ((t - at - 0.28 * FS) / (0.035 * FS)) ** 2).astype(np.float32)
    (found,) = beats.detect_r_peaks(peaked, FS)
    assert len(found) == len(truth) and np.abs(found - truth).max() < 0.008 * FS


def test_an_artefact_in_one_lead_does_not_hide_a_beat_of_twelve(regular):
    signal, truth = regular
    signal = signal.copy()
    signal[:, 0, round(truth[5] + 0.15 * FS) :] += 2.0
    (found,) = beats.detect_r_peaks(signal, FS)
    assert np.abs(found[:, None] - truth).min(0).max() < 0.02 * FS


def test_beats_at_the_very_ends_are_placed(regular):
    signal, truth = regular
    cut = signal[..., round(truth[0]) - 5 : round(truth[8]) + 6]
    (found,) = beats.detect_r_peaks(cut, FS)
    assert found[0] == pytest.approx(5, abs=3) and found[-1] == pytest.approx(cut.shape[-1] - 6, abs=3)


def test_detections_are_the_same_peaks_with_confidence_and_quality(regular):
    signal, _ = regular
    flat = np.zeros_like(signal)
    found = beats.detect_beats(np.concatenate([signal, flat]), FS)
    np.testing.assert_array_equal(found.peaks[0], beats.detect_r_peaks(signal, FS)[0])
    assert [len(c) for c in found.confidence] == [len(p) for p in found.peaks]
    assert found.confidence[0].min() > 0.97
    assert found.quality.shape == (2, 12)
    assert found.quality[0].min() > 0.8 and found.quality[1].max() == 0
    assert [len(part) for part in beats.detect_beats(signal[..., :50], FS)[:2]] == [1, 1]


def test_confidence_is_lower_for_what_is_unlike_the_other_beats(regular):
    signal, truth = regular
    signal = signal[:, 1:2].copy()
    at = round((truth[4] + truth[5]) / 2)
    signal[..., at : at + 12] += np.float32(2.0)  # a jolt between two beats
    found = beats.detect_beats(signal, FS)
    jolt = np.abs(found.peaks[0] - at).argmin()
    assert abs(found.peaks[0][jolt] - at) < 0.1 * FS
    assert found.confidence[0][jolt] == found.confidence[0].min() < np.median(found.confidence[0])


@pytest.mark.parametrize("fault", ["noise", "wander", "flat"])
def test_each_fault_lowers_quality_the_more_the_larger_it_is(regular, fault):
    signal, truth = regular
    t = np.arange(signal.shape[-1]) / FS
    noise = np.random.default_rng(0).normal(size=signal.shape[-1])

    def spoilt(much: float) -> np.ndarray:
        out = signal.copy()
        if fault == "noise":
            out[0, 3] += (0.15 * much * noise).astype(np.float32)
        elif fault == "wander":
            out[0, 3] += (0.25 * much * np.sin(2 * np.pi * 0.3 * t)).astype(np.float32)
        else:
            out[0, 3, : round(much * len(t))] = 0.0
        return beats.signal_quality(out, FS, [truth])[0]

    quality = np.array([spoilt(much) for much in (0.0, 0.25, 0.5, 0.9)])
    assert (np.diff(quality[:, 3]) < -0.02).all()
    assert quality[-1, 3] < 0.5
    np.testing.assert_array_equal(quality[:, 4], quality[0, 4])  # the other leads are not touched


def test_quality_of_no_records_and_of_single_beats():
    assert beats.signal_quality(np.zeros((0, 12, 500)), FS, []).shape == (0, 12)
    one, truth = ecg([], noise=0.001)
    assert beats.signal_quality(one, FS, [truth]).shape == (1, 12)


def test_premature_beats_are_ectopic_and_steady_or_slowly_changing_rhythms_are_not():
    steady = np.cumsum([0.8] * 12) * FS
    changing = np.cumsum(0.8 + 0.12 * np.sin(np.arange(15) / 2)) * FS
    early = steady.copy()
    early[5] -= 0.3 * FS
    bigeminy = np.cumsum([0.5, 1.1] * 6) * FS
    run = np.cumsum([0.8] * 6 + [0.4] * 3 + [1.0] + [0.8] * 6) * FS
    a, b, c, d, e, f = beats.rr_series([steady, changing, early, bigeminy, run, steady[:2]], FS)
    assert not a.ectopic.any() and not b.ectopic.any() and not f.ectopic.any()
    np.testing.assert_allclose(a.rr_ms, 800)
    assert np.flatnonzero(c.ectopic).tolist() == [5]
    assert np.flatnonzero(d.ectopic).tolist() == [2, 4, 6, 8, 10]  # the first interval is unknown, the last has no next
    assert np.flatnonzero(e.ectopic).tolist() == [6, 7, 8]
    assert [len(s.ectopic) for s in beats.rr_series([np.empty(0), steady[:1]], FS)] == [0, 1]


def test_rr_series_do_not_depend_on_the_sampling_rate():
    at = np.cumsum([0.8, 0.82, 0.5, 1.1, 0.79, 0.81, 0.8])
    slow, fast = (beats.rr_series([at * fs], fs)[0] for fs in (100.0, 500.0))
    np.testing.assert_allclose(slow.rr_ms, fast.rr_ms)
    assert (slow.ectopic == fast.ectopic).all() and slow.ectopic.any()


def test_ectopic_beats_can_be_left_out_of_the_median_beat(regular):
    signal, truth = regular
    odd = signal.copy()
    t = np.arange(signal.shape[-1])
    for at in truth[:7]:
        odd -= (3 * np.exp(-0.5 * ((t - at) / (0.03 * FS)) ** 2)).astype(np.float32)
    flags = np.arange(len(truth)) < 7
    cut = beats.segment_beats(np.concatenate([odd, signal]), FS, [truth, truth])
    whole, clean = beats.median_beat(cut), beats.median_beat(cut, [flags, flags])
    assert (whole[0] - whole[1]).abs().max() > 1
    assert (clean[0] - clean[1]).abs().max() < 0.05
    everything = np.ones(len(truth), bool)
    torch.testing.assert_close(beats.median_beat(cut, [everything, everything]), whole)  # nothing would be left


def test_running_windows_are_those_of_the_plain_definition():
    x = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    for half in (0, 1, 2, 5, 8):
        window = torch.nn.functional.pad(x, (half, half)).unfold(-1, 2 * half + 1, 1)
        torch.testing.assert_close(rpeaks._running_max(x, half), window.amax(-1))
        torch.testing.assert_close(
            rpeaks._running_mean(torch.nn.functional.pad(x, (half, half))[:, None], half)[:, 0], window.mean(-1)
        )


# F1 at 150, 75 and 50 ms and the error of the mean RR interval that were reached, with a little slack.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "f1", "rr_mae_ms"),
    [
        ("mitdb", (0.998, 0.9975, 0.9965), 3.3),
        ("ludb", (0.9995, 0.9955, 0.993), 0.8),
        ("cpsc2019", (0.94, 0.935, 0.90), 60),
    ],
)
def test_real_beats_are_found(recordings: Path, name, f1, rr_mae_ms):
    result = detection.evaluate(
        annotated.load(name, recordings / name), {"ecgmoe": beats.detect_r_peaks}, detection.TOLERANCES_MS
    )
    table = detection.accuracy(result).query("part == 'all'").set_index("tolerance_ms")["f1"]
    assert (table[list(detection.TOLERANCES_MS)].to_numpy() >= np.array(f1)).all(), table
    assert detection.timing(result).query("part == 'all'")["rr_mae_ms"].item() <= rr_mae_ms


@pytest.mark.slow
def test_confidence_is_the_share_of_true_beats_on_recordings_it_was_not_fitted_to(recordings: Path):
    sure, true = [], []
    for name in ("mitdb", "cpsc2019"):
        data = annotated.load(name, recordings / name)
        data = data.select(~data.apart & (data.number % 2 == 1))
        found = beats.detect_beats(data.signal, data.fs)
        for peaks, confidence, truth, judged in zip(
            found.peaks, found.confidence, data.truth, data.scored, strict=True
        ):
            hit = np.isin(np.arange(len(peaks)), detection.match(truth, peaks, 0.15 * data.fs, tuple(judged)).detection)
            counts = hit | ((peaks >= judged[0]) & (peaks <= judged[1]))
            sure.append(confidence[counts])
            true.append(hit[counts])
    confidence, hit = np.concatenate(sure), np.concatenate(true)
    bins = np.digitize(confidence, (0.95, 0.99))
    share = [hit[bins == b].mean() for b in range(3)]
    assert share[0] < share[1] < share[2]
    assert np.abs(share - np.array([confidence[bins == b].mean() for b in range(3)])).max() < 0.1


@pytest.mark.slow
def test_ectopic_flags_find_premature_beats_of_real_recordings(recordings: Path):
    data = annotated.load("mitdb", recordings / "mitdb")
    flags = [series.ectopic[1:-1] for series in beats.rr_series(data.truth, data.fs)]
    truth = [np.isin(symbols[1:-1], list("AaJSVFE")) for symbols in data.symbols]
    # Record 203 is fibrillation, where early beats are no ectopic beats; 207 has flutter and escape rhythms.
    rows = np.flatnonzero(~np.isin(data.number, (203, 207)))
    flag, true = (np.concatenate([part[i] for i in rows]) for part in (flags, truth))
    assert (flag & true).sum() / true.sum() > 0.75
    assert (flag & true).sum() / flag.sum() > 0.98


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
    assert table.shape == (2, beats.N_RR_CHARACTERISTICS + 5 + 24)
    assert table[0, 0] == pytest.approx(0.8, abs=1e-3)
    assert table[1, 2] > 10 * table[0, 2]
    assert table[:, 5] * 1000 == pytest.approx(
        beats.classical_intervals(np.concatenate([calm, wild]), FS, [at_calm, at_wild])["qt_ms"].to_numpy(), rel=1e-5
    )
    flat = beats.characteristics(np.zeros((1, 12, 2500)), FS, [np.empty(0)])
    assert np.isnan(flat[0, 5:]).all() and np.isfinite(flat[0, :5]).all()
    silent = np.concatenate([calm, wild])
    silent[:, 3] = 0.2
    one_less = beats.characteristics(silent, FS, [at_calm, at_wild])
    assert np.isnan(one_less[:, [22, 34]]).all() and np.isnan(one_less).sum() == 4


def test_characteristics_tell_the_pattern_of_the_intervals():
    at = np.cumsum([0.5, *[0.8] * 4, 0.4, 1.2, *[0.8] * 4]) * FS
    signal = np.random.default_rng(0).normal(size=(3, 12, 2500))
    early, slow, none = beats.characteristics(signal, FS, [at, np.arange(0.5, 10, 1.5) * FS, at[:2]])[:, 6:14]
    assert early == pytest.approx(
        [np.log(0.5), np.log(1.5), 0.0, 1.0, 0.0, 3 / 9, np.tanh(3), np.tanh(-5)], abs=1e-3
    ), "one beat came early: shortest, longest, median, changes, three of nine of them above 50 ms, 75 beats a minute"
    assert slow == pytest.approx([0, 0, 0, 0, 0, 0, np.tanh(-4), -1], abs=1e-3), "40 beats a minute"
    assert np.isnan(none).all()


def test_waves_of_a_fast_heart_are_its_own():
    """At 109 beats a minute the T wave before lies where a slow heart has its P."""
    signal, truth = ecg([0.55] * 30)
    fast = beats.classical_intervals(signal, FS, [truth]).iloc[0]
    signal, truth = ecg([0.8] * 20)
    slow = beats.classical_intervals(signal, FS, [truth]).iloc[0]
    assert not fast["pr_ms"] > slow["pr_ms"] + 40
    assert fast["qt_ms"] == pytest.approx(slow["qt_ms"], abs=60)


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


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[..., ::-1].copy()[..., ::-1],
        lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x, x.shape),
        lambda x: np.asfortranarray(x),
    ],
    ids=["negative strides", "big-endian", "read-only", "other order"],
)
def test_every_numpy_array_will_do_whatever_its_layout(regular, change):
    signal, _ = regular
    (expected,) = beats.detect_r_peaks(signal, FS)
    np.testing.assert_array_equal(beats.detect_r_peaks(change(signal), FS)[0], expected)


@pytest.mark.parametrize("shape", [(3, 12, 1), (3, 0, 500), (0, 12, 500)])
def test_nothing_to_look_at_has_no_beats_and_no_quality(shape):
    found = beats.detect_beats(np.zeros(shape), FS)
    assert [len(p) for p in found.peaks] == [0] * shape[0]
    assert found.quality.shape == shape[:2] and not found.quality.any()


def test_real_beats_stay_where_they_are_under_an_offset_and_in_another_unit(recordings):
    signal = annotated.load("ludb", recordings, 40).signal
    peaks = beats.detect_r_peaks(signal, 500)
    for changed in (signal + 5, signal * 0.1, signal * 20):
        moved = [
            len(a) != len(b) or np.abs(a - b).max(initial=0) > 0.5
            for a, b in zip(peaks, beats.detect_r_peaks(changed, 500), strict=True)
        ]
        assert sum(moved) <= 1
