"""The CSV of true classes: its form, how it names photos, and which ones are rejected."""

import pytest

from finegrain.core.errors import UserError
from finegrain.serving import inputs
from finegrain.serving.labels import Labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,class\na.jpg,Cat\n", "'label' .*--label-col.* image, class"),
        ("image,label\na.jpg,Cat\na.jpg,Dog\n", "twice: a.jpg"),
        ("image,label\na.jpg,Kat\n", "does not know: 1, .*'Kat'.*'Cat'"),
        ("", "is empty"),
        ("image,label,label\na.jpg,Cat,Dog\n", "several columns 'label'"),
    ],
)
def test_a_csv_that_does_not_fit_is_rejected(tmp_path, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=f"labels.csv: .*{message}"):
        Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", ["image;label\na.jpg;Cat\n", "sep=;\nimage;label\na.jpg;Cat\n"])
def test_a_csv_of_excel_is_read(tmp_path, text, encoding):
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    labels = Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])
    assert labels.class_of(inputs.Photo("in/a.jpg", "a.jpg")) == "Cat"


def test_a_csv_names_photos_in_three_ways_with_a_byte_order_mark_and_backslashes(tmp_path):
    text = "image,label\r\nin/cat\\1.jpg,Cat\r\ndog/2.jpg,Dog\r\n3.jpg,Cat\r\n"
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    labels = Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])
    names = ("cat/1.jpg", "dog/2.jpg", "x/3.jpg", "4.jpg")
    photos = [inputs.Photo(f"in/{name}", name) for name in names]
    assert [labels.class_of(photo) for photo in photos] == ["Cat", "Dog", "Cat", None]


def test_a_csv_that_names_two_photos_at_once_is_rejected_and_missing_ones_are_counted(tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\nx.jpg,Cat\ny.jpg,Dog\n")
    labels = Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])
    one, other = (inputs.Photo(f"in/{name}", name) for name in ("a/x.jpg", "b/x.jpg"))
    assert labels.missing([one]) == ["y.jpg"]
    with pytest.raises(UserError, match=r"labels.csv: x.jpg .*in/a/x.jpg .*in/b/x.jpg"):
        labels.missing([one, other])
