"""From recordings to beats: R-peaks, RR series, signal quality, beats cut out and brought to one length, intervals.

Everything works on a batch of records at once, in torch, on whatever device the signal lies.

Shape legend: B records, C leads, T samples, F frequencies, N beats, L samples of a beat.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ecgmoe import tasks
from ecgmoe.rpeaks import as_batch, detect
from ecgmoe.rpeaks import detect_r_peaks as detect_r_peaks

ECTOPIC_MEDIAN_OVER = 11  # intervals: about ten seconds, and an odd number, so that bigeminy cannot split it evenly
LONGEST_QTC_S, SHORTEST_P_S = 0.52, 0.12  # bounds of the search for waves: QT by Fridericia's rule, P before QRS
ALIVE_MV = 0.01  # range of a second in which a lead moves; amplifiers alone move less
QUALITY_BAND_HZ = (0.67, 40.0)  # of diagnostic monitors; 40 Hz is carried by every sampling rate in use
QUALITY_BATCH = 16  # records at a time, so that their beats stay in the processor's cache


class Detection(NamedTuple):
    """Beats of a batch of records, and how far they can be trusted."""

    peaks: list[np.ndarray]  #: positions in samples, with fractions, ascending, float64, one array a record
    confidence: list[np.ndarray]  #: probability, 0 to 1, that a beat is one, float32, same lengths as ``peaks``
    quality: np.ndarray  #: signal quality of each lead, 0 to 1, shape (records, leads)


def detect_beats(signal: np.ndarray | Tensor, fs: float) -> Detection:
    """R-peaks as by :func:`~ecgmoe.rpeaks.detect_r_peaks`, with the confidence of each and the quality of each lead.

    The confidence is a logistic function of two things: how far the beat's strength is from the usual, and how alike
    it is to the record's other beats. It was fitted to every second record of MIT-BIH and CPSC2019 and reads as
    the share of such detections that are beats.

    Parameters
    ----------
    signal : ndarray or Tensor of shape (records, leads, samples)
        mV.
    fs : float
        Sampling rate in Hz, at least 70.

    Returns
    -------
    Detection
        ``quality`` is that of :func:`signal_quality`.
    """
    x_BCT = as_batch(signal)
    peaks, confidence = detect(x_BCT, fs, with_confidence=True)
    return Detection(peaks, confidence, signal_quality(x_BCT, fs, peaks))


def mean_rr(peaks: Sequence[np.ndarray], fs: float) -> np.ndarray:
    """Mean RR interval a record in ms, shape (records,), NaN below two beats (``tasks.mean_rr_interval``)."""
    return np.array([tasks.mean_rr_interval(p, fs) for p in peaks], dtype=np.float64)


class RRSeries(NamedTuple):
    """RR intervals of one record, and which of its beats come early."""

    rr_ms: np.ndarray  #: intervals in ms, one fewer than beats, float64
    ectopic: np.ndarray  #: bool a beat; the first beat, whose interval is unknown, never counts


def rr_series(peaks: Sequence[np.ndarray], fs: float) -> list[RRSeries]:
    """RR intervals and ectopic flags of each record, from the times of the beats alone.

    A beat is ectopic if its interval is

    - below 80 % of the running median of eleven intervals and followed by an interval at least 10 % longer,
    - less than two thirds of the interval that follows (the compensatory pause; this finds bigeminy, where the running
      median is no reference), or
    - below 75 % of the running median, whatever follows (couplets and runs).

    Escape beats come late and are not flagged; where no rhythm is regular, as in atrial fibrillation, the flags only
    tell early beats from late ones.

    Parameters
    ----------
    peaks : sequence of ndarray
        R-peak positions a record in samples, ascending.
    fs : float
        Sampling rate in Hz.

    Returns
    -------
    list of RRSeries

    References
    ----------
    Prematurity against a local reference follows the usual 20 % filter (Malik et al., Eur. Heart J. 10:1060, 1989), the
    comparison with the next interval Lipponen and Tarvainen (J. Med. Eng. Technol. 43:173, 2019).
    """
    out = []
    for positions in peaks:
        rr_ms = np.diff(np.asarray(positions, dtype=np.float64)) * 1000.0 / fs
        ectopic = np.zeros(len(positions), dtype=bool)
        if len(rr_ms) >= 3:
            width = min(ECTOPIC_MEDIAN_OVER, len(rr_ms))
            middle = np.median(np.lib.stride_tricks.sliding_window_view(rr_ms, width), axis=1)
            usual = middle[np.clip(np.arange(len(rr_ms)) - width // 2, 0, len(middle) - 1)]
            following = np.append(rr_ms[1:], rr_ms[-1])
            premature = (rr_ms < 0.8 * usual) & (following > 1.1 * rr_ms)
            ectopic[1:] = premature | (rr_ms < following / 1.5) | (rr_ms < 0.75 * usual)
        out.append(RRSeries(rr_ms, ectopic))
    return out


def signal_quality(signal: np.ndarray | Tensor, fs: float, peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Quality of each lead, 0 to 1: the product of three shares, so that any one fault lowers it.

    - Alive: seconds in which the lead moves by more than 0.01 mV; a loose electrode or a saturated amplifier does not.
    - In band: power from 0.67 to 40 Hz; below lies baseline wander, above lie muscle and mains.
    - Alike: median correlation of the beats with their mean, from 0.2 s before to 0.3 s after R; 0 without a beat, 1
      for a single one. The median spares leads with some ectopic beats.

    Parameters
    ----------
    signal : ndarray or Tensor of shape (records, leads, samples)
        mV.
    fs : float
        Sampling rate in Hz.
    peaks : sequence of ndarray
        R-peaks a record, as from :func:`~ecgmoe.rpeaks.detect_r_peaks`.

    Returns
    -------
    ndarray of shape (records, leads), float32

    References
    ----------
    Share of power: basSQI and pSQI of Li, Mark and Clifford (Physiol. Meas. 29:15, 2008). Likeness of beats: Orphanidou
    et al. (IEEE J. Biomed. Health Inform. 19:832, 2015).
    """
    x_BCT = as_batch(signal)
    T = x_BCT.shape[-1]
    second = min(T, max(1, round(fs)))
    if T < 2 or x_BCT.numel() == 0:
        return np.zeros(x_BCT.shape[:2], np.float32)
    parts = []
    for start in range(0, len(x_BCT), QUALITY_BATCH):
        part_BCT, at = x_BCT[start : start + QUALITY_BATCH], peaks[start : start + QUALITY_BATCH]
        piece_BCKT = part_BCT.unfold(-1, second, second)
        alive_BC = (piece_BCKT.amax(-1) - piece_BCKT.amin(-1) > ALIVE_MV).float().mean(-1)
        low, high = (int(np.ceil(hz * T / fs)) for hz in QUALITY_BAND_HZ)
        part_BCT = part_BCT - part_BCT.mean(-1, keepdim=True)
        spectrum_BCF2 = torch.view_as_real(torch.fft.rfft(part_BCT)[..., low:high])
        power_BC = part_BCT.square().sum(-1) * (T / 2)  # of all frequencies, by Parseval's theorem
        band_BC = (spectrum_BCF2.square().sum((-1, -2)) / power_BC.clamp_min(1e-12)).clamp(0, 1)
        most = max(1, max(map(len, at)))
        cut = segment_beats(part_BCT, fs, at, length=64, max_beats=most, window=(0.2, 0.3))
        unit_BNCL = F.normalize(cut.beat_BNCL - cut.beat_BNCL.mean(-1, keepdim=True), dim=-1)
        mean_BCL = F.normalize(unit_BNCL.sum(1), dim=-1)
        counts_BNC = cut.mask_BN[..., None] & (unit_BNCL.abs().amax(-1) > 0)  # beats in flat stretches count there
        alike_BNC = (unit_BNCL * mean_BCL[:, None]).sum(-1).masked_fill(~counts_BNC, float("nan"))
        alike_BC = alike_BNC.nanmedian(1).values.nan_to_num(0.0).clamp(0, 1)
        parts.append((alive_BC * band_BC * alike_BC).cpu().numpy())
    return np.concatenate(parts)


class Beats(NamedTuple):
    """Beats of a batch of records; rows beyond a record's own beats are zero and masked out."""

    beat_BNCL: Tensor  #: mV, each beat resampled to L points
    rr_BN2: Tensor  #: interval to the previous and to the next beat in s; 0 where there is none
    mask_BN: Tensor  #: True where there is a beat


def _padded(peaks: Sequence[np.ndarray], fs: float, max_beats: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions (B, N), intervals before and after in s (B, N, 2) and mask (B, N) of the first ``max_beats`` beats."""
    at_BN = np.zeros((len(peaks), max_beats + 1))  # one more, for the interval after the last
    count_B = np.array([min(len(p), max_beats + 1) for p in peaks], dtype=np.int64)
    has_BN = np.arange(max_beats + 1) < count_B[:, None]
    if len(peaks):
        at_BN[has_BN] = np.concatenate([np.asarray(p, np.float64)[: max_beats + 1] for p in peaks])
    rr_BN = np.where(has_BN[:, 1:], np.diff(at_BN) / fs, 0.0)
    before_BN = np.concatenate([np.zeros((len(peaks), 1)), rr_BN[:, :-1]], 1)[:, :max_beats]
    rr_BN2, mask_BN = np.stack([before_BN, rr_BN], -1), has_BN[:, :max_beats]
    return (
        torch.from_numpy(at_BN[:, :max_beats] * mask_BN).float(),
        torch.from_numpy(rr_BN2).float(),
        torch.from_numpy(mask_BN),
    )


def segment_beats(
    signal: np.ndarray | Tensor,
    fs: float,
    peaks: Sequence[np.ndarray],
    *,
    length: int = 64,
    max_beats: int = 16,
    window: tuple[float, float] | None = (0.28, 0.48),
) -> Beats:
    """Cut out beats and bring each to ``length`` points by linear interpolation.

    Nothing is filtered: the default gives 83 points a second, into which content above half of that folds where the
    recording has any, most of all above 100 Hz.

    Parameters
    ----------
    signal : ndarray or Tensor of shape (records, leads, samples)
    fs : float
        Sampling rate in Hz.
    peaks : sequence of ndarray
        R-peak positions a record, as from :func:`~ecgmoe.rpeaks.detect_r_peaks`.
    length, max_beats : int
        Points of a beat, beats of a record (the first ones are taken).
    window : (float, float) or None
        Seconds before and after the R-peak: every beat is R-centred and keeps its durations. None normalises phase:
        a third of the points covers the last third of the RR interval before the R-peak, two thirds of them the
        first two thirds of the interval after it (in a record of one beat, an interval is taken as 0.8 s).

    Returns
    -------
    Beats
        Samples outside the recording are taken as its first or last value.
    """
    x_BCT = as_batch(signal)
    B, C, T = x_BCT.shape
    at_BN, rr_BN2, mask_BN = (t.to(x_BCT.device) for t in _padded(peaks, fs, max_beats))
    if window is None:
        own_BN2 = torch.where(rr_BN2 > 0, rr_BN2, rr_BN2.flip(-1))
        own_BN2 = torch.where(own_BN2 > 0, own_BN2, torch.full_like(own_BN2, 0.8))
        phase_L = torch.linspace(-1 / 3, 2 / 3, length, device=x_BCT.device)
        seconds_BNL = torch.where(phase_L < 0, own_BN2[..., :1], own_BN2[..., 1:]) * phase_L
    else:
        seconds_BNL = torch.linspace(-window[0], window[1], length, device=x_BCT.device).expand(B, max_beats, length)
    position_BNL = at_BN[..., None] + fs * seconds_BNL
    position_BNL = position_BNL.clamp(0, T - 1)
    floor_BNL = position_BNL.floor().clamp_max(max(T - 2, 0))
    weight_BNL = position_BNL - floor_BNL
    index_BCX = floor_BNL.long().flatten(1)[:, None].expand(B, C, -1)
    low_BCX, high_BCX = x_BCT.gather(2, index_BCX), x_BCT.gather(2, (index_BCX + 1).clamp_max(T - 1))
    beat_BCX = torch.lerp(low_BCX, high_BCX, weight_BNL.flatten(1)[:, None].expand(B, C, -1))
    beat_BNCL = beat_BCX.unflatten(2, (max_beats, length)).transpose(1, 2)
    return Beats((beat_BNCL * mask_BN[..., None, None]).contiguous(), rr_BN2, mask_BN)


def median_beat(beats: Beats, leave_out: Sequence[np.ndarray] | None = None) -> Tensor:
    """Median over the beats of each record, shape (records, leads, L); zero where there is no beat.

    Parameters
    ----------
    beats : Beats
    leave_out : sequence of ndarray of bool, optional
        One flag a beat, as ``ectopic`` of :func:`rr_series`: these beats do not count, unless the record has no other.
    """
    mask_BN = beats.mask_BN
    if leave_out is not None:
        keep_BN = mask_BN.cpu().numpy().copy()
        for row_N, flags in zip(keep_BN, leave_out, strict=True):
            n = min(len(flags), len(row_N))
            row_N[:n] &= ~np.asarray(flags[:n], dtype=bool)
        keep_BN[~keep_BN.any(1)] = True
        mask_BN = mask_BN & torch.from_numpy(keep_BN).to(mask_BN.device)
    masked_BNCL = beats.beat_BNCL.masked_fill(~mask_BN[..., None, None], float("nan"))
    return masked_BNCL.nanmedian(1).values.nan_to_num(0.0)


#: Columns of :func:`classical_intervals`.
INTERVALS = ("rr_mean_ms", "rr_sd_ms", "rmssd_ms", "pr_ms", "qrs_ms", "qt_ms", "qrs_axis_deg", "p_mv", "t_mv")
#: The first columns of :func:`characteristics`, which speak of RR intervals; the QT interval goes with the rate.
N_RR_CHARACTERISTICS = 14


def _rr_statistics(peaks: Sequence[np.ndarray], fs: float) -> np.ndarray:
    """Mean, SD, RMSSD of the RR intervals in ms and the number of beats, (B, 4); zeros where undefined."""
    out = np.zeros((len(peaks), 4))
    for b, positions in enumerate(peaks):
        rr = np.diff(positions) * 1000 / fs
        out[b, 3] = len(positions)
        if len(rr):
            out[b, :2] = rr.mean(), rr.std()
        if len(rr) > 1:
            out[b, 2] = np.sqrt(np.mean(np.diff(rr) ** 2))
    return out


#: Rates per minute between which a heart beats neither slowly nor fast, and the width of their soft borders.
NORMAL_RATE_BPM, RATE_BORDER_BPM = (60.0, 100.0), 5.0
#: Changes from one RR interval to the next that pNN50 counts, ms.
NN50_MS = 50.0


def _rr_pattern(peaks: Sequence[np.ndarray], fs: float) -> np.ndarray:
    """What RR intervals do beside their mean and spread, (B, 8); NaN with fewer than two of them."""
    out = np.full((len(peaks), 8), np.nan)
    for b, positions in enumerate(peaks):
        rr = np.diff(positions) * 1000 / fs
        if len(rr) > 1:
            mean, change = rr.mean(), np.abs(np.diff(rr))
            out[b, :3] = np.log(rr.min() / mean), np.log(rr.max() / mean), np.median(rr) / mean - 1
            out[b, 3:6] = change.max() / mean, np.median(change) / mean, (change > NN50_MS).mean()
            out[b, 6:] = np.tanh((60_000 / mean - np.array(NORMAL_RATE_BPM)) / RATE_BORDER_BPM)
    return out


def characteristics(signal: np.ndarray | Tensor, fs: float, peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Global signal characteristics X-bar of eq. 3, shape (records, 19 + 2 * leads), NaN where there is none.

    The mean of a normalised signal is zero and tells nothing, so these carry information instead. Of the rate: mean, SD
    and RMSSD of the RR intervals (s), tens of beats, RMSSD relative to the mean, the QT interval (s); the logarithms of
    the shortest and the longest RR interval by their mean, how far their median lies from it, the largest and the
    median change from one to the next, all relative to the mean; pNN50, the share of changes above 50 ms; and on which
    side of 60 and of 100 beats per minute the mean rate lies (a tanh, 5 per minute wide). Then the PR and QRS
    intervals (s), the QRS axis (degrees) and the heights of P and T (mV), all of :func:`classical_intervals`; then for
    each lead that moves the logarithm of its standard deviation (mV) and of that part of its power which lies above
    20 Hz.
    """
    x_BCT = as_batch(signal)
    rr_B4 = _rr_statistics(peaks, fs)
    relative_B1 = rr_B4[:, 2:3] / np.maximum(rr_B4[:, :1], 1.0)
    spectrum_BCF = torch.fft.rfft(x_BCT - x_BCT.mean(-1, keepdim=True)).abs().square()
    high_F = torch.fft.rfftfreq(x_BCT.shape[-1], 1 / fs, device=x_BCT.device) > 20.0
    share_BC = spectrum_BCF[..., high_F].sum(-1) / spectrum_BCF.sum(-1).clamp_min(1e-12)
    silent_BC = x_BCT.amax(-1) - x_BCT.amin(-1) <= ALIVE_MV
    leads = (x_BCT.std(-1).clamp_min(1e-4).log(), share_BC.clamp_min(1e-6).log())
    lead_BK = torch.cat([lead_BC.masked_fill(silent_BC, float("nan")) for lead_BC in leads], 1).cpu().numpy()
    scale = np.array([1000.0, 1000.0, 1000.0, 10.0])
    wave = classical_intervals(signal, fs, peaks)
    waves_B3 = np.stack([wave[f"{name}_ms"] / 1000 for name in ("qt", "pr", "qrs")], 1)
    rest_B3 = wave[["qrs_axis_deg", "p_mv", "t_mv"]].to_numpy()
    parts = [rr_B4 / scale, relative_B1, waves_B3[:, :1], _rr_pattern(peaks, fs), waves_B3[:, 1:], rest_B3, lead_BK]
    return np.concatenate(parts, 1).astype(np.float32)


def classical_intervals(signal: np.ndarray | Tensor, fs: float, peaks: Sequence[np.ndarray]) -> pd.DataFrame:
    """The classical measurements of an ECG, from the median beat of twelve leads: the inputs of the regression floors.

    Onsets and ends are read off the spatial velocity and magnitude (root mean square over leads) of the median beat:
    the QRS complex lasts while the velocity exceeds 12 % of its maximum, P begins and T ends where the magnitude has
    fallen three quarters of the way from that wave's maximum to the lowest point beyond it. A rough delineation by
    design: it is a floor, not a competitor.

    Parameters
    ----------
    signal : ndarray of shape (records, 12, samples)
        mV, leads in standard order.
    fs : float
    peaks : sequence of ndarray

    Returns
    -------
    DataFrame
        One row a record, columns :data:`INTERVALS` (ms, degrees, mV); NaN where a wave was not found.
    """
    before, after, rate = 0.36, 0.60, 250.0
    length = int((before + after) * rate) + 1
    rows = []
    for start in range(0, len(signal), 256):
        part = slice(start, start + 256)
        beats = segment_beats(signal[part], fs, peaks[part], length=length, window=(before, after))
        rr_B = np.array([np.diff(positions).mean() / fs if len(positions) > 1 else np.inf for positions in peaks[part]])
        rows.append(_delineate(median_beat(beats).cpu().numpy(), rr_B, rate, before))
    table = np.concatenate(rows) if rows else np.empty((0, 6))
    rr_B3 = _rr_statistics(peaks, fs)[:, :3]
    rr_B3[[len(p) < 2 for p in peaks]] = np.nan
    return pd.DataFrame(np.concatenate([rr_B3, table], 1), columns=list(INTERVALS))


def _delineate(beat_BCL: np.ndarray, rr_B: np.ndarray, rate: float, before: float) -> np.ndarray:
    """PR, QRS, QT (ms), QRS axis (degrees), P and T height (mV, root mean square over leads), shape (B, 6).

    T is looked for until the next P may begin, P from the end of the T before it, as the mean RR interval (s) tells.
    """

    def index(seconds: float) -> int:
        return int(round((before + seconds) * rate))

    out = np.full((len(beat_BCL), 6), np.nan)
    centre = index(0.0)
    for b, (beat_CL, rr) in enumerate(zip(beat_BCL, rr_B, strict=True)):
        velocity_L = np.sqrt((np.gradient(beat_CL, axis=1) ** 2).mean(0))
        velocity_L = np.convolve(velocity_L, np.ones(3) / 3, "same")
        if velocity_L.max() < 1e-4:
            continue
        qrs = slice(index(-0.12), index(0.14))
        fast_L = velocity_L > 0.12 * velocity_L[qrs].max()
        onset, offset = _extent(fast_L, centre, qrs.start, qrs.stop, gap=int(0.02 * rate))
        beat_CL = beat_CL - beat_CL[:, max(onset - 4, 0) : onset].mean(1, keepdims=True) if onset else beat_CL
        magnitude_L = np.sqrt((beat_CL**2).mean(0))
        out[b, 1] = (offset - onset) / rate * 1000
        area_C = beat_CL[:, onset : offset + 1].sum(1)
        out[b, 3] = np.degrees(np.arctan2(2 * area_C[5] / np.sqrt(3), area_C[0]))  # aVF and I

        t_from, t_to, t_end = offset + int(0.06 * rate), len(magnitude_L), 0
        if np.isfinite(rr):
            qrs_s = onset / rate - before
            t_to = min(t_to, index(min(qrs_s + LONGEST_QTC_S * np.cbrt(rr), rr + qrs_s - SHORTEST_P_S)))
        if t_to - t_from > 5:
            peak = t_from + int(magnitude_L[t_from:t_to].argmax())
            below = np.flatnonzero(magnitude_L[peak:t_to] < _foot(magnitude_L[peak:t_to], magnitude_L[peak]))
            out[b, 5] = magnitude_L[peak]
            if len(below):
                out[b, 2] = (peak + below[0] - onset) / rate * 1000
                t_end = index((peak + below[0]) / rate - before - rr) if np.isfinite(rr) else 0
        p_from, p_to = max(index(-0.34), t_end), onset - int(0.02 * rate)
        if p_to - p_from > 5:
            peak = p_from + int(magnitude_L[p_from:p_to].argmax())
            below = np.flatnonzero(magnitude_L[:peak] < _foot(magnitude_L[:peak], magnitude_L[peak]))
            out[b, 4] = magnitude_L[peak]
            if len(below):
                out[b, 0] = (onset - below[-1]) / rate * 1000
    return out


def _foot(side_L: np.ndarray, peak: float) -> float:
    """Level at which a wave begins or ends: a quarter of the way from the lowest point on that side to its peak."""
    return float(side_L.min() + 0.25 * (peak - side_L.min())) if len(side_L) else 0.0


def _extent(on_L: np.ndarray, centre: int, first: int, last: int, gap: int) -> tuple[int, int]:
    """First and last index around ``centre`` where ``on_L`` holds, bridging pauses of up to ``gap`` samples."""
    where = np.flatnonzero(on_L[first:last]) + first
    if len(where) == 0:
        return centre, centre
    runs = np.split(where, np.flatnonzero(np.diff(where) > gap) + 1)
    nearest = min(runs, key=lambda run: int(np.abs(run - centre).min()))
    return int(nearest[0]), int(nearest[-1])
