"""TEMPO: trend, season and residual of a series, each patched and prompted, read by one GPT-2.

Cao et al., "TEMPO: Prompt-based Generative Pre-trained Transformer for Time Series Forecasting", ICLR 2024. Names of
the weights are those of its authors' code, without ``peft``'s ``base_model.model.``. Parts of that code which its
forward pass never uses (``mul_season``, ``map_resid``, ``rev_in_season``, ``rev_in_noise``) are left out.

Shape legend: S series (a lead of a record each), L samples, P patches, Q prompt tokens, E width of GPT-2.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model

from ecgmoe.backbones import N_LEADS, Backbone
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

    The feature vector is the mean over leads and patches of GPT-2's output for each part, prompt tokens left out.
    """

    name: ClassVar[str] = "tempo"
    single_lead: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = ("c_attn",)
    lora_fan_in_fan_out: ClassVar[bool] = True
    presets: ClassVar[dict[str, TempoConfig]] = {
        "compact": TempoConfig(
            pred_len=24, n_embd=48, n_layer=2, n_head=4, n_positions=128, patch_size=32, stride=16, vocab_size=10
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
        self.d_features = len(PARTS) * width

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

    def hidden(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """GPT-2's output for the patches of each part, (S, P, E)."""
        out: Tensor = self.gpt2_trend(inputs_embeds=self.tokens(parts)).last_hidden_state
        by_part = out.chunk(len(PARTS), dim=1)
        return {part: h[:, -self.config.n_patches :] for part, h in zip(PARTS, by_part, strict=True)}

    def forward(self, x_SL: Tensor) -> Tensor:
        """Forecast (S, pred_len) of series (S, L)."""
        x_SL, scale = self.rev_in_trend(x_SL)
        hidden = self.hidden(self.decompose(x_SL))
        outputs = [self.get_submodule(f"out_layer_{part}")(h.flatten(1)) for part, h in hidden.items()]
        return self.rev_in_trend.inverse(torch.stack(outputs).sum(0), scale)

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """33.6 Hz, the first 10 s (zeros in front of a shorter record); the network normalises each lead itself."""
        return fit_length(resample(x_BCT, fs, self.config.fs), self.config.seq_len)

    def encode(self, x: Tensor) -> Tensor:
        """Means over leads and patches of the three parts side by side, (B, 3 E)."""
        x_SL, _ = self.rev_in_trend(x.flatten(0, 1))
        pooled = torch.cat([h.mean(1) for h in self.hidden(self.decompose(x_SL)).values()], dim=-1)
        return pooled.unflatten(0, (-1, N_LEADS)).mean(1)
