"""The report advises a step only where the results give a reason for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from finegrain.comparison.next_steps import next_steps

ROW = {"model": "a", "verdict": "winner", "train_top1": 0.9, "val_top1": 0.85, "seeds": 3, "seconds": 20.0}
OTHER = {**ROW, "model": "b", "verdict": "within noise", "seconds": 10.0}


def changes(
    others: Sequence[Mapping[str, Any]] = (),
    difference: tuple[float, float, float] = (0.1, 0.05, 0.15),
    near_duplicates: int = 0,
    smallest: int = 100,
    class_weights: str = "none",
    weights: str = "IMAGENET1K_V1",
    kind: str = "epochs",
    val_top1: tuple[float, ...] = (0.5, 0.85, 0.85),
    suspects: int = 0,
    curve: tuple[float, ...] = (),
    **winner: Any,
) -> str:
    """What is advised to change, and why."""
    mean, low, high = difference
    pair = {"model": "a", "other": "b", "difference": mean, "low": low, "high": high}
    split = {"images": {"train": 800, "test": 100}, "test_images_with_near_duplicate": near_duplicates}
    split |= {"smallest_class": smallest, "largest_class": 100}
    recipe = {"weights": weights, "class_weights": class_weights, "phases": {"last": {kind: 3}}}
    points = [{"images": 100 * 2**i, "top1": top1} for i, top1 in enumerate(curve)]
    steps = next_steps([{**ROW, **winner}, *others], [pair], split, recipe, val_top1, suspects, points)
    return " | ".join(f"{step.reason} {step.change}" for step in steps)


def test_where_nothing_is_wrong_nothing_is_advised():
    assert (
        changes() == "" == changes(suspects=9, curve=(0.9, 0.905))
        and changes([{**OTHER, "verdict": "significantly worse"}]) == ""
    )


@pytest.mark.parametrize(
    ("values", "advised"),
    [
        ({"weights": "none"}, "weights: DEFAULT"),
        ({"val_top1": (0.5, 0.8, 0.85)}, "phases.last.epochs: 6"),
        ({"near_duplicates": 3}, "split.near_duplicates: keep_together"),
        ({"smallest": 20}, "class_weights: balanced, choose_by: macro_f1"),
        ({"seeds": 1}, "seeds: [0, 1, 2]"),
        ({"train_top1": 1.01}, "stronger augmentation. augment"),
        ({"kind": "solve"}, "recipes/laptop.yaml"),
        ({"suspects": 10}, "10 labels are suspect"),
        ({"curve": (0.6, 0.8)}, "Twice as many training photos would bring about 10.0 points"),
        ({"train_top1": 1.01, "kind": "solve"}, "16 points better"),
    ],
)
def test_each_reason_has_its_step(values, advised):
    assert advised in changes(**values)


def test_weights_are_not_advised_to_those_who_have_them():
    assert changes(smallest=20, class_weights="effective") == "" == changes(smallest=21)


def test_what_has_no_effect_on_an_exact_solution_is_not_advised():
    advised = changes(kind="solve", val_top1=(0.5, 0.9), seeds=1, train_top1=1.1)
    assert not any(words in advised for words in ("epochs:", "seeds", "augment"))


def test_an_interval_twice_as_wide_as_the_difference_needs_four_times_the_images():
    assert "it takes 400 or more" in changes([OTHER], (0.05, -0.05, 0.15))


def test_models_that_no_test_set_could_tell_apart_differ_by_their_cost():
    assert changes([OTHER], (0.001, -0.05, 0.05)).endswith("take the faster one. models: [b]")
    assert changes([OTHER], (0.0, -0.05, 0.05)).endswith("take the faster one. models: [b]")
