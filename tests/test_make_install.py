"""`make install` asks pip for the locked versions, remembers which torch it took, and names what is missing.

A stub stands for .venv's Python, so that nothing is downloaded.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pipeline import ROOT

STUB = """#!/bin/sh
case "$*" in *--version) exit 0;; esac
echo "$@" >> "$LOG"
"""
TOOLS = ("sh", "make", "git", "awk", "grep", "cat", "touch", "nproc", "mkdir", "cp", "chmod")
LOCKED = "-m pip install -q --no-deps --require-hashes -r"
PACKAGE = "-m pip install -q --no-deps --no-build-isolation -e ."
INDEX = "https://download.pytorch.org/whl/cpu"
CPU = f"-m pip install -q --no-deps --index-url {INDEX} torch==2.15.0 torchvision==0.29.2"


class Project:
    """What the Dockerfile copies first, and a PATH with no other programs than the TOOLS."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.log = folder / "project", folder / "bin", folder / "log"
        self.folder.mkdir()
        self.bin.mkdir()
        self.log.touch()
        for file in [ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")]:
            shutil.copy2(file, self.folder)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or "")

    def add_python(self, name: str, text: str = STUB) -> None:
        """A program on the PATH, or ``../project/.venv/bin/python``."""
        file = self.bin / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def make(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [self.bin / "make", *words],
            cwd=self.folder,
            env={"PATH": str(self.bin), "LOG": str(self.log)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stderr

    def pip_calls(self) -> list[str]:
        """Arguments of the stub's runs since the last call."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def installed(project) -> Project:
    """With an environment, in which nothing is installed yet."""
    project.add_python("../project/.venv/bin/python")
    return project


def names(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", lock, re.M))


def test_every_layer_is_installed_from_its_lock(installed):
    installed.make("install")
    assert installed.pip_calls() == [f"{LOCKED} requirements.txt", PACKAGE]
    installed.make("dev")
    assert installed.pip_calls() == [f"{LOCKED} requirements-{layer}.txt" for layer in ("app", "dev")]
    installed.make("dev")
    assert installed.pip_calls() == []


def test_torch_for_the_cpu_comes_from_its_index_and_cuda_not_at_all(installed):
    installed.make("install", "TORCH=cpu")
    assert installed.pip_calls() == [f"{LOCKED} .venv/requirements.txt", CPU, PACKAGE]
    lock = (installed.folder / "requirements.txt").read_text()
    taken = (installed.folder / ".venv/requirements.txt").read_text()
    left_out = names(lock) - names(taken)
    assert {"torch", "torchvision", "triton", "cuda-toolkit", "nvidia-cublas"} <= left_out
    assert all(re.match("torch$|torchvision$|triton$|nvidia-|cuda-", name) for name in left_out)
    assert taken.count("--hash") > 100 and set(taken.splitlines()) < set(lock.splitlines())


def test_the_build_of_torch_is_remembered_and_not_changed_silently(installed):
    installed.make("install", "TORCH=cpu")
    installed.pip_calls()
    installed.make("app")
    assert installed.pip_calls() == [f"{LOCKED} .venv/requirements-app.txt", CPU]
    assert ".venv has torch for cpu" in installed.make("install", "TORCH=cuda", code=2)
    assert "it is cpu or cuda" in installed.make("install", "TORCH=gpu", code=2)


def test_the_newest_python_that_can_make_an_environment_is_taken(project):
    project.add_python("python3.13", "#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    for name in ("python3.12", "python3.11"):
        project.add_python(name, STUB + f'echo {name} >> "$LOG"\n')
    project.make("install", code=2)  # the stub makes no environment
    assert project.pip_calls()[-2:] == ["-m venv .venv", "python3.12"]
    project.add_python("mine", STUB)
    project.make("install", "PYTHON=mine", code=2)
    assert project.pip_calls()[-1] == "-m venv .venv"


def test_without_a_python_one_line_says_so(project):
    printed = project.make("install", code=2)
    assert re.match(r"error: found no Python 3\.11 to 3\.13 .*make PYTHON=\S+\)?\nmake: \*\*\*", printed)
    project.add_python("old", "#!/bin/sh\nexit 1\n")
    assert "error: PYTHON=old is not a Python of 3.11 or newer\n" in project.make(
        "install", "PYTHON=old", code=2
    )


def test_without_git_one_line_says_so(installed):
    (installed.bin / "git").unlink()
    assert installed.make("install", code=2).startswith("error: git is not installed")
    assert installed.pip_calls() == []


def test_the_image_gets_every_file_that_git_tracks():
    """.dockerignore leaves out only what the pipeline makes: DVC would miss the rest."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] not in "#*"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in tracked.splitlines():
        assert not any(Path(file).is_relative_to(each) for each in ignored), file
