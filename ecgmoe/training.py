"""Training of ECG-MoE on cached backbone features: inputs, objective (eq. 5), fit with early stopping, predictions.

Shape legend: B records, K tasks, D width, O outputs of a head.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.multitask import MultiTask, Output
from ecgmoe.objective import objective


@dataclass(frozen=True)
class FitConfig:
    """How a model is trained; the same for ECG-MoE and every rival."""

    epochs: int = 20
    patience: int = 8  # epochs without a better validation loss before training stops
    batch_size: int = 64
    lr: float = 2e-3  # highest rate of the one-cycle schedule
    weight_decay: float = 0.02
    lam: float = 0.1  # weight of the contrastive term, lambda of eq. 5
    noise_mv: float = 0.02  # SD of the noise that is added to beats, and to the windows of rivals, while training
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch_size) < 1:
            raise ValueError(f"epochs, patience and batch_size must be at least 1: {self}")


class Fitted(NamedTuple):
    """A trained model, its predictions for every record of the cohort, and the course of training."""

    model: MultiTask
    predictions: dict[str, np.ndarray]
    history: pd.DataFrame  #: a row an epoch: train, validation, and the validation loss of each task


def _targets(cohort: Cohort, names: Sequence[str]) -> dict[str, Tensor]:
    targets = cohort.targets()
    return {name: torch.from_numpy(targets[name]) for name in names}


def fit(model: MultiTask, inputs: Inputs, cohort: Cohort, config: FitConfig = FitConfig()) -> Fitted:
    """Train on the training folds, stop early on the validation fold, predict everything.

    Scales of inputs and targets are taken from the training part alone. The weights of the best epoch on the
    validation part are kept. The same seed gives the same result on the same machine.

    Raises
    ------
    ValueError
        The cohort has no record to train on, or none to validate on.
    """
    rows = {part: torch.from_numpy(np.flatnonzero(cohort.split == part)) for part in ("train", "validation")}
    for part, index in rows.items():
        if len(index) == 0:
            raise ValueError(f"the cohort {cohort.card.name} has no {part} records; take more folds or more records")
    targets = _targets(cohort, model.tasks)
    model.fit_scales(inputs.take(rows["train"]), {name: target[rows["train"]] for name, target in targets.items()})

    generator = torch.Generator().manual_seed(config.seed)
    batch_size = min(config.batch_size, len(rows["train"]))
    n_batches = len(rows["train"]) // batch_size
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * n_batches + 1)
    best, best_state, since = float("inf"), copy.deepcopy(model.state_dict()), 0
    history: list[dict[str, float]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for epoch in tqdm(range(config.epochs), desc="epochs", disable=None):
            model.train()
            order = rows["train"][torch.randperm(len(rows["train"]), generator=generator)]
            total = 0.0
            for batch in order[: n_batches * batch_size].split(batch_size):
                taken = _noisy(inputs.take(batch), config.noise_mv, model.sees_signal)
                losses = objective(model, model(taken), {k: t[batch] for k, t in targets.items()}, config.lam)
                optimizer.zero_grad()
                losses.total.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += losses.total.item()
            validation = _validation_losses(model, inputs, targets, rows["validation"])
            score = sum(validation.values())
            history.append({"epoch": epoch, "train": total / n_batches, "validation": score, **validation})
            if score < best:
                best, best_state, since = score, copy.deepcopy(model.state_dict()), 0
            else:
                since += 1
                if since >= config.patience:
                    break
    if not np.isfinite(best):
        raise ValueError("the validation loss was never finite; look for broken inputs, or lower the learning rate")
    model.load_state_dict(best_state)
    return Fitted(model.eval(), predict(model, inputs), pd.DataFrame(history))


def _noisy(inputs: Inputs, sd_mv: float, signal_too: bool) -> Inputs:
    """Add noise to the beats, and to the signal where the model looks at it."""
    beats = inputs.beats._replace(beat_BNCL=inputs.beats.beat_BNCL + sd_mv * torch.randn_like(inputs.beats.beat_BNCL))
    if signal_too:
        inputs = inputs._replace(signal_BCT=inputs.signal_BCT + sd_mv * torch.randn_like(inputs.signal_BCT))
    return inputs._replace(beats=beats)


def _forward(model: MultiTask, inputs: Inputs, rows: Tensor) -> list[Output]:
    model.eval()
    with torch.inference_mode():
        return [model(inputs.take(part)) for part in rows.split(256)]


def _validation_losses(model: MultiTask, inputs: Inputs, targets: dict[str, Tensor], rows: Tensor) -> dict[str, float]:
    outputs = _forward(model, inputs, rows)
    logits = {name: torch.cat([output.logits[name] for output in outputs]) for name in targets}
    whole = outputs[0]._replace(logits=logits, contrast=None)
    losses = objective(model, whole, {name: target[rows] for name, target in targets.items()})
    return {name: float(loss) for name, loss in losses.by_task.items()}


def predict(model: MultiTask, inputs: Inputs) -> dict[str, np.ndarray]:
    """Predictions for every record, by task: values (n,), probabilities (n,) or class probabilities (n, classes)."""
    outputs = _forward(model, inputs, torch.arange(inputs.n_records))
    logits = {name: torch.cat([output.logits[name] for output in outputs]) for name in model.tasks}
    with torch.inference_mode():
        return {name: values.numpy() for name, values in model.predict(logits).items()}


def route(model: MultiTask, inputs: Inputs) -> Output:
    """The output for every record at once: gates, attention and logits."""
    model.eval()
    with torch.inference_mode():
        return model(inputs)


def train(
    cohort: Cohort,
    inputs: Inputs,
    *,
    names: Sequence[str] | None = None,
    config: FitConfig = FitConfig(),
    **shape: Any,
) -> Fitted:
    """Build an ECG-MoE for a cohort and fit it: the one call of the chapters and the command line.

    Parameters
    ----------
    cohort : Cohort
    inputs : Inputs
        From :func:`ecgmoe.features.make_inputs` of the same cohort.
    names : sequence of str, optional
        Backbones to use, all of ``inputs`` by default, none with ``()``.
    config : FitConfig
    **shape
        Fields of :class:`~ecgmoe.fusion.ECGMoEConfig` other than those that follow from the inputs.
    """
    names = tuple(inputs.features) if names is None else tuple(names)
    base = ECGMoEConfig(
        d_features={name: inputs.features[name].shape[1] for name in names},
        n_characteristics=inputs.characteristics_BA.shape[1],
        tasks=tuple(cohort.tasks),
        n_leads=inputs.beats.beat_BNCL.shape[2],
        beat_length=inputs.beats.beat_BNCL.shape[3],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ECGMoE(replace(base, **shape))
    return fit(model, inputs, cohort, config)
