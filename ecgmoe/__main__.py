"""The command line: ``python -m ecgmoe --help``."""

import sys
from pathlib import Path

import click

from ecgmoe import __version__
from ecgmoe import chapters as _chapters


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
def app() -> None:
    """ECG-MoE, reproduced: simulate recordings, run the chapters of the book."""


@app.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--patients", default=1000, help="Number of patients.")
@click.option("--seed", default=0, help="Random seed.")
def simulate(folder: Path, patients: int, seed: int) -> None:
    """Write a simulated cohort to FOLDER, in the layout of PTB-XL."""
    from ecgmoe.datasets import simulated

    simulated.write(folder, n_patients=patients, seed=seed)
    click.echo(f"wrote {patients} simulated patients to {folder}")


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


if __name__ == "__main__":
    app(prog_name="python -m ecgmoe")
