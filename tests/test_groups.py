"""Images of one group, and near-duplicates if wanted, stay in one split; sizes stay near the ratios."""

from collections import Counter, defaultdict

import drawn
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from toy_data import assign, inspect, official, splits_by_path

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.dataset import assignment, groups, inspection
from finegrain.sources import index


def split_params(**changes):
    return params.SplitParams(**{"val_ratio": 0.2, "test_ratio": 0.2} | changes)


def assign_groups(tmp_path, files, pattern=r"g\d+", **changes):
    inspected = inspect(tmp_path, files)
    return assignment.assign_splits(inspected, split_params(**changes), 0, groups.path_groups(pattern))


def divide(sizes, val_ratio=0.15, test_ratio=0.15, seed=0):
    """Group -> split, for ``{group: {class: number of images}}``."""
    database = index.temp_table()
    database.executescript(inspection.TABLES)
    paths = [(g, c, n) for g, counts in sizes.items() for c, count in counts.items() for n in range(count)]
    rows = ((f"{c}/{g}_{n}", "a", c, "", 1, 1, 1, f"{g} {c} {n}", "0" * 16, c) for g, c, n in paths)
    database.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    groups.find_groups(database, groups.path_groups("/(.*)_"))
    groups.find_units(database, seed)
    groups.assign_units(database, val_ratio, test_ratio)
    query = "SELECT sha256, coalesce(split, 'train') FROM item LEFT JOIN chosen USING (unit)"
    found = defaultdict(set)
    for name, split in database.execute(query):
        found[name.split()[0]].add(split)
    assert all(len(splits) == 1 for splits in found.values())
    return {name: splits.pop() for name, splits in found.items()}


def images_of(sizes, found):
    """(class, split) -> number of images."""
    counts = Counter()
    for group, by_class in sizes.items():
        for name, count in by_class.items():
            counts[name, found[group]] += count
    return counts


GROUPS = st.dictionaries(
    st.integers(0, 40).map("g{}".format),
    st.dictionaries(st.sampled_from("ab"), st.integers(1, 9), min_size=1),
    min_size=1,
)


@settings(max_examples=60)
@given(sizes=GROUPS)
def test_no_group_is_divided_and_each_class_keeps_train_images(sizes):
    counts = images_of(sizes, divide(sizes))
    for name in {name for by_class in sizes.values() for name in by_class}:
        assert counts[name, "train"] > 0


@settings(max_examples=60)
@given(sizes=st.dictionaries(st.integers(0, 60).map("g{}".format), st.integers(1, 8), min_size=3))
def test_within_one_class_sizes_differ_from_the_ratio_by_less_than_a_group(sizes):
    counts = images_of(by_class := {name: {"a": n} for name, n in sizes.items()}, divide(by_class))
    target = max(1, round(sum(sizes.values()) * 0.15))
    for split in ("val", "test"):
        assert 0 < counts["a", split]
        assert abs(counts["a", split] - target) < max(sizes.values())


def test_the_split_depends_on_seed_and_names_alone():
    sizes = {f"g{n}": {"a": 1 + n % 4, "b": n % 3 or 2} for n in range(40)}
    found = divide(sizes)
    assert divide(dict(reversed(sizes.items()))) == found
    assert divide(sizes, seed=1) != found


def test_photos_added_later_move_few_groups_and_none_from_test_to_val():
    sizes = {f"g{n}": {"ab"[n % 2]: 2 + n % 5} for n in range(80)}
    before = divide(sizes)
    for n in range(0, 80, 4):
        more = sizes | {f"g{n}": {"ab"[n % 2]: sizes[f"g{n}"]["ab"[n % 2]] + 1}}
        new = sizes | {f"new{n}": {"ab"[n % 2]: 3}}
        for after in (divide(more), divide(new)):
            moved = [(before[g], after[g]) for g in before if before[g] != after[g]]
            assert len(moved) <= 4
            assert not {("val", "test"), ("test", "val")} & set(moved)


def test_a_class_with_too_few_groups_is_named(tmp_path, capfd):
    files = drawn.classes({f"a/g{n}": 2 for n in range(6)} | {"b/g10": 4, "b/g11": 4, "c/g20": 4})
    result = assign_groups(tmp_path, files)
    counts = Counter((row.class_name, row.split) for row in result.rows())
    assert counts["b", "test"] == 4 and counts["b", "val"] == 0 and counts["c", "train"] == 4
    messages = capfd.readouterr().err
    assert "classes without an image in val: b, c\n" in messages
    assert "classes without an image in test: c\n" in messages
    metrics = result.metrics()
    assert (metrics["classes_without_val"], metrics["classes_without_test"]) == (2, 1)
    assert metrics["groups"]["count"] == 9


def test_groups_that_leave_a_split_empty_or_fit_nothing_are_rejected(tmp_path):
    files = drawn.classes({"a/g1": 4, "b/g2": 4})
    with pytest.raises(UserError, match="no image is left for val"):
        assign_groups(tmp_path / "1", files)
    with pytest.raises(UserError, match="no image has a group: split.group .* first path is a/g1/000.png"):
        assign_groups(tmp_path / "2", files, pattern="video")


def test_groups_that_official_splits_divide_are_counted(tmp_path, capfd):
    files = official(train={"a/g1": 3, "a/g2": 3, "b/g3": 3, "b/g4": 3}, test={"a/g1": 2, "b/g9": 1})
    result = assign_groups(tmp_path, files)
    assert result.metrics()["groups"] == {
        "count": 5, "images_without": 0, "in_several_splits": 1, "test_images_shared": 2
    }  # fmt: skip
    assert "groups in several of the archive's splits: 1, with 2 test images" in capfd.readouterr().err
    by_group = defaultdict(set)
    for path, name in splits_by_path(result).items():
        if not path.startswith("test/"):
            by_group[path.split("/")[2]].add(name)
    assert all(len(names) == 1 for names in by_group.values())


def test_the_first_group_of_the_expression_counts_or_else_the_whole_match():
    assert groups.path_groups(r"(\w+)-\d")("cat/tom-1.jpg") == "tom"
    assert groups.path_groups(r"\w+-\d")("cat/tom-1.jpg") == "tom-1"
    assert groups.path_groups(r"x(\d)?")("x.jpg") is None


def test_near_duplicates_are_kept_together_with_their_groups(tmp_path):
    files = drawn.classes({"a": 15, "b": 15})
    for n in range(6):  # each photo again, smaller and as JPEG, and one more of the session of that one
        files[f"a/again{n}_g{n}.jpg"] = drawn.encode(drawn.pattern(n, 90, 60), "JPEG")
        files[f"a/other{n}_g{n}.png"] = drawn.png(500 + n)
    listed = assign(tmp_path / "1", files, split_params())
    assert listed.metrics()["test_images_with_near_duplicate"] > 0
    kept = assign_groups(tmp_path / "2", files, near_duplicates="keep_together")
    assert kept.metrics()["near_duplicates"] == 0
    splits = splits_by_path(kept)
    for n in range(6):
        together = {splits[f"a/{n:03}.png"], splits[f"a/again{n}_g{n}.jpg"], splits[f"a/other{n}_g{n}.png"]}
        assert len(together) == 1
    assert {"train", "val", "test"} == set(splits.values())
