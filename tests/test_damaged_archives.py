"""Any cut or flipped byte of any archive: the whole set, a rejection, or the number of what is missing."""

import tarfile
import tempfile
import zipfile
from pathlib import Path

import packed_bytes
from hypothesis import given
from hypothesis import strategies as st

from finegrain.core.errors import UserError
from finegrain.sources import archive

FILE_NAMES = st.text("ab1é ", min_size=1, max_size=5).map(lambda text: f"{text}.jpg")
FILES = st.dictionaries(FILE_NAMES, st.binary(max_size=700), min_size=1, max_size=4)
SETS = st.builds(
    lambda first, second: (
        {f"ant/{name}": data for name, data in first.items()}
        | {f"bee/{name}": data for name, data in second.items()}
    ),
    FILES,
    FILES,
)
WRITERS = {
    "stored.zip": packed_bytes.zipped,
    "deflated.zip": lambda files: packed_bytes.zipped(files, zipfile.ZIP_DEFLATED),
    "commented.zip": lambda files: packed_bytes.zipped(files, comment=b"photos"),
    "gnu.tar": packed_bytes.tar,
    "ustar.tar": lambda files: packed_bytes.tar(files, tarfile.USTAR_FORMAT),
    "joined.tar": lambda files: b"".join(packed_bytes.tar({path: data}) for path, data in files.items()),
    "a.tar.gz": packed_bytes.tar_gz,
    "joined.tar.gz": lambda files: b"".join(packed_bytes.tar_gz({p: data}) for p, data in files.items()),
}


def outcome(name: str, data: bytes) -> tuple[dict[str, bytes], int] | None:
    """The images and the number of files that were ignored; None if the archive is rejected."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / name).write_bytes(data)
        try:
            with archive.ArchiveReader(folder) as reader:
                found = {image.path: content for image, content in reader.read()}
                return found, sum(reader.ignored.values())
        except UserError as error:
            assert str(error)
            return None


# cut between two of them, joined tars are complete tars
@given(
    st.sampled_from([name for name in WRITERS if "joined" not in name]),
    SETS,
    st.floats(0, 1, exclude_max=True),
)
def test_an_archive_that_was_cut(name, files, share):
    data = WRITERS[name](files)
    assert outcome(name, data) == (files, 0)
    cut = data[: int(share * len(data))]
    assert outcome(name, cut) in (None, (files, 0))


@given(st.sampled_from(sorted(WRITERS)), SETS, st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_an_archive_with_a_flipped_byte(name, files, share, bits):
    """A tar that is not compressed has no checksum of its contents: one image may differ, none is lost."""
    data = WRITERS[name](files)
    found = outcome(name, packed_bytes.flipped(data, int(share * len(data)), bits))
    if found is None:
        return
    images, ignored = found
    if name.endswith(".tar"):
        assert images.keys() == files.keys() and not ignored
        assert sum(images[path] != files[path] for path in files) <= 1
    else:
        assert images == files


@given(SETS, st.integers(0, 3), st.integers(1, 255))
def test_joined_tars_of_which_one_was_damaged_give_all_or_nothing(files, block, bits):
    """The first bytes of each header after the first tar's end."""
    parts = [packed_bytes.tar({path: data}) for path, data in files.items()]
    at = len(parts[0]) + block * 100
    assert outcome("a.tar", packed_bytes.flipped(b"".join(parts), at, bits)) in (None, (files, 0))
