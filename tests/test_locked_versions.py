"""requirements*.txt hold what pyproject.toml needs, no less and no more, and are what is installed."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pipeline import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMENT = [Requirement(line) for line in PROJECT["dependency-groups"]["comment"]]
BASE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
APP = BASE + [
    Requirement(line)
    for lines in PROJECT["project"]["optional-dependencies"].values()
    for line in lines
    if not line.startswith("finegrain")
]
DEV = [*APP, *COMMENT, *(Requirement(x) for x in PROJECT["dependency-groups"]["dev"] if isinstance(x, str))]
REQUIRED = {
    "requirements.txt": BASE,
    "requirements-app.txt": APP,
    "requirements-dev.txt": DEV,
    ".github/requirements.txt": COMMENT,
}
"""Lock file -> what it is written from."""
PYTHONS = ["3.11", "3.12", "3.13"]
NOT_HERE = re.compile("triton|nvidia-.*|cuda-.*" if "+cpu" in importlib.metadata.version("torch") else "")
"""Packages that `make install TORCH=cpu` leaves out."""


class Locked(NamedTuple):
    version: str
    marker: Marker | None


def read_lock(name: str) -> dict[str, Locked]:
    """The entries of a lock file by the package's name."""
    found = {}
    text = re.sub(r" \\\n\s+", " ", re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.M))
    for line in text.splitlines():
        entry, *hashes = line.split(" --hash=sha256:")
        requirement = Requirement(entry)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and hashes and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes), line
        found[canonicalize_name(requirement.name)] = Locked(pin.version, requirement.marker)
    return found


LOCKS = {name: read_lock(name) for name in REQUIRED}


def environment(python: str) -> dict[str, str]:
    """Environment for the markers of requirements: that Python on Linux."""
    versions = dict.fromkeys(("python_full_version", "implementation_version"), f"{python}.0")
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return {**default_environment(), **linux, **versions, "python_version": python}


def held(lock: str, environment: dict[str, str]) -> dict[str, str]:
    """Package -> version of the entries of a lock that are for this environment."""
    entries = {n: e for n, e in LOCKS[lock].items() if not NOT_HERE.fullmatch(n)}
    return {n: e.version for n, e in entries.items() if not e.marker or e.marker.evaluate(environment)}


def needed(wanted: list[Requirement], python: str) -> set[str]:
    """Names of all packages that these need under Linux, by the metadata of the installed packages."""
    seen: set[tuple[str, str]] = set()
    to_do = [(r.name, extra) for r in wanted for extra in ("", *r.extras)]
    while to_do:
        name, extra = to_do.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another Python
            continue
        here = environment(python) | {"extra": extra}
        for requirement in map(Requirement, lines):
            if not requirement.marker or requirement.marker.evaluate(here):
                to_do += [(requirement.name, each) for each in ("", *requirement.extras)]
    return {name for name, _ in seen}


@pytest.mark.parametrize("lock", REQUIRED)
def test_what_pyproject_pins_is_locked(lock):
    for requirement in REQUIRED[lock]:
        entry = LOCKS[lock].get(canonicalize_name(requirement.name))
        assert entry and str(requirement.specifier) == f"=={entry.version}", f"{requirement}: `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", REQUIRED)
def test_a_lock_holds_all_that_is_needed_and_no_more(lock, python):
    assert held(lock, environment(python)).keys() == needed(REQUIRED[lock], python)


def test_the_locks_agree():
    everything = LOCKS["requirements-dev.txt"]
    for lock in LOCKS.values():
        assert {name: everything[name].version for name in lock} == {n: e.version for n, e in lock.items()}


def test_what_is_installed_is_what_is_locked():
    for name, version in held("requirements-dev.txt", default_environment()).items():
        installed = importlib.metadata.version(name).removesuffix("+cpu")
        assert installed == version, f"{name}: `make dev`"


@pytest.mark.parametrize("lock", REQUIRED)
def test_a_lock_names_no_index_and_says_how_it_is_written(lock):
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|index|find-links|trusted-host", text)
    # as Renovate reads it: options as --name=value
    assert re.fullmatch(r"#    uv pip compile( --[a-z-]+(=\S+)?)+( pyproject\.toml)?", text.splitlines()[1])


def test_torch_is_pinned_to_one_release():
    assert {"torch==2.15.0", "torchvision==0.29.2"} <= set(PROJECT["project"]["dependencies"])


def test_renovate_s_settings_are_valid():
    check = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.renovate"]
    subprocess.run([*check, ROOT / "renovate.json"], check=True)


def test_the_matrix_of_the_workflow_names_these_pythons():
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    assert all(f"python{version}" in (ROOT / "Makefile").read_text() for version in PYTHONS)
    listed = [line.split()[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert listed == PYTHONS
