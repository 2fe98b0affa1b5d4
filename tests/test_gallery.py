"""The gallery of the report has the intended images with their own predictions."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from finegrain.config.training import HeadParams
from finegrain.evaluation import gallery
from finegrain.loading import batches
from finegrain.models import build, inference, outputs

CPU = torch.device("cpu")


@pytest.fixture
def gallery_data(tiny_pack):
    """A gallery of made-up predictions: every third test image is predicted as the next class."""
    mean_std = [0.2] * 3, [0.15] * 3
    test, train = (batches.PackedSplit(tiny_pack, part, CPU, *mean_std) for part in ("test", "train"))
    labels = test.labels.numpy()
    predicted = np.where(np.arange(len(labels)) % 3 == 0, (labels + 1) % 3, labels)
    scale = np.linspace(1, 5, len(labels), dtype=np.float32)[:, None]
    logits = np.eye(3, dtype=np.float32)[predicted] * scale
    raw, calibrated = outputs.from_logits(logits, labels), outputs.from_logits(logits, labels, 2.0)
    net = build.build_model("resnet18", 3, "none", HeadParams(), seed=0)
    preprocess = inference.Preprocessor(32, CPU, *mean_std)
    return gallery.build_gallery(net, preprocess, test, train, raw, calibrated, []), raw, calibrated, test


def pixels(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def nearest(uri: str, images: np.ndarray) -> int:
    """Index of the image in the data URI, in spite of the losses of JPEG."""
    return int(np.abs(images.astype(int) - pixels(uri)).mean((1, 2, 3)).argmin())


def test_tiles_show_the_image_with_its_own_prediction(gallery_data):
    shown, raw, calibrated, test = gallery_data
    images = test.images(torch.arange(len(test)))
    assert len({nearest(tile["image"], images) for tile in shown["random"]}) == gallery.RANDOM_IMAGES
    for tile in shown["random"]:
        i = nearest(tile["image"], images)
        assert tile["truth"] == test.class_names[raw.labels[i]]
        assert tile["predicted"] == test.class_names[raw.predicted[i]]
        assert tile["confidence"] == calibrated.confidence[i]
        assert tile["truth_probability"] == pytest.approx(np.exp(-calibrated.loss[i]))


def test_the_worst_are_the_mistakes_whose_true_class_is_least_probable(gallery_data):
    shown, raw, calibrated, _ = gallery_data
    least = np.sort(np.exp(-calibrated.loss[~raw.correct]))[: gallery.WORST_IMAGES]
    assert [tile["truth_probability"] for tile in shown["worst"]] == pytest.approx(least.tolist())
    assert all(tile["truth"] != tile["predicted"] and tile["heat"] is None for tile in shown["worst"])


def test_grad_cam_is_shown_for_correct_predictions_and_for_mistakes(gallery_data):
    correct = [tile["truth"] == tile["predicted"] for tile in gallery_data[0]["looked_at"]]
    assert correct == [True] * gallery.GRADCAM_IMAGES + [False] * gallery.GRADCAM_IMAGES
    assert all(pixels(tile["heat"]).shape == (32, 32, 3) for tile in gallery_data[0]["looked_at"])


def test_confused_pairs_have_examples_of_both_classes(gallery_data, tiny_pack):
    shown, raw, _, test = gallery_data
    train, train_labels = np.load(tiny_pack / "train.npy"), np.load(tiny_pack / "train_labels.npy")
    assert len(shown["confused"]) == 1  # every third image is of class 0
    (pair,) = shown["confused"]
    assert (pair["truth"], pair["predicted"], pair["mistakes"], pair["images"]) == ("bars", "dots", 6, 6)
    mistaken = [nearest(uri, test.images(torch.arange(len(test)))) for uri in pair["mistaken"]]
    assert mistaken == np.flatnonzero(~raw.correct)[: gallery.EXAMPLES].tolist()
    examples = [nearest(uri, train) for uri in pair["examples"]]
    assert examples == np.flatnonzero(train_labels == 1)[: gallery.EXAMPLES].tolist()


def test_a_network_without_mistakes_has_no_worst_images_and_no_confused_pairs(tiny_pack):
    mean_std = [0.2] * 3, [0.15] * 3
    test = batches.PackedSplit(tiny_pack, "test", CPU, *mean_std)
    certain = outputs.from_logits(np.eye(3, dtype=np.float32)[test.labels.numpy()] * 9, test.labels.numpy())
    net = build.build_model("resnet18", 3, "none", HeadParams(), seed=0)
    shown = gallery.build_gallery(
        net, inference.Preprocessor(32, CPU, *mean_std), test, test, certain, certain, []
    )
    assert shown["worst"] == [] == shown["confused"]
    assert len(shown["looked_at"]) == gallery.GRADCAM_IMAGES


def test_images_are_no_larger_than_thumbnails():
    large = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    assert pixels(gallery.jpeg_data_uri(large)).shape == (gallery.THUMBNAIL_SIZE, gallery.THUMBNAIL_SIZE, 3)
