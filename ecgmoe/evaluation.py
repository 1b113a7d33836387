"""Metrics with patient-level intervals, paired comparisons, and tables beside the paper's.

Predictions are ``{task: array}`` for ALL records of a cohort: regression (records,) in the unit of the label, binary
(records,) probability of class 1, multiclass (records, classes) probabilities. A task that the cohort has no label for
is absent. Targets are ``{task: (records,) float32}`` with NaN where the label is missing; such records are left out.

Intervals are percentile bootstraps over PATIENTS (Efron and Tibshirani 1993): all records of a patient come together.

Shape legend: N records with a label, K resamples (the first of them the sample itself), C classes.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ecgmoe.datasets import Cohort
from ecgmoe.paper import Table
from ecgmoe.tasks import TASKS, Task

Predictions = Mapping[str, np.ndarray]

#: A rhythm counts in macro averages from this many evaluated records on; fewer make a class's F1 a matter of chance.
MIN_CLASS_RECORDS = 10

#: Names of the floors, in the order of the tables.
ZERO, MEAN, MEDIAN, PEAKS, INTERVALS = (
    "Zero",
    "Train mean / majority",
    "Train median",
    "R-peak detector",
    "Classical intervals",
)
FLOORS = (ZERO, MEAN, MEDIAN, PEAKS, INTERVALS)


# --- metrics under resampling ---------------------------------------------------------------------------------------


def _weights(patients_N: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """Weights (K, N) of the records: a first row of ones, then how often each resample drew a record's patient."""
    unique, patient_N = np.unique(patients_N, return_inverse=True)
    n = len(unique)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    return np.concatenate([np.ones((1, len(patients_N))), drawn[:, patient_N]])


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
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
    return _ratio((pos_KG * below_KG).sum(1), pos_KG.sum(1) * neg_KG.sum(1))


def metrics(task: Task, target_N: np.ndarray, prediction: np.ndarray, w_KN: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of a task as (K,), headline first."""
    if task.kind == "regression":
        error_N = prediction.astype(float) - target_N
        total_K = w_KN.sum(1)
        return {"mae": w_KN @ np.abs(error_N) / total_K, "rmse": np.sqrt(w_KN @ error_N**2 / total_K)}

    class_N = target_N.astype(int)
    if task.kind == "binary":
        named_N, score_NC = (prediction > 0.5).astype(int), np.stack([1 - prediction, prediction], 1)
        counted = [0, 1]
    else:
        named_N, score_NC = prediction.argmax(1), prediction
        records_C = np.bincount(class_N, minlength=len(task.classes))
        counted = np.flatnonzero(records_C >= MIN_CLASS_RECORDS).tolist() or np.flatnonzero(records_C).tolist()
    true_NC = class_N[:, None] == counted
    named_NC = named_N[:, None] == counted
    hits_KC, true_KC, named_KC = w_KN @ (true_NC & named_NC), w_KN @ true_NC, w_KN @ named_NC
    f1_KC = np.nan_to_num(_ratio(2 * hits_KC, true_KC + named_KC))
    recall_KC = _ratio(hits_KC, true_KC)
    auroc_classes = [1] if task.kind == "binary" else counted
    auroc_KC = np.stack([_auroc(class_N == c, score_NC[:, c], w_KN) for c in auroc_classes], 1)
    values = {
        "macro_f1": f1_KC.mean(1),
        "accuracy": w_KN @ (class_N == named_N) / w_KN.sum(1),
        "balanced_accuracy": _mean_known(recall_KC),
        "auroc": _mean_known(auroc_KC),
    }
    return {task.metric: values.pop(task.metric)} | values


def _mean_known(values_KC: np.ndarray) -> np.ndarray:
    """Mean over the classes that are not NaN; NaN where none is."""
    known_KC = np.isfinite(values_KC)
    return _ratio(np.where(known_KC, values_KC, 0.0).sum(1), known_KC.sum(1))


def _checked(task: Task, prediction: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Predictions of the labelled records; raises ValueError on a wrong shape or a value that is not finite."""
    prediction = np.asarray(prediction)
    wanted = (len(labelled), len(task.classes)) if task.kind == "multiclass" else (len(labelled),)
    if prediction.shape != wanted:
        raise ValueError(f"{task.name}: predictions have shape {prediction.shape}, {wanted} wanted")
    prediction = prediction[labelled]
    if not np.isfinite(prediction).all():
        missing = int((~np.isfinite(prediction)).sum())
        raise ValueError(f"{task.name}: {missing} predictions of labelled records are not finite")
    return prediction


def _interval(values_K: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the resamples (all but the first value)."""
    resampled = values_K[1:][np.isfinite(values_K[1:])]
    if not len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def has_label(targets: Mapping[str, np.ndarray], name: str, where: np.ndarray | None = None) -> np.ndarray:
    """Mask the records with a label of a task (among ``where``); raises ValueError if there is none."""
    labelled = np.isfinite(targets[name]) if where is None else np.isfinite(targets[name]) & where
    if not labelled.any():
        raise ValueError(f"{name}: no labelled record to evaluate; take more records")
    return np.asarray(labelled)


def evaluate(
    predictions: Predictions,
    targets: Mapping[str, np.ndarray],
    patients: np.ndarray,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every metric of every predicted task, with a 95 % interval over patients.

    Parameters
    ----------
    predictions, targets : mapping of str to ndarray
        For the records to score, in the same order. See the head of this module.
    patients : ndarray of shape (records,)
        Patient of each record.
    n_boot : int
        Resamples; 0 leaves the intervals empty.
    seed : int

    Returns
    -------
    DataFrame
        Columns ``task, metric, value, low, high, n``: the task's headline metric first; ``n`` counts labelled records.

    Notes
    -----
    Macro averages of a multiclass task run over the classes with at least :data:`MIN_CLASS_RECORDS` records.
    A binary probability above 0.5 names class 1.

    Raises
    ------
    ValueError
        If shapes do not fit, a prediction is not finite, or a task has no label.
    """
    rows = []
    for name, task in TASKS.items():
        if name not in predictions or name not in targets:
            continue
        labelled = has_label(targets, name)
        values = metrics(
            task,
            targets[name][labelled],
            _checked(task, predictions[name], labelled),
            _weights(np.asarray(patients)[labelled], n_boot, seed),
        )
        rows += [(name, metric, float(v_K[0]), *_interval(v_K), int(labelled.sum())) for metric, v_K in values.items()]
    return pd.DataFrame(rows, columns=["task", "metric", "value", "low", "high", "n"])


def evaluate_cohort(
    predictions: Predictions, cohort: Cohort, *, split: str = "test", n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """:func:`evaluate` on one split of a cohort, from predictions for all its records."""
    rows = cohort.split == split
    targets = cohort.targets()
    return evaluate(
        {name: np.asarray(values)[rows] for name, values in predictions.items() if name in targets},
        {name: values[rows] for name, values in targets.items()},
        cohort.table["patient_id"].to_numpy()[rows],
        n_boot=n_boot,
        seed=seed,
    )


def paired_difference(
    predictions_a: Predictions,
    predictions_b: Predictions,
    targets: Mapping[str, np.ndarray],
    patients: np.ndarray,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Difference of the headline metric between two models on the same resamples of patients.

    Parameters
    ----------
    predictions_a, predictions_b : mapping of str to ndarray
        Tasks that both hold are compared.
    targets, patients, n_boot, seed
        As in :func:`evaluate`.

    Returns
    -------
    DataFrame
        Columns ``task, metric, a, b, difference, low, high, p, better``: ``difference`` is a minus b; ``p`` two-sided;
        ``better`` is ``"a"``, ``"b"``, or ``"neither"`` where the interval holds 0.
    """
    rows = []
    for name, task in TASKS.items():
        if name not in predictions_a or name not in predictions_b or name not in targets:
            continue
        labelled = has_label(targets, name)
        w_KN = _weights(np.asarray(patients)[labelled], n_boot, seed)
        a_K, b_K = (
            metrics(task, targets[name][labelled], _checked(task, predictions[name], labelled), w_KN)[task.metric]
            for predictions in (predictions_a, predictions_b)
        )
        difference_K = a_K - b_K
        low, high = _interval(difference_K)
        tails = [(1 + np.sum(side)) / (n_boot + 1) for side in (difference_K[1:] <= 0, difference_K[1:] >= 0)]
        better = "neither" if low <= 0 <= high else "a" if (low > 0) == task.higher_is_better else "b"
        rows.append((name, task.metric, a_K[0], b_K[0], difference_K[0], low, high, min(1.0, 2 * min(tails)), better))
    columns = ["task", "metric", "a", "b", "difference", "low", "high", "p", "better"]
    return pd.DataFrame(rows, columns=columns)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p values for their number by Holm's step-down procedure (1979); shape (comparisons,)."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def compare(
    runs: Mapping[str, Predictions],
    model: str,
    cohort: Cohort,
    *,
    baselines: Iterable[str] = (),
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare a model with others on the test fold, with p values adjusted over all rows by :func:`holm`.

    One of the two is called better where the adjusted p value is below 0.05.

    Parameters
    ----------
    runs : mapping of str to predictions
    model : str
        Key of ``runs``.
    cohort : Cohort
    baselines : iterable of str
        Keys of ``runs``; by default all but ``model``.

    Returns
    -------
    DataFrame
        Columns ``task, baseline, metric, model_value, baseline_value, difference, low, high, p, p_holm, better``.
    """
    rows = cohort.split == "test"
    targets = {name: values[rows] for name, values in cohort.targets().items()}
    patients = cohort.table["patient_id"].to_numpy()[rows]
    here = {name: {t: np.asarray(v)[rows] for t, v in run.items()} for name, run in runs.items()}
    parts = [
        paired_difference(here[model], here[name], targets, patients, n_boot=n_boot, seed=seed).assign(baseline=name)
        for name in (tuple(baselines) or [name for name in runs if name != model])
    ]
    if not parts:
        raise ValueError("nothing to compare with")
    table = pd.concat(parts, ignore_index=True).rename(columns={"a": "model_value", "b": "baseline_value"})
    table = _adjusted(table)
    order = ["task", "baseline", "metric", "model_value", "baseline_value", "difference", "low", "high", "p", "p_holm"]
    table["task"] = pd.Categorical(table["task"], categories=list(TASKS), ordered=True)
    table = table.sort_values("task", kind="stable", ignore_index=True).astype({"task": str})
    return table[[*order, "better"]]


def _adjusted(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with ``p_holm``, and ``better`` as model, baseline or, where it is not below 0.05, neither."""
    p_holm = holm(pairs["p"].to_numpy())
    better = pairs["better"].map({"a": "model", "b": "baseline", "neither": "neither"}).where(p_holm < 0.05, "neither")
    return pairs.assign(p_holm=p_holm, better=better)


def against_best(
    runs: Mapping[str, Predictions], model: str, cohort: Cohort, *, n_boot: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Compare a model, task by task, with that other run which is best on the validation fold.

    Returns
    -------
    DataFrame
        As :func:`compare`, one row a task; p values are adjusted over the tasks.
    """
    others = {name: run for name, run in runs.items() if name != model}
    parts = [
        compare(
            {model: {task: runs[model][task]}, name: {task: others[name][task]}},
            model,
            cohort,
            n_boot=n_boot,
            seed=seed,
        )
        for task, name in best_on_validation(others, cohort).items()
        if task in runs[model]
    ]
    table = pd.concat(parts, ignore_index=True)
    sign = np.array([1 if TASKS[name].higher_is_better else -1 for name in table["task"]])
    return _adjusted(table.assign(better=np.where(sign * table["difference"] > 0, "a", "b")))


def comparison_table(pairs: pd.DataFrame, model: str) -> pd.DataFrame:
    """What :func:`compare` or :func:`against_best` found, as text for :func:`ecgmoe.results.table`."""
    return pd.DataFrame(
        {
            "Task": [task_label(TASKS[name]) for name in pairs["task"]],
            "Compared with": pairs["baseline"],
            f"{model} minus that": [
                f"{row.difference:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in pairs.itertuples()
            ],
            "p (Holm)": [f"{p:.3f}" for p in pairs["p_holm"]],
            "Clearly better": pairs["better"]
            .replace("model", model)
            .where(pairs["better"] != "baseline", pairs["baseline"]),
        }
    )


def best_on_validation(runs: Mapping[str, Predictions], cohort: Cohort) -> dict[str, str]:
    """Name of the run with the best headline metric on the validation fold, by task."""
    scores = pd.concat(
        [evaluate_cohort(run, cohort, split="validation", n_boot=0).assign(model=name) for name, run in runs.items()]
    )
    chosen = {}
    for name, task in cohort.tasks.items():
        own = scores[(scores["task"] == name) & (scores["metric"] == task.metric)].set_index("model")["value"]
        if len(own):
            chosen[name] = str(own.idxmax() if task.higher_is_better else own.idxmin())
    return chosen


def score_table(
    runs: Mapping[str, Predictions], cohort: Cohort, *, n_boot: int = 1000, seed: int = 0, split: str = "test"
) -> pd.DataFrame:
    """Headline metric of every model and task, with a 95 % interval over patients.

    Returns
    -------
    DataFrame
        A row a model and task; columns ``model, task, metric, value, low, high, n``.
    """
    parts = []
    for model, predictions in runs.items():
        scores = evaluate_cohort(predictions, cohort, split=split, n_boot=n_boot, seed=seed)
        headline = [TASKS[name].metric == metric for name, metric in zip(scores["task"], scores["metric"], strict=True)]
        parts.append(scores[headline].assign(model=model))
    columns = ["model", "task", "metric", "value", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


#: How a headline metric is named and printed.
_METRIC_LABELS = {"mae": "MAE", "macro_f1": "macro-F1", "accuracy": "accuracy"}
_DECIMALS = {"rr": 1, "age": 2}


def task_label(task: Task) -> str:
    """Name a task with its headline metric, unit and direction, such as ``RR interval: MAE, ms ↓``."""
    unit = f", {task.unit}" if task.unit else ""
    return f"{task.title}: {_METRIC_LABELS[task.metric]}{unit} {'↑' if task.higher_is_better else '↓'}"


def paper_table(
    scores: pd.DataFrame, paper: Table | None = None, *, tasks: Iterable[str] = tuple(TASKS)
) -> pd.DataFrame:
    """Put the paper's figures beside this run's, task by task, floors below the models.

    Parameters
    ----------
    scores : DataFrame
        From :func:`score_table`.
    paper : mapping, optional
        ``paper.TABLE_1``, ``TABLE_2`` or ``TABLE_3``: its rows come first, in its order, under its names. A model of
        it that was not run shows a dash. Without it there is no column of the paper.
    tasks : iterable of str
        Tasks to show. One that the scores do not hold is said to be not available.

    Returns
    -------
    DataFrame
        Text columns ``Task``, ``Model``, ``Paper`` (mean ± spread), ``This run`` (value and 95 % interval), for
        :func:`ecgmoe.results.table`.
    """
    found = {(row["model"], row["task"]): row for row in scores.to_dict("records")}
    own = [model for model in scores["model"].unique() if model not in FLOORS]
    printed = paper or {}
    models = [*printed, *(model for model in own if model not in printed)]
    models += [floor for floor in FLOORS if floor in set(scores["model"])]
    rows = []
    for name in tasks:
        available = name in set(scores["task"])
        label = task_label(TASKS[name])
        for model in models:
            row = found.get((model, name))
            cell = printed[model][name] if model in printed else None
            if row is None and (model in FLOORS or cell is None):
                continue
            places = _DECIMALS.get(name, 2)
            this = "–" if available else "not available"
            if row is not None:
                this = f"{row['value']:.{places}f}"
                if np.isfinite(row["low"]):
                    this += f" [{row['low']:.{places}f}, {row['high']:.{places}f}]"
            said = "–" if cell is None else str(cell)
            rows.append((label, f"*{model}*" if model in FLOORS else model, said, this))
            label = ""
    table = pd.DataFrame(rows, columns=["Task", "Model", "Paper", "This run"])
    return table if paper is not None else table.drop(columns="Paper")
