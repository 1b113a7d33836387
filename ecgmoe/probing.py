"""What frozen features hold: linear probes of the backbones, of their random twins, and the floors.

A twin has the same structure and random weights, for the shipped weights the very ones that their pretraining started
from. Only where a backbone beats its twin has it shown that training taught it something; only where it beats the best
floor, that it is good for something.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ecgmoe import backbones, baselines, cache, evaluation, features, results, scoring
from ecgmoe.backbones import published
from ecgmoe.datasets import Cohort
from ecgmoe.evaluation import Predictions
from ecgmoe.tasks import TASKS

#: Name of the reference run that comes with the repository.
REFERENCE = "probes_ptbxl"

#: Kinds of rows: a backbone, its random twin, a floor.
BACKBONE, TWIN, FLOOR = "backbone", "twin", "floor"

#: Tasks that are probed at every depth.
DEPTH_TASKS = ("rr", "age", "sex")


class Probes(NamedTuple):
    """What :func:`probe` found.

    Attributes
    ----------
    scores : DataFrame
        Headline metric on the test part: columns ``model, kind, task, metric, value, low, high, n``.
    twins : DataFrame
        Each backbone against its twin on the test part, as :func:`compare` returns it.
    floors : DataFrame
        Each backbone against the floor that is best on the validation part, task by task.
    depths : DataFrame
        Headline metric on the VALIDATION part of features at every depth: columns ``model, kind, depth, task, value``.
    """

    scores: pd.DataFrame
    twins: pd.DataFrame
    floors: pd.DataFrame
    depths: pd.DataFrame


def cards() -> dict[str, dict[str, Any]]:
    """Cards of the pretrained weights that this library ships, by backbone; those that are not there are left out."""
    paths = {name: published.SHIPPED / f"{name}.json" for name in backbones.NAMES}
    return {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.is_file()}


def weights_in_words(preset: str) -> str:
    """What the weights of a preset are, to follow "the weights are", with figures of the cards.

    Raises
    ------
    ValueError
        For an unknown preset.
    """
    if preset != backbones.size_of(preset):
        return "random"
    if preset == "published":
        return "those that their authors published"
    data = {(c["data"]["name"], c["data"]["records"], *c["data"]["folds"]) for c in cards().values()}
    said = [f"{records:,} recordings of {name} (folds {min(folds)}-{max(folds)})" for name, records, *folds in data]
    return f"pretrained without labels on {' or '.join(sorted(said)) or 'recordings that their cards name'}"


def caveat(preset: str, cohort: Cohort) -> str:
    """One sentence on what weights of a preset can show on a cohort."""
    if preset != backbones.size_of(preset):
        return "Nobody has trained them: what they add is what the structure of a network brings along by itself."
    simulated = preset == "compact" and any("simulated" in card["data"]["name"].lower() for card in cards().values())
    seen, here = ("simulated" if made_up else "real" for made_up in (simulated, "cause" in cohort.table))
    if seen == here:
        return f"They were trained on {seen} data, and the recordings of this page are {here} too."
    return (
        f"They were trained on {seen} data, and the recordings of this page are {here}: whatever they add has crossed "
        "the gap between the two."
    )


def labels(preset: str) -> tuple[str, str]:
    """Words for the weights of a preset and for those of its twins, for tables and figures."""
    if preset != backbones.size_of(preset):
        return "random", "another draw"
    return ("published" if preset == "published" else "pretrained"), "random twin"


def twin_of(name: str, preset: str, seed: int = 0) -> tuple[str, int]:
    """Preset and seed of a backbone's random twin.

    Shipped weights have the twin that their pretraining started from. Random weights have other random ones for a
    twin, so that the comparison shows what two draws differ by.
    """
    random = f"{backbones.size_of(preset)}-random"
    if preset == random:
        return random, seed + 1
    if preset == "compact" and (card := cards().get(name)):
        seed = int(card["provenance"]["seed"])
    return random, seed


def probe(
    cohort: Cohort,
    preset: str = "compact",
    seed: int = 0,
    *,
    floors: Mapping[str, Predictions] | None = None,
    n_boot: int = 2000,
) -> Probes:
    """Probe every backbone of a preset and its random twin on one cohort, beside the floors.

    Probes are those of :func:`ecgmoe.baselines.linear_probes`. They and the features are cached one by one, so that
    interrupted work goes on where it was, and a chapter that asks again waits for nothing.

    Parameters
    ----------
    cohort : Cohort
    preset : str
        One of ``backbones.PRESETS``.
    seed : int
        Of random weights and of the resamples of patients.
    floors : mapping of str to predictions, optional
        As :func:`ecgmoe.baselines.floors` returns them, where they are at hand.
    n_boot : int
        Resamples of the comparisons; intervals of the scores take half of them.

    Raises
    ------
    WeightsError
        Weights of the preset are not there, or cannot be used.
    """
    runs: dict[tuple[str, str], Predictions] = {}
    depths = []
    networks = [
        (name, kind, *at)
        for name in backbones.NAMES
        for kind, at in ((BACKBONE, (preset, seed)), (TWIN, twin_of(name, preset, seed)))
    ]
    depth_tasks = [name for name in DEPTH_TASKS if name in cohort.tasks]
    for name, kind, its_preset, its_seed in tqdm(networks, desc="linear probes", unit="network", disable=None):
        title = backbones.TITLES[name]
        *shallow, deepest = features.features_by_depth(cohort, name, its_preset, its_seed)
        by_depth = [_probed(features, cohort, depth_tasks) for features in shallow]
        runs[title, kind] = _probed(deepest, cohort, tuple(cohort.tasks))
        by_depth.append({task: runs[title, kind][task] for task in depth_tasks})
        for depth, predictions in enumerate(by_depth):
            scores = evaluation.score_table({title: predictions}, cohort, n_boot=0, split="validation")
            depths.append(scores.assign(kind=kind, depth=depth)[["model", "kind", "depth", "task", "value"]])
    floors = floors or baselines.floors(cohort)
    best = {task: floors[floor][task] for task, floor in evaluation.best_on_validation(floors, cohort).items()}
    own = {title: run for (title, kind), run in runs.items() if kind == BACKBONE}
    tables = [
        evaluation.score_table({model: run}, cohort, n_boot=n_boot // 2, seed=seed).assign(kind=kind)
        for (model, kind), run in {**runs, **{(name, FLOOR): run for name, run in floors.items()}}.items()
    ]
    scores = pd.concat(tables, ignore_index=True)
    return Probes(
        scores[["model", "kind", "task", "metric", "value", "low", "high", "n"]],
        compare(own, {title: runs[title, TWIN] for title in own}, cohort, n_boot=n_boot, seed=seed),
        compare(own, dict.fromkeys(own, best), cohort, n_boot=n_boot, seed=seed),
        pd.concat(depths, ignore_index=True),
    )


def _probed(features: np.ndarray, cohort: Cohort, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Predictions of linear probes, cached under everything they depend on."""
    targets = cohort.targets()
    key = {
        "features": cache.digest(features),
        "labels": cache.digest(*(targets[name] for name in names)),
        "parts": cache.digest(cohort.split.astype(bytes)),
        "tasks": list(names),
        "code": cache.source_digest(baselines.__file__, evaluation.__file__, scoring.__file__),
        "scikit-learn": results.version_of("scikit-learn"),
    }
    return cache.cached("probes", key, lambda: baselines.linear_probes({"": features}, cohort, names)[""])


def compare(
    runs: Mapping[str, Predictions],
    others: Mapping[str, Predictions],
    cohort: Cohort,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each run with its own counterpart on the test part, on the same resamples of patients.

    Returns
    -------
    DataFrame
        A row a model and task: ``model, task, value, other, difference, low, high, p, p_holm, better``; p values are
        adjusted over all rows by Holm's method, and ``better`` is "model", "other" or, where the adjusted one is not
        below 0.05, "neither".
    """
    parts = [
        evaluation.compare({"model": runs[name], "other": others[name]}, "model", cohort, n_boot=n_boot, seed=seed)
        for name in runs
    ]
    table = pd.concat([part.assign(model=name) for name, part in zip(runs, parts, strict=True)], ignore_index=True)
    table["p_holm"] = evaluation.holm(table["p"].to_numpy())
    sign = np.array([1 if TASKS[name].higher_is_better else -1 for name in table["task"]])
    ahead = np.where(sign * table["difference"] > 0, "model", "other")
    table["better"] = np.where(table["p_holm"] < 0.05, ahead, "neither")
    table = table.rename(columns={"model_value": "value", "baseline_value": "other"})
    return table[["model", "task", "value", "other", "difference", "low", "high", "p", "p_holm", "better"]]


def summary(probes: Probes) -> pd.DataFrame:
    """On how many tasks each backbone is clearly better or worse than its twin, and than the best floor."""

    def count(table: pd.DataFrame, outcome: str) -> pd.Series:
        return (table["better"] == outcome).groupby(table["model"], sort=False).sum().astype(int)

    return pd.DataFrame(
        {
            "tasks": probes.twins.groupby("model", sort=False).size(),
            "better than its twin": count(probes.twins, "model"),
            "worse than its twin": count(probes.twins, "other"),
            "better than the best floor": count(probes.floors, "model"),
            "worse than the best floor": count(probes.floors, "other"),
        }
    ).rename_axis("Backbone")


def table(probes: Probes, own: str = "pretrained", twin: str = "random twin") -> pd.DataFrame:
    """Scores of backbones and twins, their difference with its interval, and floors, as text for ``results.table``."""
    found = {(row["model"], row["kind"], row["task"]): row for row in probes.scores.to_dict("records")}
    pairs = {(row["model"], row["task"]): row for row in probes.twins.to_dict("records")}
    rows = []
    for name in (name for name in TASKS if name in set(probes.scores["task"])):
        label = evaluation.task_label(TASKS[name])
        places = evaluation.places(name)
        for model, kind in dict.fromkeys(zip(probes.scores["model"], probes.scores["kind"], strict=True)):
            if kind == TWIN or (model, kind, name) not in found:
                continue
            row = {"Task": label, "Read from": f"*{model}*" if kind == FLOOR else model}
            row[own] = f"{found[model, kind, name]['value']:.{places}f}"
            if kind == BACKBONE:
                pair = pairs[model, name]
                row[twin] = f"{found[model, TWIN, name]['value']:.{places}f}"
                said = f"{pair['difference']:.{places}f} [{pair['low']:.{places}f}, {pair['high']:.{places}f}]"
                row["difference"] = said.replace("-", "−")
                row["clearly better"] = {"model": "yes", "other": "worse", "neither": "no"}[pair["better"]]
            rows.append(row)
            label = ""
    return pd.DataFrame(rows, columns=["Task", "Read from", own, twin, "difference", "clearly better"])


def reference() -> tuple[Probes, dict[str, Any]] | None:
    """Give the reference run on PTB-XL and everything else in its file; None where it has not been made yet."""
    try:
        content = results.reference(REFERENCE)
    except FileNotFoundError:
        return None
    metrics = content["metrics"]
    return Probes(*(pd.DataFrame(metrics[field]) for field in Probes._fields)), content


def write(probes: Probes, cohort: Cohort, preset: str, seed: int, max_records: int, folder: Path | None = None) -> Path:
    """Write what :func:`probe` found with its provenance, to ``probes_<data set>.json`` of a folder.

    Parameters
    ----------
    probes : Probes
    cohort : Cohort
    preset, seed, max_records
        As the probes were made with.
    folder : Path, optional
        ``results.run_dir()`` by default; the chapter looks in ``data/reference`` of the repository.
    """
    name = "probes_" + re.sub(r"[^a-z]", "", cohort.card.name.lower().split()[0])
    parameters = {"preset": preset, "seed": seed, "max_records": max_records}
    sizes = {part: int((cohort.split == part).sum()) for part in ("train", "validation", "test")}
    shipped = {backbone: card["sha256"] for backbone, card in cards().items()} if preset == "compact" else {}
    options = " ".join(f"--{key.removeprefix('max_')} {value}" for key, value in parameters.items())
    metrics = {
        **probes._asdict(),
        "records": sizes,
        "sha256 of the weights": shipped,
        "command": f"python -m ecgmoe probe DATA_ROOT {options}",
    }
    path = (folder or results.run_dir()) / f"{name}.json"
    origin = results.provenance(cohort, seed, parameters)
    results.write_json(path, {"chapter": name, "provenance": origin, "metrics": metrics})
    return path


def describe(probes: Probes) -> Iterable[str]:
    """Lines for the terminal: scores, and on how many tasks each backbone beats its twin and the best floor."""
    yield from table(probes, "backbone", "twin").fillna("").to_string(index=False).splitlines()
    yield ""
    yield from summary(probes).to_string().splitlines()
