"""bfloat16 for inference: :func:`faster` gives a backbone whose large matrix products run in it.

Only the linear maps and the attention of the transformer's blocks are computed in bfloat16. The residual stream, every
norm, embeddings, decompositions, Fourier transforms and pooling stay in float32: what is left is the rounding of single
products, which the mean over tokens reduces further. More saves time: GELU is the erf form (which differs from the tanh
form by less than bfloat16 rounds), and on a processor records go through in parts whose intermediate results fit the
cache, the positional convolution of ECG-FM, of 128 taps, is a product of spectra, and TEMPO reads the prompt that all
series begin with once.

Processors without instructions for bfloat16 emulate it, and are several times slower with it than without. So nothing
is taken on trust: :func:`choose` measures both on the machine that it runs on.

Shape legend: B records, S segments or series, G groups, F frequencies, I and O channels in and out, T frames, N tokens,
Q tokens of a prompt, P patches of a part, H heads, E width of the model.
"""

import platform
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from ecgmoe import cache
from ecgmoe.backbones import N_LEADS, TITLES, Backbone, weights_digest

Precision = Literal["auto", "float32", "bfloat16"]

#: Relative error of a feature vector (norm of the difference by norm) up to which bfloat16 is taken.
TOLERANCE = 1e-2

#: Where the blocks of each transformer are, and how many records go through it at a time.
_BLOCKS = {"moment": ("model.encoder.block", 4), "tempo": ("gpt2_trend.h", 1), "ecg-fm": ("model.encoder.layers", 8)}

_CPU_ATTENTION = "ecgmoe"

_INSTRUCTIONS = {"avx512_bf16": "_is_avx512_bf16_supported", "amx": "_is_amx_tile_supported"}


@dataclass(frozen=True)
class Choice:
    """What :func:`choose` found.

    Attributes
    ----------
    precision : str
        "float32" or "bfloat16".
    reason : str
        Why, in one sentence.
    ratio : float
        Time of float32 by that of bfloat16, median over rounds; NaN where it was not measured.
    error : float
        Largest relative error of a feature vector, over all depths; NaN where it was not measured.
    """

    precision: Literal["float32", "bfloat16"]
    reason: str
    ratio: float = float("nan")
    error: float = float("nan")


def instructions() -> tuple[str, ...]:
    """Instructions for bfloat16 that this processor reports: "avx512_bf16", "amx", both or none."""
    return tuple(name for name, test in _INSTRUCTIONS.items() if getattr(torch.cpu, test, bool)())


def processor() -> str:
    """Model of this processor, as far as the system tells."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text("utf-8").splitlines() if listing.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def faster(backbone: Backbone, precision: Precision = "auto") -> Backbone:
    """Give the same backbone for fast inference.

    Parameters
    ----------
    backbone : Backbone
        Stays as it is. An adapter (:mod:`ecgmoe.backbones.lora`) has to be merged.
    precision : str
        "bfloat16", "float32", or "auto": whichever :func:`choose` finds.

    Returns
    -------
    Backbone
        For bfloat16 another one in evaluation mode, without gradients, on the same device, which is not to be moved:
        it shares the float32 weights and adds bfloat16 copies of the projections; its features are float32. TimesNet
        and DLinear have no projections worth it, and are returned themselves, as every backbone is for float32.

    Raises
    ------
    ValueError
        For another precision, or an adapter that is not merged.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"unknown precision {precision!r}; known are auto, float32, bfloat16")
    if any(not getattr(module, "merged", True) for module in backbone.modules()):
        raise ValueError(f"the LoRA of this {TITLES[backbone.name]} is not merged; merge it first")
    if precision == "auto":
        precision = choose(backbone).precision
    if precision == "float32" or backbone.name not in _BLOCKS:
        return backbone
    return _bfloat16(backbone)


def choose(backbone: Backbone, rounds: int = 5) -> Choice:
    """Pick the precision by a short trial of both on two made-up records.

    bfloat16 is picked where it is faster and every feature vector is within :data:`TOLERANCE`. The measurement is kept
    in the cache, for this processor, number of threads, version of PyTorch and weights.

    Parameters
    ----------
    backbone : Backbone
    rounds : int
        In each, both are timed once.
    """
    title, device = TITLES[backbone.name], next(backbone.parameters()).device
    if backbone.name not in _BLOCKS:
        return Choice("float32", f"{title} has no large matrix products that bfloat16 could make faster")
    if device.type == "cpu" and not instructions():
        reason = "this processor reports neither avx512_bf16 nor amx, so that it would have to emulate bfloat16"
        return Choice("float32", reason)
    key = {
        "processor": processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "code": cache.source_digest(__file__),
        "weights": weights_digest(backbone),
    }
    kept = cache.cached("precision", key, lambda: compare(backbone, _bfloat16(backbone), rounds))
    ratio, error = (kept[name].item() for name in ("ratio", "error"))
    said = f"bfloat16 was {ratio:.2f} times as fast as float32 here, with a relative error of {error:.1e}"
    if error > TOLERANCE:
        return Choice("float32", f"{said}, which is more than {TOLERANCE:g}", ratio, error)
    return Choice("bfloat16" if ratio > 1 else "float32", said, ratio, error)


def trial(backbone: Backbone, n_records: int = 2) -> Tensor:
    """Make recordings of regular beats with some noise, adapted for the backbone."""
    generator = torch.Generator().manual_seed(0)
    fs = float(backbone.config.fs)
    time_T = torch.arange(round(10 * fs)) / fs
    phase_B1T = (time_T[None] * torch.linspace(1.0, 1.6, n_records)[:, None])[:, None] % 1 - 0.4
    shape_BCT = sum(
        amplitude * torch.randn(n_records, N_LEADS, 1, generator=generator) * (-(((phase_B1T - at) / width) ** 2)).exp()
        for amplitude, at, width in ((1.0, 0.0, 0.03), (0.3, 0.3, 0.06))
    )
    noise_BCT = 0.02 * torch.randn(n_records, N_LEADS, len(time_T), generator=generator)
    return backbone.adapt((shape_BCT + noise_BCT).to(next(backbone.parameters()).device), fs)


@torch.no_grad()
def compare(slow: Backbone, fast: Backbone, rounds: int, n_records: int = 2) -> dict[str, np.ndarray]:
    """Time two versions of a backbone in turn: ``ratio`` of times, median over rounds, and largest ``error``."""
    x = trial(slow, n_records)
    error = relative_error(slow.encode(x), fast.encode(x))  # the first pass of each, not timed
    ratios = [seconds(partial(slow.encode, x)) / seconds(partial(fast.encode, x)) for _ in range(rounds)]
    return {"ratio": np.array(np.median(ratios)), "error": np.array(error)}


def relative_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest norm of the difference of two feature vectors by the norm of the first, over records and depths."""
    pairs = zip(expected, found, strict=True)
    return max(float(((one - other).norm(dim=-1) / one.norm(dim=-1)).max()) for one, other in pairs)


def seconds(run: Callable[[], object]) -> float:
    """Time one call, and the device's work that it started."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def shared_copy(backbone: Backbone) -> Backbone:
    """Copy the modules of a backbone, not its weights: they are shared, and take no gradient in the copy."""
    shared: dict[int, object] = {id(w): nn.Parameter(w.detach(), requires_grad=False) for w in backbone.parameters()}
    shared |= {id(buffer): buffer for buffer in backbone.buffers()}
    return deepcopy(backbone, shared).eval()


def set_attention(backbone: Backbone, implementation: str) -> None:
    """Switch the attention of transformers' modules: "eager" or "sdpa"."""
    for module in backbone.modules():
        if isinstance(module, transformers.PreTrainedModel):
            module.set_attn_implementation(implementation)


def _bfloat16(backbone: Backbone) -> Backbone:
    path, n_records = _BLOCKS[backbone.name]
    fast = shared_copy(backbone)
    on_cpu = next(backbone.parameters()).device.type == "cpu"
    set_attention(fast, _CPU_ATTENTION if on_cpu else "sdpa")
    for module in list(fast.get_submodule(path).modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear | Conv1D):
                setattr(module, name, _Linear(child))
            elif isinstance(child, GELUTanh | NewGELUActivation):
                setattr(module, name, nn.GELU())
            elif isinstance(child, nn.Embedding):  # T5's bias by distance, which is added to bfloat16
                setattr(module, name, _Embedding.from_pretrained(child.weight))
    if on_cpu and backbone.name == "ecg-fm":
        positions = fast.get_submodule("model.encoder.pos_conv_embed")
        positions.conv = _SpectralConv(positions.get_submodule("conv"))
    if on_cpu and backbone.name == "tempo":
        _read_prompt_once(fast)
    fast.register_buffer("is_bfloat16", torch.ones(()))  # another digest: the features are not quite the same
    encode = partial(_encode, type(backbone).encode, fast, n_records if on_cpu else 0)
    fast.encode = encode  # type: ignore[method-assign]
    return fast


@torch.no_grad()
def _encode(
    encode: Callable[[Backbone, Tensor], list[Tensor]], backbone: Backbone, n_records: int, x: Tensor
) -> list[Tensor]:
    """Encode so many records at a time (0: all at once)."""
    parts = [encode(backbone, part) for part in x.split(n_records or len(x))]
    return [torch.cat(depth).float() for depth in zip(*parts, strict=True)]


def _attend(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    position_bias: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of short sequences, (S, H, N, E / H) to (S, N, H, E / H), where flash kernels are slower."""
    scores = (q * scaling) @ k.mT
    if position_bias is not None:
        scores += position_bias
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register(_CPU_ATTENTION, _attend)
transformers.AttentionMaskInterface.register(_CPU_ATTENTION, sdpa_mask)  # True where to attend


class _Linear(nn.Module):
    """A linear map in bfloat16, whatever the input's type; on a processor its weight is kept in the order of oneDNN."""

    def __init__(self, linear: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.float32 = linear
        weight = linear.weight.detach().bfloat16()
        self.weight = (weight.T if isinstance(linear, Conv1D) else weight).contiguous()
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()
        self._ordered = weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        if self._ordered:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        x = x.bfloat16()
        if self._ordered:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return out
        return F.linear(x, self.weight, self.bias)


class _Embedding(nn.Embedding):
    """A table whose rows are read in bfloat16."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Look rows up."""
        return super().forward(input).bfloat16()


class _SpectralConv(nn.Module):
    """A long convolution in float32 as a product of spectra: the same result with a tenth of the operations."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv1d)
        self.conv = conv
        self._spectrum: tuple[int, Tensor] | None = None

    def _filters(self, n: int) -> Tensor:
        """Conjugate spectrum of the filters, (G, F, I, O), zero-padded to ``n`` samples."""
        if self._spectrum is None or self._spectrum[0] != n:
            filters_GOIF = torch.fft.rfft(self.conv.weight.detach(), n).conj().unflatten(0, (self.conv.groups, -1))
            self._spectrum = n, filters_GOIF.permute(0, 3, 2, 1).resolve_conj().contiguous()
        return self._spectrum[1]

    def forward(self, x_SIT: Tensor) -> Tensor:
        """Convolve (S, G I, T) to (S, G O, T)."""
        padding, taps, n_frames = int(self.conv.padding[0]), self.conv.kernel_size[0], x_SIT.shape[-1]
        n = -(-(n_frames + taps - 1) // 32) * 32
        x_GFSI = torch.fft.rfft(x_SIT, n).unflatten(1, (self.conv.groups, -1)).permute(1, 3, 0, 2)
        out_SOF = (x_GFSI @ self._filters(n)).permute(2, 0, 3, 1).flatten(1, 2)
        out_SOT = torch.fft.irfft(out_SOF, n).roll(padding, -1)[..., : n_frames + 2 * padding - taps + 1]
        return out_SOT if self.conv.bias is None else out_SOT + self.conv.bias[:, None]


def _read_prompt_once(tempo: Any) -> None:
    """Let GPT-2 read the first prompt, which is the same for all series, once; its last layer, patches alone."""
    from ecgmoe.backbones.tempo import PARTS

    n_prompt, n_patches, gpt2 = tempo.prompt_ids.shape[1], tempo.config.n_patches, tempo.gpt2_trend

    def heads(layer: Any, x_SNE: Tensor) -> tuple[Tensor, ...]:
        """Queries, scaled, keys and values, (S, H, N, E / H) each."""
        attention = layer.attn
        qkv = attention.c_attn(layer.ln_1(x_SNE)).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return qkv[0] * attention.scaling, qkv[1], qkv[2]

    def advance(layer: Any, x_SNE: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: Tensor) -> Tensor:
        """Output of a layer for its input and the heads of its attention."""
        scores = (q @ k.mT).add_(causal)
        x_SNE = x_SNE + layer.attn.c_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x_SNE + layer.mlp(layer.ln_2(x_SNE))

    def forward(inputs_embeds: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        """Hidden states of all tokens behind the first prompt; the last of the patches alone."""
        n_tokens = inputs_embeds.shape[1]
        x_SNE = inputs_embeds + gpt2.wpe.weight[:n_tokens]
        prompt_1QE, rest_SNE = x_SNE[:1, :n_prompt], x_SNE[:, n_prompt:]
        causal = torch.full((n_tokens, n_tokens), -torch.inf, dtype=torch.bfloat16).triu(1)
        states = [rest_SNE]
        for layer in gpt2.h:
            q_1, k_1, v_1 = heads(layer, prompt_1QE)
            q, k, v = heads(layer, rest_SNE)
            k, v = (torch.cat([a.expand(len(b), -1, -1, -1), b], dim=2) for a, b in ((k_1, k), (v_1, v)))
            mask = causal[n_prompt:]
            if layer is gpt2.h[-1]:
                kept = torch.arange(n_tokens - n_prompt) % (n_prompt + n_patches) < n_patches
                rest_SNE, q, mask = rest_SNE[:, kept], q[:, :, kept], mask[kept]
            else:
                prompt_1QE = advance(layer, prompt_1QE, q_1, k_1, v_1, causal[:n_prompt, :n_prompt])
            rest_SNE = advance(layer, rest_SNE, q, k, v, mask)
            states.append(rest_SNE)
        states[-1] = gpt2.ln_f(states[-1])
        return SimpleNamespace(hidden_states=states, last_hidden_state=states[-1])

    def patches(tokens_SNE: Tensor) -> dict[str, Tensor]:
        """Tokens of the patches of each part, (S, P, E), from one of the hidden states."""
        stride = n_patches + (0 if tokens_SNE.shape[1] == len(PARTS) * n_patches else n_prompt)
        return {part: tokens_SNE[:, i * stride :][:, :n_patches] for i, part in enumerate(PARTS)}

    gpt2.forward, tempo.patches = forward, patches
