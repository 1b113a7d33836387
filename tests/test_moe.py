"""Experts, gates, rivals and fusion: shapes, masks, independence of the batch, and what each choice changes."""

from dataclasses import replace

import pytest
import torch

from ecgmoe import moe, variants
from ecgmoe.beats import Beats
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.multitask import Standardise

B, N, C, L, A = 6, 16, 12, 64, 35
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
        ({"lora": "backbones"}, "known are fusion, none"),
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
    window_BNCL = variants.equal_windows(signal, 10, 100)
    assert window_BNCL.shape == (2, 10, 12, 100)
    torch.testing.assert_close(window_BNCL[0, :, 0, 0], torch.arange(10) * 100.0)
