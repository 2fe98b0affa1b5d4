"""Trainings at the same time: in one working tree, and each in a clone of its own (docs/SCALING.md)."""

import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import yaml
from clone import TINY, Clone
from kills import command_line, processes, stage_of
from params_file import write_params
from pipeline import ROOT
from stub_stages import stages_run

pytestmark = pytest.mark.long

RUNS = ("resnet34-0", "resnet50-0")
AFTER_TRAINING = {*(f"evaluate@{run}" for run in RUNS), "compare", "winner"}
FILES = [f"models/sample/{run}.{suffix}" for run in RUNS for suffix in ("safetensors", "json")]
HISTORY = "plots/sample/history"
VEGA = ("vega", "vega-lite", "vega-embed")
COLUMNS = "epoch,phase,image_size,lr,train_loss,train_top1,val_loss,val_top1"


@pytest.fixture(scope="module")
def untrained(stubbed, tmp_path_factory) -> Clone:
    """With two models that are not trained yet; parameters and data are committed. To be copied."""
    made = stubbed.copied(tmp_path_factory.mktemp("untrained") / "clone")
    write_params(made.folder, **TINY | {"models": [run.split("-")[0] for run in RUNS]})
    made("dvc repro pack")
    made.commit("two other models")
    return made


@pytest.fixture(scope="module")
def serial(untrained, tmp_path_factory) -> Clone:
    """What `dvc repro` makes of it, one stage after the other."""
    made = untrained.copied(tmp_path_factory.mktemp("serial") / "clone")
    made("dvc repro")
    return made


@pytest.fixture
def clone(untrained, tmp_path) -> Clone:
    return untrained.copied(tmp_path / "clone")


def start(clone: Clone, command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        shell=True,
        cwd=clone.folder,
        env=clone.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(started: Sequence[subprocess.Popen[str]]) -> None:
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output


def start_trainings(clone: Clone, runs: Sequence[str], **environment: str) -> list[subprocess.Popen[str]]:
    """Start them as docs/SCALING.md does; returns when all are at work at the same moment."""
    started = [start(clone, f"dvc --wait-for-lock repro -s train@{run}", **environment) for run in runs]
    deadline = time.monotonic() + 60
    while True:
        at_work = {command_line(one) for one in processes(clone.folder) if stage_of(one) == "train"}
        if len(at_work) == len(runs):
            return started
        assert time.monotonic() < deadline and all(one.poll() is None for one in started), at_work
        time.sleep(0.05)


@contextmanager
def two_held(clone: Clone) -> Iterator[None]:
    """Two trainings have begun and write nothing before the end of the block."""
    hold = clone.folder / ".checkpoints/hold"
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    started = []
    try:
        started = start_trainings(clone, RUNS)
        yield
    finally:
        hold.unlink()
        for one in started:
            one.wait(60)
    finish(started)


def lock(clone: Clone) -> dict:
    return yaml.safe_load((clone.folder / "dvc.lock").read_text())


def same(one: Clone, other: Clone, paths: Sequence[str] = FILES) -> bool:
    return all((one.folder / path).read_bytes() == (other.folder / path).read_bytes() for path in paths)


def test_two_trainings_in_one_working_tree(clone, serial):
    with two_held(clone):
        assert "is busy" in clone("dvc repro", code=255)
        assert "is busy" in clone("dvc status", code=1)
        listed = clone("dvc stage list --name-only").split()
        assert {f"train@{run}" for run in RUNS} < set(listed)
    assert stages_run(clone("dvc repro")) == AFTER_TRAINING
    assert lock(clone) == lock(serial) and same(clone, serial)


@pytest.mark.long
def test_two_real_trainings_have_the_bits_of_one_after_the_other(ran, tmp_path):
    runs = ("resnet18-1", "resnet18-2")
    one_by_one, together = (ran.copied(tmp_path / name) for name in ("serial", "together"))
    for each in (one_by_one, together):
        write_params(each.folder, **TINY | {"seeds": [1, 2]})
        each.environment["OMP_NUM_THREADS"] = "1"
    one_by_one("dvc repro train")
    finish(start_trainings(together, runs))
    models = [f"models/sample/{run}.safetensors" for run in runs]
    assert same(one_by_one, together, models)
    assert (together.folder / models[0]).read_bytes() != (together.folder / models[1]).read_bytes()


def test_curves_of_trainings_at_work(clone):
    """Also in the data that DVC's extension for VS Code reads."""
    with two_held(clone):
        history = clone.folder / HISTORY / f"{RUNS[0]}.csv"
        history.parent.mkdir(parents=True, exist_ok=True)
        history.write_text(f"{COLUMNS}\n1,all,32,0.1,1.0,0.5,1.0,0.4321\n2,all,32,0.1,1.0,0.5,1.0,0.5432\n")
        output = clone("dvc plots show")
        page = (clone.folder / "dvc_plots/index.html").read_text()
        # printed after the JSON, to standard error: the same warning
        split = clone("dvc plots diff workspace --json --split -o .dvc/tmp/plots").splitlines()[0]
        shown = json.loads(split)
    assert "failed to load some plots" in output
    assert "0.4321" in page and "0.5432" in page
    assert "0.5432" in json.dumps(shown["data"])
    missing = {error["source"] for error in shown["errors"]}
    assert f"{HISTORY}/{RUNS[1]}.csv" in missing and f"{HISTORY}/{RUNS[0]}.csv" not in missing


def script(word: str) -> str:
    """The script of docs/SCALING.md that contains this word."""
    scripts = re.findall(r"^```sh\n(#!.*?)^```", (ROOT / "docs/SCALING.md").read_text(), re.S | re.M)
    return next(text for text in scripts if word in text)


def test_plots_without_a_network(clone, tmp_path):
    """The copies are of the very files that DVC's page loads otherwise."""
    clone("dvc plots show")
    usual = (clone.folder / "dvc_plots/index.html").read_text()
    curl = tmp_path / "bin/curl"
    curl.parent.mkdir()
    curl.write_text('#!/bin/sh\necho "$2" > "$4"\n')
    curl.chmod(0o755)
    path = f"{curl.parent}:{clone.environment['PATH']}"
    finish([start(clone, script("dvc_plots"), PATH=path)])
    fetched = [(clone.folder / f"dvc_plots/{name}.js").read_text().strip() for name in VEGA]
    clone("dvc plots show")
    page = (clone.folder / "dvc_plots/index.html").read_text()
    assert re.findall('<script src="(.*?)"', usual) == fetched
    assert re.findall('<script src="(.*?)"', page) == [f"{name}.js" for name in VEGA]
    assert "vegaEmbed('#" in page


def test_tasks_of_a_job_array_in_clones_with_one_cache(clone, serial, tmp_path):
    activate = clone.folder / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    task = tmp_path / "task.sh"
    task.write_text(script("--array"))
    numbers = [str(place) for place in range(1, 3)]
    finish([start(clone, f"bash {task}", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=n) for n in numbers])
    third = start(clone, f"bash {task}", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert "no training number 3" in third.communicate(timeout=60)[0] and third.returncode
    output = clone("dvc repro")
    assert stages_run(output) == AFTER_TRAINING
    assert lock(clone) == lock(serial) and same(clone, serial)


@pytest.fixture(scope="module")
def pushed(untrained, tmp_path_factory) -> Clone:
    """Its data is in a remote, and so are the trainings that two other clones have done."""
    folder = tmp_path_factory.mktemp("pushed")
    clone = untrained.copied(folder / "clone")
    clone(f"dvc remote add -d team {folder / 'remote'}")
    clone.commit("share")
    clone("dvc push")
    for run in RUNS:
        task = clone.colleague(clone.folder, folder / run)
        task("dvc repro --pull pack")
        assert stages_run(task(f"dvc repro -s train@{run}")) == {f"train@{run}"}
        task(f"dvc push --run-cache train@{run}")
    return clone


def test_trainings_of_clones_are_collected_through_a_remote(pushed, serial, tmp_path):
    collecting = pushed.colleague(pushed.folder, tmp_path / "collecting")
    assert stages_run(collecting("dvc repro --pull")) == {"pack", *AFTER_TRAINING}
    stages = [f"{stage}@{run}" for stage in ("train", "evaluate") for run in RUNS]
    assert all(lock(collecting)["stages"][each] == lock(serial)["stages"][each] for each in stages)
    assert same(collecting, serial)


def test_the_run_cache_alone_brings_no_training(pushed, tmp_path):
    """Its records name files that `dvc pull` does not fetch, as dvc.lock does not list them yet."""
    collecting = pushed.colleague(pushed.folder, tmp_path / "collecting")
    collecting("dvc pull --run-cache --allow-missing")
    assert {f"train@{run}" for run in RUNS} < stages_run(collecting("dvc repro"))
