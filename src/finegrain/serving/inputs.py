"""Find the user's photos in files, folders, globs and archives."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finegrain.core.errors import UserError, some
from finegrain.serving.lenient_reader import LenientReader
from finegrain.sources import archive, index, layout
from finegrain.sources.index import IgnoredFiles
from finegrain.sources.layout import BadMember
from finegrain.sources.name_encoding import decode_name


@dataclass(frozen=True)
class Photo:
    """A photo that was found, not yet read."""

    name: str
    """Its path for output, or ``archive.zip:path inside``."""
    relative_path: str
    """Its path inside the folder or archive that the user gave; for a single file, its name."""
    file: Path | None = None
    """The file on disk; None inside an archive."""


@dataclass(frozen=True)
class PhotoSource:
    """One file, folder or archive, and its photos in the order of reading."""

    path: Path
    photos: list[Photo]
    ignored: IgnoredFiles
    """The files that are not images."""
    reader: LenientReader | None = None
    """Reads the archive; None for files on disk."""

    def read(self) -> Iterator[tuple[Photo, bytes | str]]:
        """Yield each photo with its bytes, or with the reason why it cannot be read."""
        if self.reader:
            for photo, data in zip(self.photos, self.reader.contents(), strict=True):
                yield photo, data.reason if isinstance(data, BadMember) else data
            return
        for photo in self.photos:
            assert photo.file is not None
            try:
                yield photo, photo.file.read_bytes()
            except OSError as error:
                yield photo, str(error.strerror)


def find_photos(paths: Sequence[str]) -> list[PhotoSource]:
    """Find the photos of each path; a photo that several paths name is listed once.

    A file is taken whatever its suffix, as only its content shows whether it is an image. Folders and
    archives are searched by the names of the files, as in the pipeline. Side files (``layout.is_side_file``)
    are skipped even if they are named, as a shell's ``*`` does.

    Args:
        paths: files, folders, archives, or globs that the shell has not expanded.

    Raises:
        UserError: a path does not exist or holds no image, or an archive cannot be read.
    """
    sources: list[PhotoSource] = []
    known: set[Path] = set()
    for text in paths:
        for path in _expand(text):
            if path in known or layout.is_side_file([path.name]):
                continue
            source = _open_source(path)
            if not source.photos:
                passed_over = source.ignored.photos()
                raise UserError(
                    f"{path}: holds no image ({', '.join(layout.IMAGE_SUFFIXES)})"
                    + (f"; not read: {passed_over}" if passed_over else "")
                )
            new = [photo for photo in source.photos if photo.file not in known]
            sources.append(replace(source, photos=new))
            known |= {path, *(photo.file for photo in new if photo.file)}
    if not sources:
        raise UserError(f"{some(paths)}: holds no image, only what is left beside photos")
    return sources


def _expand(text: str) -> list[Path]:
    """The path itself if it exists, else the matches of the glob, sorted."""
    path = Path(os.path.expanduser(text))  # leaves a name such as ~$a.jpg as it is
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise UserError(f"{text}: not found")
    return [Path(match) for match in matches]


def _open_source(path: Path) -> PhotoSource:
    name = _printable(path)
    if path.is_dir():
        images, ignored = index.find_images(path)
        photos = [Photo(str(Path(name, inner)), inner, file) for inner, file in images.items()]
        return PhotoSource(path, photos, ignored)
    if archive.is_archive(path):
        reader = LenientReader(path)
        photos = [Photo(f"{name}:{member}", member) for member in reader.paths]
        return PhotoSource(path, photos, reader.ignored, reader)
    return PhotoSource(path, [Photo(name, _printable(Path(path.name)), path)], IgnoredFiles())


def _printable(path: Path) -> str:
    """The path as text that can be written as UTF-8, whatever bytes it is made of."""
    return decode_name(os.fsencode(path))
