"""One training as a script, for tests that start it in several processes or kill it.

``python training_worker.py FOLDER SETTINGS``, where SETTINGS is JSON: fields of FitConfig, and
``shape`` (fields of ECGMoEConfig), ``die_writing`` (the checkpoint in the middle of which the process kills itself).
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from synthetic import toy_cohort

from ecgmoe import features, run_folder, training
from ecgmoe.datasets import Cohort


def cohort() -> Cohort:
    """Patients with one to three records; labels are missing in long stretches, so that shares of a batch differ."""
    whole = toy_cohort(50)
    table = whole.table.assign(patient_id=np.arange(50) // 3)
    table.loc[table.index[:30], "age"] = np.nan
    table.loc[table.index[10:25], "sex"] = np.nan
    table.loc[table.index[20:], "rhythm"] = None
    return replace(whole, table=table)


def run(folder: Path, shape: dict | None = None, die_writing: int = 0, **config) -> training.Fitted:
    toy = cohort()
    inputs = features.make_inputs(toy, names=("dlinear",), preset="compact-random")
    if die_writing:
        save = torch.save

        def dies(state, path):
            save(state, path)
            if path.parent.parent == folder and len(state["history"]) == die_writing:
                os.truncate(path, 100)
                os.kill(os.getpid(), signal.SIGKILL)

        run_folder.torch.save = dies
    print("training", flush=True)
    return training.train(toy, inputs, config=training.FitConfig(**config), folder=folder, **(shape or {}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    training.processes.started().destroy_process_group()
