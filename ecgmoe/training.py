"""Training of any model of this book: one process or several, resumed after a kill to the same result.

Each process takes its share of every batch, and their gradients are added up (:mod:`ecgmoe.processes`). Everything
random follows from the seed, the epoch and the number of the process.

Shape legend: B records.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor
from tqdm import tqdm

from ecgmoe import backbones, processes, run_folder
from ecgmoe.beats import Beats
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.fusion import IN_LOOP, ECGMoE, ECGMoEConfig
from ecgmoe.multitask import MultiTask, Output
from ecgmoe.objective import Step, objective
from ecgmoe.records import InputError

#: What the choices of :class:`FitConfig` that are words may be.
_CHOICES = {
    "weighting": ("fixed", "uncertainty"),
    "contrast": ("record", "patient", "views"),
    "precision": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class FitConfig:
    """How a model is trained; the defaults are those of ECG-MoE, and rows of the ablation that differ say so."""

    epochs: int = 20
    patience: int = 8  # epochs without a better validation loss before training stops
    # Learn from the validation part too: for all epochs, since nothing is left that could stop training, and the last
    # weights are kept. How many epochs was chosen before, without.
    refit: bool = False
    batch_size: int = 64  # most records of a step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches of a step; contrast and a router's balance compare within a micro-batch
    lr: float = 2e-3  # highest rate of the one-cycle schedule
    lr_backbones: float = 2e-4  # the same for backbones, where they are trained
    weight_decay: float = 0.02
    weighting: Literal["fixed", "uncertainty"] = "fixed"  # of the tasks
    lam: float = 0.1  # weight of the contrastive term, lambda of eq. 5
    # Positives are both paths of a record. patient: also those of its patient's other records. views: also those of a
    # second noisy view of the record.
    contrast: Literal["record", "patient", "views"] = "record"
    balance: float = 0.01  # weight of a router's balance over backbones
    noise_mv: float = 0.02  # SD of the noise that is added to beats, and to the signal where the model looks at it
    beats: int = 6  # successive beats of a record that training looks at, anew each epoch; predictions see all
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products while training
    chunk: int = 256  # records of a pass when nothing is learnt
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch_size, self.accumulate, self.beats, self.chunk) < 1:
            raise ValueError(f"epochs, patience, batch_size, accumulate, beats and chunk must be at least 1: {self}")
        if (
            min(self.weight_decay, self.lam, self.balance, self.noise_mv, self.seed) < 0
            or min(self.lr, self.lr_backbones) <= 0
        ):
            raise ValueError(
                f"learning rates must be above 0; weight_decay, lam, balance, noise_mv and seed not below it: {self}"
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}; known are {', '.join(known)}")


class Fitted(NamedTuple):
    """A trained model, its predictions for every record of the cohort, and the course of training."""

    model: MultiTask
    predictions: dict[str, np.ndarray]
    history: pd.DataFrame  #: a row an epoch: train, validation, and the validation loss of each task


def fit(
    model: MultiTask, inputs: Inputs, cohort: Cohort, config: FitConfig = FitConfig(), folder: Path | None = None
) -> Fitted:
    """Train on the training folds, stop early on the validation fold, predict everything.

    Scales of inputs and targets are taken from the training part alone. The weights of the best epoch on the
    validation part are kept; of a refit, which learns from both parts, the last ones. The same
    seed gives the same result on the same machine; with several processes each step equals that of one process but for
    rounding, and for dropout and noise.

    Parameters
    ----------
    model : MultiTask
        Trained in place; stays on its device afterwards, wherever it was trained.
    inputs : Inputs
        Of the whole cohort; they may lie on the CPU while the model is trained on a GPU.
    cohort : Cohort
    config : FitConfig
    folder : Path, optional
        Keeps checkpoints and metrics (:mod:`ecgmoe.run_folder`). The same call after a kill goes on with the epoch that
        was not finished, to the same result; after the end it returns that result.

    Raises
    ------
    ValueError
        The cohort has no record to train on, or none to validate on; batches are too small to be split; the folder
        holds another run; the validation loss was never finite.
    """
    state = processes.started()
    home = next(model.parameters()).device
    generators = torch.random.fork_rng(devices=[state.device] if state.device.type == "cuda" else [])
    with run_folder.claimed(folder, lambda: run_folder.about(model, inputs, cohort, asdict(config)), state), generators:
        fitted = _Training(model, inputs, cohort, config, state).run(folder)
    model.to(home)
    return fitted


class _Training:
    """A model on its way: what it learns from, its optimiser, and the epochs that are behind it."""

    def __init__(self, model: MultiTask, inputs: Inputs, cohort: Cohort, config: FitConfig, state: PartialState):
        self.model, self.inputs, self.config, self.state = model, inputs, config, state
        self.rows = {part: torch.from_numpy(np.flatnonzero(cohort.split == part)) for part in ("train", "validation")}
        if config.refit:
            self.rows["train"] = torch.cat([self.rows["train"], self.rows["validation"]]).sort().values
        for part, rows in self.rows.items():
            if len(rows) == 0:
                raise InputError(
                    f"the cohort {cohort.card.name} has no {part} records; take more folds or more records"
                )
        self.n_steps = -(-len(self.rows["train"]) // config.batch_size)
        smallest, shares = len(self.rows["train"]) // self.n_steps, config.accumulate * state.num_processes
        if smallest < shares:
            raise InputError(
                f"batches of {smallest} records cannot be shared by {config.accumulate} micro-batches on "
                f"{state.num_processes} processes; take a larger batch_size or less of them"
            )
        by_name = cohort.targets()
        self.targets = {name: torch.from_numpy(by_name[name]) for name in model.tasks}
        self.group = torch.arange(len(cohort))  # records with the same number are positives of each other
        if config.contrast == "patient":
            self.group = torch.from_numpy(pd.factorize(cohort.table["patient_id"])[0])
        self._fit_scales()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(model, config)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            [group["lr"] for group in self.optimizer.param_groups],
            total_steps=config.epochs * self.n_steps + 1,
        )
        self.history: list[dict[str, float]] = []
        self.best = _weights(model)

    def _fit_scales(self) -> None:
        """Take scales from the training part where the inputs lie, then go where training takes place."""
        at, rows = self.inputs.characteristics_BA.device, self.rows["train"]
        targets = {name: target[rows].to(at) for name, target in self.targets.items()}
        self.model.to(at).fit_scales(self.inputs.take(rows), targets)
        self.model.to(self.state.device)
        processes.share(self.model.state_dict().values())

    def run(self, folder: Path | None) -> Fitted:
        """Go on from the latest checkpoint to the end."""
        config, main = self.config, self.state.is_main_process
        at = None if folder is None else run_folder.latest(folder)
        if at is not None and at.name == run_folder.FINISHED:
            kept, files = run_folder.load(at)
            self.model.load_state_dict(files["weights"], strict=False)
            predictions = {name: values.numpy() for name, values in files["predictions"].items()}
            return Fitted(self.model.eval(), predictions, pd.DataFrame(kept["history"]))
        if at is not None:
            kept, files = run_folder.load(at)
            self.model.load_state_dict(files["last"], strict=False)
            self.best, self.history = files["best"], kept["history"]
            self.optimizer.load_state_dict(kept["optimizer"])
            self.schedule.load_state_dict(kept["schedule"])
        self.state.wait_for_everyone()
        folder = folder if main else None
        bar = tqdm(total=config.epochs, initial=len(self.history), desc="epochs", disable=None if main else True)
        with bar, _log(folder, len(self.history)) as log:
            while len(self.history) < config.epochs and (config.refit or self._since_best() < config.patience):
                self._epoch()
                bar.update()
                bar.set_postfix({key: f"{self.history[-1][key]:.3f}" for key in ("train", "validation")})
                if folder is not None:
                    self._keep(folder, log)
        if not np.isfinite([row["validation"] for row in self.history]).any():
            raise InputError("the validation loss was never finite; look for broken inputs, or lower the learning rate")
        self.model.load_state_dict(self.best, strict=False)
        logits = self._logits(torch.arange(self.inputs.n_records))
        predictions = _answers(self.model, logits)
        if folder is not None:
            files = {"weights": self.best, "predictions": {k: torch.from_numpy(v) for k, v in predictions.items()}}
            run_folder.save(folder, run_folder.FINISHED, {"history": self.history}, files)
        return Fitted(self.model.eval(), predictions, pd.DataFrame(self.history))

    def _keep(self, folder: Path, log: Any) -> None:
        """Write the checkpoint of an epoch, then its metrics."""
        kept = {
            "history": self.history,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        name = f"checkpoint-{len(self.history)}"
        run_folder.save(folder, name, kept, {"last": _weights(self.model), "best": self.best})
        run_folder.write_metrics(folder, self.history)
        for key, value in self.history[-1].items():
            log.add_scalar(key, value, len(self.history))
        log.flush()

    def _since_best(self) -> int:
        """Epochs since the best on the validation part."""
        scores = [row["validation"] for row in self.history]
        best = min(range(len(scores)), key=lambda i: scores[i] if np.isfinite(scores[i]) else np.inf, default=0)
        return max(0, len(scores) - 1 - best)

    def _seed(self, *more: int) -> int:
        """A seed of this epoch."""
        return int(np.random.SeedSequence([self.config.seed, len(self.history), *more]).generate_state(1)[0])

    def _batches(self) -> Sequence[Tensor]:
        """All training records in a new order, positives side by side, in batches that differ by one record at most."""
        rows = self.rows["train"]
        generator = torch.Generator().manual_seed(self._seed())
        place = torch.randperm(int(self.group.max()) + 1, generator=generator)
        return rows[place[self.group[rows]].argsort(stable=True)].tensor_split(self.n_steps)

    def _epoch(self) -> None:
        """One epoch of training and its validation."""
        self.model.train()
        batches = self._batches()
        self.place = torch.rand(len(self.group), generator=torch.Generator().manual_seed(self._seed(0)))
        torch.manual_seed(self._seed(1 + self.state.process_index))
        total = torch.zeros((), device=self.state.device)
        for batch in batches:
            total += self._step(batch)
        train = float(reduce(total, "sum")) / self.n_steps
        rows = self.rows["validation"]
        targets = {name: target[rows].to(self.state.device) for name, target in self.targets.items()}
        with torch.inference_mode():
            by_task = objective(self.model, Output(self._logits(rows)), targets).by_task
        validation = {name: float(loss) for name, loss in by_task.items()}
        row = {"epoch": len(self.history), "train": train, "validation": sum(validation.values()), **validation}
        self.history += broadcast_object_list([row])  # the main process decides when to stop
        if self.config.refit or self._since_best() == 0:
            self.best = _weights(self.model)

    def _step(self, batch: Tensor) -> Tensor:
        """One step of the optimiser: gradients of all micro-batches and processes, added up."""
        config, device = self.config, self.state.device
        copies = 2 if config.contrast == "views" else 1
        n_labelled = {name: copies * int(target[batch].isfinite().sum()) for name, target in self.targets.items()}
        for p in self.parameters:
            p.grad = torch.zeros_like(p)  # never absent: which parameters a batch uses may differ between processes
        total = torch.zeros((), device=device)
        for micro in batch.tensor_split(config.accumulate):
            shares = [share.repeat(copies) for share in micro.tensor_split(self.state.num_processes)]
            own = shares[self.state.process_index]
            inputs = _shortened(self.inputs.take(own), config.beats, self.place[own])
            if self.model.sees_signal:
                inputs = _turned(inputs, self.place[own])
            inputs = _noisy(inputs.to(device), config.noise_mv, self.model.sees_signal)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = self.model(inputs)
            losses = objective(
                self.model,
                output,
                {name: target[own].to(device) for name, target in self.targets.items()},
                config.lam,
                weighting=config.weighting,
                balance=config.balance,
                group_B=self.group[own].to(device),
                step=Step(n_labelled, copies * len(batch), processes.gatherer([len(share) for share in shares])),
            )
            losses.total.backward()
            total += losses.total.detach()
        processes.add_up([p.grad for p in self.parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        return total

    def _logits(self, rows: Tensor) -> dict[str, Tensor]:
        """Logits of records, each process computing its share, given to all."""
        own = rows.tensor_split(self.state.num_processes)[self.state.process_index]
        return _join(gather_object(_forward(self.model, self.inputs, own, self.config.chunk)), self.state.device)


def _optimizer(model: MultiTask, config: FitConfig) -> torch.optim.Optimizer:
    """AdamW; what belongs to the objective and not to the model does not decay."""
    own: dict[str, list[Tensor]] = {"model": [], "backbones": [], "objective": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_objective = name in ("temperature", "log_variance_K")
            own["objective" if of_objective else "backbones" if name.startswith("networks.") else "model"].append(
                parameter
            )
    groups = [
        {"params": own["model"], "weight_decay": config.weight_decay, "lr": config.lr},
        {"params": own["backbones"], "weight_decay": config.weight_decay, "lr": config.lr_backbones},
        {"params": own["objective"], "weight_decay": 0.0, "lr": config.lr},
    ]
    # A gradient of nothing but rounding must not move a weight: rounding differs with the number of processes.
    return torch.optim.AdamW([group for group in groups if group["params"]], eps=1e-6)


def _log(folder: Path | None, n_epochs: int) -> AbstractContextManager[Any]:
    """TensorBoard's log, without what a killed run had written after its last checkpoint."""
    if folder is None:
        return nullcontext()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder / "tensorboard", purge_step=n_epochs + 1)


def _weights(model: MultiTask) -> dict[str, Tensor]:
    """A copy of everything that training may change: all but frozen parameters."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {k: tensor.detach().cpu().clone() for k, tensor in model.state_dict().items() if k not in frozen}


def _shortened(inputs: Inputs, n_beats: int, place_B: Tensor) -> Inputs:
    """A run of successive beats of each record, at a place from 0 (its first) to 1 (its last).

    Beats are most of the cost, and each run is another view of the record.
    """
    beats = inputs.beats
    spare_B = (beats.mask_BN.sum(1).cpu() - n_beats).clamp_min(0)
    start_B = (place_B * (spare_B + 1)).long().clamp(max=spare_B)
    at_BN = start_B[:, None] + torch.arange(min(n_beats, beats.mask_BN.shape[1]))
    rows_B1 = torch.arange(len(spare_B))[:, None]
    return inputs._replace(beats=Beats(*(part[rows_B1, at_BN] for part in beats)))


def _turned(inputs: Inputs, place_B: Tensor) -> Inputs:
    """Each recording from a place (0 its start, 1 its end) to its end, and from its start to there.

    What matters in ten seconds is not where they begin. Of the ResNet's validation loss on PTB-XL this takes 0.07.
    """
    T = inputs.signal_BCT.shape[-1]
    at_BT = (torch.arange(T) + (place_B[:, None] * T).long()) % T
    at_BCT = at_BT[:, None].expand(inputs.signal_BCT.shape).to(inputs.signal_BCT.device)
    return inputs._replace(signal_BCT=inputs.signal_BCT.gather(2, at_BCT))


def _noisy(inputs: Inputs, sd_mv: float, signal_too: bool) -> Inputs:
    """Add noise to the beats, and to the signal where the model looks at it."""
    beats = inputs.beats._replace(beat_BNCL=inputs.beats.beat_BNCL + sd_mv * torch.randn_like(inputs.beats.beat_BNCL))
    if signal_too:
        inputs = inputs._replace(signal_BCT=inputs.signal_BCT + sd_mv * torch.randn_like(inputs.signal_BCT))
    return inputs._replace(beats=beats)


def _forward(model: MultiTask, inputs: Inputs, rows: Tensor, chunk: int) -> list[dict[str, Tensor]]:
    """Logits of records, a chunk at a time, on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        outputs = [model(inputs.take(part).to(device)) for part in rows.split(chunk) if len(part)]
        return [{name: logits.float().cpu() for name, logits in output.logits.items()} for output in outputs]


def _join(chunks: Sequence[Mapping[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.cat([chunk[name] for chunk in chunks]).to(device) for name in chunks[0]}


def _answers(model: MultiTask, logits: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {name: values.cpu().numpy() for name, values in model.predict(logits).items()}


def best_epoch(fitted: Fitted) -> int:
    """How many epochs led to the weights that were kept: what a refit takes over."""
    return 1 + int(fitted.history["validation"].argmin())


def predict(model: MultiTask, inputs: Inputs, chunk: int = 256) -> dict[str, np.ndarray]:
    """Predictions for every record, by task: values (n,), probabilities (n,) or class probabilities (n, classes).

    ``chunk`` records pass at a time, on the device of the model.
    """
    chunks = _forward(model, inputs, torch.arange(inputs.n_records), chunk)
    return _answers(model, _join(chunks, next(model.parameters()).device))


def route(model: MultiTask, inputs: Inputs) -> Output:
    """The output for every record at once: gates, attention and logits."""
    model.eval()
    with torch.inference_mode():
        return model(inputs.to(next(model.parameters()).device))


def train(
    cohort: Cohort,
    inputs: Inputs,
    *,
    names: Sequence[str] | None = None,
    config: FitConfig = FitConfig(),
    folder: Path | None = None,
    start: MultiTask | None = None,
    **shape: Any,
) -> Fitted:
    """Build an ECG-MoE for a cohort and fit it: the one call of the chapters and the command line.

    Backbones that are trained start from the weights of ``preset``, those that the features of ``inputs`` come from.

    Parameters
    ----------
    cohort : Cohort
    inputs : Inputs
        From :func:`ecgmoe.features.make_inputs` of the same cohort.
    names : sequence of str, optional
        Backbones to use, all of ``inputs`` by default, none with ``()``.
    config : FitConfig
    folder : Path, optional
        As for :func:`fit`.
    start : MultiTask, optional
        A trained ECG-MoE of the same shape with its backbones frozen: training goes on from its weights.
    **shape
        Fields of :class:`~ecgmoe.fusion.ECGMoEConfig` other than those that follow from the inputs.

    Raises
    ------
    ValueError
        As :func:`fit` and :class:`~ecgmoe.fusion.ECGMoEConfig` do, or ``start`` is of another shape.
    """
    names = tuple(inputs.features) if names is None else tuple(names)
    base = ECGMoEConfig(
        d_features={name: inputs.features[name].shape[1] for name in names},
        n_characteristics=inputs.characteristics_BA.shape[1],
        tasks=tuple(cohort.tasks),
        n_leads=inputs.beats.beat_BNCL.shape[2],
        fs=inputs.fs,
        beat_length=inputs.beats.beat_BNCL.shape[3],
        max_beats=inputs.beats.beat_BNCL.shape[1],
        beat_window=inputs.beat_window,
    )
    built = replace(base, **shape)
    in_loop = (built.tuned or names) if built.lora in IN_LOOP else ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ECGMoE(built, {name: backbones.build(name, built.preset, inputs.seed) for name in in_loop})
    if start is not None:
        kept, own = start.state_dict(), model.state_dict()
        odd = {name for name in own if not name.startswith("networks.")} ^ set(kept)
        odd |= {name for name in own.keys() & kept.keys() if own[name].shape != kept[name].shape}
        if odd:
            raise ValueError(f"start is of another shape: {', '.join(sorted(odd)[:3])}, ...")
        model.load_state_dict(kept, strict=False)
    return fit(model, inputs, cohort, config, folder)
