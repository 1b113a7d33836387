"""ECG-FM: a wav2vec 2.0 encoder over all twelve leads, built from transformers' modules.

McKeen et al., "ECG-FM: An Open Electrocardiogram Foundation Model", 2024 (code: fairseq-signals). It differs from
wav2vec 2.0 for speech in its first convolution, which reads twelve leads, and in the order of two steps: the positional
convolution still sees padded frames, which are set to zero after it. Names of sizes are those of its authors' code.

Shape legend: B records, S segments of a record, C leads, T samples, F frames, W width of the convolutions, D width of
the transformer, G groups of code vectors.
"""

import ast
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

from ecgmoe.backbones import Backbone, traced
from ecgmoe.backbones.adapt import resample, z_score


@dataclass(frozen=True)
class EcgFmConfig:
    """Sizes of an ECG-FM."""

    enc_in: int = 12
    """Leads of the input."""
    embed_dim: int = 768
    """Width of the transformer."""
    layers: int = 12
    """Layers of the transformer."""
    attention_heads: int = 12
    """Attention heads."""
    ffn_dim: int = 3072
    """Width of the feed-forward layers."""
    conv_feature_layers: str = "[(256, 2, 2)] * 4"
    """Width, kernel and stride of each convolution."""
    conv_pos: int = 128
    """Kernel of the positional convolution, frames."""
    conv_pos_groups: int = 16
    """Groups of the positional convolution."""
    final_dim: int = 0
    """Width in which pretraining compares frames with code vectors; 0 leaves the heads of pretraining out."""
    latent_vars: int = 320
    """Code vectors of a group."""
    latent_groups: int = 2
    """Groups of code vectors."""
    latent_dim: int = 0
    """Width of the code vectors of all groups side by side; 0 stands for ``final_dim``."""
    num_labels: int = 0
    """Labels of the classification head of fine-tuned checkpoints; 0 leaves the head out."""
    labels: tuple[str, ...] = ()
    """Names of the labels, where they are known."""
    segment_s: float = 5.0
    """Length of a segment, s: records are cut into segments, and the segments' features averaged."""
    fs: float = 500.0
    """Sampling rate of the input, Hz."""

    @property
    def convolutions(self) -> list[tuple[int, int, int]]:
        """Width, kernel and stride of each convolution, as numbers."""
        return _convolutions(ast.parse(self.conv_feature_layers, mode="eval").body)

    def n_frames(self, n_samples: Any) -> Any:
        """Frames that the convolutions make of samples; numbers or tensors."""
        for _, kernel, stride in self.convolutions:
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples


def _convolutions(node: ast.expr) -> list[tuple[int, int, int]]:
    """Lists of triples, their sums and multiples, without running the code that they are written as."""
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _convolutions(left) + _convolutions(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))):
            return _convolutions(left) * times
        case _:
            return [(int(width), int(kernel), int(stride)) for width, kernel, stride in ast.literal_eval(node)]


class EcgFm(Backbone):
    """ECG-FM over all twelve leads.

    The feature vector is the sum over frames divided by the number of non-zero frames, averaged over segments: at depth
    0 of what the convolutions and the projection give, at depth k of what transformer layer k gives.
    """

    name: ClassVar[str] = "ecg-fm"
    lora_targets: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    upstream_inputs: ClassVar[tuple[str, ...]] = (
        "source_5s",
        "source_10s",
        "source_padded",
        "padding_mask",
        "ecg_mv",
    )
    presets: ClassVar[dict[str, EcgFmConfig]] = {
        "compact": EcgFmConfig(
            embed_dim=128,
            layers=3,
            attention_heads=4,
            ffn_dim=256,
            conv_feature_layers="[(64, 2, 2)] * 3",
            conv_pos=16,
            conv_pos_groups=4,
            final_dim=64,
            latent_vars=32,
            fs=100.0,
        ),
        "published": EcgFmConfig(),
    }

    def __init__(self, config: EcgFmConfig) -> None:
        super().__init__()
        self.config = config
        widths, kernels, strides = zip(*config.convolutions, strict=True)
        sizes = Wav2Vec2Config(
            hidden_size=config.embed_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention_heads,
            intermediate_size=config.ffn_dim,
            conv_dim=widths,
            conv_kernel=kernels,
            conv_stride=strides,
            num_conv_pos_embeddings=config.conv_pos,
            num_conv_pos_embedding_groups=config.conv_pos_groups,
            num_codevectors_per_group=config.latent_vars,
            num_codevector_groups=config.latent_groups,
            codevector_dim=config.latent_dim or config.final_dim,
            mask_time_prob=0.0,
            layerdrop=0.0,
        )
        self.model = Wav2Vec2Model(sizes)
        first = nn.Conv1d(config.enc_in, widths[0], kernels[0], stride=strides[0], bias=False)
        nn.init.kaiming_normal_(first.weight)
        self.model.feature_extractor.conv_layers[0].conv = first
        if widths[-1] == config.embed_dim:  # its authors leave the projection out then
            self.model.feature_projection.projection = nn.Identity()
        self.quantizer = self.project_q = self.final_proj = self.mask_emb = None
        if config.final_dim:
            self.quantizer = Wav2Vec2GumbelVectorQuantizer(sizes)
            nn.init.uniform_(self.quantizer.codevectors)
            nn.init.normal_(self.quantizer.weight_proj.weight)
            nn.init.zeros_(self.quantizer.weight_proj.bias)
            self.project_q = nn.Linear(sizes.codevector_dim, config.final_dim)
            self.final_proj = nn.Linear(config.embed_dim, config.final_dim)
            self.mask_emb = nn.Parameter(torch.rand(config.embed_dim))
        self.proj = nn.Linear(config.embed_dim, config.num_labels) if config.num_labels else None
        self.d_features = config.embed_dim
        self.n_depths = config.layers + 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what :meth:`logits` gives; numbers where the names are not known."""
        return self.config.labels or tuple(str(number) for number in range(self.config.num_labels))

    def local(self, x_BCT: Tensor) -> Tensor:
        """Normalised output of the convolutions, (B, F, W): what the quantizer of pretraining reads."""
        for conv in self.model.feature_extractor.conv_layers:
            x_BCT = conv(x_BCT)
        local_BFW: Tensor = self.model.feature_projection.layer_norm(x_BCT.transpose(1, 2))
        return local_BFW

    def project(self, local_BFW: Tensor, masked_BF: Tensor | None = None) -> Tensor:
        """Input of the transformer, (B, F, D), from :meth:`local`; ``mask_emb`` where a frame is masked."""
        h_BFD: Tensor = self.model.feature_projection.projection(local_BFW)
        if masked_BF is None:
            return h_BFD
        if self.mask_emb is None:
            raise ValueError("this ECG-FM has no heads of pretraining, so it cannot mask frames")
        return torch.where(masked_BF[..., None], self.mask_emb, h_BFD)

    def context(self, h_BFD: Tensor, padded_BF: Tensor | None = None) -> list[Tensor]:
        """Output of each transformer layer, (B, F, D), from :meth:`project`; padded frames are zero in the last."""
        encoder = self.model.encoder
        h_BFD = h_BFD + encoder.pos_conv_embed(h_BFD)
        attend = None
        if padded_BF is not None:
            h_BFD, attend = h_BFD.masked_fill(padded_BF[..., None], 0.0), ~padded_BF[:, None, None]
        layers_BFD = [encoder.layer_norm(h_BFD)]
        for layer in encoder.layers:
            layers_BFD.append(layer(layers_BFD[-1], attention_mask=attend))
        if padded_BF is not None:
            layers_BFD[-1] = layers_BFD[-1].masked_fill(padded_BF[..., None], 0.0)
        return layers_BFD[1:]

    def frame_mask(self, padding_BT: Tensor) -> Tensor:
        """Tell which frames are padding, (B, F), from which samples are, (B, T), at the end of each record."""
        n_frames = self.config.n_frames((~padding_BT).sum(-1))
        return torch.arange(self.config.n_frames(padding_BT.shape[-1]), device=padding_BT.device) >= n_frames[:, None]

    def hidden(self, x_BCT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Output of the last transformer layer, (B, F, D); padded frames are zero.

        ``padding_BT`` is True where a segment is padded at its end.
        """
        padded_BF = None if padding_BT is None else self.frame_mask(padding_BT)
        return self.context(self.project(self.local(x_BCT)), padded_BF)[-1]

    @staticmethod
    def pool(h_BFD: Tensor) -> Tensor:
        """Sum over frames by the number of frames that are not zero, (B, D)."""
        return h_BFD.sum(1) / (h_BFD != 0).sum(1).clamp(min=1)

    def forward(self, x_BCT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Logits (B, labels) of a fine-tuned model, or without a head the pooled output (B, D)."""
        pooled_BD = self.pool(self.hidden(x_BCT, padding_BT))
        return pooled_BD if self.proj is None else self.proj(pooled_BD)

    def logits(self, signal: Tensor | np.ndarray, fs: float) -> Tensor:
        """Classify recordings with the head of a fine-tuned checkpoint.

        The parameters are those of :meth:`ecgmoe.backbones.Backbone.features`; the segments' logits are averaged.

        Returns
        -------
        Tensor of shape (B, labels)
            float32, in the order of :attr:`labels`; the labels do not exclude each other.

        Raises
        ------
        ValueError
            When there is no such head, or as :meth:`ecgmoe.backbones.Backbone.features`.
        """
        if self.proj is None:
            raise ValueError("this ECG-FM has no classification head; load a fine-tuned checkpoint")
        return self.proj(self.features(signal, fs))  # the mean over segments and the linear head commute

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """Model's rate, z-score of each lead over the whole record, then cut: (B, S, 12, T), T up to ``segment_s``.

        A lead that is constant becomes zero. A rest shorter than a segment is left out, unless it is all there is.
        """
        x_BCT = z_score(resample(x_BCT, fs, self.config.fs))
        n_samples = min(x_BCT.shape[-1], round(self.config.segment_s * self.config.fs))
        if self.config.n_frames(n_samples) < 1:
            raise ValueError(f"a record of {n_samples} samples at {self.config.fs:g} Hz is too short for ECG-FM")
        return x_BCT.unfold(-1, n_samples, n_samples).transpose(1, 2)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Projected convolutions and each transformer layer, pooled over frames and averaged over segments."""
        h_BFD = self.project(self.local(x.flatten(0, 1)))
        return [self.pool(h).unflatten(0, x.shape[:2]).mean(1) for h in (h_BFD, *self.context(h_BFD))]

    def _upstream(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """``source`` of ``extract_features`` (pretrained) or of the classifier (fine-tuned); ``ecg_mv`` is not read.

        ``ecg_mv`` is the recording that the sources were cut from, for :meth:`features`.
        """
        if ("source_padded" in inputs) != ("padding_mask" in inputs):
            raise ValueError("source_padded and padding_mask of ECG-FM go together")
        run = self._upstream_pretrained if self.proj is None else self._upstream_fine_tuned
        padding_BT = inputs["padding_mask"].bool() if "padding_mask" in inputs else None
        if padding_BT is not None and padding_BT.ndim == 3:
            padding_BT = padding_BT[:, 0]  # the same for all leads
        return run(inputs, padding_BT)

    def _upstream_pretrained(self, inputs: dict[str, Tensor], padding_BT: Tensor | None) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        if "source_5s" in inputs:
            out |= self._traced_5s(inputs["source_5s"])
        if "source_10s" in inputs:
            out["x_10s"] = self.hidden(inputs["source_10s"])
            out["emb_10s"] = self.pool(out["x_10s"])
        if padding_BT is not None:
            out["x_padded"] = self.hidden(inputs["source_padded"], padding_BT)
            out["padding_mask_out"] = self.frame_mask(padding_BT)
            out["emb_padded"] = self.pool(out["x_padded"])
        return out

    def _traced_5s(self, x_BCT: Tensor) -> dict[str, Tensor]:
        """Every step on the way to the last layer, and the heads of pretraining on both ends of it."""
        n_convolutions = len(self.config.convolutions)
        paths = {
            "conv_block0": "feature_extractor.conv_layers.0",
            "conv": f"feature_extractor.conv_layers.{n_convolutions - 1}",
            "layer_norm": "feature_projection.layer_norm",
            "post_extract_proj": "feature_projection.projection",
            "conv_pos": "encoder.pos_conv_embed",
            "encoder_layer_norm": "encoder.layer_norm",
        }
        layers = {f"layer{i}": f"encoder.layers.{i}" for i in range(self.config.layers)}
        with traced(self.model, **paths, **layers) as seen:
            x_BFD = self.hidden(x_BCT)
        out = {name: h for name, (h,) in seen.items()}
        out |= {name: out[name].transpose(0, 1) for name in layers}  # frames come first there
        if isinstance(self.model.feature_projection.projection, nn.Identity):
            del out["post_extract_proj"]
        out |= {"x_5s": x_BFD, "emb_5s": self.pool(x_BFD), "emb_5s_mean": x_BFD.mean(1)}
        if self.config.final_dim:
            assert self.quantizer is not None and self.project_q is not None and self.final_proj is not None
            scores_BFGV = self.quantizer.weight_proj(out["layer_norm"]).unflatten(-1, (self.config.latent_groups, -1))
            out["quantizer_targets"] = scores_BFGV.argmax(-1)
            out["quantizer_x"], _ = self.quantizer(out["layer_norm"])
            out["project_q"] = self.project_q(out["quantizer_x"])
            out["final_proj"] = self.final_proj(x_BFD)
        return out

    def _upstream_fine_tuned(self, inputs: dict[str, Tensor], padding_BT: Tensor | None) -> dict[str, Tensor]:
        assert self.proj is not None
        out: dict[str, Tensor] = {}
        if "source_5s" in inputs:
            layers_BFD = self.context(self.project(self.local(inputs["source_5s"])))
            out["encoder_out_5s"] = layers_BFD[-1]
            out["out_5s"] = self.proj(self.pool(layers_BFD[-1]))
            out["saliency_5s"] = self.saliency(inputs["source_5s"][:1])
            out["out_5s_with_saliency"] = out["out_5s"]
        if "source_10s" in inputs:
            out["out_10s"] = self(inputs["source_10s"])
        if padding_BT is not None:
            out["out_padded"] = self(inputs["source_padded"], padding_BT)
        return out

    def saliency(self, x_BCT: Tensor) -> Tensor:
        """Attention of each layer, mean over heads, (B, layers, F, F): rows attend to columns."""
        n_heads, layers = self.config.attention_heads, range(self.config.layers)
        paths = {f"{p}{i}": f"encoder.layers.{i}.attention.{p}_proj" for i in layers for p in "qk"}
        with traced(self.model, **paths) as seen:
            self.hidden(x_BCT)
        heads = {name: h.unflatten(-1, (n_heads, -1)).transpose(1, 2) for name, (h,) in seen.items()}
        scores = [heads[f"q{i}"] @ heads[f"k{i}"].mT / heads[f"q{i}"].shape[-1] ** 0.5 for i in layers]
        return torch.stack([score.softmax(-1).mean(1) for score in scores], dim=1)
