"""Classes and splits from tables and known datasets' files: the same as an independent reading of them."""

import io
import json
from pathlib import Path

import drawn
import numpy as np
import pandas as pd
import pytest
from params_file import write_params
from PIL import Image
from scipy.io import savemat

import download
import pack
import split
from finegrain.core.errors import UserError
from finegrain.dataset import manifest


def configure(labels, path="photos.zip", **split_params):
    write_params(
        Path(),
        dataset={"name": "toy", "source": "archive", "path": path, "labels": labels},
        split={"val_ratio": 0.2, "test_ratio": 0.2} | split_params,
        pack={"image_size": 32},
    )


def run_stages(labels, path="photos.zip", **split_params):
    """Path -> (class, split) of the manifest after the three stages."""
    configure(labels, path, **split_params)
    for stage in (download, split, pack):
        stage.main([])
    rows = manifest.read_manifest(Path("data/toy/manifest.csv"))
    return {row.path: (row.class_name, row.split) for row in rows}


def photos(*names, first=0):
    return {name: drawn.png(first + n) for n, name in enumerate(names)}


FLAT = photos(*(f"photos/{n:03}.png" for n in range(12)))
CLASSES = ["NA", "007", "café, noir"]
TABLE = pd.DataFrame({"filename": [Path(p).name for p in FLAT], "label": [CLASSES[n % 3] for n in range(12)]})


def csv_of(table=TABLE, **options):
    return table.to_csv(index=False, **options).encode()


def expected_classes(table, images):
    """Pandas's reading: path -> class, by the name of the file."""
    read = pd.read_csv(io.BytesIO(table), dtype=str, keep_default_na=False, sep=None, engine="python")
    named = dict(zip(read.iloc[:, 0], read.iloc[:, 1], strict=True))
    return {path: named[Path(path).name] for path in images}


@pytest.mark.parametrize(
    "table",
    [
        csv_of(),
        csv_of(sep=";"),
        csv_of(sep="\t"),
        b"\xef\xbb\xbf" + csv_of(lineterminator="\r\n"),
        csv_of(quoting=1),
        csv_of().replace(b"\n", b"\n\n") + b"\n\n",
    ],
    ids=["comma", "semicolon", "tab", "BOM and CRLF", "quoted", "blank lines"],
)
def test_a_table_gives_the_classes_that_pandas_reads(project, table):
    drawn.zip_file(project / "photos.zip", FLAT | {"labels.csv": table})
    found = run_stages("labels.csv")
    assert {path: name for path, (name, _) in found.items()} == expected_classes(table, FLAT)
    metadata = json.loads(Path("data/toy/pack/pack.json").read_text())
    assert metadata["classes"] == ["007", "NA", "café, noir"]
    images, labels = (np.load(f"data/toy/pack/train{end}.npy") for end in ("", "_labels"))
    train = [path for path, (_, name) in found.items() if name == "train"]
    assert [metadata["classes"][label] for label in labels] == [found[path][0] for path in train]
    first = Image.open(io.BytesIO(FLAT[train[0]])).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(images[0], np.asarray(first))


def test_trailing_separators_and_encodings_are_read(project):
    plain = csv_of(TABLE.replace({"café, noir": "café"}))
    trailing = b"".join(line + b",\n" for line in plain.splitlines())
    only_rows = plain.splitlines()[0] + b"\n" + b"".join(line + b",,\n" for line in plain.splitlines()[1:])
    drawn.zip_file(project / "photos.zip", FLAT)
    results = []
    for data in (plain, trailing, only_rows, plain.decode().encode("utf-16")):
        Path("labels.csv").write_bytes(data)
        results.append(run_stages("labels.csv"))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    "rename",
    [
        lambda path: path.removeprefix("photos/").removesuffix(".png"),
        lambda path: path,
        lambda path: f"./{path}",
        lambda path: path.replace("/", "\\"),
        lambda path: f"/home/me/data/{path}",
        lambda path: path.replace(".png", ".PNG"),
        lambda path: path.replace("é", "e\u0301"),
    ],
    ids=["no extension", "same", "dot", "backslash", "absolute", "upper case", "NFD"],
)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_names_of_images_may_be_written_in_many_ways(project, rename, nested):
    names = [f"photos/{'abc'[n % 2] + '/' if nested else ''}é{n:02}.png" for n in range(8)]
    drawn.tree(project / "data set", files := photos(*names))
    table = pd.DataFrame({"image": map(rename, names), "class": ["x", "y"] * 4})
    (project / "labels.csv").write_bytes(csv_of(table))
    if nested and "/" not in rename(names[0]) and "\\" not in rename(names[0]):
        return
    found = run_stages("labels.csv", "data set")
    assert {path: name for path, (name, _) in found.items()} == dict(zip(files, ["x", "y"] * 4, strict=True))
    assert json.loads(Path("reports/toy/split.json").read_text())["labels_without_image"] == 0


def test_rows_and_images_that_do_not_match_are_counted_and_listed(project):
    table = csv_of() + b"gone.png,NA\nempty.png,\n"
    drawn.zip_file(project / "photos.zip", FLAT | photos("extra.png", "empty.png", first=50))
    Path("labels.csv").write_bytes(table)
    found = run_stages("labels.csv")
    assert set(found) == set(FLAT)
    summary = json.loads(Path("reports/toy/split.json").read_text())
    assert (summary["images_without_label"], summary["labels_without_image"]) == (2, 1)
    rejected = pd.read_csv("reports/toy/rejected.csv")
    assert rejected["path"].tolist() == ["empty.png", "extra.png", "gone.png"]
    assert "labels.csv line 15" in rejected["reason"][0] and "labels.csv line 14" in rejected["reason"][2]
    source = json.loads(Path("reports/toy/source.json").read_text())
    assert source["labels"][0]["name"] == "labels.csv" and source["labels"][0]["bytes"] == len(table)


def test_a_split_column_is_kept_and_one_file_for_each_split_means_the_same(project):
    table = TABLE.assign(split=["train", "Validation", "test"] * 2 + ["train"] * 6)
    table["label"] = ["a", "b"] * 6
    drawn.zip_file(project / "photos.zip", FLAT)
    Path("all.csv").write_bytes(csv_of(table))
    found = run_stages({"file": "all.csv"})
    splits = table["split"].replace("Validation", "val")
    assert found == dict(zip(FLAT, zip(table["label"], splits, strict=True), strict=True))
    for name in ("train", "val", "test"):
        Path(f"{name}.csv").write_bytes(csv_of(table[splits == name].drop(columns="split")))
    files = {name: f"{name}.csv" for name in ("train", "val", "test")}
    assert run_stages({"file": files}) == found
    assert json.loads(Path("reports/toy/split.json").read_text())["official_split"] == "train/val/test"


def test_a_column_of_groups_keeps_each_in_one_split(project):
    table = TABLE.assign(label=["a", "b"] * 6, video=[f"v{n // 2}" for n in range(12)])
    drawn.zip_file(project / "photos.zip", FLAT)
    Path("labels.csv").write_bytes(csv_of(table))
    found = run_stages({"file": "labels.csv", "group": "video"})
    splits = pd.Series([found[path][1] for path in FLAT]).groupby(table["video"]).nunique()
    assert splits.max() == 1 and {name for _, name in found.values()} == {"train", "val", "test"}
    groups = json.loads(Path("reports/toy/split.json").read_text())["groups"]
    assert groups == {"count": 6, "images_without": 0, "in_several_splits": 0, "test_images_shared": 0}


@pytest.mark.parametrize(
    ("table", "labels", "message"),
    [
        (b"", {}, "is empty"),
        (b"image,class\n", {}, "a header, but no row"),
        (b"photo,kind\n1.png,a\n", {}, "no column is recognized as the class; .* 'photo', 'kind'"),
        (csv_of(), {"class": "breed"}, "no column 'breed'; its columns are 'filename', 'label'"),
        (b"image,class,label\n1.png,a,b\n", {}, "several columns could be the class"),
        (b"image,class\n000.png,Audi, S4\n", {}, "line 2: ' S4' is in no column"),
        (b"image,class,split\n000.png,a,spare\n", {}, "line 2: 'spare' is no split"),
        (b"image,class,split\n000.png,a,train\n001.png,a,\n", {}, "line 3: the cell of the split"),
        (b"image,class\nx.png,a\n", {}, "no row names an image; the first rows name x.png"),
        (b"image,class\n000.png,a\n000.png,b\n", {}, r"class 'a' in labels.csv line 2, 'b' in labels.csv"),
        (b"image,class\n000.png,a\n", {}, "only one class"),
        (b"image,class\n000.png,\xff\n", {}, "not in UTF-8"),
        (b'image,class\n000.png,"a\n', {}, "not readable as CSV|only one class"),
    ],
)
def test_tables_that_do_not_fit_are_rejected(project, table, labels, message):
    drawn.zip_file(project / "photos.zip", FLAT)
    Path("labels.csv").write_bytes(table)
    configure({"file": "labels.csv"} | labels)
    download.main([])
    with pytest.raises(UserError, match=message):
        split.main([])


def test_a_name_that_fits_two_images_and_a_missing_table_are_rejected(project):
    drawn.zip_file(project / "photos.zip", photos("a/1.png", "b/1.png") | {"x/other.csv": b"1"})
    configure("labels.csv")
    download.main([])
    with pytest.raises(UserError, match="labels.csv: found neither inside the archive.*there: x/other.csv"):
        split.main([])
    Path("labels.csv").write_bytes(b"image,class\n1.png,a\n")
    download.main([])
    with pytest.raises(UserError, match=r"1.png fits 2 images \(a/1.png, b/1.png\)"):
        split.main([])


BIRDS = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]


def test_cub_200_2011(project):
    names = [f"{BIRDS[n % 2]}/{BIRDS[n % 2][4:]}_{n:04}.png" for n in range(12)]
    table = pd.DataFrame({"id": range(1, 13), "path": names, "class": [n % 2 + 1 for n in range(12)]})
    table["is_train"] = [int(n < 8) for n in range(12)]
    top = "CUB_200_2011"
    files = photos(*(f"{top}/images/{name}" for name in names))

    def lines(frame):
        return frame.to_csv(sep=" ", header=False, index=False).encode()

    files |= {
        f"{top}/images.txt": lines(table[["id", "path"]]),
        f"{top}/image_class_labels.txt": lines(table[["id", "class"]]),
        f"{top}/train_test_split.txt": lines(table[["id", "is_train"]]),
        f"{top}/classes.txt": lines(pd.DataFrame({"id": [1, 2], "name": BIRDS})),
        f"{top}/attributes/classes_of_attributes.txt": b"1 x\n",
    }
    drawn.tar_file(project / "CUB.tgz", files)
    found = run_stages({"layout": "cub-200-2011"}, "CUB.tgz")
    for row in table.itertuples():
        name, part = found[f"{top}/images/{row.path}"]
        assert name == BIRDS[row[3] - 1] and (part == "test") == (row.is_train == 0)
    assert len(found) == 12 and json.loads(Path("data/toy/pack/pack.json").read_text())["classes"] == BIRDS


@pytest.mark.parametrize(
    ("layout", "level"), [("fgvc-aircraft", "variant"), ("fgvc-aircraft-family", "family")]
)
def test_fgvc_aircraft(project, layout, level):
    classes, top = ["707-320", "F/A-18", "Cessna 172"], "fgvc-aircraft-2013b/data"
    numbers = [f"{n:07}" for n in range(18)]
    jpegs = {f"{top}/images/{n}.jpg": drawn.encode(drawn.pattern(int(n)), "JPEG") for n in numbers}
    table = pd.DataFrame({"number": numbers, "name": [classes[n % 3] for n in range(18)]})
    parts = {"train": table[:9], "val": table[9:12], "test": table[12:]}
    files = {
        f"images_{level}_{part}.txt": "".join(f"{n} {name}\n" for n, name in rows.to_numpy()).encode()
        for part, rows in parts.items()
    }
    drawn.tree(project / "aircraft", jpegs | {f"{top}/{name}": data for name, data in files.items()})
    found = run_stages({"layout": layout}, "aircraft")
    assert found == {
        f"{top}/images/{n}.jpg": (name, part) for part, rows in parts.items() for n, name in rows.to_numpy()
    }
    assert json.loads(Path("data/toy/pack/pack.json").read_text())["classes"] == sorted(classes)


def test_stanford_cars_from_its_devkit(project):
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
    record = [(key, object) for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]

    def matlab(**variables):
        stream = io.BytesIO()
        savemat(stream, variables)
        return stream.getvalue()

    def annotations(classes):
        rows = [(1, 1, 9, 9, c, f"{n:05}.jpg") for n, c in enumerate(classes, 1)]
        return matlab(annotations=np.array([rows_of for rows_of in rows], dtype=record)[None])

    train, test = [n % 3 + 1 for n in range(12)], [3, 1, 2, 3]
    images = {}
    for part, classes in (("train", train), ("test", test)):
        for n in range(1, len(classes) + 1):
            data = drawn.encode(drawn.pattern(100 * len(part) + n), "JPEG")
            images[f"cars_{part}/{n:05}.jpg"] = data
        drawn.tar_file(
            project / f"cars_{part}.tgz", {p: d for p, d in images.items() if p.startswith(f"cars_{part}")}
        )
    meta = matlab(class_names=np.array([names], dtype=object))
    devkit = {"devkit/cars_meta.mat": meta, "devkit/cars_train_annos.mat": annotations(train)}
    drawn.tar_file(project / "car_devkit.tgz", devkit)
    (project / "cars_test_annos_withlabels.mat").write_bytes(annotations(test))
    parts = ["cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"]
    found = run_stages({"layout": "stanford-cars"}, parts)
    for part, classes in (("train", train), ("test", test)):
        for n, number in enumerate(classes, 1):
            name, place = found[f"cars_{part}/{n:05}.jpg"]
            assert name == names[number - 1] and (place == "test") == (part == "test")
    assert len(found) == 16
