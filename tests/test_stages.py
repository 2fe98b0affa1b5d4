"""The stage scripts, run in order on a small sample: exact files, true numbers, no stray parameter."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import narrow_resnet
import numpy as np
import pandas as pd
import pytest
import torch
from clone import SMALL
from params_file import write_params
from pipeline import STAGES, script_of
from torch.nn.functional import cross_entropy

from finegrain.config import params
from finegrain.core import file_io, paths
from finegrain.loading.batches import PackedSplit
from finegrain.models import inference, storage
from finegrain.runtime import devices
from finegrain.sample import vehicles

MODELS, SEEDS = SMALL["models"], SMALL["seeds"]
RUNS = [f"{model}-{seed}" for model in MODELS for seed in SEEDS]


class RecordingParams(params.Params):
    """Records which top-level parameters are read."""

    def __getattribute__(self, name: str) -> Any:
        if name in params.Params.model_fields:
            READ_PARAMETERS.add(name)
        return super().__getattribute__(name)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        READ_PARAMETERS.update(options.get("include") or params.Params.model_fields)
        return super().model_dump(**options)


READ_PARAMETERS: set[str] = set()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Any]:
    """A folder where every stage has run once, and the parameters that each has read."""
    folder = tmp_path_factory.mktemp("project")
    write_params(folder, **SMALL)
    used: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        narrow_resnet.use_instead_of(patch, "resnet18")
        patch.syspath_prepend(str(Path(__file__).parent.parent / "src"))
        real = params.load_params
        patch.setattr(params, "load_params", lambda: RecordingParams.model_construct(**dict(real())))
        for stage, definition in STAGES.items():
            READ_PARAMETERS.clear()
            script = importlib.import_module(script_of(stage).stem)
            for run in RUNS if "matrix" in definition else [None]:
                model, _, seed = (run or "").rpartition("-")
                script.main(["--model", model, "--seed", seed] if run else [])
            used[stage] = set(READ_PARAMETERS)
    return {"folder": folder, "used": used}


def resolved(paths: list[Any]) -> set[str]:
    found = set()
    for entry in paths:
        path = entry if isinstance(entry, str) else next(iter(entry))
        for run in RUNS:
            named = path.replace("${dataset.name}", "sample")
            found.add(named.replace("${item.model}-${item.seed}", run))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_stage_uses_exactly_the_parameters_it_declares(finished, stage):
    declared = {str(key).split(".")[0] for key in STAGES[stage]["params"]}
    by_stage_inputs = {"download": {"seed"}, "train": {"weights"}}  # in files that it writes
    undeclared = {"checkpoint_seconds", "device"} | by_stage_inputs.get(stage, set())
    assert finished["used"][stage] - undeclared == declared


def test_the_files_written_are_exactly_the_outs_declared(finished):
    folder = finished["folder"]
    declared = set()
    for definition in STAGES.values():
        for kind in ("outs", "metrics", "plots"):
            declared |= resolved(definition.get(kind, []))
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    strays = {f for f in files if not any(f == d or f.startswith(d + "/") for d in declared)}
    kept = {f for f in strays if f.startswith((".checkpoints/inspected/", ".checkpoints/packs/"))}
    assert strays - kept <= {"params.yaml"} and len(kept) == 2
    assert all((folder / path).exists() for path in declared)


def test_metrics_equal_a_count_over_the_kept_predictions(finished):
    folder = finished["folder"]
    for run in RUNS:
        results = json.loads((folder / f"reports/sample/results/{run}.json").read_text())
        kept = pd.read_parquet(folder / f"data/sample/predictions/{run}.parquet")
        assert results["test"]["top1"] == pytest.approx((kept["class"] == kept["class_1"]).mean())
        top5 = kept[[f"class_{i}" for i in range(1, 6)]].eq(kept["class"], axis=0).any(axis=1).mean()
        assert results["test"]["top5"] == pytest.approx(top5)
        assert results["test"]["loss"] == pytest.approx(kept["loss"].mean(), rel=1e-4)
        recall = kept.assign(right=kept["class"] == kept["class_1"]).groupby("class")["right"].mean()
        assert results["test"]["mean_class_accuracy"] == pytest.approx(recall.mean())
        assert {"top1", "loss"} <= set(results["val"]) and {"top1", "loss"} <= set(results["train"])


def test_the_metrics_are_few_and_those_of_the_probabilities_that_predict_gives(finished):
    folder = finished["folder"]
    for run in RUNS:
        metrics = json.loads((folder / f"metrics/sample/{run}.json").read_text())
        results = json.loads((folder / f"reports/sample/results/{run}.json").read_text())
        low, high = json.loads((folder / f"reports/sample/intervals/{run}.json").read_text())["top1"]
        expected = {
            **{name: results["test"][name] for name in ("top1", "top5", "macro_f1")},
            "top1_ci": (high - low) / 2,
            "class_acc": results["test"]["mean_class_accuracy"],
            "loss": results["test"]["calibrated_loss"],
            "ece": results["test"]["calibrated_ece"],
            "val_top1": results["val"]["top1"],
            "val_loss": results["val"]["loss"],
        }
        assert metrics == {name: round(value, 4) for name, value in expected.items()}


def test_the_best_epoch_of_the_history_is_the_one_evaluated(finished):
    folder = finished["folder"]
    for run in RUNS:
        history = pd.read_csv(folder / f"plots/sample/history/{run}.csv")
        results = json.loads((folder / f"reports/sample/results/{run}.json").read_text())
        assert history["epoch"].tolist() == [1, 2]
        best = history.set_index("epoch").loc[results["best_epoch"]]
        assert best["val_top1"] == history["val_top1"].max()
        assert results["val"]["top1"] == pytest.approx(best["val_top1"])
        assert results["val"]["loss"] == pytest.approx(best["val_loss"], rel=1e-3)


def test_the_cost_file_holds_what_the_run_took(finished):
    for run in RUNS:
        cost = json.loads((finished["folder"] / f"models/sample/{run}.cost.json").read_text())
        assert cost["seconds"] > 0 and cost["images_per_second"] > 0
        assert cost["parameters"] > 1e5 and cost["peak_memory_bytes"] > 1e8


def test_the_leaderboard_names_the_winner_by_validation(finished):
    board = json.loads((finished["folder"] / "reports/leaderboard.json").read_text())
    val = {model: board["models"][model]["val_top1"] for model in MODELS}
    assert val[board["winner"]] == max(val.values())
    best = board["models"][board["winner"]]
    assert json.loads((finished["folder"] / "metrics/sample/winner.json").read_text()) == {
        "winner": board["winner"],
        "top1": round(best["test_top1"], 4),
        "val_top1": round(best["val_top1"], 4),
    }
    table = (finished["folder"] / "reports/leaderboard.md").read_text()
    assert all(model in table for model in MODELS)


def test_stage_evaluate_flips_where_it_is_asked_to(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished["folder"], tmp_path / "project")
    monkeypatch.chdir(folder)
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    run = paths.Run("sample", "resnet18", 0)
    plain = file_io.read_json(run.results)["test"]["loss"]
    write_params(folder, **SMALL, evaluate__flip=True)
    importlib.import_module("evaluate").main(["--model", "resnet18", "--seed", "0"])
    net, metadata = storage.load_model(run.weights, run.sidecar)
    cpu = torch.device("cpu")
    test = PackedSplit(paths.Dataset("sample").pack, "test", cpu, metadata["mean"], metadata["std"])
    dtype = devices.autocast_dtype("auto", cpu)
    logits, labels = inference.predict_split(net, test, metadata["image_size"], dtype, flip=True)
    found = file_io.read_json(run.results)["test"]["loss"]
    assert found != plain and found == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-4)


def test_classes_whose_names_are_numbers_stay_text(finished, tmp_path, monkeypatch):
    """As GTSRB's 00000 to 00042 are: what is read back from CSV must not become the number 0."""
    unused = shutil.ignore_patterns("*.safetensors", "pack", "archive")
    folder = shutil.copytree(finished["folder"], tmp_path / "project", ignore=unused)
    monkeypatch.chdir(folder)
    numbers = {name: f"{i:05d}" for i, name in enumerate(vehicles.CLASS_NAMES)}
    for file in folder.glob("data/sample/predictions/*.parquet"):
        pd.read_parquet(file).replace(numbers).to_parquet(file)
    for file in (*folder.glob("plots/sample/per_class/*.csv"), paths.Dataset("sample").class_balance):
        pd.read_csv(file).replace(numbers).to_csv(file, index=False)
    importlib.import_module("compare").main([])
    assert ">00003<" in (folder / "reports/index.html").read_text()


def test_a_model_of_several_seeds_is_their_mean(finished):
    folder = finished["folder"]
    board = json.loads((folder / "reports/leaderboard.json").read_text())["models"]
    for model in MODELS:
        runs = {
            run: json.loads((folder / f"reports/sample/results/{run}.json").read_text())
            for run in (f"{model}-{seed}" for seed in SEEDS)
        }
        top1 = np.array([run["test"]["top1"] for run in runs.values()])
        assert board[model]["test_top1"] == pytest.approx(top1.mean())
        assert board[model]["test_top1_sd"] == pytest.approx(top1.std(ddof=1))
        best = max(runs, key=lambda name: (runs[name]["val"]["top1"], -runs[name]["val"]["loss"]))
        assert board[model]["run"] == best
    page = (folder / "reports/index.html").read_text()
    assert "means over 2 runs" in page and "All runs" in page


def test_the_winner_is_its_best_training_s_files_under_fixed_names(finished):
    folder = finished["folder"]
    board = json.loads((folder / "reports/leaderboard.json").read_text())
    run = board["models"][board["winner"]]["run"]
    for suffix in ("safetensors", "json"):
        copied, own = folder / f"winner/sample/model.{suffix}", folder / f"models/sample/{run}.{suffix}"
        assert copied.read_bytes() == own.read_bytes()


def test_another_seed_is_another_network_on_the_same_split(finished):
    sidecars = [json.loads((finished["folder"] / f"models/sample/{run}.json").read_text()) for run in RUNS]
    assert len({sidecar["sha256"] for sidecar in sidecars}) == len(RUNS)
    assert len({sidecar["data"] for sidecar in sidecars}) == 1
    assert [sidecar["seed"] for sidecar in sidecars] == SEEDS * 2


def test_splits_share_no_image_and_hold_every_class(finished):
    rows = pd.read_csv(finished["folder"] / "data/sample/manifest.csv")
    assert len(rows) == 12 * 8 and rows["path"].is_unique
    assert rows.groupby("split")["class"].nunique().to_dict() == {"train": 12, "val": 12, "test": 12}
    pack = finished["folder"] / "data/sample/pack"
    for split in ("train", "val", "test"):
        assert np.load(pack / f"{split}.npy", mmap_mode="r").shape == (
            (rows["split"] == split).sum(),
            32,
            32,
            3,
        )
