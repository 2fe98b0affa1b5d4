"""dataset.path names the photos, never the project itself."""

import drawn
import pytest
from toy_data import FILES

from finegrain.core.errors import UserError
from finegrain.sources import archive


@pytest.mark.parametrize("path", ["", " ", ".", "..", "./"])
def test_a_path_that_is_empty_or_holds_the_project_is_rejected(tmp_path, monkeypatch, path):
    drawn.tree(tmp_path / "project", {f"plots/{name}": data for name, data in FILES.items()})
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(UserError, match=r"^params.yaml: dataset.path: .*(is empty|contains this project)"):
        archive.store_local(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("fotos", "did you mean photos?"),
        ("x/photos", "paths count from"),
        ("../projekt", "did you mean ../project?"),
    ],
)
def test_a_path_that_is_not_there_is_named_with_one_like_it(tmp_path, monkeypatch, path, fix):
    drawn.tree(tmp_path / "project/photos", FILES)
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(UserError) as caught:
        archive.store_local(path, tmp_path / "out")
    assert str(caught.value).startswith(f"params.yaml: dataset.path: {path}: not found; {fix}")


def test_a_folder_beside_or_in_the_project_is_used(tmp_path, monkeypatch):
    for folder in ("photos", "project/photos"):
        drawn.tree(tmp_path / folder, FILES)
    monkeypatch.chdir(tmp_path / "project")
    for n, path in enumerate(("../photos", "photos")):
        archive.store_local(path, tmp_path / "out" / str(n))
        with archive.ArchiveReader(tmp_path / "out" / str(n)) as reader:
            assert reader.classes == ["cat", "dog"]
