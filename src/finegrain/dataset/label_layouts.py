"""Read the files by which known datasets give classes and official splits, as they are published."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finegrain.config.dataset import LAYOUT_FILES, LabelLayout, SplitName
from finegrain.core.errors import UserError
from finegrain.dataset.label_table import LabelRow


def read(name: LabelLayout, content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """The rows of a known dataset.

    Args:
        content: the bytes of each of its files (``LAYOUT_FILES``).

    Raises:
        UserError: a file is damaged, or the files do not fit each other.
    """
    if name == "cub-200-2011":
        return _cub(content)
    if name == "stanford-cars":
        return _stanford_cars(content)
    return _aircraft(LAYOUT_FILES[name], content)


def _cub(content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """CUB-200-2011 (https://www.vision.caltech.edu/datasets/cub_200_2011/): lines of an id and its value.

    images.txt has paths below images/, image_class_labels.txt and classes.txt the class, train_test_split.txt
    1 for train and 0 for test.
    """
    images, class_ids, names, is_train = (
        dict(_pairs(name, content[name])) for name in LAYOUT_FILES["cub-200-2011"]
    )
    for number, path in images.items():
        try:
            class_name = names[class_ids[number]]
            split: SplitName = {"1": "train", "0": "test"}[is_train[number]]  # type: ignore[assignment]
        except KeyError:
            raise UserError(
                f"images.txt: image {number} has no class or no split; the files are of different versions"
            ) from None
        yield LabelRow(f"images.txt image {number}", f"images/{path}", class_name, split)


def _aircraft(files: Sequence[str], content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """FGVC-Aircraft (https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/): a file for each split.

    Each line is the number of an image below images/, a space, and the class, which may hold spaces.
    """
    splits: tuple[SplitName, ...] = ("train", "val", "test")
    for split, file in zip(splits, files, strict=True):
        for number, class_name in _pairs(file, content[file]):
            yield LabelRow(f"{file} image {number}", f"images/{number}.jpg", class_name, split)


def _pairs(file: str, data: bytes) -> Iterator[tuple[str, str]]:
    """The first word of each line, and the rest of the line."""
    for count, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        first, _, rest = line.strip().partition(" ")
        if first and not rest:
            raise UserError(f"{file} line {count}: {line.strip()!r} is not a word, a space and a value")
        if first:
            yield first, rest.strip()


def _stanford_cars(content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """Stanford Cars (https://ai.stanford.edu/~jkrause/cars/car_dataset.html): MATLAB files of the devkit.

    ``class_names`` in cars_meta.mat, and in the others ``annotations`` with ``class``, from 1 on, and
    ``fname``, in cars_train/ or cars_test/.
    """
    meta, train, test = LAYOUT_FILES["stanford-cars"]
    names = [str(name) for name in _matlab(meta, content[meta], "class_names")]
    parts: tuple[tuple[SplitName, str], ...] = (("train", train), ("test", test))
    for split, file in parts:
        for count, entry in enumerate(_matlab(file, content[file], "annotations"), 1):
            try:
                number, image = int(entry["class"]), str(entry["fname"])
                class_name = names[number - 1] if number > 0 else ""
            except (KeyError, IndexError, ValueError, TypeError):
                raise UserError(
                    f"{file} entry {count}: has no class that {meta} names, or no fname"
                ) from None
            yield LabelRow(f"{file} entry {count}", f"cars_{split}/{image}", class_name, split)


def _matlab(file: str, data: bytes, variable: str) -> Any:
    """The entries of a variable in a MATLAB file: text, or records of text and numbers."""
    from scipy.io import loadmat  # slow to import, and rarely needed

    try:
        found = loadmat(io.BytesIO(data), simplify_cells=True)[variable]
    except KeyError:
        raise UserError(f"{file}: has no variable {variable}") from None
    except Exception as error:  # scipy raises a dozen types for damaged files
        raise UserError(f"{file}: not readable as a MATLAB file: {error}") from None
    return [found] if isinstance(found, (str, dict)) else found  # a single entry
