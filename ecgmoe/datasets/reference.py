"""RR intervals by public detectors that no model of this library uses: the label where a data set brings none.

A record gets the mean of two detectors, or no label: where they disagree by more than :data:`AGREEMENT_MS` on every
lead of :data:`REFERENCE_LEADS`, the truth is not known.

At 100 Hz on ten seconds both detectors need help, found with the annotated recordings of LUDB and MIT-BIH: the signal
is resampled to 200 Hz, and continued at both ends by two seconds of its mirror image, so that learning phases and edges
of filters fall outside. On lead II of LUDB (150 records at 100 Hz) the pair then agrees on 95 % of the records with a
mean error of 0.3 ms; with the default detectors of the two packages as they are (``neurokit`` and ``xqrs``) it is 48 %
and 3 ms. Falling back to V5 and V2 leaves almost no record without a label.
"""

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from ecgmoe import cache, records, tasks

#: Leads tried, in this order, until the detectors agree.
REFERENCE_LEADS: tuple[str, ...] = ("II", "V5", "V2")

#: Largest difference of the mean RR intervals that counts as agreement, ms.
AGREEMENT_MS = 20.0

#: Records that are cached together: an interrupted run goes on after the last that was complete.
CHUNK = 1024

_WORTH_PROCESSES, _MAX_PROCESSES = 128, 8  # starting a process takes as long as about 200 records
_RATE_HZ = 200
_MIRROR_S = 2.0


class Reference(NamedTuple):
    """Labels by the reference detectors, one value a record."""

    rr_ms: np.ndarray  #: mean RR interval; NaN where the detectors disagree or find no two beats
    rate_bpm: np.ndarray  #: mean of the detectors' rates, also where they disagree; NaN where one finds no two beats


def _gqrs(signal: np.ndarray) -> np.ndarray:
    from wfdb.processing import gqrs_detect

    return gqrs_detect(signal, fs=_RATE_HZ)


def _kalidas2017(signal: np.ndarray) -> np.ndarray:
    import neurokit2

    clean = neurokit2.ecg_clean(signal, sampling_rate=_RATE_HZ, method="kalidas2017")
    return neurokit2.ecg_findpeaks(clean, sampling_rate=_RATE_HZ, method="kalidas2017")["ECG_R_Peaks"]


#: ``gqrs`` is PhysioNet's detector (G. Moody) as ported by wfdb; the other, as implemented by neurokit2, is Kalidas and
#: Tamil, "Real-time QRS detector using stationary wavelet transform for automated ECG analysis", IEEE BIBE 2017.
DETECTORS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (_gqrs, _kalidas2017)


def _detected_rr(lead: np.ndarray, fs: int) -> list[float]:
    """Mean RR interval of one lead in ms by each of :data:`DETECTORS`, NaN where one finds no two beats."""
    n_mirror = int(_MIRROR_S * _RATE_HZ)
    slow = resample_poly(lead.astype(np.float64), _RATE_HZ, fs)
    padded = np.pad(slow, min(n_mirror, len(slow) - 1), mode="reflect")
    start = (len(padded) - len(slow)) // 2
    found = []
    for detect in DETECTORS:
        peaks = np.asarray(detect(padded), dtype=np.float64) - start
        inside = peaks[(peaks >= 0) & (peaks < len(slow))]
        found.append(tasks.mean_rr_interval(np.sort(inside), _RATE_HZ))
    return found


def _measure_one(record: np.ndarray, fs: int) -> tuple[float, float]:
    """Mean RR interval (ms) and rate (per minute) of one record."""
    rate_bpm = np.nan
    for lead in REFERENCE_LEADS:
        found = np.array(_detected_rr(record[records.LEADS.index(lead)], fs))
        if np.isnan(found).any():
            continue
        if np.ptp(found) <= AGREEMENT_MS:
            return float(found.mean()), float((60_000.0 / found).mean())
        if np.isnan(rate_bpm):
            rate_bpm = float((60_000.0 / found).mean())
    return np.nan, rate_bpm


def _measure_part(signal: np.ndarray, fs: int) -> list[tuple[float, float]]:
    return [_measure_one(record, fs) for record in signal]


def _measure(signal: np.ndarray, fs: int) -> dict[str, np.ndarray]:
    """Measure records, in several processes where there are enough of them."""
    if len(signal) < _WORTH_PROCESSES:
        rows = _measure_part(signal, fs)
    else:
        from sklearn.utils.parallel import Parallel, delayed

        n_jobs = min(_MAX_PROCESSES, os.cpu_count() or 1)
        parts = np.array_split(signal, 4 * n_jobs)
        found = Parallel(n_jobs=n_jobs, max_nbytes=None)(delayed(_measure_part)(part, fs) for part in parts)
        rows = [row for part in found for row in part]
    rr_ms, rate_bpm = np.array(rows, dtype=np.float64).reshape(-1, 2).T
    return {"rr_ms": rr_ms, "rate_bpm": rate_bpm}


def measure(signal: np.ndarray, fs: int) -> Reference:
    """Measure RR interval and rate of records by the reference detectors, once; then read them from the cache.

    Parameters
    ----------
    signal : ndarray of shape (records, 12, samples)
        mV, leads in the order of ``records.LEADS``.
    fs : int
        Sampling rate in Hz.

    Returns
    -------
    Reference
    """
    packages = {name: version(name) for name in ("wfdb", "neurokit2", "scipy", "numpy")}
    key = {"method": cache.source_digest(__file__), "fs": fs, "packages": packages}
    parts = []
    with tqdm(total=len(signal), desc="Reference RR intervals", unit="record", disable=None) as bar:
        for first in range(0, max(len(signal), 1), CHUNK):
            chunk = signal[first : first + CHUNK]
            parts.append(cache.cached("reference", {**key, "signal": cache.digest(chunk)}, lambda: _measure(chunk, fs)))
            bar.update(len(chunk))
    return Reference(*(np.concatenate([part[name] for part in parts]) for name in Reference._fields))
