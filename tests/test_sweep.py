"""Trials as DVC experiments, interrupted and continued."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from clone import TINY, Clone
from params_file import write_params
from pipeline import ROOT
from stub_stages import stages_run

from finegrain import cli
from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.experiments import repair, revision
from finegrain.search import search_space, sweep
from finegrain.search.trial import Trial

OWN_LR = str(params.load_yaml(ROOT / "params.yaml")["lr"])


def test_what_trials_are_compared_by_is_no_parameter_of_the_space():
    space = search_space.parse_space(["choose_by=top1,loss"], params.load_yaml(ROOT / "params.yaml"))
    with pytest.raises(UserError, match="choose_by: is what the trials are compared by"):
        search_space.reject_impossible(space, params.load_yaml(ROOT / "params.yaml"))


def args(*words: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(["sweep", *words])


def test_a_sweep_continues_only_with_the_same_settings_and_in_one_process(project):
    settings = {"space": ["lr=1..2"], "set": [], "sampler": "tpe", "seed": 0, "of": "x"}
    with sweep._open_log(Path("sweeps/tune"), settings) as trial_log:
        trial_log.trials.append(Trial(0, {"lr": "1.0"}))
        trial_log.write()
        with pytest.raises(UserError, match="sweeps/tune: this sweep is running already"):
            with sweep._open_log(Path("sweeps/tune"), settings):
                pass
    with sweep._open_log(Path("sweeps/tune"), settings) as trial_log:
        assert trial_log.trials == [Trial(0, {"lr": "1.0"})]
    for key, value, named in (("space", ["lr=1..3"], "space"), ("of", "y", "code, dvc.yaml or params.yaml")):
        with pytest.raises(
            UserError, match=f"was started with another {named}; give this sweep another name"
        ):
            with sweep._open_log(Path("sweeps/tune"), settings | {key: value}):
                pass


@pytest.mark.parametrize("name", ["../x", "1", "a b", "-x", ""])
def test_a_name_that_no_experiment_can_have_is_rejected(name, capsys):
    with pytest.raises(SystemExit):
        args(name, "lr=1..2")


class Experiments:
    """A stand-in for DVC: experiments by name, whether running one saves it, and its exit status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: dict[str, revision.ValidationResult] = {}
        self.ran: list[str] = []
        self.saves, self.exits = True, 0
        monkeypatch.setattr(revision, "validation_result", self.validated)
        monkeypatch.setattr(revision, "revision_exists", self.made.__contains__)
        monkeypatch.setattr(sweep, "_wait_for", self.run)

    def validated(self, name: str) -> revision.ValidationResult:
        if name not in self.made:
            raise revision.NoSuchRevision(name)
        return self.made[name]

    def run(self, command: list[str]) -> int:
        self.ran.append(command[command.index("-n") + 1])
        if self.saves:
            self.made[self.ran[-1]] = revision.ValidationResult("top1", 0.5, 1.0, 100)
        return self.exits


@pytest.fixture
def experiments(project, monkeypatch) -> Experiments:
    write_params(project)
    Path(".dvc").mkdir()
    return Experiments(monkeypatch)


def test_without_a_dvc_project_no_trial_starts(experiments):
    Path(".dvc").rmdir()
    with pytest.raises(UserError, match=".dvc: not found"):
        sweep.run(args("tune", "lr=1e-4..1e-2"))
    assert not experiments.ran and not Path("sweeps").exists()


def states() -> list[str]:
    return [trial["state"] for trial in json.loads(Path("sweeps/tune/trials.json").read_text())["trials"]]


def test_an_experiment_that_another_dvc_has_saved_meanwhile_is_the_trial_s_result(experiments):
    """DVC checks only at the start whether the name is free: the later of two fails."""
    experiments.exits = 255
    assert sweep.run(args("tune", "lr=1e-4..1e-2", "--trials", "1")) == 0
    assert states() == ["done"]


def test_trials_that_failed_last_are_tried_again(experiments, capsys):
    """Such as after a full disk: the first one too, the baseline of the others."""
    arguments = args("tune", "lr=1e-4..1e-2", "--trials", "4")
    experiments.saves, experiments.exits = False, 1
    with pytest.raises(UserError, match="full disk, fix it and run this again: they are tried again"):
        sweep.run(arguments)
    assert states() == ["failed"] * 3 and "3 trials, all of them failed." in capsys.readouterr().out
    failed = json.loads(Path("sweeps/tune/trials.json").read_text())["trials"]
    experiments.saves, experiments.exits = True, 0
    assert sweep.run(arguments) == 0
    assert states() == ["done"] * 4 and experiments.ran[3:] == [f"tune-00{number}" for number in range(4)]
    done = json.loads(Path("sweeps/tune/trials.json").read_text())["trials"]
    assert [trial["values"] for trial in done[:3]] == [trial["values"] for trial in failed]
    assert done[0]["values"] == {"lr": OWN_LR}


def test_a_failure_before_the_last_result_is_not_tried_again(experiments):
    settings = {"space": ["lr=1..2"], "set": [], "sampler": "tpe", "seed": 0, "of": "x"}
    with sweep._open_log(Path("sweeps/tune"), settings) as trial_log:
        for number, state in enumerate(["failed", "done", "failed", "failed", "running"]):
            trial_log.trials.append(Trial(number, {"lr": "1.0"}, state, 0.5, 1.0, 100))
        trial_log.write()
    with sweep._open_log(Path("sweeps/tune"), settings) as trial_log:
        assert [trial.state for trial in trial_log.trials] == ["failed", "done", *["running"] * 3]
        assert trial_log.unfinished is trial_log.trials[2]


def test_the_summary_comes_before_the_error(experiments, capsys):
    assert sweep.run(args("tune", "lr=1e-4..1e-2", "--trials", "1")) == 0
    capsys.readouterr()
    experiments.saves, experiments.exits = False, 1
    with pytest.raises(UserError, match="3 trials have failed one after another"):
        sweep.run(args("tune", "lr=1e-4..1e-2", "--trials", "4"))
    printed = capsys.readouterr().out
    assert "| tune-000 | 50.00" in printed and "1 trials (3 more failed)" in printed


def test_the_settings_for_all_trials_are_checked_with_the_space_before_the_first(experiments):
    for words, message in (
        (["--set", "models=[resnet19]"], "models.0: .*did you mean"),
        (["--set", "devices=3"], "batch_size: 16: must be a multiple of 3 devices"),
    ):
        with pytest.raises(UserError, match=message):
            sweep.run(args("tune", "lr=1e-4..1e-2", *words))
    assert not experiments.ran and not Path("sweeps").exists()
    assert sweep.run(args("tune", "devices=2,3", "--set", "batch_size=12", "--trials", "1")) == 0


@pytest.mark.parametrize("lock", repair.LOCK_TABLES)
def test_a_lock_that_a_killed_dvc_left_empty_is_removed_before_a_trial(lock, experiments):
    """A complete lock stays: dvc can see from its process whether it is stale."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("{}")
    assert sweep.run(args("tune", "lr=1e-4..1e-2", "--trials", "1")) == 0
    assert lock.exists()
    lock.write_text("")
    assert sweep.run(args("tune", "lr=1e-4..1e-2", "--trials", "1")) == 0 and lock.exists()  # no trial
    assert sweep.run(args("tune", "lr=1e-4..1e-2", "--trials", "2")) == 0
    assert not lock.exists()


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def outlived(processes: list[psutil.Process], seconds: float = 5) -> list[psutil.Process]:
    until = time.monotonic() + seconds
    while not all(map(gone, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return [process for process in processes if not gone(process)]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_its_experiment_ends_when_the_sweep_alone_is_killed():
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    parent = (
        f"import sys; from finegrain.search import sweep; sweep._wait_for([sys.executable, '-c', {child!r}])"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT / "src", stdout=subprocess.PIPE, text=True
    )
    assert running.stdout
    started = psutil.Process(int(running.stdout.readline()))
    running.kill()
    running.wait()
    left = outlived([started])
    for process in left:
        process.kill()
    running.stdout.close()
    assert not left


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_its_experiment_does_not_start_when_the_sweep_was_killed_first():
    """The sweep is killed before the new process has called prctl."""
    another = os.getppid()
    done = subprocess.run(
        [sys.executable, "-c", "print('on')"], preexec_fn=sweep._end_with(another), capture_output=True
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, b"")


@pytest.fixture
def clone(stubbed, tmp_path, monkeypatch) -> Clone:
    """A clone whose folder and environment this process has too."""
    made = stubbed.copied(tmp_path / "clone")
    made.environment["PYTHONPATH"] = str(ROOT / "src")
    monkeypatch.chdir(made.folder)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.long
def test_trials_are_experiments_and_an_interrupted_one_is_run_again(clone, capfd):
    """Killed alone, in the middle of a training, which ends with it; and dvc's locks are left empty."""
    write_params(clone.folder, **TINY, phases__all__epochs=2)
    clone.commit("not run")
    words = ("tune", "lr=1e-4..1e-2:log", "batch_size=8,16", "--trials", "2")
    record, hold = clone.folder / "sweeps/tune/trials.json", clone.folder / ".checkpoints/hold"
    hold.parent.mkdir()
    hold.touch()
    running = subprocess.Popen(
        [sys.executable, "-m", "finegrain.cli", "sweep", *words], stderr=subprocess.DEVNULL
    )
    held = hold.with_name("held")
    for _ in range(1200):
        if held.exists() or running.poll() is not None:
            break
        time.sleep(0.05)
    started = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    assert len(started) > 1 and not outlived(started)  # dvc and the training
    hold.unlink()
    for lock in repair.LOCK_TABLES:
        (clone.folder / lock).write_text("")
    assert held.exists() and [trial["state"] for trial in json.loads(record.read_text())["trials"]] == [
        "running"
    ]

    assert sweep.run(args(*words)) == 0
    output = capfd.readouterr().out
    assert clone("git status --porcelain") == ""  # the workspace is as it was
    kept = json.loads(record.read_text())["trials"]
    assert [trial["state"] for trial in kept] == ["done", "done"]
    assert kept[0]["values"] == {"lr": OWN_LR, "batch_size": "16"}  # params.yaml's own
    names = clone("dvc exp list --name-only").split()
    assert sorted(names) == ["tune-000", "tune-001"]
    for trial, name in zip(kept, sorted(names), strict=True):
        clone(f"dvc exp apply {name}")
        assert clone.json("reports/leaderboard.json")["models"]["resnet18"]["val_top1"] == trial["value"]
        assert f"lr: {float(trial['values']['lr'])}" in (clone.folder / "params.yaml").read_text()
        clone("git checkout -q .")
    assert (clone.folder / "sweeps/tune/what_mattered.png").stat().st_size > 1000
    best = max(kept, key=lambda trial: (trial["value"], -trial["loss"]))["number"]
    assert f"`dvc exp apply tune-{best:03d}`" in output
    clone("git clean -fdq")
    assert sweep.run(args(*words)) == 0
    assert not stages_run(capfd.readouterr().out)  # nothing is left to do
    record.unlink()
    with pytest.raises(UserError, match="tune-000: there is an experiment, branch or tag of that name"):
        sweep.run(args(*words))


@pytest.mark.slow
def test_a_trial_whose_stage_fails_has_failed(clone, monkeypatch, capfd):
    monkeypatch.setattr(sweep, "FAILURES", 1)
    (clone.folder / "src/train.py").write_text("raise SystemExit('error: no such thing')\n")
    clone.commit("break")
    with pytest.raises(UserError, match="1 trials have failed one after another"):
        sweep.run(args("bad", "lr=1e-4..1e-2"))
    printed = capfd.readouterr()
    assert "no such thing" in printed.err and "trial 0 has failed" in printed.err
    assert "1 trials, all of them failed." in printed.out
    assert [trial["state"] for trial in clone.json("sweeps/bad/trials.json")["trials"]] == ["failed"]
