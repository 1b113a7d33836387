"""Checkpoints of MOMENT-1, as ``momentfm`` and its authors' page at Hugging Face save them."""

from ecgmoe.backbones.moment import MomentConfig
from ecgmoe.backbones.published.containers import Adapted, Checkpoint, WeightsError

_ATTENTION = "layer.0.SelfAttention"
_FEED_FORWARD = "layer.1.DenseReluDense"


def adapt(checkpoint: Checkpoint) -> Adapted:
    """Take sizes from shapes; what they leave open from ``config.json`` beside the file.

    Notes
    -----
    Where no configuration says otherwise, the length is 512 samples and attention tells distances up to 128 patches
    apart, as in every published MOMENT-1. ``d_model`` at the top of the published files is null: the shapes say it.
    Nothing says the sampling rate: the input is taken to last 10 s.
    """
    said_layers = checkpoint.number("t5_config", "num_layers", default=0)
    blocks = [f"encoder.block.{i}." for i in range(max(checkpoint.count("encoder.block."), said_layers))]
    buckets = f"encoder.block.0.{_ATTENTION}.relative_attention_bias.weight"
    norms = [f"{block}layer.{half}.layer_norm.weight" for block in blocks for half in (0, 1)]
    attention = {name: [f"{block}{_ATTENTION}.{name}.weight" for block in blocks] for name in "qkvo"}
    gates = [f"{block}{_FEED_FORWARD}.{name}.weight" for block in blocks for name in ("wi_0", "wi_1")]
    wanted = [
        "patch_embedding.mask_embedding",
        "patch_embedding.value_embedding.weight",
        "patch_embedding.position_embedding.pe",
        "encoder.embed_tokens.weight",
        buckets,
        *norms,
        *(key for keys in attention.values() for key in keys),
        *gates,
        *(f"{block}{_FEED_FORWARD}.wo.weight" for block in blocks),
        "encoder.final_layer_norm.weight",
        "head.linear.weight",
        "head.linear.bias",
    ]
    ends = [("patch_embedding.value_embedding.weight", 0), ("encoder.final_layer_norm.weight", 0)]
    d_model = checkpoint.size(*ends, *((key, 0) for key in norms), of="width of the model")
    num_heads = _said_or_size(checkpoint, "num_heads", buckets, 1)
    width = checkpoint.size(
        *((key, 0) for name in "qkv" for key in attention[name]),
        *((key, 1) for key in attention["o"]),
        of="width of attention",
    )
    patch_len = checkpoint.size(
        ("patch_embedding.value_embedding.weight", 1),
        ("head.linear.weight", 0),
        ("head.linear.bias", 0),
        of="length of a patch",
    )
    seq_len = checkpoint.number("seq_len", default=512)
    if seq_len < patch_len:
        raise WeightsError(checkpoint.path, f"reads {seq_len} samples", "correct `seq_len` in `config.json` beside it")
    epsilon = checkpoint.setting("t5_config", "layer_norm_epsilon", default=1e-6)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        reason = f"its configuration says layer_norm_epsilon: {epsilon!r}"
        raise WeightsError(checkpoint.path, reason, "a small number such as 1e-6 is needed")
    config = MomentConfig(
        d_model=d_model,
        num_layers=len(blocks),
        num_heads=num_heads,
        d_kv=checkpoint.number("t5_config", "d_kv", default=max(1, width // num_heads)),
        d_ff=checkpoint.size(*((key, 0) for key in gates), of="width of the feed-forward layers"),
        vocab_size=_said_or_size(checkpoint, "vocab_size", "encoder.embed_tokens.weight", 0),
        seq_len=seq_len,
        patch_len=patch_len,
        relative_attention_num_buckets=_said_or_size(checkpoint, "relative_attention_num_buckets", buckets, 0),
        relative_attention_max_distance=checkpoint.number("t5_config", "relative_attention_max_distance", default=128),
        layer_norm_epsilon=epsilon,
        fs=seq_len / 10,
    )
    expected = {"transformer_type": "encoder_only", "patch_len": patch_len, "patch_stride_len": patch_len}
    for key, value in expected.items():
        if (said := checkpoint.setting(key, default=value)) != value:
            raise WeightsError(checkpoint.path, f"is of a MOMENT with {key} {said!r}", f"only {value!r} can be read")
    if (said := checkpoint.setting("t5_config", "feed_forward_proj", default="gated-gelu")) != "gated-gelu":
        raise WeightsError(checkpoint.path, f"is of a T5 with {said!r} layers", "only 'gated-gelu' can be read")
    return Adapted(config, {f"model.{key}": key for key in wanted})


def _said_or_size(checkpoint: Checkpoint, name: str, key: str, axis: int) -> int:
    """Size that a single weight has: what the configuration says, where there is one to contradict the weight."""
    return checkpoint.number("t5_config", name, default=0) or checkpoint.size((key, axis), of=name)
