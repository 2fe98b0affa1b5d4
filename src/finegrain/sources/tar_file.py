"""Read one tar file, compressed or not, in streaming passes from its beginning."""

import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from finegrain.core.errors import UserError
from finegrain.sources import layout
from finegrain.sources.layout import ArchiveImage, BadMember, Member

_READ_ERRORS = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


class TarArchive:
    """The images of a tar file.

    Raises:
        UserError: the file is damaged, or contains links or devices.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.ignored_suffixes: Counter[str] = Counter()
        self._file = file

    def members(self, strict: bool = True) -> Iterator[Member]:
        """List the images; one pass.

        Args:
            strict: raise BadMember for a member that cannot be used, instead of listing it.
        """
        self.ignored_suffixes.clear()  # each pass counts them again
        count = 0
        for _, info in self._walk():
            name, path = _decoded_name(info)
            if strict:
                self._check(path, info)
            if path is not None:
                yield Member(path, count, 0)
                count += 1
            elif suffix := layout.ignored_suffix(name):
                self.ignored_suffixes[suffix] += 1

    def contents(
        self, images: Iterable[tuple[ArchiveImage, int]]
    ) -> Iterator[tuple[ArchiveImage, bytes | BadMember]]:
        """Read images, given in the order of ``members``, or say what is wrong with each; one pass."""
        walk = self._walk()
        for image, _ in images:  # without images, the file is not opened
            yield image, self._read_next(image.path, walk)

    def _read_next(
        self, path: str, walk: Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]
    ) -> bytes | BadMember:
        """Go on to the next member of that path and read it."""
        try:
            for tar, info in walk:
                if _decoded_name(info)[1] == path:
                    self._check(path, info)
                    stream = tar.extractfile(info)
                    return stream.read() if stream else b""
        except BadMember as error:
            return error
        except _READ_ERRORS as error:
            return BadMember(self._file, path, f"is damaged ({error})", "download it again")
        except UserError:
            pass  # the damage is before this member
        return BadMember(self._file, path, "comes after a damaged place", "download it again")

    def _walk(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """Yield every member but folders; each must be read before the next one is requested."""
        try:
            with tarfile.open(self._file, "r|*", bufsize=1 << 20, encoding="utf-8") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
                    if not info.isdir():
                        yield tar, info
        except _READ_ERRORS as error:
            raise UserError(f"{self._file}: not a readable tar ({error}); download it again") from None

    def _check(self, path: str | None, info: tarfile.TarInfo) -> None:
        """Raise BadMember for a link, a device or an image that is too large."""
        if not info.isreg():
            fix = "only files and folders are allowed in an archive"
            raise BadMember(self._file, info.name, "is a link or device", fix)
        if path is not None:
            layout.reject_large(self._file, path, info.size)


def _decoded_name(info: tarfile.TarInfo) -> tuple[str, str | None]:
    """The member's name as text, and its image path if it is an image."""
    name = layout.decode_name(info.name.encode("utf-8", "surrogateescape"))
    return name, layout.image_path(name)
