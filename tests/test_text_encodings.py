"""Text that is read in two ways, or that a terminal or a locale lacks."""

import ast
import csv
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import drawn
import pytest
import yaml

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.search import sweep
from finegrain.serving import inputs
from finegrain.serving.labels import Labels
from finegrain.sources import archive

ROOT = Path(__file__).parents[1]
OTHERS = ("os", "Image", "tarfile", "window", "file_io")
"""Their open or write_text is another one, or names the encoding itself."""
LEFT_OVER = {
    **{"OMP_NUM_THREADS": "all", "PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "error"},
    **dict.fromkeys(("HOME", "TMPDIR", "SQLITE_TMPDIR"), "/no/such/folder"),
}
"""What a shell may hold from elsewhere."""
ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize(
    ("text", "fix"),
    [("016", "16"), ("08", "8"), ("0o20", "16"), ("1:30", "a plain"), ("yes", "true"), ("Off", "false")],
)
def test_a_value_that_yaml_1_1_and_1_2_read_differently_is_rejected(tmp_path, text, fix):
    file = tmp_path / "params.yaml"
    file.write_text(f"# a comment\nphases:\n  all: {{epochs: {text}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"line 3: phases.all.epochs: {text}: .*write {fix}"):
        params.load_yaml(file)
    file.write_text(f"a: '{text}'\n", encoding="utf-8")
    assert params.load_yaml(file) == {"a": text}


@pytest.mark.parametrize("text", ["0", "0.5", "0x10", "1_000", "1e-3", "true", "0.016", "-0"])
def test_a_value_with_one_reading_is_read_as_dvc_reads_it(tmp_path, text):
    from dvc.utils.serialize import parse_yaml

    (tmp_path / "params.yaml").write_text(f"a: {text}\n", encoding="utf-8")
    assert params.load_yaml(tmp_path / "params.yaml") == parse_yaml(f"a: {text}\n", "params.yaml")


@pytest.mark.parametrize(("encoding", "line"), [("utf-16", 1), ("cp1252", 2)])
def test_params_yaml_in_another_encoding_is_named(tmp_path, encoding, line):
    (tmp_path / "params.yaml").write_bytes("lr: 1\npath: Möbel\n".encode(encoding))
    with pytest.raises(UserError, match=f"params.yaml line {line}: not in UTF-8; save the file as UTF-8"):
        params.load_yaml(tmp_path / "params.yaml")


@pytest.mark.parametrize("other", ["cat ", "cat\u200b", "\ufeffcat", "Cat", "c\xada\u200dt"])
def test_classes_that_look_the_same_are_rejected_and_shown(tmp_path, other):
    drawn.zip_file(tmp_path / "a.zip", drawn.classes({"cat": 2, other: 2, "big dog": 2, "bigdog": 2}))
    with pytest.raises(UserError) as problem:
        archive.ArchiveReader(tmp_path)
    assert str(problem.value).isprintable() and repr(other) in str(problem.value)
    assert "big" not in str(problem.value)


@pytest.mark.parametrize(
    "row", ["{nfd}/1.jpg,{nfd}", "./Café/1.jpg,Café", "Café/1.jpg,Café,", "\nCafé//1.jpg,Café\n"]
)
def test_labels_fit_however_they_are_spelled(tmp_path, row):
    nfd = unicodedata.normalize("NFD", "Café")
    (tmp_path / "a.csv").write_text("image,label\n" + row.format(nfd=nfd) + "\n", encoding="utf-8")
    labels = Labels(tmp_path / "a.csv", "image", "label", ["Café"])
    assert labels.class_of(inputs.Photo(f"in/{nfd}/1.jpg", f"{nfd}/1.jpg")) == "Café"


@pytest.mark.parametrize("row", ["Café/1.jpg,Café,x", "Café/1.jpg,Café,x,"])
def test_cells_beyond_the_header_are_not_left_out(tmp_path, row):
    (tmp_path / "a.csv").write_text(f"image,label\n{row}\n", encoding="utf-8")
    with pytest.raises(UserError, match="a.csv line 2: 'x' is in no column"):
        Labels(tmp_path / "a.csv", "image", "label", ["Café"])


def test_a_header_without_rows_is_rejected(tmp_path):
    (tmp_path / "a.csv").write_text("image,label\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a.csv: has a header, but no row"):
        Labels(tmp_path / "a.csv", "image", "label", ["Café"])


def test_a_sweep_stops_before_it_starts_where_dvc_cannot_run_it(tmp_path):
    sweep._require_ascii_path(Path("/home/ann b/project"))
    with pytest.raises(UserError, match="müller"):
        sweep._require_ascii_path(Path("/home/müller"))


def test_a_terminal_that_is_not_utf8_shows_escapes():
    code = "from finegrain.core import process; print('\\u2192 M\\xe4dchen')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | ASCII_ONLY, capture_output=True, check=True
    )
    assert done.stdout == b"\\u2192 M\\xe4dchen\n"


def test_stages_read_and_write_all_names_in_an_odd_environment(tmp_path):
    classes = {"猫": 5, "ネコ": 5, "Mädchen": 5}
    drawn.zip_file(tmp_path / "photos.zip", drawn.classes(classes))
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["dataset"] = {"name": "t", "source": "archive", "path": "photos.zip", "sha256": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    for stage in ("download", "split"):
        command = [sys.executable, str(ROOT / "src" / f"{stage}.py")]
        environment = os.environ | LEFT_OVER | ASCII_ONLY
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "data" / "t" / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["class"] for row in csv.DictReader(stream)} == set(classes)


@pytest.mark.parametrize("text", ["open(f)", "p.open('a')", "p.read_text()", "p.write_text('x', newline='')"])
def test_a_call_that_names_no_encoding_is_found(text):
    assert lacks_encoding(ast.parse(text).body[0].value)
    named = text.replace(")", ", encoding='utf-8')").replace("(,", "(")
    assert not lacks_encoding(ast.parse(named).body[0].value)


def test_every_text_file_is_opened_as_utf8():
    found = [
        f"{file.name}:{node.lineno}: {ast.unparse(node)}"
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert found == []


def lacks_encoding(call: ast.Call) -> bool:
    """Whether a call opens a file as text in the encoding of the locale."""
    owner = getattr(call.func, "value", None)
    name = getattr(call.func, "attr", "open" if getattr(call.func, "id", "") == "open" else "")
    if name not in ("open", "read_text", "write_text") or (
        isinstance(owner, ast.Name) and owner.id in OTHERS
    ):
        return False
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    texts = [node.value for node in [*call.args, *modes] if isinstance(node, ast.Constant)]
    return name != "open" or not any(isinstance(text, str) and "b" in text for text in texts)
