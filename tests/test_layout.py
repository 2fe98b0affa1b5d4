"""Class and official split are found from the folders; what is not a layout of classes is rejected."""

import pytest

from finegrain.core.errors import UserError
from finegrain.sources import layout


def parse(*paths):
    """Path -> (split, class)."""
    found = layout.detect_layout(lambda: paths)
    return {path: found.parse(path) for path in paths}


def test_class_and_split_are_read_from_the_folders():
    assert parse("a/1.jpg", "b/1.PNG") == {"a/1.jpg": (None, "a"), "b/1.PNG": (None, "b")}
    assert parse("x/y/a/1.jpg", "x/y/b/deep/er/1.jpg")["x/y/b/deep/er/1.jpg"] == (None, "b")
    official = parse(
        "c/c/Train/a/1.jpg", "c/c/Train/b/1.jpg", "c/c/validation/a/2.jpg", "c/c/TESTING/b/2/x.jpg"
    )
    assert list(official.values()) == [("train", "a"), ("train", "b"), ("val", "a"), ("test", "b")]
    only_train = parse("car_data/train/a/1.jpg", "car_data/train/b/1.jpg")
    assert list(only_train.values()) == [(None, "a"), (None, "b")]
    assert parse("train/1.jpg", "bus/1.jpg")["train/1.jpg"] == (None, "train")  # a class may have that name
    assert parse("cafe\u0301/1.jpg", "b/1.jpg")["cafe\u0301/1.jpg"] == (None, "caf\u00e9")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no images"),
        (["1.jpg", "2.jpg"], r"one folder \(the top\)"),
        (["x/cat/1.jpg", "x/cat/2.jpg"], r"one folder \(x/cat\)"),
        (["x/cat/1.jpg", "x/dog/2.jpg", "x/3.jpg"], "outside a class folder: 1, for example x/3.jpg"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/2.jpg"], "outside a class folder: 1, .* test/2.jpg"),
        (["train/a/1.jpg", "test/a/2.jpg"], r"one class \(a\)"),
        (["Cat/1.jpg", "cat/2.jpg", "dog/3.jpg"], "case only: Cat, cat"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "without an image in train: c"),
        (["val/a/1.jpg", "test/b/1.jpg"], "test, val, but none for train"),
        (["train/a/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"], "folder extra .* test, train"),
    ],
)  # fmt: skip
def test_folders_that_are_not_classes_are_rejected(paths, message):
    with pytest.raises(UserError, match=message):
        parse(*paths)
