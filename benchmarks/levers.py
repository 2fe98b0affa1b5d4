"""What each choice of a fine-tuning adds: pairs of rows of one_pass.py, compared on the same test photos.

    python benchmarks/levers.py .one-pass

Trains nothing: the predictions are those that one_pass.py has left in its --out, for the seeds that it was
run with. With one seed the interval of a gain is a paired bootstrap's over the test photos, p is McNemar's,
and the seed variance is in neither; with several it is in both. Prints a Markdown table; a pair of which a
row has not been run is left out and named.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import command_line
import numpy as np
import numpy.typing as npt
import one_pass
from one_pass_rows import FIVE

from finegrain.comparison import significance

SOLVED, TUNED = "layer2 + layer3, 224 px, flip", "5 epochs at 128 px, then 224 px, flip"
FEW = "few for validation: "
SIX, TWELVE = "6 epochs at 160 px{}, then 288 px, flip", "12 epochs at 192 px{}, then 320 px, flip"
COVARIANCES = " with covariances"
LEVERS = {
    "layer2 beside layer3, 128 px": ("layer3, 128 px", "layer2 + layer3, 128 px"),
    "layer4 in place of layer3, 128 px": ("layer3, 128 px", "layer4, 128 px"),
    "128 px in place of 96": ("layer2 + layer3, 96 px", "layer2 + layer3, 128 px"),
    "160 px in place of 128": ("layer2 + layer3, 128 px", "layer2 + layer3, 160 px"),
    "224 px and flip in place of 128 px": ("layer2 + layer3, 128 px", SOLVED),
    "320 px in place of 224, flip": (SOLVED, "layer2 + layer3, 320 px, flip"),
    "covariances and flip in place of averages, 224 px": ("linear probe (average of layer4), 224 px", SOLVED),
    "32 rows of each root in place of all, 224 px": (SOLVED, "32 channels, 224 px, flip"),
    "8 rows in place of all, 224 px": (SOLVED, "8 channels, 224 px, flip"),
    "five epochs at 128 px before the exact head": (SOLVED, TUNED),
    "an exact head after five epochs": ("fine-tuned, 5 epochs at 128 px", TUNED),
    "layer4 in that exact head too": (
        TUNED,
        "layer2 + layer3 + layer4, 5 epochs at 128 px, then 224 px, flip",
    ),
    "five epochs under covariances": (TUNED, FIVE),
    "then 320 px in place of 224": (FIVE, "5 epochs at 128 px with covariances, then 320 px, flip"),
    "only the late layers in these epochs": (FIVE, f"{FIVE}; late layers"),
    "norm statistics frozen in them": (FIVE, f"{FIVE}; frozen norm statistics"),
    "a cosine in place of one cycle": (FIVE, f"{FIVE}; cosine"),
    "images that grow from 96 to 160 px in place of 128": (FIVE, f"{FIVE}; 96 to 160 px"),
    "a moving average of the weights": (FIVE, f"{FIVE}; moving average"),
    "six epochs at 160 px under covariances": (FEW + SIX.format(""), FEW + SIX.format(COVARIANCES)),
    "twelve epochs at 192 px under covariances": (FEW + TWELVE.format(""), FEW + TWELVE.format(COVARIANCES)),
    "twelve epochs at 192, then 320 px in place of six at 160, then 288 px, covariances": (
        FEW + SIX.format(COVARIANCES),
        FEW + TWELVE.format(COVARIANCES),
    ),
    "30 epochs to 224 px with strong augmentation in place of twelve at 192 px": (
        FEW + TWELVE.format(COVARIANCES),
        f"{FEW}strong augmentation, 30 epochs to 224 px with covariances, then 320 px, flip",
    ),
}
"""Name of a lever -> the row without it, and the row with it."""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("out", type=Path, help="folder that one_pass.py has written")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training, where they were run")
    args = parser.parse_args()
    lines = [
        "| lever | seeds | without | with | gain in points [95 %] | p | minutes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    left_out = []
    for lever, rows in LEVERS.items():
        (before, seconds_before), (after, seconds_after) = (runs(row, args.out, args.seeds) for row in rows)
        if not len(before) or not len(after):
            left_out.append(lever)
            continue
        found = significance.compare(after, before)
        p = f"{found.p_value:.2g}" if found.p_value >= 0.0001 else "<0.0001"
        gain, low, high = (f"{100 * value:+.1f}" for value in (found.difference, found.low, found.high))
        lines.append(
            f"| {lever} | {len(before)}, {len(after)} | {before.mean():.1%} | {after.mean():.1%} "
            f"| {gain} [{low}, {high}] | {p} | {(seconds_after - seconds_before) / 60:+.1f} |"
        )
    print("\n".join(lines))
    if left_out:
        print(f"\nleft out, as a row has not been run: {'; '.join(left_out)}", file=sys.stderr)


def runs(row: str, out: Path, seeds: Sequence[int]) -> tuple[npt.NDArray[np.bool_], float]:
    """Whether each test photo is predicted correctly, ``[seeds, N]``, and the mean seconds of stage train."""
    folders = [one_pass.row_folder(row, out, seed) for seed in seeds]
    folders = [folder for folder in folders if (folder / one_pass.CORRECT).is_file()]
    if not folders:
        return np.empty((0, 0), np.bool_), 0.0
    correct = [np.load(folder / one_pass.CORRECT) for folder in folders]
    seconds = [json.loads((folder / "result.json").read_text())["seconds"] for folder in folders]
    return np.stack(correct), statistics.mean(seconds)


if __name__ == "__main__":
    main()
