"""Read the true classes of photos from the user's CSV."""

import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from finegrain.core.errors import UserError, some
from finegrain.dataset.label_table import csv_rows
from finegrain.serving.inputs import Photo


class Labels:
    """True classes by photo, from two columns of a CSV."""

    def __init__(self, file: Path, image_column: str, label_column: str, classes: Sequence[str]) -> None:
        """Read and check the CSV.

        Args:
            classes: the classes that the model knows.

        Raises:
            UserError: the file or a column is missing, it is not a CSV, it lists an image twice, or it has a
                class that the model does not know.
        """
        table = _read_csv(file)
        self._file = file
        for option, column in (("--image-col", image_column), ("--label-col", label_column)):
            if (found := list(table).count(column)) != 1:
                problem, columns = "several columns" if found else "no column", some(table, 20)
                raise UserError(f"{file}: {problem} {column!r} ({option}); its columns are {columns}")
        if table.empty:
            raise UserError(f"{file}: has a header, but no row")
        images, labels = table[image_column].map(_plain_path), table[label_column].map(_composed)
        repeated = images[images.duplicated()]
        if len(repeated):
            raise UserError(f"{file}: images are listed twice: {some(repeated.unique())}")
        unknown = sorted(set(labels) - set(classes))
        if unknown:
            near = difflib.get_close_matches(unknown[0], classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{file}: labels that the model does not know: {len(unknown)}, such as {unknown[0]!r}{hint}"
            )
        self._classes = dict(zip(images, labels, strict=True))

    def class_of(self, photo: Photo) -> str | None:
        """The true class of a photo; None if the CSV does not list the photo."""
        key = self._key(photo)
        return None if key is None else self._classes[key]

    def _key(self, photo: Photo) -> str | None:
        """How the CSV names a photo: by its path, by its path inside the folder, or by its file name."""
        names = map(_plain_path, (photo.name, photo.relative_path, Path(photo.relative_path).name))
        return next((name for name in names if name in self._classes), None)

    def missing(self, photos: Sequence[Photo]) -> list[str]:
        """The images in the CSV that are not among the photos.

        Raises:
            UserError: a name in the CSV fits several photos, which may be of different classes.
        """
        found: dict[str, str] = {}
        for photo in photos:
            key = self._key(photo)
            if key is not None and found.setdefault(key, photo.name) != photo.name:
                raise UserError(
                    f"{self._file}: {key} can be {found[key]} or {photo.name}; write the full path in the CSV"
                )
        return [name for name in self._classes if name not in found]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)  # macOS stores accents separately from their letters


def _plain_path(path: str) -> str:
    """One spelling of a path: with forward slashes, without ``./``, its letters composed."""
    return str(PurePosixPath(_composed(path.replace("\\", "/"))))


def _read_csv(file: Path) -> pd.DataFrame:
    """Read all cells as text, as stage split does: a class may be called 007 or NA."""
    try:
        header, rows = csv_rows(str(file), file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file}: not found") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    return pd.DataFrame((cells for _, cells in rows), columns=[column.strip() for column in header])
