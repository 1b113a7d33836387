"""Plain made-up recordings for tests that need a heartbeat but no cohort on disk."""

import numpy as np
import pandas as pd

from ecgmoe import tasks
from ecgmoe.datasets import Card, Cohort

FS = 250.0


def ecg(
    rr_s: list[float], fs: float = FS, seconds: float = 10.0, leads: int = 12, noise: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """A plain ECG of Gaussian P, QRS and T waves; returns (1, leads, samples) and the true R positions."""
    at = 0.5 + np.cumsum([0.0, *rr_s])
    at = at[at < seconds - 0.3]
    t = np.arange(int(seconds * fs)) / fs
    wave = np.zeros_like(t)
    for r in at:
        for offset, width, height in ((-0.16, 0.025, 0.12), (-0.025, 0.01, -0.1), (0, 0.011, 1.0), (0.25, 0.05, 0.3)):
            wave += height * np.exp(-0.5 * ((t - r - offset) / width) ** 2)
    scale = np.linspace(0.4, 1.2, leads)[:, None]
    return (scale * wave + noise * np.random.default_rng(0).normal(size=(leads, len(t))))[None], at * fs


def toy_cohort(n: int = 80, fs: int = 100) -> Cohort:
    """Records whose rate, size and irregularity follow from their labels; potassium has no label at all."""
    rng = np.random.default_rng(1)
    sex = rng.integers(0, 2, n)
    age = rng.uniform(20, 95, n)
    irregular = rng.integers(0, 2, n).astype(bool)
    signals, rr = [], []
    for i in range(n):
        mean = rng.uniform(0.6, 1.1)
        spread = 0.25 if irregular[i] else 0.01
        signal, at = ecg(list(mean * rng.uniform(1 - spread, 1 + spread, 30)), fs)
        signals.append(signal[0] * (1.0 + 0.5 * sex[i]) * (1.3 - age[i] / 200))
        rr.append(tasks.mean_rr_interval(at, fs))
    table = pd.DataFrame(
        {
            "patient_id": np.arange(n),
            "fold": np.where(np.arange(n) % 4 == 0, 9, np.where(np.arange(n) % 4 == 1, 8, 7)),
            "path": [f"toy/{i}" for i in range(n)],
            "rr_interval": rr,
            "age": age,
            "sex": sex.astype(float),
            "potassium": np.nan,
            "potassium_abnormal": np.nan,
            "rhythm": np.where(irregular, "atrial fibrillation", "sinus rhythm"),
        },
        index=pd.RangeIndex(1, n + 1, name="ecg_id"),
    )
    table.loc[table.index[:5], "rhythm"] = None
    card = Card("toy", "made up", "none", "none", ())
    return Cohort(card, table, np.stack(signals).astype(np.float32), fs, pd.DataFrame(columns=["record", "reason"]))
