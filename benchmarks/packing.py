"""Speed of stage pack, and of decoding alone: python benchmarks/packing.py part-1.zip part-2.zip

Runs take turns, since other work on the machine changes its speed; the table shows the best of each. Decoding
alone reads the archive and decodes with the same threads, without resizing, statistics or writing.
``--torchvision`` adds torchvision's decoder, and a lower bound for packing with it. ``--enlarge 12`` makes
40 photos of a camera's size of them. A known photo is one that was checked and packed before.
"""

import contextlib
import io
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import command_line

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from finegrain.config import params  # noqa: E402
from finegrain.core import file_io, parallel  # noqa: E402
from finegrain.dataset import assignment, decoding, inspection, manifest, pack_writer  # noqa: E402
from finegrain.sources import archive  # noqa: E402

THREADS = os.cpu_count() or 1


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("parts", type=Path, nargs="+", help="part files of an archive of photos")
    parser.add_argument("--image-size", type=int, default=256, help="in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements")
    parser.add_argument("--torchvision", action="store_true", help="measure torchvision's decoder too")
    parser.add_argument("--enlarge", type=int, default=1, help="factor of width and height")
    args = parser.parse_args()
    parts = [part.resolve() for part in args.parts]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for part in parts:
            (Path(folder) / part.name).symlink_to(part)
        if args.enlarge > 1:
            enlarge(Path(folder), args.enlarge)
        with archive.ArchiveReader(Path(folder)) as reader:
            measure(reader, Path(folder), args.image_size, args.rounds, args.torchvision)


def enlarge(folder: Path, times: int, images: int = 40) -> None:
    """Put a zip of some photos, enlarged and with the noise of a camera, in the place of the archive."""
    rng = np.random.default_rng(0)
    with archive.ArchiveReader(folder) as reader, zipfile.ZipFile(folder / "large.zip.part", "w") as large:
        step = len(reader) // images
        for number, (_, data) in enumerate(reader.read(lambda image: image.index % step == 0)):
            photo = decoding.decode(data)
            pixels = np.asarray(photo.resize((times * photo.width, times * photo.height)), np.int16)
            noisy = pixels + rng.normal(0, 7, (*pixels.shape[:2], 1)).astype(np.int16)
            stream = io.BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88)
            large.writestr(f"{number % 2}/{number}.jpg", stream.getvalue())
    for part in folder.glob("*"):
        if part.is_symlink():
            part.unlink()
    (folder / "large.zip.part").rename(folder / "large.zip")


def measure(
    reader: archive.ArchiveReader, folder: Path, image_size: int, rounds: int, torchvision: bool
) -> None:
    table, config, first = folder / "manifest.csv", params.PackParams(image_size=image_size), folder / "first"
    first.mkdir()
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
        "decode and resize, Pillow": each(lambda data: decoding.decode_square(data, image_size)),
        "check": lambda: inspection.inspect_images(reader),
        "pack": lambda: pack_writer.write_pack(reader, table, folder, config),
    }
    inspection.inspect_images(reader, inspection.KnownPhotos())
    pack_writer.write_pack(reader, table, first, config, pack_writer.EarlierPack({}, config))
    packed = {file.name: file for file in first.iterdir()}
    lanes["check, all photos known"] = lambda: inspection.inspect_images(reader, inspection.KnownPhotos())
    lanes["pack, all photos known"] = lambda: pack_writer.write_pack(
        reader, table, folder, config, pack_writer.EarlierPack(packed, config)
    )
    if torchvision:
        decode, square = torchvision_lanes(image_size)
        lanes |= {"decode, torchvision": each(decode), "decode and resize, torchvision": each(square)}

    best = dict.fromkeys(lanes, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, run in lanes.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], wall), min(best[name][1], cpu)
    print(f"{len(reader):,} images, {THREADS} threads, {image_size} px\n")
    print("| | seconds | CPU seconds | CPU relative to decoding with Pillow |\n|---|---:|---:|---:|")
    for name, (wall, cpu) in best.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {cpu / best['decode, Pillow'][1]:.2f} |")


def torchvision_lanes(image_size: int) -> tuple[Callable[[bytes], object], Callable[[bytes], object]]:
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
        small = interpolate(image, size=(image_size, image_size), mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).contiguous().numpy().tobytes()

    return decode, square


if __name__ == "__main__":
    main()
