"""MOMENT, by its authors' package ``momentfm``, kept quiet and away from the network.

Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models", ICML 2024: each lead by itself is normalised,
cut into patches of 8 samples and read by the encoder of a T5.

Shape legend: B records, C leads, T samples, P patches, D width of the model, K classes.
"""

import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ecgmoe.backbones import N_LEADS, Backbone, traced
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
    relative_attention_num_buckets: int = 32
    """Classes of distance between two patches that attention tells apart."""
    relative_attention_max_distance: int = 128
    """Distance in patches from which on it tells none apart."""
    layer_norm_epsilon: float = 1e-6
    """Added to the variance before its root is taken."""
    leads: Literal["mean", "concat"] = "mean"
    """Whether the leads' features are averaged, or put side by side, lead fastest."""
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
                "relative_attention_num_buckets": self.relative_attention_num_buckets,
                "relative_attention_max_distance": self.relative_attention_max_distance,
                "layer_norm_epsilon": self.layer_norm_epsilon,
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

    The feature vector is the mean over leads and patches: at depth 0 of the embedded patches, at depth k of the output
    of block k of the encoder, the last normalised.
    """

    name: ClassVar[str] = "moment"
    single_lead: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]] = ("q", "v")
    upstream_inputs: ClassVar[tuple[str, ...]] = (
        "x",
        "pretrain_mask",
        "x_padded",
        "input_mask",
        "class_concat_head_weight",
        "class_concat_head_bias",
        "class_mean_head_weight",
        "class_mean_head_bias",
    )
    presets: ClassVar[dict[str, MomentConfig]] = {
        "compact": MomentConfig(d_model=64, num_layers=2, num_heads=4, d_kv=16, d_ff=128, vocab_size=2, leads="concat"),
        "published": MomentConfig(),
    }

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        from momentfm.models.moment import MOMENT  # slow to import

        self.config = config
        with _root_logger_untouched():
            self.model: Any = MOMENT(config.upstream())
        self.d_features = config.d_model * (N_LEADS if config.leads == "concat" else 1)
        self.n_depths = config.num_layers + 1

    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """51.2 Hz, the first 10 s, no fraction of a patch; the network itself normalises each lead."""
        x_BCT = resample(x_BCT, fs, self.config.fs)[..., : self.config.seq_len]
        n_samples = x_BCT.shape[-1] // self.config.patch_len * self.config.patch_len
        if not n_samples:
            raise ValueError(f"a record must last {self.config.patch_len / self.config.fs:.2f} s at least")
        return x_BCT[..., :n_samples]

    def states(self, x_BCT: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """Embedded patches and the output of each block of the encoder, (B, C, P, D), the last normalised.

        ``mask_BT`` is 1 where there is a sample, and 0 in the padding.
        """
        x_BCT = torch.nan_to_num(self.model.normalizer(x=x_BCT, mask=mask_BT, mode="norm"), nan=0, posinf=0, neginf=0)
        patches_BCPD = self.model.patch_embedding(self.model.tokenizer(x=x_BCT), mask=mask_BT)
        attend = self.patch_mask(mask_BT).repeat_interleave(x_BCT.shape[1], dim=0)
        encoded = self.model.encoder(
            inputs_embeds=patches_BCPD.flatten(0, 1), attention_mask=attend, output_hidden_states=True
        )
        return [state.unflatten(0, x_BCT.shape[:2]) for state in encoded.hidden_states]

    def patch_mask(self, mask_BT: Tensor) -> Tensor:
        """1 where a patch is whole, 0 where any of it is padding, (B, P)."""
        whole_BP = mask_BT.unfold(-1, self.config.patch_len, self.config.patch_len).amin(-1) > 0
        return whole_BP.long()

    def adapted_mask(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Records padded in front to the length of the input, and the mask of their samples."""
        n_missing = self.config.seq_len // self.config.patch_len * self.config.patch_len - x.shape[-1]
        return F.pad(x, (n_missing, 0)), F.pad(torch.ones_like(x[:, 0]), (n_missing, 0))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Means over patches; shorter records are padded in front, and the padding is masked."""
        x_BCT, mask_BT = self.adapted_mask(x)
        mask_BP = self.patch_mask(mask_BT)
        pooled = [_masked_mean(state_BCPD, mask_BP) for state_BCPD in self.states(x_BCT, mask_BT)]
        return [h_BCD.mean(1) if self.config.leads == "mean" else h_BCD.mT.flatten(1) for h_BCD in pooled]

    def _upstream(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """``embed`` and ``classify`` of ``x``, ``reconstruction`` with ``pretrain_mask``; the same of padded records.

        The classification heads are none of the pretrained weights: logits need theirs.
        """
        if ("pretrain_mask" in inputs and not {"x", "x_padded"} & inputs.keys()) or (
            ("x_padded" in inputs) != ("input_mask" in inputs)
        ):
            raise ValueError("MOMENT needs x or x_padded beside pretrain_mask, and input_mask beside x_padded alone")
        out: dict[str, Tensor] = {name: x for name, x in inputs.items() if "_head_" in name}
        for suffix in ("", "_padded"):
            if (x_BCT := inputs.get(f"x{suffix}")) is None:
                continue
            mask_BT = inputs["input_mask"] if suffix else torch.ones_like(x_BCT[:, 0])
            blocks = {} if suffix else {f"encoder_block{i}": f"encoder.block.{i}" for i in range(self.n_depths - 1)}
            steps = {} if suffix else {"revin_norm": "normalizer", "patch_embedding": "patch_embedding"}
            with traced(self.model, **steps, **blocks) as seen:
                last_BCPD = self.states(x_BCT, mask_BT)[-1]
            out |= {name: h[0] if isinstance(h, tuple) else h for name, (h,) in seen.items()}
            out[f"embed_none{suffix}"] = last_BCPD
            out[f"embed_mean{suffix}"] = _masked_mean(last_BCPD.mean(1, keepdim=True), self.patch_mask(mask_BT))[:, 0]
            if not suffix:
                out["encoder_final"] = last_BCPD.flatten(0, 1)
                out |= _classified(last_BCPD, inputs)
            if "pretrain_mask" in inputs:
                result = self.model.reconstruction(x_enc=x_BCT, input_mask=mask_BT, mask=inputs["pretrain_mask"])
                out[f"reconstruction{suffix}"] = result.reconstruction
        return out


def _masked_mean(h_BCPD: Tensor, mask_BP: Tensor) -> Tensor:
    """Mean over the patches that are whole, (B, C, D)."""
    mask_B1P1 = mask_BP[:, None, :, None]
    return (mask_B1P1 * h_BCPD).sum(2) / mask_B1P1.sum(2)


def _classified(h_BCPD: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features and logits of the classification heads, with the leads side by side, lead fastest, and averaged."""
    out = {
        "class_concat_feature": h_BCPD.permute(0, 2, 3, 1).flatten(2).mean(1),
        "class_mean_feature": h_BCPD.mean(1).mean(1),
    }
    for head in ("class_concat", "class_mean"):
        weight_KD, bias_K = inputs.get(f"{head}_head_weight"), inputs.get(f"{head}_head_bias")
        if weight_KD is not None and bias_K is not None:
            out[f"{head}_logits"] = F.linear(out[f"{head}_feature"], weight_KD, bias_K)
    return out
