"""A difference as Markdown, laid out so that it reads well in a terminal too."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from finegrain.comparison import significance
from finegrain.comparison.formatting import p_value, percent, points
from finegrain.experiments.difference import ClassChange, Difference, ImageFlip, ModelChange
from finegrain.experiments.results import RevisionResults, Score

MAX_CLASSES, MAX_FILES = 10, 10
"""The most that are listed; the JSON file has all."""
ARROW = "\N{RIGHTWARDS ARROW}"


def markdown(difference: Difference, images: int) -> str:
    """The verdict in a line, all models in a table, then what differs and what became of each model.

    Args:
        images: the most that are listed of each model.
    """
    blocks = [f"**{statement(difference)}**", *summary(difference)]
    for change in (change for change in difference.changes if not change.unchanged):
        title, *parts = details(change, difference, images)
        blocks += [f"### {title}", *parts]
    return "\n\n".join(blocks) + "\n"


def summary(difference: Difference) -> Iterator[str]:
    """What is compared, all models in a table, how to read it, and what differs."""
    yield _about(difference)
    yield _models(difference)
    yield from _notes(difference)
    yield from _causes(difference)


def statement(difference: Difference) -> str:
    """The verdict on every model that is on both sides, and on the winner where it is another one.

    Then which models are on one side only.
    """
    parts = []
    for verdict in ("really worse", "really better", "within noise"):
        found = [each for each in difference.models if each.verdict == verdict]
        if found:
            named = [f"{each.after.model} ({points(each.comparison.difference)})" for each in found]
            parts.append(f"{verdict}: {', '.join(named)}")
    if parts:
        parts[-1] += " points of top-1"
    if same := [each.after.model for each in difference.models if each.unchanged]:
        parts.append(f"unchanged: {', '.join(same)}")
    said = "; ".join(parts) or "no model is on both sides"
    if difference.winners:
        said += f"; the winner is another one, {difference.winners.verdict}"
    for what, scores in (("added", difference.added), ("dropped", difference.dropped)):
        if scores:
            said += f"; {what}: {', '.join(score.model for score in scores)}"
    return f"{said[0].upper()}{said[1:]}."


def _about(difference: Difference) -> str:
    before, after, winners = difference.before, difference.after, difference.winners
    won = f"{before.winner} {ARROW} {after.winner}" if winners else f"{after.winner} on both sides"
    return (
        f"{_revision_name(before)} {ARROW} {_revision_name(after)}, compared on the same "
        f"{difference.images:,} test images. "
        f"Winner, chosen on validation: {won}."
    )


def results_table(side: RevisionResults) -> str:
    """The models of one side in a table."""
    rows = [side.score(model) for model in side.models]
    cells = [[each.model, str(each.seeds), percent(each.val_top1), _top1(each)] for each in rows]
    return _table(["model", "seeds", "validation top-1", "test top-1 [95 %]"], cells, right=range(1, 4))


def _revision_name(side: RevisionResults) -> str:
    return f"{inline_code(side.name)} ({side.commit[:7]})" if side.commit else f"the {side.name}"


def _models(difference: Difference) -> str:
    rows = [_compared(change.after.model, change) for change in difference.models]
    if change := difference.winners:
        rows.append(_compared(f"{change.before.model} {ARROW} {change.after.model}", change))
    rows += [[each.model, str(each.seeds), "", _top1(each), "", "", "added"] for each in difference.added]
    rows += [[each.model, str(each.seeds), _top1(each), "", "", "", "dropped"] for each in difference.dropped]
    titles = [
        "model",
        "seeds",
        "before, top-1 [95 %]",
        "after, top-1 [95 %]",
        "points [95 %]",
        "p",
        "verdict",
    ]
    return _table(titles, rows, right=range(1, 6))


def _compared(name: str, change: ModelChange) -> list[str]:
    before, after, found = change.before, change.after, change.comparison
    same = before.seeds == after.seeds
    return [
        name,
        str(after.seeds) if same else f"{before.seeds} {ARROW} {after.seeds}",
        _top1(before),
        _top1(after),
        f"{points(found.difference)} [{points(found.low)}, {points(found.high)}]",
        p_value(found.p_value).removeprefix("= "),
        change.verdict,
    ]


def _top1(score: Score) -> str:
    return f"{percent(score.top1)} [{percent(score.low, 1)}, {percent(score.high, 1)}]"


def _notes(difference: Difference) -> Iterator[str]:
    sides = difference.before, difference.after
    changes, count = difference.changes, len(difference.changes)
    if count > 1:
        yield f"p is corrected (Holm) for {count} comparisons."
    if any(change.before.seeds == change.after.seeds == 1 for change in changes):
        yield (
            "Where both sides were trained once, the luck of training is not counted: the same recipe with "
            "another seed may differ as much. Two or more `seeds` in params.yaml count it in."
        )
    left_out = [(len(side.images) - difference.images, _revision_name(side)) for side in sides]
    if any(count for count, _ in left_out):
        each = " and ".join(f"{count:,} of {side}" for count, side in left_out)
        own = "; added and dropped models are scored on all of their own side"
        more = own if difference.added or difference.dropped else ""
        yield f"Test images left out, which the other side does not have: {each}{more}."
    if difference.after.nameless:
        yield (
            "Which images flipped is not known here: this is judged by what git holds of each class, because "
            f"{escape(difference.after.nameless)}."
        )
    for side in sides:
        if side.stale:
            keys = ", ".join(map(inline_code, side.stale))
            name = _revision_name(side)
            yield f"**The results of {name} are from before {keys} changed: run `dvc repro` there.**"


def _causes(difference: Difference) -> Iterator[str]:
    yield "### What differs"
    if difference.parameters:
        rows = [
            [inline_code(each["name"]), *(_value(each, side) for side in ("before", "after"))]
            for each in difference.parameters
        ]
        yield _table(["parameter", "before", "after"], rows)
    files = [name for name in difference.inputs if name.startswith("src/")]
    if files:
        more = f" and {len(files) - MAX_FILES} more" if len(files) > MAX_FILES else ""
        yield f"Code of the stages: {', '.join(map(inline_code, files[:MAX_FILES]))}{more}."
    if data := [name for name in difference.inputs if name not in files]:
        yield f"Data: the {' and the '.join(data)}."
    if not difference.parameters and not difference.inputs:
        yield "Nothing that results are made of: parameters, code and data are the same."


def _value(parameter: dict[str, Any], side: str) -> str:
    return inline_code(json.dumps(parameter[side], ensure_ascii=False)) if side in parameter else ""


def details(change: ModelChange, difference: Difference, images: int) -> Iterator[str]:
    """A title, then which classes moved and which images flipped, at most so many ``images``."""
    before, after = change.before, change.after
    yield after.model if before.model == after.model else f"{before.model} {ARROW} {after.model}"
    yield from _classes(change.classes, difference.classes)
    losses, gains = change.losses, change.gains
    shown = max(images - images // 2, images - len(gains))
    for title, flips, most in (
        ("Right before, wrong after", losses, shown),
        ("Wrong before, right after", gains, images - min(shown, len(losses))),
    ):
        count = f"{title}: {len(flips):,} image{'' if len(flips) == 1 else 's'}"
        if difference.after.nameless:
            yield f"{count}."
            continue
        yield f"{count}{_rest(len(flips), most)}"
        if flips[:most]:
            rows = [_flip(flip, change) for flip in flips[:most]]
            yield _table(["image", "class", "before", "after"], rows)


def _classes(moved: Sequence[ClassChange], classes: int) -> Iterator[str]:
    if not moved:
        yield "No class moved by more than one image."
        return
    beyond = sum(each.beyond_chance for each in moved)
    # the fewest images of one class whose sign test can pass Holm's first step
    least = math.ceil(math.log2(2 * classes / significance.SIGNIFICANCE))
    yield (
        f"Classes that moved by more than one image: {len(moved)} of {classes}, {beyond or 'none'} of them "
        f"beyond chance (exact test, Holm's correction; at least {least} images of a class must all "
        f"move the same way){_rest(len(moved), MAX_CLASSES)}"
    )
    rows = [
        [
            inline_code(each.name),
            str(each.images),
            _correct_cell(each.before, each),
            _correct_cell(each.after, each),
        ]
        + [f"{each.gain:+.3g}".replace("-", "\N{MINUS SIGN}"), "yes" if each.beyond_chance else "no"]
        for each in moved[:MAX_CLASSES]
    ]
    yield _table(
        ["class", "images", "right before", "right after", "gain", "beyond chance"], rows, range(1, 5)
    )


def _correct_cell(recall: float, of: ClassChange) -> str:
    return f"{recall * of.images:.3g} ({percent(recall, 0)})"


def _rest(count: int, shown: int) -> str:
    """How a line ends above a list of ``count`` things."""
    if not 0 < shown < count:
        return ":" if 0 < count <= shown else "."
    return f"; the first {shown}:"


def _flip(flip: ImageFlip, change: ModelChange) -> list[str]:
    def said(answer: str, share: float, seeds: int) -> str:
        right = f"{round(share * seeds)} of {seeds}"
        if answer == flip.label:
            return "right" if seeds == 1 else f"right ({right})"
        return inline_code(answer) if seeds == 1 else f"{inline_code(answer)} ({right} right)"

    before = said(flip.before, flip.right_before, change.before.seeds)
    after = said(flip.after, flip.right_after, change.after.seeds)
    return [inline_code(flip.path), inline_code(flip.label), before, after]


def inline_code(text: str) -> str:
    """Names from archives and commits, so that no letter in them is taken for Markdown or HTML."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def escape(message: str) -> str:
    """A message's own `code` stays; names from a branch must not become Markdown or HTML."""
    return re.sub(r"([<>@|\[\]])", r"\\\1", " ".join(message.split()))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """With columns of equal width.

    Args:
        right: columns of numbers.
    """
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [f"{'-' * (width + 1)}{':' if column in right else '-'}" for column, width in enumerate(widths)]
    return "\n".join([line(titles), f"|{'|'.join(rule)}|", *map(line, rows)])
