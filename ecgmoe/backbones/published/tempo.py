"""Checkpoints of TEMPO, as ``timeagi`` saves them, with any version of ``peft``."""

from torch import Tensor

from ecgmoe.backbones.published.containers import Adapted, Checkpoint, Made, WeightsError
from ecgmoe.backbones.tempo import PART_IDS, PARTS, TempoConfig

#: Modules whose weights TEMPO's forward pass never reads, and why; a file has all weights of one, or none.
UNUSED = {
    "mul_season": "a Fourier series that its authors left for `map_season`",
    "map_resid": "the residual is what trend and season leave",
    "rev_in_season": "the parts are not normalised again",
    "rev_in_noise": "the parts are not normalised again",
    "gpt2_season": "one GPT-2, `gpt2_trend`, reads all parts",
    "gpt2_noise": "one GPT-2, `gpt2_trend`, reads all parts",
}

#: Ends of names of causal masks, by layer of a GPT-2.
UNUSED_MASKS = ("attn.bias", "attn.masked_bias")

#: Attention heads of GPT-2 by its width, as OpenAI published it.
GPT2_HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}

#: Where ``meta.json`` says how a GPT-2 differs from OpenAI's smallest.
_OVERRIDES = ("gpt2_overrides_for_small",)

#: Names of a LoRA matrix: kept inside a model, and in a file of an adapter alone.
_LORA_ENDS = (".default.weight", ".weight")


def adapt(checkpoint: Checkpoint, *, keep_lora: bool = False) -> Adapted:
    """Take sizes from shapes; the step between patches and the attention heads from a configuration.

    Parameters
    ----------
    checkpoint : Checkpoint
    keep_lora : bool
        Keep the LoRA of ``c_attn`` apart, where the file has one; by default it is added to the weights.

    Notes
    -----
    The number of attention heads has no weights. It is ``gpt2_overrides_for_small.n_head`` of ``meta.json`` where there
    is one, else GPT-2's own for its published widths, else ``n_heads`` of ``config.json``, which TEMPO-80M has and its
    authors' code never reads. Patches start 8 samples apart where ``stride`` of ``config.json`` does not say otherwise.
    Their code sets the moving average to 25 samples whatever ``kernel_size`` says, and alpha of the LoRA to its rank.
    Nothing says the sampling rate: the input is taken to last 10 s.
    """
    weights = checkpoint.weights
    peft = "gpt2_trend.base_model.model."
    gpt2 = peft if any(key.startswith(peft) for key in weights) else "gpt2_trend."
    n_layer = max(checkpoint.count(f"{gpt2}h."), checkpoint.number("gpt_layers", default=0))
    plain = ("ln_1", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    modules = [f"h.{i}.{name}" for i in range(n_layer) for name in plain] + ["ln_f"]
    both = ("weight", "bias")
    wanted: dict[str, str | Made] = {f"gpt2_trend.{name}.weight": f"{gpt2}{name}.weight" for name in ("wte", "wpe")}
    wanted |= {f"gpt2_trend.{module}.{kind}": f"{gpt2}{module}.{kind}" for module in modules for kind in both}
    linear = [f"{layer}_{part}" for layer in ("in_layer", "prompt_layer", "out_layer") for part in PARTS]
    own = [f"{module}.{kind}" for module in ("map_trend", "map_season.0", "map_season.2", *linear) for kind in both]
    wanted |= {key: key for key in (*own, "rev_in_trend.affine_weight", "rev_in_trend.affine_bias")}
    lora_r = _add_attention(checkpoint, wanted, gpt2, n_layer, keep_lora)

    n_embd = checkpoint.size(
        *((f"{gpt2}{name}.weight", 1) for name in ("wte", "wpe")),
        *((f"{gpt2}{name}.weight", 0) for name in modules if "ln_" in name),
        of="width of GPT-2",
    )
    seq_len = checkpoint.size(*((f"map_trend.{kind}", 0) for kind in both), of="length of the input")
    vocab_size = _said_or_size(checkpoint, "vocab_size", f"{gpt2}wte.weight")
    if vocab_size <= max(PART_IDS.values()):
        reason = f"has a GPT-2 of {vocab_size} tokens, too few for the words of the prompts"
        raise WeightsError(checkpoint.path, reason, "take the file of its authors")
    forecasts = ((f"out_layer_{part}.{kind}", 0) for part in PARTS for kind in both)
    patch_size = checkpoint.size(*((f"in_layer_{part}.weight", 1) for part in PARTS), of="length of a patch")
    stride = checkpoint.number("stride", default=8, least=0)
    if not stride or patch_size > seq_len + stride:
        reason = f"reads {seq_len} samples in patches of {patch_size}, {stride} apart"
        raise WeightsError(checkpoint.path, reason, "correct `stride` in `config.json` beside it")
    config = TempoConfig(
        seq_len=seq_len,
        pred_len=checkpoint.size(*forecasts, of="length of the forecast"),
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=_n_head(checkpoint, n_embd),
        n_positions=_said_or_size(checkpoint, "n_positions", f"{gpt2}wpe.weight"),
        patch_size=patch_size,
        stride=stride,
        vocab_size=vocab_size,
        lora_r=lora_r,
        fs=seq_len / 10,
    )
    return Adapted(config, wanted, *_unused(weights, wanted, gpt2, n_layer, seq_len))


def _add_attention(
    checkpoint: Checkpoint, wanted: dict[str, str | Made], gpt2: str, n_layer: int, keep_lora: bool
) -> int:
    """Write down the weights of ``c_attn``, which ``peft`` renames; give the rank of what is kept apart, else 0."""
    weights, ranks = checkpoint.weights, []
    attention = [f"h.{i}.attn.c_attn" for i in range(n_layer)]
    has_lora = any(f"{gpt2}{module}.lora_{side}" in key for key in weights for module in attention for side in "AB")
    keep_lora &= has_lora
    base_layer = any(f"{gpt2}{module}.base_layer." in key for key in weights for module in attention)
    for module in attention:
        file = f"{gpt2}{module}.base_layer" if base_layer else gpt2 + module
        ours = f"gpt2_trend.{module}.base_layer" if keep_lora else f"gpt2_trend.{module}"
        wanted |= {f"{ours}.{kind}": f"{file}.{kind}" for kind in ("weight", "bias")}
        if not has_lora:
            continue
        sides = []
        for side in "AB":
            names = [f"{gpt2}{module}.lora_{side}{end}" for end in _LORA_ENDS]
            sides.append(next((name for name in names if name in weights), names[0]))
        ranks += [(sides[0], 0), (sides[1], 1)]
        if keep_lora:
            lora = f"gpt2_trend.{module}.lora"
            wanted |= {f"{lora}_{side}.default.weight": key for side, key in zip("AB", sides, strict=True)}
        else:
            wanted[f"{ours}.weight"] = Made((f"{file}.weight", *sides), _merged)
    return max(1, checkpoint.size(*ranks, of="rank of the LoRA")) if keep_lora else 0


def _merged(weight: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
    """Add a LoRA of alpha equal to its rank to a weight that is (in, out)."""
    if not weight.ndim == lora_a.ndim == lora_b.ndim == 2 or weight.shape != (lora_a.shape[1], lora_b.shape[0]):
        raise RuntimeError("shapes that do not go together")
    return weight + (lora_b @ lora_a).T


def _said_or_size(checkpoint: Checkpoint, name: str, key: str) -> int:
    """Size that a single weight has: what ``meta.json`` says, where there is one to contradict the weight."""
    return checkpoint.number(*_OVERRIDES, name, default=0) or checkpoint.size((key, 0), of=name)


def _n_head(checkpoint: Checkpoint, n_embd: int) -> int:
    n_head = checkpoint.number(*_OVERRIDES, "n_head", default=GPT2_HEADS.get(n_embd, 0))
    n_head = n_head or checkpoint.number("n_heads", default=0)
    if not n_head or n_embd % n_head:
        reason = f"has a GPT-2 of width {n_embd}, for which {n_head or None} attention heads are said"
        raise WeightsError(checkpoint.path, reason, "put a `config.json` beside it whose `n_heads` divides the width")
    return n_head


def _unused(
    weights: dict[str, Tensor], wanted: dict[str, str | Made], gpt2: str, n_layer: int, seq_len: int
) -> tuple[dict[str, str], dict[str, tuple[int, ...] | None]]:
    """Reasons of what is not used, and shapes of what has to be there of it."""
    trend = {key for how in wanted.values() for key in (how.keys if isinstance(how, Made) else (how,))}
    trend = {key for key in trend if key.startswith(gpt2)}
    groups: dict[str, dict[str, tuple[int, ...] | None]] = {
        "mul_season": {f"mul_season.{name}": (2, 1) for name in "ab"},
        "map_resid": {"map_resid.weight": (seq_len, seq_len), "map_resid.bias": (seq_len,)},
    }
    for part in ("season", "noise"):
        groups[f"rev_in_{part}"] = {f"rev_in_{part}.affine_{kind}": (1,) for kind in ("weight", "bias")}
        groups[f"gpt2_{part}"] = {
            key.replace("gpt2_trend", f"gpt2_{part}", 1): tuple(weights[key].shape) if key in weights else None
            for key in trend
        }
    idle: dict[str, tuple[int, ...] | None] = {}
    for module, shapes in groups.items():
        if any(key.startswith(f"{module}.") for key in weights):
            idle |= shapes
    unused = {key: UNUSED[key.partition(".")[0]] for key in idle}
    for part in PARTS:
        layers = [f"{gpt2.replace('gpt2_trend', f'gpt2_{part}', 1)}h.{i}." for i in range(n_layer)]
        reason = "a causal mask, which transformers makes where it is needed"
        unused |= {f"{layer}{mask}": reason for layer in layers for mask in UNUSED_MASKS}
    return unused, idle
