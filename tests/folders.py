"""Folders in the layouts of data sets, for tests."""

from pathlib import Path

import numpy as np
import pandas as pd
import wfdb
from synthetic import ecg

from ecgmoe.records import LEADS, write_record

N_RECORDS, N_PATIENTS = 24, 16
RR_S = np.linspace(0.6, 1.2, N_RECORDS)
MITDB_RR_S = [0.8, 0.9, 0.7, 0.85] * 8


def beat_train(rr_s: float, fs: int = 100, seed: int = 0) -> np.ndarray:
    """Ten seconds of narrow beats with a little noise on twelve leads, mV."""
    t = np.arange(10 * fs) / fs
    beats = sum(np.exp(-0.5 * ((t - at) / 0.012) ** 2) for at in np.arange(0.4, 10, rr_s))
    waves = sum(0.2 * np.exp(-0.5 * ((t - at - 0.25) / 0.04) ** 2) for at in np.arange(0.4, 10, rr_s))
    noise = np.random.default_rng(seed).normal(0, 0.01, (12, len(t)))
    return np.linspace(0.8, 1.2, 12)[:, None] * (beats + waves) + noise


def write_ptbxl(folder: Path) -> Path:
    """Twenty-four records of sixteen patients in folds 6 to 10, with an RR interval of ``RR_S`` each."""
    (folder / "records100" / "00000").mkdir(parents=True)
    ids = np.arange(1, N_RECORDS + 1)
    patients = ids % N_PATIENTS
    codes = np.where(
        ids % 3 == 0, "{'AFIB': 0.0}", np.where(ids % 3 == 1, "{'NORM': 80.0, 'SR': 0.0}", "{'NORM': 0.0}")
    )
    names = [f"records100/00000/{i:05d}_lr" for i in ids]
    pd.DataFrame(
        {
            "ecg_id": ids,
            "patient_id": patients.astype(float),
            "age": np.where(ids == 5, 300.0, 40.0 + ids),
            "sex": ids % 2,
            "scp_codes": codes,
            "validated_by_human": ids > 4,
            "static_noise": np.where(ids % 5 == 0, " , I-AVR,  ", ""),
            "strat_fold": 6 + patients % 5,
            "filename_lr": names,
            "filename_hr": [name.replace("100/", "500/").replace("_lr", "_hr") for name in names],
        }
    ).to_csv(folder / "ptbxl_database.csv", index=False)
    upper = tuple(lead.upper() for lead in LEADS)
    for name, rr_s, seed in zip(names, RR_S, ids, strict=True):
        write_record(folder / name, beat_train(rr_s, seed=seed), 100, upper)
    return folder


def write_mitdb(folder: Path, name: str = "101", flutter_s: float | None = None) -> np.ndarray:
    """25 s of two leads at 360 Hz; the beats' positions in samples."""
    folder.mkdir(parents=True, exist_ok=True)
    signal, at = ecg(MITDB_RR_S, 360.0, 25.0, leads=2)
    wfdb.wrsamp(name, 360, ["mV"] * 2, ["MLII", "V5"], p_signal=signal[0].T, fmt=["212"] * 2, write_dir=str(folder))
    sample, symbol = np.rint(at).astype(int), np.array(["N", "V", "A"])[np.arange(len(at)) % 3]
    sample, symbol = np.append(sample, 20), np.append(symbol, "+")  # a change of rhythm is no beat
    if flutter_s is not None:
        sample, symbol = np.append(sample, int(flutter_s * 360)), np.append(symbol, "!")
    order = np.argsort(sample, kind="stable")
    wfdb.wrann(name, "atr", sample[order], symbol[order], fs=360, write_dir=str(folder))
    return at
