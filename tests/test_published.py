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
