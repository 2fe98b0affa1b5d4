"""Find the user's photos in files, folders, globs and archives."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finegrain.core.errors import UserError
from finegrain.serving.lenient_reader import LenientReader
from finegrain.sources import archive, layout
from finegrain.sources.layout import BadMember


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
    archives are searched for names with an image suffix, without hidden files.

    Args:
        paths: files, folders, archives, or globs that the shell has not expanded.

    Raises:
        UserError: a path does not exist or holds no image, or an archive cannot be read.
    """
    sources: list[PhotoSource] = []
    known: set[Path] = set()
    for text in paths:
        for path in _expand(text):
            if path in known:
                continue
            source = _open_source(path)
            if not source.photos:
                raise UserError(f"{path}: holds no image ({', '.join(layout.IMAGE_SUFFIXES)})")
            new = [photo for photo in source.photos if photo.file not in known]
            sources.append(replace(source, photos=new))
            known |= {path, *(photo.file for photo in new if photo.file)}
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
    if not archive.is_archive(path):
        return PhotoSource(path, list(_list_photos(path)))
    reader = LenientReader(path)
    photos = [Photo(f"{_printable(path)}:{member}", member) for member in reader.paths]
    return PhotoSource(path, photos, reader)


def _list_photos(path: Path) -> Iterator[Photo]:
    """Yield a file itself, or the images of a folder at any depth."""
    if not path.is_dir():
        yield Photo(_printable(path), _printable(Path(path.name)), path)
        return
    for folder, subfolders, names in os.walk(path, onerror=layout.raise_error):
        subfolders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            relative_path = layout.image_path(_printable(file.relative_to(path)))
            if relative_path is not None:
                yield Photo(_printable(file), relative_path, file)


def _printable(path: Path) -> str:
    """The path as text that can be written as UTF-8, whatever bytes it is made of."""
    return layout.decode_name(os.fsencode(path))
