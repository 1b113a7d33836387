"""The plain ResNet: the contract of every model, sizes on demand, and that it learns from the signal."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import features, training
from ecgmoe.resnet import ResNet, ResNetConfig, build
from ecgmoe.tasks import TASKS

B = 5
SMALL = {"width": 8, "blocks": (1, 1)}


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.fixture(scope="module")
def inputs(cohort):
    return features.from_signal(cohort.signal, cohort.fs)


@pytest.mark.parametrize("characteristics", ["none", "all"])
def test_a_record_alone_or_in_a_batch_gives_the_same(inputs, characteristics):
    model = build(inputs, tuple(TASKS), characteristics=characteristics, **SMALL).eval()
    batch = inputs.take(torch.arange(B))
    together = model(batch).logits
    assert {name: logits.shape for name, logits in together.items()} == {
        name: (B, task.n_outputs) for name, task in TASKS.items()
    }
    for row in range(B):
        alone = model(inputs.take(torch.tensor([row]))).logits
        for name in together:
            torch.testing.assert_close(alone[name][0], together[name][row], atol=1e-5, rtol=1e-4)


def test_only_with_characteristics_it_is_told_them(inputs):
    batch = inputs.take(torch.arange(B))
    other = batch._replace(characteristics_BA=batch.characteristics_BA + 1)
    blind, told = (build(inputs, ("age",), characteristics=c, **SMALL).eval() for c in ("none", "all"))
    torch.testing.assert_close(blind(batch).logits, blind(other).logits)
    assert not torch.allclose(told(batch).logits["age"], told(other).logits["age"])


def test_it_sees_how_tall_the_waves_are(inputs):
    model = build(inputs, ("age",), **SMALL).eval()
    batch = inputs.take(torch.arange(B))
    taller = batch._replace(signal_BCT=1.5 * batch.signal_BCT)
    assert not torch.allclose(model(batch).logits["age"], model(taller).logits["age"], rtol=0.05)


def test_recordings_at_another_rate_are_brought_to_its_own():
    signal, at = toy_cohort(4, fs=400).signal, [np.array([50, 150])] * 4
    fast = features.from_signal(signal, 400, peaks=at)
    slow = features.from_signal(signal[:, :, ::4], 100, peaks=at)  # made of smooth waves: nothing to alias but noise
    model = build(slow, ("rr",), **SMALL).eval()
    torch.testing.assert_close(model(fast).logits["rr"], model(slow).logits["rr"], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("wanted", [30_000, 150_000, 2_000_000])
@pytest.mark.parametrize("shape", [{}, {"blocks": (2, 2, 2, 2), "characteristics": "all"}])
def test_a_size_on_demand_is_met_within_five_percent(wanted, shape):
    model = ResNet(ResNetConfig.of_size(wanted, **shape))
    assert model.n_parameters() == pytest.approx(wanted, rel=0.05)
    assert model.config.blocks == shape.get("blocks", ResNetConfig().blocks)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="known are all, none"):
        ResNetConfig(characteristics="some")
    with pytest.raises(ValueError, match="every stage"):
        ResNetConfig(blocks=(1, 0))
    with pytest.raises(ValueError, match="no width"):
        ResNetConfig.of_size(300)


@pytest.fixture(scope="module")
def fitted(cohort, inputs):
    config = training.FitConfig(epochs=20, patience=20, batch_size=5, lr=1e-2, noise_mv=0.0)
    return training.fit(build(inputs, tuple(cohort.tasks), dropout=0.0, **SMALL), inputs, cohort, config)


def test_it_fits_a_small_cohort_and_missing_tasks_are_absent(cohort, fitted):
    history = fitted.history["train"]
    assert history.iloc[-1] < 0.6 * history.iloc[0]
    assert set(fitted.predictions) == {"rr", "age", "sex", "rhythm"}, "potassium has no label"
    train = cohort.split == "train"
    sex = cohort.targets()["sex"]
    assert np.mean((fitted.predictions["sex"] > 0.5)[train] == sex[train]) > 0.8


def test_training_gets_noise_because_it_sees_the_signal(cohort, inputs):
    quiet, noisy = (
        training.fit(
            build(inputs, ("age",), **SMALL),
            inputs,
            cohort,
            training.FitConfig(epochs=1, batch_size=16, noise_mv=noise),
        ).predictions["age"]
        for noise in (0.0, 0.5)
    )
    assert not np.allclose(quiet, noisy, atol=1e-3)


def test_every_block_learns(cohort, inputs, fitted):
    fresh = build(inputs, tuple(cohort.tasks), dropout=0.0, **SMALL)
    before, after = dict(fresh.named_parameters()), dict(fitted.model.named_parameters())
    still = [name for name in after if name.startswith(("stem", "blocks")) and torch.equal(before[name], after[name])]
    assert still == []


def test_scales_come_from_the_training_part_alone(cohort, inputs, fitted):
    train = cohort.split == "train"
    np.testing.assert_allclose(fitted.model.scale_leads.sd_D.numpy(), cohort.signal[train].std((0, 2)), rtol=1e-3)
    louder = replace(cohort, signal=cohort.signal.copy())
    louder.signal[~train] *= 3
    again = build(inputs, tuple(cohort.tasks), **SMALL)
    rows = torch.from_numpy(np.flatnonzero(train))
    targets = {name: torch.from_numpy(values)[rows] for name, values in cohort.targets().items()}
    again.fit_scales(features.from_signal(louder.signal, cohort.fs).take(rows), targets)
    torch.testing.assert_close(again.scale_leads.sd_D, fitted.model.scale_leads.sd_D)


def test_the_characteristics_solve_a_linear_task_before_training(cohort, inputs):
    model = build(inputs, tuple(cohort.tasks), characteristics="all", **SMALL)
    rows = torch.from_numpy(np.flatnonzero(cohort.split == "train"))
    targets = {name: torch.from_numpy(values)[rows] for name, values in cohort.targets().items()}
    model.fit_scales(inputs.take(rows), targets)
    zeros = {name: torch.zeros(len(rows), TASKS[name].n_outputs) for name in cohort.tasks}
    told = model.shortcut.added(model.shortcut(inputs.take(rows)), zeros)
    assert (model.predict(told)["rr"] - targets["rr"]).abs().mean() < 0.2 * targets["rr"].std()
    assert (told["sex"] == 0).all() and (told["rhythm"] == 0).all()
