"""Small images and archives for the tests."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pattern(seed: int, width: int = 48, height: int = 32) -> Image.Image:
    """A smooth random color pattern; different seeds give different perceptual hashes, too."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as an encoded file of this kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(seed: int, width: int = 48, height: int = 32) -> bytes:
    """A pattern as a PNG file."""
    return encode(pattern(seed, width, height))


def classes(counts: Mapping[str, int], first_seed: int = 0) -> dict[str, bytes]:
    """``{"<class>/<number>.png": bytes}``, all of different images."""
    names = [(name, number) for name, count in counts.items() for number in range(count)]
    return {f"{name}/{number:03d}.png": png(first_seed + i) for i, (name, number) in enumerate(names)}


def zip_file(file: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files, by path, to a zip archive; the same files give the same bytes at any time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return file


def tar_file(file: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files, by path, to a tar archive, compressed if its name ends with gz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files, by path, to a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder
