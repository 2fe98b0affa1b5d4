"""The command ``finegrain``: work with trained models and experiments outside the pipeline."""

import argparse
import gc
import importlib
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
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
    "a .safetensors file, an exported folder, a run such as resnet18-0, or a model such as resnet18 "
    "(default: the leaderboard's winner)"
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finegrain", description="Work with trained models and experiments outside the pipeline."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_predict(commands)
    _add_diff(commands)
    _add_review(commands)
    _add_sweep(commands)
    _add_export(commands)
    _add_demo(commands)
    _add_repair(commands)
    return parser


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="classify photos with a trained model")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="photos, folders, globs or archives")
    predict.add_argument("--model", help=_MODEL)
    predict.add_argument(
        "--top", type=whole_number(1), default=5, help="how many classes to show for each photo"
    )
    predict.add_argument("--format", choices=("table", "csv", "jsonl"), default="table")
    predict.add_argument("--out", type=Path, help="write to this file instead of standard output")
    predict.add_argument(
        "--csv",
        type=Path,
        help="CSV with true classes: classify the photos it lists, and report the accuracy",
    )
    predict.add_argument(
        "--image-col", default="image", help="column of --csv with the paths or names of the photos"
    )
    predict.add_argument("--label-col", default="label", help="column of --csv with their classes")
    settings = predict.add_argument_group(
        "prediction settings",
        "Defaults: for models of this project, those of `evaluate` in params.yaml; for a .safetensors file "
        "or an exported folder, no flip and the image size of training.",
    )
    settings.add_argument("--image-size", type=whole_number(32, 1024), help="image size in pixels")
    settings.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="average with the horizontal flip"
    )
    settings.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"))
    settings.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"))


def _add_diff(commands: Any) -> None:
    diff = commands.add_parser(
        "diff", help="compare two revisions: which models, classes and images got better or worse"
    )
    revision = "a branch, tag, commit or DVC experiment"
    diff.add_argument("before", metavar="REV", help=revision)
    diff.add_argument(
        "after", metavar="REV", nargs="?", default="workspace", help=f"{revision} (default: the workspace)"
    )
    _add_comparison_options(diff)
    diff.add_argument("--json", type=Path, help="write everything, with every flipped image, to this file")


def _add_review(commands: Any) -> None:
    review = commands.add_parser("review", help="write what this branch changes as a pull request comment")
    review.add_argument("base", metavar="BASE", help="the branch that it will be merged into, such as main")
    _add_comparison_options(review)
    review.add_argument("--log", type=Path, help="output of a run, to quote its end")
    review.add_argument(
        "--files-at", default="", metavar="URL", help="address of this commit's files, to show figures from"
    )
    review.add_argument(
        "--limit",
        type=whole_number(1),
        default=65_000,
        help="longest comment in characters; GitHub allows 65,536",
    )


def _add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that diff and review share."""
    parser.add_argument(
        "--images", type=whole_number(0), default=20, help="how many flipped images to list for each model"
    )
    parser.add_argument("--out", type=Path, help="write the Markdown to this file too")
    parser.add_argument(
        "--fail-if-worse", action="store_true", help="exit with 1 if a model is significantly worse"
    )


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser("sweep", help="search for better parameters; each trial is a DVC experiment")
    sweep.add_argument("name", type=_name, metavar="NAME", help="experiments are NAME-000, NAME-001, ...")
    sweep.add_argument(
        "space", nargs="+", metavar="PARAMETER=VALUES",
        help="a range (lr=1e-4..1e-1:log, phases.all.epochs=4..12) or a choice (batch_size=8,16,32)",
    )  # fmt: skip
    sweep.add_argument("--trials", type=whole_number(1), default=20, help="number of trials in all")
    sweep.add_argument("--hours", type=_hours, default=math.inf, help="start no trial after this many hours")
    sweep.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    sweep.add_argument("--seed", type=whole_number(0), default=0, help="seed of the sampler")
    sweep.add_argument(
        "--set", action="append", default=[], metavar="PARAMETER=VALUE",
        help="a parameter for all trials, as for `dvc exp run -S`: 'models=[resnet18]'",
    )  # fmt: skip


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write a trained model to a folder for the Hugging Face Hub, with an ONNX graph"
    )
    export.add_argument("--model", help=_MODEL)
    export.add_argument("--out", type=Path, help="the folder (default: exported/ and the model's name)")
    export.add_argument(
        "--license", type=_license_id, default="unknown", help="the Hub's identifier of the license"
    )
    export.add_argument(
        "--check", nargs="+", default=[], metavar="PATH",
        help="photos on which to compare the ONNX graph with the network (default: the test images)",
    )  # fmt: skip


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="classify photos on a web page that only this machine can open")
    demo.add_argument("--model", help=_MODEL)
    demo.add_argument("--port", type=int, choices=range(1, 65536), metavar="PORT", default=7860)
    demo.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def _add_repair(commands: Any) -> None:
    repair = commands.add_parser("repair", help="repair what a killed dvc has left behind")
    repair.add_argument("--dvc-only", action="store_true", help="leave git as it is")


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", text):
        raise argparse.ArgumentTypeError("must be at most 64 letters, digits, - and _, a letter first")
    return text


def _license_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(
            "must be the Hub's identifier of a license, such as apache-2.0, cc-by-4.0 or other"
        )
    return text


def whole_number(least: int, most: int = 10**9) -> Callable[[str], int]:
    """An argument's type: a whole number with these limits."""

    def parse(text: str) -> int:
        if not (re.fullmatch("-?[0-9]{1,20}", text) and least <= (number := int(text)) <= most):
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return number

    return parse


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not hours > 0:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return hours


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)

    def run() -> None:
        # torch and dvc take seconds to import: --help does without
        gc.disable()  # as in a stage: imports leave no garbage to look for
        command = importlib.import_module(f"finegrain.{COMMANDS[args.command]}")
        gc.enable()
        try:
            sys.exit(command.run(args))
        except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
            os._exit(128 + signal.SIGPIPE)  # without flushing to the closed pipe

    process.run_main(run, then="run it again")


if __name__ == "__main__":
    main()
