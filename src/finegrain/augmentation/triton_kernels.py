# mypy: disable-error-code="no-untyped-def"
"""How images are seen, on a GPU, in four kernels, where ``look.see`` has some hundred operators.

Each operator of torch reads and writes the whole batch: 55 MB an image of 224 px with everything on, more
than half of what a step of ResNet-18 moves (benchmarks/seen_bytes.py). Here it is 4. The kernels are Triton's
(https://triton-lang.org), which torch's packages for GPUs bring along; Triton compiles each for the operators
that are on, once, and keeps it on disk. A batch is always seen alike: nothing is added up in an order that
changes.

What the operators mean is said where torch's are: crop.py, warp.py, colour.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from finegrain.augmentation.sampling import SampledAugmentation

BLOCK = 512
"""Pixels that a program of the grid makes."""
OPTIONS = {"BLOCK": BLOCK, "enable_fp_fusion": False}
"""Of every launch: products and sums are rounded one by one, whatever the version of Triton."""


def transform_images(
    source: Tensor, chosen: Tensor | None, views: SampledAugmentation, side: int, padding: int, normal: Tensor
) -> Tensor:
    """As ``look.see``, with everything on a GPU."""
    source, views = source.contiguous(), views.each(Tensor.contiguous)
    chosen = None if chosen is None else chosen.contiguous()
    _, height, width, _ = source.shape
    n, pixels, at = len(views.crops), side * side, source.device
    narrow = torch.empty((n, height, side, 3), dtype=torch.float16, device=at)
    square = torch.empty((n, side, side, 3), dtype=torch.float16, device=at)
    out = torch.empty((n, side, side, 3), dtype=torch.float32, device=at)
    boxes = views.crops, views.flips
    _resample[_grid(height * side, n)](
        source, chosen, *boxes, narrow, height, width, side, ACROSS=True, **OPTIONS
    )
    _resample[_grid(pixels, n)](narrow, None, *boxes, square, height, side, side, ACROSS=False, **OPTIONS)
    moved = views.offsets, padding, views.homographies, views.brightness
    grid = _grid(pixels, n)
    greys = None
    if views.contrast is not None:
        greys = torch.empty((n, grid[0]), dtype=torch.float32, device=at)
        _sum_luma[grid](square, side, *moved, greys, **OPTIONS)
    parts = 1 if greys is None else triton.next_power_of_2(grid[0])  # no new kernel for each image size
    colours = views.contrast, greys, views.saturation, views.hue
    _finish[grid](square, side, *moved, *colours, views.erasures, normal, out, PARTS=parts, **OPTIONS)
    return out.permute(0, 3, 1, 2)


def _grid(values: int, n: int) -> tuple[int, int]:
    return triton.cdiv(values, BLOCK), n


@triton.jit
def _resample(
    source, chosen, crops, flips, out, height, width, side, ACROSS: tl.constexpr, BLOCK: tl.constexpr
):
    """Antialiased resize of one axis of ``[.., height, width, 3]`` to ``side`` pixels, float16.

    The weights are those of ``crop.resampling``. ACROSS: of the width, mirrored where that is wanted, and
    only the rows within the crop are made; else of the height.
    """
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = place // side
    column = place - row * side
    top = tl.load(crops + 4 * n).to(tl.int32)
    left = tl.load(crops + 4 * n + 1).to(tl.int32)
    tall = tl.load(crops + 4 * n + 2).to(tl.int32)
    wide = tl.load(crops + 4 * n + 3).to(tl.int32)
    if ACROSS:
        image = n
        if chosen is not None:
            image = tl.load(chosen + n)
        start, length, rows, step = left, wide, height, 3
        made = (row >= top) & (row < top + tall)
        at = tl.where(tl.load(flips + n), side - 1 - column, column)
        base = source + image * height * width * 3 + row * width * 3
    else:
        start, length, rows, step = top, tall, side, width * 3
        made = row < side
        at = row
        base = source + n * height * width * 3 + column * 3
    scale = length.to(tl.float32) / side
    reach = tl.maximum(scale, 1.0)
    centre = start + (at + 0.5) * scale
    first = tl.floor(centre - reach + 0.5).to(tl.int32)
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    weights = tl.zeros([BLOCK], tl.float32)
    taps = tl.ceil(2 * reach).to(tl.int32)
    if ACROSS:
        begun = tl.program_id(0) * BLOCK // side
        ended = (tl.program_id(0) * BLOCK + BLOCK - 1) // side
        taps = tl.where((ended >= top) & (begun < top + tall), taps, 0)
    for tap in range(taps):
        pixel = first + tap
        inside = made & (pixel >= start) & (pixel < start + length)
        weight = tl.maximum(1 - tl.abs(pixel + 0.5 - centre) / reach, 0.0)
        weight = tl.where(inside, weight, 0.0)
        value = base + pixel * step
        red += weight * tl.load(value, mask=inside, other=0).to(tl.float32)
        green += weight * tl.load(value + 1, mask=inside, other=0).to(tl.float32)
        blue += weight * tl.load(value + 2, mask=inside, other=0).to(tl.float32)
        weights += weight
    weights = tl.where(made, weights, 1.0)
    value = out + n * rows * side * 3 + place * 3
    tl.store(value, (red / weights).to(tl.float16), mask=made)
    tl.store(value + 1, (green / weights).to(tl.float16), mask=made)
    tl.store(value + 2, (blue / weights).to(tl.float16), mask=made)


@triton.jit
def _load_pixel(square, n, y, x, there, side, offsets, padding):
    """Red, green, blue where ``there``, else black; as the padding crop shows it."""
    if offsets is not None:
        y += tl.load(offsets + 2 * n).to(tl.int32) - padding
        x += tl.load(offsets + 2 * n + 1).to(tl.int32) - padding
        there = there & (y >= 0) & (y < side) & (x >= 0) & (x < side)
    pixel = square + n * side * side * 3 + (y * side + x) * 3
    red = tl.load(pixel, mask=there, other=0).to(tl.float32)
    green = tl.load(pixel + 1, mask=there, other=0).to(tl.float32)
    blue = tl.load(pixel + 2, mask=there, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def _reflect(where, side):
    """A place in pixels, 0 being the centre of the first one, reflected into the image; as in grid_sample."""
    where = tl.abs(where + 0.5)
    times = tl.floor(where / side)
    rest = where - times * side
    odd = (times - 2 * tl.floor(times / 2)) > 0.5
    where = tl.where(odd, side - rest, rest) - 0.5
    return tl.minimum(tl.maximum(where, 0.0), side - 1.0)


@triton.jit
def _row(matrix, x, y):
    """A row of a homography times (x, y, 1)."""
    return (
        tl.load(matrix).to(tl.float32) * x
        + tl.load(matrix + 1).to(tl.float32) * y
        + tl.load(matrix + 2).to(tl.float32)
    )


@triton.jit
def _warped_pixel(square, n, place, side, offsets, padding, homographies, brightness):
    """Red, green, blue after the padding crop, the homography and the brightness."""
    there = place < side * side
    y = place // side
    x = place % side
    if homographies is None:
        red, green, blue = _load_pixel(square, n, y, x, there, side, offsets, padding)
    else:
        h = homographies + 9 * n
        to_x = (2 * x + 1).to(tl.float32) / side - 1
        to_y = (2 * y + 1).to(tl.float32) / side - 1
        u = _row(h, to_x, to_y)
        v = _row(h + 3, to_x, to_y)
        w = _row(h + 6, to_x, to_y)
        from_x = _reflect(((u / w + 1) * side - 1) / 2, side)
        from_y = _reflect(((v / w + 1) * side - 1) / 2, side)
        left = tl.floor(from_x)
        top = tl.floor(from_y)
        to_right = from_x - left
        down = from_y - top
        red = tl.zeros_like(to_x)
        green = tl.zeros_like(to_x)
        blue = tl.zeros_like(to_x)
        for corner in tl.static_range(4):
            yy = top.to(tl.int32) + corner // 2
            xx = left.to(tl.int32) + corner % 2
            weight = (down if corner // 2 else 1 - down) * (to_right if corner % 2 else 1 - to_right)
            r, g, b = _load_pixel(
                square, n, yy, xx, there & (yy < side) & (xx < side), side, offsets, padding
            )
            red += weight * r
            green += weight * g
            blue += weight * b
    if brightness is not None:
        factor = tl.load(brightness + n)
        red, green, blue = _clamp(red * factor, green * factor, blue * factor)
    return red, green, blue


@triton.jit
def _clamp(red, green, blue):
    return (
        tl.minimum(tl.maximum(red, 0.0), 255.0),
        tl.minimum(tl.maximum(green, 0.0), 255.0),
        tl.minimum(tl.maximum(blue, 0.0), 255.0),
    )


@triton.jit
def _luma(red, green, blue):
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _sum_luma(
    square, side, offsets, padding, homographies, brightness, greys, BLOCK: tl.constexpr
):  # fmt: skip
    """Sums ``[n, blocks]`` of the grey of each block of pixels, from whose mean the contrast is taken."""
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    red, green, blue = _warped_pixel(square, n, place, side, offsets, padding, homographies, brightness)
    tl.store(greys + n * tl.num_programs(0) + tl.program_id(0), tl.sum(_luma(red, green, blue), 0))


@triton.jit
def _hue_channel(sixths, value, chroma, start):
    k = sixths + start
    k = k - 6 * tl.floor(k / 6)
    return value - chroma * tl.minimum(tl.maximum(tl.minimum(k, 4 - k), 0.0), 1.0)


@triton.jit
def _shift_hue(red, green, blue, turns):
    """``turns`` added to the hue, as ``colour.adjust`` does it."""
    low = tl.minimum(tl.minimum(red, green), blue)
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - low
    by = tl.where(chroma > 0, chroma, 1.0)
    other = tl.where(value == green, 2 + (blue - red) / by, 4 + (red - green) / by)
    sixths = tl.where(value == red, (green - blue) / by, other) + 6 * turns
    return (
        _hue_channel(sixths, value, chroma, 5),
        _hue_channel(sixths, value, chroma, 3),
        _hue_channel(sixths, value, chroma, 1),
    )


@triton.jit
def _finish(
    square, side, offsets, padding, homographies, brightness, contrast, greys, saturation, hue, erasures,
    normal, out, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Everything after the resize, to ``[n, side, side, 3]`` float32. None: an operator is off."""
    n = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    red, green, blue = _warped_pixel(square, n, place, side, offsets, padding, homographies, brightness)
    if contrast is not None:
        part = tl.arange(0, PARTS)
        blocks = tl.num_programs(0)
        mean = tl.sum(tl.load(greys + n * blocks + part, mask=part < blocks, other=0.0), 0) / (side * side)
        factor = tl.load(contrast + n)
        red, green, blue = _clamp(
            mean + factor * (red - mean), mean + factor * (green - mean), mean + factor * (blue - mean)
        )
    if saturation is not None:
        grey = _luma(red, green, blue)
        factor = tl.load(saturation + n)
        red, green, blue = _clamp(
            grey + factor * (red - grey), grey + factor * (green - grey), grey + factor * (blue - grey)
        )
    if hue is not None:
        red, green, blue = _shift_hue(red, green, blue, tl.load(hue + n))
        red, green, blue = _clamp(red, green, blue)
    red = tl.load(normal) + red * tl.load(normal + 3)
    green = tl.load(normal + 1) + green * tl.load(normal + 4)
    blue = tl.load(normal + 2) + blue * tl.load(normal + 5)
    there = place < side * side
    if erasures is not None:
        y = place // side
        x = place % side
        top = tl.load(erasures + 4 * n)
        left = tl.load(erasures + 4 * n + 1)
        rows = (y >= top) & (y < top + tl.load(erasures + 4 * n + 2))
        erased = rows & (x >= left) & (x < left + tl.load(erasures + 4 * n + 3))
        red = tl.where(erased, 0.0, red)
        green = tl.where(erased, 0.0, green)
        blue = tl.where(erased, 0.0, blue)
    pixel = out + n * side * side * 3 + place * 3
    tl.store(pixel, red, mask=there)
    tl.store(pixel + 1, green, mask=there)
    tl.store(pixel + 2, blue, mask=there)
