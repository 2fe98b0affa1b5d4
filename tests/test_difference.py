"""Differences of two revisions, against cases worked by hand: verdicts, classes, flipped images."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from revisions import CORRECT, incorrect, results, revision, text
from scipy import stats

from finegrain.experiments import difference
from finegrain.experiments.difference import Difference
from finegrain.experiments.results import ModelResults


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


def test_a_metric_that_git_alone_does_not_give_is_replaced_and_reported():
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
