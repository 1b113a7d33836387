"""Metrics on resamples of patients, and their intervals.

Intervals are percentile bootstraps over PATIENTS (Efron and Tibshirani 1993): all records of a patient come together.

Shape legend: N records with a label, K resamples (the first of them the sample itself), C classes, G groups of ties.
"""

from collections.abc import Iterator

import numpy as np

from ecgmoe.tasks import Task

#: A rhythm counts in macro averages from this many evaluated records on; fewer make a class's F1 a matter of chance.
MIN_CLASS_RECORDS = 10


#: Numbers that a block of weights holds: 128 MB.
_BLOCK = 2**24


def weight_blocks(patients_N: np.ndarray, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """Give :func:`patient_weights` block by block: many resamples of many records at once would not fit in memory."""
    unique, patient_N = np.unique(patients_N, return_inverse=True)
    n, random, left = len(unique), np.random.default_rng(seed), n_boot
    yield np.ones((1, len(patients_N)))
    while left:
        size = min(left, max(1, _BLOCK // len(patients_N)))
        yield random.multinomial(n, np.full(n, 1 / n), size=size)[:, patient_N].astype(float)
        left -= size


def patient_weights(patients_N: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """Weights (K, N) of the records: a first row of ones, then how often each resample drew a record's patient."""
    return np.concatenate([*weight_blocks(patients_N, n_boot, seed)])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def _auroc(positive_N: np.ndarray, score_N: np.ndarray, w_KN: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (K,) as the Mann-Whitney statistic, ties counted half."""
    order = np.argsort(score_N, kind="stable")
    w_KN, positive_N, score_N = w_KN[:, order], positive_N[order], score_N[order]
    starts = np.flatnonzero(np.r_[True, np.diff(score_N) > 0])
    pos_KG = np.add.reduceat(w_KN * positive_N, starts, axis=1)
    neg_KG = np.add.reduceat(w_KN * ~positive_N, starts, axis=1)
    below_KG = np.cumsum(neg_KG, axis=1) - neg_KG / 2
    return ratio((pos_KG * below_KG).sum(1), pos_KG.sum(1) * neg_KG.sum(1))


def metrics(
    task: Task, target_N: np.ndarray, prediction: np.ndarray, w_KN: np.ndarray, headline: bool = False
) -> dict[str, np.ndarray]:
    """Every metric of a task as (K,), or the headline alone; it comes first. NaN where the weights are all 0."""
    if task.kind == "regression":
        error_N = prediction.astype(float) - target_N
        total_K = w_KN.sum(1)
        mae = {"mae": ratio(w_KN @ np.abs(error_N), total_K)}
        return mae if headline else mae | {"rmse": np.sqrt(ratio(w_KN @ error_N**2, total_K))}

    class_N, binary = target_N.astype(int), task.kind == "binary"
    named_N = (prediction > 0.5).astype(int) if binary else prediction.argmax(1)
    accuracy_K = ratio(w_KN @ (class_N == named_N), w_KN.sum(1))
    if headline and task.metric == "accuracy":
        return {"accuracy": accuracy_K}
    records_C = np.bincount(class_N, minlength=len(task.classes))
    frequent = np.flatnonzero(records_C >= MIN_CLASS_RECORDS).tolist() or np.flatnonzero(records_C).tolist()
    counted = [0, 1] if binary else frequent
    true_NC = class_N[:, None] == counted
    named_NC = named_N[:, None] == counted
    hits_KC, true_KC, named_KC = w_KN @ (true_NC & named_NC), w_KN @ true_NC, w_KN @ named_NC
    f1_KC = np.nan_to_num(ratio(2 * hits_KC, true_KC + named_KC))
    if headline:
        return {"macro_f1": f1_KC.mean(1)}
    recall_KC = ratio(hits_KC, true_KC)
    scores = {1: prediction} if binary else {c: prediction[:, c] for c in counted}
    auroc_KC = np.stack([_auroc(class_N == c, score_N, w_KN) for c, score_N in scores.items()], 1)
    values = {
        "macro_f1": f1_KC.mean(1),
        "accuracy": accuracy_K,
        "balanced_accuracy": _mean_known(recall_KC),
        "auroc": _mean_known(auroc_KC),
    }
    return {task.metric: values.pop(task.metric)} | values


def _mean_known(values_KC: np.ndarray) -> np.ndarray:
    """Mean over the classes that are not NaN; NaN where none is."""
    known_KC = np.isfinite(values_KC)
    return ratio(np.where(known_KC, values_KC, 0.0).sum(1), known_KC.sum(1))


def interval(values_K: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the resamples (all but the first value)."""
    resampled = values_K[1:][np.isfinite(values_K[1:])]
    if not len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
