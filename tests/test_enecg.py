"""EnECG: the published form with all its faults, the mended one, and what is common to both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import enecg, features, training
from ecgmoe.enecg import EnECG, EnECGConfig
from ecgmoe.tasks import TASKS

NAMES = ("moment", "tempo", "ecg-fm", "dlinear", "timesnet")
WIDTHS = dict(zip(NAMES, (7, 6, 5, 4, 3), strict=True))
B = 6
TINY = {"hidden": 16, "gate_samples": 50, "dropout": 0.0}


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort()


@pytest.fixture(scope="module")
def inputs(cohort):
    """Features that tell the labels in part, so that there is something to learn and to mix up."""
    g = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(len(cohort), width, generator=g) for name, width in WIDTHS.items()}
    sex = torch.from_numpy(cohort.targets()["sex"])
    for feature_BD in drawn.values():
        feature_BD[:, 0] = 2 * sex - 1
    return features.from_signal(cohort.signal, cohort.fs, drawn)


def published(task, **shape):
    torch.manual_seed(0)
    return EnECG(EnECGConfig.published(WIDTHS, task, **(TINY | shape)))


def mended(tasks=tuple(TASKS), **shape):
    torch.manual_seed(0)
    return EnECG(EnECGConfig.mended(WIDTHS, tasks, **(TINY | shape)))


MODELS = {
    "published": lambda: published("rhythm"),
    "published, binary": lambda: published("sex"),
    "mended": mended,
    "mended, told": lambda: mended(characteristics="all"),
}


@pytest.mark.parametrize("name", MODELS)
def test_both_forms_keep_the_contract_and_a_record_is_alone(inputs, name):
    model = MODELS[name]().eval()
    batch = inputs.take(torch.arange(B))
    out = model(batch)
    assert {task: logits.shape for task, logits in out.logits.items()} == {
        task: (B, TASKS[task].n_outputs) for task in model.tasks
    }
    assert out.backbone_gate_BKM.shape == (B, len(model.tasks), len(NAMES))
    torch.testing.assert_close(out.backbone_gate_BKM.sum(-1), torch.ones(B, len(model.tasks)))
    for row in range(B):
        alone = model(inputs.take(torch.tensor([row]))).logits
        for task, logits in out.logits.items():
            torch.testing.assert_close(alone[task][0], logits[row], atol=1e-5, rtol=1e-4)


def test_the_outputs_of_the_networks_are_averaged_by_the_gate(inputs):
    model = mended(("rr", "rhythm")).eval()
    batch = inputs.take(torch.arange(B))
    out = model(batch)
    for k, columns in enumerate((slice(0, 1), slice(1, 16))):
        answers = [model.ffn[name](model.scale_features[name](batch.features[name]))[:, columns] for name in NAMES]
        by_hand = sum(out.backbone_gate_BKM[:, k, m, None] * answer for m, answer in enumerate(answers))
        torch.testing.assert_close(out.logits[model.tasks[k]], by_hand)


def test_the_published_sizes():
    model = published("rhythm", hidden=256, gate_samples=5000)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if "lora" not in name and "ffn" not in name}
    assert shapes["gate.0.base_layer.weight"] == (256, 5000) and shapes["gate.2.base_layer.weight"] == (5, 256)
    assert [model.project[name].out_features for name in NAMES] == [1, 15, 15, 1, 1]
    tempo = model.ffn["tempo"]
    assert [(tempo[i].in_features, tempo[i].out_features) for i in (0, 2, 4)] == [(15, 256), (256, 256), (256, 15)]
    lora = model.gate[0]
    assert lora.r["default"] == 8 and lora.scaling["default"] == 32 / 8 and lora.lora_dropout["default"].p == 0.05


def test_published_adapters_learn_and_the_random_base_stays_to_the_last_bit(inputs):
    model = published("rr", reads="features")
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == {f"ffn.{name}.{i}" for name in NAMES for i in (0, 2)} | {"gate.0", "gate.2"}
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # A learns only once B has left its start at zero
        optimizer.zero_grad()
        model(inputs.take(torch.arange(B))).logits["rr"].sub(800).square().mean().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (".lora_" not in name), name
    assert any(name == "ffn.tempo.4.weight" for name in before), "the last layer is among what stays"


def test_the_published_form_knows_no_scale(cohort, inputs):
    model = published("rr")
    targets = {"rr": torch.from_numpy(cohort.targets()["rr"])}
    model.fit_scales(inputs, targets)
    torch.testing.assert_close(model.target_scale("rr")(targets["rr"]), targets["rr"]), "nothing is cut"
    logits = torch.tensor([[812.0], [700.0]])
    torch.testing.assert_close(model.predict({"rr": logits})["rr"], logits[:, 0])
    sex = published("sex")
    sex.fit_scales(inputs, {"sex": torch.tensor([0.0, 0.0, 0.0, 1.0])})
    assert sex.positive_weight_K.tolist() == [1.0]
    ours = mended(("rr", "sex"))
    ours.fit_scales(inputs, {"rr": targets["rr"], "sex": torch.tensor([0.0, 0.0, 0.0, 1.0])})
    assert ours.positive_weight_K.tolist() == [1.0, 3.0]
    assert ours.target_scale("rr").mean_D.item() == pytest.approx(targets["rr"].mean().item(), rel=1e-5)


def test_the_gate_sees_one_lead_or_the_characteristics(inputs):
    batch = inputs.take(torch.arange(B))
    other_leads = batch.signal_BCT.clone()
    other_leads[:, [0, *range(2, 12)]] += torch.randn_like(other_leads[:, 1:])
    moved = batch._replace(signal_BCT=other_leads)
    told = batch._replace(characteristics_BA=batch.characteristics_BA + 1)
    by_lead, by_characteristics = mended().eval(), mended(characteristics="all").eval()

    def gate(model, x):
        return model(x).backbone_gate_BKM

    torch.testing.assert_close(gate(by_lead, batch), gate(by_lead, moved))
    torch.testing.assert_close(gate(by_lead, batch), gate(by_lead, told))
    torch.testing.assert_close(gate(by_characteristics, batch), gate(by_characteristics, moved))
    assert not torch.allclose(gate(by_characteristics, batch), gate(by_characteristics, told))
    first = mended(gate_lead=0).eval()
    assert not torch.allclose(gate(first, batch), gate(first, moved))
    assert by_lead.sees_signal and not by_characteristics.sees_signal


def one_step_apart(inputs, cohort, apart):
    """Predictions after one epoch of one batch, which holds all training records."""
    config = EnECGConfig.published(WIDTHS, "sex", **TINY)
    return enecg.fit_published(config, inputs, cohort, apart=apart, epochs=1, batch_size=1000, lr=0.1)


def test_loaders_that_shuffle_apart_pair_labels_with_other_patients(cohort, inputs, monkeypatch):
    seen = []
    forward = EnECG.forward

    def spy(self, batch):
        if self.training:
            seen.append({name: feature_BD[:, 0].clone() for name, feature_BD in batch.features.items()})
        return forward(self, batch)

    monkeypatch.setattr(EnECG, "forward", spy)
    one_step_apart(inputs, cohort, apart=False)
    assert all(torch.equal(seen[0][name], seen[0]["moment"]) for name in NAMES)
    one_step_apart(inputs, cohort, apart=True)
    mixed = seen[1]
    assert torch.equal(mixed["moment"], mixed["ecg-fm"]) and torch.equal(mixed["dlinear"], mixed["timesnet"])
    for a, b in (("moment", "tempo"), ("moment", "dlinear"), ("tempo", "dlinear")):
        assert not torch.equal(mixed[a], mixed[b]), f"{a} and {b} saw the same patients"
        assert torch.equal(mixed[a].sort().values, mixed[b].sort().values), "each sees all of them once"


def test_published_is_one_model_a_task(cohort, inputs):
    config = EnECGConfig.published(enecg.widths(inputs), "sex", **TINY)
    first, again, other = (enecg.fit_published(config, inputs, cohort, seed=seed) for seed in (3, 3, 4))
    assert list(first.predictions) == ["sex"]
    assert list(first.history.columns) == ["epoch", "train"] and len(first.history) == 5
    np.testing.assert_array_equal(first.predictions["sex"], again.predictions["sex"])
    assert not np.allclose(first.predictions["sex"], other.predictions["sex"])
    with pytest.raises(ValueError, match="one model a task"):
        enecg.fit_published(EnECGConfig.mended(WIDTHS), inputs, cohort)
    with pytest.raises(ValueError, match="label of potassium"):
        enecg.fit_published(EnECGConfig.published(WIDTHS, "potassium", **TINY), inputs, cohort)


def test_raw_milliseconds_are_out_of_reach_in_five_epochs(cohort, inputs):
    rr = cohort.targets()["rr"]
    rows = cohort.split == "test"
    raw = enecg.fit_published(EnECGConfig.published(WIDTHS, "rr", **TINY), inputs, cohort).predictions["rr"]
    constant = np.abs(rr - rr[cohort.split == "train"].mean())[rows].mean()
    assert np.abs(raw - rr)[rows].mean() > 3 * constant


@pytest.mark.parametrize("characteristics", ["none", "all"])
def test_mended_learns_what_the_features_tell(cohort, inputs, characteristics):
    config = training.FitConfig(epochs=15, patience=15, batch_size=10, lr=5e-3)
    told = enecg.train_mended(cohort, inputs, config, characteristics=characteristics, **TINY)
    assert told.history["train"].iloc[-1] < 0.8 * told.history["train"].iloc[0]
    rows, targets = cohort.split == "test", cohort.targets()
    assert np.mean((told.predictions["sex"] > 0.5)[rows] == targets["sex"][rows]) > 0.9
    error = np.abs(told.predictions["rr"] - targets["rr"])[rows].mean()
    constant = np.abs(targets["rr"] - targets["rr"][~rows].mean())[rows].mean()
    assert (error < 0.3 * constant) == (characteristics == "all"), "only the characteristics tell the rate"
    again = enecg.train_mended(cohort, inputs, config, characteristics=characteristics, **TINY)
    for task in told.predictions:
        np.testing.assert_array_equal(told.predictions[task], again.predictions[task])


def test_the_published_form_is_trained_by_the_shared_engine_as_well(cohort, inputs):
    config = training.FitConfig(epochs=1, batch_size=16)
    fitted = training.fit(published("rr"), inputs, cohort, config)
    losses = fitted.history["rr"]
    assert losses.iloc[-1] > 100, "the loss is in milliseconds, and not cut"


def test_impossible_configurations_are_refused():
    for changes, message in (
        ({"d_features": {}}, "at least one"),
        ({"reads": "signal"}, "known are features, output"),
        ({"characteristics": "some"}, "known are all, none"),
        ({"raw": True, "characteristics": "all"}, "exclude"),
        ({"tasks": ("height",)}, "height"),
    ):
        with pytest.raises(ValueError, match=message):
            EnECG(replace(EnECGConfig(WIDTHS), **changes))
