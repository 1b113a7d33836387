"""The command line: ``python -m ecgmoe --help``."""

import gc
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import click
from click.core import ParameterSource

from ecgmoe import __version__
from ecgmoe import chapters as _chapters
from ecgmoe.records import InputError, RecordError


class _App(click.Group):
    """Commands that show what is wrong with input, or with a file, in one line, and leave with exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # whoever reads wants no more, as `| head`: click ends quietly
        except InputError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            said = f"{where}{error.strerror}; check path, permissions and space" if error.strerror else str(error)
            raise click.ClickException(said) from None


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
def app() -> None:
    """ECG-MoE, reproduced: prepare recordings, measure, run the chapters of the book."""


def _device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse a device that torch does not know or does not see."""
    if value == "cpu":
        return value
    if not re.fullmatch(r"cuda(:\d+)?", value):
        raise click.BadParameter(f"{value} is none of cpu, cuda and cuda:N")
    import torch

    seen = torch.cuda.device_count()
    if int(value.partition(":")[2] or 0) >= seen:
        raise click.BadParameter(f"{value}: this torch ({torch.__version__}) sees {seen} CUDA devices")
    return value


def _floors(cohort: Any) -> Any:
    """Predictions of the floors; what cannot be scored in either part is said here, before any training."""
    from ecgmoe import baselines, evaluation

    try:
        floors = baselines.floors(cohort)
        for split in ("validation", "test"):
            evaluation.score_table(floors, cohort, split=split, n_boot=0)
    except ValueError as error:
        raise InputError(str(error)) from None
    return floors


@contextmanager
def _staying() -> Iterator[None]:
    """Make what stays to the end, modules and a model: to look for garbage in it took a third of a short run."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class _Given(click.Path):
    """A file or folder; an empty name, as an unset variable of a shell leaves it, is not the current folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty name; the current folder is .", parameter, context)
        return super().convert(value, parameter, context)


class _Place(_Given):
    """Where something will be written; one where nothing can be is refused before anything is computed for it."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        place = cast(Path, super().convert(value, parameter, context))
        there = next(path for path in (place.absolute(), *place.absolute().parents) if os.path.exists(path))
        if there != place.absolute() and not there.is_dir():
            raise click.ClickException(f"{place}: {there} is no folder; name another place")
        if not os.access(there, os.W_OK):
            reason = f"{there} cannot be written to; check permissions, or name another place"
            raise click.ClickException(f"{place}: {reason}")
        return place


_FOLDER = _Place(file_okay=False, path_type=Path)
_json_file = click.option(
    "--json", "json_file", type=_Place(dir_okay=False, path_type=Path), help="Write the result here too."
)
_model = click.option(
    "--model",
    default="compact-ptbxl",
    metavar="NAME",
    type=_Given(),
    help="A model that is shipped, or the folder of your own.",
)
_PRESETS = click.Choice(["compact", "compact-random", "published", "published-random"])


@app.command()
@click.argument("folder", type=_FOLDER)
@click.option("--patients", default=1000, type=click.IntRange(min=1), help="Number of patients.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Random seed.")
@click.option(
    "--layout", default="ptbxl", type=click.Choice(["ptbxl", "mimic-iv-ecg"]), help="Whose folders and tables."
)
def simulate(folder: Path, patients: int, seed: int, layout: Literal["ptbxl", "mimic-iv-ecg"]) -> None:
    """Write a simulated cohort to FOLDER, in the layout of a real data set."""
    from ecgmoe.datasets import simulated

    simulated.write(folder, n_patients=patients, seed=seed, layout=layout)
    click.echo(f"wrote {patients} simulated patients to {folder}")


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@click.argument("folder", type=_FOLDER)
@click.option(
    "--fs", default="100", type=click.Choice(["100", "500"]), help="Sampling rate of the store, Hz; chapters take 100."
)
@click.option("--workers", default=2, type=click.IntRange(min=0), help="Processes; 0 works in this one, without Dask.")
@click.option("--scheduler", help="Address of a running Dask scheduler, such as tcp://10.0.0.1:8786.")
def prepare(data_root: str, folder: Path, fs: str, workers: int, scheduler: str | None) -> None:
    """Prepare the recordings of DATA_ROOT once and for all: a store in FOLDER that every chapter takes as data_root.

    DATA_ROOT is the folder of PTB-XL or MIMIC-IV-ECG as downloaded, or "simulated". Interrupted at any moment, the
    same command goes on where it was. Recordings that cannot be used are left out and listed in FOLDER/skipped.csv.
    """
    from ecgmoe import datasets, store

    report = store.prepare(datasets.listing(data_root, int(fs)), folder, workers=workers, scheduler=scheduler)
    click.echo(str(report))


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--folder",
    type=_FOLDER,
    help="Where weights and cards go; by default where the chapters look for them.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the recordings, instead of the recipe's.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Random seed.")
@click.option("--device", default="cpu", callback=_device, help="Where to train: cpu, cuda or cuda:1.")
@click.option("--bfloat16", is_flag=True, help="Compute matrix products in bfloat16.")
def pretrain(
    data_root: str,
    names: tuple[str, ...],
    folder: Path | None,
    epochs: int | None,
    seed: int,
    device: str,
    bfloat16: bool,
) -> None:
    """Pretrain the compact backbones (all, or those with the given NAMEs) on folds 1-8 of DATA_ROOT, without labels.

    DATA_ROOT is the folder of PTB-XL as downloaded, a prepared store, or "simulated". Interrupted at any moment, the
    same command goes on with the epoch where it was.
    """
    from ecgmoe import backbones, datasets, pretraining

    if unknown := sorted(set(names) - set(backbones.NAMES)):
        raise click.UsageError(f"unknown backbone {', '.join(unknown)}; known are {', '.join(backbones.NAMES)}")
    cohort = datasets.load(data_root, max_records=0)
    for name in names or backbones.NAMES:
        recipe = pretraining.RECIPES[name]
        recipe = replace(recipe, epochs=epochs or recipe.epochs)
        path = pretraining.pretrain(name, cohort, folder, recipe=recipe, seed=seed, device=device, bfloat16=bfloat16)
        click.echo(f"wrote {path}")


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@click.option(
    "--preset",
    default="compact",
    type=_PRESETS,
    help="Backbones that are probed.",
)
@click.option(
    "--records", default=0, type=click.IntRange(min=0), help="Records of folds 7-9 of real data; 0 takes folds 1-9."
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Random seed.")
@click.option(
    "--folder",
    type=_FOLDER,
    help="Where the result goes, by default with the other runs; the book reads data/reference.",
)
def probe(data_root: str, preset: str, records: int, seed: int, folder: Path | None) -> None:
    """Read linearly what the frozen features of the backbones hold of DATA_ROOT, beside twins with random weights.

    DATA_ROOT is the folder of PTB-XL or MIMIC-IV-ECG as downloaded, a prepared store, or "simulated". Interrupted at
    any moment, the same command goes on where it was. The result is probes_<data set>.json.
    """
    from ecgmoe import backbones, datasets, probing

    cohort = datasets.load(data_root, fs=backbones.RECORDING_HZ[preset], max_records=records)
    floors = _floors(cohort)
    found = probing.probe(cohort, preset, seed, floors=floors)
    path = probing.write(found, cohort, preset, seed, records, folder)
    click.echo("\n".join([*probing.describe(found), f"wrote {path}"]))


@app.command()
@click.option(
    "--data",
    "--data-root",
    "data",
    default="simulated",
    type=_Given(),
    metavar="DATA_ROOT",
    help='Folder of a data set or prepared store, or "simulated".',
)
@click.option("--patients", default=7000, type=click.IntRange(min=1), help="Patients of the simulated cohort.")
@click.option(
    "--train-records",
    type=click.IntRange(min=0),
    show_default="2000 of the simulated cohort, all of real data",
    help="Train on a random part of the training patients with so many records; 0 takes all.",
)
@click.option(
    "--preset",
    default="compact",
    type=_PRESETS,
    help="Backbones.",
)
@click.option(
    "--rows", multiple=True, metavar="NAME", help="A row of the table or a group of rows; may be given several times."
)
@click.option("--seeds", default=3, type=click.IntRange(min=1), help="Trainings of every row.")
@click.option("--epochs", type=click.IntRange(min=1), help="Most epochs of a training, instead of the recipe's.")
@click.option("--costly", is_flag=True, help="Also the rows that take long, such as those that train backbones.")
@click.option("--only-kept", is_flag=True, help="Train nothing: compose what is done of real recordings.")
@click.option("--list", "only_list", is_flag=True, help="Name rows and groups, and train nothing.")
@click.option(
    "--folder",
    type=_FOLDER,
    help="Where the result goes, by default with the other runs; the book reads data/reference.",
)
def reference(folder: Path | None, only_list: bool, **options: Any) -> None:
    """Train the rows of the table of ablations and rivals, and compare ECG-MoE with each of them and with the floors.

    All rows but those that take long, unless --rows names some. Interrupted at any moment, the same command goes
    on where it was. The result is reference_<data set>.json. On real recordings, epochs are chosen on fold 8 and models
    learn from folds 1-8; each row and seed is kept as soon as it is done, in reference_<data set>/.
    """
    from ecgmoe import configurations, findings
    from ecgmoe import reference as _reference

    if only_list:
        click.echo("\n".join(_reference.listing()))
        return
    try:
        configurations.select(options["rows"])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    content, path = _reference.make(folder, **options)
    click.echo("\n".join([*findings.describe(content), f"wrote {path}"]))


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@click.option(
    "--rows",
    default=("ResNet", "ECG-MoE with ECG-FM trained"),
    show_default=True,
    multiple=True,
    metavar="NAME",
    help="A row of the table or a group of rows, beside ECG-MoE; may be given several times.",
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Random seed.")
@click.option(
    "--folder",
    default=Path("data/reference"),
    show_default=True,
    type=_FOLDER,
    help="Where the result goes.",
)
def curve(data_root: str, rows: tuple[str, ...], seed: int, folder: Path) -> None:
    """Train rows on an eighth, a quarter, half and all of the training patients, to see what more recordings bring.

    Scores are those of the validation part, fold 8 of PTB-XL; interrupted, the same command goes on where it was.
    """
    from ecgmoe import curve as _curve

    content, path = _curve.make(data_root, folder, rows, seed)
    click.echo(_curve.last_doubling(content["metrics"]["curve"]).to_string(index=False))
    click.echo(f"wrote {path}")


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@click.option(
    "--folder",
    required=True,
    type=_FOLDER,
    help="Gets checkpoints, metrics, scores and the model.",
)
@click.option(
    "--preset",
    default="compact",
    type=_PRESETS,
    help="Backbones.",
)
@click.option("--records", default=0, type=click.IntRange(min=0), help="Records of folds 7-9; 0 takes folds 1-9.")
@click.option("--epochs", default=20, type=click.IntRange(min=1), help="Most passes over the training part.")
@click.option("--batch-size", default=64, type=click.IntRange(min=1), help="Records of a step, over all processes.")
@click.option("--accumulate", default=1, type=click.IntRange(min=1), help="Parts of a batch that are computed in turn.")
@click.option("--lr", default=2e-3, type=click.FloatRange(min=0, min_open=True), help="Highest rate of learning.")
@click.option("--precision", default="float32", type=click.Choice(["float32", "bfloat16"]), help="While training.")
@click.option(
    "--weighting", default="fixed", type=click.Choice(["fixed", "uncertainty"]), help="How tasks weigh in the loss."
)
@click.option(
    "--contrast",
    default="record",
    type=click.Choice(["record", "patient", "views"]),
    help="Positives: both paths of a record; or also its patient's other records; or also a second noisy view.",
)
@click.option("--lam", default=0.1, type=click.FloatRange(min=0), help="Weight of the contrastive term, lambda.")
@click.option(
    "--lora",
    default="none",
    type=click.Choice(["none", "fusion", "backbone", "both", "full"]),
    help="What is trained: the fusion, or LoRA in it, in backbones, in both; or everything.",
)
@click.option("--top-k", default=0, type=click.IntRange(0, 5), help="Backbones that run a record; 0: all.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Random seed.")
def train(data_root: str, folder: Path, preset: str, records: int, lora: str, top_k: int, **fit: Any) -> None:
    """Train ECG-MoE on DATA_ROOT and score it on the validation and the test part, beside the floors.

    DATA_ROOT is the folder of PTB-XL or MIMIC-IV-ECG as downloaded, a prepared store, or "simulated". Interrupted at
    any moment, the same command goes on with the epoch where it was. Several processes, on a GPU each or on the CPU:
    "accelerate launch --multi_gpu --num_processes 2 -m ecgmoe train ...".
    """
    from ecgmoe import backbones, datasets, evaluation, features, prediction, results, training
    from ecgmoe.fusion import ECGMoE

    parts = ("validation", "test")
    cohort = datasets.load(data_root, fs=backbones.RECORDING_HZ[preset], max_records=records)
    config = training.FitConfig(**fit)
    group = training.processes.started()
    if group.is_main_process:
        floors = _floors(cohort)
    inputs = features.make_inputs(cohort, preset=preset, seed=config.seed)
    fitted = training.train(cohort, inputs, config=config, folder=folder, preset=preset, lora=lora, top_k=top_k)
    if group.is_main_process:
        prediction.save(cast(ECGMoE, fitted.model), folder / "model", config.seed)
        runs = {"ECG-MoE": fitted.predictions, **floors}
        scores = {split: evaluation.score_table(runs, cohort, split=split, headline=False) for split in parts}
        parameters = {"preset": preset, "records": records, "lora": lora, "top_k": top_k, **asdict(config)}
        origin = results.provenance(cohort, config.seed, parameters)
        results.write_json(folder / "scores.json", {"provenance": origin, "metrics": scores})
        headline = {split: evaluation.headlines(table) for split, table in scores.items()}
        validation, test = (evaluation.paper_table(headline[split]) for split in parts)
        table = validation.rename(columns={"This run": "Validation part"}).assign(**{"Test part": test["This run"]})
        click.echo(table.to_string(index=False))
        click.echo(f"wrote {folder}")
    group.destroy_process_group()


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@click.argument("folder", type=_FOLDER)
@click.option("--row", default="ECG-MoE", metavar="NAME", help="Which ECG-MoE: a row of `reference --list`.")
@click.option(
    "--members", default=3, type=click.IntRange(min=1), help="Trainings from different seeds that answer as one."
)
@click.option("--epochs", type=click.IntRange(min=1), help="Most epochs of a training, instead of the recipe's.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Random seed of the first training.")
@click.option(
    "--runs",
    type=_FOLDER,
    help="Keeps checkpoints: after a kill, the same command goes on.",
)
def ship(
    data_root: str, folder: Path, row: str, members: int, epochs: int | None, seed: int, runs: Path | None
) -> None:
    """Train a model for others to use, and write it with its card to FOLDER: what is in data/models was made so.

    Epochs and calibration are chosen on fold 8 of DATA_ROOT; the model then learns from folds 1-8, and is judged on
    fold 9.
    """
    from ecgmoe import datasets, reference, shipping

    models = {
        one.name.lower(): one
        for one in reference.rows_of(data_root, costly=True)
        if one.kind == "ECG-MoE" and not (one.after or one.phase or one.shape.get("top_k"))
    }
    if row.lower() not in models:
        raise click.UsageError(f"no ECG-MoE {row}; known are {', '.join(one.name for one in models.values())}")
    chosen = models[row.lower()]
    cohort = datasets.load(data_root, max_records=0)
    recipe = reference.recipe(data_root)
    most = epochs or max(1, round(recipe.epochs * chosen.effort))
    config = replace(recipe, **chosen.fit, epochs=most, seed=seed)
    shape = {"names": chosen.backbones, **chosen.shape}
    shipping.ship(cohort, folder, config=config, members=members, runs=runs, **shape)
    click.echo((folder / "README.md").read_text("utf-8"))


@app.command()
@click.argument("data_root", metavar="DATA_ROOT", type=_Given())
@_model
@click.option("--records", default=0, type=click.IntRange(min=0), help="Records of folds 7-9; 0 takes folds 1-9.")
@click.option("--write", is_flag=True, help="Write the figures into the card and README of the model, too.")
@_json_file
def evaluate(data_root: str, model: str, records: int, write: bool, json_file: Path | None) -> None:
    """Score a trained model on fold 9 of DATA_ROOT, as its card has it: what `predict` answers against the labels."""
    import pandas as pd

    from ecgmoe import datasets, prediction, results, shipping

    predictor = prediction.load(model)
    cohort = datasets.load(data_root, fs=int(predictor.model.config.fs), max_records=records)
    if write:
        found = shipping.judge_again(predictor, prediction.folder_of(model), cohort)
    else:
        found = shipping.judged(predictor, cohort)
    for name, part in found.items():
        text = part.to_string(index=False) if isinstance(part, pd.DataFrame) else str(part)
        click.echo(f"{name}\n{text}\n")
    if json_file is not None:
        results.write_json(json_file, {"provenance": results.provenance(cohort, 0, {"model": model}), "test": found})


@app.command()
@click.argument("records", metavar="RECORD...", nargs=-1, required=True, type=_Given(path_type=Path))
@_model
@click.option(
    "--tasks", metavar="NAMES", help="Tasks separated by commas, such as rr,sex; by default all of the model."
)
@click.option("--csv", "form", flag_value="csv", default=True, help="Write a table of comma-separated values.")
@click.option("--json", "form", flag_value="json", help="Write a list of objects.")
@click.option("--fs", type=click.FloatRange(min=0, min_open=True), help="Sampling rate of CSV and npy files, Hz.")
@click.option(
    "--leads", metavar="NAMES", help="Leads of CSV and npy files in order, such as I,II,V1; - for a column to skip."
)
@click.option("--unit", default="mV", type=click.Choice(["mV", "uV", "V"]), help="Of CSV and npy files.")
@click.option(
    "--figures",
    type=_FOLDER,
    help="Folder for a figure of every window: the ECG, the predictions, and where the model looked.",
)
@click.pass_context
def predict(
    context: click.Context,
    records: tuple[Path, ...],
    model: str,
    tasks: str | None,
    form: str,
    fs: float | None,
    leads: str | None,
    unit: str,
    figures: Path | None,
) -> None:
    """Predict RR interval, age, sex and rhythm from each RECORD, a line for each ten seconds.

    RECORD is a WFDB record (its name or a file of it), a folder of them, a CSV file (a column a lead, a row a sample)
    or a npy file (leads, samples). Any sampling rate, any selection of the twelve leads; MLII counts as II. The table
    goes to standard output, all else to standard error. What cannot be read is listed and left out.

    Exit code: 0 if something was predicted, 1 if nothing was, 2 for wrong usage. Not a medical device.
    """
    with _staying():
        from tqdm import tqdm

        from ecgmoe import prediction, sources
        from ecgmoe.tasks import TASKS

    wanted = None if tasks is None else tuple(name.strip() for name in tasks.split(",") if name.strip())
    if wanted is not None and (unknown := [name for name in wanted if name not in TASKS] or not wanted):
        named = ", ".join(unknown) if isinstance(unknown, list) else "none"
        raise click.UsageError(f"unknown task {named}; known are {', '.join(TASKS)}")
    given = tuple(name.strip() for name in leads.split(",")) if leads else ()
    if wrong := [name for name in given if sources.standard_name(name) is None and name not in ("", "-")]:
        known = "I, II, III, aVR, aVL, aVF, V1-V6, and - for a column to skip"
        raise click.UsageError(f"unknown lead {', '.join(wrong)}; known are {known}")
    if (fs or leads or context.get_parameter_source("unit") == ParameterSource.COMMANDLINE) and any(
        path.suffix.lower() not in (".csv", ".npy") for path in records
    ):
        click.echo("--fs, --leads and --unit are for CSV and npy files alone; WFDB records say their own", err=True)
    with _staying():
        predictor = prediction.load(model)
    if missing := [name for name in wanted or () if name not in predictor.tasks]:
        click.echo(f"{model} was not trained on {', '.join(missing)}: these cells stay empty", err=True)
    n_rows = n_answered = n_skipped = 0
    try:
        read = sources.read(records, sources.Files(fs, given, unit))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with tqdm(desc="windows", unit="window", disable=None) as bar:
        for found in predictor.stream(read, wanted):
            if isinstance(found, RecordError):
                n_skipped += 1
                tqdm.write(f"skipped {found}", file=sys.stderr)
                continue
            _print_rows(prediction.rounded(found.table), form, first=n_rows == 0)
            if figures is not None:
                _draw(found.explained(), figures)
            n_rows += len(found.table)
            n_answered += prediction.answered(found.table)
            bar.update(len(found.table))
    if form == "json":
        click.echo("]" if n_rows else "[]")
    if n_skipped or n_answered < n_rows:
        without = f", {n_rows - n_answered} without an answer" if n_answered < n_rows else ""
        click.echo(f"{n_answered} windows predicted{without}, {n_skipped} recordings skipped", err=True)
    context.exit(0 if n_answered else 1)


def _draw(windows: list[Any], folder: Path) -> None:
    """Write a figure of each window, named after its recording and where it starts."""
    from ecgmoe import plots

    folder.mkdir(parents=True, exist_ok=True)
    for window in windows:
        name = re.sub(r"[^-\w.]+", "_", f"{window.window.record}_{window.window.start_s:g}s")
        plots.explained(window).savefig(folder / f"{name}.png", dpi=110)


def _print_rows(table: Any, form: str, first: bool) -> None:
    """Write rows of predictions to standard output, the head before the first of them."""
    if form == "csv":
        click.echo(table.to_csv(index=False, header=first), nl=False)
        return
    for i, line in enumerate(table.to_json(orient="records", lines=True).splitlines()):
        click.echo(("[" if first and i == 0 else ",") + line)


@app.group(name="bench")
def benchmarks() -> None:
    """Measure speed, memory and accuracy on this machine."""


@benchmarks.command()
@click.option("--ptbxl", type=_Given(file_okay=False, path_type=Path), help="Folder of PTB-XL; else simulated.")
@click.option("--annotated", type=_Given(file_okay=False, path_type=Path), help="Folder with mitdb, ludb, cpsc2019.")
@click.option(
    "--records", default=500, type=click.IntRange(min=0), help="Records to prepare; 0 takes all of folds 1-9."
)
def data(ptbxl: Path | None, annotated: Path | None, records: int) -> None:
    """Compare reading, preparing and beat detection with the packages that users have today."""
    from ecgmoe import bench

    metrics = bench.data(annotated_root=annotated, ptbxl_root=ptbxl, max_records=records)
    click.echo("\n".join(bench.describe(metrics)))


@benchmarks.command(name="backbones")
@click.option(
    "--preset",
    default="published-random",
    type=_PRESETS,
    help="Sizes and weights.",
)
@click.option("--batch", default=16, type=click.IntRange(min=1), help="Records of a pass.")
@click.option("--rounds", default=3, type=click.IntRange(min=1), help="How often each way is timed.")
@_json_file
def bench_backbones(preset: str, batch: int, rounds: int, json_file: Path | None) -> None:
    """Compare float32 as the backbones' authors compute it, our float32, and bfloat16: time, error, what auto picks."""
    from ecgmoe import bench_backbones as bench

    metrics = bench.measure(preset, batch, rounds, json_file=json_file)
    click.echo("\n".join(bench.describe(metrics)))


@benchmarks.command(name="inference")
@click.option(
    "--preset",
    default="published-random",
    type=_PRESETS,
    help="Sizes and weights of what is timed.",
)
@click.option("--records", default=2, type=click.IntRange(min=1), help="Records of a pass.")
@click.option("--rounds", default=3, type=click.IntRange(min=1), help="How often each way is timed.")
@click.option(
    "--seeds", default=3, type=click.IntRange(min=0), help="Trainings a point of the trade-off curve; 0: no curve."
)
@click.option("--device", default="cpu", callback=_device, help="Where to compute: cpu, cuda or cuda:1.")
@_json_file
def bench_inference(preset: str, records: int, rounds: int, seeds: int, device: str, json_file: Path | None) -> None:
    """Compare one pass for all tasks with one model a task, time and memory, and tell how its cost grows."""
    from ecgmoe import bench_inference as bench

    metrics = bench.measure(preset, records, rounds, seeds, device, json_file)
    click.echo("\n".join(bench.describe(metrics)))


@benchmarks.command(name="predict")
@click.option("--records", default=1000, type=click.IntRange(min=2), help="Recordings; ten times as many follow.")
@_model
@_json_file
def bench_predict(records: int, model: str, json_file: Path | None) -> None:
    """Time `predict` on one core, and compare its memory on some recordings and on ten times as many."""
    from ecgmoe import bench_predict as bench

    metrics = bench.measure(records, model, json_file)
    click.echo("\n".join(bench.describe(metrics)))


@app.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "-p",
    "parameters",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the chapters, with its value; may be given several times.",
)
@click.option("--jobs", default=2, type=click.IntRange(min=1), help="Chapters at a time.")
def chapters(names: tuple[str, ...], parameters: tuple[tuple[str, str], ...], jobs: int) -> None:
    """Execute chapters of the book (all, or those with the given NAMEs or beginnings of names, such as 05).

    Without -p these are the book's own runs (runs/book), repeated only when something they depend on changed. With
    -p, whatever came out lies in runs/<digest>, and the book stays as it is.
    """
    try:
        report = _chapters.run(names, dict(parameters), jobs)
    except _chapters.ParameterError as error:
        raise click.UsageError(str(error)) from None
    click.echo("\n".join(_chapters.describe(report)))
    sys.exit(bool(report.failures))


@app.command()
@click.argument("run_a", type=_Given(path_type=Path))
@click.argument("run_b", type=_Given(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def compare(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Print what differs between two runs: parameters, environment, numbers, and apart from these time and memory.

    A run is a JSON file as the chapters and the other commands write it, or a folder of such files, matched by name.
    Where a number has a 95 % interval in RUN_A (or else in RUN_B), it is said whether that of the other run lies in it.

    Exit code: 0 if no number is outside its interval, 1 if one is or is missing from one run, 2 for wrong usage.
    """
    from ecgmoe import comparison

    try:
        found = comparison.compare_runs(run_a, run_b)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    counts = found.count()
    if as_json:
        click.echo(json.dumps({**asdict(found), "counts": counts}, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(comparison.describe(found)).lstrip())
    sys.exit(counts["outside their interval"] + counts["missing"] > 0)


@app.command()
@click.argument(
    "folders",
    metavar="FOLDER...",
    nargs=-1,
    required=True,
    type=_Given(exists=True, file_okay=False, path_type=Path),
)
@_model
@click.option(
    "--beats",
    type=_Given(exists=True, file_okay=False, path_type=Path),
    help="MIT-BIH as downloaded: also what the warnings are worth.",
)
@_json_file
def elsewhere(folders: tuple[Path, ...], model: str, beats: Path | None, json_file: Path | None) -> None:
    """Score a trained model on recordings of other hospitals, each FOLDER of WFDB records a source of its own.

    Age, sex and rhythm are read from comments of the headers, as LUDB and the PhysioNet/CinC Challenge 2021 have them.
    Each recording is answered once, from its first ten seconds; those of PTB-XL are left out.
    """
    from ecgmoe import elsewhere as _elsewhere
    from ecgmoe import prediction

    card = prediction.load(model).card
    metrics = _elsewhere.measure(folders, model, json_file, beats)
    click.echo("\n".join(_elsewhere.describe(metrics, card)))


if __name__ == "__main__":
    app(prog_name="python -m ecgmoe")
