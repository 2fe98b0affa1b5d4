"""The winner is chosen by validation alone; verdicts on the others come from the same test images."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from finegrain.comparison import formatting, leaderboard, report
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError


def write_run(model: str, val: float, correct: np.ndarray, names: str = "img", seed: int = 0) -> None:
    """Write the files that train and evaluate would write for one run."""
    run = paths.Run("d", model, seed)
    test = {"top1": float(correct.mean()), "top5": 1.0, "macro_f1": 0.5, "loss": 1.0}
    results = {"test": test, "val": {"top1": val, "loss": 1 - val}, "train": {"top1": 1.0, "loss": 0.0}}
    file_io.write_json(run.results, results)
    cost = {"seconds": 1.0, "images_per_second": 2.0, "parameters": 3, "peak_memory_bytes": 4}
    file_io.write_json(run.cost, cost)
    run.predictions.parent.mkdir(parents=True, exist_ok=True)
    paths_ = [f"{names}{i}" for i in range(len(correct))]
    frame = pd.DataFrame({"path": paths_, "class": "a", "class_1": np.where(correct, "a", "b")})
    frame.to_parquet(run.predictions, index=False)


def first(n: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < n


def test_validation_chooses_even_against_test(project):
    write_run("m1", 0.9, first(50))
    write_run("m2", 0.8, first(80))
    rows = leaderboard.rank_models("d", ["m2", "m1"], [0]).rows
    assert [row["model"] for row in rows] == ["m1", "m2"]
    assert rows[0]["verdict"] == "winner" and rows[0]["p_value"] is None
    assert rows[1]["verdict"] == "significantly better" and rows[1]["p_value"] < 1e-6


def test_the_correction_counts_the_models(project):
    # the models disagree on 12 images, 10 to 2: p = 0.039 alone, 0.116 as one of three pairs
    mixed = first(70)
    mixed[60:70], mixed[90:92] = False, True
    write_run("best", 0.9, first(70))
    write_run("a", 0.5, mixed)
    assert leaderboard.rank_models("d", ["best", "a"], [0]).rows[1]["verdict"] == "significantly worse"
    write_run("b", 0.4, mixed)
    board = leaderboard.rank_models("d", ["best", "a", "b"], [0])
    assert [row["verdict"] for row in board.rows[1:]] == ["within noise"] * 2
    assert [row["p_value"] for row in board.rows[1:]] == pytest.approx([3 * 158 / 4096] * 2)
    assert [(pair["model"], pair["other"]) for pair in board.pairs] == [
        ("best", "a"),
        ("best", "b"),
        ("a", "b"),
    ]
    first_pair = board.pairs[0]
    assert first_pair["difference"] == pytest.approx(0.08)
    assert first_pair["low"] < 0.08 < first_pair["high"]
    assert board.pairs[2]["difference"] == 0 and board.pairs[2]["p_value"] == 1.0


def test_ties_on_validation_go_to_the_lower_loss(project):
    write_run("m1", 0.9, first(50))
    write_run("m2", 0.9, first(50))
    file = paths.Run("d", "m2", 0).results
    file_io.write_json(file, {**file_io.read_json(file), "val": {"top1": 0.9, "loss": 0.01}})
    assert leaderboard.rank_models("d", ["m1", "m2"], [0]).rows[0]["model"] == "m2"


def test_runs_with_other_test_images_are_rejected(project):
    write_run("m1", 0.9, first(50))
    write_run("m2", 0.8, first(80), names="other")
    with pytest.raises(UserError, match="m2-0 .* other test images than m1-0"):
        leaderboard.rank_models("d", ["m1", "m2"], [0])


def test_runs_with_other_photos_of_the_same_names_are_rejected(project):
    for model, content in (("m1", "1"), ("m2", "2")):
        write_run(model, 0.9, first(50))
        file = paths.Run("d", model, 0).predictions
        frame = pd.read_parquet(file)
        frame.assign(sha256=[f"{content}{path}" for path in frame["path"]]).to_parquet(file, index=False)
    with pytest.raises(UserError, match="m2-0 .* other test images than m1-0"):
        leaderboard.rank_models("d", ["m1", "m2"], [0])


def test_results_of_other_predictions_are_rejected(project):
    """As after `git checkout` without `dvc checkout`: git brought the results, DVC no predictions."""
    write_run("m1", 0.9, first(50))
    kept = paths.Run("d", "m1", 0).predictions.read_bytes()
    write_run("m1", 0.9, first(51))
    assert leaderboard.rank_models("d", ["m1"], [0]).summary()["dataset"] == "d"
    paths.Run("d", "m1", 0).predictions.write_bytes(kept)
    with pytest.raises(UserError, match="results/m1-0.json: not the results of .*m1-0.parquet.*dvc checkout"):
        leaderboard.rank_models("d", ["m1"], [0])


def test_a_missing_results_file_is_named_with_the_command_that_creates_it(project):
    with pytest.raises(UserError, match=r"reports/d/results/m1-0.json: not found.*`dvc repro`"):
        leaderboard.rank_models("d", ["m1"], [0])


def test_several_seeds_count_as_one_model(project):
    """Means decide the rank, the run is the best on validation, and the seed variance is in the verdict."""
    for seed, (val, correct) in enumerate([(0.9, 62), (0.7, 70), (0.8, 78)]):
        write_run("scattered", val, first(correct), seed=seed)
    for seed, (val, correct) in enumerate([(0.6, 60), (0.6, 61), (0.7, 59)]):
        write_run("steady", val, first(correct), seed=seed)
    board = leaderboard.rank_models("d", ["steady", "scattered"], [0, 1, 2])
    best, other = board.rows
    assert (best["model"], best["run"], best["seeds"]) == ("scattered", "scattered-0", 3)
    assert best["val_top1"] == pytest.approx(0.8) and best["test_top1"] == pytest.approx(0.70)
    assert best["test_top1_sd"] == pytest.approx(0.08) and other["test_top1_sd"] == pytest.approx(0.01)
    # 10 points between the means, which McNemar's test of single runs would find significant
    assert other["verdict"] == "within noise" and board.pairs[0]["difference"] == pytest.approx(0.1)
    assert [run["run"] for run in board.runs[:2]] == ["scattered-0", "scattered-1"]
    assert other["run"] == "steady-2"
    only = leaderboard.rank_models("d", ["steady", "scattered"], [1])
    assert only.rows[0]["run"] == "scattered-1" and only.rows[0]["test_top1_sd"] is None
    assert only.rows[1]["verdict"] == "significantly worse"


def write_classes(model: str, val: dict[str, float], labels: np.ndarray, predicted: np.ndarray) -> None:
    """Write the files of a run with classes by number."""
    write_run(model, val["top1"], labels == predicted)
    run = paths.Run("d", model, 0)
    frame = pd.read_parquet(run.predictions).assign(**{"class": labels.astype(str)})
    frame.assign(class_1=predicted.astype(str), loss=1.0 + (labels != predicted)).to_parquet(run.predictions)
    results = file_io.read_json(run.results)
    recall = [float((predicted[labels == c] == c).mean()) for c in np.unique(labels)]
    test = results["test"] | {"mean_class_accuracy": float(np.mean(recall)), "calibrated_loss": 0.25}
    test["loss"] = float((1.0 + (labels != predicted)).mean())
    test["macro_f1"] = float(f1_score(labels, predicted, average="macro"))
    file_io.write_json(run.results, results | {"val": val, "test": test})


@pytest.mark.parametrize(
    ("choose_by", "winner", "verdict"),
    [
        ("top1", "common", "significantly worse"),
        ("macro_f1", "rare", "significantly worse"),
        ("mean_class_accuracy", "rare", "significantly worse"),
        ("loss", "rare", "significantly better"),
    ],
)
def test_the_metric_that_chooses_ranks_the_models_and_is_compared(project, choose_by, winner, verdict):
    """One model predicts the large class alone, the other all three, but fewer images of the large one."""
    labels = np.repeat([0, 1, 2], [160, 20, 20])
    all_large, balanced = np.zeros(200, int), np.where(np.arange(200) < 70, 1, labels)
    common = {"top1": 0.8, "loss": 0.9, "macro_f1": 0.3, "mean_class_accuracy": 0.33}
    rare = {"top1": 0.7, "loss": 0.8, "macro_f1": 0.6, "mean_class_accuracy": 0.8}
    write_classes("common", common, labels, all_large)
    write_classes("rare", rare, labels, balanced)
    board = leaderboard.rank_models("d", ["common", "rare"], [0], choose_by)
    first, second = board.rows
    assert first["model"] == board.winner == board.summary()["winner"] == winner
    assert board.summary()["choose_by"] == choose_by
    assert second["verdict"] == verdict
    key = f"test_{choose_by}"
    assert board.pairs[0]["difference"] == pytest.approx(first[key] - second[key])
    assert first[f"{key}_low"] < first[key] < first[f"{key}_high"] and first[f"{key}_sd"] is None
    assert first["test_top1_low"] < first["test_top1"]
    column = {"mean_class_accuracy": "class_acc"}.get(choose_by, choose_by)
    shown = board.winner_metrics()
    assert shown.keys() == {"winner", column, f"val_{column}"}
    assert shown[f"val_{column}"] == (rare if winner == "rare" else common)[choose_by]
    text = report.leaderboard_markdown(board.rows, choose_by)
    name = formatting.METRIC_NAMES[choose_by]
    assert f"| val {name} | test {name} [95 %] |" in text and text.count(name) == 2
