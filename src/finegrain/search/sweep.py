"""The command ``finegrain sweep``: a hyperparameter search whose trials are DVC experiments chosen by Optuna.

Trials are compared by their validation result alone. An interrupted search continues where it stopped: its
settings and results are in ``sweeps/<name>/trials.json``, and an interrupted run resumes from its checkpoint.
"""

import argparse
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finegrain import optional_deps
from finegrain.comparison.formatting import METRIC_NAMES, metric_value, percent
from finegrain.core import file_io, log, paths, process
from finegrain.core.errors import UserError
from finegrain.evaluation import metrics, plot_style
from finegrain.experiments import repair, revision
from finegrain.search.trial import Trial, TrialLog

FOLDER = Path("sweeps")
FAILURES = 3
"""Number of failed trials in a row that ends the search."""
SHOWN = 5
"""Number of trials in the table of the summary."""


def run(args: argparse.Namespace) -> int:
    """Search, and print the best trials; returns the exit status: 1 if no trial has a result.

    Raises:
        UserError: the space or a setting is invalid, or ``FAILURES`` trials failed one after another.
    """
    repair.require_dvc_folder()
    _require_ascii_path(Path.cwd())
    with optional_deps.required_for("finegrain sweep"):
        from finegrain.search import search_space
    overrides = dict(_setting(text) for text in args.set)
    parameters = search_space.load_with_overrides(args.set)
    space = search_space.parse_space(args.space, parameters)
    search_space.reject_impossible(space, parameters)
    settings = {
        "space": args.space,
        "set": args.set,
        "sampler": args.sampler,
        "seed": args.seed,
        "of": _code_hash(),
    }
    with _open_log(FOLDER / args.name, settings) as trial_log:
        failures = _run_trials(trial_log, space, parameters, overrides, args)
        print(summary(trial_log), end="", flush=True)
        if failures == FAILURES:
            raise UserError(
                f"{FAILURES} trials have failed one after another, see above. If the cause is outside the "
                "project, such as a full disk, fix it and run this again: they are tried again. If it is in "
                "src/, dvc.yaml, params.yaml or the values tried, fix it and give the sweep another name"
            )
        return int(not trial_log.done)


def _require_ascii_path(project: Path) -> None:
    """Stop before the first trial where DVC cannot run one.

    `dvc exp run --temp` writes the path of the cache to a file as ASCII.

    Raises:
        UserError: the path has other letters.
    """
    if not str(project).isascii():
        raise UserError(
            f"{project}: DVC runs no experiment in a copy (`dvc exp run --temp`) of a project whose path has "
            "letters other than ASCII; move the project. `dvc repro` and `dvc exp run` work here"
        )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--set {text}: must be PARAMETER=VALUE, as for `dvc exp run -S`")
    return name, value


def _code_hash() -> str:
    """Hash of everything that the result of a trial depends on except its values."""
    files = [paths.PARAMS, Path("dvc.yaml"), *sorted(Path("src").rglob("*.py"))]
    content = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files if file.is_file())
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _open_log(folder: Path, settings: dict[str, Any]) -> Iterator[TrialLog]:
    """The log of a new search, or of one that continues; one process at a time can open it.

    Raises:
        UserError: another process has it open, or it has other settings, such as code or params.yaml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: this sweep is running already; wait for it, or give this one another name"
            ) from None
        file = folder / "trials.json"
        if not file.exists():
            yield TrialLog(folder, settings, [])
            return
        recorded = file_io.read_json(file)
        if changed := [key for key in settings if recorded.get(key) != settings[key]]:
            names = {"of": "code, dvc.yaml or params.yaml", "set": "--set"}
            what = ", ".join(names.get(key, key) for key in changed)
            raise UserError(f"{file}: was started with another {what}; give this sweep another name")
        trial_log = TrialLog(folder, settings, [Trial(**trial) for trial in recorded["trials"]])
        trial_log.retry_last_failures()
        yield trial_log


def _run_trials(
    trial_log: TrialLog,
    space: dict[str, Any],
    parameters: Mapping[str, Any],
    overrides: Mapping[str, str],
    args: argparse.Namespace,
) -> int:
    """Run trials until all are done, the time is up or too many fail; returns how many of the last failed.

    Args:
        space: a ``search_space.Space``.
        parameters: those of params.yaml with the overrides.
        overrides: values for all trials.
        args: ``trials``, ``hours``, ``sampler`` and ``seed``.
    """
    from finegrain.search import importance_plot, search_space

    deadline = time.monotonic() + 3600 * args.hours
    failures = 0
    while time.monotonic() < deadline and failures < FAILURES:
        trial = trial_log.unfinished
        if trial is None:
            if len(trial_log.trials) >= args.trials:
                break
            values = search_space.next_values(space, parameters, trial_log.trials, args.sampler, args.seed)
            trial = trial_log.start(values)
        _finish(trial_log, trial, overrides)
        failures = failures + 1 if trial.state == "failed" else 0
        if len(trial_log.done) > 1:
            figure = importance_plot.importance_plot(space, trial_log.done)
            plot_style.save_png(figure, trial_log.folder / "what_mattered.png")
    return failures


def _finish(trial_log: TrialLog, trial: Trial, overrides: Mapping[str, str]) -> None:
    """Run a trial's experiment, unless it has finished before, and record its result."""
    name = trial_log.name(trial)
    values = ", ".join(f"{key}={value}" for key, value in trial.values.items())
    result: revision.ValidationResult | None
    try:
        result = revision.validation_result(name)
    except revision.NoSuchRevision:
        log.info(f"trial {trial.number}: {values}")
        result = _run_experiment(name, {**overrides, **trial.values})
    if result is None:
        trial.state = "failed"
        log.info(f"trial {trial.number} has failed: {values}")
    else:
        trial.state, trial.metric, trial.value = "done", result.metric, result.value
        trial.loss, trial.images = result.loss, result.images
        shown = f"{METRIC_NAMES[trial.metric]} {metric_value(trial.metric, result.value)}"
        log.info(f"trial {trial.number}: validation {shown}: {values}")
    trial_log.write()


def _run_experiment(name: str, values: Mapping[str, str]) -> revision.ValidationResult | None:
    """Run a DVC experiment; returns None if it failed."""
    options = [word for key, value in values.items() for word in ("-S", f"{key}={value}")]
    repair.repair_unless_busy(dvc_only=True)
    failed = _wait_for([sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", name, *options])
    try:
        return revision.validation_result(
            name
        )  # after a failure too: another dvc may have saved it meanwhile
    except UserError:
        if failed:
            return None
        raise


def _wait_for(command: Sequence[str]) -> int:
    """Run a command; returns its exit status. Ctrl-C reaches it too, so it can save a checkpoint first."""
    running = subprocess.Popen(command, preexec_fn=_end_with(os.getpid()))
    try:
        return running.wait()
    except KeyboardInterrupt:
        running.wait()
        raise


def _end_with(parent: int) -> Callable[[], None]:
    """A function for a new process that makes Linux end it when its parent is killed.

    Otherwise the experiment would run on unnoticed, and take the name that the next sweep gives its own.
    """

    def end_with_parent() -> None:
        process.end_with_parent()
        if os.getppid() != parent:  # the parent was killed before the line above
            os._exit(128 + signal.SIGTERM)

    return end_with_parent


def summary(trial_log: TrialLog) -> str:
    """The best trials as a Markdown table, and how many others are as good within the 95 % interval."""
    ranked = sorted(trial_log.done, key=lambda trial: trial.rank)
    failed = sum(trial.state == "failed" for trial in trial_log.trials)
    if not ranked:
        return f"{failed} trials, all of them failed.\n"
    best, names, metric = ranked[0], list(ranked[0].values), ranked[0].metric
    rows = [
        [trial_log.name(trial), metric_value(metric, trial.value or 0.0), *(trial.values[n] for n in names)]
        for trial in ranked[:SHOWN]
    ]
    title = f"validation {METRIC_NAMES[metric]}"
    table = [["experiment", title, *names], ["---"] * (2 + len(names)), *rows]
    more = f" ({failed} more failed)" if failed else ""
    lines = [f"| {' | '.join(row)} |" for row in table]
    lines += [
        "",
        f"{len(ranked)} trials{more}. {_close_trials(ranked)}The best of many is partly the best by chance; "
        "several `seeds` show how much.",
        f"`dvc exp apply {trial_log.name(best)}` applies it; {trial_log.folder}/what_mattered.png shows all.",
    ]
    return "\n".join(lines) + "\n"


def _close_trials(ranked: Sequence[Trial]) -> str:
    """How many trials are as good as the best within its interval, which only top-1 alone determines."""
    best = ranked[0]
    if best.metric != "top1" or best.value is None or best.images is None:
        return ""
    low, high = metrics.wilson_interval(best.value * best.images, best.images)
    close = sum(trial.value is not None and trial.value >= low for trial in ranked)
    return (
        f"Within the 95 % interval of the best, {percent(low, 1)} to {percent(high, 1)}, within which "
        f"{best.images} validation images cannot separate trials: {close - 1} others. "
    )
