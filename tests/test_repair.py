"""What a killed dvc leaves broken is repaired, and nothing else is touched."""

import argparse
import subprocess
from pathlib import Path

import pytest
from history import History

from finegrain.core.errors import UserError
from finegrain.experiments import repair


@pytest.fixture
def history(project) -> History:
    history = History(project)
    (project / ".dvc/tmp/exps").mkdir(parents=True)
    (project / "file").write_text("one")
    history.commit("one")
    return history


def repaired(capsys, dvc_only: bool = False, status: int = 0) -> str:
    """What `finegrain repair` prints."""
    assert repair.run(argparse.Namespace(dvc_only=dvc_only)) == status
    return str(capsys.readouterr().err)


@pytest.mark.parametrize("table", repair.LOCK_TABLES)
@pytest.mark.parametrize(("content", "stays"), [("", False), ('{"read": {"a', False), ("{}", True)])
def test_a_lock_table_is_removed_only_if_it_is_broken(history, capsys, table, content, stays):
    table.write_text(content)
    assert (str(table) in repaired(capsys)) is not stays
    assert table.is_file() is stays and repaired(capsys) == ""


def test_a_run_cache_folder_is_removed_only_if_it_is_empty(history, capsys):
    complete, partial, empty = (repair.RUN_CACHE / f"{key[:2]}/{key}" for key in ("ab01", "ab02", "cd03"))
    for folder in (complete, partial, empty):
        folder.mkdir(parents=True)
    (complete / "ef04").write_text("cmd: true")
    (partial / ".Xy_z-1.tmp").touch()
    printed = repaired(capsys)
    assert complete.is_dir() and str(complete) not in printed and not partial.is_dir() and not empty.is_dir()
    assert f"removed {partial}, which" in printed and f"removed {empty}, which" in printed
    assert printed.count("\n") == 2


@pytest.mark.slow
def test_dvc_runs_again_after_an_empty_run_cache_folder(tmp_path, stubbed, monkeypatch, capsys):
    clone = stubbed.copied(tmp_path / "clone")
    (clone.folder / "dvc.lock").unlink()
    kept = [file for file in (clone.folder / repair.RUN_CACHE).rglob("*") if file.is_file()]
    (kept_of_download,) = (file for file in kept if "src/download.py" in file.read_text().split("\n")[0])
    kept_of_download.unlink()
    assert "join() argument must be" in clone("dvc repro download", 255)
    monkeypatch.chdir(clone.folder)
    assert f"{kept_of_download.parent.name}, which a killed dvc left empty" in repaired(capsys)
    assert "Running stage 'download'" in clone("dvc repro download")


def test_git_s_lock_is_removed_and_git_works_again(history, capsys):
    (history.folder / ".git/index.lock").touch()
    (history.folder / "file").write_text("two")
    with pytest.raises(subprocess.CalledProcessError):
        history.commit("two")
    assert "removed .git/index.lock" in repaired(capsys)
    history.commit("two")


@pytest.mark.parametrize("size", [0, 6, 100, -1])
def test_a_truncated_index_is_rebuilt_with_every_file_kept(history, capsys, size):
    (history.folder / "file").write_text("two")
    (history.folder / "added").write_text("staged")
    history.git("add", "added")
    index = history.folder / ".git/index"
    index.write_bytes(index.read_bytes()[:size])
    assert repaired(capsys).startswith("rebuilt .git/index, which")
    assert history.git("status", "--porcelain") == " M file\n?? added\n"
    assert (history.folder / ".git/index.broken").is_file() and repaired(capsys) == ""


def interrupt_experiment(history: History) -> None:
    """Leave git as a kill of `dvc exp run` does: HEAD detached, changes in the index and in the folder."""
    history.git("update-ref", repair.EXEC_HEAD, "HEAD")
    history.git("checkout", "-q", history.git("rev-parse", "HEAD").strip())
    (history.folder / "added").write_text("staged")
    history.git("add", "added")
    (history.folder / "file").write_text("changed")


def test_git_is_back_on_its_branch_with_every_change_kept(history, capsys):
    history.git("checkout", "-q", "-b", "some/work")
    interrupt_experiment(history)
    before = history.git("status", "--porcelain")
    assert repaired(capsys) == "back on branch some/work: a killed `dvc exp run` left HEAD detached\n"
    assert history.git("symbolic-ref", "HEAD").strip() == "refs/heads/some/work"
    assert history.git("status", "--porcelain") == before and before.count("\n") == 2


def test_git_is_back_on_its_branch_after_another_experiment_too(history, capsys):
    """It started and ended with HEAD detached, as DVC 3.67 writes it in the reflog."""
    interrupt_experiment(history)
    head = history.git("rev-parse", "HEAD").strip()
    history.git("update-ref", "-d", repair.EXEC_HEAD)
    history.git("reset", "-q", "--hard")
    history.git("checkout", "-q", head)
    history.git("commit", "-q", "--allow-empty", "-m", "dvc: commit experiment abc")
    history.git("update-ref", "-m", f"dvc: Restore HEAD to '{head}'", "HEAD", head)
    assert "back on branch main" in repaired(capsys)


def git_files(history: History) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (history.folder / ".git").rglob("*") if file.is_file()}


def test_with_dvc_only_git_is_left_as_it_is(history, capsys):
    interrupt_experiment(history)
    index = history.folder / ".git/index"
    index.write_bytes(index.read_bytes()[:100])
    (history.folder / ".git/index.lock").touch()
    repair.LOCK_TABLES[0].write_text("")
    before = git_files(history)
    assert repaired(capsys, dvc_only=True).startswith(f"removed {repair.LOCK_TABLES[0]}, which")
    assert not repair.LOCK_TABLES[0].exists() and git_files(history) == before
    assert len(repaired(capsys).splitlines()) == 3  # the lock, the index, the branch


def test_changes_that_dvc_had_stashed_are_reported(history, capsys):
    (history.folder / "file").write_text("mine")
    history.git("stash")
    interrupt_experiment(history)
    assert "`git stash pop` restores them" in repaired(capsys)


def test_a_head_that_the_user_detached_stays_detached(history, capsys):
    history.git("checkout", "-q", "--detach")
    assert repaired(capsys) == ""  # no experiment
    history.git("checkout", "-q", "main")
    interrupt_experiment(history)
    history.commit("later, with HEAD detached")
    assert repaired(capsys) == ""
    assert history.git("rev-parse", "--abbrev-ref", "HEAD").strip() == "HEAD"


def test_nothing_is_touched_while_dvc_runs(history, capsys):
    repair.LOCK_TABLES[0].write_text("")
    process = subprocess.Popen(["dvc", "30"], executable="/bin/sleep", cwd=history.folder)
    try:
        printed = repaired(capsys, status=1)
        assert repaired(capsys, dvc_only=True) == printed
    finally:
        process.kill()
        process.wait()
    watcher = subprocess.Popen(
        ["git", "-c", "sleep 30; true", "fsmonitor--daemon"], executable="/bin/sh", cwd=history.folder
    )
    assert printed.startswith(f"dvc (process {process.pid}) is running here")
    assert repair.LOCK_TABLES[0].is_file()
    try:
        assert "half-written" in repaired(capsys)
    finally:
        watcher.kill()
        watcher.wait()


def test_a_git_at_the_top_of_a_larger_repository_counts_too(history, monkeypatch):
    (history.folder / "project").mkdir()
    process = subprocess.Popen(["git", "30"], executable="/bin/sleep", cwd=history.folder)
    monkeypatch.chdir(history.folder / "project")
    try:
        assert repair.running_process() == f"git (process {process.pid})"
    finally:
        process.kill()
        process.wait()


def test_outside_a_project_and_outside_git(project, capsys):
    with pytest.raises(UserError, match="run this in the project's folder"):
        repair.run(argparse.Namespace(dvc_only=False))
    Path(".dvc/tmp").mkdir(parents=True)
    repair.LOCK_TABLES[0].write_text("")
    assert "half-written" in repaired(capsys)
