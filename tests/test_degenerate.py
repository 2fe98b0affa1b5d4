"""Tiny or uniform data sets and extreme parameters end with one clear message, or with true results."""

import warnings

import degenerate
import drawn
import numpy as np
import pytest
import true_results
from degenerate import COVARIANCE, image
from hypothesis import given, settings
from hypothesis import strategies as st
from params_file import PHASE, SOLVED_PHASE

from finegrain.comparison import significance
from finegrain.dataset import pack_writer
from finegrain.evaluation import class_plots, gradcam, metrics, plot_style, prediction_plots
from finegrain.models import calibration, outputs

EXAMPLES = 6
"""Random cases in `make test`; a case takes about a second."""


def official(kind: str, train: int, val: int, test: int, classes: int = 2) -> dict[str, bytes]:
    """An archive with its own splits; only the first classes have an image in a split that is too small."""
    counts = {"train": train * classes, "val": val, "test": test}
    paths = [f"{split}/{i % classes}/{i}.png" for split, count in counts.items() for i in range(count)]
    return {path: image(kind, number) for number, path in enumerate(paths)}


def require_message_or_true_results(files: dict[str, bytes], changes: dict[str, object]) -> str | None:
    """Run all stages; the message that stopped them."""
    with degenerate.project() as folder:
        if files:
            drawn.zip_file(folder / "photos.zip", files)
        degenerate.write_params(folder, changes)
        message = degenerate.run_stages(folder)
        if message is None:
            true_results.require_true_results(folder)
            true_results.require_predictions(folder)
        return message


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        (official("red", 4, 2, 2), {"seeds": [0, 1]}),
        (official("black", 3, 1, 1), {"seeds": [0, 1], "phases": {"null": PHASE}}),
        (official("same", 1, 1, 1), {"phases": {"1": SOLVED_PHASE}, "head": COVARIANCE}),
        (
            official("pattern", 1, 1, 1, classes=40),
            {"phases": {"true": SOLVED_PHASE, "nan": PHASE}, "refit": True},
        ),
    ],
    ids=["one channel", "one test image", "one image a class", "40 classes"],
)
@pytest.mark.slow
def test_small_and_uniform_data_give_a_report(files, changes):
    assert require_message_or_true_results(files, changes) is None


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(degenerate.photos(), degenerate.changes())
def test_some_data_and_parameters(files, changes):
    require_message_or_true_results(files, changes)


@pytest.mark.long
@settings(max_examples=max(150, settings().max_examples))
@given(degenerate.photos(), degenerate.changes())
def test_many_data_and_parameters(files, changes):
    require_message_or_true_results(files, changes)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_channel_without_variation_is_divided_by_one_step_of_a_byte(value):
    histogram = np.zeros((3, 256), np.int64)
    histogram[:2, value] = 10**6
    histogram[2] = 1000
    mean, std = pack_writer.mean_std(histogram)
    assert mean[0] == pytest.approx(value / 255) and std[:2] == [1 / 255] * 2
    assert std[2] == pytest.approx(np.arange(256).std() / 255)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 3, 30]))


@st.composite
def two_models(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Which predictions of two models are correct: a few seeds each, few images, often all right or wrong."""
    first, second, images = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    a, b = (rng.random((n, images)) < draw(st.sampled_from([0, 0.1, 0.5, 1])) for n in (first, second))
    return a, b


@given(two_models())
def test_every_comparison_has_an_interval_and_a_p_value(models):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, back = significance.compare(*models), significance.compare(*models[::-1])
        p = significance.exact_p(*models)
        low, high = significance.accuracy_interval(models[0])
    assert -1 <= found.low <= found.difference + 1e-12 and found.difference - 1e-12 <= found.high <= 1
    assert 0 <= found.p_value <= 1 and 0 <= p <= 1
    assert back.p_value == pytest.approx(found.p_value) and back.difference == pytest.approx(
        -found.difference
    )
    assert 0 <= low <= models[0].mean() + 1e-12 and models[0].mean() - 1e-12 <= high <= 1
    if models[0].shape[1] == 1:
        assert found.verdict == "within noise"


@st.composite
def logits_and_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few images of 2 to 401 classes; logits equal, tiny, or as large as float32 holds."""
    images, classes = draw(st.sampled_from([1, 2, 7])), draw(st.sampled_from([2, 3, 31, 401]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = rng.standard_normal((images, classes)) * draw(st.sampled_from([0, 1e-30, 1, 50, 1e37]))
    labels = logits.argmax(1) if draw(st.booleans()) else rng.integers(0, classes, images)
    return logits.astype(np.float32), labels


@settings(max_examples=30)
@given(logits_and_labels())
def test_metrics_and_calibration_of_few_images_are_finite(drawn_logits):
    logits, labels = drawn_logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        temperature = calibration.fit_temperature(logits, labels)
        predictions = outputs.from_logits(logits, labels, temperature)
        found = metrics.compute_metrics(predictions)
        intervals = metrics.bootstrap(predictions, metrics.compute_metrics, draws=5)
        threshold = calibration.fit_unknown_threshold(predictions.confidence, predictions.correct)
    assert 0.25 <= temperature <= 10 and 0 <= threshold <= 1
    assert all(np.isfinite(value) for value in found.values())
    assert all(0 <= value <= 1 for name, value in found.items() if name != "loss")
    assert all(np.isfinite(ends).all() and ends[0] <= ends[1] for ends in intervals.values())


@pytest.mark.parametrize(("classes", "correct"), [(2, True), (2, False), (31, False), (401, True)])
def test_plots_of_one_test_image(classes, correct):
    labels, predicted = np.array([1]), np.array([1 if correct else 0])
    logits = np.zeros((1, classes), np.float32)
    logits[0, predicted] = 30
    predictions = outputs.from_logits(logits, labels)
    names = [f"{i} " + "x" * 300 for i in range(classes)]
    bins = calibration.reliability_bins(predictions.confidence, predictions.correct)
    images, recall = metrics.per_class_recall(labels, predicted, classes)
    table = class_plots.pd.DataFrame({"class": names, "images": images, "recall": recall})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [
            prediction_plots.model_confusion_plot(predictions, names),
            prediction_plots.reliability_plot(bins, bins, 0.25),
            class_plots.per_class_recall_plot(table),
        ]
        for figure in figures:
            figure.set_dpi(20)
            assert plot_style.render_png(figure).startswith(b"\x89PNG")
    assert metrics.confusion_matrix(labels, predicted, np.arange(classes)).sum() == 1
    assert (
        gradcam.overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2), np.float32)).max() <= 2
    )  # the color of none
