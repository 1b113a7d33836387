"""LoRA on the attention projections of a backbone, by ``peft``.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: beside each frozen projection W a change
B A of low rank is learned, scaled by ``alpha / rank``; B starts at zero, so that a fresh adapter changes nothing.
A backbone has one adapter at most. :func:`save` writes the two files that ``peft`` itself writes and reads.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ecgmoe import cache
from ecgmoe.backbones import NAMES, TITLES, Backbone, kind_of
from ecgmoe.backbones.published.containers import WeightsError

_PREFIX = "base_model.model."  # of every key in peft's files


def add(
    backbone: Backbone, rank: int = 8, alpha: int = 16, targets: Sequence[str] | None = None, seed: int = 0
) -> None:
    """Put an adapter into a backbone that changes nothing yet, and freeze everything else.

    Parameters
    ----------
    backbone : Backbone
        Changed in place.
    rank, alpha : int
        The learned change has this rank, and is scaled by ``alpha / rank``.
    targets : sequence of str, optional
        Last parts of the names of the linear maps to adapt; by default ``backbone.lora_targets``.
    seed : int
        The weights of the adapter depend on it; the global random state is left as it was.

    Raises
    ------
    ValueError
        The network has no attention, no such linear map, or an adapter already.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(targets or backbone.lora_targets),
        fan_in_fan_out=backbone.lora_fan_in_fan_out,
    )
    _check_free(backbone)
    _shapes(backbone, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone)


def _check_free(backbone: Backbone) -> None:
    title = TITLES[backbone.name]
    if not backbone.lora_targets:
        able = ", ".join(TITLES[name] for name in NAMES if kind_of(name).lora_targets)
        raise ValueError(f"{title} has no attention whose projections LoRA could adapt; {able} have")
    if any(isinstance(module, LoraLayer) for module in backbone.modules()):
        raise ValueError(f"this {title} has LoRA already; merge it where the backbone is loaded, or take a fresh one")


def _shapes(backbone: Backbone, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """Names and shapes that an adapter of this configuration has in its file."""
    targets = set(config.target_modules or ())
    kind = Conv1D if backbone.lora_fan_in_fan_out else nn.Linear
    shapes, linear = {}, set()
    for path, module in backbone.named_modules():
        if not isinstance(module, kind):
            continue
        linear.add(name := path.rpartition(".")[2])
        if name in targets:
            n_out, n_in = reversed(module.weight.shape) if backbone.lora_fan_in_fan_out else module.weight.shape
            shapes[f"{_PREFIX}{path}.lora_A.weight"] = (config.r, n_in)
            shapes[f"{_PREFIX}{path}.lora_B.weight"] = (n_out, config.r)
    if unknown := sorted(targets - linear):
        raise ValueError(
            f"no linear map of {TITLES[backbone.name]} is called {', '.join(unknown)}; there are "
            f"{', '.join(sorted(linear))}"
        )
    return shapes


def layers(backbone: Backbone) -> list[LoraLayer]:
    """Adapted projections.

    Raises
    ------
    ValueError
        There are none.
    """
    found: list[LoraLayer] = [module for module in backbone.modules() if isinstance(module, LoraLayer)]
    if not found:
        raise ValueError(f"this {TITLES[backbone.name]} has no LoRA; add or load it first")
    return found


def parameters(backbone: Backbone) -> list[nn.Parameter]:
    """Give the weights of the adapter, which alone are trained; ``n_parameters(backbone, trainable=True)`` counts them.

    Raises
    ------
    ValueError
        There is no adapter.
    """
    layers(backbone)
    return [weight for key, weight in backbone.named_parameters() if "lora_" in key]


def merge(backbone: Backbone) -> None:
    """Add the learned change to the frozen weights: the same features, without the cost of the adapter.

    Raises
    ------
    ValueError
        There is no adapter, or it is merged already.
    """
    for layer in _unmerged(backbone):
        layer.merge()


def unmerge(backbone: Backbone) -> None:
    """Take the learned change out of the weights again; what was rounded in :func:`merge` stays, about 1e-7 of them.

    Raises
    ------
    ValueError
        There is no adapter, or it is not merged.
    """
    adapted = layers(backbone)
    if not all(layer.merged for layer in adapted):
        raise ValueError(f"the LoRA of this {TITLES[backbone.name]} is not merged")
    for layer in adapted:
        layer.unmerge()


def _unmerged(backbone: Backbone) -> list[LoraLayer]:
    adapted = layers(backbone)
    if any(layer.merged for layer in adapted):
        raise ValueError(f"the LoRA of this {TITLES[backbone.name]} is merged; unmerge it first")
    return adapted


@contextmanager
def disabled(backbone: Backbone) -> Iterator[None]:
    """Leave the adapter out for a while: the features are those of the frozen weights, bit for bit.

    Raises
    ------
    ValueError
        There is no adapter, or it is merged.
    """
    adapted = _unmerged(backbone)
    for layer in adapted:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in adapted:
            layer.enable_adapters(True)


def base_digest(backbone: Backbone) -> str:
    """Digest of name, configuration and weights, without an adapter: what an adapter belongs to."""
    parts: list[object] = [backbone.name, asdict(backbone.config)]
    for key, weight in backbone.state_dict().items():
        if "lora_" not in key:
            parts += [key.replace(".base_layer.", "."), weight.detach().cpu().numpy()]
    return cache.digest(*parts)


def save(backbone: Backbone, folder: str | os.PathLike[str]) -> None:
    """Write the adapter to ``adapter_model.safetensors`` and ``adapter_config.json``, as ``peft`` does.

    Name and digest of the frozen weights and a digest of the latter are kept in the metadata of the former, so that
    :func:`load` finds two files that do not belong together. ``peft`` itself reads both files too.

    Parameters
    ----------
    backbone : Backbone
    folder : path
        Made where it is missing; an adapter in it is replaced.

    Raises
    ------
    ValueError
        There is no adapter, or it is merged.
    """
    _unmerged(backbone)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    adapter = get_peft_model_state_dict(backbone, save_embedding_layers=False)  # else it asks the hub
    weights = {_PREFIX + key: weight.contiguous() for key, weight in adapter.items()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
        config, adapted = Path(partial, CONFIG_NAME), Path(partial, SAFETENSORS_WEIGHTS_NAME)
        _config(backbone).save_pretrained(partial)
        metadata = {
            "format": "pt",
            "backbone": backbone.name,
            "base": base_digest(backbone),
            "config": _config_digest(config),
        }
        save_file(weights, adapted, metadata)
        for file in (config, adapted):
            os.replace(file, folder / file.name)


def _config_digest(path: Path) -> str:
    return cache.digest(json.loads(path.read_text()))


def _config(backbone: Backbone) -> LoraConfig:
    configs: dict[str, LoraConfig] = backbone.peft_config  # type: ignore[assignment]  # peft leaves it there
    return configs["default"]


def load(backbone: Backbone, folder: str | os.PathLike[str]) -> None:
    """Put an adapter that :func:`save` wrote into a backbone with the weights that it was trained on.

    Parameters
    ----------
    backbone : Backbone
        Changed in place, when everything fits; frozen but for the adapter.
    folder : path

    Raises
    ------
    ValueError
        The backbone has no attention, or an adapter already.
    WeightsError
        The files are not there or damaged, or belong to another backbone, to other weights or not to each other.
    """
    _check_free(backbone)
    path = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    config, weights, metadata = _read(path)
    title, name, base = TITLES[backbone.name], metadata.get("backbone"), metadata.get("base")
    if name != backbone.name:
        of = f"of {TITLES[name]}" if name in TITLES else "not of one of our backbones"
        raise WeightsError(path, f"the adapter is {of}", f"it cannot be loaded into {title}")
    settings = path.with_name(CONFIG_NAME)
    if metadata.get("config") != _config_digest(settings):
        reason = f"is not the configuration that {path.name} was saved with"
        raise WeightsError(settings, reason, "put back the one it was saved with, or save the adapter again")
    if base != base_digest(backbone):
        raise WeightsError(
            path,
            f"the adapter was trained on other weights or another size of {title} (digest {base}, here "
            f"{base_digest(backbone)})",
            "load the backbone that it was trained on",
        )
    try:
        expected = _shapes(backbone, config)
    except ValueError as error:
        raise WeightsError(path, str(error), "save the adapter again") from None
    found = {key: tuple(weight.shape) for key, weight in weights.items()}
    if found != expected:
        wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        raise WeightsError(
            path,
            f"{len(wrong)} weights are missing, left over or of another shape than its {CONFIG_NAME} says, "
            f"{wrong[0]} first",
            "save the adapter again",
            misshapen=wrong,
        )
    config.inference_mode = False
    inject_adapter_in_model(config, backbone)
    set_peft_model_state_dict(backbone, {key.removeprefix(_PREFIX): weight for key, weight in weights.items()})


def _read(path: Path) -> tuple[LoraConfig, dict[str, Tensor], dict[str, str]]:
    """Configuration, weights and metadata of an adapter's files."""
    settings = path.with_name(CONFIG_NAME)
    for file in (path, settings):
        if not file.is_file():
            raise WeightsError(file, "no such file", "give the folder that an adapter was saved to")
    try:
        config = PeftConfig.from_pretrained(str(path.parent))
    except (ValueError, KeyError, TypeError, AttributeError):
        config = None
    if not isinstance(config, LoraConfig):
        raise WeightsError(settings, "not the configuration of a LoRA adapter", "save the adapter again")
    try:
        with safe_open(path, "pt") as file:
            return config, {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError:
        raise WeightsError(path, "not a safetensors file, or truncated", "save the adapter again") from None
