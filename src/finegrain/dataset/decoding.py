"""One image file to upright RGB pixels: the only place where images are decoded."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Pillow's own limit: a larger header is taken for a decompression bomb."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""A closed list (JPEG includes MPO): Pillow would also open EPS, by starting Ghostscript on it."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of the EXIF tag Orientation; 1 is upright, 5 to 8 swap width and height."""


class BadImage(ValueError):
    """The bytes are no image that can be used; the text is the reason, in one short sentence."""


def decode_square(data: bytes, side: int) -> Image.Image:
    """Decode and squash to side x side, as stage pack stores it and as a prediction must see it.

    Pillow's bilinear filter, which is antialiased, is what torchvision's ``resize(antialias=True)`` follows.
    """
    return decode(data, side).resize((side, side), Image.Resampling.BILINEAR)


def decode(data: bytes, side: int | None = None) -> Image.Image:
    """Decode the whole file: RGB, upright, transparent parts on white, first frame, 16 bits scaled to 8.

    Args:
        side: the image is going to be reduced to about so many pixels: a JPEG may then come at 1/2, 1/4 or
            1/8 of its size, at least ``2 * side`` each way. Its whole stream is read all the same.

    Raises:
        BadImage: not an image, truncated, damaged, or more pixels than ``MAX_PIXELS``.
    """
    return decode_with_size(data, side)[0]


def decode_with_size(data: bytes, side: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """As ``decode``, with the upright (width, height) of the file's own pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS:
                raise BadImage(f"{width} x {height} pixels")
            if side is not None:
                image.draft(None, (2 * side, 2 * side))
            image.load()  # verify() would pass a truncated JPEG
            orientation = _orientation(image)
            rgb = _to_rgb(image)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not an image: {_guess_content(data)}") from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels: refused as a decompression bomb") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise a dozen types on damaged files, and none may stop the stage
        raise BadImage(str(error).split("\n")[0] or type(error).__name__) from None
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return rgb, (height, width) if orientation >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where the EXIF block is missing or damaged: that must not cost a good image."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error, zlib.error):
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow to RGB."""
    if image.mode == "F":
        raise BadImage("its pixels are floating-point numbers of an unknown range")
    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy


def _guess_content(data: bytes) -> str:
    """What a file that is no image seems to be instead."""
    start = data[:100].lstrip()
    if not start:
        return "empty file" if not data else "blank bytes"
    if start.startswith(b"<"):
        return "a web page or XML"
    return f"it begins with {bytes(start[:8])!r}"
