"""DLinear: a moving average splits a series in two, and each part goes through one linear map over time.

Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023. Names of the weights are those of
Time-Series-Library and of LTSF-Linear.

Shape legend: B records, C leads, T samples, P predicted samples.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgmoe.backbones import N_LEADS, Backbone
from ecgmoe.backbones.adapt import fit_length, pooled, resample, z_score


@dataclass(frozen=True)
class DLinearConfig:
    """Sizes of a DLinear."""

    seq_len: int = 500
    """Samples of the input."""
    pred_len: int = 500
    """Samples of the output."""
    moving_avg: int = 25
    """Odd window of the moving average, samples."""
    individual: bool = False
    """One pair of maps for each lead, instead of one for all."""
    num_class: int = 0
    """Classes of the classification head; 0 leaves the head out."""
    enc_in: int = N_LEADS
    """Leads of the input; there are features of recordings of twelve only."""
    fs: float = 50.0
    """Sampling rate of the input, Hz."""


class DLinear(Backbone):
    """DLinear over all twelve leads.

    The feature vector is the mean and the standard deviation over time of the seasonal part and of the trend, lead by
    lead: a linear map of recordings that are not aligned to a beat carries next to nothing sample by sample. Depth 0 is
    of the parts of the input, depth 1 of what the linear maps make of them.
    """

    name: ClassVar[str] = "dlinear"
    presets: ClassVar[dict[str, DLinearConfig]] = {
        "compact": DLinearConfig(seq_len=400, pred_len=100),
        "published": DLinearConfig(moving_avg=1001),
    }

    upstream_inputs: ClassVar[tuple[str, ...]] = ("x",)
    n_depths = 2

    def __init__(self, config: DLinearConfig) -> None:
        super().__init__()
        if not config.moving_avg % 2:
            raise ValueError(f"the moving average must be odd, got {config.moving_avg} samples")
        self.config = config
        self.Linear_Seasonal = self._map()
        self.Linear_Trend = self._map()
        if config.num_class:
            self.projection = nn.Linear(config.enc_in * config.pred_len, config.num_class)
        self.d_features = 4 * config.enc_in

    def _map(self) -> nn.Module:
        config = self.config
        if config.individual:
            return nn.ModuleList(nn.Linear(config.seq_len, config.pred_len) for _ in range(config.enc_in))
        return nn.Linear(config.seq_len, config.pred_len)

    def decompose(self, x_BCT: Tensor) -> tuple[Tensor, Tensor]:
        """Seasonal part and trend, each (B, C, T); the moving average holds the edge values beyond the edges."""
        reach = (self.config.moving_avg - 1) // 2
        trend_BCT = F.avg_pool1d(F.pad(x_BCT, (reach, reach), mode="replicate"), self.config.moving_avg, stride=1)
        return x_BCT - trend_BCT, trend_BCT

    def _apply_map(self, linear: nn.Module, x_BCT: Tensor) -> Tensor:
        if isinstance(linear, nn.ModuleList):
            return torch.stack([one(x_BCT[:, lead]) for lead, one in enumerate(linear)], dim=1)
        mapped: Tensor = linear(x_BCT)
        return mapped

    def components(self, x_BCT: Tensor) -> tuple[Tensor, Tensor]:
        """Seasonal and trend output, each (B, C, P); their sum is the forecast."""
        return self._mapped(*self.decompose(x_BCT))

    def _mapped(self, seasonal_BCT: Tensor, trend_BCT: Tensor) -> tuple[Tensor, Tensor]:
        return self._apply_map(self.Linear_Seasonal, seasonal_BCT), self._apply_map(self.Linear_Trend, trend_BCT)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Forecast (B, C, P), or class logits (B, classes) where there is a classification head."""
        seasonal_BCP, trend_BCP = self.components(x_BCT)
        out_BCP = seasonal_BCP + trend_BCP
        if self.config.num_class:
            # the head was trained on (time, lead), time slowest
            logits: Tensor = self.projection(out_BCP.transpose(1, 2).flatten(1))
            return logits
        return out_BCP

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """Model's rate (50 Hz), its length from the start (zeros in front of a shorter record), z-score over all leads.

        One mean and one standard deviation for a record keep the proportions of its leads.
        """
        return fit_length(z_score(resample(x_BCT, fs, self.config.fs), (-2, -1)), self.config.seq_len)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Mean and standard deviation over time of either part, before and after the maps: 2 of (B, 48), lead fastest.

        Mean, deviation of the seasonal part, then of the trend.
        """
        parts = self.decompose(x)
        return [
            torch.cat([pooled(seasonal, -1), pooled(trend, -1)], dim=-1)
            for seasonal, trend in (parts, self._mapped(*parts))
        ]

    def _upstream(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take ``x`` (B, T, C); give ``seasonal`` and ``trend`` (B, T, C), and ``out`` (B, P, C) or (B, classes)."""
        x_BCT = inputs["x"].transpose(1, 2)
        seasonal_BCT, trend_BCT = self.decompose(x_BCT)
        out = self(x_BCT)
        return {
            "seasonal": seasonal_BCT.transpose(1, 2),
            "trend": trend_BCT.transpose(1, 2),
            "out": out if self.config.num_class else out.transpose(1, 2),
        }
