"""The winner is chosen by validation alone, and a difference is called real only where it is."""

import numpy as np
import pandas as pd
import pytest

from finegrain import leaderboard, paths, record
from finegrain.errors import UserError


def publish(model: str, val: float, right: np.ndarray, names: str = "img") -> None:
    """Write what train and evaluate would have left of one model."""
    run = paths.Run("d", model)
    test = {"top1": float(right.mean()), "top1_low": 0.1, "top1_high": 0.9, "loss": 1.0}
    metrics = {"test": test, "val": {"top1": val, "loss": 1 - val}, "train": {"top1": 1.0, "loss": 0.0}}
    record.write_json(run.metrics, metrics)
    cost = {"seconds": 1.0, "images_per_second": 2.0, "parameters": 3, "peak_memory_bytes": 4}
    record.write_json(run.cost, cost)
    run.predictions.parent.mkdir(parents=True, exist_ok=True)
    paths_ = [f"{names}{i}" for i in range(len(right))]
    frame = pd.DataFrame({"path": paths_, "class": "a", "class_1": np.where(right, "a", "b")})
    frame.to_parquet(run.predictions, index=False)


def first(n: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < n


def test_validation_chooses_even_against_test(project):
    publish("m1", 0.9, first(50))
    publish("m2", 0.8, first(80))
    rows = leaderboard.rank("d", ["m2", "m1"]).rows
    assert [row["model"] for row in rows] == ["m1", "m2"]
    assert rows[0]["verdict"] == "winner" and rows[0]["p_value"] is None
    assert rows[1]["verdict"] == "really better" and rows[1]["p_value"] < 1e-6


def test_the_correction_counts_the_models(project):
    # 10 to 2 images among those they disagree on: p = 0.039 alone, 0.116 as one of three pairs
    mixed = first(70)
    mixed[60:70], mixed[90:92] = False, True
    publish("best", 0.9, first(70))
    publish("a", 0.5, mixed)
    assert leaderboard.rank("d", ["best", "a"]).rows[1]["verdict"] == "really worse"
    publish("b", 0.4, mixed)
    board = leaderboard.rank("d", ["best", "a", "b"])
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
    file = paths.Run("d", "m2").metrics
    record.write_json(file, {**record.read_json(file), "val": {"top1": 0.9, "loss": 0.01}})
    assert leaderboard.rank("d", ["m1", "m2"]).rows[0]["model"] == "m2"


def test_models_scored_on_other_images_are_not_compared(project):
    publish("m1", 0.9, first(50))
    publish("m2", 0.8, first(80), names="other")
    with pytest.raises(UserError, match="m2 was scored on other test images than m1"):
        leaderboard.rank("d", ["m1", "m2"])


def test_a_missing_model_says_what_makes_it(project):
    with pytest.raises(UserError, match=r"metrics/d/m1.json: not found; `dvc repro`"):
        leaderboard.rank("d", ["m1"])
