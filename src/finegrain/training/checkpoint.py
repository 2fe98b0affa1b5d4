"""Checkpoints of runs in progress, outside DVC's outs, so that an interrupted run resumes.

A checkpoint stays until dvc.lock holds the run's result: DVC records the outs after the stage has ended, and
a kill in between would otherwise cost the whole training.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import re
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from finegrain.core import disk, file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.runtime.distributed import World

MAX_KEPT = 20
"""Checkpoints of interrupted runs that are kept; some hundred MB each."""
POLL_SECONDS = 1.0
RESULT_FILE = "result.md5"
"""In the folder of a finished run: the md5 of its weights, by which it is found in dvc.lock."""


class CheckpointStore(Protocol):
    """What the training loop needs of its checkpoints."""

    def read(self) -> dict[str, Any] | None: ...
    def due(self) -> bool: ...
    def write(self, state: dict[str, Any]) -> None: ...


class Checkpointer:
    """The checkpoint of one run with exactly these parameters, code and data; a context manager.

    The folder's name holds a hash of them, so that a changed run never starts from an old checkpoint. A lock
    makes a second trainer of the same run wait: two queued experiments may ask for it, and one that is
    still at work in an old queue worker must not make the next fail.
    """

    def __init__(self, name: str, key: dict[str, Any], seconds: float = math.inf, waits: bool = True) -> None:
        """Choose the folder.

        Args:
            name: dataset and run, readable.
            key: all that the result depends on: parameters, the data's fingerprint, code, machine.
            seconds: between two checkpoints.
            waits: for another trainer of the same run. False raises instead, since the other processes of
                a distributed training would wait in vain.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = paths.checkpoints_folder() / f"{name}-{digest[:16]}"
        self.file = self.folder / "checkpoint.pt"
        self._seconds, self._written, self._waits = seconds, time.monotonic(), waits

    def __enter__(self) -> "Checkpointer":
        remove_recorded()  # this run's too: whoever trains it again wants it from the start
        self._lock = self._acquire_lock()
        os.utime(self.folder)
        _remove_old(self.folder.parent)
        self._written = time.monotonic()
        return self

    def _acquire_lock(self) -> int:
        """Wait for the lock; returns its file descriptor.

        Raises:
            UserError: another trainer holds it, and this one does not wait.
        """
        reported = False
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = _try_lock(self.folder)
            if lock is not None:
                return lock
            if not self._waits:
                raise UserError(f"{self.folder}: another process is training this run; wait for it to end")
            if not reported:
                log.info("another process is training this run: waiting, to resume from its checkpoint")
            reported = True
            time.sleep(POLL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def finish(self, weights: Path) -> None:
        """The run has ended; its checkpoint stays until DVC has recorded the weights file.

        A script that was started without DVC has nobody to wait for and removes its checkpoint.
        """
        if "DVC_STAGE" in os.environ:
            with weights.open("rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
            file_io.write_text(self.folder / RESULT_FILE, digest.hexdigest())
        else:  # a waiting process may put its lock there meanwhile: then the folder is in use
            shutil.rmtree(self.folder, ignore_errors=True)

    def require_room(self, checkpoint_bytes: int) -> None:
        """Require disk space for a checkpoint, and for the next one while it is written.

        Raises:
            UserError: too little is free.
        """
        have = self.file.stat().st_size if self.file.is_file() else 0
        disk.require_free_space(self.folder, 2 * checkpoint_bytes - have, "the checkpoint of a training")

    def due(self) -> bool:
        """Whether it is time for a new checkpoint."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; it is on disk when this returns.

        Where there is no space for it, that is reported, the last one stays, and training continues.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        try:
            with file_io.replace_file(self.file, durable=True) as temporary, temporary.open("wb") as stream:
                stream.write(hashlib.sha256(content).digest())
                stream.write(content)
        except OSError as error:
            log.info(
                f"{self.file}: checkpoint not written ({error.strerror}); a kill would lose more than "
                "checkpoint_seconds"
            )
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The last complete checkpoint, or None; a damaged one is reported and counts as none."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            log.info(f"{self.file}: damaged, so training starts from the beginning")
            return None
        return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)


class SharedCheckpointer:
    """The main process's checkpointer, as all processes of a distributed training use it."""

    def __init__(self, checkpointer: Checkpointer | None, world: World) -> None:
        """Wrap it; in all other processes it is None."""
        self._checkpointer, self._world = checkpointer, world

    def read(self) -> dict[str, Any] | None:
        state: dict[str, Any] | None = self._world.broadcast(self._checkpointer and self._checkpointer.read())
        return state

    def due(self) -> bool:
        return bool(self._world.broadcast(self._checkpointer and self._checkpointer.due()))

    def write(self, state: dict[str, Any]) -> None:
        if self._checkpointer:
            self._checkpointer.write(state)

    def finish(self, weights: Path) -> None:
        if self._checkpointer:
            self._checkpointer.finish(weights)


def remove_recorded() -> None:
    """Remove the checkpoints of finished runs whose results are in dvc.lock: a kill cannot cost them."""
    lock_file = Path("dvc.lock")
    text = lock_file.read_text(encoding="utf-8") if lock_file.is_file() else ""
    recorded = set(re.findall(r"md5: ([0-9a-f]{32})\b", text))
    for result in paths.checkpoints_folder().glob(f"*/{RESULT_FILE}"):
        with contextlib.suppress(FileNotFoundError):  # another stage has just removed it
            if result.read_text(encoding="utf-8") in recorded:
                _remove(result.parent)


def _remove(folder: Path) -> None:
    """Remove the folder of a checkpoint, unless a run is using it."""
    lock = _try_lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """Lock the folder; returns a file descriptor, or None if another process holds or removes it."""
    lock = None
    try:
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when this process ends
        if os.path.samestat(os.fstat(lock), os.stat(folder / "lock")):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    if lock is not None:
        os.close(lock)
    return None


def _remove_old(top: Path) -> None:
    """Keep the newest ``MAX_KEPT``: every change of a parameter or a line of code leaves one behind."""
    found = []
    for file in top.glob("*/lock"):
        with contextlib.suppress(FileNotFoundError):  # another run has just removed it
            found.append((file.parent.stat().st_mtime, file.parent))
    for _, folder in sorted(found, reverse=True)[MAX_KEPT:]:
        _remove(folder)
