"""How the cost of a pass grows: with the batch, the precision, the backbones that run, the tasks asked, the length.

One thing is varied at a time. Its settings are timed in turn, round after round, and compared with the first of them
within a round. Beside each stands the bound by arithmetic: the counted operations at the rate of a large matrix
product in the fastest precision that the setting uses. Weights may be random: a pass costs the same with any.

Shape legend: B records, C leads, T samples, K tasks, M backbones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ecgmoe import efficiency, inference, routing, windows
from ecgmoe.backbones import Backbone, precision
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE
from ecgmoe.records import LEADS
from ecgmoe.sources import Recording

#: What is varied, in the order of the figure.
AXES = (BATCH, PRECISION, BACKBONES, TASKS, WINDOWS, UNCUT) = (
    "records in a pass",
    "precision",
    "backbones a record",
    "tasks asked",
    "seconds, cut into windows",
    "seconds, uncut",
)

Run = Callable[[], object]


class EvenRouter(routing.Router):
    """A router that gives every backbone the same load: record i runs k backbones from the i-th on, in turn."""

    def forward(self, inputs: Inputs, characteristics_BA: Tensor, task_KD: Tensor) -> routing.Choice:
        """Work as a router does, then choose in turn."""
        score_BKM = super().forward(inputs, characteristics_BA, task_KD).probability_BKM
        B, _, M = score_BKM.shape
        offset_BM = (torch.arange(M) - torch.arange(B)[:, None]) % M
        hidden_BM = (offset_BM >= self.top_k).to(score_BKM.device)
        return routing.choose(score_BKM.masked_fill(hidden_BM[:, None], float("-inf")), self.top_k)


def evenly_routed(model: ECGMoE, k: int) -> ECGMoE:
    """A model of the same sizes whose router gives k backbones to a record, and every backbone the same load."""
    c = replace(model.config, top_k=k)
    with torch.random.fork_rng(devices=[]):
        made = ECGMoE(c)
        made.router = EvenRouter(c.n_leads, c.n_characteristics, c.d_task, len(c.d_features), k)
    return made.eval().to(model.positive_weight_K.device)


def measure(
    model: ECGMoE,
    networks: Mapping[str, Backbone],
    signal: np.ndarray | Tensor,
    rounds: int = 3,
    batches: Sequence[int] = (1, 4, 16, 64),
    seconds: Sequence[int] = (10, 20, 40, 60),
) -> pd.DataFrame:
    """Time passes of ECG-MoE, one thing varied at a time.

    Where the number of records is not what is varied, it is that of the backbones, so that a load can be even. A
    recording longer than ten seconds is read in two ways: cut into windows of ten seconds, all in one pass, as
    ``predict`` cuts it; and given to the model as it is.

    Parameters
    ----------
    model : ECGMoE
        That runs all its backbones.
    networks : mapping of str to Backbone
        By name, on the device of the model.
    signal : array of shape (records, 12, samples)
        mV, ten seconds at the model's rate; repeated where more are needed.
    rounds : int
    batches : sequence of int
        Records in a pass.
    seconds : sequence of int
        Lengths of a recording, multiples of ten.

    Returns
    -------
    DataFrame
        A row a setting, of ``axis``, one of :data:`AXES`: ``setting`` as text, ``records`` in a pass, ``pass_ms``, the
        columns of :func:`ecgmoe.efficiency.measure`, ``bound_records_per_s``, and for a precision the largest relative
        ``error`` of a feature vector. Where the length is varied, a record is the whole recording.
    """
    fs, device = model.config.fs, str(model.positive_weight_K.device)
    signal_BCT = torch.as_tensor(signal, dtype=torch.float32, device=device)
    M = len(networks)

    def records(n: int) -> Tensor:
        return signal_BCT[torch.arange(n) % len(signal_BCT)]

    def one_pass(
        given: np.ndarray | Tensor,
        by: ECGMoE = model,
        through: Mapping[str, Backbone] = networks,
        asked: Sequence[str] | None = None,
    ) -> Run:
        return partial(inference.answer, by, through, given, fs, asked, batch_size=len(given))

    def long(n_seconds: int) -> Tensor:
        return torch.cat(list(records(n_seconds // round(windows.WINDOW_S))), -1)

    def cut(recording: Recording) -> None:
        one_pass(np.stack([window.signal_LT for window in windows.cut(recording, fs)]))()

    with torch.no_grad():
        fast = {name: precision.faster(network, "bfloat16") for name, network in networks.items()}
        few = records(M)
        runs: dict[str, dict[str, Run]] = {
            BATCH: {str(n): one_pass(records(n)) for n in batches},
            PRECISION: {"float32": one_pass(few), "bfloat16": one_pass(few, through=fast)},
            BACKBONES: {str(M): one_pass(few)}
            | {str(k): one_pass(few, evenly_routed(model, k)) for k in range(M - 1, 0, -1)},
            TASKS: {str(n): one_pass(few, asked=model.tasks[:n]) for n in range(1, len(model.tasks) + 1)},
            WINDOWS: {str(n): partial(cut, Recording(f"{n} s", long(n).cpu().numpy(), fs, LEADS)) for n in seconds},
            UNCUT: {str(n): one_pass(long(n)[None]) for n in seconds},
        }
        peak = {dtype: efficiency.matmul_peak(dtype, device=device) for dtype in (torch.float32, torch.bfloat16)}
        tables = []
        for axis, settings in tqdm(runs.items(), desc="scaling", disable=None):
            n = {BATCH: list(batches), WINDOWS: [1] * len(seconds), UNCUT: [1] * len(seconds)}.get(
                axis, [M] * len(settings)
            )
            table = efficiency.measure(settings, n, rounds).rename_axis("setting").reset_index()
            best = np.where(table["setting"] == "bfloat16", max(peak.values()), peak[torch.float32])
            table = table.assign(axis=axis, records=n, bound_records_per_s=best / table["gflop_per_record"])
            table["pass_ms"] = table["ms_per_record"] * table["records"]
            tables.append(table)
        found = pd.concat(tables, ignore_index=True)
        errors = {"float32": 0.0, "bfloat16": error(networks, fast, few, fs)}
    found["error"] = found["setting"].map(errors)
    first = ["axis", "setting", "records", "pass_ms"]
    return found[[*first, *found.columns.drop(first)]]


def error(slow: Mapping[str, Backbone], fast: Mapping[str, Backbone], signal_BCT: Tensor, fs: float) -> float:
    """Largest relative error of a feature vector over backbones, depths and recordings (mV, at ``fs`` Hz)."""
    given = {name: network.adapt(signal_BCT, fs) for name, network in slow.items()}
    return max(precision.relative_error(slow[name].encode(x), fast[name].encode(x)) for name, x in given.items())


def of(table: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Rows of one of :data:`AXES`, indexed by setting, as a number where it is one."""
    rows = table[table["axis"] == axis].drop(columns="axis")
    settings = [int(setting) if setting.isdigit() else setting for setting in rows["setting"]]
    return rows.drop(columns="setting").set_axis(pd.Index(settings, name=axis))
