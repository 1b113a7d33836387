"""The five backbones of the paper behind one protocol.

:func:`build` makes one by name and preset, :func:`.published.load` from a checkpoint of its authors.

A backbone turns recordings in mV into feature vectors in two steps, the two of eq. 1: :meth:`Backbone.adapt` (DS_k)
brings a recording to the rate, length and scale that the network expects, :meth:`Backbone.encode` (f_theta_k) runs
the network and pools over time what it returns after each of its depths. No step looks at another record of the batch.
:meth:`Backbone.upstream` is another way in: it takes what the authors' own code takes, and returns what that returns.

Shape legend: B records, C leads, T samples, D features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

#: What :func:`build` makes of a backbone: a size that runs on two cores, or the one its authors published, with weights
#: that are shipped or published, or with random ones.
PRESETS: tuple[str, ...] = ("compact", "compact-random", "published", "published-random")

#: Sampling rate at which recordings are read for a preset, Hz.
RECORDING_HZ = {"compact": 100, "compact-random": 100, "published": 500, "published-random": 500}

#: Checkpoint that the preset "published" loads, by backbone.
PUBLISHED = {
    "timesnet": "timesnet",
    "dlinear": "dlinear",
    "moment": "moment-1-small",
    "tempo": "tempo-80m",
    "ecg-fm": "ecg-fm",
}


class Backbone(nn.Module, ABC):
    """A network that turns recordings into feature vectors.

    Attributes
    ----------
    name : str
        Key of the registry.
    presets : dict of str to config
        The configuration (a frozen dataclass) of each size, "compact" and "published".
    single_lead : bool
        Whether the network reads each lead by itself; its configuration says how the leads' features are joined.
    lora_targets : tuple of str
        Names of the attention projections that LoRA adapts, for ``peft``'s ``target_modules``; empty where there
        is no attention.
    lora_fan_in_fan_out : bool
        Whether those projections keep their weight as (in, out), as GPT-2's do; ``peft`` wants to be told.
    upstream_inputs : tuple of str
        Names that :meth:`upstream` knows.
    config : dataclass
        Every size of this instance.
    d_features : int
        Width D of the feature vector, the same at every depth.
    n_depths : int
        Depths that features are taken at.
    """

    name: ClassVar[str]
    presets: ClassVar[dict[str, Any]]
    single_lead: ClassVar[bool] = False
    lora_targets: ClassVar[tuple[str, ...]] = ()
    lora_fan_in_fan_out: ClassVar[bool] = False
    upstream_inputs: ClassVar[tuple[str, ...]]
    config: Any
    d_features: int
    n_depths: int

    @abstractmethod
    def adapt(self, x_BCT: Tensor, fs: float) -> Tensor:
        """Bring recordings (B, 12, T) in mV at ``fs`` Hz to what the network wants, batch first: DS_k of eq. 1."""

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Give the features (B, D) of what :meth:`adapt` returned, from the shallowest depth to the deepest."""

    @abstractmethod
    def _upstream(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What :meth:`upstream` returns, from checked inputs; runs in evaluation mode without gradients."""

    def features(self, signal: Tensor | np.ndarray, fs: float, depth: int = -1) -> Tensor:
        """Give the feature vectors of recordings (eq. 1).

        Differentiable, so that adapters inside the network can be trained through it; wrap in ``torch.no_grad()``
        where no gradient is wanted. In evaluation mode the features of a record depend on that record alone.

        Parameters
        ----------
        signal : Tensor or ndarray of shape (B, 12, T)
            Recordings in mV, leads in the order of ``records.LEADS``.
        fs : float
            Sampling rate in Hz.
        depth : int
            Where the features are taken: an index of what :meth:`encode` returns, by default the deepest.

        Returns
        -------
        Tensor of shape (B, D)
            float32, on the device of the weights.

        Raises
        ------
        ValueError
            When the signal is not (B, 12, T), the rate is not positive, there is no such depth, or the network was not
            trained on twelve leads.
        """
        if (n_leads := getattr(self.config, "enc_in", N_LEADS)) != N_LEADS:
            raise ValueError(f"this {TITLES[self.name]} reads {n_leads} leads, so it has no features of {N_LEADS}")
        if signal.ndim != 3 or signal.shape[1] != N_LEADS or not signal.shape[2]:
            raise ValueError(f"signal must be (records, {N_LEADS} leads, samples), got shape {tuple(signal.shape)}")
        if not fs > 0:
            raise ValueError(f"sampling rate must be positive, got {fs} Hz")
        if not -self.n_depths <= depth < self.n_depths:
            raise ValueError(f"{TITLES[self.name]} has the depths 0 to {self.n_depths - 1}, got {depth}")
        device = next(self.parameters()).device
        return self.encode(self.adapt(torch.as_tensor(signal, dtype=torch.float32, device=device), fs))[depth]

    def upstream(self, **inputs: Any) -> dict[str, Tensor]:
        """Run what the authors' own code runs, on final inputs.

        Parameters
        ----------
        **inputs : Tensor or ndarray
            By the names of ``upstream_inputs``, any of them: floating-point ones become float32.

        Returns
        -------
        dict of str to Tensor
            Every result that the inputs suffice for, intermediate ones too, on the CPU. Evaluation mode, no gradients.

        Raises
        ------
        ValueError
            For an unknown name, or no input at all; the message lists the known ones.
        """
        unknown = sorted(set(inputs) - set(self.upstream_inputs))
        if unknown or not inputs:
            problem = f"no input is called {', '.join(unknown)}" if unknown else "no input was given"
            raise ValueError(f"{problem}; {TITLES[self.name]} knows {', '.join(self.upstream_inputs)}")
        device = next(self.parameters()).device
        tensors = {name: torch.as_tensor(value, device=device) for name, value in inputs.items()}
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                outputs = self._upstream({n: x.float() if x.is_floating_point() else x for n, x in tensors.items()})
        finally:
            self.train(was_training)
        return {name: out.detach().cpu() for name, out in outputs.items()}


@contextmanager
def traced(model: nn.Module, **paths: str) -> Iterator[dict[str, list[Any]]]:
    """Collect what sub-modules return while the model runs.

    Parameters
    ----------
    model : Module
    **paths : str
        Path of the sub-module by the name that it is wanted under.

    Yields
    ------
    dict of str to list
        What each returned, one element for each time it was called.
    """
    seen: dict[str, list[Any]] = {name: [] for name in paths}

    def collect(name: str) -> Any:
        return lambda _module, _inputs, output: seen[name].append(output)

    handles = [model.get_submodule(path).register_forward_hook(collect(name)) for name, path in paths.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def numbered(outputs: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """Name the outputs of :func:`traced`: ``name``, and from the second call of a module on ``name#2``, ``name#3``."""
    return {
        name if call == 1 else f"{name}#{call}": out
        for name, calls in outputs.items()
        for call, out in enumerate(calls, start=1)
    }


def size_of(preset: str) -> str:
    """Size of a preset, "compact" or "published".

    Raises
    ------
    ValueError
        For an unknown preset; the message lists the known ones.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    return preset.removesuffix("-random")


def kind_of(name: str) -> type[Backbone]:
    """Class of a backbone, which also has its sizes.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown backbone {name!r}; known are {', '.join(NAMES)}")
    module, class_name = _REGISTRY[name]
    kind: type[Backbone] = getattr(import_module(f"{__name__}.{module}"), class_name)
    return kind


def build(name: str, preset: str = "compact", seed: int = 0) -> Backbone:
    """Make a backbone, in evaluation mode.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    preset : str
        One of :data:`PRESETS`: "compact" has the pretrained weights that this library ships, "published" those of the
        authors (see :func:`.published.load`), the other two random ones.
    seed : int
        Random weights depend on it and on nothing else; the global random state is left as it was.

    Raises
    ------
    ValueError
        For an unknown name or preset; the message lists the known ones.
    WeightsError
        The weights are not there, or cannot be used.
    """
    kind, size = kind_of(name), size_of(preset)
    if preset == size:
        return load(PUBLISHED[name]) if size == "published" else load_shipped(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = kind(kind.presets[size])
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


from ecgmoe.backbones.published import load, load_shipped  # noqa: E402  (they need what is defined above)
