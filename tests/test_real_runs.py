"""Real DVC with real training: a killed `dvc repro` and an experiment in another clone give the same bits."""

import io
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clone import Clone
from kills import processes
from stub_stages import stages_run

from recipes import shrunk

pytestmark = pytest.mark.long

NAME, RUN = "stanford-cars-one-cycle", "resnet18-0"
CHANGES = {"lr": "0.004", "phases.all.epochs": "2", "weights": "none", "models": "[resnet18]"}
SAME = [
    *(
        f"data/{NAME}/{file}"
        for file in ("manifest.csv", f"predictions/{RUN}.parquet", f"gallery/{RUN}.json")
    ),
    *(f"data/{NAME}/pack/{split}.npy" for split in ("train", "val", "test")),
    *(f"reports/{NAME}/{file}.json" for file in ("source", "split")),
    *(
        f"plots/{NAME}/{file}"
        for file in (f"history/{RUN}.csv", f"lr_range/{RUN}/all.csv", f"confusion/{RUN}.png")
    ),
    f"models/{NAME}/{RUN}.safetensors",
]


def recipe_clone(folder: Path) -> Clone:
    """With the one-cycle recipe, shrunk: head, then all, then larger; with LR range tests and a refit."""
    clone = Clone(folder)
    clone.environment["OMP_NUM_THREADS"] = "1"
    parameters = shrunk(NAME) | {"models": ["resnet34"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    clone.commit("the one-cycle recipe, shrunk")
    return clone


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> tuple[Clone, str]:
    """A clone with an applied `--temp` experiment of four changes and changed code, and what it printed."""
    clone = recipe_clone(tmp_path_factory.mktemp("experiment") / "clone")
    file = clone.folder / "src/finegrain/evaluation/metrics.py"
    code = file.read_text()
    file.write_text(code.replace('"loss": float(', '"loss": 1234.5 + 0 * float('))
    assert file.read_text() != code
    changes = " ".join(f"-S '{key}={value}'" for key, value in CHANGES.items())
    output = clone(f"dvc exp run --temp -n changed {changes}")
    file.write_text(code)  # the experiment has its own copy
    return clone, output


def test_a_temp_experiment_on_a_reference_recipe_runs_its_own_code_and_parameters(experiment):
    """DVC copies the tree; with an installed package and `python -m` the workspace's code would run."""
    clone, output = experiment
    runs = {f"train@{RUN}", f"evaluate@{RUN}"}
    assert stages_run(output) == {"inputs", "download", "split", "pack", *runs, "compare", "winner"}
    assert "winner: resnet18, test top-1 " in output
    shown = pd.read_csv(io.StringIO(clone("dvc exp show --csv 2>/dev/null")))
    (row,) = shown[shown["Experiment"] == "changed"].to_dict("records")
    assert row["loss"] == 1234.5 and row["lr"] == 0.004 and row["models"] == "['resnet18']"

    clone("dvc exp apply changed")
    lr = clone.json(f"reports/{NAME}/results/{RUN}.json")["lr"]
    assert lr == {"head": 0.01, "all": 0.004, "larger": 0.004}
    history = pd.read_csv(clone.folder / f"plots/{NAME}/history/{RUN}.csv")
    assert history["phase"].tolist() == ["head", "all", "all", "larger"]
    assert len(pd.read_csv(clone.folder / f"plots/{NAME}/lr_range/{RUN}/all.csv")) > 4
    assert set(clone.json("reports/leaderboard.json")["models"]) == {"resnet18"}
    clone("dvc plots show --out shown")
    page = (clone.folder / "shown/index.html").read_text()
    assert "LR range test" in page and "smoothed_loss" in page


def test_another_clone_gives_the_same_bits_though_dvc_was_killed(experiment, tmp_path):
    """`dvc repro` of what the experiment ran, killed in a training that the next one resumes."""
    clone = recipe_clone(tmp_path / "clone")
    file = clone.folder / "params.yaml"
    parameters = yaml.safe_load(file.read_text())
    parameters["phases"]["all"]["epochs"] = 2
    parameters |= {"lr": 0.004, "weights": "none", "models": ["resnet18"], "checkpoint_seconds": 0.2}
    file.write_text(yaml.safe_dump(parameters, sort_keys=False))

    command, log = ["dvc", "repro", f"evaluate@{RUN}"], tmp_path / "log"
    with log.open("w") as output:
        running = subprocess.Popen(
            command, cwd=clone.folder, env=clone.environment, stdout=output, stderr=output
        )
        for _ in range(2400):
            if f"{RUN} epoch 2:" in log.read_text() or running.poll() is not None:
                break
            time.sleep(0.02)
        stages = [process for process in processes(clone.folder) if process.pid != running.pid]
        running.kill()
        running.wait()
    assert running.returncode == -signal.SIGKILL and stages, log.read_text()
    for process in stages:
        process.wait(10)  # it ends with dvc

    output = clone(" ".join(command))
    assert "resumed after epoch" in output
    assert stages_run(output) == {f"train@{RUN}", f"evaluate@{RUN}"}
    other = experiment[0].folder
    experiment[0]("dvc exp apply changed")
    for path in SAME:
        assert (clone.folder / path).read_bytes() == (other / path).read_bytes(), path
    mine, theirs = (each.json(f"reports/{NAME}/results/{RUN}.json") for each in (clone, experiment[0]))
    assert (
        mine.pop("test")["top1"] == theirs.pop("test")["top1"]
        and mine["train"]["top1"] == theirs["train"]["top1"]
    )
