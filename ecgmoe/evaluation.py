"""Metrics with patient-level intervals, paired comparisons, and tables beside the paper's.

Predictions are ``{task: array}`` for ALL records of a cohort: regression (records,) in the unit of the label, binary
(records,) probability of class 1, multiclass (records, classes) probabilities. A task that the cohort has no label for
is absent. Targets are ``{task: (records,) float32}`` with NaN where the label is missing; such records are left out.
A run may be a sequence of predictions, one a seed: each metric is then averaged over seeds, resample by resample.

Metrics and intervals are those of :mod:`ecgmoe.scoring`.

Shape legend: N records with a label, K resamples (the first of them the sample itself), C classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ecgmoe.datasets import Cohort
from ecgmoe.paper import Table
from ecgmoe.scoring import interval, metrics, patient_weights, weight_blocks
from ecgmoe.tasks import TASKS, Task

Predictions = Mapping[str, np.ndarray]
Run = Predictions | Sequence[Predictions]  # of one seed, or of several

#: Names of the floors, in the order of the tables.
ZERO, MEAN, MEDIAN, PEAKS, INTERVALS, CHARACTERISTICS = (
    "Zero",
    "Train mean / majority",
    "Train median",
    "R-peak detector",
    "Classical intervals",
    "Signal characteristics",
)
#: All floors, in the order of the tables.
FLOORS = (ZERO, MEAN, MEDIAN, PEAKS, INTERVALS, CHARACTERISTICS)


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


def has_label(targets: Mapping[str, np.ndarray], name: str, where: np.ndarray | None = None) -> np.ndarray:
    """Mask the records with a label of a task (among ``where``); raises ValueError if there is none."""
    labelled = np.isfinite(targets[name]) if where is None else np.isfinite(targets[name]) & where
    if not labelled.any():
        raise ValueError(f"{name}: no labelled record to evaluate; take more records")
    return np.asarray(labelled)


class Sample(NamedTuple):
    """The labelled records of one task, what each run says of them, and how often each resample drew them."""

    task: Task
    target_N: np.ndarray
    predictions: list[np.ndarray]  #: one a run, (N,) or (N, C)
    w_KN: np.ndarray  #: as :func:`ecgmoe.scoring.patient_weights` gives it
    labelled: np.ndarray  #: which of the records these are

    def metrics(self, headline: bool = False) -> list[dict[str, np.ndarray]]:
        """Every metric, or the headline alone, by run; (K,) each."""
        return [metrics(self.task, self.target_N, found, self.w_KN, headline) for found in self.predictions]


def samples(
    runs: Sequence[Predictions], targets: Mapping[str, np.ndarray], patients: np.ndarray, n_boot: int, seed: int
) -> Iterator[Sample]:
    """Labelled records of each task that all runs predict, with the same resamples of patients for all runs."""
    for name, task in TASKS.items():
        if name in targets and all(name in run for run in runs):
            labelled = has_label(targets, name)
            found = [_checked(task, run[name], labelled) for run in runs]
            w_KN = patient_weights(np.asarray(patients)[labelled], n_boot, seed)
            yield Sample(task, targets[name][labelled], found, w_KN, labelled)


def seeds_of(run: Run) -> list[Predictions]:
    """Predictions of each seed of a run."""
    return [run] if isinstance(run, Mapping) else list(run)


class Part(NamedTuple):
    """Records of one split of a cohort."""

    rows: np.ndarray  #: mask of the cohort's records
    targets: dict[str, np.ndarray]
    patients: np.ndarray

    def take(self, run: Run) -> list[Predictions]:
        """What each seed of a run says of these records."""
        return [{task: np.asarray(values)[self.rows] for task, values in seed.items()} for seed in seeds_of(run)]


def part_of(cohort: Cohort, split: str) -> Part:
    """Records of one split, their labels and patients."""
    rows = cohort.split == split
    targets = {name: values[rows] for name, values in cohort.targets().items()}
    return Part(rows, targets, cohort.table["patient_id"].to_numpy()[rows])


def evaluate(
    predictions: Run,
    targets: Mapping[str, np.ndarray],
    patients: np.ndarray,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    headline: bool = False,
) -> pd.DataFrame:
    """Every metric (or the headline alone) of every predicted task, with a 95 % interval over patients.

    Parameters
    ----------
    predictions : mapping of str to ndarray, or sequence of them, one a seed
    targets : mapping of str to ndarray
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
    Macro averages of a multiclass task run over the classes with at least
    :data:`ecgmoe.scoring.MIN_CLASS_RECORDS` records.
    A binary probability above 0.5 names class 1.

    Raises
    ------
    ValueError
        If shapes do not fit, a prediction is not finite, or a task has no label.
    """
    rows = []
    for sample in samples(seeds_of(predictions), targets, patients, n_boot, seed):
        by_seed = sample.metrics(headline)
        for metric in by_seed[0]:
            value_K = np.mean([values[metric] for values in by_seed], axis=0)
            rows.append((sample.task.name, metric, float(value_K[0]), *interval(value_K), len(sample.target_N)))
    return pd.DataFrame(rows, columns=["task", "metric", "value", "low", "high", "n"])


def evaluate_cohort(
    predictions: Run,
    cohort: Cohort,
    *,
    split: str = "test",
    n_boot: int = 1000,
    seed: int = 0,
    headline: bool = False,
) -> pd.DataFrame:
    """:func:`evaluate` on one split of a cohort, from predictions for all its records."""
    part = part_of(cohort, split)
    return evaluate(part.take(predictions), part.targets, part.patients, n_boot=n_boot, seed=seed, headline=headline)


def paired_difference(
    predictions_a: Run,
    predictions_b: Run,
    targets: Mapping[str, np.ndarray],
    patients: np.ndarray,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Difference of the headline metric between two models on the same resamples of patients.

    Parameters
    ----------
    predictions_a, predictions_b : mapping of str to ndarray, or sequence of them, one a seed
        Tasks that both hold are compared.
    targets, patients, n_boot, seed
        As in :func:`evaluate`.

    Returns
    -------
    DataFrame
        Columns ``task, metric, a, b, difference, low, high, p, better``: ``difference`` is a minus b; ``p`` two-sided;
        ``better`` is ``"a"``, ``"b"``, or ``"neither"`` where the interval holds 0.
    """
    runs = {"a": seeds_of(predictions_a), "b": seeds_of(predictions_b)}
    rows = []
    for name in TASKS:
        if name in targets and all(name in one for seeds in runs.values() for one in seeds):
            values = _headline(runs, name, targets, patients, n_boot, seed)
            rows.append((name, *_difference(TASKS[name], values["a"], values["b"])))
    return pd.DataFrame(rows, columns=["task", *_DIFFERENCE])


#: Columns of a difference.
_DIFFERENCE = ("metric", "a", "b", "difference", "low", "high", "p", "better")


def _headline(
    runs: Mapping[str, Sequence[Predictions]],
    name: str,
    targets: Mapping[str, np.ndarray],
    patients: np.ndarray,
    n_boot: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Headline metric of a task by run, the mean over its seeds, on the same resamples (K,)."""
    every = [{name: one[name]} for seeds in runs.values() for one in seeds]
    (sample,) = samples(every, {name: targets[name]}, patients, 0, seed)
    blocks = [
        [found[sample.task.metric] for found in sample._replace(w_KN=w_KN).metrics(headline=True)]
        for w_KN in weight_blocks(np.asarray(patients)[sample.labelled], n_boot, seed)
    ]
    values = iter([np.concatenate(parts) for parts in zip(*blocks, strict=True)])
    return {run: np.mean([next(values) for _ in seeds], axis=0) for run, seeds in runs.items()}


def _difference(task: Task, a_K: np.ndarray, b_K: np.ndarray) -> tuple[Any, ...]:
    """What :data:`_DIFFERENCE` names."""
    difference_K = a_K - b_K
    low, high = interval(difference_K)
    tails = [(1 + np.sum(side)) / len(difference_K) for side in (difference_K[1:] <= 0, difference_K[1:] >= 0)]
    better = "neither" if low <= 0 <= high else "a" if (low > 0) == task.higher_is_better else "b"
    return task.metric, a_K[0], b_K[0], difference_K[0], low, high, min(1.0, 2 * min(tails)), better


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p values for their number by Holm's step-down procedure (1979); shape (comparisons,)."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def compare(
    runs: Mapping[str, Run],
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
    runs : mapping of str to predictions, or to sequences of them, one a seed
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
    part = part_of(cohort, "test")
    wanted = tuple(baselines) or tuple(name for name in runs if name != model)
    here = {name: part.take(runs[name]) for name in (model, *wanted)}
    rows = []
    for name, task in TASKS.items():  # resamples and metrics of a task are computed once, whatever is compared
        able = {run: seeds for run, seeds in here.items() if name in part.targets and all(name in one for one in seeds)}
        if model in able and len(able) > 1:
            values = _headline(able, name, part.targets, part.patients, n_boot, seed)
            rows += [(name, run, *_difference(task, values[model], values[run])) for run in wanted if run in able]
    if not rows:
        raise ValueError("nothing to compare with")
    table = pd.DataFrame(rows, columns=["task", "baseline", *_DIFFERENCE])
    table = table.rename(columns={"a": "model_value", "b": "baseline_value"})
    table = _adjusted(table)
    order = ["task", "baseline", "metric", "model_value", "baseline_value", "difference", "low", "high", "p", "p_holm"]
    return table[[*order, "better"]]


def _adjusted(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with ``p_holm``, and ``better`` as model, baseline or, where it is not below 0.05, neither."""
    p_holm = holm(pairs["p"].to_numpy())
    better = pairs["better"].map({"a": "model", "b": "baseline", "neither": "neither"}).where(p_holm < 0.05, "neither")
    return pairs.assign(p_holm=p_holm, better=better)


def against_best(
    runs: Mapping[str, Run], model: str, cohort: Cohort, *, n_boot: int = 2000, seed: int = 0
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
            {run: [{task: seed[task]} for seed in seeds_of(runs[run])] for run in (model, name)},
            model,
            cohort,
            n_boot=n_boot,
            seed=seed,
        )
        for task, name in best_on_validation(others, cohort).items()
        if task in seeds_of(runs[model])[0]
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
            f"{model} minus that": [difference_text(row) for row in pairs.to_dict("records")],
            "p (Holm)": [f"{p:.3f}" for p in pairs["p_holm"]],
            "Clearly better": pairs["better"]
            .replace("model", model)
            .where(pairs["better"] != "baseline", pairs["baseline"]),
        }
    )


def difference_text(pair: Mapping[Any, Any], sign: str = "") -> str:
    """A line of :func:`compare` as text: difference and interval; with ``sign="+"`` a plus where it is above 0."""
    n = places(pair["task"])
    text = f"{pair['difference']:{sign}z.{n}f} [{pair['low']:z.{n}f}, {pair['high']:z.{n}f}]"
    return text.replace("-", "−")


def best_on_validation(runs: Mapping[str, Run], cohort: Cohort) -> dict[str, str]:
    """Name of the run with the best headline metric on the validation fold, by task."""
    scores = score_table(runs, cohort, split="validation", n_boot=0)
    chosen = {}
    for name, task in cohort.tasks.items():
        own = scores[scores["task"] == name].set_index("model")["value"]
        if len(own):
            chosen[name] = str(own.idxmax() if task.higher_is_better else own.idxmin())
    return chosen


def score_table(
    runs: Mapping[str, Run],
    cohort: Cohort,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    split: str = "test",
    headline: bool = True,
) -> pd.DataFrame:
    """Headline metric (or every metric) of every model and task, with a 95 % interval over patients.

    Returns
    -------
    DataFrame
        A row a model, task and metric; columns ``model, task, metric, value, low, high, n``.
    """
    parts = []
    for model, predictions in runs.items():
        scores = evaluate_cohort(predictions, cohort, split=split, n_boot=n_boot, seed=seed, headline=headline)
        parts.append(scores.assign(model=model))
    columns = ["model", "task", "metric", "value", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


#: How a metric is named and printed.
METRIC_LABELS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
}
_DECIMALS = {"rr": 1, "age": 2}


def places(name: str) -> int:
    """Decimals of a task's headline metric in text."""
    return _DECIMALS.get(name, 3)


def headlines(scores: pd.DataFrame) -> pd.DataFrame:
    """Those rows of a table with columns ``task`` and ``metric`` that are of a task's headline metric."""
    return scores[scores["metric"] == scores["task"].map({name: task.metric for name, task in TASKS.items()})]


def spoken(task: Task) -> str:
    """Title of a task within a sentence: abbreviations keep their capitals."""
    return task.title if task.title[1].isupper() else task.title.lower()


def percent(probability: float) -> str:
    """A probability for readers: none is rounded to certainty."""
    text = f"{100 * probability:.0f} %"
    return {"100 %": "> 99 %", "0 %": "< 1 %"}.get(text, text)


def words(names: Iterable[str]) -> str:
    """Names as they stand in a sentence: ``a, b and c``, or ``none``."""
    *first, last = [*names] or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def task_label(task: Task) -> str:
    """Name a task with its headline metric, unit and direction, such as ``RR interval: MAE, ms ↓``."""
    unit = f", {task.unit}" if task.unit else ""
    return f"{task.title}: {METRIC_LABELS[task.metric]}{unit} {'↑' if task.higher_is_better else '↓'}"


def paper_table(
    scores: pd.DataFrame,
    paper: Table | None = None,
    *,
    tasks: Iterable[str] = tuple(TASKS),
    reference: Mapping[str, pd.DataFrame | None] | None = None,
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
    reference : mapping of str to DataFrame or None, optional
        Scores of runs that were made elsewhere, a column each between the paper's and this run's, by its title; None
        for one that was not made yet. Their models are named as those of ``scores``; others are left out.

    Returns
    -------
    DataFrame
        Text columns ``Task``, ``Model``, ``Paper`` (mean ± spread), ``This run`` (value and 95 % interval), for
        :func:`ecgmoe.results.table`.
    """
    found = _by_cell(scores)
    elsewhere = {title: None if run is None else _by_cell(run) for title, run in (reference or {}).items()}
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
            decimals = min(places(name), 2)  # as the paper prints
            this = _cell(row, decimals) if row is not None else "–" if available else "not available"
            said = "–" if cell is None else str(cell)
            there = [_elsewhere(run, model, name, decimals) for run in elsewhere.values()]
            rows.append((label, f"*{model}*" if model in FLOORS else model, said, *there, this))
            label = ""
    table = pd.DataFrame(rows, columns=["Task", "Model", "Paper", *elsewhere, "This run"])
    return table if paper is not None else table.drop(columns="Paper")


_Cells = dict[tuple[str, str], dict[str, Any]]


def _by_cell(scores: pd.DataFrame) -> _Cells:
    return {(row["model"], row["task"]): {str(key): row[key] for key in row} for row in scores.to_dict("records")}


def _cell(row: Mapping[str, Any], places: int) -> str:
    text = f"{row['value']:.{places}f}"
    return text + (f" [{row['low']:.{places}f}, {row['high']:.{places}f}]" if np.isfinite(row["low"]) else "")


def _elsewhere(run: _Cells | None, model: str, task: str, places: int) -> str:
    """Cell of a run that was made elsewhere."""
    if run is None:
        return "not run"
    if (model, task) in run:
        return _cell(run[model, task], places)
    return "–" if any(of == task for _, of in run) else "not available"


def metrics_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Put every metric of a task on a line, models side by side.

    Parameters
    ----------
    scores : DataFrame
        From :func:`score_table` with ``headline=False``.

    Returns
    -------
    DataFrame
        Text columns ``Task``, ``Metric`` and one a model, for :func:`ecgmoe.results.table`; what a model has no answer
        for is a dash.
    """
    rows = []
    for _, part in scores.groupby(["task", "metric"], sort=False):
        name, metric = part["task"].iloc[0], part["metric"].iloc[0]
        values = {model: f"{value:.{places(name)}f}" for model, value in zip(part["model"], part["value"], strict=True)}
        rows.append({"Task": TASKS[name].title, "Metric": METRIC_LABELS[metric], **values})
    table = pd.DataFrame(rows).fillna("–")
    return table.assign(Task=table["Task"].mask(table["Task"].duplicated(), ""))
