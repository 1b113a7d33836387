"""Annotated recordings: each set is read as it is downloaded, positions keep their meaning, damage is named."""

from pathlib import Path

import numpy as np
import pytest
import wfdb
from folders import write_mitdb
from scipy.io import savemat
from synthetic import ecg

from ecgmoe import beats
from ecgmoe.datasets import DatasetError, annotated, simulated
from ecgmoe.records import LEADS, InputError, Record

RR_S = [0.8, 0.9, 0.7, 0.85] * 8


def write_ludb(folder: Path, name: str = "7", beats_there: bool = True) -> np.ndarray:
    """Twelve leads in another order than ours, with P, QRS and T marked in lead II."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    signal, at = ecg(RR_S, 500.0)
    order = [*range(3, 12), 0, 1, 2]
    wfdb.wrsamp(
        name,
        500,
        ["mV"] * 12,
        [LEADS[i].lower() for i in order],
        p_signal=signal[0][order].T,
        fmt=["16"] * 12,
        write_dir=str(folder / "data"),
    )
    r = np.rint(at).astype(int)[1:-1]  # the outermost beats are not annotated
    sample, symbol = np.stack([r - 25, r, r + 25], 1).ravel(), np.tile(["(", "N" if beats_there else "t", ")"], len(r))
    wfdb.wrann(name, "ii", sample, symbol, fs=500, write_dir=str(folder / "data"))
    return r


def write_cpsc2019(folder: Path, number: int = 14, **changes: np.ndarray) -> np.ndarray:
    for part in ("data", "ref"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    signal, at = ecg(RR_S, 500.0, leads=1)
    savemat(folder / "data" / f"data_{number:05d}.mat", {"ecg": changes.get("ecg", signal[0].T)})
    savemat(folder / "ref" / f"R_{number:05d}.mat", {"R_peak": np.rint(at).astype(np.uint16)[:, None]})
    return np.rint(at)


def test_mitdb_is_cut_into_windows_at_500_hz_and_flutter_is_set_apart(tmp_path: Path) -> None:
    at = write_mitdb(tmp_path / "mitdb", flutter_s=15.0)
    found = annotated.load("mitdb", tmp_path)
    assert found.signal.shape == (2, 1, 5000) and found.signal.dtype == np.float32 and found.fs == 500
    assert found.apart.tolist() == [False, True]
    assert found.recording.tolist() == ["101", "101"] and found.number.tolist() == [101, 101]
    assert found.scored.tolist() == [[100, 4900]] * 2
    joined = np.concatenate([found.truth[0], found.truth[1] + 5000])
    np.testing.assert_allclose(joined, np.rint(at[at < 20 * 360]) * 500 / 360)
    assert found.symbols[0][:4].tolist() == ["N", "V", "A", "N"]
    for window, truth in zip(found.signal, found.truth, strict=True):
        heights = window[0, np.rint(truth).astype(int)]
        assert (heights > 0.9 * window.max()).all()
    assert beats.detect_r_peaks(found.signal, 500)[0] == pytest.approx(found.truth[0], abs=5)


def test_resampling_does_not_fold_high_frequencies_back(tmp_path: Path) -> None:
    t = np.arange(4000) / 2000
    wave = np.sin(2 * np.pi * 20 * t) + np.sin(2 * np.pi * 480 * t)  # without a filter, 480 Hz turns into 20 Hz
    slow = annotated._at_fs(Record(wave[None], 2000.0, ("I",), "r1"))[0]
    expected = np.sin(2 * np.pi * 20 * np.arange(1000) / 500)
    assert np.abs(slow - expected)[50:-50].max() < 0.01


def test_ludb_takes_leads_by_name_and_judges_between_first_and_last_beat(tmp_path: Path) -> None:
    at = write_ludb(tmp_path)
    found = annotated.load("ludb", tmp_path)
    np.testing.assert_array_equal(found.truth[0], at)
    assert found.scored.tolist() == [[at[0], at[-1]]]
    np.testing.assert_allclose(found.signal, ecg(RR_S, 500.0)[0], atol=2e-3)


def test_a_recording_without_annotated_beats_judges_nothing(tmp_path: Path) -> None:
    at = write_ludb(tmp_path, "7")
    write_ludb(tmp_path, "8", beats_there=False)
    found = annotated.load("ludb", tmp_path)
    assert [len(truth) for truth in found.truth] == [len(at), 0]
    assert found.scored[1, 0] > found.scored[1, 1]


def test_cpsc2019_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (100, 20, 3):
        at = write_cpsc2019(tmp_path / "train", number)
    found = annotated.load("cpsc2019", tmp_path)
    assert found.number.tolist() == [3, 20, 100] and found.recording.tolist() == ["00003", "00020", "00100"]
    np.testing.assert_array_equal(found.truth[0], at)
    assert found.scored[0].tolist() == [250, 4750] and found.signal.shape == (3, 1, 5000)
    assert annotated.load("cpsc2019", tmp_path, max_recordings=2).number.tolist() == [3, 20]


def test_simulated_beats_lie_on_their_r_peaks(tmp_path: Path) -> None:
    root = simulated.write(tmp_path / "simulated", n_patients=2)
    found = annotated.load("simulated", root)
    assert found.signal.shape[1:] == (12, 5000) and len(found) >= 2 and found.name == "simulated"
    peaks = beats.detect_r_peaks(found.signal, 500)
    inner = [truth[(truth > 100) & (truth < 4900)] for truth in found.truth]
    near = [np.abs(p[:, None] - truth).min(0) for p, truth in zip(peaks, inner, strict=True)]
    assert np.mean(np.concatenate(near) < 25) > 0.9
    assert annotated.load("simulated", root, max_recordings=1).number.tolist() == found.number[:1].tolist()


def test_the_default_cohort_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = simulated.write(tmp_path / "simulated", n_patients=1)
    monkeypatch.setattr(simulated, "ensure", lambda: root)
    assert len(annotated.load("simulated", "simulated")) >= 1


@pytest.mark.parametrize("below", ["", "mitdb", "mitdb/1.0.0", "mit-bih-arrhythmia-database-1.0.0"])
def test_the_folder_may_be_the_set_itself_or_the_one_above(tmp_path: Path, below: str) -> None:
    write_mitdb(tmp_path / below)
    assert len(annotated.load("mitdb", tmp_path)) == 2


def test_select_keeps_everything_in_step(tmp_path: Path) -> None:
    for name in ("100", "101", "102"):
        write_mitdb(tmp_path, name)
    found = annotated.load("mitdb", tmp_path)
    odd = found.select(found.number % 2 == 1)
    assert len(odd) == 2 == len(odd.truth) == len(odd.symbols) and set(odd.recording) == {"101"}
    np.testing.assert_array_equal(odd.truth[1], found.truth[3])
    np.testing.assert_array_equal(odd.signal, found.signal[2:4])


def test_every_set_has_a_card_with_licence_and_reference(tmp_path: Path) -> None:
    for source in annotated._SOURCES.values():
        assert source.card.licence and source.card.references and source.card.name


def test_what_is_not_there_is_named_with_its_address(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, root, words in (
        ("mitdb", tmp_path / "absent", "does not exist.*doi.org/10.13026/C2F305"),
        ("ludb", tmp_path / "file", "is a file.*doi.org/10.13026/eegm-h675"),
        ("cpsc2019", tmp_path, "does not hold CPSC2019.*icbeb.org"),
        ("afdb", tmp_path, "choose from mitdb, ludb, cpsc2019, simulated"),
    ):
        with pytest.raises(DatasetError, match=words):
            annotated.load(name, root)


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    write_mitdb(tmp_path / "m")
    (tmp_path / "m" / "101.atr").write_bytes(b"\xff\x00\x01")
    with pytest.raises(DatasetError, match="101.atr|no annotated beat"):
        annotated.load("mitdb", tmp_path / "m")
    write_cpsc2019(tmp_path / "c")
    (tmp_path / "c" / "ref" / "R_00014.mat").unlink()
    with pytest.raises(DatasetError, match="R_00014.mat is missing or damaged.*icbeb.org"):
        annotated.load("cpsc2019", tmp_path / "c")
    (tmp_path / "c" / "data" / "data_00014.mat").write_bytes(b"x" * 300)
    with pytest.raises(DatasetError, match="data_00014.mat is missing or damaged"):
        annotated.load("cpsc2019", tmp_path / "c")
    root = simulated.write(tmp_path / "s", n_patients=1)
    (root / "simulated_beats.csv").write_text("nothing\n1\n")
    with pytest.raises(DatasetError, match="simulated_beats.csv is missing or damaged.*simulate"):
        annotated.load("simulated", root)


def test_signals_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    write_cpsc2019(tmp_path / "nan", ecg=np.full((5000, 1), np.nan))
    with pytest.raises(DatasetError, match="data_00014.mat holds missing samples"):
        annotated.load("cpsc2019", tmp_path / "nan")
    write_cpsc2019(tmp_path / "short", 1)
    write_cpsc2019(tmp_path / "short", 2, ecg=np.zeros((4000, 1)))
    with pytest.raises(DatasetError, match="several shapes"):
        annotated.load("cpsc2019", tmp_path / "short")
    write_ludb(tmp_path / "none", beats_there=False)
    with pytest.raises(DatasetError, match="no annotated beat"):
        annotated.load("ludb", tmp_path / "none")
    write_mitdb(tmp_path / "cut")
    (tmp_path / "cut" / "101.dat").write_bytes(b"")
    with pytest.raises(InputError, match="101"):
        annotated.load("mitdb", tmp_path / "cut")


def test_the_real_sets_have_their_known_sizes(recordings: Path) -> None:
    mitdb = annotated.load("mitdb", recordings)
    assert len(mitdb) == 1440 and mitdb.apart.sum() == 18 and set(mitdb.recording[mitdb.apart]) == {"207"}
    assert len(annotated.load("ludb", recordings)) == 150
    assert len(annotated.load("cpsc2019", recordings / "cpsc2019")) == 35
