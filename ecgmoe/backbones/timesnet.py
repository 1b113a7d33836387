"""TimesNet: folds a series at its strongest periods into images, and convolves those.

Wu et al., "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis", ICLR 2023. Names of the weights
are those of Time-Series-Library. Two things differ from that code, neither of which changes its results:

- the parallel convolutions of an Inception block are averaged as kernels, and applied as one convolution;
- the frequency 0 is left out before the strongest are picked instead of being set to zero, so that a series without any
  variation cannot get an infinite period.

Shape legend: B records, T samples, C leads, N width of the model, F frequencies, K periods, J folds (B times K).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgmoe.backbones import N_LEADS, Backbone
from ecgmoe.backbones.adapt import fit_length, resample, z_score


@dataclass(frozen=True)
class TimesNetConfig:
    """Sizes of a TimesNet."""

    seq_len: int = 500
    """Samples of the input."""
    pred_len: int = 0
    """Samples to forecast; 0 leaves the forecasting head and its normalisation of the input out."""
    num_class: int = 0
    """Classes of the classification head; 0 leaves the head out."""
    d_model: int = 16
    """Width of the model."""
    d_ff: int = 32
    """Width between the two convolutions of a block."""
    num_kernels: int = 6
    """Convolutions of an Inception block: 1 x 1, 3 x 3, 5 x 5, ..."""
    top_k: int = 3
    """Periods that each block folds at."""
    e_layers: int = 2
    """Blocks."""
    per_sample_periods: bool = True
    """Pick the periods of each record by itself; False picks them by the mean over the batch, as upstream does, so that
    the output of a record depends on what else is in its batch."""
    fs: float = 50.0
    """Sampling rate of the input, Hz."""


class PositionalEmbedding(nn.Module):
    """Sines and cosines of the position, (1, T, N) for up to 5,000 samples."""

    pe: Tensor

    def __init__(self, d_model: int, max_len: int = 5000) -> None:
        super().__init__()
        angle = torch.arange(max_len)[:, None] * torch.exp(torch.arange(0, d_model, 2) * -(math.log(1e4) / d_model))
        self.register_buffer("pe", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None, :, :d_model])

    def forward(self, n_samples: int) -> Tensor:
        """Encode the first ``n_samples`` positions, (1, T, N)."""
        return self.pe[:, :n_samples]


class TokenEmbedding(nn.Module):
    """Convolution of three samples over time, closed to a circle."""

    def __init__(self, n_leads: int, d_model: int) -> None:
        super().__init__()
        self.tokenConv = nn.Conv1d(n_leads, d_model, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(self.tokenConv.weight, mode="fan_in", nonlinearity="leaky_relu")

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Embed values, (B, T, C) to (B, T, N)."""
        out_BNT: Tensor = self.tokenConv(x_BTC.transpose(1, 2))
        return out_BNT.transpose(1, 2)


class TimeFeatureEmbedding(nn.Module):
    """Linear map of four calendar features; an ECG has none, but checkpoints carry its weight."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.embed = nn.Linear(4, d_model, bias=False)


class DataEmbedding(nn.Module):
    """Values plus positions, (B, T, C) to (B, T, N)."""

    def __init__(self, n_leads: int, d_model: int) -> None:
        super().__init__()
        self.value_embedding = TokenEmbedding(n_leads, d_model)
        self.position_embedding = PositionalEmbedding(d_model)
        self.temporal_embedding = TimeFeatureEmbedding(d_model)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Embed values and positions, (B, T, C) to (B, T, N)."""
        embedded: Tensor = self.value_embedding(x_BTC) + self.position_embedding(x_BTC.shape[1])
        return embedded


class Inception(nn.Module):
    """Mean of square convolutions of sizes 1, 3, 5, ..., computed as the one convolution that it is."""

    def __init__(self, d_in: int, d_out: int, num_kernels: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(nn.Conv2d(d_in, d_out, 2 * i + 1, padding=i) for i in range(num_kernels))
        for conv in self._convolutions():
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def _convolutions(self) -> list[nn.Conv2d]:
        return [conv for conv in self.kernels if isinstance(conv, nn.Conv2d)]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals the mean of all."""
        reach = len(self.kernels) - 1
        weights = [F.pad(conv.weight, (reach - i,) * 4) for i, conv in enumerate(self._convolutions())]
        biases = [conv.bias for conv in self._convolutions() if conv.bias is not None]
        return torch.stack(weights).mean(0), torch.stack(biases).mean(0)

    def forward(self, image: Tensor) -> Tensor:
        """Convolve images (J, N, rows, period)."""
        return F.conv2d(image, *self.folded(), padding=len(self.kernels) - 1)


class TimesBlock(nn.Module):
    """Folds at the strongest periods, convolves, unfolds, and adds the results weighted by amplitude."""

    def __init__(self, config: TimesNetConfig) -> None:
        super().__init__()
        self.top_k, self.per_sample_periods = config.top_k, config.per_sample_periods
        self.conv = nn.Sequential(
            Inception(config.d_model, config.d_ff, config.num_kernels),
            nn.GELU(),
            Inception(config.d_ff, config.d_model, config.num_kernels),
        )

    def periods(self, x_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Pick the strongest periods in samples, (B, K), and the spectral amplitude at each, (B, K)."""
        amplitude_BF = torch.fft.rfft(x_BTN, dim=1).abs().mean(-1)
        ranked_BF = amplitude_BF.detach()
        if not self.per_sample_periods:
            ranked_BF = ranked_BF.mean(0, keepdim=True).expand_as(ranked_BF)
        frequency_BK = ranked_BF[:, 1:].topk(self.top_k, dim=-1).indices + 1
        return x_BTN.shape[1] // frequency_BK, amplitude_BF.gather(1, frequency_BK)

    def forward(self, x_BTN: Tensor) -> Tensor:
        """Add to (B, T, N) what the folds at its strongest periods give."""
        n_samples = x_BTN.shape[1]
        period_BK, amplitude_BK = self.periods(x_BTN)
        record_J = torch.arange(len(x_BTN), device=x_BTN.device).repeat_interleave(self.top_k)
        period_J = period_BK.flatten()
        order, outputs = [], []
        for period in period_J.unique().tolist():  # all folds of one period at once
            members = (period_J == period).nonzero()[:, 0]
            rows = F.pad(x_BTN[record_J[members]], (0, 0, 0, -n_samples % period)).unflatten(1, (-1, period))
            image = self.conv(rows.permute(0, 3, 1, 2))
            outputs.append(image.permute(0, 2, 3, 1).flatten(1, 2)[:, :n_samples])
            order.append(members)
        unsorted = torch.cat(order).argsort()
        folds_BKTN = torch.cat(outputs)[unsorted].unflatten(0, (-1, self.top_k))
        return torch.einsum("bktn,bk->btn", folds_BKTN, amplitude_BK.softmax(-1)) + x_BTN


class TimesNet(Backbone):
    """TimesNet over all twelve leads.

    The feature vector is the mean and the standard deviation over time of the last layer norm's output.
    """

    name: ClassVar[str] = "timesnet"
    presets: ClassVar[dict[str, TimesNetConfig]] = {
        "compact": TimesNetConfig(d_model=32, num_kernels=3, top_k=2),
        "published": TimesNetConfig(),
    }

    def __init__(self, config: TimesNetConfig) -> None:
        super().__init__()
        self.config = config
        self.enc_embedding = DataEmbedding(N_LEADS, config.d_model)
        self.model = nn.ModuleList(TimesBlock(config) for _ in range(config.e_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        if config.pred_len:
            self.predict_linear = nn.Linear(config.seq_len, config.seq_len + config.pred_len)
            self.projection = nn.Linear(config.d_model, N_LEADS)
        elif config.num_class:
            self.projection = nn.Linear(config.d_model * config.seq_len, config.num_class)
        self.d_features = 2 * config.d_model

    def hidden(self, x_BTC: Tensor) -> Tensor:
        """Output of the last layer norm, (B, seq_len + pred_len, N)."""
        h_BTN: Tensor = self.enc_embedding(x_BTC)
        if self.config.pred_len:
            h_BTN = self.predict_linear(h_BTN.transpose(1, 2)).transpose(1, 2)
        for block in self.model:
            h_BTN = self.layer_norm(block(h_BTN))
        return h_BTN

    @staticmethod
    def _scale(x_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over time that forecasting removes and puts back."""
        mean_B1C = x_BTC.mean(1, keepdim=True).detach()
        return mean_B1C, (x_BTC.var(1, keepdim=True, correction=0) + 1e-5).sqrt().detach()

    def forward(self, x_BTC: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Forecast (B, pred_len, C), or logits (B, classes), or without a head the hidden states.

        ``mask_BT`` is 1 where a record has samples, 0 where it is padded; classification leaves the latter out.
        """
        if self.config.pred_len:
            mean_B1C, sd_B1C = self._scale(x_BTC)
            out_BTC = self.projection(self.hidden((x_BTC - mean_B1C) / sd_B1C)) * sd_B1C + mean_B1C
            return out_BTC[:, -self.config.pred_len :]
        h_BTN = self.hidden(x_BTC)
        if not self.config.num_class:
            return h_BTN
        h_BTN = F.gelu(h_BTN)
        if mask_BT is not None:
            h_BTN = h_BTN * mask_BT[..., None]
        logits: Tensor = self.projection(h_BTN.flatten(1))
        return logits

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """50 Hz, the first 10 s (zeros in front of a shorter record), one z-score over all leads; (B, T, 12)."""
        x_BCT = fit_length(z_score(resample(x_BCT, fs, self.config.fs), (-2, -1)), self.config.seq_len)
        return x_BCT.transpose(1, 2)

    def encode(self, x: Tensor) -> Tensor:
        """Mean and standard deviation over time of the hidden states, (B, 2 N)."""
        if self.config.pred_len:
            mean_B1C, sd_B1C = self._scale(x)
            x = (x - mean_B1C) / sd_B1C
        h_BTN = self.hidden(x)
        return torch.cat([h_BTN.mean(1), (h_BTN.var(1, correction=0) + 1e-8).sqrt()], dim=-1)
