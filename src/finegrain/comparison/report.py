"""The report as one HTML page that works offline, and the leaderboard as a Markdown table."""

import base64
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from finegrain.comparison import formatting
from finegrain.comparison.report_data import ReportData

TEMPLATE = Path(__file__).with_name("report.html.j2")


def render(data: ReportData) -> str:
    """One HTML page that contains all styles and images: it loads no other file and runs no script."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "percent": formatting.percent,
        "points": formatting.points,
        "duration": formatting.duration,
        "count": formatting.count,
        "size": formatting.size,
        "seeds": partial(formatting.seeds, data.choose_by),
        "metric": partial(formatting.metric_value, data.choose_by),
        "difference": partial(formatting.metric_difference, data.choose_by),
        "p": formatting.p_value,
        "readable_width": readable_width,
        "png": lambda content: "data:image/png;base64," + base64.b64encode(content).decode(),
    }
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        report=data,
        winner=data.rows[0],
        statement=statement(data.rows, data.choose_by),
        metric=formatting.METRIC_NAMES[data.choose_by],
    )


def readable_width(png: bytes) -> int:
    """Width in CSS pixels below which a plot's letters are too small: a phone scrolls it sideways."""
    return int(0.45 * int.from_bytes(png[16:20]))  # where a PNG has its width in pixels


def statement(rows: Sequence[dict[str, Any]], choose_by: str = "top1") -> str:
    """One sentence that compares the winner with the others on the test images; empty if there are none."""
    winner, *others = rows
    if not others:
        return ""

    def with_verdict(verdict: str) -> list[str]:
        """Each model with that verdict, and by how much the winner's metric exceeds its own."""
        key = f"test_{choose_by}"
        chosen = [row for row in others if row["verdict"] == verdict]
        return [
            f"{row['model']} ({formatting.metric_difference(choose_by, winner[key] - row[key])})"
            for row in chosen
        ]

    similar, better, worse = map(
        with_verdict, ("within noise", "significantly better", "significantly worse")
    )
    parts = []
    if worse:
        parts.append(f"significantly better than {_join_words(worse)}")
    if similar:
        parts.append(f"within noise of {_join_words(similar)}")
    if better:
        parts.append(f"significantly worse than {_join_words(better)}, although it is best on validation")
    unit = "" if choose_by == "loss" else f", in points of {formatting.METRIC_NAMES[choose_by]}"
    return f"On the same test images{unit}, it is {_join_words(parts)}."


def _join_words(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def leaderboard_markdown(rows: Sequence[dict[str, Any]], choose_by: str = "top1") -> str:
    """The leaderboard as a Markdown table, winner first."""
    name = formatting.METRIC_NAMES[choose_by]
    others = {"top1": "top-1", "top5": "top-5", "macro_f1": "macro-F1"}
    others.pop(choose_by, None)
    titles = ["model", "seeds", f"val {name}", f"test {name} [95 %]", *others.values()]
    lines = [
        f"| {' | '.join(titles)} | training | img/s | verdict |",
        f"|---|{'---:|' * (len(titles) + 1)}---|",
    ]
    for row in rows:
        name = f"**{row['model']}**" if row["verdict"] == "winner" else row["model"]
        low, high = (
            formatting.metric_value(choose_by, row[f"test_{choose_by}_{end}"], 1) for end in ("low", "high")
        )
        cells = [
            name,
            formatting.seeds(choose_by, row),
            formatting.metric_value(choose_by, row[f"val_{choose_by}"]),
            f"{formatting.metric_value(choose_by, row[f'test_{choose_by}'])} [{low}, {high}]",
            *(formatting.percent(row[f"test_{other}"]) for other in others),
            formatting.duration(row["seconds"]),
            f"{row['images_per_second']:,.0f}",
            row["verdict"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
