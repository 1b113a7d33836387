"""Agreement of the backbones with what their authors' code returned for the same weights.

The reference outputs lie in ``parity/`` of the folder ``ECGMOE_SHARED``, and are not part of this repository.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ecgmoe import backbones

PARITY = Path(os.environ.get("ECGMOE_SHARED", Path(__file__).parents[2] / "shared")) / "parity"
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="needs parity/ of the folder ECGMOE_SHARED")


@pytest.fixture(autouse=True)
def _one_thread_no_gradients():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def arrays(case: str, name: str) -> dict[str, Tensor]:
    with np.load(PARITY / case / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def assert_agrees(
    name: str, case: str, file: str = "", given: tuple[str, ...] = (), **settings: bool
) -> backbones.Backbone:
    """Load a checkpoint of a case, and compare all that it returns; ``given`` are outputs which serve as inputs."""
    model = backbones.load(name, weights=PARITY / case / file, **settings)
    expected = arrays(case, "outputs")
    returned = model.upstream(**arrays(case, "inputs"), **{key: expected[key] for key in given})
    assert returned.keys() == expected.keys()
    for key, out in returned.items():
        assert out.dtype == expected[key].dtype, key
        assert_same(out, expected[key])
    return model


# ---- DLinear and TimesNet


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("dlinear", "ltsf_small_shared"),
        ("dlinear", "tslib_small_forecast_shared"),
        ("dlinear", "tslib_small_forecast_individual"),
        ("dlinear", "tslib_small_classification"),
        ("timesnet", "small_forecast"),
        ("timesnet", "small_classification"),
    ],
)
def test_dlinear_and_timesnet(name, case):
    assert_agrees(name, f"{name}/{case}")


@pytest.mark.parametrize("case", ["timesnet/small_forecast", "timesnet/small_classification"])
def test_timesnet_periods_of_each_record(case):
    """A record alone has only one mean over the batch to offer: per-sample periods give the same."""
    model, inputs = backbones.load("timesnet", PARITY / case), arrays(case, "inputs")
    mark_BT = inputs.get("x_mark_enc", torch.ones(2, 96))
    mark_BT = mark_BT if model.config.num_class else None
    together = model(inputs["x"], mark_BT, per_sample=True)
    for i in range(2):
        alone = {key: value[i : i + 1] for key, value in inputs.items()}
        assert_same(model.upstream(**alone)["out"][0], together[i])


# ---- MOMENT, TEMPO, ECG-FM


#: Heads that momentfm starts at random, and no checkpoint of MOMENT has.
MOMENT_HEADS = tuple(f"class_{how}_head_{kind}" for how in ("concat", "mean") for kind in ("weight", "bias"))


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_moment(file):
    case = "moment/small_tiny"
    model = assert_agrees("moment-1-small", case, file, given=MOMENT_HEADS)
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")
    without_heads = model.upstream(**inputs)
    logits = {"class_concat_logits", "class_mean_logits"}
    assert expected.keys() - without_heads.keys() == {*MOMENT_HEADS, *logits}
    assert_same(model.encode(inputs["x"])[-1], expected["embed_mean"])
    per_lead = backbones.load("moment-1-small", weights=PARITY / case, leads="concat")
    assert_same(per_lead.encode(inputs["x"])[-1], expected["class_concat_feature"])


@pytest.mark.parametrize("keep_lora", [False, True])
@pytest.mark.parametrize("file", ["TEMPO-small_v1.pth", "TEMPO-small_v1.oldnames.pth"])
def test_tempo(file, keep_lora):
    case = "tempo/small_upstream"
    model = assert_agrees("tempo-80m", case, file, keep_lora=keep_lora)
    assert any("lora_" in key for key in model.state_dict()) == keep_lora
    # the last depth is what GPT-2 returns for the patches, here of twelve series that stand for leads
    x_SL = arrays(case, "inputs")["x"][..., 0].repeat(3, 1)
    hidden = model.patches(model.upstream(x=x_SL)["gpt2_last_hidden"])
    leads_SD = torch.cat([h.mean(1) for h in hidden.values()], dim=-1)
    assert_same(model.encode(x_SL[None])[-1], leads_SD.mean(0, keepdim=True))


@pytest.mark.parametrize("file", ["", "pretrained_new_names.pt", "pretrained_old_names.pt"])
def test_ecgfm_pretrained(file):
    case = "ecgfm/small_pretrained"
    model = assert_agrees("ecg-fm", case, file)
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")
    # from the recording in mV: z-score over the whole record, then two segments a record, or one
    segments_BSCT = model.adapt(inputs["ecg_mv"], 500.0)
    torch.testing.assert_close(segments_BSCT.flatten(0, 1), inputs["source_5s"], rtol=0, atol=1e-4)
    emb_BD = expected["emb_5s"].unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(model.features(inputs["ecg_mv"], 500.0), emb_BD, rtol=0, atol=1e-4)
    whole = backbones.load("ecg-fm", weights=PARITY / case, segment_s=10.0)
    torch.testing.assert_close(whole.features(inputs["ecg_mv"], 500.0), expected["emb_10s"], rtol=0, atol=1e-4)
    # every depth is the same pooling of that layer
    layers = [expected["post_extract_proj"], *(expected[f"layer{i}"].transpose(0, 1) for i in range(3))]
    for depth, layer_BFD in zip(model.encode(inputs["source_5s"][:, None]), layers, strict=True):
        assert_same(depth, layer_BFD.mean(1))


@pytest.mark.parametrize("file", ["", "finetuned_new_names.pt", "finetuned_old_names.pt"])
def test_ecgfm_fine_tuned(file):
    case = "ecgfm/small_finetuned"
    model = assert_agrees("ecg-fm-physionet-finetuned", case, file)
    inputs, expected = arrays(case, "inputs"), arrays(case, "outputs")
    assert_same(model.forward(inputs["source_10s"]), expected["out_10s"])
    assert len(model.labels) == 26


@pytest.mark.parametrize(
    ("name", "case", "inputs", "outputs"),
    [
        ("moment-1-small", "moment/small_tiny", {"x_padded", "input_mask"}, {"embed_none_padded", "embed_mean_padded"}),
        ("ecg-fm", "ecgfm/small_pretrained", {"source_10s"}, {"x_10s", "emb_10s"}),
        ("ecg-fm-mimic-finetuned", "ecgfm/small_finetuned", {"source_padded", "padding_mask"}, {"out_padded"}),
    ],
)
def test_some_inputs_give_some_outputs(name, case, inputs, outputs):
    given, expected = arrays(case, "inputs"), arrays(case, "outputs")
    returned = backbones.load(name, weights=PARITY / case).upstream(**{key: given[key].numpy() for key in inputs})
    assert returned.keys() == outputs
    for key, out in returned.items():
        assert_same(out, expected[key])


@pytest.mark.parametrize(
    ("name", "case", "inputs", "message"),
    [
        ("moment-1-small", "moment/small_tiny", {"x_padded"}, "input_mask"),
        ("moment-1-small", "moment/small_tiny", {"pretrain_mask"}, "pretrain_mask"),
        ("tempo-80m", "tempo/small_upstream", {"trend", "season", "resid"}, "needs x"),
        ("tempo-80m", "tempo/small_upstream", {"x", "trend"}, "all three"),
        ("ecg-fm", "ecgfm/small_pretrained", {"padding_mask"}, "go together"),
    ],
)
def test_inputs_that_do_not_suffice_are_refused(name, case, inputs, message):
    given = arrays(case, "inputs")
    model = backbones.load(name, weights=PARITY / case)
    with pytest.raises(ValueError, match=message):
        model.upstream(**{key: given[key] for key in inputs})
    with pytest.raises(ValueError, match="knows"):
        model.upstream(signal=np.zeros((1, 12, 500)))
