"""What cameras write is decoded to sRGB; the exported decoder gives the same pixels without finegrain."""

import io
from pathlib import Path

import bare_python
import drawn
import heic
import numpy as np
import pytest
from camera_photos import PATTERN, PHOTOS, wide_profile, with_orientation
from PIL import Image, ImageCms

from finegrain.dataset import decoding


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decoding.decode(data)).astype(int)


def test_the_exported_decoder_gives_training_s_pixels_with_numpy_and_pillow_alone(tmp_path):
    folder = drawn.tree(tmp_path / "model", PHOTOS)
    (folder / "decoding.py").write_bytes(Path(decoding.__file__).read_bytes())
    code = (
        "from pathlib import Path; import numpy as np; from decoding import decode_square\n"
        f"for n in {list(PHOTOS)}: np.save(n + '.npy', np.asarray(decode_square(Path(n).read_bytes(), 24)))\n"
        "assert not {'torch', 'finegrain', 'pi_heif'} & set(sys.modules)\n"
    )
    bare_python.run(folder, code, bare_python.DECODING)
    for name, data in PHOTOS.items():
        assert np.array_equal(
            np.load(folder / f"{name}.npy"), np.asarray(decoding.decode_square(data, 24))
        ), name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_in_every_orientation(orientation):
    pytest.importorskip("pi_heif")
    found = pixels(heic.files()[orientation - 1])
    assert found.shape == (32, 48, 3)
    corners = found[[4, 4, -4, -4], [4, -4, 4, -4]]
    expected = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [240, 240, 240]]
    assert np.abs(corners - expected).max() < 12


def test_heic_without_its_package_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(decoding, "pi_heif", None)
    monkeypatch.setattr(decoding, "_FORMATS", tuple(kind for kind in decoding._FORMATS if kind != "HEIF"))
    with pytest.raises(decoding.BadImage, match="pip install pi-heif"):
        decoding.decode(heic.files()[0])


@pytest.mark.parametrize("kind", ["AVIF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_and_webp_in_every_orientation(kind, orientation):
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera in this orientation stores it
    stored = PATTERN.transpose(turn[orientation]) if orientation > 1 else PATTERN
    data = drawn.encode(stored, kind, quality=95, exif=with_orientation(orientation))
    image, size = decoding.decode_with_size(data)
    assert size == image.size == PATTERN.size
    assert np.abs(pixels(data) - np.asarray(PATTERN)).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_profile_is_applied_unless_it_is_srgb_or_damaged(kind):
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    plain = pixels(drawn.encode(PATTERN, kind, **options))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile"):
        assert np.array_equal(pixels(drawn.encode(PATTERN, kind, icc_profile=profile, **options)), plain)
    wide = pixels(drawn.encode(PATTERN, kind, icc_profile=wide_profile(), **options))
    stored = Image.fromarray(plain.astype(np.uint8))
    expected = ImageCms.profileToProfile(
        stored, io.BytesIO(wide_profile()), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.array_equal(wide, np.asarray(expected)) and np.abs(wide - plain).max() > 30


def test_16_bits_with_a_transparent_value_and_32_bits():
    values = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
    found = pixels(drawn.encode(Image.fromarray(values), transparency=0))
    assert found[..., 0].tolist() == [[255, 255], [128, 1]]
    with pytest.raises(decoding.BadImage, match="32-bit pixels"):
        decoding.decode(drawn.encode(Image.fromarray(np.array([[70_000]], dtype=np.int32)), "TIFF"))


def test_the_preview_in_a_raw_photo_is_not_taken_for_the_photo():
    tags = {0xC612: b"\1\4\0\0"}, {0x00FE: 1}
    for each in tags:
        data = drawn.encode(PATTERN, "TIFF", tiffinfo=each)
        with pytest.raises(decoding.BadImage, match="RAW"):
            decoding.decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "AppleDouble"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "TIFF or RAW"),
    ],
)
def test_foreign_content_is_named(data, reason):
    with pytest.raises(decoding.BadImage, match=reason):
        decoding.decode(data)
