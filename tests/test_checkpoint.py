"""A checkpoint is whole or absent, belongs to one exact run, and is locked."""

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.training import checkpoint
from finegrain.training.checkpoint import Checkpointer

KEY = {"lr": 0.1, "data": "abc"}


def test_read_gives_what_write_took(project):
    with pytest.raises(KeyError), Checkpointer("m", KEY) as checkpointer:
        assert checkpointer.read() is None
        checkpointer.write({"rows": [{"epoch": 1}], "net": {"w": torch.arange(3)}})
        raise KeyError
    with Checkpointer("m", KEY) as checkpointer:
        state = checkpointer.read()
        assert state is not None
        assert state["rows"] == [{"epoch": 1}] and state["net"]["w"].tolist() == [0, 1, 2]


def test_success_removes_the_folder_and_failure_keeps_it(project, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    (project / "weights").write_bytes(b"abc")
    with Checkpointer("m", KEY) as checkpointer:
        checkpointer.write({})
        checkpointer.finish(project / "weights")
    assert not list(paths.checkpoints_folder().iterdir())
    with pytest.raises(KeyError), Checkpointer("m", KEY) as checkpointer:
        checkpointer.write({})
        raise KeyError
    assert checkpointer.file.is_file()


def test_under_dvc_the_state_stays_until_dvc_has_recorded_the_result(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@m")
    (project / "weights").write_bytes(b"abc")

    def train() -> dict | None:
        with Checkpointer("m", KEY) as checkpointer:
            found = checkpointer.read()
            checkpointer.write({"epoch": 3})
            checkpointer.finish(project / "weights")
            return found

    train()
    (project / "dvc.lock").write_text("outs:\n- path: other\n  md5: 00000000000000000000000000000000\n")
    assert train() == {"epoch": 3}  # killed after its end, before dvc.lock was written
    checkpoint.remove_recorded()
    assert len(list(paths.checkpoints_folder().iterdir())) == 1
    (project / "dvc.lock").write_text("outs:\n- path: m\n  md5: 900150983cd24fb0d6963f7d28e17f72\n")
    assert train() is None  # requested again, as by `dvc repro --force`
    checkpoint.remove_recorded()
    assert not list(paths.checkpoints_folder().iterdir())


def test_a_recorded_state_in_use_stays(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@m")
    (project / "weights").write_bytes(b"abc")
    with Checkpointer("m", KEY) as checkpointer:
        checkpointer.finish(project / "weights")
        (project / "dvc.lock").write_text("md5: 900150983cd24fb0d6963f7d28e17f72\n")
        checkpoint.remove_recorded()
        assert checkpointer.folder.is_dir()


def test_a_changed_parameter_gets_another_folder(project):
    first = Checkpointer("m", KEY).folder
    assert Checkpointer("m", KEY).folder == first
    assert Checkpointer("m", {**KEY, "lr": 0.2}).folder != first


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_counts_as_none(project, capfd, harm):
    with Checkpointer("m", KEY) as checkpointer:
        checkpointer.write({"net": torch.arange(1000)})
        content = bytearray(checkpointer.file.read_bytes())
        if harm == "flip":
            content[-50] ^= 1
        checkpointer.file.write_bytes({"cut": content[:-10], "flip": content, "empty": b""}[harm])
        assert checkpointer.read() is None
    assert "damaged" in capfd.readouterr().err


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_full_disk_costs_only_the_new_one(project, monkeypatch, capfd, when):
    with Checkpointer("m", KEY) as checkpointer:
        checkpointer.write({"epoch": 1})

        def fail(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as full:
            full.setattr(os, when, fail)
            checkpointer.write({"epoch": 2})
        assert (
            checkpointer.read() == {"epoch": 1} and not (checkpointer.folder / ".checkpoint.pt.tmp").exists()
        )
        assert "checkpoint not written (No space left on device)" in capfd.readouterr().err
        checkpointer.write({"epoch": 3})
        assert checkpointer.read() == {"epoch": 3}


def test_free_space_is_required_for_two_states_less_the_one_that_is_there(project, monkeypatch):
    usage = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=15_000))
    with Checkpointer("m", KEY) as checkpointer:
        with pytest.raises(UserError, match=r"\.checkpoints/m-\w+: .* needs 0.00 GB"):
            checkpointer.require_room(10_000)
        checkpointer.write({"net": torch.zeros(2_500)})
        checkpointer.require_room(10_000)


def test_a_power_cut_leaves_the_last_whole_one(project):
    with pytest.raises(KeyError), Checkpointer("m", KEY) as checkpointer:
        checkpointer.write({"epoch": 1})
        (checkpointer.folder / ".checkpoint.pt.tmp").write_bytes(b"half")
        raise KeyError
    with Checkpointer("m", KEY) as checkpointer:
        assert checkpointer.read() == {"epoch": 1}
        checkpointer.write({"epoch": 2})
        assert not (checkpointer.folder / ".checkpoint.pt.tmp").exists()


def test_it_is_due_when_the_time_is_up(project, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Checkpointer("m", KEY, seconds=60) as checkpointer:
        clock[0] += 59
        assert not checkpointer.due()
        clock[0] += 1
        assert checkpointer.due()
        checkpointer.write({})
        assert not checkpointer.due()


def test_states_of_other_runs_are_removed_in_the_end_but_none_in_use(project, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_KEPT", 3)
    for number in range(5):
        with pytest.raises(KeyError), Checkpointer("m", {"run": number}) as checkpointer:
            checkpointer.write({"run": number})
            os.utime(checkpointer.folder, (number, number))
            raise KeyError
    downloads = paths.checkpoints_folder() / "downloads"
    downloads.mkdir()
    with Checkpointer("m", {"run": 9}):
        pass
    left = {n for n in range(5) if Checkpointer("m", {"run": n}).file.is_file()}
    assert left == {3, 4} and downloads.is_dir()


def test_experiments_share_the_workspace_s_folder(project, monkeypatch):
    copy = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    copy.mkdir(parents=True)
    assert paths.checkpoints_folder() == Path(".checkpoints")
    monkeypatch.chdir(copy)
    assert paths.checkpoints_folder() == project / ".checkpoints"


def test_a_file_that_params_names_is_found_from_an_experiment_s_copy_too(project, monkeypatch):
    """By DVC's own copies, which hold what git tracks: its version of a file comes first."""
    copy = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    copy.mkdir(parents=True)
    (project / "mine.zip").touch()
    for tracked in (project / "tracked.pth", copy / "tracked.pth"):
        tracked.touch()
    assert paths.user_path("mine.zip") == Path("mine.zip") and paths.user_path("../none.zip") == Path(
        "../none.zip"
    )
    monkeypatch.chdir(copy)
    assert paths.user_path("mine.zip") == project / "mine.zip"
    assert paths.user_path(str(project / "mine.zip")) == project / "mine.zip"
    assert paths.user_path("tracked.pth") == Path("tracked.pth")


def test_a_second_trainer_waits_and_goes_on_from_the_first_one_s_state(project, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "POLL_SECONDS", 0.05)
    found: list[object] = []

    def second() -> None:
        with Checkpointer("m", KEY) as checkpointer:
            found.append(checkpointer.read())

    with Checkpointer("m", KEY) as first:
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not found
        first.write({"step": 3})
    waiting.join(10)
    assert found == [{"step": 3}]
    assert capsys.readouterr().err.count("waiting, to resume from its checkpoint") == 1


def test_a_second_trainer_starts_over_where_the_first_one_has_removed_its_folder(project, monkeypatch):
    monkeypatch.setattr(checkpoint, "POLL_SECONDS", 0.05)
    folders: list[bool] = []

    def second() -> None:
        with Checkpointer("m", KEY) as checkpointer:
            folders.append((checkpointer.folder / "lock").exists() and checkpointer.read() is None)

    with Checkpointer("m", KEY) as first:
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        first.write({"step": 3})
        first.finish(project / "result")
    waiting.join(10)
    assert folders == [True]


def test_one_of_several_processes_does_not_wait(project):
    with Checkpointer("m", KEY):
        with (
            pytest.raises(UserError, match=r"\.checkpoints/m-\w+: another process"),
            Checkpointer("m", KEY, waits=False),
        ):
            pass
