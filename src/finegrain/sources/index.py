"""The list of an archive's images: on disk, since names alone would grow the memory with the archive."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from finegrain.core.errors import UserError
from finegrain.sources import layout, temp_table
from finegrain.sources.layout import ArchiveImage


class ArchivePart(Protocol):
    """One archive file, or a folder that is going to be one."""

    name: str
    others: Counter[str]
    """Files that are no images, by suffix; known once ``members`` has ended."""

    def members(self) -> Iterator[tuple[str, int, int]]:
        """(path, number by which reading goes forward, anything that finds it again) of each image."""


class ImageIndex:
    """Every image of the parts, once, with class and official split.

    Raises:
        UserError: a path twice, or folders that are not classes.
    """

    def __init__(self, parts: Sequence[ArchivePart]) -> None:
        self._names = [part.name for part in parts]
        self._rows = temp_table.create()
        self._rows.execute("CREATE TABLE found (path TEXT, part INTEGER, forward INTEGER, entry INTEGER)")
        for number, part in enumerate(parts):
            members = ((path, number, forward, entry) for path, forward, entry in part.members())
            self._rows.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", members)
        self._rows.executescript(
            """
            CREATE TABLE image (place INTEGER PRIMARY KEY, path TEXT, part INTEGER, entry INTEGER);
            INSERT INTO image
                SELECT row_number() OVER (ORDER BY part, forward) - 1, path, part, entry FROM found;
            DROP TABLE found;
            CREATE INDEX by_path ON image (path);
            """
        )
        self._count = self._rows.execute("SELECT count(*) FROM image").fetchone()[0]
        self._refuse_repeated()
        self._layout = layout.detect_layout(self._paths)
        self.classes = self._layout.classes
        """Sorted."""

    def __len__(self) -> int:
        return self._count

    def images(self, part: int) -> Iterator[tuple[ArchiveImage, int]]:
        """The images of one part in the order of reading, each with what finds it again in there."""
        query = "SELECT place, path, entry FROM image WHERE part = ? ORDER BY place"
        for place, path, entry in self._rows.execute(query, (part,)):
            yield ArchiveImage(place, path, self._names[part], *self._layout.tell(path)), entry

    def place(self, path: str) -> int | None:
        """The number of an image; None if there is no such path."""
        row = self._rows.execute("SELECT place FROM image WHERE path = ?", (path,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        self._rows.close()

    def _paths(self) -> Iterator[str]:
        return (path for (path,) in self._rows.execute("SELECT path FROM image ORDER BY place"))

    def _refuse_repeated(self) -> None:
        query = "SELECT path, min(part), max(part) FROM image GROUP BY path HAVING count(*) > 1"
        for path, first, last in self._rows.execute(query):
            first, last = self._names[first], self._names[last]
            if first == last:
                raise UserError(f"{first}: holds {path} twice")
            raise UserError(f"{path} is in both {first} and {last}; parts must not overlap")
