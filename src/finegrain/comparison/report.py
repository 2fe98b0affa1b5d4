"""The offline HTML page that a reviewer reads in two minutes, and the leaderboard as Markdown."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from finegrain.comparison import formatting
from finegrain.evaluation.car_groups import GroupRow

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class ModelFigures:
    """PNG bytes of one model's own figures, and its most frequent mistakes."""

    model: str
    confusion: bytes
    reliability: bytes
    per_class: bytes
    confused_pairs: Sequence[tuple[str, str, int, int]]
    """True class, predicted class, mistakes, images of the true class."""
    photos: dict[str, Any]
    """``gallery.Gallery`` as JSON has it."""
    groups: Sequence[tuple[str, dict[str, float], Sequence[GroupRow]]]
    """Kind (make, body, year), its ``groups.summary`` and ``groups.table``; none: names do not tell."""
    lr_range: Sequence[tuple[str, bytes]]
    """Phase and figure of each LR range test."""


@dataclass(frozen=True)
class Report:
    """All that the page shows; figures are PNG bytes."""

    dataset: str
    rows: Sequence[dict[str, Any]]
    """The leaderboard, winner first, as ``leaderboard.rank`` gives it; the next two as well."""
    pairs: Sequence[dict[str, Any]]
    runs: Sequence[dict[str, Any]]
    curves: bytes
    accuracy_vs_time: bytes
    models: Sequence[ModelFigures]
    class_balance: bytes
    split: dict[str, Any]
    """metrics/<name>/data/split.json."""
    source: dict[str, Any]
    """metrics/<name>/data/source.json."""
    rejected: Sequence[tuple[str, str]]
    """Path and reason of each image left out."""
    near_duplicates: Sequence[tuple[str, str, int]]
    parameters: str
    """params.yaml as text."""
    environment: dict[str, Any]


def render(report: Report) -> str:
    """One HTML page with all styles and figures inside: it loads nothing and runs no script."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "percent": formatting.percent,
        "points": formatting.points,
        "duration": formatting.duration,
        "count": formatting.count,
        "size": formatting.size,
        "seeds": formatting.seeds,
        "p": formatting.p_value,
        "png": lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
    }
    winner = report.rows[0]
    page = environment.from_string(TEMPLATE.read_text())
    return page.render(report=report, winner=winner, statement=statement(report.rows))


def statement(rows: Sequence[dict[str, Any]]) -> str:
    """One sentence: how the winner stands to the others on the test images."""
    others = rows[1:]
    if not others:
        return "It is the only model of this run."
    noise = [row["model"] for row in others if row["verdict"] == "within noise"]
    better = [row["model"] for row in others if row["verdict"] == "significantly better"]
    worse = [row["model"] for row in others if row["verdict"] == "significantly worse"]
    parts = []
    if worse:
        parts.append(f"significantly better than {_join_words(worse)}")
    if noise:
        parts.append(f"within noise of {_join_words(noise)}")
    if better:
        parts.append(f"significantly worse than {_join_words(better)}, which validation could not foresee")
    return f"On the same test images it is {_join_words(parts)}."


def _join_words(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def leaderboard_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The leaderboard as a Markdown table, winner first."""
    lines = [
        "| model | seeds | val top-1 | test top-1 [95 %] | top-5 | macro-F1 | training | img/s | verdict |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        name = f"**{row['model']}**" if row["verdict"] == "winner" else row["model"]
        interval = (
            f"[{formatting.percent(row['test_top1_low'], 1)}, {formatting.percent(row['test_top1_high'], 1)}]"
        )
        cells = [
            name,
            formatting.seeds(row),
            formatting.percent(row["val_top1"]),
            f"{formatting.percent(row['test_top1'])} {interval}",
            formatting.percent(row["test_top5"]),
            formatting.percent(row["test_macro_f1"]),
            formatting.duration(row["seconds"]),
            f"{row['images_per_second']:,.0f}",
            row["verdict"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
