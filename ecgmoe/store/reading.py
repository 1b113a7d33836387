"""Reading a store.

Shape legend: B records, C leads, T samples.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ecgmoe import cache, records
from ecgmoe.records import LEADS
from ecgmoe.store import files
from ecgmoe.store.files import MADE_COLUMNS, MANIFEST, SKIPPED, WARNINGS, Listing, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

OPEN_SHARDS = 64  # memory maps held at a time: each takes a file descriptor


class Store:
    """A complete store, open for reading.

    Parameters
    ----------
    folder : path

    Attributes
    ----------
    folder : Path
    manifest : dict
    dataset : str
        Name of the module of :mod:`ecgmoe.datasets` that its table comes from.
    fs : int
        Sampling rate in Hz.
    digest : str
        Of everything in the store.

    Raises
    ------
    StoreError
        No store, one that is not complete, a shard that is missing or of the wrong size, or a damaged list.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser().absolute()
        if not files.is_store(self.folder):
            raise StoreError(f"{self.folder} holds no prepared store; make one by `prepare`")
        manifest = files.read_json(self.folder / MANIFEST)
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise StoreError(f"the store {self.folder} is not complete; run `prepare` again to finish it")
        self.manifest: dict[str, Any] = manifest
        if (made := self.manifest["format"]) != files.FORMAT:
            raise StoreError(f"the store {self.folder} has format {made}, not {files.FORMAT}; prepare it anew")
        self.dataset: str = self.manifest["dataset"]
        self.fs: int = self.manifest["fs"]
        self.digest = cache.digest(self.manifest)
        self._entries: list[dict[str, Any]] = self.manifest["shards"]
        self._first = np.cumsum([0, *(entry["rows"] for entry in self._entries)])
        self._shard = functools.lru_cache(maxsize=OPEN_SHARDS)(self._open)
        for number, entry in enumerate(self._entries):
            if damage := files.damage(self.folder, number, entry, digests=False):
                raise self._error(number, damage)
        for name, stated in manifest["lists"].items():
            path = self.folder / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != stated["sha256"]:
                raise StoreError(f"{name} of the store {self.folder} is missing or damaged; run `prepare` again")

    def __len__(self) -> int:
        return int(self._first[-1])

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.folder,)  # each worker of a data loader opens its own

    def _error(self, number: int, damage: str) -> StoreError:
        cure = "run `prepare` again, it makes damaged shards anew"
        return StoreError(f"shard {number} of the store {self.folder} cannot be used: {damage}; {cure}")

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a record, indexed by ``ecg_id``.

        The listing's columns and ``r_peaks`` (samples, with fractions), ``beat_confidence`` (0-1, one a beat),
        ``quality`` (0-1, one a lead), ``gain`` (steps per mV, one a lead), ``baseline`` (steps, one a lead),
        ``source_digest`` (16 hexadecimal digits of SHA-256 over header and signal files).
        """
        import pyarrow as pa

        arrow = pa.concat_tables(self._parquet(number) for number in range(len(self._entries)))
        table = arrow.to_pandas()
        for name in set(arrow.column_names) - set(MADE_COLUMNS):
            if pa.types.is_list(arrow.schema.field(name).type):
                table[name] = arrow[name].to_pylist()
        return table.set_index("ecg_id")

    @property
    def skipped(self) -> pd.DataFrame:
        """Records left out: columns ``record``, ``reason`` and ``fold``, NaN where it is not known."""
        types = {"record": str, "reason": str, "fold": float}
        return pd.read_csv(self.folder / SKIPPED, dtype=types, keep_default_na=False, na_values={"fold": ""})

    @property
    def warnings(self) -> pd.DataFrame:
        """Faults forgiven: columns ``record`` and ``warning``."""
        return pd.read_csv(self.folder / WARNINGS, dtype=str, keep_default_na=False)

    @property
    def listing(self) -> Listing:
        """The listing that the store was made of, with the store's table and without the records left out."""
        counts, checksum = self.manifest["counts"], self.manifest["checksum"]
        return Listing(self.dataset, self.folder, self.fs, self.table, self.skipped, counts, checksum)

    def _parquet(self, number: int, columns: list[str] | None = None) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            path = files.shard_path(self.folder, number, "parquet")
            return pq.read_table(path, columns=columns, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise self._error(number, f"its table is damaged ({error})") from error

    def _open(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Memory map of a shard, gain and baseline of its records."""
        if damage := files.damage(self.folder, number, self._entries[number], digests=False):
            raise self._error(number, damage)
        path = files.shard_path(self.folder, number, "npy")
        try:
            steps_BCT = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise self._error(number, f"{path.name} is damaged ({error})") from error
        columns = self._parquet(number, ["gain", "baseline"])
        gain_BC, baseline_BC = (
            columns[name].combine_chunks().flatten().to_numpy().reshape(-1, len(LEADS)) for name in ("gain", "baseline")
        )
        return steps_BCT, gain_BC, baseline_BC

    def read(self, rows: slice | Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Read signals.

        Parameters
        ----------
        rows : slice, sequence of int, or boolean mask
            Positions in the store (not ``ecg_id``), or one truth value a record.
        out : ndarray of shape (records, 12, samples), optional
            float32; filled and returned instead of a new array.

        Returns
        -------
        ndarray of shape (records, 12, samples)
            float32, mV, leads in the order of ``records.LEADS``: the same bits as from the source.

        Raises
        ------
        IndexError
            A row that is not there, rows that are no whole numbers, or a mask of another length.
        StoreError
            A shard is missing or damaged.
        """
        row_B = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if row_B.dtype == bool and len(row_B) == len(self):
            row_B = np.flatnonzero(row_B)
        if len(row_B) and not (row_B.dtype.kind in "iu" and 0 <= row_B.min() and row_B.max() < len(self)):
            what = f"rows {row_B.min()} to {row_B.max()} of a store with {len(self):,} records"
            raise IndexError(f"{what}; pass whole numbers from 0, a slice, or one truth value a record")
        shape = (len(row_B), *files.record_shape(self.fs))
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise ValueError(f"out has shape {out.shape} and type {out.dtype}, expected {shape} and float32")
        shard_B = np.searchsorted(self._first, row_B, side="right") - 1
        at_B = row_B - self._first[shard_B]
        # Record by record, the samples stay in the processor's cache between conversion and division.
        for x_CT, number, at in zip(out, shard_B.tolist(), at_B.tolist(), strict=True):
            steps_BCT, gain_BC, baseline_BC = self._shard(number)
            records.from_steps(steps_BCT[at], gain_BC[at], baseline_BC[at], out=x_CT)
        return out

    def batches(self, size: int = 64) -> Iterator[tuple[slice, np.ndarray]]:
        """All records in order: rows, and signals as from :meth:`read` in ONE buffer that the next batch overwrites."""
        buffer = np.empty((min(size, len(self)), *files.record_shape(self.fs)), np.float32)
        for first in range(0, len(self), size):
            rows = slice(first, min(first + size, len(self)))
            yield rows, self.read(rows, out=buffer[: rows.stop - rows.start])

    def verify(self) -> list[int]:
        """Numbers of the shards whose files do not match their digests; ``prepare`` makes them again."""
        return [i for i, entry in enumerate(self._entries) if files.damage(self.folder, i, entry) is not None]
