"""What DVC's tables show of the metrics: few, narrow, one row a model and metric, and all of them in git."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import sample_blocks
import yaml
from clone import TINY, Clone
from params_file import write_params
from pipeline import ROOT

from finegrain.core import paths
from finegrain.evaluation import summary

pytestmark = pytest.mark.slow

MODELS = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]
METRICS = {"top1", "top1_ci", "top5", "class_acc", "macro_f1", "loss", "ece", "val_top1", "val_loss"}
WINNER = {"winner", "top1", "val_top1"}
COMMANDS = ("dvc metrics show", "dvc metrics diff", "dvc exp show --no-pager")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Clone:
    """What `git clone` gives of the committed sample: no data, no cache, no experiments."""
    folder = tmp_path_factory.mktemp("committed")
    committed = Clone(folder / "origin", with_results=True)
    return committed.colleague(committed.folder, folder / "fresh")


@pytest.fixture(scope="module")
def four(tmp_path_factory, stubbed) -> Clone:
    """The models of the sample, run by stubs and committed."""
    clone = stubbed.copied(tmp_path_factory.mktemp("four") / "clone")
    write_params(clone.folder, **TINY | {"models": MODELS})
    clone("dvc repro")
    clone.commit("four models")
    return clone


def files_of(models: list[str]) -> dict[str, set[str]]:
    """The metrics that each file should have."""
    runs = {f"metrics/sample/{model}-0.json": METRICS for model in models}
    return runs | {"metrics/sample/winner.json": WINNER}


def exp_show_metrics(clone: Clone) -> dict[str, set[str]]:
    """The metrics that `dvc exp show` has a column for, by file."""
    shown: list[dict[str, Any]] = json.loads(clone("dvc exp show --json 2>/dev/null"))
    files = shown[0]["data"]["metrics"]
    return {file: set(flat(found["data"])) for file, found in files.items()}


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Names as DVC writes them, such as ``test.top1`` for a value that is nested."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_fresh_clone_lacks_no_metric_and_is_warned_of_nothing(fresh, command):
    output = fresh(command)
    assert not any(word in output.lower() for word in ("warning", "failed", "error", "missing", "not found"))
    assert fresh("git status --porcelain") == ""


def test_the_sample_s_metrics_fit_into_140_characters(fresh):
    lines = fresh("dvc metrics show").splitlines()
    assert max(map(len, lines)) <= 140
    assert set(lines[0].split()) == {"Path"} | METRICS | WINNER
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(files_of(MODELS))


def test_the_page_shows_the_table_of_the_committed_run(fresh, tmp_path):
    # the commit's, not the workspace's: another kind of machine may have made other results there
    printed = fresh.colleague(ROOT, tmp_path / "head")("dvc metrics show")
    assert sample_blocks.shown("metrics") == f"```text\n{printed.strip()}\n```"


def test_the_sample_s_experiments_have_at_most_40_metric_columns(fresh):
    found = exp_show_metrics(fresh)
    assert found == files_of(MODELS)
    assert sum(map(len, found.values())) == 9 * len(MODELS) + 3 <= 40
    header = next(csv.reader(io.StringIO(fresh("dvc exp show --csv 2>/dev/null"))))
    names = {f"{file}:{name}" for file, of_file in found.items() for name in of_file}
    shown = [column for column in header if column in names or column in METRICS | WINNER]
    assert len(shown) == len(names) and len(set(header)) == len(header)


def test_one_model_has_12_metric_columns(stubbed):
    found = exp_show_metrics(stubbed)
    assert found == files_of(["resnet18"]) and sum(map(len, found.values())) == 12


@pytest.mark.long
def test_experiments_can_be_sorted_by_the_winner_s_validation(stubbed, tmp_path):
    clone = stubbed.copied(tmp_path / "clone")
    for name, lr in (("one", 0.003), ("two", 0.004)):
        clone(f"dvc exp run -n {name} -S lr={lr}")
    column = "metrics/sample/winner.json:val_top1"
    table = clone(f"dvc exp show --csv --sort-by {column} --sort-order desc 2>/dev/null")
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["Experiment"] in ("one", "two")]
    values = [float(row[column]) for row in rows]
    assert len(set(values)) == 2 and values == sorted(values, reverse=True)
    assert {row["winner"] for row in rows} == {"resnet18"}


@pytest.mark.long
def test_a_change_of_lr_shows_a_row_for_each_model_and_metric_and_nothing_else(four, tmp_path):
    clone = four.copied(tmp_path / "clone")
    clone("dvc exp run -S lr=0.003")
    lines = clone("dvc metrics diff").splitlines()
    rows = [tuple(line.split()[:2]) for line in lines[1:]]
    allowed = {(file, name) for file, names in files_of(MODELS).items() for name in names}
    assert len(rows) == len(set(rows)) and set(rows) <= allowed
    assert {file for file, name in rows if name == "loss"} == set(files_of(MODELS)) - {
        "metrics/sample/winner.json"
    }
    assert max(map(len, lines)) <= 100
    assert all("-" not in line.split()[2:4] for line in lines[1:])  # a value on either side


def test_the_repository_s_results_are_those_that_its_stages_write():
    """The metrics beside the exact results, which the leaderboard and the report are made from."""
    for model in MODELS:
        run = paths.Run("sample", model, 0)
        results = json.loads((ROOT / run.results).read_text())
        assert json.loads((ROOT / run.metrics).read_text()) == summary.metrics_summary(results)
