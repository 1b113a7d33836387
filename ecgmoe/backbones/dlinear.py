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
from ecgmoe.backbones.adapt import fit_length, resample, z_score


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
    fs: float = 50.0
    """Sampling rate of the input, Hz."""


class DLinear(Backbone):
    """DLinear over all twelve leads.

    The feature vector is the mean and the standard deviation over time of the trend and of the seasonal output, lead
    by lead: a linear map of recordings that are not aligned to a beat carries next to nothing sample by sample.
    """

    name: ClassVar[str] = "dlinear"
    presets: ClassVar[dict[str, DLinearConfig]] = {
        "compact": DLinearConfig(),
        "published": DLinearConfig(moving_avg=1001),
    }

    def __init__(self, config: DLinearConfig) -> None:
        super().__init__()
        self.config = config
        self.Linear_Seasonal = self._map()
        self.Linear_Trend = self._map()
        if config.num_class:
            self.projection = nn.Linear(N_LEADS * config.pred_len, config.num_class)
        self.d_features = 4 * N_LEADS

    def _map(self) -> nn.Module:
        config = self.config
        if config.individual:
            return nn.ModuleList(nn.Linear(config.seq_len, config.pred_len) for _ in range(N_LEADS))
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
        seasonal_BCT, trend_BCT = self.decompose(x_BCT)
        return (
            self._apply_map(self.Linear_Seasonal, seasonal_BCT),
            self._apply_map(self.Linear_Trend, trend_BCT),
        )

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
        """50 Hz, the first 10 s (zeros in front of a shorter record), one z-score over all leads of a record."""
        return fit_length(z_score(resample(x_BCT, fs, self.config.fs), (-2, -1)), self.config.seq_len)

    def encode(self, x: Tensor) -> Tensor:
        """Mean and standard deviation over time of both outputs: (B, 4 * 12), lead fastest."""
        moments = []
        for part_BCP in self.components(x):
            moments += [part_BCP.mean(-1), (part_BCP.var(-1, correction=0) + 1e-8).sqrt()]
        return torch.cat(moments, dim=-1)
