"""What the parts of ECG-MoE are worth: rows of :mod:`ecgmoe.configurations`, trained with several seeds and compared.

:func:`run` keeps each result under everything that it depends on, so that interrupted work goes on where it was and
results of another cohort, configuration or version of the code are never mixed in.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgmoe import beats, cache, configurations, evaluation, features, prediction, results, rpeaks, tasks, training
from ecgmoe.configurations import FULL, Row
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.records import InputError
from ecgmoe.training import FitConfig

#: Smallest difference that counts, in the unit of the headline metric. Rows that are told the RR interval lie fractions
#: of a millisecond apart, a small part of the time between two samples: clear or not, that is level.
LEAST = {"rr": 1.0}


class Run(NamedTuple):
    """One row trained with one seed."""

    predictions: dict[str, np.ndarray]  #: for every record of the cohort, by task
    trained: int  #: parameters that were trained
    total: int  #: parameters in all, those of frozen backbones too
    epochs: int
    seconds: float  #: of the processor, for training and prediction, when it took place
    best: tuple[int, ...] = ()  #: epochs up to the least validation loss, by model; what a refit takes over
    code: str = ""  #: digest of the code that trained it


def run(
    cohort: Cohort,
    inputs: Inputs | None,
    rows: Sequence[Row] = (),
    seeds: Sequence[int] = (0,),
    config: FitConfig = FitConfig(),
    preset: str = "compact",
    *,
    refit: bool = False,
    folder: Path | None = None,
    only_kept: bool = False,
) -> dict[str, list[Run]]:
    """Train rows of the table, each with several seeds, or read from the cache what was trained before.

    Processes that are asked the same at the same time share the work: each trains first what no other is training.

    Parameters
    ----------
    cohort : Cohort
    inputs : Inputs or None
        Of the same cohort and preset, with the features of all backbones that the rows use; None with ``only_kept``.
    rows : sequence of Row
        Of :func:`ecgmoe.configurations.select`; by default all that leave the backbones frozen.
    seeds : sequence of int
        Of weights and order of records, in the place of ``config.seed``; rows that are ``once`` have the first
        alone.
    config : FitConfig
    preset : str
        Of the backbones, for their sizes.
    refit : bool
        Train every row twice: on the training part, with the first seed, to choose its epochs on the validation part;
        then, with every seed, on both parts for so many epochs. What ``folder`` has of the first seed tells them, too.
    folder : Path, optional
        Gets a JSON a row and seed as soon as it is done, with what it predicts for the test part; read instead of
        trained where it is there already.
    only_kept : bool
        Train nothing: give the rows and seeds that lie in ``folder``.

    Returns
    -------
    dict of str to list of Run
        By name of the row, a run a seed. With ``folder``, predictions are as its files keep them: rounded, and NaN
        outside the test part.

    Raises
    ------
    InputError
        A file in ``folder`` is of other data, backbones or settings than what is asked for.
    """
    rows = rows or configurations.select()
    base: dict[str, Any] = {
        "data": cohort.digest,
        "split": cache.digest(cohort.split.tolist()),
        "inputs": None if inputs is None else _inputs_digest(inputs),
        "input code": cache.source_digest(beats.__file__, features.__file__, rpeaks.__file__),
        "config": {key: value for key, value in asdict(config).items() if key != "seed"},
        "code": configurations.code(),
        "preset": preset,
        "packages": {package: results.version_of(package) for package in ("torch", "peft")},
    }

    def trained(row: Row, seed: int, epochs_of: Callable[[Row], Sequence[int]] | None) -> Run:
        assert inputs is not None, "only what is kept does without inputs"
        train = partial(_trained, row, cohort, inputs, replace(config, seed=seed), preset, epochs_of)
        done = cache.cached("ablation", _key(base, row, seed, epochs_of is not None), train)
        n_trained, n_total, n_epochs = (int(value) for value in done.pop("sizes"))
        best = tuple(int(value) for value in done.pop("best"))
        return Run(done, n_trained, n_total, n_epochs, done.pop("seconds").item(), best, base["code"])

    asked = base | {"refit": refit}

    def epochs_of(row: Row) -> Sequence[int]:
        one_model = row.kind not in ("one a task", "EnECG published")  # of several, a file has the sum
        if one_model and (kept := _kept(folder, row, seeds[0], asked, cohort)) and kept.code == base["code"]:
            return (kept.epochs,)  # what was chosen, for a refit stops nowhere else
        return trained(row, seeds[0], None).best

    # Seed after seed: an interrupted run has whole tables of fewer seeds.
    todo = [(row, seed) for seed in seeds for row in rows if seed == seeds[0] or not row.once]
    found: dict[int, Run] = {}
    for i, (row, seed) in enumerate(todo):
        if (kept := _kept(folder, row, seed, asked, cohort)) is not None:
            found[i] = kept
    with tqdm(total=len(todo), initial=len(found), desc="ablation", unit="run", disable=None) as bar:
        while waiting := [] if only_kept else [i for i in range(len(todo)) if i not in found]:
            free = (i for i in waiting if not cache.busy("ablation", _key(base, *todo[i], refit)))
            i = next(free, waiting[0])
            row, seed = todo[i]
            bar.set_postfix_str(f"{row.name}, seed {seed}")
            done = trained(row, seed, epochs_of if refit else None)
            if folder is not None:
                _keep(folder, row, seed, asked, cohort, done)
            found[i] = _kept(folder, row, seed, asked, cohort) or done  # the same to the last digit as when read again
            bar.update()
    by_row = {row.name: [found[i] for i, (other, _) in enumerate(todo) if other is row and i in found] for row in rows}
    return {name: runs for name, runs in by_row.items() if runs}


def _key(base: Mapping[str, Any], row: Row, seed: int, refit: bool) -> dict[str, Any]:
    return {**base, "row": row.settings, "seed": seed} | ({"refit": True} if refit else {})


def _trained(
    row: Row,
    cohort: Cohort,
    inputs: Inputs,
    config: FitConfig,
    preset: str,
    epochs_of: Callable[[Row], Sequence[int]] | None,
) -> dict[str, np.ndarray]:
    if epochs_of is not None and row.kind != "EnECG published":  # which has epochs of its own
        epochs_of(row)  # trains, where that was not done yet; its time is its own
    start = time.process_time()
    fitted = configurations.fit_row(row, cohort, inputs, config, preset, epochs_of)
    seconds = time.process_time() - start
    models = [fit.model for fit in fitted]
    frozen = set(row.backbones).difference(*(getattr(model, "networks", ()) for model in models))
    sizes = (
        sum(model.n_parameters(trainable_only=True) for model in models),
        sum(model.n_parameters() for model in models)
        + sum(configurations.backbone_sizes(preset)[name] for name in frozen),
        sum(len(fit.history) for fit in fitted),
    )
    predictions = {name: values for fit in fitted for name, values in fit.predictions.items()}
    # EnECG as published looks at no validation part.
    best = [training.best_epoch(fit) if "validation" in fit.history else len(fit.history) for fit in fitted]
    return predictions | {"sizes": np.array(sizes), "seconds": np.array([seconds]), "best": np.array(best)}


#: Decimals of what a file keeps of predictions; probabilities of several classes are kept in thousandths.
_KEPT_PLACES = {"rr": 2, "age": 2, "sex": 4, "potassium": 4}


def file_of(row: Row, seed: int) -> str:
    """Name of the file that keeps a row and seed."""
    return f"{re.sub('[^a-z0-9]+', '-', row.name.lower()).strip('-')}-seed{seed}.json"


def _keep(folder: Path, row: Row, seed: int, asked: Mapping[str, Any], cohort: Cohort, done: Run) -> None:
    """Write what a row and seed came to, whole or not at all."""
    test = cohort.split == "test"
    lines = {}
    for name, values in done.predictions.items():
        if values.ndim == 2:
            lines[name] = " ".join(",".join(map(str, np.rint(1000 * record).astype(int))) for record in values[test])
        else:
            lines[name] = " ".join(f"{value:.{_KEPT_PLACES[name]}f}" for value in values[test])
    content = {
        "row": row.name,
        "seed": seed,
        "settings": row.settings,
        "asked": _asked_of(row, asked),
        "sizes": {key: getattr(done, key) for key in ("trained", "total", "epochs", "seconds")},
        "code": done.code,
        "provenance": results.provenance(cohort, seed),
        "test": lines,
    }
    results.write_json(folder / file_of(row, seed), content)


def _asked_of(row: Row, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a file and what is asked for must agree on; of published backbones, the commit is fixed in the code."""
    weights = prediction.shipped_digests(row.backbones if asked["preset"] == "compact" else ())
    return {**{key: asked[key] for key in ("data", "config", "preset", "refit")}, "weights": weights}


def _kept(folder: Path | None, row: Row, seed: int, asked: Mapping[str, Any], cohort: Cohort) -> Run | None:
    """Read a row and seed from its file; None where there is none."""
    path = None if folder is None else folder / file_of(row, seed)
    if path is None or not path.is_file():
        return None
    content = json.loads(path.read_text("utf-8"))
    wanted = results.as_json({"settings": row.settings, "asked": _asked_of(row, asked)})
    if any(content[key] != value for key, value in wanted.items()):
        reason = "is of other data, backbones or settings than what is asked for"
        raise InputError(f"{path} {reason}; move it away to train it anew")
    test, predictions = cohort.split == "test", {}
    for name, line in content["test"].items():
        records = [np.array(record.split(","), np.float32) for record in line.split()]
        values = np.squeeze(np.stack(records), 1) if len(records[0]) == 1 else np.stack(records) / 1000
        predictions[name] = np.full((len(cohort), *values.shape[1:]), np.nan, np.float32)
        predictions[name][test] = values
    return Run(predictions, **content["sizes"], code=content["code"])


def _inputs_digest(inputs: Inputs) -> str:
    parts = {**inputs.features, **inputs.beats._asdict(), "X": inputs.characteristics_BA, "signal": inputs.signal_BCT}
    return cache.digest(list(parts), *(part.cpu().numpy() for part in parts.values()), inputs.fs)


def predictions(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[evaluation.Predictions]]:
    """What :mod:`ecgmoe.evaluation` takes: predictions of every seed by name of the row."""
    return {name: [one.predictions for one in seeds] for name, seeds in runs.items()}


def averaged(runs: Mapping[str, Sequence[Run]], least: int = 3) -> dict[str, evaluation.Predictions]:
    """Predictions of rows with several seeds, averaged over these: an ensemble of ``least`` trainings or more."""
    return {
        name: {task: np.mean([one.predictions[task] for one in seeds], axis=0) for task in seeds[0].predictions}
        for name, seeds in runs.items()
        if len(seeds) >= least
    }


def sizes(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """A line a row: group, what it changes, parameters, epochs and processor seconds of a seed, number of seeds."""
    rows = {row.name: row for row in configurations.TABLE}
    return pd.DataFrame(
        [
            {
                "row": name,
                "group": rows[name].group,
                "about": rows[name].about,
                "trained": seeds[0].trained,
                "total": seeds[0].total,
                "epochs": float(np.mean([one.epochs for one in seeds])),
                "seconds": float(np.mean([one.seconds for one in seeds])),
                "seeds": len(seeds),
            }
            for name, seeds in runs.items()
        ]
    )


def compare(runs: Mapping[str, evaluation.Run], cohort: Cohort, seed: int = 0, model: str = FULL) -> pd.DataFrame:
    """:func:`ecgmoe.evaluation.compare` of one row, ECG-MoE by default, with all others.

    By as many resamples as the number of comparisons asks for: a p value of 0.05 / comparisons, where Holm's procedure
    begins to call a difference clear, is five resamples in each tail, and one that is to be held against fewer
    comparisons, more.
    """
    n_comparisons = (len(runs) - 1) * len(cohort.tasks)
    return evaluation.compare(runs, model, cohort, n_boot=max(2000, 200 * n_comparisons), seed=seed)


def levelled(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Comparisons in which a difference smaller than :data:`LEAST` is none: 0, and neither side is better."""
    least = comparisons["task"].map(LEAST).fillna(0.0)
    level = comparisons["difference"].abs() < least
    none: dict[str, Any] = {"difference": 0.0, "low": 0.0, "high": 0.0, "better": "neither"}
    return comparisons.assign(**{key: comparisons[key].mask(level, value) for key, value in none.items()})


def counts(comparisons: pd.DataFrame) -> pd.DataFrame:
    """On how many tasks ECG-MoE is better or worse than each row and floor, differences below :data:`LEAST` left out.

    Parameters
    ----------
    comparisons : DataFrame
        From :func:`compare`.

    Returns
    -------
    DataFrame
        A line a row: ``row, tasks, better, worse`` (by the mean), ``clearly_better, clearly_worse`` (the 95 % interval
        of the paired difference leaves out 0) and ``holm_better, holm_worse`` (p < 0.05, adjusted for all comparisons).
    """
    comparisons = levelled(comparisons)
    up = comparisons["task"].map({name: 1 if task.higher_is_better else -1 for name, task in tasks.TASKS.items()})
    ahead = up * comparisons["difference"]
    clear = (comparisons["low"] > 0) | (comparisons["high"] < 0)
    flags = {
        "tasks": ahead.notna(),
        "better": ahead > 0,
        "worse": ahead < 0,
        "clearly_better": clear & (ahead > 0),
        "clearly_worse": clear & (ahead < 0),
        "holm_better": comparisons["better"] == "model",
        "holm_worse": comparisons["better"] == "baseline",
    }
    by_row = pd.DataFrame(flags).groupby(comparisons["baseline"].rename("row"), sort=False)
    return by_row.sum().astype(int).reset_index()


def score_cells(scores: pd.DataFrame, name: str) -> dict[str, str]:
    """Headline metrics of a row as text: value, SD over seeds where there are several, and interval over patients."""
    cells = {}
    for row in evaluation.headlines(scores[scores["model"] == name]).to_dict("records"):
        places = evaluation.places(row["task"])
        value, low, high = (f"{row[key]:.{places}f}" for key in ("value", "low", "high"))
        spread = f" ± {row['sd']:.{places}f}" if np.isfinite(row.get("sd", np.nan)) else ""
        cells[evaluation.task_label(tasks.TASKS[row["task"]])] = f"{value}{spread} [{low}, {high}]"
    return cells
