"""Classification metrics of one model with their 95 % intervals, and its confusions."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from finegrain.models import calibration
from finegrain.models.outputs import Floats, Ints, Predictions, class_averages

BOOTSTRAP_DRAWS = 2_000
"""Number of bootstrap samples."""


def compute_metrics(predictions: Predictions, weights: Ints | None = None) -> dict[str, float]:
    """top1, top5, macro_f1, mean_class_accuracy, ece (all in 0..1) and loss (nats).

    Args:
        weights: ``[N]`` how often each image counts; None means once.
    """
    weight = np.ones(len(predictions)) if weights is None else weights.astype(np.float64)
    total, correct = weight.sum(), predictions.correct
    return {
        "top1": float((weight * correct).sum() / total),
        "top5": float((weight * predictions.correct_in_top5).sum() / total),
        **class_averages(predictions.labels, predictions.predicted, predictions.num_classes, weight),
        "loss": float((weight * predictions.loss).sum() / total),
        "ece": calibration.reliability_bins(predictions.confidence, correct, weights).ece,
    }


def confidence_intervals(predictions: Predictions, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % interval of each metric: Wilson's for top1 and top5, a bootstrap over the images for the others.

    The percentile bootstrap is too narrow for a share close to 1, and for 100 % it is a point; Wilson's
    interval is not.
    """
    intervals = bootstrap(predictions, compute_metrics, seed)
    n = len(predictions)
    intervals["top1"] = wilson_interval(int(predictions.correct.sum()), n)
    intervals["top5"] = wilson_interval(int(predictions.correct_in_top5.sum()), n)
    return intervals


def bootstrap(
    predictions: Predictions,
    statistic: Callable[[Predictions, Ints], dict[str, float]],
    seed: int = 0,
    draws: int = BOOTSTRAP_DRAWS,
) -> dict[str, tuple[float, float]]:
    """95 % percentile interval (Efron 1979) of each value of a statistic.

    Args:
        statistic: maps predictions and ``[N]`` weights, how often each image was drawn, to named values.
    """
    rng, n = np.random.default_rng(seed), len(predictions)
    samples = [
        statistic(predictions, np.bincount(rng.integers(0, n, n), minlength=n).astype(np.int64))
        for _ in range(draws)
    ]
    return {
        name: tuple(np.quantile([values[name] for values in samples], (0.025, 0.975)).tolist())
        for name in samples[0]
    }


def wilson_interval(correct: float, images: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927), which stays inside 0..1 and holds for few images too.

    Args:
        correct: number of images; it need not be whole, as for a mean over seeds.
    """
    z = float(norm.ppf(0.975))
    share = correct / images
    center = share + z * z / (2 * images)
    margin = z * np.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    low, high = ((center + sign * margin) / (1 + z * z / images) for sign in (-1, 1))
    # where the share is 0 or 1, rounding may put an end beyond it
    return min(share, max(0.0, float(low))), max(share, min(1.0, float(high)))


def per_class_recall(labels: Ints, predicted: Ints, classes: int) -> tuple[Ints, Floats]:
    """Number of images and recall of each class, ``[classes]`` each; 0 for a class without images."""
    images = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[labels == predicted], minlength=classes)
    return images, correct / np.maximum(images, 1)


def confusion_matrix(labels: Ints, predicted: Ints, shown: Ints) -> Ints:
    """Numbers of images ``[S, S]`` among S classes: rows are the true class, columns the predicted one.

    Args:
        shown: ``[S]`` class ids in increasing order; images with another true or predicted class are left
            out.
    """
    inside = np.isin(labels, shown) & np.isin(predicted, shown)
    rows, columns = np.searchsorted(shown, labels[inside]), np.searchsorted(shown, predicted[inside])
    return np.bincount(rows * len(shown) + columns, minlength=len(shown) ** 2).reshape(len(shown), -1)


def most_confused_classes(labels: Ints, predicted: Ints, classes: int, most: int) -> Ints:
    """Ids of the classes with the most mistakes, as the true or the predicted class, in increasing order."""
    incorrect = labels != predicted
    mistakes = np.bincount(np.concatenate((labels[incorrect], predicted[incorrect])), minlength=classes)
    return np.sort(np.argsort(-mistakes, kind="stable")[:most])


def confused_pairs(
    labels: Ints, predicted: Ints, names: list[str], most: int
) -> list[tuple[str, str, int, int]]:
    """(true class, predicted class, mistakes, images of the true class), most mistakes first."""
    incorrect, images = labels != predicted, np.bincount(labels, minlength=len(names))
    codes, mistakes = np.unique(labels[incorrect] * len(names) + predicted[incorrect], return_counts=True)
    order = np.argsort(-mistakes, kind="stable")[:most]
    pairs = zip((codes[order] // len(names)).tolist(), (codes[order] % len(names)).tolist(), strict=True)
    return [
        (names[true], names[other], int(mistakes[i]), int(images[true]))
        for i, (true, other) in zip(order, pairs, strict=True)
    ]
