"""Tables and figure of benchmarks/gpu_study.py: python benchmarks/gpu_study_table.py gpu_study.json

Prints the tables, and saves the figure next to the file as gpu_study.png.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import command_line  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter  # noqa: E402

from finegrain.comparison import leaderboard, significance  # noqa: E402
from finegrain.core import file_io  # noqa: E402
from finegrain.evaluation import plot_style, predictions  # noqa: E402

REFERENCE, EPOCHS, TIME, BEST = "reference", "equal-epochs", "equal-time", "best"
KINDS = {
    REFERENCE: "reference",
    EPOCHS: "ours, equal epochs",
    TIME: "ours, equal time",
    BEST: "ours, best",
}
"""Kind of a run, and its label in tables and figures."""
PUBLISHED_MINUTES = {"resnet18": 26, "resnet50": 45, "wide_resnet50_2": 72, "resnext50_32x4d": 87}
PUBLISHED_IMAGES = 8144
MARKS = (15, 30, 60, 120, 240, 480)
"""Seconds, the columns of the table of accuracy by time."""
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CAVEAT = (
    "Photos cropped to the car, a smaller split than the official one, random weights: nothing here is "
    "comparable with published accuracies."
)
Results = Mapping[str, Any]
Run = Mapping[str, Any]


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("file", type=Path, help="gpu_study.json, as gpu_study.py writes it")
    file = parser.parse_args().file
    results = file_io.read_json(file)
    print(markdown(results))
    draw(results, file.with_suffix(".png"))


def markdown(results: Results) -> str:
    there = results.get("environment", {"device_name": "no run yet", "torch": "?", "precision": "?"})
    images = ", ".join(f"{count:,} {split}" for split, count in results.get("images", {}).items())
    lines = [
        f"{there['device_name']}, {results['cores']} cores; torch {there['torch']}, {there['precision']}; "
        f"{images} images; revision {results['revision']}.",
        CAVEAT,
        *_section("The reference table", _reference(results)),
        *_section("Accuracy", _accuracy(results["runs"])),
        *_section("Ours against the reference, paired on the same test images", _compared(results["runs"])),
        *_section("Validation top-1 of the best epoch by wall time", _by_time(results["runs"])),
        *_section("Killed and resumed, `deterministic: true`", _resumed(results["resumes"])),
    ]
    for what in ("left_out", "failed"):
        items = results[what] or ["nothing"]
        lines += ["", f"{what.replace('_', ' ').capitalize()}: {'; '.join(items)}."]
    return "\n".join(lines) + "\n"


def _section(title: str, lines: Iterator[str]) -> list[str]:
    return ["", f"{title}:", "", *lines]


def table_seconds(runs: Sequence[Run]) -> float:
    """Total seconds of the reference runs, one seed each: whole processes, including CUDA graph capture."""
    return sum(run["wall_seconds"] for run in _first_seed(runs, REFERENCE))


def scaled_seconds(runs: Sequence[Run], images: int, train_images: int) -> float:
    """``table_seconds`` for another number of train images: epochs scale in proportion, the rest does not."""
    mine = _first_seed(runs, REFERENCE)
    return sum(r["wall_seconds"] + r["cost"]["seconds"] * (images / train_images - 1) for r in mine)


def _first_seed(runs: Sequence[Run], kind: str) -> list[Run]:
    first: dict[str, Run] = {}
    for run in runs:
        if run["kind"] == kind:
            first.setdefault(run["model"], run)
    return list(first.values())


def _reference(results: Results) -> Iterator[str]:
    yield (
        "| model | epochs | seconds | of which epochs | pieces | images/s "
        f"| minutes on a Titan Xp, {PUBLISHED_IMAGES:,} photos |"
    )
    yield f"|---|{'---:|' * 6}"
    runs = results["runs"]
    for run in _first_seed(runs, REFERENCE):
        cost = run["cost"]
        yield (
            f"| {run['model']} | {len(run['val_top1'])} | {run['wall_seconds']:.1f} | {cost['seconds']:.1f} "
            f"| {run['pieces']} | {cost['images_per_second']:,.0f} "
            f"| {PUBLISHED_MINUTES.get(run['model'], '')} |"
        )
    done = [run["model"] for run in _first_seed(runs, REFERENCE)]
    known = sum(PUBLISHED_MINUTES.get(model, 0) for model in done)
    yield f"| {len(done)} models | | {table_seconds(runs):.1f} | | | | {known} |"
    before = results.get("prepare_seconds", {})
    yield ""
    yield f"Before that, once: {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in before.items())}."
    if done and (train := results["images"]["train"]):
        minutes = scaled_seconds(runs, PUBLISHED_IMAGES, train) / 60
        yield (
            f"In proportion to {PUBLISHED_IMAGES:,} photos instead of {train:,}, computed: "
            f"{minutes:.1f} minutes."
        )


def _accuracy(runs: Sequence[Run]) -> Iterator[str]:
    yield "| model | protocol | seed | epochs | px | seconds | val top-1 | test top-1 [95 %] | top-5 |"
    yield "|---|---|---:|---:|---|---:|---:|---:|---:|"
    for run in in_order(runs):
        image_sizes = sorted({run["image_size"][0], run["image_size"][-1]})
        test = run.get("test")
        scored = (
            f"{_share(test['top1'], test['top1_low'], test['top1_high'])} | {test['top5']:.1%}"
            if test
            else " | "
        )
        yield (
            f"| {run['model']} | {KINDS[run['kind']]} | {run['seed']} | {len(run['val_top1'])} "
            f"| {' to '.join(map(str, image_sizes))} | {run['wall_seconds']:.0f} "
            f"| {max(run['val_top1']):.1%} | {scored} |"
        )


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Runs sorted by model, in order of appearance, then by kind and seed."""
    models, kinds = list(dict.fromkeys(run["model"] for run in runs)), list(KINDS)
    return sorted(runs, key=lambda r: (models.index(r["model"]), kinds.index(r["kind"]), r["seed"]))


def label(known: Mapping[str, Any]) -> str:
    """Label of a run: its kind, model and seed, as far as known."""
    seed = [f"seed {known['seed']}"] if "seed" in known else []
    return ", ".join([KINDS[known["kind"]], *([known["model"]] if "model" in known else []), *seed])


def _share(share: float, low: float, high: float) -> str:
    return f"{share:.1%} [{low:.1%}, {high:.1%}]"


def comparisons(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Difference of ours and the reference, for each kind and model; p is corrected for their number (Holm).

    Raises:
        UserError: two runs were evaluated on different test images.
    """
    scored = [run for run in in_order(runs) if "right" in run]
    if not scored:
        return []
    frames = {label(run): predictions.parse_correct(run["right"].encode()) for run in scored}
    leaderboard.require_same_images(frames)
    trained: dict[tuple[str, str], list[Run]] = {}
    for run in scored:
        trained.setdefault((run["kind"], run["model"]), []).append(run)
    right = {
        key: np.stack([(f["class"] == f["class_1"]).to_numpy() for f in map(frames.get, map(label, each))])
        for key, each in trained.items()
    }
    seconds = {key: float(np.mean([run["wall_seconds"] for run in each])) for key, each in trained.items()}
    kinds = [kind for kind in KINDS if kind != REFERENCE]
    models = [model for kind, model in trained if kind == REFERENCE]
    pairs = [(kind, model) for kind in kinds for model in models if (kind, model) in trained]
    found = significance.holm_corrected(
        [significance.compare(right[k, m], right[REFERENCE, m]) for k, m in pairs]
    )
    return [
        {
            "kind": kind,
            "model": model,
            "seconds": seconds[kind, model],
            "reference_seconds": seconds[REFERENCE, model],
            "seeds": len(trained[kind, model]),
            "comparison": comparison,
        }
        for (kind, model), comparison in zip(pairs, found, strict=True)
    ]


def _compared(runs: Sequence[Run]) -> Iterator[str]:
    yield (
        "| ours | model | seconds | reference's | seeds | test top-1, ours - reference [95 %] | p | verdict |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for pair in comparisons(runs):
        found: significance.Comparison = pair["comparison"]
        points = ", ".join(f"{value * 100:+.1f}" for value in (found.low, found.high))
        yield (
            f"| {KINDS[pair['kind']].removeprefix('ours, ')} | {pair['model']} | {pair['seconds']:.0f} "
            f"| {pair['reference_seconds']:.0f} | {pair['seeds']} "
            f"| {found.difference * 100:+.1f} [{points}] points | {found.p_value:.1e} | {found.verdict} |"
        )
    yield ""
    yield "With one seed each, p and interval account only for the test images."


def best_by(run: Run, seconds: float) -> float | None:
    """Best validation top-1 of the epochs ended by then; None before the first and after the last epoch."""
    ended = [top1 for at, top1 in zip(run["reached_seconds"], run["val_top1"], strict=True) if at <= seconds]
    return max(ended) if ended and len(ended) < len(run["val_top1"]) else None


def _by_time(runs: Sequence[Run]) -> Iterator[str]:
    yield f"| model | protocol | {' | '.join(f'{mark} s' for mark in MARKS)} | at the end |"
    yield f"|---|---|{'---:|' * (len(MARKS) + 1)}"
    for run in in_order(runs):
        marks = (best_by(run, mark) for mark in MARKS)
        cells = " | ".join("" if top1 is None else f"{top1:.1%}" for top1 in marks)
        end = f"{max(run['val_top1']):.1%} ({run['reached_seconds'][-1]:.0f} s)"
        yield f"| {run['model']} | {KINDS[run['kind']]} | {cells} | {end} |"


def _resumed(resumes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| model | recipe | it reported | bit-identical | s per epoch | not deterministic | cost |"
    yield "|---|---|---|---|---:|---:|---:|"
    for one in resumes:
        slow, usual = one["epoch_seconds"]["deterministic"], one["epoch_seconds"]["not"]
        same = f"no: {', '.join(one['differ'])}" if one["differ"] else "yes"
        same = same if one["resumed"] else "not known"
        yield (
            f"| {one['model']} | {'reference' if one['kind'] == REFERENCE else 'ours'} "
            f"| {'; '.join(one['resumed']) or 'never interrupted'} | {same} "
            f"| {slow:.2f} | {usual:.2f} | {slow / usual - 1:+.1%} |"
        )


def draw(results: Results, file: Path) -> None:
    if results["runs"]:
        plot_style.save_png(curves(results["runs"]), file)


@plot_style.styled
def curves(runs: Sequence[Run]) -> Figure:
    """Plot one panel per model: validation top-1 by wall time, and test top-1 with its interval at the end.

    Colors and markers are those of the other figures, which color-blind readers can tell apart.
    """
    models = list(dict.fromkeys(run["model"] for run in runs))
    columns = min(2, len(models))
    rows = -(-len(models) // columns)
    figure = Figure((5.6 * columns + 0.4, 3.9 * rows + 0.6), dpi=plot_style.DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, model in zip(panels, models, strict=False):
        for run in (run for run in in_order(runs) if run["model"] == model):
            _curve(axes, run)
        axes.set_title(model)
        axes.set_xscale("log")
        axes.set_xlabel("seconds from the start of the process")
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_ylabel("top-1")
        axes.legend(fontsize=9, loc="upper left")
    for axes in list(panels)[len(models) :]:
        axes.set_visible(False)
    figure.suptitle("Validation by epoch (lines); test with 95 % interval at the end (large)", fontsize=11)
    return figure


def _curve(axes: Any, run: Run) -> None:
    number = list(KINDS).index(run["kind"])
    look = {"color": plot_style.COLORS[number], "marker": plot_style.MARKERS[number]}
    every = max(1, len(run["val_top1"]) // 8)
    shown = f"{KINDS[run['kind']]}, {len(run['val_top1'])} epochs, seed {run['seed']}"
    axes.plot(run["reached_seconds"], run["val_top1"], **look, ms=4, lw=1.5, markevery=every, label=shown)
    if test := run.get("test"):
        reach = [[test["top1"] - test["top1_low"]], [test["top1_high"] - test["top1"]]]
        axes.errorbar([run["wall_seconds"]], [test["top1"]], reach, **look, ms=9, capsize=4, mec="white")


if __name__ == "__main__":
    main()
