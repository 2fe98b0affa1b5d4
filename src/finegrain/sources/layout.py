"""What the name of an archive's member tells: whether it is an image, its class and its official split."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finegrain.core.errors import UserError

SplitName = Literal["train", "val", "test"]

IMAGE_SUFFIXES = tuple(".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split())
_SPLITS: dict[str, SplitName] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
MAX_IMAGE_BYTES = 200_000_000
"""A larger member is taken for a bomb."""

_EXPECTED_LAYOUT = "an archive holds <class>/<image> or <train, val or test>/<class>/<image>"


class BadMember(UserError):
    """One member of an archive that cannot be used; the others may be good."""

    def __init__(self, file: Path, path: str, reason: str, cure: str) -> None:
        super().__init__(f"{file}: {path} {reason}; {cure}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ArchiveImage:
    place: int
    """Its number among all images in the order of reading."""
    path: str
    """Inside the archive, with forward slashes."""
    part: str
    """Name of the archive file that holds it."""
    split: SplitName | None
    """The archive's own split; None where it has none."""
    class_name: str


def image_path(name: str) -> str | None:
    """The path without empty and ``.`` steps; None if it is no image or lies in a hidden or junk folder."""
    steps = _steps(name)
    if _is_junk(steps):
        return None
    return "/".join(steps) if name.lower().endswith(IMAGE_SUFFIXES) else None


def ignored_suffix(name: str) -> str | None:
    """The suffix of a file that is no image, such as ``.heic``; None of an image, or of junk."""
    steps = _steps(name)
    if not steps or name.endswith("/") or _is_junk(steps) or steps[-1].lower().endswith(IMAGE_SUFFIXES):
        return None
    return os.path.splitext(steps[-1])[1].lower() or "no suffix"


def _steps(name: str) -> list[str]:
    return [step for step in name.split("/") if step not in ("", ".")]


def _is_junk(steps: list[str]) -> bool:
    """What systems leave behind; also any way out of the archive's own place."""
    return any(step.startswith(".") or step in ("__MACOSX", "Thumbs.db") for step in steps)


def decode_name(raw: bytes) -> str:
    """A name of unknown encoding: UTF-8, else what DOS wrote."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def raise_error(error: OSError) -> None:
    """For ``os.walk``, which else passes over a folder that it may not read."""
    raise error


def reject_large(file: Path, path: str, size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        most = f"over {MAX_IMAGE_BYTES / 1e6:,.0f} MB is no photo"
        raise BadMember(file, path, f"has {size / 1e6:,.0f} MB", most)


@dataclass(frozen=True)
class Layout:
    """Which step of an archive's paths is the class, and which one the official split."""

    class_step: int
    official: bool
    """Whether the step before the class is train, val or test."""
    classes: list[str]
    """Sorted."""

    def tell(self, path: str) -> tuple[SplitName | None, str]:
        """Official split and class of an image."""
        steps = path.split("/", self.class_step + 1)
        split = _SPLITS[steps[self.class_step - 1].lower()] if self.official else None
        return split, _class_name(steps[self.class_step])


def detect_layout(paths: Callable[[], Iterable[str]]) -> Layout:
    """Tell by the folders of all images where class and official split stand.

    Folders that all images share are stripped. If then the first folder of every image is called train, val
    or test, it is the official split and the second one is the class; otherwise the first one is the class.

    Args:
        paths: gives the path of every image, each time anew.

    Raises:
        UserError: images outside a class folder, fewer than two classes, classes that differ in case only,
            classes without a training image, or folders that are splits only in part.
    """
    least = min((_parent_folders(path) for path in paths()), default=None)
    if least is None:
        raise UserError(f"the archive holds no images ({', '.join(IMAGE_SUFFIXES)}); {_EXPECTED_LAYOUT}")
    common = tuple(os.path.commonprefix([least, max(_parent_folders(path) for path in paths())]))
    skip = len(common)
    firsts = {folder[skip] for folder in map(_parent_folders, paths()) if len(folder) > skip}
    if not firsts:
        raise UserError(f"all images lie in one folder ({'/'.join(common) or 'the top'}); {_EXPECTED_LAYOUT}")
    official = _are_split_folders(firsts)
    class_step = skip + official
    stray = [path for path in paths() if len(_parent_folders(path)) <= class_step]
    if stray:
        raise UserError(f"images in no class folder: {len(stray)}, such as {stray[0]}; {_EXPECTED_LAYOUT}")
    splits_of: dict[str, set[str]] = {}
    for folder in map(_parent_folders, paths()):
        split = _SPLITS[folder[skip].lower()] if official else "train"
        splits_of.setdefault(_class_name(folder[class_step]), set()).add(split)
    _reject_classes(splits_of)
    return Layout(class_step, official, sorted(splits_of))


def _parent_folders(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[:-1])


def _class_name(folder: str) -> str:
    return unicodedata.normalize("NFC", folder)  # macOS stores accents apart from their letters


def _are_split_folders(folders: Collection[str]) -> bool:
    """Whether these first folders are an official split."""
    splits = {folder for folder in folders if folder.lower() in _SPLITS}
    kinds = {_SPLITS[folder.lower()] for folder in splits}
    if splits and len(splits) == len(folders):
        if "train" not in kinds:
            raise UserError(f"the archive has the folders {', '.join(sorted(splits))}, but none for train")
        return True
    if len(kinds) > 1:
        others = sorted(set(folders) - splits)
        known = ", ".join(sorted(splits))
        raise UserError(
            f"folder {others[0]} stands beside {known}: is it a split or a class? {_EXPECTED_LAYOUT}"
        )
    return False  # one class may well be called train


def _reject_classes(splits_of: dict[str, set[str]]) -> None:
    """Refuse class names, each with the splits that it stands in."""
    names = sorted(splits_of)
    if len(names) < 2:
        raise UserError(f"the archive has one class only ({names[0]}); {_EXPECTED_LAYOUT}")
    folded = Counter(name.casefold() for name in names)
    twins = [name for name in names if folded[name.casefold()] > 1]
    if twins:
        raise UserError(f"classes that differ in upper and lower case only: {', '.join(twins)}; rename them")
    untrained = [name for name in names if "train" not in splits_of[name]]
    if untrained:
        raise UserError(f"classes without an image in train: {', '.join(untrained)}")
