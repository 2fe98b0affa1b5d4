"""The sample dataset: the same seed gives the same bytes, and only the vehicle depends on the class."""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from pipeline import ROOT

from finegrain.sample import drawings, vehicles

IMAGE_SIZE, IMAGES_PER_CLASS = 48, 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return drawings.write_zip(tmp_path_factory.mktemp("sample"), IMAGES_PER_CLASS, IMAGE_SIZE, seed=0)


def images(file) -> Iterator[tuple[str, np.ndarray]]:
    """Class and pixels ``[IMAGE_SIZE, IMAGE_SIZE, 3]`` of each image."""
    with zipfile.ZipFile(file) as opened:
        for name in opened.namelist():
            yield name.split("/")[1], np.asarray(Image.open(io.BytesIO(opened.read(name))), dtype=np.float64)


def content(file) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_same_arguments_give_the_same_bytes_in_another_process(archive, tmp_path):
    code = "from pathlib import Path; from finegrain.sample import drawings\n"
    code += f"drawings.write_zip(Path({str(tmp_path)!r}), {IMAGES_PER_CLASS}, {IMAGE_SIZE}, 0)"
    environment = {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (archive, tmp_path / "sample.zip")]
    assert digests[0] == digests[1]
    assert [file.name for file in tmp_path.iterdir()] == ["sample.zip"]


def test_another_seed_gives_other_images_and_more_images_keep_the_first(archive, tmp_path):
    whole = content(archive)
    fewer = content(drawings.write_zip(tmp_path / "a", 3, IMAGE_SIZE, seed=0))
    other = content(drawings.write_zip(tmp_path / "b", 3, IMAGE_SIZE, seed=1))
    assert len(fewer) == 3 * len(vehicles.CLASS_NAMES) and all(whole[name] == fewer[name] for name in fewer)
    assert not set(other.values()) & set(whole.values())


def test_names_counts_and_sizes(archive):
    drawn = list(images(archive))
    assert len(vehicles.CLASS_NAMES) == 12
    counts = {name: sum(name == other for other, _ in drawn) for name in vehicles.CLASS_NAMES}
    assert set(counts.values()) == {IMAGES_PER_CLASS} and sum(counts.values()) == len(drawn)
    assert {pixels.shape for _, pixels in drawn} == {(IMAGE_SIZE, IMAGE_SIZE, 3)}
    assert len(set(content(archive).values())) == len(drawn)  # no image twice


def test_color_does_not_reveal_the_class(archive):
    """Nearest-neighbor classification by mean color is not much better than chance."""
    drawn = list(images(archive))
    colors = np.array([pixels.mean((0, 1)) for _, pixels in drawn])
    names = np.array([name for name, _ in drawn])
    assert all(colors[names == name].std(0).min() > 5 for name in vehicles.CLASS_NAMES)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    accuracy = (names[distance.argmin(1)] == names).mean()
    assert accuracy < 0.25  # chance is 1 / 12


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Aero Sedan 2008", "Aero Sedan 2012"),
        ("Borealis Wagon 2009", "Borealis Wagon 2012"),
        ("Corvid SUV 2012", "Dune SUV 2012"),
        ("Aero Coupe 2012", "Corvid Coupe 2012"),
    ],
)
def test_similar_classes_differ_in_small_parts_of_the_vehicle_only(one, other):
    """With the same scene, paint and pose, all other pixels are identical."""
    palette = drawings.draw_palette(np.random.default_rng(1))
    images_of_both = []
    for name in (one, other):
        canvas = drawings.draw_scene(np.random.default_rng(2), 240)
        drawings.paint_vehicle(canvas, vehicles.CLASSES[name], palette, drawings.Pose())
        images_of_both.append(np.asarray(canvas, dtype=np.int64))
    changed = (images_of_both[0] != images_of_both[1]).any(2)
    assert 0.002 < changed.mean() < 0.25
    assert not changed[:40].any() and not changed[-40:].any()
