"""Every way to the environment reaches the same one, and every page that names a version or an author agrees."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ecgmoe

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["dev"]]]
PINS = {
    canonicalize_name(requirement.name): requirement
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}
PINNED = {name: str(requirement.specifier).removeprefix("==") for name, requirement in PINS.items()}


def needed() -> set[str]:
    """Names of all packages that the declared ones need here, however indirectly."""
    todo, seen = list(DECLARED), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        for line in distribution(name).requires or []:
            child = Requirement(line)
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in ["", *requirement.extras]):
                todo.append(child)
    return {name for name, *_ in seen}


def test_constraints_pin_one_exact_version_each():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert sum(not line.startswith("#") for line in lines) == len(PINS)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in PINS.values())


def test_what_is_declared_is_pinned_within_its_bounds():
    for requirement in DECLARED:
        assert Version(PINNED[canonicalize_name(requirement.name)]) in requirement.specifier, requirement


def test_the_installed_environment_is_the_pinned_one_down_to_the_last_dependency():
    if Version(sys.version.split()[0]).release[:2] != (3, 11) or sys.platform != "linux":
        pytest.skip("constraints.txt was taken on Linux with Python 3.11")
    left_to_pip = re.compile(r"pip|setuptools|wheel|triton|(nvidia|cuda)-.*")  # the latter: pinned by CUDA's torch
    wanted = {name for name in needed() | {"momentfm"} if not left_to_pip.fullmatch(name)}
    assert wanted - set(PINS) == set()
    different = {name: version(name) for name in wanted if Version(version(name)).public != PINNED[name]}
    assert different == {}


def test_momentfm_is_pinned_but_not_declared_because_its_own_pins_cannot_be_met():
    assert "momentfm" in PINS
    assert "momentfm" not in {requirement.name for requirement in DECLARED}


def test_make_clean_spares_the_checkpoints_that_users_brought(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    for times in range(2):
        subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / ".cache").exists() == bool(times), "and without a cache it is content"
        for file in (".cache/weights/moment/model", ".cache/features/a", ".cache/.b", "_build/c"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
        left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
        assert sorted(left) == [".cache/weights/moment/model", "Makefile", "constraints.txt", "pyproject.toml"]


def test_conda_and_binder_reach_what_make_reaches():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    post_build = (ROOT / "postBuild").read_text(encoding="utf-8")
    python = next(line.split("=")[1] for line in conda if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["book-and-tests"]["steps"]
    assert [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")] == [python]
    index = re.search(r"^TORCH_INDEX \?= (\S+)$", makefile, re.MULTILINE).group(1)
    assert set(pip["pip"]) == {f"--extra-index-url {index}", "-c constraints.txt", "-e .[book,dev]"}
    assert "-c constraints.txt -e '.[book,dev]'" in makefile
    momentfm = "--no-deps -c constraints.txt momentfm"
    assert momentfm in makefile
    assert post_build.startswith("#!") and post_build.endswith(f"\npython -m pip install {momentfm}\n")
    before_them = ("binder", ".binder", "Dockerfile", "conda-lock.yml", "environment.yaml")  # Binder takes these first
    assert [name for name in before_them if (ROOT / name).exists()] == []


def test_a_chapter_that_fetches_ecgmoe_installs_what_conda_does_but_the_tools_of_developers():
    steps = runpy.run_path(str(ROOT / "book" / "install_here.py"))["STEPS"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    everything = [line.replace("[book,dev]", "[book]") for line in pip if line != "-c constraints.txt"]
    assert " ".join(steps[0]) == " ".join(everything)
    assert f"{steps[1][0]} -c constraints.txt {steps[1][1]}\n" in (ROOT / "postBuild").read_text(encoding="utf-8")


def test_a_checkout_is_the_same_on_windows_and_from_a_zip():
    """No links, which a ZIP turns into text, no names that Windows refuses, and no line that git may end otherwise."""
    assert "\n* -text\n" in (ROOT / ".gitattributes").read_text(encoding="utf-8")
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-sz"], capture_output=True, text=True, check=True)
    files = [entry.split(None, 3) for entry in done.stdout.rstrip("\0").split("\0")]
    assert {mode for mode, *_ in files} == {"100644", "100755"}
    names = [name for *_, name in files]
    assert [name for name in names if re.search(r'[<>:"\\|?*\s]|[. ](/|$)', name)] == []
    assert len({name.lower() for name in names}) == len(names)


def test_the_book_is_built_with_the_declared_theme_and_nothing_that_it_does_not_pin():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["execute"]["execute_notebooks"] == "off"
    assert {"jupyter-book", "sphinx-book-theme", "sphinx-mathjax-offline"} <= set(PINS)
    assert list(config["sphinx"]["local_extensions"].items()) == [("ecgmoe_book", "book")]


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {PROJECT["version"], str(citation["version"]), headings[0]} == {ecgmoe.__version__}


def test_one_author_line_everywhere():
    author = "The ecgmoe developers"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in [*PROJECT["authors"], *citation["authors"]]] == [author, author]
    assert config["author"] == author
    for name in ("LICENSE", "LICENSE-text"):
        assert author in (ROOT / name).read_text(encoding="utf-8")


def test_the_address_of_the_repository_is_set_in_one_place():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "url" in config["repository"]
    assert not {"url", "repository-code"} & set(citation)
    assert "urls" not in PROJECT


def test_the_check_runs_the_two_commands_of_the_readme_then_slow_tests_and_gates():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^make [\w-]+", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["make book", "make test", "make test-slow", "make lint"]
    assert re.findall(r"^make [\w-]+", readme, re.MULTILINE) == ["make book", "make test"]
    assert len(readme.splitlines()) <= 60
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["book-and-tests"]["steps"] if "run" in step] == commands


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder, *arguments):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "target", ["book", "test", "test-slow", "lint", "lab", "first-cells", "pdf", "linkcheck", "report", "release"]
)
def test_each_target_sets_up_first_and_a_second_call_installs_nothing(checkout, target):
    assert make(checkout, "-n", target).count("pip install") == 3
    stamp = re.search(r"touch (\S+)", make(checkout, "-n", target)).group(1)
    (checkout / ".venv").mkdir()
    (checkout / stamp).touch()
    assert "pip install" not in make(checkout, "-n", target)
    with (checkout / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    assert "pip install" in make(checkout, "-n", target)


def test_help_lists_every_target(checkout):
    listed = re.findall(r"^([\w-]+) +\w", make(checkout), re.MULTILINE)
    quality = ["test", "test-slow", "lint"]
    pages = ["lab", "first-cells", "pdf", "linkcheck", "report", "release"]
    assert listed == ["help", "book", *quality, *pages, "conda", "clean"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ecgmoe.chapters", ["torch", "pandas", "wfdb", "neurokit2", "momentfm", "matplotlib"]),
        ("ecgmoe.training", ["wfdb", "neurokit2", "momentfm", "dask"]),
    ],
)
def test_modules_import_without_what_they_do_not_need(module, absent):
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {module}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
