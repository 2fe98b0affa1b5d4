"""Which rows of a covariance's root to keep: test top-1 of several choices with a quarter of the features.

Compares, on one stage of a frozen network: all features; the same number of rows and columns of the root by
principal components and by the classes' mean roots; some rows with all columns, by principal components, by
the classes' mean roots, and at random. Training images are train and val.

    python benchmarks/projections.py --pack data/cars/pack --weights resnet18.safetensors

Needs memory for all training images' features, 0.6 GB for 4,500.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import command_line

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

from finegrain.config.training import HeadParams  # noqa: E402
from finegrain.loading.batches import IMAGENET_MEAN_STD, PackedSplit  # noqa: E402
from finegrain.models import build, inference, pooling, pretrained  # noqa: E402
from finegrain.ridge.regression import regression  # noqa: E402
from finegrain.ridge.strength import choose_strength  # noqa: E402


class InMemory:
    """Features ``[N, width]`` (``regression.Rows``)."""

    def __init__(self, features: Tensor) -> None:
        self._features, self.width = features, features.shape[1]

    def __len__(self) -> int:
        return len(self._features)

    def read(self, start: int, stop: int) -> Tensor:
        return self._features[start:stop]

    def select(self, indices: npt.NDArray[np.int64]) -> "InMemory":
        return InMemory(self._features[indices])


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="folder that stage pack wrote")
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="a weights file, or torchvision's name")
    parser.add_argument("--model", default="resnet18", help="network, by torchvision's name")
    parser.add_argument("--stage", default="layer3", help="stage of the network whose output is pooled")
    parser.add_argument("--image-size", type=int, default=128, help="in pixels")
    args = parser.parse_args()
    train, test = (
        PackedSplit(args.pack, names, torch.device("cpu"), *IMAGENET_MEAN_STD)
        for names in ("train+val", "test")
    )
    head = HeadParams(pool="covariance", stage=args.stage)
    weights = pretrained.read_weights(args.model, args.weights)
    net = build.build_model(args.model, len(train.class_names), weights, head, 0).eval()
    (maps, labels), (test_maps, test_labels) = (
        stage_maps(net, each, args.image_size) for each in (train, test)
    )
    channels = maps.shape[1]
    half, eighth = channels // 2, channels // 8
    means, mean = class_means(maps, labels)
    difference = means - mean
    principal, between = eigenvectors(mean), eigenvectors((difference @ difference).mean(0))
    at_random = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(0)))[
        0
    ]
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "all": pooling.upper_triangle,
        f"{half} x {half}, principal components": both_sides(principal[:half]),
        f"{half} x {half}, class means": both_sides(between[:half]),
        f"{eighth} x {channels}, principal components": one_side(principal[:eighth]),
        f"{eighth} x {channels}, class means": one_side(between[:eighth]),
        f"{eighth} x {channels}, random": one_side(at_random[:eighth]),
    }
    print(f"| {args.stage}, {args.image_size} px | features | leave-one-out | test top-1 |")
    print("|---|---:|---:|---:|")
    for name, project in kinds.items():
        features, test_features = (
            torch.cat(
                [normalize(project(pooling.covariance_root(chunk)), dim=1) for chunk in each.split(128)]
            )
            for each in (maps, test_maps)
        )
        problem = regression(InMemory(features), labels, len(train.class_names), torch.ones(len(labels)))
        best, _ = choose_strength(problem, 1.0)
        scores = problem.solve(best.strength).scores(InMemory(test_features))
        estimate, top1 = accuracy(best.logits, labels), accuracy(scores, test_labels)
        print(f"| {name} | {features.shape[1]:,} | {estimate:.1%} | {top1:.1%} |", flush=True)


def stage_maps(net: torch.nn.Module, split: PackedSplit, image_size: int) -> tuple[Tensor, Tensor]:
    """Feature maps ``[N, C, H, W]`` in half precision, and labels."""
    maps = [
        inference.pooled_maps(net, images, torch.float32)[0].half()
        for images, _ in split.eval_batches(inference.BATCH_SIZE, image_size)
    ]
    return torch.cat(maps), split.labels


def class_means(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean root of each class, and of all images."""
    means = torch.zeros(int(labels.max()) + 1, maps.shape[1], maps.shape[1])
    for chunk, group in zip(maps.split(128), labels.split(128), strict=True):
        roots = pooling.covariance_root(chunk)
        means.index_add_(0, group, roots / roots.flatten(1).norm(dim=1)[:, None, None])
    return means / labels.bincount()[:, None, None], means.sum(0) / len(labels)


def eigenvectors(matrix: Tensor) -> Tensor:
    """By decreasing eigenvalue, as rows."""
    return torch.linalg.eigh(matrix).eigenvectors.flip(1).T


def both_sides(rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda roots: pooling.upper_triangle(rows @ roots @ rows.T)


def one_side(rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda roots: (rows @ roots).flatten(1)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    return (scores.argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    main()
