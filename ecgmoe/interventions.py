"""Interventions on a recording: one part of the cardiac cycle is made usual, and all the rest is left as it was.

To ask what a part tells a model, the part must lose what is its own. Flattening it would not do: a missing P wave is
the very sign of fibrillation and a flat T wave that of low potassium, so that "nothing" is a message too. Hence every
intervention puts the cohort's usual wave, or the usual interval, in place of the record's own; what is the same in all
records tells nothing. Where waves are is read off the recording itself, so this works on any data set.

Shape legend: B records, C leads, T samples, N beats, L samples of a beat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import find_peaks

from ecgmoe import beats
from ecgmoe.datasets import Cohort

#: What can be made usual: the P wave, its distance from QRS, QRS, the level of ST, T (with U), and the RR intervals.
PHASES = ("P", "PR", "QRS", "ST", "T", "RR")

#: Columns of :func:`landmarks`.
MARKS = ("p_on", "p_off", "qrs_on", "qrs_off", "t_off")

RATE = 250.0  # Hz, of median beats and usual waves
BEFORE, AFTER = 0.5, 0.7  # s around R that hold a beat
MARGIN = 0.02  # s that are left around a wave, since its ends are soft
FLAT_MV = 1e-4  # velocity per sample below which a record is flat
T_SPAN = (0.06, 0.46)  # s after QRS that hold T and U at an RR interval of 1 s
LONGEST_P = 0.18  # s; what is longer is no P wave
MIN_RR = 0.3  # s; shorter intervals are doubtful detections


def _rr(peaks: Sequence[np.ndarray], fs: float) -> np.ndarray:
    """Median RR interval of each record in s, NaN below two beats, shape (B,)."""
    found = [float(np.median(np.diff(p))) / fs if len(p) > 1 else np.nan for p in peaks]
    return np.clip(np.array(found, dtype=float), MIN_RR, None)


def _median_beats(signal: np.ndarray, fs: float, peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Median beat of each record without its early beats, (B, C, L) at :data:`RATE` from :data:`BEFORE` R."""
    length = round((BEFORE + AFTER) * RATE) + 1
    early = [series.ectopic for series in beats.rr_series(peaks, fs)]
    parts = []
    for start in range(0, len(signal), 128):
        part = slice(start, start + 128)
        cut = beats.segment_beats(signal[part], fs, peaks[part], length=length, window=(BEFORE, AFTER))
        parts.append(beats.median_beat(cut, early[part]).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, signal.shape[1], length), np.float32)


def landmarks(signal: np.ndarray, fs: float, peaks: Sequence[np.ndarray]) -> np.ndarray:
    """Onsets and ends of P and QRS and the end of T in each record's median beat.

    As in :func:`ecgmoe.beats.classical_intervals`, QRS lasts while the spatial velocity exceeds 12 % of its maximum,
    and a wave's ends are where the spatial magnitude has fallen three quarters of the way. P and T are looked for where
    the heart rate leaves room for them: T ends before the next P begins, and P begins after the T before it.

    Parameters
    ----------
    signal : ndarray of shape (records, leads, samples)
        mV.
    fs : float
        Sampling rate in Hz.
    peaks : sequence of ndarray
        R-peaks a record in samples.

    Returns
    -------
    ndarray of shape (records, 5)
        Seconds relative to R, columns :data:`MARKS`; NaN where there is no such wave; a row of NaN where no beat was
        found.
    """
    return _landmarks(_median_beats(signal, fs, peaks), _rr(peaks, fs))


def _landmarks(beat_BCL: np.ndarray, rr_B: np.ndarray) -> np.ndarray:
    out_B5 = np.full((len(beat_BCL), len(MARKS)), np.nan)
    second_L = np.arange(beat_BCL.shape[-1]) / RATE - BEFORE

    def index(seconds: float) -> int:
        return int(np.clip(round((seconds + BEFORE) * RATE), 0, len(second_L) - 1))

    for b, (beat_CL, rr) in enumerate(zip(beat_BCL, rr_B, strict=True)):
        velocity_L = np.sqrt((np.gradient(beat_CL, axis=1) ** 2).mean(0))
        velocity_L = np.convolve(velocity_L, np.ones(3) / 3, "same")
        if velocity_L.max() < FLAT_MV or not np.isfinite(rr):
            continue
        first, last = index(-0.12), index(0.14)
        on, off = _around(velocity_L > 0.12 * velocity_L[first:last].max(), index(0.0), first, last)
        # the longest QT that is not absurd, by Fridericia's rule, and not beyond the onset of the next P
        latest = min(second_L[on] + 0.52 * np.cbrt(rr), rr + second_L[on] - 0.12)
        level_C1 = beat_CL[:, on - round(0.024 * RATE) : on - round(0.004 * RATE)].mean(1, keepdims=True)
        magnitude_L = np.sqrt(((beat_CL - level_C1) ** 2).mean(0))
        _, t_off = _wave(magnitude_L, off + round(0.06 * RATE), index(latest))
        earliest = max(second_L[on] - 0.40, second_L[t_off] - rr)
        p_on, p_off = _wave(magnitude_L, index(earliest), on - round(0.01 * RATE))
        out_B5[b] = second_L[[p_on, p_off, on, off, t_off]]
        if p_off - p_on > LONGEST_P * RATE:
            out_B5[b, :2] = np.nan
    return out_B5


def _around(where_L: np.ndarray, centre: int, first: int, last: int) -> tuple[int, int]:
    """First and last index of the stretch of ``where_L`` nearest to ``centre``, pauses up to 20 ms bridged."""
    found = np.flatnonzero(where_L[first:last]) + first
    if len(found) == 0:
        return centre, centre
    runs = np.split(found, np.flatnonzero(np.diff(found) > round(0.02 * RATE)) + 1)
    nearest = min(runs, key=lambda run: int(np.abs(run - centre).min()))
    return int(nearest[0]), int(nearest[-1])


def _wave(magnitude_L: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """First and last index of the most prominent wave between two indices; what falls from an edge is no wave."""
    side_L = magnitude_L[first : last + 1]
    tops, found = find_peaks(side_L, prominence=0.0)
    if len(tops) == 0:
        return min(first, last), last
    top = int(tops[found["prominences"].argmax()])
    ends = []
    for slope_L in (side_L[top::-1], side_L[top:]):
        lowest = np.quantile(slope_L, 0.2)  # of what lies beyond the wave; its very minimum may be a dip
        below = np.flatnonzero(slope_L <= lowest + 0.25 * (side_L[top] - lowest))
        ends.append(int(below[0]))
    return first + top - ends[0], first + top + ends[1]


@dataclass(frozen=True)
class Usual:
    """What is usual in the training part of a cohort: medians over its records.

    Attributes
    ----------
    rr, pr, p_length : float
        RR interval, PR interval and length of P in s.
    st : ndarray of shape (leads,)
        Level of ST above that before QRS, mV.
    waves : dict of str to tuple of ndarray
        For P, QRS and T: seconds of shape (L,) and mV of shape (leads, L), over the straight line that joins the
        wave's ends. Seconds count from the onset of P, from R, and from the end of QRS; those of T, which holds the
        U wave too, are divided by the cube root of RR (Fridericia 1920).
    """

    rr: float
    pr: float
    p_length: float
    st: np.ndarray
    waves: dict[str, tuple[np.ndarray, np.ndarray]]


def usual(cohort: Cohort) -> Usual:
    """Take what is usual from the training part of a cohort.

    Raises
    ------
    ValueError
        The training part has no record with two beats.
    """
    rows = np.flatnonzero(cohort.split == "train")
    signal = cohort.signal[rows]
    peaks = beats.detect_r_peaks(signal, cohort.fs)
    rr_B = _rr(peaks, cohort.fs)
    beat_BCL = _median_beats(signal, cohort.fs, peaks)
    marks_B5 = _landmarks(beat_BCL, rr_B)
    known_B = np.isfinite(marks_B5).all(1)
    if not known_B.any():
        raise ValueError(f"no record of the training part of {cohort.card.name} has beats; take more records")
    rr_B, beat_BCL, marks_B5 = rr_B[known_B], beat_BCL[known_B], marks_B5[known_B]
    second_L = np.arange(beat_BCL.shape[-1]) / RATE - BEFORE
    middle = np.median(marks_B5, axis=0)
    p_length = float(np.median(marks_B5[:, 1] - marks_B5[:, 0]))
    p_s = np.arange(-MARGIN, p_length + MARGIN, 1 / RATE)
    qrs_s = np.arange(middle[2] - MARGIN, middle[3] + MARGIN, 1 / RATE)
    waves = {}
    for name, own_s, start_B, scale_B in (
        ("P", p_s, marks_B5[:, 0], None),
        ("QRS", qrs_s, np.zeros(len(rr_B)), None),
        ("T", np.arange(*T_SPAN, 1 / RATE), marks_B5[:, 3], np.cbrt(rr_B)),
    ):
        at_BL = start_B[:, None] + own_s * (1.0 if scale_B is None else scale_B[:, None])
        wave_BCL = np.stack([_at(beat_CL, second_L, at_L) for beat_CL, at_L in zip(beat_BCL, at_BL, strict=True)])
        waves[name] = own_s, np.median(_over_line(wave_BCL, wave_BCL[..., 0], wave_BCL[..., -1]), axis=0)
    st_BC = np.stack([_st_level(*pair, second_L) for pair in zip(beat_BCL, marks_B5, strict=True)])
    return Usual(
        rr=float(np.median(rr_B)),
        pr=float(np.median(marks_B5[:, 2] - marks_B5[:, 0])),
        p_length=p_length,
        st=np.median(st_BC, axis=0),
        waves=waves,
    )


def _at(x_CT: np.ndarray, second_T: np.ndarray, wanted_L: np.ndarray) -> np.ndarray:
    """Values of each lead at the wanted times, (C, L); zero outside."""
    return np.stack([np.interp(wanted_L, second_T, x_T, left=0.0, right=0.0) for x_T in x_CT])


def _over_line(x: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """What of ``x`` (..., L) lies above the straight line from ``first`` to ``last`` (...)."""
    ramp_L = np.linspace(0, 1, x.shape[-1])
    return np.asarray(x - first[..., None] * (1 - ramp_L) - last[..., None] * ramp_L)


def _st_level(beat_CL: np.ndarray, marks_5: np.ndarray, second_L: np.ndarray) -> np.ndarray:
    """Level from 20 to 60 ms after QRS above that of the 30 ms before it, mV (C,)."""
    on, off = marks_5[2], marks_5[3]
    after_L, before_L = ((second_L >= a) & (second_L <= b) for a, b in ((off + 0.02, off + 0.06), (on - 0.03, on)))
    return np.asarray(beat_CL[:, after_L].mean(1) - beat_CL[:, before_L].mean(1))


def make_usual(
    signal: np.ndarray, fs: float, peaks: Sequence[np.ndarray], usual: Usual
) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """Recordings with one part of every beat made usual, for each part.

    - P: what lies between the onset of P and that of QRS gives way to the usual P wave, begun where the record's own
      began. Records without a P wave, as in fibrillation, get one at the usual PR interval.
    - PR: the record's own P wave is moved so that the PR interval is the usual one.
    - QRS: gives way to the usual complex.
    - ST: its level is shifted to the usual one, fading out under T.
    - T: T and U give way to the usual T, with the usual QT interval at the record's heart rate.
    - RR: every beat comes a usual RR interval after the last. P and QRS are moved as they are, the time from QRS to
      the end of T is scaled by the cube root of RR, the rest of the cycle is stretched or compressed; cycles are
      repeated from the first where the recording gets short.

    Parameters
    ----------
    signal : ndarray of shape (records, leads, samples)
        mV.
    fs : float
        Sampling rate in Hz.
    peaks : sequence of ndarray
        R-peaks a record in samples.
    usual : Usual
        From :func:`usual` of the same cohort.

    Returns
    -------
    dict of str to tuple
        By name of :data:`PHASES`: the recordings, float32 of the same shape, and their R-peaks, which only RR moves.
        Records without two beats are returned as they were.
    """
    beat_BCL, rr_B = _median_beats(signal, fs, peaks), _rr(peaks, fs)
    marks_B5 = _landmarks(beat_BCL, rr_B)
    no_p_B = np.isnan(marks_B5[:, 0])
    marks_B5[no_p_B, 0] = marks_B5[no_p_B, 2] - usual.pr
    marks_B5[no_p_B, 1] = marks_B5[no_p_B, 0] + usual.p_length
    second_L = np.arange(beat_BCL.shape[-1]) / RATE - BEFORE
    made = {}
    for phase in PHASES:
        out_BCT, moved = np.array(signal, dtype=np.float32), [np.asarray(p, dtype=float) for p in peaks]
        for b in np.flatnonzero(np.isfinite(marks_B5).all(1)):
            x_CT, r_N, marks_5 = out_BCT[b], moved[b] / fs, marks_B5[b]
            seconds = x_CT.shape[1] / fs
            outside = [r for r in (r_N[0] - rr_B[b], r_N[-1] + rr_B[b]) if not 0 <= r < seconds]
            every_N = np.sort(np.append(r_N, outside))  # also beats whose waves reach into the recording
            if phase == "RR":
                out_BCT[b], moved[b] = _metronome(x_CT, fs, r_N, marks_5, usual.rr)
            elif phase == "ST":
                _shift_st(x_CT, fs, every_N, marks_5, usual.st - _st_level(beat_BCL[b], marks_5, second_L))
            else:
                _replace(x_CT, fs, every_N, marks_5, float(np.cbrt(rr_B[b])), phase, usual)
        made[phase] = out_BCT, moved
    return made


def _shift_st(x_CT: np.ndarray, fs: float, r_N: np.ndarray, marks_5: np.ndarray, by_C: np.ndarray) -> None:
    """Shift the ST segment of every beat, from QRS on and fading out over T; changes ``x_CT``."""
    fade = marks_5[3] + np.array([-0.02, 0.02, 0.08, 0.20])
    for r in r_N:
        i, second_L = _samples(r + fade[0], r + fade[-1], fs, x_CT.shape[1])
        x_CT[:, i] += by_C[:, None] * np.interp(second_L - r, fade, (0.0, 1.0, 1.0, 0.0))


def _samples(start: float, end: float, fs: float, T: int) -> tuple[slice, np.ndarray]:
    """Samples of a recording from ``start`` to ``end`` in s, and their times in s."""
    i = slice(min(T, max(0, int(np.ceil(start * fs)))), min(T, max(0, int(np.floor(end * fs)) + 1)))
    return i, np.arange(i.start, i.stop) / fs


def _replace(
    x_CT: np.ndarray, fs: float, r_N: np.ndarray, marks_5: np.ndarray, stretch: float, phase: str, usual: Usual
) -> None:
    """Put another wave in the place of P, QRS or T of every beat, or P in another place; changes ``x_CT``."""
    p_on, p_off, qrs_on, qrs_off, t_off = marks_5
    own = {
        "P": (p_on - MARGIN, qrs_on),
        "PR": (p_on - MARGIN, min(p_off + MARGIN, qrs_on)),
        "QRS": (qrs_on - MARGIN, qrs_off + MARGIN),
        "T": (qrs_off + T_SPAN[0] * stretch, qrs_off + T_SPAN[1] * stretch),
    }[phase]
    before = x_CT.copy()
    for last, r, following in zip(np.append(-np.inf, r_N[:-1]), r_N, np.append(r_N[1:], np.inf), strict=True):
        start, end = r + own[0], r + own[1]
        late = max(0.0, last + t_off - (r + p_on))  # an early beat's P comes no earlier than the end of the T before
        if phase == "T":
            end = min(end, following + p_on - MARGIN)
        elif phase == "P":
            start += late
        i, _ = _samples(start, end, fs, x_CT.shape[1])
        if i.stop - i.start < 3:
            continue
        edge = max(1, round(MARGIN * fs / 2))
        piece_CL = before[:, i]
        rest_CL = _over_line(piece_CL, piece_CL[:, :edge].mean(1), piece_CL[:, -edge:].mean(1))
        x_CT[:, i] -= rest_CL
        if phase == "PR":
            by = qrs_on - usual.pr - p_on
            wave_L, wave_CL = np.arange(i.start, i.stop) / fs + by, rest_CL
        else:
            own_s, wave_CL = usual.waves[phase]
            anchor, scale = {"P": (p_on, 1.0), "QRS": (0.0, 1.0), "T": (qrs_off, stretch)}[phase]
            wave_L = r + anchor + own_s * scale + (late if phase == "P" else 0.0)
        j, second_L = _samples(wave_L[0], wave_L[-1], fs, x_CT.shape[1])
        x_CT[:, j] += _at(wave_CL, wave_L, second_L)


def _metronome(
    x_CT: np.ndarray, fs: float, r_N: np.ndarray, marks_5: np.ndarray, rr: float
) -> tuple[np.ndarray, np.ndarray]:
    """One recording at a steady pace: signal and R-peaks in samples.

    A cycle runs from one onset of P to the next. Where the last whole cycle is followed by the first one again, and
    only there, a slow ramp over the cycle brings both ends to one level.
    """
    T = x_CT.shape[1]
    second_T = np.arange(T) / fs
    lead_in = -marks_5[0] + MARGIN
    whole = np.flatnonzero((r_N[:-1] - lead_in >= 0) & (r_N[1:] - lead_in <= second_T[-1]))
    if len(whole) == 0:
        return x_CT, r_N * fs
    stretch = np.cbrt(rr / np.median(np.diff(r_N)))
    at = float(r_N[whole[0]] % rr) - rr
    starts: list[float] = []
    cycles: list[int] = []
    while at - lead_in < second_T[-1]:
        cycle = int(whole[(len(cycles) - 1) % len(whole)])  # what comes before the first is the last
        starts.append(at)
        cycles.append(cycle)
        at += rr
    out_CT = np.empty_like(x_CT)
    for n, (new_r, cycle) in enumerate(zip(starts, cycles, strict=True)):
        r, room = r_N[cycle], r_N[cycle + 1] - r_N[cycle] - lead_in
        qrs_off = min(marks_5[3], 0.8 * room)
        t_off = float(np.clip(marks_5[4], qrs_off, 0.95 * room))
        new_off = min(qrs_off + (t_off - qrs_off) * stretch, 0.95 * (rr - lead_in))
        own = np.array([-lead_in, qrs_off, t_off, room])
        new = np.array([-lead_in, qrs_off, max(new_off, qrs_off + 1e-3), rr - lead_in])
        i, second_L = _samples(new_r - lead_in, new_r + rr - lead_in, fs, T)
        taken_L = r + np.interp(second_L - new_r, new, own)
        out_CT[:, i] = _at(x_CT, second_T, taken_L)
        following = cycles[n + 1] if n + 1 < len(cycles) else cycle + 1
        if following != cycle + 1:
            ends = _at(x_CT, second_T, np.array([r_N[cycle + 1] - lead_in, r_N[following] - lead_in]))
            out_CT[:, i] += (ends[:, 1:] - ends[:, :1]) * (second_L - new_r + lead_in) / rr
    peaks_N = np.array([s for s in starts if 0 <= s <= second_T[-1]])
    return out_CT, peaks_N * fs
