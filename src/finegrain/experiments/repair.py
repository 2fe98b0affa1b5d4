"""``finegrain repair``: repair what a killed dvc leaves broken and no later dvc repairs.

DVC 3.67 writes its lock tables in place, and cannot read its run cache if the folder of a run is empty.
`dvc exp run`, with --temp too, works in git as its user would: it detaches HEAD, stashes, and leaves half an
index behind if Ctrl-C interrupts its write. No stage is running at that moment that could prevent it.
docs/RELIABILITY.md counts how often it matters.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from finegrain.core import local_files, log
from finegrain.core.errors import UserError
from finegrain.experiments import git

LOCK_TABLES = Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/exps/rwlock")
"""DVC's lock tables, JSON: of the workspace, and of experiments that run in folders of their own."""
RUN_CACHE = Path(".dvc/cache/runs")
"""DVC's run cache: a folder for each command and its inputs, made before the file that lists the outputs.

A cache in another place may be shared and in use, so it is left alone.
"""
_INDEX_HASHES = (20, partial(hashlib.sha1, usedforsecurity=False)), (32, hashlib.sha256)
"""Size in bytes and function of the checksum that ends git's index, by the repository's object format."""
EXEC_HEAD = "refs/exps/exec/EXEC_HEAD"
"""Git ref in which DVC notes the commit that an experiment started from; it survives a kill."""
_COMMIT = re.compile("[0-9a-f]{40}")
_CHECKOUT_OF_COMMIT = re.compile("checkout: moving from (.+) to [0-9a-f]{40}")
_BY_DVC = re.compile("dvc: |commit: dvc: ")


def run(args: argparse.Namespace) -> int:
    """Repair, and print what was repaired; returns the exit status.

    It is 1 if a dvc or git is running. With ``dvc_only``, which `make repro` asks for, that is no failure:
    DVC may run an experiment in a copy meanwhile.
    """
    require_dvc_folder()
    busy = repair_unless_busy(dvc_only=args.dvc_only)
    if busy:
        log.info(f"{busy} is running here: nothing is repaired; wait until it ends, or stop it")
    return int(bool(busy) and not args.dvc_only)


def require_dvc_folder() -> None:
    """Check that the current folder is a DVC project.

    Raises:
        UserError: it is not.
    """
    if not Path(".dvc").is_dir():
        raise UserError(".dvc: not found; run this in the project's folder")


def repair_unless_busy(dvc_only: bool) -> str | None:
    """Repair, and print what was repaired, unless a dvc or git is running in this repository.

    Args:
        dvc_only: leave git as it is.

    Returns:
        The dvc or git that is running; None after a repair.
    """
    busy = running_process()
    if busy is None:
        for line in itertools.chain(repair_dvc(), () if dvc_only else repair_git()):
            log.info(line)
    return busy


def running_process() -> str | None:
    """A dvc or git that is running in this repository, except this process and its ancestors.

    A queue worker without a task and git's file watcher hold no lock, so they do not count.
    """
    top, own = _top_folder(), {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            words = [Path(word).name for word in process.cmdline()[:4]]
            if "queue-worker" in words and not process.children():
                continue
            if "fsmonitor--daemon" in words:
                continue
            program = next((word for word in words if word in ("dvc", "git")), None)
            if program and process.pid not in own and Path(process.cwd()).is_relative_to(top):
                return f"{program} (process {process.pid})"
    return None


def _top_folder() -> Path:
    """Top of the git repository, whose locks a project in a subfolder shares; without git, this folder."""
    with suppress(UserError):
        return Path(git.run_git("rev-parse", "--show-toplevel"))
    return Path.cwd()


def repair_dvc() -> Iterator[str]:
    """Remove lock tables, run cache folders and links that DVC cannot read; yields a line for each.

    Call it, like ``repair_git``, only while no dvc or git is running in this folder.
    """
    for table in LOCK_TABLES:
        if _is_broken(table):
            table.unlink()
            yield f"removed {table}, which a killed dvc left half-written"
    for folder in RUN_CACHE.glob("*/*/"):
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
        with suppress(OSError):  # a folder with its file is not empty and stays
            folder.rmdir()
            yield f"removed {folder}, which a killed dvc left empty"
    for inputs in Path("data").glob("*/inputs"):
        for place in local_files.lost_links(inputs):
            local_files.remove_link(place)
            yield f"removed {place}: what it leads to is no longer there, and DVC cannot follow it"


def repair_git() -> Iterator[str]:
    """Remove a stale lock, rebuild a broken index, return to the branch; yields a line for each."""
    try:
        lock = Path(git.run_git("rev-parse", "--git-path", "index.lock"))
    except UserError:
        return  # no git repository
    if lock.is_file():
        lock.unlink()
        yield f"removed {lock}, which a killed git or dvc left"
    index = lock.with_suffix("")
    if _is_truncated(index):
        index.replace(index.with_suffix(".broken"))
        git.run_git("reset", "-q")
        yield f"rebuilt {index}, which a killed dvc left half-written: nothing is staged any more"
    if branch := _detached_from():
        git.run_git("symbolic-ref", "-m", "finegrain repair", "HEAD", f"refs/heads/{branch}")
        yield f"back on branch {branch}: a killed `dvc exp run` left HEAD detached"
        if git.run_git("stash", "list"):
            yield "`git stash list` may hold the changes that it had stashed; `git stash pop` restores them"


def _is_broken(table: Path) -> bool:
    """Whether a lock table exists and is not JSON."""
    try:
        json.loads(table.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def _is_truncated(index: Path) -> bool:
    """Whether git's index exists and does not end with its own checksum, or with zeros in place of one.

    Git itself does not check.
    """
    if not index.is_file():
        return False
    content = index.read_bytes()
    complete = content[-20:] == bytes(20) or any(
        content[-size:] == checksum(content[:-size]).digest() for size, checksum in _INDEX_HASHES
    )
    return not (content.startswith(b"DIRC") and complete)


def _detached_from() -> str | None:
    """The branch that a killed experiment left, if its last commit is checked out without it.

    DVC leaves a branch for the full name of its commit, works there, and returns to where it was; for an
    experiment that started with HEAD detached, that is the commit again. If anyone but DVC has moved HEAD
    since the branch was left, there is no such branch.
    """
    with suppress(UserError):
        if git.run_git("rev-parse", "--abbrev-ref", "HEAD") != "HEAD":
            return None
        head, left_by_dvc = git.run_git("rev-parse", "HEAD"), _ref_exists(EXEC_HEAD)
        for entry in git.run_git("reflog", "show", "--format=%gs", "-n", "100", "HEAD").splitlines():
            moved = _CHECKOUT_OF_COMMIT.fullmatch(entry)
            if moved and not _COMMIT.fullmatch(moved[1]):
                tip = git.run_git("rev-parse", "--verify", f"refs/heads/{moved[1]}")
                return moved[1] if left_by_dvc and tip == head else None
            if not moved and not _BY_DVC.match(entry):
                return None
            left_by_dvc = True
    return None


def _ref_exists(name: str) -> bool:
    with suppress(UserError):
        return bool(git.run_git("rev-parse", "--verify", "--quiet", name))
    return False
