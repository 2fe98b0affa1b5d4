"""Photos to predict, wherever they are: files, folders, globs, archives."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finegrain.errors import UserError
from finegrain.sources import archive, folders


@dataclass(frozen=True)
class Photo:
    name: str
    """As it is shown: the path, or ``archive.zip:path inside``."""
    inner: str
    """The path below the folder or inside the archive that was given; of a file its name."""


@dataclass(frozen=True)
class Source:
    """One of the user's paths, resolved: photos in the order of reading."""

    path: Path
    photos: list[Photo]

    def read(self) -> Iterator[tuple[Photo, bytes | OSError]]:
        """Each photo with its bytes, or why the file cannot be read."""
        if archive.is_archive(self.path):
            yield from zip(self.photos, archive.contents(self.path), strict=True)
            return
        for photo in self.photos:
            try:
                yield photo, Path(photo.name).read_bytes()
            except OSError as error:
                yield photo, error


def find(paths: Sequence[str]) -> list[Source]:
    """Resolve what the user gave; a glob that the shell left alone is expanded.

    A file is taken whatever its suffix: its content tells whether it is an image. Folders and archives are
    searched for names with an image's suffix, hidden ones left out.

    Raises:
        UserError: a path that is not there, or holds no image; an archive that cannot be read.
    """
    found = []
    for text in paths:
        path = Path(text).expanduser()
        matches = (
            [path]
            if path.exists()
            else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        )
        if not matches:
            raise UserError(f"{text}: not found")
        for match in matches:
            source = Source(match, list(_photos(match)))
            if not source.photos:
                raise UserError(f"{match}: holds no image ({', '.join(folders.IMAGE_SUFFIXES)})")
            found.append(source)
    return found


def _photos(path: Path) -> Iterator[Photo]:
    if archive.is_archive(path):
        for inner in archive.names(path):
            yield Photo(f"{path}:{inner}", inner)
    elif path.is_dir():
        for where, subfolders, names in os.walk(path):
            subfolders.sort()
            for name in sorted(names):
                file = Path(where, name)
                place = folders.image_path(file.relative_to(path).as_posix())
                if place is not None:
                    yield Photo(str(file), place)
    else:
        yield Photo(str(path), path.name)
