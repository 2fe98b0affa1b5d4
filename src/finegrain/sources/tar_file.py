"""One tar file, compressed or not, read in streaming passes from its beginning."""

import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from finegrain.core.errors import UserError
from finegrain.sources import layout
from finegrain.sources.layout import ArchiveImage, BadMember

_DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


class TarArchive:
    """A tar file: its images, and their bytes.

    Raises:
        UserError: damaged, or links and devices inside.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.others: Counter[str] = Counter()
        self._file = file

    def members(self, strict: bool = True) -> Iterator[tuple[str, int, int]]:
        """(path, number, 0) of each image; one pass.

        Args:
            strict: refuse the archive for a member that cannot be used, instead of listing it.
        """
        self.others.clear()  # filled by every pass
        number = 0
        for _, member in self._walk():
            name, path = _decoded_name(member)
            if strict:
                self._check(path, member)
            if path is not None:
                yield path, number, 0
                number += 1
            elif kind := layout.ignored_suffix(name):
                self.others[kind] += 1

    def contents(
        self, images: Iterable[tuple[ArchiveImage, int]]
    ) -> Iterator[tuple[ArchiveImage, bytes | BadMember]]:
        """Each image, in the order of ``members``, and its bytes, or what is wrong with it; one pass."""
        walk = self._walk()
        for image, _ in images:  # if there is none, no pass is begun
            yield image, self._find(image.path, walk)

    def _find(self, path: str, walk: Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]) -> bytes | BadMember:
        """The bytes of the next member of that path."""
        try:
            for tar, member in walk:
                if _decoded_name(member)[1] == path:
                    self._check(path, member)
                    stream = tar.extractfile(member)
                    return stream.read() if stream else b""
        except BadMember as error:
            return error
        except _DAMAGE as error:
            return BadMember(self._file, path, f"is damaged ({error})", "fetch it again")
        except UserError:
            pass  # on the way to it
        return BadMember(self._file, path, "lies behind what is damaged", "fetch it again")

    def _walk(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """Every member but folders, to be read before the next one."""
        try:
            with tarfile.open(self._file, "r|*", bufsize=1 << 20, encoding="utf-8") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header read
                    if not member.isdir():
                        yield tar, member
        except _DAMAGE as error:
            raise UserError(f"{self._file}: not a readable tar ({error}); fetch it again") from None

    def _check(self, path: str | None, member: tarfile.TarInfo) -> None:
        if not member.isreg():
            cure = "an archive may hold files and folders only"
            raise BadMember(self._file, member.name, "is a link or device", cure)
        if path is not None:
            layout.reject_large(self._file, path, member.size)


def _decoded_name(member: tarfile.TarInfo) -> tuple[str, str | None]:
    """As text, and as the path of an image."""
    name = layout.decode_name(member.name.encode("utf-8", "surrogateescape"))
    return name, layout.image_path(name)
