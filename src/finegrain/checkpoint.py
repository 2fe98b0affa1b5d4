"""Keep a training run's state outside DVC's outs, so that a killed run goes on where it stood."""

import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from finegrain import paths, record
from finegrain.errors import UserError


class Keeper:
    """The checkpoint of one model under one exact set of params, code and data; a context manager.

    The folder's name holds a hash of all three, so that a changed run never starts from an old state. A
    lock keeps a second trainer out. Leaving without an error removes the folder.
    """

    def __init__(self, name: str, key: dict[str, Any], code: Sequence[Path]) -> None:
        """Name the folder.

        Args:
            name: dataset and model, readable.
            key: the resolved parameters, the data's fingerprint and what else the bits depend on.
            code: source files whose text counts as well.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
        for file in sorted(code):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        self.folder = paths.CHECKPOINTS / f"{name}-{digest.hexdigest()[:16]}"
        self.file = self.folder / "state.pt"

    def __enter__(self) -> "Keeper":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it when we die
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(f"{self.folder}: another run is training this very model; wait for it") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            shutil.rmtree(self.folder)
        os.close(self._lock)

    def write(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint as a whole, on disk when this returns."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).digest()
        temporary = self.folder / "state.tmp"
        with temporary.open("wb") as stream:
            stream.write(digest)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.file)
        record.sync_folder(self.folder)

    def read(self) -> dict[str, Any] | None:
        """The last whole checkpoint, or None; a damaged one counts as none and is said."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            record.say(f"{self.file}: damaged, so training starts from the beginning")
            return None
        return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
