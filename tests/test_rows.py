"""The temporary database is on disk, private, and gone with its connection."""

import subprocess
import sys

import pytest
from pipeline import ROOT

from finegrain.sources import temp_table


def test_two_databases_do_not_see_each_other():
    first, second = temp_table.create(), temp_table.create()
    for database in (first, second):
        database.execute("CREATE TABLE image (path TEXT)")
    first.execute("INSERT INTO image VALUES ('a')")
    assert second.execute("SELECT count(*) FROM image").fetchone() == (0,)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_are_not_kept_in_memory_and_no_file_is_left(tmp_path):
    code = """
import os
from finegrain import rows
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
table = rows.temporary()
table.execute("CREATE TABLE image (path TEXT PRIMARY KEY, text TEXT)")
table.execute("INSERT INTO image VALUES ('', '')")
before = anonymous()
many = ((f"{n * 7919 % 100_003:032}", "x" * 200) for n in range(100_000))
table.executemany("INSERT INTO image VALUES (?, ?)", many)
assert sum(1 for _ in table.execute("SELECT * FROM image ORDER BY text, path")) == 100_001
print(anonymous() - before, os.listdir(os.environ["SQLITE_TMPDIR"]))
"""
    environment = {"SQLITE_TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    kilobytes, files = done.stdout.split(" ", 1)
    assert int(kilobytes) < 6_000 and files.strip() == "[]"  # of 27 MB of rows
