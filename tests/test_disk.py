"""Every stage checks the free disk space before it starts."""

import importlib
import shutil

import pytest
from clone import SMALL
from params_file import write_params

from finegrain.core import disk, file_io
from finegrain.core.errors import UserError


def set_free_space(monkeypatch, free: int) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))


def test_the_message_names_the_place_and_the_space_that_is_missing(project, monkeypatch):
    set_free_space(monkeypatch, 1_500_000_000)
    disk.require_free_space(project / "not" / "there" / "yet", 1_500_000_000, "the pack")
    with pytest.raises(UserError) as caught:
        disk.require_free_space(project / "data", 3_200_000_000, "the pack")
    message = str(caught.value)
    assert message.startswith(f"{project / 'data'}: the pack needs 3.20 GB")
    assert "1.50 GB are free" in message and "1.70 GB are missing" in message


@pytest.mark.slow
def test_each_stage_rejects_a_full_disk_and_runs_once_there_is_room(project, monkeypatch):
    """On a disk without a single free byte each stage in turn stops before it writes anything."""
    write_params(project, **{**SMALL, "models": ["resnet18"], "seeds": [0]})
    for name, argv in (
        ("download", []),
        ("split", []),
        ("pack", []),
        ("train", ["--model", "resnet18", "--seed", "0"]),
        ("evaluate", ["--model", "resnet18", "--seed", "0"]),
        ("compare", []),
        ("winner", []),
    ):
        stage = importlib.import_module(name)
        before = {path for path in project.rglob("*") if path.is_file()}
        with monkeypatch.context() as patch:
            set_free_space(patch, 0)
            with pytest.raises(UserError, match="0.00 GB are free"):
                stage.main(argv)
        assert {path for path in project.rglob("*") if path.is_file()} <= before
        stage.main(argv)
    assert file_io.read_json(project / "reports/leaderboard.json")["winner"] == "resnet18"
