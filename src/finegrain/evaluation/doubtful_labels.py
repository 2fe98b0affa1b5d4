"""Labels to check first: those that are improbable by predictions that were made without the image.

That is confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068). Validation and test
images are predicted by the trained model; training images by leave-one-out, where a head was solved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from finegrain.models.outputs import Floats, Ints, Predictions

COLUMNS = (
    "path", "action", "class", "label", "label_probability", "class_probability", "suspect", "split"
)  # fmt: skip
"""``class`` is the predicted one and ``action`` is empty: with actions, it is a table of corrections."""
SURE = 0.9
"""A prediction of at least this probability counts as confident."""
LISTED_SHARE, LISTED_AT_LEAST = 0.1, 20
"""Part of the images that is listed: by leave-one-out it held nearly all of 5 % wrong labels
(benchmarks/label_errors.py)."""


@dataclass(frozen=True)
class HeldOutPredictions:
    """Predictions of N images, each from a model or a head that was fitted without it."""

    label_probability: Floats
    """``[N]`` probability of the class that the image is labeled as."""
    top_class: Ints
    """``[N]`` most probable class."""
    top_probability: Floats
    """``[N]`` its probability."""

    def __len__(self) -> int:
        return len(self.top_class)

    def doubtful(self) -> Ints:
        """Indices of the images whose label is least probable, the most doubtful first."""
        listed = max(LISTED_AT_LEAST, int(len(self) * LISTED_SHARE))
        return np.argsort(self.label_probability, kind="stable")[:listed]

    def suspect(self, labels: Ints, num_classes: int) -> npt.NDArray[np.bool_]:
        """Whether each label is off the diagonal of the confident joint of labels and true classes, ``[N]``.

        It is if another class is predicted with at least the probability that images labeled as that class
        have on average, or with ``SURE``: below the average of a nearly perfect network are half of its
        predictions. The paper takes the most probable of all classes above their averages; here only the
        most probable class is known.
        """
        sums = np.bincount(labels, self.label_probability, num_classes)
        average = sums / np.maximum(1, np.bincount(labels, minlength=num_classes))
        threshold = np.minimum(average, SURE)[self.top_class]
        return (self.top_class != labels) & (self.top_probability >= threshold)


@dataclass(frozen=True)
class DoubtfulLabel:
    """An image with a doubtful label."""

    path: str
    split: str
    row: int
    """Index of the image in the split."""
    label: str
    label_probability: float
    predicted: str
    probability: float
    """Probability of ``predicted``."""
    suspect: bool

    @property
    def table_row(self) -> tuple[Any, ...]:
        """Values of ``COLUMNS``."""
        scores = round(self.label_probability, 6), round(self.probability, 6)
        wrong = "yes" if self.suspect else "no"
        return self.path, "", self.predicted, self.label, *scores, wrong, self.split


def read_leave_one_out(file: Path) -> HeldOutPredictions | None:
    """Read the leave-one-out predictions of the training images; None if no phase was solved."""
    with np.load(file) as arrays:
        if not arrays.files:
            return None
        return HeldOutPredictions(**{name: arrays[name] for name in arrays.files})


def held_out(predictions: Sequence[Predictions]) -> HeldOutPredictions:
    """Predictions of splits that were not trained on, one after the other."""
    return HeldOutPredictions(
        np.concatenate([np.exp(-each.loss) for each in predictions]),
        np.concatenate([each.predicted for each in predictions]),
        np.concatenate([each.confidence for each in predictions]),
    )


def find_doubtful(
    manifest: Path, names: Sequence[str], found: Iterable[tuple[Sequence[str], HeldOutPredictions]]
) -> list[DoubtfulLabel]:
    """The images with the most doubtful labels, the least probable label first.

    Args:
        manifest: CSV with the images.
        names: names of the classes.
        found: splits, and the predictions of their images, split after split in the order of the manifest. A
            share of each is listed: leave-one-out may give more confident predictions than others.
    """
    table = pd.read_csv(manifest, usecols=["path", "class", "split"], dtype=str, keep_default_na=False)
    ids = {name: i for i, name in enumerate(names)}
    listed = []
    for splits, predictions in found:
        rows = pd.concat([table[table["split"] == split].reset_index(drop=True) for split in splits])
        labels = np.array([ids[name] for name in rows["class"]], np.int64)
        wrong = predictions.suspect(labels, len(names))
        paths, split_names, places = rows["path"].tolist(), rows["split"].tolist(), rows.index.tolist()
        listed += [
            DoubtfulLabel(
                paths[i],
                split_names[i],
                places[i],
                label=names[labels[i]],
                label_probability=float(predictions.label_probability[i]),
                predicted=names[predictions.top_class[i]],
                probability=float(predictions.top_probability[i]),
                suspect=bool(wrong[i]),
            )
            for i in predictions.doubtful().tolist()
        ]
    return sorted(listed, key=lambda label: label.label_probability)
