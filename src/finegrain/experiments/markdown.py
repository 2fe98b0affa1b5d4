"""A difference as Markdown whose tables also line up in a terminal."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from finegrain.comparison import significance
from finegrain.comparison.formatting import METRIC_NAMES, metric_difference, metric_value, p_value, percent
from finegrain.experiments.difference import ClassChange, Difference, ImageFlip, ModelChange
from finegrain.experiments.results import RevisionResults, Score, comparable_metric

MAX_CLASSES, MAX_FILES = 10, 10
"""Limits of the lists; the JSON file holds everything."""
ARROW = "\N{RIGHTWARDS ARROW}"


def render_difference(difference: Difference, images: int) -> str:
    """The verdict in one line, a table of all models, then what differs and the details of each model.

    Args:
        images: how many flipped images to list for each model at most.
    """
    blocks = [f"**{verdict_line(difference)}**", *summary(difference)]
    for change in (change for change in difference.changes if not change.unchanged):
        title, *parts = model_details(change, difference, images)
        blocks += [f"### {title}", *parts]
    return "\n\n".join(blocks) + "\n"


def summary(difference: Difference) -> Iterator[str]:
    """What is compared, a table of all models, how to read it, and what differs."""
    yield _compared_revisions(difference)
    yield _model_table(difference)
    yield from _notes(difference)
    yield from _causes(difference)


def verdict_line(difference: Difference) -> str:
    """The verdict on each model that both revisions have, and on the winner if it is another model.

    Then the models that only one revision has.
    """
    parts = []
    for verdict in ("significantly worse", "significantly better", "within noise"):
        changes = [each for each in difference.models if each.verdict == verdict]
        if changes:
            gains = [metric_difference(difference.metric, each.comparison.difference) for each in changes]
            models = [f"{each.after.model} ({gain})" for each, gain in zip(changes, gains, strict=True)]
            parts.append(f"{verdict}: {', '.join(models)}")
    if parts:
        parts[-1] += f" {_unit(difference.metric)} of {METRIC_NAMES[difference.metric]}"
    if unchanged := [each.after.model for each in difference.models if each.unchanged]:
        parts.append(f"unchanged: {', '.join(unchanged)}")
    line = "; ".join(parts) or "no model is in both revisions"
    if difference.winners:
        line += f"; the winner is another model, {difference.winners.verdict}"
    for change, scores in (("added", difference.added), ("dropped", difference.dropped)):
        if scores:
            line += f"; {change}: {', '.join(score.model for score in scores)}"
    return f"{line[0].upper()}{line[1:]}."


def results_table(revision: RevisionResults) -> str:
    """A table of the models of one revision."""
    metric = comparable_metric(revision)
    rows = []
    for score in (revision.score(model, metric) for model in revision.models):
        validation = "" if score.validation is None else metric_value(metric, score.validation)
        rows.append([score.model, str(score.seeds), validation, _value(score, metric)])
    titles = ["model", "seeds", f"validation {METRIC_NAMES[metric]}", f"test {METRIC_NAMES[metric]} [95 %]"]
    return _table(titles, rows, right_aligned=range(1, 4))


def _unit(metric: str) -> str:
    """Unit of a difference in the metric."""
    return "nats" if metric == "loss" else "points"


def _compared_revisions(difference: Difference) -> str:
    before, after = difference.before, difference.after
    winner = f"{before.winner} {ARROW} {after.winner}" if difference.winners else f"{after.winner} in both"
    return (
        f"{_revision_name(before)} {ARROW} {_revision_name(after)}, compared on the same "
        f"{difference.images:,} test images. Winner, chosen on validation: {winner}."
    )


def _revision_name(revision: RevisionResults) -> str:
    if not revision.commit:
        return f"the {revision.name}"
    name = inline_code(revision.name)
    return name if revision.commit.startswith(revision.name) else f"{name} ({revision.commit[:7]})"


def _model_table(difference: Difference) -> str:
    metric, name = difference.metric, METRIC_NAMES[difference.metric]
    rows = [_model_row(change.after.model, change, metric) for change in difference.models]
    if change := difference.winners:
        rows.append(_model_row(f"{change.before.model} {ARROW} {change.after.model}", change, metric))
    for each in difference.added:
        rows.append([each.model, str(each.seeds), "", _value(each, metric), "", "", "added"])
    for each in difference.dropped:
        rows.append([each.model, str(each.seeds), _value(each, metric), "", "", "", "dropped"])
    titles = ["model", "seeds", f"before, {name} [95 %]", f"after, {name} [95 %]"]
    titles += [f"{_unit(metric)} [95 %]", "p", "verdict"]
    return _table(titles, rows, right_aligned=range(1, 6))


def _model_row(name: str, change: ModelChange, metric: str) -> list[str]:
    before, after, comparison = change.before, change.after, change.comparison
    ends = (comparison.difference, comparison.low, comparison.high)
    gain, low, high = (metric_difference(metric, end) for end in ends)
    return [
        name,
        str(after.seeds) if before.seeds == after.seeds else f"{before.seeds} {ARROW} {after.seeds}",
        _value(before, metric),
        _value(after, metric),
        f"{gain} [{low}, {high}]",
        p_value(comparison.p_value).removeprefix("= "),
        change.verdict,
    ]


def _value(score: Score, metric: str) -> str:
    low, high = (metric_value(metric, end, 1) for end in (score.low, score.high))
    return f"{metric_value(metric, score.value)} [{low}, {high}]"


def _notes(difference: Difference) -> Iterator[str]:
    """How to read the table of models: corrections, and what limits the comparison."""
    changes, count = difference.changes, len(difference.changes)
    if count > 1:
        yield f"p is corrected (Holm) for {count} comparisons."
    if difference.metric != difference.after.choose_by:
        yield f"What is known of the predictions does not give {METRIC_NAMES[difference.after.choose_by]}."
    if any(change.before.seeds == change.after.seeds == 1 for change in changes):
        yield (
            "With one seed before and after, seed variance is not counted: the same recipe with another seed "
            "may differ as much. Two or more `seeds` in params.yaml count it."
        )
    yield from _left_out_images(difference)
    if difference.after.anonymous_reason:
        yield (
            "Which images flipped is not known here: the verdicts come from what git holds of each class, "
            f"because {escape(difference.after.anonymous_reason)}."
        )
    for revision in (difference.before, difference.after):
        if revision.stale_parameters:
            keys = ", ".join(map(inline_code, revision.stale_parameters))
            name = _revision_name(revision)
            yield f"**The results of {name} are from before {keys} changed: run `dvc repro` there.**"


def _left_out_images(difference: Difference) -> Iterator[str]:
    revisions = difference.before, difference.after
    counts = [len(revision.images) - difference.images for revision in revisions]
    if any(counts):
        each = " and ".join(
            f"{count:,} of {_revision_name(revision)}"
            for count, revision in zip(counts, revisions, strict=True)
        )
        own = "; added and dropped models are scored on all test images of their own revision"
        more = own if difference.added or difference.dropped else ""
        if difference.changed_images:
            other = "class" if difference.paired_by == "path" else "content or class"
            more = f"; {difference.changed_images:,} paths are in both, with another {other}{more}"
        if difference.relabeled_images:
            more = f"; {difference.relabeled_images:,} images have another label in each{more}"
        yield f"Test images left out because the other revision does not have them: {each}{more}."
    if difference.paired_by == "path" and not difference.after.anonymous_reason:
        names = [_revision_name(each) for each in revisions if "sha256" not in each.images]
        yield (
            f"Test images are paired by path: the predictions of {' and '.join(names)} do not record their "
            "content. `dvc repro` there records it."
        )


def _causes(difference: Difference) -> Iterator[str]:
    """The parameters, code and data that differ."""
    yield "### What differs"
    if difference.parameters:
        rows = [
            [inline_code(each["name"]), *(_parameter(each, key) for key in ("before", "after"))]
            for each in difference.parameters
        ]
        yield _table(["parameter", "before", "after"], rows)
    code = [name for name in difference.inputs if name.startswith("src/")]
    if code:
        more = f" and {len(code) - MAX_FILES} more" if len(code) > MAX_FILES else ""
        yield f"Code of the stages: {', '.join(map(inline_code, code[:MAX_FILES]))}{more}."
    if data := [name for name in difference.inputs if name not in code]:
        yield f"Data: the {' and the '.join(data)}."
    if not difference.parameters and not difference.inputs:
        yield "Nothing: both have results of the same parameters, code and data."


def _parameter(parameter: dict[str, Any], key: str) -> str:
    return inline_code(json.dumps(parameter[key], ensure_ascii=False)) if key in parameter else ""


def model_details(change: ModelChange, difference: Difference, images: int) -> Iterator[str]:
    """A title, then the classes that changed and the images that flipped, at most ``images`` of them."""
    before, after = change.before, change.after
    yield after.model if before.model == after.model else f"{before.model} {ARROW} {after.model}"
    yield from _class_changes(change.classes, difference.classes)
    losses, gains = change.losses, change.gains
    max_losses = max(images - images // 2, images - len(gains))
    for title, flips, shown in (
        ("Correct before, incorrect after", losses, max_losses),
        ("Incorrect before, correct after", gains, images - min(max_losses, len(losses))),
    ):
        count = f"{title}: {len(flips):,} image{'' if len(flips) == 1 else 's'}"
        if difference.after.anonymous_reason:
            yield f"{count}."
            continue
        yield f"{count}{_list_opening(len(flips), shown)}"
        if flips[:shown]:
            rows = [_flip_row(flip, change) for flip in flips[:shown]]
            yield _table(["image", "class", "before", "after"], rows)


def _class_changes(changed: Sequence[ClassChange], classes: int) -> Iterator[str]:
    """Which of the ``classes`` changed, and how many of these significantly."""
    if not changed:
        yield "No class changed by more than one image."
        return
    significant = sum(each.significant for each in changed)
    # the smallest number of images of one class whose sign test can pass Holm's first step
    least = math.ceil(math.log2(2 * classes / significance.SIGNIFICANCE))
    yield (
        f"Classes that changed by more than one image: {len(changed)} of {classes}, {significant or 'none'} "
        f"of them significantly (exact test, Holm's correction; at least {least} images of a class must all "
        f"change the same way){_list_opening(len(changed), MAX_CLASSES)}"
    )
    titles = ["class", "images", "correct before", "correct after", "gain", "significant"]
    yield _table(titles, [_class_row(each) for each in changed[:MAX_CLASSES]], right_aligned=range(1, 5))


def _class_row(change: ClassChange) -> list[str]:
    return [
        inline_code(change.name),
        str(change.images),
        *(f"{recall * change.images:.3g} ({percent(recall, 0)})" for recall in (change.before, change.after)),
        f"{change.gain:+.3g}".replace("-", "\N{MINUS SIGN}"),
        "yes" if change.significant else "no",
    ]


def _list_opening(count: int, shown: int) -> str:
    """How the line above a list of ``count`` rows ends, of which ``shown`` at most are listed."""
    if not 0 < shown < count:
        return ":" if 0 < count <= shown else "."
    return f"; the first {shown}:"


def _flip_row(flip: ImageFlip, change: ModelChange) -> list[str]:
    def cell(prediction: str, share: float, seeds: int) -> str:
        counted = f"{round(share * seeds)} of {seeds}"
        if prediction == flip.label:
            return "correct" if seeds == 1 else f"correct ({counted})"
        return inline_code(prediction) if seeds == 1 else f"{inline_code(prediction)} ({counted} correct)"

    before = cell(flip.before, flip.correct_before, change.before.seeds)
    after = cell(flip.after, flip.correct_after, change.after.seeds)
    return [inline_code(flip.path), inline_code(flip.label), before, after]


def inline_code(text: str) -> str:
    """A name from an archive or a commit, none of whose characters can act as Markdown or HTML."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def escape(message: str) -> str:
    """A message that keeps its own `code`; names from a branch cannot act as Markdown or HTML."""
    return re.sub(r"([<>@|\[\]])", r"\\\1", " ".join(message.split()))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], right_aligned: Sequence[int] = ()) -> str:
    """A Markdown table whose columns have equal width in plain text too.

    Args:
        right_aligned: columns of numbers.
    """
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in right_aligned else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [
        f"{'-' * (width + 1)}{':' if column in right_aligned else '-'}" for column, width in enumerate(widths)
    ]
    return "\n".join([line(titles), f"|{'|'.join(rule)}|", *map(line, rows)])
