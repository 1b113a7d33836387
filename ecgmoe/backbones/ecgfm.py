"""ECG-FM: a wav2vec 2.0 encoder over all twelve leads, built from transformers' modules.

McKeen et al., "ECG-FM: An Open Electrocardiogram Foundation Model", 2024 (code: fairseq-signals). It differs from
wav2vec 2.0 for speech in its first convolution, which reads twelve leads, and in the order of two steps: the positional
convolution still sees padded frames, which are set to zero after it.

Shape legend: B records, S segments of a record, C leads, T samples, F frames, D width of the model.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from ecgmoe.backbones import N_LEADS, Backbone
from ecgmoe.backbones.adapt import resample, z_score


@dataclass(frozen=True)
class EcgFmConfig:
    """Sizes of an ECG-FM."""

    embed_dim: int = 768
    """Width of the transformer."""
    layers: int = 12
    """Layers of the transformer."""
    attention_heads: int = 12
    """Attention heads."""
    ffn_dim: int = 3072
    """Width of the feed-forward layers."""
    conv_dim: int = 256
    """Width of the convolutions."""
    conv_layers: int = 4
    """Convolutions, of kernel and stride 2 each."""
    conv_pos: int = 128
    """Kernel of the positional convolution, frames."""
    conv_pos_groups: int = 16
    """Groups of the positional convolution."""
    num_labels: int = 0
    """Labels of the classification head of fine-tuned checkpoints; 0 leaves the head out."""
    segment_s: float = 5.0
    """Length of a segment, s: records are cut into segments, and the segments' features averaged."""
    fs: float = 500.0
    """Sampling rate of the input, Hz."""


class EcgFm(Backbone):
    """ECG-FM over all twelve leads.

    The feature vector is the sum over frames divided by the number of non-zero frames, averaged over segments.
    """

    name: ClassVar[str] = "ecg-fm"
    lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    presets: ClassVar[dict[str, EcgFmConfig]] = {
        "compact": EcgFmConfig(
            embed_dim=96,
            layers=3,
            attention_heads=4,
            ffn_dim=192,
            conv_dim=64,
            conv_layers=2,
            conv_pos=32,
            conv_pos_groups=4,
            fs=100.0,
        ),
        "published": EcgFmConfig(),
    }

    def __init__(self, config: EcgFmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Wav2Vec2Model(
            Wav2Vec2Config(
                hidden_size=config.embed_dim,
                num_hidden_layers=config.layers,
                num_attention_heads=config.attention_heads,
                intermediate_size=config.ffn_dim,
                conv_dim=(config.conv_dim,) * config.conv_layers,
                conv_kernel=(2,) * config.conv_layers,
                conv_stride=(2,) * config.conv_layers,
                num_conv_pos_embeddings=config.conv_pos,
                num_conv_pos_embedding_groups=config.conv_pos_groups,
                mask_time_prob=0.0,
                layerdrop=0.0,
            )
        )
        first = nn.Conv1d(N_LEADS, config.conv_dim, 2, stride=2, bias=False)
        nn.init.kaiming_normal_(first.weight)
        self.model.feature_extractor.conv_layers[0].conv = first
        self.proj = nn.Linear(config.embed_dim, config.num_labels) if config.num_labels else None
        self.d_features = config.embed_dim

    def frame_mask(self, padding_BT: Tensor) -> Tensor:
        """Tell which frames are padding, (B, F), from which samples are, (B, T), at the end of each record."""
        n_samples = (~padding_BT).sum(-1)
        n_frames = torch.tensor(padding_BT.shape[-1], device=padding_BT.device)
        for _ in range(self.config.conv_layers):
            n_samples, n_frames = n_samples // 2, n_frames // 2
        return torch.arange(int(n_frames), device=padding_BT.device) >= n_samples[:, None]

    def hidden(self, x_BCT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Output of the last transformer layer, (B, F, D); padded frames are zero.

        ``padding_BT`` is True where a segment is padded at its end.
        """
        for conv in self.model.feature_extractor.conv_layers:
            x_BCT = conv(x_BCT)
        h_BFD, _ = self.model.feature_projection(x_BCT.transpose(1, 2))
        encoder = self.model.encoder
        h_BFD = h_BFD + encoder.pos_conv_embed(h_BFD)
        attend, padded_BF1 = None, None
        if padding_BT is not None:
            padded_BF = self.frame_mask(padding_BT)
            padded_BF1, attend = padded_BF[..., None], ~padded_BF[:, None, None]
            h_BFD = h_BFD.masked_fill(padded_BF1, 0.0)
        h_BFD = encoder.layer_norm(h_BFD)
        for layer in encoder.layers:
            h_BFD = layer(h_BFD, attention_mask=attend)
        return h_BFD if padded_BF1 is None else h_BFD.masked_fill(padded_BF1, 0.0)

    @staticmethod
    def pool(h_BFD: Tensor) -> Tensor:
        """Sum over frames by the number of frames that are not zero, (B, D)."""
        return h_BFD.sum(1) / (h_BFD != 0).sum(1).clamp(min=1)

    def forward(self, x_BCT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Logits (B, labels) of a fine-tuned model, or without a head the pooled output (B, D)."""
        pooled_BD = self.pool(self.hidden(x_BCT, padding_BT))
        return pooled_BD if self.proj is None else self.proj(pooled_BD)

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """Model's rate, z-score of each lead over the whole record, then cut: (B, S, 12, T), T up to 5 s.

        A rest shorter than a segment is left out, unless it is all there is.
        """
        x_BCT = z_score(resample(x_BCT, fs, self.config.fs))
        n_samples = min(x_BCT.shape[-1], round(self.config.segment_s * self.config.fs))
        return x_BCT.unfold(-1, n_samples, n_samples).transpose(1, 2)

    def encode(self, x: Tensor) -> Tensor:
        """Pooled output averaged over segments, (B, D)."""
        pooled: Tensor = self.pool(self.hidden(x.flatten(0, 1)))
        return pooled.unflatten(0, x.shape[:2]).mean(1)
