"""Making a store: shards are made one by one, here or by workers of Dask, and can be resumed after any interruption.

Shape legend: B records, C leads, T samples.
"""

import errno
import functools
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from ecgmoe import _wfdb_files, beats, cache, records, rpeaks
from ecgmoe.store import files
from ecgmoe.store.files import IDENTITY, LOCK, MADE_COLUMNS, MANIFEST, SKIPPED, WARNINGS, Listing, StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    from distributed import Client

DETECT_BATCH = 32  # records searched for beats at a time
LOWEST_FS = 70  # Hz; below it no beats can be found
TABLE_BYTES = 2048  # of a record in the table, with room to spare
NO_WORKER_S = 60.0  # a cluster without any worker for this long is given up
CONNECT_S = 15.0  # a scheduler has this long to answer
KEPT = "finished shards are kept"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHARD_FILE = re.compile(r"\d{5}\.(npy|parquet|json)")


@dataclass(frozen=True)
class Report:
    """What :func:`prepare` did.

    Attributes
    ----------
    folder : Path
    records, skipped, warnings : int
        Records in the store, records left out (``skipped.csv``), faults forgiven (``warnings.csv``).
    made, kept : int
        Shards made in this run, and found complete.
    remade : tuple of int
        Shards that were there and had to be made again: damaged, or with a record that can be read only now.
    seconds : float
    """

    folder: Path
    records: int
    skipped: int
    warnings: int
    made: int
    kept: int
    remade: tuple[int, ...]
    seconds: float

    @property
    def records_per_second(self) -> float:
        """Of the whole run."""
        return self.records / self.seconds

    def __str__(self) -> str:
        shards = f"{self.made} shards made, {self.kept} kept, {len(self.remade)} made again"
        shards += f" ({', '.join(map(str, self.remade))})" if self.remade else ""
        return (
            f"{self.records:,} records in {self.folder} ({shards}); {self.skipped:,} left out, {self.warnings:,} "
            f"warnings; {self.seconds:.1f} s, {self.records_per_second:,.0f} records/s"
        )


class _Shard(NamedTuple):
    """All that a worker must know to make one shard."""

    folder: Path
    number: int
    root: Path
    fs: int
    checksum: Literal["error", "warn"]
    table: pd.DataFrame
    schema: "pa.Schema"
    code: dict[str, str]

    def path(self, suffix: str) -> Path:
        return files.shard_path(self.folder, self.number, suffix)


class _Done(NamedTuple):
    """A complete shard: how it came about, and its entry (``shards/*.json``)."""

    number: int
    outcome: Literal["made", "kept", "remade"]
    entry: dict[str, Any]


def prepare(
    listing: Listing,
    folder: Path | str,
    *,
    workers: int = 2,
    scheduler: str | None = None,
    shard_records: int = 256,
) -> Report:
    """Make a store of a listing, or finish one that was begun.

    May be killed at any moment and run again: complete shards are kept after a look at their digests, damaged ones
    are made again, records left out are tried again. The finished files are the same to the last bit whatever the
    number of workers, kills and runs, on machines of one kind.

    Parameters
    ----------
    listing : Listing
    folder : path
        New, empty, or with what an earlier run of the same listing left.
    workers : int
        Local processes; with 0, everything happens in this one. A script that asks for more needs
        ``if __name__ == "__main__":`` around the call.
    scheduler : str or None
        Address of a running Dask scheduler (``"tcp://host:8786"``) to use instead. Its workers need the same versions
        of this package and its libraries, and must see ``listing.root`` and ``folder`` under the same paths.
    shard_records : int
        Records a shard: a worker holds that many in memory, as int16.

    Returns
    -------
    Report

    Raises
    ------
    StoreError
        The folder holds something else, another process works on it, the disk is too small or full, no worker is
        left, or no record can be used. Finished shards stay: run it again after the cure.
    """
    if workers < 0:
        raise ValueError(f"workers = {workers}; pass 0 to work in this process, or how many processes to start")
    started = time.perf_counter()
    folder = Path(folder).expanduser().absolute()
    identity = _identity(listing, shard_records)
    _refuse_foreign(folder)
    needed, done = 0, list[_Done]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            _claim(folder, identity)
            shards = _shards(listing, folder, shard_records)
            missing = sum(len(shard.table) for shard in shards if not shard.path("json").exists())
            needed = missing * (int(np.prod(files.record_shape(listing.fs))) * 2 + TABLE_BYTES)
            free = shutil.disk_usage(folder).free
            if needed > free:
                what = f"{missing:,} records need about {_size(needed)} and {folder} has {_size(free)} free"
                raise StoreError(f"{what}; choose a folder on a larger disk, or fewer records")
            with tqdm(total=len(listing.table), desc="Preparing", unit="record", disable=None) as bar:
                for shard in _run(shards, workers, scheduler):
                    done.append(shard)
                    needed -= 0 if shard.outcome == "kept" else shard.entry["signal"]["bytes"]
                    bar.update(len(shards[shard.number].table))
            done.sort()
            n_skipped, n_warnings = _finish(listing, folder, identity, [shard.entry for shard in done])
    except Timeout as error:
        raise StoreError(f"another process prepares {folder}; wait for it, or choose another folder") from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _DISK_FULL:
            cure = f"make room for about {_size(needed)} more and run it again: {KEPT}"
            raise StoreError(f"{folder} is full ({reason}); {cure}") from error
        raise StoreError(f"cannot write to {folder} ({reason}); choose a folder that can be written") from error
    outcomes = [shard.outcome for shard in done]
    return Report(
        folder,
        records=sum(shard.entry["rows"] for shard in done),
        skipped=n_skipped,
        warnings=n_warnings,
        made=outcomes.count("made"),
        kept=outcomes.count("kept"),
        remade=tuple(shard.number for shard in done if shard.outcome == "remade"),
        seconds=time.perf_counter() - started,
    )


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{max(n_bytes / 1e6, 0.1):.1f} MB"


@functools.cache
def _code() -> dict[str, str]:
    """What decides the bits of a store."""
    versions = {name: version(name) for name in ("ecgmoe", "numpy", "pyarrow", "scipy", "torch", "wfdb")}
    modules = (_wfdb_files, records, rpeaks, beats, files)
    return {**versions, "source": cache.source_digest(__file__, *(module.__file__ for module in modules))}


def _identity(listing: Listing, shard_records: int) -> dict[str, Any]:
    """What a store is of; ValueError for a listing that no store can be made of."""
    table = listing.table
    if listing.fs < LOWEST_FS or shard_records < 1:
        raise ValueError(f"fs = {listing.fs}, shard_records = {shard_records}; at least {LOWEST_FS} and 1 are needed")
    if not table.index.is_unique or table.index.dtype.kind != "i" or "path" not in table:
        raise ValueError("the table of a listing needs a unique index of integers and a column path")
    if clash := set(table.columns) & {*MADE_COLUMNS, "ecg_id"}:
        raise ValueError(f"the listing has columns that the store makes: {', '.join(sorted(clash))}")
    if table.empty:
        raise StoreError(f"the listing of {listing.root} holds no record; see that it is the folder as downloaded")
    parts = [*_columns(table.rename_axis("ecg_id").reset_index()), *_columns(listing.skipped)]
    return {
        "format": files.FORMAT,
        "dataset": listing.dataset,
        "fs": int(listing.fs),
        "seconds": files.SECONDS,
        "listed": len(table),
        "shard_records": shard_records,
        "checksum": listing.checksum,
        "listing": cache.digest(*parts, listing.counts),
        "code": _code(),
    }


def _columns(table: pd.DataFrame) -> Iterator[object]:
    """Name and content of each column, for a digest."""
    for name, values in table.items():
        plain = isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf"
        yield str(name)
        yield values.to_numpy() if plain else json.dumps(values.tolist(), default=str).encode()


def _refuse_foreign(folder: Path) -> None:
    """StoreError where a folder holds something that no store does; names that begin with a dot do not count."""
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; choose a folder")

    def names(path: Path) -> set[str]:
        return {p.name for p in path.iterdir() if not p.name.startswith(".")} if path.is_dir() else set()

    found = names(folder)
    foreign = sorted(found - {IDENTITY, MANIFEST, SKIPPED, WARNINGS, "shards"})
    foreign += sorted(f"shards/{name}" for name in names(folder / "shards") if not _SHARD_FILE.fullmatch(name))
    if not foreign and found and IDENTITY not in found:
        foreign = sorted(found)
    if foreign:
        what = ", ".join(foreign[:3])
        raise StoreError(f"{folder} holds files of something else ({what}); choose a new or an empty folder")


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Make the folder that of one store, remove what dead processes left; StoreError where it is another's."""
    for partial in (*folder.glob(".*.partial"), *folder.glob("shards/.*.partial")):
        partial.unlink(missing_ok=True)
    if not (folder / IDENTITY).exists():
        files.write(folder / IDENTITY, files.to_json(identity))
    (folder / "shards").mkdir(exist_ok=True)
    there = files.read_json(folder / IDENTITY)
    if there != identity:
        differ = [key for key in identity if key not in there or there[key] != identity[key]] if there else [IDENTITY]
        raise StoreError(f"{folder} holds a store of another {', '.join(differ)}; choose a new folder, or delete it")


def _shards(listing: Listing, folder: Path, size: int) -> list[_Shard]:
    import pyarrow as pa

    table = listing.table.rename_axis("ecg_id").reset_index()
    schema = pa.Schema.from_pandas(table, preserve_index=False).remove_metadata()
    common = (listing.root.expanduser().absolute(), int(listing.fs), listing.checksum)
    firsts = range(0, len(table), size)
    return [_Shard(folder, i, *common, table.iloc[k : k + size], schema, _code()) for i, k in enumerate(firsts)]


def _run(shards: Sequence[_Shard], workers: int, scheduler: str | None) -> Iterator[_Done]:
    """Shards in the order in which they are done."""
    if scheduler is None and (workers == 0 or len(shards) == 1):
        threads = torch.get_num_threads()
        try:
            yield from map(_make_or_keep, shards)
        finally:
            torch.set_num_threads(threads)
    else:
        with _client(min(workers, len(shards)), scheduler) as client:
            yield from _run_on(client, shards)


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator["Client"]:
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise StoreError(f"no Dask scheduler answers at {scheduler} ({error}); check the address") from error
        with client:
            yield client
        return
    options = {"dashboard_address": "127.0.0.1:0", "memory_limit": 0, "silence_logs": "CRITICAL"}
    try:
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", **options)
    except RuntimeError as error:
        cure = 'put the call under if __name__ == "__main__":, or pass workers=0'
        raise StoreError(f"local worker processes do not start ({error}); {cure}") from error
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _run_on(client: "Client", shards: Sequence[_Shard]) -> Iterator[_Done]:
    """Run on Dask, with no more tasks in flight than keep its workers busy."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, wait
    from distributed.comm import CommClosedError

    waiting, pending, worker_seen = iter(shards), set[Any](), time.monotonic()
    try:
        while True:
            if n_threads := sum(client.nthreads().values()):
                worker_seen = time.monotonic()
            elif time.monotonic() - worker_seen > NO_WORKER_S:
                raise StoreError(f"no Dask worker is left; start some and run it again: {KEPT}")
            while len(pending) < 2 * max(n_threads, 1) and (shard := next(waiting, None)) is not None:
                pending.add(client.submit(_make_or_keep, shard, pure=False))
            if not pending:
                return
            try:
                with client.as_current():
                    finished = wait(pending, timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in finished:
                try:
                    result = future.result(timeout=5)
                except TimeoutError:  # its worker died with the result: it runs again
                    continue
                pending.remove(future)
                yield result
    except KilledWorker as error:
        cure = f"use fewer workers or smaller shards if memory was short, and run it again: {KEPT}"
        raise StoreError(f"several workers died over one shard; {cure}") from error
    except (CancelledError, CommClosedError, ConnectionError) as error:
        raise StoreError(f"the Dask scheduler is lost; start it and run it again: {KEPT}") from error
    finally:
        for future in pending:
            future.release()


def _make_or_keep(shard: _Shard) -> _Done:
    """Keep a shard that is intact and has no record that can be read only now; else make it."""
    torch.set_num_threads(1)  # sums over several threads may differ in the last bit
    if shard.code != _code():
        raise StoreError("a worker runs other versions of this package or its libraries; install the same everywhere")
    there = shard.path("json").exists()
    if there:
        entry = files.read_json(shard.path("json"))
        sound = isinstance(entry, dict) and entry.get("digest") == files.digest(entry)
        if sound and files.damage(shard.folder, shard.number, entry) is None:
            if all(_read(shard, note["row"]) == note["reason"] for note in entry["skipped"]):
                return _Done(shard.number, "kept", entry)
    return _Done(shard.number, "remade" if there else "made", _make(shard))


def _read(shard: _Shard, row: int) -> records.Record | str:
    """Return one record, or the reason why it cannot be used."""
    path = records.safe_name(shard.table["path"].iat[row])
    if path is None:
        return "the file name in the table is absent or leads out of the folder"
    try:
        return records.read_standard(shard.root / path, shard.fs, files.SECONDS, name=path, checksum=shard.checksum)
    except records.RecordError as error:
        return error.reason
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _source_digest(header: str, names: Sequence[str]) -> str:
    """First 16 digits of SHA-256 over header and signal files."""
    sha, folder = hashlib.sha256(), os.path.dirname(header)
    for name in names:
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            sha.update(file.read())
    return sha.hexdigest()[:16]


def _make(shard: _Shard) -> dict[str, Any]:
    """Read, search for beats and write one shard; its entry comes last and says that it is complete."""
    (shard.folder / MANIFEST).unlink(missing_ok=True)
    n, shape = len(shard.table), files.record_shape(shard.fs)
    steps_BCT = np.empty((n, *shape), np.int16)
    x_BCT = np.empty((min(n, DETECT_BATCH), *shape), np.float32)
    used, skipped, warnings = list[int](), list[dict[str, Any]](), list[dict[str, Any]]()
    made: dict[str, list[Any]] = {name: [] for name in MADE_COLUMNS}

    for row in range(n):
        record, name = _read(shard, row), str(shard.table["path"].iat[row])
        if isinstance(record, str):
            skipped.append({"row": row, "record": name, "reason": record})
        else:
            warnings += [{"row": row, "record": name, "warning": text} for text in record.warnings]
            steps_BCT[len(used)] = records.to_steps(record)
            x_BCT[len(used) % DETECT_BATCH] = record.signal
            used.append(row)
            made["gain"].append(record.gain)
            made["baseline"].append(record.baseline)
            made["source_digest"].append(_source_digest(os.path.join(shard.root, name), record.files))
        waiting = len(used) - len(made["r_peaks"])
        if waiting == DETECT_BATCH or (waiting and row == n - 1):
            found = beats.detect_beats(x_BCT[:waiting], shard.fs)
            made["r_peaks"] += found.peaks
            made["beat_confidence"] += found.confidence
            made["quality"] += list(found.quality)

    steps_BCT, header = steps_BCT[: len(used)], io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(steps_BCT))
    entry = {
        "rows": len(used),
        "signal": files.write(shard.path("npy"), header.getvalue(), steps_BCT.reshape(-1).view(np.uint8).data),
        "table": files.write(shard.path("parquet"), _parquet(shard, used, made)),
        "skipped": skipped,
        "warnings": warnings,
    }
    entry["digest"] = files.digest(entry)
    files.write(shard.path("json"), files.to_json(entry))
    return entry


def _parquet(shard: _Shard, used: list[int], made: dict[str, list[Any]]) -> memoryview:
    """Table of a shard: the listing's columns of the rows that are used, and what was made of each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    by_lead = {"gain": pa.float64(), "baseline": pa.int64(), "quality": pa.float32()}
    by_beat = {"r_peaks": pa.float64(), "beat_confidence": pa.float32()}
    types = {name: pa.list_(kind, len(records.LEADS)) for name, kind in by_lead.items()}
    types |= {name: pa.list_(kind) for name, kind in by_beat.items()} | {"source_digest": pa.string()}
    arrow = pa.Table.from_pandas(shard.table.iloc[used], shard.schema, preserve_index=False)
    for name in MADE_COLUMNS:
        arrow = arrow.append_column(name, pa.array(made[name], types[name]))
    buffer = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(None), buffer)
    return buffer.getbuffer()


def _finish(
    listing: Listing, folder: Path, identity: dict[str, Any], entries: Sequence[dict[str, Any]]
) -> tuple[int, int]:
    """Write the lists and, last, the manifest; return the lengths of both lists."""
    failed = pd.DataFrame([row for entry in entries for row in entry["skipped"]], columns=["record", "reason"])
    if len(failed) == len(listing.table):
        reason = failed["reason"].value_counts().index[0]
        cure = "see that it is the folder as downloaded"
        raise StoreError(f"no record of {listing.root} can be used, most often: {reason}; {cure}")
    size = identity["shard_records"]
    at = [i * size + row["row"] for i, entry in enumerate(entries) for row in entry["skipped"]]
    failed["fold"] = listing.table.reindex(columns=["fold"])["fold"].to_numpy()[at]
    columns = ["record", "reason", "fold"]  # the fold says whether a limited selection asked for a record
    skipped = pd.concat([listing.skipped.reindex(columns=columns).astype(object), failed], ignore_index=True)
    skipped["fold"] = pd.to_numeric(skipped["fold"]).astype("Int64")
    warnings = pd.DataFrame([row for entry in entries for row in entry["warnings"]], columns=["record", "warning"])
    lists = {
        name: files.write(folder / name, table.to_csv(index=False, lineterminator="\n").encode())
        for name, table in ((SKIPPED, skipped), (WARNINGS, warnings))
    }
    shards = [{key: entry[key] for key in ("rows", "signal", "table")} for entry in entries]
    n_records = sum(entry["rows"] for entry in entries)
    manifest = {**identity, "records": n_records, "counts": listing.counts, "lists": lists, "shards": shards}
    files.write(folder / MANIFEST, files.to_json(manifest))
    return len(skipped), len(warnings)
