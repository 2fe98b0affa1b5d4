"""Speed of stage pack, and of decoding alone: python benchmarks/packing.py part-1.zip part-2.zip

Runs take turns, since other work on the machine changes its speed; the table shows the best of each. Decoding
alone reads the archive and decodes with the same threads, without resizing, statistics or writing.
``--torchvision`` adds torchvision's decoder, and a lower bound for packing with it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
from finegrain.config import params  # noqa: E402
from finegrain.core import file_io, parallel  # noqa: E402
from finegrain.dataset import assignment, decoding, inspection, manifest, pack_writer  # noqa: E402
from finegrain.sources import archive  # noqa: E402

THREADS = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", type=Path, nargs="+", help="part files of an archive of photos")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torchvision", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            (Path(folder) / part.name).symlink_to(part.resolve())
        with archive.ArchiveReader(Path(folder)) as reader:
            measure(reader, Path(folder), args.side, args.rounds, args.torchvision)


def measure(reader: archive.ArchiveReader, folder: Path, side: int, rounds: int, torchvision: bool) -> None:
    table = folder / "manifest.csv"
    result = assignment.assign_splits(
        inspection.inspect_images(reader), params.SplitParams(val_ratio=0.15, test_ratio=0.15), seed=0
    )
    file_io.write_csv(table, manifest.COLUMNS, result.rows())

    def each(function: Callable[[bytes], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in parallel.map_in_order(
                lambda item: function(item[1]), reader.read(), THREADS, 4 * THREADS
            ):
                pass

        return run

    lanes: dict[str, Callable[[], None]] = {
        "decode, Pillow": each(decoding.decode),
        "decode and resize, Pillow": each(lambda data: decoding.decode_square(data, side)),
        "pack": lambda: pack_writer.write_pack(reader, table, folder, params.PackParams(image_size=side)),
    }
    if torchvision:
        decode, square = torchvision_lanes(side)
        lanes |= {"decode, torchvision": each(decode), "decode and resize, torchvision": each(square)}

    best = dict.fromkeys(lanes, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, run in lanes.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], wall), min(best[name][1], cpu)
    print(f"{len(reader):,} images, {THREADS} threads, {side} px\n")
    print("| | seconds | CPU seconds | CPU relative to decoding with Pillow |\n|---|---:|---:|---:|")
    for name, (wall, cpu) in best.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {cpu / best['decode, Pillow'][1]:.2f} |")


def torchvision_lanes(side: int) -> tuple[Callable[[bytes], object], Callable[[bytes], object]]:
    import torch
    from torch.nn.functional import interpolate
    from torchvision.io import ImageReadMode, decode_image

    torch.set_num_threads(1)

    def decode(data: bytes) -> torch.Tensor:
        return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)

    def square(data: bytes) -> bytes:
        pixels = decode(data).permute(1, 2, 0)  # the layout in memory, which the fast kernel needs
        height, width, channels = pixels.shape
        image = pixels.as_strided(
            (1, channels, height, width), (pixels.numel(), 1, width * channels, channels)
        )
        small = interpolate(image, size=(side, side), mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).contiguous().numpy().tobytes()

    return decode, square


if __name__ == "__main__":
    main()
