"""Images that look alike: pairs of perceptual hashes that differ in a few bits."""

import itertools

import numpy as np
from numpy.typing import NDArray


def closest_pairs(
    test: NDArray[np.uint64], others: NDArray[np.uint64], max_bits: int, limit: int
) -> tuple[NDArray[np.int64], int, int]:
    """Compare every test hash with every other one, block by block: a few MB whatever their number.

    Returns:
        ``[pairs, 3]`` (bits, test index, other index) of the ``limit`` closest pairs, in that order; the
        number of all pairs within ``max_bits``; the number of test hashes that are in one.
    """
    closest = np.empty((0, 3), np.int64)
    total = 0
    has_pair = np.zeros(len(test), bool)
    rows, columns = 128, 2_048
    for i, j in itertools.product(range(0, len(test), rows), range(0, len(others), columns)):
        bits = np.bitwise_count(test[i : i + rows, None] ^ others[None, j : j + columns])
        near = np.argwhere(bits <= max_bits)
        if len(near):
            total += len(near)
            has_pair[near[:, 0] + i] = True
            near_bits = bits[tuple(near.T)]
            first = np.argsort(near_bits, kind="stable")[:limit]  # all may be alike: merge no more than this
            found = np.column_stack([near_bits[first], near[first] + (i, j)]).astype(np.int64)
            closest = np.concatenate([closest, found])
            closest = closest[np.lexsort(closest.T[::-1])][:limit]
    return closest, total, int(has_pair.sum())
