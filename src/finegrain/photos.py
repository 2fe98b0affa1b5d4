"""Photos to predict, wherever they are: files, folders, globs, archives."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finegrain.errors import UserError
from finegrain.sources import archive, folders
from finegrain.sources.archive import Loose
from finegrain.sources.folders import BadMember


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
    loose: Loose | None = None
    """The archive that holds them; None: each is a file."""

    def read(self) -> Iterator[tuple[Photo, bytes | str]]:
        """Each photo with its bytes, or why they cannot be read."""
        if self.loose:
            for photo, data in zip(self.photos, self.loose.contents(), strict=True):
                yield photo, data.reason if isinstance(data, BadMember) else data
            return
        for photo in self.photos:
            try:
                yield photo, Path(photo.name).read_bytes()
            except OSError as error:
                yield photo, str(error.strerror)


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
            source = _source(match)
            if not source.photos:
                raise UserError(f"{match}: holds no image ({', '.join(folders.IMAGE_SUFFIXES)})")
            found.append(source)
    return found


def _source(path: Path) -> Source:
    if archive.is_archive(path):
        loose = Loose(path)
        return Source(path, [Photo(f"{path}:{inner}", inner) for inner in loose.paths], loose)
    return Source(path, list(_files(path)))


def _files(path: Path) -> Iterator[Photo]:
    if not path.is_dir():
        yield Photo(str(path), path.name)
        return
    for where, subfolders, names in os.walk(path):
        subfolders.sort()
        for name in sorted(names):
            file = Path(where, name)
            place = folders.image_path(file.relative_to(path).as_posix())
            if place is not None:
                yield Photo(str(file), place)
