"""Agreement of the backbones with what their authors' code returned for the same weights.

The reference outputs lie in ``parity/`` of the folder ``ECGMOE_SHARED``, and are not part of this repository.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ecgmoe.backbones.dlinear import DLinear, DLinearConfig
from ecgmoe.backbones.ecgfm import EcgFm, EcgFmConfig
from ecgmoe.backbones.moment import Moment, MomentConfig
from ecgmoe.backbones.tempo import PARTS, Tempo, TempoConfig
from ecgmoe.backbones.timesnet import TimesNet, TimesNetConfig

PARITY = Path(os.environ.get("ECGMOE_SHARED", Path(__file__).parents[2] / "shared")) / "parity"
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="needs parity/ of the folder ECGMOE_SHARED")


@pytest.fixture(autouse=True)
def _one_thread_no_gradients():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def arrays(case: str, name: str) -> dict[str, Tensor]:
    with np.load(PARITY / case / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def configuration(case: str) -> dict:
    return json.loads((PARITY / case / "config.json").read_text())


def checkpoint(path: str) -> dict:
    return torch.load(PARITY / path, weights_only=True)


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    model.load_state_dict(weights, strict=True)
    return model.eval()


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture
def trace():
    """Outputs of sub-modules by the name they are asked for under; a list where one is called several times."""
    handles, seen = [], {}

    def watch(model: nn.Module, **names: str) -> dict[str, list]:
        for name, path in names.items():
            module = model.get_submodule(path)
            record = seen.setdefault(name, []).append
            handles.append(module.register_forward_hook(lambda _m, _i, out, record=record: record(out)))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


# ---- DLinear


@pytest.mark.parametrize(
    "case",
    [
        "ltsf_small_shared",
        "tslib_small_forecast_shared",
        "tslib_small_forecast_individual",
        "tslib_small_classification",
    ],
)
def test_dlinear(case):
    case = f"dlinear/{case}"
    upstream = configuration(case)["config"]
    n_classes = upstream.get("num_class", 0)
    model = DLinear(
        DLinearConfig(
            seq_len=upstream["seq_len"],
            pred_len=upstream["seq_len"] if n_classes else upstream["pred_len"],
            moving_avg=upstream.get("moving_avg", 25),
            individual="individual" in case,
            num_class=n_classes,
        )
    )
    load(model, checkpoint(f"{case}/checkpoint.pth"))
    x_BCT = arrays(case, "inputs")["x"].transpose(1, 2)
    expected = arrays(case, "outputs")
    seasonal, trend = model.decompose(x_BCT)
    assert_same(seasonal.transpose(1, 2), expected["seasonal"])
    assert_same(trend.transpose(1, 2), expected["trend"])
    out = model(x_BCT)
    assert_same(out if n_classes else out.transpose(1, 2), expected["out"])


# ---- TimesNet


@pytest.mark.parametrize("case", ["small_forecast", "small_classification"])
def test_timesnet(case, trace):
    case = f"timesnet/{case}"
    upstream = configuration(case)["config"]
    shared = {
        key: upstream[key] for key in ("seq_len", "pred_len", "d_model", "d_ff", "num_kernels", "top_k", "e_layers")
    }
    config = TimesNetConfig(**shared, num_class=upstream.get("num_class", 0), per_sample_periods=False)
    model = load(TimesNet(config), checkpoint(f"{case}/checkpoint.pth"))
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")

    seen = trace(model, enc_embedding="enc_embedding", layer_norm="layer_norm", block0="model.0", block1="model.1")
    assert_same(model(inputs["x"], inputs.get("x_mark_enc")), expected["out"])
    assert_same(seen["enc_embedding"][0], expected["enc_embedding"])
    for name, (out,) in (("block0", seen["block0"]), ("block1", seen["block1"])):
        assert_same(out, expected[name])
    assert_same(seen["layer_norm"][0], expected["layer_norm"])
    assert_same(seen["layer_norm"][1], expected["layer_norm#2"])
    period, weight = model.model[1].periods(expected["layer_norm"])
    assert period[0].tolist() == expected["fft1_period"].tolist()
    torch.testing.assert_close(weight, expected["fft1_weight"], rtol=1e-5, atol=1e-5)

    # a record alone has only one mean over the batch to offer: per-sample periods must give the same
    alone = load(TimesNet(replace(config, per_sample_periods=True)), checkpoint(f"{case}/checkpoint.pth"))
    mask = inputs["x_mark_enc"][:1] if "x_mark_enc" in inputs else None
    assert_same(alone(inputs["x"][:1], mask), model(inputs["x"][:1], mask))


# ---- MOMENT


def test_moment(trace):
    case = "moment/small_tiny"
    t5 = configuration(case)["t5_config"]
    model = Moment(
        MomentConfig(**{key: t5[key] for key in ("d_model", "num_layers", "num_heads", "d_kv", "d_ff", "vocab_size")})
    )
    load(model.model, load_file(PARITY / case / "model.safetensors"))
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")

    seen = trace(
        model.model,
        revin_norm="normalizer",
        patch_embedding="patch_embedding",
        encoder_final="encoder",
        **{f"encoder_block{i}": f"encoder.block.{i}" for i in range(t5["num_layers"])},
    )
    assert_same(model.encode(inputs["x"]), expected["embed_mean"])
    for name, (out,) in seen.items():
        out = out.last_hidden_state if name == "encoder_final" else out[0] if isinstance(out, tuple) else out
        assert_same(out, expected[name])

    embedded = model.model.embed(x_enc=inputs["x_padded"], input_mask=inputs["input_mask"], reduction="none")
    assert_same(embedded.embeddings, expected["embed_none_padded"])
    embedded = model.model.embed(x_enc=inputs["x_padded"], input_mask=inputs["input_mask"])
    assert_same(embedded.embeddings, expected["embed_mean_padded"])


# ---- TEMPO


def tempo_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's weights under our names, LoRA merged, without what its forward pass never uses."""
    unused = ("mul_season.", "map_resid.", "rev_in_season.", "rev_in_noise.", "gpt2_season.", "gpt2_noise.")
    out = {}
    for key, weight in weights.items():
        if key.startswith(unused) or key.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        out[key.replace("gpt2_trend.base_model.model.", "gpt2_trend.").replace(".base_layer", "")] = weight
    for key in [key for key in out if "lora_A" in key]:
        lora_b = out.pop(key.replace("lora_A", "lora_B"))
        name = key.replace("lora_A.default.weight", "weight")
        out[name] = out[name] + (lora_b @ out.pop(key)).T  # rank = alpha: no further factor
    return out


@pytest.mark.parametrize("file", ["TEMPO-small_v1.pth", "TEMPO-small_v1.oldnames.pth"])
def test_tempo(file, trace):
    case = "tempo/small_upstream"
    upstream = configuration(case)
    weights = tempo_weights(checkpoint(f"{case}/{file}"))
    model = Tempo(
        TempoConfig(
            seq_len=upstream["seq_len"],
            pred_len=upstream["pred_len"],
            n_embd=upstream["d_model"],
            n_layer=upstream["gpt_layers"],
            n_head=upstream["n_heads"],
            n_positions=len(weights["gpt2_trend.wpe.weight"]),
            patch_size=upstream["patch_size"],
            stride=upstream["stride"],
            kernel_size=upstream["kernel_size"],
        )
    )
    load(model, weights)
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")
    x_SL = inputs["x"][..., 0]

    seen = trace(
        model, gpt2="gpt2_trend", in_layer_trend="in_layer_trend", **{f"out_layer_{p}": f"out_layer_{p}" for p in PARTS}
    )
    assert_same(model(x_SL)[..., None], expected["out"])
    assert_same(seen["gpt2"][0].last_hidden_state, expected["gpt2_last_hidden"])
    for name in ("in_layer_trend", *(f"out_layer_{part}" for part in PARTS)):
        assert_same(seen[name][0], expected[name])
    parts = model.decompose(model.rev_in_trend(x_SL)[0])
    for part in PARTS:
        assert_same(parts[part][..., None], expected[f"{part}_local"])
    assert_same(model.tokens(parts), expected["gpt2_inputs_embeds"])


# ---- ECG-FM


def ecgfm_weights(weights: Mapping[str, Tensor], fine_tuned: bool) -> dict[str, Tensor]:
    """Upstream's weights under transformers' names, without the heads of pre-training."""
    renamed = {
        "encoder.layers.": "model.encoder.layers.",
        "self_attn_layer_norm": "layer_norm",
        "self_attn": "attention",
        "fc1": "feed_forward.intermediate_dense",
        "fc2": "feed_forward.output_dense",
        "post_extract_proj": "model.feature_projection.projection",
        "conv_pos.pos_conv.0.weight_g": "model.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        "conv_pos.pos_conv.0.weight_v": "model.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        "conv_pos.pos_conv.0": "model.encoder.pos_conv_embed.conv",
        "feature_extractor.conv_layers.0.2": "model.feature_extractor.conv_layers.0.layer_norm",
        "feature_extractor": "model.feature_extractor",
    }
    out = {}
    for key, weight in weights.items():
        name = key.removeprefix("encoder.") if fine_tuned else key
        if name.startswith(("mask_emb", "quantizer.", "project_q.", "final_proj.")):
            continue
        if name.startswith("layer_norm."):
            name = f"model.feature_projection.{name}"
        elif name.startswith("encoder.layer_norm."):
            name = f"model.{name}"
        else:
            for old, new in renamed.items():
                name = name.replace(old, new, 1) if f"model.{old}" not in name else name
            if "feature_extractor" in name and name.endswith(".0.weight"):
                name = name.replace(".0.weight", ".conv.weight")
        out[name] = weight
    return out


def ecgfm(case: str, file: str) -> EcgFm:
    weights = checkpoint(f"{case}/{file}")["model"]
    cfg = json.loads((PARITY / case / "model_cfg.json").read_text())
    conv_dim = int(cfg["conv_feature_layers"].split(",")[0].strip("[( "))
    config = EcgFmConfig(
        embed_dim=cfg["encoder_embed_dim"],
        layers=cfg["encoder_layers"],
        attention_heads=cfg["encoder_attention_heads"],
        ffn_dim=cfg["encoder_ffn_embed_dim"],
        conv_dim=conv_dim,
        conv_layers=int(cfg["conv_feature_layers"].rsplit("*", 1)[1]),
        conv_pos=cfg["conv_pos"],
        conv_pos_groups=cfg["conv_pos_groups"],
        num_labels=cfg.get("num_labels", 0),
    )
    return load(EcgFm(config), ecgfm_weights(weights, "num_labels" in cfg))


@pytest.mark.parametrize("file", ["pretrained_new_names.pt", "pretrained_old_names.pt"])
def test_ecgfm_pretrained(file, trace):
    case = "ecgfm/small_pretrained"
    model = ecgfm(case, file)
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")
    seen = trace(
        model.model,
        conv_block0="feature_extractor.conv_layers.0",
        conv="feature_extractor.conv_layers.3",
        layer_norm="feature_projection.layer_norm",
        post_extract_proj="feature_projection.projection",
        conv_pos="encoder.pos_conv_embed",
        encoder_layer_norm="encoder.layer_norm",
        **{f"layer{i}": f"encoder.layers.{i}" for i in range(3)},
    )
    assert_same(model.hidden(inputs["source_5s"]), expected["x_5s"])
    for name, (out,) in seen.items():
        assert_same(out.transpose(0, 1) if name.startswith("layer") and name[-1].isdigit() else out, expected[name])
    assert_same(model(inputs["source_5s"]), expected["emb_5s"])
    assert_same(model.hidden(inputs["source_10s"]), expected["x_10s"])
    assert_same(model(inputs["source_10s"]), expected["emb_10s"])
    padding_BT = inputs["padding_mask"][:, 0]
    assert model.frame_mask(padding_BT).tolist() == expected["padding_mask_out"].tolist()
    assert_same(model.hidden(inputs["source_padded"], padding_BT), expected["x_padded"])
    assert_same(model(inputs["source_padded"], padding_BT), expected["emb_padded"])

    # from the recording in mV: z-score over the whole record, then two segments a record
    segments_BSCT = model.adapt(inputs["ecg_mv"], 500.0)
    torch.testing.assert_close(segments_BSCT.flatten(0, 1), inputs["source_5s"], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        model.features(inputs["ecg_mv"], 500.0), expected["emb_5s"].unflatten(0, (2, 2)).mean(1), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("file", ["finetuned_new_names.pt", "finetuned_old_names.pt"])
def test_ecgfm_fine_tuned(file):
    case = "ecgfm/small_finetuned"
    model = ecgfm(case, file)
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")
    assert_same(model.hidden(inputs["source_5s"]), expected["encoder_out_5s"])
    assert_same(model(inputs["source_5s"]), expected["out_5s"])
    assert_same(model(inputs["source_10s"]), expected["out_10s"])
    assert_same(model(inputs["source_padded"], inputs["padding_mask"][:, 0]), expected["out_padded"])
