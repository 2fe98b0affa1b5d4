# mypy: disable-error-code="no-untyped-def"
"""Color arithmetic of the Triton kernels, on a block of pixels: tuples of red, green and blue in float32."""

import triton
import triton.language as tl


@triton.jit
def luma(rgb):
    """As ``color.to_grayscale``."""
    return 0.2989 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


@triton.jit
def blend(base, rgb, factor):
    """``torch.lerp(base, rgb, factor)``, clamped."""
    return clamp(
        (base + factor * (rgb[0] - base), base + factor * (rgb[1] - base), base + factor * (rgb[2] - base))
    )


@triton.jit
def clamp(rgb):
    """Clamp to 0..255."""
    return (
        tl.minimum(tl.maximum(rgb[0], 0.0), 255.0),
        tl.minimum(tl.maximum(rgb[1], 0.0), 255.0),
        tl.minimum(tl.maximum(rgb[2], 0.0), 255.0),
    )


@triton.jit
def shift_hue(rgb, turns):
    """Add ``turns`` to the hue, as ``color._shift_hue`` does."""
    red, green, blue = rgb
    low = tl.minimum(tl.minimum(red, green), blue)
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - low
    divisor = tl.where(chroma > 0, chroma, 1.0)
    not_red = tl.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = tl.where(value == red, (green - blue) / divisor, not_red) + 6 * turns
    return (
        _hue_channel(sixths, value, chroma, 5),
        _hue_channel(sixths, value, chroma, 3),
        _hue_channel(sixths, value, chroma, 1),
    )


@triton.jit
def _hue_channel(sixths, value, chroma, start):
    """One channel of the color with hue ``sixths``: red, green or blue for a start of 5, 3 or 1."""
    k = sixths + start
    k = k - 6 * tl.floor(k / 6)
    return value - chroma * tl.minimum(tl.maximum(tl.minimum(k, 4 - k), 0.0), 1.0)


@triton.jit
def normalize(rgb, normalization):
    """Add each channel's offset to its value times its factor."""
    return (
        tl.load(normalization) + rgb[0] * tl.load(normalization + 3),
        tl.load(normalization + 1) + rgb[1] * tl.load(normalization + 4),
        tl.load(normalization + 2) + rgb[2] * tl.load(normalization + 5),
    )


@triton.jit
def erase(rgb, y, x, box):
    """Set pixel (y, x) to 0 where the box holds it."""
    top, left, height, width = box
    erased = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    return tl.where(erased, 0.0, rgb[0]), tl.where(erased, 0.0, rgb[1]), tl.where(erased, 0.0, rgb[2])
