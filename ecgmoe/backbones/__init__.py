"""The five backbones of the paper behind one protocol: :func:`build` makes one by name and preset.

A backbone turns recordings in mV into feature vectors in two steps, the two of eq. 1: :meth:`Backbone.adapt` (DS_k)
brings a recording to the rate, length and scale that the network expects, :meth:`Backbone.encode` (f_theta_k) runs
the network and pools what it returns over time. No step looks at another record of the batch.

Shape legend: B records, C leads, T samples, D features.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ecgmoe import cache

#: Leads of a recording, in the order of ``records.LEADS``.
N_LEADS = 12

#: Name of a backbone: module and class. Imported when built, since transformers takes seconds to import.
_REGISTRY = {
    "timesnet": ("timesnet", "TimesNet"),
    "dlinear": ("dlinear", "DLinear"),
    "moment": ("moment", "Moment"),
    "tempo": ("tempo", "Tempo"),
    "ecg-fm": ("ecgfm", "EcgFm"),
}

#: Names that :func:`build` knows, in the order of the paper.
NAMES: tuple[str, ...] = tuple(_REGISTRY)

#: Names as the papers write them.
TITLES = {"timesnet": "TimesNet", "dlinear": "DLinear", "moment": "MOMENT", "tempo": "TEMPO", "ecg-fm": "ECG-FM"}

#: Sizes that every backbone has: one that runs on two cores, and the one its authors published.
PRESETS: tuple[str, ...] = ("compact", "published")

#: Sampling rate at which recordings are read for a preset, Hz.
RECORDING_HZ = {"compact": 100, "published": 500}


class Backbone(nn.Module, ABC):
    """A network that turns recordings into feature vectors.

    Attributes
    ----------
    name : str
        Key of the registry.
    presets : dict of str to config
        The configuration (a frozen dataclass) of each of :data:`PRESETS`.
    single_lead : bool
        Whether the network reads each lead by itself; their features are averaged.
    lora_targets : tuple of str
        Names of the attention projections that LoRA adapts, for ``peft``'s ``target_modules``; empty where there
        is no attention.
    lora_fan_in_fan_out : bool
        Whether those projections keep their weight as (in, out), as GPT-2's do; ``peft`` wants to be told.
    config : dataclass
        Every size of this instance.
    d_features : int
        Width D of the feature vector.
    """

    name: ClassVar[str]
    presets: ClassVar[dict[str, Any]]
    single_lead: ClassVar[bool] = False
    lora_targets: ClassVar[tuple[str, ...]] = ()
    lora_fan_in_fan_out: ClassVar[bool] = False
    config: Any
    d_features: int

    @abstractmethod
    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """Bring recordings (B, 12, T) in mV at ``fs`` Hz to what the network wants, batch first: DS_k of eq. 1."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Give the features (B, D) of what :meth:`adapt` returned: f_theta_k of eq. 1."""

    def features(self, signal: Tensor | np.ndarray, fs: float) -> Tensor:
        """Give the feature vectors of recordings (eq. 1).

        Differentiable, so that adapters inside the network can be trained through it; wrap in ``torch.no_grad()``
        where no gradient is wanted. In evaluation mode the features of a record depend on that record alone.

        Parameters
        ----------
        signal : Tensor or ndarray of shape (B, 12, T)
            Recordings in mV, leads in the order of ``records.LEADS``.
        fs : float
            Sampling rate in Hz.

        Returns
        -------
        Tensor of shape (B, D)
            float32, on the device of the weights.

        Raises
        ------
        ValueError
            When the signal is not (B, 12, T), or the rate is not positive.
        """
        if signal.ndim != 3 or signal.shape[1] != N_LEADS or not signal.shape[2]:
            raise ValueError(f"signal must be (records, {N_LEADS} leads, samples), got shape {tuple(signal.shape)}")
        if not fs > 0:
            raise ValueError(f"sampling rate must be positive, got {fs} Hz")
        device = next(self.parameters()).device
        return self.encode(self.adapt(torch.as_tensor(signal, dtype=torch.float32, device=device), fs))


def build(name: str, preset: str = "compact", seed: int = 0) -> Backbone:
    """Make a backbone with random weights, in evaluation mode.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    preset : str
        One of :data:`PRESETS`.
    seed : int
        The weights depend on it and on nothing else; the global random state is left as it was.

    Raises
    ------
    ValueError
        For an unknown name or preset; the message lists the known ones.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown backbone {name!r}; known are {', '.join(NAMES)}")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    module, class_name = _REGISTRY[name]
    kind = getattr(import_module(f"{__name__}.{module}"), class_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone: Backbone = kind(kind.presets[preset])
    return backbone.eval()


def n_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Count parameters; with ``trainable``, of those that a training step would change."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)


def weights_digest(backbone: Backbone) -> str:
    """Take the digest of configuration, weights and code: what features depend on, beside the recording."""
    here = Path(__file__).parent
    sources = [here / "__init__.py", here / "adapt.py", here / f"{_REGISTRY[backbone.name][0]}.py"]
    parts: list[object] = [backbone.name, asdict(backbone.config), *(path.read_bytes() for path in sources)]
    for key, weight in backbone.state_dict().items():
        parts += [key, weight.detach().cpu().numpy()]
    return cache.digest(*parts)
