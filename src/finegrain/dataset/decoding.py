"""Decode one image file to upright RGB: the only place where images are decoded."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Pillow's own limit: an image whose header has more is rejected as a decompression bomb."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Accepted formats; JPEG includes MPO. Without the list Pillow would also open EPS, with Ghostscript."""

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
"""The operation that undoes each value of the EXIF tag Orientation; 5 to 8 swap width and height."""


class BadImage(ValueError):
    """The bytes are not an image that can be used; the message is the reason, in one line."""


def decode_square(data: bytes, size: int) -> Image.Image:
    """Decode and resize to ``size`` x ``size``, whatever the aspect ratio, for training and prediction.

    Pillow's bilinear filter is antialiased; torchvision's ``resize(antialias=True)`` reproduces it.
    """
    return decode(data, size).resize((size, size), Image.Resampling.BILINEAR)


def decode(data: bytes, target_size: int | None = None) -> Image.Image:
    """Decode the whole file to upright RGB: first frame, transparent parts on white, 16 bits scaled to 8.

    Args:
        target_size: the width and height that the image will be reduced to. A JPEG is then decoded at 1/2,
            1/4 or 1/8 of its size, at least ``2 * target_size`` each way; its whole stream is still read.

    Raises:
        BadImage: not an image, truncated, damaged, or more pixels than ``MAX_PIXELS``.
    """
    return decode_with_size(data, target_size)[0]


def decode_with_size(data: bytes, target_size: int | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Like ``decode``, and the upright (width, height) of the image at full size."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= MAX_PIXELS:
                raise BadImage(f"{width} x {height} pixels")
            if target_size is not None:
                image.draft(None, (2 * target_size, 2 * target_size))
            image.load()  # verify() accepts a truncated JPEG
            orientation = _orientation(image)
            rgb = _to_rgb(image)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"not an image: {_guess_content(data)}") from None
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels: rejected as a decompression bomb") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise a dozen types for damaged files; none may stop the stage
        raise BadImage(str(error).split("\n")[0] or type(error).__name__) from None
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return rgb, (height, width) if orientation >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if the EXIF block is missing or damaged: the image may still be good."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error, zlib.error):
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to RGB."""
    if image.mode == "F":
        raise BadImage("floating-point pixels of unknown range")
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() always copies


def _guess_content(data: bytes) -> str:
    """What a file that is not an image seems to be instead."""
    start = data[:100].lstrip()
    if not start:
        return "empty file" if not data else "blank bytes"
    if start.startswith(b"<"):
        return "a web page or XML"
    return f"it begins with {bytes(start[:8])!r}"
