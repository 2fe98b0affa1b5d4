"""The calibration error by hand, and a temperature that finds back what was done to the logits."""

import numpy as np
import pytest

from finegrain.models import calibration, outputs

RNG = np.random.default_rng(0)


def test_the_error_of_a_hand_worked_case():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5])
    correct = np.array([True, True, True, False, True])
    # four images at 0.95 with accuracy 0.75, one at 0.5 with accuracy 1
    found = calibration.reliability_bins(confidence, correct)
    assert found.error == pytest.approx(4 / 5 * 0.2 + 1 / 5 * 0.5)
    assert found.images.sum() == 5 and found.images[14] == 4 and found.images[7] == 1


def test_bins_end_where_guo_ends_them():
    edges = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 14 / 15, 1.0])
    assert calibration.bin_index(edges).tolist() == [0, 0, 1, 13, 14]


def test_the_error_equals_a_slow_loop_and_weights_are_repeats():
    confidence, correct = RNG.uniform(0.1, 1, 500), RNG.uniform(size=500) < 0.6
    slow = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            slow += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration.reliability_bins(confidence, correct).error == pytest.approx(slow)
    weights = RNG.integers(0, 4, 500)
    repeated = calibration.reliability_bins(np.repeat(confidence, weights), np.repeat(correct, weights)).error
    assert calibration.reliability_bins(confidence, correct, weights).error == pytest.approx(repeated)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_logits_that_are_too_large_or_too_small(factor):
    """Labels are drawn from the softmax of the true logits: dividing by the factor is what fits best."""
    true = RNG.normal(size=(20_000, 10)) * 2
    probabilities = np.exp(outputs.log_softmax(true))
    labels = (probabilities.cumsum(1) > RNG.uniform(size=(20_000, 1))).argmax(1)
    found = calibration.fit_temperature((true * factor).astype(np.float32), labels)
    assert found == pytest.approx(factor, rel=0.03)
    fitted = outputs.from_logits((true * factor).astype(np.float32), labels, found)
    assert calibration.reliability_bins(fitted.confidence, fitted.correct).error < 0.015


def test_the_temperature_stays_within_bounds_when_every_answer_is_right():
    logits = (np.eye(4) * 5).astype(np.float32)
    assert calibration.fit_temperature(logits, np.arange(4)) == pytest.approx(0.25, rel=0.01)
    assert calibration.fit_temperature(-logits, np.arange(4)) == pytest.approx(10, rel=0.01)


def test_the_threshold_lets_19_of_20_right_answers_pass():
    confidence = np.concatenate((np.linspace(0.2, 1, 81), np.full(40, 0.01)))
    correct = np.arange(121) < 81
    found = calibration.fit_unknown_threshold(confidence, correct)
    assert found == pytest.approx(0.24)  # the mistakes, sure or not, do not count
    assert (confidence[correct] > found - 1e-9).mean() == pytest.approx(0.95, abs=0.01)
    assert calibration.fit_unknown_threshold(confidence, np.zeros(121, bool)) == 0.0
