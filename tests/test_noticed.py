"""DVC notices what changes a result, local files and code included, and nothing else; training is a stub."""

import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from clone import TINY, Clone
from params_file import write_params
from PIL import Image
from pipeline import ROOT
from stub_stages import stages_run

pytestmark = pytest.mark.slow

RUN = "resnet18-0"
DATA = {"inputs", "download", "split", "pack"}
TRAINED = {f"train@{RUN}", f"evaluate@{RUN}", "compare"}
ARCHIVE = {"name": "sample", "source": "archive", "path": "../photos"}


def draw(folder: Path, names: list[str], first: int = 0) -> None:
    """Write a photo of noise for each name."""
    for number, name in enumerate(names):
        pixels = np.random.default_rng([first, number]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((48, 40)).save(file, quality=90)


def photos(classes: str, images: int = 20) -> list[str]:
    return [f"{name}/{number}.jpg" for name in classes.split() for number in range(images)]


def zip_folder(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for photo in sorted(folder.rglob("*.jpg")):
            archive.write(photo, photo.relative_to(folder))


@pytest.fixture(scope="module")
def module_local(stubbed, tmp_path_factory) -> Clone:
    """A run on a folder of photos beside the project; inputs, download and split are the real scripts."""
    made = stubbed.copied(tmp_path_factory.mktemp("local") / "clone")
    for stage in ("download", "split"):
        shutil.copy(ROOT / f"src/{stage}.py", made.folder / f"src/{stage}.py")
    draw(made.folder.parent / "photos", photos("ant bee"))
    write_params(made.folder, **TINY | {"dataset": ARCHIVE})
    made("dvc repro")
    made.commit("local photos")
    return made


@pytest.fixture
def local(module_local, tmp_path) -> Clone:
    """A copy with photos of its own."""
    shutil.copytree(module_local.folder.parent / "photos", tmp_path / "photos")
    made = module_local.copied(tmp_path / "clone")
    link = made.folder / "data/sample/inputs/images"
    link.unlink()
    link.symlink_to(tmp_path / "photos")  # as stage inputs does
    return made


def splits(clone: Clone) -> dict[str, str]:
    table = pd.read_csv(clone.folder / "data/sample/manifest.csv")
    return dict(zip(table["path"], table["split"], strict=True))


def test_new_time_stamps_alone_change_nothing(local):
    assert "up to date" in local("dvc status")
    for file in (local.folder.parent / "photos").rglob("*.jpg"):
        os.utime(file, (1e9, 1e9))
    assert "up to date" in local("dvc status") and not stages_run(local("dvc repro"))


def test_a_replaced_photo_is_noticed_and_trains_again(local):
    draw(local.folder.parent / "photos", ["bee/3.jpg"], first=7)
    assert "modified" in (status := local("dvc status")) and "data/sample/inputs/images" in status
    assert stages_run(local("dvc repro")) >= DATA | TRAINED
    assert "up to date" in local("dvc status")


def test_after_added_photos_and_a_class_test_images_are_test_images(local):
    before = splits(local)
    draw(local.folder.parent / "photos", [f"ant/new{n}.jpg" for n in range(8)] + photos("cat"), first=5)
    local("dvc repro split")
    after = splits(local)
    assert len(after) == len(before) + 28
    tested = {path for path, split in before.items() if split == "test"}
    assert tested and tested <= {path for path, split in after.items() if split == "test"}
    assert {path.split("/")[0] for path in after} == {"ant", "bee", "cat"}


def test_a_photo_added_to_a_zip_is_noticed(local):
    top = local.folder.parent
    zip_folder(top / "photos", top / "photos.zip")
    write_params(local.folder, **TINY | {"dataset": ARCHIVE | {"path": "../photos.zip"}})
    local("dvc repro split")
    images = len(splits(local))
    draw(top / "photos", ["bee/one-more.jpg"], first=9)
    zip_folder(top / "photos", top / "photos.zip")
    assert "data/sample/inputs/images" in local("dvc status inputs")
    local("dvc repro split")
    assert len(splits(local)) == images + 1


def test_part_files_are_watched_one_by_one(local):
    top = local.folder.parent
    for name in ("ant", "bee"):
        with zipfile.ZipFile(top / f"{name}.zip", "w") as archive:
            for photo in sorted((top / "photos" / name).iterdir()):
                archive.write(photo, f"{name}/{photo.name}")
    parts = ["../ant.zip", "../bee.zip"]
    write_params(local.folder, **TINY | {"dataset": ARCHIVE | {"path": parts}})
    local("dvc repro download")
    assert "up to date" in local("dvc status inputs download")
    with zipfile.ZipFile(top / "bee.zip", "a") as archive:
        archive.write(top / "photos/ant/0.jpg", "bee/copy.jpg")
    assert stages_run(local("dvc repro download")) == {"inputs", "download"}


def test_a_pinned_hash_rejects_a_changed_folder(local):
    sha256 = local.json("reports/sample/source.json")["sha256"]
    write_params(local.folder, **TINY | {"dataset": ARCHIVE | {"sha256": sha256}})
    local("dvc repro split")
    (local.folder.parent / "photos/ant/0.jpg").unlink()
    assert f"dataset.sha256 is {sha256}" in local("dvc repro split", code=255)


@pytest.mark.long
def test_a_clone_without_the_photos_goes_on_with_what_is_recorded(local, tmp_path):
    local(f"dvc remote add -q -d team {tmp_path / 'remote'} && dvc push -q")
    local.commit("remote")
    (tmp_path / "elsewhere").mkdir()
    other = local.colleague(local.folder, tmp_path / "elsewhere/clone")
    assert "deleted" in other("dvc status inputs")
    assert not DATA - {"pack"} & stages_run(other("dvc repro --pull"))
    output = other("dvc repro")
    assert stages_run(output) == {"inputs"} and "../photos: not on this machine" in output
    assert "up to date" in other("dvc status")
    write_params(other.folder, **TINY | {"dataset": ARCHIVE, "lr": 0.5})
    assert not DATA & stages_run(other("dvc repro"))
    write_params(other.folder, **TINY | {"dataset": ARCHIVE | {"path": "../others"}})
    assert "dataset.path: ../others: not found" in other("dvc repro", code=255)


def test_photos_that_were_moved_away_need_one_repair(local):
    """DVC 3.67 fails where a link leads nowhere."""
    (local.folder.parent / "photos").rename(local.folder.parent / "moved")
    assert "data/sample/inputs/images" in local("dvc repro", code=255)
    assert "data/sample/inputs/images" in local("finegrain repair --dvc-only")
    output = local("dvc repro")
    assert stages_run(output) == {"inputs"} and "not on this machine" in output
    assert len(list((local.folder.parent / "moved").rglob("*.jpg"))) == 40


def test_corrections_split_again_and_download_nothing(local):
    before = splits(local)
    table = local.folder / "corrections.csv"
    table.write_text("path,action,class\nant/3.jpg,drop,\n")
    write_params(local.folder, **TINY | {"dataset": ARCHIVE | {"corrections": "corrections.csv"}})
    assert stages_run(local("dvc repro pack")) == {"inputs", "split", "pack"}
    assert splits(local) == {path: split for path, split in before.items() if path != "ant/3.jpg"}
    table.write_text("path,action,class\nant/3.jpg,drop,\nant/4.jpg,drop,\n")
    assert "data/sample/inputs/labels" in local("dvc status")
    assert stages_run(local("dvc repro pack")) == {"inputs", "split", "pack"}
    assert len(splits(local)) == len(before) - 2


def test_dvc_never_removes_what_a_link_leads_to(local):
    local("dvc repro -f inputs && dvc gc -w -f && dvc checkout --force")
    local("dvc remove --outs inputs", code=1)  # DVC removes no stage with parameters in its paths
    assert len(list((local.folder.parent / "photos").rglob("*.jpg"))) == 40


@pytest.mark.long
def test_an_experiment_in_a_copy_sees_the_photos_too(local):
    output = local("dvc exp run --temp -S lr=0.5")
    assert not {"download", "split"} & stages_run(output) and f"train@{RUN}" in stages_run(output)


@pytest.fixture
def clone(stubbed, tmp_path) -> Clone:
    return stubbed.copied(tmp_path / "clone")


def test_keys_that_change_no_result_run_nothing(clone):
    write_params(clone.folder, **TINY | {"checkpoint_seconds": 5.0, "device": "cpu"})
    assert "up to date" in clone("dvc status") and not stages_run(clone("dvc repro"))


def test_the_seed_draws_the_sample_again(clone):
    write_params(clone.folder, **TINY | {"seed": 1})
    assert stages_run(clone("dvc repro download")) == {"inputs", "download"}


def test_the_seed_downloads_nothing_again(clone):
    kaggle = {"name": "sample", "source": "kaggle", "slug": "owner/cars/1"}
    write_params(clone.folder, **TINY | {"dataset": kaggle})
    clone("dvc repro download")
    changes = {"seed": 1, "weights": "IMAGENET1K_V1", "dataset": kaggle | {"labels": "labels.csv"}}
    write_params(clone.folder, **TINY | changes)
    assert stages_run(clone("dvc repro download")) == {"inputs"}


def test_code_that_is_edited_while_it_runs_is_not_recorded_as_that_which_ran(clone):
    hold = clone.folder / ".checkpoints/hold"
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    write_params(clone.folder, **TINY | {"lr": 0.5})
    lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]
    command = ["dvc", "repro", f"train@{RUN}"]
    with subprocess.Popen(
        command,
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        for _ in range(600):
            if hold.with_name("held").exists():
                break
            time.sleep(0.05)
        module = clone.folder / "src/finegrain/training/loop.py"
        code = module.read_text()
        module.write_text(code + "# edited\n")
        hold.unlink()
        output = running.communicate(timeout=60)[0]
    assert running.returncode == 255
    assert "edited while it ran (src/finegrain/training/loop.py)" in output and "Traceback" not in output
    assert yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"] == lock
    module.write_text(code)
    assert stages_run(clone(f"dvc repro train@{RUN}")) == {f"train@{RUN}"}
