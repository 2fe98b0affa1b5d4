"""What logits are worth: metrics and their intervals."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from finegrain.models import calibration
from finegrain.models.outputs import Floats, Ints, Predictions

BOOTSTRAP_DRAWS = 2_000
"""Of the bootstrap."""


def compute_metrics(answers: Predictions, weights: Ints | None = None) -> dict[str, float]:
    """top1, top5, macro_f1, mean_class_accuracy, ece (all in 0..1) and loss (nats).

    Macro-F1 and mean class accuracy are means over the classes that have an image.

    Args:
        weights: ``[N]`` how often each image counts; none: once.
    """
    weight = np.ones(len(answers)) if weights is None else weights.astype(np.float64)
    total, correct = weight.sum(), answers.correct

    def by_class(ids: Ints, value: Floats) -> Floats:
        return np.bincount(ids, value, answers.classes).astype(np.float64)

    images = by_class(answers.labels, weight)
    said, right = by_class(answers.predicted, weight), by_class(answers.labels, weight * correct)
    seen = images > 0
    return {
        "top1": float((weight * correct).sum() / total),
        "top5": float((weight * answers.in_top).sum() / total),
        "macro_f1": float((2 * right[seen] / (images[seen] + said[seen])).mean()),
        "mean_class_accuracy": float((right[seen] / images[seen]).mean()),
        "loss": float((weight * answers.loss).sum() / total),
        "ece": calibration.reliability_bins(answers.confidence, correct, weights).error,
    }


def confidence_intervals(answers: Predictions, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % interval of each metric: Wilson's for top1 and top5, for the others of the bootstrap over images.

    The percentile bootstrap of a share close to 1 is too narrow, and of 100 % it is a point; Wilson's is not.
    """
    found = bootstrap(answers, compute_metrics, seed)
    n = len(answers)
    found["top1"] = wilson_interval(int(answers.correct.sum()), n)
    found["top5"] = wilson_interval(int(answers.in_top.sum()), n)
    return found


def bootstrap(
    answers: Predictions,
    statistic: Callable[[Predictions, Ints], dict[str, float]],
    seed: int = 0,
    draws: int = BOOTSTRAP_DRAWS,
) -> dict[str, tuple[float, float]]:
    """95 % percentile interval (Efron 1979) of each value, over draws of the images with replacement."""
    rng, n = np.random.default_rng(seed), len(answers)
    drawn = [
        statistic(answers, np.bincount(rng.integers(0, n, n), minlength=n).astype(np.int64))
        for _ in range(draws)
    ]
    return {
        name: tuple(np.quantile([values[name] for values in drawn], (0.025, 0.975)).tolist())
        for name in drawn[0]
    }


def wilson_interval(correct: float, images: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), which stays inside 0..1 and holds for few images too.

    Args:
        correct: a number of images; of a mean over seeds it need not be whole.
    """
    z = float(norm.ppf(0.975))
    share = correct / images
    centre = share + z * z / (2 * images)
    reach = z * np.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    low, high = ((centre + sign * reach) / (1 + z * z / images) for sign in (-1, 1))
    # rounding may leave them beyond the share itself where it is 0 or 1
    return min(share, max(0.0, float(low))), max(share, min(1.0, float(high)))


def per_class_recall(labels: Ints, predicted: Ints, classes: int) -> tuple[Ints, Floats]:
    """Images and share of right answers of each class, ``[classes]`` each; 0 for a class without images."""
    images = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return images, right / np.maximum(images, 1)


def confusion_matrix(labels: Ints, predicted: Ints, shown: Ints) -> Ints:
    """Counts ``[S, S]`` among the S classes ``shown``, sorted: rows are the truth, columns the prediction."""
    inside = np.isin(labels, shown) & np.isin(predicted, shown)
    rows, columns = np.searchsorted(shown, labels[inside]), np.searchsorted(shown, predicted[inside])
    return np.bincount(rows * len(shown) + columns, minlength=len(shown) ** 2).reshape(len(shown), -1)


def most_confused_classes(labels: Ints, predicted: Ints, classes: int, most: int) -> Ints:
    """The classes of the most mistakes, as the truth or as the answer; in their own order."""
    wrong = labels != predicted
    mistakes = np.bincount(np.concatenate((labels[wrong], predicted[wrong])), minlength=classes)
    return np.sort(np.argsort(-mistakes, kind="stable")[:most])


def confused_pairs(
    labels: Ints, predicted: Ints, names: list[str], most: int
) -> list[tuple[str, str, int, int]]:
    """(true class, predicted class, mistakes, images of the true class), most mistakes first."""
    wrong, images = labels != predicted, np.bincount(labels, minlength=len(names))
    codes, mistakes = np.unique(labels[wrong] * len(names) + predicted[wrong], return_counts=True)
    order = np.argsort(-mistakes, kind="stable")[:most]
    pairs = zip((codes[order] // len(names)).tolist(), (codes[order] % len(names)).tolist(), strict=True)
    return [
        (names[true], names[said], int(mistakes[i]), int(images[true]))
        for i, (true, said) in zip(order, pairs, strict=True)
    ]
