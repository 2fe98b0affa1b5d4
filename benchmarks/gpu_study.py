"""Accuracy of the recipes by wall time, on one GPU within minutes, from random weights.

    bash benchmarks/gpu.sh study OUT PHOTOS.zip ...     repeat until nothing is left out
    bash benchmarks/gpu.sh study OUT --toy              generated images, on a CPU

- reference: recipes/stanford-cars-sgd.yaml as it is, four networks: the whole table, and the time it takes;
- ours: recipes/stanford-cars.yaml for the same number of epochs at the same image size; for as many epochs as
  fit into the reference's time; and with progressive resizing for --best-minutes, with the network that is
  best on validation;
- a run with `deterministic: true`, and the same run killed and resumed: are the files bit-identical?

Everything runs through the project's stages. Finished work stays in --work: the next call continues, even in
the middle of a run, and the results so far are written to OUT as gpu_study.json, .md and .png at every step.
If --work is lost, a gpu_study.json put there restores what was finished. The JSON records which test images
each run predicts correctly: `python benchmarks/gpu_study_table.py gpu_study.json` makes table and figure from
it.
"""

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command_line
import gpu_study_table
import shared
from gpu_run import Run, prepare
from gpu_study_plan import RESUME, epoch_seconds, epochs_within, plan
from gpu_study_table import BEST, EPOCHS, KINDS, REFERENCE, TIME, label

from finegrain.core import file_io
from finegrain.runtime import provenance

MODELS = ["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d"]
RECIPES = {kind: "stanford-cars-sgd" if kind == REFERENCE else "stanford-cars" for kind in KINDS}
TOY = {
    "models": ["resnet18"], "image_size": 32, "best_image_sizes": [32, 64], "epochs": 2, "resume_epochs": 2,
    "images": 24, "best_minutes": 0.25, "checkpoint_seconds": 0.0, "least_seconds": 0.0,
    "reserve_seconds": 20.0,
}  # fmt: skip


class OutOfTime(Exception):
    """A run was interrupted at the deadline; the next call resumes it."""


class Study:
    """The results so far, and the folders of the runs."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.work
        self.deadline = time.monotonic() + 60 * args.minutes
        kept, facts = self.work / "gpu_study.json", _facts(args)
        self.results = file_io.read_json(kept) if kept.is_file() else {
            **facts, "revision": provenance.git_revision(), "runs": [], "resumes": [],
        }  # fmt: skip
        if facts != {name: self.results.get(name) for name in facts}:
            sys.exit(f"{self.work}: contains results for other photos or image sizes; use another --work")
        self.results["runs"] = [
            run for run in self.results["runs"] if "test" in run or self._run(run).finished
        ]
        self.results |= {"left_out": [], "failed": []}
        self.photos = args.archives or [self.work / "photos"]

    @property
    def training_deadline(self) -> float:
        return self.deadline - self.args.reserve_seconds

    def prepare(self) -> None:
        """Pack the photos, or generated images if no photos were given."""
        if not self.args.archives and not self.photos[0].is_dir():
            shared.write_photos([], self.photos[0], self.args.images, self.args.image_size)
        self.results["prepare_seconds"] = self._pack(shared.pack_image_size(self.args.image_size))
        counts = file_io.read_json(
            self._packed(shared.pack_image_size(self.args.image_size)) / f"data/{shared.CARS}/pack/pack.json"
        )
        self.results["images"] = counts["counts"]

    def _packed(self, image_size: int) -> Path:
        return self.work / f"prepared-{image_size}"

    def _pack(self, image_size: int) -> dict[str, float]:
        data = shared.recipe(RECIPES[REFERENCE], self.photos, self.args.models[0], 0)
        data["pack"]["image_size"] = image_size
        first = shared.pack_image_size(self.args.image_size)
        return prepare(self._packed(image_size), data, None if image_size == first else self._packed(first))

    def _run(self, known: dict[str, Any]) -> Run:
        name = f"{known['kind']}-{known['model']}-{known['seed']}"
        return Run(self.work / name, known["model"], known["seed"])

    def find(self, kind: str, model: str, seed: int) -> dict[str, Any] | None:
        """The record of a finished run, or None."""
        wanted = {"kind": kind, "model": model, "seed": seed}
        return next((run for run in self.results["runs"] if run.items() >= wanted.items()), None)

    def train(self, kind: str, model: str, seed: int) -> bool:
        if self.find(kind, model, seed):
            return True
        known = {"kind": kind, "model": model, "seed": seed}
        run = self._run(known)
        if not run.begun:
            planned = self.plan(kind, model, seed)
            if planned is None:
                return False
            epochs, image_sizes = planned
            self._set_up(run, kind, epochs, image_sizes)
        self._go_on(run)
        found = known | run.training_results()
        if self.results.setdefault("environment", found["environment"]) != found["environment"]:
            raise RuntimeError("this machine differs from the one of the results so far")
        self.results["runs"].append(found)
        return True

    def _set_up(self, run: Run, kind: str, epochs: int, image_sizes: list[int], **changes: Any) -> None:
        data = shared.recipe(RECIPES[kind], self.photos, run.files.model, run.files.seed) | changes
        shared.lengthen(data, epochs)
        pack = max(shared.pack_image_size(self.args.image_size), image_sizes[-1])
        self._pack(pack)
        data["pack"]["image_size"] = pack
        for phase in data["phases"].values():
            phase["image_size"] = image_sizes[0] if len(image_sizes) == 1 else image_sizes
        run.set_up(data, self._packed(pack))

    def _go_on(self, run: Run, interrupt: bool = False) -> None:
        if not run.finished:
            if time.monotonic() + self.args.least_seconds > self.training_deadline:
                raise OutOfTime
            run.go_on(self.training_deadline, interrupt)
        if not run.finished and not interrupt:
            raise OutOfTime

    def plan(self, kind: str, model: str, seed: int) -> tuple[int, list[int]] | None:
        """Number of epochs, and first and last image size; None if the runs that decide them are missing."""
        args, fixed = self.args, [self.args.image_size]
        if kind in (REFERENCE, EPOCHS):
            return args.epochs, fixed
        known, reference = self.find(EPOCHS, model, seed), self.find(REFERENCE, model, seed)
        if known is None or reference is None:
            return None
        if kind == TIME:
            return epochs_within(reference["wall_seconds"], known, fixed), fixed
        spent = sum(self.results["prepare_seconds"].values())
        growing = args.best_image_sizes
        return epochs_within(60 * args.best_minutes - spent, known, growing), growing

    def train_best(self, seed: int) -> bool:
        """Train the network that is best on validation after equal time; one already started is kept."""
        ended = [run for run in self.results["runs"] if run["kind"] == TIME and run["seed"] == seed]
        begun = [m for m in MODELS if self._run({"kind": BEST, "model": m, "seed": seed}).begun]
        begun += [run["model"] for run in self.results["runs"] if run["kind"] == BEST]
        ended.sort(key=lambda run: -max(run["val_top1"]))
        models = begun + [run["model"] for run in ended]
        return bool(models) and self.train(BEST, models[0], seed)

    def resume(self, kind: str, model: str) -> bool:
        done, usual = self.results["resumes"], self.find(kind, model, self.args.seeds[0])
        if usual and not any((one["kind"], one["model"]) == (kind, model) for one in done):
            done.append(self._resumed(kind, model, usual))
        return usual is not None

    def _resumed(self, kind: str, model: str, usual: dict[str, Any]) -> dict[str, Any]:
        """A deterministic run compared with the same one killed and resumed, and with the usual speed."""
        folder, seed = self.work / f"{RESUME}-{kind}-{model}", self.args.seeds[0]
        unbroken, broken = (Run(folder / name, model, seed) for name in ("unbroken", "broken"))
        often = {"checkpoint_seconds": self.args.checkpoint_seconds}
        for run, changes in ((unbroken, {}), (broken, often)):
            self._set_up(
                run, kind, self.args.resume_epochs, [self.args.image_size], deterministic=True, **changes
            )
        self._go_on(unbroken)
        if not broken.track["pieces"]:
            self._go_on(broken, interrupt=True)
        self._go_on(broken)
        ours, theirs = unbroken.file_hashes(), broken.file_hashes()
        return {
            "kind": kind,
            "model": model,
            "epochs": self.args.resume_epochs,
            "resumed": broken.track["resumed"],
            "files": ours,
            "differ": [name for name in ours if ours[name] != theirs[name]],
            "epoch_seconds": {
                "deterministic": epoch_seconds(unbroken.training_results()),
                "not": epoch_seconds(usual),
            },
        }

    def evaluate(self) -> None:
        """Evaluate all runs that are trained but not yet evaluated, in parallel: most of it is CPU time."""
        waiting = [run for run in self.results["runs"] if "test" not in run]
        started = [(known, self._run(known), self._run(known).evaluation()) for known in waiting]
        for known, run, process in started:
            try:
                if process.wait(max(0.0, self.deadline - time.monotonic())):
                    self.results["failed"].append(f"evaluation of {label(known)}: {run.failure()}")
                else:
                    known |= run.scored()
            except subprocess.TimeoutExpired:
                self.results["left_out"].append(f"evaluation of {label(known)}")
            finally:
                process.kill()
                process.wait()

    def publish(self) -> str:
        text = gpu_study_table.markdown(self.results)
        for folder in (self.work, self.args.out):
            file_io.write_json(folder / "gpu_study.json", self.results)
        file_io.write_text(self.args.out / "gpu_study.md", text)
        return text


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    study = Study(args)
    study.prepare()
    study.publish()
    for name, work in plan(study, args):
        started = time.monotonic()
        try:
            if not work():
                study.results["left_out"].append(f"{name} (the runs that it depends on are missing)")
        except OutOfTime:
            study.results["left_out"].append(name)
        except Exception as error:  # the other measurements still count
            traceback.print_exc()
            study.results["failed"].append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
        if (took := time.monotonic() - started) > 0.1:
            left = study.deadline - started - took
            print(f"{name}: {took:.1f} s, {left:.0f} s left", file=sys.stderr, flush=True)
            study.publish()
    study.evaluate()
    print(study.publish())
    gpu_study_table.draw(study.results, args.out / "gpu_study.png")
    if study.results["failed"]:
        sys.exit("some work failed: see above")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.gpu_parser(__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/results"), help="folder that is kept between calls"
    )
    parser.add_argument("--minutes", type=float, default=8.5, help="time limit of this call")
    parser.add_argument(
        "--kinds", nargs="+", choices=[*KINDS, RESUME], default=[*KINDS, RESUME], help="kinds of work to do"
    )
    parser.add_argument("--models", nargs="+", default=MODELS, help="networks, by torchvision's names")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of training")
    parser.add_argument("--image-size", type=int, default=224, help="in pixels")
    parser.add_argument(
        "--epochs", type=int, default=25, help="epochs of the reference, and of ours at equal epochs"
    )
    parser.add_argument("--best-minutes", type=float, default=8.0, help="from photos to trained network")
    parser.add_argument(
        "--best-image-sizes",
        type=int,
        nargs="+",
        default=[224, 320],
        help="first and last image size of that run",
    )
    both = [EPOCHS, REFERENCE]
    parser.add_argument("--resume-kinds", nargs="+", choices=both, default=both, help="kinds of run to kill")
    parser.add_argument("--resume-epochs", type=int, default=4, help="epochs of the run to kill")
    parser.add_argument("--checkpoint-seconds", type=float, default=0.5, help="in the run to kill")
    parser.add_argument("--least-seconds", type=float, default=25.0, help="no run starts with less time left")
    parser.add_argument("--reserve-seconds", type=float, default=60.0, help="time kept for evaluation")
    parser.add_argument("--images", type=int, default=4096, help="train images, if they are generated")
    return command_line.parse_with_toy(parser, argv, TOY, "small defaults, for a CPU: within two minutes")


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    """Settings that all runs of a study share."""
    return {
        "cores": os.cpu_count(),
        "photos": [file.name for file in args.archives] or "drawn",
        **{name: getattr(args, name) for name in ("image_size", "epochs")},
    }


if __name__ == "__main__":
    main()
