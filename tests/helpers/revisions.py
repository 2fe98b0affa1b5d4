"""Results of a made-up revision: 20 cats and 20 dogs, each predicted correctly or as the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from finegrain.experiments import markdown
from finegrain.experiments.difference import Difference
from finegrain.experiments.results import ModelResults, RevisionResults

LABELS = ["cat"] * 20 + ["dog"] * 20


CORRECT = "1" * 40


def results(*seeds: str, labels: Sequence[str] = LABELS, val_top1: float = 0.5) -> ModelResults:
    """A model by its predictions: 1 if correct; 0 if a cat is predicted as dog, any other class as cat."""
    predictions = [
        [
            label if mark == "1" else ("dog" if label == "cat" else "cat")
            for label, mark in zip(labels, seed, strict=True)
        ]
        for seed in seeds
    ]
    return ModelResults(np.array(predictions, object), {"top1": val_top1, "loss": 1 - val_top1})


def revision(
    name: str,
    models: Mapping[str, ModelResults],
    labels: Sequence[str] = LABELS,
    first: int = 0,
    parameters: Mapping[str, Any] | None = None,
    **more: Any,
) -> RevisionResults:
    images = pd.DataFrame({"path": [f"{first + i}.jpg" for i in range(len(labels))], "class": labels})
    return RevisionResults(name, "0123456789", images, dict(models), dict(parameters or {}), **more)


def incorrect(*places: int) -> str:
    return "".join("0" if i in places else "1" for i in range(len(LABELS)))


def text(found: Difference, images: int = 20) -> str:
    return markdown.render_difference(found, images)
