"""The table of benchmarks/throughput.py: medians over the rounds, and ratios taken within each round."""

from collections.abc import Sequence
from typing import Any

import shared
from throughput_way import WAYS

Run = dict[str, Any]
"""One measurement: round, model, way, and its times or the error that ended it."""


def row(runs: Sequence[Run], model: str, way: str) -> dict[str, Any]:
    """A row of the table: each figure as its smallest, median and largest value over the rounds."""
    speeds = {
        (run["round"], run["way"]): run["images_per_second"]
        for run in runs
        if run["model"] == model and "error" not in run
    }
    mine = [run for run in runs if run["model"] == model and run["way"] == way]
    good = [run for run in mine if "error" not in run]
    ratios = [
        speeds[run["round"], "ours"] / run["images_per_second"]
        for run in good
        if (run["round"], "ours") in speeds
    ]
    return {
        "model": model,
        "way": way,
        "label": WAYS[way].label,
        "batch_size": WAYS[way].batch_size or next((run["batch_size"] for run in mine), None),
        "precision": good[0]["precision"] if good else None,
        "failed": len(mine) - len(good),
        "images_per_second": shared.spread([run["images_per_second"] for run in good]),
        "ours_times_faster": shared.spread(ratios),
        "startup_seconds": shared.spread([run["startup_seconds"] for run in good]),
    }


def markdown(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    packages = ", ".join(f"{name} {found}" for name, found in facts["packages"].items() if found)
    packing = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in facts["pack_seconds"].items())
    machine, photos = facts["machine"], "generated images" if facts["photos"] == "drawn" else "photos"
    lines = [
        f"{facts['images']} {photos} per epoch, {facts['image_size']} px, rounds: {facts['rounds']}; "
        f"{machine['cores']} x {machine['cpu']}; {packages}.",
        "Medians over the rounds, smallest and largest in brackets.",
        f"Ours packs the images once, before its first epoch: {packing}.",
        "",
        "| model | way | batch | precision | images/s | ours is faster | s to first step |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        if not row["installed"]:
            cells = ["not installed", "", ""]
        elif row["failed"] and not row["images_per_second"]:
            cells = ["failed", "", ""]
        else:
            cells = [
                shared.shown(row["images_per_second"], 1),
                shared.shown(row["ours_times_faster"], 2, "x"),
                shared.shown(row["startup_seconds"], 1),
            ]
        setting = [row["model"], row["label"], str(row["batch_size"] or ""), row["precision"] or ""]
        lines.append(f"| {' | '.join([*setting, *cells])} |")
    return "\n".join(lines) + "\n"
