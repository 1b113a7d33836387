"""What all models of this book share: what they return, scales fitted on the training part, answers in units of labels.

Shape legend: B records, K tasks, M backbones, D width, A signal characteristics, O outputs of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ecgmoe.features import Inputs
from ecgmoe.tasks import TASKS


class PeriodicOutput(NamedTuple):
    """What the periodic path gives, a task at a time, and how it was routed."""

    feature_BKD: Tensor  #: F_periodic
    gate_BKE: Tensor  #: weights of the experts, g_p of eq. 3; rows sum to 1
    attention_BKN: Tensor  #: weights of the beats; rows sum to 1 less what the empty beat takes


class Load(NamedTuple):
    """Which backbones a router let run on each record, and how probable it held them."""

    chosen_BM: Tensor  #: bool, the same number of them True in every row
    probability_BM: Tensor  #: mean over the requested tasks; rows sum to 1


class Output(NamedTuple):
    """Logits (or standardised values) by task, and how each record was routed."""

    logits: dict[str, Tensor]  #: (B, O) by task name
    path_gate_BK2: Tensor | None = None  #: weights of backbones and periodic path, alpha_m and alpha_p of eq. 4
    backbone_gate_BKM: Tensor | None = None  #: weights of the backbones within F_m
    periodic: PeriodicOutput | None = None
    contrast: tuple[Tensor, Tensor] | None = None  #: embeddings of the two paths, (B, D) each, for the contrastive term
    load: Load | None = None  #: how a router used the backbones


class Standardise(nn.Module):
    """(x - mean) / SD with statistics of the training part, kept as buffers; missing values count as the mean."""

    mean_D: Tensor
    sd_D: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("sd_D", torch.ones(width))

    def fit(self, x_BD: Tensor) -> None:
        """Take the statistics from ``x_BD``, NaN left out. A constant column keeps SD 1."""
        known_BD = torch.isfinite(x_BD)
        count_D = known_BD.sum(0).clamp_min(1)
        x_BD = torch.where(known_BD, x_BD, torch.zeros_like(x_BD))
        self.mean_D.copy_(x_BD.sum(0) / count_D)
        variance_D = ((x_BD - self.mean_D).square() * known_BD).sum(0) / count_D
        self.sd_D.copy_(torch.where(variance_D > 1e-12, variance_D.sqrt(), torch.ones_like(variance_D)))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Standardise; values beyond ten SD are cut there."""
        return ((x_BD - self.mean_D) / self.sd_D).nan_to_num(0.0).clamp(-10, 10)


class MultiTask(nn.Module, ABC):
    """A model that answers several tasks: the contract that training, evaluation and every rival keep.

    Parameters
    ----------
    tasks : tuple of str
        Names of :data:`ecgmoe.tasks.TASKS`.

    Raises
    ------
    ValueError
        For an unknown task, or none.
    """

    positive_weight_K: Tensor  #: weight of class 1 of a binary task, so that both classes weigh the same
    sees_signal: bool = False  #: whether :meth:`forward` looks at ``Inputs.signal_BCT``

    def __init__(self, tasks: tuple[str, ...]):
        super().__init__()
        unknown = [name for name in tasks if name not in TASKS]
        if unknown or not tasks:
            raise ValueError(f"unknown or no tasks {unknown}; known are {list(TASKS)}")
        self.tasks = tasks
        self.scale_target = nn.ModuleDict({name: Standardise(1) for name in tasks if TASKS[name].kind == "regression"})
        self.register_buffer("positive_weight_K", torch.ones(len(tasks)))
        self.temperature = nn.Parameter(torch.tensor(2.0))  # of the contrastive term
        self.log_variance_K = nn.Parameter(torch.zeros(len(tasks)))  # of uncertainty weighting

    @abstractmethod
    def forward(self, inputs: Inputs) -> Output:
        """Predict every task for a batch of records; heads give logits, regressions standardised values."""

    @torch.no_grad()
    def fit_scales(self, inputs: Inputs, targets: Mapping[str, Tensor]) -> None:
        """Take means, SDs and shares of classes from the training part; NaN are left out."""
        for name in self.scale_target:
            self.target_scale(name).fit(targets[name][:, None])
        for k, name in enumerate(self.tasks):
            if TASKS[name].kind == "binary":
                n_positive, n_negative = (targets[name] == 1).sum(), (targets[name] == 0).sum()
                self.positive_weight_K[k] = n_negative.clamp_min(1) / n_positive.clamp_min(1)

    def target_scale(self, name: str) -> Standardise:
        """Scale of a regression's label."""
        return cast(Standardise, self.scale_target[name])

    def predict(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions in the units of the labels: values, probability of class 1, or probabilities of the classes."""
        out: dict[str, Tensor] = {}
        for name, logits_BO in logits.items():
            kind = TASKS[name].kind
            if kind == "regression":
                scale = self.target_scale(name)
                out[name] = logits_BO[:, 0] * scale.sd_D + scale.mean_D
            elif kind == "binary":
                out[name] = logits_BO[:, 0].sigmoid()
            else:
                out[name] = logits_BO.softmax(-1)
        return out

    def n_parameters(self, trainable_only: bool = False) -> int:
        """Number of parameters, all or those that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable_only)
