"""The calibration error equals a hand-computed one; the temperature recovers a known scale of logits."""

import narrow_resnet
import numpy as np
import pytest
import torch
from params_file import write_params

import train
from finegrain.core import paths
from finegrain.loading import batches
from finegrain.models import calibration, inference, outputs, storage

RNG = np.random.default_rng(0)


def test_the_error_of_a_hand_computed_case():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5])
    correct = np.array([True, True, True, False, True])
    # four images at 0.95 with accuracy 0.75, one at 0.5 with accuracy 1
    found = calibration.reliability_bins(confidence, correct)
    assert found.ece == pytest.approx(4 / 5 * 0.2 + 1 / 5 * 0.5)
    assert found.images.sum() == 5 and found.images[14] == 4 and found.images[7] == 1


def test_bins_include_their_upper_edge():
    edges = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 14 / 15, 1.0])
    assert calibration.bin_index(edges).tolist() == [0, 0, 1, 13, 14]


def test_the_error_equals_a_slow_loop_and_weights_count_images_several_times():
    confidence, correct = RNG.uniform(0.1, 1, 500), RNG.uniform(size=500) < 0.6
    slow = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            slow += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration.reliability_bins(confidence, correct).ece == pytest.approx(slow)
    weights = RNG.integers(0, 4, 500)
    repeated = calibration.reliability_bins(np.repeat(confidence, weights), np.repeat(correct, weights)).ece
    assert calibration.reliability_bins(confidence, correct, weights).ece == pytest.approx(repeated)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_recovers_the_scale_of_the_logits(factor):
    """Labels are drawn from the softmax of the true logits, so that dividing by the factor fits best."""
    true = RNG.normal(size=(20_000, 10)) * 2
    probabilities = np.exp(outputs.log_softmax(true))
    labels = (probabilities.cumsum(1) > RNG.uniform(size=(20_000, 1))).argmax(1)
    found = calibration.fit_temperature((true * factor).astype(np.float32), labels)
    assert found == pytest.approx(factor, rel=0.03)
    fitted = outputs.from_logits((true * factor).astype(np.float32), labels, found)
    assert calibration.reliability_bins(fitted.confidence, fitted.correct).ece < 0.015


def test_the_temperature_stays_within_bounds_if_all_predictions_are_correct_or_none():
    logits = (np.eye(4) * 5).astype(np.float32)
    assert calibration.fit_temperature(logits, np.arange(4)) == pytest.approx(0.25, rel=0.01)
    assert calibration.fit_temperature(-logits, np.arange(4)) == pytest.approx(10, rel=0.01)


def test_95_of_100_correct_predictions_are_above_the_threshold():
    confidence = np.concatenate((np.linspace(0.2, 1, 81), np.full(40, 0.01)))
    correct = np.arange(121) < 81
    found = calibration.fit_unknown_threshold(confidence, correct)
    assert found == pytest.approx(0.24)  # incorrect predictions do not count
    assert (confidence[correct] > found - 1e-9).mean() == pytest.approx(0.95, abs=0.01)
    assert calibration.fit_unknown_threshold(confidence, np.zeros(121, bool)) == 0.0


def test_stage_train_fits_both_on_the_validation_images(project, tiny_pack, monkeypatch):
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    wrong = np.load(tiny_pack / "val_labels.npy")
    wrong[0] = (wrong[0] + 1) % 3  # without a mistake the best temperature would be the limit
    np.save(tiny_pack / "val_labels.npy", wrong)
    phases = {"solve": {"solve": "ridge", "image_size": 32}}
    write_params(project, dataset__name="tiny", models=["resnet18"], precision="fp32", phases=phases)
    train.main(["--model", "resnet18", "--seed", "0"])
    run = paths.Run("tiny", "resnet18", 0)
    net, metadata = storage.load_model(run.weights, run.sidecar)
    val = batches.PackedSplit(tiny_pack, "val", torch.device("cpu"), metadata["mean"], metadata["std"])
    logits, labels = (each.numpy() for each in inference.predict_split(net, val, 32, torch.float32))
    assert 0.3 < metadata["temperature"] < 9
    assert metadata["temperature"] == pytest.approx(calibration.fit_temperature(logits, labels), rel=1e-3)
    found = outputs.from_logits(logits, labels, metadata["temperature"])
    threshold = calibration.fit_unknown_threshold(found.confidence, found.correct)
    assert metadata["unknown_below"] == pytest.approx(threshold, rel=1e-3)
