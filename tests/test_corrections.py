"""Labels are corrected by a table: real stages, and every way in which the table may not fit."""

import csv
import json
from pathlib import Path

import drawn
import pytest
from params_file import write_params

import download
import inputs
import pack
import split
from finegrain.core.errors import UserError
from finegrain.dataset import manifest
from finegrain.evaluation import doubtful_labels
from finegrain.evaluation.doubtful_labels import DoubtfulLabel

FILES = drawn.classes({"ant": 20, "bee": 20, "café": 20})
NO_CORRECTIONS = {"test_dropped": 0, "test_relabeled": 0, "without_effect": 0, "without_image": 0}


def run_stages(rows: str | None = None, files=FILES, **split_params) -> dict[str, tuple[str, str]]:
    """Path -> (class, split) after download, split and pack; rows make a table of corrections."""
    drawn.zip_file(Path("photos.zip"), files)
    dataset = {"name": "toy", "source": "archive", "path": "photos.zip"}
    if rows is not None:
        Path("corrections.csv").write_text(f"path,action,class\n{rows}", encoding="utf-8")
        dataset["corrections"] = "corrections.csv"
    write_params(
        Path(), dataset=dataset, split={"val_ratio": 0.2, "test_ratio": 0.2} | split_params,
        pack={"image_size": 32},
    )  # fmt: skip
    for stage in (download, split, pack):
        stage.main([])
    rows = manifest.read_manifest(Path("data/toy/manifest.csv"))
    return {row.path: (row.class_name, row.split) for row in rows}


def counts() -> dict[str, int]:
    return json.loads(Path("reports/toy/split.json").read_text())["corrections"]


def rejected() -> dict[str, str]:
    with Path("reports/toy/rejected.csv").open(newline="", encoding="utf-8") as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


def paths_in(found: dict[str, tuple[str, str]], class_name: str, split_name: str) -> list[str]:
    return [path for path, label in found.items() if label == (class_name, split_name)]


@pytest.fixture
def before(project) -> dict[str, tuple[str, str]]:
    found = run_stages()
    assert counts() is None
    return found


@pytest.mark.parametrize("near", ["list", "keep_together"])
def test_images_are_dropped_or_relabeled_and_all_others_stay_as_they_were(before, capfd, near):
    before = run_stages(near_duplicates=near)
    test_ant, train_ant = paths_in(before, "ant", "test")[0], paths_in(before, "ant", "train")[0]
    test_bee, val_bee = paths_in(before, "bee", "test")[0], paths_in(before, "bee", "val")[0]
    capfd.readouterr()
    after = run_stages(
        f"{test_ant},relabel,café\n{train_ant},relabel,bee\n{test_bee},drop,\n{val_bee},DROP,ant\n",
        near_duplicates=near,
    )
    expected = before | {test_ant: ("café", "test"), train_ant: ("bee", "train")}
    del expected[test_bee], expected[val_bee]
    assert after == expected
    assert counts() == NO_CORRECTIONS | {
        "dropped": 2, "relabeled": 2, "test_dropped": 1, "test_relabeled": 1, "without_action": 0
    }  # fmt: skip
    assert rejected() == {
        test_bee: "dropped by corrections.csv line 4",
        val_bee: "dropped by corrections.csv line 5",
    }
    metadata = json.loads(Path("data/toy/pack/pack.json").read_text())
    assert metadata["counts"] == {"train": 36, "val": 11, "test": 11}
    printed = capfd.readouterr().err
    assert "2 images dropped, 2 given another class" in printed and "changes 2 test images" in printed


def test_rows_that_change_nothing_are_counted(before, capfd):
    rows = "ant/001.png,relabel,ant\nant/002.png,,bee\nant/gone.png,drop,\n./ant\\003.png,drop,\n"
    after = run_stages(rows + "ant/003.png,drop,\n")
    assert after == {path: label for path, label in before.items() if path != "ant/003.png"}
    found = counts()
    assert (found["dropped"], found["relabeled"]) == (1, 0)
    assert (found["without_effect"], found["without_action"], found["without_image"]) == (1, 1, 1)
    assert rejected()["ant/gone.png"] == "corrections.csv line 4 names it, but there is no such image"
    assert "1 rows change nothing, 1 name no image, 1 have no action" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("ant/001.png,relabel,beee\n", "line 2: there is no class 'beee'; did you mean 'bee'"),
        ("ant/001.png,relabel,Zebra\n", "no class 'Zebra'; the classes are ant, bee, café"),
        ("ant/001.png,relabel,\n", "line 2: has no class"),
        (",drop,\n", "line 2: has no path"),
        ("ant/001.png,delete,\n", "line 2: unknown action 'delete'; write drop or relabel"),
        ("ant/001.png,drop,\nant/002.png,drop,\nant//001.png,relabel,bee\n", "line 4: .* than line 2"),
        (
            "x/1.png,drop,\ny/2.png,drop,\n",
            "no row names an image; the first row names x/1.png, and the first image is ant/",
        ),
        ("ant/001.png,drop,,x\n", "line 2: 'x' is in no column"),
        ("".join(f"{path},relabel,ant\n" for path in FILES), "only one class is left"),
    ],
)
def test_a_table_that_does_not_fit_is_rejected(before, rows, problem):
    with pytest.raises(UserError, match=problem):
        run_stages(rows)


@pytest.mark.parametrize("text", ["path,class\n", "", "path,action,class,Path\n"])
def test_a_table_without_its_columns_is_rejected(before, text):
    run_stages("")
    Path("corrections.csv").write_text(text)
    with pytest.raises(UserError, match=r"corrections.csv: (needs one column|is empty)"):
        split.main([])
    Path("corrections.csv").unlink()
    with pytest.raises(UserError, match=r"dataset.corrections: corrections.csv: not found"):
        split.main([])


def test_a_class_may_be_dropped_as_a_whole_but_not_its_train_images_alone(before, capfd):
    rows = {path: f"{path},drop,\n" for path in FILES if path.startswith("bee/")}
    after = run_stages("".join(rows.values()))
    assert after == {path: label for path, label in before.items() if path not in rows}
    assert "without an image: bee" in capfd.readouterr().err
    del rows[paths_in(before, "bee", "test")[0]]
    with pytest.raises(UserError, match="'bee' 1"):
        run_stages("".join(rows.values()))


def test_a_class_that_loses_its_train_images_of_an_official_split_is_rejected(project):
    files = {f"{part}/{name}": data for part in ("train", "test") for name, data in FILES.items()}
    files = {name: drawn.png(n) for n, name in enumerate(files)}
    rows = "".join(f"{name},relabel,bee\n" for name in files if name.startswith("train/ant"))
    with pytest.raises(UserError, match="classes .*'ant' 0"):
        run_stages(rows, files)


def test_a_bad_image_that_is_dropped_no_longer_counts(before):
    files = FILES | {f"ant/bad{n}.png": b"<html>" for n in range(2)}
    with pytest.raises(UserError, match="max_bad_ratio"):
        run_stages(files=files)
    assert run_stages("ant/bad0.png,drop,\nant/bad1.png,drop,bee\n", files) == before
    assert counts()["dropped"] == 2 and counts()["test_dropped"] == 0


def test_one_image_of_two_classes_is_settled_by_its_correction(before):
    """A copy of a bee is in the folder of ants; without corrections the first of the two paths is kept."""
    copy = paths_in(before, "bee", "test")[0]
    files = FILES | {"ant/copy.png": FILES[copy]}
    assert "ant/copy.png" in run_stages(files=files) and copy in rejected()
    after = run_stages("ant/copy.png,drop,\n", files)
    assert after == before and rejected() == {"ant/copy.png": "dropped by corrections.csv line 2"}
    after = run_stages("ant/copy.png,relabel,bee\n", files)
    assert after == before | {"ant/copy.png": before[copy]}  # both, in one split


def test_groups_stay_together(project):
    files = {
        f"{name[:3]}/{n // 2}-{n}.png": drawn.png(n) for n in range(60) for name in [list(FILES)[n % 60]]
    }
    before = run_stages(files=files, group=r"([^/]+/\d+)-")
    moved = next(path for path, label in before.items() if label == ("ant", "test"))
    after = run_stages(f"{moved},relabel,bee\n", files, group=r"([^/]+/\d+)-")
    assert after == before | {moved: ("bee", "test")}


def test_stage_inputs_records_the_table_and_nothing_of_the_download(before):
    inputs.main([])
    first = Path("reports/toy/inputs/download.json").read_bytes()
    recorded = Path("reports/toy/inputs/corrections.json")
    assert json.loads(recorded.read_text()) == {"corrections": []}
    run_stages("ant/001.png,drop,\n")
    inputs.main([])
    assert Path("reports/toy/inputs/download.json").read_bytes() == first
    (found,) = json.loads(recorded.read_text())["corrections"]
    assert found["name"] == "corrections.csv" and len(found["sha256"]) == 64
    assert Path("data/toy/inputs/labels").resolve() == Path("corrections.csv").resolve()
    Path("corrections.csv").write_text("path,action,class\n")
    inputs.main([])
    assert json.loads(recorded.read_text())["corrections"] != [found]


def test_the_list_of_doubtful_labels_is_a_table_of_corrections(before):
    """Two edits: the actions, and where the predicted class is not the right one either, the class."""
    ants, (bee, *_) = paths_in(before, "ant", "test"), paths_in(before, "bee", "val")
    doubts = [
        DoubtfulLabel(ants[0], "test", 0, "ant", 0.01, "café", 0.9, True),
        DoubtfulLabel(bee, "val", 3, "bee", 0.02, "ant", 0.8, True),
        DoubtfulLabel(ants[1], "test", 1, "ant", 0.4, "ant", 0.4, False),
    ]
    header, *rows = [doubtful_labels.COLUMNS, *(doubt.table_row for doubt in doubts)]
    place = header.index("action")
    rows[0] = (*rows[0][:place], "relabel", *rows[0][place + 1 :])
    rows[1] = (*rows[1][:place], "drop", *rows[1][place + 1 :])
    run_stages("")
    with Path("corrections.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    split.main([])
    found = {row.path: row.class_name for row in manifest.read_manifest(Path("data/toy/manifest.csv"))}
    assert found[ants[0]] == "café" and bee not in found and found[ants[1]] == "ant"
    assert (counts()["dropped"], counts()["relabeled"], counts()["without_action"]) == (1, 1, 1)
