"""Archives of class folders, read in place: one zip or tar file, or several parts of one.

Nothing inside an archive is ever written to disk. Images are listed once, then read in the archive's own
order, so that a .tar.gz needs one pass and constant memory.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from finegrain.core import disk, file_io, local_files, log
from finegrain.core.errors import UserError, some
from finegrain.sources import index
from finegrain.sources.index import IgnoredFiles, ImageIndex, Labels
from finegrain.sources.layout import ArchiveImage, BadMember, Member
from finegrain.sources.tar_file import TarArchive
from finegrain.sources.zip_file import ZipArchive

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".mat")


class ArchiveReader:
    """The images of the archive files in a folder, all of which can be read.

    Args:
        class_folders: the folders of the images are the classes; otherwise ``use_labels`` gives them, and
            until then all images are of the class ``""``.
        name_encoding: encoding of the names that are not marked as UTF-8; None means a guess.

    Raises:
        UserError: no archive, or one that is damaged or encrypted, contains links, or has no class folders.
    """

    def __init__(self, folder: Path, class_folders: bool = True, name_encoding: str | None = None) -> None:
        files = sorted(file for file in folder.glob("*") if is_archive(file)) if folder.is_dir() else []
        if not files:
            raise UserError(f"{folder}: contains no archive; run `dvc repro download`")
        self._folder = folder
        self._parts = [open_archive(file, name_encoding) for file in files]
        self._index = ImageIndex(self._parts, class_folders)
        self.ignored = IgnoredFiles()
        """The files that are not images, except side files (``layout.is_side_file``)."""
        for part in self._parts:
            self.ignored.join(part.ignored)

    def __enter__(self) -> "ArchiveReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> None:
        self._index.close()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted."""
        return self._index.classes

    def paths(self) -> Iterator[str]:
        """The paths of all images, in reading order."""
        return self._index.paths()

    def use_labels(self, labels: Labels) -> None:
        """Take class and split of each image from ``labels``, and leave out the images without a label."""
        self._index.use_labels(labels)

    def read_tables(self, names: Sequence[str]) -> dict[str, bytes]:
        """The files with labels: those that stage download stored, or else those inside the archive.

        Raises:
            UserError: no file has the path ``name`` or one that ends with it, or several do.
        """
        stored = {name: table_file(self._folder, name) for name in names}
        content = {name: file.read_bytes() for name, file in stored.items() if file.is_file()}
        inside: dict[str, dict[str, bytes]] = {name: {} for name in names if name not in content}
        seen: list[str] = []

        def wanted(path: str) -> bool:
            if path.lower().endswith(TABLE_SUFFIXES):
                seen.append(path)
            return any(ends_with(path, name) for name in inside)

        for part in self._parts if inside else ():
            for path, data in part.other_files(wanted):
                for name in filter(partial(ends_with, path), inside):
                    inside[name][path] = data
        for name, files in inside.items():
            content[name] = files[only_path(name, files, seen)]
        return content

    def index_of(self, path: str) -> int | None:
        """The ``ArchiveImage.index`` of a path; None if the archive has no such image."""
        return self._index.index_of(path)

    def read(
        self, wanted: Callable[[ArchiveImage], bool] = lambda _: True
    ) -> Iterator[tuple[ArchiveImage, bytes]]:
        """Yield each wanted image once with its bytes, in reading order."""
        for number, part in enumerate(self._parts):
            images = ((image, entry) for image, entry in self._index.images(number) if wanted(image))
            for image, data in part.contents(images):
                if isinstance(data, BadMember):
                    raise data
                yield image, data


def table_file(folder: Path, name: str) -> Path:
    """Where stage download stores a local file with labels, in the archive's folder."""
    return folder / "labels" / Path(name).name


def ends_with(path: str, name: str) -> bool:
    """Whether a path is ``name`` or ends with it, from a folder on."""
    return f"/{path}".endswith(f"/{name.removeprefix('./')}")


def only_path(name: str, paths: Collection[str], seen: Sequence[str]) -> str:
    """The one of ``paths`` that is ``name``, or the only one.

    Args:
        seen: other tables, for the message.

    Raises:
        UserError: there is none, or there are several.
    """
    if name in paths or len(paths) == 1:
        return name if name in paths else next(iter(paths))
    if paths:
        listed = some(sorted(paths))
        raise UserError(
            f"params.yaml: dataset.labels: {name} fits several files: {listed}; give more of its path"
        )
    known = f"; tables there: {some(sorted(seen), 20)}" if seen else ""
    raise UserError(
        f"params.yaml: dataset.labels: {name}: found neither inside the archive nor as a local file{known}"
    )


def recorded_encoding(download_record: Path) -> str | None:
    """The ``dataset.name_encoding`` with which stage download read the archive."""
    found: str | None = file_io.read_json(download_record).get("name_encoding")
    return found


def is_archive(file: Path) -> bool:
    """Whether a file is a zip or tar by its name, and not hidden."""
    return file.is_file() and file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")


def open_archive(file: Path, name_encoding: str | None = None) -> ZipArchive | TarArchive:
    """Open one zip or tar file by its name."""
    kind = ZipArchive if file.name.lower().endswith(".zip") else TarArchive
    return kind(file, name_encoding)


class _LocalArchive:
    """An archive file that is stored as it is."""

    def __init__(self, file: Path, name_encoding: str | None) -> None:
        self.path = file
        self.bytes_needed = file.stat().st_size
        self._archive = open_archive(file, name_encoding)
        self.name = self._archive.name
        self.ignored = self._archive.ignored

    def members(self) -> Iterator[Member]:
        return self._archive.members()

    def store(self, folder: Path) -> None:
        shutil.copyfile(self.path, folder / self.name)


class _LocalFolder:
    """A folder of class folders that is stored as an uncompressed zip."""

    def __init__(self, folder: Path, name_encoding: str | None) -> None:
        self.path = folder
        # without a leading dot: hidden files in data/<name>/archive are not parts of the archive
        self.name = f"{folder.resolve().name.lstrip('.') or 'images'}.zip"
        self._images, self.ignored = _find_images(folder, name_encoding)
        self.bytes_needed = sum(file.stat().st_size + 300 for file in self._images.values())

    def members(self) -> Iterator[Member]:
        return (Member(inner, order, 0) for order, inner in enumerate(self._images))

    def store(self, folder: Path) -> None:
        report_ignored(self.ignored)  # the zip will not contain them
        with zipfile.ZipFile(folder / self.name, "w", zipfile.ZIP_STORED) as archive:
            label = f"zip {self.name.removesuffix('.zip')}"
            for inner, file in log.progress_bar(self._images.items(), total=len(self._images), label=label):
                archive.writestr(reproducible_zip_info(inner), file.read_bytes())


def store_local(
    source: str | Sequence[str],
    folder: Path,
    class_folders: bool = True,
    name_encoding: str | None = None,
) -> None:
    """Put local archives, or folders of class folders as zips, into ``folder`` under their own names.

    An archive is copied unchanged. A folder becomes a zip whose bytes depend on nothing but its images.

    Args:
        class_folders: check that the folders of the images are classes.
        name_encoding: encoding of the names that are not marked as UTF-8; None means a guess.

    Raises:
        UserError: a path that does not exist or is not an archive, is damaged, has no class folders, or is
            too large for the disk.
    """
    parts: dict[str, _LocalArchive | _LocalFolder] = {}
    for text in [source] if isinstance(source, str) else source:
        part = _open_local(local_files.photos_path(text), name_encoding)
        if part.name in parts:
            other = parts[part.name].path
            raise UserError(
                f"params.yaml: dataset.path: {other} and {part.path} have the same name; rename one"
            )
        parts[part.name] = part
    ImageIndex(list(parts.values()), class_folders).close()  # raise errors now, not after copying gigabytes
    folder.mkdir(parents=True, exist_ok=True)
    disk.require_free_space(folder, sum(part.bytes_needed for part in parts.values()), "the archive")
    for part in parts.values():
        part.store(folder)


def _open_local(path: Path, name_encoding: str | None) -> _LocalArchive | _LocalFolder:
    if not path.exists():
        raise local_files.not_found("dataset.path", path)
    if path.is_dir():
        return _LocalFolder(path, name_encoding)
    if is_archive(path):
        return _LocalArchive(path, name_encoding)
    allowed = (
        f"must be a folder or an archive ({', '.join(SUFFIXES)}); unpack another kind, and name the folder"
    )
    raise UserError(f"params.yaml: dataset.path: {path}: {allowed}")


def report_ignored(ignored: IgnoredFiles) -> None:
    """Print which files were skipped, so that missing photos are noticed."""
    if photos := ignored.photos():
        log.info(f"warning: photos not read; convert them to JPEG, or rename hidden ones: {photos}")
    if others := ignored.others():
        log.info(f"ignored files that are no photos: {others}")


def _find_images(top: Path, name_encoding: str | None) -> tuple[dict[str, Path], IgnoredFiles]:
    """The images below a folder by their path inside the archive, sorted, and the files that are ignored.

    Raises:
        UserError: a link to a folder or to a missing file, or a backslash in a name.
    """
    found, ignored = index.find_images(top, name_encoding)
    if link := ignored.examples.get(index.LINKED_FOLDER):
        raise UserError(f"{top / link}: is a link to a folder; put the folder itself in its place")
    for inner, file in found.items():
        _reject_unusable(file, inner)
    return dict(sorted(found.items())), ignored


def _reject_unusable(file: Path, inner: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: is a link to a missing file; restore the file, or remove the link")
    if "\\" in inner:
        raise UserError(f"{file}: has a backslash in its name, which separates folders in a zip; rename it")


def reproducible_zip_info(inner: str) -> zipfile.ZipInfo:
    """A zip header without this machine's clock, user or system: the same content gives the same bytes."""
    info = zipfile.ZipInfo(inner, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, also where this runs on Windows
    info.external_attr = 0o644 << 16
    return info


def describe(folder: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of each archive file and local table, and one SHA-256 of the whole archive.

    The latter is that of the only file, or for several parts that of the output of ``sha256sum`` for them.
    """
    files = [_describe(file) for file in sorted(folder.iterdir()) if is_archive(file)]
    tables = [_describe(file) for file in sorted((folder / "labels").glob("*"))]
    listing = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
    digest = files[0]["sha256"] if len(files) == 1 else hashlib.sha256(listing.encode()).hexdigest()
    return {"files": files, "sha256": digest} | ({"labels": tables} if tables else {})


def _describe(file: Path) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": file_io.sha256(file)}
