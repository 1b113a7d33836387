"""Checkpoints of others: what is loaded, what is refused and in which words, and the hub."""

import hashlib
import http.server
import json
import os
import pickle
import threading
import time
import urllib.parse
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from checkpoints import Example, example
from safetensors.torch import save_file
from torch import nn

from ecgmoe import backbones
from ecgmoe.backbones import published
from ecgmoe.backbones.published import hub
from ecgmoe.backbones.published.containers import WeightsError, read
from ecgmoe.records import InputError


@pytest.fixture(scope="module", params=backbones.NAMES)
def case(request) -> Example:
    return example(request.param)


def load(case: Example, *arguments, **options) -> backbones.Backbone:
    return published.load(backbones.PUBLISHED[case.network.name], *arguments, **options)


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGMOE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def some(keys) -> list[str]:
    keys = list(keys)
    return keys[:: max(1, len(keys) // 8)]


def refused(case: Example, path: Path, *words: str) -> WeightsError:
    with pytest.raises(WeightsError) as caught:
        load(case, path)
    message = str(caught.value)
    assert str(path) in message
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    return caught.value


# ---- what is loaded


def test_a_file_a_folder_and_the_weights_folder(case, tmp_path):
    path = case.write(tmp_path / "weights" / backbones.PUBLISHED[case.network.name])
    for weights in (path, str(path), path.parent, None):
        model = load(case, weights)
        assert model.config == case.network.config
        assert not model.training
        assert backbones.weights_digest(model) == backbones.weights_digest(case.network)
    assert backbones.weights_digest(backbones.build(case.network.name, "published")) == backbones.weights_digest(model)
    assert backbones.load is published.load


def test_the_global_random_state_is_left_alone(case, tmp_path):
    path, state = case.write(tmp_path), torch.random.get_rng_state()
    load(case, path)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("style", ["legacy", "state_dict", "data parallel", "half", "safetensors", "model"])
def test_containers(case, tmp_path, style):
    path, weights = case.write(tmp_path), case.weights
    if style == "half":
        weights = {key: weight.half() for key, weight in weights.items()}
    if style == "data parallel":
        weights = {f"module.{key}": weight for key, weight in weights.items()}
    content = case.content(weights)
    if style == "state_dict":
        content = {**case.content(), "state_dict": weights, "epoch": 3}
        content.pop("model", None)
    if style == "model":
        content = {"model": weights, "cfg": {"model": case.config}, "epoch": 3}
    path.unlink()
    if style == "safetensors":
        (tmp_path / "config.json").write_text(json.dumps(case.config))
        save_file({key: weight.contiguous() for key, weight in weights.items()}, tmp_path / "model.safetensors")
    else:
        torch.save(content, tmp_path / "some.pt", _use_new_zipfile_serialization=style != "legacy")
    model = load(case, tmp_path)
    for key, weight in case.network.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], weight, rtol=1e-3 if style == "half" else 0, atol=1e-6)


def test_features_at_every_depth_are_those_of_a_record_alone(case, tmp_path):
    model = load(case, case.write(tmp_path))
    signal = torch.randn(3, 12, 1000, generator=torch.Generator().manual_seed(1)).cumsum(-1) / 30
    with torch.no_grad():
        for depth in range(model.n_depths):
            together = model.features(signal, 100, depth)
            assert together.shape == (3, model.d_features)
            for i in range(3):
                torch.testing.assert_close(
                    model.features(signal[i : i + 1], 100, depth)[0], together[i], rtol=1e-5, atol=1e-5
                )


def test_settings_that_no_weight_decides(tmp_path):
    case = example("timesnet")
    path = case.write(tmp_path)
    model = load(case, path, fs=8.0, per_sample_periods=False)
    assert model.config == replace(case.network.config, fs=8.0, per_sample_periods=False)
    with pytest.raises(ValueError, match=r"no setting depth; known are seq_len, "):
        load(case, path, depth=3)


def test_configurations_flat_nested_and_as_yaml(tmp_path):
    case = example("timesnet")
    path = case.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"top_k": 4}))
    assert load(case, path).config.top_k == 4
    (tmp_path / "config.json").unlink()
    assert load(case, path).config.top_k == 5
    (tmp_path / "any.yaml").write_text("model: x\ntop_k: 1\n")
    assert load(case, path).config.top_k == 1
    for text in ("top_k: [", "- 1\n"):
        (tmp_path / "any.yaml").write_text(text)
        with pytest.raises(WeightsError, match=r"any\.yaml: cannot be read as a configuration"):
            load(case, path)


# ---- what is refused


def test_a_missing_key(case, tmp_path):
    for key in some(case.weights):
        path = case.write(tmp_path, {k: w for k, w in case.weights.items() if k != key})
        assert key in refused(case, path, key).missing


def test_a_key_too_many(case, tmp_path):
    path = case.write(tmp_path, case.weights | {"surplus.weight": torch.zeros(3)})
    assert refused(case, path, "has left over surplus.weight").left_over == ("surplus.weight",)


#: Axes of which nothing else says how long they are: positions, tokens, features of the calendar, distances.
FREE = {"pe": 1, "wpe.weight": 0, "wte.weight": 0, "embed_tokens.weight": 0, "temporal_embedding.embed.weight": 1} | {
    "relative_attention_bias.weight": 0
}


@pytest.mark.parametrize("axis", [0, -1])
def test_a_wrong_shape(case, tmp_path, axis):
    for key in some(case.weights):
        weight = case.weights[key]
        if any(key.endswith(name) and axis % weight.ndim == free for name, free in FREE.items()):
            continue
        longer = torch.cat([weight, weight.narrow(axis, 0, 1)], axis)
        refused(case, case.write(tmp_path, case.weights | {key: longer}), key)


def test_many_keys_are_counted(tmp_path):
    case = example("timesnet")
    path = case.write(tmp_path, case.weights | {f"surplus.{i}": torch.zeros(1) for i in range(25)})
    error = refused(case, path, "and 15 more")
    assert len(error.left_over) == 25


def test_keys_are_named_in_the_spelling_of_the_file(tmp_path):
    case = example("dlinear")
    weights = {f"module.{key}": weight for key, weight in case.weights.items()}
    del weights["module.Linear_Trend.bias"]
    refused(case, case.write(tmp_path, weights | {"module.x": torch.zeros(1)}), "module.Linear_Trend.bias", "module.x")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers(case, tmp_path, value):
    key = next(reversed(case.weights))
    weight = case.weights[key].clone()
    weight.view(-1)[-1] = value
    assert refused(case, case.write(tmp_path, case.weights | {key: weight}), f"has NaN or infinity in {key}")


def test_weights_of_another_type(case, tmp_path):
    key = next(reversed(case.weights))
    path = case.write(tmp_path, case.weights | {key: case.weights[key].to(torch.int64)})
    refused(case, path, f"another shape or type {key} (int64")
    if path.suffix != ".safetensors":
        for other in (
            case.weights[key].to(torch.complex64),
            case.weights[key].to_sparse(),
            case.weights[key].to("meta"),
        ):
            refused(case, case.write(tmp_path, case.weights | {key: other}), key)


class Trap:
    """Runs code when it is unpickled: it makes the file ``ran``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return (Path.touch, (self.folder / "ran",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_in_it_does_not_run(case, tmp_path, legacy):
    path = tmp_path / "weights.pth"
    content = case.content(dict(case.weights)) | {"trap": Trap(tmp_path)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refused(case, path, "asks for code to be run")
    path.write_bytes(pickle.dumps(content))
    refused(case, path)
    path.write_bytes(pickle.dumps(Trap(tmp_path), protocol=0))
    refused(case, path)
    assert not (tmp_path / "ran").exists()
    torch.load(_trap(tmp_path), weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


class Shell:
    """Asks for a command of the system when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("exit 1",))


def test_a_pickle_that_asks_for_the_shell_is_named_as_such(tmp_path):
    torch.save({"Linear_Trend.weight": Shell()}, tmp_path / "shell.pth")
    with pytest.raises(WeightsError, match=r"shell\.pth: asks for code to be run"):
        published.load("dlinear", tmp_path)


def _trap(folder: Path) -> Path:
    torch.save({"trap": Trap(folder)}, folder / "trap.pth")
    return folder / "trap.pth"


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match=r"whole\.pth: asks for code .*plain state dict"):
        published.load("dlinear", tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(case, tmp_path, kind):
    whole = tmp_path / f"whole{'.safetensors' if kind == 'safetensors' else '.pt'}"
    if kind == "safetensors":
        save_file({key: weight.contiguous() for key, weight in case.weights.items()}, whole)
    else:
        torch.save(case.content(), whole, _use_new_zipfile_serialization=kind == "zip")
    content, path = whole.read_bytes(), tmp_path / f"cut{whole.suffix}"
    for length in (1, 9, 30, 100, 1000, *(int(len(content) * part) for part in (0.3, 0.7, 0.99)), len(content) - 1):
        path.write_bytes(content[:length])
        refused(case, path, "cut short or damaged" if length > 30 else "")


def test_damaged_bytes_are_refused_or_harmless(case, tmp_path):
    """Whatever the damage, it is our error or a network, never another exception."""
    content = bytearray(case.write(tmp_path).read_bytes())
    rng = np.random.default_rng(4)
    path = tmp_path / f"damaged{Path(case.file).suffix}"
    for _ in range(25):
        damaged = content.copy()
        for place in rng.integers(0, min(len(damaged), 4000), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load(case, path)
        except WeightsError as error:
            assert str(path) in str(error)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "weights.pt"
    for content, words in (
        (b"", "is no checkpoint"),
        (b"<!doctype html><html>", "is no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "is no checkpoint"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=words):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no tensors")
    with pytest.raises(WeightsError, match="cut short or damaged"):
        read(path)
    for content, words in (
        ({}, "holds no weights"),
        ([1, 2], "holds no weights"),
        (torch.zeros(2), "holds no weights"),
        ({"epoch": 3}, "is no state dict: epoch is no tensor"),
        ({"model": {"x": torch.zeros(1), "step": 3}}, "step is no tensor"),
        ({7: torch.zeros(1)}, "7 is no tensor"),
    ):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=words):
            read(path)
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(WeightsError, match="holds no weights"):
        read(tmp_path / "empty.safetensors")
    with pytest.raises(WeightsError, match="cannot be opened"):
        read(tmp_path)


def test_a_checkpoint_of_another_network(case, tmp_path):
    other = example("dlinear" if case.network.name != "dlinear" else "timesnet")
    refused(case, other.write(tmp_path / "other"))


def test_folders(case, tmp_path):
    with pytest.raises(WeightsError, match="holds no checkpoint; pass a folder with one"):
        load(case, tmp_path)
    case.write(tmp_path)
    names = [f"{letter}{Path(case.file).suffix}" for letter in "ab"]
    (tmp_path / case.file).rename(tmp_path / names[0])
    (tmp_path / names[1]).write_bytes((tmp_path / names[0]).read_bytes())
    assert load(case, tmp_path).config == case.network.config  # the same twice
    key = next(iter(case.weights))
    case.write(tmp_path, case.weights | {key: case.weights[key] + 1}).rename(tmp_path / names[1])
    with pytest.raises(WeightsError, match=rf"several checkpoints: {names[0]}, {names[1]}; pass the path of the one"):
        load(case, tmp_path)
    (tmp_path / names[1]).write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match="several checkpoints"):
        load(case, tmp_path)
    case.write(tmp_path)
    if case.file in published.SOURCES[backbones.PUBLISHED[case.network.name]].files:
        assert load(case, tmp_path).config == case.network.config  # a usual name comes first


def test_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"unknown checkpoint 'moment'; known are timesnet, dlinear, moment-1-small"):
        published.load("moment")
    with pytest.raises(ValueError, match="no low-rank adapters"):
        published.load("ecg-fm", keep_lora=True)
    with pytest.raises(
        InputError, match=r"nowhere.pt: there is no such file or folder; check the path, or pass `owner"
    ):
        published.load("ecg-fm", tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match="there is no such file or folder"):
        published.load("ecg-fm", "nowhere.pt")
    with pytest.raises(ValueError, match="revision = 'main' is of a repository"):
        published.load("ecg-fm", tmp_path, revision="main")
    with pytest.raises(ValueError, match="names another revision"):
        published.load("ecg-fm", "wanglab/ecg-fm@v1", revision="v2")


def test_a_contradiction_with_the_configuration(tmp_path):
    case = example("timesnet")
    path = case.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"enc_in": 11, "top_k": 2}))
    words = (
        "the number of leads is 12 by enc_embedding.value_embedding.tokenConv.weight but 11 by configuration: enc_in"
    )
    refused(case, path, words, "that config.json belongs to it")
    (tmp_path / "config.json").write_text(json.dumps({"top_k": "two"}))
    refused(case, path, "top_k: 'two'")


def test_an_even_moving_average(tmp_path):
    case = example("dlinear")
    path = case.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"moving_avg": 4}))
    refused(case, path, "the moving average must be odd, got 4")


# ---- weights that this library ships


def test_compact_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match=r"dlinear\.safetensors: there are no .* `python -m ecgmoe pretrain`"):
        backbones.build("dlinear")
    network = example("dlinear").network
    weights, path = network.state_dict(), tmp_path / "dlinear.safetensors"
    save_file(weights, path, metadata={"config": json.dumps(asdict(network.config))})
    (tmp_path / "dlinear.json").write_text("{}")
    assert backbones.weights_digest(backbones.build("dlinear", seed=5)) == backbones.weights_digest(network)
    save_file(weights, path, metadata={"config": json.dumps({"kernel": 3})})
    with pytest.raises(WeightsError, match="which configuration"):
        backbones.build("dlinear")
    save_file(weights | {"x": torch.zeros(1)}, path, metadata={"config": json.dumps(asdict(network.config))})
    with pytest.raises(WeightsError, match="left over x"):
        backbones.build("dlinear")


# ---- the hub


class Hub:
    """A local copy of the hub's interface: one commit of one repository."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.large: set[str] = set()
        self.commit = "1" * 40
        self.repository = "AutonLab/MOMENT-1-small"
        self.asked: list[str] = []
        self.sha256: dict[str, str] = {}

    def entry(self, name: str) -> dict:
        content = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": name, "rfilename": name, "size": len(content), "oid": blob}
        if name in self.large:
            digest = self.sha256.get(name, hashlib.sha256(content).hexdigest())
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{handler.command} {handler.path}")
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers, status, content = {}, 200, b""
        if self.repository not in handler.path:
            status, headers = 404, {"X-Error-Code": "RepoNotFound"}
        elif f"/api/models/{self.repository}/revision/" in handler.path:
            revision = handler.path.partition("/revision/")[2].partition("?")[0]
            if revision in ("main", self.commit):
                siblings = [{"rfilename": name} for name in self.files]
                content = json.dumps({"id": self.repository, "sha": self.commit, "siblings": siblings}).encode()
            else:
                status, headers = 404, {"X-Error-Code": "RevisionNotFound"}
        elif "/paths-info/" in handler.path:
            asked = urllib.parse.parse_qs(body.decode())["paths"]
            content = json.dumps([self.entry(name) for name in asked if name in self.files]).encode()
        else:
            name = handler.path.rpartition("/")[2]
            if name in self.files:
                content, entry = self.files[name], self.entry(name)
                etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}
            else:
                status, headers = 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}
        handler.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """The hub with a small MOMENT, at a local address."""
    moment, it = example("moment"), Hub()
    path = moment.write(tmp_path / "published")
    it.files = {"model.safetensors": path.read_bytes(), "config.json": (path.parent / "config.json").read_bytes()}
    it.files |= {"README.md": b"# MOMENT", ".gitattributes": b""}
    it.large = {"model.safetensors"}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            it.answer(self)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    huggingface_hub.utils.disable_progress_bars()
    yield it
    huggingface_hub.utils.enable_progress_bars()
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def record(tmp_path: Path, name: str = "moment-1-small") -> dict:
    return json.loads((tmp_path / "weights" / name / "source.json").read_text())


def test_a_published_checkpoint_is_downloaded_once_and_pinned(fake_hub, tmp_path, monkeypatch):
    model = published.load("moment-1-small")
    assert backbones.weights_digest(model) == backbones.weights_digest(example("moment").network)
    pin = record(tmp_path)["AutonLab/MOMENT-1-small@main"]
    assert pin["commit"] == "1" * 40
    assert pin["sha256"] == {
        name: hashlib.sha256(fake_hub.files[name]).hexdigest() for name in ("model.safetensors", "config.json")
    }
    fake_hub.commit, fake_hub.asked = "2" * 40, []  # the branch moves on: the first commit stays
    published.load("moment-1-small")
    assert fake_hub.asked == []
    assert list(record(tmp_path)) == ["AutonLab/MOMENT-1-small@main"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    published.load("moment-1-small", "AutonLab/MOMENT-1-small")
    published.load("moment-1-small", "AutonLab/MOMENT-1-small@main")


def test_a_changed_file_of_the_cache_is_refused(fake_hub, tmp_path):
    published.load("moment-1-small")
    (path,) = (tmp_path / "hub").rglob("model.safetensors")
    path.resolve().write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: has the digest \w{64}, and not \w{64}, which .*source\.json says"
    ):
        published.load("moment-1-small")


def test_a_download_that_is_not_what_the_hub_states_is_refused(fake_hub, tmp_path):
    fake_hub.sha256["model.safetensors"] = "0" * 64
    with pytest.raises(WeightsError, match=r"has the digest \w{64}, and not 0{64}, which the hub states; delete it"):
        published.load("moment-1-small")
    assert not (tmp_path / "weights" / "moment-1-small" / "source.json").exists()


def test_a_revision(fake_hub, tmp_path):
    published.load("moment-1-small", revision="1" * 40)
    assert list(record(tmp_path)) == [f"AutonLab/MOMENT-1-small@{'1' * 40}"]
    with pytest.raises(WeightsError, match="no revision v9"):
        published.load("moment-1-small", "AutonLab/MOMENT-1-small@v9")


def test_another_repository(fake_hub, tmp_path):
    fake_hub.repository = "someone/fine-tuned"
    published.load("moment-1-small", "someone/fine-tuned")
    fake_hub.files["other.pt"] = b""
    published.load("moment-1-base", "someone/fine-tuned@main")
    assert list(record(tmp_path, "moment-1-base")["someone/fine-tuned@main"]["sha256"]) == [
        "model.safetensors",
        "config.json",
    ]
    fake_hub.files["more.pt"] = fake_hub.files.pop("model.safetensors")
    with pytest.raises(WeightsError, match=r"takes one checkpoint, and the repository has more\.pt, other\.pt"):
        published.load("moment-1-large", "someone/fine-tuned")
    with pytest.raises(WeightsError, match="no such repository"):
        published.load("moment-1-small", "someone/else")


def test_a_file_that_the_repository_lacks(fake_hub):
    del fake_hub.files["config.json"]
    with pytest.raises(WeightsError, match=r"has no config\.json at revision main"):
        published.load("moment-1-small")


def test_what_the_cache_has_is_used_without_network(fake_hub, tmp_path, monkeypatch):
    for name in ("model.safetensors", "config.json"):  # as another program would have got them
        huggingface_hub.hf_hub_download("AutonLab/MOMENT-1-small", name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    published.load("moment-1-small")
    assert record(tmp_path)["AutonLab/MOMENT-1-small@main"]["commit"] == "1" * 40


@pytest.mark.parametrize("name", [name for name, source in published.SOURCES.items() if source.repository])
@pytest.mark.parametrize("offline", [True, False])
def test_no_network(name, offline, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    if not offline:  # nobody answers at this address
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    source, start = published.SOURCES[name], time.monotonic()
    with pytest.raises(WeightsError) as caught:
        published.load(name)
    assert time.monotonic() - start < 8
    message = str(caught.value)
    for word in (source.repository, str(tmp_path / "weights" / name)):
        assert word in message
    for file in source.files:
        assert f"{huggingface_hub.constants.ENDPOINT}/{source.repository}/resolve/{source.revision}/{file}" in message


def test_no_published_weights():
    for name, words in (("timesnet", "Time-Series-Library"), ("dlinear", "Time-Series-Library or LTSF-Linear")):
        with pytest.raises(WeightsError, match=rf"no general weights are published, .* trained with {words}"):
            published.load(name)


def test_a_record_that_came_with_the_files(tmp_path):
    case, folder = example("dlinear"), tmp_path / "weights" / "dlinear"
    path = case.write(folder)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    pin = {"someone/weights@main": {"commit": "3" * 40, "sha256": {path.name: sha256, "elsewhere.pt": "0" * 64}}}
    (folder / hub.RECORD).write_text(json.dumps(pin))
    load(case)
    case.write(folder, {key: weight + 1 for key, weight in case.weights.items()})
    with pytest.raises(WeightsError, match=r"dlinear\.pth: has the digest .*source\.json says"):
        load(case)
    for text in ("{", "[]", '{"a": 1}'):
        (folder / hub.RECORD).write_text(text)
        with pytest.raises(WeightsError, match=r"source\.json: cannot be read; delete it"):
            load(case)


def test_sources_say_what_a_reader_must_know():
    assert tuple(published.SOURCES) == published.NAMES
    assert {source.backbone for source in published.SOURCES.values()} == set(backbones.NAMES)
    for backbone, name in backbones.PUBLISHED.items():
        assert published.SOURCES[name].backbone == backbone
    for source in published.SOURCES.values():
        assert source.licence and source.trained_on and source.overlap
    assert all("PTB-XL" in source.overlap for name, source in published.SOURCES.items() if "ecg-fm" in name)


# ---- what a configuration says of a file


def beside(case: Example, path: Path, **settings) -> Path:
    """Write another configuration beside a file, None for what it does not say."""
    said = {key: value for key, value in (case.config | settings).items() if value is not None}
    (path.parent / "config.json").write_text(json.dumps({"config": said}))
    return path


def without(case: Example, *parts: str) -> dict[str, torch.Tensor]:
    return {key: weight for key, weight in case.weights.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("model.1.", {"e_layers": 2}),
        (".kernels.1.", {"num_kernels": 2}),
        ("predict_linear.", {"task_name": "long_term_forecast"}),
        ("predict_linear.", {}),
        ("projection.", {"task_name": "long_term_forecast"}),
    ],
)
def test_a_timesnet_that_lacks_a_part_which_its_configuration_says(tmp_path, part, settings):
    case = example("timesnet")
    path = beside(case, case.write(tmp_path), **settings)
    load(case, path)
    torch.save(without(case, part), path)
    assert any(part in key for key in refused(case, path, part).missing)
    torch.save(without(case, "predict_linear.", "projection."), path)
    refused(case, beside(case, path, c_out=12), "predict_linear.bias", "predict_linear.weight", "projection.weight")


def test_a_timesnet_without_configuration_and_one_that_classifies(tmp_path):
    case = example("timesnet")
    path = case.write(tmp_path)
    (tmp_path / "config.json").unlink()
    assert load(case, path, top_k=2).config == case.network.config
    for settings in ({"e_layers": 7}, {"num_kernels": 7}, {"pred_len": 9}):
        error = refused(case, beside(case, path, **settings))
        wrong = {"e_layers": "model.6.", "num_kernels": ".kernels.6.", "pred_len": "predict_linear."}[min(settings)]
        assert any(wrong in key for key in error.missing + error.misshapen)

    config = replace(case.network.config, pred_len=0, num_class=3)
    network = type(case.network)(config).eval()
    torch.save(network.state_dict(), path)
    for num_class in (None, 3):  # the length of a forecast says nothing
        beside(case, path, task_name="classification", pred_len=96, num_class=num_class)
        assert load(case, path).config == config
    torch.save({key: w for key, w in network.state_dict().items() if not key.startswith("projection")}, path)
    assert "projection.weight" in refused(case, path, "projection.bias").missing


def test_calendar_tables_of_timesnet(tmp_path):
    case, start = example("timesnet"), "enc_embedding.temporal_embedding"
    weights = without(case, start)
    path = case.write(tmp_path, weights | {f"{start}.hour_embed.emb.weight": torch.zeros(24, 6)})
    assert load(case, path).config.time_features == 0
    path = case.write(tmp_path, weights | {f"{start}.foo.weight": torch.zeros(6, 4)})
    error = refused(case, path, f"{start}.embed.weight")
    assert error.left_over == (f"{start}.foo.weight",)


def test_positions_of_another_shape_are_named(tmp_path):
    case, key = example("timesnet"), "enc_embedding.position_embedding.pe"
    for shape in ((1, 16, 6), (5000, 6), (1, 5000, 7), (1, 0, 6), (6,)):
        refused(case, case.write(tmp_path, case.weights | {key: torch.zeros(shape)}), key)


def test_a_dlinear_that_lacks_a_part_which_its_configuration_says(tmp_path):
    case = example("dlinear")
    kind, config, path = type(case.network), case.network.config, tmp_path / "dlinear.pth"
    weights = kind(replace(config, individual=True)).state_dict()
    torch.save({key: w for key, w in weights.items() if ".11." not in key}, path)
    beside(case, path, enc_in=12)
    assert len(refused(case, path, "lacks Linear_Seasonal.11.bias").missing) == 4
    assert load(case, beside(case, path, enc_in=None)).config.enc_in == 11

    config = replace(config, pred_len=40, num_class=3)
    weights = kind(config).state_dict()
    torch.save(weights, path)
    for num_class in (None, 3):  # as upstream forecasts as much as it reads, whatever `pred_len` says
        beside(case, path, task_name="classification", pred_len=24, num_class=num_class)
        assert load(case, path).config == config
    torch.save({key: w for key, w in weights.items() if "projection" not in key}, path)
    assert refused(case, path).missing == ("projection.bias", "projection.weight")

    case.write(tmp_path)
    for settings in ({"pred_len": 17}, {"task_name": "imputation"}):
        refused(case, beside(case, path, **settings), "length of the output")


def test_what_tempo_does_not_use_is_there_as_a_whole(tmp_path):
    case = example("tempo")
    idle = {f"mul_season.{name}": torch.zeros(2, 1) for name in "ab"}
    idle |= {"map_resid.weight": torch.zeros(48, 48), "map_resid.bias": torch.zeros(48)}
    for part in ("season", "noise"):
        idle |= {f"rev_in_{part}.affine_{kind}": torch.ones(1) for kind in ("weight", "bias")}
        idle |= {f"gpt2_{part}{key[10:]}": w for key, w in case.weights.items() if key.startswith("gpt2_trend")}
    masks = {f"gpt2_trend.h.{i}.attn.{name}": torch.zeros(1) for i in (0, 1) for name in ("bias", "masked_bias")}
    weights = {f"module.{key}": weight for key, weight in (case.weights | idle | masks).items()}
    load(case, case.write(tmp_path, weights))
    for key in ("mul_season.b", "map_resid.bias", "rev_in_season.affine_weight", "gpt2_noise.h.1.ln_1.bias"):
        name = f"module.{key}"
        rest = {k: w for k, w in weights.items() if k != name}
        assert refused(case, case.write(tmp_path, rest), name).missing == (name,)
        for other in (torch.zeros(3, 5), idle[key].long()):
            assert refused(case, case.write(tmp_path, weights | {name: other})).misshapen == (name,)
        other = torch.full_like(idle[key], torch.nan)
        assert refused(case, case.write(tmp_path, weights | {name: other}), "has NaN").broken == (name,)
    for key in ("mul_season.b.extra", "gpt2_season.totally.unknown", "bogus.attn.bias", "gpt2_trend.h.attn.bias"):
        name = f"module.{key}"
        assert name in refused(case, case.write(tmp_path, weights | {name: torch.zeros(1)})).left_over


def test_a_weight_that_a_lora_would_widen_is_refused(tmp_path):
    case, key = example("tempo"), "gpt2_trend.h.0.attn.c_attn"
    lora = {f"gpt2_trend.h.{i}.attn.c_attn.lora_A.weight": torch.zeros(2, 4) for i in (0, 1)}
    lora |= {f"gpt2_trend.h.{i}.attn.c_attn.lora_B.weight": torch.zeros(12, 2) for i in (0, 1)}
    load(case, case.write(tmp_path, case.weights | lora))
    for part, other in (("weight", torch.zeros(())), ("weight", torch.zeros(12)), ("lora_A.weight", torch.zeros(2))):
        path = case.write(tmp_path, case.weights | lora | {f"{key}.{part}": other})
        assert f"{key}.{part}" in refused(case, path).misshapen


def test_a_head_of_no_classes_is_refused(tmp_path):
    for backbone, config in (("dlinear", {"pred_len": 40}), ("timesnet", {"pred_len": 0})):
        case = example(backbone)
        weights = type(case.network)(replace(case.network.config, num_class=3, **config)).state_dict()
        path = beside(case, case.write(tmp_path, weights), task_name="classification")
        load(case, path)
        torch.save({key: w[:0] if "projection" in key else w for key, w in weights.items()}, path)
        assert "projection.bias" in str(refused(case, path))


@pytest.mark.parametrize("value", ["x", 0, -1, 2.5, True, [3], {}])
@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        *(("timesnet", name) for name in ("top_k", "e_layers", "num_kernels", "seq_len", "enc_in")),
        *(("dlinear", name) for name in ("moving_avg", "enc_in", "seq_len", "pred_len")),
        *(("tempo", name) for name in ("gpt_layers", "stride", "n_heads")),
        *(("moment", name) for name in ("seq_len", "num_layers", "num_heads", "relative_attention_max_distance")),
        *(("ecg-fm", name) for name in ("encoder_layers", "encoder_attention_heads", "conv_pos_groups", "in_d")),
    ],
)
def test_settings_that_cannot_be(tmp_path, backbone, name, value):
    case = example(backbone)
    settings = {name: value}
    if backbone == "moment" and name != "seq_len":
        settings = {"t5_config": case.config["t5_config"] | settings}
    if backbone == "ecg-fm":
        case.config |= settings
        refused(case, case.write(tmp_path), name)
    else:
        refused(case, beside(case, case.write(tmp_path), **settings), name)


@pytest.mark.parametrize("value", ["x", -1, True, [3], {}])
def test_an_epsilon_that_cannot_be(tmp_path, value):
    case = example("moment")
    t5 = case.config["t5_config"] | {"layer_norm_epsilon": value}
    refused(case, beside(case, case.write(tmp_path), t5_config=t5), "layer_norm_epsilon")


def test_sizes_of_which_no_network_can_be(tmp_path):
    case = example("ecg-fm")
    case.config["conv_pos_groups"] = 7
    refused(case, case.write(tmp_path), "is of no EcgFm: ")
    case = example("timesnet")
    refused(case, beside(case, case.write(tmp_path), freq=[3], task_name=[3], seq_len=10**12), "timesnet.pth")


@pytest.mark.parametrize("settings", [{"seq_len": "x"}, {"seq_len": -1}, {"moving_avg": None}, {"depth": 3}])
def test_shipped_weights_of_sizes_that_cannot_be(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(published, "SHIPPED", tmp_path)
    case = example("dlinear")
    metadata = {"config": json.dumps(asdict(case.network.config) | settings)}
    save_file(case.weights, tmp_path / "dlinear.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"dlinear\.safetensors: does not say which .*pretrain"):
        published.load_shipped("dlinear")
