"""How fast ``python -m ecgmoe predict`` is, and that its memory does not grow with the number of recordings."""

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ecgmoe import datasets, prediction, results
from ecgmoe.records import write_record

#: Recordings that differ; more are these again under other names.
DIFFERENT = 200


class Cost(NamedTuple):
    """One run of the command in a process of its own."""

    seconds: float  #: from its start to its end
    peak_mb: float  #: most memory that was resident


def write(folder: Path, n_records: int) -> Path:
    """Write recordings of the simulated cohort as WFDB, as many as are wanted, into a folder."""
    signal = datasets.load("simulated").signal[:DIFFERENT]
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n_records):
        write_record(folder / f"r{i:06d}", signal[i % len(signal)], 100.0)
    return folder


def run(words: Iterable[object]) -> Cost:
    """Run the command on one thread, its output thrown away.

    Raises
    ------
    RuntimeError
        It failed.
    """
    argv = [sys.executable, "-m", "ecgmoe", "predict", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    process = os.posix_spawn(sys.executable, argv, environment, file_actions=nowhere)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{' '.join(argv[1:])} ended with status {os.waitstatus_to_exitcode(status)}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(time.perf_counter() - start, usage.ru_maxrss / unit)


def measure(n_records: int = 1000, model: str = "compact-ptbxl", json_file: Path | None = None) -> dict[str, Any]:
    """Time the command on one recording, on ``n_records`` and on ten times as many, on one core.

    Returns
    -------
    dict
        ``start_s`` (all of one recording), ``records_per_s`` (of the rest of ``n_records``), ``peak_mb`` by number of
        recordings, and ``memory_ratio`` of the last two.

    Raises
    ------
    ModelError
        There is no such model, or it cannot be used.
    """
    prediction.load(model)  # what is wrong with it is said here
    with tempfile.TemporaryDirectory() as folder:
        many = write(Path(folder) / "many", 10 * n_records)
        names = sorted(many.glob("*.hea"))
        some = Path(folder) / "some"
        some.mkdir()
        for header in names[:n_records]:
            for path in (header, header.with_suffix(".dat")):
                os.link(path, some / path.name)
        run([names[0], "--model", model])  # files are read into memory, bytecode is made
        costs = {
            n: run([path, "--model", model]) for n, path in ((1, names[0]), (n_records, some), (10 * n_records, many))
        }
    one, some_cost, many_cost = costs.values()
    metrics = {
        "records": n_records,
        "start_s": one.seconds,
        "records_per_s": (n_records - 1) / (some_cost.seconds - one.seconds),
        "peak_mb": {str(n): cost.peak_mb for n, cost in costs.items()},
        "memory_ratio": many_cost.peak_mb / some_cost.peak_mb,
    }
    if json_file is not None:
        origin = results.provenance(None, None, {"records": n_records, "model": model})
        results.write_json(json_file, {"chapter": json_file.stem, "provenance": origin, "metrics": metrics})
    return metrics


def describe(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Lines for the terminal."""
    yield f"{metrics['start_s']:.1f} s for one recording, start included"
    yield f"{metrics['records_per_s']:.0f} recordings/s on one core after that"
    yield from (f"{float(mb):.0f} MB at most with {int(n):,} recordings" for n, mb in metrics["peak_mb"].items())
