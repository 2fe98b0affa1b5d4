"""The metrics that may choose between models: value, 95 % interval, and comparison on the same test images.

Top-1 is compared by ``significance.compare``. For the others each image has a value whose mean is the metric,
and the variance of a difference comes from these values within each class: classes are as large in another
sample of test images. For macro-F1, which is no mean, they are its linear part (infinitesimal jackknife,
Efron 1982; for macro-F1 Takahashi et al. 2022, https://doi.org/10.1007/s10489-021-02635-5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from finegrain.comparison import significance
from finegrain.comparison.significance import Bools, Comparison
from finegrain.evaluation import metrics
from finegrain.models.outputs import Floats, Ints, Predictions, class_averages

Names = npt.NDArray[np.object_]

DRAWS = metrics.BOOTSTRAP_DRAWS
"""Number of bootstrap samples, and of random exchanges of the predictions of two models."""


@dataclass(frozen=True)
class Outcomes:
    """What the runs of one model predict for N test images."""

    labels: Ints
    """``[N]`` class ids."""
    predicted: Ints
    """``[seeds, N]`` class ids."""
    losses: Floats | None = None
    """``[seeds, N]`` loss of each image; None if it is not known."""

    @classmethod
    def from_tables(cls, tables: Sequence[pd.DataFrame]) -> "Outcomes":
        """Read the table of predictions of each seed."""
        predicted = np.stack([table["class_1"].to_numpy(object) for table in tables])
        losses = None
        if all("loss" in table for table in tables):
            losses = np.stack([table["loss"].to_numpy(np.float64) for table in tables])
        return cls.from_names(tables[0]["class"].to_numpy(object), predicted, losses)

    @classmethod
    def from_names(cls, labels: Names, predicted: Names, losses: Floats | None = None) -> "Outcomes":
        """Number the classes that are given by name, ``[N]`` and ``[seeds, N]``."""
        codes, _ = pd.factorize(np.concatenate([labels, predicted.ravel()]))
        n = len(labels)
        return cls(codes[:n].astype(np.int64), codes[n:].astype(np.int64).reshape(-1, n), losses)

    @property
    def correct(self) -> Bools:
        """Whether each prediction is correct, ``[seeds, N]``."""
        return self.predicted == self.labels

    @property
    def num_classes(self) -> int:
        """A number above all class ids."""
        return 1 + max(int(self.labels.max()), int(self.predicted.max()))

    def values(self, metric: str) -> Floats:
        """The metric of each seed, ``[seeds]``."""
        return np.array([self._value(metric, seed) for seed in range(len(self.predicted))])

    def _value(self, metric: str, seed: int) -> float:
        if metric == "top1":
            return float(self.correct[seed].mean())
        if metric == "loss":
            return float(self._known_losses[seed].mean())
        return class_averages(self.labels, self.predicted[seed], self.num_classes)[metric]

    @property
    def _known_losses(self) -> Floats:
        assert self.losses is not None, "the losses of these images are not known"
        return self.losses

    def by_image(self, metric: str) -> Floats:
        """A value for each image, ``[seeds, N]``, whose mean over the images is the metric of the seed."""
        if metric == "loss":
            return self._known_losses
        images = np.bincount(self.labels, minlength=self.num_classes)
        classes, n = (images > 0).sum(), len(self.labels)
        if metric == "top1":
            return self.correct.astype(np.float64)
        if metric == "mean_class_accuracy":
            return self.correct * (n / classes / images[self.labels])
        rows = []
        for predicted, correct in zip(self.predicted, self.correct, strict=True):
            hits = np.bincount(self.labels[correct], minlength=len(images))
            found = np.maximum(images + np.bincount(predicted, minlength=len(images)), 1)
            f1 = np.where(images > 0, 2 * hits / found, 0.0)
            slope = 2 * correct / found[self.labels] - (f1 / found)[self.labels] - (f1 / found)[predicted]
            rows.append(f1.sum() / classes + slope * (n / classes))
        return np.array(rows)

    def same_as(self, other: "Outcomes", metric: str) -> bool:
        """Whether the metric cannot tell them apart, image by image."""
        if metric == "loss":
            return np.array_equal(self._known_losses, other._known_losses)
        if metric == "macro_f1":
            return np.array_equal(self.predicted, other.predicted)
        return np.array_equal(self.correct, other.correct)

    def exchanged(self, other: "Outcomes", images: Bools) -> "Outcomes":
        """These outcomes, with those of another model for some of the images, ``[N]``."""
        losses = None
        if self.losses is not None and other.losses is not None:
            losses = np.where(images, other.losses, self.losses)
        return Outcomes(self.labels, np.where(images, other.predicted, self.predicted), losses)


def compare(metric: str, a: Outcomes, b: Outcomes) -> Comparison:
    """Compare two models on the same test images.

    For other metrics than top-1, with one seed each, p is that of a paired randomization test: predictions of
    random images are exchanged (Yeh 2000, https://aclanthology.org/C00-2137). An image keeps its class, so
    that the test is stratified by class. With several seeds p comes from the variances of images and seeds,
    as all intervals do (``significance.compare_means``).
    """
    if metric == "top1":
        return significance.compare(a.correct, b.correct)
    strata = None if metric == "loss" else np.unique(a.labels, return_inverse=True)[1]
    found = significance.compare_means(a.by_image(metric), b.by_image(metric), strata)
    if len(a.predicted) == len(b.predicted) == 1:
        found = replace(found, p_value=randomization_p(metric, a, b))
    if metric == "loss":
        return replace(found, lower_is_better=True)
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


def randomization_p(metric: str, a: Outcomes, b: Outcomes, seed: int = 0) -> float:
    """Share of random exchanges of the two models' outcomes that differ by at least as much."""

    def distance(one: Outcomes, other: Outcomes) -> float:
        return abs(float((one.values(metric) - other.values(metric)).mean()))

    rng, observed = np.random.default_rng(seed), distance(a, b) - significance.TINY
    as_large = 0
    for _ in range(DRAWS):
        images = rng.integers(0, 2, len(a.labels)).astype(bool)
        as_large += distance(a.exchanged(b, images), b.exchanged(a, images)) >= observed
    return (1 + as_large) / (1 + DRAWS)


def interval(metric: str, outcomes: Outcomes) -> tuple[float, float]:
    """95 % interval of one model's metric, a mean over its seeds.

    That of top-1 is ``significance.accuracy_interval``; else the bootstrap over images, as in
    ``metrics.confidence_intervals``, widened by the variance between seeds.
    """
    if metric == "top1":
        return significance.accuracy_interval(outcomes.correct)
    ends = np.array([_bootstrap_interval(metric, outcomes, seed) for seed in range(len(outcomes.predicted))])
    low, high = ends.mean(0).tolist()
    low, high = significance.widen_by_seeds(low, high, outcomes.values(metric))
    return max(0.0, low), high if metric == "loss" else min(1.0, high)


def _bootstrap_interval(metric: str, outcomes: Outcomes, seed: int) -> tuple[float, float]:
    """The interval of one seed."""
    predicted, n = outcomes.predicted[seed], len(outcomes.labels)
    losses = np.zeros(n) if outcomes.losses is None else outcomes.losses[seed]
    predictions = Predictions(
        outcomes.labels, predicted[:, None], np.ones((n, 1)), losses, outcomes.num_classes
    )

    def statistic(drawn: Predictions, times: Ints) -> dict[str, float]:
        if metric == "loss":
            return {metric: float(times @ drawn.loss / times.sum())}
        averages = class_averages(drawn.labels, drawn.predicted, drawn.num_classes, times.astype(np.float64))
        return {metric: averages[metric]}

    return metrics.bootstrap(predictions, statistic, draws=DRAWS)[metric]
