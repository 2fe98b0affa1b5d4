"""Every step of a recipe is that of its source; the protocols here are written from the sources alone."""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from finegrain.augmentation import transform
from finegrain.config.training import HeadParams
from finegrain.loading import batches
from finegrain.models import build
from finegrain.training import checkpoint, choose_lr, loop
from finegrain.training.history import TrainingHistory
from finegrain.training.train_step import TrainingSetup
from recipes import PUBLISHED_TABLES, RECIPES, REFERENCES, read

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ExpectedPhase:
    """What the source does in a phase; ``schedule`` gives the learning rate and momentum of each step."""

    name: str
    epochs: int
    image_size: int
    batch: int
    peak: float
    schedule: Any
    """Yields learning rate and momentum of each step: (peak, momentum, epochs, steps per epoch) -> pairs."""
    momentum: float = 0.9
    trainable: str = "all"
    lr_multipliers: tuple[float, float, float] = (1.0, 1.0, 1.0)
    decay: float = 0.0
    decay_of_vectors: float | None = None


def step_lr(every: int):
    """torch's StepLR, one step an epoch."""

    def rates(peak: float, momentum: float, epochs: int, steps: int) -> Iterator[tuple[float, float]]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak, momentum=momentum)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, every, 0.1)
        for _ in range(epochs):
            for _ in range(steps):
                yield optimizer.param_groups[0]["lr"], momentum
            optimizer.step()
            scheduler.step()

    return rates


def one_cycle(up: float, first: float, last: float):
    """torch's OneCycleLR, momentum 0.95 -> 0.85 -> 0.95."""

    def rates(peak: float, momentum: float, epochs: int, steps: int) -> Iterator[tuple[float, float]]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak, momentum=momentum)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peak, epochs * steps, pct_start=up, div_factor=first, final_div_factor=last / first
        )
        for step in range(epochs * steps):
            yield optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
            optimizer.step()
            if step < epochs * steps - 1:
                scheduler.step()

    return rates


def cosine(peak: float, momentum: float, epochs: int, steps: int) -> Iterator[tuple[float, float]]:
    """torch's CosineAnnealingLR, moved at every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak, momentum=momentum)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for _ in range(epochs * steps):
        yield optimizer.param_groups[0]["lr"], momentum
        optimizer.step()
        scheduler.step()


THIRDS = (1 / 9, 1 / 3, 1.0)


FASTAI = {"schedule": one_cycle(0.25, 25, 1e5), "decay": 0.01, "decay_of_vectors": 0.0}


KALYAN = {"schedule": one_cycle(0.3, 25, 25e3), "lr_multipliers": THIRDS, "decay": 0.001}


PROTOCOLS = {
    "stanford-cars-sgd": [ExpectedPhase("all", 25, 224, 4, 0.001, step_lr(7))],
    "stanford-cars-one-cycle": [
        ExpectedPhase("head", 20, 224, 32, 0.01, trainable="head+norm", **KALYAN),
        ExpectedPhase("all", 40, 224, 32, 0.003, **KALYAN),
        ExpectedPhase("larger", 40, 299, 16, 0.003, **KALYAN),
    ],
    "cifar100-mlp-head": [ExpectedPhase("all", 20, 32, 64, 0.003, step_lr(10), decay=0.0005)],
    "stanford-cars-freeze": [
        ExpectedPhase("head", 3, 256, 256, 0.003, trainable="head", **FASTAI),
        ExpectedPhase("all", 5, 256, 256, 0.0003, **FASTAI),
        ExpectedPhase("finish", 3, 256, 256, 0.0001, **FASTAI),
    ],
    **{name: [ExpectedPhase("all", 128, 448, 64, 0.025, cosine, decay=0.0005)] for name in PUBLISHED_TABLES},
}


class Tiny(nn.Module):
    """A network with the module names of a ResNet that is fast at any image size."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        for i in range(1, 5):
            setattr(self, f"layer{i}", nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
        self.avgpool, self.fc = nn.Identity(), head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(images[:, :, ::32, ::32]))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


def group_of(name: str) -> int:
    return 2 if name.startswith("fc") else 1 if name.startswith(("layer3", "layer4")) else 0


def is_trained(name: str, trainable: str) -> bool:
    norm = name.startswith("bn1") or ".1." in name and not name.startswith("fc")
    return trainable == "all" or name.startswith("fc") or (trainable == "head+norm" and norm)


@dataclass(frozen=True)
class OptimizerStep:
    """A step that the optimizer took."""

    groups: dict[str, tuple[float, float, float]]
    """Parameter -> learning rate, momentum (AdamW: beta 1), weight decay."""
    shape: tuple[int, ...]
    """Shape of the images."""
    require_grad: set[str]
    """Parameters that require a gradient."""


def blank_images(images: torch.Tensor, *_: Any, image_size: int, normalization: Any) -> torch.Tensor:
    """Gray images of the requested size: their content does not matter here, and takes most of the time."""
    shades = torch.linspace(-1, 1, len(images))[:, None, None, None]  # batch norm divides by what differs
    return shades.expand(len(images), 3, image_size, image_size)


def record_steps(data: dict[str, Any], pack: Path, folder: Path) -> list[OptimizerStep]:
    """Run the real fit() over the whole recipe with a tiny network; returns every step of the optimizer."""
    config = read(data, folder)
    net = Tiny(nn.Linear(4, 3))
    names = {id(p): key for key, p in net.named_parameters()}
    shapes: list[tuple[int, ...]] = []
    seen: list[OptimizerStep] = []
    net.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = {}
        for group in optimizer.param_groups:
            momentum = group["betas"][0] if "betas" in group else group["momentum"]
            for parameter in group["params"]:
                groups[names[id(parameter)]] = (group["lr"], momentum, group["weight_decay"])
        seen.append(
            OptimizerStep(groups, shapes[-1], {k for k, p in net.named_parameters() if p.requires_grad})
        )

    hook = register_optimizer_step_pre_hook(note)
    train_split, val_split = (
        batches.PackedSplit(pack, part, CPU, [0.2] * 3, [0.15] * 3) for part in ("train", "val")
    )
    try:
        with checkpoint.Checkpointer("trace", {}) as checkpointer, pytest.MonkeyPatch.context() as patch:
            patch.setattr(transform, "transform_images", blank_images)
            setup = TrainingSetup(net, config, 0, train_split, torch.float32)
            rows = list(loop.fit(setup, val_split, checkpointer, TrainingHistory()))
    finally:
        hook.remove()
    phases = [name for name, phase in config.phases.items() for _ in range(phase.epochs)]
    assert [row["phase"] for row in rows] == phases
    return seen


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_step_of_a_reference_project_is_the_one_of_its_source(name, tiny_pack, monkeypatch, tmp_path):
    """Learning rate, momentum, weight decay, trained parameters, image and batch size at each step."""
    expected = PROTOCOLS[name]
    data = copy.deepcopy(RECIPES[name])
    assert list(data["phases"]) == [phase.name for phase in expected]
    for phase in expected:
        assert (data["phases"][phase.name].get("batch_size") or data["batch_size"]) == phase.batch
    if data["batch_size"] > 42:  # the tiny dataset holds 42 images: smaller batches, so that there are steps
        data["batch_size"] = 8
        expected = [dataclasses.replace(phase, batch=8) for phase in expected]
    monkeypatch.setattr(choose_lr, "run_lr_range_test", lambda context: [])
    seen = record_steps(data, tiny_pack, tmp_path)

    everything = {key for key, _ in Tiny(nn.Linear(4, 3)).named_parameters()}
    steps_seen = iter(seen)
    for phase in expected:
        steps = -(-42 // phase.batch)
        wanted = list(phase.schedule(phase.peak, phase.momentum, phase.epochs, steps))
        assert len(wanted) == phase.epochs * steps
        for i, (lr, momentum) in enumerate(wanted):
            step = next(steps_seen)
            size = min(phase.batch, 42 - phase.batch * (i % steps))
            assert step.shape == (size, 3, phase.image_size, phase.image_size)
            assert (
                set(step.groups)
                == step.require_grad
                == {k for k in everything if is_trained(k, phase.trainable)}
            )
            for key, (rate, beta, decay) in step.groups.items():
                assert rate == pytest.approx(lr * phase.lr_multipliers[group_of(key)], rel=1e-5, abs=1e-12)
                assert beta == pytest.approx(momentum)
                vector = key.endswith("bias") or ".1." in key or key.startswith("bn1")
                spared = phase.decay if phase.decay_of_vectors is None else phase.decay_of_vectors
                assert decay == (spared if vector else phase.decay)
    assert next(steps_seen, None) is None


@pytest.mark.parametrize("name", PUBLISHED_TABLES)
def test_published_tables_train_on_squares_of_448_of_512_pixels(name, tmp_path):
    config = read(RECIPES[name], tmp_path)
    assert config.dataset.label_params.layout == PUBLISHED_TABLES[name] and config.dataset.name == name
    side = round(config.pack.image_size * config.augment.crop_scale[0] ** 0.5)
    assert config.augment.crop_scale[0] == config.augment.crop_scale[1] and side == 448
    assert config.evaluate.image_size == config.pack.image_size == 512 and config.refit


def test_our_recipe_grows_its_images_under_one_cycle_and_slows_each_block(tiny_pack, tmp_path):
    data = copy.deepcopy(RECIPES["stanford-cars"])
    data["phases"]["all"]["epochs"] = 8
    seen = record_steps(data, tiny_pack, tmp_path)
    steps = 2  # 42 images in batches of 32
    assert [step.shape[2] for step in seen[::steps]] == [224, 256, 288, 320, 352, 384, 416, 448]
    wanted = one_cycle(0.3, 25, 25e4)(0.001, 0.9, 8, steps)
    for step, (lr, momentum) in zip(seen, wanted, strict=True):
        for key, (rate, beta, decay) in step.groups.items():
            block = 5 if key.startswith("fc") else int(key[5]) if key.startswith("layer") else 0
            assert rate == pytest.approx(lr * 0.8 ** (5 - block), rel=1e-5, abs=1e-12)
            assert beta == pytest.approx(momentum)
            matrix = key.endswith("weight") and "bn" not in key and ".1." not in key
            assert decay == (0.05 if matrix else 0.0)


def test_the_heads_are_those_of_the_sources():
    heads = {name: HeadParams(**RECIPES[name]["head"]) for name in REFERENCES}
    assert heads["stanford-cars-sgd"].is_linear and heads["stanford-cars-freeze"].is_linear
    cifar = build.build_model("resnet18", 100, "none", heads["cifar100-mlp-head"], seed=0)
    assert [m.out_features for m in build.get_head(cifar) if isinstance(m, nn.Linear)] == [
        1024,
        512,
        256,
        128,
        100,
    ]
    assert not any(isinstance(m, nn.ReLU) for m in build.get_head(cifar))
    fastai = build.build_model("resnet18", 196, "none", heads["stanford-cars-one-cycle"], seed=0)
    assert [m.out_features for m in build.get_head(fastai) if isinstance(m, nn.Linear)] == [512, 196]
