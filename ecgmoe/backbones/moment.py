"""MOMENT, by its authors' package ``momentfm``, kept quiet and away from the network.

Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models", ICML 2024: each lead by itself is normalised,
cut into patches of 8 samples and read by the encoder of a T5.

Shape legend: B records, C leads, T samples, D width of the model.
"""

import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ecgmoe.backbones import Backbone
from ecgmoe.backbones.adapt import resample


@dataclass(frozen=True)
class MomentConfig:
    """Sizes of a MOMENT."""

    d_model: int = 512
    """Width of the model."""
    num_layers: int = 8
    """Layers of the encoder."""
    num_heads: int = 6
    """Attention heads."""
    d_kv: int = 64
    """Width of one head."""
    d_ff: int = 1024
    """Width of the feed-forward layers."""
    vocab_size: int = 32128
    """Rows of T5's token table, which time series never look up but checkpoints carry."""
    seq_len: int = 512
    """Samples of the input, exactly."""
    patch_len: int = 8
    """Samples of a patch."""
    fs: float = 51.2
    """Sampling rate of the input, Hz: 512 samples are 10 s."""

    def upstream(self) -> Namespace:
        """Give the configuration as ``momentfm`` wants it; nothing is frozen, no gradient checkpointing."""
        return Namespace(
            task_name="reconstruction",
            model_name="MOMENT",
            transformer_type="encoder_only",
            transformer_backbone="google/flan-t5-small",
            d_model=self.d_model,
            seq_len=self.seq_len,
            patch_len=self.patch_len,
            patch_stride_len=self.patch_len,
            enable_gradient_checkpointing=False,
            freeze_embedder=False,
            freeze_encoder=False,
            freeze_head=False,
            t5_config={
                "d_model": self.d_model,
                "num_layers": self.num_layers,
                "num_heads": self.num_heads,
                "d_kv": self.d_kv,
                "d_ff": self.d_ff,
                "vocab_size": self.vocab_size,
                "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": False,
            },
        )


@contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """Keep ``logging.info`` on a root logger without handlers from giving it one that prints."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class Moment(Backbone):
    """MOMENT over each of the twelve leads.

    The feature vector is the mean over leads and patches of the encoder's output.
    """

    name: ClassVar[str] = "moment"
    single_lead: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = ("q", "v")
    presets: ClassVar[dict[str, MomentConfig]] = {
        "compact": MomentConfig(d_model=64, num_layers=2, num_heads=4, d_kv=16, d_ff=96, vocab_size=2),
        "published": MomentConfig(),
    }

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        from momentfm.models.moment import MOMENT  # slow to import

        self.config = config
        with _root_logger_untouched():
            self.model: Any = MOMENT(config.upstream())
        self.d_features = config.d_model

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """51.2 Hz, the first 10 s, no fraction of a patch; the network itself normalises each lead."""
        x_BCT = resample(x_BCT, fs, self.config.fs)[..., : self.config.seq_len]
        n_samples = x_BCT.shape[-1] // self.config.patch_len * self.config.patch_len
        if not n_samples:
            raise ValueError(f"a record must last {self.config.patch_len / self.config.fs:.2f} s at least")
        return x_BCT[..., :n_samples]

    def encode(self, x: Tensor) -> Tensor:
        """Mean over leads and patches, (B, D); shorter records are padded in front, and the padding is masked."""
        n_missing = self.config.seq_len - x.shape[-1]
        mask_BT = F.pad(torch.ones_like(x[:, 0]), (n_missing, 0))
        features: Tensor = self.model.embed(x_enc=F.pad(x, (n_missing, 0)), input_mask=mask_BT).embeddings
        return features
