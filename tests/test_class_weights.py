"""Class weights: what they are, that a loss with them is the sum of its parts, and that they train."""

import copy
from pathlib import Path
from typing import Any

import narrow_resnet
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from params_file import SOLVED_PHASE, write_params
from scripted_fit import run, split
from sklearn.utils.class_weight import compute_class_weight
from test_solved_phase import HEAD, TRAINED
from torch import Tensor

from finegrain.config import params
from finegrain.loading.class_weights import EFFECTIVE_BETA, class_weights, image_weights
from finegrain.training.history import TrainingHistory
from finegrain.training.train_step import mixup_or_cutmix, weighted_targets

LABELS = torch.tensor([0] * 20 + [1] * 5 + [3])
"""Class 2 has no image."""
WEIGHTS = torch.tensor([0.5, 1.0, 4.0, 2.0])
SMOOTHING = 0.2


def test_balanced_weights_are_scikit_learn_s():
    found = class_weights(LABELS, 4, "balanced")
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS.numpy())
    np.testing.assert_allclose(found[[0, 1, 3]].numpy(), expected)
    assert found[2] == 0 and torch.equal(class_weights(LABELS, 4, "none")[[0, 1, 3]], torch.ones(3).double())


def test_effective_weights_lie_between_none_and_balanced():
    """The ratio of two weights is that of sums of a geometric series (Cui et al. 2019, equation 1)."""
    found = class_weights(LABELS, 4, "effective")
    many, one = (sum(EFFECTIVE_BETA**i for i in range(n)) for n in (20, 1))
    assert (found[3] / found[0]).item() == pytest.approx(many / one)
    assert 1 < found[3] / found[0] < 20 and found[2] == 0


@pytest.mark.parametrize("kind", ["none", "balanced", "effective"])
def test_the_mean_over_the_images_is_1(kind):
    assert image_weights(LABELS, 4, kind).mean().item() == pytest.approx(1)


def loss_of(logits: Tensor, label: int) -> Tensor:
    """The weighted loss of one image, by its definition."""
    smoothed = F.cross_entropy(logits[None], torch.tensor([label]), label_smoothing=SMOOTHING)
    return WEIGHTS[label] * smoothed


def test_the_loss_is_the_mean_of_the_images_weighted_losses():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 3, 2, 0])
    found = F.cross_entropy(logits, weighted_targets(labels, WEIGHTS, SMOOTHING))
    expected = torch.stack([loss_of(row, int(label)) for row, label in zip(logits, labels, strict=True)])
    torch.testing.assert_close(found, expected.mean())
    halves = [F.cross_entropy(logits[i::2], weighted_targets(labels[i::2], WEIGHTS, 0.2)) for i in (0, 1)]
    torch.testing.assert_close(sum(halves) / 2, found)  # as two processes average it


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_the_loss_of_a_blend_is_the_blend_of_the_losses(kind, tmp_path):
    augment = params.load_params(write_params(tmp_path, **{f"augment__{kind}": 1.0})).augment
    mix, labels = mixup_or_cutmix(augment, 4), torch.tensor([0, 1, 3, 2])
    assert mix is not None
    torch.manual_seed(1)
    _, targets = mix(torch.rand(4, 3, 8, 8), labels)
    assert (targets > 0).sum() > 4  # labels were blended
    logits = torch.randn(4, 4)
    expected = sum(
        targets[image, label] * loss_of(logits[image], label) for image in range(4) for label in range(4)
    )
    found = F.cross_entropy(logits, weighted_targets(targets, WEIGHTS, SMOOTHING))
    torch.testing.assert_close(found, expected / 4)


@pytest.fixture
def unbalanced(tiny_pack: Path) -> Path:
    """The tiny pack with two train images of the third class instead of fourteen."""
    labels = np.load(tiny_pack / "train_labels.npy")
    kept = np.flatnonzero((labels < 2) | (np.cumsum(labels == 2) <= 2))
    for name in ("train", "train_labels"):
        np.save(tiny_pack / f"{name}.npy", np.load(tiny_pack / f"{name}.npy")[kept])
    return tiny_pack


def settings(folder: Path, **more: Any) -> params.Params:
    return params.load_params(write_params(folder, **{"batch_size": 10, "label_smoothing": 0.0} | more))


def test_weights_that_are_all_but_one_leave_the_training_as_it_is(tiny_pack, tmp_path, monkeypatch):
    """Classes of the same size: the loss is computed from other targets, and is the same."""
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    losses = []
    for kind in ("none", "balanced"):
        config = settings(
            tmp_path, phases={"all": TRAINED}, precision="fp32", label_smoothing=0.1, class_weights=kind
        )
        _, history = run(tiny_pack, config)
        losses.append([row["train_loss"] for row in history.rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def recall_of_the_rare_class(history: TrainingHistory, pack: Path) -> float:
    assert history.val_logits is not None
    labels = split(pack, "val").labels
    return (history.val_logits.argmax(1)[labels == 2] == 2).double().mean().item()


@pytest.mark.parametrize("per_phase", [False, True], ids=["for all phases", "for the phase"])
def test_a_solved_head_finds_more_of_a_rare_class_with_weights(unbalanced, tmp_path, monkeypatch, per_phase):
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    found = {}
    for kind in ("none", "balanced"):
        phase = copy.deepcopy(SOLVED_PHASE) | ({"class_weights": kind} if per_phase else {})
        more = {} if per_phase else {"class_weights": kind}
        config = settings(tmp_path, phases={"solve": {**phase, "strength": 30.0}}, head=HEAD, **more)
        _, history = run(unbalanced, config)
        found[kind] = recall_of_the_rare_class(history, unbalanced)
        weights = image_weights(split(unbalanced, "train").labels, 3, kind)
        losses = -history.leave_one_out["label_probability"].double().log()
        assert history.rows[0]["train_loss"] == pytest.approx((weights * losses).mean().item(), rel=1e-4)
    assert found["balanced"] > found["none"]
