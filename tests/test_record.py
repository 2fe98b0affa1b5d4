"""Files are whole or absent, and the pool keeps order and bounds."""

import csv
import errno
import os
import threading
from pathlib import Path

import pytest

from finegrain.core import file_io, parallel
from finegrain.core.errors import UserError


def test_json_is_written_whole_and_refuses_nan(project):
    file = project / "a" / "b.json"
    file_io.write_json(file, {"z": 1, "a": "é"})
    assert file.read_text() == '{\n  "z": 1,\n  "a": "é"\n}\n'
    with pytest.raises(ValueError):
        file_io.write_json(file, {"z": float("nan")})
    assert file_io.read_json(file) == {"z": 1, "a": "é"}
    assert [f.name for f in file.parent.iterdir()] == ["b.json"]


def test_a_write_that_fails_says_where_and_leaves_the_old_file(project):
    file_io.write_text(project / "a.txt", "old")
    with pytest.raises(OSError) as caught, file_io.replace_file(project / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() does, without a name
    assert caught.value.filename == str(project / "a.txt")
    assert [f.name for f in project.iterdir()] == ["a.txt"]
    assert (project / "a.txt").read_text() == "old"


def test_a_pipe_stays_one_and_a_folder_is_refused(project):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    file_io.write_text(Path("pipe"), "answers")
    assert os.read(reader, 100) == b"answers" and Path("pipe").is_fifo()
    os.close(reader)
    Path("folder").mkdir()
    with pytest.raises(UserError, match="folder: is a folder; give a file"):
        file_io.write_text(Path("folder"), "answers")


def test_csv_keeps_every_name(project):
    rows = [["a\rb", "c\n"], ["d,e", 'f"'], ["g\r", "\r\n"], ["h", "i"]]
    file_io.write_csv(Path("a.csv"), ["x", "y"], rows)
    with open("a.csv", newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [["x", "y"], *rows]
    assert Path("a.csv").read_bytes().startswith(b"x,y\n") and Path("a.csv").read_bytes().endswith(b"\nh,i\n")


def test_a_broken_json_file_names_file_and_cure(project):
    (project / "x.json").write_text("{")
    with pytest.raises(UserError, match="x.json: not JSON"):
        file_io.read_json(project / "x.json")
    with pytest.raises(UserError, match="no.json: not found; `dvc repro`"):
        file_io.read_json(project / "no.json")


def test_the_pool_keeps_the_order_and_never_runs_far_ahead():
    taken, lock, given = 0, threading.Lock(), 0

    def items():
        nonlocal taken
        for i in range(50):
            with lock:
                taken += 1
            yield i

    for result in parallel.map_in_order(lambda i: i * i, items(), threads=3, ahead=6):
        assert result == given**2
        given += 1
        assert taken - given <= 6
    assert given == 50


def test_an_error_in_the_pool_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(parallel.map_in_order(lambda i: 1 // i, [1, 0, 2], threads=2, ahead=2))
