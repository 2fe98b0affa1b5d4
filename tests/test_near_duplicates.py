"""Near-duplicates are the pairs of hashes within a few bits, across test and the other splits."""

import drawn
import numpy as np
import pytest
from toy_data import assign, official, splits_by_path

from finegrain.dataset import near_duplicates


def brute_force(test, others, max_bits):
    pairs = [((int(a) ^ int(b)).bit_count(), i, j) for i, a in enumerate(test) for j, b in enumerate(others)]
    return sorted(pair for pair in pairs if pair[0] <= max_bits)


@pytest.mark.parametrize("max_bits", [0, 4, 16])
def test_near_duplicates_equal_a_comparison_of_every_pair(max_bits):
    rng = np.random.default_rng(0)
    others = rng.integers(0, 2**64, 700, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(b) for b in rng.choice(64, i % 20, replace=False)) for i in range(300)], np.uint64
    )
    test = others[:300] ^ flips
    expected = brute_force(test, others, max_bits)
    closest, pair_count, test_images = near_duplicates.closest_pairs(test, others, max_bits, limit=10_000)
    assert closest.tolist() == [list(pair) for pair in expected]
    assert (pair_count, test_images) == (len(expected), len({i for _, i, _ in expected}))
    closest, pair_count, _ = near_duplicates.closest_pairs(test, others, max_bits, limit=7)
    assert closest.tolist() == [list(pair) for pair in expected[:7]]
    assert pair_count == len(expected)


def test_near_duplicates_across_blocks_are_found():
    rng = np.random.default_rng(0)
    test = rng.integers(0, 2**64, 300, dtype=np.uint64)
    others = np.concatenate([rng.integers(0, 2**64, 40_000, dtype=np.uint64), test[::-1]])
    closest, pair_count, test_images = near_duplicates.closest_pairs(test, others, 0, limit=1000)
    assert closest.tolist() == [[0, i, 40_299 - i] for i in range(300)]
    assert (pair_count, test_images) == (300, 300)


def test_equal_hashes_give_the_first_pairs_and_the_number_of_all():
    closest, pair_count, test_images = near_duplicates.closest_pairs(
        np.zeros(200, np.uint64), np.zeros(3000, np.uint64), 4, limit=9
    )
    assert closest.tolist() == [[0, 0, i] for i in range(9)]
    assert (pair_count, test_images) == (600_000, 200)


def test_a_recompressed_copy_in_train_is_reported_and_stays(tmp_path):
    files = official(train={"a": 3, "b": 3}, test={"a": 1, "b": 1})
    copy = drawn.encode(drawn.pattern(700, 90, 60), "JPEG", quality=80)
    result = assign(tmp_path, files | {"test/a/x.png": drawn.png(700, 120, 80), "train/b/copy.jpg": copy})
    assert [(a, b) for a, b, _ in result.near_duplicate_rows()] == [("test/a/x.png", "train/b/copy.jpg")]
    assert splits_by_path(result)["train/b/copy.jpg"] in ("train", "val")
    assert result.metrics()["near_duplicates"] == result.metrics()["test_images_with_near_duplicate"] == 1
