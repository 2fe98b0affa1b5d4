"""Files are replaced as a whole, and a failed write leaves the old file."""

import csv
import errno
import os
from pathlib import Path

import pytest

from finegrain.core import file_io
from finegrain.core.errors import UserError


def test_json_leaves_no_temporary_file_and_rejects_nan(project):
    file = project / "a" / "b.json"
    file_io.write_json(file, {"z": 1, "a": "é"})
    assert file.read_text() == '{\n  "z": 1,\n  "a": "é"\n}\n'
    with pytest.raises(ValueError):
        file_io.write_json(file, {"z": float("nan")})
    assert file_io.read_json(file) == {"z": 1, "a": "é"}
    assert [f.name for f in file.parent.iterdir()] == ["b.json"]


def test_a_failed_write_names_the_file_and_leaves_the_old_one(project):
    file_io.write_text(project / "a.txt", "old")
    with pytest.raises(OSError) as caught, file_io.replace_file(project / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")  # like write(), without a file name
    assert caught.value.filename == str(project / "a.txt")
    assert [f.name for f in project.iterdir()] == ["a.txt"]
    assert (project / "a.txt").read_text() == "old"


def test_a_pipe_is_written_directly_and_a_folder_is_rejected(project):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    file_io.write_text(Path("pipe"), "text")
    assert os.read(reader, 100) == b"text" and Path("pipe").is_fifo()
    os.close(reader)
    Path("folder").mkdir()
    with pytest.raises(UserError, match="^folder: is a folder"):
        file_io.write_text(Path("folder"), "text")


def test_csv_keeps_every_name(project):
    rows = [["a\rb", "c\n"], ["d,e", 'f"'], ["g\r", "\r\n"], ["h", "i"]]
    file_io.write_csv(Path("a.csv"), ["x", "y"], rows)
    with open("a.csv", newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [["x", "y"], *rows]
    assert Path("a.csv").read_bytes().startswith(b"x,y\n") and Path("a.csv").read_bytes().endswith(b"\nh,i\n")


def test_a_broken_or_missing_json_file_is_named(project):
    (project / "x.json").write_text("{")
    with pytest.raises(UserError, match="x.json: not JSON .*`dvc repro`"):
        file_io.read_json(project / "x.json")
    with pytest.raises(UserError, match="no.json: not found; .*`dvc repro`"):
        file_io.read_json(project / "no.json")
