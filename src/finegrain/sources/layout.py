"""What a path inside an archive means: whether it is an image, its class and its official split."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from finegrain.core.errors import UserError, some

SplitName = Literal["train", "val", "test"]

IMAGE_SUFFIXES = tuple(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .avif .heic .heif .hif .bmp .dib .gif .tif .tiff .ppm .pgm "
    ".pbm .pnm".split()
)
"""Files with these suffixes count as images; decoding shows what they hold."""
MAX_IMAGE_BYTES = 200_000_000
"""A larger member is rejected: it may be a decompression bomb."""

_SIDE_FILE = re.compile(
    r"@eaDir|@tmp|#recycle|#snapshot|SYNOFILE_THUMB.*|\.?@__thumb|@Recycle|@Recently-Snapshot"
    r"|\._.*|__MACOSX|\.DS_Store|\.AppleDouble|\.Trashes|\.Spotlight-V100|\.fseventsd|\.TemporaryItems"
    r"|Thumbs\.db|ehthumbs.*\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information"
    r"|\.Trash(?:-\d+)?|\.thumbnails?|\.stversions|\.picasaoriginals|\.ipynb_checkpoints|\.git|\.svn|\.dvc",
    re.IGNORECASE,
)

_SPLIT_WORDS: dict[SplitName, str] = {
    "train": "train|training|trn",
    "val": "val|valid|validation|dev|development|eval|evaluation",
    "test": "test|testing|tst|holdout",
}
_FILLER = "(?:dataset|data|set|seg|split|folder|images?|imgs?|photos?|pictures?)"
"""Words beside a split's name, as in training_set, seg_train and testImages."""
_EXPECTED_LAYOUT = "expected <class>/<image> or <train, val or test>/<class>/<image>"
_REARRANGE = "unpack the archive, rearrange the folders and set dataset.path to the folder"


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
    """An image in an archive, with its class and official split."""

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
    """The path without empty and ``.`` parts; None for a hidden file, a side file, or no image."""
    parts = path_parts(name)
    if is_side_file(parts) or any(part.startswith(".") for part in parts):
        return None
    return "/".join(parts) if name.lower().endswith(IMAGE_SUFFIXES) else None


def path_parts(name: str) -> list[str]:
    """Folders and file of a path, without empty and ``.`` parts."""
    return [part for part in name.split("/") if part not in ("", ".")]


def is_side_file(parts: Sequence[str]) -> bool:
    """Whether a path is, or is in, something that a NAS, operating system or tool leaves beside photos."""
    return any(_SIDE_FILE.fullmatch(part) for part in parts)


def reject_large(file: Path, path: str, size: int) -> None:
    """Raise BadMember for an image of more than ``MAX_IMAGE_BYTES`` bytes."""
    if size > MAX_IMAGE_BYTES:
        limit = f"files may have {MAX_IMAGE_BYTES / 1e6:,.0f} MB at most"
        raise BadMember(file, path, f"has {size / 1e6:,.0f} MB", limit)


def split_name(folder: str) -> SplitName | None:
    """The split that a folder's name means, such as test for ``Test_Set``; None for any other name."""
    word = re.sub(r"[\W_]+|(?:19|20)\d\d", "", folder.lower())
    for split, words in _SPLIT_WORDS.items():
        if re.fullmatch(f"{_FILLER}*(?:{words}){_FILLER}*", word):
            return split
    return None


@dataclass(frozen=True)
class Layout:
    """Which folder of an archive's paths is the class, and which one the official split."""

    top: int
    """Number of folders that all images share."""
    splits: Mapping[str, SplitName]
    """Official split by the name of its folder, the next one; empty if there are none."""
    class_depths: Mapping[str, int]
    """Number of folders above the class folder, by the same name; ``top`` if there are no splits."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, sorted."""

    def depth(self, folders: Sequence[str]) -> int:
        """Number of folders above the class folder of a path."""
        return self.class_depths[folders[self.top]] if self.splits and len(folders) > self.top else self.top

    def parse(self, path: str) -> tuple[SplitName | None, str]:
        """Official split and class of an image."""
        folders = _parent_folders(path)
        split = self.splits[folders[self.top]] if self.splits else None
        return split, _class_name(folders[self.depth(folders)])


def detect_layout(
    paths: Callable[[], Iterable[str]], parts: Sequence[Callable[[], Iterable[str]]] = ()
) -> Layout:
    """Find the folders that are class and official split, from the paths of all images.

    Folders that all images share are skipped, and so are those of several parts that differ in a number. If
    the next folder of every image is called train, val or test, or similarly, it is the official split and
    the one below it the class; otherwise it is the class itself.

    Args:
        paths: returns a new iterator over the paths of all images at each call.
        parts: likewise for each part of the archive, if there are several.

    Raises:
        UserError: no images, images outside a class folder, fewer than two classes, classes that differ in
            case only, classes without a training image, other folders beside split folders or classes.
    """
    shared = _shared_folders(paths)
    top = len(shared) + _parts_are_numbered(parts, len(shared))
    top_folders = {folders[top] for folders in map(_parent_folders, paths()) if len(folders) > top}
    if not top_folders:
        folder = f"one folder, {'/'.join(shared)}" if shared else "no folder"
        raise UserError(
            f"all images are in {folder}, but at least two classes are needed; {_EXPECTED_LAYOUT}"
        )
    splits = _split_folders(top_folders)
    layout = Layout(top, splits, _class_depths(paths, top, splits))
    stray = [path for path in paths() if len(_parent_folders(path)) <= layout.depth(_parent_folders(path))]
    if stray:
        outside = f"images outside a class folder: {len(stray)}, for example {stray[0]}"
        raise UserError(f"{outside}; {_EXPECTED_LAYOUT}; remove or move them: {_REARRANGE}")
    splits_by_class: dict[str, set[str]] = {}
    for split, class_name in map(layout.parse, paths()):
        splits_by_class.setdefault(class_name, set()).add(split or "train")
    _reject_folders_of_classes(paths, layout, set(splits_by_class))
    reject_classes(splits_by_class)
    return replace(layout, classes=sorted(splits_by_class))


def _shared_folders(paths: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    """The folders above all images: what the first and the last path in sorted order have in common."""
    first = min(map(_parent_folders, paths()), default=None)
    if first is None:
        raise UserError(f"the archive contains no images ({', '.join(IMAGE_SUFFIXES)}); {_EXPECTED_LAYOUT}")
    return tuple(os.path.commonprefix([first, max(map(_parent_folders, paths()))]))


def _parts_are_numbered(parts: Sequence[Callable[[], Iterable[str]]], top: int) -> bool:
    """Whether each part has its own top folder, and these differ in a number, as in photos-1 and photos-2."""
    names: set[str] = set()
    for part in parts:
        folders = {folders[top] if len(folders) > top + 1 else "" for folders in map(_parent_folders, part())}
        if len(folders) != 1:
            return False
        names |= folders
    without_numbers = {re.sub(r"[\W\d_]+", "", name) for name in names}
    return len(names) == len(parts) > 1 and len(without_numbers) == 1 and "" not in without_numbers


def _parent_folders(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[:-1])


def _class_name(folder: str) -> str:
    return unicodedata.normalize("NFC", folder)  # macOS stores accents separately from their letters


def _split_folders(folders: Collection[str]) -> dict[str, SplitName]:
    """The split of each of these top folders; empty if they are not an official split.

    Raises:
        UserError: split folders without one for train, two for one split, or some beside other folders.
    """
    splits = {folder: split for folder in sorted(folders) if (split := split_name(folder))}
    listed = some(splits)
    if not splits or len(splits) < len(folders):
        if len(set(splits.values())) > 1:
            other = min(set(folders) - set(splits))
            beside = f"folder {other} is next to the split folders {listed}"
            raise UserError(f"{beside}; move or rename it: {_EXPECTED_LAYOUT}; {_REARRANGE}")
        return {}  # a single class may be called train
    if "train" not in splits.values():
        raise UserError(f"the archive has the split folders {listed}, but none for train; add it")
    if len({folder.lower() for folder in splits}) > len(set(splits.values())):
        meanings = some(f"{folder} ({split})" for folder, split in splits.items())
        raise UserError(f"several folders mean the same split: {meanings}; keep or join them: {_REARRANGE}")
    return splits


def _class_depths(
    paths: Callable[[], Iterable[str]], top: int, splits: Mapping[str, SplitName]
) -> dict[str, int]:
    """Number of folders above the classes of each split folder, which may hold another one like it."""
    ends: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for folders in map(_parent_folders, paths()) if splits else ():
        low, high = ends.get(name := folders[top] if len(folders) > top else "", (folders, folders))
        ends[name] = min(low, folders), max(high, folders)
    depths = {}
    for name, split in splits.items():
        depths[name] = top + 1
        for inner in os.path.commonprefix(ends[name])[top + 1 :]:
            if split_name(inner) != split and not re.fullmatch(f"{_FILLER}+", inner.lower()):
                break
            depths[name] += 1
    return depths


def _reject_folders_of_classes(paths: Callable[[], Iterable[str]], layout: Layout, classes: set[str]) -> None:
    """Raise UserError if what looks like classes are folders that hold the classes, or copies of them."""
    first, candidates, has_images = min(classes), set(), False
    for folders in map(_parent_folders, paths()):
        depth = layout.depth(folders)
        has_images |= len(folders) == depth + 1
        if len(folders) > depth + 1 and _class_name(folders[depth]) == first:
            candidates.add(_class_name(folders[depth + 1]))
    known = classes.union(sorted(candidates)[:100])  # a class may have a folder for each image
    inside: dict[str, set[str]] = {name: set() for name in classes}
    for folders in map(_parent_folders, paths()):
        depth = layout.depth(folders)
        if len(folders) > depth + 1 and (child := _class_name(folders[depth + 1])) in known:
            inside[_class_name(folders[depth])].add(child)
    for name, found in inside.items():
        if len(copies := sorted((found & classes) - {name})) > 1:
            copy = f"folder {name} holds folders of the same names as those beside it ({some(copies)})"
            raise UserError(f"{copy}; if it is a copy, remove it: {_REARRANGE}")
    repeated = sorted(set.intersection(*inside.values()))
    if has_images or len(classes) < 2 or len(repeated) < 2:
        return
    fix = "name them train, val, test if they are splits; keep one if they are copies; else join them"
    if all(map(split_name, repeated)):
        fix = "put the splits above the classes"
    raise UserError(
        f"the folders {some(sorted(classes))} hold folders of the same names ({some(repeated)}), so they "
        f"are not the classes; {_EXPECTED_LAYOUT}: {fix}; {_REARRANGE}"
    )


def _as_seen(name: str) -> str:
    """A class in lower case, without characters of no width, and with single spaces.

    It is composed again: the lower case of some letters is two.
    """
    shown = "".join(letter for letter in name.casefold() if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFC", " ".join(shown.split()))


def reject_classes(splits_by_class: dict[str, set[str]]) -> None:
    """Raise UserError if the classes cannot be used; each comes with the splits that contain it."""
    names = sorted(splits_by_class)
    if len(names) < 2:
        raise UserError(f"there is only one class, {names[0]}, but at least two are needed")
    seen = Counter(map(_as_seen, names))
    if same := some(repr(name) for name in names if seen[_as_seen(name)] > 1):
        raise UserError(
            f"class names that differ in case, spaces or invisible characters only: {same}; rename them"
        )
    untrained = [name for name in names if "train" not in splits_by_class[name]]
    if untrained:
        raise UserError(
            f"classes without an image in train: {some(untrained, 20)}; add some, or remove the classes"
        )
