"""Simulated hearts and their electrocardiograms: every cause is known.

The model is the closed form of the dynamical model of McSharry et al. (IEEE Trans Biomed Eng 50:289, 2003), extended
to a heart dipole by Sameni et al. (EURASIP J Adv Signal Process 2007:43407): each beat is a sum of Gaussian kernels
around its R peak, each kernel pointing along a vector in the body (x left, y foot, z back), and the P-R and R-T
distances follow the beat's own PR and QT interval instead of the phase, so that QT grows with the cube root of RR
(Fridericia 1920). Eight leads come from the dipole by Dower's matrix (Edenbrandt & Pahlm, J Electrocardiol 21:361,
1988), the other four from leads I and II by the laws of Einthoven and Goldberger.

Effect sizes and their sources are in :mod:`ecgmoe.datasets._effects`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgmoe import tasks
from ecgmoe.datasets import _effects as effects

FS = 500
SAMPLES = 5000
SECONDS = SAMPLES / FS

#: Rows V1-V6, I, II; columns x, y, z (Dower's matrix as given by Edenbrandt & Pahlm 1988).
DOWER = np.array(
    [
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
    ]
)
#: Twelve leads in the order I, II, III, aVR, aVL, aVF, V1-V6 from the eight of ``DOWER``.
TWELVE = np.zeros((12, 8), np.float32)
TWELVE[0, 6] = TWELVE[1, 7] = 1
TWELVE[2, 6:] = -1, 1
TWELVE[3, 6:] = -0.5, -0.5
TWELVE[4, 6:] = 1, -0.5
TWELVE[5, 6:] = -0.5, 1
TWELVE[6:, :6] = np.eye(6)
#: The same eight leads from the potentials of the electrodes RA, LA, LL, V1-V6 (noise arises at electrodes).
ELECTRODES = np.zeros((8, 9), np.float32)
ELECTRODES[:6, :3] = -1 / 3
ELECTRODES[:6, 3:] = np.eye(6)
ELECTRODES[6, :2] = -1, 1
ELECTRODES[7, [0, 2]] = -1, 1

P1, P2, Q, R, S, ST1, ST2, T1, T2, U, SPIKE = range(11)
#: Onset and offset columns of ``Draw.fiducials``.
FIDUCIALS = ("p_on", "p_off", "qrs_on", "qrs_off", "t_on", "t_off")

BEFORE, AFTER = 240, 420  # samples of a beat's window around R
_MARGIN = 1500  # samples outside the record in which beats may start
_SPECTRUM = 5120  # length of the noise draw: longer than a record, so that its ends do not meet


@dataclass(frozen=True)
class Heart:
    """What a patient's records share: intervals in ms, vectors in mV (x left, y foot, z back)."""

    age: float
    sex: int
    rate: float
    p_ms: float
    pr_ms: float
    qrs_ms: float
    qtc_ms: float
    rsa: float
    p: np.ndarray
    qrs: np.ndarray
    t: np.ndarray
    st: np.ndarray
    field: np.ndarray


@dataclass(frozen=True)
class Draw:
    """All random choices of one record; :func:`render` turns them into a signal.

    Attributes
    ----------
    codes : dict of str to float
        Statements as in ``scp_codes`` of PTB-XL.
    r : ndarray of shape (beats,)
        R positions in samples, also of beats outside the record.
    kernels : ndarray of shape (beats, 11, 5)
        Centre and width in samples, then the vector in mV.
    fiducials : ndarray of shape (beats, 6)
        Samples; NaN where a beat has no such wave.
    field : ndarray of shape (8, 3)
        Leads V1-V6, I, II from the dipole.
    atrial : ndarray of shape (2, 8)
        Two continuous atrial sources, each with frequency, phase, frequency swing, swing rate, share of harmonics and
        vector (mV).
    noise : ndarray of shape (9, 2, bins)
        White draw at each electrode, real and imaginary part.
    levels : ndarray of shape (9, 3)
        RMS in mV at each electrode of wander, motion and muscle.
    mains : ndarray of shape (9,)
        Complex amplitude of 50 Hz in mV at each electrode.
    gain : ndarray of shape (8,)
        1, or next to nothing for a lead whose electrode is off.
    steps : list of tuple
        Electrode, sample, size in mV and decay in samples of each electrode movement.
    """

    codes: dict[str, float]
    r: np.ndarray
    kernels: np.ndarray
    fiducials: np.ndarray
    field: np.ndarray
    atrial: np.ndarray
    noise: np.ndarray
    levels: np.ndarray
    mains: np.ndarray
    gain: np.ndarray
    steps: list[tuple[int, int, float, float]]


def _by_sex_and_age(rng: np.random.Generator, effect: tuple[float, ...], sex: int, age: float) -> float:
    women, men, slope_women, slope_men, scatter = effect
    male = sex == 0
    decades = (age - 50.0) / 10.0
    return float(women + men * male + (slope_men if male else slope_women) * decades + scatter * rng.standard_normal())


def _rotate(vectors: np.ndarray, degrees: float) -> np.ndarray:
    """Turn vectors of shape (n, 3) about the z axis, from the left towards the foot."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vectors @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def draw_heart(rng: np.random.Generator, age: float, sex: int) -> Heart:
    """Draw a heart of given age (years) and sex (0 male, 1 female)."""

    def effect(sizes: tuple[float, ...]) -> float:
        return _by_sex_and_age(rng, sizes, sex, age)

    axis = np.clip(effect(effects.QRS_AXIS_DEG), -30.0, 90.0)
    depth = rng.normal(1.0, 0.15, 3)
    qrs = np.array([[-0.13, -0.04, -0.26], [0.95, 0.48, 0.02], [-0.22, -0.03, 0.64]])
    qrs[:, 2] *= depth
    # Dower's frontal plane leans: a vector at 20 degrees less than the wanted axis shows that axis in leads I and aVF.
    turned = np.vstack([qrs[:1], _rotate(qrs[1:], axis - 20.0 - np.degrees(np.arctan2(0.48, 0.95)))])
    left, front = effect(effects.T_LEFT_MV), effect(effects.T_FRONT_MV)
    p = np.array([[0.035, 0.085, -0.05], [0.055, 0.06, 0.0]]) * np.exp(rng.normal(0, 0.2))
    p[1, 2] = effect(effects.P_TERMINAL_MV)
    return Heart(
        age=age,
        sex=sex,
        rate=float(np.clip(effect(effects.HEART_RATE_BPM), 62.0, 95.0)),
        p_ms=float(np.clip(effect(effects.P_DURATION_MS), 80.0, 135.0)),
        pr_ms=float(np.clip(effect(effects.PR_MS), *effects.PR_LIMITS_MS)),
        qrs_ms=float(np.clip(effect(effects.QRS_MS), 70.0, 114.0)),
        qtc_ms=float(np.clip(effect(effects.QTC_MS), 365.0, 470.0)),
        rsa=float(np.clip(np.exp(effect(effects.LOG_RSA)), 0.003, 0.05)),
        p=_rotate(p, rng.normal(0.0, 8.0)),
        qrs=turned * np.exp(effect(effects.LOG_VOLTAGE)),
        t=_rotate(np.array([[left, 0.58 * max(left, 0.05), -front]]), rng.normal(0.0, 10.0))[0],
        st=np.array([0.01, 0.01, -effect(effects.ST_FRONT_MV)]),
        field=DOWER * (1 + rng.normal(0.0, 0.07, (8, 1))),
    )


def draw_potassium(rng: np.random.Generator) -> float:
    """Serum potassium in mmol/l, to one decimal as laboratories report it."""
    if rng.random() > effects.POTASSIUM_ABNORMAL_SHARE:
        level = np.clip(rng.normal(4.2, 0.33), *effects.POTASSIUM_NORMAL)
    elif rng.random() < effects.HYPERKALAEMIA_SHARE:
        level = min(5.1 + rng.gamma(1.8, 0.55), 8.0)
    else:
        level = max(3.4 - rng.gamma(1.8, 0.28), 2.2)
    return round(float(level), 1)


def _intervals(rng: np.random.Generator, mean: float, rsa: float, breathing_hz: float, phase: float) -> np.ndarray:
    """RR intervals in s: respiration and a slow (Mayer) part near 0.1 Hz, the two peaks of McSharry's spectrum."""
    time = np.arange(int(16.0 / mean) + 4) * mean
    slow = np.sin(2 * np.pi * rng.normal(0.1, 0.02) * time + rng.uniform(0, 2 * np.pi))
    fast = np.sin(2 * np.pi * breathing_hz * time + phase)
    return mean * (1 + rsa * fast + 0.6 * rsa * slow + rng.normal(0.0, 0.004, len(time)))


def _beats(
    rng: np.random.Generator, heart: Heart, rhythm: str, kind: str, breathing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R times in s, the RR before each, and the kind of each beat: N narrow, A atrial, V ventricular, P paced."""
    rate, rsa = float(np.clip(heart.rate + rng.normal(0.0, 2.5), 62.0, 96.0)), heart.rsa
    if rhythm == "sinus bradycardia":
        rate = rng.uniform(43.0, 58.0)
    elif rhythm == "sinus tachycardia":
        rate, rsa = rng.uniform(104.0, 138.0), 0.3 * rsa
    elif rhythm == "sinus arrhythmia":
        rsa = rng.uniform(0.09, 0.16)
    elif rhythm == "ventricular pacing":
        rate, rsa = rng.choice([60.0, 65.0, 70.0, 75.0, 80.0]), 0.0
    elif kind == "SVTAC":
        rate, rsa = rng.uniform(150.0, 190.0), 0.0
    rr = _intervals(rng, 60.0 / rate, rsa, breathing[0], breathing[1])
    kinds = np.full(len(rr), "P" if rhythm == "ventricular pacing" else "N")
    if "fibrillation" in rhythm:
        rapid = "rapid" in rhythm
        mean = 60.0 / (rng.uniform(108.0, 150.0) if rapid else rng.uniform(58.0, 92.0))
        spread = rng.uniform(0.16, 0.26)
        rr = np.maximum(rng.gamma(spread**-2, mean * spread**2, int(20 / mean) + 4), 0.30 if rapid else 0.40)
        kinds = np.full(len(rr), "N")
    elif kind == "AFLT":
        ratios = rng.choice([2, 3, 4], p=[0.45, 0.15, 0.4]) if rng.random() < 0.65 else rng.choice([2, 4], len(rr) * 2)
        rr = np.full(2 * len(rr), 1.0) * ratios / breathing[3]
        kinds = np.full(len(rr), "N")
    first = -2.2 + rng.random() * rr[0]
    time = first + np.cumsum(rr)
    if kind in ("PAC", "PVC", "BIGU", "TRIGU"):
        inside = np.flatnonzero((time > 1.2) & (time < 8.6))
        if kind in ("BIGU", "TRIGU"):
            early = np.arange(1 + rng.integers(2), len(rr) - 1, 2 if kind == "BIGU" else 3)
        else:
            start = inside[0] + rng.integers(0, 3)
            early = np.array([start, *[k for k in inside if k >= start + 3 and rng.random() < 0.22]])
            early = early[np.concatenate([[True], np.diff(early) >= 3])]
        atrial = kind == "PAC"
        coupling = rng.uniform(*(effects.PAC_COUPLING if atrial else effects.PVC_COUPLING)) + rng.normal(
            0, 0.01, len(early)
        )
        rr[early + 1] *= rng.uniform(*effects.PAC_PAUSE) if atrial else 2.0 - coupling
        rr[early] *= coupling
        kinds[early] = "A" if atrial else "V"
        time = first + np.cumsum(rr)
    keep = (time * FS > -_MARGIN + 400) & (time < SECONDS + 0.7)
    return time[keep], rr[keep], kinds[keep]


def draw_record(rng: np.random.Generator, heart: Heart, rhythm: str, potassium: float) -> Draw:
    """Draw one record of a heart: its beats with all their waves, its breathing, its noise."""
    kind, codes = "", {"SR": 0.0}
    if rhythm == "other":
        kind = str(rng.choice(["AFLT", "SVTAC", "BIGU", "TRIGU"], p=[0.4, 0.2, 0.25, 0.15]))
        codes = {kind: 0.0}
    elif "pac(s)" in rhythm or "pvc(s)" in rhythm:
        kind = "PAC" if "pac(s)" in rhythm else "PVC"
        codes = {kind: 100.0, "SR": 0.0}
    else:
        codes = {
            "sinus bradycardia": {"SBRAD": 0.0},
            "sinus tachycardia": {"STACH": 0.0},
            "atrial fibrillation": {"AFIB": 0.0},
            "atrial fibrillation with rapid ventricular response": {"AFIB": 0.0},
            "sinus rhythm with borderline 1st degree a-v block": {"LPR": 0.0, "SR": 0.0},
            "sinus rhythm with 1st degree a-v block": {"1AVB": 100.0, "SR": 0.0},
            "sinus arrhythmia": {"SARRH": 0.0},
            "ventricular pacing": {"PACE": 0.0},
            "possible ectopic atrial rhythm": {"SVARR": 0.0},
        }.get(rhythm, codes)
    territory = str(rng.choice(list(effects.INJURY), p=[0.45, 0.4, 0.15]))
    if rhythm == "consider acute st elevation mi":
        codes = {territory: 100.0, "STE_": 0.0, **codes}

    # breathing: frequency, phase, depth of the amplitude modulation, flutter frequency
    breathing = np.array([rng.uniform(0.18, 0.33), rng.uniform(0, 2 * np.pi), rng.uniform(0.01, 0.06), 0.0])
    breathing[3] = rng.uniform(*effects.FLUTTER_HZ)
    time, rr, kinds = _beats(rng, heart, rhythm, kind, breathing)
    r = np.rint(time * FS).astype(np.int64)
    n = len(r)
    narrow, ventricular, paced = (kinds == "N") | (kinds == "A"), kinds == "V", kinds == "P"

    high, low = max(potassium - effects.POTASSIUM_NORMAL[1], 0.0), max(effects.POTASSIUM_NORMAL[0] - potassium, 0.0)
    pr_ms = min(heart.pr_ms + effects.HYPER_PR_MS * high, effects.PR_LIMITS_MS[1])
    pr_ms -= 0.35 * max(60.0 / float(np.median(rr)) - 75.0, 0.0)
    p_ms, p = heart.p_ms, heart.p * max(1.0 - effects.HYPER_P_LOSS * high, 0.15)
    if "borderline" in rhythm:
        pr_ms = rng.uniform(*effects.PR_BORDERLINE_MS)
    elif "1st degree" in rhythm:
        pr_ms = rng.triangular(effects.PR_BLOCK_MS[0], effects.PR_BLOCK_MS[0] + 15, effects.PR_BLOCK_MS[1])
    elif rhythm == "possible ectopic atrial rhythm":
        pr_ms, p_ms = rng.uniform(96.0, 118.0), rng.uniform(74.0, 88.0)
        p = np.array([[0.02, -0.075, -0.02], [0.03, -0.095, 0.0]]) * np.exp(rng.normal(0, 0.2))
    tracked = rhythm != "ventricular pacing" or rng.random() < 0.6
    has_p = (narrow | paced) & tracked & ("fibrillation" not in rhythm) & (kind not in ("AFLT", "SVTAC"))

    qrs_ms = np.where(narrow, heart.qrs_ms, rng.uniform(138.0, 172.0)) + effects.HYPER_QRS_MS * high
    recent = 0.75 * np.mean(rr) + 0.25 * rr
    qt_ms = (
        heart.qtc_ms * np.cbrt(recent) + np.where(narrow, 0.0, 45.0) + 0.5 * effects.HYPER_QRS_MS * high + 12.0 * low
    )

    ms = FS / 1000.0
    kernels = np.zeros((n, 11, 5))
    kernels[:, :, 1] = 1.0
    centre, width, vector = kernels[:, :, 0], kernels[:, :, 1], kernels[:, :, 2:]
    jitter = np.exp(rng.normal(0.0, 0.015, (n, 1)))
    breath = 1 + breathing[2] * np.sin(2 * np.pi * breathing[0] * time + breathing[1])[:, None]

    wide = ~narrow
    for wave, where, spread, wide_where, wide_spread in (
        (Q, -0.25, 0.085, -0.25, 0.12),
        (R, 0.0, 0.105, 0.0, 0.15),
        (S, 0.205, 0.12, 0.22, 0.14),
    ):
        centre[:, wave] = np.where(wide, wide_where, where) * qrs_ms
        width[:, wave] = np.where(wide, wide_spread, spread) * qrs_ms
        vector[:, wave] = heart.qrs[wave - Q] * jitter * breath
    qrs_on, qrs_off = -0.46 * qrs_ms, 0.50 * qrs_ms

    t_scale = qt_ms / 400.0
    t_gain = 1.0 + effects.HYPER_T_GAIN * high - effects.HYPO_T_LOSS * low
    narrowing = max(1.0 - effects.HYPER_T_NARROWING * high, 0.75)
    t_off = qrs_on + qt_ms
    centre[:, T2] = t_off - 78.0 * t_scale
    width[:, T2] = 33.0 * t_scale * narrowing
    centre[:, T1] = centre[:, T2] - 42.0 * t_scale * narrowing
    width[:, T1] = 46.0 * t_scale * narrowing
    t = heart.t * t_gain
    st = heart.st + effects.HYPO_ST_MV * low * np.array([0.8, 0.6, -0.35])
    if rhythm == "consider acute st elevation mi":
        injury = np.array(effects.INJURY[territory]) * np.clip(np.exp(rng.normal(0.0, 0.3)), 0.6, 1.8)
        st, t = st + injury, t + 0.7 * injury
    elif kind == "SVTAC":
        st = st + np.array([-0.05, -0.05, 0.02])
    vector[:, T1], vector[:, T2] = 0.55 * t * jitter, 0.72 * t * jitter
    centre[:, ST1], width[:, ST1] = qrs_off + 12.0, 20.0
    centre[:, ST2], width[:, ST2] = qrs_off + 68.0 * t_scale, 46.0 * t_scale
    vector[:, ST1], vector[:, ST2] = 0.62 * st, 0.9 * st
    centre[:, U], width[:, U] = t_off + 62.0 * t_scale, 26.0 * t_scale
    vector[:, U] = (effects.NORMAL_U_MV + effects.HYPO_U_MV * low) * np.array([0.6, 0.4, -0.6])

    if wide.any():
        origin = effects.VENTRICULAR[rng.integers(4)] if ventricular.any() else effects.VENTRICULAR[1]
        origin = (origin + rng.normal(0.0, 0.12, 3)) * rng.uniform(1.1, 1.6)
        bend = rng.normal(0.0, 0.2, (2, 3))
        vector[wide, Q], vector[wide, R], vector[wide, S] = 0.3 * origin + bend[0], origin, 0.45 * origin + bend[1]
        vector[wide, T1], vector[wide, T2] = -0.17 * origin * t_gain, -0.21 * origin * t_gain
        vector[wide, ST1], vector[wide, ST2] = -0.05 * origin, -0.10 * origin
    if paced.any():
        centre[:, SPIKE], width[:, SPIKE] = -0.56 * qrs_ms, 1.2 / ms / 2
        vector[:, SPIKE] = rng.uniform(0.3, 1.6) * np.array([0.5, -0.8, 0.3])

    early = kinds == "A"
    pr = np.where(early, rng.uniform(122.0, 165.0), pr_ms)
    p_on = qrs_on - pr
    for wave, where in ((P1, 0.37), (P2, 0.66)):
        centre[:, wave], width[:, wave] = p_on + where * p_ms, 0.155 * p_ms
        vector[:, wave] = p[wave] * has_p[:, None]
        vector[early, wave] = rng.normal([0.03, -0.03, 0.0], 0.045)
    kernels[:, :, :2] *= ms

    fiducials = r[:, None] + ms * np.stack(
        [
            np.where(has_p, p_on, np.nan),
            np.where(has_p, p_on + p_ms, np.nan),
            qrs_on,
            qrs_off,
            centre[:, T1] / ms - 2 * width[:, T1] / ms,
            t_off,
        ],
        axis=1,
    )
    return Draw(
        codes=codes,
        r=r,
        kernels=kernels.astype(np.float32),
        fiducials=fiducials,
        field=heart.field * (1 + np.vstack([rng.normal(0.0, 0.05, (6, 1)), np.zeros((2, 1))])),
        atrial=_atrial(rng, rhythm, kind, tracked, breathing, time),
        **_noise(rng, rhythm),
    )


def _atrial(
    rng: np.random.Generator, rhythm: str, kind: str, tracked: bool, breathing: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Two continuous atrial sources: frequency, phase, frequency swing, swing rate, share of harmonics, vector (mV)."""
    sources = np.zeros((2, 8))
    sources[:, 0] = 5.0
    if "fibrillation" in rhythm or not tracked:
        size = rng.uniform(0.02, 0.06) * (1.0 if tracked else 0.5)
        for source, vector in zip(sources, ([-0.1, 0.5, -1.0], [0.5, 0.6, 0.2]), strict=True):
            source[:5] = (
                rng.uniform(*effects.FIBRILLATION_HZ),
                rng.uniform(0, 2 * np.pi),
                2.2,
                rng.uniform(0.2, 0.5),
                0.45,
            )
            source[5:] = size * (np.array(vector) + rng.normal(0, 0.1, 3))
    elif kind == "AFLT":
        phase = -2 * np.pi * breathing[3] * time[0] + rng.uniform(-0.4, 0.4)
        sources[0, :5] = breathing[3], phase, 0.0, 0.1, 0.55
        sources[0, 5:] = rng.uniform(0.09, 0.17) * np.array([0.1, -1.0, -0.35])
    return sources


def _noise(rng: np.random.Generator, rhythm: str) -> dict[str, Any]:
    """Levels of wander, motion and muscle noise (mV, RMS at an electrode), mains, gains of leads, steps, white draw."""
    levels = np.array([0.03, 0.006, 0.0045]) * np.exp(rng.normal(0.0, 0.5, 3))
    levels = np.repeat(levels[None], 9, 0) * np.exp(rng.normal(0.0, 0.25, (9, 3)))
    mains = 0.002 * np.exp(rng.normal(0.0, 0.6, 9))
    gain = np.ones(8)
    steps: list[tuple[int, int, float, float]] = []
    if rhythm == tasks.RHYTHMS[11]:
        heavy = np.ix_(rng.permutation(9)[: rng.integers(2, 5)], rng.permutation(3)[: 1 + rng.integers(1, 3)])
        levels[heavy] = (np.array([0.35, 0.14, 0.09]) * np.exp(rng.normal(0.0, 0.35, (9, 3))))[heavy]
        mains *= rng.choice([1.0, 20.0], p=[0.6, 0.4])
        steps = [
            (int(rng.integers(9)), int(rng.integers(SAMPLES)), rng.normal(0, 1.2), rng.uniform(80, 600))
            for _ in range(rng.integers(1, 5))
        ]
        if rng.random() < 0.5:
            fault = rng.integers(6)
            gain[fault] = 0.03
            mains[3 + fault] = rng.uniform(0.05, 0.25)
    return {
        "levels": levels,
        "mains": mains * np.exp(2j * np.pi * rng.random()),
        "gain": gain,
        "steps": steps,
        "noise": rng.standard_normal((9, 2, len(_SHAPES[0])), dtype=np.float32),
    }


def _shapes() -> np.ndarray:
    """Spectra of unit RMS of wander (below 0.8 Hz), electrode motion (0.8-12 Hz) and muscle (12-150 Hz)."""
    hertz = np.fft.rfftfreq(_SPECTRUM, 1 / FS)
    hertz = hertz[hertz <= 150.0]
    safe = np.maximum(hertz, hertz[1])
    shapes = np.stack(
        [
            (hertz > 0) * (hertz < 0.8) / safe,
            (hertz >= 0.8) * (hertz < 12.0) / safe,
            (hertz >= 12.0) * np.sqrt(safe) * np.exp(-((safe / 90.0) ** 2)),
        ]
    )
    return (shapes * _SPECTRUM / 2 / np.sqrt((shapes**2).sum(1, keepdims=True))).astype(np.float32)


_SHAPES = _shapes()


def render(draws: list[Draw]) -> np.ndarray:
    """Signals of shape (records, 12, 5000), float32, mV, leads I, II, III, aVR, aVL, aVF, V1-V6."""
    counts = [len(draw.r) for draw in draws]
    kernels = np.concatenate([draw.kernels for draw in draws])
    offset = np.arange(-BEFORE, AFTER, dtype=np.float32)
    shape = (offset - kernels[:, :, :1]) / kernels[:, :, 1:2]
    np.multiply(shape, shape, out=shape)
    shape *= -0.5
    np.exp(shape, out=shape)
    beats = np.matmul(kernels[:, :, 2:].transpose(0, 2, 1), shape)  # (beats, 3, window)

    dipole = np.zeros((len(draws), 3, SAMPLES + 2 * _MARGIN), np.float32)
    record = np.repeat(np.arange(len(draws)), counts)
    start = np.concatenate([draw.r for draw in draws]) + _MARGIN - BEFORE
    for beat, row, at in zip(beats, record, start, strict=True):
        dipole[row, :, at : at + len(offset)] += beat
    dipole = dipole[:, :, _MARGIN : _MARGIN + SAMPLES]

    time = np.arange(SAMPLES, dtype=np.float32) / FS
    atrial = np.stack([draw.atrial for draw in draws]).astype(np.float32)
    active = np.abs(atrial[:, :, 5:]).sum((1, 2)) > 0
    hertz, phase, swing, swing_hz, harmonics = (part[..., None] for part in np.moveaxis(atrial[active, :, :5], 2, 0))
    slow = 2 * np.pi * swing_hz * time + 2.0 * phase
    angle = 2 * np.pi * hertz * time + phase + swing * (np.sin(slow) + 0.4 * np.sin(2.7 * slow))
    wave = np.sin(angle) + harmonics * np.sin(2 * angle) / 1.5 + harmonics**2 * np.sin(3 * angle) / 2.0
    wave *= 1 + 0.2 * swing * np.sin(1.7 * slow)
    dipole[active] += np.matmul(atrial[active, :, 5:].transpose(0, 2, 1), wave)

    field = np.stack([draw.field * draw.gain[:, None] for draw in draws]).astype(np.float32)
    leads = np.matmul(field, dipole)

    white = np.stack([draw.noise for draw in draws])
    levels = np.stack([draw.levels for draw in draws]).astype(np.float32)
    spectrum = (white[:, :, 0] + 1j * white[:, :, 1]) * np.matmul(levels, _SHAPES)
    noise = np.fft.irfft(spectrum, _SPECTRUM, axis=-1)[:, :, :SAMPLES].astype(np.float32)
    mains = np.stack([draw.mains for draw in draws])[:, :, None] * np.exp(2j * np.pi * 50.0 * time)
    noise += mains.real.astype(np.float32)
    for electrodes, draw in zip(noise, draws, strict=True):
        for electrode, at, size, decay in draw.steps:
            electrodes[electrode, at:] += (size * np.exp(-np.arange(SAMPLES - at) / decay)).astype(np.float32)
    leads += np.matmul(ELECTRODES, noise)
    return np.matmul(TWELVE, leads)
