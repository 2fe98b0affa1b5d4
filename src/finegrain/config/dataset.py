"""The settings of params.yaml for the dataset: its source, its table of labels, and its splits."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.base import DatasetName, ImageSize, Ratio, Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+/[1-9]\d*$")]
"""``owner/dataset/version``; without the version, a new upload would change the results unnoticed."""
LabelLayout = Literal[
    "cub-200-2011", "fgvc-aircraft", "fgvc-aircraft-family", "fgvc-aircraft-manufacturer", "stanford-cars"
]
_AIRCRAFT = [f"images_{{}}_{split}.txt" for split in ("train", "val", "test")]
LAYOUT_FILES: dict[LabelLayout, Sequence[str]] = {
    "cub-200-2011": ["images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt"],
    "fgvc-aircraft": [name.format("variant") for name in _AIRCRAFT],
    "fgvc-aircraft-family": [name.format("family") for name in _AIRCRAFT],
    "fgvc-aircraft-manufacturer": [name.format("manufacturer") for name in _AIRCRAFT],
    "stanford-cars": ["cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"],
}
"""The files of each known dataset that hold its classes and official splits."""
FileName = Annotated[str, Field(min_length=1)]
SplitName = Literal["train", "val", "test"]


class LabelParams(Section):
    """Tables of classes, in place of class folders (docs/OWN_PHOTOS.md).

    A text in the place of this mapping is ``file``.
    """

    file: (
        Annotated[
            Annotated[FileName, Tag("@one")]
            | Annotated[dict[SplitName, FileName], Field(min_length=1), Tag("@several")],
            Discriminator(lambda value: "@several" if isinstance(value, dict) else "@one"),
        ]
        | None
    ) = None
    """A CSV inside the archive, beside it, or relative to the project; or one for each split."""
    image: str | None = None
    """Column of the image's path; null means the only one with a usual name, such as image or filename."""
    class_column: Annotated[str | None, Field(alias="class")] = None
    """Column of the class; null means the only one with a usual name, such as class or label."""
    split: str | None = None
    """Column of train, val or test; null means the one called split, if there is one."""
    group: str | None = None
    """Column of what must stay in one split, such as an object, a video or a patient."""
    layout: LabelLayout | None = None
    """The files of a known dataset, in place of ``file``."""

    @model_validator(mode="after")
    def _require_one_kind(self) -> "LabelParams":
        if (self.file is None) == (self.layout is None):
            raise PydanticCustomError("one_place", "give either file or layout, not both or none")
        if self.layout and (self.image or self.class_column or self.split or self.group):
            raise PydanticCustomError("one_place", "layout defines the columns; remove the other keys")
        if isinstance(self.file, dict) and self.split:
            raise PydanticCustomError("one_place", "each file is a split already; remove the key split")
        return self

    @property
    def file_names(self) -> Sequence[str]:
        """Names of all files that hold labels."""
        if self.layout:
            return LAYOUT_FILES[self.layout]
        return list(self.file.values()) if isinstance(self.file, dict) else [self.file or ""]


def _accept_a_file_name(data: Any) -> Any:
    return {"file": data} if isinstance(data, str) else data


Labels = Annotated[
    LabelParams | None,
    BeforeValidator(_accept_a_file_name, json_schema_input_type=LabelParams | FileName | None),
]


def _require_encoding(name: str) -> str:
    """Reject what is not the name of an encoding that contains ASCII."""
    plain = bytes(range(0x20, 0x7F))
    try:
        fits = plain.decode(name) == plain.decode("ascii")
    except (LookupError, ValueError):
        fits = False
    if not fits:
        raise PydanticCustomError("encoding", "must be a Python encoding that contains ASCII, such as cp949")
    return name


Encoding = Annotated[str, AfterValidator(_require_encoding)]


class DatasetParams(Section):
    """Where the images come from; the subclasses are the sources."""

    name: DatasetName
    """Name of this dataset's folders in data/, models/, metrics/, plots/ and reports/."""
    corrections: FileName | None = None
    """Local CSV of wrong labels (path, action, class); null means that all labels are used as they are."""

    @property
    def label_params(self) -> LabelParams | None:
        """Where the labels are; None if the folders of the images are the classes."""
        return getattr(self, "labels", None)


class SampleDataset(DatasetParams):
    """Drawings of vehicles, generated without a download."""

    source: Literal["sample"]
    images_per_class: Annotated[int, Field(ge=3, le=100_000)]
    """Number of drawings of each of the 12 classes."""
    image_size: ImageSize
    """Height and width of the drawings in pixels."""


class KaggleDataset(DatasetParams):
    """A dataset that is downloaded from Kaggle."""

    source: Literal["kaggle"]
    slug: Slug
    """``owner/dataset/version`` on Kaggle; the version keeps a new upload from changing the results."""
    labels: Labels = None
    """Table of the classes; null means that the folders of the images are the classes."""
    name_encoding: Encoding | None = None
    """Encoding of the file names that are not UTF-8, such as cp949, big5 or cp866.

    null means a guess, which is printed.
    """
    sha256: Sha256 | None = None
    """Expected SHA-256 of the downloaded archive; null means that it is recorded but not checked."""


class ArchiveDataset(DatasetParams):
    """A local .zip, .tar or .tar.gz file, or a folder, with a folder for each class or a table of labels."""

    source: Literal["archive"]
    path: str | Annotated[list[str], Field(min_length=1)]
    """The file or folder; a list of part files counts as one archive."""
    labels: Labels = None
    """Table of the classes; null means that the folders of the images are the classes."""
    name_encoding: Encoding | None = None
    """Encoding of the file names that are not UTF-8, such as cp949, big5 or cp866.

    null means a guess, which is printed.
    """
    sha256: Sha256 | None = None
    """Expected SHA-256 of the archive, or of its parts' sha256 lines; null means that it is not checked."""


class Cifar100Dataset(DatasetParams):
    """The Python version of CIFAR-100, from Kaggle or from a local .tar.gz file, .zip file or folder."""

    source: Literal["cifar100"]
    slug: Slug | None = None
    """``owner/dataset/version`` on Kaggle; or give ``path``."""
    path: str | None = None
    """A local file or folder; or give ``slug``."""

    @model_validator(mode="after")
    def _require_slug_or_path(self) -> "Cifar100Dataset":
        if (self.slug is None) == (self.path is None):
            raise PydanticCustomError(
                "one_place", "give either slug (Kaggle) or path (local), not both or none"
            )
        return self


def _require_regex(pattern: str) -> str:
    """Reject a regular expression that does not compile."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PydanticCustomError("regex", "not a regular expression: {why}", {"why": str(error)}) from None
    return pattern


class SplitParams(Section):
    """How the images are divided into train, val and test."""

    val_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class for validation, taken from the train images if the archive has a test split."""
    test_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class for test; not used if the archive has a test split."""
    max_bad_ratio: Ratio = 0.01
    """The stage fails if a larger share of the images cannot be read."""
    group: Annotated[str, Field(min_length=1), AfterValidator(_require_regex)] | None = None
    """Regular expression on an image's path whose first group, or else whole match, names its group.

    A group, such as the photos of one object, is kept in one split. null means that images have no groups.
    """
    near_duplicates: Literal["list", "keep_together"] = "list"
    """Only list near-duplicates in two splits, or also keep them in one."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 4
    """Two images are near-duplicates if their 64-bit perceptual hashes differ in at most this many bits."""

    @model_validator(mode="after")
    def _require_training_images(self) -> "SplitParams":
        if self.val_ratio + self.test_ratio > 0.99:  # each class needs 1 / (1 - their sum) images
            raise PydanticCustomError("no_train", "val_ratio + test_ratio must be at most 0.99")
        return self
