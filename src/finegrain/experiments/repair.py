"""``finegrain mend``: put right what a killed dvc leaves behind, and what no later dvc puts right itself.

DVC 3.67 writes its lock tables in place, and cannot read its run cache where a run's folder is empty.
`dvc exp run`, with --temp too, works in git as its user would: it detaches HEAD, stashes, and leaves half an
index where Ctrl-C comes while it writes that. No stage runs then that could guard it. docs/RELIABILITY.md
counts how often it matters.
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

from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.experiments import git

LOCK_TABLES = Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/exps/rwlock")
"""DVC's, of the workspace and of experiments in folders of their own: JSON."""
RUN_CACHE = Path(".dvc/cache/runs")
"""A folder for each command and its inputs, made before the file goes in that names the outputs. A cache that
lies elsewhere may be shared, and in use; it is left alone."""
_HASHES = (20, partial(hashlib.sha1, usedforsecurity=False)), (32, hashlib.sha256)
EXEC_HEAD = "refs/exps/exec/EXEC_HEAD"
"""DVC's note of the commit that an experiment began at; it outlives a kill."""
_COMMIT = re.compile("[0-9a-f]{40}")
_MOVED = re.compile("checkout: moving from (.+) to [0-9a-f]{40}")
_BY_DVC = re.compile("dvc: |commit: dvc: ")


def run(args: argparse.Namespace) -> int:
    """Repair, and print what was repaired; returns the exit status."""
    if not Path(".dvc").is_dir():
        raise UserError(".dvc: not found; run this in the project's folder")
    if busy := repair_unless_busy(dvc_only=args.dvc_only):
        log.info(f"{busy} is running here: nothing is repaired; wait for it, or end it")
    return 0


def repair_unless_busy(dvc_only: bool) -> str | None:
    """Repair, and print what was repaired; returns the dvc or git that is running here instead, if any.

    Args:
        dvc_only: leave git as it is.
    """
    busy = running_process()
    if busy is None:
        for line in itertools.chain(repair_dvc(), () if dvc_only else repair_git()):
            log.info(line)
    return busy


def running_process() -> str | None:
    """A dvc or git at work in this repository, but for this process and those that started it."""
    here, ours = _top(), {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            words = [Path(word).name for word in process.cmdline()[:4]]
            if "queue-worker" in words and not process.children():
                continue  # it waits for a task
            named = next((word for word in words if word in ("dvc", "git")), None)
            if "fsmonitor--daemon" in words:
                continue  # git's watcher of files, which holds no lock
            if named and process.pid not in ours and Path(process.cwd()).is_relative_to(here):
                return f"{named} (process {process.pid})"
    return None


def _top() -> Path:
    """Of the git repository, whose locks a project in a subfolder shares; without one, this folder."""
    with suppress(UserError):
        return Path(git.run_git("rev-parse", "--show-toplevel"))
    return Path.cwd()


def repair_dvc() -> Iterator[str]:
    """Remove what DVC cannot read, one thing after the other; yields what was removed.

    Call it only where nothing else works in this folder; ``repair_git`` likewise.
    """
    for table in LOCK_TABLES:
        if _is_broken(table):
            table.unlink()
            yield f"removed {table}, which a killed dvc left half-written"
    for folder in RUN_CACHE.glob("*/*/"):
        for temporary in folder.glob(".*.tmp"):
            temporary.unlink()
        with suppress(OSError):  # it has its file, as it should
            folder.rmdir()
            yield f"removed {folder}, which a killed dvc left empty"


def repair_git() -> Iterator[str]:
    """Remove a stale lock, rebuild a broken index, return to the branch; yields what was done."""
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
    try:
        json.loads(table.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def _is_truncated(index: Path) -> bool:
    """Git's index ends with its own checksum, or with zeros; git itself does not look at it."""
    content = index.read_bytes() if index.is_file() else b""
    ends = [(size, hasher(content[:-size]).digest()) for size, hasher in _HASHES]
    good = content[-20:] == bytes(20) or any(content[-size:] == digest for size, digest in ends)
    return index.is_file() and not (content.startswith(b"DIRC") and good)


def _detached_from() -> str | None:
    """The branch whose last commit is checked out without it, if experiments alone have come since.

    DVC leaves a branch for the commit's whole name, works there, and goes back to where it was: of an
    experiment that began on no branch that is the commit again.
    """
    with suppress(UserError):
        if git.run_git("rev-parse", "--abbrev-ref", "HEAD") != "HEAD":
            return None
        head, own = git.run_git("rev-parse", "HEAD"), _is_ref(EXEC_HEAD)
        for done in git.run_git("reflog", "show", "--format=%gs", "-n", "100", "HEAD").splitlines():
            moved = _MOVED.fullmatch(done)
            if moved and not _COMMIT.fullmatch(moved[1]):
                tip = git.run_git("rev-parse", "--verify", f"refs/heads/{moved[1]}")
                return moved[1] if own and tip == head else None
            if not moved and not _BY_DVC.match(done):
                return None
            own = True
    return None


def _is_ref(name: str) -> bool:
    with suppress(UserError):
        return bool(git.run_git("rev-parse", "--verify", "--quiet", name))
    return False
