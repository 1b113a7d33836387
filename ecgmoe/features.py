"""What every model sees of recordings: backbone features, beats, signal characteristics, and the signal itself.

Everything here is computed once for a cohort; what a frozen backbone makes of it is kept in the cache.

Shape legend: B records, C leads, T samples, D features, A signal characteristics.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ecgmoe import backbones, beats, cache
from ecgmoe.beats import Beats
from ecgmoe.datasets import Cohort
from ecgmoe.results import version_of

#: Records that go through a backbone together.
BATCH = 32


class Inputs(NamedTuple):
    """What the models see of a batch of records; everything here can be computed once and kept."""

    features: dict[str, Tensor]  #: F_k by backbone name, (B, D_k); a backbone that runs in the model is left out
    beats: Beats
    characteristics_BA: Tensor  #: X-bar of eq. 3, as :func:`ecgmoe.beats.characteristics` returns it
    signal_BCT: Tensor  #: recordings in mV
    fs: float
    seed: int = 0  #: of the weights that the features come from, where these are random
    beat_window: tuple[float, float] | None = (0.28, 0.48)  #: of the beats, as for ``beats.segment_beats``

    def take(self, rows: Tensor) -> "Inputs":
        """The inputs of some of the records, by index."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device | str) -> "Inputs":
        """The same inputs on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        return self._replace(
            features={name: change(feature_BD) for name, feature_BD in self.features.items()},
            beats=Beats(*(change(part) for part in self.beats)),
            characteristics_BA=change(self.characteristics_BA),
            signal_BCT=change(self.signal_BCT),
        )

    @property
    def n_records(self) -> int:
        """Number of records, B."""
        return len(self.characteristics_BA)


def features_by_depth(cohort: Cohort, name: str, preset: str = "compact", seed: int = 0) -> list[np.ndarray]:
    """Features of a frozen backbone for every record of a cohort, after each of its depths, from one pass.

    Computed once for one cohort and one set of weights, on a GPU where there is one, then read from the cache,
    whichever chapter asks.

    Returns
    -------
    list of ndarray of shape (records, D)
        float32, from the shallowest depth to the deepest.
    """
    backbone = backbones.build(name, preset=preset, seed=seed)
    packages = {package: version_of(package) for package in ("torch", "transformers", "momentfm")}
    weights = backbones.weights_digest(backbone)
    key = {"data": cohort.digest, "backbone": name, "weights": weights, "packages": packages, "depths": "all"}
    device = "cuda" if torch.cuda.is_available() else "cpu"  # the published backbones take seconds a record on a CPU
    key |= {"device": device} if device != "cpu" else {}

    def compute() -> dict[str, np.ndarray]:
        backbone.to(device)
        out = [np.empty((len(cohort), backbone.d_features), np.float32) for _ in range(backbone.n_depths)]
        with torch.inference_mode(), tqdm(total=len(cohort), desc=f"features of {name}", disable=None) as bar:
            for start in range(0, len(cohort), BATCH):
                signal = torch.from_numpy(cohort.signal[start : start + BATCH]).to(device)
                for depth, found in enumerate(backbone.encode(backbone.adapt(signal, cohort.fs))):
                    out[depth][start : start + BATCH] = found.cpu().numpy()
                bar.update(len(signal))
        return {str(depth): values for depth, values in enumerate(out)}

    found = cache.cached("features", key, compute)
    return [found[str(depth)] for depth in range(backbone.n_depths)]


def backbone_features(
    cohort: Cohort, names: Sequence[str] = backbones.NAMES, preset: str = "compact", seed: int = 0
) -> dict[str, np.ndarray]:
    """Features of frozen backbones at their deepest, (records, D_k) float32 by name: :func:`features_by_depth`."""
    return {name: features_by_depth(cohort, name, preset, seed)[-1] for name in names}


def make_inputs(
    cohort: Cohort,
    names: Sequence[str] = backbones.NAMES,
    preset: str = "compact",
    seed: int = 0,
    *,
    beat_length: int = 64,
    max_beats: int = 16,
    beat_window: tuple[float, float] | None = (0.28, 0.48),
) -> Inputs:
    """Everything the models see of a cohort, its backbone features from the cache.

    Parameters
    ----------
    cohort : Cohort
    names : sequence of str
        Backbones whose features are wanted.
    preset, seed
        As for :func:`ecgmoe.backbones.build`.
    beat_length, max_beats, beat_window
        As for :func:`ecgmoe.beats.segment_beats`.
    """
    features = backbone_features(cohort, names, preset, seed)
    made = from_signal(
        cohort.signal,
        cohort.fs,
        {name: torch.from_numpy(feature) for name, feature in features.items()},
        beat_length=beat_length,
        max_beats=max_beats,
        beat_window=beat_window,
    )
    return made._replace(seed=seed)


def from_signal(
    signal: np.ndarray | Tensor,
    fs: float,
    features: dict[str, Tensor] | None = None,
    peaks: Sequence[np.ndarray] | None = None,
    *,
    beat_length: int = 64,
    max_beats: int = 16,
    beat_window: tuple[float, float] | None = (0.28, 0.48),
) -> Inputs:
    """Inputs of recordings that belong to no cohort, or that were changed.

    Parameters
    ----------
    signal : array of shape (records, 12, samples)
        mV, leads in the order of ``records.LEADS``.
    fs : float
    features : dict of str to Tensor, optional
        F_k by backbone name.
    peaks : sequence of ndarray, optional
        R positions in samples; found by :func:`ecgmoe.rpeaks.detect_r_peaks` where not given.
    beat_length, max_beats, beat_window
        As for :func:`ecgmoe.beats.segment_beats`.
    """
    peaks = beats.detect_r_peaks(signal, fs) if peaks is None else peaks
    cut = beats.segment_beats(signal, fs, peaks, length=beat_length, max_beats=max_beats, window=beat_window)
    characteristics = torch.from_numpy(beats.characteristics(signal, fs, peaks))
    signal_BCT = torch.as_tensor(signal, dtype=torch.float32)
    return Inputs(dict(features or {}), cut, characteristics, signal_BCT, fs, beat_window=beat_window)
