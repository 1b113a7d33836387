"""TimesNet: folds a series at its strongest periods into images, and convolves those.

Wu et al., "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis", ICLR 2023. Names of the weights
are those of Time-Series-Library. Three things differ from that code, none of which changes its results:

- the parallel convolutions of an Inception block are averaged as kernels, and applied as one convolution, for inference
  once and for all;
- of that convolution, what reaches beyond the edges of an image on either side is left out;
- the frequency 0 is left out before the strongest are picked instead of being set to zero, so that a series without any
  variation cannot get an infinite period.

Shape legend: B records, T samples, C leads, N width of the model, F frequencies, K periods, J folds (B times K).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgmoe.backbones import N_LEADS, Backbone, numbered, traced
from ecgmoe.backbones.adapt import fit_length, pooled, resample, z_score


@dataclass(frozen=True)
class TimesNetConfig:
    """Sizes of a TimesNet."""

    seq_len: int = 500
    """Samples of the input."""
    pred_len: int = 0
    """Samples to forecast; 0 leaves the forecasting head and its normalisation of the input out."""
    num_class: int = 0
    """Classes of the classification head; 0 leaves the head out."""
    reconstructs: bool = False
    """Whether there is the head that gives the input back, of checkpoints trained on imputation or anomalies."""
    enc_in: int = N_LEADS
    """Leads of the input; there are features of recordings of twelve only."""
    c_out: int = N_LEADS
    """Leads of what is forecast or given back."""
    time_features: int = 4
    """Features of the calendar, which an ECG does not have; 0 leaves their weight out."""
    max_len: int = 5000
    """Longest series, of input and forecast together."""
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
    the output of a record depends on what else is in its batch. To switch: ``model.config = replace(model.config,
    per_sample_periods=False)``."""
    fs: float = 50.0
    """Sampling rate of the input, Hz."""


class PositionalEmbedding(nn.Module):
    """Sines and cosines of the position, (1, T, N) for up to ``max_len`` samples."""

    pe: Tensor

    def __init__(self, d_model: int, max_len: int) -> None:
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
    """Linear map of features of the calendar, (B, T, features) to (B, T, N)."""

    def __init__(self, n_features: int, d_model: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_features, d_model, bias=False)

    def forward(self, time_BTH: Tensor) -> Tensor:
        """Embed features of the calendar."""
        embedded: Tensor = self.embed(time_BTH)
        return embedded


class DataEmbedding(nn.Module):
    """Values plus positions, (B, T, C) to (B, T, N), plus features of the calendar (B, T, H) where there are some."""

    def __init__(self, config: TimesNetConfig) -> None:
        super().__init__()
        self.value_embedding = TokenEmbedding(config.enc_in, config.d_model)
        self.position_embedding = PositionalEmbedding(config.d_model, config.max_len)
        self.temporal_embedding: nn.Module | None = None
        if config.time_features:
            self.temporal_embedding = TimeFeatureEmbedding(config.time_features, config.d_model)

    def forward(self, x_BTC: Tensor, time_BTH: Tensor | None = None) -> Tensor:
        """Embed values and positions, (B, T, C) to (B, T, N)."""
        embedded: Tensor = self.value_embedding(x_BTC) + self.position_embedding(x_BTC.shape[1])
        if time_BTH is None:
            return embedded
        if self.temporal_embedding is None:
            raise ValueError("this TimesNet has no weights for features of the calendar; leave x_mark_enc out")
        return embedded + self.temporal_embedding(time_BTH)


class Inception(nn.Module):
    """Mean of square convolutions of sizes 1, 3, 5, ..., computed as the one convolution that it is."""

    def __init__(self, d_in: int, d_out: int, num_kernels: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(nn.Conv2d(d_in, d_out, 2 * i + 1, padding=i) for i in range(num_kernels))
        for conv in self._convolutions():
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self._kept: tuple[list[Any], list[Tensor], tuple[Tensor, Tensor]] | None = None

    def _convolutions(self) -> list[nn.Conv2d]:
        return [conv for conv in self.kernels if isinstance(conv, nn.Conv2d)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is kept out of copies and pickles."""
        return super().__getstate__() | {"_kept": None}

    def train(self, mode: bool = True) -> "Inception":
        """Set the mode, and forget what is kept."""
        self._kept = None
        return super().train(mode)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals the mean of all.

        In evaluation mode without gradients they are kept until a weight is another or has been written to.
        """
        weights = [weight.detach() for weight in self.parameters()]  # their memory, held so that no other gets it
        if self.training or torch.is_grad_enabled() or any(weight.is_inference() for weight in weights):
            return self._fold()
        state = [(weight.data_ptr(), weight._version, weight.dtype) for weight in weights]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, weights, self._fold()
        return self._kept[2]

    def _fold(self) -> tuple[Tensor, Tensor]:
        reach = len(self.kernels) - 1
        weights = [F.pad(conv.weight, (reach - i,) * 4) for i, conv in enumerate(self._convolutions())]
        biases = [conv.bias for conv in self._convolutions() if conv.bias is not None]
        return torch.stack(weights).mean(0), torch.stack(biases).mean(0)

    def forward(self, image: Tensor) -> Tensor:
        """Convolve images (J, N, rows, period)."""
        weight, bias = self.folded()
        reach = len(self.kernels) - 1
        beyond = [max(0, reach - n + 1) for n in image.shape[-2:]]  # rows and columns of it
        for dim, n in enumerate(beyond, start=2):
            weight = weight.narrow(dim, n, weight.shape[dim] - 2 * n)
        return F.conv2d(image, weight, bias, padding=(reach - beyond[0], reach - beyond[1]))


class TimesBlock(nn.Module):
    """Folds at the strongest periods, convolves, unfolds, and adds the results weighted by amplitude."""

    def __init__(self, config: TimesNetConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.conv = nn.Sequential(
            Inception(config.d_model, config.d_ff, config.num_kernels),
            nn.GELU(),
            Inception(config.d_ff, config.d_model, config.num_kernels),
        )

    def periods(self, x_BTN: Tensor, per_sample: bool = True) -> tuple[Tensor, Tensor]:
        """Pick the strongest periods in samples, (B, K), and the spectral amplitude at each, (B, K)."""
        amplitude_BF = torch.fft.rfft(x_BTN, dim=1).abs().mean(-1)
        ranked_BF = amplitude_BF.detach()
        if not per_sample:
            ranked_BF = ranked_BF.mean(0, keepdim=True).expand_as(ranked_BF)
        frequency_BK = ranked_BF[:, 1:].topk(self.top_k, dim=-1).indices + 1
        return x_BTN.shape[1] // frequency_BK, amplitude_BF.gather(1, frequency_BK)

    def forward(self, x_BTN: Tensor, per_sample: bool = True) -> Tensor:
        """Add to (B, T, N) what the folds at its strongest periods give."""
        n_samples = x_BTN.shape[1]
        period_BK, amplitude_BK = self.periods(x_BTN, per_sample)
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

    The feature vector is the mean and the standard deviation over time of the last layer norm's output. Depth 0 is the
    same of the embedding, depth k of the layer norm's output after block k.
    """

    name: ClassVar[str] = "timesnet"
    presets: ClassVar[dict[str, TimesNetConfig]] = {
        "compact": TimesNetConfig(seq_len=450, pred_len=50, d_model=48, d_ff=48, num_kernels=3, top_k=2),
        "published": TimesNetConfig(),
    }

    upstream_inputs: ClassVar[tuple[str, ...]] = ("x", "x_mark_enc")

    def __init__(self, config: TimesNetConfig) -> None:
        super().__init__()
        if (length := config.seq_len + config.pred_len) > config.max_len:
            raise ValueError(f"input and forecast have {length:,} samples, at most {config.max_len:,} have a position")
        self.config = config
        self.enc_embedding = DataEmbedding(config)
        self.model = nn.ModuleList(TimesBlock(config) for _ in range(config.e_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        if config.pred_len:
            self.predict_linear = nn.Linear(config.seq_len, config.seq_len + config.pred_len)
        if config.pred_len or config.reconstructs:
            self.projection = nn.Linear(config.d_model, config.c_out)
        elif config.num_class:
            self.projection = nn.Linear(config.d_model * config.seq_len, config.num_class)
        self.d_features = 2 * config.d_model
        self.n_depths = config.e_layers + 1

    def states(self, x_BTC: Tensor, time_BTH: Tensor | None = None, per_sample: bool | None = None) -> list[Tensor]:
        """Embedding (B, T, N), then the output of the layer norm after each block, (B, T + pred_len, N).

        ``per_sample`` overrules the configuration's ``per_sample_periods``.
        """
        if per_sample is None:
            per_sample = self.config.per_sample_periods
        h_BTN: Tensor = self.enc_embedding(x_BTC, time_BTH)
        states = [h_BTN]
        if self.config.pred_len:
            h_BTN = self.predict_linear(h_BTN.transpose(1, 2)).transpose(1, 2)
        for block in self.model:
            h_BTN = self.layer_norm(block(h_BTN, per_sample))
            states.append(h_BTN)
        return states

    def hidden(self, x_BTC: Tensor) -> Tensor:
        """Output of the last layer norm, (B, seq_len + pred_len, N)."""
        return self.states(x_BTC)[-1]

    def _scaled(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input as the network wants it, and the mean and deviation over time that forecasting puts back."""
        if not (self.config.pred_len or self.config.reconstructs):
            return x_BTC, torch.zeros_like(x_BTC[:, :1]), torch.ones_like(x_BTC[:, :1])
        mean_B1C = x_BTC.mean(1, keepdim=True).detach()
        sd_B1C = (x_BTC.var(1, keepdim=True, correction=0) + 1e-5).sqrt().detach()
        return (x_BTC - mean_B1C) / sd_B1C, mean_B1C, sd_B1C

    def forward(self, x_BTC: Tensor, mark: Tensor | None = None, per_sample: bool | None = None) -> Tensor:
        """Forecast (B, pred_len, C), input given back (B, T, C), logits (B, classes), or without a head hidden states.

        ``mark`` is what upstream calls so: for classification (B, T), 1 where a record has samples and 0 where it is
        padded, which is left out; for the others (B, T, H), features of the calendar.
        """
        config = self.config
        x_BTC, mean_B1C, sd_B1C = self._scaled(x_BTC)
        h_BTN = self.states(x_BTC, None if config.num_class else mark, per_sample)[-1]
        if config.pred_len or config.reconstructs:
            out_BTC = self.projection(h_BTN) * sd_B1C + mean_B1C
            return out_BTC[:, -config.pred_len :]
        if not config.num_class:
            return h_BTN
        h_BTN = F.gelu(h_BTN)
        if mark is not None:
            h_BTN = h_BTN * mark[..., None]
        logits: Tensor = self.projection(h_BTN.flatten(1))
        return logits

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """Model's rate (50 Hz), its length from the start (zeros in front of a shorter record), z-score over all leads.

        One mean and one standard deviation for a record keep the proportions of its leads; (B, T, 12).
        """
        x_BCT = fit_length(z_score(resample(x_BCT, fs, self.config.fs), (-2, -1)), self.config.seq_len)
        return x_BCT.transpose(1, 2)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Mean and standard deviation over time, (B, 2 N), of the embedding and of the state after each block."""
        return [pooled(h_BTN, 1) for h_BTN in self.states(self._scaled(x)[0])]

    def _upstream(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take ``x`` (B, T, C) and maybe ``x_mark_enc``, as :meth:`forward`; periods are those of the batch.

        Gives ``enc_embedding``, ``block0``, ``block1``, ..., ``layer_norm``, ``layer_norm#2``, ... (B, T, N),
        ``fft0_period`` (K,) in samples, ``fft0_weight`` (B, K), ..., and ``out``.
        """
        if "x" not in inputs:
            raise ValueError("TimesNet needs x; x_mark_enc alone says nothing")
        blocks = {f"block{i}": f"model.{i}" for i in range(len(self.model))}
        with traced(self, enc_embedding="enc_embedding", layer_norm="layer_norm", **blocks) as seen:
            outputs = {"out": self(inputs["x"], inputs.get("x_mark_enc"), per_sample=False)}
        outputs |= numbered(seen)
        h_BTN = outputs["enc_embedding"]
        if self.config.pred_len:
            h_BTN = self.predict_linear(h_BTN.transpose(1, 2)).transpose(1, 2)
        for i, (block, into_BTN) in enumerate(zip(self.model, [h_BTN, *seen["layer_norm"]], strict=False)):
            assert isinstance(block, TimesBlock)
            period_BK, outputs[f"fft{i}_weight"] = block.periods(into_BTN, per_sample=False)
            outputs[f"fft{i}_period"] = period_BK[0]
        return outputs
