"""A phase that is solved: one pass over the images, and the exact linear head on their features."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from finegrain.config.phases import SolvedPhase
from finegrain.core import log
from finegrain.loading.batches import PackedSplit
from finegrain.loading.class_weights import image_weights
from finegrain.models import build
from finegrain.ridge import learning_curve
from finegrain.ridge.feature_cache import CachedRows
from finegrain.ridge.features import compute_features, open_cache
from finegrain.ridge.projection import fit_projection
from finegrain.ridge.regression import Solution, regression
from finegrain.ridge.strength import LeaveOneOut, choose_strength, evaluate_strength


@dataclass(frozen=True)
class SolvedHead:
    """The head of a network, and what the solution says about the training images; on the CPU."""

    weight: Tensor
    """``[classes, features]`` float32."""
    bias: Tensor
    """``[classes]`` float32."""
    leave_one_out: LeaveOneOut
    tried: dict[float, float]
    """Leave-one-out loss by strength, in ascending order."""
    val_logits: Tensor | None
    """``[N, classes]`` float32 of the validation images."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """From ``learning_curve``, with all images last; empty in a refit."""

    def copy_into(self, net: nn.Module) -> None:
        """Replace the last layer's parameters."""
        layer = build.get_last_layer(net)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)


def solve_head(
    net: Any,
    phase: SolvedPhase,
    train: PackedSplit,
    val: PackedSplit | None,
    dtype: torch.dtype,
    code: str,
    strength: float | None = None,
    pooling_is_trained: bool = False,
) -> SolvedHead:
    """Compute the features of all images and solve for the last layer of ``net``, which stays as it is.

    If the pooling keeps only some combinations of channels, and no phase has trained these, they are fitted
    in place first. All processes compute features; the main process keeps them, solves, and sends the result
    to the others.

    Args:
        val: images to predict with the solution; None for none.
        dtype: what the network is autocast to; its features and the solution are float32.
        code: hash of the code, part of the key of the cached features.
        strength: that of the phase if None.
        pooling_is_trained: whether an earlier phase has trained the pooling.

    Raises:
        UserError: the disk has too little space for the features.
    """
    world, solved = train.world, None
    if not pooling_is_trained:
        if world.is_main_process:
            fit_projection(net, train, phase.image_size, dtype)
        net.avgpool.load_state_dict(world.broadcast(net.avgpool.state_dict()))
    if world.is_main_process:
        with open_cache(net, train, phase.image_size, phase.flip, dtype, code) as cache:
            rows = _rows(cache, net, phase, dtype, train, "train")
            val_rows = _rows(cache, net, phase, dtype, val, "val") if val else None
            assert rows is not None
            solved = _solve(rows, train, phase, strength, val_rows)
    else:
        for split in (train, val) if val else (train,):
            _rows(None, net, phase, dtype, split, "")
    result: SolvedHead = world.broadcast(solved)
    return result


def _rows(
    cache: Any, net: nn.Module, phase: SolvedPhase, dtype: torch.dtype, split: PackedSplit, label: str
) -> CachedRows | None:
    return compute_features(cache, net, split, phase.image_size, phase.flip, dtype, label)


def _solve(
    rows: CachedRows,
    train: PackedSplit,
    phase: SolvedPhase,
    strength: float | None,
    val_rows: CachedRows | None,
) -> SolvedHead:
    """Choose the strength if it is not given, and solve.

    The learning curve belongs to the search for a strength: a refit with a given one draws none.
    """
    labels, classes, weights = train.labels, len(train.class_names), phase.class_weights or "none"
    problem = regression(rows, labels, classes, image_weights(labels, classes, weights))
    given = strength or (None if phase.strength == "auto" else phase.strength)
    if given is None:
        first = rows.read(0, min(len(rows), 1024))
        best, tried = choose_strength(problem, first.square().sum(1).mean().item())
    else:
        best = evaluate_strength(problem, given)
        tried = {best.strength: best.loss}
    solution = problem.solve(best.strength)
    log.info(f"ridge regression on {len(rows)} images, {rows.width} features: strength {best.strength:.3g}")
    correct = best.logits.argmax(1) == labels
    curve = []
    if strength is None:
        curve = learning_curve.learning_curve(problem, classes, best.strength, weights)
        curve.append({"images": len(rows), **learning_curve.accuracy(correct, labels, classes)})
    scaled = Solution(solution.weight * best.scale, solution.bias * best.scale)
    return SolvedHead(
        scaled.weight,
        scaled.bias,
        best,
        tried,
        scaled.scores(val_rows) if val_rows else None,
        curve,
    )
