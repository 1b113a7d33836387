"""LoRA on backbones: changes nothing when fresh, trains alone, merges, and finds back to the weights it belongs to."""

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecgmoe import backbones
from ecgmoe.backbones import Backbone, lora
from ecgmoe.backbones.published.containers import WeightsError
from ecgmoe.cache import digest

ADAPTED = ("moment", "tempo", "ecg-fm")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def build(name: str, seed: int = 0) -> Backbone:
    return backbones.build(name, "compact-random", seed)


def signal(n_records: int = 3) -> Tensor:
    return torch.randn(n_records, 12, 1000, generator=torch.Generator().manual_seed(1)).cumsum(-1) / 10


def features(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return backbone.features(signal(), 100)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def train(backbone: Backbone, steps: int = 2) -> None:
    optimiser = torch.optim.SGD(lora.parameters(backbone), lr=1.0)
    for _ in range(steps):
        optimiser.zero_grad()
        backbone.features(signal(), 100).square().mean().backward()
        optimiser.step()


@pytest.fixture(params=ADAPTED)
def base(request: pytest.FixtureRequest) -> Backbone:
    return build(request.param)


@pytest.fixture
def trained(base: Backbone) -> Backbone:
    lora.add(base)
    train(base)
    return base


def test_a_fresh_adapter_changes_nothing_and_a_step_changes_only_it(base: Backbone) -> None:
    before, weights = features(base), {key: weight.clone() for key, weight in base.state_dict().items()}
    digest = lora.base_digest(base)
    lora.add(base, rank=4)
    assert distance(features(base), before) <= 1e-6
    trainable = [key for key, weight in base.named_parameters() if weight.requires_grad]
    assert trainable and all("lora_" in key for key in trainable)
    assert len(lora.parameters(base)) == len(trainable)
    projections = len(lora.layers(base))
    n_layers = {"moment": "num_layers", "tempo": "n_layer", "ecg-fm": "layers"}[base.name]
    assert projections == len(base.lora_targets) * getattr(base.config, n_layers)
    started = [weight.detach().clone() for weight in lora.parameters(base)]
    train(base)
    assert all(distance(weight, old) > 0 for weight, old in zip(lora.parameters(base), started, strict=True))
    assert distance(features(base), before) > 1e-4
    after = {key.replace(".base_layer", ""): weight for key, weight in base.state_dict().items() if "lora_" not in key}
    assert after.keys() == weights.keys() and all(torch.equal(after[key], weights[key]) for key in weights)
    assert lora.base_digest(base) == digest
    assert all(weight.grad is None for key, weight in base.named_parameters() if "lora_" not in key)


def test_trainable_weights_are_counted() -> None:
    backbone = build("ecg-fm")
    width = backbone.config.embed_dim
    lora.add(backbone, rank=4, targets=("k_proj",))
    assert backbones.n_parameters(backbone, trainable=True) == backbone.config.layers * 2 * 4 * width


def test_the_seed_decides_the_adapter_and_leaves_the_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build("moment") for _ in range(3))
    for backbone, seed in ((first, 1), (again, 1), (other, 2)):
        lora.add(backbone, seed=seed)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(lora.parameters(first)[0], lora.parameters(again)[0])
    assert not torch.equal(lora.parameters(first)[0], lora.parameters(other)[0])


def test_disabled_gives_the_base_bit_for_bit(trained: Backbone) -> None:
    adapted, expected = features(trained), features(build(trained.name))
    with pytest.raises(KeyError), lora.disabled(trained):
        assert torch.equal(features(trained), expected)
        raise KeyError
    assert torch.equal(features(trained), adapted)
    assert all(weight.requires_grad for weight in lora.parameters(trained))


def test_merge_equals_the_adapted_output_and_unmerge_restores(trained: Backbone) -> None:
    adapted = features(trained)
    before = {key: weight.clone() for key, weight in trained.state_dict().items()}
    lora.merge(trained)
    assert distance(features(trained), adapted) <= 1e-5
    with lora_off(trained):
        assert distance(features(trained), adapted) <= 1e-5  # the change is in the weights
    lora.unmerge(trained)
    restored = max(distance(weight, before[key]) for key, weight in trained.state_dict().items())
    assert restored <= 1e-6
    assert distance(features(trained), adapted) <= 1e-5


class lora_off:  # noqa: N801
    """Adapters set to zero."""

    def __init__(self, backbone: Backbone) -> None:
        self.weights = [weight for key, weight in backbone.named_parameters() if "lora_B" in key]

    def __enter__(self) -> None:
        self.kept = [weight.detach().clone() for weight in self.weights]
        for weight in self.weights:
            weight.data.zero_()

    def __exit__(self, *_: object) -> None:
        for weight, kept in zip(self.weights, self.kept, strict=True):
            weight.data.copy_(kept)


def test_save_and_load(trained: Backbone, tmp_path: Path) -> None:
    lora.save(trained, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [CONFIG, WEIGHTS]
    fresh = build(trained.name)
    lora.load(fresh, tmp_path / "adapter")
    assert torch.equal(features(fresh), features(trained))
    assert [weight.requires_grad for weight in lora.parameters(fresh)] == [True] * len(lora.parameters(trained))
    assert not any(weight.requires_grad for key, weight in fresh.named_parameters() if "lora_" not in key)
    train(fresh, 1)
    lora.save(fresh, tmp_path / "adapter")  # replaces it
    again = build(trained.name)
    lora.load(again, tmp_path / "adapter")
    assert torch.equal(features(again), features(fresh)) and not torch.equal(features(again), features(trained))


def test_peft_reads_the_files_itself(trained: Backbone, tmp_path: Path) -> None:
    lora.save(trained, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["peft_type"] == "LORA"
    read = PeftModel.from_pretrained(build(trained.name), tmp_path)
    with torch.no_grad():
        assert torch.equal(read.features(signal(), 100), features(trained))


def test_files_of_another_backbone_or_of_other_weights_are_refused(trained: Backbone, tmp_path: Path) -> None:
    lora.save(trained, tmp_path)
    other = build(ADAPTED[ADAPTED.index(trained.name) - 1])
    with pytest.raises(WeightsError, match=rf"{WEIGHTS}: the adapter is of {backbones.TITLES[trained.name]};"):
        lora.load(other, tmp_path)
    seeded = build(trained.name, seed=1)
    with pytest.raises(WeightsError, match="trained on other weights"):
        lora.load(seeded, tmp_path)
    for refused in (other, seeded):  # as it was
        assert not any("lora_" in key for key in refused.state_dict())
        assert all(weight.requires_grad for weight in refused.parameters())


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    backbone = build("moment")
    lora.add(backbone)
    lora.save(backbone, tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text())
    metadata = {"format": "pt", "backbone": "moment", "base": lora.base_digest(backbone), "config": digest(config)}
    first = min(weights)
    for damaged, said in (
        ({key: weight for key, weight in weights.items() if key != first}, "1 weights are missing.*" + first),
        (weights | {first: weights[first][:, :-1].contiguous()}, "of another shape"),
        (weights | {"more": weights[first].clone()}, "more first"),
    ):
        save_file(damaged, tmp_path / WEIGHTS, metadata)
        with pytest.raises(WeightsError, match=said):
            lora.load(build("moment"), tmp_path)
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match="not of one of our backbones"):
        lora.load(build("moment"), tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:100])
    with pytest.raises(WeightsError, match="truncated"):
        lora.load(build("moment"), tmp_path)
    other = config | {"target_modules": ["nothing"]}
    save_file(weights, tmp_path / WEIGHTS, metadata | {"config": digest(other)})
    (tmp_path / CONFIG).write_text(json.dumps(other))
    with pytest.raises(WeightsError, match="no linear map of MOMENT is called nothing"):
        lora.load(build("moment"), tmp_path)
    for text in ("{", "{}", '{"peft_type": "IA3"}', "[]"):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(WeightsError, match=f"{CONFIG}: not the configuration of a LoRA"):
            lora.load(build("moment"), tmp_path)
    with pytest.raises(WeightsError, match="absent.*no such file"):
        lora.load(build("moment"), tmp_path / "absent")


@pytest.mark.parametrize("change", [{"lora_alpha": 64}, {"use_rslora": True}])
def test_a_changed_configuration_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    backbone, fresh = build("moment"), build("moment")
    lora.add(backbone)
    lora.save(backbone, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=f"{CONFIG}: is not the configuration that {WEIGHTS} was saved with; "):
        lora.load(fresh, tmp_path)
    assert not any("lora_" in key for key in fresh.state_dict())
    (tmp_path / CONFIG).write_text(json.dumps(config))  # other spaces, same content
    lora.load(fresh, tmp_path)


@pytest.mark.parametrize("failing", ["write", "first", "second"])
def test_a_save_that_fails_leaves_the_old_adapter_or_an_error(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, other = build("moment"), build("moment")
    lora.add(backbone)
    lora.save(backbone, tmp_path)
    lora.add(other, rank=8, alpha=64, seed=1)
    replace, calls = os.replace, {"first": 0, "second": 1}

    def full(*arguments: object) -> None:
        if not calls.get(failing, 0):
            raise OSError("no space left")
        calls[failing] -= 1
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*((lora, "save_file") if failing == "write" else (lora.os, "replace")), full)
        with pytest.raises(OSError, match="no space left"):
            lora.save(other, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    fresh = build("moment")
    if failing == "second":
        with pytest.raises(WeightsError, match="is not the configuration"):
            lora.load(fresh, tmp_path)
        lora.save(other, tmp_path)
        lora.load(fresh, tmp_path)
    else:
        lora.load(fresh, tmp_path)
        assert torch.equal(lora.parameters(fresh)[0], lora.parameters(backbone)[0])


@pytest.mark.parametrize("name", ["timesnet", "dlinear"])
def test_without_attention_there_is_nothing_to_adapt(name: str, tmp_path: Path) -> None:
    for call in (lambda b: lora.add(b), lambda b: lora.load(b, tmp_path)):
        with pytest.raises(ValueError, match="has no attention.*MOMENT, TEMPO, ECG-FM have"):
            call(build(name))


def test_misuse_is_refused() -> None:
    backbone = build("tempo")
    for call in (lora.merge, lora.unmerge, lora.parameters, lambda b: lora.save(b, "x"), lora.layers):
        with pytest.raises(ValueError, match="no LoRA; add or load it first"):
            call(backbone)
    with pytest.raises(ValueError, match="no linear map of TEMPO is called q; there are c_attn, c_fc, c_proj"):
        lora.add(backbone, targets=["q"])
    lora.add(backbone)
    with pytest.raises(ValueError, match="has LoRA already"):
        lora.add(backbone)
    with pytest.raises(ValueError, match="not merged"):
        lora.unmerge(backbone)
    lora.merge(backbone)
    for call in (lora.merge, lambda b: lora.save(b, "x"), lambda b: lora.disabled(b).__enter__()):
        with pytest.raises(ValueError, match="is merged; unmerge it first"):
            call(backbone)


def test_an_adapter_of_its_authors_is_not_mistaken_for_ours() -> None:
    backbone = build("tempo")
    inject_adapter_in_model(LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True), backbone.gpt2_trend)
    with pytest.raises(ValueError, match="has LoRA already"):
        lora.add(backbone)
