"""What a pass costs: time side by side in one run, operations, and the machine's own bound."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from ecgmoe.paper import RECORD_S


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, in PyTorch and in the libraries below NumPy, and as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def measure(runs: Mapping[str, Callable[[], object]], n_records: int, rounds: int = 5) -> pd.DataFrame:
    """Time several ways of doing something, in turn, round after round, after one warm-up each.

    Comparing A and B measured minutes apart compares the machine's mood. Here every round times each way once, so
    that ratios are taken within a round; what is reported is the median over rounds.

    Parameters
    ----------
    runs : mapping of str to callable
        Each processes ``n_records`` records.
    n_records : int
    rounds : int

    Returns
    -------
    DataFrame
        Indexed by name: ``ms_per_record``, ``records_per_s``, ``gflop_per_record`` (matrix products, convolutions and
        attention, counted by PyTorch), and ``relative`` (time as a multiple of the first row's, median over rounds).
    """
    seconds = np.empty((rounds, len(runs)))
    operations = []
    with torch.no_grad():
        for run in runs.values():
            with FlopCounterMode(display=False) as counter:
                run()
            operations.append(counter.get_total_flops())
        for i in range(rounds):
            for j, run in enumerate(runs.values()):
                start = time.perf_counter()
                run()
                seconds[i, j] = time.perf_counter() - start
    median = np.median(seconds, 0)
    return pd.DataFrame(
        {
            "ms_per_record": 1000 * median / n_records,
            "records_per_s": n_records / median,
            "gflop_per_record": np.array(operations) / n_records / 1e9,
            "relative": np.median(seconds / seconds[:, :1], 0),
        },
        index=pd.Index(list(runs), name="run"),
    )


def matmul_peak(size: int = 1024, rounds: int = 5) -> float:
    """Best rate of a square float32 matrix product on this machine, GFLOP/s: the bound no model can pass."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    torch.mm(a, b)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def times_real_time(records_per_s: float, record_seconds: float = RECORD_S) -> float:
    """How many times faster than the heart a rate is: seconds of recording processed in one second."""
    return records_per_s * record_seconds
