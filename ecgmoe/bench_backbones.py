"""``python -m ecgmoe bench backbones``: what a pass of each backbone costs, and what makes it faster.

Everything runs in one process on one thread. The ways that are compared are timed in turn, round after round; what is
reported is the median over rounds, of times and of ratios within a round:

- float32 as the authors' code computes it: attention step by step ("eager"), GPT-2's activation in its steps,
  TimesNet's parallel convolutions one by one;
- float32 as this library computes it;
- bfloat16, by :func:`ecgmoe.backbones.precision.faster`.
"""

import os
import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers.activations import GELUTanh, NewGELUActivation

from ecgmoe import backbones, results
from ecgmoe.backbones import Backbone, precision
from ecgmoe.backbones.precision import seconds
from ecgmoe.backbones.timesnet import Inception
from ecgmoe.efficiency import matmul_peak, one_thread

_LEAST_S = 0.1  # what is faster is repeated
_FEW = 2  # records that operations are counted and errors taken on


class _Unfolded(nn.Module):
    """An Inception block as its authors compute it: every convolution, then their mean."""

    def __init__(self, block: Inception) -> None:
        super().__init__()
        self.kernels = block.kernels

    def forward(self, image: Tensor) -> Tensor:
        """Convolve images (J, N, rows, period)."""
        return torch.stack([convolve(image) for convolve in self.kernels], dim=-1).mean(-1)


def eager(backbone: Backbone) -> Backbone:
    """Give the same backbone, computed in float32 as its authors' code does; the weights are shared."""
    slow = precision.shared_copy(backbone)
    precision.set_attention(slow, "eager")
    for module in list(slow.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Inception):
                setattr(module, name, _Unfolded(child))
            elif isinstance(child, GELUTanh):
                setattr(module, name, NewGELUActivation())
    return slow


def measure(
    preset: str = "published-random",
    batch: int = 16,
    rounds: int = 3,
    names: tuple[str, ...] = backbones.NAMES,
    json_file: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Measure all backbones, and write it with its provenance to ``bench_backbones.json`` of ``results.run_dir()``.

    Parameters
    ----------
    preset : str
        One of ``backbones.PRESETS``; times do not depend on what the weights are, errors do a little.
    batch : int
        Records of a pass. In small batches the authors' way is somewhat faster, since its intermediate results are then
        small enough for memory to be used again.
    rounds : int
        Should be odd.
    names : tuple of str
    json_file : path, optional
        Another place to write to as well.

    Returns
    -------
    dict
        Tables by name, as :func:`describe` takes them.

    Raises
    ------
    InputError
        The weights of the preset are not there.
    """
    rows, times = [], []
    with one_thread(), torch.no_grad():
        for name in tqdm(names, desc="Measuring backbones", disable=None):
            row, times_RW = _one(backbones.build(name, preset), batch, rounds)
            rows.append(row)
            times.append(times_RW)
        reported = precision.instructions()
        metrics: dict[str, Any] = {
            "run": {
                "preset": preset,
                "batch": batch,
                "rounds": rounds,
                "threads": 1,
                "processor": precision.processor(),
                "instructions": ", ".join(reported) or "none for bfloat16",
                "float32_gflop_per_s": matmul_peak(),
                "bfloat16_gflop_per_s": matmul_peak(torch.bfloat16),
            },
            "backbones": pd.DataFrame(rows),
            "together": _together(pd.DataFrame(rows), np.sum(times, 0), batch),
        }
    parameters = {"preset": preset, "batch": batch, "rounds": rounds}
    results.save("bench_backbones", metrics, parameters=parameters)
    if json_file is not None:
        shutil.copyfile(results.run_dir() / "bench_backbones.json", json_file)
    return metrics


def versions(backbone: Backbone) -> dict[str, Backbone]:
    """Give the three ways of computing a backbone, the authors' first."""
    return {
        "eager": eager(backbone),
        "float32": backbone,
        "bfloat16": precision.faster(backbone, "bfloat16"),
    }


def race(ways: Mapping[str, Backbone], x: Tensor, rounds: int) -> np.ndarray:
    """Time each way in each round, (rounds, ways), in seconds; what is fast is repeated, and the least time counts."""
    with torch.no_grad():
        return _race(ways, x, rounds)


def _race(ways: Mapping[str, Backbone], x: Tensor, rounds: int) -> np.ndarray:
    runs = [partial(way.encode, x) for way in ways.values()]
    first = [seconds(partial(way.encode, x[:1])) for way in ways.values() for _ in range(2)][1::2]
    repeats = [max(1, round(_LEAST_S / once / len(x))) for once in first]
    times_RW = np.empty((rounds, len(runs)))
    for i in range(rounds):
        for j, (run, repeat) in enumerate(zip(runs, repeats, strict=True)):
            times_RW[i, j] = min(seconds(run) for _ in range(repeat))
    return times_RW


def _one(backbone: Backbone, batch: int, rounds: int) -> tuple[dict[str, Any], np.ndarray]:
    """Measure one backbone: a row of the table, and the seconds of each way in each round."""
    ways, x = versions(backbone), precision.trial(backbone, batch)
    some = x[:_FEW]
    with FlopCounterMode(display=False) as counter:
        expected = ways["eager"].encode(some)
    errors = {name: precision.relative_error(expected, way.encode(some)) for name, way in ways.items()}
    times_RW = race(ways, x, rounds)
    eager_R, float32_R, bfloat16_R = times_RW.T
    choice = precision.choose(backbone)
    return {
        "backbone": backbones.TITLES[backbone.name],
        "parameters": backbones.n_parameters(backbone),
        "gflop_per_record": counter.get_total_flops() / len(some) / 1e9,
        **{f"{name}_ms": 1000 * float(np.median(times)) / batch for name, times in zip(ways, times_RW.T, strict=True)},
        "float32_ratio": float(np.median(eager_R / float32_R)),
        "float32_error": errors["float32"],
        "bfloat16_ratio": float(np.median(eager_R / bfloat16_R)),
        "bfloat16_ratio_to_float32": float(np.median(float32_R / bfloat16_R)),
        "bfloat16_error": errors["bfloat16"],
        "auto": choice.precision,
        "reason": choice.reason,
    }, times_RW


def _together(table: pd.DataFrame, times_RW: np.ndarray, batch: int) -> dict[str, float]:
    """All backbones one after the other: the sums, and ratios of sums within a round."""
    eager_R, float32_R, bfloat16_R = times_RW.T
    return {
        "parameters": int(table["parameters"].sum()),
        "gflop_per_record": float(table["gflop_per_record"].sum()),
        "eager_ms": 1000 * float(np.median(eager_R)) / batch,
        "float32_ms": 1000 * float(np.median(float32_R)) / batch,
        "bfloat16_ms": 1000 * float(np.median(bfloat16_R)) / batch,
        "float32_ratio": float(np.median(eager_R / float32_R)),
        "bfloat16_ratio": float(np.median(eager_R / bfloat16_R)),
        "bfloat16_ratio_to_float32": float(np.median(float32_R / bfloat16_R)),
        "bfloat16_error": float(table["bfloat16_error"].max()),
    }


def describe(metrics: Mapping[str, Any]) -> list[str]:
    """Lines that show what :func:`measure` measured."""
    run, table, together = metrics["run"], metrics["backbones"], metrics["together"]
    shown = pd.DataFrame(
        {
            "backbone": [*table["backbone"], "together"],
            "M": [f"{n / 1e6:.1f}" for n in (*table["parameters"], together["parameters"])],
            "GFLOP": [f"{n:.1f}" for n in (*table["gflop_per_record"], together["gflop_per_record"])],
            **{
                f"{way} ms": [f"{ms:.1f}" for ms in (*table[f"{way}_ms"], together[f"{way}_ms"])]
                for way in ("eager", "float32", "bfloat16")
            },
            **{
                f"{way} x": [f"{ratio:.2f}" for ratio in (*table[f"{way}_ratio"], together[f"{way}_ratio"])]
                for way in ("float32", "bfloat16")
            },
            "error": [f"{error:.1e}" for error in (*table["bfloat16_error"], together["bfloat16_error"])],
            "auto": [*table["auto"], ""],
        }
    )
    lines = [
        f"{run['preset']}, batches of {run['batch']}, one thread, median of {run['rounds']} rounds.",
        f"{run['processor']}, bfloat16 by {run['instructions']}: a product of matrices reaches "
        f"{run['float32_gflop_per_s']:,.0f} GFLOP/s in float32, {run['bfloat16_gflop_per_s']:,.0f} in bfloat16.",
        "Each record: ms by the authors' way (eager, float32), in our float32 and in bfloat16; x: times as fast as the "
        "first; error: of a feature vector in bfloat16, relative, the largest.",
        "",
        *shown.to_string(index=False).splitlines(),
        "",
        *(f"auto, {name}: {reason}." for name, reason in zip(table["backbone"], table["reason"], strict=True)),
    ]
    folded = table[table["backbone"] == backbones.TITLES["timesnet"]]
    if len(folded):
        ratio, error = folded[["float32_ratio", "float32_error"]].iloc[0]
        lines.append(f"TimesNet with its kernels folded: {ratio:.2f} times as fast, relative error {error:.1e}.")
    if run["instructions"].startswith("none"):
        ratio = together["bfloat16_ratio_to_float32"]
        lines.append(f"bfloat16 is off: without instructions for it, it is {ratio:.2f} times as fast as our float32.")
    return lines
