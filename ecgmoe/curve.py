"""What more recordings would bring: rows of the table, trained on parts of the training patients.

Every training is judged on the validation part, which also chooses its epochs, so that the test part stays unread; all
points of a curve share that optimism. :func:`make` makes what lies in ``data/reference``, :func:`load` reads it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ecgmoe import ablation, backbones, configurations, evaluation, features, reference, results, tasks
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.records import InputError
from ecgmoe.training import FitConfig

#: Shares of the training records.
SHARES = (0.125, 0.25, 0.5, 1.0)
#: Name of the result that lies in the repository.
NAME = "curve_ptbxl"


def measure(
    cohort: Cohort,
    inputs: Inputs,
    rows: Sequence[configurations.Row],
    shares: Sequence[float] = SHARES,
    config: FitConfig = FitConfig(),
    preset: str = "compact",
) -> pd.DataFrame:
    """Train rows on shares of the training patients, the same patients for all rows.

    Parameters
    ----------
    cohort : Cohort
    inputs : Inputs
        Of the same cohort.
    rows : sequence of Row
    shares : sequence of float
        Of the training records, above 0 and at most 1.
    config : FitConfig
    preset : str
        Of the backbones.

    Returns
    -------
    DataFrame
        Every metric on the validation part; columns ``model, task, metric, value, low, high, n, records``, the last
        being the number of training records.

    Raises
    ------
    ValueError
        A share is not above 0, or above 1.
    """
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise ValueError(f"shares of the training records are above 0 and at most 1, got {wrong}")
    parts = []
    n_train = int((cohort.split == "train").sum())
    for share in shares:
        part = reference.limit(cohort, max(1, int(share * n_train)))
        kept = torch.from_numpy(np.flatnonzero(cohort.table.index.isin(part.table.index)))
        own = inputs if len(kept) == len(cohort) else inputs.take(kept)
        runs = ablation.run(part, own, rows, (config.seed,), config, preset)
        scores = evaluation.score_table(ablation.predictions(runs), part, split="validation", headline=False)
        parts.append(scores.assign(records=int((part.split == "train").sum())))
    return pd.concat(parts, ignore_index=True)


def make(data: str, folder: Path, rows: Sequence[str], seed: int = 0) -> tuple[dict[str, Any], Path]:
    """Make the curve of a data set and write it, with its provenance, to ``curve_<data set>.json`` in a folder.

    Rows that the file has already stay in it, untrained, where they are of the same data, backbones, settings, seed and
    code (that of trainings, as :func:`ecgmoe.configurations.code` has it); each has its own provenance. Interrupted,
    the same call goes on where it was.

    Parameters
    ----------
    data : str
        Folder of a data set or prepared store.
    folder : Path
    rows : sequence of str
        As for :func:`ecgmoe.configurations.select`.
    seed : int

    Returns
    -------
    dict and Path
        What the file holds, the curve as a DataFrame, and where it is.

    Raises
    ------
    InputError
        The file has rows that could not stay in it and are not asked for.
    """
    cohort = reference.cohort_of(data)
    config = replace(reference.recipe(data), seed=seed)
    name = reference.name_of("curve", cohort)
    path = folder / f"{name}.json"
    asked = results.as_json(
        {
            "data": cohort.digest,
            "shares": SHARES,
            "config": asdict(config),
            "code": configurations.code(),
            "weights": {one: backbones.weights_digest(backbones.build(one)) for one in backbones.NAMES},
        }
    )
    table = {row.name: results.as_json(row.settings) for row in reference.rows_of(data, costly=True)}
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {"metrics": {"asked": asked, "rows": {}}}
    there = before["metrics"]["rows"] if before["metrics"]["asked"] == asked else {}
    there = {row: own for row, own in there.items() if own["settings"] == table.get(row)}
    todo = [row for row in reference.rows_of(data, rows) if row.name not in there]
    if lost := before["metrics"]["rows"].keys() - there.keys() - {row.name for row in todo}:
        cure = "name these rows too, or move the file away"
        raise InputError(f"{path} has {', '.join(sorted(lost))} of other data, code or settings; {cure}")
    kept = pd.DataFrame([line for line in before["metrics"].get("curve", []) if line["model"] in there])
    if not todo:
        return {**before, "metrics": {**before["metrics"], "curve": kept}}, path
    provenance = results.provenance(cohort, seed, {"data": "DATA_ROOT", "rows": list(rows)})
    trained = measure(cohort, features.make_inputs(cohort), todo, config=config)
    content = {
        "chapter": name,
        "provenance": provenance,  # of what was trained last
        "metrics": {
            "curve": pd.concat([kept, trained], ignore_index=True) if there else trained,
            "asked": asked,
            "rows": there | {row.name: {"settings": table[row.name], "provenance": provenance} for row in todo},
        },
    }
    results.write_json(path, content)
    return content, path


def load(name: str = NAME) -> pd.DataFrame | None:
    """Give the curve that comes with the repository; None where there is none."""
    found = reference.load(name)
    return None if found is None else pd.DataFrame(found["metrics"]["curve"])


def last_doubling(curve: pd.DataFrame) -> pd.DataFrame:
    """What the last doubling of the training records changed.

    Parameters
    ----------
    curve : DataFrame
        From :func:`measure`, whose last two shares are a half and 1.

    Returns
    -------
    DataFrame
        Headline metrics: a row a model and task; columns ``model, task, half, whole, gain``, where a gain above 0 is an
        improvement, in the unit of the metric.
    """
    lines = []
    for (model, task), part in evaluation.headlines(curve).groupby(["model", "task"], sort=False):
        half, whole = part.sort_values("records")["value"].to_numpy()[-2:]
        sign = 1 if tasks.TASKS[str(task)].higher_is_better else -1
        lines.append({"model": model, "task": task, "half": half, "whole": whole, "gain": sign * (whole - half)})
    return pd.DataFrame(lines)
