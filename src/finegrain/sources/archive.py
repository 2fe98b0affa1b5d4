"""Archives of class folders, read in place: one zip or tar file, or several parts of one.

Nothing inside an archive is ever written to disk. Images are listed once, then read in the archive's own
order, so that a .tar.gz needs one pass and constant memory.
"""

import hashlib
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from finegrain.core import disk, file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.sources import layout
from finegrain.sources.index import ImageIndex
from finegrain.sources.layout import ArchiveImage, BadMember
from finegrain.sources.tar_file import TarArchive
from finegrain.sources.zip_file import ZipArchive

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


class ArchiveReader:
    """The images of the archive files in a folder, all of which can be read.

    Raises:
        UserError: no archive, damaged or encrypted, links inside, or folders that are not classes.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(file for file in folder.glob("*") if is_archive(file)) if folder.is_dir() else []
        if not files:
            raise UserError(f"{folder}: holds no archive; `dvc repro download` puts one there")
        self._parts = [_open(file) for file in files]
        self._catalogue = ImageIndex(self._parts)
        self.classes = self._catalogue.classes
        """Sorted."""
        self.others = sum((part.others for part in self._parts), Counter())
        """How many files of which suffix are no images; without what systems leave behind."""

    def __enter__(self) -> "ArchiveReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> None:
        self._catalogue.close()

    def __len__(self) -> int:
        return len(self._catalogue)

    def place(self, path: str) -> int | None:
        """The number of an image in the order of ``read``; None if the archive does not hold it."""
        return self._catalogue.place(path)

    def read(
        self, wanted: Callable[[ArchiveImage], bool] = lambda _: True
    ) -> Iterator[tuple[ArchiveImage, bytes]]:
        """Yield each wanted image once with its bytes, in the archive's order."""
        for number, part in enumerate(self._parts):
            images = ((image, entry) for image, entry in self._catalogue.images(number) if wanted(image))
            for image, data in part.contents(images):
                if isinstance(data, BadMember):
                    raise data
                yield image, data


class LenientReader:
    """The images of an archive of any layout, whether or not all of it can be read.

    Raises:
        UserError: nothing of it can be read.
    """

    def __init__(self, file: Path) -> None:
        self._part = _open(file)
        self.damage: str | None = None
        """Why the list of its images ends too early."""
        members: list[tuple[str, int, int]] = []
        try:
            for member in self._part.members(strict=False):
                members.append(member)
        except UserError as error:
            if not members:
                raise
            self.damage = str(error).removeprefix(f"{file}: ")
        self._members = sorted(members, key=lambda member: member[1])
        self.paths = [path for path, _, _ in self._members]
        """In the order of reading."""

    def contents(self) -> Iterator[bytes | BadMember]:
        """The bytes of each image in the same order, or what is wrong with it."""
        images = (
            (ArchiveImage(number, path, self._part.name, None, ""), entry)
            for number, (path, _, entry) in enumerate(self._members)
        )
        return (data for _, data in self._part.contents(images))


def is_archive(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")


def _open(file: Path) -> ZipArchive | TarArchive:
    return ZipArchive(file) if file.name.lower().endswith(".zip") else TarArchive(file)


class _ImageFolder:
    """A local folder of class folders that is going to be a zip."""

    def __init__(self, folder: Path) -> None:
        # without a leading dot: hidden files in data/<name>/archive are not its parts
        self.name = f"{folder.resolve().name.lstrip('.') or 'images'}.zip"
        self.others: Counter[str] = Counter()
        self.files = _images_below(folder, self.others)

    def members(self) -> Iterator[tuple[str, int, int]]:
        return ((inner, number, 0) for number, inner in enumerate(self.files))


def store_local(source: str | Sequence[str], folder: Path) -> None:
    """Put local archives, or folders of class folders as zips, into ``folder`` under their own names.

    An archive is copied as it is. A folder becomes an uncompressed zip whose bytes depend on its images only.

    Raises:
        UserError: missing, not an archive, damaged, not laid out in classes, or too large for the disk.
    """
    given = [paths.user_path(path) for path in ([source] if isinstance(source, str) else source)]
    parts: dict[str, tuple[Path, ZipArchive | TarArchive | _ImageFolder]] = {}
    bytes_needed = 0
    for path in given:
        if not path.exists():
            raise UserError(f"dataset.path: {path}: not found")
        part: ZipArchive | TarArchive | _ImageFolder
        if path.is_dir():
            part = _ImageFolder(path)
            bytes_needed += sum(file.stat().st_size + 300 for file in part.files.values())
        elif is_archive(path):
            part = _open(path)
            bytes_needed += path.stat().st_size
        else:
            raise UserError(f"dataset.path: {path}: not an archive ({', '.join(SUFFIXES)}) nor a folder")
        if part.name in parts:
            other, _ = parts[part.name]
            raise UserError(f"dataset.path: {other} and {path} have the same name; rename one")
        parts[part.name] = path, part
    ImageIndex([part for _, part in parts.values()]).close()  # refuse now, not after copying gigabytes
    folder.mkdir(parents=True, exist_ok=True)
    disk.require_free_space(folder, bytes_needed, "the archive")
    for name, (path, part) in parts.items():
        if isinstance(part, _ImageFolder):
            report_ignored(part.others)  # the zip is not going to hold them
            _write_zip(part.files, folder / name)
        else:
            shutil.copyfile(path, folder / name)


def report_ignored(others: Mapping[str, int]) -> None:
    """Photos in a format that is not read, such as .heic, must not vanish unseen."""
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        log.info(f"ignored, as they are no images that can be read: {kinds}")


def _images_below(top: Path, others: Counter[str]) -> dict[str, Path]:
    """Inner path -> file of every image below a folder, sorted by inner path; counts the others by suffix."""
    found = {}
    for where, subfolders, names in os.walk(top, onerror=layout.raise_error):
        for name in subfolders:
            if (Path(where) / name).is_symlink():
                raise UserError(f"{Path(where) / name}: is a link to a folder; put the folder itself there")
        for name in names:
            file = Path(where) / name
            path = layout.decode_name(os.fsencode(file.relative_to(top).as_posix()))
            inner = layout.image_path(path)
            if inner is not None:
                _reject_unusable(file, inner)
                found[inner] = file
            elif kind := layout.ignored_suffix(path):
                others[kind] += 1
    return dict(sorted(found.items()))


def _reject_unusable(file: Path, inner: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: is a link to a file that is not there; fetch it, or remove the link")
    if "\\" in inner:
        raise UserError(f"{file}: a backslash separates folders in a zip; rename it")


def _write_zip(files: dict[str, Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for inner, file in log.progress_bar(files.items(), total=len(files), label=f"zip {target.stem}"):
            archive.writestr(reproducible_zip_info(inner), file.read_bytes())


def reproducible_zip_info(inner: str) -> zipfile.ZipInfo:
    """A zip header without this machine's clock, user or system: the same content gives the same bytes."""
    info = zipfile.ZipInfo(inner, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, also where this runs on Windows
    info.external_attr = 0o644 << 16
    return info


def describe(folder: Path) -> dict[str, Any]:
    """Name, size and sha256 of the archive's files, and one sha256 of all.

    That is the file's own sha256, or for several parts the sha256 of what ``sha256sum`` prints for them.
    """
    files = [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": file_io.sha256(file)}
        for file in sorted(folder.iterdir())
        if is_archive(file)
    ]
    listing = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
    digest = files[0]["sha256"] if len(files) == 1 else hashlib.sha256(listing.encode()).hexdigest()
    return {"files": files, "sha256": digest}
