"""Training: it learns, it repeats itself, it fits nothing outside the training part, and the cache is used."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic import toy_cohort

from ecgmoe import backbones, features, run_folder, training
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.objective import SMOOTH_WITHIN_SD

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
        fitted.model.scale_characteristics.mean_D, inputs.characteristics_BA[train].nanmean(0), rtol=1e-4, atol=1e-4
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
    quiet = training.FitConfig(epochs=3, batch_size=16, noise_mv=0.0)
    noisy = training.FitConfig(epochs=3, batch_size=16, noise_mv=0.5)
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
    assert losses.by_task["rr"].item() == pytest.approx(target.abs().mean().item() - SMOOTH_WITHIN_SD / 2, rel=1e-5)
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


@pytest.mark.parametrize("field", ["epochs", "patience", "batch_size", "accumulate", "chunk"])
def test_training_that_cannot_take_place_is_refused(field):
    with pytest.raises(ValueError, match="at least 1"):
        training.FitConfig(**{field: 0})


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lam": -1.0}, {"noise_mv": -0.1}, {"seed": -1}, {"precision": "int8"}])
def test_values_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        training.FitConfig(**wrong)


def test_a_cohort_without_a_part_is_refused(cohort, inputs):
    table = cohort.table.assign(fold=9)
    with pytest.raises(ValueError, match="no train records"):
        training.train(replace(cohort, table=table), inputs, config=CONFIG)


def test_route_shows_the_gates_of_every_record(cohort, inputs, fitted):
    output = training.route(fitted.model, inputs)
    assert output.path_gate_BK2.shape == (len(cohort), 4, 2)
    assert output.periodic.gate_BKE.shape == (len(cohort), 4, 5)


def gradients_of_a_step(cohort, inputs, **config):
    """Loss and gradients of the first step from equal weights, with nothing random in it."""
    shape = ECGMoEConfig(
        {"dlinear": inputs.features["dlinear"].shape[1]}, tasks=tuple(cohort.tasks), dropout=0.0, n_components=8
    )
    torch.manual_seed(0)
    model = ECGMoE(shape)
    fit = training.FitConfig(batch_size=80, noise_mv=0.0, **config)
    run = training._Training(model, inputs, cohort, fit, training.processes.started())
    run._epoch()
    return run.history[0]["train"], {name: p.grad for name, p in model.named_parameters()}


def test_micro_batches_add_up_to_the_batch(cohort, inputs):
    """Forty records in three parts, which have different numbers of labels."""
    (loss, whole), (summed, parts) = (gradients_of_a_step(cohort, inputs, lam=0.0, accumulate=n) for n in (1, 3))
    assert summed == pytest.approx(loss, rel=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(
            parts[name], gradient, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-2


def test_batches_too_small_to_be_shared_are_refused(cohort, inputs):
    with pytest.raises(ValueError, match="larger batch_size"):
        training.train(cohort, inputs, config=training.FitConfig(batch_size=4, accumulate=5))


@pytest.mark.parametrize("config", [{"precision": "bfloat16"}, {"weighting": "uncertainty"}, {"contrast": "views"}])
def test_every_way_of_training_lowers_the_loss(cohort, inputs, config):
    fitted = training.train(cohort, inputs, config=training.FitConfig(epochs=4, batch_size=16, **config))
    assert fitted.history["validation"].min() < 0.9 * fitted.history["validation"].iloc[0]
    assert all(values.dtype == np.float32 for values in fitted.predictions.values())
    if "weighting" in config:
        assert fitted.model.log_variance_K.abs().min() > 0


def a_training(cohort, inputs, **config):
    model = ECGMoE(ECGMoEConfig(d_features={"dlinear": inputs.features["dlinear"].shape[1]}, tasks=tuple(cohort.tasks)))
    return training._Training(model, inputs, cohort, training.FitConfig(**config), training.processes.started())


def test_an_epoch_takes_every_record_once_in_an_order_of_its_own(cohort, inputs):
    run = a_training(cohort, inputs, batch_size=9)
    first = run._batches()
    run.history.append({"validation": 1.0})
    second = run._batches()
    train = set(np.flatnonzero(cohort.split == "train"))
    for batches in (first, second):
        assert sorted(torch.cat(batches).tolist()) == sorted(train)
        assert {len(batch) for batch in batches} == {8}
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_records_of_a_patient_come_side_by_side_where_the_contrast_needs_it(cohort, inputs):
    table = cohort.table.assign(patient_id=np.arange(len(cohort)) % 16)
    order = torch.cat(a_training(replace(cohort, table=table), inputs, contrast="patient")._batches())
    patients = table["patient_id"].to_numpy()[order]
    assert (np.diff(patients) != 0).sum() == len(set(patients)) - 1


def test_only_the_contrast_by_patient_looks_at_patients(cohort, inputs):
    table = cohort.table.assign(patient_id=np.arange(len(cohort)) % 16)
    for contrast, n_groups in (("record", len(cohort)), ("views", len(cohort)), ("patient", 16)):
        group = a_training(replace(cohort, table=table), inputs, contrast=contrast).group
        assert len(group.unique()) == n_groups, contrast


def test_training_goes_on_from_a_model_of_the_same_shape_alone(cohort, inputs, fitted):
    config = training.FitConfig(epochs=1, batch_size=16, lr=1e-9)
    further = training.train(cohort, inputs, config=config, start=fitted.model)
    np.testing.assert_allclose(further.predictions["age"], fitted.predictions["age"], rtol=1e-4)
    with pytest.raises(
        ValueError, match="start is of another shape: after.0.bias, after.0.weight, from_backbones.bias, ..."
    ):
        training.train(cohort, inputs, config=config, start=fitted.model, width=32)


def test_backbones_in_the_loop_are_those_that_the_features_come_from(cohort, monkeypatch):
    inputs = features.make_inputs(cohort, names=("moment",), preset="compact-random", seed=5)
    assert inputs.seed == inputs.take(torch.arange(3)).seed == inputs.to("cpu").seed == 5
    monkeypatch.setattr(training, "fit", lambda model, *_: model)
    config = training.FitConfig(seed=1)  # several trainings share the inputs
    model = training.train(cohort, inputs, config=config, preset="compact-random", lora="backbone")
    frozen = {
        name.replace(".base_layer", ""): weight
        for name, weight in model.networks["moment"].named_parameters()
        if ".lora_" not in name
    }
    expected = backbones.build("moment", "compact-random", seed=5).state_dict()
    assert len(frozen) > 5
    for name, weight in frozen.items():
        assert torch.equal(weight, expected[name]), name


SHORT = {"epochs": 4, "batch_size": 16}


def same(a, b):
    for name, weight in a.model.state_dict().items():
        assert torch.equal(weight, b.model.state_dict()[name]), name
    for name, values in a.predictions.items():
        np.testing.assert_array_equal(values, b.predictions[name])
    assert a.history.equals(b.history)


@pytest.fixture(scope="module")
def whole(cohort, inputs):
    return training.train(cohort, inputs, config=training.FitConfig(**SHORT))


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("moment", ["_epoch", "_keep", "save_file", "finished"])
def test_interrupted_training_goes_on_to_the_same_result(cohort, inputs, whole, tmp_path, monkeypatch, moment):
    """In an epoch, before its checkpoint, while the checkpoint is written, and when all epochs are done."""
    calls = []
    owner = {"save_file": run_folder, "finished": training}.get(moment, training._Training)
    name = "_answers" if moment == "finished" else moment
    last = {"save_file": 6, "finished": 1}.get(moment, 3)  # two files a checkpoint: the second of the third
    real = getattr(owner, name)

    def dies(*arguments):
        calls.append(1)
        if len(calls) == last:
            raise KilledError
        return real(*arguments)

    monkeypatch.setattr(owner, name, dies)
    with pytest.raises(KilledError):
        training.train(cohort, inputs, config=training.FitConfig(**SHORT), folder=tmp_path)
    left = run_folder.latest(tmp_path)
    assert left.name == ("checkpoint-4" if moment == "finished" else "checkpoint-2")
    monkeypatch.undo()
    time.sleep(1.1)  # TensorBoard orders its files by the second, and within one by a number without leading zeros
    same(training.train(cohort, inputs, config=training.FitConfig(**SHORT), folder=tmp_path), whole)
    check_folder(tmp_path, whole)


def check_folder(folder, fitted):
    """One line an epoch, in JSON lines and in TensorBoard, and no checkpoint left."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == fitted.history.to_dict("records")
    log = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in log.Scalars("validation")] == [
        (i + 1, np.float32(value)) for i, value in enumerate(fitted.history["validation"])
    ]
    assert not [*folder.glob("*checkpoint*")]


def test_a_finished_folder_returns_at_once(cohort, inputs, whole, tmp_path, monkeypatch):
    config = training.FitConfig(**SHORT)
    same(training.train(cohort, inputs, config=config, folder=tmp_path), whole)
    check_folder(tmp_path, whole)
    monkeypatch.setattr(training._Training, "_epoch", None)
    monkeypatch.setattr(training, "_forward", None)
    same(training.train(cohort, inputs, config=config, folder=tmp_path), whole)


def test_the_folder_of_another_run_is_refused(cohort, inputs, tmp_path):
    config = training.FitConfig(epochs=1)
    training.train(cohort, inputs, config=config, folder=tmp_path)
    for changes, said in (
        ({"config": replace(config, lr=0.5)}, r"config.lr is 0.002 there and 0.5 here.*another folder"),
        ({"fusion": "sum"}, "model.fusion is 'concat' there and 'sum' here"),
        ({"cohort": replace(cohort, table=cohort.table.assign(age=50.0))}, "data.digest is"),
        ({"inputs": inputs._replace(characteristics_BA=inputs.characteristics_BA + 1)}, "data.inputs is"),
    ):
        arguments = {"cohort": cohort, "inputs": inputs, "config": config, **changes}
        with pytest.raises(ValueError, match=said):
            training.train(folder=tmp_path, **arguments)


def test_a_folder_of_something_else_is_refused(cohort, inputs, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no training run; take a new folder"):
        training.train(cohort, inputs, config=training.FitConfig(epochs=1), folder=tmp_path)


def test_frozen_parameters_are_not_kept(cohort, inputs, tmp_path):
    fitted = training.train(cohort, inputs, config=training.FitConfig(epochs=1), folder=tmp_path, lora="fusion")
    kept = load_file(tmp_path / "finished" / "weights.safetensors")
    frozen = {name for name, p in fitted.model.named_parameters() if not p.requires_grad}
    assert frozen and set(kept) == set(fitted.model.state_dict()) - frozen


def test_what_is_not_finite_is_null_in_the_metrics(tmp_path):
    run_folder.write_metrics(tmp_path, [{"epoch": 0, "train": float("nan")}])
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"epoch": 0, "train": None}


def test_a_refit_learns_from_the_validation_part_for_all_epochs_and_keeps_the_last_weights(cohort, inputs):
    config = training.FitConfig(epochs=4, patience=1, batch_size=16, lr=0.02, refit=True)
    fitted = training.train(cohort, inputs, config=config)
    assert len(fitted.history) == 4, "nothing stops it"
    assert training.best_epoch(training.train(cohort, inputs, config=CONFIG)) <= CONFIG.epochs
    seen = cohort.split != "test"
    scale = fitted.model.target_scale("age")
    known = cohort.targets()["age"][seen]
    assert float(scale.mean_D) == pytest.approx(np.nanmean(known), rel=1e-4)
    changed = cohort.table.copy()
    changed.loc[cohort.split == "validation", "age"] = 20.0
    other = training.train(replace(cohort, table=changed), inputs, config=config)
    assert not np.allclose(other.predictions["age"], fitted.predictions["age"])
    changed = cohort.table.copy()
    changed.loc[cohort.split == "test", "age"] = 20.0
    same = training.train(replace(cohort, table=changed), inputs, config=config)
    np.testing.assert_array_equal(same.predictions["age"], fitted.predictions["age"])


def test_recordings_are_turned_and_lose_nothing(inputs):
    place = torch.linspace(0, 0.999, inputs.n_records)
    turned = training._turned(inputs, place).signal_BCT
    T = turned.shape[-1]
    for before, after, start in zip(inputs.signal_BCT, turned, (place * T).long(), strict=True):
        torch.testing.assert_close(after, before.roll(-int(start), -1), rtol=0, atol=0)


def test_only_models_that_look_at_the_signal_learn_from_turned_ones(cohort, inputs, monkeypatch):
    seen = []
    turn = training._turned
    monkeypatch.setattr(training, "_turned", lambda inputs, place: seen.append(len(place)) or turn(inputs, place))
    training.train(cohort, inputs, config=replace(CONFIG, epochs=1))
    assert not seen
    training.train(cohort, inputs, config=replace(CONFIG, epochs=1), periodic="self_attention")
    assert sum(seen) == int((cohort.split == "train").sum())
