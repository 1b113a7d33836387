"""Training in several processes, killed processes, and the command: everything that needs a process of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_worker
from safetensors.torch import load_file

from ecgmoe import training
from ecgmoe.datasets import simulated

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TESTS = Path(__file__).parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(TESTS)}


def worker(folder: Path, settings: dict, launch: list[str] | None = None) -> subprocess.Popen:
    command = [*(launch or [sys.executable]), str(TESTS / "training_worker.py"), str(folder), json.dumps(settings)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def test_two_processes_give_the_step_of_one(tmp_path: Path) -> None:
    """Nothing random, contrast over patients, 25 records over two processes, labels missing in long stretches."""
    shape = {"dropout": 0.0, "n_components": 8}  # more components than records give gradients of pure rounding
    settings = {"epochs": 1, "batch_size": 64, "noise_mv": 0.0, "lam": 0.5, "contrast": "patient", "shape": shape}
    assert finish(worker(tmp_path / "two", settings, LAUNCH)).count("training") == 2
    one = training_worker.run(tmp_path / "one", **settings)
    none = training_worker.run(tmp_path / "other", **{**settings, "lam": 0.0})
    kept, apart = load_file(tmp_path / "two" / "finished" / "weights.safetensors"), 0.0
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(kept[name], weight, atol=1e-5, rtol=0, msg=name)
        apart = max(apart, (none.model.state_dict()[name] - weight).abs().max().item())
    assert apart > 1e-4, "without the contrastive term the step is another one"
    train = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["train"] for name in ("one", "two")]
    assert train[0] == pytest.approx(train[1], rel=1e-6)


def same(folder: Path, whole: training.Fitted) -> None:
    weights = load_file(folder / "finished" / "weights.safetensors")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    predictions = load_file(folder / "finished" / "predictions.safetensors")
    for name, values in whole.predictions.items():
        assert (predictions[name].numpy() == values).all(), name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == whole.history.to_dict("records")


SETTINGS = {"epochs": 30, "patience": 30, "batch_size": 8, "contrast": "views", "weighting": "uncertainty"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> training.Fitted:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fitted = training_worker.run(tmp_path_factory.mktemp("whole") / "run", **SETTINGS)
    torch.set_num_threads(threads)
    return fitted


def epochs_done(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def test_killed_at_random_moments_it_ends_the_same(tmp_path: Path, whole: training.Fitted) -> None:
    """Moments are drawn as epochs and a bit, so that a slow machine is killed at the same places as a fast one."""
    seed, folder = random.randrange(2**32), tmp_path / "run"
    print(f"moments drawn with seed {seed}")
    draw = random.Random(seed)
    for epoch in sorted(draw.sample(range(20), 3)):
        process = worker(folder, SETTINGS)
        assert process.stdout.readline().startswith("training")
        while epochs_done(folder) < epoch:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    assert any(folder.glob("checkpoint-*"))  # the third was killed in its third epoch or later
    finish(worker(folder, SETTINGS))
    same(folder, whole)


def test_killed_while_it_writes_a_checkpoint_it_ends_the_same(tmp_path: Path, whole: training.Fitted) -> None:
    process = worker(tmp_path / "run", {**SETTINGS, "die_writing": 3})
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "run").glob("*checkpoint*")) == [
        ".checkpoint.partial",
        "checkpoint-2",
    ]
    finish(worker(tmp_path / "run", SETTINGS))
    same(tmp_path / "run", whole)


def test_the_command_trains_in_two_processes_and_says_so_once(tmp_path: Path) -> None:
    simulated.write(tmp_path / "cohort", n_patients=60)
    words = ["-m", "ecgmoe", "train", str(tmp_path / "cohort"), "--folder", str(tmp_path / "run")]
    words += ["--preset", "compact-random", "--epochs", "1", "--top-k", "2", "--contrast", "patient"]
    done = subprocess.run([*LAUNCH, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ECG-MoE") == done.stdout.count("MAE, ms") * 5 and done.stdout.count("wrote ") == 1
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert {row["model"] for row in scores["metrics"]["test"]} > {"ECG-MoE", "R-peak detector"}
    assert scores["provenance"]["parameters"]["top_k"] == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
