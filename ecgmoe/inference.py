"""From recordings to answers: what the router leaves out is never computed, and neither is a task nobody asked for.

Shape legend: B records, C leads, T samples, M backbones.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ecgmoe import features
from ecgmoe.backbones import Backbone
from ecgmoe.backbones.adapt import resample
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, Ensemble
from ecgmoe.multitask import Output
from ecgmoe.routing import chosen_features


class Answer(NamedTuple):
    """Answers for a batch of records, and which backbones ran for them."""

    predictions: dict[str, np.ndarray]  #: as of :meth:`ecgmoe.multitask.MultiTask.predict`, by requested task
    ran_BM: np.ndarray  #: bool, in the order of the model's ``d_features``


def answer(
    model: ECGMoE | Ensemble,
    networks: Mapping[str, Backbone],
    signal: np.ndarray | Tensor,
    fs: float,
    tasks: Sequence[str] | None = None,
    *,
    batch_size: int = 32,
) -> Answer:
    """Answer the requested tasks for recordings.

    Finds beats and characteristics, asks the router, runs each backbone on those records that chose it, and then
    fusion with the gates and heads of the requested tasks alone. In evaluation mode, without gradients; the answers of
    a record do not depend on the others.

    Parameters
    ----------
    model : ECGMoE or Ensemble
        With ``top_k`` 0 every backbone runs on every record.
    networks : mapping of str to Backbone
        Those that the model takes features of and does not hold itself, by name, on its device.
    signal : array of shape (records, 12, samples)
        mV, leads in the order of ``records.LEADS``.
    fs : float
        Sampling rate in Hz; recordings are brought to the one that the model was trained at.
    tasks : sequence of str, optional
        All that the model knows by default. A router chooses for the requested tasks, so that asking for fewer may run
        other backbones.
    batch_size : int
        Records that are processed together.

    Returns
    -------
    Answer

    Raises
    ------
    ValueError
        A backbone is missing, a task is unknown, there is no record, or the signal has the wrong shape.
    """
    if signal.ndim != 3 or not len(signal):
        raise ValueError(f"signal must be (records, leads, samples) with at least a record, got {tuple(signal.shape)}")
    tasks = tuple(tasks or model.tasks)
    parts: list[dict[str, Tensor]] = []
    ran: list[Tensor] = []
    with tqdm(total=len(signal), desc="answers", disable=None) as bar:
        for start in range(0, len(signal), batch_size):
            part = torch.as_tensor(signal[start : start + batch_size], dtype=torch.float32)
            output, ran_BM = run(model, networks, made_for(model, resample(part, fs, model.config.fs)), tasks)
            parts.append(model.predict(output.logits))
            ran.append(ran_BM)
            bar.update(len(part))
    predictions = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in tasks}
    return Answer(predictions, torch.cat(ran).numpy())


def made_for(model: ECGMoE | Ensemble, signal_BCT: Tensor, peaks: Sequence[np.ndarray] | None = None) -> Inputs:
    """What a model sees of recordings at its own sampling rate, all but the features of its backbones."""
    c = model.config
    return features.from_signal(
        signal_BCT, c.fs, peaks=peaks, beat_length=c.beat_length, max_beats=c.max_beats, beat_window=c.beat_window
    )


@torch.no_grad()
def run(
    model: ECGMoE | Ensemble, networks: Mapping[str, Backbone], inputs: Inputs, tasks: Sequence[str] | None = None
) -> tuple[Output, Tensor]:
    """One pass for a batch: each backbone on those records that chose it, then fusion and the heads of these tasks.

    Parameters
    ----------
    model : ECGMoE or Ensemble
        Is put into evaluation mode.
    networks : mapping of str to Backbone
        As for :func:`answer`.
    inputs : Inputs
        From :func:`made_for`.
    tasks : sequence of str, optional

    Returns
    -------
    Output and Tensor
        What the model gives, and which backbones ran, bool of shape (B, M) on the CPU.

    Raises
    ------
    ValueError
        A backbone is missing, or a task is unknown.
    """
    model.eval()
    names = tuple(model.config.d_features)
    frozen = [name for name in names if name not in model.networks]
    if missing := [name for name in frozen if name not in networks]:
        raise ValueError(f"the model needs the backbones {', '.join(missing)}; build them with backbones.build")
    inputs = inputs.to(model.positive_weight_K.device)
    choice = model.choose(inputs, tasks)
    shape = (inputs.n_records, len(names))
    ran_BM = torch.ones(shape, dtype=torch.bool) if choice is None else choice.chosen_BM
    found = {
        name: chosen_features(networks[name], inputs.signal_BCT, inputs.fs, ran_BM[:, names.index(name)])
        for name in frozen
    }
    return model(inputs._replace(features=found), tasks, choice), ran_BM.cpu()
