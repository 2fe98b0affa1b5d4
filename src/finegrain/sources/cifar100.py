"""Convert CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html) to a zip of class folders."""

import hashlib
import io
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finegrain.core import disk, file_io, local_files, log
from finegrain.core.errors import UserError, some
from finegrain.sources import archive

MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
"""MD5 of the pickles, as in torchvision.datasets.CIFAR100. No others are opened: a pickle can run code."""

_ALLOWED_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # its module moved in numpy 2
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def convert(source: Path, folder: Path) -> Path:
    """Write ``cifar100.zip`` with train/<fine label>/00001.png and so on, and likewise test.

    Images are numbered as in the source. The same version of Pillow writes the same bytes.

    Args:
        source: cifar-100-python.tar.gz, the zip of Kaggle's fedesoriano/cifar100, or a folder with its files.

    Returns:
        The zip, which is written completely or not at all.

    Raises:
        UserError: the source is missing, lacks files, or its files differ from the original ones by MD5.
    """
    pickles = _read_pickles(source)
    for name, expected in MD5.items():
        found = hashlib.md5(pickles[name], usedforsecurity=False).hexdigest()
        if found != expected:
            raise UserError(
                f"{source}: {name} has MD5 {found}, expected {expected}: it is damaged or not CIFAR-100; "
                "download it again"
            )
    class_names = _unpickle(pickles.pop("meta"))["fine_label_names"]
    folder.mkdir(parents=True, exist_ok=True)
    disk.require_free_space(folder, sum(map(len, pickles.values())), "CIFAR-100 as PNGs")
    target = folder / "cifar100.zip"
    with (
        file_io.replace_file(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as output,
    ):
        for split in ("train", "test"):
            _write_split(output, split, class_names, _unpickle(pickles.pop(split)))
    return target


def _read_pickles(source: Path) -> dict[str, bytes]:
    """Read the three pickles, at the top or in cifar-100-python/, from a folder, zip or tar."""
    if not source.exists():
        raise local_files.not_found("dataset.path", source)
    names = {f"{top}{name}": name for top in ("", "cifar-100-python/") for name in MD5}
    try:
        if source.is_dir():
            found = {name: (source / p).read_bytes() for p, name in names.items() if (source / p).is_file()}
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as packed:
                found = {names[p]: packed.read(p) for p in packed.namelist() if p in names}
        else:
            with tarfile.open(source, "r|*") as tar:
                found = {}
                for member in tar:
                    name = names.get(member.name.removeprefix("./"))
                    stream = tar.extractfile(member) if name and member.isreg() else None
                    if name and stream:
                        found[name] = stream.read()
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{source}: not a readable archive ({error}); download it again") from None
    missing = sorted(MD5.keys() - found.keys())
    if missing:
        raise UserError(
            f"{source}: does not contain {some(missing)}; use the Python version, cifar-100-python.tar.gz"
        )
    return found


class _Unpickler(pickle.Unpickler):
    """Creates numpy arrays and plain Python values, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_GLOBALS:
            raise UserError(f"CIFAR-100: its pickle contains {module}.{name}, which is not allowed")
        return _ALLOWED_GLOBALS[module, name]


def _unpickle(content: bytes) -> dict[str, Any]:
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()  # written by Python 2


def _write_split(output: zipfile.ZipFile, split: str, class_names: list[str], batch: dict[str, Any]) -> None:
    """Add one PNG for each row of the batch, which has 1,024 reds, then greens, then blues."""
    images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    rows = zip(images, batch["fine_labels"], strict=True)
    for number, (image, label) in enumerate(log.progress_bar(rows, total=len(images), label=split), 1):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        name = f"{split}/{class_names[label]}/{number:05d}.png"
        output.writestr(archive.reproducible_zip_info(name), png.getvalue())
