"""Pretraining of the compact backbones without labels, each by its authors' objective in small.

- TimesNet, DLinear and TEMPO forecast the rest of a recording from its beginning.
- MOMENT fills in masked patches.
- ECG-FM tells a masked frame's code from those of others, and a recording's second half from those of others.

Shape legend: B records, C leads, T samples, S segments of all records, F frames, D width, P patches.
"""

import copy
import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ecgmoe import backbones, cache, results
from ecgmoe.backbones import Backbone, adapt, published
from ecgmoe.datasets import TEST_FOLD, Cohort
from ecgmoe.records import InputError

#: Folds that weights are trained on: neither the test fold nor the last one is seen.
FOLDS = tuple(range(1, TEST_FOLD))

#: Share of patches that are masked (MOMENT).
_MASKED_PATCHES = 0.3
#: ECG-FM: masked spans start at a frame with the first by the second, its length; they overlap, so that about half of
#: the frames are masked.
_SPANS, _SPAN = 0.65, 5
#: ECG-FM: share of leads that are silenced, temperature of both contrasts, weight of the use of the codes.
_SILENCED, _TEMPERATURE, _DIVERSITY = 0.3, 0.1, 0.1
#: ECG-FM: the softness of the choice of codes falls from the first to the second, by a constant factor a step.
_SOFTNESS = (2.0, 0.5)


@dataclass(frozen=True)
class Recipe:
    """How a backbone is pretrained."""

    epochs: int = 10
    batch_size: int = 64
    lr: float = 2e-3
    """Highest rate; it rises over the first tenth of training and falls by a cosine."""
    weight_decay: float = 0.02
    n_leads: int = 12
    """Leads drawn anew for each record and step; all for networks that read them together."""


class Course(NamedTuple):
    """Mean losses by epoch, the seconds it all took, and the commits whose code did it, the first one first."""

    curve: list[dict[str, float]]
    seconds: float
    commits: list[str]


#: How each backbone is pretrained.
RECIPES = {
    "timesnet": Recipe(epochs=8),
    "dlinear": Recipe(epochs=20),
    "moment": Recipe(epochs=16, n_leads=3, lr=3e-3),
    "tempo": Recipe(epochs=10, n_leads=3),
    "ecg-fm": Recipe(epochs=14),
}


def _whole(backbone: Backbone) -> Backbone:
    """The backbone with an input that is as long as context and forecast together."""
    longer = copy.copy(backbone)
    longer.config = replace(backbone.config, seq_len=backbone.config.seq_len + backbone.config.pred_len)
    return longer


def _forecast(backbone: Any, x: Tensor, progress: float) -> dict[str, Tensor]:
    """Error of the forecast of the last samples of (B, C, T) from those before them."""
    context_BCT, future_BCT = x.split([backbone.config.seq_len, backbone.config.pred_len], dim=-1)
    if backbone.name == "timesnet":
        forecast_BCT = backbone(context_BCT.transpose(1, 2)).transpose(1, 2)
    elif backbone.name == "tempo":
        sd_BC1 = context_BCT.std(-1, keepdim=True) + 1e-2  # as the network, each lead by its own scale
        forecast_BCT = backbone(context_BCT.flatten(0, 1)).unflatten(0, context_BCT.shape[:2]) / sd_BC1
        future_BCT = future_BCT / sd_BC1
    else:
        forecast_BCT = backbone(context_BCT)
    return {"forecast": F.smooth_l1_loss(forecast_BCT.float(), future_BCT)}


def _fill_in(backbone: Any, x: Tensor, progress: float) -> dict[str, Tensor]:
    """Error at masked patches of (B, C, T), each lead by the scale of its visible part."""
    length = backbone.config.patch_len
    rank_BP = torch.rand(len(x), x.shape[-1] // length, device=x.device).argsort(1)
    seen_BT = (rank_BP >= round(_MASKED_PATCHES * rank_BP.shape[1])).float().repeat_interleave(length, 1)
    model = backbone.model
    filled_BCT = model.reconstruct(x_enc=x, input_mask=torch.ones_like(seen_BT), mask=seen_BT).reconstruction
    sd_BC1 = model.normalizer.stdev.clamp_min(1e-2)
    error_BCT = F.smooth_l1_loss(filled_BCT.float() / sd_BC1, x / sd_BC1, reduction="none")
    return {"masked patches": (error_BCT.mean(1) * (1 - seen_BT)).sum() / (1 - seen_BT).sum()}


def _contrast(backbone: Any, x: Tensor, progress: float) -> dict[str, Tensor]:
    """Masked frames against other frames of their segment; halves of a recording against halves of others."""
    B, n_segments = x.shape[:2]
    x_SCT = x.flatten(0, 1)
    x_SCT = x_SCT * (torch.rand(*x_SCT.shape[:2], 1, device=x.device) >= _SILENCED)
    local_SFW = backbone.local(x_SCT)
    S, n_frames = local_SFW.shape[:2]
    start_S1F = (torch.rand(S, 1, n_frames, device=x.device) < _SPANS / _SPAN).float()
    masked_SF = F.max_pool1d(F.pad(start_S1F, (_SPAN - 1, 0)), _SPAN, 1)[:, 0] > 0
    h_SFD = backbone.context(backbone.project(local_SFW, masked_SF))[-1].float()

    backbone.quantizer.temperature = _SOFTNESS[0] * (_SOFTNESS[1] / _SOFTNESS[0]) ** progress
    code_SFD, perplexity = backbone.quantizer(local_SFW.float())
    code_SFD = F.normalize(backbone.project_q(code_SFD).float(), dim=-1)
    guess_SFD = F.normalize(backbone.final_proj(h_SFD).float(), dim=-1)
    own_FF = torch.eye(n_frames, dtype=torch.bool, device=x.device)
    alike_SFF = code_SFD.detach() @ code_SFD.detach().mT > 1 - 1e-4  # the same code is no wrong answer
    wrong_SFF = masked_SF[:, None] & ~alike_SFF
    similarity_SFF = (guess_SFD @ code_SFD.mT / _TEMPERATURE).masked_fill(~(wrong_SFF | own_FF), -1e4)
    target_SF = torch.arange(n_frames, device=x.device).expand(S, -1)
    frames = F.cross_entropy(similarity_SFF[masked_SF], target_SF[masked_SF])

    half_BSD = F.normalize(h_SFD.mean(1), dim=-1).unflatten(0, (B, n_segments))
    similarity_BB = half_BSD[:, 0] @ half_BSD[:, -1].mT / _TEMPERATURE
    own_B = torch.arange(B, device=x.device)
    halves = (F.cross_entropy(similarity_BB, own_B) + F.cross_entropy(similarity_BB.mT, own_B)) / 2
    config = backbone.config
    codes = _DIVERSITY * (1 - perplexity / (config.latent_vars * config.latent_groups))
    return {"masked frames": frames, "segments": halves, "unused codes": codes}


_OBJECTIVES: dict[str, Callable[[Any, Tensor, float], dict[str, Tensor]]] = {
    "timesnet": _forecast,
    "dlinear": _forecast,
    "moment": _fill_in,
    "tempo": _forecast,
    "ecg-fm": _contrast,
}


def losses(backbone: Backbone, x: Tensor, progress: float = 0.0) -> dict[str, Tensor]:
    """Give the terms of a backbone's own objective, which add up to its loss.

    Parameters
    ----------
    backbone : Backbone
    x : Tensor
        Records as :func:`recordings` gives them.
    progress : float
        Share of training that is done, 0 to 1.
    """
    return _OBJECTIVES[backbone.name](backbone, x, progress)


def recordings(backbone: Backbone, signal: np.ndarray, fs: float) -> Tensor:
    """Adapt recordings once for all of training: as for features, and as long as the objective needs; float16."""
    source = _whole(backbone) if _OBJECTIVES[backbone.name] is _forecast else backbone
    parts = []
    with torch.no_grad():
        for start in range(0, len(signal), 256):
            x = source.adapt(torch.as_tensor(signal[start : start + 256], dtype=torch.float32), fs)
            parts.append((x.transpose(1, 2) if backbone.name == "timesnet" else x).half())
    return torch.cat(parts)


def _some_leads(x_BCT: Tensor, n_leads: int) -> Tensor:
    chosen_BC = torch.rand(x_BCT.shape[:2], device=x_BCT.device).argsort(1)[:, :n_leads]
    return x_BCT.gather(1, chosen_BC[..., None].expand(-1, -1, x_BCT.shape[-1]))


def pretrain(
    name: str,
    cohort: Cohort,
    folder: Path | None = None,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "cpu",
    bfloat16: bool = False,
) -> Path:
    """Train a compact backbone on folds 1-8 of a cohort, and write its weights with their card.

    Interrupted work goes on with the epoch that was not finished, to the same weights.

    Parameters
    ----------
    name : str
        One of ``backbones.NAMES``.
    cohort : Cohort
    folder : Path, optional
        Gets ``<name>.safetensors`` and ``<name>.json``, and while it works ``<name>.partial.pt``; by default where
        ``backbones.build`` looks for weights of the preset "compact".
    recipe : Recipe, optional
        That of :data:`RECIPES` by default.
    seed : int
    device : str
    bfloat16 : bool
        Compute matrix products in bfloat16: faster on processors that have them, slower on others.

    Returns
    -------
    Path
        Of the weights.

    Raises
    ------
    InputError
        The cohort has no records of folds 1-8, or training went astray.
    """
    recipe, folder = recipe or RECIPES[name], folder or published.SHIPPED
    backbone = backbones.build(name, "compact-random", seed).to(device)
    rows = np.flatnonzero(np.isin(cohort.table["fold"], FOLDS))
    if len(rows) < recipe.batch_size:
        raise InputError(f"{cohort.card.name} has {len(rows)} records of folds 1-8; {recipe.batch_size} are needed")
    x = recordings(backbone, cohort.signal[rows], cohort.fs).to(device)
    about = {
        "data": cache.digest(cohort.signal[rows], cohort.fs),
        "recipe": asdict(recipe),
        "config": asdict(backbone.config),
        "seed": seed,
        "bfloat16": bfloat16,
        "code": cache.source_digest(__file__, adapt.__file__, inspect.getfile(type(backbone))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.pt"
    with FileLock(folder / f".{name}.lock"):
        course = _train(backbone, x, recipe, partial, about)
        path = _write(backbone, cohort, rows, folder, about, course)
        partial.unlink(missing_ok=True)
    return path


def _train(backbone: Backbone, x: Tensor, recipe: Recipe, partial: Path, about: Mapping[str, Any]) -> Course:
    """Train epoch by epoch, each by its own seed."""
    optimizer = torch.optim.AdamW(
        backbone.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    n_batches = len(x) // recipe.batch_size
    n_steps = recipe.epochs * n_batches
    curve: list[dict[str, float]] = []
    seconds, commits = 0.0, [str(results.provenance()["commit"])]
    if partial.exists():
        state = torch.load(partial, map_location=x.device, weights_only=True)
        if state["about"] == json.dumps(about, sort_keys=True):
            backbone.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            curve, seconds = state["curve"], state["seconds"]
            commits = [*state["commits"], *(c for c in commits if c not in state["commits"])]
    backbone.train()
    bar = tqdm(range(len(curve), recipe.epochs), desc=f"epochs of {backbone.name}", disable=None)
    with torch.random.fork_rng(devices=[] if x.device.type == "cpu" else None):
        for epoch in bar:
            started = time.perf_counter()
            torch.manual_seed(1000 * about["seed"] + epoch)
            order = torch.randperm(len(x))[: n_batches * recipe.batch_size]
            sums: dict[str, float] = {}
            for batch, taken in enumerate(order.split(recipe.batch_size)):
                done = (epoch * n_batches + batch) / n_steps
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * min(1.0, 10 * done + 1e-3) * (0.5 + 0.5 * math.cos(math.pi * done))
                records = x[taken.to(x.device)].float()
                if recipe.n_leads < records.shape[1]:
                    records = _some_leads(records, recipe.n_leads)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=about["bfloat16"]):
                    terms = losses(backbone, records, done)
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
                optimizer.step()
                for term, value in terms.items():
                    sums[term] = sums.get(term, 0.0) + value.item()
            curve.append({term: value / n_batches for term, value in sums.items()})
            if not all(math.isfinite(value) for value in curve[-1].values()):
                raise InputError(f"the loss of {backbone.name} is not finite in epoch {epoch}; lower the learning rate")
            bar.set_postfix({term: f"{value:.3f}" for term, value in curve[-1].items()})
            seconds += time.perf_counter() - started
            state = {
                "about": json.dumps(about, sort_keys=True),
                "model": backbone.state_dict(),
                "optimizer": optimizer.state_dict(),
                "curve": curve,
                "seconds": seconds,
                "commits": commits,
            }
            unfinished = partial.with_suffix(f".{os.getpid()}")
            torch.save(state, unfinished)
            os.replace(unfinished, partial)
    backbone.eval()
    return Course(curve, seconds, commits)


#: What each objective is, for the card.
_IN_WORDS = {
    "timesnet": "forecasting: the end of a recording from what is before it, smooth absolute error",
    "dlinear": "forecasting: the end of a recording from what is before it, smooth absolute error",
    "moment": "masked patches: 30 % of a lead's patches are filled in, smooth absolute error by the lead's scale",
    "tempo": "forecasting: the end of a lead from what is before it, smooth absolute error by the lead's scale",
    "ecg-fm": (
        "masked contrast: the code of a masked frame among those of its segment (wav2vec 2.0), and contrast of "
        "segments: the other half of a recording among those of others (CMSC); 30 % of the leads are silenced"
    ),
}


def _write(
    backbone: Backbone,
    cohort: Cohort,
    rows: np.ndarray,
    folder: Path,
    about: Mapping[str, Any],
    course: Course,
) -> Path:
    """Write weights and card, each whole or not at all."""
    path = folder / f"{backbone.name}.safetensors"
    config = json.dumps(asdict(backbone.config), sort_keys=True)
    weights = {key: weight.detach().cpu().contiguous() for key, weight in backbone.named_parameters()}
    unfinished = path.with_suffix(f".{os.getpid()}.partial")
    save_file(weights, unfinished, metadata={"config": config})
    os.replace(unfinished, path)
    table = cohort.table.iloc[rows]
    card = {
        "name": backbone.name,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": backbones.n_parameters(backbone),
        "objective": _IN_WORDS[backbone.name],
        "command": f"python -m ecgmoe pretrain DATA_ROOT {backbone.name} --seed {about['seed']}"
        + " --bfloat16" * about["bfloat16"],
        "recipe": about["recipe"],
        "config": about["config"],
        "bfloat16": about["bfloat16"],
        "data": {
            "name": cohort.card.name,
            "doi": cohort.card.doi,
            "licence": cohort.card.licence,
            "folds": list(FOLDS),
            "records": len(rows),
            "patients": int(table["patient_id"].nunique()),
            "fs": cohort.fs,
            "digest": about["data"],
            "labels seen": "none",
        },
        "licence": f"as that of the recordings: {cohort.card.licence}",
        "limits": "A small network, trained for the chapters of this book on one data set. Not a medical device.",
        "loss by epoch": course.curve,
        "seconds": round(course.seconds, 1),
        "commits": course.commits,
        "provenance": results.provenance(seed=about["seed"]),
    }
    results.write_json(folder / f"{backbone.name}.json", card)
    return path
