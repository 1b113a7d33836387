"""Experts, gates, rivals and fusion: shapes, masks, independence of the batch, and what each choice changes."""

from dataclasses import replace

import pytest
import torch

from ecgmoe import backbones, linear, moe, variants
from ecgmoe.beats import Beats
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig, Ensemble
from ecgmoe.multitask import Standardise

B, N, C, L, A = 6, 16, 12, 64, 43
WIDTHS = {"timesnet": 20, "dlinear": 48}


@pytest.fixture
def inputs() -> Inputs:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(N) < torch.tensor([9, 12, 16, 1, 0, 5])[:, None]
    beat = torch.randn(B, N, C, L, generator=g) * mask[..., None, None]
    rr = (0.7 + 0.2 * torch.rand(B, N, 2, generator=g)) * mask[..., None]
    signal = torch.randn(B, C, 1000, generator=g)
    features = {name: torch.randn(B, width, generator=g) for name, width in WIDTHS.items()}
    return Inputs(features, Beats(beat, rr, mask), torch.randn(B, A, generator=g), signal, 100.0)


def build(**changes) -> ECGMoE:
    torch.manual_seed(0)
    model = ECGMoE(replace(ECGMoEConfig(d_features=WIDTHS), **changes)).eval()
    for head in model.heads.values():
        head.reset_parameters()
    return model


@pytest.mark.parametrize("periodic", ["experts", "none", *variants.RIVALS])
@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_every_configuration_gives_logits_for_every_task(inputs, periodic, fusion):
    model = build(periodic=periodic, fusion=fusion)
    out = model(inputs)
    assert {name: logits.shape for name, logits in out.logits.items()} == {
        "rr": (B, 1), "age": (B, 1), "sex": (B, 1), "potassium": (B, 1), "rhythm": (B, 15)
    }  # fmt: skip
    assert all(torch.isfinite(logits).all() for logits in out.logits.values())
    torch.testing.assert_close(out.backbone_gate_BKM.sum(-1), torch.ones(B, 5))
    if periodic == "none":
        assert out.periodic is None and out.contrast is None
    else:
        torch.testing.assert_close(out.path_gate_BK2.sum(-1), torch.ones(B, 5))
        torch.testing.assert_close(out.periodic.gate_BKE.sum(-1), torch.ones(B, 5))


@pytest.mark.parametrize("periodic", ["experts", *variants.RIVALS])
def test_a_record_alone_or_in_a_batch_gives_the_same(inputs, periodic):
    model = build(periodic=periodic)
    together = model(inputs).logits
    for row in range(B):
        alone = model(inputs.take(torch.tensor([row]))).logits
        for name in together:
            torch.testing.assert_close(alone[name][0], together[name][row], atol=1e-5, rtol=1e-5)


def test_empty_beats_do_not_count(inputs):
    model = build()
    padded = inputs.beats._replace(
        beat_BNCL=inputs.beats.beat_BNCL + 100 * ~inputs.beats.mask_BN[..., None, None],
    )
    torch.testing.assert_close(model(inputs).logits, model(inputs._replace(beats=padded)).logits)
    longer = Beats(*(torch.cat([part, torch.zeros_like(part)], 1) for part in inputs.beats))
    for name, logits in model(inputs._replace(beats=longer)).logits.items():
        torch.testing.assert_close(logits, model(inputs).logits[name], atol=1e-5, rtol=1e-5)
    attention = model(inputs).periodic.attention_BKN
    assert (attention[4] == 0).all(), "a record without beats attends to none"
    assert (attention[:, :, :][~inputs.beats.mask_BN[:, None].expand_as(attention)] == 0).all()


def test_without_rr_inputs_nothing_of_the_intervals_gets_in(inputs):
    changed = inputs._replace(
        beats=inputs.beats._replace(rr_BN2=inputs.beats.rr_BN2 * 1.7),
        characteristics_BA=inputs.characteristics_BA.index_fill(1, torch.arange(6), 3.0),
    )
    blind, seeing = build(characteristics="no_rr"), build()
    fewer = inputs.take(torch.tensor([1, 2]))
    counted = fewer._replace(beats=fewer.beats._replace(mask_BN=torch.arange(N).expand(2, N) < 7))
    torch.testing.assert_close(blind(fewer).logits, blind(counted).logits)
    torch.testing.assert_close(blind(inputs).logits, blind(changed).logits)
    assert not torch.allclose(seeing(inputs).logits["rr"], seeing(changed).logits["rr"])


def test_without_characteristics_only_the_backbone_speaks(inputs):
    model = build(characteristics="none", periodic="none")
    other = inputs._replace(characteristics_BA=inputs.characteristics_BA + 1)
    torch.testing.assert_close(model(inputs).logits, model(other).logits)


def test_without_characteristics_the_rhythm_experts_still_see_rr_intervals_and_all_beats(inputs):
    model = build(characteristics="none")
    slower = inputs._replace(beats=inputs.beats._replace(rr_BN2=inputs.beats.rr_BN2 * 1.7))
    other = inputs._replace(characteristics_BA=inputs.characteristics_BA + 1)
    assert not torch.allclose(model(inputs).logits["rr"], model(slower).logits["rr"])
    torch.testing.assert_close(model(inputs).logits, model(other).logits)
    last = inputs.beats.mask_BN.shape[1] - 1
    assert (model(inputs).periodic.attention_BKN[..., last] > 0).any()


def test_the_gate_depends_on_task_and_signal(inputs):
    gate = build()(inputs).periodic.gate_BKE
    assert gate.shape == (B, 5, len(moe.EXPERT_NAMES))
    assert not torch.allclose(gate[:, 0], gate[:, 1])
    assert not torch.allclose(gate[0], gate[1])


def test_lora_trains_few_parameters_and_leaves_the_base_alone(inputs):
    plain, lora = build(), build(lora="fusion")
    frozen = {name: p.clone() for name, p in lora.named_parameters() if not p.requires_grad}
    assert frozen and all(".base_layer." in name for name in frozen)
    assert {name.split(".base_layer")[0] for name in frozen} == {
        "project.timesnet", "project.dlinear", "from_backbones", "fuse"
    }  # fmt: skip
    assert lora.n_parameters(trainable_only=True) < plain.n_parameters(trainable_only=True)
    before = lora(inputs).logits["age"]
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=1.0)
    lora(inputs).logits["age"].square().sum().backward()
    optimizer.step()
    after = dict(lora.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in frozen.items())
    assert not torch.allclose(before, lora(inputs).logits["age"])


def test_rr_sequence_shows_a_premature_beat():
    rr = torch.full((1, 6, 2), 0.8)
    rr[0, 3] = torch.tensor([0.5, 1.1])
    rr[0, 0, 0] = 0.0
    sequence = moe.rr_sequence(rr)
    assert sequence[0, 3, 0] < -0.2 < 0.2 < sequence[0, 3, 1]
    assert (sequence[0, 0, [0, 2]] == 0).all()


def test_standardise_leaves_out_missing_values_and_constants():
    scale = Standardise(3)
    scale.fit(torch.tensor([[1.0, 5.0, float("nan")], [3.0, 5.0, 2.0], [5.0, 5.0, 4.0]]))
    torch.testing.assert_close(scale.mean_D, torch.tensor([3.0, 5.0, 3.0]))
    assert scale.sd_D[1] == 1
    assert scale(torch.tensor([[3.0, 5.0, float("nan")]])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("rr", "height")}, "height"),
        ({"tasks": ()}, "no tasks"),
        ({"periodic": "none", "d_features": {}}, "nothing to learn from"),
        ({"periodic": "lstm"}, "known are experts"),
        ({"fusion": "product"}, "known are concat, sum"),
        ({"characteristics": "some"}, "known are all, no_rr, none"),
        ({"lora": "backbones"}, "known are none, fusion, backbone, both, full"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ECGMoE(replace(ECGMoEConfig(d_features=WIDTHS), **changes))


def test_rivals_have_about_as_many_parameters_as_the_experts():
    own = sum(p.numel() for p in build().periodic.parameters())
    for name in variants.RIVALS:
        rival = sum(p.numel() for p in build(periodic=name).periodic.parameters())
        assert 0.7 < rival / own < 1.3, f"{name}: {rival} against {own}"


def test_equal_windows_tile_the_recording():
    signal = torch.arange(1000.0).expand(2, 12, 1000)
    window_BNCL = variants.equal_windows(signal, 100.0, 10, 100)
    assert window_BNCL.shape == (2, 10, 12, 100)
    torch.testing.assert_close(window_BNCL[0, :, 0, 0], torch.arange(10) * 100.0)


def test_equal_windows_of_faster_recordings_fold_nothing():
    time = torch.arange(5000) / 500
    slow, fast = (torch.sin(2 * torch.pi * hz * time).expand(1, 12, -1) for hz in (5, 110))
    assert variants.equal_windows(fast, 500.0).abs()[:, 1:-1].max() < 0.01
    window_BNCL = variants.equal_windows(slow, 500.0)
    at = (torch.arange(1024) + 0.5) * 1000 / 1024 - 0.5
    expected = torch.sin(2 * torch.pi * 5 * at / 100).unflatten(0, (16, 64))
    torch.testing.assert_close(window_BNCL[0, 1:-1, 0], expected[1:-1], atol=0.02, rtol=0)


@pytest.mark.parametrize("lora", ["none", "both"])
def test_a_saved_model_comes_back_the_same(inputs, tmp_path, lora):
    widths = {"moment": 768, "dlinear": 48}  # not in the order of the paper, which the file does not keep either
    features = {
        name: torch.randn(B, width, generator=torch.Generator().manual_seed(1)) for name, width in widths.items()
    }
    inputs = inputs._replace(features=features)
    torch.manual_seed(0)
    model = ECGMoE(ECGMoEConfig(d_features=widths, tasks=("rr", "rhythm"), lora=lora)).eval()
    targets = {"rr": 700 + 100 * torch.randn(B), "rhythm": torch.arange(B).float()}
    model.fit_scales(inputs, targets)
    for head in model.heads.values():
        head.reset_parameters()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert "no medical device" in (tmp_path / "README.md").read_text("utf-8")
    again = ECGMoE.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    with torch.no_grad():
        for name, logits in model(inputs).logits.items():
            assert torch.equal(logits, again(inputs).logits[name])


@pytest.mark.parametrize(
    ("lora", "in_loop", "trained"),
    [
        ("backbone", {"moment"}, lambda name: ".lora_" in name or not name.startswith("networks.")),
        (
            "both",
            {"moment"},
            lambda name: ".lora_" in name or (not name.startswith("networks.") and ".base_layer." not in name),
        ),
        ("full", {"moment", "dlinear"}, lambda name: True),
    ],
)
def test_placements_of_lora_train_what_they_say(inputs, lora, in_loop, trained):
    widths = {"dlinear": 48, "moment": 768}
    networks = {name: backbones.build(name, "compact-random", seed=4) for name in widths}
    with torch.no_grad():
        features = {name: network.features(inputs.signal_BCT, inputs.fs) for name, network in networks.items()}
    inputs = inputs._replace(features=features)
    torch.manual_seed(0)
    frozen = ECGMoE(ECGMoEConfig(d_features=widths, lora="fusion" if lora == "both" else "none")).eval()
    model = ECGMoE(ECGMoEConfig(d_features=widths, lora=lora), networks).eval()
    model.load_state_dict(frozen.state_dict(), strict=False)
    for (name, head), other in zip(model.heads.items(), frozen.heads.values(), strict=True):
        head.reset_parameters()
        other.load_state_dict(head.state_dict())
    assert set(model.networks) == in_loop and model.sees_signal
    assert all(trained(name) for name, p in model.named_parameters() if p.requires_grad)
    assert all(p.requires_grad for name, p in model.named_parameters() if trained(name) and "networks." not in name)
    for name, logits in frozen(inputs).logits.items():  # before the first step nothing has changed
        torch.testing.assert_close(model(inputs).logits[name], logits, atol=1e-4, rtol=1e-4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(inputs).logits["rhythm"].square().sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert all(trained(name) for name in changed)
    assert any(name.startswith("networks.moment") for name in changed)


def test_a_backbone_that_tells_nothing_is_turned_down():
    g = torch.Generator().manual_seed(0)
    target = torch.randn(300, generator=g)
    widths = {"dlinear": 8, "moment": 400}
    telling = target[:, None] + 0.5 * torch.randn(300, 8, generator=g)
    features = {"dlinear": telling, "moment": torch.randn(300, 400, generator=g)}
    empty = Beats(torch.zeros(300, 1, C, L), torch.zeros(300, 1, 2), torch.ones(300, 1, dtype=torch.bool))
    inputs = Inputs(features, empty, torch.randn(300, A, generator=g), torch.zeros(300, C, 10), 100.0)
    model = ECGMoE(ECGMoEConfig(d_features=widths, tasks=("age",)))
    model.fit_scales(inputs, {"age": 50 + 10 * target})
    dlinear, moment = (model.components[name](features[name]).std(0) for name in widths)
    assert dlinear[0] == pytest.approx(1, rel=1e-3) and moment.max() < 0.1
    assert len(moment) == model.config.n_components


def test_the_line_is_one_of_least_absolute_error_and_outliers_do_not_bend_it():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=g)
    y = 2 * x[:, 0] + 0.3
    y[:20] += 50
    line = linear.Line(3)
    line.fit(x, y, torch.ones(200, dtype=torch.bool))
    torch.testing.assert_close(line.weight_A, torch.tensor([2.0, 0.0, 0.0]), atol=1e-2, rtol=0)
    assert line.bias.item() == pytest.approx(0.3, abs=1e-2)
    assert line(x, torch.ones(200, 1))[30, 0] - line(x, torch.zeros(200, 1))[30, 0] == pytest.approx(line.unit.item())
    nothing = linear.Line(3)
    nothing.fit(x, y, torch.zeros(200, dtype=torch.bool))
    assert (nothing.weight_A == 0).all() and nothing.unit == 1


def test_regressions_start_from_the_mean_where_there_is_to_be_no_line(inputs):
    target = 50 + 10 * inputs.characteristics_BA[:, 0]
    starts = {}
    for line in (True, False):
        model = ECGMoE(ECGMoEConfig(WIDTHS, tasks=("age",), line=line)).eval()
        model.fit_scales(inputs, {"age": target})
        starts[line] = model.predict(model(inputs).logits)["age"]
    assert (starts[True] - target).abs().mean() < 0.5 * (starts[False] - target).abs().mean()
    torch.testing.assert_close(starts[False], target.mean().expand(B), atol=1e-3, rtol=0)


def test_signal_to_noise_is_that_of_the_data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 5, generator=g)
    for noise in (0.5, 2.0):
        y = x[:, :1] + noise * torch.randn(2000, 1, generator=g)
        y[:10] = float("nan")
        assert linear.signal_to_noise(x, [y]) == pytest.approx(1 / noise**2, rel=0.15)
    nothing = torch.randn(2000, 1, generator=g)
    assert linear.signal_to_noise(x, [nothing]) < 0.02
    one_class = torch.tensor([1.0, 0.0]).expand(2000, 2)
    for constant in (one_class, torch.full((2000, 1), 0.3)):
        assert linear.signal_to_noise(x, [y, constant]) == linear.signal_to_noise(x, [y])
    assert linear.signal_to_noise(x, [one_class]) == pytest.approx(0.01 / 0.99), "nothing to explain"


@pytest.mark.parametrize("changes", [{}, {"periodic": "none"}, {"d_features": {}}])
def test_an_ensemble_gives_the_mean_of_its_members(inputs, changes):
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(ECGMoE(replace(ECGMoEConfig(d_features=WIDTHS), **changes)).eval())
        for head in members[-1].heads.values():
            head.reset_parameters()
    together, alone = Ensemble(members)(inputs, ("age", "rhythm")), [member(inputs) for member in members]
    assert set(together.logits) == {"age", "rhythm"}
    mean = torch.stack([out.logits["rhythm"] for out in alone]).mean(0)
    torch.testing.assert_close(together.logits["rhythm"], mean)
    assert (together.periodic is None) == (changes.get("periodic") == "none")
    if together.periodic is not None:
        both = [out.periodic.gate_BKE[:, [1, 4]] for out in alone]
        torch.testing.assert_close(together.periodic.gate_BKE, torch.stack(both).mean(0))
    assert Ensemble(members).n_parameters() == sum(member.n_parameters() for member in members)


def test_only_models_of_one_shape_and_scale_answer_together(inputs):
    with pytest.raises(ValueError, match="one configuration"):
        Ensemble([build(), build(width=32)])
    with pytest.raises(ValueError, match="without a router"):
        Ensemble([build(top_k=1), build(top_k=1)])
    other = build()
    other.target_scale("age").sd_D.fill_(3.0)
    with pytest.raises(ValueError, match="scales of age differ"):
        Ensemble([build(), other])
