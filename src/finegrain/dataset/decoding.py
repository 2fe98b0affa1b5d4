"""Decode one image file to upright sRGB: the only place where images are decoded.

`finegrain export` copies this module beside the ONNX graph, for use without finegrain: it imports NumPy and
Pillow alone, and pi-heif where that is installed.
"""

import functools
import io
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

try:
    import pi_heif
except ImportError:  # optional: the extra heif
    pi_heif = None
else:
    pi_heif.register_heif_opener(thumbnails=False)

MAX_PIXELS = 178_956_970
"""Pillow's own limit: an image whose header has more is rejected as a decompression bomb."""

Fit = Literal["squash", "crop", "letterbox"]
PADDING = (124, 116, 104)
"""Color around a letterboxed image, sRGB: ImageNet's mean, which the usual normalization turns into 0."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", *(("HEIF",) if pi_heif else ()))
"""Accepted formats; JPEG includes MPO. Without the list Pillow would also open EPS, with Ghostscript."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UNREAD = {
    b"II*\0": "a TIFF or RAW photo of a kind that is not read",
    b"MM\0*": "a TIFF or RAW photo of a kind that is not read",
    b"\0\0\0\x0cJXL ": "JPEG XL is not read",
    b"\xff\x0a": "JPEG XL is not read",
    b"\0\0\0\x0cjP  ": "JPEG 2000 is not read",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    **dict.fromkeys(
        (b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx ", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM"),
        "a RAW photo: develop it to JPEG",
    ),
    b"\0\5\x16\7": "what macOS leaves beside a file (AppleDouble)",
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`",
}  # by the first bytes of a file
_DNG_VERSION, _SUBFILE_TYPE, _ORIENTATION = 0xC612, 0x00FE, 0x0112
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

_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_MODES_OF = {"RGB": ("RGB", "P", "L", "1"), "L": ("L", "1"), "CMYK": ("CMYK",)}
"""Image modes that a profile can belong to, by the mode of the profile."""
_SRGB_TOLERANCE = 3
"""A profile that changes no color by more than this, of 255, is sRGB under one of its many names."""


class BadImage(ValueError):
    """The bytes are not an image that can be used; the message is the reason, in one line."""


def decode_square(data: bytes, size: int, fit: Fit = "squash") -> Image.Image:
    """Decode and resize to ``size`` x ``size``, for training and prediction.

    Pillow's bilinear filter is antialiased; torchvision's ``resize(antialias=True)`` reproduces it.

    Args:
        fit: ``squash`` resizes any aspect ratio to a square, ``crop`` takes the center square of the shorter
            side, ``letterbox`` takes the whole image and puts it in the center of a square of ``PADDING``.
    """
    image, filter_ = decode(data, size), Image.Resampling.BILINEAR
    if fit == "crop":
        return ImageOps.fit(image, (size, size), filter_)
    if fit == "squash":
        return image.resize((size, size), filter_)
    # ImageOps.pad would round one side of a very long image to 0 pixels
    width, height = (max(1, round(size * side / max(image.size))) for side in image.size)
    square = Image.new("RGB", (size, size), PADDING)
    square.paste(image.resize((width, height), filter_), ((size - width) // 2, (size - height) // 2))
    return square


def decode(data: bytes, target_size: int | None = None) -> Image.Image:
    """Decode the whole file to upright sRGB: first frame, transparent parts on white, 16 bits scaled to 8.

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
            if _is_preview(image, data):
                raise BadImage("a RAW photo, of which only a preview could be read: convert it to JPEG")
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


def _is_preview(image: Image.Image, data: bytes) -> bool:
    """Whether it is RAW: Pillow reads DNG, NEF and CR2 as TIFFs, whose first image is a small preview."""
    if image.format != "TIFF":
        return False
    tags = image.getexif()
    return data[8:10] == b"CR" or _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE) == 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if the EXIF block is missing or damaged: the image may still be good."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error, zlib.error):
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        raise BadImage("floating-point pixels of unknown range")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if not image.has_transparency_data:
        return _to_srgb(image, profile)
    layer = image.convert("RGBA")
    opaque = image.getchannel("L") if image.mode == "LA" else layer.convert("RGB")
    white = Image.new("RGBA", layer.size, "white")
    color = _to_srgb(opaque, profile).convert("RGBA")
    color.putalpha(layer.getchannel("A"))
    return Image.alpha_composite(white, color).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale gray of 16 bits, which ``convert()`` would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("32-bit pixels of unknown range")
    gray = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if isinstance(transparent := image.info.get("transparency"), int):
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an opaque image to sRGB; without a profile that fits, its colors are taken for sRGB."""
    if profile:
        mode, transform = _srgb_transform(profile)
        if transform and image.mode in _MODES_OF[mode]:
            converted = transform.apply(image.convert(mode))
            assert converted is not None
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() always copies


@functools.lru_cache(maxsize=8)  # the photos of a camera share one profile
def _srgb_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode of the images that have this ICC profile, and their conversion to sRGB.

    The conversion is None if the profile is sRGB itself, is damaged, or is of a color space that no image
    here has: as in a browser, the photo is then shown as it is.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODE_OF_SPACE[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError):
        return "RGB", None
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    colors = Image.fromarray(cube if mode == "RGB" else np.arange(256, dtype=np.uint8)[None])
    converted = transform.apply(colors)
    difference = np.asarray(converted).astype(int) - np.asarray(colors.convert("RGB"))
    return mode, transform if np.abs(difference).max() > _SRGB_TOLERANCE else None


def _guess_content(data: bytes) -> str:
    """What a file that is not an image seems to be instead."""
    start = data[:100].lstrip()
    if not start:
        return "empty file" if not data else "blank bytes"
    if start.startswith(b"<"):
        return "a web page or XML"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return (
            "a damaged HEIC file"
            if pi_heif
            else "HEIC is read once pi-heif is installed (pip install pi-heif)"
        )
    known = next((kind for magic, kind in _UNREAD.items() if data.startswith(magic)), None)
    return known or f"it begins with {bytes(start[:8])!r}"
