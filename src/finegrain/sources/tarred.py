"""One tar file, compressed or not, read in streaming passes from its beginning."""

import itertools
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from finegrain.errors import UserError
from finegrain.sources import folders
from finegrain.sources.folders import Image


class Tar:
    """A tar file: its images, and their bytes.

    Raises:
        UserError: damaged, or links and devices inside.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.others: Counter[str] = Counter()
        self._file = file

    def members(self) -> Iterator[tuple[str, int, int]]:
        """(path, number, 0) of each image; one pass."""
        self.others.clear()  # filled by every pass
        return ((path, number, 0) for number, (path, _) in enumerate(self._walk(wanted=iter(()))))

    def contents(self, images: Iterable[tuple[Image, int]]) -> Iterator[tuple[Image, bytes]]:
        """Each image, in the order of ``members``, and its bytes; one pass."""
        wanted, ahead = itertools.tee(image for image, _ in images)
        found = (data for _, data in self._walk(image.path for image in ahead) if data is not None)
        for image in wanted:  # if there is none, no pass is begun
            yield image, next(found)

    def _walk(self, wanted: Iterator[str]) -> Iterator[tuple[str, bytes | None]]:
        """Every image path, with its bytes if it is the next one wanted."""
        next_wanted = next(wanted, None)
        try:
            with tarfile.open(self._file, "r|*", bufsize=1 << 20, encoding="utf-8") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header read
                    if member.isdir():
                        continue
                    name = folders.text(member.name.encode("utf-8", "surrogateescape"))
                    path = folders.image_path(name)
                    if not member.isreg():
                        raise UserError(
                            f"{self._file}: {member.name} is a link or device; "
                            "an archive may hold files and folders only"
                        )
                    if path is None:
                        if kind := folders.other_kind(name):
                            self.others[kind] += 1
                        continue
                    folders.refuse_large(self._file, path, member.size)
                    data = None
                    if path == next_wanted:
                        stream = tar.extractfile(member)
                        data = stream.read() if stream else None
                        next_wanted = next(wanted, None)
                    yield path, data
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
            raise UserError(f"{self._file}: not a readable tar ({error}); fetch it again") from None
