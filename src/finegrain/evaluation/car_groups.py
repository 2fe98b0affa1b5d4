"""Make, body type and year of a car, where class names carry them: was a mistake at least of the right make?

Names as Stanford Cars has them (Krause et al. 2013): make, model, body type, year: "Audi TT Coupe 2012".
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
"""Share of the classes that must be named so; of birds and foods the first word is no make."""


def from_class_names(classes: Sequence[str]) -> dict[str, list[str]]:
    """``make``, ``body`` and ``year`` -> the group of each class; nothing if the names do not tell."""
    found = [_CAR.fullmatch(name) for name in classes]
    if sum(match is not None for match in found) < MIN_SHARE * len(classes):
        return {}
    two = [
        next((make for make in _MAKES_OF_TWO_WORDS if name.startswith(f"{make} ")), "") for name in classes
    ]
    return {
        "make": [
            pair or (match["make"] if match else "other") for pair, match in zip(two, found, strict=True)
        ],
        "body": [_body(match["rest"]) if match else "other" for match in found],
        "year": [match["year"] if match else "other" for match in found],
    }


def _body(words: str) -> str:
    """The last word that is one: trims such as "IPL" stand behind it."""
    return next((_BODIES[word] for word in reversed(words.split()) if word in _BODIES), "other")


@dataclass(frozen=True)
class GroupRow:
    """One make, body type or year."""

    name: str
    classes: int
    images: int
    top1: float
    """Share of its images whose class is right."""
    group_top1: float
    """Share of its images that are taken for a class of this group."""


def group_table(groups: Sequence[str], labels: Ints, predicted: Ints) -> list[GroupRow]:
    """A row for each group that has a test image, the most images first.

    Args:
        groups: ``[C]`` the group of each class.
        labels: ``[N]`` class ids; ``predicted`` alike.
    """
    names, group = np.unique(np.array(groups, object), return_inverse=True)
    rows = []
    for index, name in enumerate(names):
        own = group[labels] == index
        if own.any():
            right = float((labels == predicted)[own].mean())
            inside = float((group[predicted] == index)[own].mean())
            rows.append(GroupRow(str(name), int((group == index).sum()), int(own.sum()), right, inside))
    return sorted(rows, key=lambda row: (-row.images, row.name))


def group_summary(groups: Sequence[str], labels: Ints, predicted: Ints) -> dict[str, float]:
    """How often the group is right, and how much of the mistakes that is.

    Returns:
        top1: share of the images taken for a class of the right group.
        of_mistakes: share of the mistakes that stay in the right group; 0 without a mistake.
        of_mistakes_by_chance: the same if every mistake fell on any other class.
    """
    group = np.unique(np.array(groups, object), return_inverse=True)[1]
    size = np.bincount(group)
    wrong, inside = labels != predicted, group[labels] == group[predicted]
    others = (size[group[labels[wrong]]] - 1) / (len(groups) - 1)
    return {
        "top1": float(inside.mean()),
        "of_mistakes": float(inside[wrong].mean()) if wrong.any() else 0.0,
        "of_mistakes_by_chance": float(others.mean()) if wrong.any() else 0.0,
    }
