"""Side files are no photos, and photos of unread formats are reported, by the same rule everywhere."""

import drawn
import pytest
from toy_data import FILES, contents

from finegrain.core.errors import UserError
from finegrain.serving import inputs
from finegrain.sources import archive

SIDE_FILES = """
cat/@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg #recycle/cat/1.jpg cat/.@__thumb/s8001.jpg @Recycle/2.jpg
cat/SYNOFILE_THUMB_XL.jpg cat/._1.jpg __MACOSX/cat/._1.jpg .DS_Store dog/Thumbs.db dog/desktop.ini
.ipynb_checkpoints/1-checkpoint.jpg .git/a.jpg $RECYCLE.BIN/1.jpg .Trash-1000/files/1.jpg .thumbnails/1.jpg
.stversions/cat/1.jpg .picasaoriginals/1.jpg
""".split()
REPORTED = {
    "cat/7.CR2": ".cr2",
    "cat/8.dng": ".dng",
    "cat/6.ARW": ".arw",
    "dog/9.jxl": ".jxl",
    "dog/.6.jpg.icloud": ".icloud",
    ".bird/1.jpg": "hidden .jpg",
    ".raw/1.nef": "hidden .nef",
}


@pytest.fixture
def folder(tmp_path):
    return drawn.tree(tmp_path / "photos", {**FILES, **dict.fromkeys([*SIDE_FILES, *REPORTED], b"-")})


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar"])
def test_download_split_and_predict_take_the_same_photos_and_tell_the_same_others(
    tmp_path, folder, kind, capfd
):
    source = folder
    if kind != "folder":
        pack = drawn.zip_file if kind == "a.zip" else drawn.tar_file
        names = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        content = {file.relative_to(folder).as_posix(): file.read_bytes() for file in names}
        source = pack(tmp_path / kind, content)
    archive.store_local(str(source), tmp_path / "out")
    with archive.ArchiveReader(tmp_path / "out") as reader:
        assert sorted(contents(reader)) == sorted(FILES.items())
        archive.report_ignored(reader.ignored)
    printed = capfd.readouterr().err
    (found,) = inputs.find_photos([str(source)])
    assert {photo.relative_path for photo in found.photos} == set(FILES)
    assert found.ignored == {kind: 1 for kind in REPORTED.values()}
    for name, left_out in REPORTED.items():
        assert f"1 {left_out} (such as {name})" in found.ignored.photos()
        assert f"1 {left_out} (such as {name})" in printed
    assert all("develop all photos in the same way" in text for text in (printed, found.ignored.photos()))


def test_links_to_photos_are_read_and_links_to_folders_are_reported_or_rejected(tmp_path, folder):
    (tmp_path / "more").mkdir()
    (folder / "dog/linked.jpg").symlink_to(folder / "cat/1.jpg")
    (folder / "@eaDir").symlink_to(tmp_path / "more")  # a side file, whatever it is
    (found,) = inputs.find_photos([str(folder)])
    linked = {photo.relative_path: data for photo, data in found.read()}["dog/linked.jpg"]
    assert linked == FILES["cat/1.jpg"]
    archive.store_local(str(folder), tmp_path / "out")
    (folder / "fox").symlink_to(tmp_path / "more")
    (found,) = inputs.find_photos([str(folder)])
    assert found.ignored["link to a folder"] == 1 and "fox" in found.ignored.photos()
    with pytest.raises(UserError, match="fox: is a link to a folder"):
        archive.store_local(str(folder), tmp_path / "out2")


def test_a_folder_of_photos_is_left_as_it_is(tmp_path, folder):
    for path in (folder, folder / "cat", folder / "dog"):
        path.chmod(0o555)
    before = sorted((str(file), file.lstat().st_mtime_ns) for file in folder.rglob("*"))
    archive.store_local(str(folder), tmp_path / "out")
    list(inputs.find_photos([str(folder)])[0].read())
    assert sorted((str(file), file.lstat().st_mtime_ns) for file in folder.rglob("*")) == before


def test_side_files_that_a_shell_names_are_no_photos(folder):
    sources = inputs.find_photos(
        [str(folder / name) for name in ("cat", "cat/@eaDir", "#recycle", "cat/._1.jpg")]
    )
    assert [source.path.name for source in sources] == ["cat"]
    with pytest.raises(UserError, match="only what is left beside photos"):
        inputs.find_photos([str(folder / "cat/@eaDir")])


def test_a_folder_of_raw_photos_alone_is_refused_with_what_it_holds(tmp_path):
    drawn.tree(tmp_path / "raw", {"1.NEF": b"-", "2.nef": b"-"})
    with pytest.raises(UserError, match=r"holds no image .* not read: 2 .nef \(such as 1.NEF\)"):
        inputs.find_photos([str(tmp_path / "raw")])
