"""Interrupt the pipeline at random, run it again, and compare its files with those of an unbroken run.

    python tests/helpers/chaos.py --kills 100 --seed 0 --out docs/chaos.md

Runs real DVC commands in a copy of the repository with a small sample. Each round starts from nothing and
repeats its command, `dvc repro`, `dvc exp run`, `dvc exp run --temp` or a queue's, until it ends by itself.
Exits with 1 if a command fails without an interruption, if a file differs, or if a process is left over.
Where DVC refuses what it has left behind itself, the command must succeed after `finegrain repair`; these
cases are counted.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clone import Clone
from kills import KILLS, at_work, command_line, processes, send, stage_of
from params_file import write_params

SMALL = {
    "dataset__images_per_class": 40,
    "dataset__image_size": 48,
    "pack__image_size": 48,
    "models": ["resnet18", "resnet34"],
    "ema_decay": 0.9,
    "phases__all__epochs": 3,
    "phases__all__image_size": 48,
    "checkpoint_seconds": 0.5,
}
QUICK = SMALL | {"dataset__images_per_class": 8, "models": ["resnet18"], "phases__all__epochs": 2}
COMPARED = tuple(f"{top}/sample" for top in ("metrics", "plots", "reports", "models", "data", "winner"))
COSTS = ".cost.json"
"""Suffix of the files that hold times, which differ between runs."""
LOST = 75
"""Exit status if the queue has had no active worker for half a minute and the experiment has not ended."""
WAYS = {
    "repro": "exec dvc repro",
    "exp run": "exec dvc exp run -n {name}",
    "exp run --temp": "exec dvc exp run --temp -n {name}",
    # a worker that receives SIGTERM finishes its task first; no other worker starts until then
    "queue": """dvc exp run --queue -n {name} && dvc queue start && idle=0
        until dvc queue status > ../status; grep {name} ../status | grep -qE 'Success|Failed'; do
            grep -q ' 0 active' ../status && idle=$((idle + 1)) || idle=0
            [ $idle -lt 6 ] || exit {lost}
            sleep 5; dvc queue start
        done""",
}


FULL_DISK = "full disk"
"""Files may not grow beyond a random size: the system refuses to write, as it does when the disk is full."""
NOT_IN_QUEUE = ("Ctrl-C", FULL_DISK)
"""A worker runs in the background: it gets no Ctrl-C and does not inherit the limits of a command."""


A_ROUND, A_QUEUE_ROUND = 10, 3
"""Most kills in a round; it may then end, so that every way gets its share. A new queue worker first runs
the interrupted experiments, one by one."""
PATIENCE_SECONDS = 900


@dataclass
class Tally:
    kills: list[tuple[str, str, str, float]] = field(default_factory=list)
    """Way, kind, stage, seconds of the stage's work that the next run does again."""
    rounds: Counter[str] = field(default_factory=Counter)
    files: int = 0
    different: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Commands that ended with an error without an interruption."""
    left_over: list[str] = field(default_factory=list)
    """Processes that outlived a kill, and files that outlived a round."""
    lost: list[str] = field(default_factory=list)
    """Experiments that DVC's queue lists as running although no worker runs them: they were queued again."""
    refused: list[str] = field(default_factory=list)
    """For each command that DVC refused: the way, DVC's error, and the output of ``finegrain repair``."""
    on_no_branch: list[str] = field(default_factory=list)
    """Rounds after which git was on no branch, until ``finegrain repair``."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=14.0, help="seconds until a command is interrupted")
    parser.add_argument("--quick", action="store_true", help="an even smaller sample")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="write the report there too")
    args = parser.parse_args(argv)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        clone = Clone(Path(folder).resolve() / "clone")
        write_params(clone.folder, **(QUICK if args.quick else SMALL))
        tally = Tally()
        try:
            run(clone, args.kills, random.Random(args.seed), args.ways, args.longest, tally)
        except KeyboardInterrupt:
            print("Interrupted; so far:", flush=True)
            send(signal.SIGKILL, lambda process: True)(clone.folder, 0)
    text = report(tally, args.seed, time.monotonic() - started)
    print(text)
    if args.out:
        args.out.write_text(text)
    sys.exit(bool(tally.different or tally.failed or tally.left_over))


def run(
    clone: Clone, kills: int, rng: random.Random, ways: Sequence[str], longest: float, tally: Tally
) -> None:
    """Run rounds until there were enough kills; counts them in ``tally``."""
    clone.commit("shrink")
    clone("dvc repro")
    unbroken = contents(clone.folder)
    while len(tally.kills) < kills and not tally.failed:
        way = ways[sum(tally.rounds.values()) % len(ways)]
        fresh(clone)
        one_round(clone, way, rng, tally, kills, longest)
        if tally.failed:
            break
        tally.rounds[way] += 1
        compare(clone, unbroken, tally)


def fresh(clone: Clone) -> None:
    """As cloned: nothing made, nothing cached, no experiment."""
    send(signal.SIGKILL, lambda process: True)(clone.folder, 0)  # an idle queue worker
    clone("git checkout -q . && git clean -xfdq")
    for made in (".dvc/cache", ".dvc/tmp", ".checkpoints"):
        shutil.rmtree(clone.folder / made, ignore_errors=True)


def one_round(clone: Clone, way: str, rng: random.Random, tally: Tally, kills: int, longest: float) -> None:
    """Start the command, interrupt it, start it again, until it ends by itself."""
    before, interrupted_by = len(tally.kills), ""
    for attempt in range(1000):
        name = f"{way.replace(' ', '').replace('-', '')}-{sum(tally.rounds.values())}-{attempt}"
        kinds = [k for k in (*KILLS, FULL_DISK) if way != "queue" or k not in NOT_IN_QUEUE]
        most = A_QUEUE_ROUND if way == "queue" else A_ROUND
        kind = rng.choice(kinds) if len(tally.kills) < min(kills, before + most) else ""
        delay = rng.uniform(0.3, longest)
        largest_file = rng.randrange(100_000, 60_000_000) if kind == FULL_DISK else None
        command = WAYS[way].format(name=name, lost=LOST)
        code, output = start(clone, command, kind, delay, largest_file, tally, way)
        if code == 0 and succeeded(clone, way, name):
            if way in ("exp run --temp", "queue"):
                clone(f"dvc exp apply {name}")
            return
        if way == "queue" and code == LOST:
            tally.lost.append(f"{way} after {interrupted_by or 'nothing'}")
        elif kind == FULL_DISK and code is not None:
            tally.kills.append((way, kind, "any", 0.0))
        elif code is not None and interrupted_by:
            refusal = next((line for line in output.splitlines() if line.startswith("ERROR")), f"exit {code}")
            repaired = " ".join(clone("finegrain repair").split()) or "nothing to repair"
            tally.refused.append(f"{way} after {interrupted_by}: {refusal} [{repaired}]")
            kind = ""  # the next one must go on
        elif code is not None:
            tally.failed.append(f"{way}, attempt {attempt}, exit {code}:\n{output[-3000:]}")
            return
        wait_for_quiet(clone, way, tally, kind)
        interrupted_by = kind


def start(
    clone: Clone, command: str, kind: str, delay: float, largest_file: int | None, tally: Tally, way: str
) -> tuple[int | None, str]:
    """Run until the end or the kill; exit status (None: killed) and output."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job ignores it, and its children too
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            command, shell=True, cwd=clone.folder, env=clone.environment,
            stdout=log, stderr=log, start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip
        try:
            code: int | None = running.wait(delay if kind in KILLS else PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            if kind not in KILLS:
                os.killpg(running.pid, signal.SIGKILL)
                return -signal.SIGKILL, f"it took more than {PATIENCE_SECONDS} s without an interruption"
            tally.kills.append((way, kind, *hit(clone.folder)))
            KILLS[kind](clone.folder, running.pid)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)  # the shell that waits for the queue
                running.wait()
            code = None
        log.seek(0)
        return code, log.read().decode(errors="replace")


def hit(folder: Path) -> tuple[str, float]:
    """The stage that runs now, and the seconds of its work that no checkpoint holds."""
    for process in processes(folder):
        if stage := stage_of(process):
            kept = [state.stat().st_mtime for state in (folder / ".checkpoints").glob("*/checkpoint.pt")]
            since = max([process.create_time(), *(kept if stage == "train" else [])])
            return stage, time.time() - since
    return "between stages", 0.0


def succeeded(clone: Clone, way: str, name: str) -> bool:
    """Whether a queued experiment has a result: its command exits with 0 in any case."""
    return way != "queue" or name in clone("dvc exp list --all --name-only")


def wait_for_quiet(clone: Clone, way: str, tally: Tally, kind: str) -> None:
    """Wait until only a queue's worker and its task are left; record other processes after five seconds."""
    for _ in range(50):
        rest = [p for p in processes(clone.folder) if way != "queue" or (stage_of(p) and not at_work(p))]
        if not rest:
            return
        time.sleep(0.1)
    tally.left_over.extend(f"after {kind} of {way}: {command_line(process)}" for process in rest)
    send(signal.SIGKILL, lambda process: True)(clone.folder, 0)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that an unbroken run makes again to the bit."""
    files = (file for place in COMPARED for file in sorted((folder / place).rglob("*")) if file.is_file())
    named = ((str(file.relative_to(folder)), file) for file in files)
    return {name: file.read_bytes() for name, file in named if not name.endswith(COSTS)}


def compare(clone: Clone, unbroken: dict[str, bytes], tally: Tally) -> None:
    made = contents(clone.folder)
    tally.files += len(made)
    if "HEAD" == clone("git rev-parse --abbrev-ref HEAD").strip():
        tally.on_no_branch.append(" ".join(clone("finegrain repair").split()))
        if "HEAD" == clone("git rev-parse --abbrev-ref HEAD").strip():
            tally.different.append("git is on no branch")
    names = sorted(made.keys() | unbroken.keys())
    tally.different.extend(name for name in names if made.get(name) != unbroken.get(name))
    status = clone("dvc status")
    if "up to date" not in status:
        tally.different.append(f"dvc status: {status}")
    recorded = (clone.folder / "dvc.lock").read_text()
    for lock in (clone.folder / ".checkpoints").glob("*/lock"):
        result = lock.with_name("result.md5")  # of a finished run: the next training removes it
        if not result.is_file() or result.read_text() not in recorded:
            tally.left_over.append(f"after a round: .checkpoints/{lock.parent.name}")


def report(tally: Tally, seed: int, seconds: float) -> str:
    repeated = sorted(s for _, kind, _, s in tally.kills if kind != FULL_DISK)
    lines = [
        f"{len(tally.kills)} kills in {seconds / 60:.0f} minutes, seed {seed}; rounds that ended: "
        + ", ".join(f"{way} {count}" for way, count in sorted(tally.rounds.items())),
        "",
        "| | |",
        "|---|---:|",
        f"| kills survived | {len(tally.kills) - len(tally.failed)} |",
        f"| files compared with an unbroken run's | {tally.files} |",
        f"| files that differ | {len(tally.different)} |",
        f"| commands that failed unbroken | {len(tally.failed)} |",
        f"| processes and states left over | {len(tally.left_over)} |",
        f"| experiments that DVC's queue lost, queued again | {len(tally.lost)} |",
        f"| commands that DVC refused, until `finegrain repair` and the same again | {len(tally.refused)} |",
        f"| rounds that ended on no branch of git, until `finegrain repair` | {len(tally.on_no_branch)} |",
        f"| work done again, median | {statistics.median(repeated or [0]):.1f} s |",
        f"| work done again, longest | {max(repeated or [0]):.1f} s |",
        "",
        "| " + " | ".join(["kills", *WAYS]) + " |",
        "|---|" + "---:|" * len(WAYS),
    ]
    by_kind = Counter((kind, way) for way, kind, _, _ in tally.kills)
    for kind in [*KILLS, FULL_DISK]:
        lines.append("| " + " | ".join([kind, *(str(by_kind[kind, way]) for way in WAYS)]) + " |")
    stages = Counter(stage for _, kind, stage, _ in tally.kills if kind != FULL_DISK)
    lines += ["", "Hit: " + ", ".join(f"{stage} {count}" for stage, count in stages.most_common()) + ".", ""]
    lists = {
        "differs": tally.different, "failed": tally.failed, "left": tally.left_over,
        "refused": tally.refused, "no branch": tally.on_no_branch, "lost": tally.lost,
    }  # fmt: skip
    lines += [f"{title}: {text}" for title, found in lists.items() for text in found]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
