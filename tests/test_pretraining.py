"""Pretraining: each objective learns, repeats itself, resumes, sees no test record, and leaves weights with a card."""

import hashlib
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from synthetic import toy_cohort

from ecgmoe import backbones, pretraining
from ecgmoe.__main__ import app
from ecgmoe.backbones import published
from ecgmoe.pretraining import FOLDS, RECIPES
from ecgmoe.records import InputError

SHORT = {name: replace(recipe, epochs=2, batch_size=8) for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(32)


pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)


def test_every_backbone_has_a_recipe_and_an_objective():
    assert tuple(RECIPES) == backbones.NAMES == tuple(pretraining._OBJECTIVES) == tuple(pretraining._IN_WORDS)
    assert FOLDS == tuple(range(1, 9))


@pytest.mark.parametrize("name", backbones.NAMES)
def test_the_objective_is_learnt(name, cohort):
    n, steps = (24, 40) if name == "ecg-fm" else (8, 25)
    torch.manual_seed(0)
    backbone = backbones.build(name, "compact-random").train()
    x = pretraining.recordings(backbone, cohort.signal[:n], cohort.fs)
    assert x.dtype == torch.float16
    assert len(x) == n
    if backbone.single_lead:
        x = x[:, :2]
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    course = []
    for step in range(steps):
        terms = pretraining.losses(backbone, x.float(), step / steps)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(loss.item())
    assert np.mean(course[-3:]) < 0.95 * np.mean(course[:3])


@pytest.mark.parametrize("name", ["dlinear", "ecg-fm"])
def test_weights_and_card(name, cohort, tmp_path):
    path = pretraining.pretrain(name, cohort, tmp_path, recipe=SHORT[name], seed=3)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        f"{name}.json",
        f"{name}.safetensors",
    ]
    card = json.loads((tmp_path / f"{name}.json").read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["data"]["folds"] == list(FOLDS)
    assert card["data"]["records"] == int((cohort.table["fold"] <= 8).sum())
    assert len(card["loss by epoch"]) == 2
    assert card["provenance"]["seed"] == 3
    assert card["commits"] == [card["provenance"]["commit"]]
    assert card["licence"] == f"as that of the recordings: {cohort.card.licence}"
    random = backbones.build(name, "compact-random", 3).state_dict()
    trained = weights_of(path)
    assert trained.keys() == random.keys()
    assert any(not torch.equal(trained[key], random[key]) for key in random)

    state = torch.random.get_rng_state()
    again = pretraining.pretrain(name, cohort, tmp_path / "again", recipe=SHORT[name], seed=3)
    assert again.read_bytes() == path.read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_test_fold_is_not_seen(cohort, tmp_path):
    signal = cohort.signal.copy()
    signal[cohort.table["fold"] == 9] = 7.0
    other = replace(cohort, signal=signal)
    one, two = (
        pretraining.pretrain("dlinear", c, tmp_path / n, recipe=SHORT["dlinear"])
        for c, n in ((cohort, "1"), (other, "2"))
    )
    assert one.read_bytes() == two.read_bytes()


def test_interrupted_work_goes_on_to_the_same_weights(cohort, tmp_path, monkeypatch):
    whole = pretraining.pretrain("moment", cohort, tmp_path / "whole", recipe=SHORT["moment"])
    fill_in, calls = pretraining._OBJECTIVES["moment"], []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch of three batches
            raise KeyboardInterrupt
        return fill_in(*arguments)

    monkeypatch.setitem(pretraining._OBJECTIVES, "moment", dies)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain("moment", cohort, tmp_path / "cut", recipe=SHORT["moment"])
    assert [p.name for p in (tmp_path / "cut").iterdir() if p.suffix == ".safetensors"] == []
    path = pretraining.pretrain("moment", cohort, tmp_path / "cut", recipe=SHORT["moment"])
    assert len(calls) == 5 + 3
    assert path.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "cut" / "moment.partial.pt").exists()


def test_unfinished_work_of_another_recipe_is_not_used(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain("dlinear", cohort, tmp_path, recipe=SHORT["dlinear"])
    monkeypatch.undo()
    path = pretraining.pretrain("dlinear", cohort, tmp_path, recipe=SHORT["dlinear"], seed=1)
    clean = pretraining.pretrain("dlinear", cohort, tmp_path / "clean", recipe=SHORT["dlinear"], seed=1)
    assert path.read_bytes() == clean.read_bytes()


def test_what_cannot_be_trained_is_said(cohort, tmp_path):
    with pytest.raises(InputError, match=r"24 records of folds 1-8; 64 are needed"):
        pretraining.pretrain("dlinear", cohort, tmp_path)
    with pytest.raises(InputError, match="not finite in epoch 0; lower the learning rate"):
        pretraining.pretrain("dlinear", cohort, tmp_path, recipe=replace(SHORT["dlinear"], lr=1e30))


def test_command_line(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr("ecgmoe.datasets.load", lambda *_, **__: cohort)
    monkeypatch.setattr(pretraining, "RECIPES", SHORT)
    run = CliRunner().invoke(app, ["pretrain", "simulated", "dlinear", "--folder", str(tmp_path), "--epochs", "1"])
    assert run.exit_code == 0, run.output
    assert "wrote" in run.output
    assert len(json.loads((tmp_path / "dlinear.json").read_text())["loss by epoch"]) == 1
    run = CliRunner().invoke(app, ["pretrain", "simulated", "gpt"])
    assert run.exit_code == 2
    assert "unknown backbone gpt; known are timesnet" in run.output


# ---- the weights that come with the library


def test_shipped_weights_are_small_and_nothing_else_lies_beside_them():
    files = {path.name: path.stat().st_size for path in published.SHIPPED.glob("*.*") if not path.name.startswith(".")}
    assert set(files) == {f"{name}.{kind}" for name in backbones.NAMES for kind in ("safetensors", "json")}
    assert sum(files.values()) < 12e6


@pytest.mark.parametrize("name", backbones.NAMES)
def test_shipped_weights_are_those_of_their_card(name):
    path = published.SHIPPED / f"{name}.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    backbone = backbones.build(name)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["parameters"] == backbones.n_parameters(backbone)
    assert backbone.config == type(backbone).presets["compact"]
    assert card["recipe"] == asdict(RECIPES[name]), "the recipe is the one that the weights were made by"
    assert card["data"]["folds"] == list(FOLDS)
    assert card["licence"] and card["limits"] and card["objective"] == pretraining._IN_WORDS[name]
    assert re.fullmatch("[0-9a-f]{40}", card["provenance"]["commit"]), "finished by a commit without changes"
    assert card["commits"][-1] == card["provenance"]["commit"]
    assert name in card["command"] and ("--bfloat16" in card["command"]) == card["bfloat16"]
    assert len(card["loss by epoch"]) == RECIPES[name].epochs
    first, last = (sum(terms.values()) for terms in (card["loss by epoch"][0], card["loss by epoch"][-1]))
    assert last < first
    random = backbones.build(name, "compact-random", card["provenance"]["seed"])
    assert backbones.weights_digest(backbone) != backbones.weights_digest(random)
