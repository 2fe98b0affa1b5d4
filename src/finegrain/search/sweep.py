"""``finegrain sweep``: trials of other parameters, each a DVC experiment, the next one chosen by Optuna.

Trials are judged by the validation images alone. A sweep that was broken off goes on where it stood: what was
asked, and how it ended, is in ``sweeps/<name>/trials.json``, and a broken training resumes by its checkpoint.
"""

import argparse
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finegrain import optional_deps
from finegrain.comparison.formatting import percent
from finegrain.core import file_io, log, paths, process
from finegrain.core.errors import UserError
from finegrain.evaluation import metrics, plot_style
from finegrain.experiments import repair, revision
from finegrain.search.trial import Trial, TrialLog

FOLDER = Path("sweeps")
FAILURES = 3
"""So many failed trials, one after another, end the sweep."""
SHOWN = 5


def run(args: argparse.Namespace) -> int:
    """Returns the exit status: 1 where no trial has a result.

    Raises:
        UserError: what is asked cannot be, or trials failed one after another.
    """
    with optional_deps.required_for("finegrain sweep"):
        from finegrain.search import importance_plot, search_space
    fixed = dict(_setting(text) for text in args.set)
    now = search_space.load_with_overrides(args.set)
    tried = search_space.parse_space(args.space, now)
    search_space.reject_impossible(tried, now)
    about = {
        "space": args.space,
        "set": args.set,
        "sampler": args.sampler,
        "seed": args.seed,
        "of": _inputs(),
    }
    until = time.monotonic() + 3600 * args.hours
    failures = 0
    with _open_log(FOLDER / args.name, about) as book:
        while time.monotonic() < until and failures < FAILURES:
            trial = book.running
            if trial is None:
                if len(book.trials) >= args.trials:
                    break
                trial = book.begin(search_space.next_values(tried, now, book.trials, args.sampler, args.seed))
            _finish(book, trial, fixed)
            failures = failures + 1 if trial.state == "failed" else 0
            if len(book.done) > 1:
                plot_style.save_png(
                    importance_plot.importance_plot(tried, book.done), book.folder / "what_mattered.png"
                )
        print(summary(book), end="", flush=True)
        if failures == FAILURES:
            raise UserError(
                f"{FAILURES} trials have failed one after another, see above. If the cause is outside the "
                "project, such as a full disk, mend it and run this again: they are tried again. If it is in "
                "src/, dvc.yaml, params.yaml or the values tried, mend it and give the sweep another name"
            )
        return int(not book.done)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--set {text}: must be PARAMETER=VALUE, as for `dvc exp run -S`")
    return name, value


def _inputs() -> str:
    """Hash of all that a trial's result depends on but its values."""
    files = [paths.PARAMS, Path("dvc.yaml"), *sorted(Path("src").rglob("*.py"))]
    content = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files if file.is_file())
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _open_log(folder: Path, about: dict[str, Any]) -> Iterator[TrialLog]:
    """The record of a new sweep, or of one that goes on; by one process at a time.

    Raises:
        UserError: another process has it open, or it is of another space, code or params.yaml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: this sweep is running already; wait for it, or name another"
            ) from None
        file = folder / "trials.json"
        if not file.exists():
            yield TrialLog(folder, about, [])
            return
        kept = file_io.read_json(file)
        trials = [Trial(**trial) for trial in kept.pop("trials")]
        if other := [key for key in about if kept.get(key) != about[key]]:
            names = {"of": "code, dvc.yaml or params.yaml", "set": "--set"}
            what = ", ".join(names.get(key, key) for key in other)
            raise UserError(f"{file}: was begun with another {what}; give this sweep another name")
        book = TrialLog(folder, about, trials)
        book.retry()
        yield book


def _finish(book: TrialLog, trial: Trial, fixed: dict[str, str]) -> None:
    """Run a trial's experiment, unless it has ended before, and note its result."""
    name = book.name(trial)
    told = ", ".join(f"{key}={value}" for key, value in trial.values.items())
    found: revision.ValidationResult | None
    try:
        found = revision.validation_result(name)
    except revision.NoSuchRevision:
        log.info(f"trial {trial.number}: {told}")
        found = _run_experiment(name, fixed | trial.values)
    if found is None:
        trial.state = "failed"
        log.info(f"trial {trial.number} has failed: {told}")
    else:
        trial.state, trial.top1, trial.loss, trial.images = "done", found.top1, found.loss, found.images
        log.info(f"trial {trial.number}: validation top-1 {percent(found.top1)}: {told}")
    book.write()


def _run_experiment(name: str, values: dict[str, str]) -> revision.ValidationResult | None:
    """Its result; None where it has failed."""
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
    """Exit status. Ctrl-C reaches the command too, which has something to keep before it ends."""
    running = subprocess.Popen(command, preexec_fn=_end_with(os.getpid()))
    try:
        return running.wait()
    except KeyboardInterrupt:
        running.wait()
        raise


def _end_with(parent: int) -> Callable[[], None]:
    """Make Linux end a new process when its parent is killed.

    Else the experiment would go on unseen, and take the name from the one that the next sweep runs.
    """

    def ask() -> None:
        process.end_with_parent()
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return ask


def summary(book: TrialLog) -> str:
    """The best trials as a Markdown table, and how sure that order is."""
    ranked = sorted(book.done, key=lambda trial: trial.rank)
    failed = sum(trial.state == "failed" for trial in book.trials)
    if not ranked:
        return f"{failed} trials, all of them failed.\n"
    names = list(ranked[0].values)
    rows = [
        [book.name(trial), percent(trial.top1 or 0.0), *(trial.values[name] for name in names)]
        for trial in ranked[:SHOWN]
    ]
    table = [["experiment", "validation top-1", *names], ["---"] * (2 + len(names)), *rows]
    best = ranked[0]
    low, high = metrics.wilson_interval((best.top1 or 0.0) * (best.images or 1), best.images or 1)
    close = sum((trial.top1 or 0.0) >= low for trial in ranked)
    lines = [f"| {' | '.join(row)} |" for row in table]
    more = f" ({failed} more failed)" if failed else ""
    lines += [
        "",
        f"{len(ranked)} trials{more}. Within the 95 % interval of the best, {percent(low, 1)} to "
        f"{percent(high, 1)}, within which {best.images} validation images cannot tell trials apart: "
        f"{close - 1} others. The best of many owes something to luck; `seeds` show how much.",
        f"`dvc exp apply {book.name(best)}` takes it over; {book.folder}/what_mattered.png shows all.",
    ]
    return "\n".join(lines) + "\n"
