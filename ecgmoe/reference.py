"""The reference run: every row of the ablation's table and every floor on one cohort, with several seeds.

It takes an hour or more, so its result lies in the repository and the book reads it: :func:`make` makes it,
:func:`load` reads it, and :mod:`ecgmoe.findings` says what was found.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgmoe import (
    ablation,
    attribution,
    backbones,
    baselines,
    configurations,
    datasets,
    evaluation,
    features,
    interventions,
    reliability,
    results,
    training,
)
from ecgmoe.datasets import Cohort, simulated
from ecgmoe.features import Inputs
from ecgmoe.records import InputError
from ecgmoe.training import FitConfig

#: Patients of the simulated cohort: about 2,100 recordings in its test part.
PATIENTS = 7000
#: Seed of the simulated cohort: other patients than those of the chapters, on whom choices were made.
COHORT_SEED = 1
#: Records of the simulated cohort that the rows are trained on, so that all of them take an hour or two.
TRAIN_RECORDS = 2000
#: Test records of each known cause that are occluded.
CAUSE_RECORDS = 100


#: How rows are trained on real recordings; a row's own settings go before these. Of weight decay 0.02 (as on the
#: simulated cohort) and 0.3 the latter did better for ECG-MoE on fold 8 of PTB-XL, in one training each. Tried without
#: a gain beyond what two seeds differ by (0.01 of the loss): rates of 0.001 and 0.004, dropout of 0.5, amplitudes,
#: leads and places of beats changed at random, all beats instead of six, or their mean beside them, deeper networks of
#: beats. Mixup at width 96 and 30 epochs gained 0.02 of 1.17 in twice the time; training ECG-FM with the rest 0.08
#: (``configurations.TRAINED``).
REAL = FitConfig(weight_decay=0.3)


#: What rows say themselves of their training was chosen on the simulated cohort. On fold 8 of PTB-XL lower rates did
#: better, in one training each. Networks of Table 3: MoE had a loss of 1.260 at 0.01 (the rate of the table), 1.233 at
#: 0.005, 1.224 at 0.002 and 1.225 at 0.001, Cross-Attn 1.229 at 0.002. Heads: MOMENT 2.140 at 0.005 (the rate of the
#: table), 2.007 at 0.002 and 2.033 at 0.001, ECG-FM 1.763 at 0.002 and 1.719 at 0.001.
REAL_FIT: dict[str, dict[str, Any]] = {
    **{row: {"lr": REAL.lr} for row in configurations.groups()["Table 3"]},
    **{row: {"lr": 1e-3} for row in configurations.groups()["single backbones"]},
}


def recipe(data: str) -> FitConfig:
    """How the rows of the table are trained on a data set, but for what a row says itself."""
    return FitConfig() if data == "simulated" else REAL


def rows_of(data: str, names: Iterable[str] = (), costly: bool = False) -> list[configurations.Row]:
    """Rows of :func:`ecgmoe.configurations.select` as they are trained on a data set."""
    rows, by_name = configurations.select(names, costly), {row.name: row for row in configurations.TABLE}
    if data == "simulated":
        return rows

    def real(row: configurations.Row) -> configurations.Row:
        after = real(by_name[row.after]) if isinstance(row.after, str) and row.after else row.after
        return replace(row, fit={**row.fit, **REAL_FIT.get(row.name, {})}, after=after)

    return [real(row) for row in rows]


def cohort_of(data: str = "simulated", patients: int = PATIENTS, preset: str = "compact") -> Cohort:
    """Give the whole cohort: folds 1-9 of real data, or a simulated one of so many patients."""
    root = simulated.ensure(patients, COHORT_SEED) if data == "simulated" else data
    return datasets.load(root, fs=backbones.RECORDING_HZ[preset], max_records=0)


def name_of(kind: str, cohort: Cohort) -> str:
    """Name of a kind of result for a data set, such as ``reference_ptbxl``."""
    return f"{kind}_" + re.sub(r"[^a-z]", "", cohort.card.name.lower().split()[0])


def limit(cohort: Cohort, train_records: int, seed: int = 0) -> Cohort:
    """Keep a random part of the training patients, as many as it takes for so many records; all others stay.

    Parameters
    ----------
    cohort : Cohort
    train_records : int
        0 keeps all.
    seed : int
    """
    train = cohort.split == "train"
    if not 0 < train_records < train.sum():
        return cohort
    patient = cohort.table["patient_id"].to_numpy()
    order = np.random.default_rng(seed).permutation(np.unique(patient[train]))
    size = pd.Series(patient[train]).value_counts().reindex(order).to_numpy()
    kept = order[: 1 + np.searchsorted(size.cumsum(), train_records)]
    rows = ~train | np.isin(patient, kept)
    return replace(cohort, table=cohort.table[rows], signal=cohort.signal[rows])


def measure(
    cohort: Cohort,
    rows: Sequence[configurations.Row] = (),
    seeds: int = 3,
    config: FitConfig = FitConfig(),
    preset: str = "compact",
    *,
    refit: bool = False,
    folder: Path | None = None,
    only_kept: bool = False,
) -> dict[str, Any]:
    """Train rows of the table on a cohort, score them and the floors, and compare ECG-MoE with each.

    Parameters
    ----------
    cohort : Cohort
    rows : sequence of Row
        By default all that leave the backbones frozen.
    seeds : int
        0, 1, ... up to this many.
    config : FitConfig
    preset : str
        Of the backbones.
    refit, folder, only_kept
        As for :func:`ecgmoe.ablation.run`; with ``refit``, floors are fitted to both parts too.

    Returns
    -------
    dict
        ``scores`` (every metric), ``comparisons`` and ``sizes`` as DataFrames, ``records`` by part of the cohort;
        with the row ``configurations.TRAINED`` also ``trained_comparisons``, of it with all others; with ``refit`` also
        ``averaged_scores`` of the rows with three seeds or more, their predictions averaged over seeds, and
        ``averaged_comparisons`` of ``averaged_model`` (``configurations.TRAINED``, where it is there) with the others;
        of a simulated cohort, ``causes``.
    """
    inputs = None if only_kept else features.make_inputs(cohort, preset=preset)
    runs = ablation.run(
        cohort, inputs, rows, range(seeds), config, preset, refit=refit, folder=folder, only_kept=only_kept
    )
    if configurations.FULL not in runs:
        raise InputError(f"{configurations.FULL} is not among the rows that are done; train it first")
    floors = baselines.floors(cohort, refit=refit)
    found: dict[str, evaluation.Run] = {**ablation.predictions(runs), **floors}
    comparisons = ablation.compare(found, cohort)
    more: dict[str, Any] = {}
    if configurations.TRAINED in found:
        more["trained_comparisons"] = ablation.compare(found, cohort, model=configurations.TRAINED)
    together = ablation.averaged(runs) if refit else {}
    if configurations.FULL in together and len(together) > 1:
        more["averaged_scores"] = evaluation.score_table(together, cohort, headline=False)
        best = configurations.TRAINED if configurations.TRAINED in together else configurations.FULL
        more |= {"averaged_model": best, "averaged_comparisons": ablation.compare(together, cohort, model=best)}
    if "cause" in cohort.table and inputs is not None:
        more["causes"] = causes(cohort, inputs, range(seeds), config, preset)
    return {
        "scores": reliability.seed_table(found, cohort, headline=False),
        "comparisons": comparisons,
        "sizes": ablation.sizes(runs),
        "records": {part: int((cohort.split == part).sum()) for part in ("train", "validation", "test")},
        "refit": refit,
        "code": " ".join(sorted({one.code for seeds_of_row in runs.values() for one in seeds_of_row})),
        **more,
    }


def causes(cohort: Cohort, inputs: Inputs, seeds: Iterable[int], config: FitConfig, preset: str) -> pd.DataFrame:
    """Whether what ECG-MoE looks at is the known cause: :func:`ecgmoe.attribution.named_causes` by seed.

    Of each cause the first :data:`CAUSE_RECORDS` test records are changed; everything that the model sees is computed
    anew from them.
    """
    groups = attribution.by_cause(cohort, tuple(cohort.tasks), CAUSE_RECORDS)
    rows = attribution.rows_of(groups)
    occluded = attribution.occlude(cohort, rows, interventions.usual(cohort), tuple(inputs.features), preset)
    parts = []
    for seed in seeds:
        fitted = training.train(cohort, inputs, config=replace(config, seed=seed), preset=preset)
        found = attribution.attribution(attribution.losses(fitted.model, occluded, cohort), cohort, groups)
        parts.append(attribution.named_causes(found).assign(seed=seed))
    return pd.concat(parts, ignore_index=True)


def make(
    folder: Path | None = None,
    *,
    data: str = "simulated",
    patients: int = PATIENTS,
    train_records: int | None = None,
    preset: str = "compact",
    rows: Sequence[str] = (),
    seeds: int = 3,
    epochs: int | None = None,
    costly: bool = False,
    only_kept: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Make a reference run and write it, with its provenance, to ``reference_<data set>.json``.

    Parameters
    ----------
    folder : Path, optional
        ``results.run_dir()`` by default; the book looks in ``data/reference`` of the repository.
    data : str
        ``"simulated"``, or the folder of a data set or prepared store.
    patients : int
        Of the simulated cohort.
    train_records : int, optional
        As for :func:`limit`; by default :data:`TRAIN_RECORDS` of the simulated cohort, and all of real data.
    preset : str
        Of the backbones.
    rows, costly
        As for :func:`ecgmoe.configurations.select`.
    seeds : int
    epochs : int, optional
        Most epochs of a training; by default those of :func:`recipe`.
    only_kept : bool
        Train nothing: compose what is there of the rows and seeds that real recordings keep, a JSON each, in the folder
        of the result's name.

    Returns
    -------
    dict and Path
        What was written, tables as DataFrames, and where.
    """
    if train_records is None:
        train_records = TRAIN_RECORDS if data == "simulated" else 0
    cohort = limit(cohort_of(data, patients, preset), train_records)
    made_up = data == "simulated"
    name = name_of("reference", cohort)
    name += "" if preset == "compact" else f"_{preset.replace('-', '_')}"
    folder = folder or results.run_dir()
    config = replace(recipe(data), epochs=epochs or recipe(data).epochs)
    kept: dict[str, Any] = {} if made_up else {"refit": True, "folder": folder / name, "only_kept": only_kept}
    metrics = measure(cohort, rows_of(data, rows, costly), seeds, config, preset, **kept)
    options = {
        "data": data if made_up else "DATA_ROOT",
        "patients": patients if made_up else None,
        "train_records": train_records,
        "preset": preset,
        "rows": list(rows),
        "seeds": seeds,
        "epochs": config.epochs,
        "costly": costly,
        "only_kept": only_kept,
    }
    content = {
        "chapter": name,
        "provenance": results.provenance(cohort, 0, options),
        "metrics": {**metrics, "command": command({**options, "only_kept": False})},  # which trains what is not kept
    }
    path = folder / f"{name}.json"
    results.write_json(path, content)
    return content, path


def load(name: str = "reference_simulated") -> dict[str, Any] | None:
    """Give a reference run that comes with the repository, its tables as DataFrames; None where there is none."""
    try:
        content = results.reference(name)
    except FileNotFoundError:
        return None
    tables = {"scores", "sizes", "causes", "averaged_scores"}
    tables |= {"comparisons", "trained_comparisons", "averaged_comparisons"}
    metrics = {key: pd.DataFrame(value) if key in tables else value for key, value in content["metrics"].items()}
    return {**content, "metrics": metrics}


#: Title of the column that holds the reference run on real recordings.
REAL_TITLE = "Reference run (PTB-XL)"


def column(names: Mapping[str, str] | None = None, run: str = "reference_ptbxl") -> dict[str, pd.DataFrame | None]:
    """Headline scores of the reference run on PTB-XL, as :func:`ecgmoe.evaluation.paper_table` takes them.

    Parameters
    ----------
    names : mapping of str to str, optional
        What rows of the run are called there; by default as they are.
    run : str
    """
    found = load(run)
    if found is None:
        return {REAL_TITLE: None}
    scores = evaluation.headlines(found["metrics"]["scores"])
    return {REAL_TITLE: scores.assign(model=scores["model"].map(lambda model: (names or {}).get(model, model)))}


#: Reference runs that this book has a place for: what they are of, and what it takes to make them.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "reference_simulated": ("simulated cohort, compact backbones", "nothing but time", {"data": "simulated"}),
    "reference_ptbxl": ("PTB-XL, compact backbones", "PTB-XL (open)", {"data": "DATA_ROOT"}),
    "reference_ptbxl_published": (
        "PTB-XL, published backbones",
        "PTB-XL (open), the published checkpoints, and a GPU",
        {"data": "DATA_ROOT", "preset": "published"},
    ),
    "reference_mimicivecg": (
        "MIMIC-IV-ECG, compact backbones",
        "MIMIC-IV-ECG (open) with MIMIC-IV hosp beside it (credentialed)",
        {"data": "DATA_ROOT"},
    ),
    "reference_mimicivecg_published": (
        "MIMIC-IV-ECG, published backbones",
        "the same, the published checkpoints, and a GPU",
        {"data": "DATA_ROOT", "preset": "published"},
    ),
}


def runs() -> pd.DataFrame:
    """Every reference run of :data:`RUNS`: when it was made, or what it needs, and the command."""
    rows = []
    for name, (about, needs, options) in RUNS.items():
        found = load(name)
        state = f"not run: needs {needs}"
        if found is not None:
            origin = found["provenance"]
            state = f"made {origin['time'][:10]} at {results.commit_in_words(origin)}, {origin['device']}"
            if is_older(found["metrics"]):
                state += "; the model or its training has changed since"
        rows.append({"Run": about, "State": state, "Command": f"`{command({**options, 'folder': 'data/reference'})}`"})
    return pd.DataFrame(rows)


def is_older(metrics: Mapping[str, Any]) -> bool:
    """Whether the code that decides on a training has changed since a reference run was made."""
    return bool(metrics.get("code") != configurations.code())


def command(parameters: Mapping[str, Any]) -> str:
    """The command that makes a reference run with such parameters, every option spelt out."""
    words = ["python -m ecgmoe reference"]
    for name, value in parameters.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [option] if value else []
        elif isinstance(value, list | tuple):
            words += [f'{option} "{item}"' for item in value]
        elif value is not None:
            words.append(f"{option} {value}")
    return " ".join(words)


def listing() -> Iterator[str]:
    """Lines that name the groups and rows of the table, and what each row changes."""
    for group, names in configurations.groups().items():
        yield group
        for row in (row for row in configurations.TABLE if row.name in names):
            yield f"  {row.name}: {row.about}{' (takes long)' * row.costly}"
