"""What an answer takes: a heart, beats that are like each other, and the leads that it rests on.

A window that lacks it is warned of, or its cells stay empty.

Shape legend: B windows, L leads (of beats: samples), C recorded leads, T samples, N beats of a window.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ecgmoe import beats
from ecgmoe.records import LARGEST_MV, LEADS
from ecgmoe.windows import LIMBS, WINDOW_S, Window

#: Below this quality (:func:`ecgmoe.beats.signal_quality`) a lead is said to be poor: about two in a hundred of PTB-XL.
POOR_QUALITY = 0.2
#: Seconds before and after R that beats are compared over: the QRS complex, since P and T move with the rate.
QRS_S = (0.05, 0.05)
#: Power of the mean beat over that of the beats' departures from it, median over beats and over recorded leads, below
#: which beats are said to be unlike each other: five in a hundred recordings of fold 8 of PTB-XL (21 % of those with
#: premature ventricular beats, 47 % of paced ones, 3 % of those in sinus rhythm). White noise of 0.10 mV
#: changed the RR interval of 141 of 300 recordings of fold 9 by more than 9.4 ms, and 77 of these lie below; noise of
#: 0.15 mV that of 244, and 209 of them do.
ALIKE = 3.25
#: Likeness below which nothing is answered: what beats share has less than half the power of what they do not. White
#: noise of 0.1 mV or more lies below. Of the 18 windows of MIT-BIH with ventricular flutter, which has no class, 12 do
#: (all are of one patient), and so do 33 of the other 1,422; of fold 8 of PTB-XL 11 of 2,173.
UNLIKE = 0.5
#: Beats that are unlike each other and smaller than this, mV from peak to peak, are noise. The smallest median beat of
#: fold 8 of PTB-XL has 0.28 mV; noise of 0.05 mV is taken for beats of 0.16 mV.
NOISE_MV = 0.2
#: A beat that is smaller than this part of the largest one is none.
SMALLEST_BEAT = 0.1
#: Longest stretch without a heartbeat that is answered, s. The longest of fold 8 of PTB-XL is 1.8 s; a heart of 20
#: beats a minute has one of 3.0 s.
LONGEST_PAUSE_S = 3.2

LIMB, NEAR = LEADS[:6], LEADS[6:10]
#: Leads of which some must have been recorded for an answer: one of each group. Otherwise the answer is that of a mean
#: recording, which no patient has. Of 400 recordings of fold 8 of PTB-XL, 58 % of women, leads I and V6 call 95 %
#: female, and 0.62 are right; II, V5 and V6 call 88 % so (0.65 right); II with one of V1, V2 and V4 47 to 73 % (0.75
#: right), and with V5 as well 54 to 61 % (0.81 right). Of fold 9 the six limb leads alone call 93 % of 400 female, V1
#: alone and V2 alone call 44 % and 73 % atrial fibrillation, and twelve leads 7.5 %.
NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {"sex": (NEAR, LIMB), "rhythm": (LIMB,)}
_NEEDED = {NEAR: "one of V1-V4", LIMB: "a limb lead"}
#: Columns of intervals that are empty where any lead had to be guessed: they are as wide as with twelve leads and
#: would hold 69 % (lead I), 70 % (V1, or V2), 78 % (II) and 82 % (limb leads) of the ages instead of 95 %.
NEED_ALL = ("age_years_low", "age_years_high")
#: What limb leads may lack to what I and II make of them, as a part of lead II: rounding and filters leave less than a
#: hundredth.
MISFIT = 0.1
#: Beats a minute from and up to which the RR interval is right, on made-up hearts (a test holds both). Of slower ones
#: noise between the beats is taken for beats, or the interval is beyond what a model can say; of faster ones beats are
#: missed.
BEATS_PER_MINUTE = (25, 250)
_PROBABILITY = {"sex": "sex_female_probability", "rhythm": "rhythm_probability"}


def limb_misfit(signal_LT: np.ndarray) -> dict[str, float]:
    """SD of what III, aVR, aVL and aVF lack to what I and II make of them, by that of II; (12, samples) in mV."""
    lacking_LT = signal_LT[2:6] - LIMBS[2:] @ signal_LT[:2]
    sizes = lacking_LT.std(axis=1) / max(float(np.std(signal_LT[1])), 0.01)
    return dict(zip(LEADS[2:6], sizes.tolist(), strict=True))


def looked_at(
    windows: Sequence[Window], signal_BLT: Tensor, peaks: Sequence[np.ndarray], fs: float
) -> tuple[list[list[str]], np.ndarray]:
    """The warnings of each window, and in which of them (B,) there is a heart to speak of.

    Parameters
    ----------
    windows : sequence of Window
    signal_BLT : Tensor of shape (B, 12, T)
        Their signals, mV.
    peaks : sequence of ndarray
        R-peaks of each, in samples.
    fs : float
        Of the signals, Hz.
    """
    quality_BL = beats.signal_quality(signal_BLT, fs, peaks)
    size_BN, alike_B = _compared(signal_BLT, fs, peaks, np.stack([window.recorded_L for window in windows]))
    warnings, alive_B = [list(window.warnings) for window in windows], np.ones(len(windows), bool)
    for i, (window, found, own) in enumerate(zip(windows, peaks, warnings, strict=True)):
        if none := _without_heart(window, found, size_BN[i, : len(found)], alike_B[i], fs):
            own.append(none)
            alive_B[i] = False
            continue
        if alike_B[i] < ALIKE:
            own.append("beats unlike each other: RR interval and rhythm may be wrong")
        if window.recorded_L[:2].all():
            misfit = limb_misfit(window.signal_LT)
            wrong = [lead for lead in misfit if window.recorded_L[LEADS.index(lead)] and misfit[lead] > MISFIT]
            if "III" in wrong:
                own.append("lead II is not the sum of I and III: are leads and gains right?")
            elif wrong:
                own.append(f"{', '.join(wrong)}: not what I and II make of them: exchanged, or of another gain?")
        looked = zip(LEADS, quality_BL[i], window.recorded_L, strict=True)
        if poor := [lead for lead, value, recorded in looked if recorded and value < POOR_QUALITY]:
            own.append(f"poor quality: {', '.join(poor)}")
    return warnings, alive_B


def _without_heart(window: Window, found: np.ndarray, size_N: np.ndarray, alike: float, fs: float) -> str:
    """Say why a window is not answered at all; nothing where it is."""
    if not window.usable:
        return "no lead to answer from"
    if (largest := float(np.abs(window.signal_LT).max())) > LARGEST_MV:
        return f"values up to {largest:.0f} mV, which no heart reaches: is the unit right?"
    if not len(found):
        return "no heartbeat found"
    beat_N = size_N >= SMALLEST_BEAT * size_N.max()
    edges_s = np.array([0.0, *found[beat_N] / fs, WINDOW_S])
    if (pause := float(np.diff(edges_s).max())) > LONGEST_PAUSE_S:
        return f"no heartbeat for {pause:.1f} s: pause, asystole or loss of signal"
    if np.median(size_N) < NOISE_MV and alike < ALIKE:
        return f"no heartbeat found: deflections of {np.median(size_N):.2g} mV, unlike each other"
    if alike < UNLIKE:
        return "no beat is like another: ventricular flutter, or noise"
    if not beat_N.all():
        return f"beats differ in size by more than {1 / SMALLEST_BEAT:.0f} times: artefact, or loss of signal"
    return ""


def _compared(
    signal_BLT: Tensor, fs: float, peaks: Sequence[np.ndarray], recorded_BL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of beats, mV from peak to peak (B, N), and how alike they are (B,); medians over recorded leads.

    Likeness is the power of the mean beat over the median power of what beats depart from it. The median lets some
    premature beats be as they are; a single beat is infinitely alike.
    """
    most = max(1, max(map(len, peaks)))
    cut_out = beats.segment_beats(signal_BLT, fs, peaks, length=32, max_beats=most, window=QRS_S)
    beat_BNCL = cut_out.beat_BNCL.numpy() - cut_out.beat_BNCL.numpy().mean(-1, keepdims=True)
    size_BN, alike_B = np.zeros((len(peaks), most)), np.full(len(peaks), np.inf)
    for i, found in enumerate(peaks):
        beat_NCL = beat_BNCL[i, : len(found)][:, recorded_BL[i]]
        if beat_NCL.size:
            size_BN[i, : len(found)] = np.median(np.ptp(beat_NCL, axis=-1), axis=1)
            mean_CL = beat_NCL.mean(0)
            rest_C = np.median(np.square(beat_NCL - mean_CL).mean(-1), axis=0)
            alike_B[i] = np.median(np.square(mean_CL).mean(-1) / np.maximum(rest_C, 1e-12))
    return size_BN, alike_B


def withheld(window: Window, row: int, columns: Mapping[str, np.ndarray]) -> list[str]:
    """Empty the cells of a row that rest on leads which were not recorded, and say so."""
    recorded = {lead for lead, there in zip(LEADS, window.recorded_L, strict=True) if there}
    said = []
    for name, groups in NEEDS.items():
        lacking = [_NEEDED[group] for group in groups if not recorded & set(group)]
        if lacking and name in columns:
            columns[name][row], columns[_PROBABILITY[name]][row] = None, np.nan
            said.append(f"no {name} without {' and '.join(lacking)}")
    if window.guessed_L.any() and NEED_ALL[0] in columns:
        if np.isfinite(columns[NEED_ALL[0]][row]):
            said.append("no interval of age where leads are guessed")
        for name in NEED_ALL:
            columns[name][row] = np.nan
    return said
