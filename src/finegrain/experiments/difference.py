"""Two sides of a change, such as two commits: which models got better, in which classes, on which images.

Pure: what is on each side comes in, facts come out. Where the sides were tested on other images, those that
they share are compared.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finegrain.comparison import significance
from finegrain.comparison.significance import Bools, Comparison
from finegrain.core.errors import UserError
from finegrain.experiments.results import Names, RevisionResults, Score


@dataclass(frozen=True)
class ClassChange:
    """How often the images of one class were right."""

    name: str
    images: int
    before: float
    """Recall; ``after`` alike."""
    after: float
    p_value: float
    """``paired.exact_p``, corrected by Holm for the number of classes."""

    @property
    def gain(self) -> float:
        """In images."""
        return (self.after - self.before) * self.images

    @property
    def beyond_chance(self) -> bool:
        return self.p_value < significance.SIGNIFICANCE


@dataclass(frozen=True)
class ImageFlip:
    """An image that most seeds of one side get right and most of the other wrong."""

    path: str
    label: str
    before: str
    """What most of these seeds take it for; ``after`` alike."""
    after: str
    right_before: float
    """Share of the seeds that get it right; ``right_after`` alike."""
    right_after: float

    @property
    def gain(self) -> float:
        return self.right_after - self.right_before


@dataclass(frozen=True)
class ModelChange:
    """A model against its earlier self, or a winner against the one before."""

    before: Score
    after: Score
    comparison: Comparison
    """After less before; p is corrected by Holm for the number of changes."""
    classes: list[ClassChange]
    """Of which more than one image moved, the furthest first."""
    flips: list[ImageFlip]
    """Losses, then gains; of each the furthest first."""
    unchanged: bool
    """Every training gets right what it got right before, and nothing else."""

    @property
    def verdict(self) -> str:
        return "unchanged" if self.unchanged else self.comparison.verdict

    @property
    def losses(self) -> list[ImageFlip]:
        return [flip for flip in self.flips if flip.gain < 0]

    @property
    def gains(self) -> list[ImageFlip]:
        return [flip for flip in self.flips if flip.gain > 0]


@dataclass(frozen=True)
class Difference:
    before: RevisionResults
    after: RevisionResults
    images: int
    """Test images of both sides: those that are compared."""
    classes: int
    """Of these images."""
    models: list[ModelChange]
    """Those on both sides."""
    winners: ModelChange | None
    """Where another model wins than before: the two of them."""
    added: list[Score]
    dropped: list[Score]
    parameters: list[dict[str, Any]]
    """``name``, ``before`` and ``after``; without the side that has no such parameter."""
    inputs: list[str]
    """Of ``Side.inputs``, what is not the same."""

    @property
    def changes(self) -> list[ModelChange]:
        return [*self.models, *([self.winners] if self.winners else [])]

    @property
    def worse(self) -> bool:
        """Whether some model, or the winner, is really worse."""
        return any(change.comparison.verdict == "really worse" for change in self.changes)

    def facts(self) -> dict[str, Any]:
        """All of it, for a JSON file."""
        return {
            "before": _revision_json(self.before),
            "after": _revision_json(self.after),
            "images": self.images,
            "nameless": self.after.nameless,
            "models": [_change_json(change) for change in self.models],
            "winners": _change_json(self.winners) if self.winners else None,
            "added": [asdict(score) for score in self.added],
            "dropped": [asdict(score) for score in self.dropped],
            "parameters": self.parameters,
            "inputs": self.inputs,
        }


def compare_revisions(before: RevisionResults, after: RevisionResults) -> Difference:
    """What the change from one side to the other did.

    Raises:
        UserError: the sides have fewer than two test images in common.
    """
    old, new = _common_images(before, after)
    if len(old.images) < 2:
        raise UserError(
            f"{before.name} and {after.name} have {len(old.images)} test images in common (the same path and "
            "class), too few to compare; choose sides of the same dataset"
        )
    pairs = [(name, name) for name in before.models if name in after.models]
    if before.winner != after.winner:
        pairs.append((before.winner, after.winner))
    found = significance.holm_corrected(
        [significance.compare(new.right(second), old.right(first)) for first, second in pairs]
    )
    changes = [
        _model_change(old, new, *pair, comparison) for pair, comparison in zip(pairs, found, strict=True)
    ]
    return Difference(
        before=before,
        after=after,
        images=len(old.images),
        classes=old.images["class"].nunique(),
        models=[change for change in changes if change.before.model == change.after.model],
        winners=next((change for change in changes if change.before.model != change.after.model), None),
        added=[after.score(name) for name in after.models if name not in before.models],
        dropped=[before.score(name) for name in before.models if name not in after.models],
        parameters=_differences(_flatten(before.parameters), _flatten(after.parameters)),
        inputs=[each["name"] for each in _differences(before.inputs, after.inputs)],
    )


def _common_images(
    before: RevisionResults, after: RevisionResults
) -> tuple[RevisionResults, RevisionResults]:
    """Both sides with the images of both alone, in the order of the first."""
    keys = ["path", "class"]
    rows = before.images[keys].reset_index().merge(after.images[keys].reset_index(), on=keys, how="inner")
    rows = rows.sort_values("index_x")

    def kept(side: RevisionResults, chosen: npt.NDArray[np.int64]) -> RevisionResults:
        models = {name: replace(m, answers=m.answers[:, chosen]) for name, m in side.models.items()}
        return replace(side, images=side.images.iloc[chosen].reset_index(drop=True), models=models)

    return kept(before, rows["index_x"].to_numpy()), kept(after, rows["index_y"].to_numpy())


def _model_change(
    old: RevisionResults, new: RevisionResults, first: str, second: str, comparison: Comparison
) -> ModelChange:
    labels = old.images["class"].to_numpy(object)
    before, after = old.right(first), new.right(second)
    answers = old.models[first].answers, new.models[second].answers
    return ModelChange(
        old.score(first),
        new.score(second),
        comparison,
        _moved_classes(labels, before, after),
        _flips(old.images["path"].tolist(), labels, *answers),
        unchanged=np.array_equal(before, after),
    )


def _moved_classes(labels: Names, before: Bools, after: Bools) -> list[ClassChange]:
    names, codes = np.unique(labels, return_inverse=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    p_values = significance.holm([significance.exact_p(after[:, rows], before[:, rows]) for rows in members])
    found = [
        ClassChange(name, len(rows), float(before[:, rows].mean()), float(after[:, rows].mean()), p)
        for name, rows, p in zip(names, members, p_values, strict=True)
    ]
    moved = [each for each in found if abs(each.gain) > 1 + significance.TINY * each.images]
    return sorted(moved, key=lambda each: (-abs(each.gain), each.name))


def _flips(paths: Sequence[str], labels: Names, before: Names, after: Names) -> list[ImageFlip]:
    """Of answers ``[seeds, N]``; half of the seeds are no majority."""
    shares = (before == labels).mean(0), (after == labels).mean(0)
    flipped = (shares[0] - 0.5) * (shares[1] - 0.5) < 0
    found = [
        ImageFlip(
            paths[i],
            labels[i],
            _majority_prediction(before[:, i], labels[i]),
            _majority_prediction(after[:, i], labels[i]),
            float(shares[0][i]),
            float(shares[1][i]),
        )
        for i in np.flatnonzero(flipped).tolist()
    ]
    return sorted(found, key=lambda flip: (flip.gain > 0, -abs(flip.gain), flip.label, flip.path))


def _majority_prediction(answers: Names, label: str) -> str:
    """What most seeds say: the label, or the wrong class that is most frequent among those that are wrong."""
    if 2 * (answers == label).sum() > len(answers):
        return label
    return Counter(answer for answer in answers if answer != label).most_common(1)[0][0]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` as ``{"a.b": 1}``; a list is one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= _flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``name``, ``before`` and ``after`` of what is not the same, sorted."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        sides = {side: each[name] for side, each in (("before", before), ("after", after)) if name in each}
        if len(sides) == 1 or before[name] != after[name]:
            found.append({"name": name, **sides})
    return found


def _revision_json(side: RevisionResults) -> dict[str, Any]:
    return {
        "name": side.name,
        "commit": side.commit,
        "images": len(side.images),
        "winner": side.winner,
        "stale": side.stale,
    }


def _change_json(change: ModelChange) -> dict[str, Any]:
    return {
        "model": change.after.model,
        "before": asdict(change.before),
        "after": asdict(change.after),
        **asdict(change.comparison),
        "verdict": change.verdict,
        "classes": [asdict(each) | {"beyond_chance": each.beyond_chance} for each in change.classes],
        "flips": [asdict(flip) for flip in change.flips],
    }
