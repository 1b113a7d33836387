"""R-peak detectors judged against annotated beats: ours and those that users have today, matched one to one.

The rules: a detection and a beat match when they lie within the tolerance, each at most once, so that the fewest errors
are left. Outside the judged part of a window (``BeatSet.scored``) a beat is no miss and a detection no false alarm, but
the two may match. Settings of our detector were chosen on recordings of even number: read the figures of odd ones.

Detectors of one lead get lead II of twelve, else the first lead.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.stats import bootstrap, wilcoxon

from ecgmoe import beats, tasks
from ecgmoe.datasets.annotated import BeatSet

#: (records, leads, samples) in mV and a sampling rate in Hz to one ascending array of sample positions a record.
Detector = Callable[[np.ndarray, float], list[np.ndarray]]

#: Tolerances of the tables, and those of the curve of F1 against tolerance, ms.
TOLERANCES_MS = (150.0, 75.0, 50.0)
CURVE_MS = (10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0, 125.0, 150.0)

#: A detection further than this outside the first and last annotated beat has no part in the mean RR interval, ms.
RR_MARGIN_MS = 150.0

#: RR errors closer than this are a tie: positions are annotated to a sample, ms.
RR_RESOLUTION_MS = 1.0

#: Records that our detector takes at a time.
BATCH = 64


def one_lead(signal: np.ndarray) -> np.ndarray:
    """Lead that detectors of one lead get, shape (records, 1, samples): II of twelve, else the first."""
    lead = 1 if signal.shape[1] == 12 else 0
    return np.ascontiguousarray(signal[:, lead : lead + 1])


def _joint(signal: np.ndarray, fs: float) -> list[np.ndarray]:
    rows = range(0, len(signal), BATCH)
    return [peaks for row in rows for peaks in beats.detect_r_peaks(signal[row : row + BATCH], fs)]


def _single(signal: np.ndarray, fs: float) -> list[np.ndarray]:
    return _joint(one_lead(signal), fs)


def by_record(detect: Callable[[np.ndarray, float], np.ndarray]) -> Detector:
    """Make a detector of one lead work on a batch; where it raises, it has found no beat."""

    def run(signal: np.ndarray, fs: float) -> list[np.ndarray]:
        found = []
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for lead in one_lead(signal)[:, 0].astype(np.float64):
                try:
                    peaks = np.asarray(detect(lead, fs), np.float64).ravel()
                except Exception:  # each package has its own ways to fail on a recording without beats
                    peaks = np.empty(0)
                found.append(np.sort(peaks[np.isfinite(peaks)]))
        return found

    return run


def _neurokit2(method: str) -> Callable[[np.ndarray, float], np.ndarray]:
    def detect(lead: np.ndarray, fs: float) -> np.ndarray:
        import neurokit2

        clean = neurokit2.ecg_clean(lead, sampling_rate=int(fs), method=method)
        return neurokit2.ecg_findpeaks(clean, sampling_rate=int(fs), method=method)["ECG_R_Peaks"]

    return detect


def _sleepecg(lead: np.ndarray, fs: float) -> np.ndarray:
    import sleepecg

    return sleepecg.detect_heartbeats(lead, fs)


def _xqrs(lead: np.ndarray, fs: float) -> np.ndarray:
    from wfdb.processing import xqrs_detect

    return xqrs_detect(lead, fs=fs, verbose=False)


def _gqrs(lead: np.ndarray, fs: float) -> np.ndarray:
    from wfdb.processing import gqrs_detect

    return gqrs_detect(lead, fs=fs)


#: The package that a detector comes from, and the detector. ``neurokit2`` is that package's default method.
_DETECTORS: dict[str, tuple[str, Detector]] = {
    "ecgmoe": ("ecgmoe", _joint),
    "ecgmoe, one lead": ("ecgmoe", _single),
    "sleepecg": ("sleepecg", by_record(_sleepecg)),
    "neurokit2": ("neurokit2", by_record(_neurokit2("neurokit"))),
    "Pan-Tompkins (neurokit2)": ("neurokit2", by_record(_neurokit2("pantompkins1985"))),
    "Kalidas-Tamil (neurokit2)": ("neurokit2", by_record(_neurokit2("kalidas2017"))),
    "xqrs (wfdb)": ("wfdb", by_record(_xqrs)),
    "gqrs (wfdb)": ("wfdb", by_record(_gqrs)),
}
OURS = ("ecgmoe", "ecgmoe, one lead")


def detectors(leads: int = 12) -> dict[str, Detector]:
    """Detectors by name, ours first: all whose package is installed.

    Parameters
    ----------
    leads : int
        Leads of the recordings; with one, there is no difference between our two detectors and only one is returned.
    """
    there = {name: detect for name, (package, detect) in _DETECTORS.items() if find_spec(package)}
    return {name: detect for name, detect in there.items() if leads > 1 or name != OURS[1]}


class Match(NamedTuple):
    """How the beats and the detections of one record go together."""

    beat: np.ndarray  #: index of each matched beat, ascending ...
    detection: np.ndarray  #: ... and of the detection that it is matched with
    missed: int  #: judged beats without a detection
    false: int  #: judged detections without a beat


def match(
    truth: np.ndarray, found: np.ndarray, tolerance: float, scored: tuple[float, float] = (-np.inf, np.inf)
) -> Match:
    """Match annotated beats and detections one to one.

    Of all ways to match, the one with the fewest judged beats and detections left over; of several such ways, one with
    the most pairs, and of these, one with the smallest sum of distances.

    Parameters
    ----------
    truth, found : ndarray of shape (beats,), (detections,)
        Positions in samples.
    tolerance : float
        Largest distance of a pair, in samples, inclusive.
    scored : (float, float)
        First and last position that is judged.

    Returns
    -------
    Match
    """
    truth, found = np.asarray(truth, np.float64), np.asarray(found, np.float64)
    judged_beat = (truth >= scored[0]) & (truth <= scored[1])
    judged_detection = (found >= scored[0]) & (found <= scored[1])
    distance = np.abs(truth[:, None] - found)
    allowed = distance <= tolerance + 1e-9
    # A pair saves as many errors as it has judged ends. Pairs for their own sake sum to less than one error, distances
    # to less than one pair.
    n = len(truth) + 1
    nearness = (1 - distance / (n * (tolerance + 1))) / n
    saved = judged_beat[:, None].astype(np.float64) + judged_detection
    beat, detection = linear_sum_assignment(np.where(allowed, saved + nearness, 0.0), maximize=True)
    kept = allowed[beat, detection]
    beat, detection = beat[kept], detection[kept]
    missed, false = (
        judged_beat.sum() - judged_beat[beat].sum(),
        judged_detection.sum() - judged_detection[detection].sum(),
    )
    return Match(beat, detection, int(missed), int(false))


class Evaluation(NamedTuple):
    """What detectors found in one set of recordings."""

    counts: pd.DataFrame  #: a row for each detector, window and tolerance: ``hits``, ``missed``, ``false``
    windows: pd.DataFrame  #: a row for each detector and window: RR and timing errors, number of detections


def evaluate(
    beat_set: BeatSet, run: Mapping[str, Detector] | None = None, tolerances_ms: Iterable[float] = CURVE_MS
) -> Evaluation:
    """Run detectors over a set of annotated recordings.

    Parameters
    ----------
    beat_set : BeatSet
    run : mapping of str to Detector, optional
        By default :func:`detectors`.
    tolerances_ms : iterable of float

    Returns
    -------
    Evaluation
        Both tables have the columns ``set``, ``detector``, ``window``, ``recording``, ``number`` and ``apart``.
        ``counts``: ``tolerance_ms``, ``hits`` (matched pairs), ``missed``, ``false``. ``windows``: ``rr_error_ms``
        (difference of the mean RR intervals from the first to the last annotated beat; NaN where the detector, or the
        annotation, has fewer than two beats there), ``rr_known`` (the annotation has two), ``distance_ms`` (mean
        distance of the pairs of the widest tolerance), ``offset_ms`` (their mean difference), ``found`` (detections).
    """
    fs, tolerances = beat_set.fs, tuple(tolerances_ms)
    count_rows, window_rows = [], []
    for name, detect in (run or detectors(beat_set.signal.shape[1])).items():
        for window, found in enumerate(detect(beat_set.signal, fs)):
            truth, scored = beat_set.truth[window], tuple(beat_set.scored[window])
            pairs = [match(truth, found, tolerance * fs / 1000, scored) for tolerance in tolerances]
            count_rows += [
                (name, window, tolerance, len(pair.beat), pair.missed, pair.false)
                for tolerance, pair in zip(tolerances, pairs, strict=True)
            ]
            widest = pairs[int(np.argmax(tolerances))]
            late_ms = (found[widest.detection] - truth[widest.beat]) * 1000 / fs
            true_rr = tasks.mean_rr_interval(truth, fs)
            window_rows.append(
                (
                    name,
                    window,
                    abs(_rr_within(truth, found, fs) - true_rr),
                    np.isfinite(true_rr),
                    np.abs(late_ms).mean() if len(late_ms) else np.nan,
                    late_ms.mean() if len(late_ms) else np.nan,
                    len(found),
                )
            )
    counts = pd.DataFrame(count_rows, columns=["detector", "window", "tolerance_ms", "hits", "missed", "false"])
    columns = ["detector", "window", "rr_error_ms", "rr_known", "distance_ms", "offset_ms", "found"]
    windows = pd.DataFrame(window_rows, columns=columns)
    for table in (counts, windows):
        at = table["window"].to_numpy()
        for place, column in enumerate(("recording", "number", "apart")):
            table.insert(place, column, getattr(beat_set, column)[at])
        table.insert(0, "set", beat_set.name)
    return Evaluation(counts, windows)


def _rr_within(truth: np.ndarray, found: np.ndarray, fs: float) -> float:
    """Mean RR interval in ms of the detections between the first and last annotated beat, NaN below two."""
    if len(truth) == 0:
        return float("nan")
    margin = RR_MARGIN_MS * fs / 1000
    return tasks.mean_rr_interval(found[(found >= truth[0] - margin) & (found <= truth[-1] + margin)], fs)


def parts(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Rows of the parts that are reported: ``all``, ``even`` and ``odd`` recordings, and ``apart`` where there is any.

    The first three leave out what is reported by itself.
    """
    main, odd = ~table["apart"], table["number"] % 2 == 1
    shown = {"all": main, "even": main & ~odd, "odd": main & odd, "apart": table["apart"]}
    return {name: rows for name, rows in shown.items() if rows.any()}


def f1(hits: np.ndarray, missed: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Harmonic mean of sensitivity and precision; 1 where there was nothing to find and nothing was found."""
    total = 2 * np.asarray(hits) + missed + false
    return np.where(total > 0, 2 * np.asarray(hits) / np.maximum(total, 1), 1.0)


def accuracy(evaluation: Evaluation) -> pd.DataFrame:
    """Pool the counts of windows: a row for each set, part, detector and tolerance.

    Returns
    -------
    DataFrame
        Columns ``set``, ``part``, ``detector``, ``tolerance_ms``, ``hits``, ``missed``, ``false``, ``sensitivity``,
        ``precision``, ``f1``. Sensitivity and precision are NaN where nothing was to be found, or nothing was found.
    """
    tables = []
    for part, rows in parts(evaluation.counts).items():
        by = evaluation.counts[rows].groupby(["set", "detector", "tolerance_ms"], sort=False)
        pooled = by[["hits", "missed", "false"]].sum().reset_index()
        pooled.insert(1, "part", part)
        tables.append(pooled)
    table = pd.concat(tables, ignore_index=True)
    hits = table["hits"].astype(float)
    table["sensitivity"] = hits / (hits + table["missed"])
    table["precision"] = hits / (hits + table["false"])
    table["f1"] = f1(table["hits"].to_numpy(), table["missed"].to_numpy(), table["false"].to_numpy())
    return table


def timing(evaluation: Evaluation) -> pd.DataFrame:
    """RR and timing errors: a row for each set, part and detector.

    Returns
    -------
    DataFrame
        Columns ``set``, ``part``, ``detector``, ``windows``, ``rr_mae_ms`` and ``rr_median_ms`` (mean and median
        absolute error of the mean RR interval), ``no_rr`` (windows with two annotated beats where the detector found
        fewer: they are NOT in the two errors), ``no_beats`` (windows where it found nothing or failed),
        ``distance_ms`` (mean over windows of the mean distance of matched pairs), ``offset_ms`` (the same, signed).
    """
    tables = []
    for part, rows in parts(evaluation.windows).items():
        by = evaluation.windows[rows].groupby(["set", "detector"], sort=False)
        pooled = by.agg(
            windows=("window", "size"),
            rr_mae_ms=("rr_error_ms", "mean"),
            rr_median_ms=("rr_error_ms", "median"),
            no_rr=("rr_known", "sum"),
            no_beats=("found", lambda found: int((found == 0).sum())),
            distance_ms=("distance_ms", "mean"),
            offset_ms=("offset_ms", "mean"),
        )
        pooled["no_rr"] -= by["rr_error_ms"].count()
        pooled = pooled.reset_index()
        pooled.insert(1, "part", part)
        tables.append(pooled)
    return pd.concat(tables, ignore_index=True)


def compare(
    evaluation: Evaluation, ours: str = OURS[0], tolerances_ms: Iterable[float] = TOLERANCES_MS, seed: int = 0
) -> pd.DataFrame:
    """Compare our detector with every other, paired by recording.

    Windows of one recording are pooled first; what is reported apart is left out.

    Parameters
    ----------
    evaluation : Evaluation
    ours : str
        Detector that the others are compared with.
    tolerances_ms : iterable of float
    seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        A row for each set, other detector and measure: ``f1`` at ``tolerance_ms``, and ``rr_error`` (tolerance NaN;
        a difference below :data:`RR_RESOLUTION_MS` is a tie).
        ``wins``, ``ties``, ``losses`` of ours over recordings; ``median_difference`` by recording; ``difference`` of
        the pooled figure with its 95 % bootstrap interval over recordings, ``low`` to ``high``; ``p`` of the two-sided
        Wilcoxon signed-rank test, not corrected for the number of comparisons. Positive differences of F1 and negative
        ones of the RR error speak for ours.
    """
    keys = ["set", "detector", "recording"]
    rows: list[dict[str, object]] = []
    for tolerance in tolerances_ms:
        counts = evaluation.counts[(evaluation.counts["tolerance_ms"] == tolerance) & ~evaluation.counts["apart"]]
        for names, mine, theirs in _pairs(counts.groupby(keys)[["hits", "missed", "false"]].sum(), ours):
            columns = (*mine.to_numpy().T, *theirs.to_numpy().T)
            gain = f1(*columns[:3]) - f1(*columns[3:])
            measure = {"measure": "f1", "tolerance_ms": tolerance, **_tally(gain), "median_difference": np.median(gain)}
            rows.append(names | measure | _interval(columns, _pooled_difference, seed))
    windows = evaluation.windows[~evaluation.windows["apart"]]
    for names, mine, theirs in _pairs(windows.groupby(keys)[["rr_error_ms"]].mean(), ours):
        change = (mine - theirs)["rr_error_ms"].dropna().to_numpy()
        if len(change):
            gain = np.where(np.abs(change) < RR_RESOLUTION_MS, 0.0, -change)
            measure = {"measure": "rr_error", "tolerance_ms": np.nan, **_tally(gain)}
            rows.append(
                names | measure | {"median_difference": np.median(change)} | _interval((change,), np.mean, seed)
            )
    return pd.DataFrame(rows)


def _pairs(sums: pd.DataFrame, ours: str) -> Iterator[tuple[dict[str, object], pd.DataFrame, pd.DataFrame]]:
    """For each set and other detector: their names, and the rows of ours and of theirs by recording."""
    for set_name, other in sums.reset_index("recording").index.unique():
        if other not in OURS:
            yield {"set": set_name, "other": other}, sums.loc[set_name].loc[ours], sums.loc[set_name].loc[other]


def _tally(gain: np.ndarray) -> dict[str, object]:
    """Recordings where ours is better, as good and worse, and how easily chance alone would do this."""
    outcome = {"wins": int((gain > 0).sum()), "ties": int((gain == 0).sum()), "losses": int((gain < 0).sum())}
    return {"recordings": len(gain), **outcome, "p": float(wilcoxon(gain).pvalue) if gain.any() else 1.0}


def _pooled_difference(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
    """F1 of the first three summed columns (hits, missed, false) less that of the last three."""
    totals = [column.sum(axis) for column in columns]
    return f1(*totals[:3]) - f1(*totals[3:])


def _interval(columns: tuple[np.ndarray, ...], pooled: Callable[..., np.ndarray], seed: int) -> dict[str, object]:
    """A statistic of columns with one value a recording, and its bootstrap interval over recordings."""
    value = low = high = float(pooled(*columns))
    if len(columns[0]) > 1:
        how = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 4999}
        low, high = bootstrap(columns, pooled, rng=np.random.default_rng(seed), **how).confidence_interval
    return {"difference": value, "low": float(low), "high": float(high)}
