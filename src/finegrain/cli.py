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
_DEVICES = ("auto", "cpu", "cuda", "mps")
_DEVICE = "where to compute; auto is a CUDA GPU if there is one, else the CPU"
_DEFAULT = " (default: %(default)s)"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finegrain", description="Use trained models; compare, search and repair experiments."
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
        "--top",
        type=whole_number(1),
        default=5,
        metavar="N",
        help="classes to show for each photo" + _DEFAULT,
    )
    predict.add_argument(
        "--format", choices=("table", "csv", "jsonl"), default="table", help="format of the output" + _DEFAULT
    )
    predict.add_argument("--out", type=Path, metavar="FILE", help="write here instead of to standard output")
    predict.add_argument(
        "--csv", type=Path, metavar="FILE",
        help="table of true classes: classify only the photos it lists, and report the accuracy",
    )  # fmt: skip
    predict.add_argument(
        "--image-col", default="image", metavar="NAME",
        help="column of --csv with the paths or names of the photos" + _DEFAULT,
    )  # fmt: skip
    predict.add_argument(
        "--label-col",
        default="label",
        metavar="NAME",
        help="column of --csv with the true classes" + _DEFAULT,
    )
    settings = predict.add_argument_group(
        "prediction settings",
        "Defaults: for a model of this project, those of params.yaml; for a .safetensors file or an exported "
        "folder, the image size of training, no flip, and auto.",
    )
    settings.add_argument(
        "--image-size", type=whole_number(32, 1024), metavar="PIXELS", help="height and width, 32 to 1024"
    )
    settings.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="average with the horizontal flip"
    )
    settings.add_argument("--device", choices=_DEVICES, help=_DEVICE)
    settings.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), help="number format of the arithmetic"
    )


def _add_diff(commands: Any) -> None:
    diff = commands.add_parser(
        "diff", help="compare two revisions: which models, classes and images got better or worse"
    )
    revision = "a branch, tag, commit or DVC experiment"
    diff.add_argument("before", metavar="BEFORE", help=revision)
    diff.add_argument(
        "after", metavar="AFTER", nargs="?", default="workspace", help=f"{revision} (default: the workspace)"
    )
    _add_comparison_options(diff)
    diff.add_argument("--json", type=Path, metavar="FILE", help="write all results here, with every image")


def _add_review(commands: Any) -> None:
    review = commands.add_parser(
        "review", help="write what this branch changes, as the comment of a pull request"
    )
    review.add_argument("base", metavar="BASE", help="the branch to merge into, such as main")
    _add_comparison_options(review)
    review.add_argument("--log", type=Path, metavar="FILE", help="log of a run, whose end is quoted")
    review.add_argument(
        "--files-at", default="", metavar="URL",
        help="address of this commit's files, from which the comment shows figures (default: no figures)",
    )  # fmt: skip
    review.add_argument(
        "--limit", type=whole_number(1), default=65_000, metavar="N",
        help="most characters of the comment, of which GitHub allows 65,536" + _DEFAULT,
    )  # fmt: skip


def _add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that diff and review share."""
    parser.add_argument(
        "--images", type=whole_number(0), default=20, metavar="N",
        help="images to list for each model that only one of the two predicts correctly" + _DEFAULT,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the Markdown here too")
    parser.add_argument(
        "--fail-if-worse", action="store_true", help="exit with status 1 if a model is significantly worse"
    )


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser("sweep", help="search for better parameters; each trial is a DVC experiment")
    sweep.add_argument("name", type=_name, metavar="NAME", help="experiments are NAME-000, NAME-001, ...")
    sweep.add_argument(
        "space", nargs="+", metavar="PARAMETER=VALUES",
        help="a range (lr=1e-4..1e-1:log, phases.all.epochs=4..12) or a choice (batch_size=8,16,32)",
    )  # fmt: skip
    sweep.add_argument(
        "--trials", type=whole_number(1), default=20, metavar="N",
        help="trials in all, with those of an earlier call" + _DEFAULT,
    )  # fmt: skip
    sweep.add_argument(
        "--hours", type=_hours, default=math.inf, metavar="H",
        help="start no trial after this many hours (default: no limit)",
    )  # fmt: skip
    sweep.add_argument(
        "--sampler", choices=("tpe", "random"), default="tpe",
        help="Optuna's tree-structured Parzen estimator, or random values" + _DEFAULT,
    )  # fmt: skip
    sweep.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="seed of the sampler" + _DEFAULT
    )
    sweep.add_argument(
        "--set", action="append", default=[], metavar="PARAMETER=VALUE",
        help="a parameter for all trials, as for `dvc exp run -S`: 'models=[resnet18]'; may be repeated",
    )  # fmt: skip


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="write a trained model to a folder for the Hugging Face Hub, with an ONNX graph"
    )
    export.add_argument("--model", help=_MODEL)
    export.add_argument("--out", type=Path, metavar="FOLDER", help="the folder (default: exported/<model>)")
    export.add_argument(
        "--license", type=_license_id, default="unknown", metavar="ID",
        help="the Hub's identifier of the license, such as apache-2.0" + _DEFAULT,
    )  # fmt: skip
    export.add_argument(
        "--check", nargs="+", default=[], metavar="PATH",
        help="photos on which to compare the ONNX graph with the network (default: test images)",
    )  # fmt: skip


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="classify photos on a web page that only this machine can open")
    demo.add_argument("--model", help=_MODEL)
    demo.add_argument(
        "--port",
        type=whole_number(1, 65535),
        metavar="PORT",
        default=7860,
        help="port on 127.0.0.1, 1 to 65535" + _DEFAULT,
    )
    demo.add_argument("--device", choices=_DEVICES, default="auto", help=_DEVICE + _DEFAULT)


def _add_repair(commands: Any) -> None:
    repair = commands.add_parser("repair", help="repair what a killed dvc or git has left behind")
    repair.add_argument("--dvc-only", action="store_true", help="repair nothing of git")


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]}: must be at most 64 letters, digits, - and _, a letter first"
        )
    return text


def _license_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]}: must be the Hub's identifier of a license, such as apache-2.0, cc-by-4.0 or other"
        )
    return text


def whole_number(least: int, most: int = 10**9) -> Callable[[str], int]:
    """An argument's type: a whole number with these limits."""

    def parse(text: str) -> int:
        if not (re.fullmatch("-?[0-9]{1,20}", text) and least <= (number := int(text)) <= most):
            raise argparse.ArgumentTypeError(f"{text[:80]}: must be a whole number from {least} to {most}")
        return number

    return parse


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not hours > 0:
        raise argparse.ArgumentTypeError(f"{text[:80]}: must be a number above 0")
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
