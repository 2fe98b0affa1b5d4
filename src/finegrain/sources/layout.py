"""What a path inside an archive means: whether it is an image, its class and its official split."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from finegrain.core.errors import UserError

SplitName = Literal["train", "val", "test"]

IMAGE_SUFFIXES = tuple(".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split())
MAX_IMAGE_BYTES = 200_000_000
"""A larger member is rejected: it may be a decompression bomb."""

_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_EXPECTED_LAYOUT = "expected <class>/<image> or <train, val or test>/<class>/<image>"


class BadMember(UserError):
    """One member of an archive cannot be used; the others may be good."""

    def __init__(self, file: Path, path: str, reason: str, fix: str) -> None:
        super().__init__(f"{file}: {path} {reason}; {fix}")
        self.reason = reason


class Member(NamedTuple):
    """An image as an archive lists it."""

    path: str
    order: int
    """Images are read in ascending order of this number: a byte offset in a zip, a count in a tar."""
    entry: int
    """Byte offset of the image's entry in a zip's central directory; 0 in a tar."""


@dataclass(frozen=True, slots=True)
class ArchiveImage:
    index: int
    """Its position among all images, in reading order."""
    path: str
    """Inside the archive, with forward slashes."""
    part: str
    """Name of the archive file that holds it."""
    split: SplitName | None
    """The official split; None if the archive defines none."""
    class_name: str


def image_path(name: str) -> str | None:
    """The path without empty and ``.`` parts; None for a file that is not an image or is hidden or junk."""
    parts = _path_parts(name)
    if _is_junk(parts):
        return None
    return "/".join(parts) if name.lower().endswith(IMAGE_SUFFIXES) else None


def ignored_suffix(name: str) -> str | None:
    """The suffix of a file that is not an image, such as ``.heic``; None for images, folders and junk."""
    parts = _path_parts(name)
    if not parts or name.endswith("/") or _is_junk(parts) or parts[-1].lower().endswith(IMAGE_SUFFIXES):
        return None
    return os.path.splitext(parts[-1])[1].lower() or "no suffix"


def _path_parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _is_junk(parts: list[str]) -> bool:
    """Whether it is hidden, left behind by an operating system, or leads out of the archive (``..``)."""
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in parts)


def decode_name(raw: bytes) -> str:
    """Decode a name of unknown encoding: as UTF-8 if it is valid, otherwise as DOS's code page 437."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def raise_error(error: OSError) -> None:
    """Pass as ``onerror`` to ``os.walk``, which otherwise skips folders that it cannot read."""
    raise error


def reject_large(file: Path, path: str, size: int) -> None:
    """Raise BadMember for an image of more than ``MAX_IMAGE_BYTES`` bytes."""
    if size > MAX_IMAGE_BYTES:
        limit = f"images may have {MAX_IMAGE_BYTES / 1e6:,.0f} MB at most"
        raise BadMember(file, path, f"has {size / 1e6:,.0f} MB", limit)


@dataclass(frozen=True)
class Layout:
    """Which folder of an archive's paths is the class, and which one the official split."""

    class_depth: int
    """Number of folders above the class folder."""
    has_splits: bool
    """Whether the folder above the class is train, val or test."""
    classes: list[str]
    """Sorted."""

    def parse(self, path: str) -> tuple[SplitName | None, str]:
        """Official split and class of an image."""
        parts = path.split("/", self.class_depth + 1)
        split = _SPLIT_FOLDERS[parts[self.class_depth - 1].lower()] if self.has_splits else None
        return split, _class_name(parts[self.class_depth])


def detect_layout(paths: Callable[[], Iterable[str]]) -> Layout:
    """Find out from the folders of all images where class and official split are.

    Folders that all images share are skipped. If the next folder of every image is called train, val or
    test, it is the official split and the one below it the class; otherwise it is the class itself.

    Args:
        paths: returns a new iterator over the paths of all images at each call.

    Raises:
        UserError: no images, images outside a class folder, fewer than two classes, classes that differ in
            case only, classes without a training image, or a mix of split folders and other folders.
    """
    shared = _shared_folders(paths)
    top = len(shared)
    top_folders = {folders[top] for folders in map(_parent_folders, paths()) if len(folders) > top}
    if not top_folders:
        raise UserError(f"all images are in one folder ({'/'.join(shared) or 'the top'}); {_EXPECTED_LAYOUT}")
    has_splits = _are_split_folders(top_folders)
    class_depth = top + has_splits
    stray = [path for path in paths() if len(_parent_folders(path)) <= class_depth]
    if stray:
        raise UserError(
            f"images outside a class folder: {len(stray)}, for example {stray[0]}; {_EXPECTED_LAYOUT}"
        )
    splits_by_class: dict[str, set[str]] = {}
    for folders in map(_parent_folders, paths()):
        split = _SPLIT_FOLDERS[folders[top].lower()] if has_splits else "train"
        splits_by_class.setdefault(_class_name(folders[class_depth]), set()).add(split)
    _reject_classes(splits_by_class)
    return Layout(class_depth, has_splits, sorted(splits_by_class))


def _shared_folders(paths: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    """The folders above all images: what the first and the last path in sorted order have in common."""
    first = min(map(_parent_folders, paths()), default=None)
    if first is None:
        raise UserError(f"the archive contains no images ({', '.join(IMAGE_SUFFIXES)}); {_EXPECTED_LAYOUT}")
    return tuple(os.path.commonprefix([first, max(map(_parent_folders, paths()))]))


def _parent_folders(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[:-1])


def _class_name(folder: str) -> str:
    return unicodedata.normalize("NFC", folder)  # macOS stores accents separately from their letters


def _are_split_folders(folders: Collection[str]) -> bool:
    """Whether these top folders are an official split.

    Raises:
        UserError: split folders without one for train, or beside folders of another kind.
    """
    split_folders = {folder for folder in folders if folder.lower() in _SPLIT_FOLDERS}
    splits = {_SPLIT_FOLDERS[folder.lower()] for folder in split_folders}
    listed = ", ".join(sorted(split_folders))
    if split_folders and len(split_folders) == len(folders):
        if "train" not in splits:
            raise UserError(f"the archive has the split folders {listed}, but none for train; add it")
        return True
    if len(splits) > 1:
        other = min(set(folders) - split_folders)
        raise UserError(
            f"folder {other} is next to the split folders {listed}; move or rename it: {_EXPECTED_LAYOUT}"
        )
    return False  # a single class may be called train


def _reject_classes(splits_by_class: dict[str, set[str]]) -> None:
    """Raise UserError if the classes cannot be used; each comes with the splits that contain it."""
    names = sorted(splits_by_class)
    if len(names) < 2:
        raise UserError(f"the archive has only one class ({names[0]}); {_EXPECTED_LAYOUT}")
    folded = Counter(name.casefold() for name in names)
    same = [name for name in names if folded[name.casefold()] > 1]
    if same:
        raise UserError(
            f"class names that differ in upper and lower case only: {', '.join(same)}; rename them"
        )
    untrained = [name for name in names if "train" not in splits_by_class[name]]
    if untrained:
        raise UserError(
            f"classes without an image in train: {', '.join(untrained)}; add some, or remove the classes"
        )
