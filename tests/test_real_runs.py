"""Real DVC with real training: the same bits in two clones, one of them killed; experiments on a recipe."""

import io
import signal
import subprocess
import time

import pandas as pd
import pytest
import yaml
from chaos import processes
from clone import TINY, Clone
from params_file import write_params
from stub_stages import stages_run

from recipes import shrunk

pytestmark = pytest.mark.slow

RUN = "resnet18-0"
SAME = [
    *(f"metrics/sample/{name}.json" for name in (RUN, "data/split", "data/source")),
    *("data/sample/manifest.csv", f"data/sample/predictions/{RUN}.parquet"),
    *(f"models/sample/{RUN}.safetensors", f"plots/sample/history/{RUN}.csv"),
    *(f"data/sample/pack/{split}.npy" for split in ("train", "val", "test")),
    f"plots/sample/confusion/{RUN}.png",
]


def small_clone(folder) -> Clone:
    clone = Clone(folder)
    phase = {**TINY["phases"]["all"], "epochs": 3}
    changes = {"dataset__images_per_class": 12, "checkpoint_seconds": 0.0, "phases": {"all": phase}}
    write_params(clone.folder, **TINY | changes)
    clone.commit("shrink")
    clone.environment["OMP_NUM_THREADS"] = "1"
    return clone


def test_two_clones_give_the_same_bits_though_one_was_killed(tmp_path):
    first, second = small_clone(tmp_path / "first"), small_clone(tmp_path / "second")
    first(f"dvc repro evaluate@{RUN}")

    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            ["dvc", "repro", f"evaluate@{RUN}"],
            cwd=second.folder,
            env=second.environment,
            stdout=log,
            stderr=log,
        )
        for _ in range(2400):
            if f"{RUN} epoch 1:" in (tmp_path / "log").read_text() or running.poll() is not None:
                break
            time.sleep(0.02)
        trainer = [process for process in processes(second.folder) if process.pid != running.pid]
        running.kill()
        running.wait()
    assert running.returncode == -signal.SIGKILL and trainer, (tmp_path / "log").read_text()
    for process in trainer:
        process.wait(10)  # it ends with dvc
    output = second(f"dvc repro evaluate@{RUN}")
    assert "resumed after epoch" in output
    assert stages_run(output) == {f"train@{RUN}", f"evaluate@{RUN}"}
    for path in SAME:
        assert (first.folder / path).read_bytes() == (second.folder / path).read_bytes(), path


def test_a_temp_experiment_on_a_reference_recipe_runs_its_own_code_and_parameters(tmp_path):
    """Head first, then all, then larger; with LR range tests and a refit; four changes at once.

    DVC copies the tree; with an installed package and `python -m` the workspace's code would run.
    """
    clone, name = Clone(tmp_path / "clone"), "stanford-cars-one-cycle"
    clone.environment["OMP_NUM_THREADS"] = "1"
    (clone.folder / "params.yaml").write_text(yaml.safe_dump(shrunk(name), sort_keys=False))
    clone.commit("the one-cycle recipe, shrunk")
    file = clone.folder / "src/finegrain/evaluation/metrics.py"
    code = file.read_text()
    file.write_text(code.replace('"loss": float(', '"loss": 1234.5 + 0 * float('))
    assert file.read_text() != code
    changes = ("lr=0.004", "phases.all.epochs=2", "weights=none", "'models=[resnet34]'")
    output = clone("dvc exp run --temp -n changed -S " + " -S ".join(changes))
    file.write_text(code)  # the experiment has its own copy
    runs = {f"{stage}@resnet34-0" for stage in ("train", "evaluate")}
    assert stages_run(output) == {"download", "split", "pack", *runs, "compare", "winner"}
    shown = pd.read_csv(io.StringIO(clone("dvc exp show --csv 2>/dev/null")))
    (row,) = shown[shown["Experiment"] == "changed"].to_dict("records")
    assert row["test.loss"] == 1234.5 and row["lr"] == 0.004 and row["models"] == "['resnet34']"

    clone("dvc exp apply changed")
    lr = clone.json(f"metrics/{name}/resnet34-0.json")["lr"]
    assert lr == {"head": 0.01, "all": 0.004, "larger": 0.004}
    history = pd.read_csv(clone.folder / f"plots/{name}/history/resnet34-0.csv")
    assert history["phase"].tolist() == ["head", "all", "all", "larger"]
    assert len(pd.read_csv(clone.folder / f"plots/{name}/lr_range/resnet34-0/all.csv")) > 4
    assert set(clone.json("reports/leaderboard.json")["models"]) == {"resnet34"}
    clone("dvc plots show --out shown")
    page = (clone.folder / "shown/index.html").read_text()
    assert "LR range test" in page and "smoothed_loss" in page
