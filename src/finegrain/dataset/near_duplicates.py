"""Near-duplicate images: pairs of perceptual hashes that differ in a few bits."""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK = 128, 2_048
"""Test hashes and other hashes compared at a time: a few MB of memory whatever their number."""


def closest_pairs(
    test: NDArray[np.uint64], others: NDArray[np.uint64], max_bits: int, limit: int
) -> tuple[NDArray[np.int64], int, int]:
    """Compare every test hash with every other one.

    Returns:
        ``[pairs, 3]`` (differing bits, test index, other index) of the ``limit`` closest pairs, in this sort
        order; the number of all pairs within ``max_bits``; the number of test hashes in at least one pair.
    """
    closest = np.empty((0, 3), np.int64)
    pair_count = 0
    has_pair = np.zeros(len(test), bool)
    rows, columns = _BLOCK
    for i, j in itertools.product(range(0, len(test), rows), range(0, len(others), columns)):
        bits = np.bitwise_count(test[i : i + rows, None] ^ others[None, j : j + columns])
        near = np.argwhere(bits <= max_bits)
        if len(near):
            pair_count += len(near)
            has_pair[near[:, 0] + i] = True
            near_bits = bits[tuple(near.T)]
            first = np.argsort(near_bits, kind="stable")[:limit]  # bounds the merge if all hashes are equal
            found = np.column_stack([near_bits[first], near[first] + (i, j)]).astype(np.int64)
            closest = np.concatenate([closest, found])
            closest = closest[np.lexsort(closest.T[::-1])][:limit]
    return closest, pair_count, int(has_pair.sum())


def all_pairs(hashes: NDArray[np.uint64], max_bits: int) -> Iterator[NDArray[np.int64]]:
    """Indices ``[pairs, 2]`` of the hashes that differ in at most ``max_bits``, in blocks; first < second."""
    rows, columns = _BLOCK
    for i in range(0, len(hashes), rows):
        for j in range(i, len(hashes), columns):
            bits = np.bitwise_count(hashes[i : i + rows, None] ^ hashes[None, j : j + columns])
            near = np.argwhere(bits <= max_bits) + (i, j)
            yield near[near[:, 0] < near[:, 1]]
