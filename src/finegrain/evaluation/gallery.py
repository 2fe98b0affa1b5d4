"""Images for the report: random predictions, worst mistakes, confused classes and Grad-CAM.

They are stored as small JPEGs inside one JSON file, so that the page needs no other file.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from finegrain.evaluation import gradcam, metrics
from finegrain.evaluation.doubtful_labels import DoubtfulLabel
from finegrain.loading.batches import ImageArray, PackedSplit
from finegrain.models.inference import Preprocessor
from finegrain.models.outputs import Ints, Predictions

THUMBNAIL_SIZE = 144
"""Longer side of an image in the report, in pixels."""
RANDOM_IMAGES, WORST_IMAGES, PAIRS, DOUBTFUL_IMAGES = 16, 12, 6, 36
EXAMPLES = 3
"""Images of either class of a confused pair."""
GRADCAM_IMAGES = 4
"""Images with Grad-CAM among the correct predictions, and among the mistakes."""


@dataclass(frozen=True)
class Tile:
    """An image with its prediction."""

    image: str
    """JPEG as a data URI."""
    truth: str
    predicted: str
    confidence: float
    """Calibrated probability of ``predicted``, in 0..1."""
    truth_probability: float
    """Calibrated probability of ``truth``."""
    heat: str | None = None
    """The image under its Grad-CAM heat map, as a data URI."""


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes of which one is often predicted as the other."""

    truth: str
    predicted: str
    mistakes: int
    images: int
    """Number of test images of the true class."""
    mistaken: list[str]
    """Test images of class ``truth`` that are predicted as ``predicted``."""
    examples: list[str]
    """Train images of class ``predicted``."""


@dataclass(frozen=True)
class Gallery:
    """The images of one model that the report shows."""

    random: list[Tile]
    worst: list[Tile]
    """The mistakes whose true class is least probable."""
    looked_at: list[Tile]
    """Correct predictions, then mistakes, with Grad-CAM of the predicted class."""
    confused: list[ConfusedPair]
    doubtful: list[dict[str, object]]
    """From ``doubtful_tiles``."""


def build_gallery(
    net: nn.Module,
    preprocess: Preprocessor,
    test: PackedSplit,
    train: PackedSplit,
    raw: Predictions,
    calibrated: Predictions,
    doubtful: list[dict[str, object]],
) -> dict[str, object]:
    """Choose the images, the same ones in every run, and return the gallery as JSON data.

    Args:
        preprocess: maps packed images to the network's inputs.
        raw: predictions of the test split without a temperature.
        calibrated: the same with the temperature: their probabilities are shown.
        doubtful: from ``doubtful_tiles``.
    """
    order = np.random.default_rng(0).permutation(len(raw))
    mistakes = np.flatnonzero(~raw.correct)
    worst = mistakes[np.argsort(-calibrated.loss[mistakes], kind="stable")][:WORST_IMAGES]
    correct, incorrect = order[raw.correct[order]], order[~raw.correct[order]]
    for_gradcam = np.concatenate((correct[:GRADCAM_IMAGES], incorrect[:GRADCAM_IMAGES]))
    heat = _gradcam_images(net, preprocess, test, raw, for_gradcam)
    gallery = Gallery(
        random=_tiles(test, raw, calibrated, order[:RANDOM_IMAGES]),
        worst=_tiles(test, raw, calibrated, worst),
        looked_at=[
            replace(tile, heat=image)
            for tile, image in zip(_tiles(test, raw, calibrated, for_gradcam), heat, strict=True)
        ],
        confused=list(_confused_pairs(test, train, raw)),
        doubtful=doubtful,
    )
    return asdict(gallery)


def _tiles(test: PackedSplit, raw: Predictions, calibrated: Predictions, chosen: Ints) -> list[Tile]:
    """The chosen test images with their predictions."""
    return [
        Tile(
            image=jpeg_data_uri(image),
            truth=test.class_names[raw.labels[i]],
            predicted=test.class_names[raw.predicted[i]],
            confidence=float(calibrated.confidence[i]),
            truth_probability=float(np.exp(-calibrated.loss[i])),
        )
        for i, image in zip(chosen.tolist(), test.images(torch.from_numpy(chosen)), strict=True)
    ]


def doubtful_tiles(
    splits: Mapping[str, PackedSplit], labels: Sequence[DoubtfulLabel]
) -> list[dict[str, object]]:
    """The images with the most doubtful labels that are predicted as another class.

    A tile has the fields of ``DoubtfulLabel``, and ``image`` as a data URI.

    Args:
        splits: with all splits that the images are from.
        labels: the most doubtful first.
    """
    tiles = []
    for label in [label for label in labels if label.predicted != label.label][:DOUBTFUL_IMAGES]:
        (pixels,) = splits[label.split].images(torch.tensor([label.row]))
        tiles.append({**asdict(label), "image": jpeg_data_uri(pixels)})
    return tiles


def _gradcam_images(
    net: nn.Module, preprocess: Preprocessor, test: PackedSplit, raw: Predictions, chosen: Ints
) -> list[str]:
    """The chosen test images under the Grad-CAM of their predicted classes, as data URIs."""
    images = test.images(torch.from_numpy(chosen))
    classes = torch.from_numpy(raw.predicted[chosen])
    heatmaps = gradcam.heatmaps(net, preprocess(torch.from_numpy(images)), classes)
    return [jpeg_data_uri(gradcam.overlay(*pair)) for pair in zip(images, heatmaps, strict=True)]


def _confused_pairs(test: PackedSplit, train: PackedSplit, raw: Predictions) -> Iterable[ConfusedPair]:
    """The most confused pairs of classes, with example images of both."""
    names, train_labels = test.class_names, train.labels.numpy()
    for truth, predicted, mistakes, images in metrics.confused_pairs(raw.labels, raw.predicted, names, PAIRS):
        true_id, predicted_id = names.index(truth), names.index(predicted)
        mistaken = np.flatnonzero((raw.labels == true_id) & (raw.predicted == predicted_id))[:EXAMPLES]
        examples = np.flatnonzero(train_labels == predicted_id)[:EXAMPLES]
        yield ConfusedPair(
            truth=truth,
            predicted=predicted,
            mistakes=mistakes,
            images=images,
            mistaken=[jpeg_data_uri(image) for image in test.images(torch.from_numpy(mistaken))],
            examples=[jpeg_data_uri(image) for image in train.images(torch.from_numpy(examples))],
        )


def jpeg_data_uri(pixels: ImageArray) -> str:
    """``[S, S, 3]`` as a JPEG data URI of at most ``THUMBNAIL_SIZE`` pixels each way."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="jpeg", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
