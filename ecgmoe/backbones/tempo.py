"""TEMPO: trend, season and residual of a series, each patched and prompted, read by one GPT-2.

Cao et al., "TEMPO: Prompt-based Generative Pre-trained Transformer for Time Series Forecasting", ICLR 2024. Names of
the weights are those of its authors' code, without ``peft``'s ``base_model.model.``. Parts of that code which its
forward pass never uses (``mul_season``, ``map_resid``, ``rev_in_season``, ``rev_in_noise``) are left out.

Shape legend: B records, C leads, S series (a lead of a record each), L samples, P patches, Q prompt tokens, E width of
GPT-2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model

from ecgmoe.backbones import N_LEADS, Backbone, traced
from ecgmoe.backbones.adapt import fit_length, resample

#: "Predict the future time step given the", then "trend", "season" or "residual", in GPT-2's byte-pair encoding.
PROMPT_IDS = (47, 17407, 262, 2003, 640, 2239, 1813, 262)
PART_IDS = {"trend": 5182, "season": 1622, "noise": 29598}

#: Number of the parts, in the order in which GPT-2 reads them.
PARTS = tuple(PART_IDS)


@dataclass(frozen=True)
class TempoConfig:
    """Sizes of a TEMPO."""

    seq_len: int = 336
    """Samples of the input."""
    pred_len: int = 96
    """Samples of the forecast."""
    n_embd: int = 768
    """Width of GPT-2."""
    n_layer: int = 6
    """Layers of GPT-2."""
    n_head: int = 12
    """Attention heads."""
    n_positions: int = 1024
    """Longest sequence of tokens."""
    patch_size: int = 16
    """Samples of a patch."""
    stride: int = 8
    """Samples between the starts of two patches."""
    kernel_size: int = 25
    """Window of the moving average, samples."""
    vocab_size: int = 50257
    """Rows of the token table; below GPT-2's own size, the prompts' words are numbered anew from 0."""
    lora_r: int = 0
    """Rank of the LoRA of ``c_attn`` where it is kept apart from the weights; 0 where it is merged into them."""
    leads: Literal["mean", "concat"] = "mean"
    """Whether the leads' features are averaged, or put side by side, lead fastest."""
    fs: float = 33.6
    """Sampling rate of the input, Hz: 336 samples are 10 s."""

    @property
    def n_patches(self) -> int:
        """Patches of one part; the last value is held for one stride beyond the end."""
        return (self.seq_len + self.stride - self.patch_size) // self.stride + 1

    def prompt_ids(self) -> Tensor:
        """Token numbers of the three prompts, (3, Q)."""
        ids = torch.tensor([[*PROMPT_IDS, part] for part in PART_IDS.values()])
        return ids if ids.max() < self.vocab_size else ids.unique(return_inverse=True)[1]


class RevIN(nn.Module):
    """Reversible normalisation over time with a learned scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(1))
        self.affine_bias = nn.Parameter(torch.zeros(1))

    def forward(self, x_SL: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Normalised series, and the mean and standard deviation that :meth:`inverse` needs."""
        mean_S1 = x_SL.mean(-1, keepdim=True).detach()
        sd_S1 = (x_SL.var(-1, keepdim=True, correction=0) + 1e-5).sqrt().detach()
        return (x_SL - mean_S1) / sd_S1 * self.affine_weight + self.affine_bias, (mean_S1, sd_S1)

    def inverse(self, x_SL: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
        """Undo the normalisation that returned ``scale``."""
        mean_S1, sd_S1 = scale
        return (x_SL - self.affine_bias) / (self.affine_weight + 1e-10) * sd_S1 + mean_S1


class Tempo(Backbone):
    """TEMPO over each of the twelve leads.

    The feature vector is the mean over leads and patches of what GPT-2 gives for each part, prompt tokens left out: at
    depth 0 of its input with the positions added, at depth k of the output of layer k, the last normalised.
    """

    name: ClassVar[str] = "tempo"
    single_lead: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = ("c_attn",)
    lora_fan_in_fan_out: ClassVar[bool] = True
    upstream_inputs: ClassVar[tuple[str, ...]] = ("x", "trend", "season", "resid")
    presets: ClassVar[dict[str, TempoConfig]] = {
        "compact": TempoConfig(
            pred_len=64,
            n_embd=48,
            n_layer=2,
            n_head=4,
            n_positions=128,
            patch_size=32,
            stride=16,
            vocab_size=10,
            fs=40.0,
            leads="concat",
        ),
        "published": TempoConfig(),
    }
    prompt_ids: Tensor

    def __init__(self, config: TempoConfig) -> None:
        super().__init__()
        self.config = config
        width, n_flat = config.n_embd, config.n_patches * config.n_embd
        self.rev_in_trend = RevIN()
        self.map_trend = nn.Linear(config.seq_len, config.seq_len)
        self.map_season = nn.Sequential(
            nn.Linear(config.seq_len, 4 * config.seq_len), nn.ReLU(), nn.Linear(4 * config.seq_len, config.seq_len)
        )
        for part in PARTS:
            self.add_module(f"in_layer_{part}", nn.Linear(config.patch_size, width))
            self.add_module(f"prompt_layer_{part}", nn.Linear(width, width))
            self.add_module(f"out_layer_{part}", nn.Linear(n_flat, config.pred_len))
        self.gpt2_trend = GPT2Model(
            GPT2Config(
                vocab_size=config.vocab_size,
                n_positions=config.n_positions,
                n_embd=width,
                n_layer=config.n_layer,
                n_head=config.n_head,
                activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one kernel
                bos_token_id=None,
                eos_token_id=None,
                use_cache=False,
            )
        )
        self.register_buffer("prompt_ids", config.prompt_ids(), persistent=False)
        if config.lora_r:
            self._add_lora(config.lora_r)
        self.d_features = len(PARTS) * width * (N_LEADS if config.leads == "concat" else 1)
        self.n_depths = config.n_layer + 1

    def _add_lora(self, rank: int) -> None:
        """Keep the low-rank part of ``c_attn`` apart, under the names of ``peft``; it starts at zero."""
        from peft import LoraConfig, inject_adapter_in_model  # slow to import

        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(self.lora_targets), fan_in_fan_out=True)
        inject_adapter_in_model(lora, self.gpt2_trend)

    def decompose(self, x_SL: Tensor) -> dict[str, Tensor]:
        """Trend, season and residual of normalised series, each (S, L); they add up to the input."""
        reach = (self.config.kernel_size - 1) // 2
        smooth_SL = F.avg_pool1d(F.pad(x_SL, (reach, reach), mode="replicate"), self.config.kernel_size, stride=1)
        trend_SL = self.map_trend(smooth_SL)
        season_SL = self.map_season(x_SL - trend_SL)
        return {"trend": trend_SL, "season": season_SL, "noise": x_SL - trend_SL - season_SL}

    def tokens(self, parts: dict[str, Tensor]) -> Tensor:
        """Prompt and patches of the three parts in a row, (S, 3 (Q + P), E)."""
        tokens = []
        for part, prompt_Q in zip(PARTS, self.prompt_ids, strict=True):
            prompt_QE = self.get_submodule(f"prompt_layer_{part}")(self.gpt2_trend.wte(prompt_Q))
            held_SL = F.pad(parts[part], (0, self.config.stride), mode="replicate")
            patches = held_SL.unfold(-1, self.config.patch_size, self.config.stride)
            tokens += [prompt_QE.expand(len(patches), -1, -1), self.get_submodule(f"in_layer_{part}")(patches)]
        return torch.cat(tokens, dim=1)

    def patches(self, tokens_SNE: Tensor) -> dict[str, Tensor]:
        """Tokens of the patches of each part, (S, P, E), without those of the prompts."""
        by_part = tokens_SNE.chunk(len(PARTS), dim=1)
        return {part: h[:, -self.config.n_patches :] for part, h in zip(PARTS, by_part, strict=True)}

    def forward(self, x_SL: Tensor) -> Tensor:
        """Forecast (S, pred_len) of series (S, L)."""
        x_SL, scale = self.rev_in_trend(x_SL)
        hidden_SNE: Tensor = self.gpt2_trend(inputs_embeds=self.tokens(self.decompose(x_SL))).last_hidden_state
        hidden = self.patches(hidden_SNE)
        outputs = [self.get_submodule(f"out_layer_{part}")(h.flatten(1)) for part, h in hidden.items()]
        return self.rev_in_trend.inverse(torch.stack(outputs).sum(0), scale)

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """33.6 Hz, the first 10 s (zeros in front of a shorter record); the network normalises each lead itself."""
        return fit_length(resample(x_BCT, fs, self.config.fs), self.config.seq_len)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Means over leads and patches of the three parts side by side, (B, 3 E), or (B, 36 E) with all leads."""
        x_SL, _ = self.rev_in_trend(x.flatten(0, 1))
        tokens_SNE = self.tokens(self.decompose(x_SL))
        states: Sequence[Tensor] = self.gpt2_trend(inputs_embeds=tokens_SNE, output_hidden_states=True).hidden_states
        features = []
        for state_SNE in states:
            pooled = torch.cat([h.mean(1) for h in self.patches(state_SNE).values()], dim=-1)
            leads = pooled.unflatten(0, (-1, N_LEADS))
            features.append(leads.mean(1) if self.config.leads == "mean" else leads.mT.flatten(1))
        return features

    def _upstream(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """``forward(x, 0, trend, season, resid)`` with a decomposition to compare with, (S, L, 1) each, and without.

        Beside that, ``predict`` of 40 samples of the first series.
        """
        stl = [name for name in ("trend", "season", "resid") if name in inputs]
        if "x" not in inputs or len(stl) not in (0, 3):
            raise ValueError("TEMPO needs x, and trend, season and resid all three or none of them")
        series = {name: x.squeeze(-1) if x.ndim == 3 else x for name, x in inputs.items()}
        if any(x.ndim != 2 or x.shape[-1] != self.config.seq_len for x in series.values()):
            raise ValueError(f"inputs of this TEMPO must be (series, {self.config.seq_len} samples, 1)")
        x_SL = series["x"]
        parts = self.decompose(self.rev_in_trend(x_SL)[0])
        prompts = {f"prompt_layer_{part}": f"prompt_layer_{part}" for part in PARTS}
        outputs = {f"out_layer_{part}": f"out_layer_{part}" for part in PARTS}
        with traced(self, gpt2="gpt2_trend", in_layer_trend="in_layer_trend", **prompts, **outputs) as seen:
            forecast_SL = self(x_SL)
        out: dict[str, Tensor] = {name: seen[name][0] for name in ("in_layer_trend", *outputs)}
        out |= {name: seen[name][0].expand(len(x_SL), -1, -1) for name in prompts}
        out |= {f"{part}_local": part_SL[..., None] for part, part_SL in parts.items()}
        out["gpt2_inputs_embeds"] = self.tokens(parts)
        out["gpt2_last_hidden"] = seen["gpt2"][0].last_hidden_state
        out["out"] = out["out_without_stl"] = forecast_SL[..., None]
        out["predict_40_of_series0"] = self._predict(x_SL[:1], 40)
        if stl:
            pairs = zip(stl, PARTS, strict=True)
            losses = [F.mse_loss(_standardised(series[name]), parts[part]) for name, part in pairs]
            out["loss_local"] = torch.stack(losses).sum().double()
        return out

    def _predict(self, x_SL: Tensor, n_samples: int) -> Tensor:
        """Rolling forecast of one series, normalised before and scaled twice after each step as its authors' is."""
        x_SL, _ = self.rev_in_trend(x_SL)
        steps: list[Tensor] = []
        while len(steps) * self.config.pred_len < n_samples:
            _, scale = self.rev_in_trend(x_SL)
            steps.append(self.rev_in_trend.inverse(self(x_SL), scale))
            x_SL = torch.cat([x_SL, steps[-1]], dim=-1)[:, -self.config.seq_len :]
        return torch.cat(steps, dim=-1)[0, :n_samples]


def _standardised(x_SL: Tensor) -> Tensor:
    """Series with mean 0 and standard deviation 1."""
    return (x_SL - x_SL.mean(-1, keepdim=True)) / (x_SL.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
