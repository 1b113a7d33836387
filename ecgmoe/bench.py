"""``python -m ecgmoe bench data``: reading, preparing and beat detection beside the packages that users have today.

Everything runs in one process on one thread, the ways that are compared in turn, round after round; what is reported
is the median over rounds, of rates and of ratios within a round. Files have been read once before they are timed: what
is measured is the work of the processor, not the disk.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ecgmoe import datasets, detection, efficiency, results, store
from ecgmoe.datasets import DatasetError, annotated, simulated
from ecgmoe.records import read_record

#: Records of MIMIC-IV-ECG 1.0, and what its preparation is projected to: cores, and disks in MB/s.
MIMIC_RECORDS, CORES, DISKS_MB_S = 800_035, (2, 64), (200, 1000)

BATCH = 64

_LOOP_RECORDS = 100  # records a round of the slow loop that `prepare` is compared with
_MEMORY_RECORDS = 256  # one shard
_READ_RECORDS = 200
_LEAST_S = 0.1  # what is faster is repeated
_PEERS = ("neurokit2", "sleepecg", "wfdb", "dask", "pyarrow")


def data(
    annotated_root: str | os.PathLike[str] | None = None,
    ptbxl_root: str | os.PathLike[str] | None = None,
    *,
    max_records: int = 500,
    rounds: int = 5,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure everything, and write it with its provenance to ``bench_data.json`` of ``results.run_dir()``.

    Parameters
    ----------
    annotated_root : path, optional
        Folder with the sets of :mod:`ecgmoe.datasets.annotated` that are at hand; by default a simulated cohort.
    ptbxl_root : path, optional
        PTB-XL as downloaded, with some records of 500 Hz; by default a simulated cohort.
    max_records : int
        Records of each sampling rate that are used, evenly spread; 0 takes all of folds 1-9.
    rounds : int
        Should be odd.
    quick : bool
        A few records and one round, to see that it runs: the numbers mean little.

    Returns
    -------
    dict
        Tables by name, as :func:`describe` takes them.

    Raises
    ------
    DatasetError
        A folder does not hold what it should.
    """
    made = simulated.ensure(8 if quick else 160) if annotated_root is None or ptbxl_root is None else None
    rounds, max_records = (1, 8) if quick else (rounds, max_records)
    with efficiency.one_thread(), tempfile.TemporaryDirectory(prefix="ecgmoe-bench-") as scratch:
        root = Path(ptbxl_root or str(made))
        slow, fast = (_listing(root, fs, max_records) for fs in (100, 500))
        folder = Path(scratch) / "store"
        store.prepare(replace(fast, table=fast.table.iloc[:2]), Path(scratch) / "first", workers=0)  # loads packages
        cpu_s = time.process_time()
        store.prepare(fast, folder, workers=0)
        cpu_s = (time.process_time() - cpu_s) / len(fast.table)
        opened = store.Store(folder)
        metrics: dict[str, Any] = {
            "data": {
                "records": "simulated" if ptbxl_root is None else "PTB-XL",
                "beats": "simulated" if annotated_root is None else "annotated recordings",
                "records_100_hz": len(slow.table),
                "records_500_hz": len(fast.table),
                "rounds": rounds,
                "versions": {package: results.version_of(package) for package in _PEERS},
            },
            "reader": pd.concat([reader(listing, rounds) for listing in (slow, fast)], ignore_index=True),
            "store": reading(fast, opened, rounds),
            "prepare": preparing(slow, Path(scratch), rounds),
            "memory": memory(root, 500, len(fast.table), (1,) if quick else (1, 4, 16)),
            "projection": projection(cpu_s, *_bytes_a_record(fast, folder)),
            "detectors": speed(opened.read(slice(0, BATCH)), opened.fs, rounds),
            **(accuracy(str(made), ("simulated",)) if annotated_root is None else accuracy(annotated_root)),
        }
    results.save("bench_data", metrics, parameters={"max_records": max_records, "rounds": rounds, "quick": quick})
    return metrics


def _listing(root: Path, fs: int, max_records: int) -> store.Listing:
    """Records of a folder, evenly spread over it."""
    listing = datasets.listing(root, fs)
    table = listing.table
    if table.empty:
        raise DatasetError(f"{root} holds no record of {fs} Hz; download records{fs} too")
    if 0 < max_records < len(table):
        table = table.iloc[np.linspace(0, len(table) - 1, max_records).astype(int)]
    return replace(listing, table=table)


def _paths(listing: store.Listing, most: int) -> list[str]:
    paths = listing.table["path"].iloc[
        np.linspace(0, len(listing.table) - 1, min(most, len(listing.table))).astype(int)
    ]
    return [str(Path(listing.root, path).absolute()) for path in paths]


def race(runs: Mapping[str, tuple[int, Callable[[], object]]], rounds: int) -> pd.DataFrame:
    """Time several ways of doing something in turn: rates, and ratios to the first of them.

    Parameters
    ----------
    runs : mapping of str to (int, callable)
        How many records a way processes, and how.
    rounds : int

    Returns
    -------
    DataFrame
        Columns ``run``, ``records_per_s`` and ``ratio`` (times the rate of the first).
    """
    repeats = {name: _repeats(run) for name, (_, run) in runs.items()}

    def repeated(name: str) -> None:
        for _ in range(repeats[name]):
            runs[name][1]()

    table = efficiency.measure({name: partial(repeated, name) for name in runs}, 1, rounds)
    n = np.array([records * repeats[name] for name, (records, _) in runs.items()])
    rate, ratio = n * table["records_per_s"], n / n[0] / table["relative"]
    return pd.DataFrame({"run": list(runs), "records_per_s": rate.to_numpy(), "ratio": ratio.to_numpy()})


def _repeats(run: Callable[[], object]) -> int:
    """How often something is to be run to take _LEAST_S, so that a clock and a scheduler do not matter."""
    seconds = 0.0
    for _ in range(2):  # the first time loads packages
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        if seconds > 10 * _LEAST_S:
            break
    return max(1, math.ceil(_LEAST_S / seconds))


def reader(listing: store.Listing, rounds: int) -> pd.DataFrame:
    """Compare ``read_record`` with ``wfdb.rdrecord``; ours verifies checksums, theirs does not.

    ``equal`` is the number of records, of ``records``, with the same bits as ``p_signal.T`` in float32.
    """
    import wfdb

    paths = _paths(listing, _READ_RECORDS)
    table = race(
        {
            "wfdb.rdrecord": (len(paths), lambda: [wfdb.rdrecord(path) for path in paths]),
            "ecgmoe.records.read_record": (len(paths), lambda: [read_record(path) for path in paths]),
        },
        rounds,
    )
    theirs = (wfdb.rdrecord(path).p_signal.T.astype(np.float32) for path in paths)
    equal = sum(np.array_equal(read_record(path).signal, signal) for path, signal in zip(paths, theirs, strict=True))
    return table.assign(fs=listing.fs, records=len(paths), equal=equal)


def reading(listing: store.Listing, opened: store.Store, rounds: int) -> pd.DataFrame:
    """Compare reading a store in batches of 64 with ``wfdb.rdrecord``: float32 in mV, every sample summed."""
    import wfdb

    paths = _paths(listing, _READ_RECORDS)
    shuffled = np.random.default_rng(0).permutation(len(opened))
    buffer = np.empty((min(BATCH, len(opened)), *opened.read([0]).shape[1:]), np.float32)

    def touch(signal: np.ndarray) -> float:
        return float(torch.from_numpy(signal).sum())

    def batches(order: np.ndarray) -> list[float]:
        parts = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
        return [touch(opened.read(rows, out=buffer[: len(rows)])) for rows in parts]

    return race(
        {
            "wfdb.rdrecord": (
                len(paths),
                lambda: [touch(wfdb.rdrecord(path).p_signal.astype(np.float32)) for path in paths],
            ),
            "ecgmoe.store.Store.read, in order": (len(opened), lambda: batches(np.arange(len(opened)))),
            "ecgmoe.store.Store.read, shuffled": (len(opened), lambda: batches(shuffled)),
        },
        rounds,
    )


def preparing(listing: store.Listing, scratch: Path, rounds: int) -> pd.DataFrame:
    """Compare ``prepare`` in one process, end to end, with loops of ``wfdb.rdrecord`` and neurokit2.

    The loops find beats in lead II alone and write nothing; they run over some of the records, evenly spread. Of
    ``neurokit2.ecg_process``, which also delineates waves, only the peaks are kept; the second loop is the least that
    gives peaks: cleaning and ``ecg_findpeaks``.
    """
    import neurokit2
    import wfdb

    paths, number = _paths(listing, _LOOP_RECORDS), count()

    def process(lead: np.ndarray, fs: float) -> np.ndarray:
        return neurokit2.ecg_process(lead, sampling_rate=int(fs))[1]["ECG_R_Peaks"]

    def loop(detect: detection.Detector) -> None:
        for path in paths:
            record = wfdb.rdrecord(path)
            detect(record.p_signal.T[None], record.fs)

    def ours() -> None:
        folder = scratch / f"prepared-{next(number)}"
        store.prepare(listing, folder, workers=0)
        shutil.rmtree(folder)

    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "wfdb.rdrecord + neurokit2.ecg_process": (len(paths), partial(loop, detection.by_record(process))),
        "wfdb.rdrecord + neurokit2.ecg_findpeaks": (len(paths), partial(loop, detection.detectors(1)["neurokit2"])),
        "ecgmoe.store.prepare": (len(listing.table), ours),
    }
    return race(runs, rounds)


def memory(root: Path, fs: int, records: int, times: Sequence[int]) -> pd.DataFrame:
    """Peak of the resident memory of ``prepare`` in a process of its own, for records repeated so many ``times``.

    Returns
    -------
    DataFrame
        Columns ``times``, ``records``, ``before_mb`` (all packages loaded, nothing prepared) and ``peak_mb``.
    """
    rows = []
    for repeat in times:
        arguments = json.dumps([str(root), fs, min(records, _MEMORY_RECORDS), repeat])
        code = f"from ecgmoe import bench; bench._memory_probe(*{arguments})"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise RuntimeError(f"prepare failed in a process of its own: {done.stderr.strip()[-500:]}")
        rows.append({"times": repeat, **json.loads(done.stdout.splitlines()[-1])})
    return pd.DataFrame(rows)


def _memory_probe(root: str, fs: int, records: int, times: int) -> None:
    torch.set_num_threads(1)
    listing = _listing(Path(root), fs, records)
    table = pd.concat([listing.table] * times)
    table.index = pd.RangeIndex(1, len(table) + 1, name="ecg_id")
    with tempfile.TemporaryDirectory(prefix="ecgmoe-bench-") as scratch:
        store.prepare(replace(listing, table=listing.table.iloc[:2]), Path(scratch) / "first", workers=0)
        before = _resident_mb("VmRSS")
        store.prepare(replace(listing, table=table), Path(scratch) / "all", workers=0, shard_records=records)
    print(json.dumps({"records": len(table), "before_mb": before, "peak_mb": _resident_mb("VmHWM")}))


def _resident_mb(field: str) -> float:
    """Resident memory of this process now (``VmRSS``) or at its peak (``VmHWM``); only the peak where Linux is not."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # its peak counts what the parent process held, so it comes second

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _bytes_a_record(listing: store.Listing, folder: Path) -> tuple[float, float]:
    """Bytes read and bytes written by ``prepare``, a record."""
    files = [file for path in _paths(listing, _READ_RECORDS) for file in Path(path).parent.glob(f"{Path(path).name}.*")]
    source = sum(file.stat().st_size for file in files) / min(_READ_RECORDS, len(listing.table))
    return source, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / len(listing.table)


def projection(cpu_s: float, read_bytes: float, written_bytes: float) -> pd.DataFrame:
    """Project the preparation of MIMIC-IV-ECG at 500 Hz from the cost of a record.

    Parameters
    ----------
    cpu_s : float
        Seconds of one core a record, measured.
    read_bytes, written_bytes : float
        A record.

    Returns
    -------
    DataFrame
        One row for each number of cores and ASSUMED rate of the disk (reading and writing together): ``cores``,
        ``disk_mb_s``, ``cpu_hours`` and ``disk_hours`` (if nothing else took time), ``hours`` (the larger of them: both
        go on at once) and ``limit`` (which one that is). Work is taken to divide evenly over the cores, and files to be
        read at the full rate, which a rotating disk does not reach with many small ones.
    """
    rows = []
    for cores in CORES:
        for disk in DISKS_MB_S:
            cpu_hours = MIMIC_RECORDS * cpu_s / cores / 3600
            disk_hours = MIMIC_RECORDS * (read_bytes + written_bytes) / (disk * 1e6) / 3600
            limit = "processor" if cpu_hours > disk_hours else "disk"
            rows.append((cores, disk, cpu_hours, disk_hours, max(cpu_hours, disk_hours), limit))
    table = pd.DataFrame(rows, columns=["cores", "disk_mb_s", "cpu_hours", "disk_hours", "hours", "limit"])
    return table.assign(cpu_ms=1000 * cpu_s, read_kb=read_bytes / 1000, written_kb=written_bytes / 1000)


def speed(signal: np.ndarray, fs: int, rounds: int) -> pd.DataFrame:
    """Time the detectors of :mod:`ecgmoe.detection` on one batch: one lead for all of them, twelve for ours.

    Parameters
    ----------
    signal : ndarray of shape (records, 12, samples)
    fs : int
    rounds : int

    Returns
    -------
    DataFrame
        Columns ``run``, ``records_per_s``, ``ratio`` (to neurokit2) and ``ratio_to_sleepecg``.
    """
    lead, found = np.ascontiguousarray(detection.one_lead(signal)), detection.detectors(1)
    ours = found.pop(detection.OURS[0])
    runs = {name: partial(detect, lead, fs) for name, detect in found.items()}
    first = {"neurokit2": runs.pop("neurokit2"), "ecgmoe, one lead": partial(ours, lead, fs)}
    runs = {**first, f"ecgmoe, {signal.shape[1]} leads": partial(ours, signal, fs), **runs}
    table = race({name: (len(signal), run) for name, run in runs.items()}, rounds)
    sleepecg = table.loc[table["run"] == "sleepecg", "ratio"]
    return table.assign(ratio_to_sleepecg=table["ratio"] / (sleepecg.item() if len(sleepecg) else np.nan))


def accuracy(root: str | os.PathLike[str], names: Sequence[str] = annotated.REAL) -> dict[str, pd.DataFrame]:
    """Judge the detectors on annotated recordings; sets that are not below ``root`` are passed over.

    Returns
    -------
    dict of str to DataFrame
        ``accuracy``: :func:`ecgmoe.detection.accuracy`, the whole curve for all recordings and the tolerances of the
        tables for parts of them. ``timing``: :func:`ecgmoe.detection.timing`. ``paired``:
        :func:`ecgmoe.detection.compare`.

    Raises
    ------
    DatasetError
        None of the sets is there, or one is damaged.
    """
    there = []
    for name in names:
        try:
            annotated.find_root(name, root)
        except DatasetError:
            continue
        there.append(name)
    if not there:
        annotated.find_root(names[0], root)
    tables: dict[str, list[pd.DataFrame]] = {"accuracy": [], "timing": [], "paired": []}
    for name in tqdm(there, desc="Judging detectors", unit="set", disable=None):
        evaluation = detection.evaluate(annotated.load(name, root, 64 if name == "simulated" else 0))
        pooled = detection.accuracy(evaluation)
        shown = (pooled["part"] == "all") | pooled["tolerance_ms"].isin(detection.TOLERANCES_MS)
        tables["accuracy"].append(pooled[shown])
        tables["timing"].append(detection.timing(evaluation))
        tables["paired"].append(detection.compare(evaluation))
    return {key: pd.concat(parts, ignore_index=True) for key, parts in tables.items()}


def describe(metrics: Mapping[str, Any]) -> list[str]:
    """Lines that show what :func:`data` measured."""
    said = metrics["data"]
    keys = ["set", "part", "detector"]
    curve = metrics["accuracy"]
    curve = curve[curve["tolerance_ms"].isin(detection.TOLERANCES_MS) & (curve["part"] != "even")]
    scores = curve.pivot_table(index=keys, columns="tolerance_ms", values="f1", sort=False)
    scores = scores[sorted(scores, reverse=True)].rename(columns="F1 {:.0f} ms".format)
    times = metrics["timing"].set_index(keys)[["rr_mae_ms", "rr_median_ms", "no_rr", "no_beats"]]
    tolerance = metrics["paired"]["tolerance_ms"].map("{:.0f}".format).replace("nan", "–")
    paired = metrics["paired"].assign(tolerance_ms=tolerance)
    projected = metrics["projection"]
    cost = projected.iloc[0]
    return [
        f"One thread, median of {said['rounds']} rounds. Records: {said['records']}, {said['records_100_hz']:,} at 100 "
        f"Hz, {said['records_500_hz']:,} at 500 Hz. Beats: {said['beats']}.",
        "",
        "Reading (ours verifies checksums, wfdb does not):",
        *_lines(metrics["reader"]),
        "",
        "Reading a store at 500 Hz, batches of 64, float32, every sample summed:",
        *_lines(metrics["store"]),
        "",
        "Preparing at 100 Hz:",
        *_lines(metrics["prepare"]),
        "",
        "Memory of preparing at 500 Hz:",
        *_lines(metrics["memory"]),
        "",
        f"Preparing {MIMIC_RECORDS:,} records at 500 Hz, projected from {cost['cpu_ms']:.2f} ms of one core, "
        f"{cost['read_kb']:.0f} kB read and {cost['written_kb']:.0f} kB written a record; the disk's rate is assumed:",
        *_lines(projected.drop(columns=["cpu_ms", "read_kb", "written_kb"])),
        "",
        "R-peaks of ten seconds at 500 Hz, batches of 64:",
        *_lines(metrics["detectors"]),
        "",
        "R-peaks against annotated beats (settings were chosen on even recordings):",
        *_lines(scores.join(times).reset_index(), decimals=4),
        "",
        "Ours against each other detector, paired by recording (p not corrected):",
        *_lines(paired, decimals=4),
    ]


def _lines(table: pd.DataFrame, decimals: int = 2) -> list[str]:
    def number(value: float) -> str:
        return "–" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{decimals}f}"

    return table.to_string(index=False, float_format=number).splitlines()
