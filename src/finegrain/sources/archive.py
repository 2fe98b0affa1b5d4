"""Archives of class folders, read in place: one zip or tar file, or several parts of one.

Nothing inside an archive is ever written to disk. Images are listed once, then read in the archive's own
order, so that a .tar.gz needs one pass and constant memory.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from finegrain import record
from finegrain.errors import UserError
from finegrain.sources import folders
from finegrain.sources.folders import Image

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_IMAGE_BYTES = 200_000_000
"""A larger member is taken for a zip bomb."""

_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


class Reader:
    """The images of the archive files in a folder.

    Raises:
        UserError: no archive, damaged or encrypted, links inside, or folders that are not classes.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(file for file in folder.glob("*") if _is_archive(file)) if folder.is_dir() else []
        if not files:
            raise UserError(f"{folder}: holds no archive; `dvc repro download` puts one there")
        self._parts = [_open(file) for file in files]
        self.images = folders.layout((path, part.name) for part in self._parts for path in part.paths)
        """In the order of ``read``."""

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> None:
        for part in self._parts:
            part.close()

    def read(self, images: Iterable[Image]) -> Iterator[tuple[Image, bytes]]:
        """Yield each of ``images`` once with its bytes, in the archive's order."""
        wanted: dict[str, dict[str, Image]] = {}
        for image in images:
            wanted.setdefault(image.part, {})[image.path] = image
        for part in self._parts:
            chosen = wanted.pop(part.name, {})
            missing = [path for path in chosen if path not in part.paths]
            if missing:
                raise UserError(f"{part.name}: holds no {min(missing)}; run `dvc repro` to list it anew")
            if chosen:
                yield from ((chosen[path], data) for path, data in part.contents(chosen))
        if wanted:
            raise UserError(f"{min(wanted)}: no such archive file; run `dvc repro` to list the images anew")


class _Zip:
    """A zip file: its image paths, and their bytes."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise UserError(f"{file}: not a readable zip ({error}); fetch it again") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            path = folders.image_path(_zip_name(info))
            if path is None:
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(f"{file}: {path} is a link; an archive may hold files and folders only")
            if info.flag_bits & 1:
                raise UserError(f"{file}: is encrypted; unpack it with its password and give the folder")
            if info.compress_type not in _ZIP_METHODS:
                raise UserError(f"{file}: {path} is compressed by an unknown method; pack it anew")
            _refuse_large(file, path, info.file_size)
            if path in self._members:
                raise UserError(f"{file}: holds {path} twice")
            self._members[path] = info
        self.paths: Collection[str] = self._members.keys()

    def contents(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for path, info in self._members.items():
            if path in wanted:
                try:
                    with self._zip.open(info) as stream:
                        data = stream.read(info.file_size)  # bounded, even if the header lies
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
                    raise UserError(f"{self._file}: {path} is damaged ({error}); fetch it again") from None
                yield path, data

    def close(self) -> None:
        self._zip.close()


class _Tar:
    """A tar file, compressed or not: its image paths, and their bytes, each in one streaming pass."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self._file = file
        paths: dict[str, None] = {}
        for path, _ in self._walk(wanted=()):
            if path in paths:
                raise UserError(f"{file}: holds {path} twice")
            paths[path] = None
        self.paths: Collection[str] = paths.keys()

    def contents(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        return ((path, data) for path, data in self._walk(wanted) if data is not None)

    def _walk(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
        """Every image path, with its bytes where they are wanted."""
        try:
            with tarfile.open(self._file, "r|*", bufsize=1 << 20, encoding="utf-8") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header read
                    if member.isdir():
                        continue
                    path = folders.image_path(_text(member.name.encode("utf-8", "surrogateescape")))
                    if not member.isreg():
                        raise UserError(
                            f"{self._file}: {member.name} is a link or device; "
                            "an archive may hold files and folders only"
                        )
                    if path is not None:
                        _refuse_large(self._file, path, member.size)
                        stream = tar.extractfile(member) if path in wanted else None
                        yield path, stream.read() if stream else None
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
            raise UserError(f"{self._file}: not a readable tar ({error}); fetch it again") from None

    def close(self) -> None:
        """Nothing is held open between two passes."""


def _is_archive(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")


def _open(file: Path) -> _Zip | _Tar:
    return _Zip(file) if file.name.lower().endswith(".zip") else _Tar(file)


def _refuse_large(file: Path, path: str, size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise UserError(
            f"{file}: {path} has {size / 1e6:,.0f} MB; over {MAX_IMAGE_BYTES / 1e6:,.0f} MB is no photo"
        )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """UTF-8 also where the flag that says so is missing, as in zips made on macOS; Windows' backslashes."""
    is_utf8 = info.flag_bits & 0x800
    name = info.filename if is_utf8 else _text(info.filename.encode("cp437"))
    return name.replace("\\", "/")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def store(source: str | Sequence[str], folder: Path) -> None:
    """Put local archives, or folders of class folders as zips, into ``folder`` under their own names.

    An archive is copied as it is. A folder becomes an uncompressed zip whose bytes depend on its images only.

    Raises:
        UserError: missing, not an archive, damaged, not laid out in classes, or too large for the disk.
    """
    paths = [Path(path).expanduser() for path in ([source] if isinstance(source, str) else source)]
    members: list[tuple[str, str]] = []
    targets: dict[str, Path] = {}
    bytes_needed = 0
    for path in paths:
        if not path.exists():
            raise UserError(f"dataset.path: {path}: not found")
        if path.is_dir():
            name = f"{path.resolve().name}.zip"
            files = _images_below(path)
            members += ((inner, name) for inner in files)
            bytes_needed += sum(file.stat().st_size + 300 for file in files.values())
        elif _is_archive(path):
            name = path.name
            part = _open(path)
            members += ((inner, name) for inner in part.paths)
            part.close()
            bytes_needed += path.stat().st_size
        else:
            raise UserError(f"dataset.path: {path}: not an archive ({', '.join(SUFFIXES)}) nor a folder")
        if name in targets:
            raise UserError(f"dataset.path: {targets[name]} and {path} have the same name; rename one")
        targets[name] = path
    folders.layout(members)  # refuse it now rather than after copying gigabytes
    folder.mkdir(parents=True, exist_ok=True)
    refuse_full_disk(folder, bytes_needed)
    for name, path in targets.items():
        if path.is_dir():
            _zip(_images_below(path), folder / name)
        else:
            shutil.copyfile(path, folder / name)


def _images_below(top: Path) -> dict[str, Path]:
    """Inner path -> file of every image below a folder, sorted by inner path."""
    found = {}
    for where, subfolders, names in os.walk(top):
        for name in subfolders:
            if (Path(where) / name).is_symlink():
                raise UserError(f"{Path(where) / name}: is a link to a folder; put the folder itself there")
        for name in names:
            file = Path(where) / name
            inner = folders.image_path(_text(os.fsencode(file.relative_to(top).as_posix())))
            if inner is not None and file.is_file():
                found[inner] = file
    return dict(sorted(found.items()))


def _zip(files: dict[str, Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for inner, file in record.progress(files.items(), total=len(files), label=f"zip {target.stem}"):
            archive.writestr(plain_info(inner), file.read_bytes())


def plain_info(inner: str) -> zipfile.ZipInfo:
    """A zip header without this machine's clock, user or system: the same content gives the same bytes."""
    info = zipfile.ZipInfo(inner, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, also where this runs on Windows
    info.external_attr = 0o644 << 16
    return info


def refuse_full_disk(folder: Path, bytes_needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        raise UserError(
            f"{folder}: {bytes_needed / 1e9:,.2f} GB are needed, {free / 1e9:,.2f} GB are free: "
            f"{(bytes_needed - free) / 1e9:,.2f} GB are missing"
        )


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, which it replaces once the block has ended without an error."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe(folder: Path) -> dict[str, Any]:
    """Name, size and sha256 of the archive's files, and one sha256 of all.

    That is the file's own sha256, or for several parts the sha256 of what ``sha256sum`` prints for them.
    """
    files = [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": record.sha256(file)}
        for file in sorted(folder.iterdir())
        if _is_archive(file)
    ]
    listing = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
    digest = files[0]["sha256"] if len(files) == 1 else hashlib.sha256(listing.encode()).hexdigest()
    return {"files": files, "sha256": digest}
