"""Class and official split of an image, told by the folders it lies in."""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from finegrain.errors import UserError

SplitName = Literal["train", "val", "test"]

IMAGE_SUFFIXES = tuple(".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split())
_SPLITS: dict[str, SplitName] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_HOW = "an archive holds <class>/<image> or <train, val or test>/<class>/<image>"


@dataclass(frozen=True, slots=True)
class Image:
    path: str
    """Inside the archive, with forward slashes."""
    part: str
    """Name of the archive file that holds it."""
    split: SplitName | None
    """The archive's own split; None where it has none."""
    class_name: str


def image_path(name: str) -> str | None:
    """The path without empty and ``.`` steps; None if it is no image or lies in a hidden or junk folder."""
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if any(step.startswith(".") or step == "__MACOSX" for step in steps):
        return None
    return "/".join(steps) if name.lower().endswith(IMAGE_SUFFIXES) else None


def layout(members: Iterable[tuple[str, str]]) -> list[Image]:
    """Tell class and official split of every image by its folders.

    Folders that all images share are stripped. If then the first folder of every image is called train, val
    or test, it is the official split and the second one is the class; otherwise the first one is the class.

    Args:
        members: (path, part) of every image.

    Raises:
        UserError: images outside a class folder, fewer than two classes, classes that differ in case only,
            classes without a training image, the same path twice, or folders that are splits only in part.
    """
    located = [(tuple(path.split("/")), part) for path, part in members]
    if not located:
        raise UserError(f"the archive holds no images ({', '.join(IMAGE_SUFFIXES)}); {_HOW}")
    _refuse_repeated(located)
    folders = {steps[:-1] for steps, _ in located}
    common = tuple(os.path.commonprefix([min(folders), max(folders)]))
    skip = len(common)
    if len(folders) > 1:
        firsts = {folder[skip] for folder in folders if len(folder) > skip}
        official = _is_split(firsts)
    else:
        official = False
    depth = skip + 1 + official
    stray = [steps for steps, _ in located if len(steps) <= depth]
    if len(folders) == 1:
        raise UserError(f"all images lie in one folder ({'/'.join(common) or 'the top'}); {_HOW}")
    if stray:
        raise UserError(f"images in no class folder: {len(stray)}, such as {'/'.join(stray[0])}; {_HOW}")
    images = [
        Image(
            "/".join(steps),
            part,
            _SPLITS[steps[skip].lower()] if official else None,
            unicodedata.normalize("NFC", steps[depth - 1]),  # macOS stores accents apart from their letters
        )
        for steps, part in located
    ]
    _refuse_classes(images)
    return images


def _is_split(folders: Collection[str]) -> bool:
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
        raise UserError(f"folder {others[0]} stands beside {known}: is it a split or a class? {_HOW}")
    return False  # one class may well be called train


def _refuse_repeated(located: list[tuple[tuple[str, ...], str]]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for steps, part in located:
        if steps in seen:
            raise UserError(f"{'/'.join(steps)} is in both {seen[steps]} and {part}; parts must not overlap")
        seen[steps] = part


def _refuse_classes(images: list[Image]) -> None:
    names = sorted({image.class_name for image in images})
    if len(names) < 2:
        raise UserError(f"the archive has one class only ({names[0]}); {_HOW}")
    folded = Counter(name.casefold() for name in names)
    twins = [name for name in names if folded[name.casefold()] > 1]
    if twins:
        raise UserError(f"classes that differ in upper and lower case only: {', '.join(twins)}; rename them")
    trained = {image.class_name for image in images if image.split in (None, "train")}
    untrained = [name for name in names if name not in trained]
    if untrained:
        raise UserError(f"classes without an image in train: {', '.join(untrained)}")
