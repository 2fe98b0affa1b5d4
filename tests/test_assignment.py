"""Which split each image is assigned to, and which images are left out and why."""

import hashlib
import tracemalloc
from collections import Counter

import drawn
import pytest
from toy_data import TENTHS, assign, official, splits_by_path

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.dataset import assignment, groups, inspection, manifest
from finegrain.sources import index

HALF_AND_QUARTER = params.SplitParams(val_ratio=0.25, test_ratio=0.5)


def test_the_split_is_stratified_and_sorted(tmp_path):
    result = assign(tmp_path, drawn.classes({"a": 4, "b": 8, "c": 13}), HALF_AND_QUARTER)
    counts = Counter((row.class_name, row.split) for row in result.rows())
    assert counts == {
        ("a", "train"): 1, ("a", "val"): 1, ("a", "test"): 2,
        ("b", "train"): 2, ("b", "val"): 2, ("b", "test"): 4,
        ("c", "train"): 4, ("c", "val"): 3, ("c", "test"): 6,
    }  # fmt: skip
    order = [(manifest.SPLITS.index(row.split), row.class_name, row.path) for row in result.rows()]
    assert order == sorted(order)
    assert result.class_balance_rows()[:3] == [("a", "train", 1), ("a", "val", 1), ("a", "test", 2)]
    assert result.metrics() == {
        "images": {"train": 7, "val": 6, "test": 12}, "classes": 3, "classes_without_val": 0,
        "classes_without_test": 0, "official_split": None, "rejected": 0, "exact_duplicates_left_out": 0,
        "near_duplicates": 0, "test_images_with_near_duplicate": 0, "groups": None,
        "smallest_class": 4, "largest_class": 13,
    }  # fmt: skip


def test_the_split_depends_on_seed_and_content_only(tmp_path):
    files = drawn.classes({"a": 20, "b": 20})
    first = splits_by_path(assign(tmp_path / "1", files))
    assert first == splits_by_path(assign(tmp_path / "2", dict(reversed(files.items()))))
    assert first != splits_by_path(assign(tmp_path / "3", files, seed=1))
    renamed = {path.replace("/", "/renamed-"): data for path, data in files.items()}
    moved = splits_by_path(assign(tmp_path / "4", renamed))
    assert {path.replace("renamed-", ""): split for path, split in moved.items()} == first


def divide(digests, val_ratio, test_ratio):
    """Digest -> split of the images of one class."""
    database = index.temp_table()
    database.executescript(inspection.TABLES)
    rows = ((digest, "a", "cat", "", 1, 1, 1, digest, "0" * 16, "cat") for digest in digests)
    database.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    groups.find_units(database, seed=7)
    groups.assign_units(database, val_ratio, test_ratio)
    query = "SELECT sha256, coalesce(split, 'train') FROM item LEFT JOIN chosen USING (unit)"
    return dict(database.execute(query).fetchall())


def test_each_class_is_split_by_the_order_of_hashes_of_seed_class_and_content(tmp_path):
    result = assign(tmp_path, drawn.classes({"cat": 31, "dog": 12}), HALF_AND_QUARTER, seed=7)
    cats = {row.sha256: row.split for row in result.rows() if row.class_name == "cat"}
    order = sorted(cats, key=lambda digest: hashlib.sha256(f"7/cat/{digest}".encode()).digest())
    assert [cats[digest] for digest in order] == ["test"] * 16 + ["train"] * 7 + ["val"] * 8


def test_added_images_move_hardly_any_others():
    old = [f"{i:064x}" for i in range(100)]
    before = divide(old, 0.15, 0.15)
    for added in (1, 10):
        after = divide(old + [f"new{i}" for i in range(added)], 0.15, 0.15)
        moved = [(before[d], after[d]) for d in old if before[d] != after[d]]
        assert len(moved) <= added + 1
        assert not {("val", "test"), ("test", "val")} & set(moved)


@pytest.mark.parametrize(
    "ratios", [(0.15, 0.15), (0.25, 0.5), (0.01, 0.9), (0.0, 0.2), (0.3, 0.0), (0.0, 0.0)]
)
def test_one_image_for_each_split_is_enough_and_fewer_leave_one_for_train(ratios):
    val, test = ratios
    full = ["train", *["val"] * bool(val), *["test"] * bool(test)]
    assert sorted(divide(map(str, range(len(full))), val, test).values()) == sorted(full)
    assert list(divide(["0"], val, test).values()) == ["train"]


def test_classes_too_small_are_all_named_with_their_counts(tmp_path):
    same = drawn.png(1000)
    files = drawn.classes({"a": 5, "b": 2, "c": 1}) | {f"d/{i}.png": same for i in range(5)}
    with pytest.raises(UserError, match="'b' 2, 'c' 1, 'd' 1; each needs at least 3"):
        assign(tmp_path, files)


def test_a_class_whose_images_are_all_bad_is_named(tmp_path):
    with pytest.raises(UserError, match="'b' 0; each needs at least 3"):
        assign(tmp_path, drawn.classes({"a": 5}) | {"b/1.jpg": b"<html>"})


def test_an_official_test_folder_is_kept_and_val_comes_out_of_train(tmp_path):
    files = official(train={"a": 20, "b": 10}, test={"a": 3, "b": 4})
    result = assign(tmp_path, files)
    assert {p for p, split in splits_by_path(result).items() if split == "test"} == {
        p for p in files if "test/" in p
    }
    assert result.metrics()["images"] == {"train": 27, "val": 3, "test": 7}
    assert result.official_split == "train/test"


def test_official_val_and_test_folders_are_both_kept(tmp_path):
    files = official(train={"a": 1, "b": 1}, val={"a": 2}, test={"b": 2})
    result = assign(tmp_path, files)
    assert splits_by_path(result) == {path: path.split("/")[0] for path in files}
    assert result.official_split == "train/val/test"
    assert result.metrics()["classes_without_test"] == 1


def test_with_an_official_val_only_test_comes_out_of_train(tmp_path):
    result = assign(tmp_path, official(train={"a": 10, "b": 10}, valid={"a": 2, "b": 2}))
    assert result.metrics()["images"] == {"train": 18, "val": 4, "test": 2}
    assert all(split == "val" for path, split in splits_by_path(result).items() if path.startswith("valid/"))


def test_exact_duplicates_are_kept_in_test_before_val_before_train(tmp_path):
    one, two = drawn.png(500), drawn.png(501)
    files = official(train={"a": 4, "b": 4}, val={"a": 1, "b": 1}, test={"a": 1, "b": 1}) | {
        "train/a/x.png": one, "val/a/x.png": one, "test/a/x.png": one,
        "train/b/y.png": two, "val/b/y.png": two,
    }  # fmt: skip
    result = assign(tmp_path, files)
    assert {path for path in splits_by_path(result) if path.endswith(("x.png", "y.png"))} == {
        "test/a/x.png",
        "val/b/y.png",
    }
    assert list(result.rejected_rows()) == [
        ("train/a/x.png", "same bytes as test/a/x.png in test"),
        ("train/b/y.png", "same bytes as val/b/y.png in val"),
        ("val/a/x.png", "same bytes as test/a/x.png in test"),
    ]
    assert (result.exact_duplicate_count, result.inspection.bad_count) == (3, 0)


def test_repeats_within_a_class_stay_in_one_split_and_official_repeats_stay(tmp_path):
    same = drawn.png(500)
    files = drawn.classes({"a": 10, "b": 10}) | {f"a/same{i}.png": same for i in range(8)}
    result = assign(tmp_path, files, HALF_AND_QUARTER)
    assert len({split for path, split in splits_by_path(result).items() if "same" in path}) == 1
    assert len(splits_by_path(result)) == 28

    files = official(train={"a": 3, "b": 3}, test={"a": 1, "b": 1})
    result = assign(tmp_path / "2", files | {"test/a/x.png": same, "test/a/y.png": same})
    assert {"test/a/x.png", "test/a/y.png"} <= set(splits_by_path(result))


def test_the_same_bytes_in_two_classes_are_kept_once(tmp_path):
    same = drawn.png(500)
    result = assign(
        tmp_path, drawn.classes({"a": 5, "b": 5}) | {"b/x.png": same, "a/z.png": same, "b/y.png": same}
    )
    assert list(result.rejected_rows()) == [
        ("b/x.png", "same bytes as a/z.png of class a"),
        ("b/y.png", "same bytes as a/z.png of class a"),
    ]
    assert "a/z.png" in splits_by_path(result)


def test_memory_does_not_grow_with_the_number_of_images():
    def row(n):
        digest = n if n % 10 else n + 1  # every tenth has the bytes of its neighbor in the other class
        return f"{n % 2}/{n}", "a", f"{n % 2}", "", 1, 1, 1, f"{digest:064}", f"{n**3:016x}", f"{n % 2}"

    def peak_bytes(images):
        database = index.temp_table()
        database.executescript(inspection.TABLES)
        marks = ", ".join("?" * 10)
        database.executemany(f"INSERT INTO image VALUES ({marks})", map(row, range(images)))
        tracemalloc.start()
        result = assignment.assign_splits(inspection.Inspection(database, ["0", "1"], images, 0), TENTHS, 0)
        left_out = sum(1 for _ in result.rejected_rows())
        assert left_out == result.exact_duplicate_count == images // 10
        assert sum(1 for _ in result.rows()) + left_out == images
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert (
        peak_bytes(30_000) < peak_bytes(300) + 4_000_000
    )  # blocks of the hash comparison; rows would be 20 MB
