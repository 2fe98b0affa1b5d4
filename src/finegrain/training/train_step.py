"""One training step: mixing, forward, loss, backward, optimizer step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finegrain.config.params import Params
from finegrain.config.phases import Phase
from finegrain.config.training import AugmentParams
from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.loading.batches import PackedSplit
from finegrain.loading.class_weights import class_weights
from finegrain.models import layer_groups
from finegrain.models.build import InitialWeights
from finegrain.runtime import devices
from finegrain.training import optim
from finegrain.training.cuda_graph import GraphedFunction
from finegrain.training.optim import GradientScaler, MovingAverage

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images ``[N, 3, H, W]`` and class ids ``[N]`` to blended images and probabilities ``[N, classes]``."""


@dataclass(frozen=True)
class TrainingSetup:
    """The network of a run, and what it is trained with."""

    net: nn.Module
    config: Params
    seed: int
    """Key of every random draw in training; ``config.seed`` is that of the data."""
    train: PackedSplit
    dtype: torch.dtype
    """What the network is autocast to; float32 means no autocast."""
    model: str = ""
    """Name of the network, for phases with a head of their own."""
    weights: InitialWeights | Literal["none"] = "none"
    """What the network began with, likewise."""
    code: str = ""
    """Hash of the code, for the features that phases which are solved keep."""


@dataclass(frozen=True)
class PhaseContext:
    """What the training steps of one phase share."""

    setup: TrainingSetup
    name: str
    """Name of the phase."""
    average: MovingAverage | None = None
    """Moving average of the weights, updated after each step."""

    @property
    def phase(self) -> Phase:
        return self.setup.config.trained_phases[self.name]

    @property
    def batch_size(self) -> int:
        return self.phase.batch_size or self.setup.config.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.setup.train.steps_per_epoch(self.batch_size)

    @cached_property
    def mix(self) -> Mix | None:
        return mixup_or_cutmix(self.setup.config.augment, len(self.setup.train.class_names))

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Weights of the classes in the loss, ``[classes]`` float32; None if they are all 1."""
        kind, train = self.phase.class_weights or self.setup.config.class_weights, self.setup.train
        if kind == "none":
            return None
        return class_weights(train.labels, len(train.class_names), kind).float().to(train.device)

    @cached_property
    def scaler(self) -> GradientScaler:
        """Scales the gradients of float16; each phase begins with a new one, as with a new optimizer."""
        return GradientScaler(self.setup.train.device, enabled=self.setup.dtype == torch.float16)

    @cached_property
    def net(self) -> nn.Module:
        """The network, wrapped so that several processes average their gradients."""
        return self.setup.train.world.wrap(self.setup.net)

    @cached_property
    def graphed(self) -> GraphedFunction:
        """Runs forward and backward passes; replays a CUDA graph of them where that is faster."""
        steps, phase = self.steps_per_epoch, self.phase  # not self: a cycle would keep a graph's memory

        def planned_steps(image_size: int) -> int:
            return steps * sum(phase.image_size_at(epoch) == image_size for epoch in range(phase.epochs))

        on_one_gpu = self.setup.train.device.type == "cuda" and self.setup.train.world.is_single
        return GraphedFunction(self.setup.net, planned_steps if on_one_gpu else None, self.batch_size)

    def count_parts(self, images: int) -> int:
        """Number of parts of a batch of so many images: ``accumulate``, or fewer in a smaller last batch.

        Each has two images, which batch norm needs, and is about as large as those of other batches.
        """
        share = self.batch_size // self.setup.train.world.size
        part_size = -(-share // self.phase.accumulate)
        return max(1, min(-(-images // part_size), images // 2))

    def batches(self, epoch: int | str, image_size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches of an epoch from step ``first`` on: images and class ids."""
        setup = self.setup
        return setup.train.train_batches(
            epoch, self.batch_size, image_size, setup.config.augment, setup.seed, first
        )

    def build_optimizer(self, lr: float) -> torch.optim.Optimizer:
        blocks = layer_groups.layer_groups(self.setup.net)
        return optim.build_optimizer(blocks, self.phase, lr, self.scaler.is_enabled())

    def set_train_mode(self) -> None:
        layer_groups.set_train_mode(self.setup.net, self.phase.trainable, self.phase.freezes_norm_statistics)


def train_step(
    context: PhaseContext, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one optimization step.

    With ``accumulate``, the batch goes through the network in parts, whose gradients add up to those of the
    whole batch. So the update is that of the whole batch, but for rounding and for what a network does with a
    batch: norm layers that follow it normalize each part by its own statistics, with which they also update
    their running means once a part, and dropout draws its numbers part by part. MixUp and CutMix mix the
    whole batch. Several processes average their gradients once, after the last part.

    In float16 it is left out where gradients overflow: weights and optimizer stay as they were, while the
    learning-rate schedule, norm statistics and moving average go on as after any other step.

    Args:
        images: ``[N, 3, image_size, image_size]`` float32, augmented and normalized.
        labels: ``[N]`` class ids.

    Returns:
        The mean loss, a scalar, and logits ``[N, classes]``; detached, on the device, valid until the next
        step.

    Raises:
        UserError: out of memory, or an operation that is not deterministic where that is required.
    """
    net, phase, scaler = context.net, context.phase, context.scaler
    smoothing, weights = context.setup.config.label_smoothing, context.class_weights
    loss_smoothing = smoothing if weights is None else 0.0  # weighted targets are smooth already
    world = context.setup.train.world

    def forward_backward(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        net.zero_grad(set_to_none=True)
        parts, losses, all_logits = context.count_parts(len(images)), [], []
        for i, part in enumerate(images.tensor_split(parts)):
            targets_of_part = targets.tensor_split(parts)[i]
            with world.synchronize_gradients(net, i == parts - 1):
                with devices.autocast(images.device, context.setup.dtype):
                    logits = net(part)
                    loss = F.cross_entropy(logits, targets_of_part, label_smoothing=loss_smoothing)
                loss = loss * (len(part) / len(images))  # so that the sum is the mean over the batch
                scaler.scale(loss).backward()
            losses.append(loss.detach())
            all_logits.append(logits.detach())
        return torch.stack(losses).sum(), torch.cat(all_logits)

    key = f"phases.{context.name}.batch_size" if phase.batch_size else "batch_size"
    fix = f"halve it, or set phases.{context.name}.accumulate: {2 * phase.accumulate}"
    with devices.explain_errors(f"{key}: {len(images)} images of {images.shape[-1]} px", fix):
        images, targets = context.mix(images, labels) if context.mix else (images, labels)
        if weights is not None:
            targets = weighted_targets(targets, weights, smoothing)
        loss, logits = context.graphed(forward_backward, images, targets)
        scaler.unscale_(optimizer)  # the norm to clip is that of the gradients themselves
        if phase.clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), phase.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        if context.average:
            context.average.update_parameters(context.setup.net)
    return loss, logits


def weighted_targets(targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Targets ``[N, classes]`` whose cross-entropy is the loss with class weights.

    The loss of an image of one class is its weight times the cross-entropy with label smoothing; that of a
    blend is the same blend of such losses. torch's ``weight`` would weigh the smoothed part by other classes,
    and divide by the weights in the batch: then a step would depend on how processes share the images.

    Args:
        targets: class ids ``[N]``, or probabilities ``[N, classes]``.
        weights: ``[classes]`` float32.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, len(weights))
    weighted = targets * weights
    return (1 - smoothing) * weighted + smoothing / len(weights) * weighted.sum(1, keepdim=True)


def count_skipped_steps(context: PhaseContext, before: int) -> int:
    """Number of steps of an epoch just trained that were skipped, because float16 gradients overflowed.

    Args:
        before: number of those in the phase's earlier epochs.

    Raises:
        UserError: gradients overflow even where the loss is scaled down.
    """
    scaler = context.scaler
    if not scaler.is_enabled():
        return 0
    if scaler.get_scale() < 1:
        raise UserError(
            f"params.yaml: precision: fp16: gradients of phase {context.name} overflow at any scale; "
            "lower lr, or use fp32"
        )
    skipped = scaler.skipped_steps() - before
    if skipped:
        steps = context.steps_per_epoch
        log.info(f"{context.name}: {skipped} of {steps} steps were skipped: gradients overflowed fp16")
    return skipped


def mixup_or_cutmix(config: AugmentParams, classes: int) -> Mix | None:
    """torchvision's MixUp, its CutMix, or for each batch one of the two; None if both are off.

    They draw from torch's global generator, which is seeded before every step.
    """
    alphas = {"MixUp": config.mixup_alpha, "CutMix": config.cutmix_alpha}
    if not any(alphas.values()):
        return None
    from torchvision.transforms import v2  # slow to import, and few recipes mix

    kinds = [getattr(v2, kind)(alpha=alpha, num_classes=classes) for kind, alpha in alphas.items() if alpha]
    mix: Mix = v2.RandomChoice(kinds)
    return mix
