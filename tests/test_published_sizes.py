"""Checkpoints of MOMENT, TEMPO and ECG-FM at published and at odd sizes, written as their authors' code writes them.

The names and shapes below are written down anew from the authors' configurations, and what the loaded networks return
is compared with another implementation that reads the same weights: ``momentfm``, GPT-2 under ``peft``, and PyTorch's
own transformer layers.
"""

import gc
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model

from ecgmoe import backbones
from ecgmoe.backbones import published

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(autouse=True)
def _one_thread_no_gradients():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, which are gone after the test."""
    if (free := shutil.disk_usage(tmp_path).free) < 4e9:
        pytest.skip(f"needs 4 GB of disk, {free / 1e9:.1f} GB are free")
    yield tmp_path
    shutil.rmtree(tmp_path)
    gc.collect()


def random_weights(shapes: Shapes) -> dict[str, Tensor]:
    """Weights under which signals neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("weight") and len(shape) == 1 or "weight_g" in key or "original0" in key:
            weights[key] = noise.mul_(0.1).add_(1)
        elif len(shape) < 2:
            weights[key] = noise.mul_(0.1)
        else:
            weights[key] = noise.div_(noise[0].numel() ** 0.5)
    return weights


def fingerprints(weights: dict[str, Tensor]) -> list[tuple[tuple[int, ...], float]]:
    """Shape and sum of all weights: the same for the same weights under other names."""
    return sorted((tuple(weight.shape), float(weight.double().sum())) for weight in weights.values())


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def signal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def millions(network: backbones.Backbone) -> float:
    return backbones.n_parameters(network) / 1e6


# ---- MOMENT


def t5_config(
    d_model: int, num_layers: int, num_heads: int, d_ff: int, d_kv: int = 64, vocab_size: int = 32128
) -> dict:
    return {
        "d_ff": d_ff,
        "d_kv": d_kv,
        "d_model": d_model,
        "dropout_rate": 0.1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_decoder_layers": num_layers,
        "num_heads": num_heads,
        "num_layers": num_layers,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def moment_config(t5: dict, seq_len: int = 512, patch_len: int = 8) -> dict:
    return {
        "task_name": "reconstruction",
        "model_name": "MOMENT",
        "transformer_type": "encoder_only",
        "d_model": None,
        "seq_len": seq_len,
        "patch_len": patch_len,
        "patch_stride_len": patch_len,
        "device": "cpu",
        "transformer_backbone": "google/flan-t5-large",
        "model_kwargs": {},
        "t5_config": t5,
    }


def moment_shapes(config: dict) -> Shapes:
    t5 = config["t5_config"]
    width, inner, d_ff = t5["d_model"], t5["num_heads"] * t5["d_kv"], t5["d_ff"]
    shapes: Shapes = {
        "patch_embedding.mask_embedding": (width,),
        "patch_embedding.value_embedding.weight": (width, config["patch_len"]),
        "patch_embedding.position_embedding.pe": (1, 5000, width),
        "encoder.embed_tokens.weight": (t5["vocab_size"], width),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, t5["num_heads"]),
        "encoder.final_layer_norm.weight": (width,),
        "head.linear.weight": (config["patch_len"], width),
        "head.linear.bias": (config["patch_len"],),
    }
    for i in range(t5["num_layers"]):
        block = f"encoder.block.{i}.layer"
        shapes |= {f"{block}.0.SelfAttention.{name}.weight": (inner, width) for name in "qkv"}
        shapes[f"{block}.0.SelfAttention.o.weight"] = (width, inner)
        shapes |= {f"{block}.{half}.layer_norm.weight": (width,) for half in (0, 1)}
        shapes |= {f"{block}.1.DenseReluDense.{name}.weight": (d_ff, width) for name in ("wi_0", "wi_1")}
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (width, d_ff)
    return shapes


def check_moment(folder: Path, config: dict, name: str = "moment-1-small") -> backbones.Backbone:
    weights = random_weights(moment_shapes(config))
    weights["patch_embedding.value_embedding.weight"].mul_(0.3)
    written = fingerprints(weights)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    del weights
    model = published.load(name, weights=folder)
    assert fingerprints(model.state_dict()) == written
    seq_len, patch_len, n_layers = config["seq_len"], config["patch_len"], config["t5_config"]["num_layers"]
    x = signal(1, 2, seq_len)
    mask = np.ones((1, seq_len), np.float32)
    mask[:, : 2 * patch_len + 1] = 0
    out = model.upstream(x=x, x_padded=x, input_mask=mask, pretrain_mask=np.roll(mask, patch_len + 3))
    assert {f"encoder_block{i}" for i in range(n_layers)} < out.keys()
    assert f"encoder_block{n_layers}" not in out

    from momentfm.models.moment import MOMENT

    with torch.device("meta"):  # no random weights to begin with
        sizes = config | {"d_model": model.config.d_model}
        upstream = MOMENT(Namespace(**sizes, enable_gradient_checkpointing=False))
    upstream.load_state_dict(load_file(folder / "model.safetensors"), strict=True, assign=True)
    upstream.eval()
    x, mask = torch.from_numpy(x), torch.from_numpy(mask)
    assert_close(out["embed_mean"], upstream.embed(x_enc=x).embeddings)
    assert_close(out["embed_none_padded"], upstream.embed(x_enc=x, input_mask=mask, reduction="none").embeddings)
    rebuilt = upstream.reconstruction(x_enc=x, input_mask=mask, mask=mask.roll(patch_len + 3)).reconstruction
    assert_close(out["reconstruction_padded"], rebuilt)
    return model


@pytest.mark.parametrize(
    ("t5", "seq_len", "patch_len"),
    [
        (t5_config(24, 1, 5, 40, d_kv=4, vocab_size=7), 96, 12),
        (t5_config(16, 4, 2, 24, d_kv=12, vocab_size=33), 520, 8),
    ],
)
def test_moment_of_odd_sizes(tmp_path, t5, seq_len, patch_len):
    model = check_moment(tmp_path, moment_config(t5, seq_len, patch_len))
    assert model.config.num_layers == t5["num_layers"]
    recordings = signal(2, 12, 700)
    features = [model.features(recordings, 100, depth) for depth in range(model.n_depths)]
    assert all(h.shape == (2, t5["d_model"]) for h in features)
    per_lead = published.load("moment-1-base", weights=tmp_path, leads="concat")
    together = per_lead.features(recordings, 100)
    assert together.shape == (2, 12 * t5["d_model"])
    assert_close(together.unflatten(1, (-1, 12)).mean(-1), features[-1])


def test_moment_without_its_configuration(tmp_path):
    """The weights alone say all that the published configurations differ in."""
    check_moment(tmp_path, moment_config(t5_config(16, 2, 2, 24, d_kv=8, vocab_size=5)))
    (tmp_path / "config.json").unlink()
    assert published.load("moment-1-small", weights=tmp_path).config.d_kv == 8


def test_moment_of_another_configuration_is_refused(tmp_path):
    config = moment_config(t5_config(16, 2, 2, 24, d_kv=8, vocab_size=5))
    check_moment(tmp_path, config)
    for change in (
        {"patch_stride_len": 4},
        {"transformer_type": "encoder_decoder"},
        {"seq_len": "long"},
        {"t5_config": config["t5_config"] | {"feed_forward_proj": "relu"}},
        {"t5_config": config["t5_config"] | {"num_layers": 3}},
        {"t5_config": config["t5_config"] | {"num_heads": 4}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(published.WeightsError, match="model.safetensors"):
            published.load("moment-1-small", weights=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "t5", "size"),
    [
        ("moment-1-small", t5_config(512, 8, 6, 1024), 35.3),
        ("moment-1-base", t5_config(768, 12, 12, 2048), 109.6),
        ("moment-1-large", t5_config(1024, 24, 16, 2816), 341.2),
    ],
)
def test_moment_of_published_size(folder, name, t5, size):
    model = check_moment(folder, moment_config(t5), name)
    assert millions(model) == pytest.approx(size, rel=0.002)
    assert model.d_features == t5["d_model"]


# ---- TEMPO


def tempo_shapes(
    seq_len: int, pred_len: int, width: int, layers: int, patch: int, stride: int, n_positions: int
) -> Shapes:
    n_flat = ((seq_len - patch) // stride + 2) * width
    gpt2 = "gpt2_trend.base_model.model."
    shapes: Shapes = {"mul_season.a": (2, 1), "mul_season.b": (2, 1)}
    linear = {"map_trend": (seq_len, seq_len), "map_resid": (seq_len, seq_len)}
    linear |= {"map_season.0": (4 * seq_len, seq_len), "map_season.2": (seq_len, 4 * seq_len)}
    for part in ("trend", "season", "noise"):
        linear |= {f"in_layer_{part}": (width, patch), f"prompt_layer_{part}": (width, width)}
        linear[f"out_layer_{part}"] = (pred_len, n_flat)
        shapes |= {f"rev_in_{part}.affine_weight": (1,), f"rev_in_{part}.affine_bias": (1,)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{gpt2}wte.weight": (50257, width), f"{gpt2}wpe.weight": (n_positions, width)}
    for i in range(layers):
        layer = f"{gpt2}h.{i}"
        shapes |= {f"{layer}.{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{layer}.attn.c_attn.base_layer.weight": (width, 3 * width)}
        shapes |= {f"{layer}.attn.c_attn.base_layer.bias": (3 * width,)}
        shapes |= {f"{layer}.attn.c_attn.lora_A.default.weight": (16, width)}
        shapes |= {f"{layer}.attn.c_attn.lora_B.default.weight": (3 * width, 16)}
        for name, (n_in, n_out) in {"attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}.items():
            shapes |= {f"{layer}.{name}.weight": (n_in * width, n_out * width)}
            shapes |= {f"{layer}.{name}.bias": (n_out * width,)}
    return shapes | {f"{gpt2}ln_f.{kind}": (width,) for kind in ("weight", "bias")}


def peft_gpt2(weights: dict[str, Tensor], n_head: int, layers: int) -> nn.Module:
    """GPT-2 as TEMPO's authors build it, with the weights of a checkpoint."""
    n_positions, width = weights["gpt2_trend.base_model.model.wpe.weight"].shape
    sizes = GPT2Config(n_embd=width, n_head=n_head, n_layer=layers, n_positions=n_positions, use_cache=False)
    lora = LoraConfig(r=16, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True)
    gpt2 = inject_adapter_in_model(lora, GPT2Model(sizes))
    own = {
        key.removeprefix("gpt2_trend.base_model.model."): w
        for key, w in weights.items()
        if key.startswith("gpt2_trend.")
    }
    gpt2.load_state_dict(own, strict=True)
    return gpt2.eval()


def check_tempo(
    folder: Path, n_head: int, config: dict, meta: dict, keep_lora: bool = False, **sizes: int
) -> backbones.Backbone:
    weights = random_weights(tempo_shapes(**sizes))
    torch.save(weights, folder / "TEMPO-80M_v1.pth")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    if meta:
        (folder / "meta.json").write_text(json.dumps(meta))
    model = published.load("tempo-80m", weights=folder, keep_lora=keep_lora)
    unread = ("mul_season.", "map_resid.", "rev_in_season.", "rev_in_noise.")
    if keep_lora:
        read = {key: weight for key, weight in weights.items() if not key.startswith(unread)}
        assert fingerprints(model.state_dict()) == fingerprints(read)
    assert model.config.n_head == n_head
    x = signal(2, sizes["seq_len"], 1)
    out = model.upstream(x=x, trend=x, season=x, resid=x)
    assert out["predict_40_of_series0"].shape == (40,)
    gpt2 = peft_gpt2(weights, n_head, sizes["layers"])
    n_tokens = 3 * (9 + (sizes["seq_len"] - sizes["patch"]) // sizes["stride"] + 2)
    assert out["gpt2_inputs_embeds"].shape == (2, n_tokens, sizes["width"])
    assert_close(out["gpt2_last_hidden"], gpt2(inputs_embeds=out["gpt2_inputs_embeds"]).last_hidden_state)
    assert model.upstream(x=x)["out"].equal(out["out"])
    return model


@pytest.mark.parametrize("keep_lora", [False, True])
def test_tempo_of_odd_sizes(tmp_path, keep_lora):
    sizes = {"seq_len": 60, "pred_len": 7, "width": 24, "layers": 2, "patch": 10, "stride": 4, "n_positions": 80}
    meta = {"gpt2_overrides_for_small": {"n_embd": 24, "n_head": 3, "n_positions": 80}}
    config = {"n_heads": 4, "stride": 4, "kernel_size": 99, "d_model": 24}  # the first and the third are read by nobody
    model = check_tempo(tmp_path, 3, config, meta, keep_lora, **sizes)
    recordings = signal(2, 12, 700)
    features = [model.features(recordings, 100, depth) for depth in range(model.n_depths)]
    assert len(features) == 3 and all(h.shape == (2, 72) for h in features)
    per_lead = published.load("tempo-80m", weights=tmp_path, leads="concat").features(recordings, 100)
    assert per_lead.shape == (2, 12 * 72)
    assert_close(per_lead.unflatten(1, (-1, 12)).mean(-1), features[-1])


def test_tempo_under_other_names(tmp_path):
    """Names of old versions of peft, of none, and parts that the forward pass never reads."""
    sizes = {"seq_len": 40, "pred_len": 6, "width": 4, "layers": 2, "patch": 16, "stride": 8, "n_positions": 64}
    new = random_weights(tempo_shapes(**sizes))
    old = {key.replace(".base_layer.", "."): weight for key, weight in new.items()}
    bare = {key.replace(".default.", "."): weight for key, weight in old.items()}
    plain = {key.replace("base_model.model.", ""): weight for key, weight in bare.items()}
    merged = {key: weight for key, weight in plain.items() if ".lora_" not in key}
    for i in range(2):
        at = f"gpt2_trend.h.{i}.attn.c_attn"
        merged[f"{at}.weight"] = (
            merged[f"{at}.weight"] + (plain[f"{at}.lora_B.weight"] @ plain[f"{at}.lora_A.weight"]).T
        )
    copies = {key.replace("gpt2_trend", f"gpt2_{part}"): new[key] for key in new for part in ("season", "noise")}
    masks = {"gpt2_trend.base_model.model.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8)}
    masks["gpt2_trend.base_model.model.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    (tmp_path / "config.json").write_text('{"n_heads": 2}')
    x, outputs = signal(2, 40, 1), []
    for weights in (new, old, bare, plain, merged, new | copies, old | masks):
        torch.save(weights, tmp_path / "TEMPO-80M_v1.pth")
        models = (published.load("tempo-80m", weights=tmp_path, keep_lora=keep_lora) for keep_lora in (False, True))
        outputs += [model.upstream(x=x)["out"] for model in models]
    for out in outputs:
        assert_close(out, outputs[0])


@pytest.mark.parametrize(
    ("file", "meta", "message"),
    [
        ({"n_heads": 5}, {}, "5 attention heads"),
        ({}, {}, "None attention heads"),
        ({"n_heads": 2, "stride": 3}, {}, "out_layer_trend.weight"),
        ({"n_heads": 2, "stride": 0}, {}, "0 apart"),
        ({"n_heads": 2, "gpt_layers": 3}, {}, "h.1.attn.c_attn.base_layer.bias"),
        ({"n_heads": 2}, {"gpt2_overrides_for_small": {"n_positions": 128}}, "wpe.weight"),
    ],
)
def test_tempo_of_another_configuration_is_refused(tmp_path, file, meta, message):
    sizes = {"seq_len": 40, "pred_len": 6, "width": 4, "layers": 1, "patch": 16, "stride": 8, "n_positions": 64}
    torch.save(random_weights(tempo_shapes(**sizes)), tmp_path / "TEMPO-80M_v1.pth")
    (tmp_path / "config.json").write_text(json.dumps(file))
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(published.WeightsError, match=message):
        published.load("tempo-80m", weights=tmp_path)


def test_tempo_with_too_few_tokens_is_refused(tmp_path):
    sizes = {"seq_len": 40, "pred_len": 6, "width": 4, "layers": 1, "patch": 16, "stride": 8, "n_positions": 64}
    weights = random_weights(tempo_shapes(**sizes) | {"gpt2_trend.base_model.model.wte.weight": (29598, 4)})
    torch.save(weights, tmp_path / "TEMPO-80M_v1.pth")
    with pytest.raises(published.WeightsError, match="29598 tokens"):
        published.load("tempo-80m", weights=tmp_path)


TEMPO_80M = {
    "seq_len": 336,
    "pred_len": 96,
    "width": 768,
    "layers": 6,
    "patch": 16,
    "stride": 8,
    "n_positions": 1024,
}


@pytest.mark.slow
def test_tempo_of_published_size(folder):
    config = {"n_heads": 4, "d_model": 768, "gpt_layers": 6, "stride": 8, "patch_size": 16}
    model = check_tempo(folder, 12, config, {}, keep_lora=True, **TEMPO_80M)
    assert millions(model) == pytest.approx(94.03 + 0.295, rel=0.002)
    assert model.d_features == 3 * 768


# ---- ECG-FM


def ecg_fm_cfg(
    width: int, layers: int, heads: int, ffn: int, convolutions: str, conv_pos: int, groups: int, in_d: int = 12
) -> dict:
    return {
        "_name": "wav2vec2_cmsc",
        "normalize": False,
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": ffn,
        "encoder_attention_heads": heads,
        "layer_norm_first": False,
        "extractor_mode": "default",
        "conv_feature_layers": convolutions,
        "in_d": in_d,
        "conv_bias": False,
        "conv_pos": conv_pos,
        "conv_pos_groups": groups,
    }


PRETRAINED = {
    "apply_mask": True,
    "quantize_targets": True,
    "latent_vars": 320,
    "latent_groups": 2,
    "latent_dim": 0,
    "final_dim": 256,
}


def ecg_fm_shapes(cfg: dict, convolutions: list[tuple[int, int, int]], new: bool = True) -> Shapes:
    width, ffn, local = cfg["encoder_embed_dim"], cfg["encoder_ffn_embed_dim"], convolutions[-1][0]
    linear: Shapes = {} if local == width else {"post_extract_proj": (width, local)}
    norms = {"layer_norm": local, "encoder.layer_norm": width, "feature_extractor.conv_layers.0.2": convolutions[0][0]}
    for i in range(cfg["encoder_layers"]):
        layer = f"encoder.layers.{i}"
        linear |= {f"{layer}.self_attn.{name}_proj": (width, width) for name in ("k", "v", "q", "out")}
        linear |= {f"{layer}.fc1": (ffn, width), f"{layer}.fc2": (width, ffn)}
        norms |= {f"{layer}.{name}_layer_norm": width for name in ("self_attn", "final")}
    shapes: Shapes = {"mask_emb": (width,)} if "final_dim" in cfg else {}
    if "final_dim" in cfg:
        groups, n_vectors = cfg["latent_groups"], cfg["latent_groups"] * cfg["latent_vars"]
        vectors = cfg["latent_dim"] or cfg["final_dim"]
        shapes["quantizer.vars"] = (1, n_vectors, vectors // groups)
        linear |= {"quantizer.weight_proj": (n_vectors, local), "project_q": (cfg["final_dim"], vectors)}
        linear["final_proj"] = (cfg["final_dim"], width)
    n_in = cfg["in_d"]
    for i, (n_out, kernel, _) in enumerate(convolutions):
        shapes[f"feature_extractor.conv_layers.{i}.0.weight"] = (n_out, n_in, kernel)
        n_in = n_out
    ends = (
        ("parametrizations.weight.original0", "parametrizations.weight.original1") if new else ("weight_g", "weight_v")
    )
    shapes["conv_pos.pos_conv.0.bias"] = (width,)
    shapes[f"conv_pos.pos_conv.0.{ends[0]}"] = (1, 1, cfg["conv_pos"])
    shapes[f"conv_pos.pos_conv.0.{ends[1]}"] = (width, width // cfg["conv_pos_groups"], cfg["conv_pos"])
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    if "num_labels" not in cfg:
        return shapes
    shapes = {f"encoder.{key}": shape for key, shape in shapes.items()}
    return shapes | {"proj.weight": (cfg["num_labels"], width), "proj.bias": (cfg["num_labels"],)}


def torch_ecg_fm(weights: dict[str, Tensor], cfg: dict, convolutions: list[tuple[int, int, int]], x: Tensor) -> Tensor:
    """Output of the last layer (B, F, D) by functions and transformer layers of PyTorch."""
    for i, (_, _, stride) in enumerate(convolutions):
        x = F.conv1d(x, weights[f"feature_extractor.conv_layers.{i}.0.weight"], stride=stride)
        if i == 0:
            norm = "feature_extractor.conv_layers.0.2"
            x = F.group_norm(x, x.shape[1], weights[f"{norm}.weight"], weights[f"{norm}.bias"])
        x = F.gelu(x)
    x = F.layer_norm(x.mT, x.shape[1:2], weights["layer_norm.weight"], weights["layer_norm.bias"])
    if "post_extract_proj.weight" in weights:
        x = F.linear(x, weights["post_extract_proj.weight"], weights["post_extract_proj.bias"])
    conv = "conv_pos.pos_conv.0"
    new = f"{conv}.weight_g" not in weights
    g, v = (
        weights[f"{conv}.{'parametrizations.weight.original' if new else 'weight_'}{n}"]
        for n in ("01" if new else "gv")
    )
    kernel = g * v / v.square().sum((0, 1), keepdim=True).sqrt()
    at = F.conv1d(x.mT, kernel, weights[f"{conv}.bias"], padding=cfg["conv_pos"] // 2, groups=cfg["conv_pos_groups"])
    x = x + F.gelu(at[..., : x.shape[1]].mT)
    x = F.layer_norm(x, x.shape[2:], weights["encoder.layer_norm.weight"], weights["encoder.layer_norm.bias"])
    sizes = cfg["encoder_embed_dim"], cfg["encoder_attention_heads"], cfg["encoder_ffn_embed_dim"]
    layer = nn.TransformerEncoderLayer(*sizes, activation="gelu", batch_first=True).eval()
    for i in range(cfg["encoder_layers"]):
        own = {k.removeprefix(f"encoder.layers.{i}."): w for k, w in weights.items() if f"encoder.layers.{i}." in k}
        names = {"self_attn.out_proj": "self_attn.out_proj", "fc1": "linear1", "fc2": "linear2"}
        names |= {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}
        state = {
            f"{mine}.{kind}": own[f"{theirs}.{kind}"] for theirs, mine in names.items() for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            state[f"self_attn.in_proj_{kind}"] = torch.cat([own[f"self_attn.{n}_proj.{kind}"] for n in "qkv"])
        layer.load_state_dict(state, strict=True)
        x = layer(x)
    return x


def check_ecg_fm(
    folder: Path, name: str, file: str, cfg: dict, convolutions: list[tuple[int, int, int]], new: bool = True
) -> backbones.Backbone:
    weights = random_weights(ecg_fm_shapes(cfg, convolutions, new))
    content = {
        "args": None,
        "cfg": {"_name": None, "task": {"_name": "ecg_pretraining", "normalize": False}, "model": cfg},
        "model": weights,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 1}],
        "task_state": {},
        "extra_state": {"val_loss": None},
        "last_optimizer_state": {"state": {}, "param_groups": []},
    }
    torch.save(content, folder / file)
    (folder / "stale.yaml").write_text("model: {encoder_attention_heads: 7, conv_feature_layers: '[(512, 10, 5)]'}\n")
    model = published.load(name, weights=folder)
    assert fingerprints(model.state_dict()) == fingerprints(weights)
    x = signal(1, cfg["in_d"], 512)
    out = model.upstream(source_5s=x)
    prefix = "encoder." if "num_labels" in cfg else ""
    theirs = {key.removeprefix(prefix): weight for key, weight in weights.items()}
    h = torch_ecg_fm(theirs, cfg, convolutions, torch.from_numpy(x))
    layers = cfg["encoder_layers"]
    if "num_labels" in cfg:
        assert out["saliency_5s"].shape == (1, layers, *[h.shape[1]] * 2)
        assert_close(out["saliency_5s"].sum(-1), torch.ones(1, layers, h.shape[1]))
        assert_close(out["encoder_out_5s"], h)
        assert_close(out["out_5s"], F.linear(h.mean(1), weights["proj.weight"], weights["proj.bias"]))
    else:
        assert_close(out["x_5s"], h)
        assert f"layer{layers - 1}" in out and f"layer{layers}" not in out
        assert ("post_extract_proj" in out) == ("post_extract_proj.weight" in weights)
    if "final_dim" in cfg:
        assert out["quantizer_targets"].shape == (1, h.shape[1], cfg["latent_groups"])
        assert out["quantizer_targets"].max() < cfg["latent_vars"]
        assert out["project_q"].shape == out["final_proj"].shape == (1, h.shape[1], cfg["final_dim"])
    padding = np.zeros((1, cfg["in_d"], 512), bool)
    padding[..., 300:] = True
    assert model.upstream(source_padded=x, padding_mask=padding)
    return model


HEADS = {"quantize_targets": True, "latent_vars": 6, "latent_groups": 3, "latent_dim": 15, "final_dim": 10}
ODD = [
    (ecg_fm_cfg(30, 2, 3, 44, "[(20, 2, 2)] * 3", 8, 5) | HEADS, [(20, 2, 2)] * 3, True),
    (ecg_fm_cfg(24, 1, 2, 40, "[(10, 5, 3)] + [(24, 3, 2)] * 2", 7, 3), [(10, 5, 3), (24, 3, 2), (24, 3, 2)], False),
    (ecg_fm_cfg(20, 3, 5, 32, "[(16, 2, 2)] * 4", 6, 2) | {"num_labels": 3}, [(16, 2, 2)] * 4, False),
    (ecg_fm_cfg(20, 1, 1, 32, "[(16, 4, 2)]", 6, 20, in_d=3) | {"num_labels": 1}, [(16, 4, 2)], True),
]


@pytest.mark.parametrize(("cfg", "convolutions", "new"), ODD)
def test_ecg_fm_of_odd_sizes(tmp_path, cfg, convolutions, new):
    name, file = ("ecg-fm-mimic-finetuned", "mine.pt") if "num_labels" in cfg else ("ecg-fm", "pretrained.pt")
    model = check_ecg_fm(tmp_path, name, file, cfg, convolutions, new)
    recordings = signal(2, 12, 1000)
    if cfg["in_d"] != 12:
        with pytest.raises(ValueError, match="3 leads"):
            model.features(recordings, 100)
        return
    features = [model.features(recordings, 100, depth) for depth in range(model.n_depths)]
    assert len(features) == cfg["encoder_layers"] + 1
    assert all(h.shape == (2, cfg["encoder_embed_dim"]) for h in features)
    in_one_piece = published.load(name, weights=tmp_path, segment_s=10.0)
    assert in_one_piece.adapt(torch.from_numpy(recordings), 100).shape == (2, 1, 12, 5000)
    assert not torch.allclose(in_one_piece.features(recordings, 100), features[-1], atol=1e-3)
    if "num_labels" not in cfg:
        with pytest.raises(ValueError, match="fine-tuned"):
            model.logits(recordings, 100)
        return
    assert model.labels == tuple(map(str, range(cfg["num_labels"])))
    segments = model.adapt(torch.from_numpy(recordings), 100)
    per_segment = torch.stack([model(segments[:, i]) for i in range(2)])
    assert_close(model.logits(recordings, 100), per_segment.mean(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_attention_heads": 7}, "encoder_attention_heads 7"),
        ({"encoder_attention_heads": None}, "without encoder_attention_heads"),
        ({"conv_feature_layers": "__import__('os').getcwd()"}, "conv_feature_layers"),
        ({"conv_feature_layers": "[(16, 2, 2)] * 5"}, "conv_layers.4.0.weight"),
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"encoder_layers": 4}, "encoder.encoder.layers.3.fc1.bias"),
        ({"conv_pos_groups": 4}, "original1"),
    ],
)
def test_ecg_fm_of_another_configuration_is_refused(tmp_path, change, message):
    cfg, convolutions, _ = ODD[2]
    weights = random_weights(ecg_fm_shapes(cfg, convolutions))
    torch.save({"cfg": {"model": cfg | change}, "model": weights}, tmp_path / "mine.pt")
    with pytest.raises(published.WeightsError, match=message):
        published.load("ecg-fm-mimic-finetuned", weights=tmp_path)


PUBLISHED = ecg_fm_cfg(768, 12, 12, 3072, "[(256, 2, 2)] * 4", 128, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "change", "size"),
    [
        ("ecg-fm", "mimic_iv_ecg_physionet_pretrained.pt", PRETRAINED, 90.9),
        ("ecg-fm-mimic-finetuned", "mimic_iv_ecg_finetuned.pt", {"num_labels": 17}, 90.4),
        ("ecg-fm-physionet-finetuned", "physionet_finetuned.pt", {"num_labels": 26}, 90.4),
    ],
)
def test_ecg_fm_of_published_size(folder, name, file, change, size):
    cfg = PUBLISHED | change
    assert name != "ecg-fm" or len(ecg_fm_shapes(cfg, [(256, 2, 2)] * 4)) == 215
    model = check_ecg_fm(folder, name, file, cfg, [(256, 2, 2)] * 4, new="physionet" not in name)
    assert millions(model) == pytest.approx(size, rel=0.002)
    assert model.d_features == 768
    if "num_labels" in change:
        assert len(set(model.labels)) == change["num_labels"]
        assert model.labels[1] == {17: "Sinus rhythm", 26: "AFL"}[change["num_labels"]]
        assert model.logits(signal(1, 12, 2500), 500).shape == (1, change["num_labels"])
