"""The workflows: what GitHub asks of them, and that they do nothing that cannot be done by hand with make."""

import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

TOP = {"name", "run-name", "on", "permissions", "env", "defaults", "concurrency", "jobs"}
EVENTS = {"push", "pull_request", "schedule", "workflow_dispatch"}
JOB = {"name", "runs-on", "needs", "if", "permissions", "environment", "env", "timeout-minutes", "steps", "outputs"}
STEP = {"id", "name", "if", "uses", "with", "run", "env", "timeout-minutes"}
SCOPES, LEVELS = {"actions", "contents", "id-token", "pages"}, {"read", "write"}
ACTION = re.compile(r"actions/[a-z-]+@(v\d+(\.\d+)*|[0-9a-f]{40})")  # GitHub's own, at a version or a commit
MAKE = re.compile(r"make((?: [a-z][a-z-]*)+)((?: [A-Z_]+=[\w./-]+)*)")


def parsed(path):
    """A workflow, all values as text: YAML 1.1 takes ``on`` for true."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def problems(workflow):
    """Whatever GitHub would refuse, and whatever is no call of make."""
    found = [f"unknown key {key}" for key in workflow.keys() - TOP]
    found += [f"no {key}" for key in ("name", "on", "permissions", "jobs") if not workflow.get(key)]
    on = workflow.get("on") or {}
    found += [f"unknown event {event}" for event in on if event not in EVENTS]
    schedules = on.get("schedule", []) if isinstance(on, dict) else []
    found += [f"cron {entry}" for entry in schedules if len(entry.get("cron", "").split()) != 5]
    found += scopes(workflow.get("permissions"))
    for name, job in (workflow.get("jobs") or {}).items():
        found += [f"{name}: unknown key {key}" for key in job.keys() - JOB]
        found += [f"{name}: no {key}" for key in ("runs-on", "timeout-minutes", "steps") if not job.get(key)]
        needs = job.get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        found += [f"{name}: needs {other}" for other in needs if other not in workflow["jobs"]]
        found += scopes(job.get("permissions", {}))
        for step in job.get("steps") or []:
            found += [f"{name}: {problem}" for problem in step_problems(step)]
    return found


def scopes(permissions):
    if not isinstance(permissions, dict):
        return [f"permissions {permissions}"]
    return [f"{key}: {value}" for key, value in permissions.items() if key not in SCOPES or value not in LEVELS]


def step_problems(step):
    yield from (f"unknown key {key}" for key in step.keys() - STEP)
    if ("uses" in step) == ("run" in step):
        yield f"neither or both of uses and run: {step}"
    if "uses" in step and not ACTION.fullmatch(step["uses"]):
        yield f"action without a version: {step['uses']}"
    if "with" in step and "uses" not in step:
        yield f"with, and no action: {step}"
    if "run" in step:
        command = MAKE.fullmatch(step["run"])
        if command is None:
            yield f"more than a call of make: {step['run']}"
        else:
            yield from (f"no make target {target}" for target in command[1].split() if target not in TARGETS)


def test_there_is_a_workflow_for_a_push_for_the_night_and_for_a_release():
    events = {path.stem: set(parsed(path)["on"]) for path in FILES}
    assert events == {
        "ci": {"push", "pull_request", "schedule"},
        "nightly": {"schedule", "workflow_dispatch"},
        "release": {"push"},
    }
    assert parsed(ROOT / ".github/workflows/release.yml")["on"]["push"] == {"tags": ["v*"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_is_what_github_asks_for_and_calls_make_only(path):
    assert problems(parsed(path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_may_write_only_where_it_has_to(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    writes = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    expected = {"book": {"contents": "write"}, "pages": {"pages": "write", "id-token": "write"}}
    assert writes == (expected if path.stem == "release" else {})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_has_the_python_that_the_environment_pins(path):
    python = next(
        line.removeprefix("python=")
        for line in yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
        if isinstance(line, str) and line.startswith("python=")
    )
    for job in parsed(path)["jobs"].values():
        if any("run" in step for step in job["steps"]):
            versions = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in str(step)]
            assert versions == [python]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop("on"), "no on"),
        (lambda w: w["on"].update(pushed={}), "unknown event pushed"),
        (lambda w: w["on"].update(schedule=[{"cron": "0 2 * *"}]), "cron"),
        (lambda w: w.update(permissions="write-all"), "permissions write-all"),
        (lambda w: w["jobs"]["book"].pop("runs-on"), "no runs-on"),
        (lambda w: w["jobs"]["book"].pop("steps"), "no steps"),
        (lambda w: w["jobs"]["pages"].update(needs="build"), "needs build"),
        (lambda w: w["jobs"]["book"]["steps"][0].update(uses="actions/checkout"), "without a version"),
        (lambda w: w["jobs"]["book"]["steps"][0].update(uses="actions/checkout@main"), "without a version"),
        (lambda w: w["jobs"]["book"]["steps"][0].update(run="make book"), "neither or both"),
        (lambda w: w["jobs"]["book"]["steps"][2].update(run="make boook"), "no make target boook"),
        (lambda w: w["jobs"]["book"]["steps"][2].update(run="make book && echo done"), "more than a call of make"),
        (lambda w: w["jobs"]["book"]["steps"][2].update(run="make release TAG=${{ github.ref_name }}"), "more than"),
        (lambda w: w["jobs"]["book"]["steps"][2].update(iff="always()"), "unknown key iff"),
    ],
)
def test_the_check_finds_what_is_wrong(change, problem):
    workflow = deepcopy(parsed(ROOT / ".github/workflows/release.yml"))
    change(workflow)
    assert any(problem in found for found in problems(workflow))


def test_make_may_have_arguments():
    assert list(step_problems({"run": "make clean book"})) == []
    assert list(step_problems({"run": "make book PYTHON=python3.12"})) == []


def test_actionlint_agrees():
    actionlint = shutil.which("actionlint") or shutil.which("actionlint", path=Path(sys.executable).parent)
    if actionlint is None:
        pytest.skip("needs actionlint")
    done = subprocess.run([actionlint, *FILES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def release(tmp_path):
    """``make release`` in a checkout whose ``gh`` writes down what it is asked, and knows no release yet."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in {
        ".venv/bin/python": "echo 1.2.3",
        "bin/gh": f'echo "$@" >> {tmp_path}/asked; [ "$2" != view ]',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    dry = subprocess.run(["make", "-n", "release"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (tmp_path / re.search(r"touch (\S+)", dry).group(1)).touch()

    def run(tag, *arguments):
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TAG": tag}
        command = ["make", "release", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        asked = tmp_path / "asked"
        return done.returncode, asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []

    return run


@pytest.mark.parametrize("arguments", [(), ("TAG=v1.2.3",)])
def test_a_release_gets_the_book_and_the_report(release, arguments):
    code, (seen, made, uploaded) = release("" if arguments else "v1.2.3", *arguments)
    assert code == 0
    assert seen == "release view v1.2.3"
    assert made.startswith("release create v1.2.3 --verify-tag")
    assert uploaded == "release upload v1.2.3 _build/ecgmoe.pdf _build/report/report.md --clobber"


@pytest.mark.parametrize("tag", ["", "v1.2.4", "1.2.3", 'v1.2.3"; touch oops; "', "v1.2.3$(touch oops)"])
def test_a_tag_that_is_not_the_version_releases_nothing_and_is_not_run(release, tag, tmp_path):
    code, asked = release(tag)
    assert code != 0
    assert asked == []
    assert not (tmp_path / "oops").exists()
