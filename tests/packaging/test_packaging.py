"""The wheel holds the library alone, and every file that repeats a fact of it agrees."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import grass_optax
from tests.packaging.release import ROOT, main, version, wrong_files, wrong_tag

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
WORKFLOWS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github" / "workflows").glob("*.yml")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout, in which there are other packages beside the library."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("grass_optax", "models", "train", "hlo", "reference", "benchmarks", "experiments", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    line = [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"]
    built = subprocess.run(line, cwd=copy, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = out.iterdir()
    return file


def test_a_wheel_holds_the_library_alone(wheel: Path) -> None:
    assert wrong_files(wheel) == set()


def test_what_a_wheel_should_not_hold_is_noticed(wheel: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copy(wheel, tmp_path))
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("train/__init__.py", "")
    assert wrong_files(bad) == {"train/__init__.py"}
    assert main(str(tmp_path)) == 1


def test_a_wheel_says_what_pyproject_says(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == version() == grass_optax.__version__
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert sorted(map(bounds, required)) == sorted(map(bounds, PROJECT["project"]["dependencies"]))
    assert bounds(metadata["Requires-Python"]) == bounds(PROJECT["project"]["requires-python"])


def bounds(requirement: str) -> tuple[str, frozenset[str]]:
    """Name and bounds of a requirement, however it is spaced."""
    name, rest = re.fullmatch(r"([\w-]*)\s*(.*)", requirement.replace(" ", "")).groups()  # type: ignore[union-attr]
    return name, frozenset(rest.split(","))


def test_the_recipe_requires_what_pyproject_requires() -> None:
    project = PROJECT["project"]
    run = {bounds(line) for line in RECIPE["requirements"]["run"]}
    assert run == {bounds(line) for line in (f"python{project['requires-python']}", *project["dependencies"])}
    host = {bounds(line) for line in RECIPE["requirements"]["host"]}
    assert host == {bounds(f"python{project['requires-python']}"), ("pip", frozenset({""})),
                    *map(bounds, PROJECT["build-system"]["requires"])}  # fmt: skip
    assert RECIPE["context"]["version"] == version()
    assert RECIPE["about"]["license"] == project["license"]


def test_the_citation_names_this_version_and_the_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # those of the schema
    assert citation["version"] == version()
    assert citation["license"] == PROJECT["project"]["license"]
    first, second = (paper["url"] for paper in citation["references"])
    assert first.endswith("2510.01878")
    assert first in (grass_optax.grassjump.__doc__ or "")
    assert second.endswith("2502.01586")
    assert second in (grass_optax.subtrack.__doc__ or "")


def test_a_tag_must_be_the_version_and_in_the_changelog() -> None:
    released = f"## [Unreleased]\n\n## [{version()}] - 2026-12-01\n"
    assert wrong_tag(f"v{version()}", released) == []
    assert len(wrong_tag(f"v{version()}", "## [Unreleased]\n")) == 1
    assert len(wrong_tag(version(), released)) == 1
    assert len(wrong_tag("v9.9.9", released)) == 2


def test_workflows_run_commands_of_a_contributor() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    steps = [step for flow in WORKFLOWS.values() for job in flow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    made = {command.split()[1] for command in commands if command.startswith("make ")}
    assert made == {"docs", "test", "dist"} <= targets
    upload = "uv publish --trusted-publishing always dist/*"  # which only a release does
    others = {command for command in commands if not command.startswith("make ")}
    assert others == {".ci/run", ".ci/run test-long", upload}
    assert all(set(step) & {"uses", "run"} for step in steps)


def test_what_is_published_was_tested() -> None:
    steps = [step.get("run", "") for step in WORKFLOWS["release"]["jobs"]["build"]["steps"]]
    built = next(i for i, command in enumerate(steps) if command.startswith("make dist"))
    assert ".ci/run" in steps[:built]


def test_only_what_publishes_may_ask_for_an_identity() -> None:
    jobs = {(name, job): spec for name, flow in WORKFLOWS.items() for job, spec in flow["jobs"].items()}
    writers = [key for key, spec in jobs.items() if "write" in (spec.get("permissions") or {}).values()]
    assert writers == [("release", "publish")]
    assert jobs["release", "publish"]["needs"] == "build"
    assert all(flow["permissions"] == {"contents": "read"} for flow in WORKFLOWS.values())
