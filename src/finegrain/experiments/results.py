"""The results of one revision: test images, and what each model predicts for them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from finegrain.comparison import leaderboard, significance
from finegrain.comparison.significance import Bools

Names = npt.NDArray[np.object_]


@dataclass(frozen=True)
class ModelResults:
    """One model on one side."""

    answers: Names
    """``[seeds, N]``: the class that each of its trainings takes each test image for."""
    val_top1: float
    """Mean over the seeds; ``val_loss`` alike."""
    val_loss: float


@dataclass(frozen=True)
class RevisionResults:
    name: str
    """As the user calls it, such as ``main``."""
    commit: str | None
    """None: the workspace."""
    images: pd.DataFrame
    """``path`` and ``class`` of the N test images."""
    models: dict[str, ModelResults]
    parameters: dict[str, Any]
    """params.yaml."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Hash of what else its results were made of, by name: each code file, ``archive`` and ``split``."""
    stale: list[str] = field(default_factory=list)
    """Parameters that have changed since its results were made."""
    nameless: str | None = None
    """Why the images are not known by name: their paths are made up, and wrong answers are all alike."""

    @property
    def winner(self) -> str:
        """The model that is best on validation."""
        return min(self.models, key=lambda name: leaderboard.validation_rank(vars(self.models[name])))

    def right(self, model: str) -> Bools:
        """``[seeds, N]``."""
        return self.models[model].answers == self.images["class"].to_numpy(object)

    def score(self, model: str) -> "Score":
        right = self.right(model)
        low, high = significance.accuracy_interval(right)
        return Score(model, len(right), float(right.mean()), low, high, self.models[model].val_top1)


@dataclass(frozen=True)
class Score:
    """One model on one side, on the test images of both; of a model on one side only, on all of its side."""

    model: str
    seeds: int
    top1: float
    low: float
    """95 % interval; ``high`` alike."""
    high: float
    val_top1: float
