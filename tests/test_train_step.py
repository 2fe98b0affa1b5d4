"""A step's loss and gradients are autograd's, and what holds a GPU's memory goes with its phase."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from params_file import write_params
from torch import nn

from finegrain.config import params
from finegrain.config.training import AugmentParams
from finegrain.runtime.distributed import SINGLE_PROCESS
from finegrain.training.train_step import PhaseContext, TrainingSetup, mixup_or_cutmix, train_step


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def context(tmp_path, net: nn.Module, device: str = "cpu", **more) -> PhaseContext:
    config = params.load_params(write_params(tmp_path, **more))
    train = SimpleNamespace(
        device=torch.device(device), world=SINGLE_PROCESS, class_names=list("abcde"),
        steps_per_epoch=lambda batch_size: 1000,
    )  # fmt: skip
    return PhaseContext(TrainingSetup(net, config, 0, train, torch.float32), "all")  # type: ignore[arg-type]


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=source), torch.randint(5, (4,), generator=source)


def test_loss_and_gradients_are_autograds_and_the_optimizer_takes_them(tmp_path):
    net, other = small_network(), small_network()
    step = context(tmp_path, net, label_smoothing=0.1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for seed in (1, 2):  # gradients of an earlier step must not add up
        images, labels = batch(seed)
        expected = F.cross_entropy(other(images), labels, label_smoothing=0.1)
        gradients = torch.autograd.grad(expected, list(other.parameters()))
        loss, logits = train_step(step, optimizer, images, labels)
        assert torch.equal(loss, expected.detach()) and logits.shape == (4, 5)
        assert not loss.requires_grad and not logits.requires_grad
        with torch.no_grad():
            for parameter, gradient in zip(other.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient
        for parameter, wanted in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(parameter, wanted, rtol=0, atol=1e-7)


def test_a_phase_frees_its_graph_without_the_garbage_collector(tmp_path):
    """The garbage collector may run late: it does not count the GPU memory that a recorded step holds."""
    phase = context(tmp_path, nn.Linear(2, 2), device="cuda", phases__all__epochs=4)
    planned = phase.graphed._planned_steps
    assert planned is not None and planned(64) == 4000
    gone = weakref.ref(phase.graphed)
    gc.disable()
    try:
        del phase, planned
        assert gone() is None
    finally:
        gc.enable()


NONE = AugmentParams(crop_scale=(1.0, 1.0))


@pytest.mark.parametrize("key", ["mixup_alpha", "cutmix_alpha"])
def test_one_kind_of_mixing_blends_images_and_labels_in_the_same_way(key):
    """An image of ones among zeros: its share of the pixels is its share of the label."""
    mix = mixup_or_cutmix(NONE.model_copy(update={key: 1.0}), 4)
    assert mix is not None
    images, labels = torch.zeros(4, 3, 16, 16), torch.arange(4)
    images[0] = 1
    torch.manual_seed(3)
    mixed, probabilities = mix(images, labels)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), probabilities[:, 0])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
    assert 0 < probabilities[0, 0] < 1


def test_with_both_kinds_each_batch_gets_one_and_with_none_there_is_no_mixing():
    mix = mixup_or_cutmix(NONE.model_copy(update={"mixup_alpha": 1.0, "cutmix_alpha": 1.0}), 2)
    assert mix is not None and mixup_or_cutmix(NONE, 2) is None
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 16, 16)
    images[0] = 1
    mixed = [mix(images, torch.arange(2))[0] for _ in range(20)]
    # CutMix leaves zeros and ones, MixUp makes fractions
    assert {bool(((values == 0) | (values == 1)).all()) for values in mixed} == {True, False}
