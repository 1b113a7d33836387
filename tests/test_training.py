"""Training: it learns, it repeats itself, it fits nothing outside the training part, and the cache is used."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import backbones, features, training
from ecgmoe.fusion import ECGMoE, ECGMoEConfig

CONFIG = training.FitConfig(epochs=8, patience=8, batch_size=16)


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.fixture(scope="module")
def inputs(cohort):
    return features.make_inputs(cohort, names=("dlinear",), preset="compact-random")


@pytest.fixture(scope="module")
def fitted(cohort, inputs):
    return training.train(cohort, inputs, config=CONFIG)


def test_the_rr_interval_is_learnt_and_missing_tasks_are_absent(cohort, fitted):
    test = cohort.split == "test"
    error = np.abs(fitted.predictions["rr"] - cohort.targets()["rr"])[test].mean()
    constant = np.abs(cohort.targets()["rr"][test] - cohort.targets()["rr"][~test].mean()).mean()
    assert error < 0.2 * constant
    assert set(fitted.predictions) == {"rr", "age", "sex", "rhythm"}
    assert fitted.predictions["rhythm"].shape == (len(cohort), 15)
    np.testing.assert_allclose(fitted.predictions["rhythm"].sum(1), 1, rtol=1e-5)
    assert list(fitted.history.columns[:3]) == ["epoch", "train", "validation"]


def test_training_lowers_the_loss(fitted):
    assert fitted.history["train"].iloc[-1] < 0.9 * fitted.history["train"].iloc[0]


def test_one_seed_one_result(cohort, inputs, fitted):
    state = torch.random.get_rng_state()
    again = training.train(cohort, inputs, config=CONFIG)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is left alone"
    other = training.train(cohort, inputs, config=training.FitConfig(epochs=8, batch_size=16, seed=1))
    for name, values in fitted.predictions.items():
        np.testing.assert_array_equal(values, again.predictions[name])
    assert not np.allclose(fitted.predictions["age"], other.predictions["age"])


def test_scales_come_from_the_training_part_alone(cohort, inputs, fitted):
    train = torch.from_numpy(np.flatnonzero(cohort.split == "train"))
    torch.testing.assert_close(
        fitted.model.scale_characteristics.mean_D, inputs.characteristics_BA[train].mean(0), rtol=1e-4, atol=1e-4
    )
    ages = cohort.targets()["age"][cohort.split == "train"]
    assert fitted.model.scale_target["age"].mean_D.item() == pytest.approx(np.nanmean(ages), rel=1e-4)


def test_labels_of_test_records_do_not_touch_the_model(cohort, inputs, fitted):
    changed = cohort.table.copy()
    changed.loc[cohort.split == "test", ["age", "rr_interval"]] = 1.0
    again = training.train(replace(cohort, table=changed), inputs, config=CONFIG)
    np.testing.assert_array_equal(fitted.predictions["age"], again.predictions["age"])


@pytest.mark.parametrize("shape", [{"periodic": "none"}, {"names": ()}, {"lora": "fusion"}, {"periodic": "time_moe"}])
def test_variants_train(cohort, inputs, shape):
    fitted = training.train(cohort, inputs, config=training.FitConfig(epochs=1, batch_size=16), **shape)
    assert all(np.isfinite(values).all() for values in fitted.predictions.values())


def test_rivals_train_under_the_same_noise(cohort, inputs):
    quiet = training.FitConfig(epochs=1, batch_size=16, noise_mv=0.0)
    noisy = training.FitConfig(epochs=1, batch_size=16, noise_mv=0.5)
    for periodic in ("experts", "moe"):
        a, b = (training.train(cohort, inputs, config=config, periodic=periodic) for config in (quiet, noisy))
        assert not np.allclose(a.predictions["age"], b.predictions["age"], atol=1e-3), periodic


def test_both_classes_weigh_the_same(cohort, fitted):
    sex = cohort.targets()["sex"][cohort.split == "train"]
    weight = fitted.model.positive_weight_K[fitted.model.config.tasks.index("sex")].item()
    assert weight * (sex == 1).sum() == pytest.approx((sex == 0).sum())


def test_a_loss_that_is_never_finite_is_an_error(cohort, inputs):
    broken = inputs._replace(beats=inputs.beats._replace(beat_BNCL=inputs.beats.beat_BNCL * float("inf")))
    with pytest.raises(ValueError, match="never finite"):
        training.train(cohort, broken, config=training.FitConfig(epochs=1, batch_size=16))


def test_objective_masks_missing_labels_and_never_broadcasts(inputs):
    model = ECGMoE(ECGMoEConfig(d_features={"dlinear": inputs.features["dlinear"].shape[1]}))
    batch = inputs.take(torch.arange(8))
    target = torch.linspace(-1, 1, 8)
    nothing = torch.full((8,), float("nan"))
    targets = {"rr": target, "age": target, "sex": nothing, "potassium": nothing, "rhythm": nothing}
    output = model(batch)
    zero = output._replace(logits={name: logits * 0 for name, logits in output.logits.items()}, contrast=None)
    losses = training.objective(model, zero, targets)
    assert losses.by_task["rr"].item() == pytest.approx(target.abs().mean().item() - 0.05, rel=1e-5)
    assert losses.by_task["sex"].item() == 0
    exact = zero._replace(logits={**zero.logits, "rr": target[:, None], "age": target[:, None]})
    assert training.objective(model, exact, targets).total.item() == pytest.approx(0, abs=1e-7)


def test_contrastive_term_is_least_when_the_paths_agree(inputs):
    model = ECGMoE(ECGMoEConfig(d_features={"dlinear": inputs.features["dlinear"].shape[1]}))
    output = model(inputs.take(torch.arange(8)))
    targets = {name: torch.full((8,), float("nan")) for name in output.logits}
    a = torch.nn.functional.one_hot(torch.arange(8), 64).float()
    agree = training.objective(model, output._replace(contrast=(a, a)), targets).contrastive
    differ = training.objective(model, output._replace(contrast=(a, a.roll(1, 0))), targets).contrastive
    assert agree < 0.1 < differ


def test_features_are_computed_once(cohort, monkeypatch):
    first = features.backbone_features(cohort, ("dlinear",), "compact-random")
    monkeypatch.setattr(backbones.kind_of("dlinear"), "encode", None)
    again = features.backbone_features(cohort, ("dlinear",), "compact-random")
    np.testing.assert_array_equal(first["dlinear"], again["dlinear"])
    with pytest.raises(TypeError):
        features.backbone_features(cohort, ("dlinear",), "compact-random", seed=7)


def test_features_of_every_depth_are_those_of_the_backbone(cohort):
    by_depth = features.features_by_depth(cohort, "timesnet", "compact-random", seed=2)
    backbone = backbones.build("timesnet", "compact-random", seed=2)
    assert len(by_depth) == backbone.n_depths > 1
    rows = [0, features.BATCH, len(cohort) - 1]
    for depth, found in enumerate(by_depth):
        assert found.shape == (len(cohort), backbone.d_features) and found.dtype == np.float32
        with torch.no_grad():
            expected = backbone.features(cohort.signal[rows], cohort.fs, depth).numpy()
        np.testing.assert_allclose(found[rows], expected, atol=1e-4)


def test_training_needs_no_package_that_only_reads_recordings():
    """A GPU machine may have PyTorch, transformers and peft, and nothing else of ours."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['wfdb', 'neurokit2', 'momentfm', 'dask']));"
        "import ecgmoe.training as t; from ecgmoe import backbones; backbones.build('tempo', 'compact-random');"
        "print(t.FitConfig().seed)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("field", ["epochs", "patience", "batch_size"])
def test_training_that_cannot_take_place_is_refused(field):
    with pytest.raises(ValueError, match="at least 1"):
        training.FitConfig(**{field: 0})


def test_a_cohort_without_a_part_is_refused(cohort, inputs):
    table = cohort.table.assign(fold=9)
    with pytest.raises(ValueError, match="no train records"):
        training.train(replace(cohort, table=table), inputs, config=CONFIG)


def test_route_shows_the_gates_of_every_record(cohort, inputs, fitted):
    output = training.route(fitted.model, inputs)
    assert output.path_gate_BK2.shape == (len(cohort), 4, 2)
    assert output.periodic.gate_BKE.shape == (len(cohort), 4, 5)
