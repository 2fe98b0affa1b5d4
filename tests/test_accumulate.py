"""A batch that goes through the network in parts makes the step of the whole batch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from params_file import PHASE, write_params
from torch import nn

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.runtime.distributed import SINGLE_PROCESS, World
from finegrain.training.train_step import PhaseContext, TrainingSetup, train_step


def network(norm: type[nn.Module] = nn.Identity) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, 5))


def context(folder, net: nn.Module, accumulate: int, dtype=torch.float32, **more: Any) -> PhaseContext:
    phase = {**PHASE, "accumulate": accumulate, "clip_norm": more.pop("clip_norm", None)}
    config = params.load_params(write_params(folder, phases={"all": phase}, batch_size=8, **more))
    train = SimpleNamespace(
        device=torch.device("cpu"), world=SINGLE_PROCESS, class_names=list("abcde"),
        steps_per_epoch=lambda batch_size: 3,
    )  # fmt: skip
    return PhaseContext(TrainingSetup(net, config, 0, train, dtype), "all")  # type: ignore[arg-type]


def batch(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return torch.randn(images, 3, 8, 8, generator=source), torch.randint(5, (images,), generator=source)


@pytest.mark.parametrize("images", [8, 5])
@pytest.mark.parametrize("accumulate", [2, 3, 4])
@pytest.mark.parametrize(
    "recipe",
    [
        {"label_smoothing": 0.1},
        {"augment__mixup_alpha": 1.0},
        {"augment__cutmix_alpha": 1.0, "augment__mixup_alpha": 1.0},
        {"clip_norm": 0.1},
    ],
    ids=["labels", "mixup", "cutmix", "clipped"],
)
def test_without_batch_statistics_the_step_is_that_of_the_whole_batch(tmp_path, images, accumulate, recipe):
    found = []
    for parts in (1, accumulate):
        net = network()
        step = context(tmp_path, net, parts, **recipe)
        assert step.count_parts(8) == parts
        torch.manual_seed(3)  # MixUp and CutMix draw from it, as the loop seeds it at every step
        loss, logits = train_step(step, torch.optim.SGD(net.parameters(), lr=0.5), *batch(images))
        found.append([loss, logits, *(p.detach() for p in net.parameters())])
    for whole, added in zip(*found, strict=True):
        torch.testing.assert_close(added, whole, rtol=0, atol=1e-6)
    assert not torch.equal(found[0][2], next(network().parameters()))


def test_batch_norm_takes_the_statistics_of_each_part(tmp_path):
    net = network(nn.BatchNorm2d)
    images, labels = batch(8)
    with torch.no_grad():
        first, second = (net[0](part).mean((0, 2, 3)) for part in images.chunk(2))
    train_step(context(tmp_path, net, 2), torch.optim.SGD(net.parameters(), lr=0.0), images, labels)
    assert int(net[1].num_batches_tracked) == 2
    torch.testing.assert_close(net[1].running_mean, 0.9 * 0.1 * first + 0.1 * second)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_an_overflow_in_one_part_skips_the_step_of_all(tmp_path, accumulate):
    net = network()
    step = context(tmp_path, net, accumulate, torch.float16)
    before = [p.detach().clone() for p in net.parameters()]
    step.scaler.update(2.0**100)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    train_step(step, optimizer, *batch(8))
    assert step.scaler.skipped_steps() == 1 and step.scaler.get_scale() == 2.0**99
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    step.scaler.update(2.0**10)
    train_step(step, optimizer, *batch(8))
    assert not torch.equal(next(net.parameters()), before[0])


@pytest.mark.parametrize(
    ("accumulate", "processes", "parts"),
    [
        (1, 1, {8: 1, 5: 1, 2: 1}),
        (2, 1, {8: 2, 5: 2, 4: 1, 2: 1}),
        (3, 1, {8: 3, 5: 2, 3: 1, 2: 1}),
        (4, 1, {8: 4, 7: 3, 5: 2, 3: 1, 2: 1}),
        (2, 2, {4: 2, 3: 1, 2: 1}),
    ],
)
def test_each_part_has_two_images_and_a_small_last_batch_fewer_parts(tmp_path, accumulate, processes, parts):
    step = context(tmp_path, network(), accumulate)
    step.setup.train.world = World(size=processes)  # type: ignore[misc]
    assert {images: step.count_parts(images) for images in parts} == parts
    assert all(len(part) >= 2 for n, k in parts.items() for part in torch.zeros(n).tensor_split(k))


def test_a_batch_with_too_few_images_for_its_parts_is_rejected(tmp_path):
    for more, message in [
        (
            {"phases__all__accumulate": 5},
            "batch_size: 8 images are too few for accumulate: 5",
        ),
        (
            {"phases__all__accumulate": 4, "phases__all__batch_size": 12, "devices": 2},
            "phases.all.batch_size: 12 images .* accumulate: 4; each .*, on each of 2 devices",
        ),
        ({"phases__all__accumulate": 0}, "phases.all.accumulate: 0"),
    ]:
        with pytest.raises(UserError, match=message):
            params.load_params(write_params(tmp_path, **{"batch_size": 8, **more}))
    params.load_params(write_params(tmp_path, batch_size=8, phases__all__accumulate=4))
