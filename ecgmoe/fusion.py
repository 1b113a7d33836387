"""ECG-MoE: backbone features (eq. 1, 2), periodic features (eq. 3), gated fusion (eq. 4), LoRA and five heads.

Shape legend: B records, M backbones, P projected width, D width, K tasks, A signal characteristics,
O outputs of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from ecgmoe import backbones, linear, moe, routing, variants
from ecgmoe.backbones import Backbone
from ecgmoe.beats import N_RR_CHARACTERISTICS
from ecgmoe.features import Inputs
from ecgmoe.multitask import MultiTask, Output, PeriodicOutput, Standardise
from ecgmoe.tasks import TASKS

#: What the choices of :class:`ECGMoEConfig` that are words may be.
_CHOICES = {
    "periodic": ("experts", *variants.RIVALS, "none"),
    "fusion": ("concat", "sum"),
    "characteristics": ("all", "no_rr", "none"),
    "lora": ("none", "fusion", "backbone", "both", "full"),
    "preset": backbones.PRESETS,
}

#: Placements of LoRA that change backbones, so that these run in the training loop instead of being cached.
IN_LOOP = ("backbone", "both", "full")


@dataclass(frozen=True)
class ECGMoEConfig:
    """Shape of an ECG-MoE and the choices that the paper leaves open."""

    d_features: Mapping[str, int]  # width of each backbone's feature vector; empty: no backbones
    n_characteristics: int = 43
    tasks: tuple[str, ...] = tuple(TASKS)
    periodic: Literal["experts", "moe", "time_moe", "self_attention", "cross_attention", "none"] = "experts"
    fusion: Literal["concat", "sum"] = "concat"  # the two readings of the circled plus of eq. 4
    # What gates and heads see of the signal characteristics; no_rr hides RR intervals, from the rhythm experts too.
    characteristics: Literal["all", "no_rr", "none"] = "all"
    line: bool = True  # whether regressions start from their line over the signal characteristics, or from the mean
    # What is trained. none: the fusion in full, backbones frozen. fusion: its layers stay at their random start, LoRA
    # learns beside them. backbone: the fusion in full, and LoRA in the attention of backbones. both: LoRA in fusion and
    # backbones. full: everything.
    lora: Literal["none", "fusion", "backbone", "both", "full"] = "none"
    tuned: tuple[str, ...] = ()  # backbones that are trained where lora says so; all by default
    lora_rank: int = 8
    lora_alpha: int = 32
    top_k: int = 0  # backbones that run a record, chosen by a router from its raw signal; 0: all, weighed by a gate
    preset: str = "compact"  # size and weights of the backbones that features come from
    width: int = 64
    n_components: int = 64  # of each backbone's features, as many as are kept at most
    d_task: int = 16
    n_leads: int = 12
    # What recordings are made into before the model sees them, as for features.from_signal; beat_length is also the
    # length of a rival's windows.
    fs: float = 100.0
    beat_length: int = 64
    max_beats: int = 16
    beat_window: tuple[float, float] | None = (0.28, 0.48)
    dropout: float = 0.3  # of the components of features, and of the fused features

    def __post_init__(self) -> None:
        # JSON has lists, and may sort: tasks and backbones come in one order.
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "tuned", tuple(self.tuned))
        if self.beat_window is not None:
            object.__setattr__(self, "beat_window", tuple(self.beat_window))
        order = {name: k for k, name in enumerate(backbones.NAMES)}
        widths = sorted(self.d_features.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
        object.__setattr__(self, "d_features", dict(widths))
        if not self.d_features and self.periodic == "none":
            raise ValueError("nothing to learn from: give backbones in d_features, or a periodic path")
        if not (self.fs > 0 and self.beat_length > 0 and self.max_beats > 0):
            raise ValueError(f"fs, beat_length and max_beats must be above 0: {self}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}; known are {', '.join(known)}")
        if unknown := set(self.tuned) - set(self.d_features):
            raise ValueError(f"tuned = {self.tuned}; not among the backbones: {', '.join(sorted(unknown))}")
        if not 0 <= self.top_k <= len(self.d_features):
            raise ValueError(f"top_k = {self.top_k}; must be from 0 (all) to the number of backbones")


_CARD = """---
{{ card_data }}
---

# ECG-MoE

A mixture of experts over five backbones and the beats of a 12-lead electrocardiogram (ten seconds, mV), trained by
`ecgmoe`, the reproducible companion of arXiv 2603.04589. It answers up to five tasks: mean RR interval, age, sex,
abnormal potassium and rhythm. `config.json` names tasks, backbones, and the preset that features come from.

```python
from ecgmoe.fusion import ECGMoE

model = ECGMoE.from_pretrained("this folder, or a name on the hub")
```

It answers from the signal, with the backbones that it does not hold itself. `signal` is an array of shape (records, 12,
samples) in mV, leads in the order of `ecgmoe.records.LEADS`, and `fs` its sampling rate in Hz.

```python
from ecgmoe import backbones, inference

frozen = [name for name in model.config.d_features if name not in model.networks]
networks = {name: backbones.build(name, model.config.preset) for name in frozen}
predictions = inference.answer(model, networks, signal, fs).predictions
```

Where the preset ends in `-random`, `backbones.build` needs the seed that the features were made with.

For research. It is no medical device, and was not tested as one. Where it was trained on simulated hearts, nothing
follows for real ones. Backbones that stay frozen are not part of the file.
"""


class ECGMoE(
    MultiTask,
    PyTorchModelHubMixin,
    library_name="ecgmoe",
    license="mit",
    paper_url="https://arxiv.org/abs/2603.04589",
    tags=["electrocardiogram", "mixture-of-experts"],
    model_card_template=_CARD,
):
    """The whole model over cached backbone features.

    Equation 2 projects each backbone's features and concatenates them, weighted by a gate a task. Equation 4 weighs
    the result against the periodic features by a second, task-conditioned gate (a softmax: the two weights sum to 1,
    doubled so that equal weights leave both paths at their own scale) and joins them by concatenation or sum. A head
    adds a linear map of the signal characteristics to that of the fused features; it starts at zero for classes and
    at the linear solution of least absolute error for regressions (:meth:`fit_scales`).
    """

    def __init__(self, config: ECGMoEConfig, networks: Mapping[str, Backbone] | None = None):
        super().__init__(config.tasks)
        self.config = c = config
        self.networks = self._in_loop(networks or {})
        self.sees_signal = c.periodic in variants.RIVALS or c.top_k > 0 or len(self.networks) > 0
        K, names = len(c.tasks), list(c.d_features)
        self.task = nn.Embedding(K, c.d_task)
        self.scale_characteristics = Standardise(c.n_characteristics)
        components = {name: linear.Components(width, c.n_components) for name, width in c.d_features.items()}
        self.components = nn.ModuleDict(components)
        self.project = nn.ModuleDict({name: nn.Linear(own.width, c.width // 2) for name, own in components.items()})
        gated = bool(names) and not c.top_k
        self.backbone_gate = moe.TaskGate(c.n_characteristics, c.d_task, len(names)) if gated else None
        self.router = routing.Router(c.n_leads, c.n_characteristics, c.d_task, len(names), c.top_k) if c.top_k else None
        self.from_backbones = nn.Linear(len(names) * (c.width // 2), c.width) if names else None
        self.periodic: nn.Module | None = None
        if c.periodic == "experts":
            self.periodic = moe.PeriodicExperts(
                c.n_leads, c.n_characteristics, c.d_task, c.width, rr_inputs=c.characteristics != "no_rr"
            )
        elif c.periodic != "none":
            rival = variants.RIVALS[c.periodic]
            self.periodic = rival(c.n_leads, c.beat_length, variants.N_WINDOWS, c.d_task, width=c.width)
        two_paths = bool(names) and self.periodic is not None
        self.path_gate = moe.TaskGate(c.n_characteristics, c.d_task, 2) if two_paths else None
        d_fused = 2 * c.width if two_paths and c.fusion == "concat" else c.width
        self.drop = nn.Dropout(c.dropout)
        self.fuse = nn.Linear(d_fused + c.n_characteristics, 2 * c.width)
        self.after = nn.Sequential(nn.LayerNorm(2 * c.width), nn.GELU(), nn.Dropout(c.dropout))
        self.heads = nn.ModuleDict({name: nn.Linear(2 * c.width, TASKS[name].n_outputs) for name in c.tasks})
        n_short = c.n_characteristics + sum(own.width for own in components.values())
        self.shortcut = nn.ModuleDict({name: nn.Linear(n_short, TASKS[name].n_outputs) for name in c.tasks})
        for start in (*self.heads.parameters(), *self.shortcut.parameters()):
            nn.init.zeros_(start)
        self.line = nn.ModuleDict({name: linear.Line(c.n_characteristics) for name in self.scale_target})
        if c.lora in ("fusion", "both"):
            self._add_lora()

    def _in_loop(self, networks: Mapping[str, Backbone]) -> nn.ModuleDict:
        """Backbones that are trained; where none are given they start from random weights, until a state is loaded."""
        c = self.config
        if c.lora not in IN_LOOP:
            return nn.ModuleDict()
        chosen = c.tuned or tuple(c.d_features)
        names = [name for name in chosen if c.lora == "full" or backbones.kind_of(name).lora_targets]
        random = f"{backbones.size_of(c.preset)}-random"
        kept = {name: networks[name] if name in networks else backbones.build(name, random) for name in names}
        if c.lora != "full":
            from ecgmoe.backbones import lora  # brings peft

            for network in kept.values():
                lora.add(network, c.lora_rank, c.lora_alpha)
        return nn.ModuleDict(kept)

    def _add_lora(self) -> None:
        """Freeze the fusion's linear maps and learn a low-rank change of each (Hu et al. 2021), by peft."""
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import, and most models have no LoRA

        adapters = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            lora_dropout=0.05,
            target_modules=r"project\..+|from_backbones|fuse",
        )
        inject_adapter_in_model(adapters, self)
        for name, parameter in self.named_parameters():
            if not name.startswith("networks."):
                parameter.requires_grad = ".base_layer." not in name

    @torch.no_grad()
    def fit_scales(self, inputs: Inputs, targets: Mapping[str, Tensor]) -> None:
        """Take every mean and SD from the training part, and start regressions at their least absolute error.

        What a linear map of the signal characteristics can tell (above all the RR interval) need not be found by
        gradient descent; the mixture learns the rest.
        """
        super().fit_scales(inputs, targets)
        self.scale_characteristics.fit(inputs.characteristics_BA)
        x_BA = self.characteristics(inputs)
        for name in self.scale_target if self.config.line else ():
            self._line(name).fit(x_BA, self.target_scale(name)(targets[name][:, None])[:, 0], targets[name].isfinite())
        columns = [self._columns(name, targets[name]) for name in self.tasks]
        worth = {}
        for name, own in self._components():
            own.fit(inputs.features[name])
            worth[name] = linear.signal_to_noise(own(inputs.features[name]), columns)
        for name, own in self._components():
            own.scale.mul_(worth[name] / max(worth.values()))

    def _line(self, name: str) -> linear.Line:
        return cast(linear.Line, self.line[name])

    def _components(self) -> list[tuple[str, linear.Components]]:
        return [(name, cast(linear.Components, own)) for name, own in self.components.items()]

    def _columns(self, name: str, target_B: Tensor) -> Tensor:
        """A task's targets as columns (B, O): the standardised value, or one column a class; NaN where missing."""
        known_B1 = target_B.isfinite()[:, None]
        task = TASKS[name]
        if task.kind == "regression":
            columns_BO = self.target_scale(name)(target_B[:, None])
        else:
            columns_BO = nn.functional.one_hot(target_B.nan_to_num(0.0).long(), max(2, task.n_outputs)).to(target_B)
        return columns_BO.masked_fill(~known_B1, float("nan"))

    def characteristics(self, inputs: Inputs) -> Tensor:
        """Standardised signal characteristics (B, A); what the model may not see of them is zero."""
        x_BA = self.scale_characteristics(inputs.characteristics_BA)
        hidden = {"all": 0, "no_rr": N_RR_CHARACTERISTICS, "none": x_BA.shape[1]}[self.config.characteristics]
        return torch.cat([torch.zeros_like(x_BA[:, :hidden]), x_BA[:, hidden:]], 1)

    def features(self, name: str, inputs: Inputs, choice: routing.Choice | None = None) -> Tensor:
        """Features (B, D) of a backbone (eq. 1): computed where it is trained, else those of ``inputs``."""
        if name not in self.networks:
            return inputs.features[name]
        network = cast(Backbone, self.networks[name])
        if choice is None:
            return network.features(inputs.signal_BCT, inputs.fs)
        chosen_B = choice.chosen_BM[:, list(self.config.d_features).index(name)]
        return routing.chosen_features(network, inputs.signal_BCT, inputs.fs, chosen_B)

    def _embedded(self, tasks: Sequence[str]) -> Tensor:
        """Embeddings of the requested tasks, (K, d_task)."""
        if unknown := [name for name in tasks if name not in self.tasks]:
            raise ValueError(f"this model does not answer {', '.join(unknown)}; it knows {', '.join(self.tasks)}")
        return self.task.weight[[self.tasks.index(name) for name in tasks]]

    def choose(self, inputs: Inputs, tasks: Sequence[str] | None = None) -> routing.Choice | None:
        """Which backbones each record needs for the requested tasks, all by default; None where all run.

        Backbone features are not looked at: ``inputs`` may come without them.
        """
        if self.router is None:
            return None
        return self.router(inputs, self.characteristics(inputs), self._embedded(tasks or self.tasks))

    def forward(
        self, inputs: Inputs, tasks: Sequence[str] | None = None, choice: routing.Choice | None = None
    ) -> Output:
        """Predict tasks for a batch of records; heads give logits, regressions standardised values.

        Parameters
        ----------
        inputs : Inputs
            Features of backbones that are not chosen are not looked at, but have to be finite.
        tasks : sequence of str, optional
            Requested tasks, all by default.
        choice : Choice, optional
            What :meth:`choose` found for the same records and tasks, where it was asked before.
        """
        c = self.config
        tasks = tasks or self.tasks
        x_BA = self.characteristics(inputs)
        task_KD = self._embedded(tasks)
        choice = choice or self.choose(inputs, tasks)
        B, K = len(x_BA), len(task_KD)
        paths: list[Tensor] = []
        short = [x_BA[:, None].expand(B, K, -1)]
        backbone_gate_BKM = x_BA.new_zeros(B, K, 0)
        if self.from_backbones is not None:
            reduced = [self.drop(own(self.features(name, inputs, choice))) for name, own in self._components()]
            projected = [self.project[name](x_BP) for name, x_BP in zip(c.d_features, reduced, strict=True)]
            projected_BMP = torch.stack(projected, 1)
            n_run = len(projected)
            if choice is not None:
                backbone_gate_BKM, n_run = choice.weight_BKM, c.top_k
            elif self.backbone_gate is not None:
                backbone_gate_BKM = self.backbone_gate(x_BA, task_KD)
            gain_BKM = backbone_gate_BKM * n_run
            paths.append(self.from_backbones((projected_BMP[:, None] * gain_BKM[..., None]).flatten(2)))
            if choice is None:  # the gate weighs what is fused alone
                gain_BKM = torch.ones_like(gain_BKM)
            short.extend(x_BP[:, None] * gain_BKM[..., m : m + 1] for m, x_BP in enumerate(reduced))
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
        # What beats and backbones mean depends on the rest of the recording: the hidden layer sees that too.
        fused_BKD = self.after(self.fuse(torch.cat([fused_BKD, short[0]], -1)))
        short_BKX = torch.cat(short, -1)
        logits = {}
        for k, name in enumerate(tasks):
            logits[name] = self.heads[name](fused_BKD[:, k]) + self.shortcut[name](short_BKX[:, k])
            if name in self.line:
                logits[name] = self.line[name](x_BA, logits[name])
        load = None if choice is None else choice.load
        return Output(logits, path_gate_BK2, backbone_gate_BKM, periodic, contrast, load)


class Ensemble(MultiTask):
    """Models of one shape, trained from different seeds, that answer as one.

    Logits, gates and attention are the means of theirs; of a regression that is the mean of the answers, since all
    have the scale of the same training part.

    Parameters
    ----------
    members : sequence of ECGMoE

    Raises
    ------
    ValueError
        They differ in shape or in the scale of a label, or have routers, each of which would choose other backbones.
    """

    def __init__(self, members: Sequence[ECGMoE]):
        first = members[0]
        super().__init__(first.tasks)
        self.config = first.config
        if any(member.config != first.config for member in members) or first.config.top_k:
            raise ValueError("members of an ensemble must be of one configuration, without a router")
        for name in self.scale_target:
            for member in members[1:]:
                pairs = zip(first.target_scale(name).buffers(), member.target_scale(name).buffers(), strict=True)
                if not all(torch.allclose(one, other) for one, other in pairs):
                    raise ValueError(f"members were trained on other recordings: their scales of {name} differ")
        self.scale_target, self.positive_weight_K = first.scale_target, first.positive_weight_K
        self.members = nn.ModuleList(members)

    @property
    def networks(self) -> nn.ModuleDict:
        """Backbones that the members hold themselves: each its own."""
        return cast(ECGMoE, self.members[0]).networks

    def choose(self, inputs: Inputs, tasks: Sequence[str] | None = None) -> None:
        """No member has a router: all backbones run."""

    def forward(self, inputs: Inputs, tasks: Sequence[str] | None = None, choice: None = None) -> Output:
        """Mean of what the members give."""
        outputs = [cast(Output, member(inputs, tasks)) for member in self.members]
        logits = {name: torch.stack([one.logits[name] for one in outputs]).mean(0) for name in outputs[0].logits}
        periodic = [one.periodic for one in outputs if one.periodic is not None]
        return Output(
            logits,
            _mean([one.path_gate_BK2 for one in outputs]),
            _mean([one.backbone_gate_BKM for one in outputs]),
            PeriodicOutput(*(torch.stack(parts).mean(0) for parts in zip(*periodic, strict=True)))
            if periodic
            else None,
        )

    def n_parameters(self, trainable_only: bool = False) -> int:
        """Number of parameters of all members."""
        return sum(cast(ECGMoE, member).n_parameters(trainable_only) for member in self.members)


def _mean(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.stack(known).mean(0) if known else None
