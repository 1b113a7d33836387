"""Small checkpoints with random weights, in the spelling and container of each backbone's authors."""

import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ecgmoe.backbones import Backbone
from ecgmoe.backbones.dlinear import DLinear, DLinearConfig
from ecgmoe.backbones.ecgfm import EcgFm, EcgFmConfig
from ecgmoe.backbones.moment import Moment, MomentConfig
from ecgmoe.backbones.tempo import Tempo, TempoConfig
from ecgmoe.backbones.timesnet import TimesNet, TimesNetConfig


@dataclass
class Example:
    """A network, its weights as its authors' code names them, and what lies beside them."""

    file: str
    network: Backbone
    weights: dict[str, Tensor]
    config: dict = field(default_factory=dict)

    def content(self, weights: dict[str, Tensor] | None = None) -> dict:
        """What the file holds."""
        weights = self.weights if weights is None else weights
        if not isinstance(self.network, EcgFm):
            return weights
        cfg = {"task": {"_name": "ecg_pretraining"}, "model": self.config}
        return {
            "args": None,
            "cfg": cfg,
            "model": weights,
            "criterion": None,
            "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 7}],
            "task_state": {},
            "extra_state": {"best": np.float64(0.5), "meters": Namespace(loss=0.25)},
        }

    def write(self, folder: Path, weights: dict[str, Tensor] | None = None) -> Path:
        """Write the file and the configuration beside it; give the path of the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file
        if path.suffix == ".safetensors":
            save_file({key: weight.contiguous() for key, weight in (weights or self.weights).items()}, path)
        else:
            torch.save(self.content(weights), path)
        if self.config:
            (folder / "config.json").write_text(json.dumps({"config": self.config}))
        return path


def _ecg_fm_key(key: str) -> str:
    """Name of a weight in fairseq-signals, by its name in transformers."""
    for ours, theirs in (
        ("model.", ""),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "conv_pos.pos_conv.0.weight_g"),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "conv_pos.pos_conv.0.weight_v"),
        ("encoder.pos_conv_embed.conv", "conv_pos.pos_conv.0"),
        ("feature_projection.layer_norm", "layer_norm"),
        ("feature_projection.projection", "post_extract_proj"),
        ("attention", "self_attn"),
        ("feed_forward.intermediate_dense", "fc1"),
        ("feed_forward.output_dense", "fc2"),
        ("conv.weight", "0.weight"),
    ):
        key = key.replace(ours, theirs)
    if key.startswith("encoder.layers.") and ".layer_norm." in key:
        key = key.replace(".layer_norm.", ".self_attn_layer_norm.")
    return key.replace("conv_layers.0.layer_norm", "conv_layers.0.2")


def example(backbone: str) -> Example:
    """Make the example of a backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if backbone == "dlinear":
            network = DLinear(DLinearConfig(seq_len=40, pred_len=16, moving_avg=5, fs=4.0)).eval()
            return Example("dlinear.pth", network, network.state_dict(), {"moving_avg": 5, "seq_len": 40})
        if backbone == "timesnet":
            sizes = {"seq_len": 40, "pred_len": 8, "d_model": 6, "d_ff": 10, "num_kernels": 2, "top_k": 2}
            network = TimesNet(TimesNetConfig(**sizes, fs=4.0)).eval()
            return Example("timesnet.pth", network, network.state_dict(), sizes)
        if backbone == "moment":
            t5 = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24, "vocab_size": 3}
            network = Moment(MomentConfig(**t5, seq_len=512)).eval()
            return Example("model.safetensors", network, network.model.state_dict(), {"seq_len": 512, "t5_config": t5})
        if backbone == "tempo":
            sizes = {"seq_len": 48, "pred_len": 8, "n_embd": 4, "n_layer": 2, "n_head": 2, "n_positions": 64}
            network = Tempo(TempoConfig(**sizes, vocab_size=29599, fs=4.8)).eval()
            return Example("TEMPO-80M_v1.pth", network, network.state_dict(), {"n_heads": 2})
        config = EcgFmConfig(
            embed_dim=16,
            layers=2,
            attention_heads=2,
            ffn_dim=24,
            conv_feature_layers="[(8, 2, 2), (8, 2, 2)]",
            conv_pos=8,
            conv_pos_groups=2,
        )
        network = EcgFm(config).eval()
        cfg = {
            "conv_feature_layers": config.conv_feature_layers,
            "encoder_attention_heads": 2,
            "encoder_layers": 2,
            "conv_pos_groups": 2,
        }
        weights = {_ecg_fm_key(key): weight for key, weight in network.state_dict().items()}
        return Example("mimic_iv_ecg_physionet_pretrained.pt", network, weights, cfg)
