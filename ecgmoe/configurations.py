"""Every configuration that the book compares, a row of settings each: ECG-MoE, its ablations, and its rivals.

:data:`TABLE` is the one place where they stand; :func:`select` chooses among them, :func:`fit_row` trains one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache as memoise
from inspect import getsource
from textwrap import dedent
from typing import Any, Literal

import torch

from ecgmoe import backbones, cache, enecg, features, resnet, tasks, training, variants
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.training import FitConfig, Fitted

#: The row that all others are compared with.
FULL = "ECG-MoE"
#: The same with one of its backbones trained with it: what does best on real recordings.
TRAINED = "ECG-MoE with ECG-FM trained"
#: That backbone trained in the same way and told as much, without the mixture around it.
ALONE = "ECG-FM trained alone + characteristics"

#: Modules that decide, with all that they use, on what a training comes to.
_DECIDING = tuple(module.__name__ for module in (enecg, resnet, tasks, training))


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
    costly: bool = False  # many minutes instead of one, such as where backbones are trained: on demand
    once: bool = False  # a side question, or costly: with one seed
    phase: bool = False  # beats of one phase instead of one duration: every RR interval is stretched to one length
    after: "str | Row" = ""  # the row, with frozen backbones, whose trained model this one goes on from

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
#: One backbone that learns with the rest has nothing to go on from: other rates and epochs were not tried.
TRAINED_FIT: dict[str, Any] = {"lr_backbones": 1e-3}
TRAINED_EFFORT = 0.6
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
            f"periodic experts → {about}; higher learning rate",
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
    rows.append(
        Row(
            TRAINED,
            "what is trained",
            "all weights of ECG-FM are learnt with the rest, from the first step on; the other backbones stay frozen",
            shape={"lora": "full", "tuned": ("ecg-fm",)},
            fit=TRAINED_FIT,
            effort=TRAINED_EFFORT,
            costly=True,
        )
    )
    rows += [
        Row(f"router: {k} of 5", "routing", f"the raw signal decides which run, {k} of five", shape={"top_k": k})
        for k in range(1, len(backbones.NAMES))
    ]
    for name in backbones.NAMES:
        for seen, words in (("none", ""), ("all", " + characteristics")):
            about = f"one frozen backbone and a head{words.replace('+', 'with the')}; "
            about += "higher learning rate, three times the epochs"
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
    about = f"one backbone and a head, trained as in “{TRAINED}”: all weights, from the first step on"
    alone = Row(ALONE, "tuned backbones", about, backbones=("ecg-fm",), fit=TRAINED_FIT, effort=TRAINED_EFFORT)
    rows.append(replace(alone, shape={"periodic": "none", "lora": "full", **HEAD_SHAPE}, costly=True))
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
    several = (FULL, TRAINED, ALONE)
    return tuple(
        replace(row, once=row.name not in several and (row.costly or row.group in side or row.name in with_both))
        for row in rows
    )


def _others(name: str) -> tuple[str, ...]:
    return tuple(other for other in backbones.NAMES if other != name)


#: Every configuration that the book compares, ECG-MoE first.
#:
#: :meta hide-value:
TABLE = _table()


def _row(name: str | Row) -> Row:
    return name if isinstance(name, Row) else next(row for row in TABLE if row.name == name)


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


def groups() -> dict[str, list[str]]:
    """Names of the rows by group, in the order of the table."""
    return {group: [row.name for row in TABLE if row.group == group] for group in dict.fromkeys(r.group for r in TABLE)}


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
    if epochs_of is not None and row.kind != "EnECG published":
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
    sources = cache.training_sources(*_DECIDING).values()
    return cache.digest(cache.source_digest(*sources), cache.code_of(dedent(getsource(fit_row))))
