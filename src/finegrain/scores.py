"""What logits are worth: metrics, intervals, paired tests."""

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def softmax(logits: Floats) -> Floats:
    """``[N, C]`` to probabilities, in float64 so that the loss of a sure mistake stays finite."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def metrics(probabilities: Floats, labels: Ints) -> dict[str, float]:
    """top1, top5, macro_f1, mean_class_accuracy (all in 0..1), loss (nats), and the interval of top1.

    Args:
        probabilities: ``[N, C]``, rows summing to 1.
        labels: ``[N]`` class ids; every class counts in the averages only if it has an image here.
    """
    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(1)
    low, high = wilson(int((predicted == labels).sum()), len(labels))
    five = min(5, len(classes) - 1)
    top5 = 1.0 if five < 1 else _top_k(probabilities, labels, five)
    return {
        "top1": float((predicted == labels).mean()),
        "top1_low": low,
        "top1_high": high,
        "top5": top5 if len(classes) > 5 else 1.0,
        "macro_f1": float(
            f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
        ),
        "mean_class_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "loss": float(log_loss(labels, probabilities, labels=classes)),
    }


def _top_k(probabilities: Floats, labels: Ints, k: int) -> float:
    classes = np.arange(probabilities.shape[1])
    if len(classes) == 2:  # scikit-learn takes two classes as one column
        return float((probabilities.argmax(1) == labels).mean())
    return float(top_k_accuracy_score(labels, probabilities, k=k, labels=classes))


def wilson(correct: int, images: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), which stays inside 0..1 and holds for few images too."""
    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(a_correct: npt.NDArray[np.bool_], b_correct: npt.NDArray[np.bool_]) -> float:
    """Exact two-sided p-value that two models are equally often right on the same images (McNemar 1947).

    Only the images that one of them gets right and the other wrong count.
    """
    only_a = int((a_correct & ~b_correct).sum())
    only_b = int((~a_correct & b_correct).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


def recall(labels: Ints, predicted: Ints, classes: int) -> tuple[Ints, Floats]:
    """Images and share of right answers of each class, ``[classes]`` each; 0 for a class without images."""
    images = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return images, right / np.maximum(images, 1)


def confusion(labels: Ints, predicted: Ints, shown: Ints) -> Ints:
    """Counts ``[S, S]`` among the S classes ``shown``, sorted: rows are the truth, columns the prediction."""
    inside = np.isin(labels, shown) & np.isin(predicted, shown)
    rows, columns = np.searchsorted(shown, labels[inside]), np.searchsorted(shown, predicted[inside])
    return np.bincount(rows * len(shown) + columns, minlength=len(shown) ** 2).reshape(len(shown), -1)


def most_mistaken(labels: Ints, predicted: Ints, classes: int, most: int) -> Ints:
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
