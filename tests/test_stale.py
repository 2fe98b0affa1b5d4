"""Stale stages of a small real DVC project: stages depend on packages and on folders that others fill."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from history import History

from finegrain.core.errors import UserError
from finegrain.experiments import revision, stale

TRAIN = {
    "cmd": "mkdir -p models && cat src/train.py src/lib/training/*.py > models/${item.run}",
    "matrix": {"run": ["a", "b"]},
    "deps": ["src/train.py", "src/lib/training"],
    "outs": ["models/${item.run}"],
}
COMPARE = {
    "cmd": "cat models/* > board.txt",
    "deps": ["src/compare.py", "src/lib/comparison", "models"],
    "outs": [{"board.txt": {"cache": False}}],
}


def write_stages(compare: dict = COMPARE) -> None:
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": TRAIN, "compare": compare}}))


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Path:
    """The project after `dvc repro`; to be copied."""
    folder = tmp_path_factory.mktemp("reproduced") / "project"
    packages = ("lib/training/loop.py", "lib/training/optim.py", "lib/comparison/rank.py")
    for file in ("train.py", "compare.py", *packages):
        (folder / "src" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "src" / file).write_text(f"# {file}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_NO_ANALYTICS", "1")
        Repo.init(no_scm=True).close()
        Path(".dvcignore").write_text("__pycache__/\n")
        write_stages()
        with Repo() as repo:
            repo.reproduce()
    return folder


@pytest.fixture
def stages(reproduced, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the project; ``src/lib`` of it."""
    shutil.copytree(reproduced, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    yield Path("src/lib")


def test_nothing_is_stale_after_repro(stages):
    assert stale.stale_stages() == {}


@pytest.mark.parametrize("change", ["edit", "add", "remove", "delete"])
def test_a_package_that_changed_makes_its_stages_stale(stages, change):
    if change == "edit":
        (stages / "training/loop.py").write_text("# edited\n")
    elif change == "add":
        (stages / "training/new.py").touch()
    elif change == "remove":
        (stages / "training/optim.py").unlink()
    else:
        shutil.rmtree(stages / "training")
    reason = "src/lib/training is missing" if change == "delete" else "src/lib/training has changed"
    assert stale.stale_stages() == {"train@a": [reason], "train@b": [reason]}


def test_bytecode_and_other_packages_make_no_stage_stale(stages):
    (stages / "training/__pycache__").mkdir()
    (stages / "training/__pycache__/loop.pyc").touch()
    (stages / "serving").mkdir()
    (stages / "serving/demo.py").touch()
    assert stale.stale_stages() == {}


def test_a_folder_that_stages_fill_is_skipped_whether_it_is_there_or_not(stages):
    Path("models/a").unlink()
    assert stale.stale_stages() == {}
    shutil.rmtree("models")
    assert stale.stale_stages() == {}


def test_a_script_that_is_missing_and_a_package_that_is_newly_listed(stages):
    Path("src/train.py").unlink()
    write_stages(compare={**COMPARE, "deps": [*COMPARE["deps"], "src/lib/training"]})
    assert stale.stale_stages() == {
        "train@a": ["src/train.py is missing"],
        "train@b": ["src/train.py is missing"],
        "compare": ["src/lib/training is new"],
    }


def test_the_recorded_inputs_name_the_packages(stages):
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    inputs, changed = revision._recorded_inputs(lock["stages"], ["a", "b"], "d", {})
    assert inputs.keys() == {"src/train.py", "src/lib/training"} and changed == []
    assert inputs["src/lib/training"].endswith(".dir")
    (stages / "training/loop.py").write_text("# edited\n")
    with Repo() as repo:
        repo.commit(force=True)
    again_lock = yaml.safe_load(Path("dvc.lock").read_text())
    again, _ = revision._recorded_inputs(again_lock["stages"], ["a", "b"], "d", {})
    assert {name for name in inputs if inputs[name] != again[name]} == {"src/lib/training"}


def test_a_lock_with_a_conflict_is_reported(project):
    History(project).results({"net-0": "1"}, models=["net"], seeds=[0])
    with (project / "dvc.lock").open("a") as lock:
        lock.write("<<<<<<< HEAD\n")
    with pytest.raises(UserError, match="DVC cannot read this project: .*dvc.lock"):
        stale.stale_stages()


@pytest.mark.slow
def test_stages_that_have_not_run_or_lack_what_git_keeps(stubbed, tmp_path, monkeypatch):
    clone = stubbed.copied(tmp_path / "mine")
    monkeypatch.chdir(clone.folder)
    assert stale.stale_stages() == {}
    lock = clone.folder / "dvc.lock"
    recorded = lock.read_text()
    lock.unlink()
    assert stale.stale_stages()["compare"] == ["it has not run"]
    lock.write_text(recorded)
    recorded = yaml.safe_load(recorded)
    outs = recorded["stages"]["train@resnet18-0"]["outs"]
    next(out for out in outs if out["path"].endswith(".safetensors"))["md5"] = "0" * 32
    lock.write_text(yaml.safe_dump(recorded))
    (clone.folder / "reports/leaderboard.md").unlink()
    with (clone.folder / "src/split.py").open("a") as script:
        script.write("# another line\n")
    found = stale.stale_stages()
    assert found.pop("split") == ["src/split.py has changed"]
    assert found.pop("compare") == ["reports/leaderboard.md is missing"]
    assert len(found.pop("evaluate@resnet18-0")) == 1 and not found
