"""RR intervals by public detectors that no model of this library uses: the label where a data set brings none.

A record gets the mean of two detectors, or no label: where they disagree by more than :data:`AGREEMENT_MS` on every
lead of :data:`REFERENCE_LEADS`, the truth is not known.

At 100 Hz on ten seconds both detectors need help, found with the annotated recordings of LUDB and MIT-BIH: the signal
is resampled to 200 Hz, and continued at both ends by two seconds of its mirror image, so that learning phases and edges
of filters fall outside. On lead II of LUDB (150 records at 100 Hz) the pair then agrees on 95 % of the records with a
mean error of 0.3 ms; with the default detectors of the two packages as they are (``neurokit`` and ``xqrs``) it is 48 %
and 3 ms. Falling back to V5 and V2 leaves almost no record without a label.
"""

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


def _measure(signal: np.ndarray, fs: int) -> dict[str, np.ndarray]:
    rr_ms = np.full(len(signal), np.nan)
    rate_bpm = np.full(len(signal), np.nan)
    for row, record in enumerate(tqdm(signal, desc="Reference RR intervals", unit="record", disable=None)):
        for lead in REFERENCE_LEADS:
            found = np.array(_detected_rr(record[records.LEADS.index(lead)], fs))
            if np.isnan(found).any():
                continue
            if np.isnan(rate_bpm[row]):
                rate_bpm[row] = (60_000.0 / found).mean()
            if np.ptp(found) <= AGREEMENT_MS:
                rr_ms[row] = found.mean()
                rate_bpm[row] = (60_000.0 / found).mean()
                break
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
    key = {"method": cache.source_digest(__file__), "signal": cache.digest(signal), "fs": fs, "packages": packages}
    arrays = cache.cached("reference", key, lambda: _measure(signal, fs))
    return Reference(arrays["rr_ms"], arrays["rate_bpm"])
