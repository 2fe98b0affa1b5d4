"""Speed of `finegrain predict` on photos, relative to evaluate's pass over the same images from the pack.

    python benchmarks/predict.py --archive part-1.zip part-2.zip part-3.zip part-4.zip

Evaluate reads decoded images from the pack and runs the network. Predict finds, reads and decodes the photos,
resizes them in the same way, runs the network on the same batches and writes a CSV; the last row of each
model is its work without the network: reading and decoding alone. The model is loaded once, in advance.

Other work on the machine changes its speed, so the photos are processed in pieces of --piece photos, each
piece in every way before the next piece. A round is all pieces, and ratios are within a round. "At best" sums
the best time of each piece over the rounds, which is closest to an otherwise idle machine. Stops if a
prediction differs. Prints Markdown and writes it, with every measurement as JSON, to the folder --out after
every round.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pandas as pd
import shared
import throughput
from PIL import Image

from finegrain import cli
from finegrain.config import params
from finegrain.core import file_io, paths
from finegrain.loading import batches
from finegrain.models import build, inference, outputs, storage
from finegrain.runtime import devices, provenance
from finegrain.serving import predict
from finegrain.serving.inputs import find_photos
from finegrain.serving.predictor import Predictor

SPLIT = "train"
"""The split that holds the photos; evaluation and prediction do not depend on which one it is."""
WAYS = {
    "evaluate": "evaluate's pass over the pack",
    "files": "predict, JPEG files",
    "zip": "predict, a zip of them",
    "decode": "reading and decoding alone",
}
TOY = {"models": ["resnet18"], "image_size": 64, "images": 32, "piece": 20, "rounds": 2}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    args.out = args.out.resolve()
    with tempfile.TemporaryDirectory(prefix="predict-") as temporary:
        project = Path(temporary, "project")
        shared.write_photos(args.archive, Path(temporary, "photos"), args.images, args.image_size)
        enlarge(Path(temporary, "photos"), args.enlarge)
        throughput.pack(Path(temporary, "photos"), project, args)
        with contextlib.chdir(project):
            pieces = split_up(Path(temporary, "photos", SPLIT), args.piece)
            runs: list[dict[str, Any]] = []
            for name in args.models:
                ways = prepare(name, args.flip)
                for work in ways.values():
                    work(pieces[0])  # warm-up
                for round_ in range(args.rounds):
                    for number, piece in enumerate(pieces):
                        for way, work in ways.items():
                            key = {"model": name, "round": round_, "piece": number, "way": way}
                            runs.append(key | {"images": len(piece.files)} | timed(work, piece))
                        piece.reject_other_predictions()
                    text = write(args, pieces, runs)
    print(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument("--archive", type=Path, nargs="+", default=[], help="zips of class folders of JPEGs")
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet50"], help="networks, by torchvision's names"
    )
    parser.add_argument("--image-size", type=int, default=224, help="of the network, in pixels")
    parser.add_argument("--images", type=int, default=2000, help="photos to predict")
    parser.add_argument("--piece", type=int, default=128, help="photos per piece; a batch is 64")
    parser.add_argument(
        "--enlarge", type=int, default=1, help="factor by which width and height of the photos are enlarged"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurements")
    parser.add_argument("--out", type=Path, default=shared.ROOT / ".predict", help="folder for the results")
    parser.add_argument("--flip", action="store_true", help="average with the horizontal flip")
    parser.add_argument(
        "--toy", action="store_true", help="small defaults: generated images, within a minute"
    )
    parser.set_defaults(batch_size=32)  # for params.yaml; nothing is trained here
    if parser.parse_known_args(argv)[0].toy:
        parser.set_defaults(**TOY)
    args = parser.parse_args(argv)
    if not (args.archive or args.toy):
        parser.error("give --archive, or --toy for generated images")
    return args


def enlarge(folder: Path, times: int) -> None:
    """Enlarge every photo, to the size of a camera's."""
    for file in sorted(folder.rglob("*.jpg")) if times > 1 else []:
        with Image.open(file) as image:
            size = image.width * times, image.height * times
            large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        large.save(file, "JPEG", quality=90)


class Piece:
    """Some of the photos, as files, as a zip, and packed, in the same order."""

    def __init__(self, number: int, files: Sequence[Path], first: int) -> None:
        self.files, self.folder = files, Path(f"piece-{number}")
        self.folder.mkdir()
        whole = paths.Dataset(shared.DATASET).pack
        shutil.copy(whole / "pack.json", self.folder)
        for name in (f"{SPLIT}.npy", f"{SPLIT}_labels.npy"):
            np.save(self.folder / name, np.load(whole / name, mmap_mode="r")[first : first + len(files)])
        with zipfile.ZipFile(self.folder / "photos.zip", "w") as archive:
            for file in files:
                archive.write(file, file.name)
        self.predictions: dict[str, pd.DataFrame] = {}
        """Way -> class and probability of each photo, with the digits that predict writes."""

    def reject_other_predictions(self) -> None:
        for way, predictions in self.predictions.items():
            if not predictions.equals(self.predictions["evaluate"]):
                raise SystemExit(f"{way}: predictions differ from those of evaluate")


def split_up(folder: Path, size: int) -> list[Piece]:
    files = sorted(folder.glob("*/*.jpg"))  # the order of the manifest: by class, then by path
    there = len(np.load(paths.Dataset(shared.DATASET).pack / f"{SPLIT}_labels.npy"))
    if there != len(files):
        raise SystemExit(f"only {there} of {len(files)} photos are packed")
    starts = range(0, len(files), size)
    return [Piece(number, files[start : start + size], start) for number, start in enumerate(starts)]


def prepare(name: str, flip: bool) -> dict[str, Callable[[Piece], None]]:
    """The ways to run a model with random weights: its predictions do not affect the speed."""
    config, pack = params.load_params(), paths.Dataset(shared.DATASET).pack
    facts = file_io.read_json(pack / "pack.json")
    mean, std = batches.normalization_mean_std(pack, config.normalization, None)
    run, device = paths.Run(shared.DATASET, name, 0), devices.select_device(config.device)
    dtype = devices.autocast_dtype(config.precision, device)
    image_size = config.phases["all"].image_size_at(0)
    sidecar = {
        "model": name, "seed": 0, "classes": facts["classes"], "mean": mean, "std": std, "refit": False,
        "image_size": image_size, "pack_image_size": facts["image_size"], "pack_fit": facts["fit"],
        "temperature": 1.0, "unknown_below": 0.0,
        "recipe": {"head": config.head.model_dump(mode="json")},
    }  # fmt: skip
    net = build.build_model(name, len(facts["classes"]), "none", config.head, seed=0).to(device)
    storage.save_model(run.weights, run.sidecar, net.state_dict(), sidecar)
    predictor = Predictor(run.weights, run.sidecar, device, dtype, None, flip)
    predict.load_predictor = lambda args: predictor  # already loaded: loading is not timed

    def evaluate(piece: Piece) -> None:
        split = batches.PackedSplit(piece.folder, SPLIT, device, mean, std)
        logits, labels = inference.predict_split(net, split, image_size, dtype, flip)
        given = outputs.from_logits(logits.numpy(), labels.numpy())
        names, shares = (facts["classes"][i] for i in given.predicted), (f"{p:.6g}" for p in given.confidence)
        piece.predictions["evaluate"] = pd.DataFrame({"class_1": list(names), "p_1": list(shares)})

    def run_predict(way: str, piece: Piece, sources: Sequence[Path]) -> None:
        out = piece.folder / f"{way}.csv"
        words = ["--model", run.name, "--format", "csv", "--out", str(out)]
        if predict.run(cli.build_parser().parse_args(["predict", *map(str, sources), *words])):
            raise SystemExit("photos were skipped")
        piece.predictions[way] = pd.read_csv(out, dtype=str, usecols=["class_1", "p_1"])

    def decode(piece: Piece) -> None:
        sources = find_photos([str(file) for file in piece.files])
        for _ in predictor.batches((item for source in sources for item in source.read()), []):
            pass

    return {
        "evaluate": evaluate,
        "files": lambda piece: run_predict("files", piece, piece.files),
        "zip": lambda piece: run_predict("zip", piece, [piece.folder / "photos.zip"]),
        "decode": decode,
    }


def timed(work: Callable[[Piece], None], piece: Piece) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work(piece)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def write(args: argparse.Namespace, pieces: Sequence[Piece], runs: Sequence[dict[str, Any]]) -> str:
    """Write the results so far; returns the Markdown."""
    files = [file for piece in pieces for file in piece.files]
    with Image.open(files[0]) as image:
        width, height = image.size
    size = statistics.mean(file.stat().st_size for file in files) / 1e3
    lines = [
        f"{len(files):,} {'photos' if args.archive else 'generated images'} of {size:,.0f} kB on average, "
        f"the first one {width} x {height}; image size {args.image_size} px"
        f"{', with horizontal flip' * args.flip}; {args.rounds} rounds; "
        f"{os.cpu_count()} x {throughput.cpu()}.",
        "Medians over the rounds, smallest and largest in brackets; at best: sum of each piece's best time.",
        "",
        "| model | | images/s | relative to evaluate | images/s at best | relative to evaluate "
        "| CPU ms per image |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    frame = pd.DataFrame(runs)
    for name, of_model in frame.groupby("model", sort=False):
        by_round = of_model.groupby(["way", "round"])[["images", "seconds"]].sum()
        best = of_model.groupby(["way", "piece"])[["seconds", "cpu_seconds"]].min().groupby("way").sum()
        for way, label in WAYS.items():
            mine, base = by_round.loc[way], by_round.loc["evaluate"]
            speed, share = mine["images"] / mine["seconds"], base["seconds"] / mine["seconds"]
            cells = [
                shared.shown(shared.spread(speed.tolist()), 1),
                shared.shown(shared.spread(share.tolist()), 2),
                f"{len(files) / best['seconds'][way]:.1f}",
                f"{best['seconds']['evaluate'] / best['seconds'][way]:.2f}",
                f"{1000 * best['cpu_seconds'][way] / len(files):.2f}",
            ]
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    facts = {
        "revision": provenance.git_revision(),
        "images": args.images,
        "image_size": args.image_size,
        "enlarge": args.enlarge,
    }
    file_io.write_json(args.out / "predict.json", {**facts, "runs": list(runs)})
    file_io.write_text(args.out / "predict.md", text)
    return text


if __name__ == "__main__":
    main()
