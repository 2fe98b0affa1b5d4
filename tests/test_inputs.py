"""Photos are found in files, folders and globs, each once, whatever their names."""

import os
from pathlib import Path

import pytest

from finegrain.core.errors import UserError
from finegrain.serving import inputs


def test_photos_of_any_name_are_found_once(project):
    for name in (b"caf\xe9.jpg", b"~$a.jpg", b"b.jpg"):
        (project / os.fsdecode(name)).write_bytes(name)
    sources = inputs.find_photos(["~$a.jpg", ".", "*.jpg", str(Path("b.jpg"))])
    photos = [(photo.name, data) for source in sources for photo, data in source.read()]
    assert sorted(data for _, data in photos) == [b"b.jpg", b"caf\xe9.jpg", b"~$a.jpg"]
    assert all(name.encode() for name, _ in photos)  # it can be written as UTF-8


def test_a_path_that_does_not_exist_or_holds_no_image_is_rejected(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, problem in ((tmp_path / "no*.jpg", "not found"), (tmp_path / "empty", "holds no image")):
        with pytest.raises(UserError, match=problem):
            inputs.find_photos([str(path)])
