"""Ridge regression and its leave-one-out scores, against scikit-learn and against retraining."""

from concurrent.futures import ProcessPoolExecutor

import fork_server
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from tensor_rows import TensorRows
from torch import Tensor

from finegrain.loading.class_weights import image_weights
from finegrain.ridge import learning_curve, linear_system, regression, strength
from finegrain.ridge.regression import RidgeRegression, Solution, _Dual, _Primal

CLASSES, STRENGTH = 4, 0.7


class MadeRows:
    """As many images as wanted, each block made when it is read."""

    width = 256

    def __init__(self, images: int) -> None:
        self._images = images

    def __len__(self) -> int:
        return self._images

    def read(self, start: int, stop: int) -> Tensor:
        return torch.randn(stop - start, self.width, generator=torch.Generator().manual_seed(start))


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Several blocks of images and of columns, the last of each smaller."""
    monkeypatch.setattr(regression, "BLOCK", 16)
    monkeypatch.setattr(regression, "PANEL", 9)
    monkeypatch.setattr(linear_system, "BLOCK", 7)


def made(images: int, width: int, noise: float = 1.0) -> tuple[TensorRows, Tensor]:
    """Images around the centers of their classes, which are of different sizes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.arange(1.0, CLASSES + 1), images, True, generator=generator)
    labels[:CLASSES] = torch.arange(CLASSES)
    centers = torch.randn(CLASSES, width, generator=generator)
    features = 0.5 + centers[labels] + noise * torch.randn(images, width, generator=generator)
    return TensorRows(features / width**0.5), labels


def problem(
    images: int, width: int, kind: type[RidgeRegression] | None = None, weights: str = "balanced"
) -> RidgeRegression:
    rows, labels = made(images, width)
    sample_weights = image_weights(labels, CLASSES, weights)
    return (kind or regression.regression)(rows, labels, CLASSES, sample_weights)


def sklearn_s(features: Tensor, labels: Tensor, weights: Tensor | None = None) -> Solution:
    targets = F.one_hot(labels, CLASSES).double().numpy()
    ridge = Ridge(alpha=STRENGTH, solver="cholesky").fit(
        features.double().numpy(), targets, sample_weight=None if weights is None else weights.numpy()
    )
    return Solution(torch.from_numpy(ridge.coef_).float(), torch.from_numpy(ridge.intercept_).float())


@pytest.mark.parametrize("weights", ["none", "balanced", "effective"])
@pytest.mark.parametrize(
    ("kind", "images", "width"), [(_Dual, 50, 75), (_Primal, 75, 30), (_Dual, 60, 60), (_Primal, 61, 60)]
)
def test_the_solution_is_scikit_learn_s(small_blocks, kind, images, width, weights):
    solved = problem(images, width, weights=weights)
    assert type(solved) is kind
    rows, labels = made(images, width)
    expected = sklearn_s(rows.features, labels, image_weights(labels, CLASSES, weights))
    solution = solved.solve(STRENGTH)
    assert solution.weight.dtype == solution.bias.dtype == torch.float32
    torch.testing.assert_close(solution.weight, expected.weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(solution.bias, expected.bias, atol=1e-4, rtol=0)
    scores = rows.features @ expected.weight.T + expected.bias
    torch.testing.assert_close(solution.scores(rows), scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["balanced", "effective"])
@pytest.mark.parametrize(("images", "width"), [(50, 75), (75, 30)], ids=["dual", "primal"])
def test_leave_one_out_is_retraining_without_the_image(small_blocks, images, width, kind):
    rows, labels = made(images, width)
    weights = image_weights(labels, CLASSES, kind)
    found = problem(images, width, weights=kind).leave_one_out(STRENGTH)
    assert found.shape == (images, CLASSES) and found.dtype == torch.float32
    with_it = problem(images, width, weights=kind).solve(STRENGTH).scores(rows)
    for i in range(20):
        others = torch.arange(images) != i
        retrained = sklearn_s(rows.features[others], labels[others], weights[others])
        expected = retrained.scores(rows.select(np.array([i])))[0]
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)
        assert (with_it[i] - expected).abs().max() > 1e-2


@pytest.mark.parametrize(("images", "width"), [(50, 75), (75, 30)])
def test_dual_and_primal_agree_whatever_was_computed_before(small_blocks, images, width):
    """Factorizations of other strengths leave nothing behind in the matrix."""
    dual, primal = (problem(images, width, kind) for kind in (_Dual, _Primal))
    for value in (STRENGTH, 100.0, 0.01, STRENGTH):
        found = [(each.leave_one_out(value), each.solve(value)) for each in (dual, primal)]
        torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
        torch.testing.assert_close(found[0][1].weight, found[1][1].weight, atol=1e-4, rtol=0)
        torch.testing.assert_close(found[0][1].bias, found[1][1].bias, atol=1e-4, rtol=0)
    fresh = problem(images, width, _Dual)
    assert torch.equal(fresh.leave_one_out(STRENGTH), dual.leave_one_out(STRENGTH))


def test_a_matrix_that_is_not_positive_definite_is_an_error():
    matrix = linear_system.ShiftedMatrix(3)
    matrix.add(0, -np.eye(3))
    with pytest.raises(np.linalg.LinAlgError):
        matrix.factorize(0.5)


@pytest.mark.parametrize("noise", [3.0, 6.0])
@pytest.mark.parametrize(("images", "width"), [(60, 75), (120, 30)], ids=["dual", "primal"])
def test_the_strength_chosen_has_the_lowest_loss_of_the_grid(images, width, noise):
    rows, labels = made(images, width, noise)
    solved = regression.regression(rows, labels, CLASSES, image_weights(labels, CLASSES, "none"))
    squared_length = rows.features.square().sum(1).mean().item()
    best, tried = strength.choose_strength(solved, squared_length)
    grid = [
        float(f"{strength.FIRST * squared_length * strength.FACTOR**step:.3g}")
        for step in range(-strength.MAX_STEPS, strength.MAX_STEPS + 1)
    ]
    losses = {each: strength.evaluate_strength(solved, each).loss for each in grid}
    assert best.strength == min(grid, key=losses.__getitem__)
    assert tried == {each: losses[each] for each in grid if each in tried}
    assert best.loss == min(tried.values())
    scores = best.scale * solved.leave_one_out(best.strength)
    torch.testing.assert_close(best.logits, scores, rtol=1e-4, atol=1e-5)
    loss = F.cross_entropy(best.logits, labels).item()
    assert best.loss == pytest.approx(loss, rel=1e-5)
    assert all(F.cross_entropy(scores * factor, labels) >= loss for factor in (0.8, 0.95, 1.05, 1.2))


@pytest.mark.parametrize("width", [30, 200], ids=["primal", "dual"])
def test_the_learning_curve_scores_the_images_that_a_part_does_not_use(small_blocks, width):
    rows, labels = made(160, width, noise=2.0)
    solved = regression.regression(rows, labels, CLASSES, image_weights(labels, CLASSES, "none"))
    before = solved.leave_one_out(STRENGTH)  # which overwrites half of the matrix
    points = learning_curve.learning_curve(solved, CLASSES, STRENGTH, "none")
    assert torch.equal(solved.leave_one_out(STRENGTH), before)
    assert [point["images"] for point in points] == sorted(point["images"] for point in points)
    for point, fraction in zip(points, learning_curve.FRACTIONS, strict=True):
        used = learning_curve.stratified_part(labels.numpy(), fraction, seed=0)
        counts, all_counts = (part.bincount(minlength=CLASSES) for part in (labels[used], labels))
        assert counts.tolist() == [max(1, int(n * fraction)) for n in all_counts.tolist()]
        rest = np.setdiff1d(np.arange(160), used)
        scores = sklearn_s(rows.features[used], labels[used]).scores(rows.select(rest))
        correct = scores.argmax(1) == labels[rest]
        assert point["images"] == len(used)
        assert point["top1"] == pytest.approx(correct.double().mean().item())
        by_class = [correct[labels[rest] == label].double().mean().item() for label in range(CLASSES)]
        assert point["top1_by_class"] == pytest.approx(by_class, abs=1e-6)


@pytest.mark.parametrize("width", [30, 200], ids=["primal", "dual"])
@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_the_rest_is_predicted_as_by_a_solution_of_the_part_alone(small_blocks, width, kind):
    rows, labels = made(90, width)
    used, rest = np.arange(0, 90, 2), np.arange(1, 90, 2)[::-1].copy()
    weights = image_weights(labels[used], CLASSES, kind)
    solved = problem(90, width, weights="effective")
    expected = sklearn_s(rows.features[used], labels[used], weights).scores(rows.select(rest))
    for _ in range(2):
        found = solved.predict_rest(used, rest, weights, STRENGTH)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        solved.solve(3 * STRENGTH)


def primal_peak(images: int) -> int:
    """Resident bytes, at most, of a process that tries three strengths on so many images of 200 classes."""
    torch.set_num_threads(1)
    strength.MAX_STEPS = 1
    rows, labels = MadeRows(images), torch.arange(images) % 200
    solved = _Primal(rows, labels, 200, image_weights(labels, 200, "none"))
    best, tried = strength.choose_strength(solved, rows.width)
    assert best.logits.shape == (images, 200) and len(tried) == 3
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_images():
    """Scores of 35,000 more images are 28 MB in float32, of which one strength's are kept; the temperature
    and the labels must not take several times as much in float64."""
    peaks = []
    for images in (5_000, 40_000):
        with ProcessPoolExecutor(1, mp_context=fork_server.FORK_SERVER) as pool:
            peaks.append(pool.submit(primal_peak, images).result())
    assert peaks[1] < peaks[0] + 100e6, peaks


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("width", [3, 40])
def test_degenerate_features_that_are_all_the_same_predict_the_share_of_each_class(value, width):
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    rows = TensorRows(torch.full((8, width), value))
    problem = regression.regression(rows, labels, CLASSES, torch.ones(8, dtype=torch.float64))
    best, _ = strength.choose_strength(problem, rows.features.square().sum(1).mean().item())
    assert np.isfinite(best.loss) and best.logits.isfinite().all()
    shares = problem.solve(best.strength).scores(rows)
    assert torch.allclose(shares, labels.bincount() / 8, atol=1e-4)


def test_a_strength_that_vanishes_beside_degenerate_features_is_an_error():
    rows = TensorRows(torch.full((4, 4), 2.0**14))
    problem = regression.regression(rows, torch.arange(4), CLASSES, torch.ones(4, dtype=torch.float64))
    with pytest.raises(np.linalg.LinAlgError):
        strength.evaluate_strength(problem, 1e-12)
