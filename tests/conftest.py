"""Fixtures of all tests: a cache of their own, and real recordings where they are at hand."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from print_book import BROWSERS

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole session one new cache: nothing stale is tested, and no worker computes what another has."""
    if not hasattr(config, "workerinput"):
        config.ecgmoe_cache = tempfile.mkdtemp(prefix="ecgmoe-tests-")
        os.environ["ECGMOE_CACHE"] = config.ecgmoe_cache


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "ecgmoe_cache"):
        shutil.rmtree(config.ecgmoe_cache, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path below the folder ``ECGMOE_SHARED``; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ECGMOE_SHARED", ROOT.parent / "shared"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"needs {name} of the folder ECGMOE_SHARED")
        return path

    return find


@pytest.fixture(scope="session")
def recordings(shared: Callable[[str], Path]) -> Path:
    """Folder with real recordings, unpacked once a session: ``ptbxl`` (fold 9), ``mitdb``, ``ludb``, ..."""
    unpack = shared("data/unpack.py")
    folder = Path(os.environ["ECGMOE_CACHE"]) / "recordings"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            subprocess.run([sys.executable, unpack, partial, "--folds", "9"], check=True, capture_output=True)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of an installed browser; the test is skipped where there is none, but not in CI."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the browser tests need chromium")
        pytest.skip("needs chromium")
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for a test, so that two workers do not wait for each other."""
    from ecgmoe import efficiency

    with efficiency.one_thread():
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers RR interval, age, sex and rhythm without backbones, in a folder."""
    import torch

    from ecgmoe.fusion import ECGMoE, ECGMoEConfig

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    ECGMoE(ECGMoEConfig({}, tasks=("rr", "age", "sex", "rhythm"))).save_pretrained(folder)
    return folder
