"""R-peak detection for batches of records: one lead or many jointly, in torch on whatever device the signal lies.

Shape legend: B records, C leads, T samples, F frequencies, K blocks, M beats of the whole batch, W and X samples of the
inner and outer window around a beat.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

# Strength is the root mean square of the band-passed signal over QRS_WIDTH_S, divided by each lead's usual QRS strength
# and averaged over leads; all fractions below are fractions of it. Values were chosen on every second record: those of
# even number in MIT-BIH and LUDB, of even place among the files in CPSC2019.
WORK_RATE_HZ = 125.0  # all is computed at about this rate: twice what the bands need, and five times faster
BAND_HZ = (6.0, 26.0)  # where the QRS complex stands out from P, T, wander and muscle
QRS_WIDTH_S = 0.08
REFRACTORY_S = 0.22  # two maxima of strength are never closer than this, two beats never than half of it
BLOCK_S = 1.25  # long enough to hold a beat of most rhythms; the level is the median of five blocks' maxima
LEVEL_FRACTION = (0.28, 0.35)  # a beat exceeds the first of these fractions of the level, near strong beats the second
NEIGHBOUR_FRACTION = 0.245  # in between: this fraction of the largest strength in its own and the next blocks
SMALLEST_QRS_MV = 0.002  # strength below which a lead counts as flat: the step of a fine converter
T_WAVE_S = 0.5  # a maximum this soon after another is a T wave if it is smaller and blunter:
T_WAVE_STRENGTH = 0.45  # its strength is less than this part of the other's,
T_WAVE_STEEPNESS = 0.25  # and so is the slope of the band-passed signal

# Position: the largest deflection in FIDUCIAL_BAND_HZ, weighted by a Gaussian around the maximum of strength.
FIDUCIAL_BAND_HZ = (8.0, 25.0)
FIDUCIAL_LEAD_S = 0.008  # annotators mark R, which comes this much before the middle of the QRS complex
FIDUCIAL_SPREAD_S = 0.013  # narrow: in wide complexes marks lie near the middle rather than at the far nadir of S
FIDUCIAL_REACH_S = 0.045  # where the weight has become negligible
FIDUCIAL_POSITIVE = 1.3  # R is preferred to an S wave that is deeper by less than this factor
MARGIN_S = 0.2  # on either side of a recording; covers FIDUCIAL_REACH_S and FILTER_HALF_S
FILTER_HALF_S = 0.15  # half length of the fiducial filter: just over one period of its lower edge
FIDUCIAL_GRID_S = 0.004  # the deflection is looked for on this grid; a parabola gives the fraction
EDGE_SOFTNESS = 0.08  # of both bands: width of the logistic edges relative to their frequency

# Confidence, logistic: intercept, |log(strength / level)|, correlation with the record's other beats.
CONFIDENCE = (5.39, -2.85, 1.75)


def as_batch(signal: np.ndarray | Tensor) -> Tensor:
    """Float32 tensor (records, leads, samples); ValueError for another shape or samples that are not finite."""
    if not isinstance(signal, Tensor):
        signal = np.require(signal, np.float32, ["C", "W"])  # torch takes no other strides, orders of bytes, locks
    x_BCT = torch.as_tensor(signal, dtype=torch.float32)
    if x_BCT.ndim != 3:
        raise ValueError(f"signal has shape {tuple(x_BCT.shape)}, expected (records, leads, samples)")
    if not torch.isfinite(x_BCT.sum()) and not torch.isfinite(x_BCT).all():  # the sum is 30 times faster
        raise ValueError("signal holds NaN or infinite samples; drop or repair those records first")
    return x_BCT


def _gain(hz_F: Tensor, band_hz: tuple[float, float]) -> Tensor:
    low, high = band_hz
    low_F = torch.sigmoid((hz_F - low) / (EDGE_SOFTNESS * low))
    return low_F * torch.sigmoid((high - hz_F) / (EDGE_SOFTNESS * high))


@lru_cache(maxsize=8)
def _band_pass(n: int, rate: float, device: torch.device) -> Tensor:
    """Gain (F,) at the frequencies of a real Fourier transform of ``n`` samples."""
    return _gain(torch.fft.rfftfreq(n, 1 / rate, device=device), BAND_HZ)


def _cycle(x_BCT: Tensor, step: int, rate: float) -> tuple[Tensor, int, int]:
    """Means of ``step`` samples between margins, the place of the first and their number.

    Together the margins hold a straight line from the end back to the start, so that all is one cycle without a jump,
    as the Fourier transform takes it to be; each is long enough for any window around a beat.
    """
    T = x_BCT.shape[-1] // step
    n = 8 * next_fast_len((T + int(2 * MARGIN_S * rate) + 9) // 8, real=True)  # eights are transformed fastest
    first = (n - T) // 2
    mean_K = x_BCT.new_full((step,), 1 / step)
    slow_BCT = x_BCT[..., : T * step].unflatten(-1, (T, step)) @ mean_K if step > 1 else x_BCT
    line_X = torch.linspace(0, 1, n - T + 2, device=x_BCT.device)[1:-1]
    line_BCX = torch.lerp(slow_BCT[..., -1:], slow_BCT[..., :1], line_X)
    return torch.cat([line_BCX[..., n - T - first :], slow_BCT, line_BCX[..., : n - T - first]], -1), first, T


def _running_max(x_BT: Tensor, half: int) -> Tensor:
    """Largest of the 2 * half + 1 samples around each: windows double, so the cost is logarithmic in ``half``."""
    size, width = 1, 2 * half + 1
    x_BT = F.pad(x_BT, (half, half))  # of strengths, which are never negative
    while size < width:
        shift = min(size, width - size)
        x_BT = torch.maximum(x_BT[..., :-shift], x_BT[..., shift:])
        size += shift
    return x_BT


def _running_mean(x_BCX: Tensor, half: int) -> Tensor:
    """Means of 2 * half + 1 samples, (B, C, X - 2 * half); sums of doubling windows, so nothing cancels."""
    width, size, offset, T = 2 * half + 1, 1, 0, x_BCX.shape[-1] - 2 * half
    parts = []
    while size <= width:
        if width & size:
            parts.append(x_BCX[..., offset : offset + T])
            offset += size
        x_BCX, size = x_BCX[..., :-size] + x_BCX[..., size:], 2 * size
    total_BCT = parts[0].clone()
    for part_BCT in parts[1:]:
        total_BCT += part_BCT
    return total_BCT.div_(width)


def _block_maxima(x_BCT: Tensor, block: int) -> Tensor:
    """Largest value in each whole block of samples, shape (..., K)."""
    K = x_BCT.shape[-1] // block
    return x_BCT[..., : K * block].unflatten(-1, (K, block)).amax(-1)


def _level(peak_BK: Tensor) -> Tensor:
    """Running median of five block maxima, (B, K); the first and last two blocks share that of their neighbours."""
    K = peak_BK.shape[1]
    width = min(5, K)
    middle_BK = peak_BK.unfold(-1, width, 1).median(-1).values
    left = (width - 1) // 2
    nearest_K = torch.arange(K, device=peak_BK.device).sub(left).clamp(0, K - width)
    return middle_BK[:, nearest_K]


def detect_r_peaks(signal: np.ndarray | Tensor, fs: float) -> list[np.ndarray]:
    """R-peaks of a batch of records, jointly over the leads given.

    The strength of each lead (root mean square of the band-passed signal) is divided by that lead's own QRS strength
    and averaged over leads, so that large leads do not drown small ones, an artefact in few leads counts little and
    polarity plays no part. Maxima of it above a local threshold are beats; each is then placed on the main deflection
    in ONE lead: II of the twelve, else the lead with the largest QRS strength.

    Parameters
    ----------
    signal : ndarray or Tensor of shape (records, leads, samples)
        mV. The root mean square of a QRS complex in the band must exceed 0.002; smaller ones count as a flat lead.
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
    thresholds, joint strength and placement are our own.
    """
    return detect(as_batch(signal), fs, with_confidence=False)[0]


@torch.inference_mode()
def detect(x_BCT: Tensor, fs: float, *, with_confidence: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Peaks and, if wanted, the confidence of each (else their strength), one array a record."""
    if fs < 70:
        raise ValueError(f"fs = {fs} Hz is too low to detect R-peaks; at least 70 Hz is needed")
    B, C, T = x_BCT.shape
    if T < 0.5 * fs or B == 0 or C == 0:
        return [np.empty(0) for _ in range(B)], [np.empty(0, np.float32) for _ in range(B)]
    # Batches whose intermediate results stay in the processor's cache are fastest; a GPU is limited by memory alone.
    batch = max(8, 128 // C) if x_BCT.device.type == "cpu" else max(1, 2**28 // (C * T))
    peaks, confidence = [], []
    for part_BCT in x_BCT.split(batch):
        record_M, position_M, confidence_M = _detect_batch(part_BCT, fs, with_confidence)
        ends = torch.bincount(record_M, minlength=len(part_BCT)).cumsum(0).tolist()
        position, sure = position_M.cpu().double().numpy(), confidence_M.cpu().numpy()
        for first, last in zip([0, *ends], ends, strict=False):
            peaks.append(position[first:last])
            confidence.append(sure[first:last])
    return peaks, confidence


def _detect_batch(x_BCT: Tensor, fs: float, with_confidence: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Record, position in samples and confidence (else strength) of each beat, in order."""
    B, C, _ = x_BCT.shape
    step = max(1, round(fs / WORK_RATE_HZ))
    rate = fs / step
    cycle_BCX, first, T = _cycle(x_BCT, step, rate)
    n = cycle_BCX.shape[-1]
    band_BCX = torch.fft.irfft(torch.fft.rfft(cycle_BCX) * _band_pass(n, rate, x_BCT.device), n=n)
    half = round(QRS_WIDTH_S * rate) // 2
    strength_BCT = _running_mean(band_BCX[..., first - half : first + T + half].square(), half).sqrt_()

    block = T // max(1, round(T / (BLOCK_S * rate)))
    peak_BCK = _block_maxima(strength_BCT, block)
    usual_BC = peak_BCK.median(-1).values
    usual_BC = torch.where(usual_BC > SMALLEST_QRS_MV, usual_BC, peak_BCK.amax(-1))  # fewer beats than blocks
    weight_BC = (usual_BC > SMALLEST_QRS_MV) / usual_BC.clamp_min(SMALLEST_QRS_MV)
    weight_BC = weight_BC / (weight_BC > 0).sum(1, keepdim=True).clamp_min(1)
    joint_BT = torch.bmm(weight_BC[:, None], strength_BCT)[:, 0]
    floor_B1 = (SMALLEST_QRS_MV * weight_BC).sum(1, keepdim=True).clamp_min(1e-9)

    peak_BK = _block_maxima(joint_BT, block)
    level_BK = _level(peak_BK)
    level_BK = torch.where(level_BK > floor_B1, level_BK, peak_BK.amax(1, keepdim=True))
    near_BK = NEIGHBOUR_FRACTION * _running_max(peak_BK, 1)
    threshold_BK = near_BK.clamp(LEVEL_FRACTION[0] * level_BK, LEVEL_FRACTION[1] * level_BK)
    largest_BT = _running_max(joint_BT, round(REFRACTORY_S * rate)).clamp_min_(floor_B1)
    record_M, at_M = (joint_BT >= largest_BT).nonzero(as_tuple=True)
    strength_M, block_M = joint_BT[record_M, at_M], (at_M // block).clamp_max(peak_BK.shape[1] - 1)
    above_M = (strength_M > threshold_BK[record_M, block_M]).nonzero()[:, 0]
    record_M, at_M, strength_M, block_M = (v_M[above_M] for v_M in (record_M, at_M, strength_M, block_M))

    lead_B = usual_BC.argmax(1)
    if C == 12:
        lead_B = torch.where(weight_BC[:, 1] > 0, 1, lead_B)
    shift_M, shape_MW = _place(cycle_BCX, lead_B[record_M], rate, record_M, at_M + first)
    position_M = ((at_M + shift_M) * step + (step - 1) / 2).clamp(0, x_BCT.shape[-1] - 1)
    relative_M = strength_M / level_BK[record_M, block_M]
    confidence_M = _confidence(record_M, relative_M, shape_MW, B) if with_confidence else strength_M

    # Placement may have brought two neighbours to one deflection: the first of them stays.
    slope_MCX = band_BCX.unfold(-1, 2 * half + 1, 1)[record_M, :, at_M + first - half].diff().abs()
    steep_M = (slope_MCX * weight_BC[record_M, :, None]).sum(1).amax(1)
    same_M = record_M[1:] == record_M[:-1]
    drop_M = same_M & (position_M.diff() < 0.5 * REFRACTORY_S * fs)
    drop_M |= same_M & _is_t_wave(at_M / rate, strength_M, steep_M)
    keep_M = F.pad(~drop_M, (1, 0), value=True).nonzero()[:, 0] if len(record_M) else record_M
    return record_M[keep_M], position_M[keep_M], confidence_M[keep_M]


def _is_t_wave(second_M: Tensor, strength_M: Tensor, steep_M: Tensor) -> Tensor:
    """Tell (M - 1,) which maxima follow another closely and are smaller and blunter: peaked T waves pass all the rest.

    A premature ventricular beat may be as blunt, but it is not smaller.
    """
    smaller_M = strength_M[1:] < T_WAVE_STRENGTH * strength_M[:-1]
    blunter_M = steep_M[1:] < T_WAVE_STEEPNESS * steep_M[:-1]
    return (second_M.diff() < T_WAVE_S) & smaller_M & blunter_M


@lru_cache(maxsize=8)
def _fiducial_filter(rate: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Band-pass and interpolation in one matrix (X, W), from samples around a beat to a grid; seconds (W,) of that."""
    reach = round(FIDUCIAL_REACH_S / FIDUCIAL_GRID_S)
    second_W = torch.arange(-reach, reach + 1) * FIDUCIAL_GRID_S
    half = int((FIDUCIAL_REACH_S + FILTER_HALF_S) * rate)
    lag_XW = second_W - torch.arange(-half, half + 1)[:, None] / rate
    hz_F = torch.arange(0.0, rate / 2, 0.25)
    response_XW = torch.cos(2 * torch.pi * lag_XW[..., None] * hz_F) @ _gain(hz_F, FIDUCIAL_BAND_HZ) * (2 * 0.25 / rate)
    taper_XW = torch.cos(0.5 * torch.pi * (lag_XW / FILTER_HALF_S).clamp(-1, 1)) ** 2
    filter_XW = response_XW * taper_XW
    filter_XW -= taper_XW * (filter_XW.sum(0) / taper_XW.sum(0))  # the taper let some of a constant offset pass
    return filter_XW.to(device), second_W.to(device)


def _place(cycle_BCX: Tensor, lead_M: Tensor, rate: float, record_M: Tensor, at_M: Tensor) -> tuple[Tensor, Tensor]:
    """Main deflection near ``at_M``: its distance in samples (M,), and the filtered deflections (M, W) themselves."""
    filter_XW, second_W = _fiducial_filter(rate, cycle_BCX.device)
    X, W = filter_XW.shape
    shape_MW = cycle_BCX.unfold(-1, X, 1)[record_M, lead_M, at_M - X // 2] @ filter_XW
    weight_W = torch.exp(-0.5 * ((second_W + FIDUCIAL_LEAD_S) / FIDUCIAL_SPREAD_S) ** 2)
    best_M = torch.maximum(shape_MW * (FIDUCIAL_POSITIVE * weight_W), -shape_MW * weight_W).argmax(1)
    # To a fraction of the grid by a parabola, where there is an extremum.
    beside_M3 = best_M.clamp(1, W - 2)[:, None] + torch.arange(-1, 2, device=at_M.device)
    left_M, mid_M, right_M = shape_MW.gather(1, beside_M3).unbind(1)
    curvature_M = left_M - 2 * mid_M + right_M
    shift_M = torch.where(curvature_M * mid_M < 0, 0.5 * (left_M - right_M) / curvature_M, 0.0).clamp(-0.5, 0.5)
    return (second_W[best_M] + shift_M * FIDUCIAL_GRID_S) * rate, shape_MW


def _confidence(record_M: Tensor, relative_M: Tensor, shape_MW: Tensor, n_records: int) -> Tensor:
    """Probability (M,) that a beat is one: its strength is the usual one, and it is like the record's other beats."""
    unit_MW = F.normalize(shape_MW, dim=1)
    total_BW = unit_MW.new_zeros(n_records, unit_MW.shape[1]).index_add(0, record_M, unit_MW)
    likeness_M = (F.normalize(total_BW[record_M] - unit_MW, dim=1) * unit_MW).sum(1)
    intercept, of_strength, of_likeness = CONFIDENCE
    return torch.sigmoid(intercept + of_strength * relative_M.log().abs() + of_likeness * likeness_M)
