"""The report page is complete, safe and works offline; the Markdown table shows the leaderboard."""

import io
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from finegrain.comparison import formatting, report
from finegrain.comparison.next_steps import Step
from finegrain.comparison.report_data import ModelFigures, ReportData, SolvedFigures
from finegrain.evaluation.car_groups import GroupRow

HOSTILE = '<script>alert("x")</script> & Söhne'


def row(model: str, top1: float, verdict: str, p: float | None) -> dict[str, Any]:
    return {
        "model": model, "val_top1": top1, "val_loss": 0.5, "train_top1": 1.0, "test_top1": top1,
        "test_top1_low": top1 - 0.01, "test_top1_high": top1 + 0.01, "test_top5": 0.99, "test_macro_f1": 0.8,
        "test_mean_class_accuracy": 0.81, "test_loss": 0.4567, "test_ece": 0.03, "test_calibrated_ece": 0.01,
        "seconds": 3725.0, "images_per_second": 1234.5, "parameters": 11_200_000,
        "peak_memory_bytes": 3 * 2**30, "p_value": p, "verdict": verdict,
        "run": f"{model}-0", "seeds": 1, "test_top1_sd": None, "test_calibrated_loss": 0.4,
    }  # fmt: skip


PAIRS = [
    {
        "model": a, "other": b, "difference": d, "low": d - 0.01, "high": d + 0.01, "p_value": p,
        "verdict": verdict,
    }
    for a, b, d, p, verdict in (
        ("resnet50", "resnet18", 0.0623, 0.0004, "significantly better"),
        ("resnet50", "resnet34", 0.0123, 0.21, "within noise"),
        ("resnet34", "resnet18", -0.005, 0.3, "within noise"),
    )
]  # fmt: skip
ROWS = [
    row("resnet50", 0.9123, "winner", None),
    row("resnet18", 0.85, "significantly worse", 0.0004),
    row("resnet34", 0.9, "within noise", 0.21),
]


TILE = {
    "image": "data:image/jpeg;base64,aa", "truth": HOSTILE, "predicted": "Aero Sedan 2012",
    "confidence": 0.93, "truth_probability": 0.04, "heat": None,
}  # fmt: skip
SOLVED = SolvedFigures(1234, 0.875, 0.85, 0.89, b"curve", [(HOSTILE, 0.25, 0.75)])
CORRECT_TILE = {**TILE, "truth": "Aero Sedan 2012", "confidence": 0.88}
GALLERY = {
    "random": [TILE, CORRECT_TILE],
    "worst": [TILE],
    "looked_at": [{**CORRECT_TILE, "heat": "data:image/jpeg;base64,bb"}],
    "confused": [
        {
            "truth": HOSTILE, "predicted": "Aero Sedan 2012", "mistakes": 3, "images": 9,
            "mistaken": ["data:image/jpeg;base64,cc"] * 2, "examples": ["data:image/jpeg;base64,dd"],
        }
    ],
    "doubtful": [
        {
            "image": "data:image/jpeg;base64,ee", "path": f"{HOSTILE}.jpg", "split": "test", "row": 4,
            "label": HOSTILE, "label_probability": 0.02, "predicted": "Aero Sedan 2012", "probability": 0.93,
            "suspect": True,
        }
    ],
}  # fmt: skip
EMPTY_GALLERY: dict[str, Any] = {"random": [], "worst": [], "looked_at": [], "confused": [], "doubtful": []}
GROUPS = [GroupRow("AM General", 1, 20, 0.5, 0.75)]


def page(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "dataset": "cars",
        "rows": ROWS,
        "pairs": PAIRS,
        "runs": [{**r, "seed": 0} for r in ROWS],
        "steps": [Step(f"{HOSTILE} is rare", "seeds: [0, 1, 2]")],
        "curves": b"curves",
        "accuracy_vs_time": b"cost",
        "models": [
            ModelFigures(
                r["model"],
                b"confusion",
                b"reliability",
                b"recall",
                [(HOSTILE, "Aero Sedan 2012", 3, 9)],
                GALLERY,
                [("make", {"top1": 0.75, "of_mistakes": 0.5, "of_mistakes_by_chance": 0.125}, GROUPS)],
                [("all", b"sweep")],
                SOLVED if r is ROWS[1] else None,
            )
            for r in ROWS
        ],
        "class_balance": b"balance",
        "split": {
            "images": {"train": 5000, "val": 10, "test": 20}, "classes": 3, "official_split": None,
            "rejected": 1, "exact_duplicates_left_out": 2, "near_duplicates": 4,
            "images_without_label": 0, "labels_without_image": 0, "groups": None, "corrections": None,
            "classes_without_val": 0, "classes_without_test": 0,
        },
        "source": {"source": "kaggle", "slug": "o/d/2", "sha256": "ab", "files": [{"name": "a", "bytes": 9}]},
        "rejected": [(f"{HOSTILE}.jpg", "truncated")],
        "near_duplicates": [("t.jpg", "o.jpg", 3)],
        "parameters": "lr: 0.1  # <rate>",
        "environment": {"revision": "abc123", "torch": "2.15.0"},
    }  # fmt: skip
    return report.render(ReportData(**{**fields, **changes}))


class Parsed(HTMLParser):
    """Tags with their attributes, the text, and the tags that were not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_holds_every_section():
    parsed = Parsed(page())
    assert not parsed.open
    assert {a.get("id") for t, a in parsed.tags if t == "section"} == {
        "results",
        "mistakes",
        "labels",
        "training-images",
        "data",
        "reproduce",
    }
    wanted = [
        "resnet50 wins", "91.23\xa0%", "90.2\xa0%", "0.457", "1 h 02 min", "1,234", "11.2 M", "3.00 GiB",
        "5,000 train", "o/d/2", "abc123", "lr: 0.1  # <rate>", "3 of 9", "2 exact duplicates",
        "AM General", "50\xa0% stay within the correct make; by chance it would be 12\xa0%",
        "✗ Incorrect", f"true class {HOSTILE}, 4\xa0%",
        "Aero Sedan 2012, 88\xa0%", "were predicted as Aero Sedan 2012",
        "one seed was run", "+6.2", "+5.2 to +7.2", "−0.5", "p < 0.001",
        "top-1 of the 1,234 images that the head was solved on: 87.5\xa0%", "85.0\xa0% to 89.0\xa0%",
        f"labeled {HOSTILE}, 2\xa0%", "predicted as Aero Sedan 2012, 93\xa0%", f"test: {HOSTILE}.jpg",
    ]  # fmt: skip
    for words in wanted:
        assert words in parsed.text, words
    assert sum(tag == "img" for tag, _ in parsed.tags) == 3 + (4 + 3 + 5 + 1) * len(ROWS) + 1
    opened = [list(a) for t, a in parsed.tags if t == "details"]
    assert opened.count(["open"]) == 2  # the winner's mistakes and labels


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script():
    parsed = Parsed(page())
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "@import" not in page() and "url(" not in page()


def test_names_from_the_archive_are_text_not_markup():
    assert "<script>" not in page()
    assert HOSTILE in Parsed(page()).text


def test_without_mistakes_and_rejected_images_there_are_no_tables_of_them():
    models = [ModelFigures("resnet50", b"", b"", b"", [], EMPTY_GALLERY, [], [], None)]
    parsed = Parsed(
        page(rows=ROWS[:1], pairs=[], models=models, rejected=[], near_duplicates=[], accuracy_vs_time=None)
    )
    text = parsed.text
    assert "Test top-1 against training time" not in [attributes.get("alt") for _, attributes in parsed.tags]
    assert "No mistake on any test image" in text and "It is the only model" in text
    assert "resnet50 reaches" in text and "wins" not in text
    assert "images left out" not in text and "Training images" not in text
    assert "Labels to check" not in text


def test_corrections_are_counted_beside_the_data():
    counts = {"dropped": 3, "relabeled": 5, "test_dropped": 1, "test_relabeled": 2}
    split = {
        "images": {"train": 1, "val": 1, "test": 1}, "classes": 2, "official_split": None, "rejected": 0,
        "exact_duplicates_left_out": 0, "near_duplicates": 0, "images_without_label": 0, "groups": None,
        "labels_without_image": 0, "classes_without_val": 0, "classes_without_test": 0, "corrections": counts,
    }  # fmt: skip
    text = Parsed(page(split=split)).text
    assert "3 images dropped, 5 given another class; 3 of them are test images" in text


def test_several_seeds_show_their_standard_deviation():
    rows = [{**r, "seeds": 3, "test_top1_sd": 0.0123} for r in ROWS]
    text = Parsed(page(rows=rows)).text
    assert "means over 3 runs" in text and "All runs" in text and "one seed" not in text
    assert "| 3 (sd 1.2) |" in report.leaderboard_markdown(rows)


def test_the_statement_separates_significant_differences_from_noise():
    assert report.statement(ROWS) == (
        "On the same test images, in points of top-1, it is significantly better than resnet18 (+6.2) and "
        "within noise of resnet34 (+1.2)."
    )
    worse = [ROWS[0], row("a", 0.95, "significantly better", 0.001)]
    assert "significantly worse than a (−3.8), although it is best on validation" in report.statement(worse)
    losses = [{**r, "test_loss": loss} for r, loss in zip(ROWS[:2], (0.25, 0.5), strict=True)]
    assert report.statement(losses, "loss").endswith(
        "images, it is significantly better than resnet18 (−0.250)."
    )


def test_a_phone_shows_a_plot_no_smaller_than_readable():
    stream = io.BytesIO()
    Image.new("L", (1000, 20)).save(stream, format="png")
    assert report.readable_width(stream.getvalue()) == 450
    assert 'style="min-width: 450px"' in page(class_balance=stream.getvalue())


def test_a_solved_head_needs_no_other_seed():
    text = Parsed(page(seed_matters=False)).text
    assert "Another seed would give the same head" in text and "one seed was run" not in text


def test_the_markdown_table_has_one_line_for_each_model():
    lines = report.leaderboard_markdown(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    cells = [cell.strip().replace("\xa0", " ") for cell in lines[2].strip("|").split("|")]
    test = "91.23 % [90.2 %, 92.2 %]"
    assert cells == [
        "**resnet50**",
        "1",
        "91.23 %",
        test,
        "99.00 %",
        "80.00 %",
        "1 h 02 min",
        "1,234",
        "winner",
    ]
    assert json.dumps(lines[3]).count("significantly worse") == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.96, "10.0 s"), (60, "1 min 00 s"), (3599.4, "59 min 59 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds, text):
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize("metric", ["macro_f1", "mean_class_accuracy", "loss"])
def test_the_page_shows_the_metric_that_chooses(metric):
    """Its validation, its interval and its differences; each other metric keeps one column."""
    value = 0.4567 if metric == "loss" else 0.7654
    own = {f"val_{metric}": 0.5, f"test_{metric}": value, f"test_{metric}_sd": None}
    own |= {f"test_{metric}_low": 0.25, f"test_{metric}_high": 0.875}
    rows = [{**r, **own} for r in ROWS]
    shown = Parsed(page(rows=rows, runs=rows, choose_by=metric)).text
    name = formatting.METRIC_NAMES[metric]
    reached = "0.457" if metric == "loss" else "76.54\xa0%"
    assert f"reaches {reached} test {name}" in shown
    ends = ("0.250", "0.875") if metric == "loss" else ("25.0\xa0%", "87.5\xa0%")
    assert f"95 % interval {ends[0]} to {ends[1]}." in shown
    assert f"best validation {name}" in shown and f"difference of test {name}" in shown
    assert ("+0.062" if metric == "loss" else "+6.2") in shown and "McNemar" not in shown
    table = report.leaderboard_markdown(rows, metric).splitlines()
    assert table[0].startswith(f"| model | seeds | val {name} | test {name} [95 %] | top-1 | top-5 |")
    assert all(line.count("|") == table[0].count("|") for line in table)
