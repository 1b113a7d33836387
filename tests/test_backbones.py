"""The contract that every backbone of the registry keeps, and what each does by itself."""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgmoe import backbones
from ecgmoe.backbones import NAMES, PRESETS, adapt
from ecgmoe.backbones.dlinear import DLinear, DLinearConfig
from ecgmoe.backbones.ecgfm import EcgFm, EcgFmConfig
from ecgmoe.backbones.timesnet import Inception, TimesNet, TimesNetConfig


def ecg(n_records: int = 4, fs: float = 100.0, seconds: float = 10.0) -> np.ndarray:
    """Twelve leads of QRS and T waves without anything above 20 Hz, the same at every rate."""
    rng = np.random.default_rng(5)
    time_T = np.arange(round(seconds * fs)) / fs
    signal = np.zeros((n_records, 12, len(time_T)))
    for record in signal:
        rr = rng.uniform(0.6, 1.1)
        for amplitude, at, width in ((1.0, 0.0, 0.025), (-0.25, 0.05, 0.02), (0.3, 0.28, 0.06)):
            lead_gain_C1 = amplitude * rng.uniform(-1, 1, (12, 1))
            for beat in np.arange(0.3, seconds, rr):
                record += lead_gain_C1 * np.exp(-((time_T - beat - at) ** 2) / (2 * width**2))
    return signal.astype(np.float32)


@pytest.fixture(scope="module", params=NAMES)
def backbone(request) -> backbones.Backbone:
    return backbones.build(request.param, "compact-random")


pytestmark = pytest.mark.usefixtures("one_thread")


def features(backbone: backbones.Backbone, signal: np.ndarray, fs: float = 100.0, depth: int = -1) -> Tensor:
    with torch.no_grad():
        return backbone.features(signal, fs, depth)


def build(name: str, seed: int = 0) -> backbones.Backbone:
    return backbones.build(name, "compact-random", seed)


# ---- the contract


def test_shape_and_repetition(backbone):
    first = features(backbone, ecg())
    assert first.shape == (4, backbone.d_features)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, features(backbone, ecg()))
    assert torch.equal(first, features(backbone, torch.from_numpy(ecg())))
    assert not backbone.training
    assert first.std(0).median() > 1e-4  # records differ


def test_records_do_not_see_each_other(backbone):
    signal = ecg(5)
    for depth in range(backbone.n_depths):
        together = features(backbone, signal, depth=depth)
        for record in range(5):
            alone = features(backbone, signal[record : record + 1], depth=depth)[0]
            torch.testing.assert_close(alone, together[record], rtol=1e-5, atol=1e-5)
        turned = features(backbone, signal[::-1].copy(), depth=depth)
        torch.testing.assert_close(turned, together.flip(0), rtol=1e-5, atol=1e-5)


def test_depths(backbone):
    with torch.no_grad():
        depths = backbone.encode(backbone.adapt(torch.from_numpy(ecg()), 100))
    assert len(depths) == backbone.n_depths >= 2
    for depth, expected in enumerate(depths):
        assert expected.shape == (4, backbone.d_features)
        assert torch.equal(features(backbone, ecg(), depth=depth), expected)
        assert torch.equal(features(backbone, ecg(), depth=depth - len(depths)), expected)
    assert torch.equal(features(backbone, ecg()), depths[-1])
    assert not torch.allclose(depths[0], depths[-1])
    for depth in (len(depths), -len(depths) - 1):
        with pytest.raises(ValueError, match=f"has the depths 0 to {len(depths) - 1}, got {depth}"):
            backbone.features(ecg(1), 100, depth)


def test_upstream_names_its_inputs(backbone):
    known = ", ".join(backbone.upstream_inputs)
    with pytest.raises(ValueError, match=rf"no input was given; {backbones.TITLES[backbone.name]} knows {known}"):
        backbone.upstream()
    with pytest.raises(ValueError, match=rf"no input is called signal, y; .* knows {known}"):
        backbone.upstream(y=np.zeros(1), signal=np.zeros(1))


def test_the_seed_alone_decides_the_weights(backbone):
    state = torch.random.get_rng_state()
    again = build(backbone.name, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    other = build(backbone.name, seed=1)
    torch.random.set_rng_state(state)
    assert backbones.weights_digest(again) == backbones.weights_digest(backbone)
    assert backbones.weights_digest(other) != backbones.weights_digest(backbone)
    assert not torch.allclose(features(other, ecg()), features(backbone, ecg()))


def test_the_sampling_rate_hardly_matters(backbone):
    low, high = features(backbone, ecg(fs=100), 100), features(backbone, ecg(fs=500), 500)
    between_records = (low - low.mean(0)).norm()
    assert (low - high).norm() < 0.01 * between_records


@pytest.mark.parametrize("leads", [[3], range(12)], ids=["one lead", "all leads"])
def test_flat_leads_stay_finite(backbone, leads):
    signal = torch.from_numpy(ecg(2))
    signal[0, list(leads)] = 0.5
    signal.requires_grad_()
    out = backbone.features(signal, 100)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert signal.grad.isfinite().all()


@pytest.mark.parametrize("seconds", [3.0, 8.7, 12.5])
def test_other_lengths(backbone, seconds):
    out = features(backbone, ecg(2, seconds=seconds))
    assert out.shape == (2, backbone.d_features)
    assert out.isfinite().all()


def test_gradients_reach_signal_and_weights(backbone):
    signal = torch.from_numpy(ecg(2)).requires_grad_()
    backbone.zero_grad()
    backbone.features(signal, 100).square().sum().backward()
    assert signal.grad.abs().sum(-1).min() > 0  # every lead of every record
    assert sum(weight.grad is not None and bool(weight.grad.any()) for weight in backbone.parameters()) > 1
    backbone.zero_grad()


def test_gradients_after_inference(backbone):
    adapt._filters.cache_clear()
    with torch.inference_mode():
        backbone.features(ecg(1, fs=250), 250)
    signal = torch.from_numpy(ecg(1, fs=250)).requires_grad_()
    backbone.features(signal, 250).square().sum().backward()
    assert signal.grad.any()
    backbone.zero_grad()


def test_bad_signals_are_refused(backbone):
    for signal in (np.zeros((2, 11, 1000)), np.zeros((12, 1000)), np.zeros((2, 12, 0))):
        with pytest.raises(ValueError, match=r"12 leads.*got shape"):
            backbone.features(signal, 100)
    with pytest.raises(ValueError, match="positive"):
        backbone.features(ecg(1), 0)


def test_single_lead_networks_take_leads_in_any_order(backbone):
    signal = ecg(2)
    if backbone.single_lead:
        backbone = type(backbone)(replace(backbone.config, leads="mean")).eval()
    same = torch.allclose(features(backbone, signal[:, ::-1].copy()), features(backbone, signal), atol=1e-5)
    assert same == backbone.single_lead


def test_compact_is_compact(backbone):
    assert backbones.n_parameters(backbone) < 1_400_000
    assert backbone.d_features <= 2048


# ---- the registry


def test_registry():
    for name in NAMES:
        module, class_name = backbones._REGISTRY[name]
        kind = getattr(__import__(f"ecgmoe.backbones.{module}", fromlist=[class_name]), class_name)
        assert kind.name == name
        assert tuple(kind.presets) == ("compact", "published")
        assert kind is backbones.kind_of(name)
    assert tuple(backbones.TITLES) == tuple(backbones.PUBLISHED) == NAMES
    assert tuple(backbones.RECORDING_HZ) == PRESETS
    assert [backbones.size_of(preset) for preset in PRESETS] == ["compact", "compact", "published", "published"]


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="timesnet, dlinear, moment, tempo, ecg-fm"):
        backbones.build("gpt")
    for call in (lambda: backbones.build("dlinear", "huge"), lambda: backbones.size_of("huge")):
        with pytest.raises(ValueError, match="compact, compact-random, published, published-random"):
            call()


def test_digest_covers_the_configuration():
    one = build("timesnet")
    other = build("timesnet")
    other.config = replace(one.config, per_sample_periods=False)
    assert backbones.weights_digest(one) != backbones.weights_digest(other)


def test_n_parameters_counts_what_trains():
    backbone = build("dlinear")
    backbone.Linear_Trend.requires_grad_(False)
    one_map = (backbone.config.seq_len + 1) * backbone.config.pred_len
    assert backbones.n_parameters(backbone) == 2 * one_map
    assert backbones.n_parameters(backbone, trainable=True) == one_map


def test_moment_is_quiet_and_leaves_the_root_logger_alone():
    code = "import logging; from ecgmoe import backbones; backbones.build('moment', 'compact-random')"
    code += "; print(logging.getLogger().handlers)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_backbones_import_without_what_only_one_needs():
    code = "import sys, ecgmoe.backbones; print([m for m in ('momentfm', 'transformers', 'wfdb') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


#: Published sizes in millions of parameters, without heads of pre-training, and feature widths.
PUBLISHED = {
    "timesnet": (0.587, 32),
    "dlinear": (0.501, 48),
    "moment": (35.3, 512),
    "tempo": (94.03, 2304),
    "ecg-fm": (90.4, 768),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_published_sizes(name):
    backbone = backbones.build(name, "published-random")
    millions, width = PUBLISHED[name]
    assert backbones.n_parameters(backbone) / 1e6 == pytest.approx(millions, rel=0.002)
    out = features(backbone, ecg(1, fs=500), 500)
    assert out.shape == (1, width)
    assert out.isfinite().all()


# ---- single backbones


def test_timesnet_finds_the_period_of_each_record():
    x_BTN = torch.stack([torch.sin(2 * torch.pi * torch.arange(500) / p)[:, None].repeat(1, 4) for p in (50, 100)])
    block = TimesNet(TimesNetConfig(top_k=1)).model[0]
    period_BK, amplitude_BK = block.periods(x_BTN)
    assert period_BK.tolist() == [[50], [100]]
    torch.testing.assert_close(amplitude_BK, torch.full((2, 1), 250.0), rtol=1e-3, atol=0)


def test_timesnet_batch_mean_depends_on_the_batch():
    model = build("timesnet")
    signal = ecg(4)
    digest, alone = backbones.weights_digest(model), features(model, signal[:1])
    model.config = replace(model.config, per_sample_periods=False)
    assert backbones.weights_digest(model) != digest
    assert not torch.allclose(features(model, signal)[:1], features(model, signal[:1]), atol=1e-3)
    torch.testing.assert_close(features(model, signal[:1]), alone)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ({"pred_len": 20}, (2, 20, 12)),
        ({"reconstructs": True}, (2, 500, 12)),
        ({"num_class": 5}, (2, 5)),
        ({}, (2, 500, 8)),
    ],
)
def test_timesnet_heads(head, shape):
    model = TimesNet(TimesNetConfig(d_model=8, d_ff=8, num_kernels=2, **head)).eval()
    x_BTC = model.adapt(torch.from_numpy(ecg(2)), 100)
    assert model(x_BTC).shape == shape
    assert features(model, ecg(2)).shape == (2, model.d_features)
    outputs = model.upstream(x=x_BTC)
    assert outputs["out"].shape == shape
    assert {"block0", "layer_norm#2", "fft1_period"} < outputs.keys()
    assert not any(out.requires_grad for out in outputs.values())


def test_timesnet_inputs():
    model = TimesNet(TimesNetConfig(seq_len=50, pred_len=10, d_model=8, d_ff=8, num_kernels=1)).eval()
    x_BTC = torch.randn(2, 50, 12)
    plain = model.upstream(x=x_BTC)["enc_embedding"]
    assert not torch.allclose(plain, model.upstream(x=x_BTC, x_mark_enc=torch.ones(2, 50, 4))["enc_embedding"])
    with pytest.raises(ValueError, match="needs x"):
        model.upstream(x_mark_enc=torch.ones(2, 50, 4))
    with pytest.raises(ValueError, match="no weights for features of the calendar"):
        TimesNet(replace(model.config, time_features=0)).upstream(x=x_BTC, x_mark_enc=torch.ones(2, 50, 4))
    with pytest.raises(ValueError, match=r"5,010 samples, at most 5,000"):
        TimesNet(replace(model.config, seq_len=5000))


def test_other_leads_have_no_features():
    for model in (TimesNet(TimesNetConfig(enc_in=3, d_model=8)), DLinear(DLinearConfig(enc_in=3))):
        assert model.upstream(x=np.zeros((1, 500, 3), np.float32))
        with pytest.raises(ValueError, match=r"reads 3 leads, so it has no features of 12"):
            model.features(ecg(1), 100)


def test_upstream_keeps_the_mode():
    model = build("dlinear").train()
    model.upstream(x=np.zeros((1, model.config.seq_len, 12)))  # float64 too
    assert model.training


def test_timesnet_classification_leaves_padding_out():
    model = TimesNet(TimesNetConfig(d_model=8, d_ff=8, num_kernels=2, num_class=5)).eval()
    x_BTC = model.adapt(torch.from_numpy(ecg(2)), 100)
    ones_BT = torch.ones(2, 500)
    torch.testing.assert_close(model(x_BTC, ones_BT), model(x_BTC))
    torch.testing.assert_close(model(x_BTC, 0 * ones_BT), model.projection.bias.expand(2, -1))


# ---- folded kernels of TimesNet


def inception() -> tuple[Inception, Tensor]:
    torch.manual_seed(0)
    block = Inception(3, 5, 4).eval()
    for conv in block.kernels:
        nn.init.normal_(conv.bias)
    return block, torch.randn(2, 3, 9, 12)


def unfolded(block: Inception, image: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([conv(image) for conv in block.kernels]).mean(0)


@pytest.mark.parametrize("shape", [(9, 7), (2, 30), (40, 1), (1, 1), (4, 4)])
@pytest.mark.parametrize("grad", [False, True])
def test_folded_kernels_equal_the_mean_of_convolutions(shape, grad):
    block, _ = inception()
    image = torch.randn(2, 3, *shape)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(block(image), unfolded(block, image), rtol=0, atol=1e-5)


@torch.no_grad()
def test_folded_kernels_are_kept_as_long_as_the_weights(monkeypatch):
    block, image = inception()
    folds = []
    fold = Inception._fold
    monkeypatch.setattr(Inception, "_fold", lambda self: folds.append(1) or fold(self))
    for _ in range(3):
        block(image)
    assert len(folds) == 1

    def assert_new() -> None:
        del folds[:]
        torch.testing.assert_close(block(image), unfolded(block, image), rtol=0, atol=1e-5)
        assert len(folds) == 1

    block.load_state_dict({key: 2 * weight for key, weight in block.state_dict().items()})
    assert_new()
    block.load_state_dict({key: 2 * weight for key, weight in block.state_dict().items()}, assign=True)
    assert_new()
    block.kernels[2].weight += 1
    assert_new()
    block.kernels[2].weight.data = torch.randn(5, 3, 5, 5)
    assert_new()
    block.kernels[0].weight.data.mul_(3)  # out of sight, until the mode is set
    block.train().eval()
    assert_new()
    block.train()
    block(image), block(image)
    assert len(folds) == 3


def test_folded_kernels_are_neither_saved_nor_copied():
    block, image = inception()
    keys = set(block.state_dict())
    with torch.no_grad():
        expected = block(image)
        assert set(block.state_dict()) == keys
        for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert twin._kept is None
            assert torch.equal(twin(image), expected)
            twin.kernels[0].bias += 1
            assert not torch.equal(twin(image), expected)
        assert torch.equal(block(image), expected)
    with torch.inference_mode():
        block.train().eval()(image)
        inside, _ = inception()
        torch.testing.assert_close(inside(image), expected)
    block(image).sum().backward()
    assert block.kernels[3].weight.grad.any()


def test_dlinear_heads():
    x_BCT = torch.randn(2, 12, 500)
    plain = DLinear(DLinearConfig(pred_len=30))
    seasonal, trend = plain.decompose(x_BCT)
    torch.testing.assert_close(seasonal + trend, x_BCT)
    assert plain(x_BCT).shape == (2, 12, 30)
    assert DLinear(replace(plain.config, num_class=3))(x_BCT).shape == (2, 3)
    individual = DLinear(replace(plain.config, individual=True))
    for lead in range(12):
        individual.Linear_Seasonal[lead].load_state_dict(plain.Linear_Seasonal.state_dict())
        individual.Linear_Trend[lead].load_state_dict(plain.Linear_Trend.state_dict())
    torch.testing.assert_close(individual(x_BCT), plain(x_BCT))


def test_moment_needs_a_patch():
    with pytest.raises(ValueError, match=r"at least|0\.16 s"):
        build("moment").features(ecg(1, seconds=0.1), 100)


def test_tempo_forecast_follows_the_scale_of_its_input():
    model = build("tempo")
    with torch.no_grad():
        x_SL = torch.from_numpy(ecg(1))[0, :, :336]
        torch.testing.assert_close(model(3 * x_SL + 2), 3 * model(x_SL) + 2, rtol=1e-3, atol=1e-3)
        parts = model.decompose(x_SL)
        torch.testing.assert_close(sum(parts.values()), x_SL, rtol=0, atol=1e-5)


def test_tempo_prompts():
    from ecgmoe.backbones.tempo import TempoConfig

    published, compact = TempoConfig().prompt_ids(), TempoConfig(vocab_size=10).prompt_ids()
    assert published.shape == compact.shape == (3, 9)
    assert published[:, -1].tolist() == [5182, 1622, 29598]

    def same_word(ids: torch.Tensor) -> torch.Tensor:
        return ids.flatten()[:, None] == ids.flatten()

    assert torch.equal(same_word(published), same_word(compact))
    assert compact.max() == 9


def small_ecgfm(**changes) -> EcgFm:
    torch.manual_seed(0)
    config = replace(EcgFm.presets["compact"], conv_feature_layers="[(16, 2, 2), (16, 2, 2)]", layers=1, **changes)
    return EcgFm(config).eval()


def test_ecgfm_padding_is_not_attended():
    model = small_ecgfm()
    x_BCT = torch.randn(2, 12, 400)
    padding_BT = torch.zeros(2, 400, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(x_BCT, padding_BT), model.hidden(x_BCT), rtol=0, atol=1e-5)
        padding_BT[1, 200:] = True
        h_BFD = model.hidden(x_BCT, padding_BT)
    assert model.frame_mask(padding_BT)[1].tolist() == [False] * 50 + [True] * 50
    assert not h_BFD[1, 50:].any()
    torch.testing.assert_close(model.pool(h_BFD)[1], h_BFD[1, :50].mean(0))


def test_ecgfm_cuts_after_normalising():
    model = small_ecgfm()
    signal = torch.from_numpy(ecg(2))
    segments_BSCT = model.adapt(signal, 100)
    assert segments_BSCT.shape == (2, 2, 12, 500)
    whole_BCT = segments_BSCT.transpose(1, 2).flatten(2)
    torch.testing.assert_close(whole_BCT, adapt.z_score(signal))
    assert model.adapt(signal[..., :300], 100).shape == (2, 1, 12, 300)


def test_ecgfm_head():
    model = small_ecgfm(num_labels=7)
    assert model(torch.randn(2, 12, 500)).shape == (2, 7)
    assert isinstance(model.config, EcgFmConfig)


# ---- input adaptation


@pytest.mark.parametrize(("fs", "fs_new"), [(500, 100), (100, 500), (500, 51.2), (360, 33.6), (100, 50), (250, 250)])
def test_resampling_keeps_slow_waves(fs, fs_new):
    def wave(rate: float) -> Tensor:
        time_T = torch.arange(round(10 * rate), dtype=torch.float64) / rate
        return torch.sin(2 * torch.pi * 3.7 * time_T).float().expand(2, 12, -1)

    out = adapt.resample(wave(fs), fs, fs_new)
    expected = wave(fs_new)
    assert out.shape == expected.shape
    inner = slice(round(fs_new), -round(fs_new))  # the held edge values disturb the first and last second
    torch.testing.assert_close(out[..., inner], expected[..., inner], rtol=0, atol=5e-3)


def test_resampling_removes_what_would_alias():
    time_T = torch.arange(5000) / 500
    fast = torch.sin(2 * torch.pi * 60 * time_T).expand(1, 12, -1)  # would show as 40 Hz at 100 Hz
    assert adapt.resample(fast, 500, 100)[..., 100:-100].abs().max() < 5e-3


def test_resampling_keeps_constants_and_leads_apart():
    x_BCT = torch.arange(24.0).reshape(2, 12, 1).expand(-1, -1, 500)
    torch.testing.assert_close(adapt.resample(x_BCT, 500, 51.2), x_BCT[..., :52], rtol=1e-5, atol=1e-5)


def test_z_score_and_length():
    x_BCT = torch.randn(2, 12, 100) * 3 + 1
    x_BCT[0, 3] = 7.0
    scaled = adapt.z_score(x_BCT)
    assert not scaled[0, 3].any()
    torch.testing.assert_close(scaled[1].var(-1, correction=0), torch.ones(12))
    assert torch.equal(adapt.fit_length(x_BCT, 60), x_BCT[..., :60])
    assert torch.equal(adapt.fit_length(x_BCT, 130), F.pad(x_BCT, (30, 0)))
