"""Photos of every kind that cameras and editors write, by file name."""

import drawn
import numpy as np
from PIL import Image, ImageCms

PATTERN = drawn.pattern(3)
GRAY_16 = Image.fromarray((np.arange(1024, dtype=np.uint16) * 64).reshape(32, 32))


def wide_profile() -> bytes:
    """A linear profile of RGB: lcms' own sRGB primaries without its curve are far from sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    entries = [profile[132 + 12 * n : 144 + 12 * n] for n in range(count)]
    red, green = (next(e for e in entries if e[:4] == tag) for tag in (b"rXYZ", b"gXYZ"))
    swapped = [
        e[:4] + (green if e[:4] == b"rXYZ" else red)[4:] if e[:4] in (b"rXYZ", b"gXYZ") else e
        for e in entries
    ]
    profile[132 : 132 + 12 * count] = b"".join(swapped)
    return bytes(profile)


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def rgba() -> Image.Image:
    image = PATTERN.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


PHOTOS = {
    "plain.jpg": drawn.encode(PATTERN, "JPEG"),
    "rgba.png": drawn.encode(rgba()),
    "la.png": drawn.encode(rgba().convert("LA")),
    "palette.png": drawn.encode(PATTERN.quantize(16), transparency=3),
    "gray16.png": drawn.encode(GRAY_16),
    "gray16.tif": drawn.encode(GRAY_16, "TIFF"),
    "cmyk.jpg": drawn.encode(PATTERN.convert("CMYK"), "JPEG"),
    "gray.jpg": drawn.encode(PATTERN.convert("L"), "JPEG"),
    "wide.jpg": drawn.encode(PATTERN, "JPEG", icc_profile=wide_profile()),
    "wide rgba.png": drawn.encode(rgba(), icc_profile=wide_profile()),
    **{f"turned {n}.jpg": drawn.encode(PATTERN, "JPEG", exif=with_orientation(n)) for n in range(1, 9)},
}
