"""A copy of the repository in which commands run as a user types them."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fork_server
from params_file import write_params
from pipeline import ROOT

PRIVATE = ("KAGGLE", "DVC", "GIT", "AWS", "PYTHONDONTWRITEBYTECODE")
"""Prefixes of environment variables that a clone's commands do not get."""
PLAIN_DVC = re.compile(r"dvc [^|&;<>$`*]+")
TINY: dict[str, Any] = {
    "dataset__images_per_class": 24,
    "dataset__image_size": 32,
    "pack__image_size": 32,
    "models": ["resnet18"],
    "seeds": [0],
    "phases": {
        "all": {
            "trainable": "all",
            "epochs": 1,
            "image_size": 32,
            "optimizer": {"kind": "sgd", "momentum": 0.9},
            "schedule": {"kind": "cosine", "warmup_epochs": 0.5},
        }
    },
}
"""One training of seconds."""
SMALL: dict[str, Any] = {
    **TINY,
    "dataset__images_per_class": 8,
    "models": ["resnet18", "efficientnet_b0"],
    "seeds": [0, 3],
    "phases": {"all": {**TINY["phases"]["all"], "epochs": 2}},
}
"""Two models, each with two seeds, for stages that run without DVC."""


class Clone:
    """A git repository with the working tree's files, where commands run as a user types them."""

    def __init__(self, folder: Path, with_results: bool = False) -> None:
        """Copy the working tree.

        Args:
            with_results: keep the results of the committed run, which is of the full sample; a copy without
                them makes its own.
        """
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        for made in () if with_results else ("dvc.lock", "metrics", "plots", "reports"):
            path = folder / made
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        home = folder.parent / "home"
        home.mkdir(exist_ok=True)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(PRIVATE)},
            "HOME": str(home),
            "SHELL": "/bin/sh",  # as dvc starts it; unlike bash, it stays as a parent without `exec`
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
        }  # fmt: skip
        self("git init -q -b main")
        self.commit("start")

    @classmethod
    def tiny(cls, folder: Path) -> "Clone":
        """With ``TINY`` as its committed parameters; nothing has run."""
        made = cls(folder)
        write_params(folder, **TINY)
        made.commit("shrink")
        return made

    def __call__(self, command: str, code: int = 0) -> str:
        """Run a command, which must end with that exit status; returns its output.

        A dvc command that needs no shell is run by the fork server, another as a user types it.
        """
        output = ""
        for part in command.split(" && "):
            if PLAIN_DVC.fullmatch(part):
                done = fork_server.run_dvc(shlex.split(part)[1:], self.folder, self.environment)
            else:
                done = self._run_in_shell(part)
            output += done.output
            if done.returncode:
                break
        assert done.returncode == code, f"{command}: exit {done.returncode}\n{output}"
        return output

    def _run_in_shell(self, command: str) -> fork_server.Finished:
        pipe = subprocess.PIPE
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True,
            timeout=300,
        )  # fmt: skip
        return fork_server.Finished(done.returncode, done.stdout, done.stderr)

    def copied(self, folder: Path) -> "Clone":
        """A copy of this clone, with a cache of its own."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)  # with its hard links
        other = copy.copy(self)
        other.folder, other.environment = folder, dict(self.environment)
        return other

    def colleague(self, url: Path, folder: Path) -> "Clone":
        """What someone else gets from `git clone`: the last commit alone, and a cache of their own."""
        self(f"git clone -q {url} {folder}")
        other = copy.copy(self)
        other.folder = folder
        return other

    def commit(self, message: str) -> None:
        self(f"git add -A && git commit -q --allow-empty -m '{message}'")

    def json(self, path: str) -> dict:
        return json.loads((self.folder / path).read_text())
