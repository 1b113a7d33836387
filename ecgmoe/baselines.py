"""What a model has to beat: floors that every table carries, and linear readings of frozen features.

All return predictions as :mod:`ecgmoe.evaluation` takes them, for all records of a cohort. Nothing is fitted outside
the training folds; strengths of regularisation are chosen on the validation fold.
"""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ecgmoe import beats, linear
from ecgmoe.datasets import Cohort
from ecgmoe.evaluation import CHARACTERISTICS, INTERVALS, MEAN, MEDIAN, PEAKS, ZERO, has_label, metrics
from ecgmoe.tasks import TASKS, Task

#: Strengths of regularisation tried on the validation fold, strong to weak.
RIDGE_ALPHAS = (1e5, 1e4, 1e3, 1e2, 1e1, 1e0)
LOGISTIC_CS = (1e-4, 1e-3, 1e-2, 1e-1, 1e0)


def _constant(task: Task, value: float | np.ndarray, n: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32), (n, len(task.classes)) if np.ndim(value) else (n,)).copy()


def floors(cohort: Cohort, refit: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of every floor for a cohort: :func:`floors_from` with what its R-peaks and beats tell."""
    peaks = beats.detect_r_peaks(cohort.signal, cohort.fs)
    intervals = beats.classical_intervals(cohort.signal, cohort.fs, peaks)
    characteristics = beats.characteristics(cohort.signal, cohort.fs, peaks)
    return floors_from(cohort, beats.mean_rr(peaks, cohort.fs), intervals, characteristics, refit)


def floors_from(
    cohort: Cohort,
    peak_rr: np.ndarray | None = None,
    intervals: pd.DataFrame | np.ndarray | None = None,
    characteristics: np.ndarray | None = None,
    refit: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Predictions of the floors that every table carries, by name (:data:`ecgmoe.evaluation.FLOORS`).

    Parameters
    ----------
    cohort : Cohort
    peak_rr : ndarray of shape (records,), optional
        Mean RR interval by an R-peak detector, ms; NaN (no interval found) becomes the train median.
    intervals : DataFrame or ndarray of shape (records, intervals), optional
        Classical intervals and axes; NaN where there is none.
    characteristics : ndarray of shape (records, characteristics), optional
        What ECG-MoE's gates and heads are told beside its features; NaN where there is none.
    refit : bool
        Fit to the validation part too, once strengths of regularisation were chosen on it.

    Returns
    -------
    dict of str to predictions
        *Zero*: 0 for regressions. *Train mean / majority*: train mean; train shares of the classes, so that the
        majority is named. *Train median*: regressions. *R-peak detector*: RR only. *Classical intervals* and *Signal
        characteristics*: on them, ridge regression or the line of least absolute error, whichever is better on the
        validation part, and logistic regression.
    """
    n, targets = len(cohort), cohort.targets()
    train = cohort.split != "test" if refit else cohort.split == "train"
    out: dict[str, dict[str, np.ndarray]] = {ZERO: {}, MEAN: {}, MEDIAN: {}}
    for name, task in cohort.tasks.items():
        known = targets[name][has_label(targets, name, train)]
        if task.kind == "regression":
            out[ZERO][name] = _constant(task, 0.0, n)
            out[MEAN][name] = _constant(task, float(known.mean(dtype=float)), n)
            out[MEDIAN][name] = _constant(task, float(np.median(known)), n)
        elif task.kind == "binary":
            out[MEAN][name] = _constant(task, float(known.mean(dtype=float)), n)
        else:
            shares = np.bincount(known.astype(int), minlength=len(task.classes)) / len(known)
            out[MEAN][name] = _constant(task, shares, n)
    if peak_rr is not None and "rr" in cohort.tasks:
        out[PEAKS] = {"rr": np.where(np.isfinite(peak_rr), peak_rr, out[MEDIAN]["rr"]).astype(np.float32)}
    for floor, values in ((INTERVALS, intervals), (CHARACTERISTICS, characteristics)):
        if values is not None:
            x = np.asarray(values, float)
            out[floor] = _linear(np.where(np.isfinite(x), x, np.nan), cohort, line=True, refit=refit)
    return out


def _linear(
    features: np.ndarray,
    cohort: Cohort,
    tasks: Iterable[str] | None = None,
    line: bool = False,
    refit: bool = False,
) -> dict[str, np.ndarray]:
    """Ridge and logistic regression (records, D) → predictions: fitted on train, strength chosen on validation.

    With ``line``, that of least absolute error is among those that are chosen from.
    """
    if len(features) != len(cohort):
        raise ValueError(f"{len(features)} rows of features for {len(cohort)} records")
    train, targets = cohort.split == "train", cohort.targets()
    prepare = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=True), StandardScaler()
    )
    prepare.fit(features[train])
    x = prepare.transform(features)
    x_32 = x.astype(np.float32)  # enough for logistic regression, and half the time
    out = {}
    for name in cohort.tasks if tasks is None else tasks:
        task = cohort.tasks[name]
        fit = has_label(targets, name, train)
        choose = has_label(targets, name, cohort.split == "validation")
        regression = task.kind == "regression"

        def fitted(
            rows: np.ndarray, name: str = name, task: Task = task, regression: bool = regression
        ) -> list[np.ndarray]:
            candidates = _ridges(x, targets[name], rows) if regression else _logistics(task, x_32, targets[name], rows)
            return [*candidates, _line(x, targets[name], rows)] if line and regression else candidates

        candidates = fitted(fit)
        ones = np.ones((1, int(choose.sum())))
        sign = -1 if task.higher_is_better else 1
        losses = [sign * metrics(task, targets[name][choose], c[choose], ones)[task.metric][0] for c in candidates]
        chosen = int(np.argmin(losses))
        out[name] = fitted(fit | choose)[chosen] if refit else candidates[chosen]
    return out


def _ridges(x: np.ndarray, target: np.ndarray, fit: np.ndarray) -> list[np.ndarray]:
    return [Ridge(alpha=a).fit(x[fit], target[fit]).predict(x).astype(np.float32) for a in RIDGE_ALPHAS]


def _line(x: np.ndarray, target: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """The line of least absolute error, as ECG-MoE's regressions start from where it tells nearly all."""
    mean, sd = target[fit].mean(dtype=float), max(float(target[fit].std(dtype=float)), 1e-6)
    weight, bias = linear.least_absolute(*(torch.from_numpy(part) for part in (x[fit], (target[fit] - mean) / sd)))
    return (mean + sd * (x @ weight.numpy() + float(bias))).astype(np.float32)


def _logistics(task: Task, x: np.ndarray, target: np.ndarray, fit: np.ndarray) -> list[np.ndarray]:
    """Probabilities by strength, and for macro-F1 also with balanced class weights."""
    classes = np.unique(target[fit]).astype(int)
    if len(classes) == 1:
        only = float(classes[0]) if task.kind == "binary" else np.eye(len(task.classes))[classes[0]]
        return [_constant(task, only, len(x))]
    candidates = []
    for weight in (None, "balanced") if task.metric == "macro_f1" else (None,):
        # Each fit starts from the stronger regularisation before it; a path cut short is a little more regular.
        model = LogisticRegression(max_iter=200, class_weight=weight, warm_start=True)
        for c in LOGISTIC_CS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=c).fit(x[fit], target[fit].astype(int))
            found = model.predict_proba(x).astype(np.float32)
            if task.kind == "binary":
                candidates.append(found[:, 1])
            else:
                full = np.zeros((len(x), len(task.classes)), np.float32)
                full[:, classes] = found
                candidates.append(full)
    return candidates


def linear_probes(
    features: Mapping[str, np.ndarray], cohort: Cohort, tasks: Iterable[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Read frozen features out linearly, the honest form of zero-shot.

    Parameters
    ----------
    features : mapping of str to ndarray of shape (records, D)
        Features by model, for all records.
    cohort : Cohort
    tasks : iterable of str, optional
        Names of the cohort's tasks; all by default.

    Returns
    -------
    dict of str to predictions
        By model: ridge (regressions) and logistic regression (classes) on standardised features, fitted on train;
        the strength of regularisation is the one with the best headline metric on the validation fold.

    Raises
    ------
    ValueError
        If a feature is not finite.
    """
    for model, values in features.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{model}: features are not finite")
    return {model: _linear(np.asarray(values, float), cohort, tasks) for model, values in features.items()}


def random_heads(features: Mapping[str, np.ndarray], cohort: Cohort, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Follow Table 1: frozen features under an UNTRAINED linear head, targets on their raw scale.

    Parameters
    ----------
    features : mapping of str to ndarray of shape (records, D)
    cohort : Cohort
    seed : int
        Seed of the heads; weights as PyTorch draws them for ``nn.Linear``. The global generator is left as it was.

    Returns
    -------
    dict of str to predictions
        By model.
    """
    out: dict[str, dict[str, np.ndarray]] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for model, values in features.items():
            torch.manual_seed(seed)
            x = torch.as_tensor(np.ascontiguousarray(values, np.float32))
            out[model] = {}
            for name, task in TASKS.items():
                y = torch.nn.Linear(x.shape[1], task.n_outputs)(x)
                if name not in cohort.tasks:
                    continue
                if task.kind == "multiclass":
                    out[model][name] = y.softmax(1).numpy()
                else:
                    out[model][name] = (y.sigmoid() if task.kind == "binary" else y)[:, 0].numpy()
    return out
