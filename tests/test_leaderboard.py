"""The winner is chosen by validation alone, and a difference is called real only where it is."""

import numpy as np
import pandas as pd
import pytest

from finegrain.comparison import leaderboard
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError


def publish(model: str, val: float, right: np.ndarray, names: str = "img", seed: int = 0) -> None:
    """Write what train and evaluate would have left of one training."""
    run = paths.Run("d", model, seed)
    test = {"top1": float(right.mean()), "top1_low": 0.1, "top1_high": 0.9, "loss": 1.0}
    metrics = {"test": test, "val": {"top1": val, "loss": 1 - val}, "train": {"top1": 1.0, "loss": 0.0}}
    file_io.write_json(run.metrics, metrics)
    cost = {"seconds": 1.0, "images_per_second": 2.0, "parameters": 3, "peak_memory_bytes": 4}
    file_io.write_json(run.cost, cost)
    run.predictions.parent.mkdir(parents=True, exist_ok=True)
    paths_ = [f"{names}{i}" for i in range(len(right))]
    frame = pd.DataFrame({"path": paths_, "class": "a", "class_1": np.where(right, "a", "b")})
    frame.to_parquet(run.predictions, index=False)


def first(n: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < n


def test_validation_chooses_even_against_test(project):
    publish("m1", 0.9, first(50))
    publish("m2", 0.8, first(80))
    rows = leaderboard.rank_models("d", ["m2", "m1"], [0]).rows
    assert [row["model"] for row in rows] == ["m1", "m2"]
    assert rows[0]["verdict"] == "winner" and rows[0]["p_value"] is None
    assert rows[1]["verdict"] == "significantly better" and rows[1]["p_value"] < 1e-6


def test_the_correction_counts_the_models(project):
    # 10 to 2 images among those they disagree on: p = 0.039 alone, 0.116 as one of three pairs
    mixed = first(70)
    mixed[60:70], mixed[90:92] = False, True
    publish("best", 0.9, first(70))
    publish("a", 0.5, mixed)
    assert leaderboard.rank_models("d", ["best", "a"], [0]).rows[1]["verdict"] == "significantly worse"
    publish("b", 0.4, mixed)
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
    publish("m1", 0.9, first(50))
    publish("m2", 0.9, first(50))
    file = paths.Run("d", "m2", 0).metrics
    file_io.write_json(file, {**file_io.read_json(file), "val": {"top1": 0.9, "loss": 0.01}})
    assert leaderboard.rank_models("d", ["m1", "m2"], [0]).rows[0]["model"] == "m2"


def test_models_scored_on_other_images_are_not_compared(project):
    publish("m1", 0.9, first(50))
    publish("m2", 0.8, first(80), names="other")
    with pytest.raises(UserError, match="m2-0 was scored on other test images than m1-0"):
        leaderboard.rank_models("d", ["m1", "m2"], [0])


def test_a_missing_model_says_what_makes_it(project):
    with pytest.raises(UserError, match=r"metrics/d/m1-0.json: not found; `dvc repro`"):
        leaderboard.rank_models("d", ["m1"], [0])


def test_several_seeds_count_as_one_model(project):
    """The means rank, the best on validation is shown, and the spread between seeds counts."""
    for seed, (val, right) in enumerate([(0.9, 62), (0.7, 70), (0.8, 78)]):
        publish("scattered", val, first(right), seed=seed)
    for seed, (val, right) in enumerate([(0.6, 60), (0.6, 61), (0.7, 59)]):
        publish("steady", val, first(right), seed=seed)
    board = leaderboard.rank_models("d", ["steady", "scattered"], [0, 1, 2])
    best, other = board.rows
    assert (best["model"], best["run"], best["seeds"]) == ("scattered", "scattered-0", 3)
    assert best["val_top1"] == pytest.approx(0.8) and best["test_top1"] == pytest.approx(0.70)
    assert best["test_top1_sd"] == pytest.approx(0.08) and other["test_top1_sd"] == pytest.approx(0.01)
    # 10 points between the means, which a McNemar test of any two of them would call real
    assert other["verdict"] == "within noise" and board.pairs[0]["difference"] == pytest.approx(0.1)
    assert [run["run"] for run in board.runs[:2]] == ["scattered-0", "scattered-1"]
    assert other["run"] == "steady-2"
    only = leaderboard.rank_models("d", ["steady", "scattered"], [1])
    assert only.rows[0]["run"] == "scattered-1" and only.rows[0]["test_top1_sd"] is None
    assert only.rows[1]["verdict"] == "significantly worse"
