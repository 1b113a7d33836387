"""The one door to all data sets: what a folder is, what is listed, and the same cohort from files and from a store."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from folders import N_RECORDS, beat_train, write_ptbxl

from ecgmoe import datasets, records, store
from ecgmoe.datasets import DatasetError, ptbxl, reading, reference, simulated


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ptbxl(tmp_path / "ptb-xl")


def nowhere(root: Path) -> Path:
    return root / "nowhere"


def a_file(root: Path) -> Path:
    return root / "ptbxl_database.csv"


def empty(root: Path) -> Path:
    (root.parent / "empty").mkdir()
    return root.parent / "empty"


def above(root: Path) -> Path:
    return root.parent


def below(root: Path) -> Path:
    return root / "records100" / "00000"


def another(name: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        file = root.parent / "other" / name
        file.parent.mkdir(parents=True)
        file.write_text("")
        return root.parent / "other"

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nowhere, "does not exist"),
        (a_file, "is a file"),
        (empty, "is empty; download PTB-XL .* or MIMIC-IV-ECG"),
        (above, "PTB-XL is not in .* but further down; pass data_root=.*ptb-xl"),
        (below, "PTB-XL is not in .* but above; pass data_root=.*ptb-xl$"),
        (another("record_list.csv"), "record_list.csv cannot be read"),
        (another("machine_measurements.csv"), "no record_list.csv"),
        (another("features/12sl_features.csv"), r"PTB-XL\+, which has no recordings; pass the folder of PTB-XL"),
        (another("hosp/labevents.csv.gz"), "pass the folder of MIMIC-IV-ECG"),
        (another("exams.csv"), "CODE-15%, which is not supported; pass the folder of PTB-XL or MIMIC-IV-ECG"),
        (another("photo.png"), "it holds photo.png but no ptbxl_database.csv"),
    ],
)
def test_a_folder_that_is_no_data_set_says_what_it_is(root: Path, make: Callable[[Path], Path], message: str) -> None:
    folder = make(root)
    for door in (datasets.load, datasets.listing):
        with pytest.raises(DatasetError, match=message):
            door(folder)


def test_mimic_iv_ecg_may_lie_in_the_folder_that_its_download_made(tmp_path: Path) -> None:
    made = simulated.write(tmp_path / "mimic-iv-ecg-1.0", n_patients=2, layout="mimic-iv-ecg")
    for folder in (made, tmp_path):
        assert datasets.listing(folder, 500).root == made
    with pytest.raises(DatasetError, match="MIMIC-IV-ECG is not in .* but above; pass data_root=.*mimic-iv-ecg-1.0$"):
        datasets.load(made / datasets.listing(made, 500).table["path"].iloc[0].split("/")[0])


def test_every_data_set_has_all_that_the_door_asks_for() -> None:
    for name in datasets.DATASETS:
        module = datasets._module(name)
        assert module.CARD.doi
        assert all(callable(getattr(module, part)) for part in ("find_root", "listing", "select", "cohort"))
        assert name in datasets._MARKERS.values()


def test_simulated_is_a_name_for_the_default_cohort(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated.write(root.parent / "made", n_patients=4)
    monkeypatch.setattr(simulated, "ensure", lambda: root.parent / "made")
    assert datasets.load().digest == datasets.load(root.parent / "made").digest
    pd.testing.assert_frame_equal(datasets.listing().table, datasets.listing(root.parent / "made").table)


def test_a_listing_has_what_is_on_disk_and_nothing_of_fold_10(root: Path) -> None:
    for suffix in (".hea", ".dat"):
        (root / "records100/00000/00001_lr").with_suffix(suffix).unlink()
    listing = datasets.listing(root)
    assert set(listing.table["fold"]) == {6, 7, 8, 9}
    assert listing.skipped.to_dict("records") == [
        {"record": "records100/00000/00001_lr", "reason": "not on disk", "fold": 7.0}
    ]
    n_last = listing.counts[datasets._LAST_FOLD]
    assert n_last == (ptbxl.listing(root, 100).table["fold"] == 10).sum() > 0
    assert len(listing.table) + len(listing.skipped) + n_last == listing.counts["listed"] == N_RECORDS


def test_signals_are_read_in_the_order_of_the_table_whatever_the_pieces(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = datasets.listing(root)
    table = listing.table.sample(frac=1, random_state=0)
    whole = reading.read_signals(listing, table)
    assert not whole.failed and not whole.warnings
    names = table["path"].iloc[[3, 4]].tolist()
    (root / names[0]).with_suffix(".dat").write_bytes(b"")
    (root / names[1]).with_suffix(".hea").unlink()
    monkeypatch.setattr(reading, "CHUNK", 3)
    pieces = reading.read_signals(listing, table)
    assert list(pieces.failed) == names
    np.testing.assert_array_equal(pieces.signal, np.delete(whole.signal, [3, 4], axis=0))


def test_what_a_reader_forgave_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = datasets.listing(root)
    name = listing.table["path"].iloc[0]
    header = (root / name).with_suffix(".hea")
    words = header.read_text().splitlines()
    fields = words[1].split()
    fields[-3] = str((int(fields[-3]) + 1) % 2**16)
    header.write_text("\n".join([words[0], " ".join(fields), *words[2:]]) + "\n")
    assert "checksum" in reading.read_signals(listing, listing.table).failed[name]
    forgiving = replace(listing, checksum="warn")
    found = reading.read_signals(forgiving, listing.table)
    assert not found.failed
    assert "checksum" in found.warnings[name]
    folder = prepared(forgiving, root.parent / "store")
    monkeypatch.setattr(ptbxl, "listing", lambda *_: forgiving)
    for place in (root, folder):
        assert datasets.load(place, max_records=0).counts["used in spite of a fault"] == 1


def prepared(listing: store.Listing, folder: Path) -> Path:
    store.prepare(listing, folder, workers=0, shard_records=7)
    return folder


def test_a_store_gives_the_same_cohort_as_the_files(root: Path) -> None:
    (root / "records100/00000/00001_lr.dat").unlink()
    (root / "records100/00000/00010_lr.dat").write_bytes(b"")  # of fold 6, from which no limited selection is drawn
    folder = prepared(datasets.listing(root), root.parent / "store")
    for max_records in (0, 9):
        direct = datasets.load(root, max_records=max_records)
        stored = datasets.load(folder, max_records=max_records)
        assert stored.digest == direct.digest
        pd.testing.assert_frame_equal(stored.table, direct.table)
        assert stored.card == direct.card
    assert datasets.load(folder, max_records=0).counts == datasets.load(root, max_records=0).counts
    listed = [set(map(tuple, datasets.load(place, max_records=0).skipped.to_numpy())) for place in (root, folder)]
    assert listed[0] == listed[1] and len(listed[0]) == 2


@pytest.mark.parametrize("layout", ["ptbxl", "mimic-iv-ecg"])
def test_a_store_of_a_simulated_cohort_is_that_cohort(
    tmp_path: Path, layout: Literal["ptbxl", "mimic-iv-ecg"], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated.write(tmp_path / "made", n_patients=12, layout=layout)
    monkeypatch.setattr(reference, "measure", lambda *_: pytest.fail("measured"))
    for fs in (100, 500):
        direct = datasets.load(tmp_path / "made", fs=fs)
        stored = datasets.load(prepared(datasets.listing(tmp_path / "made", fs), tmp_path / f"store{fs}"), fs=fs)
        assert len(direct) >= 12 and stored.fs == fs
        assert stored.digest == direct.digest
        pd.testing.assert_frame_equal(stored.table, direct.table)
        assert list(stored.tasks) == list(direct.tasks)


def test_a_store_needs_neither_its_source_nor_other_options(root: Path) -> None:
    folder = prepared(datasets.listing(root), root.parent / "store")
    expected = datasets.load(root, max_records=0).digest
    shutil.rmtree(root)
    assert datasets.load(folder, max_records=0).digest == expected
    with pytest.raises(DatasetError, match="prepared at 100 Hz, not 500; pass fs=100, or prepare a store at 500 Hz"):
        datasets.load(folder, fs=500)
    with pytest.raises(DatasetError, match="is made already; prepare another one with features_root"):
        datasets.load(folder, features_root=root)
    with pytest.raises(DatasetError, match="is a prepared store"):
        datasets.listing(folder)
    (folder / "shards" / "00001.npy").write_bytes(b"")
    with pytest.raises(store.StoreError, match="run `prepare` again"):
        datasets.load(folder, max_records=0)


def test_a_recording_of_another_rate_is_resampled(root: Path) -> None:
    listing = datasets.listing(root)
    name = listing.table["path"].iloc[0]
    records.write_record(root / name, beat_train(0.8, fs=500), 500)
    read = reading.read_signals(listing, listing.table[:1])
    assert read.signal.shape == (1, 12, 1000)
    assert reference.measure(read.signal, 100).rr_ms[0] == pytest.approx(800, abs=3)


def test_an_option_of_another_data_set_is_refused_with_its_own(root: Path) -> None:
    with pytest.raises(DatasetError, match="PTB-XL takes no protocol; its options are features_root"):
        datasets.load(root, protocol="paper")


def test_the_folders_that_a_recursive_download_makes_are_found(root: Path, tmp_path: Path) -> None:
    deep = tmp_path / "got" / "physionet.org" / "files" / "ptb-xl" / "1.0.3"
    deep.parent.mkdir(parents=True)
    shutil.move(root, deep)
    with pytest.raises(DatasetError, match="further down; pass data_root=.*1.0.3"):
        datasets.listing(tmp_path / "got")
