"""The photos of the report: the right ones, with the right words, the same in every run."""

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
def built(tiny_pack):
    """A gallery of made-up answers: every third test image is taken for the next class."""
    normal = [0.2] * 3, [0.15] * 3
    test, train = (batches.PackedSplit(tiny_pack, part, CPU, *normal) for part in ("test", "train"))
    labels = test.labels.numpy()
    said = np.where(np.arange(len(labels)) % 3 == 0, (labels + 1) % 3, labels)
    logits = np.eye(3, dtype=np.float32)[said] * np.linspace(1, 5, len(labels))[:, None].astype(np.float32)
    plain, calibrated = outputs.from_logits(logits, labels), outputs.from_logits(logits, labels, 2.0)
    net = build.build_model("resnet18", 3, "none", HeadParams(), seed=0)
    view = inference.Preprocessor(32, CPU, *normal)
    return gallery.build_gallery(net, view, test, train, plain, calibrated), plain, calibrated, test


def pixels(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def nearest(uri: str, squares: np.ndarray) -> int:
    """Which of the photos it is, whatever JPEG lost."""
    return int(np.abs(squares.astype(int) - pixels(uri)).mean((1, 2, 3)).argmin())


def test_tiles_show_the_image_with_its_own_answer(built):
    photos, plain, calibrated, test = built
    squares = test.squares(torch.arange(len(test)))
    assert len({nearest(tile["image"], squares) for tile in photos["random"]}) == gallery.RANDOM
    for tile in photos["random"]:
        i = nearest(tile["image"], squares)
        assert tile["truth"] == test.class_names[plain.labels[i]]
        assert tile["predicted"] == test.class_names[plain.predicted[i]]
        assert tile["confidence"] == calibrated.confidence[i] and tile["loss"] == plain.loss[i]


def test_the_worst_are_the_mistakes_of_the_largest_loss(built):
    photos, plain, _, _ = built
    losses = np.sort(plain.loss[~plain.correct])[::-1]
    assert [tile["loss"] for tile in photos["worst"]] == pytest.approx(losses[: gallery.WORST].tolist())
    assert all(tile["truth"] != tile["predicted"] and tile["heat"] is None for tile in photos["worst"])


def test_grad_cam_is_shown_of_right_answers_and_of_mistakes(built):
    right = [tile["truth"] == tile["predicted"] for tile in built[0]["looked_at"]]
    assert right == [True] * gallery.EACH + [False] * gallery.EACH
    assert all(pixels(tile["heat"]).shape == (32, 32, 3) for tile in built[0]["looked_at"])


def test_confused_pairs_have_examples_of_both_sides(built, tiny_pack):
    photos, plain, _, test = built
    train, train_labels = np.load(tiny_pack / "train.npy"), np.load(tiny_pack / "train_labels.npy")
    assert len(photos["confused"]) == 1  # every third image is of class 0
    (pair,) = photos["confused"]
    assert (pair["truth"], pair["predicted"], pair["mistakes"], pair["images"]) == ("bars", "dots", 6, 6)
    mistaken = [nearest(uri, test.squares(torch.arange(len(test)))) for uri in pair["mistaken"]]
    assert mistaken == np.flatnonzero(~plain.correct)[: gallery.EXAMPLES].tolist()
    examples = [nearest(uri, train) for uri in pair["examples"]]
    assert examples == np.flatnonzero(train_labels == 1)[: gallery.EXAMPLES].tolist()


def test_a_network_without_a_mistake_has_none_to_show(tiny_pack):
    normal = [0.2] * 3, [0.15] * 3
    test = batches.PackedSplit(tiny_pack, "test", CPU, *normal)
    sure = outputs.from_logits(np.eye(3, dtype=np.float32)[test.labels.numpy()] * 9, test.labels.numpy())
    net = build.build_model("resnet18", 3, "none", HeadParams(), seed=0)
    photos = gallery.build_gallery(net, inference.Preprocessor(32, CPU, *normal), test, test, sure, sure)
    assert photos["worst"] == [] == photos["confused"]
    assert len(photos["looked_at"]) == gallery.EACH


def test_photos_are_small():
    big = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    assert pixels(gallery.jpeg_data_uri(big)).shape == (gallery.THUMBNAIL_SIZE, gallery.THUMBNAIL_SIZE, 3)
