"""The prepared store: the bits of the source, whatever the number of workers, kills, faults and runs."""

import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from synthetic import ecg

from ecgmoe import beats, records
from ecgmoe.store import Listing, Store, StoreError, files, is_store, making, prepare

N, SHARD = 40, 8
FAULTY = {"r/3": "there is no header", "r/12": "constant", "r/13": "NaN", "r/25": "8 s long"}

#: Prepares the pickled listing argv[1] into folder argv[2] with argv[3] workers.
JOB = """
import pickle, sys
from ecgmoe.store import prepare
listing = pickle.load(open(sys.argv[1], "rb"))
if __name__ == "__main__":
    print(prepare(listing, sys.argv[2], workers=int(sys.argv[3]), shard_records=int(sys.argv[4])))
"""


def listing_of(root: Path, n: int, fs: int = 100) -> Listing:
    table = pd.DataFrame(
        {
            "path": [f"r/{i}" for i in range(n)],
            "patient_id": np.arange(n) // 2,
            "fold": 1 + np.arange(n) % 9,
            "age": np.where(np.arange(n) % 5, 40.0 + np.arange(n), np.nan),
            "codes": [["SR", "PVC"][: i % 3] for i in range(n)],
            "note": [None if i < SHARD else f"note {i}" for i in range(n)],  # the first shard has no type to show
        },
        index=pd.Index(1000 + np.arange(n), name="ecg_id"),
    )
    skipped = pd.DataFrame({"record": ["r/x"], "reason": ["the table names no patient"]})
    return Listing("made_up", root, fs, table, skipped, {"listed": n + 1})


def write_records(root: Path, numbers: range, fs: int = 500) -> None:
    (root / "r").mkdir(parents=True)
    for i in numbers:
        signal, _ = ecg([0.6 + 0.02 * (i % 20)] * 20, fs)
        records.write_record(root / "r" / str(i), signal[0] * (1 + 0.01 * i), fs, gain=[1000.0, 200.0, 204.8][i % 3])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty recordings at 500 Hz, four of them unusable."""
    root = tmp_path_factory.mktemp("source")
    write_records(root, range(N))
    (root / "r" / "3.hea").unlink()
    flat = ecg([0.8] * 20, 500)[0][0]
    flat[4] = 0.1
    records.write_record(root / "r" / "12", flat, 500)
    missing = np.fromfile(root / "r" / "13.dat", "<i2")
    missing[777] = -(2**15)
    missing.tofile(root / "r" / "13.dat")
    lines = (root / "r" / "13.hea").read_text().splitlines()
    words = lines[1 + 777 % 12].split()
    words[6] = str(int(missing[777 % 12 :: 12].sum(dtype=np.int64)) % 2**16)
    lines[1 + 777 % 12] = " ".join(words)
    (root / "r" / "13.hea").write_text("\n".join(lines) + "\n")
    records.write_record(root / "r" / "25", flat[:, :4000], 500)
    return root


@pytest.fixture(scope="module")
def finished(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of these recordings, made here without any fault."""
    folder = tmp_path_factory.mktemp("stores") / "store"
    prepare(listing_of(tree, N), folder, workers=0, shard_records=SHARD)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def direct(root: Path, paths: pd.Series, fs: int) -> np.ndarray:
    return np.stack([records.read_standard(root / path, fs).signal for path in paths])


# Reading


@pytest.mark.parametrize("fs", [100, 500])
def test_store_gives_the_bits_of_a_direct_read(tree: Path, tmp_path: Path, fs: int) -> None:
    listing = listing_of(tree, N, fs)
    prepare(listing, tmp_path / "store", workers=0, shard_records=SHARD)
    opened = Store(tmp_path / "store")
    used = listing.table[~listing.table["path"].isin(FAULTY)]
    signal = direct(tree, used["path"], fs)
    assert opened.fs == fs and opened.dataset == "made_up" and len(opened) == len(used)
    np.testing.assert_array_equal(opened.read(slice(None)), signal)
    mixed = np.array([30, 0, 0, 17, 5])
    np.testing.assert_array_equal(opened.read(mixed), signal[mixed])
    out = np.full((3, *signal.shape[1:]), np.nan, np.float32)
    assert opened.read(slice(20, 2, -6), out) is out
    np.testing.assert_array_equal(out, signal[20:2:-6])
    assert opened.read([]).shape == (0, 12, 10 * fs)
    mask = np.arange(len(used)) % 5 == 1
    np.testing.assert_array_equal(opened.read(mask), signal[mask])
    for rows, batch in opened.batches(7):
        np.testing.assert_array_equal(batch, signal[rows])


def test_table_is_the_listing_with_what_was_made_of_each_record(tree: Path, finished: Path) -> None:
    opened, listing = Store(finished), listing_of(tree, N)
    table = opened.table
    pd.testing.assert_frame_equal(
        table[listing.table.columns], listing.table[~listing.table["path"].isin(FAULTY)], check_freq=False
    )
    signal = opened.read(slice(None))
    found = beats.detect_beats(signal, 100)
    for row, (peaks, confidence) in enumerate(zip(found.peaks, found.confidence, strict=True)):
        np.testing.assert_allclose(table["r_peaks"].iloc[row], peaks, atol=1e-3)
        np.testing.assert_allclose(table["beat_confidence"].iloc[row], confidence, atol=1e-3)
    np.testing.assert_allclose(np.stack(table["quality"]), found.quality, atol=1e-3)
    gain, steps = np.stack(table["gain"]), np.load(finished / "shards" / "00001.npy", mmap_mode="r")
    first = np.flatnonzero(table.index == 1008)[0]
    np.testing.assert_array_equal(
        records.from_steps(steps[0], gain[first], table["baseline"].iloc[first]), signal[first]
    )
    assert opened.listing.table is table and opened.listing.counts == listing.counts


def test_source_digest_changes_with_every_byte_of_the_source(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "r").mkdir(parents=True)
    for name in ("0", "1"):
        for end in (".hea", ".dat"):
            shutil.copy(tree / "r" / f"{name}{end}", root / "r")
    prepare(listing_of(root, 2), tmp_path / "before", workers=0)
    with (root / "r" / "1.hea").open("a") as header:
        header.write("# a comment\n")
    prepare(listing_of(root, 2), tmp_path / "after", workers=0)
    before, after = (Store(tmp_path / name).table["source_digest"].tolist() for name in ("before", "after"))
    assert before[0] == after[0] and before[1] != after[1]


def test_store_travels_to_a_worker_as_its_address(finished: Path) -> None:
    opened = Store(finished)
    opened.read([0])
    pickled = pickle.dumps(opened)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).read([3]), opened.read([3]))


def test_rows_and_buffers_that_do_not_fit_are_refused(finished: Path) -> None:
    opened = Store(finished)
    for rows in ([0, len(opened)], [-1], [1.7], [True, False]):
        with pytest.raises(IndexError, match="of a store with"):
            opened.read(rows)
    for out in (np.empty((1, 12, 999), np.float32), np.empty((1, 12, 1000))):
        with pytest.raises(ValueError, match="expected"):
            opened.read([0], out)


def test_what_is_no_complete_store_does_not_open(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no prepared store"):
        Store(tmp_path)
    assert is_store(copy) and not is_store(tmp_path)
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(manifest.replace('"format": 1', '"format": 99'))
    with pytest.raises(StoreError, match="format 99"):
        Store(copy)
    for damaged in (manifest[:100], "{}", "[]"):
        (copy / "manifest.json").write_text(damaged)
        with pytest.raises(StoreError, match="not complete; run `prepare` again"):
            Store(copy)
    (copy / "manifest.json").write_text(manifest)
    with (copy / "skipped.csv").open("a") as file:
        file.write("r/y,made up,\n")
    with pytest.raises(StoreError, match="skipped.csv of the store .* damaged; run `prepare` again"):
        Store(copy)


# Faults of single records


def test_records_that_cannot_be_used_are_listed_with_their_reason(tree: Path, finished: Path) -> None:
    skipped = Store(finished).skipped.set_index("record")["reason"]
    assert skipped["r/x"] == "the table names no patient"
    assert set(skipped.index) == {"r/x", *FAULTY}
    for record, reason in FAULTY.items():
        assert reason in skipped[record]
    assert str(tree) not in skipped.to_string()


def test_path_that_leads_out_of_the_root_is_not_followed(tree: Path, tmp_path: Path) -> None:
    listing = listing_of(tree / "r", 2)
    listing.table["path"] = ["0", "../r/1"]
    report = prepare(listing, tmp_path / "store", workers=0)
    assert (report.records, report.skipped) == (1, 2)
    assert "leads out" in Store(tmp_path / "store").skipped["reason"].iloc[1]


def test_wrong_checksum_is_a_fault_or_a_warning_as_the_listing_says(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "r").mkdir(parents=True)
    for name in ("0", "1"):
        for end in (".hea", ".dat"):
            shutil.copy(tree / "r" / f"{name}{end}", root / "r")
    samples = np.fromfile(root / "r" / "1.dat", "<i2")
    samples[5] += 1
    samples.tofile(root / "r" / "1.dat")
    listing = listing_of(root, 2)
    strict = prepare(listing, tmp_path / "strict", workers=0)
    assert (strict.records, strict.skipped, strict.warnings) == (1, 2, 0)
    lenient = Listing(**{**vars(listing), "checksum": "warn"})
    report = prepare(lenient, tmp_path / "lenient", workers=0)
    assert (report.records, report.skipped, report.warnings) == (2, 1, 1)
    assert Store(tmp_path / "lenient").warnings["record"].tolist() == ["r/1"]


def test_unreadable_file_is_a_fault_of_its_record(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = records.read_standard

    def denied(path: Path, *args: Any, **options: Any) -> records.Record:
        if path.name == "1":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(records, "read_standard", denied)
    prepare(listing_of(tree, 3), tmp_path / "store", workers=0)
    assert Store(tmp_path / "store").skipped["reason"].iloc[1] == "cannot be read (Permission denied)"


def test_repaired_record_comes_in_with_the_next_run(tree: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tree, tmp_path / "source"))
    prepare(listing_of(root, N), tmp_path / "store", workers=0, shard_records=SHARD)
    write_records(tmp_path / "again", range(13, 14))
    for end in (".hea", ".dat"):
        shutil.copy(tmp_path / "again" / "r" / f"13{end}", root / "r")
    report = prepare(listing_of(root, N), tmp_path / "store", workers=0, shard_records=SHARD)
    assert report.remade == (1,) and report.kept == 4
    assert "r/13" in set(Store(tmp_path / "store").table["path"])
    prepare(listing_of(root, N), tmp_path / "fresh", workers=0, shard_records=SHARD)
    assert content(tmp_path / "store") == content(tmp_path / "fresh")


def test_no_usable_record_is_an_error_that_names_the_reason(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no record of .* can be used, most often: there is no header"):
        prepare(listing_of(tree / "elsewhere", 3), tmp_path / "store", workers=0)
    with pytest.raises(StoreError, match="holds no record"):
        prepare(listing_of(tree, 0), tmp_path / "store", workers=0)


# Bit-identity, resuming, damage


def test_worker_processes_make_the_same_bytes(tree: Path, finished: Path, tmp_path: Path) -> None:
    report = prepare(listing_of(tree, N), tmp_path / "store", workers=2, shard_records=SHARD)
    assert (report.records, report.made, report.kept) == (N - len(FAULTY), 5, 0)
    assert "36 records" in str(report) and "5 shards made" in str(report)
    assert content(tmp_path / "store") == content(finished)


def test_number_of_threads_is_given_back(tree: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepare(listing_of(tree, 2), tmp_path / "store", workers=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_interrupted_store_is_finished_to_the_same_bytes(
    tree: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = files.write, iter(range(100))

    def interrupted(path: Path, *chunks: bytes) -> dict[str, Any]:
        if next(calls) == 9:  # identity, two shards of three files, array and table of the third
            raise KeyboardInterrupt
        return write(path, *chunks)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(listing_of(tree, N), tmp_path / "store", workers=0, shard_records=SHARD)
    (tmp_path / "store" / "shards" / ".00003.npy.0123.partial").write_bytes(b"of a dead process")
    with pytest.raises(StoreError, match="not complete"):
        Store(tmp_path / "store")
    report = prepare(listing_of(tree, N), tmp_path / "store", workers=0, shard_records=SHARD)
    assert (report.kept, report.made, report.remade) == (2, 3, ())
    assert content(tmp_path / "store") == content(finished)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "bit": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 100),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("suffix", ["npy", "parquet", "json"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_shard_is_found_and_made_again(tree: Path, finished: Path, copy: Path, suffix: str, kind: str) -> None:
    opened = Store(copy)
    DAMAGES[kind](copy / "shards" / f"00002.{suffix}")
    if suffix != "json":
        assert opened.verify() == [2]
        if kind != "bit":
            with pytest.raises(StoreError, match="shard 2 .* run `prepare` again"):
                Store(copy)
            with pytest.raises(StoreError, match="shard 2"):
                opened.read(slice(None))
    report = prepare(listing_of(tree, N), copy, workers=0, shard_records=SHARD)
    assert report.kept == 4
    assert (report.made, report.remade) == ((1, ()) if (suffix, kind) == ("json", "missing") else (0, (2,)))
    assert Store(copy).verify() == []
    assert content(copy) == content(finished)


def test_damage_that_size_does_not_show_is_a_clear_error(copy: Path) -> None:
    (copy / "shards" / "00000.npy").write_bytes(b"\0" * (copy / "shards" / "00000.npy").stat().st_size)
    table = copy / "shards" / "00001.parquet"
    table.write_bytes(b"\0" * table.stat().st_size)
    opened = Store(copy)
    for row in (0, 10):
        with pytest.raises(StoreError, match="damaged .*; run `prepare` again"):
            opened.read([row])
    with pytest.raises(StoreError, match="shard 1 .* table is damaged"):
        opened.table


# Folders


@pytest.mark.parametrize("name", ["thesis.txt", "shards/mine.npy", "manifest.json"])
def test_folder_of_something_else_is_left_alone(tree: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(StoreError, match="files of something else .*; choose a new"):
        prepare(listing_of(tree, 2), tmp_path, workers=0)
    assert content(tmp_path) == before
    with pytest.raises(StoreError, match="is a file"):
        prepare(listing_of(tree, 2), tmp_path / name, workers=0)


def test_store_of_another_listing_is_left_alone(
    tree: Path, copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(listing: Listing, shard_records: int = SHARD) -> None:
        prepare(listing, copy, workers=0, shard_records=shard_records)

    with pytest.raises(StoreError, match="another fs; choose a new folder"):
        attempt(listing_of(tree, N, 500))
    with pytest.raises(StoreError, match="shard_records"):
        attempt(listing_of(tree, N), 9)
    changed = listing_of(tree, N)
    changed.table.loc[1001, "codes"].append("AFIB")
    with pytest.raises(StoreError, match="another listing"):
        attempt(changed)
    with monkeypatch.context() as patch:
        patch.setattr(making, "_code", lambda: {"ecgmoe": "9.9"})
        with pytest.raises(StoreError, match="another code"):
            attempt(listing_of(tree, N))
    assert content(copy) == content(finished)
    (copy / "identity.json").write_text("{")
    with pytest.raises(StoreError, match="identity"):
        attempt(listing_of(tree, N))


def test_two_processes_do_not_prepare_one_folder(tree: Path, copy: Path) -> None:
    with FileLock(copy / ".lock"):
        with pytest.raises(StoreError, match="another process prepares"):
            prepare(listing_of(tree, N), copy, workers=0, shard_records=SHARD)


def test_listings_that_no_store_can_be_made_of_are_refused(tree: Path, tmp_path: Path) -> None:
    listing = listing_of(tree, 3)
    changes = {
        "at least 70": {"fs": 50},
        "unique index": {"table": listing.table.set_index("patient_id")},
        "columns that the store makes": {"table": listing.table.assign(r_peaks=0)},
    }
    for message, change in changes.items():
        with pytest.raises(ValueError, match=message):
            prepare(Listing(**{**vars(listing), **change}), tmp_path / "store", workers=0)
    with pytest.raises(ValueError, match="shard_records = 0"):
        prepare(listing, tmp_path / "store", workers=0, shard_records=0)
    assert not (tmp_path / "store").exists()


# Disk


def test_small_disk_is_refused_before_anything_is_read(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**5))
    monkeypatch.setattr(records, "read_standard", None)
    with pytest.raises(StoreError, match="40 records need about 1.0 MB and .* has 0.1 MB free"):
        prepare(listing_of(tree, N), tmp_path / "store", workers=0)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_write_that_fails_leaves_finished_shards_and_a_clear_error(
    tree: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "00002.parquet":
            raise OSError(code, os.strerror(code), str(target))
        replace(source, target)

    message = (
        "cannot write to" if code == errno.EACCES else "is full .*; make room for about .* finished shards are kept"
    )
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", fail)
        with pytest.raises(StoreError, match=message):
            prepare(listing_of(tree, N), tmp_path / "store", workers=0, shard_records=SHARD)
    assert not list((tmp_path / "store").rglob("*.partial"))
    report = prepare(listing_of(tree, N), tmp_path / "store", workers=0, shard_records=SHARD)
    assert (report.kept, report.made) == (2, 3)
    assert content(tmp_path / "store") == content(finished)


def job(listing: Listing, tmp_path: Path, folder: Path, workers: int, shard: int = SHARD, code: str = JOB) -> list[str]:
    path = tmp_path / "listing.pickle"
    path.write_bytes(pickle.dumps(listing))
    return [sys.executable, "-c", code, str(path), str(folder), str(workers), str(shard)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_file_that_the_system_refuses_to_grow_is_a_clear_error(
    tree: Path, finished: Path, tmp_path: Path, workers: int
) -> None:
    """The last shard of eight records is too large for the limit; three of them fit."""
    listing, folder = listing_of(tree, N), tmp_path / "store"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    command = job(listing, tmp_path, folder, workers)
    run = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert run.returncode == 1
    assert "StoreError" in run.stderr and "is full (File too large)" in run.stderr
    assert not list(folder.rglob("*.partial"))
    subprocess.run(command, check=True, capture_output=True)
    assert content(folder) == content(finished)


# Dask


def test_address_without_a_scheduler_is_a_clear_error(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "CONNECT_S", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(StoreError, match=f"no Dask scheduler answers at {address}"):
            prepare(listing_of(tree, N), tmp_path / "store", scheduler=address)


def test_worker_with_another_version_is_told_apart(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = making._shards(listing_of(tree, 2), tmp_path, 2)[0]
    monkeypatch.setattr(making, "_code", lambda: {"ecgmoe": "9.9"})
    with pytest.raises(StoreError, match="other versions"):
        making._make_or_keep(shard)


def test_script_without_a_guard_is_told_what_to_do(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    def fail(**options: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", fail)
    with pytest.raises(StoreError, match="__main__"):
        prepare(listing_of(tree, N), tmp_path / "store", shard_records=SHARD)


class Cluster:
    """A Dask scheduler and its workers, each a process of its own on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start("dask_scheduler", "--port", "0", "--scheduler-file", str(folder / "scheduler"))
        until(lambda: files.read_json(folder / "scheduler"))
        self.address = str(files.read_json(folder / "scheduler")["address"])

    def start(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        command = [sys.executable, "-m", f"distributed.cli.{program}", *options, *loopback]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=self.env, cwd=self.folder, start_new_session=True, **quiet)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--local-directory", "scratch")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "dask").mkdir()
    cluster = Cluster(tmp_path / "dask")
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def long_listing(tree: Path) -> Listing:
    """The recordings thirty times over: 1,200 rows, 150 shards, some seconds of work."""
    listing = listing_of(tree, N)
    table = pd.concat([listing.table] * 30, ignore_index=True).rename_axis("ecg_id")
    return Listing(**{**vars(listing), "table": table})


@pytest.fixture(scope="module")
def long_content(long_listing: Listing, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("long") / "store"
    prepare(long_listing, folder, workers=0, shard_records=SHARD)
    return content(folder)


def shards_done(folder: Path) -> int:
    return len(list(folder.glob("shards/*.json")))


def kill_after(process: subprocess.Popen[bytes], folder: Path, shards: int) -> Thread:
    """Kill a process as soon as a store has so many shards."""

    def watch() -> None:
        until(lambda: shards_done(folder) >= shards)
        process.kill()

    thread = Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
def test_killed_worker_of_a_cluster_loses_nothing(
    long_listing: Listing, long_content: dict[str, bytes], cluster: Cluster, tmp_path: Path
) -> None:
    workers, folder = [cluster.worker(), cluster.worker()], tmp_path / "store"
    killer = kill_after(workers[0], folder, 30)
    report = prepare(long_listing, folder, scheduler=cluster.address, shard_records=SHARD)
    killer.join()
    assert report.made + report.kept == 150 and report.made > 145  # what it finished but did not report, is kept
    assert [worker.poll() for worker in workers] == [-signal.SIGKILL, None]
    assert content(folder) == long_content


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["workers", "scheduler"])
def test_lost_cluster_is_a_clear_error_and_the_store_can_be_finished(
    long_listing: Listing,
    long_content: dict[str, bytes],
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    worker, folder = cluster.worker(), tmp_path / "store"
    killer = kill_after(worker if lost == "workers" else cluster.scheduler, folder, 10)
    monkeypatch.setattr(making, "NO_WORKER_S", 20.0)
    with pytest.raises(StoreError, match="no Dask worker is left" if lost == "workers" else "scheduler is lost"):
        prepare(long_listing, folder, scheduler=cluster.address, shard_records=SHARD)
    killer.join()
    worker.kill()
    report = prepare(long_listing, folder, workers=2, shard_records=SHARD)
    assert report.kept >= 10
    assert content(folder) == long_content


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_kill_at_any_moment_and_finishing_gives_the_same_bytes(
    long_listing: Listing, long_content: dict[str, bytes], tmp_path: Path, moment: int
) -> None:
    """The whole process group dies, workers included, after a random share of the shards plus a random moment."""
    rng = np.random.default_rng(moment)
    share, pause, workers = rng.uniform(0, 1), rng.uniform(0, 0.2), [0, 2][moment % 2]
    folder = tmp_path / "store"
    command = job(long_listing, tmp_path, folder, workers)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    until(lambda: shards_done(folder) >= share * 150 or process.poll() is not None)
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(2):  # the second run has nothing left to do
        prepare(long_listing, folder, workers=0, shard_records=SHARD)
        assert content(folder) == long_content
    assert Store(folder).verify() == []


#: Not ``ru_maxrss``, which begins with the peak of the process that started this one.
MEMORY_JOB = JOB + "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_records(tree: Path, tmp_path: Path) -> None:
    """Peak memory of the whole process at 1, 4 and 16 times 360 records of 500 Hz in shards of 64."""
    listing, peak_mb = listing_of(tree, N, 500), []
    for times in (9, 36, 144):
        table = pd.concat([listing.table] * times, ignore_index=True).rename_axis("ecg_id")
        repeated, folder = Listing(**{**vars(listing), "table": table}), tmp_path / f"{times}"
        command = job(repeated, tmp_path, folder, 0, 64, MEMORY_JOB)
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        peak_mb.append(int(run.stdout.split()[-1]) / 1024)
        shutil.rmtree(folder)
    assert max(peak_mb) < peak_mb[0] + 20, peak_mb  # all signals of the largest take 620 MB


# Real recordings


@pytest.mark.slow
def test_real_recordings_come_out_of_the_store_as_they_went_in(recordings: Path, tmp_path: Path) -> None:
    root = recordings / "ptbxl"
    paths = sorted(str(path.relative_to(root).with_suffix("")) for path in root.glob("records500/*/*.hea"))[:200]
    table = pd.DataFrame({"path": paths, "patient_id": 1, "fold": 9}, index=pd.RangeIndex(len(paths), name="ecg_id"))
    for fs in (100, 500):
        listing = Listing("ptbxl", root, fs, table, pd.DataFrame(columns=["record", "reason"]))
        prepare(listing, tmp_path / str(fs), workers=0, shard_records=64)
        opened = Store(tmp_path / str(fs))
        np.testing.assert_array_equal(opened.read(slice(None)), direct(root, opened.table["path"], fs))
