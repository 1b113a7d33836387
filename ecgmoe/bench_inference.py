"""``python -m ecgmoe bench inference``: what answers to all tasks cost, by one pass and by what it is compared with.

Everything is computed in float32 on one thread, or on a GPU where one is asked for (whose convolutions may use TF32, as
PyTorch's do by default). The ways that are compared are timed in turn, round after round; what is reported is the
median over rounds, of times and of ratios within a round. The peak of memory is that of a fresh process a way. Weights
are random: a pass costs the same with any. How the cost grows with batch, precision, backbones, tasks and length is
measured by :mod:`ecgmoe.scaling`.

- ECG-MoE, one pass: beats, five backbones, fusion, all heads (:func:`ecgmoe.inference.answer`).
- One ECG-MoE a task: complete models, each with its own backbones, nothing shared, all held in memory.
- One EnECG a task: the same, of the sister paper's ensemble as published (:mod:`ecgmoe.enecg`).
- One EnECG a task, features shared: its backbones are frozen, so that whoever optimises it runs them once.

Shape legend: B records, C leads, T samples, K tasks, M backbones.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ecgmoe import (
    backbones,
    datasets,
    efficiency,
    enecg,
    features,
    inference,
    reference,
    results,
    scaling,
    tradeoff,
)
from ecgmoe.backbones import Backbone, precision
from ecgmoe.beats import Beats
from ecgmoe.datasets import Cohort, simulated
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.multitask import MultiTask
from ecgmoe.objective import objective
from ecgmoe.tasks import TASKS
from ecgmoe.training import FitConfig

Networks = dict[str, Backbone]
_FIT = FitConfig()


class Bench:
    """Models with random fusion over the backbones of a preset, and recordings that they answer for.

    Parameters
    ----------
    preset : str
        One of ``backbones.PRESETS``.
    signal : ndarray of shape (records, 12, samples)
        mV.
    fs : float
    seed : int
    device : str
    """

    def __init__(self, preset: str, signal: np.ndarray, fs: float, seed: int = 0, device: str = "cpu"):
        self.preset, self.fs, self.seed, self.device = preset, fs, seed, device
        self.signal_BCT = torch.from_numpy(signal).to(device)
        self.sets: list[Networks] = []

    def networks(self, i: int) -> Networks:
        """The i-th set of backbones; each has its own weights in memory."""
        while len(self.sets) <= i:
            made = {name: backbones.build(name, self.preset, self.seed) for name in backbones.NAMES}
            self.sets.append({name: network.to(self.device) for name, network in made.items()})
        return self.sets[i]

    def model(self, tasks: Sequence[str] = tuple(TASKS), top_k: int = 0) -> ECGMoE:
        """An ECG-MoE in evaluation mode, always with the same random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = ECGMoE(ECGMoEConfig(self.widths, tasks=tuple(tasks), top_k=top_k, fs=self.fs))
        return model.eval().to(self.device)

    @property
    def widths(self) -> dict[str, int]:
        """Widths of the backbones' features, by name."""
        return {name: network.d_features for name, network in self.networks(0).items()}

    @cached_property
    def own(self) -> ECGMoE:
        """ECG-MoE for all tasks, all backbones run."""
        return self.model()

    @cached_property
    def of_a_task(self) -> list[ECGMoE]:
        """An ECG-MoE for each task."""
        return [self.model((name,)) for name in TASKS]

    @cached_property
    def enecgs(self) -> list[MultiTask]:
        """An EnECG for each task."""
        made = [enecg.EnECG(enecg.EnECGConfig.published(self.widths, name)) for name in TASKS]
        return [model.eval().to(self.device) for model in made]

    def features(self, i: int = 0) -> dict[str, Tensor]:
        """Features by the i-th set of backbones."""
        return {name: network.features(self.signal_BCT, self.fs) for name, network in self.networks(i).items()}

    def one_pass(self) -> dict[str, Any]:
        """ECG-MoE: every backbone once, all tasks."""
        return self._answer(self.own, 0)

    def model_a_task(self) -> dict[str, Any]:
        """Five complete ECG-MoE: nothing is shared."""
        return {name: self._answer(model, i)[name] for i, (name, model) in enumerate(zip(TASKS, self.of_a_task))}

    def enecg_a_task(self) -> dict[str, Any]:
        """Five complete EnECG, each with its own backbones."""
        return {name: self._enecg(i, self.features(i))[name] for i, name in enumerate(TASKS)}

    def enecg_shared(self) -> dict[str, Any]:
        """Five EnECG over features that are computed once."""
        found = self.features()
        return {name: self._enecg(i, found)[name] for i, name in enumerate(TASKS)}

    def _answer(self, model: ECGMoE, i: int) -> dict[str, Any]:
        n = len(self.signal_BCT)
        return inference.answer(model, self.networks(i), self.signal_BCT, self.fs, batch_size=n).predictions

    def _enecg(self, i: int, found: dict[str, Tensor]) -> dict[str, Any]:
        """EnECG looks at neither beats nor characteristics, so none are sought."""
        B, device = len(self.signal_BCT), self.device
        none = Beats(torch.zeros(B, 0, 12, 0), torch.zeros(B, 0, 2), torch.zeros(B, 0, dtype=torch.bool))
        inputs = Inputs(found, none, torch.zeros(B, 0), self.signal_BCT, self.fs)
        with torch.no_grad():
            return self.enecgs[i].predict(self.enecgs[i](inputs.to(device)).logits)

    def parts(self) -> dict[str, Callable[[], object]]:
        """A pass of ECG-MoE and each of its parts, to be timed."""
        ready = features.from_signal(self.signal_BCT, self.fs).to(self.device)
        with torch.no_grad():
            ready = ready._replace(features=self.features())
        parts: dict[str, Callable[[], object]] = {ONE_PASS: self.one_pass}
        parts[BEATS] = partial(features.from_signal, self.signal_BCT, self.fs)
        for name, network in self.networks(0).items():
            parts[backbones.TITLES[name]] = partial(network.features, self.signal_BCT, self.fs)
        return parts | {FUSION: partial(self.own, ready)}


ONE_PASS, BEATS, FUSION = "ECG-MoE, one pass", "beats and characteristics", "experts, fusion and heads"

#: Ways to answer all tasks; the first is what the others are compared with.
WAYS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    ONE_PASS: Bench.one_pass,
    "one ECG-MoE a task": Bench.model_a_task,
    "one EnECG a task": Bench.enecg_a_task,
    "one EnECG a task, features shared": Bench.enecg_shared,
}
_OWN_BACKBONES = ("one ECG-MoE a task", "one EnECG a task")  # a set of backbones a task


def run_way(way: str, preset: str, file: str, fs: float, seed: int, device: str) -> None:
    """One pass by a way of :data:`WAYS` over recordings in an .npy file: what a fresh process does."""
    with torch.no_grad():
        WAYS[way](Bench(preset, np.load(file), fs, seed, device))


def ways(bench: Bench, rounds: int = 3) -> pd.DataFrame:
    """Compare :data:`WAYS`: time in turn in this process, peak memory each in a process of its own.

    Returns
    -------
    DataFrame
        Indexed by way: the columns of :func:`ecgmoe.efficiency.measure`, ``bound_records_per_s`` (the counted
        operations at the rate of a large matrix product), ``peak_mib``, ``own_share_of_peak`` (ECG-MoE's peak by that
        of this way), ``parameters`` held in memory and ``trained`` ones.
    """
    runs = {way: partial(run, bench) for way, run in WAYS.items()}
    bench.networks(len(TASKS) - 1)
    n = len(bench.signal_BCT)
    table = efficiency.measure(runs, n, rounds)
    table["bound_records_per_s"] = efficiency.matmul_peak(device=bench.device) / table["gflop_per_record"]
    table["peak_mib"] = [peak_mib(bench, way) for way in tqdm(WAYS, desc="peak memory", disable=None)]
    table["own_share_of_peak"] = table["peak_mib"].iloc[0] / table["peak_mib"]
    of_set = sum(map(backbones.n_parameters, bench.networks(0).values()))
    models: dict[str, Sequence[MultiTask]] = dict(zip(WAYS, ([bench.own], bench.of_a_task, bench.enecgs, bench.enecgs)))
    table["parameters"] = [
        (len(TASKS) if way in _OWN_BACKBONES else 1) * of_set + sum(model.n_parameters() for model in own)
        for way, own in models.items()
    ]
    table["trained"] = [sum(model.n_parameters(trainable_only=True) for model in own) for own in models.values()]
    return table.rename_axis("way")


def peak_mib(bench: Bench, way: str, records: int | None = None) -> float:
    """Peak memory (MiB) of a fresh process for a pass by a way of :data:`WAYS`, over all records or over so many."""
    signal_BCT = bench.signal_BCT.cpu()
    with tempfile.TemporaryDirectory(prefix="ecgmoe-bench-") as folder:
        file = str(Path(folder) / "signal.npy")
        np.save(file, signal_BCT[torch.arange(records or len(signal_BCT)) % len(signal_BCT)].numpy())
        return efficiency.peak_memory(run_way, way, bench.preset, file, bench.fs, bench.seed, bench.device)


def epochs(bench: Bench, cohort: Cohort, records: int = 16, batch: int = 8) -> dict[str, float]:
    """Train for an epoch on a cohort's first records, with the frozen backbones in the loop and on cached features.

    Both start from the same weights, see the same batches in the same order, and draw the same dropout. Beats and
    characteristics are computed before in both.

    Returns
    -------
    dict of str to float
        ``in_loop_s`` and ``cached_s`` an epoch and their ``ratio``; of the answers afterwards (logits and standardised
        values of all records) the largest ``difference``, and how far the epoch ``moved`` them at most; ``weights``,
        the largest difference of any weight. That is larger than what comes of it: where a weight has no influence,
        its gradient is rounding alone, and Adam makes full steps of it.
    """
    inputs = features.from_signal(cohort.signal[:records], cohort.fs).to(bench.device)
    targets = {name: torch.from_numpy(y[:records]).to(bench.device) for name, y in cohort.targets().items()}
    networks, B = bench.networks(0), inputs.n_records

    def of_backbones(signal_BCT: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: network.features(signal_BCT, cohort.fs) for name, network in networks.items()}

    def epoch(model: ECGMoE, given: Inputs | None) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=_FIT.lr, weight_decay=_FIT.weight_decay)
        torch.manual_seed(bench.seed)
        for rows in torch.randperm(B).split(batch):
            taken = (given or inputs).take(rows)
            if given is None:
                taken = taken._replace(features=of_backbones(taken.signal_BCT))
            losses = objective(model, model(taken), {name: target[rows] for name, target in targets.items()}, _FIT.lam)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()

    start = bench.model(tuple(targets))
    start.fit_scales(inputs._replace(features=(found := of_backbones(inputs.signal_BCT))), targets)
    ready = inputs._replace(features=found)
    models = [deepcopy(start).train() for _ in range(3)]
    with torch.random.fork_rng(devices=[]):
        epoch(models.pop(), ready)  # warms up
        in_loop_s, cached_s = (
            precision.seconds(partial(epoch, model, given)) for model, given in zip(models, (None, ready), strict=True)
        )
    in_loop, cached = models

    def answers(model: ECGMoE) -> Tensor:
        with torch.no_grad():
            return torch.cat(list(model.eval()(ready).logits.values()), 1)

    def apart(one: Tensor, other: Tensor) -> float:
        return float((one - other).abs().max())

    pairs = zip(in_loop.parameters(), cached.parameters(), strict=True)
    return {
        "records": B,
        "batch": batch,
        "in_loop_s": in_loop_s,
        "cached_s": cached_s,
        "ratio": in_loop_s / cached_s,
        "difference": apart(answers(in_loop), answers(cached)),
        "moved": apart(answers(start), answers(in_loop)),
        "weights": max(apart(one.detach(), other.detach()) for one, other in pairs),
    }


def measure(
    preset: str = "published-random",
    records: int = 2,
    rounds: int = 3,
    seeds: int = 3,
    device: str = "cpu",
    json_file: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Measure everything, and write it with its provenance to a file of ``results.run_dir()``.

    It is ``efficiency_published.json``, or ``efficiency_published_cuda.json`` where a GPU computes.

    Parameters
    ----------
    preset : str
        One of ``backbones.PRESETS``: what is timed.
    records : int
        Of a pass, where ways are compared.
    rounds : int
        Should be odd.
    seeds : int
        Trainings for each point of the trade-off curve, which is that of the reference run's simulated cohort and the
        compact backbones; 0 leaves the curve out.
    device : str
        "cpu", or a GPU, such as "cuda".
    json_file : path, optional
        Another place to write to as well.

    Returns
    -------
    dict
        Tables by name, as :func:`describe` takes them.
    """
    M, fs = len(backbones.NAMES), backbones.RECORDING_HZ[preset]
    with tempfile.TemporaryDirectory(prefix="ecgmoe-bench-") as folder:
        some = datasets.load(simulated.write(Path(folder) / "cohort", n_patients=max(16, records)), fs=fs)
    with efficiency.one_thread():
        bench = Bench(preset, some.signal[:records], fs, device=device)
        compared = ways(bench, rounds)
        bench.sets = bench.sets[:1]
        even = Bench(preset, some.signal[:M], fs, device=device)
        even.sets = bench.sets
        parts = efficiency.measure(even.parts(), M, rounds).rename_axis("part")
        grown = scaling.measure(even.own, even.networks(0), even.signal_BCT, rounds)
        batches = grown["axis"] == scaling.BATCH
        grown.loc[batches, "peak_mib"] = [peak_mib(even, ONE_PASS, n) for n in grown.loc[batches, "records"]]
        metrics: dict[str, Any] = {
            "run": {
                "preset": preset,
                "records": records,
                "rounds": rounds,
                "fs": fs,
                "processor": precision.processor() if device == "cpu" else torch.cuda.get_device_name(device),
                "device": device,
                "threads": 1,
                "gflop_per_s": efficiency.matmul_peak(device=device),
            },
            "ways": compared.reset_index(),
            "parts": parts.reset_index(),
            "scaling": grown,
            "epoch": epochs(even, some),
        }
        if seeds:
            cohort = reference.limit(reference.cohort_of(), reference.TRAIN_RECORDS)
            metrics["run"]["curve_records"] = int((cohort.split == "validation").sum())
            metrics["curve"] = tradeoff.curve(cohort, "compact", seeds, rounds)
            ms = parts["ms_per_record"]
            load, own = metrics["curve"]["load"], float(ms[[BEATS, FUSION]].sum())
            relative = tradeoff.expected(load, ms.drop([ONE_PASS, BEATS, FUSION]).to_numpy(), own)
            metrics["curve"]["passes"]["expected_relative"] = relative.to_numpy()
    parameters = {"preset": preset, "records": records, "rounds": rounds, "seeds": seeds, "device": device}
    name = "efficiency_published" + ("" if device == "cpu" else "_cuda")
    results.save(name, metrics, cohort=cohort if seeds else None, parameters=parameters)
    if json_file is not None:
        shutil.copyfile(results.run_dir() / f"{name}.json", json_file)
    return metrics


def smallest(table: pd.DataFrame) -> tuple[str, float]:
    """The way that one pass saves least against, and its time as a multiple of that pass: the ratio to headline."""
    others = table.set_index("way")["relative"].iloc[1:]
    return str(others.idxmin()), float(others.min())


def describe(metrics: Mapping[str, Any]) -> list[str]:
    """Lines that show what :func:`measure` measured."""
    run, epoch = metrics["run"], metrics["epoch"]
    ways, grown = pd.DataFrame(metrics["ways"]), pd.DataFrame(metrics["scaling"])
    way, ratio = smallest(ways)
    where = f"{run['threads']} thread of {run['processor']}" if run["device"] == "cpu" else run["processor"]
    lines = [
        f"{run['preset']}, {run['records']} records of {run['fs']} Hz a pass, {where}, median of {run['rounds']} "
        "rounds; a product of matrices reaches "
        f"{run['gflop_per_s']:,.0f} GFLOP/s.",
        "",
        *ways.round(3).to_string(index=False).splitlines(),
        "",
        f"One pass takes 1/{ratio:.2f} of the time of the cheapest of the others ({way}).",
        "",
        "One thing varied at a time; backbones a record: even load:",
        *grown.round(3).to_string(index=False).splitlines(),
        "",
        f"An epoch over {epoch['records']} records: {epoch['in_loop_s']:.1f} s with the backbones in the loop, "
        f"{epoch['cached_s']:.3f} s on cached features, {epoch['ratio']:.0f} times as fast; answers differ by at most "
        f"{epoch['difference']:.1e}, where the epoch moved them by up to {epoch['moved']:.1e}.",
    ]
    if "curve" in metrics:
        lost = pd.DataFrame(metrics["curve"]["scores"]).groupby(["k", "task"], sort=False)["lost"].mean().unstack()
        passes = pd.DataFrame(metrics["curve"]["passes"]).set_index("k")
        shown = lost.join(passes[["relative", "expected_relative"]])
        lines += ["", "Lost on the validation part (points, ms, years), mean over seeds; time by all backbones':"]
        lines += shown.round(3).to_string().splitlines()
    return lines
