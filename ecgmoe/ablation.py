"""What the parts of ECG-MoE are worth: one table of configurations, and everything that is trained from it.

:data:`TABLE` holds every ablation and every rival as a row of settings; :func:`run` trains rows with several seeds and
keeps each result under everything that it depends on, so that interrupted work goes on where it was and results of
another cohort, configuration or version of the code are never mixed in.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache as memoise
from functools import partial
from inspect import getsource
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ecgmoe import backbones, cache, enecg, evaluation, features, resnet, results, tasks, training, variants
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.records import InputError
from ecgmoe.training import FitConfig, Fitted

#: The row that all others are compared with.
FULL = "ECG-MoE"

#: Modules that decide, with all that they use, on what a training comes to.
_DECIDING = tuple(module.__name__ for module in (enecg, resnet, tasks, training))

#: Smallest difference that counts, in the unit of the headline metric. Rows that are told the RR interval lie fractions
#: of a millisecond apart, a small part of the time between two samples: clear or not, that is level.
LEAST = {"rr": 1.0}

#: Decimals of a headline metric where three are too many.
_PLACES = {"rr": 1, "age": 2}


Kind = Literal["ECG-MoE", "one a task", "EnECG published", "EnECG mended", "ResNet", "ResNet of equal size"]


@dataclass(frozen=True)
class Row:
    """A line of the table: what is trained, as settings and in words."""

    name: str  # as the paper's, where it has one
    group: str
    about: str  # how it differs from ECG-MoE
    kind: Kind = "ECG-MoE"
    backbones: tuple[str, ...] = backbones.NAMES
    shape: Mapping[str, Any] = field(default_factory=dict)  # fields of ECGMoEConfig, EnECGConfig or ResNetConfig
    fit: Mapping[str, Any] = field(default_factory=dict)  # fields of FitConfig
    effort: float = 1.0  # most epochs, as a multiple of ECG-MoE's
    costly: bool = False  # many minutes instead of one, such as where backbones are trained: on demand, with one seed
    once: bool = False  # a side question: with one seed
    phase: bool = False  # beats of one phase instead of one duration: every RR interval is stretched to one length
    after: str = ""  # the row, with frozen backbones, whose trained model this one goes on from

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides on the result: the row without its words, and without how often it is trained."""
        settings = {key: value for key, value in asdict(self).items() if key not in ("name", "group", "about", "once")}
        return settings | {"after": _row(self.after).settings if self.after else None}


#: Rate of the networks of Table 3, on the validation part of the simulated cohort the best of 0.002 (ECG-MoE's), 0.005
#: and 0.01; less dropout, more weight decay and twice the epochs did not help them.
RIVAL_FIT: dict[str, Any] = {"lr": 1e-2}
#: Single backbones are no more than a few linear maps. On the validation part of the simulated cohort MOMENT and ECG-FM
#: did best like this (tried: rates of 2e-3, 5e-3 and 1e-2, 20, 40 and 60 epochs, 64, 128, 256 and all components).
HEAD_FIT: dict[str, Any] = {"lr": 5e-3}
HEAD_SHAPE: dict[str, Any] = {"n_components": 256}
HEAD_EFFORT = 3.0
#: Where backbones are trained, what stands on them was trained before, on their features as they are; a quarter of the
#: epochs goes on from there (Kumar et al. 2022, "Fine-tuning can distort pretrained features"). Tried on ECG-FM, on the
#: validation part: rates of backbones of 2e-4, 1e-3, 5e-3, of heads of 1e-3 and 5e-3, and no head trained before.
TUNING_FIT: dict[str, dict[str, Any]] = {
    "backbone": {"lr": 1e-3, "lr_backbones": 1e-3},
    "both": {"lr": 1e-3, "lr_backbones": 1e-3},
    "full": {"lr": 1e-3},
}
TUNING_EFFORT = 0.25
#: Of the large ResNet as many epochs as still take longer than ECG-MoE with the features of its backbones.
LARGE_EFFORT = 0.2

_ABOUT_RIVALS = {
    "moe": "five MLPs and a dense gate",
    "time_moe": "a transformer block with the two best of five experts and a shared one",
    "self_attention": "two transformer blocks",
    "cross_attention": "learnt queries that read the recording",
}


def _table() -> tuple[Row, ...]:
    titles = backbones.TITLES
    rows = [Row(FULL, FULL, "the model that all others are compared with")]
    rows += [
        Row(
            variants.PAPER_NAMES[rival],
            "Table 3",
            f"periodic experts → {about}; higher rate",
            shape={"periodic": rival},
            fit=RIVAL_FIT,
        )
        for rival, about in _ABOUT_RIVALS.items()
    ]
    rows += [
        Row("without backbones", "parts", "periodic experts and characteristics alone, so no contrast", backbones=()),
        Row(
            "without periodic network",
            "parts",
            "backbones and characteristics alone, so no contrast",
            shape={"periodic": "none"},
        ),
        Row(
            "without RR inputs",
            "parts",
            "no RR interval, no characteristic made of them, six beats at most",
            shape={"characteristics": "no_rr"},
        ),
        Row(
            "without characteristics",
            "inputs",
            "gates and heads see no signal characteristics; the rhythm experts see RR intervals",
            shape={"characteristics": "none"},
        ),
        Row("without line", "inputs", "regressions start from the mean, not from a line", shape={"line": False}),
        Row("beats by phase", "inputs", "every RR interval stretched to one length, durations are lost", phase=True),
        Row("one model a task", "tasks", "a model for each task alone; figures are sums over them", "one a task"),
    ]
    rows += [
        Row(f"without {titles[name]}", "backbones", "four backbones", backbones=_others(name))
        for name in backbones.NAMES
    ]
    rows += [
        Row("without contrastive term", "objective", "lambda = 0 in eq. 5", fit={"lam": 0.0}),
        Row(
            "contrast by patient", "objective", "records of one patient are positives too", fit={"contrast": "patient"}
        ),
        Row("contrast by views", "objective", "two noisy views of a record are positives", fit={"contrast": "views"}),
        Row(
            "uncertainty weighting", "objective", "tasks weighed by learnt variances", fit={"weighting": "uncertainty"}
        ),
        Row("fusion by sum", "fusion", "the circled plus of eq. 4 as a sum", shape={"fusion": "sum"}),
    ]
    maps = Row(
        "LoRA in the fusion",
        "what is trained",
        "its maps stay random, low-rank changes are learnt; backbones frozen",
        shape={"lora": "fusion"},
    )
    rows.append(maps)
    for placement, name, about, after in (
        ("backbone", "LoRA in the backbones", "low-rank changes of their attention", FULL),
        ("both", "LoRA in both", "low-rank changes of the attention of the backbones", maps.name),
        ("full", "everything trained", "all weights of the backbones", FULL),
    ):
        row = Row(name, "what is trained", f"goes on from {after}: {about} are learnt too", shape={"lora": placement})
        rows.append(replace(row, fit=TUNING_FIT[placement], effort=TUNING_EFFORT, costly=True, after=after))
    rows += [
        Row(f"router: {k} of 5", "routing", f"the raw signal decides which run, {k} of five", shape={"top_k": k})
        for k in range(1, len(backbones.NAMES))
    ]
    for name in backbones.NAMES:
        for seen, words in (("none", ""), ("all", " + characteristics")):
            about = (
                f"one frozen backbone and a head{words.replace('+', 'with the')}; higher rate, three times the epochs"
            )
            shape = {"periodic": "none", "characteristics": seen, **HEAD_SHAPE}
            row = Row(f"{titles[name]}: head{words}", "single backbones", about, "ECG-MoE", (name,), shape, HEAD_FIT)
            rows.append(replace(row, effort=HEAD_EFFORT))
    for name in backbones.NAMES:
        for lora, word, about in (
            ("backbone", "LoRA", "low-rank changes of the backbone's attention"),
            ("full", "full", "all weights of the backbone"),
        ):
            if lora == "backbone" and not backbones.kind_of(name).lora_targets:
                continue
            for seen, words in (("none", ""), ("all", " + characteristics")):
                after = f"{titles[name]}: head{words}"
                row = Row(
                    f"{titles[name]}: {word}{words}", "tuned backbones", f"goes on from {after}: {about} are learnt too"
                )
                shape = {"periodic": "none", "characteristics": seen, "lora": lora, **HEAD_SHAPE}
                row = replace(row, backbones=(name,), shape=shape, fit=TUNING_FIT[lora], after=after)
                rows.append(replace(row, effort=TUNING_EFFORT, costly=True))
    rows += [
        Row("EnECG published", "EnECG", "the sister model with its faults, one model a task", "EnECG published"),
        Row("EnECG mended", "EnECG", "the sister model without them", "EnECG mended"),
        Row(
            "EnECG mended + characteristics",
            "EnECG",
            "told the signal characteristics too",
            "EnECG mended",
            shape={"characteristics": "all"},
        ),
    ]
    usual, tuned = asdict(FitConfig()), asdict(resnet.FIT)
    fit = {key: value for key, value in tuned.items() if value != usual[key] and key != "epochs"}
    about = "a plain convolutional network of raw leads, end to end, with its own rate and batches"
    told, also = {"characteristics": "all"}, f"{about}, told the signal characteristics"
    large = f"{also}; as many parameters as ECG-MoE in all, a fifth of the epochs"
    rows += [
        Row("ResNet", "plain networks", about, "ResNet", (), {"characteristics": "none"}, fit),
        Row("ResNet + characteristics", "plain networks", also, "ResNet", (), told, fit),
        Row(
            "Large ResNet + characteristics",
            "plain networks",
            large,
            "ResNet of equal size",
            (),
            told,
            fit,
            effort=LARGE_EFFORT,
            costly=True,
        ),
    ]
    side = ("tasks", "inputs", "backbones", "objective", "fusion", "routing")
    with_both = [row.name for row in rows if row.group == "single backbones" and row.name.endswith("characteristics")]
    return tuple(replace(row, once=row.group in side or row.name in with_both) for row in rows)


def _others(name: str) -> tuple[str, ...]:
    return tuple(other for other in backbones.NAMES if other != name)


#: Every configuration that the book compares, ECG-MoE first.
TABLE = _table()


def _row(name: str) -> Row:
    return next(row for row in TABLE if row.name == name)


class Run(NamedTuple):
    """One row trained with one seed."""

    predictions: dict[str, np.ndarray]  #: for every record of the cohort, by task
    trained: int  #: parameters that were trained
    total: int  #: parameters in all, those of frozen backbones too
    epochs: int
    seconds: float  #: of the processor, for training and prediction, when it took place
    best: tuple[int, ...] = ()  #: epochs up to the least validation loss, by model; what a refit takes over
    code: str = ""  #: digest of the code that trained it


def select(names: Iterable[str] = (), costly: bool = False) -> list[Row]:
    """Rows of the table by name or by group, upper and lower case alike; ECG-MoE is always the first.

    Parameters
    ----------
    names : iterable of str
        None takes all.
    costly : bool
        Whether a group, or everything, stands for its costly rows too. A row that is
        named is always taken.

    Raises
    ------
    ValueError
        For a name that is neither a row nor a group.
    """
    wanted = [name.strip().lower() for name in names]
    known = {row.name.lower() for row in TABLE} | {row.group.lower() for row in TABLE}
    if unknown := [name for name in wanted if name not in known]:
        groups = dict.fromkeys(row.group for row in TABLE)
        raise ValueError(
            f"no row or group {', '.join(unknown)}; groups are {', '.join(groups)}; "
            f"rows are {', '.join(row.name for row in TABLE)}"
        )

    def taken(row: Row) -> bool:
        as_part = not wanted or row.group.lower() in wanted
        return row.name == FULL or row.name.lower() in wanted or (as_part and (costly or not row.costly))

    return [row for row in TABLE if taken(row)]


def fit_row(
    row: Row,
    cohort: Cohort,
    inputs: Inputs,
    config: FitConfig,
    preset: str,
    epochs_of: Callable[[Row], Sequence[int]] | None = None,
) -> list[Fitted]:
    """Train what a row says: one model, or one a task.

    With ``epochs_of`` these are refits, for as many epochs a model as it gives for a row; but the published EnECG has
    epochs and a training part of its own.
    """
    if row.after:
        start = fit_row(_row(row.after), cohort, inputs, config, preset, epochs_of)[0].model
    else:
        start = None
    config = replace(config, **row.fit, epochs=max(1, round(config.epochs * row.effort)))
    names = tuple(cohort.tasks)
    n_models = len(names) if row.kind == "one a task" else 1
    configs = [config] * n_models
    if epochs_of is not None:
        configs = [replace(config, epochs=epochs, refit=True) for epochs in epochs_of(row)[:n_models]]
    if row.phase:
        _, N, _, L = inputs.beats.beat_BNCL.shape
        x_BCT, fs = cohort.signal, cohort.fs
        inputs = features.from_signal(x_BCT, fs, inputs.features, beat_length=L, max_beats=N, beat_window=None)
    if row.kind == "EnECG published":
        of_task = {task: enecg.EnECGConfig.published(enecg.widths(inputs), task) for task in names}
        return [enecg.fit_published(one, inputs, cohort, seed=config.seed) for one in of_task.values()]
    if row.kind == "EnECG mended":
        return [enecg.train_mended(cohort, inputs, configs[0], **row.shape)]
    if row.kind.startswith("ResNet"):
        shape, n_characteristics = dict(row.shape), inputs.characteristics_BA.shape[1]
        if row.kind == "ResNet of equal size":
            asked = {"n_characteristics": n_characteristics, "tasks": names, **shape}
            shape["width"] = resnet.ResNetConfig.of_size(whole_size(cohort, inputs, preset), **asked).width
        return [training.fit(resnet.build(inputs, names, config.seed, **shape), inputs, cohort, configs[0])]
    shape = {"preset": preset, **row.shape}
    parts = [(task,) for task in names] if row.kind == "one a task" else [names]
    return [
        training.train(cohort, inputs, names=row.backbones, config=one, start=start, tasks=part, **shape)
        for part, one in zip(parts, configs, strict=True)
    ]


@memoise
def backbone_sizes(preset: str) -> dict[str, int]:
    """Parameters of each backbone."""
    return {name: backbones.n_parameters(backbones.build(name, preset)) for name in backbones.NAMES}


def whole_size(cohort: Cohort, inputs: Inputs, preset: str) -> int:
    """Parameters of ECG-MoE with its backbones."""
    widths, n_characteristics = enecg.widths(inputs), inputs.characteristics_BA.shape[1]
    with torch.device("meta"):
        own = ECGMoE(ECGMoEConfig(widths, n_characteristics, tuple(cohort.tasks))).n_parameters()
    return own + sum(backbone_sizes(preset).values())


def code() -> str:
    """Digest of all code that decides on what a training comes to."""
    return cache.digest(cache.source_digest(*cache.training_sources(*_DECIDING).values()), getsource(fit_row))


def run(
    cohort: Cohort,
    inputs: Inputs,
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
    inputs : Inputs
        Of the same cohort and preset, with the features of all backbones that the rows use.
    rows : sequence of Row
        Of :func:`select`; by default all that leave the backbones frozen.
    seeds : sequence of int
        Of weights and order of records, in the place of ``config.seed``; rows that are costly or ``once`` have the
        first alone.
    config : FitConfig
    preset : str
        Of the backbones, for their sizes.
    refit : bool
        Train every row twice: on the training part, with the first seed, to choose its epochs on the validation part;
        then, with every seed, on both parts for so many epochs.
    folder : Path, optional
        Gets a JSON a row and seed as soon as it is done, with what it predicts for the test part; read instead of
        trained where it is there already.
    only_kept : bool
        Train nothing: give the rows and seeds that lie in ``folder``.

    Returns
    -------
    dict of str to list of Run
        By name of the row, a run a seed. From a file, predictions are NaN outside the test part.

    Raises
    ------
    InputError
        A file in ``folder`` is of other data or of other settings than what is asked for.
    """
    rows = rows or select()
    base: dict[str, Any] = {
        "data": cohort.digest,
        "inputs": _inputs_digest(inputs),
        "config": {key: value for key, value in asdict(config).items() if key != "seed"},
        "code": code(),
        "preset": preset,
        "packages": {package: results.version_of(package) for package in ("torch", "peft")},
    }

    def trained(row: Row, seed: int, epochs_of: Callable[[Row], Sequence[int]] | None) -> Run:
        train = partial(_trained, row, cohort, inputs, replace(config, seed=seed), preset, epochs_of)
        done = cache.cached("ablation", _key(base, row, seed, epochs_of is not None), train)
        n_trained, n_total, n_epochs = (int(value) for value in done.pop("sizes"))
        best = tuple(int(value) for value in done.pop("best"))
        return Run(done, n_trained, n_total, n_epochs, done.pop("seconds").item(), best, base["code"])

    def epochs_of(row: Row) -> Sequence[int]:
        return trained(row, seeds[0], None).best

    # Seed after seed: an interrupted run has whole tables of fewer seeds.
    todo = [(row, seed) for seed in seeds for row in rows if seed == seeds[0] or not (row.costly or row.once)]
    found: dict[int, Run] = {}
    asked = base | {"refit": refit}
    for i, (row, seed) in enumerate(todo):
        if (kept := _kept(folder, row, seed, asked, cohort)) is not None:
            found[i] = kept
    with tqdm(total=len(todo), initial=len(found), desc="ablation", unit="run", disable=None) as bar:
        while waiting := [] if only_kept else [i for i in range(len(todo)) if i not in found]:
            free = (i for i in waiting if not cache.busy("ablation", _key(base, *todo[i], refit)))
            i = next(free, waiting[0])
            row, seed = todo[i]
            bar.set_postfix_str(f"{row.name}, seed {seed}")
            found[i] = trained(row, seed, epochs_of if refit else None)
            if folder is not None:
                _keep(folder, row, seed, asked, cohort, found[i])
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
    if epochs_of is not None:
        epochs_of(row)  # its time is its own
    start = time.process_time()
    fitted = fit_row(row, cohort, inputs, config, preset, epochs_of)
    seconds = time.process_time() - start
    models = [fit.model for fit in fitted]
    frozen = set(row.backbones).difference(*(getattr(model, "networks", ()) for model in models))
    sizes = (
        sum(model.n_parameters(trainable_only=True) for model in models),
        sum(model.n_parameters() for model in models) + sum(backbone_sizes(preset)[name] for name in frozen),
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
        "asked": {key: asked[key] for key in _ASKED},
        "sizes": {key: getattr(done, key) for key in ("trained", "total", "epochs", "seconds")},
        "code": done.code,
        "provenance": results.provenance(cohort, seed),
        "test": lines,
    }
    results.write_json(folder / file_of(row, seed), content)


#: What a file and what is asked for must agree on.
_ASKED = ("data", "config", "preset", "refit")


def _kept(folder: Path | None, row: Row, seed: int, asked: Mapping[str, Any], cohort: Cohort) -> Run | None:
    """Read a row and seed from its file; None where there is none."""
    path = None if folder is None else folder / file_of(row, seed)
    if path is None or not path.is_file():
        return None
    content = json.loads(path.read_text("utf-8"))
    wanted = json.loads(json.dumps({"settings": row.settings, "asked": {key: asked[key] for key in _ASKED}}))
    if any(content[key] != value for key, value in wanted.items()):
        raise InputError(f"{path} is of other data or settings than what is asked for; move it away to train it anew")
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
    rows = {row.name: row for row in TABLE}
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


def groups() -> dict[str, list[str]]:
    """Names of the rows by group, in the order of the table."""
    return {group: [row.name for row in TABLE if row.group == group] for group in dict.fromkeys(r.group for r in TABLE)}


def compare(runs: Mapping[str, evaluation.Run], cohort: Cohort, seed: int = 0) -> pd.DataFrame:
    """:func:`ecgmoe.evaluation.compare` of ECG-MoE with all others, by as many resamples as their number asks for.

    The least p value is 2 / (resamples + 1). Times the number of comparisons, as Holm's procedure has it, it must stay
    well below 0.05: otherwise no difference could ever be clear, however large.
    """
    n_comparisons = (len(runs) - 1) * len(cohort.tasks)
    return evaluation.compare(runs, FULL, cohort, n_boot=max(2000, 60 * n_comparisons), seed=seed)


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
    headline = scores["metric"] == scores["task"].map({name: task.metric for name, task in tasks.TASKS.items()})
    for row in scores[headline & (scores["model"] == name)].to_dict("records"):
        places = _PLACES.get(row["task"], 3)
        value, low, high = (f"{row[key]:.{places}f}" for key in ("value", "low", "high"))
        spread = f" ± {row['sd']:.{places}f}" if np.isfinite(row.get("sd", np.nan)) else ""
        cells[evaluation.task_label(tasks.TASKS[row["task"]])] = f"{value}{spread} [{low}, {high}]"
    return cells
