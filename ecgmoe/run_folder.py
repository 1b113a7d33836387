"""The folder of a training run: what is trained, checkpoints that a kill at any moment cannot spoil, and metrics.

- ``run.json``: data, model and configuration, with provenance; another run is refused
- ``checkpoint-<epochs>/``: weights of the last and the best epoch (safetensors), state of optimiser and schedule
- ``finished/``: weights of the best epoch (``weights.safetensors``), predictions and history
- ``metrics.jsonl``: a line an epoch
- ``tensorboard/``: the same, for TensorBoard
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecgmoe import cache, results
from ecgmoe.datasets import Cohort
from ecgmoe.features import Inputs
from ecgmoe.multitask import MultiTask
from ecgmoe.records import InputError

FINISHED = "finished"


@contextmanager
def claimed(
    folder: Path | None, about: Callable[[], Mapping[str, Mapping[str, Any]]], state: PartialState
) -> Iterator[None]:
    """Hold a folder for one run; the main process does so for all.

    A new folder is told what is trained there, an old one must be of the same run. Without a folder nothing is done.

    Parameters
    ----------
    folder : Path or None
    about : callable
        What the result depends on, by part and key, JSON-able; called in the main process alone.
    state : PartialState

    Raises
    ------
    InputError
        The folder holds another run, or files of something else; the message names what differs.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        if state.is_main_process:
            lock.acquire()
            _claim(folder, json.loads(json.dumps(about(), default=str)))
        state.wait_for_everyone()
        yield
        state.wait_for_everyone()
    finally:
        lock.release()


def _claim(folder: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    path = folder / "run.json"
    if not path.exists():
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(f"{folder} holds files but no training run; take a new folder")
        results.write_json(path, {"about": wanted, "provenance": results.provenance()})
        return
    found = json.loads(path.read_text("utf-8"))["about"]
    there, here = _flat(found), _flat(wanted)
    differences = [
        f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, "absent") != here.get(key, "absent")
    ]
    if differences:
        said = "; ".join(differences)
        raise InputError(f"{folder} holds another run: {said}. Take another folder, or delete this one")


def _flat(about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{part}.{key}": value for part, values in about.items() for key, value in values.items()}


def about(model: MultiTask, inputs: Inputs, cohort: Cohort, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Everything the result of a training run depends on."""
    seen = [*inputs.features.values(), *inputs.beats, inputs.characteristics_BA, inputs.signal_BCT]
    shape = getattr(model, "config", None)
    sources = cache.training_sources("ecgmoe.tasks", "ecgmoe.training", type(model).__module__)
    return {
        "config": dict(config),
        "data": {
            "name": cohort.card.name,
            "records": len(cohort),
            "digest": cohort.digest,
            "features": list(inputs.features),
            "inputs": cache.digest(*(part.cpu().numpy() for part in seen)),
        },
        "model": {
            "class": type(model).__name__,
            **(asdict(shape) if is_dataclass(shape) and not isinstance(shape, type) else {}),
            "initial weights": cache.digest(*(p.detach().float().cpu().numpy() for p in model.parameters())),
        },
        "code": {name: cache.source_digest(file) for name, file in sources.items()},
    }


def save(folder: Path, name: str, state: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a checkpoint ``folder / name``, whole or not at all, then delete those before it.

    ``state`` may hold numbers, strings, tensors, lists and dicts; ``weights`` become safetensors, a file an entry.
    """
    partial = folder / ".checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file, tensors in weights.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial / f"{file}.safetensors")
    torch.save(dict(state), partial / "state.pt")
    os.replace(partial, folder / name)
    for old in folder.glob("checkpoint-*"):
        if old.name != name:
            shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The finished run, else the checkpoint after most epochs, if there is one."""
    if (folder / FINISHED).exists():
        return folder / FINISHED
    return max(folder.glob("checkpoint-*"), default=None, key=lambda path: int(path.name.rpartition("-")[2]))


def load(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read what :func:`save` wrote: state, and tensors by the name of their file; no code in them is executed."""
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return state, {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}


def write_metrics(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write ``metrics.jsonl``, an object a line, whole or not at all; what is not finite is null."""
    lines = [
        json.dumps({key: value if math.isfinite(value) else None for key, value in row.items()}) for row in history
    ]
    partial = folder / ".metrics.partial"
    partial.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    os.replace(partial, folder / "metrics.jsonl")
