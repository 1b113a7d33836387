"""Checkpoints of the authors of each backbone: where they are published, and :func:`load`, which reads them.

Everything that files of others demand is kept in this package, apart from the networks: one adapter each says how the
names and shapes of a file become those of our network.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ecgmoe import cache
from ecgmoe.backbones import Backbone, kind_of
from ecgmoe.backbones.published.containers import SUFFIXES, Adapted, Made, WeightsError, assemble, read


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is published, and what a reader must know of it.

    Attributes
    ----------
    backbone : str
        Name of the network.
    repository : str
        On Hugging Face's hub; empty where nothing is published.
    files : tuple of str
        The checkpoint, and what has to lie beside it.
    revision : str
        Commit, or ``main`` where no commit is known: then the one that it was on first use counts, which
        ``source.json`` in the weights folder records.
    licence, trained_on, overlap : str
        The last says which records of the data sets of this book the network has seen already.
    """

    backbone: str
    repository: str = ""
    files: tuple[str, ...] = ()
    revision: str = "main"
    licence: str = "that of whoever trained it"
    trained_on: str = "no general weights are published: they are trained for each data set"
    overlap: str = "depends on what it was trained on"


def _moment(size: str) -> Source:
    return Source(
        "moment",
        f"AutonLab/MOMENT-1-{size}",
        ("model.safetensors", "config.json"),
        licence="MIT",
        trained_on="the Time-series Pile: masked patches of archives for forecasting, classification and anomalies",
        overlap="not known to hold recordings of PTB-XL or MIMIC-IV-ECG; single-lead excerpts of other ECG databases "
        "are in its classification and anomaly archives",
    )


def _ecg_fm(file: str, trained_on: str, overlap: str, **where: str) -> Source:
    place = {"repository": "wanglab/ecg-fm"} | where
    return Source("ecg-fm", files=(file,), licence="MIT", trained_on=trained_on, overlap=overlap, **place)


_PRETRAINED = "MIMIC-IV-ECG 1.0 and the PhysioNet/CinC Challenge 2021, without labels"
_SEEN = (
    "recordings of both data sets of this book: MIMIC-IV-ECG itself, and PTB-XL as a part of the Challenge 2021, "
    "test folds included"
)

#: Published checkpoints, by the name that :func:`load` takes.
#:
#: :meta hide-value:
SOURCES = {
    "timesnet": Source("timesnet"),
    "dlinear": Source("dlinear"),
    "moment-1-small": _moment("small"),
    "moment-1-base": _moment("base"),
    "moment-1-large": _moment("large"),
    "tempo-80m": Source(
        "tempo",
        "Melady/TEMPO",
        ("TEMPO-80M_v1.pth",),
        licence="see https://huggingface.co/Melady/TEMPO",
        trained_on="forecasting: GPT-2 with LoRA on series of electricity, traffic, weather and the like",
        overlap="not known to hold any ECG",
    ),
    "ecg-fm": _ecg_fm("mimic_iv_ecg_physionet_pretrained.pt", _PRETRAINED, _SEEN),
    "ecg-fm-mimic-finetuned": _ecg_fm(
        "mimic_iv_ecg_finetuned.pt",
        f"{_PRETRAINED}; then 17 labels from the reports of MIMIC-IV-ECG",
        f"{_SEEN}, and of MIMIC-IV-ECG the reports too",
    ),
    "ecg-fm-physionet-finetuned": _ecg_fm(
        "physionet_finetuned.pt",
        f"{_PRETRAINED}; then the 26 diagnoses of the Challenge 2021",
        f"{_SEEN}, and of PTB-XL the diagnoses too",
        repository="wanglab/ecg-fm-preprint",
        revision="8fb94b0b7fe0b929f8eb469a92e52ae676850a6f",
    ),
}

#: Names that :func:`load` knows.
NAMES: tuple[str, ...] = tuple(SOURCES)

#: Names of checkpoints that come first where a folder has several.
_USUAL = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth")

#: Weights that this library ships for the preset "compact".
SHIPPED = Path(__file__).resolve().parents[3] / "data" / "backbones"


def weights_dir() -> Path:
    """Folder with a folder of weights for each name: ``ECGMOE_WEIGHTS``, else ``weights`` of the cache."""
    folder = os.environ.get("ECGMOE_WEIGHTS")
    return Path(folder).expanduser().resolve() if folder else cache.cache_dir() / "weights"


def load(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    keep_lora: bool = False,
    **settings: Any,
) -> Backbone:
    """Make a backbone with the weights of a checkpoint of its authors' code, in evaluation mode.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    weights : path or str, optional
        The checkpoint; a folder with it and its configuration; or a repository on Hugging Face's hub, as
        ``owner/name`` or ``owner/name@revision``. By default the folder ``<name>`` of :func:`weights_dir`, and where
        that has none, the published repository.
    revision : str, optional
        Branch, tag or commit of the repository, instead of the one in :data:`SOURCES`.
    keep_lora : bool
        Of TEMPO: leave the low-rank adapters of its training apart instead of adding them to the weights.
    **settings
        Fields of the configuration that no weight decides, such as ``fs``, ``per_sample_periods`` of TimesNet, or
        ``leads`` of MOMENT and TEMPO.

    Returns
    -------
    Backbone

    Raises
    ------
    WeightsError
        There is no checkpoint, or it cannot be used: every weight of it is used, or not used for a known reason, or
        nothing is loaded at all. Nothing in a file is run.
    ValueError
        For an unknown name or setting; the message lists the known ones.

    Notes
    -----
    Of a repository, the commit and the SHA-256 of each file are recorded in ``source.json`` of the folder ``<name>`` of
    :func:`weights_dir` on first use, and demanded ever after. Configuration files beside a checkpoint are looked at:
    ``config.json``, ``model_cfg.json``, ``hub_config.json``, ``meta.json``, and YAML.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown checkpoint {name!r}; known are {', '.join(NAMES)}")
    source = SOURCES[name]
    kind = kind_of(source.backbone)
    known = [field.name for field in fields(kind.presets["published"])]
    if unknown := sorted(settings.keys() - set(known)):
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; known are {', '.join(known)}")
    if keep_lora and source.backbone != "tempo":
        raise ValueError(f"{name} has no low-rank adapters to keep; only TEMPO's checkpoints have")
    adapt = import_module(f"{__name__}.{kind.__module__.rpartition('.')[2]}").adapt

    def make(path: Path) -> Backbone:
        checkpoint = read(path)
        adapted = adapt(checkpoint, keep_lora=True) if keep_lora else adapt(checkpoint)
        return assemble(kind, checkpoint, replace(adapted, config=replace(adapted.config, **settings)))

    return make(_find(name, weights, revision, make))


def load_shipped(name: str) -> Backbone:
    """Make a compact backbone with the pretrained weights that this library ships, in evaluation mode.

    Raises
    ------
    WeightsError
        The file is not there, or cannot be used.
    """
    path = SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        raise WeightsError(path, "there are no pretrained weights", "make them by `python -m ecgmoe pretrain`")
    kind, checkpoint = kind_of(name), read(path)
    try:
        said = checkpoint.configs["metadata"]
        config = type(kind.presets["compact"])(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        )
        with torch.random.fork_rng(devices=[]):
            network = kind(config)
    except Exception:  # of sizes that cannot be, anything
        reason = "does not say which configuration its weights are of"
        raise WeightsError(path, reason, "make it again by `python -m ecgmoe pretrain`") from None
    trained = dict(network.named_parameters())
    wanted = {  # what no training changes, such as tables of sines, is made anew
        key: key if key in trained else Made((), weight.clone) for key, weight in network.state_dict().items()
    }
    return assemble(kind, checkpoint, Adapted(config, wanted))


def _find(
    name: str, weights: str | os.PathLike[str] | None, revision: str | None, make: Callable[[Path], Backbone]
) -> Path:
    """Path of the checkpoint that is meant."""
    from ecgmoe.backbones.published import hub  # takes a second to import

    source, folder = SOURCES[name], weights_dir() / name
    if weights is None:
        if revision is None and _checkpoints(folder):
            hub.check(folder)
            return _in_folder(name, folder, make)
        if not source.repository:
            reason = f"no general weights are published, and there are none in {folder}"
            cure = "give a checkpoint that was trained with Time-Series-Library"
            raise WeightsError(name, reason, cure + " or LTSF-Linear" * (name == "dlinear"))
        return hub.fetch(source.repository, source.files, revision or source.revision, folder)
    path = Path(weights).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(f"revision = {revision!r} is of a repository, and {path} is a file or folder")
        return _in_folder(name, path, make) if path.is_dir() else path
    place = hub.split_id(weights) if isinstance(weights, str) else None
    if place is None:
        raise WeightsError(path, "there is no such file or folder", "check the path, or pass `owner/name` of the hub")
    repository, at = place
    if None not in (at, revision) and at != revision:
        raise ValueError(f"{weights} names another revision than revision = {revision!r}")
    if repository == source.repository:
        return hub.fetch(repository, source.files, at or revision or source.revision, folder)
    return hub.fetch(repository, (), at or revision or "main", folder, (*source.files[:1], *_USUAL))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and path.is_file())


def _in_folder(name: str, folder: Path, make: Callable[[Path], Backbone]) -> Path:
    """Path of the checkpoint in a folder: the only one, one of a usual name, or any where all are the same network."""
    paths = _checkpoints(folder)
    if not paths:
        raise WeightsError(folder, "holds no checkpoint", f"pass a folder with one ({', '.join(SUFFIXES)})")
    usual = [SOURCES[name].files[:1], *(source.files[:1] for source in SOURCES.values()), _USUAL]
    for file in (file for files in usual for file in files):
        if folder / file in paths:
            return folder / file
    if len(paths) > 1 and not _same_network(paths, make):
        reason = f"holds several checkpoints: {', '.join(path.name for path in paths)}"
        raise WeightsError(folder, reason, "pass the path of the one that is meant")
    return paths[0]


def _same_network(paths: list[Path], make: Callable[[Path], Backbone]) -> bool:
    """Whether checkpoints differ in how they name their weights only."""
    try:
        first, *others = (make(path) for path in paths)
    except WeightsError:
        return False
    ours = first.state_dict()
    return all(
        other.config == first.config and all(torch.equal(w, ours[key]) for key, w in other.state_dict().items())
        for other in others
    )
