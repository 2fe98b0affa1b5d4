"""Which files are images and which are skipped; an index of an archive's images, on disk.

It is on disk because memory would grow with the names alone.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from finegrain.core import log
from finegrain.core.errors import UserError, some
from finegrain.sources import layout
from finegrain.sources.layout import ArchiveImage, Member, SplitName
from finegrain.sources.name_encoding import NameEncoding

RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f".split()
)
"""RAW files hold sensor data: the colors depend on the program that develops them."""
UNREAD_SUFFIXES = RAW_SUFFIXES.union(
    ".avifs .heics .j2k .jp2 .jpf .jpx .jxl .jxr .wdp .dcm .exr .hdr .pcx .psb .psd .svg .tga .xcf "
    ".icloud".split()
)
"""Images that are not read: RAW, JPEG XL, JPEG 2000 and others, and photos not yet fetched from iCloud."""
LINKED_FOLDER = "link to a folder"
_DEVELOP = (
    "; RAW is sensor data, not an image yet: develop all photos in the same way, as to JPEG by darktable-cli"
)


class IgnoredFiles(Counter[str]):
    """Number of skipped files by kind: a suffix such as ``.cr2``, ``hidden .jpg``, a link."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, str] = {}
        """The first name of each kind."""

    def add(self, name: str) -> None:
        """Count a file that is not an image; folders and side files do not count."""
        if kind := _ignored_kind(name):
            self.count(name, kind)

    def count(self, name: str, kind: str) -> None:
        self[kind] += 1
        self.examples.setdefault(kind, name)

    def join(self, other: "IgnoredFiles") -> None:
        """Count the other's files too."""
        for kind, number in other.items():
            self.count(other.examples[kind], kind)
            self[kind] += number - 1

    def photos(self) -> str:
        """Text on the files that may be photos (unread format, hidden, in linked folders), or ''."""
        kinds = sorted(filter(_may_be_photo, self))
        listed = some((f"{self[kind]} {kind} (such as {self.examples[kind]})" for kind in kinds), 20)
        return listed + _DEVELOP * any(kind.split()[-1] in RAW_SUFFIXES for kind in kinds)

    def others(self) -> str:
        """Text on the other skipped files, or ''."""
        return some((f"{self[kind]} {kind}" for kind in sorted(self) if not _may_be_photo(kind)), 20)


def _may_be_photo(kind: str) -> bool:
    return kind in UNREAD_SUFFIXES or kind == LINKED_FOLDER or kind.startswith("hidden ")


def _ignored_kind(name: str) -> str | None:
    parts = layout.path_parts(name)
    if not parts or name.endswith("/") or layout.is_side_file(parts):
        return None
    suffix = os.path.splitext(parts[-1])[1].lower()
    is_photo = suffix in UNREAD_SUFFIXES or parts[-1].lower().endswith(layout.IMAGE_SUFFIXES)
    if (
        any(part.startswith(".") for part in parts) and suffix != ".icloud"
    ):  # it renames a.jpg to .a.jpg.icloud
        return f"hidden {suffix}".rstrip() if is_photo else None
    return suffix or "no suffix"


def find_images(top: Path, name_encoding: str | None = None) -> tuple[dict[str, Path], IgnoredFiles]:
    """Find the images of a folder at any depth. Links to photos are followed, links to folders are not.

    Args:
        name_encoding: encoding of the names that are not UTF-8; None means a guess, which is reported.

    Returns:
        Path below ``top``, as text with forward slashes -> file, in order; the skipped files.

    Raises:
        OSError: a folder cannot be read.
        UserError: two names become one when they are decoded.
    """
    found: dict[str, Path] = {}
    ignored = IgnoredFiles()
    files: list[Path] = []
    encoding = NameEncoding(name_encoding)

    def relative(file: Path) -> bytes:
        return os.fsencode(file.relative_to(top).as_posix())

    for where, subfolders, names in os.walk(top, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not layout.is_side_file([name]))
        files += (link for name in subfolders if (link := Path(where, name)).is_symlink())
        files += (Path(where, name) for name in sorted(names))
    for file in files:
        encoding.add(relative(file))
    encoding.report(top)
    for file in files:
        path = encoding.decode(relative(file))
        if file.is_symlink() and file.is_dir():
            ignored.count(path, LINKED_FOLDER)
        elif (inner := layout.image_path(path)) is None:
            ignored.add(path)
        elif inner in found:
            raise UserError(f"{top}: two names there are both {inner}, in other encodings; rename one")
        else:
            found[inner] = file
    return found, ignored


def _raise(error: OSError) -> NoReturn:
    """``os.walk`` otherwise skips folders that it cannot read."""
    raise error


class ArchivePart(Protocol):
    """One archive file, or a folder that becomes one."""

    name: str
    ignored: "IgnoredFiles"
    """The files that are not images; complete once ``members`` is exhausted."""

    def members(self) -> Iterator[Member]:
        """The images in any order."""


class Labels(Protocol):
    """Source of the class of each image: its folders, or a table."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""

    def parse(self, path: str) -> tuple[SplitName | None, str] | None:
        """Official split and class of an image; None if it has no label."""


class _NoLabels:
    """No image has a class or a split yet."""

    @property
    def classes(self) -> list[str]:
        return []

    def parse(self, path: str) -> tuple[SplitName | None, str]:
        return None, ""


class ImageIndex:
    """Every image of the parts with its class and official split.

    Args:
        class_folders: the folders of the images are the classes; otherwise ``use_labels`` gives them.

    Raises:
        UserError: the same path twice, or folders that are not classes.
    """

    def __init__(self, parts: Sequence[ArchivePart], class_folders: bool = True) -> None:
        self._part_names = [part.name for part in parts]
        self._database = temp_table()
        self._fill(parts)
        self._labels: Labels = _NoLabels()
        if class_folders:
            self._reject_parts_named_as_splits()
        self._reject_repeated()
        if class_folders:
            self._labels = self._detect_layout()

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM image").fetchone()[0]
        return count

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return self._labels.classes

    def use_labels(self, labels: Labels) -> None:
        """Take class and split of each image from ``labels``, and leave out the images without a label."""
        self._labels = labels
        self._database.create_function("has_label", 1, lambda path: labels.parse(path) is not None)
        self._database.execute("DELETE FROM image WHERE NOT has_label(path)")

    def _detect_layout(self) -> layout.Layout:
        parts = [partial(self.paths, number) for number in range(len(self._part_names))]
        found = layout.detect_layout(self.paths, parts if len(parts) > 1 else ())
        named = {folder: split for folder, split in found.splits.items() if folder.lower() != split}
        if named:
            listed = some(f"{folder} is taken for {split}" for folder, split in named.items())
            log.info(f"the archive's own splits: {listed}")
        return found

    def images(self, part: int) -> Iterator[tuple[ArchiveImage, int]]:
        """The images of one part in reading order, each with its ``Member.entry``."""
        query = "SELECT position, path, entry FROM image WHERE part = ? ORDER BY position"
        for position, path, entry in self._database.execute(query, (part,)):
            if (label := self._labels.parse(path)) is not None:
                yield ArchiveImage(position, path, self._part_names[part], *label), entry

    def index_of(self, path: str) -> int | None:
        """The ``ArchiveImage.index`` of a path; None if no image has that path."""
        row = self._database.execute("SELECT position FROM image WHERE path = ?", (path,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        self._database.close()

    def _fill(self, parts: Sequence[ArchivePart]) -> None:
        """Create the table ``image``: the images of all parts, numbered in reading order."""
        self._database.execute(
            "CREATE TABLE member (path TEXT, part INTEGER, reading_order INTEGER, entry INTEGER)"
        )
        for number, part in enumerate(parts):
            rows = ((member.path, number, member.order, member.entry) for member in part.members())
            self._database.executemany("INSERT INTO member VALUES (?, ?, ?, ?)", rows)
        self._database.executescript(
            """
            CREATE TABLE image (position INTEGER PRIMARY KEY, path TEXT, part INTEGER, entry INTEGER);
            INSERT INTO image
                SELECT row_number() OVER (ORDER BY part, reading_order) - 1, path, part, entry FROM member;
            DROP TABLE member;
            CREATE INDEX by_path ON image (path);
            """
        )

    def paths(self, part: int | None = None) -> Iterator[str]:
        """The paths of all images, or of those of one part, in reading order."""
        where = "" if part is None else f"WHERE part = {part}"
        return (
            path for (path,) in self._database.execute(f"SELECT path FROM image {where} ORDER BY position")
        )

    def _reject_parts_named_as_splits(self) -> None:
        """Raise UserError for parts such as train.zip and test.zip without a folder train or test inside."""
        splits = [layout.split_name(name.split(".")[0]) for name in self._part_names]
        if None in splits or len(set(splits)) < 2:
            return
        if not any(any(map(layout.split_name, path.split("/")[:-1])) for path in self.paths()):
            names = some(self._part_names)
            raise UserError(
                f"the parts {names} seem to be splits, but hold no folder of such a name; "
                "unpack each into its own folder train, val or test, and set dataset.path to the one above"
            )

    def _reject_repeated(self) -> None:
        query = "SELECT path, min(part), max(part) FROM image GROUP BY path HAVING count(*) > 1"
        for path, first, last in self._database.execute(query):
            first, last = self._part_names[first], self._part_names[last]
            if first == last:
                raise UserError(f"{first}: contains {path} twice; remove one of them")
            raise UserError(f"{path} is in both {first} and {last}; remove one of them")


def temp_table() -> sqlite3.Connection:
    """Open an empty, private database on disk that keeps at most 1 MB of its pages in memory.

    Kept instead of Python lists because the names and hashes of a million images then take constant memory.
    SQLite creates its file in TMPDIR and unlinks it at once, so that a killed process leaves nothing behind.
    """
    database = sqlite3.connect("")  # an empty name means a temporary file
    database.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back
    database.execute("PRAGMA cache_size = -1000")
    database.execute("PRAGMA temp_store = FILE")  # sorting also spills to disk
    return database
