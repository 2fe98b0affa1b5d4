"""Local files and folders that params.yaml names: links that DVC follows, and SHA-256 of their content.

DVC looks at paths of dvc.yaml only. A link to the user's file at such a path lets it notice a changed file by
its own means: a stat for each file, and a hash where that has changed.
"""

import difflib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finegrain.core import file_io, log, paths
from finegrain.core.errors import UserError, some

KNOWN_HASHES = "local-files.json"
"""In the folder of checkpoints: SHA-256 by path, with what a stat showed then."""


def name(path: Path | str) -> str:
    """Last part of a path; for ``.``, the name of the current folder."""
    return Path(os.path.abspath(path)).name


def not_found(key: str, *missing: Path) -> UserError:
    """The error for files or folders that a key of params.yaml names and that are not there."""
    first = missing[0]
    beside = [file.name for file in first.parent.iterdir()] if first.parent.is_dir() else []
    near = difflib.get_close_matches(first.name, beside, n=1)
    fix = f"did you mean {first.with_name(near[0])}?" if near else "paths count from the project's folder"
    return UserError(f"params.yaml: {key}: {some(missing)}: not found; {fix}")


def photos_path(text: str) -> Path:
    """An archive or a folder of photos that params.yaml names.

    Raises:
        UserError: the text is empty, or names a folder that holds this project, into which DVC would follow.
    """
    if not text.strip():  # Path("") would be the project's folder
        raise UserError("params.yaml: dataset.path: is empty; name an archive or a folder of class folders")
    path = paths.user_path(text)
    if path.is_dir() and Path.cwd().is_relative_to(path.resolve()):
        raise UserError(
            f"params.yaml: dataset.path: {path}: contains this project; name the folder of the photos alone"
        )
    return path


def link(targets: Sequence[Path], place: Path) -> None:
    """Make ``place`` a link to the only target, or else a folder of links to the targets.

    What a link leads to is never touched.
    """
    remove_link(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if len(targets) == 1:
        place.symlink_to(targets[0].resolve())
        return
    place.mkdir()
    for number, target in enumerate(targets):
        (place / f"{number}-{target.name}").symlink_to(target.resolve())
        if target.is_dir():
            log.info(
                f"{target}: DVC does not look into a folder that is one of several; after a change in it, "
                "run `dvc repro -f inputs`, then `dvc repro`"
            )


def remove_link(place: Path) -> None:
    """Remove what ``link`` has made."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)  # removes the links in it, not what they lead to


def lost_links(folder: Path) -> list[Path]:
    """Places in ``folder`` that ``link`` made and of which a target no longer exists."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        place
        for place in places
        if any(each.is_symlink() and not each.exists() for each in (place, *_entries(place)))
    ]


def _entries(place: Path) -> list[Path]:
    return list(place.iterdir()) if place.is_dir() and not place.is_symlink() else []


class ContentHashes:
    """SHA-256 of files and folders, a context manager; a file with the same stat is not read again."""

    def __enter__(self) -> "ContentHashes":
        self._file = paths.checkpoints_folder() / KNOWN_HASHES
        try:
            self._known: dict[str, list[Any]] = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._known = {}
        self._used: dict[str, list[Any]] = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None and self._used != self._known:
            file_io.write_text(self._file, json.dumps(self._used))

    def describe(self, path: Path) -> dict[str, Any]:
        """Name, number of files and SHA-256 of a file, or of the output of ``sha256sum`` in a folder."""
        if path.is_file():
            return {"name": name(path), "sha256": self._sha256(path)}
        listing = hashlib.sha256()
        files = list(_files(path))
        for file in log.progress_bar(files, total=len(files), label=f"hash {name(path)}", unit="file"):
            inner = file.relative_to(path).as_posix()
            listing.update(os.fsencode(f"{self._sha256(file)}  {inner}\n"))
        return {"name": name(path), "files": len(files), "sha256": listing.hexdigest()}

    def _sha256(self, file: Path) -> str:
        key, stat = str(file.resolve()), file.stat()
        seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._known.get(key)
        digest = known[-1] if known and known[:-1] == seen else file_io.sha256(file)
        self._used[key] = [*seen, digest]
        return str(digest)


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder that are not hidden, in the order of their paths."""
    found = []
    for where, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(where) / name for name in names if not name.startswith(".")]
    yield from sorted(file for file in found if file.is_file())
