"""Simulation of how often a difference is called significant: when there is none, and when there is one.

    python benchmarks/verdicts.py

Some images are hard for every network; the runs of one recipe also differ from seed to seed.
"""

import itertools

import command_line
import numpy as np
from scipy import stats

from finegrain.comparison import significance
from finegrain.comparison.significance import Bools
from finegrain.models.outputs import Floats


def simulate_runs(
    rng: np.random.Generator, ease: Floats, top1: float, seeds: int, seed_sd: float = 0.0
) -> Bools:
    """Which images the runs of one recipe predict correctly, ``[seeds, N]``.

    Args:
        ease: ``[N]`` standard normal: how easy each image is for any network.
        top1: mean over runs of their true top-1.
        seed_sd: standard deviation between the runs' true top-1.
    """
    each_top1 = top1 + seed_sd * rng.normal(size=(seeds, 1))
    correct: Bools = ease + rng.normal(size=(seeds, len(ease))) > stats.norm.isf(each_top1, scale=np.sqrt(2))
    return correct


def share_significant(
    gain: float, seeds: tuple[int, int], seed_sds: tuple[float, float], images: int, pairs: int
) -> float:
    """Share of the pairs of recipes, the first better by ``gain``, that differ significantly."""
    rng, significant = np.random.default_rng(13), 0
    for _ in range(pairs):
        ease = rng.normal(size=images)
        a, b = (
            simulate_runs(rng, ease, top1, n, seed_sd)
            for top1, n, seed_sd in zip((0.8 + gain, 0.8), seeds, seed_sds, strict=True)
        )
        significant += significance.compare(a, b).p_value < significance.SIGNIFICANCE
    return significant / pairs


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--images", type=int, default=2000, help="test images")
    parser.add_argument("--pairs", type=int, default=2000, help="simulated pairs of recipes")
    args = parser.parse_args()
    print(
        "| seeds | sd between seeds of the first, of the second | no gain | 5 points |\n|---|---|---:|---:|"
    )
    all_seed_sds = [(0.0, 0.0), (0.01, 0.01), (0.03, 0.03), (0.03, 0.0)]
    for seeds, seed_sds in itertools.product([(1, 1), (2, 2), (3, 3), (5, 5)], all_seed_sds):
        none, some = (
            share_significant(gain, seeds, seed_sds, args.images, args.pairs) for gain in (0.0, 0.05)
        )
        shown = ", ".join(f"{100 * sd:.0f} points" for sd in seed_sds)
        print(f"| {seeds[0]} and {seeds[1]} | {shown} | {none:.1%} | {some:.1%} |", flush=True)


if __name__ == "__main__":
    main()
