"""The trials of a hyperparameter search, and their log on disk."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.experiments import revision


@dataclass
class Trial:
    """One set of values and its result; the result is None until the trial is done."""

    number: int
    values: dict[str, str]
    """In the form that `dvc exp run -S` takes."""
    state: Literal["running", "done", "failed"] = "running"
    value: float | None = None
    """``metric`` of the best model on validation."""
    loss: float | None = None
    """Validation loss of the same model."""
    images: int | None = None
    """Number of validation images."""
    metric: str = "top1"
    """The metric that chooses."""

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key: the best trial comes first."""
        assert self.value is not None and self.loss is not None
        return self.value if self.metric == "loss" else -self.value, self.loss


@dataclass
class TrialLog:
    """The record of a search on disk, ``trials.json``."""

    folder: Path
    settings: dict[str, Any]
    """Settings that the search must have when it is continued."""
    trials: list[Trial]

    def write(self) -> None:
        trials = [asdict(trial) for trial in self.trials]
        file_io.write_json(self.folder / "trials.json", {**self.settings, "trials": trials})

    def name(self, trial: Trial) -> str:
        """Name of the trial's DVC experiment."""
        return f"{self.folder.name}-{trial.number:03d}"

    @property
    def done(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "done"]

    @property
    def unfinished(self) -> Trial | None:
        """The first trial that has yet to run or was interrupted."""
        return next((trial for trial in self.trials if trial.state == "running"), None)

    def start(self, values: dict[str, str]) -> Trial:
        """Add a trial.

        Raises:
            UserError: the name of its experiment is taken, such as by a search whose log was deleted.
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

    def retry_last_failures(self) -> None:
        """Mark the trials that failed after the last result to run again: their cause may be fixed."""
        for trial in reversed(self.trials):
            if trial.state == "done":
                return
            trial.state = "running"
