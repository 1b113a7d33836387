"""Checkpoints of ECG-FM, as the trainer of fairseq-signals saves them: pretrained or fine-tuned."""

from typing import Any

from ecgmoe.backbones.ecgfm import EcgFmConfig
from ecgmoe.backbones.published.containers import Adapted, Checkpoint, WeightsError

#: Labels of the published fine-tuned checkpoints, by file name, in the order of their heads: ``label_def.csv`` in
#: ``data/mimic_iv_ecg/labels`` and ``data/physionet2021/labels`` of https://github.com/bowang-lab/ECG-FM.
LABELS = {
    "mimic_iv_ecg_finetuned.pt": (
        "Poor data quality",
        "Sinus rhythm",
        "Premature ventricular contraction",
        "Tachycardia",
        "Ventricular tachycardia",
        "Supraventricular tachycardia with aberrancy",
        "Atrial fibrillation",
        "Atrial flutter",
        "Bradycardia",
        "Accessory pathway conduction",
        "Atrioventricular block",
        "1st degree atrioventricular block",
        "Bifascicular block",
        "Right bundle branch block",
        "Left bundle branch block",
        "Infarction",
        "Electronic pacemaker",
    ),
    "physionet_finetuned.pt": tuple(
        "AF AFL BBB Brady CLBBB|LBBB CRBBB|RBBB IAVB IRBBB LAD LAnFB LPR LQRSV LQT NSIVCB NSR PAC|SVPB PR PRWP PVC|VPB "
        "QAb RAD SA SB STach TAb TInv".split()
    ),
}

#: Our names of the modules of a transformer layer, by theirs.
_LAYER = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.out_proj",
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}

#: Heads of pretraining: beginnings of their names.
_HEADS = ("mask_emb", "quantizer.", "project_q.", "final_proj.")

#: What an ECG-FM is, in the configuration of its trainer, where that could say otherwise without other weights.
_FIXED: dict[str, Any] = {"layer_norm_first": False, "extractor_mode": "default"}


def adapt(checkpoint: Checkpoint) -> Adapted:
    """Take sizes from shapes; what they leave open from what the trainer wrote into the file, ``cfg.model``.

    Where the file holds weights alone, a configuration beside it must say the convolutions and the attention heads.

    Notes
    -----
    All weights of the network that was fine-tuned are called ``encoder.`` something in a fine-tuned file. So its
    ``encoder.layer_norm``, which normalises the output of the convolutions, is ``layer_norm`` in a pretrained file, the
    ``encoder.layer_norm`` of which is the one before the transformer.
    """
    marks = ("encoder.encoder.", "encoder.feature_extractor.")
    fine_tuned = any(key.startswith(marks) for key in checkpoint.weights)
    at = "encoder." if fine_tuned else ""
    convolutions = _convolutions(checkpoint)
    n_layers = max(checkpoint.count(f"{at}encoder.layers."), _number(checkpoint, "encoder_layers"))
    style = f"{at}conv_pos.pos_conv.0"
    new = any(key.startswith(f"{style}.parametrizations.") for key in checkpoint.weights)
    ends = (
        ("parametrizations.weight.original0", "parametrizations.weight.original1") if new else ("weight_g", "weight_v")
    )
    scale, direction = (f"{style}.{end}" for end in ends)
    ours = "model.encoder.pos_conv_embed.conv"
    wanted = {
        f"{ours}.bias": f"{style}.bias",
        f"{ours}.parametrizations.weight.original0": scale,
        f"{ours}.parametrizations.weight.original1": direction,
    }
    for i in range(len(convolutions)):
        conv = f"feature_extractor.conv_layers.{i}"
        wanted[f"model.{conv}.conv.weight"] = f"{at}{conv}.0.weight"
    layers = {f"encoder.layers.{i}.{a}": f"encoder.layers.{i}.{b}" for i in range(n_layers) for a, b in _LAYER.items()}
    modules = layers | {
        "encoder.layer_norm": "encoder.layer_norm",
        "layer_norm": "feature_projection.layer_norm",
        "feature_extractor.conv_layers.0.2": "feature_extractor.conv_layers.0.layer_norm",
    }
    embed_dim = checkpoint.size(
        *((f"{at}{name}.weight", 0) for name in (*layers, "encoder.layer_norm") if "fc1" not in name),
        of="width of the transformer",
    )
    if convolutions[-1][0] != embed_dim:
        modules["post_extract_proj"] = "feature_projection.projection"
    for theirs, mine in modules.items():
        wanted |= {f"model.{mine}.{kind}": f"{at}{theirs}.{kind}" for kind in ("weight", "bias")}

    heads = _fine_tuned_head(checkpoint, wanted) if fine_tuned else _pretraining_heads(checkpoint, wanted)
    first = f"{at}feature_extractor.conv_layers.0.0.weight"
    config = EcgFmConfig(
        enc_in=_number(checkpoint, "in_d") or checkpoint.size((first, 1), of="number of leads"),
        embed_dim=embed_dim,
        layers=n_layers,
        attention_heads=_attention_heads(checkpoint, embed_dim),
        ffn_dim=checkpoint.size(*((f"{at}{n}.weight", 0) for n in layers if "fc1" in n), of="feed-forward width"),
        conv_feature_layers=str(convolutions),
        conv_pos=_number(checkpoint, "conv_pos")
        or checkpoint.size((scale, 2), (direction, 2), of="kernel of the positional convolution"),
        conv_pos_groups=_conv_pos_groups(checkpoint, embed_dim, direction),
        **heads,
    )
    unused = {f"{at}mask_emb": "stands for masked frames while training"} if fine_tuned else {}
    return Adapted(config, wanted, unused)


def _setting(checkpoint: Checkpoint, key: str) -> Any:
    return checkpoint.setting("model", key, default=checkpoint.setting(key))


def _number(checkpoint: Checkpoint, key: str, least: int = 1) -> int:
    """Whole number that the configuration says, or 0."""
    return checkpoint.number("model", key, default=checkpoint.number(key, default=0, least=least), least=least)


def _convolutions(checkpoint: Checkpoint) -> list[tuple[int, int, int]]:
    for key, value in _FIXED.items():
        if (said := _setting(checkpoint, key)) not in (None, value):
            raise WeightsError(checkpoint.path, f"is of a network with {key} {said!r}", f"only {value!r} can be read")
    said = _setting(checkpoint, "conv_feature_layers")
    try:
        convolutions = EcgFmConfig(conv_feature_layers=str(said)).convolutions
        if convolutions and all(size > 0 for convolution in convolutions for size in convolution):
            return convolutions
    except (SyntaxError, TypeError, ValueError):
        pass
    raise _unsaid(checkpoint, "conv_feature_layers", said)


def _conv_pos_groups(checkpoint: Checkpoint, embed_dim: int, direction: str) -> int:
    if said := _number(checkpoint, "conv_pos_groups"):
        return said
    width = checkpoint.size((direction, 1), of="width of a group of the positional convolution")
    return max(1, embed_dim // max(1, width))


def _attention_heads(checkpoint: Checkpoint, embed_dim: int) -> int:
    said = _number(checkpoint, "encoder_attention_heads")
    if not said or embed_dim % said:
        raise _unsaid(checkpoint, "encoder_attention_heads", said or None)
    return said


def _unsaid(checkpoint: Checkpoint, key: str, said: Any) -> WeightsError:
    reason = f"comes without {key}" if said is None else f"comes with {key} {said!r}, which cannot be"
    cure = "take the file of the trainer, or put its `cfg` beside the weights as `model_cfg.json`"
    return WeightsError(checkpoint.path, reason, cure)


def _pretraining_heads(checkpoint: Checkpoint, wanted: dict[str, Any]) -> dict[str, Any]:
    """Write down the heads of pretraining where the file has any, or should, and give their sizes."""
    if not any(key.startswith(_HEADS) for key in checkpoint.weights) and not _setting(checkpoint, "quantize_targets"):
        return {}
    wanted |= {"mask_emb": "mask_emb", "quantizer.codevectors": "quantizer.vars"}
    ends = [f"{name}.{kind}" for name in ("project_q", "final_proj") for kind in ("weight", "bias")]
    wanted |= {key: key for key in ("quantizer.weight_proj.weight", "quantizer.weight_proj.bias", *ends)}
    latent_dim = _number(checkpoint, "latent_dim", least=0) or _number(checkpoint, "final_dim", least=0)
    latent_dim = latent_dim or checkpoint.size(("project_q.weight", 1), of="width of the code vectors")
    width = checkpoint.size(("quantizer.vars", 2), of="width of the code vectors of a group")
    n_vectors = checkpoint.size(
        ("quantizer.vars", 1),
        ("quantizer.weight_proj.weight", 0),
        ("quantizer.weight_proj.bias", 0),
        of="number of code vectors",
    )
    groups = _number(checkpoint, "latent_groups") or max(1, latent_dim // max(1, width))
    return {
        "final_dim": max(1, checkpoint.size(*((key, 0) for key in ends), of="width of the heads of pretraining")),
        "latent_vars": n_vectors // groups,
        "latent_groups": groups,
        "latent_dim": latent_dim,
    }


def _fine_tuned_head(checkpoint: Checkpoint, wanted: dict[str, Any]) -> dict[str, Any]:
    """Write down the classification head, and give its labels."""
    head = ("proj.weight", "proj.bias")
    wanted |= {key: key for key in head}
    num_labels = max(1, checkpoint.size(*((key, 0) for key in head), of="number of labels"))
    labels = LABELS.get(checkpoint.path.name, ())
    return {"num_labels": num_labels, "labels": labels if len(labels) == num_labels else ()}
