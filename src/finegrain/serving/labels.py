"""A user's CSV that says of which class each photo is."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from finegrain.core.errors import UserError
from finegrain.serving.inputs import Photo


class Labels:
    """Classes by image, from two columns of a CSV.

    Raises:
        UserError: no such file or column, not a CSV, an image twice, or a class that the model does not know.
    """

    def __init__(self, file: Path, image_column: str, label_column: str, classes: Sequence[str]) -> None:
        table = _read_csv(file)
        self._file = file
        for option, column in (("--image-col", image_column), ("--label-col", label_column)):
            if column not in table:
                raise UserError(
                    f"{file}: has no column {column!r} ({option}); it has {', '.join(map(str, table))}"
                )
        images = table[image_column].str.replace("\\", "/")
        repeated = images[images.duplicated()]
        if len(repeated):
            raise UserError(f"{file}: {repeated.iloc[0]} stands there twice")
        unknown = sorted(set(table[label_column]) - set(classes))
        if unknown:
            near = difflib.get_close_matches(unknown[0], classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{file}: {len(unknown)} labels are no classes of the model, such as {unknown[0]!r}{hint}"
            )
        self._classes = dict(zip(images, table[label_column], strict=True))

    def __len__(self) -> int:
        return len(self._classes)

    def of(self, photo: Photo) -> str | None:
        """Its class; the CSV names a photo as it was given, by its path inside, or by its file name."""
        name = self._named(photo)
        return None if name is None else self._classes[name]

    def _named(self, photo: Photo) -> str | None:
        names = (photo.name, photo.inner, Path(photo.inner).name)
        return next((name for name in names if name in self._classes), None)

    def missing(self, photos: Sequence[Photo]) -> int:
        """How many of its images are not among the photos.

        Raises:
            UserError: one of its names fits several photos, which need not be of one class.
        """
        found: dict[str, str] = {}
        for photo in photos:
            name = self._named(photo)
            if name is not None and found.setdefault(name, photo.name) != photo.name:
                raise UserError(
                    f"{self._file}: {name} may be {found[name]} or {photo.name}; write their paths there"
                )
        return len(self._classes) - len(found)


def _read_csv(file: Path) -> pd.DataFrame:
    """Everything as text: a class may be called 007 or NA."""
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: not found") from None
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{file}: not a readable CSV ({' '.join(str(error).split())})") from None
