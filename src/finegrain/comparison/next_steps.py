"""What is worth trying next, from a comparison's results, each with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 4
"""Number of steps that the report shows."""
STILL_RISING = 0.01
"""Gain of validation top-1 in the last epoch from which more epochs are advised."""
OVERFITTED = 0.15
"""Difference of training and validation top-1 from which more augmentation is advised."""
MANY_NEAR_DUPLICATES = 0.02
"""Share of test images with a near-duplicate among the other images."""
UNBALANCED = 5
"""Images of the largest class for each of the smallest from which class weights are advised."""
AS_GOOD = 20
"""A difference that would need so many times the test images counts as none."""


@dataclass(frozen=True)
class Step:
    """A step, and the line of params.yaml or the command for it."""

    reason: str
    change: str


def next_steps(
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    split: Mapping[str, Any],
    recipe: Mapping[str, Any],
    val_top1: Sequence[float],
) -> Iterator[Step]:
    """Yield the steps whose reason holds, the most promising first.

    Args:
        rows: of the leaderboard, winner first.
        pairs: differences between models on the same test images.
        split: reports/<name>/split.json.
        recipe: of the winner, as its sidecar has it.
        val_top1: of the winner by epoch.
    """
    winner, test = rows[0], split["images"]["test"]
    if recipe["weights"] == "none":
        yield Step(
            "The networks began from random weights; on photos, pretrained ones usually bring the most.",
            "weights: DEFAULT",
        )
    smallest, largest = split["smallest_class"], split["largest_class"]
    if recipe.get("class_weights", "none") == "none" and largest >= UNBALANCED * smallest:
        yield Step(
            f"Classes have {smallest:,} to {largest:,} images; small ones count little in loss and top-1.",
            "class_weights: balanced, choose_by: macro_f1",
        )
    last_phase = list(recipe["phases"].values())[-1]
    if len(val_top1) > 1 and "epochs" in last_phase and val_top1[-1] - max(val_top1[:-1]) >= STILL_RISING:
        yield Step("Validation top-1 still rose in the last epoch: train longer.", "more epochs in phases")
    duplicated = split["test_images_with_near_duplicate"]
    if duplicated > MANY_NEAR_DUPLICATES * test:
        yield Step(
            f"{duplicated:,} of {test:,} test images are near-duplicates of other images, which can flatter "
            "the test accuracy.",
            "split.near_duplicates: keep_together",
        )
    if similar := [row for row in rows[1:] if row["verdict"] == "within noise"]:
        yield _tell_apart(winner, similar[0], pairs, test)
    if winner["train_top1"] - winner["val_top1"] > OVERFITTED:
        yield Step(
            f"{winner['model']} is {100 * (winner['train_top1'] - winner['val_top1']):.0f} points better on "
            "training than on validation images: more photos, or stronger augmentation.",
            "augment",
        )
    if winner["seeds"] == 1:
        yield Step("One seed does not show the seed variance.", "seeds: [0, 1, 2]")


def _tell_apart(
    winner: Mapping[str, Any], other: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], test: int
) -> Step:
    """What decides between two models whose difference is within noise: more test images, or their cost.

    The width of an interval falls with the square root of the number of images.
    """
    names = {winner["model"], other["model"]}
    pair = next(pair for pair in pairs if {pair["model"], pair["other"]} == names)
    ratio = (pair["high"] - pair["low"]) / 2 / max(abs(pair["difference"]), 1e-9)
    if ratio**2 > AS_GOOD:
        faster = min(winner, other, key=lambda row: row["seconds"])["model"]
        return Step(f"{winner['model']} and {other['model']} are equally good: take the faster one.", faster)
    return Step(
        f"{test:,} test images cannot tell {winner['model']} from {other['model']}; if the difference is as "
        f"large as it seems, it takes {round(test * max(ratio, 1) ** 2, -1):,.0f} or more.",
        "split.test_ratio, or more photos",
    )
