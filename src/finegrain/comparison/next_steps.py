"""What is worth trying next, from a comparison's results, each with its reason."""

import math
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
MANY_SUSPECT = 0.01
"""Share of all images whose labels are suspect from which it is advised to look at them."""
GAIN_OF_PHOTOS = 0.01
"""Gain of top-1 by twice the training images from which more photos are advised."""
AS_GOOD = 20
"""A difference that would need so many times the test images counts as none."""


@dataclass(frozen=True)
class Step:
    """A step, and what to change in params.yaml for it."""

    reason: str
    change: str
    """Empty where it is nothing in params.yaml."""


def next_steps(
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    split: Mapping[str, Any],
    recipe: Mapping[str, Any],
    val_top1: Sequence[float],
    suspect_labels: int = 0,
    learning_curve: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Step]:
    """Yield the steps whose reason holds, the most promising first.

    Args:
        rows: of the leaderboard, winner first.
        pairs: differences between models on the same test images.
        split: reports/<name>/split.json.
        recipe: of the winner, as its sidecar has it.
        val_top1: of the winner by epoch.
        suspect_labels: of the winner's table of doubtful labels.
        learning_curve: of the winner's solved head; empty if it has none.
    """
    winner, test = rows[0], split["images"]["test"]
    if recipe["weights"] == "none":
        yield Step(
            "The networks began from random weights; on photos, pretrained ones usually bring the most.",
            "weights: DEFAULT",
        )
    by_epochs, (phase, last) = trained_by_epochs(recipe), list(recipe["phases"].items())[-1]
    if not by_epochs:
        yield Step(
            "Only the last layer was fitted; fine-tuning first (recipes/laptop.yaml) usually reaches more.",
            "phases",
        )
    smallest, largest = split["smallest_class"], split["largest_class"]
    if recipe.get("class_weights", "none") == "none" and largest >= UNBALANCED * smallest:
        yield Step(
            f"Classes have {smallest:,} to {largest:,} images; small ones count little in loss and top-1.",
            "class_weights: balanced, choose_by: macro_f1",
        )
    if len(val_top1) > 1 and "epochs" in last and val_top1[-1] - max(val_top1[:-1]) >= STILL_RISING:
        yield Step(
            "Validation top-1 still rose in the last epoch: train longer.",
            f"phases.{phase}.epochs: {2 * last['epochs']}",
        )
    duplicated = split["test_images_with_near_duplicate"]
    if duplicated > MANY_NEAR_DUPLICATES * test:
        yield Step(
            f"{duplicated:,} of {test:,} test images are near-duplicates of other images, which can flatter "
            "the test accuracy.",
            "split.near_duplicates: keep_together",
        )
    if suspect_labels > MANY_SUSPECT * sum(split["images"].values()):
        yield Step(
            f"{suspect_labels:,} labels are suspect, the first shown below: correct or drop the wrong ones.",
            "dataset.corrections",
        )
    if similar := [row for row in rows[1:] if row["verdict"] == "within noise"]:
        yield _tell_apart(winner, similar[0], pairs, test)
    if winner["train_top1"] - winner["val_top1"] > OVERFITTED:
        remedy, key = (
            ("more photos, or stronger augmentation", "augment") if by_epochs else ("more photos", "")
        )
        yield Step(
            f"{winner['model']} is {100 * (winner['train_top1'] - winner['val_top1']):.0f} points better on "
            f"training than on validation images: {remedy}.",
            key,
        )
    doubled = top1_of_twice_the_images(learning_curve)
    if doubled is not None and (gain := doubled - learning_curve[-1]["top1"]) >= GAIN_OF_PHOTOS:
        yield Step(f"Twice as many training photos would bring about {100 * gain:.1f} points.", "")
    if winner["seeds"] == 1 and by_epochs:
        yield Step("One seed does not show the seed variance.", "seeds: [0, 1, 2]")


def trained_by_epochs(recipe: Mapping[str, Any]) -> bool:
    """Whether a phase has epochs; otherwise neither the seed nor augmentation has an effect."""
    return any("epochs" in phase for phase in recipe["phases"].values())


def top1_of_twice_the_images(curve: Sequence[Mapping[str, Any]]) -> float | None:
    """Top-1 if the error goes on falling as it did over the last two points; None if it did not fall.

    Args:
        curve: ``images`` and ``top1`` of each part of the training images.
    """
    if len(curve) < 2:
        return None
    (images, top1), (more_images, more_top1) = ((point["images"], point["top1"]) for point in curve[-2:])
    if not 0 < top1 < more_top1 < 1:
        return None
    slope = math.log((1 - more_top1) / (1 - top1)) / math.log(more_images / images)
    return float(1 - (1 - more_top1) * 2**slope)


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
        return Step(
            f"{winner['model']} and {other['model']} are equally good: take the faster one.",
            f"models: [{faster}]",
        )
    return Step(
        f"{test:,} test images cannot tell {winner['model']} from {other['model']}; if the difference is as "
        f"large as it seems, it takes {round(test * max(ratio, 1) ** 2, -1):,.0f} or more.",
        "split.test_ratio",
    )
