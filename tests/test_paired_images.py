"""The images that two revisions have in common: same content and class, or else same path and class."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from revisions import CORRECT, LABELS, incorrect, results, revision, text

from finegrain.core.errors import UserError
from finegrain.experiments import difference
from finegrain.experiments.results import ModelResults, RevisionResults


def test_only_images_of_both_revisions_are_compared_by_path_and_class_in_any_order():
    labels = ["cat"] * 20 + ["owl"] + ["dog"] * 19  # one image has moved to another class
    mine, theirs = results(incorrect(*range(30, 40))), results(incorrect(20, 21), labels=labels)
    before = revision("x", {"net": mine})
    after = revision("y", {"net": theirs, "new": theirs}, labels, first=5)
    order = np.random.default_rng(0).permutation(40)
    after = RevisionResults(
        "y",
        None,
        after.images.iloc[order].reset_index(drop=True),
        {
            name: ModelResults(m.predictions[:, order], {"top1": 0.5, "loss": 0.5})
            for name, m in after.models.items()
        },
        {},
    )
    found = difference.compare_revisions(before, after)
    # both have images 5 to 39; 20 to 24 are dogs in one and cats in the other, 25 is an owl
    (change,) = found.models
    assert found.images == 29
    assert change.before.value == pytest.approx(19 / 29)
    assert change.after.value == pytest.approx(28 / 29)
    assert [flip.path for flip in change.losses] == ["26.jpg"]
    assert found.added[0].value == 38 / 40
    assert "does not have them: 11 of `x` (0123456) and 11 of the y" in text(found)


def with_content(revision: RevisionResults, contents: Sequence[object]) -> RevisionResults:
    return replace(revision, images=revision.images.assign(sha256=[f"{each:064x}" for each in contents]))


def test_images_are_paired_by_content_and_not_by_path():
    """Images 0 to 9 are other photos under the same names; of the rest, all are renamed."""
    before = with_content(revision("x", {"net": results(CORRECT)}), range(40))
    after = with_content(
        revision("y", {"net": results(incorrect(*range(10), 39))}), [*range(100, 110), *range(10, 40)]
    )
    renamed = [*after.images["path"][:10], *(f"new/{i}.jpg" for i in range(10, 40))]
    after = replace(after, images=after.images.assign(path=renamed))
    found = difference.compare_revisions(before, after)
    assert (found.images, found.changed_images, found.paired_by) == (30, 10, "sha256")
    assert found.models[0].comparison.difference == pytest.approx(-1 / 30)
    assert [flip.path for flip in found.models[0].losses] == ["39.jpg"]
    assert "10 of `x` (0123456) and 10 of `y` (0123456); 10 paths are in both" in text(found)
    assert "paired by path" not in text(found)
    assert found.to_dict()["changed_images"] == 10


def test_images_whose_label_was_corrected_are_left_out_and_counted():
    """The first three images were cats, and are dogs now; another one was dropped."""
    before = with_content(revision("x", {"net": results(CORRECT)}), range(40))
    labels = ["dog"] * 3 + LABELS[3:]
    after = with_content(revision("y", {"net": results(CORRECT, labels=labels)}, labels), range(40))
    after = after.select_images(np.delete(np.arange(40), 30))
    found = difference.compare_revisions(before, after)
    assert (found.images, found.changed_images, found.relabeled_images) == (36, 3, 3)
    assert "4 of `x` (0123456) and 3 of `y` (0123456); 3 images have another label in each" in text(found)
    assert found.to_dict()["relabeled_images"] == 3


def test_copies_of_one_image_are_paired_once_each():
    before = with_content(revision("x", {"net": results(CORRECT)}), [0] * 20 + [1] * 20)
    after = with_content(revision("y", {"net": results(CORRECT)}), [0] * 20 + [1] * 15 + [2] * 5)
    found = difference.compare_revisions(before, after)
    assert (found.images, found.changed_images) == (35, 5) and found.models[0].unchanged


def test_a_revision_that_has_not_recorded_the_content_is_paired_by_path():
    before = revision("x", {"net": results(CORRECT)})
    after = with_content(revision("y", {"net": results(CORRECT)}), range(40))
    found = difference.compare_revisions(before, after)
    assert (found.images, found.paired_by) == (40, "path")
    assert "paired by path: the predictions of `x` (0123456) do not" in text(found)


def test_other_photos_of_the_same_names_have_nothing_in_common():
    both = [with_content(revision(name, {"net": results(CORRECT)}), range(at, at + 40))
            for name, at in (("x", 0), ("y", 40))]  # fmt: skip
    with pytest.raises(UserError, match="x and y have 0 test images in common .the same content and class"):
        difference.compare_revisions(*both)


def test_revisions_without_common_images_are_rejected():
    with pytest.raises(UserError, match="main and other have 0 test images in common .*the same dataset"):
        difference.compare_revisions(
            revision("main", {"net": results(CORRECT)}),
            revision("other", {"net": results(CORRECT)}, first=1000),
        )
