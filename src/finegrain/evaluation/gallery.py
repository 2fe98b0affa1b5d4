"""Photos for the report: what a network answered, where it was most wrong, what it confuses, where it looked.

One JSON with the photos inside as small JPEGs, so that the page needs no file beside it.
"""

import base64
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from finegrain.evaluation import gradcam, metrics
from finegrain.loading.batches import ImageArray, PackedSplit
from finegrain.models.inference import Preprocessor
from finegrain.models.outputs import Ints, Predictions

THUMBNAIL_SIZE = 144
"""Of a photo at most, in pixels."""
RANDOM, WORST, PAIRS, EXAMPLES, EACH = 16, 12, 6, 3, 4


@dataclass(frozen=True)
class Tile:
    image: str
    """A data URI, as ``heat``."""
    truth: str
    predicted: str
    confidence: float
    """Calibrated probability of ``predicted``, in 0..1."""
    loss: float
    heat: str | None = None
    """The same photo under its Grad-CAM."""


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are confused."""

    truth: str
    predicted: str
    mistakes: int
    images: int
    """Of the true class in the test split."""
    mistaken: list[str]
    """Test images of ``truth`` taken for ``predicted``."""
    examples: list[str]
    """Train images of ``predicted``."""


@dataclass(frozen=True)
class Gallery:
    random: list[Tile]
    worst: list[Tile]
    """The largest losses among the mistakes."""
    looked_at: list[Tile]
    """With Grad-CAM of the predicted class: right answers, then mistakes."""
    confused: list[ConfusedPair]


def build_gallery(
    net: nn.Module,
    view: Preprocessor,
    test: PackedSplit,
    train: PackedSplit,
    plain: Predictions,
    calibrated: Predictions,
) -> dict[str, object]:
    """Choose the photos, the same ones in every run; as JSON has it.

    Args:
        view: how the network sees a packed square.
        plain: answers of the test split; ``calibrated`` gives the confidences.
    """
    names, rng = test.class_names, np.random.default_rng(0)
    mixed = rng.permutation(len(plain))
    wrong = np.flatnonzero(~plain.correct)
    worst = wrong[np.argsort(-plain.loss[wrong], kind="stable")][:WORST]

    def tiles(chosen: Ints, heated: bool = False) -> list[Tile]:
        squares = test.squares(torch.from_numpy(chosen))
        heat: list[str | None] = [None] * len(chosen)
        if heated and len(chosen):
            classes = torch.from_numpy(plain.predicted[chosen])
            maps = gradcam.heatmaps(net, view(torch.from_numpy(squares)), classes)
            heat = [
                jpeg_data_uri(gradcam.overlay(square, one)) for square, one in zip(squares, maps, strict=True)
            ]
        return [
            Tile(
                image=jpeg_data_uri(square),
                truth=names[plain.labels[i]],
                predicted=names[plain.predicted[i]],
                confidence=float(calibrated.confidence[i]),
                loss=float(plain.loss[i]),
                heat=hot,
            )
            for i, square, hot in zip(chosen.tolist(), squares, heat, strict=True)
        ]

    some_right = mixed[plain.correct[mixed]][:EACH]
    some_wrong = mixed[~plain.correct[mixed]][:EACH]
    return asdict(
        Gallery(
            random=tiles(mixed[:RANDOM]),
            worst=tiles(worst),
            looked_at=tiles(np.concatenate((some_right, some_wrong)), heated=True),
            confused=list(_confused_pairs(test, train, plain)),
        )
    )


def _confused_pairs(test: PackedSplit, train: PackedSplit, plain: Predictions) -> Iterable[ConfusedPair]:
    names, learnt = test.class_names, train.labels.numpy()
    for truth, predicted, mistakes, images in metrics.confused_pairs(
        plain.labels, plain.predicted, names, PAIRS
    ):
        own, other = names.index(truth), names.index(predicted)
        mistaken = np.flatnonzero((plain.labels == own) & (plain.predicted == other))[:EXAMPLES]
        examples = np.flatnonzero(learnt == other)[:EXAMPLES]
        yield ConfusedPair(
            truth=truth,
            predicted=predicted,
            mistakes=mistakes,
            images=images,
            mistaken=[jpeg_data_uri(square) for square in test.squares(torch.from_numpy(mistaken))],
            examples=[jpeg_data_uri(square) for square in train.squares(torch.from_numpy(examples))],
        )


def jpeg_data_uri(square: ImageArray) -> str:
    """``[S, S, 3]`` as a data URI of at most ``SIDE`` pixels each way."""
    image = Image.fromarray(square)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="jpeg", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
