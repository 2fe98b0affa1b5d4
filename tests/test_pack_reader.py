"""Packed images are read as they were written, in any order, and a damaged file is reported by its name."""

import os

import numpy as np
import pytest
import torch

from finegrain.core.errors import UserError
from finegrain.loading.pack_reader import PackReader

RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8) for n in (5, 3))


@pytest.fixture
def files(tmp_path):
    for name, values in (("a", FIRST), ("b", SECOND)):
        np.save(tmp_path / f"{name}.npy", values)
    return [tmp_path / "a.npy", tmp_path / "b.npy"]


def test_images_of_several_files_come_in_the_order_of_the_indices(files):
    reader = PackReader(files)
    assert (len(reader), reader.image_size) == (8, 12)
    indices = torch.tensor([7, 0, 5, 4, 0])
    out = np.empty((5, 12, 12, 3), np.uint8)
    reader.read(indices, torch.tensor([[0, 0, 12, 12]] * 5), out)
    assert np.array_equal(out, np.concatenate((FIRST, SECOND))[indices.numpy()])


def test_only_the_rows_of_the_crop_are_read(files):
    out = np.full((3, 12, 12, 3), 7, np.uint8)
    PackReader(files).read(torch.tensor([2, 6]), torch.tensor([[3, 5, 4, 2], [11, 0, 1, 12]]), out)
    expected = np.full((3, 12, 12, 3), 7, np.uint8)
    expected[0, 3:7], expected[1, 11:] = FIRST[2, 3:7], SECOND[1, 11:]
    assert np.array_equal(out, expected)


def test_the_file_may_be_replaced_while_it_is_read(files):
    """As `dvc checkout` does: the opened file stays readable."""
    reader = PackReader(files[:1])
    np.save(files[0].with_name("new.npy"), FIRST + 1)
    os.replace(files[0].with_name("new.npy"), files[0])
    out = np.empty((1, 12, 12, 3), np.uint8)
    reader.read(torch.tensor([1]), torch.tensor([[0, 0, 12, 12]]), out)
    assert np.array_equal(out[0], FIRST[1])


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", np.lib.format.MAGIC_PREFIX + b"\1\0\0\0", None],
    ids=["empty", "other", "cut header", "cut data"],
)
def test_a_damaged_file_is_reported_by_name(files, content):
    files[1].write_bytes(files[1].read_bytes()[:-1] if content is None else content)
    with pytest.raises(UserError, match=r"b\.npy.*damaged.*dvc repro -f pack"):
        PackReader(files)


def test_other_arrays_and_missing_files_are_reported_by_name(files):
    np.save(files[1], SECOND.astype(np.float32))
    with pytest.raises(UserError, match=r"b\.npy.*damaged"):
        PackReader(files)
    with pytest.raises(UserError, match=r"c\.npy.*not found"):
        PackReader([files[0].with_name("c.npy")])


def test_a_file_truncated_while_it_is_open_is_reported_by_name(files):
    reader = PackReader(files)
    os.truncate(files[0], 200)
    with pytest.raises(UserError, match=r"a\.npy.*damaged"):
        reader.read(torch.tensor([4]), torch.tensor([[0, 0, 12, 12]]), np.empty((1, 12, 12, 3), np.uint8))
