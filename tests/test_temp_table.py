"""The temporary database is on disk and private, and disappears with its connection."""

import subprocess
import sys

import pytest
from pipeline import ROOT

from finegrain.sources import index


def test_two_databases_are_independent():
    first, second = index.temp_table(), index.temp_table()
    for database in (first, second):
        database.execute("CREATE TABLE image (path TEXT)")
    first.execute("INSERT INTO image VALUES ('a')")
    assert second.execute("SELECT count(*) FROM image").fetchone() == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_are_not_kept_in_memory_and_no_file_is_left(tmp_path):
    code = """
import os
from finegrain.sources import index
def anonymous_kilobytes():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
database = index.temp_table()
database.execute("CREATE TABLE image (path TEXT PRIMARY KEY, text TEXT)")
database.execute("INSERT INTO image VALUES ('', '')")
before = anonymous_kilobytes()
many = ((f"{n * 7919 % 100_003:032}", "x" * 200) for n in range(100_000))
database.executemany("INSERT INTO image VALUES (?, ?)", many)
assert sum(1 for _ in database.execute("SELECT * FROM image ORDER BY text, path")) == 100_001
print(anonymous_kilobytes() - before, os.listdir(os.environ["SQLITE_TMPDIR"]))
"""
    environment = {"SQLITE_TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    kilobytes, files = done.stdout.split(" ", 1)
    assert int(kilobytes) < 6_000 and files.strip() == "[]"  # the rows are 27 MB
