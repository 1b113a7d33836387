"""What a pass costs: time side by side in one run, operations, peak memory, and the machine's own bound."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from ecgmoe.backbones.precision import seconds
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


def _linear_flop(x_shape: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
    """Operations of the linear map that :mod:`ecgmoe.backbones.precision` calls, which PyTorch does not count."""
    return 2 * math.prod(out_shape) * x_shape[-1]


_COUNTED = {torch.ops.mkldnn._linear_pointwise: _linear_flop} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}


def measure(runs: Mapping[str, Callable[[], object]], n_records: int | Sequence[int], rounds: int = 5) -> pd.DataFrame:
    """Time several ways of doing something, in turn, round after round, after one warm-up each.

    Comparing A and B measured minutes apart compares the machine's mood. Here every round times each way once, so
    that ratios are taken within a round; what is reported is the median over rounds.

    Parameters
    ----------
    runs : mapping of str to callable
        Each processes ``n_records`` records.
    n_records : int or sequence of int
        One number for all, or one for each.
    rounds : int

    Returns
    -------
    DataFrame
        Indexed by name: ``ms_per_record``, ``records_per_s``, ``gflop_per_record`` (matrix products, convolutions and
        attention, counted by PyTorch), and ``relative`` (time a record as a multiple of the first row's, median over
        rounds), with the least and the most of a round as ``relative_least`` and ``relative_most``.
    """
    times_RW = np.empty((rounds, len(runs)))
    n_W = np.broadcast_to(n_records, len(runs))
    operations = []
    with torch.no_grad():
        for run in runs.values():
            with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
                run()
            operations.append(counter.get_total_flops())
        for i in range(rounds):
            for j, run in enumerate(runs.values()):
                times_RW[i, j] = seconds(run) / n_W[j]
    median, relative_RW = np.median(times_RW, 0), times_RW / times_RW[:, :1]
    return pd.DataFrame(
        {
            "ms_per_record": 1000 * median,
            "records_per_s": 1 / median,
            "gflop_per_record": np.array(operations) / n_W / 1e9,
            "relative": np.median(relative_RW, 0),
            "relative_least": relative_RW.min(0),
            "relative_most": relative_RW.max(0),
        },
        index=pd.Index(list(runs), name="run"),
    )


def peak_memory(function: Callable[..., object], *arguments: object) -> float:
    """Peak memory of a fresh process that does nothing but one call, MiB.

    What a process once held it seldom gives back, so that only a new one can tell. The interpreter and the libraries
    that the call imports count too, as they do for a user. Where the call used a GPU, it is the GPU's memory.

    Parameters
    ----------
    function : callable
        By its name in an installed module, since the new process has to find it.
    *arguments
        As JSON holds them.

    Raises
    ------
    RuntimeError
        The call failed; the message ends with what it said.
    """
    call = [function.__module__, function.__qualname__, json.dumps(arguments), str(torch.get_num_threads())]
    code = f"from {__name__} import _tell_peak; _tell_peak()"
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function.__qualname__} failed in its own process: {done.stderr.strip()[-500:]}")
    return float(done.stdout.splitlines()[-1])


def _tell_peak() -> None:
    """In the new process: call, then print the peak in MiB."""
    module, name, arguments, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    getattr(import_module(module), name)(*json.loads(arguments))
    if torch.cuda.is_initialized():
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands the parent's ru_maxrss down to a child; its own high-water mark begins anew
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text("utf-8"), re.MULTILINE)
        assert found is not None
        print(int(found[1]) / 2**10)
    else:
        import resource

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def matmul_peak(
    dtype: torch.dtype = torch.float32, size: int | None = None, rounds: int = 5, device: str = "cpu"
) -> float:
    """Best rate of a square matrix product on this machine, GFLOP/s: the bound no model can pass.

    Parameters
    ----------
    dtype : torch.dtype
    size : int, optional
        Rows and columns; by default 1,024 on a processor, and 8,192 on a GPU, which a smaller product does not fill.
    rounds : int
    device : str
    """
    size = size or (1024 if device == "cpu" else 8192)
    a = torch.randn(size, size, device=device, generator=torch.Generator(device).manual_seed(0)).to(dtype)
    torch.mm(a, a)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, a)) for _ in range(rounds)) / 1e9


def times_real_time(records_per_s: float, record_seconds: float = RECORD_S) -> float:
    """How many times faster than the heart a rate is: seconds of recording processed in one second."""
    return records_per_s * record_seconds
