"""The command ``finegrain``: what people do with trained models, outside the pipeline."""

import argparse
import gc
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finegrain.core import process

COMMANDS = {
    "predict": "serving.predict",
    "demo": "serving.demo",
    "export": "export.model_folder",
    "diff": "experiments.diff",
    "review": "experiments.pull_request",
    "repair": "experiments.repair",
    "sweep": "search.sweep",
}
"""The module of each command; its ``run`` takes the parsed arguments and returns the exit status."""

_MODEL = (
    "a .safetensors file, a folder that export made, a model, or a training such as resnet18-0; "
    "else the leaderboard's winner"
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="finegrain", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    _add_predict(commands)
    _add_diff(commands)
    _add_review(commands)
    _add_sweep(commands)
    _add_export(commands)
    _add_demo(commands)
    _add_repair(commands)
    return top


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="what a trained model says of photos")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="photos, folders, globs, archives")
    predict.add_argument("--model", help=_MODEL)
    predict.add_argument("--top", type=_positive, default=5, help="how many classes to tell")
    predict.add_argument("--format", choices=("table", "csv", "jsonl"), default="table")
    predict.add_argument("--out", type=Path, help="a file instead of standard output")
    predict.add_argument("--csv", type=Path, help="labels: measures accuracy on the photos that it names")
    predict.add_argument(
        "--image-col", default="image", help="column of --csv with the photos' paths or names"
    )
    predict.add_argument("--label-col", default="label", help="column of --csv with their classes")
    asked = predict.add_argument_group(
        "how the model is asked", "else as params.yaml says for `evaluate`; a .safetensors file plainly"
    )
    asked.add_argument("--image-size", type=_positive, help="another image size than the training's")
    asked.add_argument("--flip", action=argparse.BooleanOptionalAction, help="average with the mirror image")
    asked.add_argument("--device", choices=("auto", "cpu", "cuda"))
    asked.add_argument("--precision", choices=("auto", "fp32", "bf16"))


def _add_diff(commands: Any) -> None:
    diff = commands.add_parser(
        "diff", help="which models a change made better or worse, in which classes, on which images"
    )
    revision = "a branch, tag, commit or DVC experiment"
    diff.add_argument("before", metavar="REV", help=revision)
    diff.add_argument("after", metavar="REV", nargs="?", default="workspace", help="else the workspace")
    diff.add_argument("--images", type=_natural, default=20, help="list so many of each model that flipped")
    diff.add_argument("--out", type=Path, help="write the Markdown to this file too")
    diff.add_argument("--json", type=Path, help="write all facts, with every flipped image, to this file")
    diff.add_argument(
        "--fail-if-worse", action="store_true", help="exit status 1 if a model is really worse than before"
    )


def _add_review(commands: Any) -> None:
    review = commands.add_parser("review", help="what this branch changes, as a comment for its pull request")
    review.add_argument("base", metavar="BASE", help="the branch that it will be merged into, such as main")
    review.add_argument("--images", type=_natural, default=20, help="list so many of each model that flipped")
    review.add_argument("--out", type=Path, help="write the Markdown to this file too")
    review.add_argument("--log", type=Path, help="output of a run, whose end is quoted")
    review.add_argument(
        "--files-at", default="", metavar="URL", help="where this commit's files are, to show figures from"
    )
    review.add_argument(
        "--limit", type=_positive, default=65_000, help="characters; GitHub takes 65,536 in a comment"
    )
    review.add_argument(
        "--fail-if-worse", action="store_true", help="exit status 1 if a model is really worse than before"
    )


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser("sweep", help="try so many other parameters, each as a DVC experiment")
    sweep.add_argument("name", type=_name, metavar="NAME", help="experiments are NAME-000, NAME-001, ...")
    sweep.add_argument(
        "space", nargs="+", metavar="PARAMETER=VALUES",
        help="a range (lr=1e-4..1e-1:log, phases.all.epochs=4..12) or a choice (batch_size=8,16,32)",
    )  # fmt: skip
    sweep.add_argument("--trials", type=_positive, default=20, help="how many in all")
    sweep.add_argument("--hours", type=float, default=float("inf"), help="start none after so long")
    sweep.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    sweep.add_argument("--seed", type=_natural, default=0, help="of what is drawn")
    sweep.add_argument(
        "--set", action="append", default=[], metavar="PARAMETER=VALUE",
        help="for all trials, as `dvc exp run -S`: 'models=[resnet18]'",
    )  # fmt: skip


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text):
        raise argparse.ArgumentTypeError("must be letters, digits, - and _, beginning with a letter")
    return text


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="a trained model as a folder for the Hugging Face Hub")
    export.add_argument("--model", help=_MODEL)
    export.add_argument("--out", type=Path, help="the folder; else exported/ and the model's name")
    export.add_argument("--license", type=_license, default="unknown", help="the Hub's name of the licence")
    export.add_argument(
        "--check", nargs="+", default=[], metavar="PATH",
        help="photos to compare the ONNX graph and the network on, instead of the test images",
    )  # fmt: skip


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="a page on this machine that answers photos dropped on it")
    demo.add_argument("--model", help=_MODEL)
    demo.add_argument("--port", type=int, choices=range(1, 65536), metavar="PORT", default=7860)
    demo.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_repair(commands: Any) -> None:
    repair = commands.add_parser("repair", help="repair what a killed dvc has left broken")
    repair.add_argument("--dvc-only", action="store_true", help="leave git as it is")


def _license(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(
            "must be the Hub's name of it, such as apache-2.0, cc-by-4.0 or other"
        )
    return text


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _natural(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)

    def run() -> None:
        # torch and dvc take seconds to import: not for --help
        gc.disable()  # as in a stage
        command = importlib.import_module(f"finegrain.{COMMANDS[args.command]}")
        gc.enable()
        try:
            sys.exit(command.run(args))
        except BrokenPipeError:  # as of `| head`: enough was read
            os._exit(128 + signal.SIGPIPE)  # without flushing to what is not there

    process.run_main(run, then="run it again")


if __name__ == "__main__":
    main()
