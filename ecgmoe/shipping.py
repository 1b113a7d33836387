"""A model for others to use: trained, calibrated on recordings it has not seen, judged once, with a card that says so.

Choices are made on the validation part: a first model is trained without it, and there its epochs and its calibration
are read off. The model that is shipped learns from both parts, for as many epochs, and takes over the calibration; what
it reaches on the test part is what :class:`ecgmoe.prediction.Predictor` answers there.

Shape legend: B records, L leads, T samples, O outputs of a head, N records of a part, K resamples.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_model
from scipy.optimize import minimize
from torch import Tensor

from ecgmoe import backbones, caution, evaluation, features, prediction, reliability, results, training
from ecgmoe.datasets import Cohort
from ecgmoe.fusion import ECGMoE, Ensemble
from ecgmoe.prediction import Calibration, Predictor
from ecgmoe.records import LEADS, InputError, RecordError
from ecgmoe.reliability import groupings
from ecgmoe.scoring import interval, patient_weights, ratio
from ecgmoe.sources import Recording
from ecgmoe.tasks import TASKS
from ecgmoe.training import FitConfig

#: Selections of leads that a card gives figures for.
SELECTIONS: dict[str, tuple[str, ...]] = {
    "all twelve": LEADS,
    "limb leads": LEADS[:6],
    "I, II, V1, V5": ("I", "II", "V1", "V5"),
    "I, II": ("I", "II"),
    "II, V1": ("II", "V1"),
    "II, V6": ("II", "V6"),
    "II": ("II",),
    "I": ("I",),
    "V1-V6": LEADS[6:],
    "V1": ("V1",),
    "V2": ("V2",),
    "V5": ("V5",),
}


def calibrate(
    model: ECGMoE | Ensemble, logits: Mapping[str, Tensor], targets: Mapping[str, np.ndarray], level: float = 0.95
) -> Calibration:
    """Fit what makes a model's claims come true, on records that it has not learnt from.

    Parameters
    ----------
    model : ECGMoE
    logits : mapping of str to Tensor of shape (B, O)
        By task, of these records.
    targets : mapping of str to ndarray of shape (B,)
        NaN where a label is missing.
    level : float
        Share of records that the intervals are to hold.
    """
    values = model.predict(logits)
    half_width, scale, shift = {}, {}, {}
    for name, logits_BO in logits.items():
        known_B = np.isfinite(targets[name])
        target_B, own_BO = targets[name][known_B], logits_BO[torch.from_numpy(known_B)].double()
        if TASKS[name].kind == "regression":
            error_B = np.sort(np.abs(values[name].numpy()[known_B] - target_B))
            rank = int(np.ceil((len(error_B) + 1) * level))
            half_width[name] = float(error_B[min(rank, len(error_B)) - 1])
            continue
        label_B = torch.from_numpy(target_B)
        binary = TASKS[name].kind == "binary"

        def loss(x: np.ndarray, own_BO: Tensor = own_BO, label_B: Tensor = label_B, binary: bool = binary) -> float:
            moved_BO = own_BO * float(np.exp(x[0])) + float(x[1] if binary else 0.0)
            if binary:
                return float(torch.nn.functional.binary_cross_entropy_with_logits(moved_BO[:, 0], label_B.double()))
            return float(torch.nn.functional.cross_entropy(moved_BO, label_B.long()))

        found = minimize(loss, np.zeros(2 if binary else 1), method="Nelder-Mead").x
        scale[name] = float(np.exp(found[0]))
        if binary:
            shift[name] = float(found[1])
    return Calibration(half_width, scale, shift, level)


@dataclass(frozen=True)
class Judged:
    """What a predictor reaches on a part of a cohort.

    Attributes
    ----------
    scores : DataFrame
        Every metric, as :func:`ecgmoe.evaluation.evaluate_cohort` has it.
    coverage : DataFrame
        Columns ``task, group, share, low, high, n``: share of records whose label lies in the prediction interval.
    calibration : DataFrame
        As :func:`ecgmoe.reliability.calibration`.
    subgroups : DataFrame
        As :func:`ecgmoe.reliability.subgroups`.
    rhythms : DataFrame
        As :func:`by_rhythm`; None where the model has no rhythm.
    left_out : dict of str to int
        Labelled records that got no answer, by task; none of these figures counts them.
    """

    scores: pd.DataFrame
    coverage: pd.DataFrame
    calibration: pd.DataFrame
    subgroups: pd.DataFrame
    rhythms: pd.DataFrame | None
    left_out: dict[str, int]


def answers(
    predictor: Predictor,
    cohort: Cohort,
    split: str = "test",
    leads: Sequence[str] = LEADS,
    *,
    any_leads: bool = False,
) -> dict[str, np.ndarray]:
    """What a predictor answers on one part of a cohort: by task, for all records; NaN where there is no answer.

    With ``any_leads`` also what it withholds for want of leads.
    """
    rows = np.flatnonzero(cohort.split == split)
    at = [LEADS.index(lead) for lead in leads]
    out = {
        name: np.full(
            (len(cohort), len(TASKS[name].classes)) if TASKS[name].kind == "multiclass" else len(cohort), np.nan
        )
        for name in predictor.tasks
        if name in cohort.tasks
    }
    recordings = (Recording(str(i), cohort.signal[i, at], cohort.fs, tuple(leads)) for i in rows)
    done = 0
    for found in predictor.stream(recordings, tuple(out), any_leads=any_leads):
        if isinstance(found, RecordError):
            raise found
        here = rows[done : done + len(found.windows)]
        done += len(found.windows)
        for name, values in found.predictions(predictor.calibration).items():
            out[name][here] = values
    return out


def judge(predictor: Predictor, cohort: Cohort, split: str = "test", n_boot: int = 1000) -> Judged:
    """Score a predictor on one part of a cohort."""
    found = answers(predictor, cohort, split)
    scored, left_out = _answered(found, cohort, split)
    run = {name: np.nan_to_num(values) for name, values in found.items()}
    return Judged(
        evaluation.evaluate_cohort(run, scored, split=split, n_boot=n_boot),
        _coverage(predictor, run, scored, split, n_boot),
        reliability.calibration({"model": run}, scored, split=split, n_boot=n_boot).drop(columns="model"),
        reliability.subgroups({"model": run}, scored, split=split, n_boot=n_boot).drop(columns="model"),
        by_rhythm(run["rhythm"], scored, split, n_boot) if "rhythm" in run else None,
        left_out,
    )


def by_leads(predictor: Predictor, cohort: Cohort, split: str = "test") -> pd.DataFrame:
    """Headline metrics where only some leads are there: columns ``leads, task, metric, value, low, high, n``.

    Of what the model would say: ``predict`` withholds some of it (:data:`ecgmoe.caution.NEEDS`), and these figures
    are why.
    """
    parts = []
    for words, leads in SELECTIONS.items():
        found = answers(predictor, cohort, split, leads, any_leads=True)
        run = {name: np.nan_to_num(values) for name, values in found.items()}
        scores = evaluation.evaluate_cohort(run, _answered(found, cohort, split)[0], split=split, headline=True)
        parts.append(scores.assign(leads=words))
    return pd.concat(parts, ignore_index=True)[["leads", "task", "metric", "value", "low", "high", "n"]]


def by_rhythm(probability_BO: np.ndarray, cohort: Cohort, split: str = "test", n_boot: int = 1000) -> pd.DataFrame:
    """How often each rhythm is found, and how often it is right where it is named.

    Parameters
    ----------
    probability_BO : ndarray of shape (B, O)
        Of the classes, for every record of the cohort.
    cohort : Cohort
    split : str
    n_boot : int
        Resamples of patients.

    Returns
    -------
    DataFrame
        A row a rhythm and measure (``sensitivity``, ``precision``); columns ``rhythm, n, named, measure, value, low,
        high``: records with that label, and records for which it is named. Rhythms without a record are left out;
        precision is NaN where a rhythm is never named.
    """
    task, part = TASKS["rhythm"], evaluation.part_of(cohort, split)
    labelled = np.isfinite(cohort.targets()["rhythm"][part.rows])
    class_N = cohort.targets()["rhythm"][part.rows][labelled].astype(int)
    named_N = probability_BO[part.rows][labelled].argmax(1)
    w_KN = patient_weights(part.patients[labelled], n_boot, 0)
    rows = []
    for k, name in enumerate(task.classes):
        true_N, said_N = class_N == k, named_N == k
        for measure, of_N in (("sensitivity", true_N), ("precision", said_N)):
            share_K = ratio(w_KN @ (true_N & said_N).astype(float), w_KN @ of_N.astype(float))
            if true_N.any():
                counts = (int(true_N.sum()), int(said_N.sum()))
                low, high = interval(share_K) if of_N.any() else (np.nan, np.nan)
                rows.append((name, *counts, measure, float(share_K[0]), low, high))
    return pd.DataFrame(rows, columns=["rhythm", "n", "named", "measure", "value", "low", "high"])


def _answered(found: Mapping[str, np.ndarray], cohort: Cohort, split: str) -> tuple[Cohort, dict[str, int]]:
    """The cohort without labels that got no answer, and how many these are in the part, by task."""
    table, left_out = cohort.table.copy(), {}
    for name, values in found.items():
        column = TASKS[name].column
        none = ~np.isfinite(values).reshape(len(cohort), -1).all(1)
        left_out[name] = int((none & (cohort.split == split) & table[column].notna()).sum())
        table[column] = table[column].mask(none)
    return replace(cohort, table=table), left_out


def _coverage(
    predictor: Predictor, run: Mapping[str, np.ndarray], cohort: Cohort, split: str, n_boot: int
) -> pd.DataFrame:
    """Share of labels within the prediction interval, in all and by group."""
    half_width = predictor.calibration.half_width if predictor.calibration else {}
    part, rows = evaluation.part_of(cohort, split), []
    groups = {"all": np.full(len(cohort), True)}
    for by, (names, group) in groupings(cohort).items():
        groups |= {f"{by} {name}": group == name for name in names}
    for name, half in ((name, half) for name, half in half_width.items() if name in run):
        inside = np.abs(run[name] - cohort.targets()[name]) <= half
        for words, group in groups.items():
            here = (group & np.isfinite(cohort.targets()[name]))[part.rows]
            if here.any():
                w_KN = patient_weights(part.patients[here], n_boot, 0)
                share_K = ratio(w_KN @ inside[part.rows][here].astype(float), w_KN.sum(1))
                rows.append((name, words, float(share_K[0]), *interval(share_K), int(here.sum())))
    return pd.DataFrame(rows, columns=["task", "group", "share", "low", "high", "n"])


def ship(
    cohort: Cohort,
    folder: Path,
    *,
    config: FitConfig = FitConfig(),
    members: int = 3,
    runs: Path | None = None,
    **shape: Any,
) -> dict[str, Any]:
    """Train, calibrate and judge a model for others to use, and write its folder.

    Parameters
    ----------
    cohort : Cohort
    folder : Path
        Gets ``model.safetensors``, one more file a member, ``config.json``, ``card.json`` and ``README.md``.
    config : FitConfig
    members : int
        Trainings from the seeds ``config.seed``, ``config.seed + 1`` and so on; their mean answers.
    runs : Path, optional
        Keeps checkpoints: the same call after a kill goes on where it was.
    **shape
        As for :func:`ecgmoe.training.train`.

    Returns
    -------
    dict
        The card.
    """
    inputs = features.make_inputs(cohort)
    chosen: list[ECGMoE] = []
    refits: list[ECGMoE] = []
    recipes: list[FitConfig] = []
    for k in range(members):
        parts = [None if runs is None else runs / f"{name}-{k}" for name in ("chosen", "refit")]
        first = training.train(cohort, inputs, config=replace(config, seed=config.seed + k), folder=parts[0], **shape)
        recipes.append(replace(config, seed=config.seed + k, epochs=training.best_epoch(first), refit=True))
        second = training.train(cohort, inputs, config=recipes[-1], folder=parts[1], **shape)
        chosen.append(cast(ECGMoE, first.model))
        refits.append(cast(ECGMoE, second.model))
    held_out = torch.from_numpy(np.flatnonzero(cohort.split == "validation"))
    targets = {name: values[held_out.numpy()] for name, values in cohort.targets().items()}
    together = Ensemble(chosen)
    calibration = calibrate(together, training.route(together, inputs.take(held_out)).logits, targets)
    learnt = cohort.split != "test"
    covariance = _covariance(cohort.signal[learnt])
    model = Ensemble(refits)
    frozen = prediction.frozen_backbones(model)
    networks = {name: backbones.build(name, model.config.preset) for name in frozen}
    predictor = Predictor(model, networks, {}, calibration, covariance)
    table = cohort.table[learnt]
    card = {
        "name": f"ecgmoe-{folder.name}",
        "files": {},
        "parameters": model.n_parameters(),
        **prediction.backbones_of(model),
        "data": {
            "name": cohort.card.name,
            "doi": cohort.card.doi,
            "licence": cohort.card.licence,
            "digest": cohort.digest,
            "fs": cohort.fs,
            "folds": sorted(int(fold) for fold in table["fold"].unique()),
            "records": int(learnt.sum()),
            "patients": int(table["patient_id"].nunique()),
        },
        "recipes": [asdict(recipe) for recipe in recipes],
        "calibration": asdict(calibration),
        "lead_covariance": covariance,
        "test": judged(predictor, cohort),
        "limits": [*LIMITS, *LIMITS_OF.get(cohort.card.name.split()[0], ())],
        "provenance": results.provenance(cohort, config.seed, {**asdict(config), "members": members, **shape}),
    }
    return _write(folder, refits, card)


def _write(folder: Path, refits: Sequence[ECGMoE], card: dict[str, Any]) -> dict[str, Any]:
    """Write models and their card, and return it.

    All is made in a folder beside, and the card comes over first: it names its files by digest, so that what a kill
    leaves half written is refused and not taken for another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made_in:
        made = Path(made_in)
        refits[0].save_pretrained(made)
        files = ["model.safetensors", *(f"model-{k}.safetensors" for k in range(1, len(refits)))]
        for member, name in zip(refits[1:], files[1:], strict=True):
            save_model(member, str(made / name), {"format": "pt"})
        card = {**card, "files": {name: prediction.sha256(made / name) for name in files}}
        written = _write_card(made, card)
        for name in ("card.json", "config.json", *files, "README.md"):
            (made / name).replace(folder / name)
    return written


def _write_card(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write card and README, and return the card as it is read again."""
    results.write_json(folder / "card.json", card)
    written = json.loads((folder / "card.json").read_text("utf-8"))
    (folder / "README.md").write_text(readme(written), "utf-8")
    return dict(written)


def judge_again(predictor: Predictor, folder: Path, cohort: Cohort) -> dict[str, Any]:
    """Judge a shipped model once more and write its card anew, where the code has changed that decides what is said.

    Parameters
    ----------
    predictor, folder
        The model, and where it was loaded from (:func:`ecgmoe.prediction.folder_of`).
    cohort : Cohort
        That it was shipped with.

    Returns
    -------
    dict
        As :func:`judged`.

    Raises
    ------
    InputError
        The model was only trained, so that it has no such card, or the cohort is another one.
    """
    if "test" not in predictor.card:
        raise InputError(f"{folder} has no card with figures; `python -m ecgmoe ship` makes a model with one")
    if predictor.card["data"]["digest"] != cohort.digest:
        raise InputError(f"the card of {folder} is of other recordings: {predictor.card['data']}; give all of those")
    found = judged(predictor, cohort)
    limits = [*LIMITS, *LIMITS_OF.get(cohort.card.name.split()[0], ())]
    card = {**predictor.card, "test": found, "limits": limits, "judged": results.provenance(cohort, 0)}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
        _write_card(Path(made), card)
        for one in ("card.json", "README.md"):
            (Path(made) / one).replace(folder / one)
    return found


def judged(predictor: Predictor, cohort: Cohort) -> dict[str, Any]:
    """What a card says of a predictor's answers on the test part: tables of :func:`judge` and :func:`by_leads`."""
    found = judge(predictor, cohort)
    return {
        "scores": found.scores,
        "coverage": found.coverage,
        "calibration": found.calibration,
        "subgroups": found.subgroups,
        "rhythms": found.rhythms,
        "leads": by_leads(predictor, cohort),
        "without an answer": found.left_out,
    }


def _covariance(signal_BLT: np.ndarray) -> np.ndarray:
    """Mean over records of the covariance of their leads, (12, 12), mV squared; rounded, as it is written."""
    total_LL = np.zeros((signal_BLT.shape[1],) * 2)
    for signal_LT in signal_BLT:
        total_LL += np.cov(signal_LT)
    return np.round(total_LL / len(signal_BLT), 6)


#: What nobody should expect of a shipped model, whatever it learnt from.
LIMITS = (
    "Not a medical device, and not tested as one; for research alone.",
    "Elsewhere than where it was trained it does worse, and its intervals hold less: chapter 10 has figures of small "
    "samples from other hospitals, and `python -m ecgmoe elsewhere FOLDER` measures recordings of your own.",
    "Prediction intervals were chosen to hold 95 % of the labels; the card says what they hold, less in some groups.",
    "Probabilities are calibrated on recordings of the kind that it learnt from, and nowhere else.",
    f"RR intervals are those of hearts that beat about {' to '.join(map(str, caution.BEATS_PER_MINUTE))} times a "
    f"minute; where nothing beats for more than {caution.LONGEST_PAUSE_S:.0f} s there is no answer at all.",
)
#: What comes of the recordings, by the first word of the name of the data set.
LIMITS_OF = {
    "PTB-XL": (
        "Trained on recordings of German patients between 1989 and 1996, made by devices of one maker.",
        "Ages above 89 are published as one value and were left out: predictions for the oldest are too low.",
        "Rhythm has the 15 classes of the paper, three of which do not occur in PTB-XL and are never predicted; what "
        "is no class is called other.",
        "Block of the second and third degree, ventricular tachycardia, flutter and fibrillation have no class: such a "
        "recording is called something else, sinus rhythm not excepted. Where no beat is like another nothing is "
        "answered, which holds back most of what flutter was tested, and not all (chapter 10).",
        "Rhythms are labels that physicians gave, no thresholds of rate: sinus rhythm is said below 60 beats a minute "
        "too.",
        "Sex is that of the hospital's register.",
    ),
    "Simulated": ("Trained on simulated hearts: nothing follows for real ones.",),
}
#: Names on the hub of the licences of data sets.
_HUB_LICENCES = {"CC BY 4.0": "cc-by-4.0", "ODbL 1.0": "odbl", "ODC-By 1.0": "odc-by"}


def tables(card: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Tables of text of what a card says of its model on the test part: scores, coverage, subgroups, rhythms, leads.

    One without a row is left out, such as coverage where no task has intervals.
    """
    test = card["test"]
    scores = pd.DataFrame(
        [{"Metric": _label(row), "Value": _figure(row), "Recordings": row["n"]} for row in test["scores"]]
    )
    coverage = [{"Group": row["group"], "task": row["task"], "cell": _figure(row, "share")} for row in test["coverage"]]
    subgroups = [
        {"Group": f"{row['by']} {row['group']}", "task": row["task"], "cell": _figure(row)}
        for row in test["subgroups"]
        if row["value"] is not None
    ]
    n: dict[str, int] = {}
    for row in test["leads"]:
        n[row["leads"]] = max(row["n"], n.get(row["leads"], 0))
    leads = [
        {"Leads": f"{row['leads']} (n = {n[row['leads']]:,})", "task": row["task"], "cell": _figure(row)}
        for row in test["leads"]
    ]
    wide = {"coverage": coverage, "subgroups": subgroups, "leads": leads}
    found = {"scores": scores} | {name: _wide(rows) for name, rows in wide.items() if rows}
    return found | ({"rhythms": _rhythms(test["rhythms"])} if test.get("rhythms") else {})


def _rhythms(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A line a rhythm, the commonest first."""
    lines: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -row["n"]):
        line = lines.setdefault(row["rhythm"], {"Rhythm": row["rhythm"], "Recordings": row["n"], "Named": row["named"]})
        line[row["measure"].capitalize()] = "–" if row["value"] is None else _figure({**row, "task": "rhythm"})
    return pd.DataFrame(list(lines.values()))


def _wide(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """A line a group in their order, a column a task."""
    first = next(iter(rows[0]))
    table = pd.DataFrame(rows)
    wide = table.pivot(index=first, columns="task", values="cell").loc[list(dict.fromkeys(table[first]))]
    names = [name for name in TASKS if name in wide]
    wide = wide[names].set_axis([evaluation.task_label(TASKS[name]) for name in names], axis=1)
    return wide.fillna("–").reset_index()


def readme(card: Mapping[str, Any]) -> str:
    """Model card for readers, in Markdown, of what ``card.json`` holds."""
    data, shown = card["data"], tables(card)
    none = ", ".join(f"{TASKS[name].title} {n}" for name, n in card["test"]["without an answer"].items())
    named = card["name"].removeprefix("ecgmoe-")
    answers = evaluation.words(evaluation.spoken(TASKS[name]) for name in card["test"]["without an answer"])
    by_rhythm = (
        f"""## By rhythm

Sensitivity: share of the recordings with that label that are answered so. Precision: share of those answered so that
have that label.

{_lines(shown["rhythms"])}

"""
        if "rhythms" in shown
        else ""
    )
    coverage = (
        f"""## Prediction intervals

Share of labels inside intervals that were chosen to hold {100 * card["calibration"]["level"]:.0f} % of them.

{_lines(shown["coverage"])}

"""
        if "coverage" in shown
        else ""
    )
    by_group = f"## By group\n\n{_lines(shown['subgroups'])}\n\n" if "subgroups" in shown else ""
    code = f"commit `{card['provenance']['commit'][:12]}`"
    if "judged" in card:
        code += f", and `{card['judged']['commit'][:12]}` for the figures"
    n, begins = len(card["files"]), "An ECG-MoE over compact backbones, trained"
    if n > 1:
        begins = (
            f"{n} ECG-MoE over compact backbones that answer as one by the mean of their logits, trained from {n} seeds"
        )
    return f"""---
library_name: ecgmoe
license: {_HUB_LICENCES.get(data["licence"], "other")}
tags: [electrocardiogram, mixture-of-experts]
---

# {card["name"]}

{begins} on folds {min(data["folds"])}-{max(data["folds"])} of {data["name"]} ({data["records"]:,} recordings
of {data["patients"]:,} patients at {data["fs"]} Hz, {data["licence"]},
https://doi.org/{data["doi"]}). From ten seconds of an ECG it answers {answers}.

```bash
python -m ecgmoe predict RECORD --model {named}
```
```python
import ecgmoe

ecgmoe.load("{named}").predict(signal, fs)  # (records, 12, samples) in mV
```

{card["parameters"]:,} parameters. Backbones that it does not hold itself lie in `data/backbones`; `card.json` names
them by digest.

## What it reaches on fold 9, which it has not seen

{_lines(shown["scores"])}

Labelled recordings without an answer, which are not counted: {none}.

{coverage}{by_group}{by_rhythm}## With fewer leads

Limb leads are computed from any two of them; the other leads are guessed from those that are there. The
figures are of what the model would say of n recordings; fewer leads leave fewer that can be answered at all. `predict`
withholds sex without a limb lead and one of V1-V4, rhythm without a limb lead, and the interval of age where any lead
is guessed.

{_lines(shown["leads"])}

## Limits

{chr(10).join(f"- {limit}" for limit in card["limits"])}

Code: {code}. The same figures are in `card.json`, and
`python -m ecgmoe evaluate DATA_ROOT --model {named}` computes them again.
"""


def _lines(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table.columns), [":--"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _label(row: Mapping[str, Any]) -> str:
    unit = f", {TASKS[row['task']].unit}" if TASKS[row["task"]].kind == "regression" else ""
    return f"{TASKS[row['task']].title}: {evaluation.METRIC_LABELS[row['metric']]}{unit}"


def _figure(row: Mapping[str, Any], key: str = "value") -> str:
    places = 3 if key == "share" else evaluation.places(row["task"])
    return f"{row[key]:.{places}f} [{row['low']:.{places}f}, {row['high']:.{places}f}]"
