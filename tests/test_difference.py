"""Differences of two revisions, against cases worked by hand: verdicts, classes, flipped images, Markdown."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from finegrain.core.errors import UserError
from finegrain.experiments import difference, markdown
from finegrain.experiments.difference import Difference
from finegrain.experiments.results import ModelResults, RevisionResults

LABELS = ["cat"] * 20 + ["dog"] * 20
CORRECT = "1" * 40


def results(*seeds: str, labels: Sequence[str] = LABELS, val_top1: float = 0.5) -> ModelResults:
    """A model by its predictions: 1 if correct; 0 if a cat is predicted as dog, any other class as cat."""
    predictions = [
        [
            label if mark == "1" else ("dog" if label == "cat" else "cat")
            for label, mark in zip(labels, seed, strict=True)
        ]
        for seed in seeds
    ]
    return ModelResults(np.array(predictions, object), {"top1": val_top1, "loss": 1 - val_top1})


def revision(
    name: str,
    models: Mapping[str, ModelResults],
    labels: Sequence[str] = LABELS,
    first: int = 0,
    parameters: Mapping[str, Any] | None = None,
    **more: Any,
) -> RevisionResults:
    images = pd.DataFrame({"path": [f"{first + i}.jpg" for i in range(len(labels))], "class": labels})
    return RevisionResults(name, "0123456789", images, dict(models), dict(parameters or {}), **more)


def incorrect(*places: int) -> str:
    return "".join("0" if i in places else "1" for i in range(len(LABELS)))


def test_a_change_is_judged_on_the_images_that_it_flips():
    before = revision("main", {"net": results(incorrect(*range(10)))})
    after = revision("tried", {"net": results(incorrect(0, 39))})
    found = difference.compare_revisions(before, after)
    (change,) = found.models
    # nine images gained, one lost: two of 2^10 outcomes are as far, twenty as far but for one
    assert change.comparison.p_value == pytest.approx(2 * (1 + 10) / 1024)
    assert change.comparison.difference == pytest.approx(8 / 40)
    assert change.comparison.low < 0.2 < change.comparison.high
    assert change.comparison.verdict == "significantly better" and not found.worse
    assert (change.before.value, change.after.value) == (30 / 40, 38 / 40)
    assert change.after.low == pytest.approx(stats.binomtest(38, 40).proportion_ci(0.95, "wilson").low)
    back = difference.compare_revisions(after, before)
    assert back.models[0].comparison.verdict == "significantly worse" and back.worse
    assert [flip.path for flip in change.losses] == ["39.jpg"]
    assert [flip.path for flip in change.gains] == [f"{i}.jpg" for i in range(1, 10)]
    assert (change.losses[0].label, change.losses[0].before, change.losses[0].after) == ("dog", "dog", "cat")
    assert [flip.path for flip in back.models[0].gains] == ["39.jpg"]


def test_p_is_corrected_for_the_number_of_models():
    """8 gained of 10 flipped alone: p = 0.109. All of 7: 0.016, three times that as one of three models."""
    old = incorrect(*range(7))
    models = {name: results(old) for name in ("a", "b", "c")}
    after = {"a": results(CORRECT), "b": results(old), "c": results(old)}
    found = difference.compare_revisions(revision("x", models), revision("y", after))
    assert [c.comparison.p_value for c in found.models] == pytest.approx([3 * 2 / 2**7, 1.0, 1.0])
    assert found.models[0].comparison.verdict == "significantly better"
    after["b"] = results(incorrect(*range(1, 7)))
    worse = difference.compare_revisions(
        revision("x", models | {"d": results(old)}), revision("y", after | {"d": results(old)})
    )
    assert worse.models[0].comparison.p_value == pytest.approx(4 * 2 / 2**7)
    assert worse.models[0].comparison.verdict == "within noise"


def test_seed_variance_counts():
    """Eight images gained and none lost is significant for one seed, but not with seeds this different."""
    varied = [incorrect(*range(8)), incorrect(*range(16)), CORRECT]
    before, after = revision("x", {"net": results(*varied)}), revision("y", {"net": results(CORRECT)})
    found = difference.compare_revisions(before, after).models[0]
    assert (found.before.seeds, found.after.seeds) == (3, 1)
    assert found.comparison.difference == pytest.approx(24 / 120)
    assert found.comparison.verdict == "within noise"
    steady = revision("x", {"net": results(*[incorrect(*range(8))] * 3)})
    assert difference.compare_revisions(steady, after).models[0].comparison.verdict == "significantly better"


def test_with_several_seeds_an_image_flips_where_the_majority_does():
    labels = ["cat", "dog", "owl", "bee"]
    before = np.array(
        [["cat", "cat", "bee", "bee"], ["cat", "dog", "owl", "bee"], ["dog", "dog", "owl", "owl"]]
    )
    after = np.array([["dog", "dog", "owl", "bee"], ["owl", "dog", "cat", "cat"]])
    revisions = [
        revision(name, {"net": ModelResults(predictions.astype(object), {"top1": 0.5, "loss": 0.5})}, labels)
        for name, predictions in (("x", before), ("y", after))
    ]
    (change,) = difference.compare_revisions(*revisions).models
    # half of the seeds are correct on the fourth image afterwards: no majority
    assert [(flip.path, flip.before, flip.after) for flip in change.flips] == [("0.jpg", "cat", "dog")]
    assert (change.flips[0].correct_before, change.flips[0].correct_after) == pytest.approx((2 / 3, 0.0))
    back = difference.compare_revisions(*revisions[::-1]).models[0].flips
    assert [(flip.path, flip.before, flip.after) for flip in back] == [("0.jpg", "dog", "cat")]
    assert re.search(
        r"\| correct \(2 of 3\) \| `dog` \(0 of 2 correct\) \|",
        text(difference.compare_revisions(*revisions)),
    )


def test_the_shown_incorrect_prediction_is_the_most_frequent_one():
    predictions = np.array([["dog"], ["cat"], ["owl"], ["owl"], ["cat"]], object)
    flips = difference._flips(["p"], np.array(["cat"], object), np.array([["cat"]], object), predictions)
    assert [(flip.after, flip.correct_after) for flip in flips] == [("owl", 0.4)]


def test_a_model_with_the_same_correct_predictions_is_unchanged_and_has_no_details():
    net, other = results(incorrect(1, 2), incorrect(3)), results(incorrect(5))
    found = difference.compare_revisions(
        revision("x", {"net": net, "other": other}), revision("y", {"net": net, "other": net})
    )
    assert [change.unchanged for change in found.models] == [True, False]
    assert found.to_dict()["models"][0]["verdict"] == "unchanged" and not found.worse
    assert text(found).startswith("**Within noise: other (−1.2) points of top-1; unchanged: net.**")
    assert "### other" in text(found) and "### net" not in text(found)


def test_classes_that_changed_by_more_than_one_image_and_which_of_them_significantly():
    labels = ["cat"] * 10 + ["dog"] * 10 + ["owl"] * 10
    before = {"net": results("1" * 10 + "0" * 10 + "1" * 10, labels=labels)}
    after = {"net": results("1" * 7 + "000" + "1" * 10 + "1" * 9 + "0", labels=labels)}
    (change,) = difference.compare_revisions(
        revision("x", before, labels), revision("y", after, labels)
    ).models
    assert [(each.name, each.gain) for each in change.classes] == [
        ("dog", 10.0),
        ("cat", pytest.approx(-3.0)),
    ]
    dog, cat = change.classes
    assert (dog.images, dog.before, dog.after) == (10, 0.0, 1.0)
    # ten of ten the same way: 2 / 2^10, the smallest of three classes; three of three: 2 / 2^3, second
    assert dog.p_value == pytest.approx(3 * 2 / 2**10) and dog.significant
    assert cat.p_value == pytest.approx(2 * 2 / 2**3) and not cat.significant


def test_the_number_of_images_that_a_class_needs_is_the_least_that_can_be_significant():
    change = difference.ClassChange("cat", 10, 0.0, 0.5, 1.0)
    for classes in (2, 12, 196):
        found = re.search(r"at least (\d+) images", "".join(markdown._class_changes([change], classes)))
        least = int(found[1])
        p = [stats.binomtest(n, n).pvalue * classes for n in (least - 1, least)]
        assert p[1] < 0.05 <= p[0]


def test_models_of_one_revision_only_are_listed_with_their_own_score():
    before = revision("x", {"kept": results(CORRECT), "old": results(incorrect(0, 1))})
    after = revision("y", {"new": results(incorrect(0)), "kept": results(CORRECT)})
    found = difference.compare_revisions(before, after)
    assert [(each.model, each.value) for each in found.added] == [("new", 39 / 40)]
    assert [(each.model, each.value) for each in found.dropped] == [("old", 38 / 40)]
    assert [change.after.model for change in found.models] == ["kept"]


def test_two_different_winners_are_compared():
    before = revision("x", {"a": results(CORRECT, val_top1=0.9)})
    after = revision("y", {"b": results(incorrect(*range(10)), val_top1=0.8)})
    found = difference.compare_revisions(before, after)
    assert not found.models and found.worse
    assert (found.winners.before.model, found.winners.after.model) == ("a", "b")
    assert found.winners.comparison.difference == -0.25
    assert found.winners.comparison.p_value == pytest.approx(2 / 2**10)
    assert len(found.winners.losses) == 10
    first_line = text(found).splitlines()[0]
    assert "No model is in both revisions; the winner is another model, significantly worse" in first_line
    assert "; added: b; dropped: a." in first_line
    assert "Winner, chosen on validation: a → b." in text(found)


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


def test_parameters_that_differ_and_those_of_one_revision_only():
    before = {"lr": 0.1, "phases": {"all": {"epochs": 3, "clip_norm": None}}, "models": ["a"], "augment": {}}
    after = {"lr": 0.1, "phases": {"all": {"epochs": 4}}, "models": ["a", "b"], "augment": {}, "seeds": [0]}
    found = difference.compare_revisions(
        revision("x", {"a": results(CORRECT)}, parameters=before),
        revision("y", {"a": results(CORRECT)}, parameters=after),
    )
    assert found.parameters == [
        {"name": "models", "before": ["a"], "after": ["a", "b"]},
        {"name": "phases.all.clip_norm", "before": None},
        {"name": "phases.all.epochs", "before": 3, "after": 4},
        {"name": "seeds", "after": [0]},
    ]
    assert re.search(r"\| `phases.all.clip_norm` +\| `null` +\| +\|", text(found))


def test_code_and_data_that_differ_are_listed_and_results_older_than_their_parameters():
    models = {"net": results(CORRECT)}
    before = revision("x", models, inputs={"src/a.py": "1", "src/b.py": "2", "archive": "3", "split": "4"})
    inputs = {"src/a.py": "1", "src/b.py": "9", "src/c.py": "5", "archive": "3", "split": "8"}
    found = difference.compare_revisions(
        before, revision("y", models, inputs=inputs, stale_parameters=["lr"])
    )
    assert found.inputs == ["split", "src/b.py", "src/c.py"]
    assert "Code of the stages: `src/b.py`, `src/c.py`." in text(found) and "Data: the split." in text(found)
    assert "The results of `y` (0123456) are from before `lr` changed: run `dvc repro` there." in text(found)
    assert "Nothing: parameters, code and data are the same." in text(
        difference.compare_revisions(before, before)
    )


def text(found: Difference, images: int = 20) -> str:
    return markdown.render_difference(found, images)


def test_the_first_line_is_the_verdict_and_the_table_has_the_rest():
    before = {"up": results(incorrect(*range(10))), "down": results(CORRECT), "same": results(CORRECT)}
    after = {"up": results(CORRECT), "down": results(incorrect(*range(10))), "same": results(incorrect(0))}
    found = difference.compare_revisions(revision("x", before), revision("y", after))
    shown = text(found)
    verdicts = (
        "Significantly worse: down (−25.0); significantly better: up (+25.0); within noise: same (−2.5)"
    )
    assert shown.splitlines()[0] == f"**{verdicts} points of top-1.**"
    row = next(line for line in shown.splitlines() if line.startswith("| up "))
    assert [cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in row.split("|")[1:-1]] == [
        "up", "1", "75.00 % [59.8 %, 85.8 %]", "100.00 % [91.2 %, 100.0 %]",
        f"+25.0 [+{found.models[0].comparison.low * 100:.1f}, +{found.models[0].comparison.high * 100:.1f}]",
        "0.006", "significantly better",
    ]  # fmt: skip
    assert "seed variance is not counted" in shown
    assert shown.count("p is corrected (Holm) for 3 comparisons") == 1
    several = {"up": results(CORRECT, CORRECT)}
    assert "seed variance" not in text(
        difference.compare_revisions(revision("x", several), revision("y", several))
    )


def test_every_table_has_equal_rows_and_lines_of_equal_length():
    labels = ["a|b", "`c`", "<b>\nd", "@team"] * 10
    before = ModelResults(np.array([labels], object), {"top1": 0.5, "loss": 0.5})
    after = ModelResults(np.array([labels[1:] + labels[:1]], object), {"top1": 0.5, "loss": 0.5})
    images = pd.DataFrame({"path": [f"x|y/`{i}`.jpg" for i in range(40)], "class": labels})
    revisions = [
        RevisionResults(name, None, images, {"net": m}, {}) for name, m in (("x", before), ("y", after))
    ]
    tables = re.findall(r"(?:^\|.*\n)+", text(difference.compare_revisions(*revisions)), re.M)
    assert len(tables) == 3
    for table in tables:
        lines = table.splitlines()
        cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
        assert len({len(line) for line in lines}) == 1 and len({len(row) for row in cells}) == 1
        assert re.fullmatch(r"\|(-+:?\|)+", lines[1])
    # a name that anyone may have chosen is code: no mention, no HTML, no cell of its own
    for row in re.split(r"(?<!\\)\|", tables[2].splitlines()[2])[1:-1]:
        assert row.strip() == "correct" or re.fullmatch(r"`[^`]*`", row.strip())


@pytest.mark.parametrize(
    ("most", "losses", "gains"), [(20, 8, 12), (6, 3, 3), (14, 7, 7), (19, 8, 11), (1, 1, 0), (0, 0, 0)]
)
def test_the_list_of_images_is_as_long_as_requested_and_the_file_has_all(most, losses, gains):
    before = revision("x", {"net": results(incorrect(*range(12)))})
    after = revision("y", {"net": results(incorrect(*range(32, 40)))})
    found = difference.compare_revisions(before, after)
    lost, _, won = text(found, most).partition("Incorrect before, correct after: 12 images")
    assert lost.count(".jpg`") == losses and won.count(".jpg`") == gains
    assert "Correct before, incorrect after: 8 images" in lost
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(written["models"][0]["flips"]) == 20
    assert written["models"][0]["verdict"] == "within noise" and written["before"]["winner"] == "net"
    assert written["models"][0]["flips"][0] == {
        "path": "32.jpg", "label": "dog", "before": "dog", "after": "cat",
        "right_before": 1.0, "right_after": 0.0,
    }  # fmt: skip


UNBALANCED = ["cat"] * 40 + ["dog"] * 6 + ["owl"] * 6


def with_losses(found: ModelResults, labels: Sequence[str], wrong: float) -> ModelResults:
    validation = dict.fromkeys(("top1", "loss", "macro_f1", "mean_class_accuracy"), 0.5)
    losses = np.where(found.predictions == np.array(labels, object), 0.1, wrong)
    return replace(found, losses=losses, validation=validation)


def by_metric(choose_by: str, **more: Any) -> Difference:
    """Two recipes with three seeds each; the second finds the rare classes, and fewer cats."""
    before = ["1" * 40 + "0" * 12, "1" * 40 + "0" * 12, "1" * 39 + "0" * 13]
    after = ["1" * 32 + "0" * 8 + "1" * 12, "1" * 33 + "0" * 7 + "1" * 12, "1" * 32 + "0" * 8 + "1" * 12]
    models = [
        with_losses(results(*seeds, labels=UNBALANCED), UNBALANCED, wrong)
        for seeds, wrong in ((before, 2.0), (after, 1.5))
    ]
    revisions = (
        replace(revision(name, {"net": model}, UNBALANCED, choose_by=choose_by), **more)
        for name, model in zip("xy", models, strict=True)
    )
    return difference.compare_revisions(*revisions)


@pytest.mark.parametrize(
    ("choose_by", "headline", "title"),
    [
        ("top1", "Within noise: net (+9.0) points of top-1.", "after, top-1 [95 %]"),
        ("macro_f1", "Significantly better: net (", "after, macro-F1 [95 %]"),
        ("mean_class_accuracy", "Significantly better: net (", "after, mean class accuracy [95 %]"),
        ("loss", "Within noise: net (", "nats [95 %]"),
    ],
)
def test_revisions_are_compared_by_the_metric_that_chooses(choose_by, headline, title):
    found = by_metric(choose_by)
    assert found.metric == found.to_dict()["metric"] == choose_by
    assert found.models[0].comparison.difference == pytest.approx(
        found.models[0].after.value - found.models[0].before.value
    )
    shown = text(found)
    assert title in shown
    assert choose_by == "loss" or headline in shown


def test_a_loss_that_falls_is_better():
    models = [with_losses(results("10" * 26, labels=UNBALANCED), UNBALANCED, wrong) for wrong in (2.0, 1.0)]
    before, after = (revision("x", {"net": m}, UNBALANCED, choose_by="loss") for m in models)
    found = difference.compare_revisions(before, after)
    assert found.models[0].comparison.difference == pytest.approx(-0.5) and not found.worse
    assert text(found).startswith("**Significantly better: net (\N{MINUS SIGN}0.500) nats of loss.**")
    assert difference.compare_revisions(after, before).worse


def test_what_git_alone_does_not_hold_is_replaced_and_said():
    found = by_metric("macro_f1", anonymous_reason="the remote is not there")
    assert found.metric == "mean_class_accuracy"
    assert "after, mean class accuracy [95 %]" in text(found)
    assert "does not give macro-F1" in text(found)


def test_each_revision_has_the_winner_of_its_own_metric():
    validation = {
        "a": {"top1": 0.9, "loss": 0.5, "macro_f1": 0.2},
        "b": {"top1": 0.8, "loss": 0.4, "macro_f1": 0.7},
    }
    models = {name: replace(results(CORRECT), validation=values) for name, values in validation.items()}
    winners = [revision("x", models, choose_by=metric).winner for metric in ("top1", "macro_f1", "loss")]
    assert winners == ["a", "b", "b"]
