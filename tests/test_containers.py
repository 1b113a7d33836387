"""What trainers put beside weights: harmless state is read, whatever could run code is not."""

import os
import pickle
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import Example, example

from ecgmoe import backbones
from ecgmoe.backbones.published import containers
from ecgmoe.backbones.published.containers import WeightsError

NUMBERS = [np.dtype(code).type(1) for code in "?bhilqBHILQefdgFDG"]


@pytest.fixture(scope="module")
def case() -> Example:
    return example("ecg-fm")


def written(case: Example, folder: Path, legacy: bool = False, **changed: object) -> Path:
    torch.save(case.content() | changed, folder / case.file, _use_new_zipfile_serialization=not legacy)
    return folder / case.file


def assert_loads(case: Example, path: Path) -> None:
    loaded = backbones.load("ecg-fm", path)
    assert loaded.config == case.network.config
    assert backbones.weights_digest(loaded) == backbones.weights_digest(case.network)


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_state_of_a_trainer_is_read(case: Example, tmp_path: Path, legacy: bool) -> None:
    counts: defaultdict[str, list[int]] = defaultdict(list, a=[1])
    state = {
        "numbers": NUMBERS,
        "arrays": [np.full((2, 3), number) for number in NUMBERS],
        "others": [np.array(["x"]), np.array([{}, None]), np.zeros(2, "i4,f8"), np.datetime64("2020-01-01")],
        "dtype": np.dtype(">f4"),
        "random": np.random.RandomState(0).get_state(),
        "counts": [counts, *(defaultdict(kind) for kind in (int, float, dict))],
        "ordered": OrderedDict(a=1),
    }
    assert_loads(case, written(case, tmp_path, legacy, extra_state=state))


def test_numbers_of_numpy_in_a_configuration_are_numbers(case: Example, tmp_path: Path) -> None:
    numbers = {str(i): number for i, number in enumerate([*NUMBERS, np.array(258, ">i4")[()], np.float32(0.5)])}
    checkpoint = containers.read(written(case, tmp_path, cfg=numbers))
    said = checkpoint.configs["cfg"]
    assert said == numbers
    assert {type(value) for key, value in said.items() if NUMBERS[int(key) % len(NUMBERS)].nbytes <= 8} <= {
        bool,
        int,
        float,
        complex,
    }


def test_names_of_older_numpy(case: Example, tmp_path: Path) -> None:
    state = [np.float32(1), np.zeros(3)]
    path = written(case, tmp_path, legacy=True, extra_state=state)
    content = path.read_bytes()
    assert content.count(b"numpy._core.multiarray") == 2
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert_loads(case, path)


@pytest.mark.parametrize("nest", ["cfg=N", "cfg={N}", "cfg=N(N)", "args=N", "args=N(N)"])
def test_namespaces_are_opened_at_any_depth(case: Example, tmp_path: Path, nest: str) -> None:
    inner = Namespace(**case.config)
    where, _, how = nest.partition("=")
    said = {"N": inner, "{N}": {"model": inner}, "N(N)": Namespace(model=inner, list=[inner])}[how]
    inner.itself = said
    assert_loads(case, written(case, tmp_path, **({"cfg": None, "args": None} | {where: said})))
    opened = containers.read(tmp_path / case.file).configs[where]
    if how == "N(N)":
        assert isinstance(opened["list"][0], dict) and opened["model"]["itself"] is opened


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize(
    "call",
    [
        Calls(os.system, "touch ran"),
        Calls(eval, "open('ran', 'w')"),
        Calls(exec, "open('ran', 'w')"),
        Calls(getattr, 1, "real"),
        Calls(np.load, "ran"),
        Calls(np.memmap, "ran", "f4", "w+", 0, (1,)),
        Calls(Path, "ran"),
        Calls(pickle.loads, b"N."),
        Calls(map, print, [1]),
        Calls(torch.load, "ran"),
    ],
    ids=lambda call: call.reduced[0].__name__,
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_could_run_code_is_named(
    case: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Calls, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(case, tmp_path, legacy, extra_state={"x": call})
    with pytest.raises(WeightsError, match="asks for code to be run"):
        backbones.load("ecg-fm", path)
    assert not (tmp_path / "ran").exists()


def test_numpy_makes_nothing_of_the_bytes_of_a_pickle(case: Example, tmp_path: Path) -> None:
    """A dtype may say that bytes are addresses of objects."""
    path = written(case, tmp_path, cfg={"array": np.zeros(2), "dtype": np.dtype("O"), "text": np.str_("x")})
    said = containers.read(path).configs["cfg"]
    assert not any(isinstance(value, (np.ndarray, np.dtype, np.generic)) for value in said.values())


def test_damage_is_not_taken_for_code(case: Example, tmp_path: Path) -> None:
    path = written(case, tmp_path, legacy=True, extra_state=np.zeros(3))
    content = path.read_bytes()
    place = content.index(b"extra_state") - 5
    for damaged in (content[: len(content) // 2], content[:place] + b"\xf0" + content[place + 1 :]):  # no such opcode
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="is cut short or damaged; download it again"):
            backbones.load("ecg-fm", path)
