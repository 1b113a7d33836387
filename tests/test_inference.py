"""Answers from recordings: only what is needed runs, and nothing else changes."""

import numpy as np
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import backbones, features, inference
from ecgmoe.backbones.adapt import resample
from ecgmoe.fusion import ECGMoE, ECGMoEConfig

NAMES = ("timesnet", "dlinear", "ecg-fm")


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(10)


@pytest.fixture(scope="module")
def networks():
    return {name: backbones.build(name, "compact-random") for name in NAMES}


def build(networks, **shape) -> ECGMoE:
    torch.manual_seed(0)
    model = ECGMoE(ECGMoEConfig({name: network.d_features for name, network in networks.items()}, **shape)).eval()
    for layer in (*model.heads.values(), *model.shortcut.values()):
        layer.reset_parameters()  # they start at zero
    if model.router is not None:
        model.router.score.weight.data *= 30  # records and tasks differ
    return model


@pytest.fixture
def counted(networks, monkeypatch):
    """Records that each backbone encoded."""
    seen = dict.fromkeys(networks, 0)
    for name, network in networks.items():
        encode = network.encode

        def counting(x, name=name, encode=encode):
            seen[name] += len(x)
            return encode(x)

        monkeypatch.setattr(network, "encode", counting)
    return seen


def test_recordings_are_made_into_what_the_model_was_trained_on(cohort, networks):
    """Rate, and the length, number and window of beats are the model's own: a caller cannot mix them up."""
    model = build(networks, beat_window=None, max_beats=7, beat_length=48)
    by_phase = inference.answer(model, networks, cohort.signal, cohort.fs).predictions["age"]
    with torch.no_grad():
        of_all = {name: network.features(cohort.signal, cohort.fs) for name, network in networks.items()}
        shown = {"beat_window": None, "max_beats": 7, "beat_length": 48}
        inputs = features.from_signal(cohort.signal, cohort.fs, of_all, **shown)
        expected = model.predict(model(inputs).logits)["age"].numpy()
    np.testing.assert_allclose(by_phase, expected, rtol=1e-5)
    by_time = inference.answer(build(networks), networks, cohort.signal, cohort.fs).predictions["age"]
    assert not np.allclose(by_phase, by_time, rtol=1e-3)
    twice = resample(torch.from_numpy(cohort.signal), cohort.fs, 2 * cohort.fs)
    faster = inference.answer(build(networks), networks, twice, 2 * cohort.fs).predictions["age"]
    taken_for_slow = inference.answer(build(networks), networks, twice, cohort.fs).predictions["age"]
    assert np.abs(faster - by_time).max() < 0.5 * np.abs(taken_for_slow - by_time).max()


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("tasks", [None, ("sex",), ("rhythm", "age")])
def test_answers_equal_the_dense_computation(cohort, networks, k, tasks):
    model = build(networks, top_k=k)
    found = inference.answer(model, networks, cohort.signal, cohort.fs, tasks, batch_size=4)
    with torch.no_grad():
        of_all = {name: network.features(cohort.signal, cohort.fs) for name, network in networks.items()}
        inputs = features.from_signal(cohort.signal, cohort.fs, of_all)
        expected = model.predict(model(inputs, tasks).logits)
        choice = model.choose(inputs, tasks)
    assert list(found.predictions) == list(tasks or model.tasks)
    for name, values in found.predictions.items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-5)
    assert np.array_equal(found.ran_BM, np.ones((10, 3), bool) if choice is None else choice.chosen_BM.numpy())


def test_each_backbone_runs_on_the_records_that_chose_it_and_no_other(cohort, networks, counted):
    model = build(networks, top_k=1)
    found = inference.answer(model, networks, cohort.signal, cohort.fs, batch_size=4)
    assert list(counted.values()) == found.ran_BM.sum(0).tolist()
    assert sum(counted.values()) == len(cohort)
    for name in counted:
        counted[name] = 0
    inference.answer(build(networks), networks, cohort.signal, cohort.fs)
    assert set(counted.values()) == {len(cohort)}


@pytest.mark.parametrize("k", [0, 1])
def test_backbones_that_the_model_holds_run_within_it(cohort, k, monkeypatch):
    few = {name: backbones.build(name, "compact-random") for name in ("timesnet", "ecg-fm")}
    model = build(few, top_k=k, lora="backbone", preset="compact-random")
    assert list(model.networks) == ["ecg-fm"]
    inputs = features.from_signal(cohort.signal, cohort.fs)
    with torch.no_grad():
        inputs.features["timesnet"] = few["timesnet"].features(cohort.signal, cohort.fs)
        expected = model.predict(model(inputs).logits)
    own, seen = model.networks["ecg-fm"], []
    encode = own.encode
    monkeypatch.setattr(own, "encode", lambda x: seen.append(len(x)) or encode(x))
    found = inference.answer(model, {"timesnet": few["timesnet"]}, cohort.signal, cohort.fs, batch_size=4)
    assert sum(seen) == found.ran_BM[:, 1].sum()
    for name, values in found.predictions.items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-4, atol=1e-5)


def test_beats_are_as_long_as_the_model_has_learnt_them(cohort, networks):
    model = build(networks, beat_length=32)
    found = inference.answer(model, networks, cohort.signal[:4], cohort.fs)
    with torch.no_grad():
        of_all = {name: network.features(cohort.signal[:4], cohort.fs) for name, network in networks.items()}
        inputs = features.from_signal(cohort.signal[:4], cohort.fs, of_all, beat_length=32)
        expected = model.predict(model(inputs).logits)
    for name, values in found.predictions.items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-5)


def test_the_model_card_shows_how_to_get_answers(cohort, networks, tmp_path):
    model = build(networks, preset="compact-random", top_k=2)
    model.save_pretrained(tmp_path)
    code = "".join((tmp_path / "README.md").read_text().split("```python\n")[i].split("```")[0] for i in (1, 2))
    known = {"signal": cohort.signal[:2], "fs": cohort.fs}
    exec(code.replace("this folder, or a name on the hub", str(tmp_path)), known)
    expected = inference.answer(model, networks, cohort.signal[:2], cohort.fs).predictions
    for name, values in known["predictions"].items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)


def test_only_heads_of_requested_tasks_run(cohort, networks):
    model = build(networks, top_k=2)
    called = []
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: called.append(name))
    inference.answer(model, networks, cohort.signal, cohort.fs, ("potassium",))
    assert called == ["potassium"]


@pytest.mark.parametrize("k", [0, 2])
def test_an_answer_does_not_depend_on_the_batch(cohort, networks, k):
    model = build(networks, top_k=k)
    together = inference.answer(model, networks, cohort.signal, cohort.fs)
    for row in (0, 7):
        alone = inference.answer(model, networks, torch.from_numpy(cohort.signal[row : row + 1]), cohort.fs)
        assert np.array_equal(alone.ran_BM[0], together.ran_BM[row])
        for name, values in together.predictions.items():
            np.testing.assert_allclose(alone.predictions[name][0], values[row], rtol=1e-4, atol=1e-5)


def test_a_model_that_trains_answers_without_dropout_and_gradients(cohort, networks):
    model = build(networks, top_k=2)
    expected = inference.answer(model, networks, cohort.signal[:2], cohort.fs).predictions
    found = inference.answer(model.train(), networks, cohort.signal[:2], cohort.fs).predictions
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert all(weight.grad is None for weight in model.parameters())


def test_what_cannot_be_answered_is_refused(cohort, networks):
    model = build(networks)
    with pytest.raises(ValueError, match="needs the backbones dlinear"):
        few = {name: network for name, network in networks.items() if name != "dlinear"}
        inference.answer(model, few, cohort.signal, cohort.fs)
    with pytest.raises(ValueError, match="does not answer height; it knows rr"):
        inference.answer(model, networks, cohort.signal, cohort.fs, ("height",))
    for signal in (cohort.signal[:0], cohort.signal[0]):
        with pytest.raises(ValueError, match="at least a record"):
            inference.answer(model, networks, signal, cohort.fs)
