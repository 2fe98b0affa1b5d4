"""The LR range test on losses whose best learning rate is known, and its rules on curves drawn by hand."""

import math

import pytest
import torch

from finegrain.config.training import LRRangeTest
from finegrain.core.errors import UserError
from finegrain.training import lr_finder
from finegrain.training.lr_finder import LRPoint

SWEEP = LRRangeTest(start=1e-5, end=100.0, steps=120, suggestion="valley")


def curve(losses: list[float]) -> list[LRPoint]:
    return [LRPoint(10.0 ** (i - 5), loss, loss) for i, loss in enumerate(losses)]


def quadratic(curvature: float, dimensions: int = 50):
    """Gradient descent on curvature / 2 * |w|^2: best at 1 / curvature, divergent above 2 / curvature."""
    weights = torch.full((dimensions,), 1.0, dtype=torch.float64)

    def step(lr: float) -> float:
        nonlocal weights
        loss = 0.5 * curvature * weights.square().sum().item()
        weights = weights - lr * curvature * weights
        return loss

    return step


@pytest.mark.parametrize("curvature", [0.5, 4.0, 100.0])
@pytest.mark.parametrize("kind", ["steepest", "valley"])
def test_both_suggestions_find_the_known_rate_of_a_quadratic(curvature, kind):
    points = lr_finder.run_sweep(quadratic(curvature), SWEEP)
    found = lr_finder.suggest(points, kind)
    best = 1 / curvature
    assert best / 10 < found < best  # it trains fast, and is well below 2 / curvature, where it diverges


def test_the_sweep_ends_where_gradient_descent_begins_to_diverge():
    points = lr_finder.run_sweep(quadratic(4.0), SWEEP)
    # the smoothed loss grows slowly past 2 / curvature = 0.5, so the end lies above it, but far below 100
    assert 0.5 < points[-1].lr < 20
    assert len(points) < SWEEP.steps


def test_rates_grow_geometrically_from_start_to_end():
    points = lr_finder.run_sweep(lambda lr: 1.0, SWEEP)
    assert len(points) == 120
    assert points[0].lr == pytest.approx(1e-5) and points[-1].lr == pytest.approx(100.0)
    growths = [b.lr / a.lr for a, b in zip(points, points[1:], strict=False)]
    assert max(growths) == pytest.approx(min(growths))


def test_smoothing_is_a_moving_average_without_bias():
    losses = iter([4.0, 2.0, 1.0] + [1.0] * 117)
    points = lr_finder.run_sweep(lambda lr: next(losses), SWEEP)
    weights = [0.95**2, 0.95, 1.0]
    slow = sum(w * v for w, v in zip(weights, [4.0, 2.0, 1.0], strict=True)) / sum(weights)
    assert points[0].smoothed_loss == pytest.approx(4.0)
    assert points[2].smoothed_loss == pytest.approx(slow)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep(bad):
    losses = iter([1.0] * 30 + [bad])
    assert len(lr_finder.run_sweep(lambda lr: next(losses), SWEEP)) == 30


def test_steepest_and_valley_on_a_drawn_curve():
    points = curve([9.0, 8.9, 8.8, 8.0, 4.0, 3.5, 3.4, 9.0, 20.0, 40.0])
    found = lr_finder.suggestions(points)
    assert found["steepest"] == points[3].lr  # from 8 to 4
    assert found["valley"] == points[4].lr  # the first below (9 + 3.4) / 2


@pytest.mark.parametrize("kind", ["steepest", "valley"])
def test_noise_of_the_first_batches_suggests_nothing(kind):
    quiet = [5.0] * 40 + [5.0 - 0.1 * i for i in range(20)] + [3.0 + 0.2 * i for i in range(20)]
    noisy = [9.0, 5.5, 7.0, 4.9, *quiet[4:]]
    points = [LRPoint(10 ** (i / 10 - 6), loss, loss) for i, loss in enumerate(noisy)]
    assert 40 <= [p.lr for p in points].index(lr_finder.suggest(points, kind)) < 60


@pytest.mark.parametrize("kind", ["steepest", "valley"])
def test_noisy_batches_do_not_hide_the_fall(kind):
    """A loss of 5 that falls to 3 between 1e-4 and 1e-2, with batches that scatter by 0.3."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)

        def step(lr: float, generator: torch.Generator = generator) -> float:
            fall = min(max((math.log10(lr) + 4) / 2, 0), 1)
            return 5 - 2 * fall + 0.3 * torch.randn((), generator=generator).item() + (lr / 0.3) ** 2

        config = LRRangeTest(start=1e-6, end=10.0, steps=100, suggestion=kind)
        # the average follows ten steps late, half a decade of the learning rate
        assert 1e-4 < lr_finder.suggest(lr_finder.run_sweep(step, config), kind) < 3e-2


def test_a_curve_that_never_falls_gives_no_rate():
    with pytest.raises(UserError, match="the loss fell at no rate .* widen the range"):
        lr_finder.suggest(curve([float(i) for i in range(12)]), "valley")


def test_too_short_a_sweep_says_to_start_lower():
    with pytest.raises(UserError, match="lr_range_test.start: the loss diverged after 3 steps"):
        lr_finder.suggest(curve([3.0, 2.0, 1.0]), "steepest")


def slow_longest_fall(values: list[float]) -> int:
    best = [1] * len(values)
    for i in range(len(values)):
        for j in range(i):
            if values[j] > values[i]:
                best[i] = max(best[i], best[j] + 1)
    return max(best)


def test_the_longest_fall_equals_the_slow_search():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        values = torch.randint(0, 12, (15,), generator=generator).double().tolist()
        chain = lr_finder.longest_decrease(values)
        assert chain == sorted(chain)
        assert all(values[a] > values[b] for a, b in zip(chain, chain[1:], strict=False))
        assert len(chain) == slow_longest_fall(values)
