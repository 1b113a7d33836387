"""How results hold when recordings of the test part are disturbed and the models are left as they are.

Everything is computed anew from the disturbed signal: R-peaks, beats, characteristics, features of the backbones. The
disturbance of a record depends on the seed and on its number in the cohort, not on the records beside it; a stronger
one is the same draw, only stronger.

Shape legend: B records, L 12 leads, E 9 electrodes, T samples.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pandas as pd
import torch
from scipy.signal import resample_poly

from ecgmoe import backbones, baselines, beats, cache, evaluation, features, results, rpeaks, training
from ecgmoe.datasets import Cohort
from ecgmoe.evaluation import CHARACTERISTICS, INTERVALS, PEAKS, Predictions
from ecgmoe.multitask import MultiTask
from ecgmoe.tasks import TASKS

#: The twelve leads, in the order of ``records.LEADS``, from the potentials of the electrodes RA, LA, LL, V1-V6:
#: disturbances arise at electrodes, so that I + III = II stays true.
_LIMBS = np.array([[-1, 1, 0], [-1, 0, 1], [0, -1, 1], [1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]])
ELECTRODES = np.block([[_LIMBS, np.zeros((6, 6))], [np.full((6, 3), -1 / 3), np.eye(6)]])

#: Muscle noise has the same power at all frequencies above this one, Hz, and none below.
MUSCLE_ABOVE_HZ = 12.0
#: Breathing moves the baseline at these rates, Hz.
BREATHING_HZ = (0.15, 0.3)


def _muscle(x_LT: np.ndarray, fs: float, sd_mv: float, rng: np.random.Generator) -> np.ndarray:
    n = x_LT.shape[1]
    spectrum_EF = np.fft.rfft(rng.standard_normal((9, n)))
    spectrum_EF[:, np.fft.rfftfreq(n, 1 / fs) <= MUSCLE_ABOVE_HZ] = 0
    noise_ET = np.fft.irfft(spectrum_EF, n)
    return x_LT + sd_mv * ELECTRODES @ (noise_ET / noise_ET.std(1, keepdims=True))


def _wander(x_LT: np.ndarray, fs: float, amplitude_mv: float, rng: np.random.Generator) -> np.ndarray:
    hz, phase_E1 = rng.uniform(*BREATHING_HZ), rng.uniform(0, 2 * np.pi, (9, 1))
    wave_ET = np.sin(2 * np.pi * hz * np.arange(x_LT.shape[1]) / fs + phase_E1)
    return x_LT + amplitude_mv * ELECTRODES @ wave_ET


def _lost(x_LT: np.ndarray, fs: float, n_leads: float, rng: np.random.Generator) -> np.ndarray:
    out_LT = x_LT.copy()
    out_LT[rng.permutation(len(x_LT))[: int(n_leads)]] = 0
    return out_LT


def _slow(x_LT: np.ndarray, fs: float, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    share = Fraction(rate_hz / fs).limit_denominator(1000)
    down_LT = resample_poly(x_LT, share.numerator, share.denominator, axis=1, padtype="line")
    return resample_poly(down_LT, share.denominator, share.numerator, axis=1, padtype="line")[:, : x_LT.shape[1]]


@dataclass(frozen=True)
class Kind:
    """A kind of disturbance, and the strengths at which it is looked at."""

    title: str
    axis: str  # what its strength is, with the unit
    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float, float, np.random.Generator], np.ndarray]


#: Every kind by name.
KINDS: dict[str, Kind] = {
    "noise": Kind("Muscle noise", "SD at an electrode, mV", (0.05, 0.2), _muscle),
    "wander": Kind("Baseline wander", "amplitude at an electrode, mV", (0.3, 1.0), _wander),
    "leads": Kind("Missing leads", "leads that are zero", (2, 6), _lost),
    "rate": Kind("Resampling", "sampling rate on the way, Hz", (50, 25), _slow),
}


def clean(kind: str, fs: float) -> float:
    """Strength of a kind that leaves a recording as it is: 0, or for resampling its own rate."""
    return fs if kind == "rate" else 0.0


def disturb(
    signal: np.ndarray, fs: float, records: Sequence[int] | np.ndarray, kind: str, strength: float, seed: int = 0
) -> np.ndarray:
    """Disturb recordings.

    Parameters
    ----------
    signal : ndarray of shape (records, 12, samples)
        mV, leads in the order of ``records.LEADS``.
    fs : float
        Sampling rate in Hz.
    records : sequence of int
        Number of each record, which its disturbance depends on, such as its ``ecg_id``.
    kind : str
        ``noise``: Gaussian noise above 12 Hz, as muscles make it; ``strength`` is its SD at an electrode in mV (in a
        limb lead, the difference of two electrodes, it is the square root of 2 times that).
        ``wander``: a sine of 0.15-0.3 Hz, of one rate a record and of a phase an electrode; its amplitude in mV.
        ``leads``: this many leads, drawn by record, are zero.
        ``rate``: resampled to this rate in Hz and back, with anti-aliasing filters.
    strength : float
        As ``kind`` says; :func:`clean` gives the one that changes nothing.
    seed : int

    Returns
    -------
    ndarray of shape (records, 12, samples)
        float32; a copy.

    Raises
    ------
    ValueError
        For an unknown kind, a strength that it cannot have, or a signal of another shape.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown disturbance {kind!r}; known are {', '.join(KINDS)}")
    if signal.ndim != 3 or signal.shape[1] != 12 or len(records) != len(signal):
        raise ValueError(f"signal must be ({len(records)} records, 12 leads, samples), got shape {signal.shape}")
    most = {"leads": 12, "rate": fs}.get(kind, np.inf)
    if not (1 if kind == "rate" else 0) <= strength <= most or (kind == "leads" and strength % 1):
        raise ValueError(f"{KINDS[kind].title.lower()} cannot have the strength {strength} ({KINDS[kind].axis})")
    signal = np.array(signal, np.float32)
    if strength == clean(kind, fs):
        return signal
    for at, record in enumerate(records):
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), int(record)])
        signal[at] = KINDS[kind].apply(signal[at].astype(float), fs, strength, rng)
    return signal


def curves(
    models: Mapping[str, MultiTask],
    cohort: Cohort,
    disturbances: Mapping[str, Sequence[float]] | None = None,
    preset: str = "compact",
    seed: int = 0,
    max_records: int = 0,
    *,
    names: Sequence[str] = backbones.NAMES,
    n_boot: int = 1000,
) -> pd.DataFrame:
    """Headline metric of every model against the strength of every disturbance of the test part.

    Parameters
    ----------
    models : mapping of str to MultiTask
        Trained on the cohort as it is. The R-peak detector, the classical intervals and the signal characteristics join
        them, their regressions fitted on the train part as it is.
    cohort : Cohort
    disturbances : mapping of str to sequence of float, optional
        Strengths by kind, those of :data:`KINDS` by default. The undisturbed recordings come by themselves.
    preset : str
        Of the backbones that ``models`` read.
    seed : int
        Of the disturbances, of the draw of records, of random weights and of the resamples.
    max_records : int
        Records of the test part, drawn by patient; 0 takes all.
    names : sequence of str
        Backbones whose features are computed.
    n_boot : int

    Returns
    -------
    DataFrame
        Columns ``model, kind, strength, task, metric, value, low, high, change, change_low, change_high, n``. The first
        row of each curve is the undisturbed one. ``change`` is the value minus the undisturbed one of the same model,
        with the interval of that difference on the same resamples of patients.

    Raises
    ------
    ValueError
        For an unknown kind or a strength that it cannot have, or where a task has no label in these records.
    """
    chosen = {name: kind.strengths for name, kind in KINDS.items()} if disturbances is None else disturbances
    rows = _drawn(cohort, max_records, seed)
    signal, ids, fs = cohort.signal[rows], cohort.table.index.to_numpy()[rows], cohort.fs
    settings = [("", 0.0)] + [(kind, at) for kind, strengths in chosen.items() for at in strengths]
    built = {name: backbones.build(name, preset, seed) for name in names}
    digests = {name: backbones.weights_digest(backbone) for name, backbone in built.items()}
    inputs, peaks, intervals = [], [], []
    for kind, strength in settings:
        changed = disturb(signal, fs, ids, kind, strength, seed) if kind else signal
        found = beats.detect_r_peaks(changed, fs)
        own = {name: _features(backbone, digests[name], changed, fs) for name, backbone in built.items()}
        inputs.append(features.from_signal(changed, fs, own, found))
        peaks.append(beats.mean_rr(found, fs))
        intervals.append(beats.classical_intervals(changed, fs, found))

    runs: dict[str, list[Predictions]] = {
        model: [training.predict(network, part) for part in inputs] for model, network in models.items()
    }
    runs |= _floors(cohort, rows, peaks, intervals, [part.characteristics_BA.numpy() for part in inputs])
    targets = {name: values[rows] for name, values in cohort.targets().items() if np.isfinite(values[rows]).any()}
    patients = cohort.table["patient_id"].to_numpy()[rows]
    scored = [
        _scored(model, run[0], run[at], targets, patients, n_boot, seed).assign(kind=kind, strength=float(strength))
        for model, run in runs.items()
        for at, (kind, strength) in enumerate(settings)
    ]
    table = pd.concat(scored, ignore_index=True)
    base = table[table["kind"] == ""]
    starts = [base.assign(kind=kind, strength=float(clean(kind, fs))) for kind in chosen]
    table = pd.concat([*starts, table[table["kind"] != ""]], ignore_index=True)
    for column, order in (("model", list(runs)), ("kind", list(chosen)), ("task", list(TASKS))):
        table[column] = pd.Categorical(table[column], order, ordered=True)
    table = table.sort_values(["kind", "model", "task"], kind="stable", ignore_index=True)
    columns = ["model", "kind", "strength", "task", "metric", "value", "low", "high"]
    columns += ["change", "change_low", "change_high", "n"]
    return table.astype({"model": str, "kind": str, "task": str})[columns]


def _drawn(cohort: Cohort, max_records: int, seed: int) -> np.ndarray:
    """Rows of the test part: all, or so many at most, of patients drawn at random, in the order of the cohort."""
    rows = np.flatnonzero(cohort.split == "test")
    if not len(rows):
        raise ValueError(f"the cohort {cohort.card.name} has no test records; take more folds or more records")
    if not max_records or len(rows) <= max_records:
        return rows
    patients = cohort.table["patient_id"].to_numpy()[rows]
    order = np.random.default_rng(seed).permutation(np.unique(patients))
    rank = pd.Series(np.arange(len(order)), order)[patients].to_numpy()
    return np.sort(rows[np.argsort(rank, kind="stable")[:max_records]])


def _features(backbone: backbones.Backbone, digest: str, signal: np.ndarray, fs: float) -> torch.Tensor:
    """Features of disturbed recordings, cached under everything they depend on."""
    packages = {package: results.version_of(package) for package in ("torch", "transformers", "momentfm")}
    key = {"signal": cache.digest(signal, fs), "weights": digest, "packages": packages}

    def compute() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            parts = [
                backbone.features(signal[start : start + features.BATCH], fs).numpy()
                for start in range(0, len(signal), features.BATCH)
            ]
        return {"features": np.concatenate(parts)}

    return torch.from_numpy(cache.cached("disturbed", key, compute)["features"])


def _floors(
    cohort: Cohort,
    rows: np.ndarray,
    peaks: Sequence[np.ndarray],
    intervals: Sequence[pd.DataFrame],
    characteristics: Sequence[np.ndarray],
) -> dict[str, list[Predictions]]:
    """The floors that read the signal, by setting: disturbed records join the cohort as further test records."""
    key = {"data": cohort.digest, "code": cache.source_digest(beats.__file__, rpeaks.__file__)}
    own = cache.cached("measured", key, lambda: _measured(cohort))
    again = np.tile(rows, len(peaks))
    longer = replace(
        cohort,
        table=pd.concat([cohort.table, cohort.table.iloc[again]]),
        signal=np.empty((len(cohort) + len(again), 12, 0), np.float32),
    )
    found = baselines.floors_from(
        longer,
        np.concatenate([own["rr"], *peaks]),
        np.concatenate([own["intervals"], *map(np.asarray, intervals)]),
        np.concatenate([own["characteristics"], *characteristics]),
    )
    first = [len(cohort) + at * len(rows) for at in range(len(peaks))]
    return {
        floor: [{task: values[at : at + len(rows)] for task, values in found[floor].items()} for at in first]
        for floor in (PEAKS, INTERVALS, CHARACTERISTICS)
        if floor in found
    }


def _measured(cohort: Cohort) -> dict[str, np.ndarray]:
    found = beats.detect_r_peaks(cohort.signal, cohort.fs)
    intervals = beats.classical_intervals(cohort.signal, cohort.fs, found)
    characteristics = beats.characteristics(cohort.signal, cohort.fs, found)
    return {
        "rr": beats.mean_rr(found, cohort.fs),
        "intervals": intervals.to_numpy(),
        "characteristics": characteristics,
    }


def _scored(
    model: str,
    before: Predictions,
    after: Predictions,
    targets: Mapping[str, np.ndarray],
    patients: np.ndarray,
    n_boot: int,
    seed: int,
) -> pd.DataFrame:
    scores = evaluation.evaluate(after, targets, patients, n_boot=n_boot, seed=seed, headline=True)
    pairs = evaluation.paired_difference(after, before, targets, patients, n_boot=n_boot, seed=seed)
    changes = pairs[["difference", "low", "high"]].to_numpy()
    return scores.assign(model=model, **dict(zip(("change", "change_low", "change_high"), changes.T, strict=True)))
