"""manifest.csv reads back as it was written; any other file is rejected."""

import drawn
import pytest
from toy_data import assign

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.dataset import manifest


def test_the_manifest_reads_back_as_it_was_written(tmp_path):
    files = drawn.classes({"NA": 3, "007": 3, 'say "x", y': 3, "caf\u00e9": 3})
    result = assign(tmp_path, files)
    file = tmp_path / "data" / "manifest.csv"
    file_io.write_csv(file, manifest.COLUMNS, result.rows())
    assert list(manifest.read_manifest(file)) == list(result.rows())
    assert {row.class_name for row in manifest.read_manifest(file)} == {
        "NA",
        "007",
        'say "x", y',
        "caf\u00e9",
    }


def test_a_file_that_is_not_a_manifest_is_rejected(tmp_path):
    with pytest.raises(UserError, match="none.csv: not found"):
        list(manifest.read_manifest(tmp_path / "none.csv"))
    head = ",".join(manifest.COLUMNS)
    rows = ("a,b,c,train,wide,1,1,x,y", "a,b,c,trial,1,1,1,x,y", "a,b,c")
    for text in ("", "path,class\n1,2\n", *(f"{head}\n{row}\n" for row in rows)):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(UserError, match="m.csv: .*dvc repro split"):
            list(manifest.read_manifest(tmp_path / "m.csv"))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    file = tmp_path / "manifest.csv"
    result = assign(tmp_path, drawn.classes({"cat": 4, "dog": 4}))
    file_io.write_csv(file, manifest.COLUMNS, result.rows())
    rows_before = list(manifest.read_manifest(file))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert list(manifest.read_manifest(file)) == rows_before
