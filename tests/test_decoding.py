"""Every kind of image file decodes to upright RGB, and every broken one is rejected."""

import io
import struct
import zlib
from typing import get_args

import drawn
import numpy as np
import pytest
from PIL import Image

from finegrain.dataset import decoding


def pixels(data: bytes) -> np.ndarray:
    image = decoding.decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_16_bit(values: np.ndarray) -> bytes:
    return drawn.encode(Image.fromarray(values.astype(np.uint16)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_gives_the_upright_image_and_its_size(orientation, kind):
    upright = drawn.pattern(1)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera in this orientation stores it
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = drawn.encode(stored, kind, exif=exif, **options)
    image, size = decoding.decode_with_size(data)
    assert size == image.size == upright.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).max() <= 6


def test_a_damaged_exif_block_is_ignored():
    data = drawn.encode(drawn.pattern(1), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert pixels(data).shape == (32, 48, 3)


def test_16_bit_gray_is_scaled_not_clipped():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    expected = np.repeat(levels[..., None], 3, axis=2)
    assert np.array_equal(pixels(png_16_bit(levels * 257)), expected)
    pgm = b"P5 16 16 65535\n" + (levels * 257).astype(">u2").tobytes()
    assert np.array_equal(pixels(pgm), expected)
    assert pixels(png_16_bit(np.array([[128, 129]])))[0, :, 0].tolist() == [0, 1]  # rounded to the nearest
    tiff = drawn.encode(Image.fromarray(levels * 257), "TIFF")
    assert np.array_equal(pixels(tiff), expected)


def test_transparent_parts_are_white():
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    gray = Image.new("LA", (2, 1), (255, 0))
    assert pixels(drawn.encode(rgba)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert pixels(drawn.encode(palette, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert pixels(drawn.encode(palette, "GIF", transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert (pixels(drawn.encode(gray)) == 255).all()


def test_cmyk_and_gray_become_rgb():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(pixels(drawn.encode(cmyk, "JPEG", quality=100)) - [255, 0, 0]).max() <= 3
    assert (pixels(drawn.encode(Image.new("L", (8, 8), 77))) == 77).all()
    assert (pixels(drawn.encode(Image.new("1", (8, 8), 1))) == 255).all()


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = drawn.encode(frames[0], kind, save_all=True, append_images=frames[1:], **(
            {"lossless": True} if kind == "WEBP" else {}
        ))  # fmt: skip
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], kind


def test_a_camera_jpeg_of_several_images_is_read():
    data = drawn.encode(drawn.pattern(1), "MPO", save_all=True, append_images=[drawn.pattern(2)])
    assert pixels(data).shape == (32, 48, 3)


@pytest.mark.parametrize("target_size", [None, 32])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_truncated_file_is_rejected_at_any_scale(kind, target_size):
    data = drawn.encode(drawn.pattern(1, 600, 400), kind)
    decoding.decode(data, target_size)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(decoding.BadImage):
            decoding.decode(data[: int(len(data) * share)], target_size)


def test_a_flipped_byte_in_a_png_is_rejected():
    data = bytearray(drawn.png(1))
    data[len(data) // 2] ^= 1
    with pytest.raises(decoding.BadImage):
        decoding.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image: empty file"),
        (b"\0\0\0", "not an image: it begins with"),
        (b"\n <!DOCTYPE html><html>", "not an image: a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image: it begins with"),
        (b"P6 0 4 255\n", "."),
        (drawn.encode(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_a_file_that_is_not_an_image_is_rejected_with_the_reason(data, reason):
    with pytest.raises(decoding.BadImage, match=reason):
        decoding.decode(data)


def test_a_decompression_bomb_is_rejected_by_its_header():
    chunk = struct.pack(">II5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    header = b"IHDR" + chunk
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(decoding.BadImage, match="178,956,970 pixels"):
        decoding.decode(bomb + drawn.png(1)[33:])


def test_reasons_are_one_line_without_a_memory_address():
    for data in (b"junk", drawn.encode(drawn.pattern(1, 600, 400), "JPEG")[:2000], drawn.png(1)[:60]):
        with pytest.raises(decoding.BadImage) as error:
            decoding.decode(data)
        assert "0x" not in str(error.value) and "\n" not in str(error.value)


def test_a_jpeg_decoded_at_reduced_size_is_almost_the_same():
    data = drawn.encode(drawn.pattern(1, 1200, 900), "JPEG", quality=95)
    full = Image.open(io.BytesIO(data))
    assert decoding.decode(data, 64).size == (300, 225)  # decoded at a quarter
    slow = np.asarray(full.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(np.asarray(decoding.decode_square(data, 64)) - slow).max() <= 3


BANDS = Image.fromarray(
    np.repeat(np.array([[0] * 100, [100] * 100, [200] * 100], np.uint8).reshape(1, -1), 100, 0)
)
"""300 x 100: three gray squares side by side."""


@pytest.mark.parametrize("turned", [False, True])
def test_each_fit_takes_the_part_of_the_image_that_it_says(turned):
    data = drawn.encode(BANDS.transpose(Image.Transpose.ROTATE_270) if turned else BANDS)
    squash, crop, letterbox = (
        np.asarray(decoding.decode_square(data, 36, fit)).astype(int) for fit in get_args(decoding.Fit)
    )
    if turned:
        squash, crop, letterbox = (each.transpose(1, 0, 2) for each in (squash, crop, letterbox))
    assert squash[::9, [5, 17, 30]].tolist() == [[[0] * 3, [100] * 3, [200] * 3]] * 4
    assert (crop[:, 2:-2] == 100).all() and np.abs(crop - 100).max() < 100
    padding = [list(decoding.PADDING)]
    assert (
        letterbox[:12].reshape(-1, 3).tolist() == padding * 12 * 36 == letterbox[24:].reshape(-1, 3).tolist()
    )
    assert letterbox[12:24:5, [5, 17, 30]].tolist() == [[[0] * 3, [100] * 3, [200] * 3]] * 3


def test_a_square_image_is_the_same_in_every_fit():
    data = drawn.encode(drawn.pattern(1, 900, 900), "JPEG")
    squash, *others = (np.asarray(decoding.decode_square(data, 40, fit)) for fit in get_args(decoding.Fit))
    assert all(np.array_equal(squash, other) for other in others)


@pytest.mark.parametrize("fit", get_args(decoding.Fit))
@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (3, 2), (64, 65)])
def test_every_shape_fits(size, fit):
    assert decoding.decode_square(drawn.png(1, *size), 64, fit).size == (64, 64)
