"""From recordings to beats: R-peaks, RR intervals, beats cut out and brought to one length, classical intervals.

Everything works on a batch of records at once, in torch, on whatever device the signal lies.

Shape legend: B records, C leads, T samples, N beats, L samples of a beat, M beats of the whole batch, W window samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ecgmoe import tasks

# Detector settings; energies are squares of the band-passed signal, averaged over QRS_WIDTH_S.
WORK_RATE_HZ = 125.0  # detection runs at about this rate, positions are refined at the rate of the recording
BAND_HZ = (6.5, 32.0)  # where the QRS complex stands out from P, T, wander and muscle
QRS_WIDTH_S = 0.1
REFRACTORY_S = 0.21  # two beats are never closer than this
BLOCK_S = 2.0  # the QRS level is the median over five blocks of each block's largest energy
LEVEL_FRACTION = 0.10  # a beat reaches this part of the QRS level ...
NEIGHBOUR_FRACTION = 0.04  # ... and this part of the largest energy within NEIGHBOUR_S
NEIGHBOUR_S = 1.5
SMALLEST_QRS_MV = 0.01  # root mean square in the band; below it a lead counts as flat
REFINE_S = 0.08  # a peak lies within this of the largest energy
T_WAVE_S = 0.38  # a maximum this soon after another is a T wave unless it is sharp:
T_WAVE_SHARPNESS = 0.10  # its energy above SHARP_HZ reaches this part of the other's
SHARP_HZ = 16.0
T_WAVE_ENERGY = 0.3  # ... or its energy in the whole band reaches this part of it


def _as_batch(signal: np.ndarray | Tensor) -> Tensor:
    x_BCT = torch.as_tensor(signal, dtype=torch.float32)
    if x_BCT.ndim != 3:
        raise ValueError(f"signal has shape {tuple(x_BCT.shape)}, expected (records, leads, samples)")
    if not torch.isfinite(x_BCT).all():
        raise ValueError("signal holds NaN or infinite samples; drop or repair those records first")
    return x_BCT


def band_pass(x_BCT: Tensor, fs: float, band_hz: tuple[float, float] = BAND_HZ) -> Tensor:
    """Zero-phase band-pass along the last axis, by FFT of the signal extended by half a second of its mirror image."""
    pad = min(int(0.5 * fs), x_BCT.shape[-1] - 1)
    x_BCT = F.pad(x_BCT, (pad, pad), mode="reflect")
    hz_F = torch.fft.rfftfreq(x_BCT.shape[-1], 1.0 / fs, device=x_BCT.device)
    low, high = band_hz
    gain_F = torch.sigmoid((hz_F - low) / (0.08 * low)) * torch.sigmoid((high - hz_F) / (0.08 * high))
    out_BCT = torch.fft.irfft(torch.fft.rfft(x_BCT) * gain_F, n=x_BCT.shape[-1])
    return out_BCT[..., pad : out_BCT.shape[-1] - pad]


def _running_max(x_BT: Tensor, half: int) -> Tensor:
    return F.max_pool1d(x_BT[:, None], 2 * half + 1, stride=1, padding=half)[:, 0]


def _qrs_level(energy_RT: Tensor, fs: float) -> Tensor:
    """Local QRS level (R, T): running median over five blocks of the largest energy in each block."""
    block = max(1, min(int(BLOCK_S * fs), energy_RT.shape[-1]))
    n_blocks = energy_RT.shape[-1] // block
    edges = [*range(0, n_blocks * block, block), energy_RT.shape[-1]]
    peak_RK = torch.stack([energy_RT[:, a:b].amax(-1) for a, b in zip(edges, edges[1:], strict=False)], -1)
    half = min(2, (n_blocks - 1) // 2)
    padded_RK = F.pad(peak_RK[:, None], (half, half), mode="replicate")[:, 0] if half else peak_RK
    level_RK = padded_RK.unfold(-1, 2 * half + 1, 1).median(-1).values
    widths = torch.tensor(edges, device=energy_RT.device).diff()
    return level_RK.repeat_interleave(widths, -1)


def detect_r_peaks(signal: np.ndarray | Tensor, fs: float) -> list[np.ndarray]:
    """R-peaks of a batch of records, jointly over the leads given.

    The band-passed energy of each lead is divided by that lead's own QRS level and averaged over leads, so that large
    leads do not drown small ones and polarity plays no part. Maxima of it that stand above two local thresholds are
    beats; each is then refined to the largest deflection in ONE lead at the full sampling rate: II of the twelve, else
    the lead with the largest QRS level.

    Parameters
    ----------
    signal : ndarray or Tensor of shape (records, leads, samples)
        mV (another unit works as long as a QRS complex exceeds 0.01 of it).
    fs : float
        Sampling rate in Hz, at least 70.

    Returns
    -------
    list of ndarray
        Positions in samples, with fractions, ascending, float64, one array a record; empty where there is no beat.

    Raises
    ------
    ValueError
        Wrong number of dimensions, NaN samples, or a sampling rate that does not carry the QRS band.

    References
    ----------
    The chain band-pass, square, moving average follows Pan and Tompkins (IEEE Trans. Biomed. Eng. 32:230, 1985);
    thresholds and refinement are our own.
    """
    x_BCT = _as_batch(signal)
    if fs < 70:
        raise ValueError(f"fs = {fs} Hz is too low to detect R-peaks; at least 70 Hz is needed")
    B, C, T = x_BCT.shape
    if T < 0.5 * fs or B == 0 or C == 0:
        return [np.empty(0) for _ in range(B)]

    step = max(1, round(fs / WORK_RATE_HZ))
    rate = fs / step
    slow_BCT = F.avg_pool1d(x_BCT, step) if step > 1 else x_BCT
    width = max(1, round(QRS_WIDTH_S * rate) // 2 * 2 + 1)
    band_RT = band_pass(slow_BCT, rate).flatten(0, 1)
    energy_RT = F.avg_pool1d(band_RT.square()[:, None], width, 1, width // 2, count_include_pad=False)[:, 0]
    level_BCT = _qrs_level(energy_RT, rate).unflatten(0, (B, C))
    live_BCT = level_BCT > SMALLEST_QRS_MV**2
    energy_BCT = torch.where(live_BCT, energy_RT.unflatten(0, (B, C)) / level_BCT.clamp_min(SMALLEST_QRS_MV**2), 0.0)
    joint_BT = energy_BCT.sum(1) / live_BCT.sum(1).clamp_min(1)

    is_peak_BT = (joint_BT > 0) & (joint_BT == _running_max(joint_BT, round(REFRACTORY_S * rate)))
    is_peak_BT &= joint_BT > LEVEL_FRACTION * _qrs_level(joint_BT, rate)
    is_peak_BT &= joint_BT > NEIGHBOUR_FRACTION * _running_max(joint_BT, round(NEIGHBOUR_S * rate))
    sharp_RT = band_pass(slow_BCT, rate, (SHARP_HZ, BAND_HZ[1])).flatten(0, 1).square()
    sharp_BCT = torch.where(live_BCT, sharp_RT.unflatten(0, (B, C)) / level_BCT.clamp_min(SMALLEST_QRS_MV**2), 0.0)
    sharp_BT = _running_max(sharp_BCT.mean(1), width // 2)
    record_M, at_M = is_peak_BT.nonzero(as_tuple=True)
    record_M, at_M = _without_t_waves(record_M, at_M, joint_BT, sharp_BT, rate)
    if len(record_M) == 0:
        return [np.empty(0) for _ in range(B)]

    lead_B = level_BCT.mean(-1).argmax(1)
    if C == 12:
        lead_B = torch.where(live_BCT[:, 1].any(-1), torch.ones_like(lead_B), lead_B)
    position_M = _refine(x_BCT[torch.arange(B), lead_B], fs, record_M, at_M * step + (step - 1) / 2)
    # After refinement two neighbours may have met at one deflection: the first of them stays.
    apart_M = torch.ones_like(record_M, dtype=torch.bool)
    apart_M[1:] = (record_M.diff() > 0) | (position_M.diff() > 0.5 * REFRACTORY_S * fs)
    record_M, position_M = record_M[apart_M].cpu(), position_M[apart_M].cpu()
    counts = torch.bincount(record_M, minlength=B).tolist()
    return [part.numpy().astype(np.float64) for part in position_M.split(counts)]


def _without_t_waves(
    record_M: Tensor, at_M: Tensor, joint_BT: Tensor, sharp_BT: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """Drop maxima that follow another closely and are smaller and blunt beside it: peaked T waves pass all the rest.

    A premature ventricular beat may be as blunt, but it is not smaller.
    """
    joint_M, sharp_M = joint_BT[record_M, at_M], sharp_BT[record_M, at_M]
    blunt_M = torch.zeros_like(record_M, dtype=torch.bool)
    close_M = (record_M.diff() == 0) & (at_M.diff() < T_WAVE_S * rate)
    blunt_M[1:] = close_M & (sharp_M[1:] < T_WAVE_SHARPNESS * sharp_M[:-1])
    blunt_M[1:] &= joint_M[1:] < T_WAVE_ENERGY * joint_M[:-1]
    return record_M[~blunt_M], at_M[~blunt_M]


def _refine(lead_BT: Tensor, fs: float, record_M: Tensor, at_M: Tensor) -> Tensor:
    """Positions (M,) of the largest deflection near ``at_M``, to a fraction of a sample by a parabola."""
    T = lead_BT.shape[-1]
    sharp_BT = band_pass(lead_BT[:, None], fs, (2.0, min(40.0, 0.45 * fs)))[:, 0].abs()
    half = max(1, round(REFINE_S * fs))
    offset_W = torch.arange(-half, half + 1, device=lead_BT.device)
    index_MW = (at_M.round().long()[:, None] + offset_W).clamp(0, T - 1)
    best_M = index_MW.gather(1, sharp_BT[record_M[:, None], index_MW].argmax(1, keepdim=True))[:, 0]
    left_M, mid_M, right_M = (sharp_BT[record_M, (best_M + d).clamp(0, T - 1)] for d in (-1, 0, 1))
    curvature_M = left_M - 2 * mid_M + right_M
    shift_M = torch.where(curvature_M < 0, 0.5 * (left_M - right_M) / curvature_M.clamp_max(-1e-12), 0.0)
    return best_M + shift_M.clamp(-0.5, 0.5)


def mean_rr(peaks: Sequence[np.ndarray], fs: float) -> np.ndarray:
    """Mean RR interval a record in ms, shape (records,), NaN below two beats (``tasks.mean_rr_interval``)."""
    return np.array([tasks.mean_rr_interval(p, fs) for p in peaks], dtype=np.float64)


class Beats(NamedTuple):
    """Beats of a batch of records; rows beyond a record's own beats are zero and masked out."""

    beat_BNCL: Tensor  #: mV, each beat resampled to L points
    rr_BN2: Tensor  #: interval to the previous and to the next beat in s; 0 where there is none
    mask_BN: Tensor  #: True where there is a beat


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

    Parameters
    ----------
    signal : ndarray or Tensor of shape (records, leads, samples)
    fs : float
        Sampling rate in Hz.
    peaks : sequence of ndarray
        R-peak positions a record, as from :func:`detect_r_peaks`.
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
    x_BCT = _as_batch(signal)
    B, C, T = x_BCT.shape
    at_BN = torch.zeros(B, max_beats)
    rr_BN2 = torch.zeros(B, max_beats, 2)
    mask_BN = torch.zeros(B, max_beats, dtype=torch.bool)
    for b, positions in enumerate(peaks):
        p = torch.as_tensor(positions, dtype=torch.float32)
        interval = p.diff() / fs
        n = min(len(p), max_beats)
        at_BN[b, :n], mask_BN[b, :n] = p[:n], True
        rr_BN2[b, 1:n, 0] = interval[: max(n - 1, 0)]
        rr_BN2[b, : min(n, len(interval)), 1] = interval[:n]
    at_BN, rr_BN2, mask_BN = at_BN.to(x_BCT.device), rr_BN2.to(x_BCT.device), mask_BN.to(x_BCT.device)
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


def median_beat(beats: Beats) -> Tensor:
    """Median over the beats of each record, shape (records, leads, L); zero where there is no beat."""
    masked_BNCL = beats.beat_BNCL.masked_fill(~beats.mask_BN[..., None, None], float("nan"))
    return masked_BNCL.nanmedian(1).values.nan_to_num(0.0)


#: Columns of :func:`classical_intervals`, and those of :func:`characteristics` that speak of RR intervals.
INTERVALS = ("rr_mean_ms", "rr_sd_ms", "rmssd_ms", "pr_ms", "qrs_ms", "qt_ms", "qrs_axis_deg", "p_mv", "t_mv")
N_RR_CHARACTERISTICS = 5


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


def characteristics(signal: np.ndarray | Tensor, fs: float, peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Global signal characteristics X-bar of eq. 3, shape (records, 5 + 2 * leads).

    The mean of a normalised signal is zero and tells nothing, so these carry information instead: mean, SD and RMSSD
    of the RR intervals (s), beats, RMSSD relative to the mean; then for each lead the logarithm of its standard
    deviation (mV) and of that part of its power which lies above 20 Hz.
    """
    x_BCT = _as_batch(signal)
    rr_B4 = _rr_statistics(peaks, fs)
    relative_B1 = rr_B4[:, 2:3] / np.maximum(rr_B4[:, :1], 1.0)
    spectrum_BCF = torch.fft.rfft(x_BCT - x_BCT.mean(-1, keepdim=True)).abs().square()
    high_F = torch.fft.rfftfreq(x_BCT.shape[-1], 1 / fs, device=x_BCT.device) > 20.0
    share_BC = spectrum_BCF[..., high_F].sum(-1) / spectrum_BCF.sum(-1).clamp_min(1e-12)
    lead_BK = torch.cat([x_BCT.std(-1).clamp_min(1e-4).log(), share_BC.clamp_min(1e-6).log()], 1).cpu().numpy()
    scale = np.array([1000.0, 1000.0, 1000.0, 10.0])
    return np.concatenate([rr_B4 / scale, relative_B1, lead_BK], 1).astype(np.float32)


def classical_intervals(signal: np.ndarray, fs: float, peaks: Sequence[np.ndarray]) -> pd.DataFrame:
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
        rows.append(_delineate(median_beat(beats).cpu().numpy(), rate, before))
    table = np.concatenate(rows) if rows else np.empty((0, 6))
    rr_B3 = _rr_statistics(peaks, fs)[:, :3]
    rr_B3[[len(p) < 2 for p in peaks]] = np.nan
    return pd.DataFrame(np.concatenate([rr_B3, table], 1), columns=list(INTERVALS))


def _delineate(beat_BCL: np.ndarray, rate: float, before: float) -> np.ndarray:
    """PR, QRS, QT (ms), QRS axis (degrees), P and T height (mV, root mean square over leads), shape (B, 6)."""

    def index(seconds: float) -> int:
        return int(round((before + seconds) * rate))

    out = np.full((len(beat_BCL), 6), np.nan)
    centre = index(0.0)
    for b, beat_CL in enumerate(beat_BCL):
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

        t_from, t_to = offset + int(0.06 * rate), len(magnitude_L)
        if t_to - t_from > 5:
            peak = t_from + int(magnitude_L[t_from:t_to].argmax())
            below = np.flatnonzero(magnitude_L[peak:] < _foot(magnitude_L[peak:], magnitude_L[peak]))
            out[b, 5] = magnitude_L[peak]
            if len(below):
                out[b, 2] = (peak + below[0] - onset) / rate * 1000
        p_from, p_to = index(-0.34), onset - int(0.02 * rate)
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
