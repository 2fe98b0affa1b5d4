"""Photos to predict, wherever they are: files, folders, globs, archives."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finegrain.core.errors import UserError
from finegrain.sources import archive, layout
from finegrain.sources.archive import LenientReader
from finegrain.sources.layout import BadMember


@dataclass(frozen=True)
class Photo:
    name: str
    """As it is shown: the path, or ``archive.zip:path inside``."""
    inner: str
    """The path below the folder or inside the archive that was given; of a file its name."""
    file: Path | None = None
    """Where it is read from; None: from an archive."""


@dataclass(frozen=True)
class PhotoSource:
    """One of the user's paths, resolved: photos in the order of reading."""

    path: Path
    photos: list[Photo]
    loose: LenientReader | None = None
    """The archive that holds them; None: each is a file."""

    def read(self) -> Iterator[tuple[Photo, bytes | str]]:
        """Each photo with its bytes, or why they cannot be read."""
        if self.loose:
            for photo, data in zip(self.photos, self.loose.contents(), strict=True):
                yield photo, data.reason if isinstance(data, BadMember) else data
            return
        for photo in self.photos:
            assert photo.file is not None
            try:
                yield photo, photo.file.read_bytes()
            except OSError as error:
                yield photo, str(error.strerror)


def find_photos(paths: Sequence[str]) -> list[PhotoSource]:
    """Resolve what the user gave; a glob that the shell left alone is expanded.

    A file is taken whatever its suffix: its content tells whether it is an image. Folders and archives are
    searched for names with an image's suffix, hidden ones left out.

    What two paths name is taken once.

    Raises:
        UserError: a path that is not there, or holds no image; an archive that cannot be read.
    """
    found: list[PhotoSource] = []
    seen: set[Path] = set()
    for text in paths:
        path = Path(os.path.expanduser(text))  # leaves ~$a.jpg as it is
        matches = (
            [path]
            if path.exists()
            else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        )
        if not matches:
            raise UserError(f"{text}: not found")
        for match in matches:
            if match in seen:
                continue
            source = _source(match)
            if not source.photos:
                raise UserError(f"{match}: holds no image ({', '.join(layout.IMAGE_SUFFIXES)})")
            new = [photo for photo in source.photos if photo.file not in seen]
            found.append(replace(source, photos=new))
            seen |= {match, *(photo.file for photo in new if photo.file)}
    return found


def _source(path: Path) -> PhotoSource:
    if archive.is_archive(path):
        loose = LenientReader(path)
        return PhotoSource(
            path, [Photo(f"{_printable(path)}:{inner}", inner) for inner in loose.paths], loose
        )
    return PhotoSource(path, list(_files(path)))


def _files(path: Path) -> Iterator[Photo]:
    if not path.is_dir():
        yield Photo(_printable(path), _printable(Path(path.name)), path)
        return
    for where, subfolders, names in os.walk(path, onerror=layout.raise_error):
        subfolders.sort()
        for name in sorted(names):
            file = Path(where, name)
            place = layout.image_path(_printable(file.relative_to(path)))
            if place is not None:
                yield Photo(_printable(file), place, file)


def _printable(path: Path) -> str:
    """A name that can be written as UTF-8, whatever bytes it is made of."""
    return layout.decode_name(os.fsencode(path))
