"""Keep a training run's state outside DVC's outs, so that a killed run goes on where it stood."""

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
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from finegrain.core import disk, file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.runtime.distributed import World

MAX_KEPT = 20
"""States of interrupted runs; some hundred MB each."""
POLL_SECONDS = 1.0
RESULT_FILE = "result.md5"
"""In the folder of a run that has ended: its weights' md5, as dvc.lock is going to have it."""


def hash_code(script: Path, packages: Sequence[str]) -> str:
    """sha256 of a script and of every module of these packages of finegrain."""
    package_root = Path(__file__).parents[1]
    modules = (file for name in packages for file in (package_root / name).rglob("*.py"))
    digest = hashlib.sha256()
    for file in (script, *sorted(modules)):
        digest.update(f"{file.parent.name}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


class CheckpointStore(Protocol):
    """What a training run asks for."""

    def read(self) -> dict[str, Any] | None: ...
    def due(self) -> bool: ...
    def write(self, state: dict[str, Any]) -> None: ...


class Checkpointer:
    """The checkpoint of one model under one exact set of params, code and data; a context manager.

    The folder's name holds a hash of all three, so that a changed run never starts from an old state. A
    lock keeps a second trainer waiting: two queued experiments may ask for the very same training, and one
    that a queue's old worker still works off must not fail the next.
    """

    def __init__(self, name: str, key: dict[str, Any], seconds: float = math.inf, waits: bool = True) -> None:
        """Choose the folder.

        Args:
            name: dataset and run, readable.
            key: all that the result depends on: parameters, the data's fingerprint, code, machine.
            seconds: how long to go without writing a checkpoint.
            waits: for another trainer of the same run; False: raise instead, since the other processes of
                this training would wait in vain.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = paths.checkpoints_folder() / f"{name}-{digest[:16]}"
        self.file = self.folder / "state.pt"
        self._seconds, self._written, self._waits = seconds, time.monotonic(), waits

    def __enter__(self) -> "Checkpointer":
        remove_recorded()  # this very run's too: it is wanted anew
        self._held = self._hold()
        os.utime(self.folder)
        _remove_old(self.folder.parent)
        self._written = time.monotonic()
        return self

    def _hold(self) -> int:
        said = False
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(self.folder)
            if lock is not None:
                return lock
            if not self._waits:
                raise UserError(f"{self.folder}: another run is training this very model; wait for it")
            if not said:
                log.info(
                    "another run is training this very model: this one waits, and goes on from its state"
                )
            said = True
            time.sleep(POLL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._held)

    def finish(self, result: Path) -> None:
        """The run is over. Its last state stays until DVC has recorded the file, after the stage's end."""
        if "DVC_STAGE" in os.environ:
            with result.open("rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
            file_io.write_text(self.folder / RESULT_FILE, digest.hexdigest())
        else:  # a run that waits for this one may put its lock there meanwhile: then the folder is its own
            shutil.rmtree(self.folder, ignore_errors=True)

    def require_room(self, state_bytes: int) -> None:
        """Refuse to begin where a state, and the next one while it is written, would not fit.

        Raises:
            UserError: too little space on the disk.
        """
        have = self.file.stat().st_size if self.file.is_file() else 0
        disk.require_free_space(self.folder, 2 * state_bytes - have, "what a killed training goes on from")

    def due(self) -> bool:
        """Whether the last state is old enough for a new one."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint as a whole, on disk when this returns.

        One that cannot be written, for lack of space, is said; the last one stays, and training goes on.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        try:
            with file_io.replace_file(self.file, durable=True) as temporary, temporary.open("wb") as stream:
                stream.write(hashlib.sha256(content).digest())
                stream.write(content)
        except OSError as error:
            log.info(f"{self.file}: no checkpoint written ({error.strerror}); a kill now would cost more")
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The last whole checkpoint, or None; a damaged one counts as none and is said."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            log.info(f"{self.file}: damaged, so training starts from the beginning")
            return None
        return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)


class SharedCheckpointer:
    """The first process's keeper, as all that train together see it."""

    def __init__(self, keeper: Checkpointer | None, world: World) -> None:
        """Wrap it; None in the other processes."""
        self._keeper, self._world = keeper, world

    def read(self) -> dict[str, Any] | None:
        state: dict[str, Any] | None = self._world.broadcast(self._keeper and self._keeper.read())
        return state

    def due(self) -> bool:
        return bool(self._world.broadcast(self._keeper and self._keeper.due()))

    def write(self, state: dict[str, Any]) -> None:
        if self._keeper:
            self._keeper.write(state)


def remove_recorded() -> None:
    """Remove the states of runs that DVC has recorded: a kill cannot cost them any more."""
    lock_file = Path("dvc.lock")
    text = lock_file.read_text() if lock_file.is_file() else ""
    recorded = set(re.findall(r"md5: ([0-9a-f]{32})\b", text))
    for result in paths.checkpoints_folder().glob(f"*/{RESULT_FILE}"):
        with contextlib.suppress(FileNotFoundError):  # another stage has just removed it
            if result.read_text() in recorded:
                _remove(result.parent)


def _remove(folder: Path) -> None:
    """Unless a run is using it."""
    lock = _lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open file by which this process holds the folder; None if another one does, or removes it now."""
    lock = None
    try:
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when we die
        if os.path.samestat(os.fstat(lock), os.stat(folder / "lock")):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    if lock is not None:
        os.close(lock)
    return None


def _remove_old(top: Path) -> None:
    """Keep the newest ``KEPT``: a changed parameter or line of code leaves its state behind for good."""
    found = []
    for file in top.glob("*/lock"):
        with contextlib.suppress(FileNotFoundError):  # another run has just removed it
            found.append((file.parent.stat().st_mtime, file.parent))
    for _, folder in sorted(found, reverse=True)[MAX_KEPT:]:
        _remove(folder)
