"""A difference as Markdown: its first line, tables, lists of images, and what else differs."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from revisions import CORRECT, incorrect, results, revision, text
from scipy import stats

from finegrain.experiments import difference, markdown
from finegrain.experiments.results import ModelResults, RevisionResults


def test_the_number_of_images_that_a_class_needs_is_the_least_that_can_be_significant():
    change = difference.ClassChange("cat", 10, 0.0, 0.5, 1.0)
    for classes in (2, 12, 196):
        found = re.search(r"at least (\d+) images", "".join(markdown._class_changes([change], classes)))
        least = int(found[1])
        p = [stats.binomtest(n, n).pvalue * classes for n in (least - 1, least)]
        assert p[1] < 0.05 <= p[0]


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
    assert "Nothing: both have results of the same parameters, code and data." in text(
        difference.compare_revisions(before, before)
    )


def test_a_revision_that_is_given_as_a_commit_is_named_once():
    models = {"net": results(CORRECT)}
    shown = text(difference.compare_revisions(revision("main", models), revision("0123456", models)))
    assert "`main` (0123456) \N{RIGHTWARDS ARROW} `0123456`, compared on the same 40 test images" in shown


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


def test_a_message_with_names_from_a_branch_keeps_its_code_and_cannot_act():
    message = "models/<img src=x>: not found | ask @team,\n[here](http://x); `dvc repro`"
    shown = r"models/\<img src=x\>: not found \| ask \@team, \[here\](http://x); `dvc repro`"
    assert markdown.escape(message) == shown


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
