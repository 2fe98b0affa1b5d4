"""A checkpoint is whole or absent, belongs to one exact run, and is locked."""

import os

import pytest
import torch

from finegrain import paths
from finegrain.checkpoint import Keeper
from finegrain.errors import UserError

KEY = {"lr": 0.1, "data": "abc"}


def test_read_gives_what_write_took(project):
    with pytest.raises(KeyError), Keeper("m", KEY, []) as keeper:
        assert keeper.read() is None
        keeper.write({"rows": [{"epoch": 1}], "net": {"w": torch.arange(3)}})
        raise KeyError
    with Keeper("m", KEY, []) as keeper:
        state = keeper.read()
        assert state is not None
        assert state["rows"] == [{"epoch": 1}] and state["net"]["w"].tolist() == [0, 1, 2]


def test_success_removes_the_folder_and_failure_keeps_it(project):
    with Keeper("m", KEY, []) as keeper:
        keeper.write({})
    assert not list(paths.CHECKPOINTS.iterdir())
    with pytest.raises(KeyError), Keeper("m", KEY, []) as keeper:
        keeper.write({})
        raise KeyError
    assert keeper.file.is_file()


def test_a_changed_parameter_or_source_file_gets_another_folder(project):
    source = project / "a.py"
    source.write_text("x = 1")
    first = Keeper("m", KEY, [source]).folder
    assert Keeper("m", KEY, [source]).folder == first
    assert Keeper("m", {**KEY, "lr": 0.2}, [source]).folder != first
    source.write_text("x = 2")
    assert Keeper("m", KEY, [source]).folder != first


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_counts_as_none(project, capfd, harm):
    with Keeper("m", KEY, []) as keeper:
        keeper.write({"net": torch.arange(1000)})
        content = bytearray(keeper.file.read_bytes())
        if harm == "flip":
            content[-50] ^= 1
        keeper.file.write_bytes({"cut": content[:-10], "flip": content, "empty": b""}[harm])
        assert keeper.read() is None
    assert "damaged" in capfd.readouterr().err


def test_a_half_written_file_does_not_touch_the_last_whole_one(project, monkeypatch):
    with Keeper("m", KEY, []) as keeper:
        keeper.write({"epoch": 1})

        def power_cut(*_):
            raise OSError("power cut")

        monkeypatch.setattr(os, "replace", power_cut)
        with pytest.raises(OSError, match="power cut"):
            keeper.write({"epoch": 2})
        assert keeper.read() == {"epoch": 1}


def test_a_second_trainer_is_kept_out(project):
    with Keeper("m", KEY, []):
        with pytest.raises(UserError, match="another run is training this very model"), Keeper("m", KEY, []):
            pass
