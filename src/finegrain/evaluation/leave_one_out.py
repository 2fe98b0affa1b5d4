"""Training images that a solved head, fitted without them, predicts otherwise than they are labeled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finegrain.models.outputs import Floats, Ints

COLUMNS = ("path", "class", "label_probability", "predicted", "predicted_probability")
LISTED_SHARE, LISTED_AT_LEAST = 0.1, 20
"""Part of the images that is listed: it held nearly all of 5 % wrong labels (benchmarks/label_errors.py)."""


@dataclass(frozen=True)
class LeaveOneOutPredictions:
    """Predictions of N training images, each from a head that was fitted without it."""

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


def read_leave_one_out(file: Path) -> LeaveOneOutPredictions | None:
    """Read what stage train wrote; None if no phase of the training was solved."""
    with np.load(file) as arrays:
        if not arrays.files:
            return None
        return LeaveOneOutPredictions(**{name: arrays[name] for name in arrays.files})


def doubtful_rows(
    predictions: LeaveOneOutPredictions | None, manifest: Path, splits: tuple[str, ...], names: list[str]
) -> list[tuple[Any, ...]]:
    """Rows of ``COLUMNS`` for the images whose label is doubted most; none without predictions.

    Args:
        manifest: CSV whose rows of ``splits``, split after split, are the images of the predictions.
        names: of the classes.
    """
    if predictions is None:
        return []
    table = pd.read_csv(manifest, usecols=["path", "class", "split"], dtype=str, keep_default_na=False)
    rows = pd.concat([table[table["split"] == split] for split in splits])
    paths, classes = rows["path"].tolist(), rows["class"].tolist()
    return [
        (
            paths[i],
            classes[i],
            round(float(predictions.label_probability[i]), 6),
            names[predictions.top_class[i]],
            round(float(predictions.top_probability[i]), 6),
        )
        for i in predictions.doubtful().tolist()
    ]
