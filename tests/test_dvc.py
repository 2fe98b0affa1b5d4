"""The DVC commands of the README on this repository's dvc.yaml, with stub stages."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from clone import TINY, Clone
from params_file import write_params
from pipeline import ROOT
from stub_stages import stages_run

pytestmark = pytest.mark.slow

RUN = "resnet18-0"


@pytest.fixture
def clone(stubbed, tmp_path) -> Clone:
    return stubbed.copied(tmp_path / "clone")


def test_a_second_repro_does_nothing_and_the_tree_is_clean(clone):
    output = clone("dvc repro")
    assert not stages_run(output) and "up to date" in output
    assert clone("git status --porcelain") == ""


def test_one_stage_by_name(clone):
    assert "didn't change" in clone(f"dvc repro train@{RUN}")


def test_an_experiment_with_another_lr_trains_again_and_prepares_no_data(clone):
    output = clone("dvc exp run -n other-lr -S lr=0.003")
    assert stages_run(output) == {f"train@{RUN}", f"evaluate@{RUN}", "compare", "winner"}
    assert yaml.safe_load((clone.folder / "params.yaml").read_text())["lr"] == 0.003
    shown = clone("dvc exp show --csv")
    assert "other-lr" in shown and "0.003" in shown
    change = json.loads(clone("dvc metrics diff --json"))
    assert "loss" in change.get("diff", change)[str(Path(f"metrics/sample/{RUN}.json"))]
    plots = clone("dvc plots diff HEAD --out shown")
    page = (clone.folder / "shown/index.html").read_text()
    assert "file://" in plots and "Learning rate" in page and "LR range test" in page


def test_a_second_model_and_a_second_seed_train_themselves_alone(clone):
    write_params(clone.folder, **TINY | {"models": ["resnet18", "resnet34"], "seeds": [0, 3]})
    runs = {"resnet18-3", "resnet34-0", "resnet34-3"}
    expected = {f"{stage}@{run}" for stage in ("train", "evaluate") for run in runs}
    assert stages_run(clone("dvc repro")) - {"winner"} == expected | {"inputs", "compare"}


def test_going_back_to_earlier_images_downloads_nothing(clone):
    """By DVC's run cache, which a stage has only while git tracks none of its plain outputs."""
    write_params(clone.folder, **TINY | {"dataset__images_per_class": 25})
    assert "download" in stages_run(clone("dvc repro download"))
    write_params(clone.folder, **TINY)
    assert stages_run(clone("dvc repro download")) == {"inputs"}


@pytest.fixture
def checking(clone) -> Clone:
    """With the real download script, whose change makes it run; inputs is real in every clone."""
    shutil.copy(ROOT / "src/download.py", clone.folder / "src/download.py")
    return clone


def test_a_reference_recipe_without_credentials_fails_with_a_clear_message(checking):
    shutil.copy(checking.folder / "recipes/stanford-cars-sgd.yaml", checking.folder / "params.yaml")
    output = checking("dvc repro", code=255)
    assert "Kaggle" in output and "kaggle.json" in output and "Traceback" not in output


def test_a_wrong_parameter_stops_the_run_before_any_work(checking):
    write_params(checking.folder, **TINY, lr="0,003")
    output = checking("dvc repro", code=255)
    assert "params.yaml: lr: '0,003'" in output and "Traceback" not in output
    assert stages_run(output) == {"download"}
    checking("git checkout -q . && dvc checkout -q")  # what DVC removed before the stage ran is in its cache
    assert "up to date" in checking("dvc status")


def test_a_parameter_is_never_a_command_of_the_shell(checking):
    """DVC runs `cmd` in a shell; it quotes a whole mapping such as ${item}, but not ${item.model}."""
    write_params(checking.folder, **TINY | {"models": ["resnet18; touch x", "$(touch x)"]})
    output = checking("dvc repro", code=255)
    assert "params.yaml: models.0: 'resnet18; touch x'" in output
    assert not (checking.folder / "x").exists()
