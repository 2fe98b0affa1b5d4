"""The trials of a sweep and their record on disk."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.experiments import revision


@dataclass
class Trial:
    number: int
    values: dict[str, str]
    """As `dvc exp run -S` takes them."""
    state: Literal["running", "done", "failed"] = "running"
    top1: float | None = None
    """Of the best model on the validation images; ``loss`` alike."""
    loss: float | None = None
    images: int | None = None
    """Of the validation split."""

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts best first."""
        assert self.top1 is not None and self.loss is not None
        return -self.top1, self.loss


@dataclass
class TrialLog:
    """A sweep's record on disk."""

    folder: Path
    about: dict[str, Any]
    trials: list[Trial]

    def write(self) -> None:
        file_io.write_json(
            self.folder / "trials.json", {**self.about, "trials": [asdict(trial) for trial in self.trials]}
        )

    def name(self, trial: Trial) -> str:
        """Of its experiment."""
        return f"{self.folder.name}-{trial.number:03d}"

    @property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "done"]

    @property
    def running(self) -> Trial | None:
        """The first one to run or to go on with."""
        return next((trial for trial in self.trials if trial.state == "running"), None)

    def begin(self, values: dict[str, str]) -> Trial:
        """
        Raises:
            UserError: its experiment's name is taken, as by a sweep whose record is gone.
        """
        trial = Trial(len(self.trials), values)
        name = self.name(trial)
        if revision.revision_exists(name):
            raise UserError(
                f"{name}: there is an experiment, branch or tag of that name; give the sweep another name, "
                f"or `dvc exp remove {name}`"
            )
        self.trials.append(trial)
        self.write()
        return trial

    def retry(self) -> None:
        """Have those that failed since the last one with a result run again: the cause may be mended."""
        for trial in reversed(self.trials):
            if trial.state == "done":
                return
            trial.state = "running"
