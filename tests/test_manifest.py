"""Which image goes where, and which ones are left out and why."""

import hashlib
import tracemalloc
from collections import Counter

import drawn
import imagehash
import numpy as np
import pytest

from finegrain.config import params
from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.dataset import assignment, inspection, manifest, near_duplicates
from finegrain.sources import archive, temp_table

HALF_AND_QUARTER = params.SplitParams(val_ratio=0.25, test_ratio=0.5)
TENTHS = params.SplitParams(val_ratio=0.1, test_ratio=0.1)


def inspected(tmp_path, files):
    folder = tmp_path / "archive"
    drawn.zip_file(folder / "a.zip", files)
    with archive.ArchiveReader(folder) as reader:
        return inspection.inspect_images(reader)


def built(tmp_path, files, split=TENTHS, seed=0):
    return assignment.assign_splits(inspected(tmp_path, files), split, seed)


def splits(result):
    return {row.path: row.split for row in result.rows()}


def test_every_fact_of_an_image_is_recorded(tmp_path):
    exif = drawn.Image.Exif()
    exif[0x0112] = 6
    turned = drawn.encode(drawn.picture(9, 600, 400), "JPEG", exif=exif)
    result = built(tmp_path, drawn.classes({"cat": 3, "dog": 3}) | {"cat/turned.jpg": turned})
    row = next(row for row in result.rows() if row.path == "cat/turned.jpg")
    assert row[1:3] + row[4:7] == ("a.zip", "cat", 400, 600, len(turned))
    assert row.sha256 == hashlib.sha256(turned).hexdigest()
    upright = drawn.picture(9, 600, 400).rotate(-90, expand=True)
    assert (int(row.phash, 16) ^ int(str(imagehash.phash(upright)), 16)).bit_count() <= 2
    assert len(row.phash) == 16


def test_the_split_is_stratified_and_sorted(tmp_path):
    result = built(tmp_path, drawn.classes({"a": 4, "b": 8, "c": 13}), HALF_AND_QUARTER)
    counts = Counter((row.class_name, row.split) for row in result.rows())
    assert counts == {
        ("a", "train"): 1, ("a", "val"): 1, ("a", "test"): 2,
        ("b", "train"): 2, ("b", "val"): 2, ("b", "test"): 4,
        ("c", "train"): 4, ("c", "val"): 3, ("c", "test"): 6,
    }  # fmt: skip
    order = [(manifest.SPLITS.index(row.split), row.class_name, row.path) for row in result.rows()]
    assert order == sorted(order)
    assert result.balance()[:3] == [("a", "train", 1), ("a", "val", 1), ("a", "test", 2)]
    assert result.metrics() == {
        "images": {"train": 7, "val": 6, "test": 12}, "classes": 3, "classes_without_test": 0,
        "official_split": None, "rejected": 0, "exact_duplicates_left_out": 0, "near_duplicates": 0,
        "test_images_with_near_duplicate": 0, "smallest_class": 4, "largest_class": 13,
    }  # fmt: skip


def test_the_split_depends_on_seed_and_content_only(tmp_path):
    files = drawn.classes({"a": 20, "b": 20})
    first = splits(built(tmp_path / "1", files))
    assert first == splits(built(tmp_path / "2", dict(reversed(files.items()))))
    assert first != splits(built(tmp_path / "3", files, seed=1))
    renamed = {path.replace("/", "/renamed-"): data for path, data in files.items()}
    moved = splits(built(tmp_path / "4", renamed))
    assert {path.replace("renamed-", ""): split for path, split in moved.items()} == first


def divided(digests, val_ratio, test_ratio, seed=7):
    """Digest -> split of one class."""
    order = sorted(digests, key=lambda digest: assignment.order_key(seed, "cat", digest))
    return {d: assignment.split_at(i, len(order), val_ratio, test_ratio) for i, d in enumerate(order)}


def test_the_split_is_that_of_dividing_each_class_by_itself(tmp_path):
    result = built(tmp_path, drawn.classes({"cat": 31, "dog": 12}), HALF_AND_QUARTER, seed=7)
    cats = {row.sha256: row.split for row in result.rows() if row.class_name == "cat"}
    assert cats == divided(cats, 0.25, 0.5)


def test_more_photos_move_hardly_any_of_the_old_ones():
    old = [f"{i:064x}" for i in range(100)]
    before = divided(old, 0.15, 0.15)
    for added in (1, 10):
        after = divided(old + [f"new{i}" for i in range(added)], 0.15, 0.15)
        moved = [(before[d], after[d]) for d in old if before[d] != after[d]]
        assert len(moved) <= added + 1
        assert not {("val", "test"), ("test", "val")} & set(moved)


@pytest.mark.parametrize(
    "ratios", [(0.15, 0.15), (0.25, 0.5), (0.01, 0.9), (0.0, 0.2), (0.3, 0.0), (0.0, 0.0)]
)
def test_fewest_is_the_smallest_class_that_fills_each_split(ratios):
    val, test = ratios
    full = {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())
    fewest = assignment.min_class_size(val, test)
    assert set(divided(map(str, range(fewest)), val, test).values()) == full
    assert set(divided(map(str, range(fewest - 1)), val, test).values()) != full


def test_classes_too_small_are_all_named_with_their_counts(tmp_path):
    same = drawn.png(1000)
    files = drawn.classes({"a": 5, "b": 2, "c": 1}) | {f"d/{i}.png": same for i in range(5)}
    with pytest.raises(UserError, match="'b' 2, 'c' 1, 'd' 1; at least 3 different ones"):
        built(tmp_path, files)


def test_a_class_whose_images_are_all_bad_is_named(tmp_path):
    with pytest.raises(UserError, match="'b' 0; at least 3"):
        built(tmp_path, drawn.classes({"a": 5}) | {"b/1.jpg": b"<html>"})


def official(**folders):
    files: dict[str, bytes] = {}
    for i, (split, counts) in enumerate(folders.items()):
        files |= {f"{split}/{path}": data for path, data in drawn.classes(counts, 100 * i).items()}
    return files


def test_an_official_test_folder_is_kept_and_val_comes_out_of_train(tmp_path):
    files = official(train={"a": 20, "b": 10}, test={"a": 3, "b": 4})
    result = built(tmp_path, files)
    assert {p for p, split in splits(result).items() if split == "test"} == {p for p in files if "test/" in p}
    assert result.metrics()["images"] == {"train": 27, "val": 3, "test": 7}
    assert result.official_split == "train/test"


def test_official_val_and_test_folders_are_both_kept(tmp_path):
    files = official(train={"a": 1, "b": 1}, val={"a": 2}, test={"b": 2})
    result = built(tmp_path, files)
    assert splits(result) == {path: path.split("/")[0] for path in files}
    assert result.official_split == "train/val/test"
    assert result.metrics()["classes_without_test"] == 1


def test_with_an_official_val_only_test_comes_out_of_train(tmp_path):
    result = built(tmp_path, official(train={"a": 10, "b": 10}, valid={"a": 2, "b": 2}))
    assert result.metrics()["images"] == {"train": 18, "val": 4, "test": 2}
    assert all(split == "val" for path, split in splits(result).items() if path.startswith("valid/"))


def test_of_exact_duplicates_test_wins_over_val_over_train(tmp_path):
    one, two = drawn.png(500), drawn.png(501)
    files = official(train={"a": 4, "b": 4}, val={"a": 1, "b": 1}, test={"a": 1, "b": 1}) | {
        "train/a/x.png": one, "val/a/x.png": one, "test/a/x.png": one,
        "train/b/y.png": two, "val/b/y.png": two,
    }  # fmt: skip
    result = built(tmp_path, files)
    assert {path for path in splits(result) if path.endswith(("x.png", "y.png"))} == {
        "test/a/x.png",
        "val/b/y.png",
    }
    assert list(result.rejected()) == [
        ("train/a/x.png", "same bytes as test/a/x.png in test"),
        ("train/b/y.png", "same bytes as val/b/y.png in val"),
        ("val/a/x.png", "same bytes as test/a/x.png in test"),
    ]
    assert (result.exact_duplicates, result.inspected.bad) == (3, 0)


def test_repeats_within_a_class_stay_together_and_official_repeats_stay(tmp_path):
    same = drawn.png(500)
    files = drawn.classes({"a": 10, "b": 10}) | {f"a/same{i}.png": same for i in range(8)}
    result = built(tmp_path, files, HALF_AND_QUARTER)
    assert len({split for path, split in splits(result).items() if "same" in path}) == 1
    assert len(splits(result)) == 28

    files = official(train={"a": 3, "b": 3}, test={"a": 1, "b": 1})
    result = built(tmp_path / "2", files | {"test/a/x.png": same, "test/a/y.png": same})
    assert {"test/a/x.png", "test/a/y.png"} <= set(splits(result))


def test_the_same_bytes_in_two_classes_are_kept_once(tmp_path):
    same = drawn.png(500)
    result = built(
        tmp_path, drawn.classes({"a": 5, "b": 5}) | {"b/x.png": same, "a/z.png": same, "b/y.png": same}
    )
    assert list(result.rejected()) == [
        ("b/x.png", "same bytes as a/z.png of class a"),
        ("b/y.png", "same bytes as a/z.png of class a"),
    ]
    assert "a/z.png" in splits(result)


def test_bad_images_are_listed_and_too_many_stop_the_stage(tmp_path):
    cut = drawn.encode(drawn.picture(1, 200, 200), "JPEG")[:2000]
    files = drawn.classes({"a": 5, "b": 5}) | {"b/page.jpg": b"<html>", "a/cut.jpg": cut, "a/none.gif": b""}
    found = inspected(tmp_path, files)
    rejected = list(found.rejected())
    assert [path for path, _ in rejected] == ["a/cut.jpg", "a/none.gif", "b/page.jpg"]
    assert rejected[2] == ("b/page.jpg", "not an image: a web page or XML")
    assert "truncated" in rejected[0][1]
    found.refuse_many_bad(3 / 13, tmp_path / "rejected.csv")
    with pytest.raises(UserError) as error:
        found.refuse_many_bad(0.2, tmp_path / "rejected.csv")
    message = str(error.value)
    assert message.startswith("3 of 13 images (23.08%) cannot be used; split.max_bad_ratio allows 20.00%")
    assert "rejected.csv" in message and "a/none.gif: not an image: empty file" in message
    result = assignment.assign_splits(found, TENTHS, 0)
    assert (len(splits(result)), list(result.rejected())) == (10, rejected)


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
    closest, total, tested = near_duplicates.closest_pairs(test, others, max_bits, limit=10_000)
    assert closest.tolist() == [list(pair) for pair in expected]
    assert (total, tested) == (len(expected), len({i for _, i, _ in expected}))
    closest, total, _ = near_duplicates.closest_pairs(test, others, max_bits, limit=7)
    assert closest.tolist() == [list(pair) for pair in expected[:7]]
    assert total == len(expected)


def test_near_duplicates_across_blocks_are_found():
    rng = np.random.default_rng(0)
    test = rng.integers(0, 2**64, 300, dtype=np.uint64)
    others = np.concatenate([rng.integers(0, 2**64, 40_000, dtype=np.uint64), test[::-1]])
    closest, total, tested = near_duplicates.closest_pairs(test, others, 0, limit=1000)
    assert closest.tolist() == [[0, i, 40_299 - i] for i in range(300)]
    assert (total, tested) == (300, 300)


def test_all_alike_gives_the_first_pairs_and_the_number_of_all():
    closest, total, tested = near_duplicates.closest_pairs(
        np.zeros(200, np.uint64), np.zeros(3000, np.uint64), 4, limit=9
    )
    assert closest.tolist() == [[0, 0, i] for i in range(9)]
    assert (total, tested) == (600_000, 200)


def test_a_hundred_times_the_images_take_the_same_memory():
    def row(n):
        digest = n if n % 10 else n + 1  # every tenth has the bytes of its neighbour, of the other class
        return f"{n % 2}/{n}", "a", f"{n % 2}", "", 1, 1, 1, f"{digest:064}", f"{n**3:016x}"

    def peak(images):
        table = temp_table.create()
        table.executescript(inspection.TABLES)
        table.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", map(row, range(images)))
        tracemalloc.start()
        result = assignment.assign_splits(inspection.Inspection(table, ["0", "1"], images, 0), TENTHS, 0)
        left_out = sum(1 for _ in result.rejected())
        assert left_out == result.exact_duplicates == images // 10
        assert sum(1 for _ in result.rows()) + left_out == images
        bytes_at_most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_at_most

    assert peak(30_000) < peak(300) + 4_000_000  # blocks of the hash comparison; rows would be 20 MB


def test_a_recompressed_copy_in_train_is_reported_and_stays(tmp_path):
    files = official(train={"a": 3, "b": 3}, test={"a": 1, "b": 1})
    copy = drawn.encode(drawn.picture(700, 90, 60), "JPEG", quality=80)
    result = built(tmp_path, files | {"test/a/x.png": drawn.png(700, 120, 80), "train/b/copy.jpg": copy})
    assert [(a, b) for a, b, _ in result.near_duplicates()] == [("test/a/x.png", "train/b/copy.jpg")]
    assert splits(result)["train/b/copy.jpg"] in ("train", "val")
    assert result.metrics()["near_duplicates"] == result.metrics()["test_images_with_near_duplicate"] == 1


def test_the_manifest_reads_back_as_it_was_written(tmp_path):
    files = drawn.classes({"NA": 3, "007": 3, 'say "x", y': 3, "caf\u00e9": 3})
    result = built(tmp_path, files)
    file = tmp_path / "data" / "manifest.csv"
    file_io.write_csv(file, manifest.COLUMNS, result.rows())
    assert list(manifest.read_manifest(file)) == list(result.rows())
    assert {row.class_name for row in manifest.read_manifest(file)} == {
        "NA",
        "007",
        'say "x", y',
        "caf\u00e9",
    }


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="dvc repro split` makes it"):
        list(manifest.read_manifest(tmp_path / "none.csv"))
    head = ",".join(manifest.COLUMNS)
    rows = ("a,b,c,train,wide,1,1,x,y", "a,b,c,trial,1,1,1,x,y", "a,b,c")
    for text in ("", "path,class\n1,2\n", *(f"{head}\n{row}\n" for row in rows)):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(UserError, match="m.csv: .*run `dvc repro split` again"):
            list(manifest.read_manifest(tmp_path / "m.csv"))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    file = tmp_path / "manifest.csv"
    result = built(tmp_path, drawn.classes({"cat": 4, "dog": 4}))
    file_io.write_csv(file, manifest.COLUMNS, result.rows())
    rows_before = list(manifest.read_manifest(file))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert list(manifest.read_manifest(file)) == rows_before
