"""Index of an archive's images, on disk: names alone would make memory grow with the archive."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from finegrain.core.errors import UserError
from finegrain.sources import layout, temp_table
from finegrain.sources.layout import ArchiveImage, Member


class ArchivePart(Protocol):
    """One archive file, or a folder that is going to be one."""

    name: str
    ignored_suffixes: Counter[str]
    """Number of files that are not images, by suffix; complete once ``members`` is exhausted."""

    def members(self) -> Iterator[Member]:
        """The images in any order."""


class ImageIndex:
    """Every image of the parts with its class and official split.

    Raises:
        UserError: the same path twice, or folders that are not classes.
    """

    def __init__(self, parts: Sequence[ArchivePart]) -> None:
        self._part_names = [part.name for part in parts]
        self._database = temp_table.create()
        self._fill(parts)
        self._count = self._database.execute("SELECT count(*) FROM image").fetchone()[0]
        self._reject_repeated()
        self._layout = layout.detect_layout(self._paths)
        self.classes = self._layout.classes
        """Sorted."""

    def __len__(self) -> int:
        return self._count

    def images(self, part: int) -> Iterator[tuple[ArchiveImage, int]]:
        """The images of one part in reading order, each with its ``Member.entry``."""
        query = "SELECT position, path, entry FROM image WHERE part = ? ORDER BY position"
        for position, path, entry in self._database.execute(query, (part,)):
            yield ArchiveImage(position, path, self._part_names[part], *self._layout.parse(path)), entry

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

    def _paths(self) -> Iterator[str]:
        return (path for (path,) in self._database.execute("SELECT path FROM image ORDER BY position"))

    def _reject_repeated(self) -> None:
        query = "SELECT path, min(part), max(part) FROM image GROUP BY path HAVING count(*) > 1"
        for path, first, last in self._database.execute(query):
            first, last = self._part_names[first], self._part_names[last]
            if first == last:
                raise UserError(f"{first}: contains {path} twice; remove one of them")
            raise UserError(f"{path} is in both {first} and {last}; remove one of them")
