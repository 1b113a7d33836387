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
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ecgmoe import backbones, beats, cache, variants
from ecgmoe.beats import Beats
from ecgmoe.datasets import Cohort
from ecgmoe.fusion import ECGMoE, ECGMoEConfig, Inputs, Output
from ecgmoe.results import version_of
from ecgmoe.tasks import TASKS

#: Within this many SD of the target a regression's loss is quadratic, beyond it the absolute error that is reported.
SMOOTH_WITHIN_SD = 0.1

#: Records that go through a backbone together.
BATCH = 32


def features_by_depth(cohort: Cohort, name: str, preset: str = "compact", seed: int = 0) -> list[np.ndarray]:
    """Features of a frozen backbone for every record of a cohort, after each of its depths, from one pass.

    Computed once for one cohort and one set of weights, then read from the cache, whichever chapter asks.

    Returns
    -------
    list of ndarray of shape (records, D)
        float32, from the shallowest depth to the deepest.
    """
    backbone = backbones.build(name, preset=preset, seed=seed)
    packages = {package: version_of(package) for package in ("torch", "transformers", "momentfm")}
    weights = backbones.weights_digest(backbone)
    key = {"data": cohort.digest, "backbone": name, "weights": weights, "packages": packages, "depths": "all"}

    def compute() -> dict[str, np.ndarray]:
        out = [np.empty((len(cohort), backbone.d_features), np.float32) for _ in range(backbone.n_depths)]
        with torch.inference_mode(), tqdm(total=len(cohort), desc=f"features of {name}", disable=None) as bar:
            for start in range(0, len(cohort), BATCH):
                signal = torch.from_numpy(cohort.signal[start : start + BATCH])
                for depth, found in enumerate(backbone.encode(backbone.adapt(signal, cohort.fs))):
                    out[depth][start : start + BATCH] = found.numpy()
                bar.update(len(signal))
        return {str(depth): values for depth, values in enumerate(out)}

    found = cache.cached("features", key, compute)
    return [found[str(depth)] for depth in range(backbone.n_depths)]


def backbone_features(
    cohort: Cohort, names: Sequence[str] = backbones.NAMES, preset: str = "compact", seed: int = 0
) -> dict[str, np.ndarray]:
    """Features of frozen backbones at their deepest, (records, D_k) float32 by name: :func:`features_by_depth`."""
    return {name: features_by_depth(cohort, name, preset, seed)[-1] for name in names}


def make_inputs(
    cohort: Cohort,
    names: Sequence[str] = backbones.NAMES,
    preset: str = "compact",
    seed: int = 0,
    *,
    beat_length: int = 64,
    max_beats: int = 16,
    beat_window: tuple[float, float] | None = (0.28, 0.48),
) -> Inputs:
    """Everything ECG-MoE sees of a cohort: backbone features, beats, equal windows, signal characteristics."""
    peaks = beats.detect_r_peaks(cohort.signal, cohort.fs)
    features = backbone_features(cohort, names, preset, seed)
    return Inputs(
        {name: torch.from_numpy(feature) for name, feature in features.items()},
        beats.segment_beats(
            cohort.signal, cohort.fs, peaks, length=beat_length, max_beats=max_beats, window=beat_window
        ),
        variants.equal_windows(cohort.signal, cohort.fs, max_beats, beat_length),
        torch.from_numpy(beats.characteristics(cohort.signal, cohort.fs, peaks)),
    )


class Losses(NamedTuple):
    """The terms of eq. 5, each a scalar; tasks without a label in the batch contribute zero."""

    total: Tensor
    by_task: dict[str, Tensor]
    contrastive: Tensor


def objective(model: ECGMoE, output: Output, targets: dict[str, Tensor], lam: float = 0.1) -> Losses:
    """Equation 5: the sum of the task losses plus ``lam`` times the contrastive term.

    Parameters
    ----------
    model : ECGMoE
        Holds the scales of the regression targets.
    output : Output
    targets : dict of str to Tensor
        (B,) by task, NaN where a label is missing: such records do not count for that task.
    lam : float
        lambda of eq. 5.

    Notes
    -----
    Regression: absolute error of standardised targets, smoothed near zero (raw milliseconds squared would swamp the
    rest; a target of shape (B,) is compared with a prediction of shape (B,), never broadcast to (B, B)). Classes:
    cross entropy, for binary tasks with both classes weighing the same in all (the headline metric is macro-F1).
    Contrastive term: symmetric InfoNCE; the two paths' embeddings of one record are the positive pair, the other
    records of the batch the negatives (the paper does not define its pairs).
    """
    by_task: dict[str, Tensor] = {}
    for name, logits_BO in output.logits.items():
        known_B = torch.isfinite(targets[name])
        if not known_B.any():
            by_task[name] = logits_BO.sum() * 0.0
            continue
        logits_BO, target_B = logits_BO[known_B], targets[name][known_B]
        kind = TASKS[name].kind
        if kind == "regression":
            standard_B = model.scale_target[name](target_B[:, None])[:, 0]
            by_task[name] = F.smooth_l1_loss(logits_BO[:, 0], standard_B, beta=SMOOTH_WITHIN_SD)
        elif kind == "binary":
            weight = model.positive_weight_K[model.config.tasks.index(name)]
            by_task[name] = F.binary_cross_entropy_with_logits(logits_BO[:, 0], target_B, pos_weight=weight)
        else:
            by_task[name] = F.cross_entropy(logits_BO, target_B.long())
    total = torch.stack(list(by_task.values())).sum()
    contrastive = total.new_zeros(())
    if output.contrast is not None and len(output.path_gate_BK2) > 1:
        a_BD, b_BD = (F.normalize(side_BD, dim=-1) for side_BD in output.contrast)
        similarity_BB = a_BD @ b_BD.T * model.temperature.exp().clamp(max=100)
        own_B = torch.arange(len(a_BD), device=a_BD.device)
        contrastive = (F.cross_entropy(similarity_BB, own_B) + F.cross_entropy(similarity_BB.T, own_B)) / 2
        total = total + lam * contrastive
    return Losses(total, by_task, contrastive)


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

    model: ECGMoE
    predictions: dict[str, np.ndarray]
    history: pd.DataFrame  #: a row an epoch: train, validation, and the validation loss of each task


def _targets(cohort: Cohort, names: Sequence[str]) -> dict[str, Tensor]:
    targets = cohort.targets()
    return {name: torch.from_numpy(targets[name]) for name in names}


def fit(model: ECGMoE, inputs: Inputs, cohort: Cohort, config: FitConfig = FitConfig()) -> Fitted:
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
    targets = _targets(cohort, model.config.tasks)
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
                taken = inputs.take(batch)
                taken = taken._replace(
                    beats=_noisy(taken.beats, config.noise_mv), windows=_noisy(taken.windows, config.noise_mv)
                )
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


def _noisy(beats: Beats, sd_mv: float) -> Beats:
    return beats._replace(beat_BNCL=beats.beat_BNCL + sd_mv * torch.randn_like(beats.beat_BNCL))


def _forward(model: ECGMoE, inputs: Inputs, rows: Tensor) -> list[Output]:
    model.eval()
    with torch.inference_mode():
        return [model(inputs.take(part)) for part in rows.split(256)]


def _validation_losses(model: ECGMoE, inputs: Inputs, targets: dict[str, Tensor], rows: Tensor) -> dict[str, float]:
    outputs = _forward(model, inputs, rows)
    logits = {name: torch.cat([output.logits[name] for output in outputs]) for name in targets}
    whole = outputs[0]._replace(logits=logits, contrast=None)
    losses = objective(model, whole, {name: target[rows] for name, target in targets.items()})
    return {name: float(loss) for name, loss in losses.by_task.items()}


def predict(model: ECGMoE, inputs: Inputs) -> dict[str, np.ndarray]:
    """Predictions for every record, by task: values (n,), probabilities (n,) or class probabilities (n, classes)."""
    outputs = _forward(model, inputs, torch.arange(len(inputs.characteristics_BA)))
    logits = {name: torch.cat([output.logits[name] for output in outputs]) for name in model.config.tasks}
    with torch.inference_mode():
        return {name: values.numpy() for name, values in model.predict(logits).items()}


def route(model: ECGMoE, inputs: Inputs) -> Output:
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
        From :func:`make_inputs` of the same cohort.
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
        n_windows=inputs.windows.mask_BN.shape[1],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ECGMoE(replace(base, **shape))
    return fit(model, inputs, cohort, config)
