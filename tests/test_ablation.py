"""The table of ablations: every row trains, sizes are true, what is done is not done again, nothing is mixed."""

import ast
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import toy_cohort

from ecgmoe import (
    ablation,
    backbones,
    cache,
    configurations,
    datasets,
    features,
    fusion,
    prediction,
    reliability,
    training,
)
from ecgmoe.records import InputError
from ecgmoe.training import FitConfig

CONFIG = FitConfig(epochs=1, batch_size=16)
ROWS = {row.name: row for row in configurations.TABLE}
PRESET = "compact-random"


@pytest.fixture(scope="module")
def cohort():
    return toy_cohort(32)


@pytest.fixture(scope="module")
def inputs(cohort):
    """Features of the two cheapest backbones; noise of the right width in the place of the others'."""
    made = features.make_inputs(cohort, names=("timesnet", "dlinear"), preset=PRESET)
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(len(cohort), backbones.build(name, PRESET).d_features, generator=generator)
        for name in backbones.NAMES
    }
    return made._replace(features=noise | made.features)


def run(cohort, inputs, names, **options):
    rows = [ROWS[name] for name in names]
    return ablation.run(cohort, inputs, rows, **{"config": CONFIG, "preset": PRESET, **options})


def check(done, cohort, row):
    assert {task: len(values) for task, values in done.predictions.items()} == dict.fromkeys(cohort.tasks, len(cohort))
    assert all(np.isfinite(values).all() for values in done.predictions.values())
    assert 0 < done.trained <= done.total and done.seconds > 0


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.costly])
def test_every_row_trains_and_tells_its_size_and_time(cohort, inputs, name):
    (done,) = run(cohort, inputs, [name])[name]
    check(done, cohort, ROWS[name])
    models = len(cohort.tasks) if ROWS[name].kind in ("one a task", "EnECG published") else 1
    assert done.epochs == models * (5 if ROWS[name].kind == "EnECG published" else round(ROWS[name].effort))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("DLinear: full", "ECG-FM: LoRA") else [pytest.mark.slow])
        for name, row in ROWS.items()
        if row.costly
    ],
)
def test_every_row_that_trains_backbones_trains_them(cohort, inputs, name):
    few = np.r_[:4, 24:32]
    small = replace(cohort, table=cohort.table.iloc[few], signal=cohort.signal[few])
    (done,) = run(small, inputs.take(torch.from_numpy(few)), [name], config=replace(CONFIG, batch_size=8))[name]
    check(done, small, ROWS[name])
    sizes = configurations.backbone_sizes(PRESET)
    assert done.total >= sum(sizes[backbone] for backbone in ROWS[name].backbones)
    tuned = sum(sizes[backbone] for backbone in ROWS[name].shape.get("tuned", ROWS[name].backbones))
    assert (done.trained > 0.9 * tuned) == (ROWS[name].shape.get("lora", "full") == "full")


def test_rows_that_train_backbones_go_on_from_one_that_does_not(cohort, inputs, monkeypatch):
    for row in configurations.TABLE:
        in_loop = row.shape.get("lora", "none") in fusion.IN_LOOP and row.name not in (
            configurations.TRAINED,
            configurations.ALONE,
        )
        assert bool(row.after) == in_loop, row.name
        if in_loop:
            first = ROWS[row.after]
            assert first.shape.get("lora", "none") == ("fusion" if row.shape["lora"] == "both" else "none")
            assert {**row.shape, "lora": ""} == {**first.shape, "lora": ""} and row.backbones == first.backbones
            assert row.settings["after"] == first.settings
    found = []
    train = training.train

    def spying(*args, start=None, **options):
        found.append((start, train(*args, start=start, **options)))
        return found[-1][1]

    monkeypatch.setattr(training, "train", spying)
    few = np.r_[:4, 24:32]
    small = replace(cohort, table=cohort.table.iloc[few], signal=cohort.signal[few])
    config = replace(CONFIG, batch_size=8, lr=1e-3)
    row = replace(ROWS["DLinear: full"], fit={"lr": 1e-9, "lr_backbones": 1e-9})
    configurations.fit_row(row, small, inputs.take(torch.from_numpy(few)), config, PRESET)
    (nothing, head), (start, tuned) = found
    assert nothing is None and start is head.model and not head.model.networks and tuned.model.networks
    for name, weight in head.model.named_parameters():
        torch.testing.assert_close(tuned.model.get_parameter(name), weight, rtol=0, atol=1e-6)


def test_no_two_rows_are_the_same_and_names_can_be_told_apart():
    assert len({repr(row.settings) for row in configurations.TABLE}) == len(configurations.TABLE)
    named = [word.lower() for row in configurations.TABLE for word in (row.name,)]
    assert len(set(named)) == len(named)
    assert not {group.lower() for group in configurations.groups()} & set(named) - {configurations.FULL.lower()}
    assert all(row.about for row in configurations.TABLE) and not any("," in name for name in named)
    assert sorted(name for names in configurations.groups().values() for name in names) == sorted(ROWS)


def test_rows_are_taken_by_name_or_group():
    everything = configurations.select()
    assert [row for row in configurations.TABLE if not row.costly] == everything and everything[
        0
    ].name == configurations.FULL
    assert configurations.select(costly=True) == list(configurations.TABLE)
    some = configurations.select(["table 3", "Without Backbones "])
    assert [row.name for row in some] == [
        "ECG-MoE", "MoE", "Time MoE", "Self-Attn", "Cross-Attn", "without backbones"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no row or group lstm; groups are ECG-MoE, Table 3"):
        configurations.select(["MoE", "LSTM"])


def test_sizes_are_those_of_the_networks(cohort, inputs):
    runs = run(cohort, inputs, ["ECG-MoE", "without TimesNet", "without backbones", "LoRA in the fusion"], seeds=(0, 1))
    table = ablation.sizes(runs).set_index("row")
    own = training.train(cohort, inputs, config=CONFIG).model.n_parameters()
    fewer = training.train(cohort, inputs, config=CONFIG, names=backbones.NAMES[1:]).model.n_parameters()
    frozen = {name: backbones.n_parameters(backbones.build(name, PRESET)) for name in backbones.NAMES}
    assert table.loc["ECG-MoE", ["trained", "total"]].tolist() == [own, own + sum(frozen.values())]
    assert table.loc["without TimesNet", ["trained", "total"]].tolist() == [
        fewer, fewer + sum(frozen.values()) - frozen["timesnet"]
    ]  # fmt: skip
    assert table.loc["without backbones", "total"] == table.loc["without backbones", "trained"] < fewer
    assert table.loc["LoRA in the fusion", "trained"] < own < table.loc["LoRA in the fusion", "total"]
    once = {row.name: row.once for row in configurations.TABLE}
    assert table["seeds"].tolist() == [1 if once[name] else 2 for name in table.index]
    assert (table["epochs"] == 1).all() and (table["seconds"] > 0).all()


def test_a_network_of_equal_size_is_one(cohort, inputs):
    table = ablation.sizes(run(cohort, inputs, ["ECG-MoE", "Large ResNet + characteristics", "ResNet"])).set_index(
        "row"
    )["total"]
    assert table["Large ResNet + characteristics"] == pytest.approx(table["ECG-MoE"], rel=0.05)
    assert table["ResNet"] < 0.5 * table["ECG-MoE"]


def test_one_model_a_task_answers_each_task_as_that_model_does(cohort, inputs):
    (merged,) = run(cohort, inputs, ["one model a task"])["one model a task"]
    alone = [training.train(cohort, inputs, config=CONFIG, tasks=(task,)) for task in cohort.tasks]
    for fitted, task in zip(alone, cohort.tasks, strict=True):
        assert list(fitted.predictions) == [task]
        np.testing.assert_array_equal(merged.predictions[task], fitted.predictions[task])
    assert merged.trained == sum(fitted.model.n_parameters() for fitted in alone)


def test_what_is_done_is_not_done_again_and_nothing_is_mixed(cohort, inputs, monkeypatch):
    calls = []
    fit_row = configurations.fit_row

    def counting(row, cohort, inputs, config, preset, epochs_of):
        calls.append((row.name, config.seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit_row(row, cohort, inputs, config, preset, epochs_of)

    monkeypatch.setattr(configurations, "fit_row", counting)
    monkeypatch.setattr(configurations, "getsource", lambda _: "of = this_test")
    names, seeds = ["ECG-MoE", "MoE", "fusion by sum"], (5, 6)
    with pytest.raises(KeyboardInterrupt):
        run(cohort, inputs, names, seeds=seeds)
    assert calls == [("ECG-MoE", 5), ("MoE", 5), ("fusion by sum", 5), ("ECG-MoE", 6)], "in the order of the table"
    first = run(cohort, inputs, names, seeds=seeds)
    assert calls[4:] == [("ECG-MoE", 6), ("MoE", 6)], "it goes on where it was, and a side question has one seed"
    again = run(cohort, inputs, names, seeds=seeds)
    assert len(calls) == 6
    assert again["ECG-MoE"][1].seconds == first["ECG-MoE"][1].seconds
    np.testing.assert_array_equal(again["ECG-MoE"][1].predictions["age"], first["ECG-MoE"][1].predictions["age"])
    assert not np.array_equal(first["ECG-MoE"][0].predictions["age"], first["ECG-MoE"][1].predictions["age"])
    younger = replace(cohort, table=cohort.table.assign(age=cohort.table["age"] - 1))
    louder = inputs._replace(features=inputs.features | {"dlinear": inputs.features["dlinear"] * 1.5})
    for changed in (
        {"cohort": younger},
        {"inputs": louder},
        {"config": replace(CONFIG, lr=1e-3)},
    ):
        before = len(calls)
        run(**{"cohort": cohort, "inputs": inputs, "names": ["ECG-MoE"], "seeds": (5,)} | changed)
        assert len(calls) == before + 1, changed
    monkeypatch.setattr(configurations, "getsource", lambda _: "another = code")
    before = len(calls)
    run(cohort, inputs, ["ECG-MoE"], seeds=(5,))
    assert len(calls) == before + 1


def test_scores_are_written_with_the_spread_where_there_is_one(cohort):
    truth = cohort.targets()["age"]
    seeds = [{"age": truth + shift} for shift in (1.0, 2.0, 6.0)]
    table = reliability.seed_table({"three": seeds, "one": seeds[0]}, cohort, n_boot=20)
    assert list(ablation.score_cells(table, "three").values()) == ["3.00 ± 2.65 [3.00, 3.00]"]
    assert list(ablation.score_cells(table, "one").values()) == ["1.00 [1.00, 1.00]"]


def test_all_code_that_decides_on_a_training_is_in_the_key():
    used = {name.removeprefix("ecgmoe.") for name in cache.training_sources(*configurations._DECIDING)}
    trained = {"training", "fusion", "moe", "multitask", "objective", "variants", "routing", "enecg", "resnet", "tasks"}
    assert trained | {f"backbones.{name}" for name in ("adapt", "ecgfm", "lora", "published.hub")} <= used
    assert not used & {"beats", "ablation", "configurations", "datasets.ptbxl", "evaluation", "results"}


def test_every_import_within_the_package_is_absolute_so_that_the_digest_follows_it(root):
    relative = [
        path.name
        for path in (root / "ecgmoe").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_digest_of_code_does_not_depend_on_what_is_imported():
    """A page that has imported more than a command finds the command's result to be of the same code."""
    lines = [
        "from ecgmoe import configurations",
        "from ecgmoe import plots, bench_inference, reference, configurations",
    ]
    codes = {
        subprocess.run(
            [sys.executable, "-c", f"{line}; print(configurations.code())"], capture_output=True, text=True, check=True
        ).stdout
        for line in lines
    }
    assert codes == {f"{configurations.code()}\n"}


def test_words_in_the_code_do_not_count():
    source = '''"""Module."""
import os  # why

# A remark.
class A:
    """What it is,

    in three lines.
    """

    x = "# no remark"  #: of A
    text = """
    no docstring
    """
    def f(self):
        "One line."
        return 1
'''
    wanted = ["import os", "class A:", '    x = "# no remark"', '    text = """', "    no docstring", '    """']
    assert cache.code_of(source).splitlines() == [*wanted, "    def f(self):", "        return 1"]
    for other in ("One", "remark.", "#: of A", "three"):
        assert cache.code_of(source.replace(other, f"{other} or not")) == cache.code_of(source)
    assert cache.code_of(source.replace("return 1", "return 2")) != cache.code_of(source)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ('class Wrong(ValueError): """Words."""\n', "class Wrong(ValueError):"),
        ('def f(é="é"): "Wörter."; return 1  # one\n', 'def f(é="é"): ; return 1'),
        ('"""Of\n\nthe module."""; x = 1\n', "; x = 1"),
        ('x = "\x0c"\ny = "\u2028"  # two lines\ndef f():\n    "Words."\n', 'x = "\x0c"\ny = "\u2028"\ndef f():'),
    ],
)
def test_code_on_the_line_of_a_docstring_counts(source, wanted):
    assert cache.code_of(source) == wanted


def test_processes_share_the_work(cohort, inputs, monkeypatch):
    """What another process is training comes last, and is taken from the cache when it is there."""
    rows, trained, asked = configurations.select(["parts"]), [], []

    def once(row, cohort, inputs, config, preset, epochs_of):
        trained.append((row.name, config.seed))
        done = {"rr": np.full(len(cohort), config.seed), "sizes": np.ones(3)}
        return done | {"seconds": np.ones(1), "best": np.ones(1)}

    def busy(kind, key):
        asked.append(key["row"])
        return key["row"] == rows[0].settings and len(trained) < 5

    monkeypatch.setattr(ablation, "_trained", once)
    monkeypatch.setattr(cache, "busy", busy)
    found = ablation.run(cohort, inputs, rows, (0, 1), replace(CONFIG, lam=0.07), PRESET)
    assert trained[0] == (rows[1].name, 0) and trained.index((rows[0].name, 0)) == 5
    assert len(trained) == 2 * len(rows) == len(set(trained))
    assert all([run.predictions["rr"][0] for run in runs] == [0, 1] for runs in found.values())
    assert list(found) == [row.name for row in rows]


def test_what_is_being_computed_is_busy(tmp_path, monkeypatch):
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path))
    seen = []

    def compute():
        with ThreadPoolExecutor() as another:
            seen.append(another.submit(cache.busy, "x", {"a": 1}).result())
        return {"y": np.ones(2)}

    assert not cache.busy("x", {"a": 1})
    cache.cached("x", {"a": 1}, compute)
    assert seen == [True] and not cache.busy("x", {"a": 1}) and not cache.busy("x", {"a": 2})


def test_a_large_difference_is_clear_among_however_many_comparisons(cohort):
    truth = {name: values for name, values in cohort.targets().items() if name == "age"}
    far = {"age": truth["age"] + np.random.default_rng(0).normal(20, 2, len(cohort))}
    runs = {configurations.FULL: truth, **{f"row {i}": far for i in range(40)}}
    assert (ablation.compare(runs, cohort)["better"] == "model").all()


def test_wins_are_counted_in_the_direction_of_the_metric():
    rows = [
        ("age", "x", -1.0, -2.0, -0.5, "model"),
        ("sex", "x", -0.1, -0.2, -0.05, "neither"),
        ("rhythm", "x", 0.1, -0.2, 0.3, "neither"),
        ("age", "y", 1.0, 0.5, 2.0, "baseline"),
        ("rr", "y", 0.4, 0.3, 0.5, "baseline"),  # clear, and less than counts
        ("rr", "x", -1.4, -1.5, -1.3, "model"),
    ]
    found = ablation.counts(pd.DataFrame(rows, columns=["task", "baseline", "difference", "low", "high", "better"]))
    expected = pd.DataFrame(
        {
            "row": ["x", "y"],
            "tasks": [4, 2],
            "better": [3, 0],
            "worse": [1, 1],
            "clearly_better": [2, 0],
            "clearly_worse": [1, 1],
            "holm_better": [2, 0],
            "holm_worse": [0, 1],
        }
    )
    pd.testing.assert_frame_equal(found, expected)


@pytest.fixture(scope="module")
def refitted(cohort, inputs, tmp_path_factory):
    """Rows of every kind, chosen on the validation part, refitted, and kept in files."""
    folder = tmp_path_factory.mktemp("kept")
    names = ["ECG-MoE", "one model a task", "EnECG published", "ResNet"]
    options = {"config": replace(CONFIG, epochs=3), "seeds": (0, 1), "refit": True, "folder": folder}
    return folder, names, options, run(cohort, inputs, names, **options)


def test_a_refit_learns_for_as_many_epochs_as_were_chosen_without_it(cohort, inputs, refitted):
    _, _, options, found = refitted
    first = training.train(cohort, inputs, config=options["config"], preset=PRESET)
    best = training.best_epoch(first)
    for seed, done in enumerate(found["ECG-MoE"]):
        assert done.epochs == best
        again = replace(options["config"], epochs=best, refit=True, seed=seed)
        own = training.train(cohort, inputs, config=again, preset=PRESET)
        test = cohort.split == "test"
        np.testing.assert_array_equal(own.predictions["age"][test].round(2), done.predictions["age"][test])
    (alone,) = found["one model a task"]
    alone_first = run(cohort, inputs, ["one model a task"], config=options["config"])["one model a task"][0]
    assert len(alone_first.best) == len(cohort.tasks) and alone.epochs == sum(alone_first.best)
    assert found["EnECG published"][0].epochs == 5 * len(cohort.tasks)


def test_a_row_and_seed_are_kept_in_a_file_of_their_own_and_not_trained_again(cohort, inputs, refitted, monkeypatch):
    folder, names, options, found = refitted
    files = sorted(path.name for path in folder.glob("*"))
    assert files == [
        "ecg-moe-seed0.json",
        "ecg-moe-seed1.json",
        "enecg-published-seed0.json",
        "enecg-published-seed1.json",
        "one-model-a-task-seed0.json",
        "resnet-seed0.json",
        "resnet-seed1.json",
    ]
    content = json.loads((folder / files[1]).read_text("utf-8"))
    assert content["provenance"]["seed"] == 1 and content["provenance"]["data"]["digest"] == cohort.digest
    assert content["sizes"]["seconds"] > 0 and content["settings"] == json.loads(json.dumps(ROWS["ECG-MoE"].settings))

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(configurations, "fit_row", never)
    monkeypatch.setattr(configurations, "getsource", lambda _: "another = version")
    test = cohort.split == "test"
    again = run(cohort, inputs, names, **options)
    for name, runs in found.items():
        for done, kept in zip(runs, again[name], strict=True):
            assert done._replace(predictions={}, best=()) == kept._replace(predictions={})
            assert kept.code == done.code and kept.code != configurations.code(), "of the code that trained it"
            for task, values in done.predictions.items():
                np.testing.assert_array_equal(kept.predictions[task], values, "trained now or read: the same")
                assert np.isnan(values[~test]).all() and np.isfinite(values[test]).all()


def test_what_is_kept_of_the_first_seed_says_how_long_the_others_learn(cohort, inputs, refitted, tmp_path, monkeypatch):
    folder, _, options, found = refitted
    fit_row, code, chosen = configurations.fit_row, configurations.code(), []

    def counting(row, cohort, inputs, config, preset, epochs_of):
        chosen.append((row.name, config.seed, None if epochs_of is None else list(epochs_of(row))))
        return fit_row(row, cohort, inputs, config, preset, epochs_of)

    monkeypatch.setattr(configurations, "fit_row", counting)
    monkeypatch.setenv("ECGMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(configurations, "code", lambda: code)  # counting is none of it
    shutil.copy(folder / "ecg-moe-seed0.json", tmp_path)
    epochs = found["ECG-MoE"][0].epochs
    again = run(cohort, inputs, ["ECG-MoE"], **{**options, "folder": tmp_path})["ECG-MoE"]
    assert chosen == [("ECG-MoE", 1, [epochs])], "no training without a refit chose anew"
    test = cohort.split == "test"
    for task, values in found["ECG-MoE"][1].predictions.items():
        np.testing.assert_array_equal(again[1].predictions[task][test], values[test])
    monkeypatch.setattr(configurations, "code", lambda: "another version")  # of which the file says nothing
    (tmp_path / "ecg-moe-seed1.json").unlink()
    run(cohort, inputs, ["ECG-MoE"], **{**options, "folder": tmp_path})
    assert chosen[1:] == [("ECG-MoE", 0, None), ("ECG-MoE", 1, [epochs])]


def test_what_is_there_can_be_taken_alone(cohort, inputs, refitted, tmp_path):
    folder, names, options, _ = refitted
    shutil.copy(folder / "resnet-seed1.json", tmp_path)
    found = run(cohort, None, names, **options | {"folder": tmp_path, "only_kept": True})
    assert {name: len(runs) for name, runs in found.items()} == {"ResNet": 1}


def test_files_of_other_settings_or_data_are_not_taken(cohort, inputs, refitted):
    _, _, options, _ = refitted
    other = replace(cohort, table=cohort.table.assign(age=cohort.table["age"] - 1))
    for changed in ({"config": replace(CONFIG, lr=0.1)}, {"cohort": other}, {"refit": False}):
        asked = {"cohort": cohort, "inputs": inputs, "names": ["ECG-MoE"], **options} | changed
        with pytest.raises(InputError, match="ecg-moe-seed0.json is of other data, backbones or settings"):
            run(**asked)


def test_files_of_other_weights_of_the_backbones_are_not_taken(cohort, refitted, tmp_path, monkeypatch):
    folder, _, options, _ = refitted
    row, weights = ROWS["ECG-MoE"], tmp_path / "weights"
    shutil.copytree(prediction.SHIPPED_BACKBONES, weights)
    monkeypatch.setattr(prediction, "SHIPPED_BACKBONES", weights)
    content = json.loads((folder / "ecg-moe-seed0.json").read_text("utf-8"))
    assert content["asked"]["weights"] == {}, "random weights"
    stated = {name: json.loads((weights / f"{name}.json").read_text("utf-8"))["sha256"] for name in row.backbones}
    assert len(stated) > 1
    content["asked"] |= {"preset": "compact", "weights": stated}
    (tmp_path / "ecg-moe-seed0.json").write_text(json.dumps(content), "utf-8")
    asked = {**options, "folder": tmp_path, "only_kept": True, "preset": "compact"}
    assert len(run(cohort, None, ["ECG-MoE"], **asked)["ECG-MoE"]) == 1
    with (weights / f"{row.backbones[0]}.safetensors").open("ab") as stream:
        stream.write(b"other")
    with pytest.raises(InputError, match="ecg-moe-seed0.json is of other data, backbones or settings"):
        run(cohort, None, ["ECG-MoE"], **asked)


def test_a_file_rounds_what_a_training_predicts(cohort, inputs, refitted):
    _, names, options, found = refitted
    test = cohort.split == "test"
    exact = run(cohort, inputs, names, **options | {"folder": None})
    for name, runs in exact.items():
        for done, kept in zip(runs, found[name], strict=True):
            for task, values in done.predictions.items():
                step = {"rr": 0.005, "age": 0.005, "rhythm": 0.0005}.get(task, 0.00005)
                np.testing.assert_allclose(kept.predictions[task][test], values[test], atol=1.01 * step, rtol=1e-6)


def test_another_split_is_another_training(cohort, inputs, monkeypatch):
    """The same recordings and folds, of which another is held out."""
    names, asked = ["without backbones"], {"seeds": [0], "config": CONFIG}
    (first,) = run(cohort, inputs, names, **asked)[names[0]]
    before = cohort.split
    cohort = replace(cohort)  # splits are kept once made
    monkeypatch.setattr(datasets, "VALIDATION_FOLD", int(cohort.table["fold"][before == "train"].iloc[0]))
    assert (cohort.split != before).any() and {"train", "validation", "test"} == set(cohort.split)
    (second,) = run(cohort, inputs, names, **asked)[names[0]]
    assert not np.array_equal(first.predictions["age"], second.predictions["age"])


def test_every_row_has_a_file_name_of_its_own():
    assert len({ablation.file_of(row, 0) for row in configurations.TABLE}) == len(configurations.TABLE)
