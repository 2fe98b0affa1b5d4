"""Make, body type and year of cars, read from class names: how many mistakes stay within the same make?

Class names must look like those of Stanford Cars (Krause et al. 2013): "Audi TT Coupe 2012", which is make,
model, body type and year.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finegrain.models.outputs import Ints

_CAR = re.compile(r"(?P<make>\S+) (?P<rest>.+) (?P<year>(?:19|20)\d\d)")
_MAKES_OF_TWO_WORDS = ("AM General", "Alfa Romeo", "Aston Martin", "Land Rover")
_BODIES = {
    "Sedan": "Sedan", "SUV": "SUV", "Convertible": "Convertible", "Coupe": "Coupe", "Wagon": "Wagon",
    "Hatchback": "Hatchback", "Van": "Van", "Minivan": "Minivan",
    "Cab": "Pickup", "SuperCab": "Pickup", "Pickup": "Pickup",
}  # fmt: skip
MIN_SHARE = 0.9
"""Share of the classes that must have such a name; otherwise, as for birds and foods, there are no groups."""


def from_class_names(classes: Sequence[str]) -> dict[str, list[str]]:
    """Map ``make``, ``body`` and ``year`` to the group of each class; empty for classes that are not cars."""
    matches = [_CAR.fullmatch(name) for name in classes]
    if sum(match is not None for match in matches) < MIN_SHARE * len(classes):
        return {}
    two_word_makes = [
        next((make for make in _MAKES_OF_TWO_WORDS if name.startswith(f"{make} ")), "") for name in classes
    ]
    return {
        "make": [
            two_words or (match["make"] if match else "other")
            for two_words, match in zip(two_word_makes, matches, strict=True)
        ],
        "body": [_body(match["rest"]) if match else "other" for match in matches],
        "year": [match["year"] if match else "other" for match in matches],
    }


def _body(words: str) -> str:
    """The last word that is a body type, as trims such as "IPL" may follow it."""
    return next((_BODIES[word] for word in reversed(words.split()) if word in _BODIES), "other")


@dataclass(frozen=True)
class GroupRow:
    """One make, body type or year."""

    name: str
    classes: int
    images: int
    top1: float
    """Share of its images whose class is predicted correctly."""
    group_top1: float
    """Share of its images that are predicted as some class of this group."""


def group_table(groups: Sequence[str], labels: Ints, predicted: Ints) -> list[GroupRow]:
    """One row for each group that has a test image, ordered by decreasing number of images.

    Args:
        groups: ``[C]`` group of each class.
        labels: ``[N]`` true class ids.
        predicted: ``[N]`` predicted class ids.
    """
    names, group = np.unique(np.array(groups, object), return_inverse=True)
    rows = []
    for index, name in enumerate(names):
        in_group = group[labels] == index
        if in_group.any():
            top1 = float((labels == predicted)[in_group].mean())
            group_top1 = float((group[predicted] == index)[in_group].mean())
            classes, images = int((group == index).sum()), int(in_group.sum())
            rows.append(GroupRow(str(name), classes, images, top1, group_top1))
    return sorted(rows, key=lambda row: (-row.images, row.name))


def group_summary(groups: Sequence[str], labels: Ints, predicted: Ints) -> dict[str, float]:
    """How often the predicted class is in the correct group, and in which share of the mistakes.

    Returns:
        top1: share of the images that are predicted as a class of the correct group.
        of_mistakes: share of the mistakes that stay in the correct group; 0 without a mistake.
        of_mistakes_by_chance: the same share if every other class were equally likely in a mistake.
    """
    group = np.unique(np.array(groups, object), return_inverse=True)[1]
    size = np.bincount(group)
    incorrect, same_group = labels != predicted, group[labels] == group[predicted]
    by_chance = (size[group[labels[incorrect]]] - 1) / (len(groups) - 1)
    return {
        "top1": float(same_group.mean()),
        "of_mistakes": float(same_group[incorrect].mean()) if incorrect.any() else 0.0,
        "of_mistakes_by_chance": float(by_chance.mean()) if incorrect.any() else 0.0,
    }
