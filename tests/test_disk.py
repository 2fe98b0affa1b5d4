"""Every stage asks for its space before it starts."""

import importlib
import shutil

import pytest
from params_file import write_params
from test_stages import SMALL

from finegrain.core import disk, file_io
from finegrain.core.errors import UserError


def full(monkeypatch, free: int) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))


def test_the_message_says_where_how_much_and_how_much_is_missing(project, monkeypatch):
    full(monkeypatch, 1_500_000_000)
    disk.require_free_space(project / "not" / "there" / "yet", 1_500_000_000, "the pack")
    with pytest.raises(UserError) as caught:
        disk.require_free_space(project / "data", 3_200_000_000, "the pack")
    assert str(caught.value).startswith(
        f"{project / 'data'}: the pack needs 3.20 GB, but 1.50 GB are free: 1.70 GB are missing; make room"
    )


@pytest.mark.slow
def test_each_stage_refuses_a_full_disk_and_goes_on_once_there_is_room(project, monkeypatch):
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
            full(patch, 0)
            with pytest.raises(UserError, match="0.00 GB are free"):
                stage.main(argv)
        assert {path for path in project.rglob("*") if path.is_file()} - before <= set()
        stage.main(argv)
    assert file_io.read_json(project / "reports/leaderboard.json")["winner"] == "resnet18"
