"""One run of stage train in its own folder: started, interrupted, resumed and timed, then evaluated."""

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import shared
import yaml

from finegrain.core import file_io, paths

POLL_SECONDS = 0.01
_popen = subprocess.Popen
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


class Run:
    """A run with its record in its folder, so that another process can continue where this one stopped."""

    def __init__(self, folder: Path, model: str, seed: int) -> None:
        self.folder, self.files = folder, paths.Run(shared.CARS, model, seed)
        self._track, self._log = folder / "track.json", folder / "log"
        self.track: dict[str, Any] = {"pieces": [], "reached": {}, "resumed": []}
        if self._track.is_file():
            self.track = file_io.read_json(self._track)

    def set_up(self, data: dict[str, Any], prepared: Path) -> None:
        """Write its parameters and link the pack of another folder, unless the run has been set up before."""
        if not self.begun:
            here = self.folder / paths.Dataset(shared.CARS).folder
            here.mkdir(parents=True, exist_ok=True)
            for name in ("pack", "manifest.csv"):
                (here / name).unlink(missing_ok=True)
                (here / name).symlink_to((prepared / paths.Dataset(shared.CARS).folder / name).resolve())
            file_io.write_text(self.folder / "params.yaml", yaml.safe_dump(data, sort_keys=False))

    @property
    def begun(self) -> bool:
        return (self.folder / "params.yaml").is_file()

    @property
    def finished(self) -> bool:
        return any(piece["ended"] == FINISHED for piece in self.track["pieces"])

    @property
    def seconds(self) -> float:
        """Wall time of all pieces, each from the start of its process to the end."""
        return sum(piece["seconds"] for piece in self.track["pieces"] if piece["ended"] != FAILED)

    def go_on(self, deadline: float, interrupt: bool = False) -> None:
        """Train until the run is finished or the deadline, on the monotonic clock, has passed.

        Args:
            interrupt: kill the run as soon as it has written a checkpoint after its first epoch.

        Raises:
            RuntimeError: the stage failed.
        """
        piece = {"seconds": 0.0, "ended": INTERRUPTED}
        earlier, started = self.seconds, time.monotonic()
        self.track["pieces"].append(piece)
        read = self._log.stat().st_size if self._log.is_file() else 0
        process, enough = self._start("train"), False
        try:
            while process.poll() is None and not enough:
                time.sleep(POLL_SECONDS)
                piece["seconds"] = time.monotonic() - started
                read = self._notice(read, earlier + piece["seconds"])
                enough = time.monotonic() > deadline or (interrupt and self._has_more_than_an_epoch())
        finally:
            process.kill()
            code = process.wait()
        piece["seconds"] = time.monotonic() - started
        self._notice(read, self.seconds)
        piece["ended"] = FINISHED if code == 0 else INTERRUPTED if enough else FAILED
        self._save()
        if piece["ended"] == FAILED:
            raise self.failure()

    def _start(self, stage: str) -> "subprocess.Popen[bytes]":
        command = shared.command(stage, self.files.model, self.files.seed)
        with self._log.open("ab") as log:
            return _popen(command, cwd=self.folder, stdout=log, stderr=log)

    def _notice(self, start: int, now: float) -> int:
        """Record the epochs in the log from ``start`` on; returns where its last whole line ends."""
        with self._log.open("rb") as log:
            log.seek(start)
            text = log.read()
        text = text[: text.rfind(b"\n") + 1]
        printed = text.decode(errors="replace")
        epochs = re.findall(rf"{self.files.name} epoch (\d+): train loss", printed)
        for epoch in epochs:
            self.track["reached"].setdefault(epoch, now)  # a resumed run prints its epochs again
        self.track["resumed"] += re.findall(r"resumed after epoch [^;\n]*", printed)
        if epochs:
            self._save()
        return start + len(text)

    def _save(self) -> None:
        file_io.write_json(self._track, self.track)

    def _has_more_than_an_epoch(self) -> bool:
        if not self.track["reached"]:
            return False
        states = self.folder.glob(".checkpoints/*/checkpoint.pt")
        return any(state.stat().st_mtime > self._track.stat().st_mtime for state in states)

    def failure(self) -> RuntimeError:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return RuntimeError(lines[-1] if lines else "the stage printed nothing")

    def evaluation(self) -> "subprocess.Popen[bytes]":
        """Start stage evaluate."""
        return self._start("evaluate")

    def training_results(self) -> dict[str, Any]:
        """Results of stage train: when each epoch ended, its losses and validation top-1, and the cost."""
        history = pd.read_csv(self.folder / self.files.history)
        sidecar = file_io.read_json(self.folder / self.files.sidecar)
        reached = self.track["reached"]
        return {
            "wall_seconds": round(self.seconds, 2),
            "pieces": len(self.track["pieces"]),
            "reached_seconds": [round(reached[str(epoch)], 2) for epoch in history["epoch"]],
            "image_size": history["image_size"].tolist(),
            **{name: history[name].round(5).tolist() for name in ("train_loss", "val_loss", "val_top1")},
            "best_epoch": sidecar["best_epoch"],
            "cost": file_io.read_json(self.folder / self.files.cost),
            "environment": sidecar["environment"],
        }

    def scored(self) -> dict[str, Any]:
        """Test metrics from stage evaluate, and which test images are predicted correctly."""
        return {
            "test": file_io.read_json(self.folder / self.files.results)["test"],
            "right": (self.folder / self.files.correct).read_text(),
        }

    def file_hashes(self) -> dict[str, str]:
        """Hash of each file that must be bit-identical in every run with the same parameters."""
        files = {"weights": self.files.weights, "sidecar": self.files.sidecar, "history": self.files.history}
        return {name: file_io.sha256(self.folder / file) for name, file in files.items()}


def prepare(folder: Path, data: dict[str, Any], other: Path | None = None) -> dict[str, float]:
    """Run the stages before train, once; returns the seconds of each.

    Args:
        other: a folder prepared from the same photos for another image size; then only stage pack runs.
    """
    done, here = folder / "seconds.json", folder / paths.Dataset(shared.CARS).folder
    if done.is_file():
        return file_io.read_json(done)
    here.mkdir(parents=True, exist_ok=True)
    if other:
        for name in ("archive", "manifest.csv"):
            (here / name).unlink(missing_ok=True)
            (here / name).symlink_to((other / paths.Dataset(shared.CARS).folder / name).resolve())
    file_io.write_text(folder / "params.yaml", yaml.safe_dump(data, sort_keys=False))
    seconds = {}
    for stage in ("pack",) if other else ("download", "split", "pack"):
        started = time.monotonic()
        subprocess.run(shared.command(stage, "", 0), cwd=folder, check=True)
        seconds[stage] = round(time.monotonic() - started, 2)
    file_io.write_json(done, seconds)
    return seconds
