"""The results of one revision: its test images, and what each model predicts for them; images of two."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from finegrain.comparison import chosen_metric, leaderboard
from finegrain.comparison.chosen_metric import Outcomes
from finegrain.comparison.significance import Bools

ClassNames = npt.NDArray[np.object_]


@dataclass(frozen=True)
class ModelResults:
    """The results of one model at one revision."""

    predictions: ClassNames
    """``[seeds, N]``: the class that the model of each seed predicts for each test image."""
    validation: dict[str, float]
    """Means over the seeds of the validation metrics that were recorded: ``top1``, ``loss`` and others."""
    losses: npt.NDArray[np.float64] | None = None
    """``[seeds, N]`` loss of each test image; None if it is not known."""


@dataclass(frozen=True)
class RevisionResults:
    """The results of all models at one revision."""

    name: str
    """The user's name for the revision, such as ``main``."""
    commit: str | None
    """None means the workspace."""
    images: pd.DataFrame
    """``path`` and ``class`` of the N test images, and ``sha256`` if the revision has recorded it."""
    models: dict[str, ModelResults]
    parameters: dict[str, Any]
    """The content of params.yaml."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Hash of everything else that the results depend on, by name: code paths, ``archive`` and ``split``."""
    stale_parameters: list[str] = field(default_factory=list)
    """Parameters that have changed since the results were made."""
    anonymous_reason: str | None = None
    """Why paths are made up and all wrong predictions are the same class; None means both are known."""
    choose_by: str = "top1"
    """The parameter of the same name."""

    @property
    def winner(self) -> str:
        """The model with the best validation result."""
        values = {
            name: {f"val_{metric}": value for metric, value in model.validation.items()}
            for name, model in self.models.items()
        }
        return min(values, key=lambda name: leaderboard.validation_rank(values[name], self.choose_by))

    def select_images(self, rows: npt.NDArray[np.int64]) -> "RevisionResults":
        """The same results for some of the test images, in the order of ``rows``."""
        models = {
            name: replace(
                model,
                predictions=model.predictions[:, rows],
                losses=None if model.losses is None else model.losses[:, rows],
            )
            for name, model in self.models.items()
        }
        return replace(self, images=self.images.iloc[rows].reset_index(drop=True), models=models)

    def correct(self, model: str) -> Bools:
        """Whether each prediction of a model is correct, ``[seeds, N]``."""
        return self.models[model].predictions == self.images["class"].to_numpy(object)

    def outcomes(self, model: str) -> Outcomes:
        """The predictions of a model for the test images, with numbered classes."""
        found = self.models[model]
        return Outcomes.from_names(self.images["class"].to_numpy(object), found.predictions, found.losses)

    def score(self, model: str, metric: str) -> "Score":
        """A metric of a model on the test images, with its 95 % interval."""
        outcomes = self.outcomes(model)
        values, (low, high) = outcomes.values(metric), chosen_metric.interval(metric, outcomes)
        validation = self.models[model].validation.get(metric)
        return Score(model, len(values), float(values.mean()), low, high, validation)


@dataclass(frozen=True)
class Score:
    """A metric of one model on the test images of both revisions, or of its own if only one has the model."""

    model: str
    seeds: int
    value: float
    """Mean over the seeds; the next two are its 95 % interval."""
    low: float
    high: float
    validation: float | None
    """The same metric on validation; None if it was not recorded."""


def comparable_metric(*revisions: RevisionResults) -> str:
    """The metric by which the last revision chooses, if the results of all hold what it needs.

    Without the classes of wrong predictions mean class accuracy stands for macro-F1; without the losses of
    images top-1 stands for the loss.
    """
    metric = revisions[-1].choose_by
    if metric == "macro_f1" and any(each.anonymous_reason for each in revisions):
        return "mean_class_accuracy"
    if metric == "loss" and any(m.losses is None for each in revisions for m in each.models.values()):
        return "top1"
    return metric


@dataclass(frozen=True)
class CommonImages:
    """Two revisions restricted to the test images that both have, in the order of the first."""

    before: RevisionResults
    after: RevisionResults
    key: str
    """``sha256`` if images are paired by their content, ``path`` if a revision has not recorded it."""
    changed: int
    """Number of paths in both revisions whose images are left out: the content or the class is another."""
    relabeled: int
    """Number of images left out of the second revision whose content the first has under another class."""


def pair_images(before: RevisionResults, after: RevisionResults) -> CommonImages:
    """Pair the test images of the same content and class, whatever their paths; repeats in their order."""
    key = "sha256" if all("sha256" in each.images for each in (before, after)) else "path"
    tables = []
    for revision in (before, after):
        table = revision.images[[key, "class"]].reset_index()
        tables.append(table.assign(repeat=table.groupby([key, "class"]).cumcount()))
    rows = tables[0].merge(tables[1], on=[key, "class", "repeat"]).sort_values("index_x")
    old, new = (
        before.select_images(rows["index_x"].to_numpy()),
        after.select_images(rows["index_y"].to_numpy()),
    )
    paths = [set(each.images["path"]) for each in (before, after, old, new)]
    left = [each.images[key].drop(rows[index]) for each, index in ((before, "index_x"), (after, "index_y"))]
    relabeled = int(left[1].isin(left[0]).sum()) if key == "sha256" else 0
    return CommonImages(old, new, key, len((paths[0] & paths[1]) - paths[2] - paths[3]), relabeled)
