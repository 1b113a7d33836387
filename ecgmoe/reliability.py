"""How far results can be relied on: calibration of probabilities, subgroups of patients, several seeds.

All functions take runs as :mod:`ecgmoe.evaluation` does, of one seed or of several: with several, each measure is
averaged over seeds on the same resamples of patients.

Shape legend: N records with a label, K resamples (the first of them the sample itself), B bins, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ecgmoe import evaluation
from ecgmoe.datasets import Cohort
from ecgmoe.evaluation import Run, Sample, part_of, samples, seeds_of
from ecgmoe.scoring import interval, patient_weights, ratio
from ecgmoe.tasks import TASKS, Task

#: First ages of the age bands but the youngest, in years.
AGE_BAND_STARTS = (40, 60, 75)
AGE_BANDS = ("<40", "40–59", "60–74", "≥75")

#: The group of records whose sex or age is not known.
UNKNOWN = "unknown"

#: A group gets a value from this many labelled records on.
MIN_GROUP_RECORDS = 10


# --- calibration ----------------------------------------------------------------------------------------------------


class Claims(NamedTuple):
    """What a classifier claims of each record, and whether it came true."""

    claimed_N: np.ndarray  #: probability of class 1; of several classes, that of the class it names
    true_N: np.ndarray  #: 0 or 1
    bin_N: np.ndarray  #: which bin of equal mass the claim lies in
    squared_N: np.ndarray  #: squared error of the probabilities, summed over several classes (Brier 1950)

    @classmethod
    def of(cls, task: Task, target_N: np.ndarray, prediction: np.ndarray, n_bins: int) -> "Claims":
        """Claims of one task; bins are cut at the quantiles of the claims, as scikit-learn's calibration curve has."""
        if task.kind == "binary":
            claimed_N, true_N = prediction.astype(float), target_N.astype(float)
            squared_N = (claimed_N - true_N) ** 2
        else:
            true_NC = target_N.astype(int)[:, None] == np.arange(len(task.classes))
            claimed_N, true_N = prediction.max(1).astype(float), true_NC[np.arange(len(target_N)), prediction.argmax(1)]
            squared_N = ((prediction - true_NC) ** 2).sum(1)
        edges_B = np.quantile(claimed_N, np.linspace(0, 1, n_bins + 1)[1:-1])
        return cls(claimed_N, true_N.astype(float), np.searchsorted(edges_B, claimed_N), squared_N)

    def error(self, w_KN: np.ndarray, true_KN: np.ndarray | None = None) -> np.ndarray:
        """Expected calibration error (K,): mean distance of claimed and true share of the bins, weighed by records."""
        bin_NB = np.eye(self.bin_N.max() + 1)[self.bin_N]
        off_KN = w_KN * (self.claimed_N - (self.true_N if true_KN is None else true_KN))
        return ratio(np.abs(off_KN @ bin_NB).sum(1), w_KN.sum(1))


def calibration(
    runs: Mapping[str, Run],
    cohort: Cohort,
    *,
    n_bins: int = 10,
    split: str = "test",
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Expected calibration error and Brier score of every model and classification task.

    The error of a finite sample is never 0, not even where the probabilities are right: ``if_calibrated`` is its mean
    over draws of the labels from the model's own probabilities, and ``p`` the share of draws with an error as large as
    the observed one. One number draws the labels of all records of a patient, which share a sex and often more; where
    they are less alike than that, ``p`` errs on the large side.

    Parameters
    ----------
    runs : mapping of str to predictions, or to sequences of them, one a seed
    cohort : Cohort
    n_bins : int
        Bins of equal mass.
    split : str
    n_boot : int
        Resamples of patients, and draws of the labels.
    seed : int

    Returns
    -------
    DataFrame
        Columns ``model, task, metric, value, low, high, if_calibrated, p, n``; ``metric`` is ``ece`` or ``brier``, the
        last two columns but one belong to ``ece``. The interval of ``ece`` is the basic bootstrap (twice the value
        minus the percentiles), since a resample adds error; that of ``brier`` the percentile one.

    References
    ----------
    Error over bins, of several classes for the one that is named: Guo et al. (ICML 2017). Bins of equal mass: Nguyen
    and O'Connor (EMNLP 2015). Draws of labels: consistency resampling of Bröcker and Smith (Weather Forecast. 22:651,
    2007).

    Raises
    ------
    ValueError
        For fewer than two bins.
    """
    if n_bins < 2:
        raise ValueError(f"calibration needs at least two bins, got {n_bins}")
    part = part_of(cohort, split)
    rows = []
    for model, run in runs.items():
        for sample in samples(part.take(run), part.targets, part.patients, n_boot, seed):
            if sample.task.kind == "regression":
                continue
            name, n = sample.task.name, len(sample.target_N)
            claims = [Claims.of(sample.task, sample.target_N, found, n_bins) for found in sample.predictions]
            _, patient_N = np.unique(part.patients[sample.labelled], return_inverse=True)
            drawn_KN = np.random.default_rng(seed).random((n_boot, patient_N.max() + 1))[:, patient_N]
            ones_KN = np.ones((n_boot, n))
            ece_K = np.mean([one.error(sample.w_KN) for one in claims], axis=0)
            null_K = np.mean([one.error(ones_KN, drawn_KN < one.claimed_N) for one in claims], axis=0)
            brier_K = np.mean([ratio(sample.w_KN @ one.squared_N, sample.w_KN.sum(1)) for one in claims], axis=0)
            low, high = interval(2 * ece_K[0] - ece_K)
            by_chance = float(null_K.mean()) if n_boot else np.nan
            p = (1 + np.sum(null_K >= ece_K[0])) / (n_boot + 1)
            rows.append((model, name, "ece", float(ece_K[0]), max(low, 0.0), max(high, 0.0), by_chance, float(p), n))
            rows.append((model, name, "brier", float(brier_K[0]), *interval(brier_K), np.nan, np.nan, n))
    columns = ["model", "task", "metric", "value", "low", "high", "if_calibrated", "p", "n"]
    return pd.DataFrame(rows, columns=columns)


def reliability_curve(
    run: Run, cohort: Cohort, *, n_bins: int = 10, split: str = "test", n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Claimed and observed shares by bin of equal mass, for every classification task.

    Returns
    -------
    DataFrame
        Columns ``task, claimed, observed, low, high, n``, a row a bin that has records (and a seed); the interval of
        ``observed`` is over patients.
    """
    part = part_of(cohort, split)
    rows = []
    for sample in samples(part.take(run), part.targets, part.patients, n_boot, seed):
        if sample.task.kind == "regression":
            continue
        for prediction in sample.predictions:
            claims = Claims.of(sample.task, sample.target_N, prediction, n_bins)
            for at in np.unique(claims.bin_N):
                here_N = claims.bin_N == at
                share_K = ratio(sample.w_KN[:, here_N] @ claims.true_N[here_N], sample.w_KN[:, here_N].sum(1))
                claimed = float(claims.claimed_N[here_N].mean())
                rows.append((sample.task.name, claimed, float(share_K[0]), *interval(share_K), int(here_N.sum())))
    return pd.DataFrame(rows, columns=["task", "claimed", "observed", "low", "high", "n"])


# --- subgroups ------------------------------------------------------------------------------------------------------


def groupings(cohort: Cohort) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Names of the groups, and the group of each record of a cohort, by sex and by age band."""
    age, sex = (cohort.table[column].to_numpy(float) for column in ("age", "sex"))
    bands = np.where(np.isfinite(age), np.array(AGE_BANDS)[np.searchsorted(AGE_BAND_STARTS, age, "right")], UNKNOWN)
    sexes = TASKS["sex"].classes
    named = np.where(np.isfinite(sex), np.array(sexes)[np.nan_to_num(sex).astype(int)], UNKNOWN)
    return {"sex": (sexes, named), "age": (AGE_BANDS, bands)}


def _is_split_by(task: Task, by: str) -> bool:
    """Whether a task is looked at by a grouping: within one sex, there is nothing to tell of sex."""
    return not (task.name == by == "sex")


def subgroups(
    runs: Mapping[str, Run], cohort: Cohort, *, split: str = "test", n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Headline metric of every model and task by sex and by age band, with 95 % intervals over patients.

    Groups differ in more than sex or age, such as their rhythms; a difference is no proof of a cause.

    Returns
    -------
    DataFrame
        Columns ``model, by, group, task, metric, value, low, high, n``. ``n`` counts labelled records; a group with
        fewer than :data:`MIN_GROUP_RECORDS`, or of one class in a binary task, has no value. Records of unknown group
        are counted in a row without value. The task sex is not split by sex.
    """
    part = part_of(cohort, split)
    rows = []
    for model, run in runs.items():
        seeds = part.take(run)
        for by, (names, group) in groupings(cohort).items():
            group_N = group[part.rows]
            for name in (*names, UNKNOWN):
                here = group_N == name
                for task in TASKS.values():
                    if task.name not in seeds[0] or task.name not in part.targets or not _is_split_by(task, by):
                        continue
                    known_N = here & np.isfinite(part.targets[task.name])
                    figures = (np.nan, np.nan, np.nan)
                    if name != UNKNOWN and _enough(task, part.targets[task.name][known_N]):
                        scores = evaluation.evaluate(
                            [{task.name: one[task.name][known_N]} for one in seeds],
                            {task.name: part.targets[task.name][known_N]},
                            part.patients[known_N],
                            n_boot=n_boot,
                            seed=seed,
                            headline=True,
                        )
                        figures = tuple(scores.loc[0, ["value", "low", "high"]])
                    rows.append((model, by, name, task.name, task.metric, *figures, int(known_N.sum())))
    return pd.DataFrame(rows, columns=["model", "by", "group", "task", "metric", "value", "low", "high", "n"])


def _enough(task: Task, target_N: np.ndarray) -> bool:
    return len(target_N) >= MIN_GROUP_RECORDS and (task.kind != "binary" or len(np.unique(target_N)) == 2)


def gaps(
    runs: Mapping[str, Run], cohort: Cohort, *, split: str = "test", n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Largest gap of the headline metric between groups, and how large one chance alone would make.

    Chance is what is left when the groups are shuffled among patients (a permutation test): the best and the worst of
    several small groups always differ.

    Returns
    -------
    DataFrame
        Columns ``model, by, task, metric, best, worst, gap, low, high, by_chance, p, p_holm``: ``gap`` is not negative,
        its interval is that of the difference between these two groups over patients, ``by_chance`` the mean gap of
        shuffled groups, ``p`` the share of them with a gap as large; ``p_holm`` is adjusted over the rows of a model.
        A task of which fewer than two groups have a value is left out.
    """
    part = part_of(cohort, split)
    tables = []
    for model, run in runs.items():
        rows = []
        for sample in samples(part.take(run), part.targets, part.patients, 0, seed):
            patients_N = part.patients[sample.labelled]
            for by, (names, group) in groupings(cohort).items():
                group_N = group[part.rows][sample.labelled]
                names = tuple(name for name in names if _enough(sample.task, sample.target_N[group_N == name]))
                if len(names) > 1 and _is_split_by(sample.task, by):
                    rows.append((model, by, *_gap(sample, names, group_N, patients_N, n_boot, seed)))
        columns = ["model", "by", "task", "metric", "best", "worst", "gap", "low", "high", "by_chance", "p"]
        table = pd.DataFrame(rows, columns=columns)
        tables.append(table.assign(p_holm=evaluation.holm(table["p"].to_numpy())))
    return pd.concat(tables, ignore_index=True)


def _gap(
    sample: Sample, names: Sequence[str], group_N: np.ndarray, patients_N: np.ndarray, n_boot: int, seed: int
) -> tuple[object, ...]:
    """Task, metric, best and worst group, gap with its interval, mean gap by chance, p."""
    task, here_N = sample.task, np.isin(group_N, names)
    group_N, patients_N = group_N[here_N], patients_N[here_N]
    sample = sample._replace(
        target_N=sample.target_N[here_N], predictions=[found[here_N] for found in sample.predictions]
    )

    def headline(w_KN: np.ndarray) -> np.ndarray:
        return np.mean([values[task.metric] for values in sample._replace(w_KN=w_KN).metrics(headline=True)], axis=0)

    _, first, patient_N = np.unique(patients_N, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(group_N[first])[patient_N] for _ in range(n_boot)]
    group_KN = np.stack([group_N, *shuffled])
    values = np.stack([headline((group_KN == name).astype(float)) for name in names])
    with np.errstate(invalid="ignore"):
        gap_K = np.fmax.reduce(values) - np.fmin.reduce(values)
    order = np.argsort(values[:, 0])[:: 1 if task.higher_is_better else -1]
    worst, best = names[order[0]], names[order[-1]]
    w_KN = patient_weights(patients_N, n_boot, seed)
    difference_K = headline(w_KN * (group_N == best)) - headline(w_KN * (group_N == worst))
    low, high = interval(difference_K if task.higher_is_better else -difference_K)
    chance = float(np.nanmean(gap_K[1:])) if n_boot else np.nan
    p = float((1 + np.sum(gap_K[1:] >= gap_K[0] - 1e-12)) / (n_boot + 1))
    return task.name, task.metric, best, worst, float(gap_K[0]), low, high, chance, p


# --- several seeds --------------------------------------------------------------------------------------------------


def seed_table(
    runs: Mapping[str, Run],
    cohort: Cohort,
    *,
    headline: bool = True,
    split: str = "test",
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean over seeds of every model, task and metric, with its spread over seeds and its interval over patients.

    The two say different things: the standard deviation, how much another training would differ; the interval, how
    much other patients would change the mean of these trainings.

    Parameters
    ----------
    runs, cohort, split, n_boot, seed
        As for :func:`ecgmoe.evaluation.score_table`.
    headline : bool
        Whether only the headline metric is given, or every one.

    Returns
    -------
    DataFrame
        Columns ``model, task, metric, value, sd, low, high, seeds, n``; ``sd`` has n - 1 in its denominator and is NaN
        for one seed.
    """
    table = evaluation.score_table(runs, cohort, headline=headline, split=split, n_boot=n_boot, seed=seed)
    sd: list[float] = []
    count: list[int] = []
    for run in runs.values():
        single = [evaluation.score_table({"": one}, cohort, headline=headline, split=split, n_boot=0)
                  for one in seeds_of(run)]  # fmt: skip
        values = np.stack([scores["value"].to_numpy() for scores in single])
        sd += (values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)).tolist()
        count += [len(values)] * values.shape[1]
    columns = ["model", "task", "metric", "value", "sd", "low", "high", "seeds", "n"]
    return table.assign(sd=sd, seeds=count)[columns]
