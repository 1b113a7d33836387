"""A prepared store: the recordings of one data set as int16 shards with a table beside each, made once, read fast.

:func:`prepare` makes it from a :class:`Listing`: every recording is read, checked, brought to one sampling rate and
searched for beats. :class:`Store` opens it. A folder holds::

    identity.json        what the store is of and what makes it; nothing else can be added to it
    shards/00000.npy     int16 (records, 12, samples), can be memory-mapped
    shards/00000.parquet one row a record: the listing's columns, gain, baseline, beats, quality, digest of the source
    shards/00000.json    written last: rows, digests of the two files, what was left out
    skipped.csv          records left out, with the reason
    warnings.csv         records that are in, but with a fault that was forgiven
    manifest.json        identity and all digests; there only while the store is complete
"""

from ecgmoe.store.files import Listing, StoreError, is_store
from ecgmoe.store.making import Report, prepare
from ecgmoe.store.reading import Store

__all__ = ["Listing", "Report", "Store", "StoreError", "is_store", "prepare"]
