"""A split that is a copy of another is reported with its number of images, or stops the stage."""

import drawn
import pytest
from toy_data import assign, official, splits_by_path

from finegrain.core.errors import UserError

TRAIN = official(train={"a": 8, "b": 8})
OTHER = official(x={"a": 4, "b": 4}, test={"a": 4, "b": 4})
TEST = {path: data for path, data in OTHER.items() if path.startswith("test/")}


def copied(files, old, new):
    return {path.replace(f"{old}/", f"{new}/"): data for path, data in files.items()}


def test_val_that_is_a_copy_of_test_is_rejected(tmp_path):
    with pytest.raises(UserError, match="split val has no image left: 8 of 8 images in val are .* in test"):
        assign(tmp_path, TRAIN | TEST | copied(TEST, "test", "val"))


def test_train_that_is_a_copy_of_test_is_rejected(tmp_path):
    with pytest.raises(UserError, match="split train has no image left: 16 of 16 images .* in test"):
        assign(tmp_path, TRAIN | copied(TRAIN, "train", "test"))


def test_train_that_is_a_copy_of_two_others_is_rejected(tmp_path):
    test = {path: data for path, data in copied(TRAIN, "train", "test").items() if "/a/" in path}
    val = {path: data for path, data in copied(TRAIN, "train", "val").items() if "/b/" in path}
    with pytest.raises(UserError, match="8 of 16 images in train are .* in test; 8 of 16 images .* in val"):
        assign(tmp_path, TRAIN | test | val)


def test_a_partial_copy_is_reported_and_left_out(tmp_path, capfd):
    some = dict(list(copied(TEST, "test", "val").items())[:3])
    own = official(y={}, z={}, v={}, val={"a": 2, "b": 2})
    own = {path.replace("/00", "/9"): data for path, data in own.items()}
    result = assign(tmp_path, TRAIN | TEST | some | own)
    assert "left out: 3 of 7 images in val are copies of images in test\n" in capfd.readouterr().err
    assert result.metrics()["images"] == {"train": 16, "val": 4, "test": 8}
    assert not set(some) & set(splits_by_path(result))


def test_a_class_whose_train_images_are_all_copies_is_named_with_their_number(tmp_path):
    copies = {path.replace("train/", "test/"): data for path, data in TRAIN.items() if "/b/" in path}
    with pytest.raises(UserError, match=r"'b' 0 \(8 copies left out\); each needs"):
        assign(tmp_path, TRAIN | copies)


def test_a_class_that_is_a_copy_of_another_is_reported(tmp_path, capfd):
    files = drawn.classes({"a": 6, "b": 6})
    doubled = {path.replace("a/", "c/"): data for path, data in files.items() if path.startswith("a/")}
    with pytest.raises(UserError, match=r"'c' 0 \(6 copies left out\)"):
        assign(tmp_path, files | doubled)
    assert "left out: 6 of 18 images are copies of images of another class\n" in capfd.readouterr().err


def test_a_split_whose_images_are_all_bad_is_not_made_of_train(tmp_path):
    files = TRAIN | TEST | {f"val/{name}/1.jpg": b"<html>" for name in ("a", "b")}
    with pytest.raises(UserError, match="split val has no image left: 2 are bad"):
        assign(tmp_path, files)


def test_copies_and_bad_images_together_empty_a_split(tmp_path):
    val = copied(TEST, "test", "val") | {"val/a/bad.jpg": b"<html>"}
    with pytest.raises(UserError, match="8 of 8 images in val are .* in test; 1 are bad"):
        assign(tmp_path, TRAIN | TEST | val)


def test_test_images_that_were_encoded_again_are_reported(tmp_path, capfd):
    again = {
        f"test/{n % 2 and 'a' or 'b'}/{n}.jpg": drawn.encode(drawn.pattern(n), "JPEG") for n in (1, 2, 9)
    }
    result = assign(tmp_path, TRAIN | again)
    assert result.metrics()["test_images_with_near_duplicate"] == 3
    assert "near-duplicates of train or val images: 3 test images" in capfd.readouterr().err
