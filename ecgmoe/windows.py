"""Recordings of any length, rate and selection of leads as windows that a model can read.

Ten seconds, twelve leads, one rate: leads that are not there are made of the others, and what the answers rest on is
said in each window's warnings.

Shape legend: L 12 leads, T samples, F frequencies.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from ecgmoe import beats
from ecgmoe.records import LEADS, Record, RecordError, resampled
from ecgmoe.sources import Recording, rows_of, standard_name

#: Length of a window, s: what the model was trained on.
WINDOW_S = 10.0
#: Sampling rates that are taken, Hz: slower ones do not show a QRS complex, faster ones no recorder has.
RATES_HZ = (25.0, 100_000.0)
#: Longest run of missing samples that is bridged by a straight line, s; a longer one costs the lead its window.
LONGEST_GAP_S = 0.05
#: A lead is said to be clipped where so many of its samples stand at one of its extremes (within a thousandth of its
#: range), two or more in a row: tops are flat.
CLIPPED_SHARE = 0.01

#: Part of a lead's samples that may be missing, none of them in a gap that is told of, without a word.
SPARSE_SHARE = 0.02
#: Frequencies of the mains, Hz. Where a recording's rate lets them be told apart, hum is filtered out: 50 Hz lie at the
#: edge of what a model of 100 Hz reads, and come through the filter before resampling at half their size.
MAINS_HZ = (50.0, 60.0)
#: Hum, mV, from which on it is filtered out of a window, and told of. In 100 recordings of PTB-XL at 500 Hz, 0.05 mV at
#: 50 Hz changed what is said of the age by 0.7 years on average, 0.3 mV by 3.6 years, and 24 were called paced;
#: filtered, by less than 0.1 years each, and none was.
HUM_MV = 0.025
#: It is a single line, so many times as high as all that is 0.5 to 5 Hz away; steep waves in a regular rhythm have many
#: lines side by side.
HUM_OVER_REST = 3.0
#: The filter's frequency over its width, and seconds until it has come to rest.
_NOTCH, _RINGING_S = 30.0, 2.0

#: Limb leads from leads I and II (Einthoven, Goldberger), in the order of ``LEADS``.
LIMBS = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
_NLIMBS = len(LIMBS)


class Window(NamedTuple):
    """Ten seconds of a recording, twelve leads at the model's rate."""

    record: str
    start_s: float
    signal_LT: np.ndarray  #: mV, no NaN
    warnings: tuple[str, ...]
    usable: bool  #: whether there is any lead to answer from
    recorded_L: np.ndarray  #: bool, leads with a signal of their own
    guessed_L: np.ndarray  #: bool, leads that neither were recorded nor follow from others


def cut(recording: Recording, fs: float, lead_covariance: np.ndarray | None = None) -> Iterator[Window]:
    """Cut a recording into windows of ten seconds at a model's rate, and make up the leads that it lacks.

    What is left over at the end, and too short for a window, is not looked at. Hum of the mains is filtered out of the
    windows and leads that have it (:data:`HUM_MV`).

    Parameters
    ----------
    recording : Recording
        mV; NaN where a sample is missing.
    fs : float
        The model's rate, Hz.
    lead_covariance : ndarray of shape (12, 12), optional
        Of the leads, mV squared, to guess missing leads by; without it these are zero.

    Raises
    ------
    RecordError
        The recording is too short, has none of the twelve leads, or a rate that cannot be brought to the model's.
    """
    name = recording.name
    signal_LT = rows_of(np.asarray(recording.signal, np.float32), recording.leads, name)
    if not RATES_HZ[0] <= recording.fs <= RATES_HZ[1]:
        reason = f"a sampling rate of {recording.fs:g} Hz"
        raise RecordError(name, reason, f"rates from {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz can be read")
    seconds = signal_LT.shape[1] / recording.fs
    n_windows = int((seconds + 1e-6) // WINDOW_S)
    if n_windows == 0:
        raise RecordError(name, f"{seconds:.6g} s long, shorter than {WINDOW_S:g} s", "give a longer recording")
    notes = list(recording.notes)
    if unused := [lead for lead in recording.leads if standard_name(lead) is None]:
        notes.append(f"not used: {', '.join(unused)}")
    if recording.fs < fs:
        notes.append(f"sampled at {recording.fs:g} Hz, the model reads {fs:g} Hz")
    raw_LT = signal_LT
    signal_LT, gap_LT = _bridged(signal_LT, round(LONGEST_GAP_S * recording.fs))
    starts = [round(w * WINDOW_S * recording.fs) for w in range(n_windows + 1)]
    parts = [slice(i, j) for i, j in zip(starts[:-1], starts[1:], strict=True)]
    signal_LT, hum = _quiet(signal_LT, recording.fs, parts)
    if recording.fs != fs:
        # Rates such as 333.333 Hz are brought to a ratio of small numbers; over ten seconds nothing shifts.
        near = fs * Fraction(recording.fs / fs).limit_denominator(1000)
        signal_LT = resampled(Record(signal_LT, float(near), LEADS, name), fs).astype(np.float32)
    n = round(WINDOW_S * fs)
    for w in range(n_windows):
        part_LT = signal_LT[:, w * n : (w + 1) * n]
        part_LT = np.pad(part_LT, ((0, 0), (0, n - part_LT.shape[1])), "edge")  # a sample may be lost to rounding
        absent_L = np.asarray(gap_LT[:, parts[w]].any(1))
        own_LT, own_gap_LT = raw_LT[:, parts[w]], gap_LT[:, parts[w]]
        said = [*notes, *_gaps(own_gap_LT, recording.fs), *_sparse(own_LT, own_gap_LT), *_clipped(own_LT), *hum[w]]
        window = Window(name, w * WINDOW_S, part_LT, tuple(said), True, ~absent_L, np.zeros_like(absent_L))
        yield _completed(window, lead_covariance)


def _quiet(signal_LT: np.ndarray, fs: float, parts: Sequence[slice]) -> tuple[np.ndarray, list[list[str]]]:
    """Filter the hum of the mains out of those parts and leads that have it, and say so of each part."""
    quiet_LT = signal_LT
    said: list[list[str]] = [[] for _ in parts]
    for part, own in zip(parts, said, strict=True):
        humming_L, at_hz = np.zeros(len(signal_LT), bool), []
        for hz, (amplitude_L, found_hz) in _hum(signal_LT[:, part], fs).items():
            if (loud_L := amplitude_L >= HUM_MV).any():
                named = ", ".join(np.array(LEADS)[loud_L])
                own.append(f"hum of {hz:g} Hz, up to {amplitude_L.max():.2g} mV, filtered out of: {named}")
                humming_L |= loud_L
                at_hz.append(found_hz)
        if at_hz:
            quiet_LT = signal_LT.copy() if quiet_LT is signal_LT else quiet_LT
            # What is left over after the last window reaches into it when it is resampled.
            part = part if part is not parts[-1] else slice(part.start, signal_LT.shape[1])
            quiet_LT[humming_L, part] = _notched(signal_LT, humming_L, fs, part, at_hz)
    return quiet_LT, said


def _hum(signal_LT: np.ndarray, fs: float) -> dict[float, tuple[np.ndarray, float]]:
    """Amplitude (L,), mV, of the line within a hertz of each of ``MAINS_HZ``, 0 where there is none, and its place."""
    L, n = signal_LT.shape
    mains = [hz for hz in MAINS_HZ if fs >= 2.2 * hz]  # what is beside them can be seen too
    if not mains:
        return {}
    at_F = np.fft.rfftfreq(n, 1 / fs)
    size_LF = 4 / n * np.abs(np.fft.rfft(signal_LT * np.hanning(n)))  # twice, for the window's mean is a half
    found = {}
    for hz in mains:
        near_F = np.flatnonzero(np.abs(at_F - hz) <= 1)
        top_L = near_F[0] + size_LF[:, near_F].argmax(1)
        below_L, peak_L, above_L = (size_LF[np.arange(L), top_L + k] for k in (-1, 0, 1))
        off_LF = np.abs(at_F - at_F[top_L, None])
        rest_L = np.where((off_LF > 0.5) & (off_LF <= 5), size_LF, 0).max(1)
        line_L = (peak_L > below_L) & (peak_L > above_L) & (peak_L >= HUM_OVER_REST * rest_L)
        amplitude_L = np.where(line_L, peak_L, 0.0)
        k = amplitude_L.argmax()
        low, high = (np.log(max(side[k], 1e-12) / max(peak_L[k], 1e-12)) for side in (below_L, above_L))
        # The top of the parabola through three logarithms.
        shift = 0.5 * (low - high) / (low + high) if line_L[k] else 0.0
        found[hz] = (amplitude_L, float(at_F[top_L[k]] + shift * fs / n))
    return found


def _notched(signal_LT: np.ndarray, chosen_L: np.ndarray, fs: float, part: slice, at_hz: Sequence[float]) -> np.ndarray:
    """Part of some leads without some frequencies; neither its ends nor the recording's make the filters ring."""
    from scipy.signal import filtfilt, iirnotch  # takes a second to import, and most recordings need no filter

    n = round(_RINGING_S * fs)
    first = max(0, part.start - n)
    x_LT = signal_LT[chosen_L, first : part.stop + n].astype(np.float64)
    for hz in at_hz:
        before_LT, after_LT = _continued(x_LT[:, ::-1], n, hz / fs)[:, ::-1], _continued(x_LT, n, hz / fs)
        longer_LT = np.concatenate([before_LT, x_LT, after_LT], axis=1)
        x_LT = filtfilt(*iirnotch(hz, _NOTCH, fs), longer_LT, axis=1)[:, n:-n]
    return x_LT[:, part.start - first :][:, : part.stop - part.start]


def _continued(x_LT: np.ndarray, n: int, cycles: float) -> np.ndarray:
    """Samples that follow a signal: its last value and the oscillation, of so many cycles a sample, of its end."""
    wave_T = np.exp(2j * np.pi * cycles * np.arange(-n, n))
    end_LT = x_LT[:, -n:]
    fit_L1 = 2 / n * (end_LT - end_LT.mean(1, keepdims=True)) @ wave_T[:n, None].conj()
    oscillation_LT = (fit_L1 * wave_T).real
    level_L1 = x_LT[:, -1:] - oscillation_LT[:, n - 1 : n]
    return level_L1 + oscillation_LT[:, n:]


def _gaps(gap_LT: np.ndarray, fs: float) -> Iterator[str]:
    """Say of a window which leads are missing, and which have gaps, the longest of each."""
    longest = {lead: _longest_run(gap_T) for lead, gap_T in zip(LEADS, gap_LT, strict=True)}
    for n in sorted(set(longest.values()) - {0}, reverse=True):
        named = ", ".join(lead for lead in LEADS if longest[lead] == n)
        yield f"missing: {named}" if n == gap_LT.shape[1] else f"gap of {1000 * n / fs:.0f} ms in: {named}"


def _sparse(signal_LT: np.ndarray, gap_LT: np.ndarray) -> Iterator[str]:
    """Say of a window in which leads many single samples are missing, outside of gaps."""
    share_L = (~np.isfinite(signal_LT) & ~gap_LT).mean(1)
    if (many_L := share_L >= SPARSE_SHARE).any():
        named = ", ".join(np.array(LEADS)[many_L])
        yield f"up to {100 * share_L.max():.0f} % of the samples are missing and interpolated in: {named}"


def _longest_run(true_T: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(true_T, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def _clipped(signal_LT: np.ndarray) -> Iterator[str]:
    """Say of a window which leads have flat tops, as a converter leaves them whose range is too small."""
    known_LT = np.isfinite(signal_LT)
    low_L1 = np.where(known_LT, signal_LT, np.inf).min(1, keepdims=True)
    high_L1 = np.where(known_LT, signal_LT, -np.inf).max(1, keepdims=True)
    moves_L = (high_L1 - low_L1)[:, 0] > beats.ALIVE_MV
    near_L1 = 1e-3 * (high_L1 - low_L1)
    share_L = np.zeros(len(signal_LT))
    with np.errstate(invalid="ignore"):
        for top_LT in (signal_LT >= high_L1 - near_L1, signal_LT <= low_L1 + near_L1):
            beside_LT = np.pad(top_LT, ((0, 0), (1, 1)))
            share_L = np.maximum(share_L, (top_LT & (beside_LT[:, :-2] | beside_LT[:, 2:])).mean(1))
    if (clipped_L := moves_L & (share_L >= CLIPPED_SHARE)).any():
        yield f"clipped: {', '.join(np.array(LEADS)[clipped_L])}"


def _completed(window: Window, lead_covariance: np.ndarray | None) -> Window:
    """Make the leads of a window that are absent or flat of the others, and say so."""
    signal_LT, warnings = window.signal_LT, list(window.warnings)
    flat_L = window.recorded_L & (np.ptp(signal_LT, axis=1) <= beats.ALIVE_MV)
    recorded_L = window.recorded_L & ~flat_L
    lost_L = ~recorded_L
    if flat_L.any():
        warnings.append(f"flat: {', '.join(np.array(LEADS)[flat_L])}")
    if lost_L.all():
        return window._replace(warnings=tuple(warnings), usable=False, recorded_L=recorded_L, guessed_L=lost_L)
    if lost_L.any():
        signal_LT[lost_L] = 0.0
        there = np.flatnonzero(~lost_L[:_NLIMBS])
        if len(there) >= 2:  # two limb leads tell the four others
            known_2T = np.linalg.lstsq(LIMBS[there], signal_LT[there], rcond=None)[0]
            made = np.flatnonzero(lost_L[:_NLIMBS])
            signal_LT[made] = LIMBS[made] @ known_2T
            if len(made):
                warnings.append(f"computed from other limb leads: {', '.join(np.array(LEADS)[made])}")
            lost_L = lost_L & (np.arange(len(LEADS)) >= _NLIMBS)
        if lost_L.any() and lead_covariance is not None:
            signal_LT[lost_L] = guess(lead_covariance, ~lost_L) @ signal_LT[~lost_L]
            warnings.append(f"guessed from the other leads: {', '.join(np.array(LEADS)[lost_L])}")
    return window._replace(
        signal_LT=signal_LT, warnings=tuple(warnings), recorded_L=recorded_L, guessed_L=lost_L.copy()
    )


def _bridged(signal_LT: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate what is missing, and say which samples lie in gaps that are longer than ``longest`` samples."""
    missing_LT = ~np.isfinite(signal_LT)
    if not missing_LT.any():
        return signal_LT, missing_LT
    signal_LT, gap_LT = signal_LT.copy(), missing_LT.copy()
    at_T = np.arange(signal_LT.shape[1])
    for trace_T, missing_T, gap_T in zip(signal_LT, missing_LT, gap_LT, strict=True):
        if missing_T.all():
            trace_T[:] = 0.0
        elif missing_T.any():
            trace_T[missing_T] = np.interp(at_T[missing_T], at_T[~missing_T], trace_T[~missing_T])
            edges = np.flatnonzero(np.diff(missing_T, prepend=False, append=False))
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                if end - start <= longest:
                    gap_T[start:end] = False
    return signal_LT, gap_LT


def guess(covariance_LL: np.ndarray, there_L: np.ndarray) -> np.ndarray:
    """Matrix that makes the leads which are not there of those that are, with the least squared error on average.

    The mean of a Gaussian under what is known of it: covariances of both with the inverse of that of the latter. A
    little is added to its diagonal, since limb leads depend on each other.
    """
    known = covariance_LL[np.ix_(there_L, there_L)]
    known = known + 1e-4 * np.trace(known) / len(known) * np.eye(len(known))
    made: np.ndarray = np.linalg.solve(known, covariance_LL[np.ix_(there_L, ~there_L)]).T
    return made
