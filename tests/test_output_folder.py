"""A folder is replaced as a whole or not at all, and only if `finegrain export` wrote it."""

from pathlib import Path

import drawn
import pytest

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.export import output_folder


def test_other_folders_and_files_are_rejected_an_empty_or_missing_one_is_not(project):
    cases = {
        "notes/a.txt": b"-",
        "other/config.json": b"{}",
        "list/config.json": b"[]",
        "bad/config.json": b"{",
    }
    drawn.tree(Path(), cases)
    for name in ("notes", "other", "list", "bad"):
        with pytest.raises(UserError, match=f"{name}: is not a folder that `finegrain export` wrote"):
            output_folder.require_replaceable(Path(name))
    with pytest.raises(UserError, match="a.txt: is a file"):
        output_folder.require_replaceable(Path("notes/a.txt"))
    Path("empty").mkdir()
    output_folder.require_replaceable(Path("empty"))
    output_folder.require_replaceable(Path("missing"))


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(project):
    out = Path("deep/out")
    with file_io.replace_folder(out) as new:
        (new / "first").write_text("1")
        assert not out.exists()
    with pytest.raises(KeyboardInterrupt), file_io.replace_folder(out) as new:
        (new / "second").write_text("2")
        raise KeyboardInterrupt
    assert [file.name for file in out.iterdir()] == ["first"]
    with file_io.replace_folder(out) as new:
        (new / "third").write_text("3")
    assert [file.name for file in out.iterdir()] == ["third"]
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


def test_after_a_kill_between_the_two_renames_the_old_folder_is_restored(project):
    drawn.tree(Path(), {".out.old.tmp/old": b"1", ".out.new.tmp/new": b"2"})
    with pytest.raises(ValueError), file_io.replace_folder(Path("out")):
        raise ValueError  # the next export fails too
    assert sorted(map(str, Path().rglob("*"))) == ["out", "out/old"]


def test_after_a_failed_rename_the_old_folder_is_restored(project, monkeypatch):
    drawn.tree(Path(), {"out/old": b"1"})
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == ".out.new.tmp":
            raise PermissionError
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError), file_io.replace_folder(Path("out")) as new:
        (new / "new").touch()
    assert sorted(map(str, Path().rglob("*"))) == ["out", "out/old"]
