"""What changed between two revisions: which models got better, in which classes, on which images.

The results come as arguments, nothing here reads files. If the revisions have different test images, those
that both have are compared (``results.pair_images``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finegrain.comparison import chosen_metric, significance
from finegrain.comparison.significance import Bools, Comparison
from finegrain.core.errors import UserError
from finegrain.experiments.results import ClassNames, RevisionResults, Score, comparable_metric, pair_images


@dataclass(frozen=True)
class ClassChange:
    """Recall of one class before and after."""

    name: str
    images: int
    before: float
    """Recall, in 0..1."""
    after: float
    p_value: float
    """From ``significance.exact_p``, with Holm's correction for the number of classes."""

    @property
    def gain(self) -> float:
        """How many more images are correct, as a mean over the seeds."""
        return (self.after - self.before) * self.images

    @property
    def significant(self) -> bool:
        return self.p_value < significance.SIGNIFICANCE


@dataclass(frozen=True)
class ImageFlip:
    """An image that most seeds of one revision classify correctly and most seeds of the other do not."""

    path: str
    label: str
    before: str
    """The class that most seeds predict."""
    after: str
    correct_before: float
    """Share of the seeds that are correct."""
    correct_after: float

    @property
    def gain(self) -> float:
        """Change of that share."""
        return self.correct_after - self.correct_before


@dataclass(frozen=True)
class ModelChange:
    """A model before and after, or the winner before and another winner after."""

    before: Score
    after: Score
    comparison: Comparison
    """After minus before; p has Holm's correction for the number of comparisons."""
    classes: list[ClassChange]
    """Classes whose gain is more than one image, the largest first."""
    flips: list[ImageFlip]
    """Losses, then gains; the largest first."""
    unchanged: bool
    """Whether the metric cannot tell the predictions apart, such as where exactly the same are correct."""

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
    """All that changed from one revision to another."""

    before: RevisionResults
    after: RevisionResults
    images: int
    """Number of test images that both revisions have: those that are compared."""
    paired_by: str
    """``CommonImages.key``."""
    changed_images: int
    """``CommonImages.changed``."""
    relabeled_images: int
    """``CommonImages.relabeled``."""
    classes: int
    """Number of classes of these images."""
    metric: str
    """The metric of the comparison, from ``comparable_metric``."""
    models: list[ModelChange]
    """The models that both revisions have."""
    winners: ModelChange | None
    """The winner before and the winner after; None if they are the same model."""
    added: list[Score]
    dropped: list[Score]
    parameters: list[dict[str, Any]]
    """``name``, ``before`` and ``after`` of each that differs; a revision that lacks it has no key."""
    inputs: list[str]
    """Names of ``RevisionResults.inputs`` that differ."""

    @property
    def changes(self) -> list[ModelChange]:
        return [*self.models, *([self.winners] if self.winners else [])]

    @property
    def worse(self) -> bool:
        """Whether some model, or the winner, is significantly worse."""
        return any(change.comparison.verdict == "significantly worse" for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for a JSON file."""
        return {
            "before": _revision_dict(self.before),
            "after": _revision_dict(self.after),
            "images": self.images,
            "metric": self.metric,
            "paired_by": self.paired_by,
            "changed_images": self.changed_images,
            "relabeled_images": self.relabeled_images,
            "nameless": self.after.anonymous_reason,
            "models": [_change_dict(change) for change in self.models],
            "winners": _change_dict(self.winners) if self.winners else None,
            "added": [asdict(score) for score in self.added],
            "dropped": [asdict(score) for score in self.dropped],
            "parameters": self.parameters,
            "inputs": self.inputs,
        }


def compare_revisions(before: RevisionResults, after: RevisionResults) -> Difference:
    """Compare the results of two revisions, model by model, on the test images that both have.

    Raises:
        UserError: the revisions have fewer than two test images in common.
    """
    common = pair_images(before, after)
    old, new = common.before, common.after
    if len(old.images) < 2:
        same = {"sha256": "content", "path": "path"}[common.key]
        raise UserError(
            f"{before.name} and {after.name} have {len(old.images)} test images in common (the same {same} "
            "and class), too few to compare; choose revisions with the same dataset"
        )
    metric = comparable_metric(before, after)
    changes = _model_changes(old, new, metric)
    return Difference(
        before=before,
        after=after,
        images=len(old.images),
        paired_by=common.key,
        changed_images=common.changed,
        relabeled_images=common.relabeled,
        classes=old.images["class"].nunique(),
        metric=metric,
        models=[change for change in changes if change.before.model == change.after.model],
        winners=next((change for change in changes if change.before.model != change.after.model), None),
        added=[after.score(name, metric) for name in after.models if name not in before.models],
        dropped=[before.score(name, metric) for name in before.models if name not in after.models],
        parameters=_differences(_flatten(before.parameters), _flatten(after.parameters)),
        inputs=[each["name"] for each in _differences(before.inputs, after.inputs)],
    )


def _model_changes(old: RevisionResults, new: RevisionResults, metric: str) -> list[ModelChange]:
    """Compare each model that both revisions have, then the winners if they differ."""
    pairs = [(name, name) for name in old.models if name in new.models]
    if old.winner != new.winner:
        pairs.append((old.winner, new.winner))
    comparisons = significance.holm_corrected(
        [chosen_metric.compare(metric, new.outcomes(second), old.outcomes(first)) for first, second in pairs]
    )
    return [
        _model_change(old, new, metric, *pair, comparison)
        for pair, comparison in zip(pairs, comparisons, strict=True)
    ]


def _model_change(
    old: RevisionResults, new: RevisionResults, metric: str, first: str, second: str, comparison: Comparison
) -> ModelChange:
    labels = old.images["class"].to_numpy(object)
    before, after = old.correct(first), new.correct(second)
    predictions = old.models[first].predictions, new.models[second].predictions
    return ModelChange(
        old.score(first, metric),
        new.score(second, metric),
        comparison,
        _changed_classes(labels, before, after),
        _flips(old.images["path"].tolist(), labels, *predictions),
        unchanged=old.outcomes(first).same_as(new.outcomes(second), metric),
    )


def _changed_classes(labels: ClassNames, before: Bools, after: Bools) -> list[ClassChange]:
    """Classes in which the number of correct images changed by more than one, the largest change first."""
    names, codes = np.unique(labels, return_inverse=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    p_values = significance.holm([significance.exact_p(after[:, rows], before[:, rows]) for rows in members])
    classes = [
        ClassChange(name, len(rows), float(before[:, rows].mean()), float(after[:, rows].mean()), p)
        for name, rows, p in zip(names, members, p_values, strict=True)
    ]
    changed = [each for each in classes if abs(each.gain) > 1 + significance.TINY * each.images]
    return sorted(changed, key=lambda each: (-abs(each.gain), each.name))


def _flips(
    paths: Sequence[str], labels: ClassNames, before: ClassNames, after: ClassNames
) -> list[ImageFlip]:
    """The images whose majority of seeds flips between correct and incorrect; half of the seeds are none.

    Args:
        before: predictions ``[seeds, N]``; ``after`` may have another number of seeds.
    """
    shares = (before == labels).mean(0), (after == labels).mean(0)
    flipped = (shares[0] - 0.5) * (shares[1] - 0.5) < 0
    flips = [
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
    return sorted(flips, key=lambda flip: (flip.gain > 0, -abs(flip.gain), flip.label, flip.path))


def _majority_prediction(predictions: ClassNames, label: str) -> str:
    """The label if most seeds predict it, else the most frequent incorrect class."""
    if 2 * (predictions == label).sum() > len(predictions):
        return label
    return Counter(name for name in predictions if name != label).most_common(1)[0][0]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` as ``{"a.b": 1}``; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``name``, ``before`` and ``after`` of each value that differs, sorted by name."""
    rows = []
    for name in sorted(before.keys() | after.keys()):
        values = {key: each[name] for key, each in (("before", before), ("after", after)) if name in each}
        if len(values) == 1 or before[name] != after[name]:
            rows.append({"name": name, **values})
    return rows


def _revision_dict(revision: RevisionResults) -> dict[str, Any]:
    return {
        "name": revision.name,
        "commit": revision.commit,
        "images": len(revision.images),
        "winner": revision.winner,
        "stale": revision.stale_parameters,
    }


def _change_dict(change: ModelChange) -> dict[str, Any]:
    return {
        "model": change.after.model,
        "before": asdict(change.before),
        "after": asdict(change.after),
        **asdict(change.comparison),
        "verdict": change.verdict,
        "classes": [asdict(each) | {"beyond_chance": each.significant} for each in change.classes],
        "flips": [_flip_dict(flip) for flip in change.flips],
    }


def _flip_dict(flip: ImageFlip) -> dict[str, Any]:
    row = asdict(flip)
    row["right_before"], row["right_after"] = row.pop("correct_before"), row.pop("correct_after")
    return row
