"""Class and official split are found from the folders; what is not a layout of classes is rejected."""

import itertools

import drawn
import pytest
from toy_data import FILES

from finegrain.core.errors import UserError
from finegrain.sources import archive, layout


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
    both = parse("cafe\u0301/1.jpg", "caf\u00e9/2.jpg", "b/1.jpg")
    assert [name for _, name in both.values()] == ["caf\u00e9", "caf\u00e9", "b"]  # one class


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no images"),
        (["1.jpg", "2.jpg"], "in no folder, but at least two classes"),
        (["x/cat/1.jpg", "x/cat/2.jpg"], "in one folder, x/cat, but at least two"),
        (["x/cat/1.jpg", "x/dog/2.jpg", "x/3.jpg"], "outside a class folder: 1, for example x/3.jpg"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/2.jpg"], "outside a class folder: 1, .* test/2.jpg"),
        (["train/a/1.jpg", "test/a/2.jpg"], r"only one class, a,"),
        (["Cat/1.jpg", "cat/2.jpg", "dog/3.jpg"], "characters only: 'Cat', 'cat'"),
        (["Caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "dog/3.jpg"], "characters only: 'Caf\u00e9', 'caf\u00e9'"),
        (["Stra\u00dfe/1.jpg", "STRASSE/2.jpg", "dog/3.jpg"], "characters only: 'STRASSE', 'Stra\u00dfe'"),
        (["\u01f0/1.jpg", "J\u030c/2.jpg", "dog/3.jpg"], "characters only: 'J\u030c', '\u01f0'"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "without an image in train: c"),
        (["val/a/1.jpg", "test/b/1.jpg"], "test, val, but none for train"),
        (["train/a/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"], "folder extra .* test, train"),
    ],
)  # fmt: skip
def test_folders_that_are_not_classes_are_rejected(paths, message):
    with pytest.raises(UserError, match=message):
        parse(*paths)


def with_classes(*tops, classes=("cat", "dog")):
    """An image of each class below each of these folders."""
    return [f"{top}/{name}/{n}.jpg" for n, top in enumerate(tops) for name in classes]


@pytest.mark.parametrize(
    ("tops", "splits"),
    [
        (("training_set/training_set", "test_set/test_set"), ("train", "test")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
        (("train", "dev"), ("train", "val")),
        (("Train", "eval", "holdout"), ("train", "val", "test")),
        (("train_images", "valid_images", "testImages"), ("train", "val", "test")),
        (("x/training", "x/validation-set", "x/testing data"), ("train", "val", "test")),
        (("train2017", "val2017"), ("train", "val")),
        (("train/train", "test"), ("train", "test")),
        (("train/images", "test/images"), ("train", "test")),
    ],
)
def test_split_folders_have_many_names(tops, splits):
    paths = with_classes(*tops)
    assert parse(*paths) == {
        path: found for path, found in zip(paths, itertools.product(splits, ("cat", "dog")), strict=True)
    }


@pytest.mark.parametrize(
    "name", ["train1", "trainees", "protest", "invalid", "devices", "datatest2", "setting"]
)
def test_other_names_are_no_splits(name):
    assert layout.split_name(name) is None


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (with_classes("color", "grayscale", "segmented"), r"color, grayscale, segmented .* \(cat, dog\)"),
        (with_classes("train/color", "train/gray", "test/color"), r"color, gray hold .* \(cat, dog\)"),
        (with_classes("fold1", "fold2"), "fold1, fold2 hold .* not the classes.*dataset.path"),
        (with_classes("cat", "dog", classes=("train", "test")), "put the splits above the classes"),
        (with_classes("color", "gray", classes="0123456789"), "and 5 more"),
        (
            ["x/cat/1.jpg", "x/dog/1.jpg", *with_classes("x/x")],
            r"folder x holds folders of the same names as those beside it \(cat, dog\)",
        ),
        (with_classes("train", "val", "dev"), r"same split: dev \(val\), train \(train\), val \(val\)"),
        ([*with_classes("seg_train", "seg_test"), "seg_pred/1.jpg"], "seg_pred is next to .*dataset.path"),
    ],
)  # fmt: skip
def test_folders_that_hold_the_classes_are_no_classes(paths, message):
    with pytest.raises(UserError, match=message):
        parse(*paths)


def test_folders_below_the_classes_are_allowed():
    views = [f"{name}/{view}/1.jpg" for name in ("cat", "dog") for view in ("images",)]
    assert [name for _, name in parse(*views).values()] == ["cat", "dog"]
    partly = ["cat/front/1.jpg", "cat/side/1.jpg", "dog/front/1.jpg", "dog/side/1.jpg", "dog/1.jpg"]
    assert {name for _, name in parse(*partly).values()} == {"cat", "dog"}


def store_parts(tmp_path, parts):
    """Archives of these names, read as the parts of one."""
    for name, files in parts.items():
        drawn.zip_file(tmp_path / name, files)
    with archive.ArchiveReader(tmp_path) as reader:
        return {image.path: (image.split, image.class_name) for image, _ in reader.read()}


def below(top, files=FILES):
    return {f"{top}/{path}": data for path, data in files.items()}


def test_numbered_top_folders_of_several_parts_are_skipped(tmp_path):
    found = store_parts(tmp_path, {"p1.zip": below("photos-1"), "p2.zip": below("photos-2")})
    assert len(found) == 6 and {name for _, name in found.values()} == {"cat", "dog"}
    train = {f"p{n}.zip": below(f"photos{n}/train") | below(f"photos{n}/test") for n in (3, 4)}
    found = store_parts(tmp_path / "splits", train)
    assert {place for place in found.values()} == set(itertools.product(("train", "test"), ("cat", "dog")))


def test_one_class_in_each_part_is_a_class_though_numbered(tmp_path):
    found = store_parts(tmp_path, {f"c{n}.zip": {f"class{n}/1.jpg": b"1"} for n in (1, 2)})
    assert {name for _, name in found.values()} == {"class1", "class2"}


def test_parts_whose_top_folders_or_names_may_be_splits_are_rejected(tmp_path):
    with pytest.raises(UserError, match="color, gray hold folders of the same names"):
        store_parts(tmp_path / "1", {"a.zip": below("color"), "b.zip": below("gray")})
    with pytest.raises(UserError, match=r"parts test.zip, train.zip seem to be splits.*dataset.path"):
        store_parts(tmp_path / "2", {"train.zip": FILES, "test.zip": FILES})
    found = store_parts(tmp_path / "3", {"train.zip": below("train"), "test.zip": below("test_set")})
    assert {split for split, _ in found.values()} == {"train", "test"}


def test_split_folders_of_other_names_are_reported(tmp_path, capfd):
    store_parts(tmp_path / "1", {"a.zip": below("training_set") | below("dev")})
    assert "own splits: dev is taken for val, training_set is taken for train\n" in capfd.readouterr().err
    store_parts(tmp_path / "2", {"a.zip": below("Train") | below("val")})
    assert capfd.readouterr().err == ""
