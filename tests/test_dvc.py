"""The commands of the README, run by the real DVC in a copy of the repository with a small sample."""

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml
from chaos import processes, stage_of
from clone import TINY, Clone
from params_file import write_params
from test_recipes import shrunk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory, ran) -> Clone:
    return ran.copied(tmp_path_factory.mktemp("dvc") / "clone")


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def test_a_second_repro_does_nothing_and_the_tree_is_clean(clone):
    output = clone("dvc repro")
    assert not stages_run(output)
    assert "up to date" in output
    assert "up to date" in clone("dvc status")
    assert clone("git status --porcelain") == ""


def test_one_stage_by_name(clone):
    assert "didn't change" in clone("dvc repro train@resnet18-0")


def test_an_experiment_with_another_rate_retrains_and_nothing_before(clone):
    output = clone("dvc exp run -n other-rate -S lr=0.003")
    assert stages_run(output) == {"train@resnet18-0", "evaluate@resnet18-0", "compare", "winner"}
    assert yaml.safe_load((clone.folder / "params.yaml").read_text())["lr"] == 0.003
    shown = clone("dvc exp show --csv")
    assert "other-rate" in shown and "0.003" in shown
    difference = clone("dvc metrics diff --json")
    change = json.loads(difference)["diff"] if "diff" in json.loads(difference) else json.loads(difference)
    assert "test.loss" in change[str(Path("metrics/sample/resnet18-0.json"))]
    plots = clone("dvc plots diff HEAD --out shown")
    page = clone.folder / "shown" / "index.html"
    assert page.is_file() and "file://" in plots
    shutil.rmtree(page.parent)
    clone("git checkout -q . && dvc checkout -q")
    assert "up to date" in clone("dvc status")


def test_an_experiment_on_a_reference_recipe_does_all_it_says(clone):
    """Head first, then all, then larger; with LR range tests and a refit; four changes at once."""
    (clone.folder / "params.yaml").write_text(
        yaml.safe_dump(shrunk("stanford-cars-one-cycle"), sort_keys=False)
    )
    clone.commit("the one-cycle recipe, shrunk")
    output = clone(
        "dvc exp run -n changed-recipe -S lr=0.004 -S phases.all.epochs=2 -S weights=none"
        " -S 'models=[resnet34]'"
    )
    assert "train@resnet34-0" in stages_run(output)
    name = "stanford-cars-one-cycle"
    assert clone.json(f"metrics/{name}/resnet34-0.json")["lr"] == {
        "head": 0.01,
        "all": 0.004,
        "larger": 0.004,
    }
    history = (clone.folder / f"plots/{name}/history/resnet34-0.csv").read_text()
    assert history.count(",all,") == 2 and history.count(",larger,") == 1
    assert (clone.folder / f"plots/{name}/lr_range/resnet34-0/all.csv").read_text().count("\n") > 5
    shown = clone("dvc plots show --out shown") and (clone.folder / "shown" / "index.html").read_text()
    assert "LR range test" in shown and "smoothed_loss" in shown
    shutil.rmtree(clone.folder / "shown")
    clone("git checkout -q . && git clean -fdq && git revert --no-edit HEAD && dvc checkout -q")
    assert "up to date" in clone("dvc status")


def test_a_temp_experiment_runs_its_own_code_and_trains_just_its_own_models(clone):
    """DVC copies the tree; with an installed package and `python -m` the workspace's code would run."""
    file = clone.folder / "src" / "finegrain" / "scores.py"
    before = file.read_text()
    file.write_text(before.replace('"loss": float(', '"loss": 1234.5 + 0 * float('))
    assert file.read_text() != before
    output = clone("dvc exp run --temp -n changed-code -S 'models=[resnet34]'")
    file.write_text(before)  # the experiment has its own copy
    assert stages_run(output) == {"train@resnet34-0", "evaluate@resnet34-0", "compare", "winner"}
    assert "1234.5" in clone("dvc exp show --csv")
    clone("dvc get -q . reports/leaderboard.json --rev changed-code -o board.json")
    assert set(clone.json("board.json")["models"]) == {"resnet34"}
    (clone.folder / "board.json").unlink()
    assert clone.json("metrics/sample/resnet18-0.json")["test"]["loss"] < 1000


def test_two_of_a_queue_side_by_side_do_not_harm_each_other(clone, tmp_path):
    """Two workers train from one pack at the same time what each makes alone, to the bit."""
    before = clone("dvc exp list --name-only").split()
    clone("dvc exp run --queue -S 'lr=0.002,0.004' -S phases.all.epochs=3")
    clone("dvc queue start -j 2 > ../queue.log 2>&1")  # a worker would keep our pipe open to its end
    most = 0
    for _ in range(1200):  # to ask the queue takes a second of a core
        trainings = [p for p in processes(clone.folder) if stage_of(p) == "train"]
        most = max(most, len({process.cwd() for process in trainings}))
        if not trainings and _ % 60 == 0 and clone("dvc queue status").count("Success") == 2:
            break
        time.sleep(0.1)
    assert most == 2 and "Failed" not in clone("dvc queue status")
    model, made = "models/sample/resnet18-0.safetensors", {}
    for name in set(clone("dvc exp list --name-only").split()) - set(before):
        clone(f"dvc get -q . {model} --rev {name} -o {tmp_path / name}")
        clone(f"dvc get -q . params.yaml --rev {name} -o {tmp_path / name}.yaml")
        rate = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())["lr"]
        made[rate] = (tmp_path / name).read_bytes()
    alone = "dvc exp run --temp --force --single-item -n alone -S phases.all.epochs=3 -S"
    clone(f"{alone} lr=0.004 train@resnet18-0")
    clone(f"dvc get -q . {model} --rev alone -o {tmp_path / 'alone'}")
    assert made[0.004] == (tmp_path / "alone").read_bytes() != made[0.002]
    clone("git checkout -q . && dvc checkout -q")


def test_a_reference_recipe_ends_without_credentials_in_a_clear_error(clone):
    shutil.copy(clone.folder / "recipes/stanford-cars-sgd.yaml", clone.folder / "params.yaml")
    output = clone("dvc repro", code=255)
    assert "Kaggle" in output and "kaggle.json" in output and "Traceback" not in output
    clone("git checkout -q . && dvc checkout -q")


def test_a_wrong_parameter_stops_the_run_before_any_work(clone):
    write_params(clone.folder, **TINY, lr="0,003")
    output = clone("dvc repro", code=255)
    assert "params.yaml: lr: '0,003'" in output and "Traceback" not in output
    clone("git checkout -q . && dvc checkout -q")  # what DVC removed before the stage ran is in its cache
    assert "up to date" in clone("dvc status")


def test_a_parameter_is_never_a_command_of_the_shell(clone):
    """DVC runs `cmd` in a shell; it quotes a whole mapping such as ${item}, but not ${item.model}."""
    write_params(clone.folder, **{**TINY, "models": ["resnet18; touch x", "$(touch x)"]})
    output = clone("dvc repro", code=255)
    assert "params.yaml: models.0: 'resnet18; touch x'" in output
    assert not (clone.folder / "x").exists()
    clone("git checkout -q . && dvc checkout -q")


def test_two_clones_give_the_same_bits(clone, tmp_path_factory):
    other = Clone.tiny(tmp_path_factory.mktemp("other") / "clone")
    other("dvc repro")
    same = [
        *(f"metrics/sample/{name}.json" for name in ("resnet18-0", "data/split", "data/source")),
        *("data/sample/manifest.csv", "data/sample/predictions/resnet18-0.parquet"),
        *("models/sample/resnet18-0.safetensors", "plots/sample/history/resnet18-0.csv"),
        *(f"data/sample/pack/{split}.npy" for split in ("train", "val", "test")),
        "plots/sample/confusion/resnet18-0.png",
    ]
    for path in same:
        assert (clone.folder / path).read_bytes() == (other.folder / path).read_bytes(), path
