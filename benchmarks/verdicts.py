"""How often a difference is called real, by simulation: where there is none, and where there is one.

    python benchmarks/verdicts.py

Networks answer images of which some are hard for all; a recipe's trainings also differ among themselves.
"""

import argparse
import itertools

import numpy as np
from scipy import stats

from finegrain.comparison import significance
from finegrain.comparison.significance import Bools
from finegrain.models.outputs import Floats


def trainings(rng: np.random.Generator, ease: Floats, share: float, seeds: int, spread: float = 0.0) -> Bools:
    """Right or wrong of a recipe's networks, ``[seeds, N]``.

    Args:
        ease: ``[N]`` standard normal: how easy each image is for any network.
        share: of right answers in the mean.
        spread: standard deviation between the trainings' true top-1.
    """
    shares = share + spread * rng.normal(size=(seeds, 1))
    right: Bools = ease + rng.normal(size=(seeds, len(ease))) > stats.norm.isf(shares, scale=np.sqrt(2))
    return right


def called_real(
    gain: float, seeds: tuple[int, int], spreads: tuple[float, float], images: int, pairs: int
) -> float:
    """Share of the pairs of recipes, the first better by ``gain``, whose difference is called real."""
    rng, real = np.random.default_rng(13), 0
    for _ in range(pairs):
        ease = rng.normal(size=images)
        a, b = (
            trainings(rng, ease, share, n, spread)
            for share, n, spread in zip((0.8 + gain, 0.8), seeds, spreads, strict=True)
        )
        real += significance.compare(a, b).p_value < significance.SIGNIFICANCE
    return real / pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=2000)
    args = parser.parse_args()
    print("| seeds | spread of the first, of the second | no gain | 5 points |\n|---|---|---:|---:|")
    spreads = [(0.0, 0.0), (0.01, 0.01), (0.03, 0.03), (0.03, 0.0)]
    for seeds, spread in itertools.product([(1, 1), (2, 2), (3, 3), (5, 5)], spreads):
        none, some = (called_real(gain, seeds, spread, args.images, args.pairs) for gain in (0.0, 0.05))
        shown = ", ".join(f"{100 * s:.0f} points" for s in spread)
        print(f"| {seeds[0]} and {seeds[1]} | {shown} | {none:.1%} | {some:.1%} |", flush=True)


if __name__ == "__main__":
    main()
