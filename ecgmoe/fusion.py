"""ECG-MoE: backbone features (eq. 1, 2), periodic features (eq. 3), gated fusion (eq. 4), LoRA and five heads.

Shape legend: B records, M backbones, P projected width, D width, K tasks, A signal characteristics,
O outputs of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from ecgmoe import moe, variants
from ecgmoe.beats import N_RR_CHARACTERISTICS
from ecgmoe.features import Inputs
from ecgmoe.multitask import MultiTask, Output, PeriodicOutput, Standardise
from ecgmoe.tasks import TASKS

#: What the choices of :class:`ECGMoEConfig` that are words may be.
_CHOICES = {
    "periodic": ("experts", *variants.RIVALS, "none"),
    "fusion": ("concat", "sum"),
    "characteristics": ("all", "no_rr", "none"),
    "lora": ("fusion", "none"),
}


@dataclass(frozen=True)
class ECGMoEConfig:
    """Shape of an ECG-MoE and the choices that the paper leaves open."""

    d_features: Mapping[str, int]  # width of each backbone's feature vector; empty: no backbones
    n_characteristics: int = 35
    tasks: tuple[str, ...] = tuple(TASKS)
    periodic: Literal["experts", "moe", "time_moe", "self_attention", "cross_attention", "none"] = "experts"
    fusion: Literal["concat", "sum"] = "concat"  # the two readings of the circled plus of eq. 4
    # What gates and heads see of the signal characteristics; no_rr hides RR intervals, from the rhythm experts too.
    characteristics: Literal["all", "no_rr", "none"] = "all"
    lora: Literal["fusion", "none"] = "none"  # fusion: its layers stay at their random start, LoRA learns beside them
    lora_rank: int = 8
    lora_alpha: int = 32
    width: int = 64
    d_task: int = 16
    n_leads: int = 12
    beat_length: int = 64  # of the windows of a rival, which sees sixteen of them
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.d_features and self.periodic == "none":
            raise ValueError("nothing to learn from: give backbones in d_features, or a periodic path")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}; known are {', '.join(known)}")


def _standardise(scales: nn.ModuleDict, name: str) -> Standardise:
    return cast(Standardise, scales[name])


class ECGMoE(MultiTask):
    """The whole model over cached backbone features.

    Equation 2 projects each backbone's features and concatenates them, weighted by a gate a task. Equation 4 weighs
    the result against the periodic features by a second, task-conditioned gate (a softmax: the two weights sum to 1,
    doubled so that equal weights leave both paths at their own scale) and joins them by concatenation or sum. A head
    adds a linear map of the signal characteristics to that of the fused features; it starts at zero for classes and
    at the linear solution of least absolute error for regressions (:meth:`fit_scales`).
    """

    def __init__(self, config: ECGMoEConfig):
        super().__init__(config.tasks)
        self.config = c = config
        self.sees_signal = c.periodic in variants.RIVALS
        K, names = len(c.tasks), list(c.d_features)
        self.task = nn.Embedding(K, c.d_task)
        self.scale_characteristics = Standardise(c.n_characteristics)
        self.scale_features = nn.ModuleDict({name: Standardise(width) for name, width in c.d_features.items()})
        self.project = nn.ModuleDict({name: nn.Linear(width, c.width // 2) for name, width in c.d_features.items()})
        self.backbone_gate = moe.TaskGate(c.n_characteristics, c.d_task, len(names)) if names else None
        self.from_backbones = nn.Linear(len(names) * (c.width // 2), c.width) if names else None
        self.periodic: nn.Module | None = None
        if c.periodic == "experts":
            self.periodic = moe.PeriodicExperts(
                c.n_leads, c.n_characteristics, c.d_task, c.width, rr_inputs=c.characteristics == "all"
            )
        elif c.periodic != "none":
            rival = variants.RIVALS[c.periodic]
            self.periodic = rival(c.n_leads, c.beat_length, variants.N_WINDOWS, c.d_task, width=c.width)
        two_paths = bool(names) and self.periodic is not None
        self.path_gate = moe.TaskGate(c.n_characteristics, c.d_task, 2) if two_paths else None
        d_fused = 2 * c.width if two_paths and c.fusion == "concat" else c.width
        self.fuse = nn.Linear(d_fused, 2 * c.width)
        self.after = nn.Sequential(nn.LayerNorm(2 * c.width), nn.GELU(), nn.Dropout(c.dropout))
        self.heads = nn.ModuleDict({name: nn.Linear(2 * c.width, TASKS[name].n_outputs) for name in c.tasks})
        self.shortcut = nn.ModuleDict({name: nn.Linear(c.n_characteristics, TASKS[name].n_outputs) for name in c.tasks})
        for start in self.shortcut.parameters():
            nn.init.zeros_(start)
        if c.lora == "fusion":
            self._add_lora()

    def _add_lora(self) -> None:
        """Freeze the fusion's linear maps and learn a low-rank change of each (Hu et al. 2021), by peft."""
        lora = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            lora_dropout=0.05,
            target_modules=r"project\..+|from_backbones|fuse",
        )
        inject_adapter_in_model(lora, self)
        for name, parameter in self.named_parameters():
            parameter.requires_grad = ".base_layer." not in name

    @torch.no_grad()
    def fit_scales(self, inputs: Inputs, targets: Mapping[str, Tensor]) -> None:
        """Take every mean and SD from the training part, and start regressions at their least absolute error.

        What a linear map of the signal characteristics can tell (above all the RR interval) need not be found by
        gradient descent; the mixture learns the rest.
        """
        super().fit_scales(inputs, targets)
        self.scale_characteristics.fit(inputs.characteristics_BA)
        for name in self.scale_features:
            _standardise(self.scale_features, name).fit(inputs.features[name])
        x_BA = self.characteristics(inputs)
        for name in self.scale_target:
            scale = self.target_scale(name)
            known_B = torch.isfinite(targets[name])
            if not known_B.any():
                continue
            x_XA, y_X1 = x_BA[known_B].double(), scale(targets[name][known_B][:, None]).double()
            penalty_AA = 1e-4 * len(x_XA) * torch.eye(x_XA.shape[1], dtype=torch.double, device=x_XA.device)
            weight_X1 = torch.ones_like(y_X1)
            for _ in range(20):  # iteratively reweighted least squares: unreadable records must not bend the line
                solution_A1 = torch.linalg.solve(x_XA.T @ (weight_X1 * x_XA) + penalty_AA, x_XA.T @ (weight_X1 * y_X1))
                weight_X1 = 1 / (y_X1 - x_XA @ solution_A1).abs().clamp_min(1e-2)
            cast(nn.Linear, self.shortcut[name]).weight.copy_(solution_A1.T)

    def characteristics(self, inputs: Inputs) -> Tensor:
        """Standardised signal characteristics (B, A); what the model may not see of them is zero."""
        x_BA = self.scale_characteristics(inputs.characteristics_BA)
        hidden = {"all": 0, "no_rr": N_RR_CHARACTERISTICS, "none": x_BA.shape[1]}[self.config.characteristics]
        return torch.cat([torch.zeros_like(x_BA[:, :hidden]), x_BA[:, hidden:]], 1)

    def forward(self, inputs: Inputs) -> Output:
        """Predict every task for a batch of records; heads give logits, regressions standardised values."""
        c = self.config
        x_BA = self.characteristics(inputs)
        task_KD = self.task.weight
        B, K = len(x_BA), len(task_KD)
        paths: list[Tensor] = []
        backbone_gate_BKM = x_BA.new_zeros(B, K, 0)
        if self.backbone_gate is not None and self.from_backbones is not None:
            projected = [self.project[name](self.scale_features[name](inputs.features[name])) for name in c.d_features]
            projected_BMP = torch.stack(projected, 1)
            backbone_gate_BKM = self.backbone_gate(x_BA, task_KD)
            weighted_BKMP = projected_BMP[:, None] * backbone_gate_BKM[..., None] * len(projected)
            paths.append(self.from_backbones(weighted_BKMP.flatten(2)))
        periodic: PeriodicOutput | None = None
        if self.periodic is not None:
            periodic = self.periodic(inputs, x_BA, task_KD)
            paths.append(periodic.feature_BKD)
        path_gate_BK2 = x_BA.new_ones(B, K, 2)
        contrast = None
        if self.path_gate is not None:
            path_gate_BK2 = self.path_gate(x_BA, task_KD)
            contrast = (paths[0].mean(1), paths[1].mean(1))
            paths = [2 * path_gate_BK2[..., i : i + 1] * path_BKD for i, path_BKD in enumerate(paths)]
        fused_BKD = torch.cat(paths, -1) if c.fusion == "concat" else torch.stack(paths).sum(0)
        fused_BKD = self.after(self.fuse(fused_BKD))
        logits = {name: self.heads[name](fused_BKD[:, k]) + self.shortcut[name](x_BA) for k, name in enumerate(c.tasks)}
        return Output(logits, path_gate_BK2, backbone_gate_BKM, periodic, contrast)
