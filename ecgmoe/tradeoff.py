"""Fewer backbones a record: what it saves, and what is lost by it.

Shape legend: M backbones, X trained routers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ecgmoe import backbones, efficiency, evaluation, features, inference, training
from ecgmoe.backbones import Backbone
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE
from ecgmoe.tasks import TASKS
from ecgmoe.training import FitConfig


class Tradeoff(NamedTuple):
    """What is lost where fewer backbones run."""

    scores: pd.DataFrame  #: seed, k, task, metric, value, alone, lost, low, high, on the validation part
    load: pd.DataFrame  #: seed, k, and for each backbone the share of the validation records that it runs on


def train(
    cohort: Cohort,
    inputs: Inputs,
    ks: Sequence[int] = (4, 3, 2, 1),
    seeds: Sequence[int] = (0,),
    config: FitConfig = FitConfig(),
) -> tuple[Tradeoff, dict[int, ECGMoE]]:
    """Train ECG-MoE with k backbones a record for several k, and compare it with all backbones on the validation part.

    Parameters
    ----------
    cohort : Cohort
    inputs : Inputs
        With the features of all backbones.
    ks : sequence of int
        0, all backbones, is trained in any case.
    seeds : sequence of int
    config : FitConfig

    Returns
    -------
    Tradeoff
        ``lost`` is how much worse than with all backbones, in points (hundredths) of a share and in the unit of a
        regression, with the 95 % interval of a paired bootstrap over patients; below 0 is better. ``alone`` is the
        value where the router chooses for that task alone.
    dict of int to ECGMoE
        The models of the last seed, by k.
    """
    rows = np.flatnonzero(cohort.split == "validation")
    targets = {name: values[rows] for name, values in cohort.targets().items()}
    patients = cohort.table["patient_id"].to_numpy()[rows]
    part = inputs.take(torch.from_numpy(rows))
    scores, load = [], []
    models: dict[int, ECGMoE] = {}
    for seed in seeds:
        for k in tqdm((0, *ks), desc=f"trade-off, seed {seed}", disable=None):
            model = training.train(cohort, inputs, config=replace(config, seed=seed), top_k=k).model
            assert isinstance(model, ECGMoE)
            models[k] = model
            with torch.inference_mode():
                found = {name: values.numpy() for name, values in model.predict(model(part).logits).items()}
                alone = {}
                for name in model.tasks:
                    alone[name] = model.predict(model(part, (name,)).logits)[name].numpy()
                choice = model.choose(part)
            if k == 0:
                dense = found
            pairs = evaluation.paired_difference(found, dense, targets, patients, seed=seed).set_index("task")
            by_itself = evaluation.paired_difference(alone, dense, targets, patients, n_boot=0).set_index("task")
            scores.append(_lost(pairs).assign(alone=by_itself["a"], seed=seed, k=k).reset_index())
            chosen_M = np.ones(len(inputs.features)) if choice is None else choice.chosen_BM.float().mean(0).numpy()
            load.append({"seed": seed, "k": k} | dict(zip(inputs.features, chosen_M.tolist(), strict=True)))
    columns = ["seed", "k", "task", "metric", "value", "alone", "lost", "low", "high"]
    return Tradeoff(pd.concat(scores, ignore_index=True)[columns], pd.DataFrame(load)), models


def _lost(pairs: pd.DataFrame) -> pd.DataFrame:
    """Differences to all backbones by task, turned round where higher is better, in points where it is a share."""
    sign = np.array([-1.0 if TASKS[str(name)].higher_is_better else 1.0 for name in pairs.index])
    scale = sign * [1.0 if TASKS[str(name)].kind == "regression" else 100.0 for name in pairs.index]
    ends = pairs[["low", "high"]].mul(scale, axis=0)
    return pd.DataFrame(
        {
            "metric": pairs["metric"],
            "value": pairs["a"],
            "lost": pairs["difference"] * scale,
            "low": ends.min(axis=1),
            "high": ends.max(axis=1),
        }
    )


def passes(
    models: Mapping[int, ECGMoE], networks: Mapping[str, Backbone], cohort: Cohort, rounds: int = 3, records: int = 64
) -> pd.DataFrame:
    """Time the answers of trained models, by k, for the first records to validate on, as their own routers choose.

    Returns
    -------
    DataFrame
        Indexed by ``k``, all backbones (0) first: the columns of :func:`ecgmoe.efficiency.measure`.
    """
    signal = cohort.signal[cohort.split == "validation"][:records]
    runs = {str(k): partial(inference.answer, model, networks, signal, cohort.fs) for k, model in models.items()}
    return efficiency.measure(runs, len(signal), rounds).set_axis(pd.Index(list(models), name="k"))


def expected(load: pd.DataFrame, of_backbones: np.ndarray, own: float) -> pd.Series:
    """Time of a pass under the load of routers, a multiple of that with all backbones.

    Parameters
    ----------
    load : DataFrame
        Of :class:`Tradeoff`.
    of_backbones : ndarray of shape (backbones,)
        Time of each backbone a record.
    own : float
        Time of all the rest a record.

    Returns
    -------
    Series
        By ``k``, mean over seeds.
    """
    share_XM = load.drop(columns=["seed", "k"]).to_numpy()
    relative_X = (own + share_XM @ of_backbones) / (own + of_backbones.sum())
    return pd.Series(relative_X, index=load["k"]).groupby(level="k", sort=False).mean()


def curve(cohort: Cohort, preset: str, seeds: int, rounds: int = 3, config: FitConfig = FitConfig()) -> dict[str, Any]:
    """The trade-off curve of a cohort: what is lost at each k, the load of each backbone, and the measured time."""
    inputs = features.make_inputs(cohort, preset=preset)
    found, models = train(cohort, inputs, seeds=range(seeds), config=config)
    networks = {name: backbones.build(name, preset) for name in backbones.NAMES}
    return found._asdict() | {"passes": passes(models, networks, cohort, rounds).reset_index()}
