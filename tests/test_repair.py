"""What a killed dvc leaves is put right, and nothing else is touched."""

import argparse
import subprocess
from pathlib import Path

import pytest
from history import History

from finegrain.core.errors import UserError
from finegrain.experiments import repair


@pytest.fixture
def history(project) -> History:
    made = History(project)
    (project / ".dvc/tmp/exps").mkdir(parents=True)
    (project / "file").write_text("one")
    made.commit("one")
    return made


def mended(capsys) -> str:
    assert repair.run(argparse.Namespace()) == 0
    return str(capsys.readouterr().err)


@pytest.mark.parametrize("table", repair.LOCK_TABLES)
@pytest.mark.parametrize(("content", "stays"), [("", False), ('{"read": {"a', False), ("{}", True)])
def test_a_lock_table_goes_only_if_it_is_broken(history, capsys, table, content, stays):
    table.write_text(content)
    assert (str(table) in mended(capsys)) is not stays
    assert table.is_file() is stays and mended(capsys) == ""


def test_a_run_s_folder_goes_only_if_it_is_empty(history, capsys):
    whole, torn, empty = (repair.RUN_CACHE / f"{key[:2]}/{key}" for key in ("ab01", "ab02", "cd03"))
    for folder in (whole, torn, empty):
        folder.mkdir(parents=True)
    (whole / "ef04").write_text("cmd: true")
    (torn / ".Xy_z-1.tmp").touch()
    said = mended(capsys)
    assert whole.is_dir() and str(whole) not in said and not torn.is_dir() and not empty.is_dir()
    assert said.count("\n") == 2 and f"removed {torn}, which" in said and f"removed {empty}, which" in said


@pytest.mark.slow
def test_dvc_goes_on_where_a_run_s_folder_was_empty(tmp_path, ran, monkeypatch, capsys):
    clone = ran.copied(tmp_path / "clone")
    (clone.folder / "dvc.lock").unlink()
    kept = [file for file in (clone.folder / repair.RUN_CACHE).rglob("*") if file.is_file()]
    (kept_of_download,) = (file for file in kept if "src/download.py" in file.read_text().split("\n")[0])
    kept_of_download.unlink()
    assert "join() argument must be" in clone("dvc repro download", 255)
    monkeypatch.chdir(clone.folder)
    assert f"{kept_of_download.parent.name}, which a killed dvc left empty" in mended(capsys)
    assert "Running stage 'download'" in clone("dvc repro download")


def test_git_s_lock_goes_and_git_works_again(history, capsys):
    (history.folder / ".git/index.lock").touch()
    (history.folder / "file").write_text("two")
    with pytest.raises(subprocess.CalledProcessError):
        history.commit("two")
    assert "removed .git/index.lock" in mended(capsys)
    history.commit("two")


@pytest.mark.parametrize("size", [0, 6, 100, -1])
def test_a_torn_index_is_made_anew_with_every_file_kept(history, capsys, size):
    (history.folder / "file").write_text("two")
    (history.folder / "added").write_text("staged")
    history.git("add", "added")
    index = history.folder / ".git/index"
    index.write_bytes(index.read_bytes()[:size])
    assert mended(capsys).startswith("made .git/index anew")
    assert history.git("status", "--porcelain") == " M file\n?? added\n"
    assert (history.folder / ".git/index.broken").is_file() and mended(capsys) == ""


def broken_off(history: History) -> None:
    """As a kill of `dvc exp run` leaves it: on no branch, changes in the index and in the folder."""
    history.git("update-ref", repair.EXEC_HEAD, "HEAD")
    history.git("checkout", "-q", history.git("rev-parse", "HEAD").strip())
    (history.folder / "added").write_text("staged")
    history.git("add", "added")
    (history.folder / "file").write_text("changed")


def test_git_is_back_on_its_branch_with_every_change_kept(history, capsys):
    history.git("checkout", "-q", "-b", "some/work")
    broken_off(history)
    before = history.git("status", "--porcelain")
    assert mended(capsys) == "back on branch some/work: a killed `dvc exp run` left git on none\n"
    assert history.git("symbolic-ref", "HEAD").strip() == "refs/heads/some/work"
    assert history.git("status", "--porcelain") == before and before.count("\n") == 2


def test_git_is_back_on_its_branch_after_another_experiment_too(history, capsys):
    """That one began on no branch and went back to none, as DVC 3.67's own words in the reflog tell."""
    broken_off(history)
    head = history.git("rev-parse", "HEAD").strip()
    history.git("update-ref", "-d", repair.EXEC_HEAD)
    history.git("reset", "-q", "--hard")
    history.git("checkout", "-q", head)
    history.git("commit", "-q", "--allow-empty", "-m", "dvc: commit experiment abc")
    history.git("update-ref", "-m", f"dvc: Restore HEAD to '{head}'", "HEAD", head)
    assert "back on branch main" in mended(capsys)


def test_what_dvc_had_put_aside_is_told(history, capsys):
    (history.folder / "file").write_text("mine")
    history.git("stash")
    broken_off(history)
    assert "`git stash pop` brings them back" in mended(capsys)


def test_who_left_the_branch_himself_stays_where_he_is(history, capsys):
    history.git("checkout", "-q", "--detach")
    assert mended(capsys) == ""  # no experiment
    history.git("checkout", "-q", "main")
    broken_off(history)
    history.commit("later, on no branch")
    assert mended(capsys) == ""
    assert history.git("rev-parse", "--abbrev-ref", "HEAD").strip() == "HEAD"


def test_nothing_is_touched_while_dvc_works(history, capsys):
    repair.LOCK_TABLES[0].write_text("")
    working = subprocess.Popen(["dvc", "30"], executable="/bin/sleep", cwd=history.folder)
    try:
        said = mended(capsys)
    finally:
        working.kill()
        working.wait()
    watching = subprocess.Popen(
        ["git", "-c", "sleep 30; true", "fsmonitor--daemon"], executable="/bin/sh", cwd=history.folder
    )
    assert said.startswith(f"dvc (process {working.pid}) is at work here") and repair.LOCK_TABLES[0].is_file()
    try:
        assert "half-written" in mended(capsys)
    finally:
        watching.kill()
        watching.wait()


def test_a_git_at_the_top_of_a_larger_repository_is_at_work_too(history, monkeypatch):
    (history.folder / "project").mkdir()
    working = subprocess.Popen(["git", "30"], executable="/bin/sleep", cwd=history.folder)
    monkeypatch.chdir(history.folder / "project")
    try:
        assert repair.running_process() == f"git (process {working.pid})"
    finally:
        working.kill()
        working.wait()


def test_outside_a_project_and_outside_git(project, capsys):
    with pytest.raises(UserError, match="run this in the project's folder"):
        repair.run(argparse.Namespace())
    Path(".dvc/tmp").mkdir(parents=True)
    repair.LOCK_TABLES[0].write_text("")
    assert "half-written" in mended(capsys)
