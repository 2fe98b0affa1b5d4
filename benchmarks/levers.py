"""What each choice of a fine-tuning adds: pairs of rows of one_pass.py, compared on the same test photos.

    python benchmarks/levers.py .one-pass

Trains nothing: the models are those that one_pass.py has left in its --out. The interval of a gain is a
paired bootstrap's over the test photos and p is McNemar's; each row is one run, so the seed variance is in
neither. Prints a Markdown table; a pair of which a row has not been run is left out and named.
"""

import functools
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from finegrain.core import allocator  # noqa: E402  (before anything imports torch)

allocator.keep_freed_memory()

import command_line  # noqa: E402
import one_pass  # noqa: E402

from finegrain.comparison import significance  # noqa: E402

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
    "five epochs under covariances": (TUNED, "5 epochs at 128 px with covariances, then 224 px, flip"),
    "six epochs at 160 px under covariances": (FEW + SIX.format(""), FEW + SIX.format(COVARIANCES)),
    "twelve epochs at 192 px under covariances": (FEW + TWELVE.format(""), FEW + TWELVE.format(COVARIANCES)),
    "twelve epochs at 192, then 320 px in place of six at 160, then 288 px, covariances": (
        FEW + SIX.format(COVARIANCES),
        FEW + TWELVE.format(COVARIANCES),
    ),
}
"""Name of a lever -> the row without it, and the row with it."""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("out", type=Path, help="folder that one_pass.py has written")
    parser.add_argument("--model", default="resnet18", help="network, by torchvision's name")
    args = parser.parse_args()
    test_correct = functools.cache(one_pass.test_correct)
    lines = [
        "| lever | without | with | gain in points [95 %] | p | minutes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    left_out = []
    for lever, rows in LEVERS.items():
        folders = [one_pass.row_folder(row, args.out) for row in rows]
        if not all((folder / "result.json").is_file() for folder in folders):
            left_out.append(lever)
            continue
        before, after = (test_correct(folder, args.model) for folder in folders)
        found = significance.compare(after[None], before[None])
        seconds = [json.loads((folder / "result.json").read_text())["seconds"] for folder in folders]
        p = f"{found.p_value:.2g}" if found.p_value >= 0.0001 else "<0.0001"
        gain, low, high = (f"{100 * value:+.1f}" for value in (found.difference, found.low, found.high))
        lines.append(
            f"| {lever} | {before.mean():.1%} | {after.mean():.1%} | {gain} [{low}, {high}] "
            f"| {p} | {(seconds[1] - seconds[0]) / 60:+.1f} |"
        )
    print("\n".join(lines))
    if left_out:
        print(f"\nleft out, as a row has not been run: {'; '.join(left_out)}", file=sys.stderr)


if __name__ == "__main__":
    main()
