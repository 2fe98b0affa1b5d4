"""Every image of an archive is opened once; bad ones are listed, and too many stop the stage."""

import hashlib

import drawn
import imagehash
import pytest
from toy_data import TENTHS, assign, inspect, splits_by_path

from finegrain.core.errors import UserError
from finegrain.dataset import assignment


def test_size_and_hashes_of_an_image_are_recorded(tmp_path):
    exif = drawn.Image.Exif()
    exif[0x0112] = 6
    rotated = drawn.encode(drawn.pattern(9, 600, 400), "JPEG", exif=exif)
    result = assign(tmp_path, drawn.classes({"cat": 3, "dog": 3}) | {"cat/rotated.jpg": rotated})
    row = next(row for row in result.rows() if row.path == "cat/rotated.jpg")
    assert row[1:3] + row[4:7] == ("a.zip", "cat", 400, 600, len(rotated))
    assert row.sha256 == hashlib.sha256(rotated).hexdigest()
    upright = drawn.pattern(9, 600, 400).rotate(-90, expand=True)
    assert (int(row.phash, 16) ^ int(str(imagehash.phash(upright)), 16)).bit_count() <= 2
    assert len(row.phash) == 16


def test_bad_images_are_listed_and_too_many_stop_the_stage(tmp_path, capsys):
    cut = drawn.encode(drawn.pattern(1, 200, 200), "JPEG")[:2000]
    files = drawn.classes({"a": 5, "b": 5}) | {"b/page.jpg": b"<html>", "a/cut.jpg": cut, "a/none.gif": b""}
    found = inspect(tmp_path, files)
    rejected = list(found.rejected_rows())
    assert [path for path, _ in rejected] == ["a/cut.jpg", "a/none.gif", "b/page.jpg"]
    assert rejected[2] == ("b/page.jpg", "not an image: a web page or XML")
    assert "truncated" in rejected[0][1]
    found.reject_if_too_many_bad(3 / 13, tmp_path / "rejected.csv")
    assert "left out: 3 of 13 images cannot be used; the reasons are in" in capsys.readouterr().err
    with pytest.raises(UserError) as error:
        found.reject_if_too_many_bad(0.2, tmp_path / "rejected.csv")
    message = str(error.value)
    assert message.startswith("3 of 13 images (23.08%)") and "split.max_bad_ratio (20.00%)" in message
    assert "rejected.csv" in message and "a/none.gif: not an image: empty file" in message
    result = assignment.assign_splits(found, TENTHS, 0)
    assert (len(splits_by_path(result)), list(result.rejected_rows())) == (10, rejected)
