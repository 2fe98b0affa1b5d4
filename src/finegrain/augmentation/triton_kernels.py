# mypy: disable-error-code="no-untyped-def"
"""``transform.transform_images`` in four GPU kernels, where torch's operators need some hundred.

Each operator of torch reads and writes the whole batch: 53 MB an image of 224 px with every augmentation,
more than half of what a step of ResNet-18 moves. The kernels move 2.4 (benchmarks/augmentation_bytes.py).
They are written in Triton (https://triton-lang.org), which torch's GPU packages bring along. Triton compiles
each kernel once for the augmentations that are on, and keeps it on disk. The result is deterministic: nothing
is added up in an order that varies.

crop.py, geometry.py and color.py explain the arithmetic. A kernel takes the ``SampledAugmentation`` as one
argument: what is None in it is left out when the kernel is compiled.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from finegrain.augmentation import triton_color
from finegrain.augmentation.sampling import SampledAugmentation

BLOCK = 512
"""Output pixels of one program of the grid."""
OPTIONS = {"BLOCK": BLOCK, "enable_fp_fusion": False}
"""Options of every launch: products and sums are rounded one by one, whatever the version of Triton."""


def transform_images(
    images: Tensor,
    indices: Tensor | None,
    augmentation: SampledAugmentation,
    image_size: int,
    normalization: Tensor,
) -> Tensor:
    """``transform.transform_images`` with everything on a GPU."""
    images, augmentation = images.contiguous(), augmentation.map(Tensor.contiguous)
    indices = None if indices is None else indices.contiguous()
    n, size, device = len(augmentation.crops), image_size, images.device
    _, height, width, _ = images.shape
    narrow = torch.empty((n, height, size, 3), dtype=torch.float16, device=device)
    resized = torch.empty((n, size, size, 3), dtype=torch.float16, device=device)
    out = torch.empty((n, size, size, 3), dtype=torch.float32, device=device)
    grid = _grid(size * size, n)
    _resize_width[_grid(height * size, n)](
        images, indices, augmentation, narrow, height, width, size, **OPTIONS
    )
    _resize_height[grid](narrow, augmentation, resized, height, size, **OPTIONS)
    luma_sums, luma_blocks = None, 1
    if augmentation.contrast is not None:
        luma_sums = torch.empty((n, grid[0]), dtype=torch.float32, device=device)
        luma_blocks = triton.next_power_of_2(grid[0])  # not a kernel of its own for every image size
        _sum_luma[grid](resized, augmentation, luma_sums, size, **OPTIONS)
    _augment[grid](
        resized, augmentation, luma_sums, normalization, out, size, LUMA_BLOCKS=luma_blocks, **OPTIONS
    )
    return out.permute(0, 3, 1, 2)


def _grid(pixels: int, n: int) -> tuple[int, int]:
    return triton.cdiv(pixels, BLOCK), n


@triton.jit
def _resize_width(images, indices, augmentation, out, height, width, size, BLOCK: tl.constexpr):
    """Resize the crops' width and flip them: ``[n, height, size, 3]`` float16, rows of the crop only."""
    n, position = _block(BLOCK)
    row = position // size
    column = position - row * size
    top, left, crop_height, crop_width = _load_box(augmentation.crops, n)
    column = tl.where(tl.load(augmentation.flips + n), size - 1 - column, column)
    image = n
    if indices is not None:
        image = tl.load(indices + n)
    first_row = tl.program_id(0) * BLOCK // size
    last_row = (tl.program_id(0) * BLOCK + BLOCK - 1) // size
    outside = (last_row < top) | (first_row >= top + crop_height)
    mask = (row >= top) & (row < top + crop_height)
    line = images + image * height * width * 3 + row * width * 3
    rgb = _resize_line(line, 3, left, crop_width, size, column, mask, outside)
    _store_rgb(out + n * height * size * 3 + position * 3, rgb, mask)


@triton.jit
def _resize_height(images, augmentation, out, height, size, BLOCK: tl.constexpr):
    """Resize the crops' height, from ``_resize_width``'s output: ``[n, size, size, 3]`` float16."""
    n, position = _block(BLOCK)
    row = position // size
    column = position - row * size
    top, _left, crop_height, _crop_width = _load_box(augmentation.crops, n)
    mask = row < size
    line = images + n * height * size * 3 + column * 3
    rgb = _resize_line(line, size * 3, top, crop_height, size, row, mask, False)
    _store_rgb(out + n * size * size * 3 + position * 3, rgb, mask)


@triton.jit
def _sum_luma(images, augmentation, out, size, BLOCK: tl.constexpr):
    """Sum the luma of each block of pixels, ``[n, blocks]`` float32, for the mean that contrast needs."""
    n, position = _block(BLOCK)
    rgb = _shift_warp_brighten(images, n, position, size, augmentation)
    tl.store(out + n * tl.num_programs(0) + tl.program_id(0), tl.sum(triton_color.luma(rgb), 0))


@triton.jit
def _augment(
    images, augmentation, luma_sums, normalization, out, size,
    LUMA_BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Augment and normalize the resized images: ``[n, size, size, 3]`` float32."""
    n, position = _block(BLOCK)
    rgb = _shift_warp_brighten(images, n, position, size, augmentation)
    if augmentation.contrast is not None:
        mean = _mean_luma(luma_sums, n, size * size, LUMA_BLOCKS)
        rgb = triton_color.blend(mean, rgb, tl.load(augmentation.contrast + n))
    if augmentation.saturation is not None:
        rgb = triton_color.blend(triton_color.luma(rgb), rgb, tl.load(augmentation.saturation + n))
    if augmentation.hue is not None:
        rgb = triton_color.clamp(triton_color.shift_hue(rgb, tl.load(augmentation.hue + n)))
    rgb = triton_color.normalize(rgb, normalization)
    if augmentation.erasures is not None:
        rgb = triton_color.erase(rgb, position // size, position % size, _load_box(augmentation.erasures, n))
    _store_rgb(out + n * size * size * 3 + position * 3, rgb, position < size * size)


@triton.jit
def _block(BLOCK: tl.constexpr):
    """Index of this program's image, and the positions of its pixels in the output image."""
    return tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _load_box(boxes, n):
    """Top, left, height, width of box ``n``."""
    box = boxes + 4 * n
    return (
        tl.load(box).to(tl.int32),
        tl.load(box + 1).to(tl.int32),
        tl.load(box + 2).to(tl.int32),
        tl.load(box + 3).to(tl.int32),
    )


@triton.jit
def _load_rgb(pixel, mask):
    """Red, green, blue in float32; 0 where masked."""
    return (
        tl.load(pixel, mask=mask, other=0).to(tl.float32),
        tl.load(pixel + 1, mask=mask, other=0).to(tl.float32),
        tl.load(pixel + 2, mask=mask, other=0).to(tl.float32),
    )


@triton.jit
def _store_rgb(pixel, rgb, mask):
    """Store red, green, blue, rounded to the type of the memory."""
    tl.store(pixel, rgb[0].to(pixel.dtype.element_ty), mask=mask)
    tl.store(pixel + 1, rgb[1].to(pixel.dtype.element_ty), mask=mask)
    tl.store(pixel + 2, rgb[2].to(pixel.dtype.element_ty), mask=mask)


@triton.jit
def _resize_line(line, stride, start, length, size, output, mask, skip):
    """Antialiased resize along one axis, with the weights of ``crop.resize_weights``.

    ``line`` points to each output pixel's line of input pixels, ``stride`` values apart, of which the
    ``length`` from ``start`` on become ``size``; ``output`` is the output pixel's place among those.
    ``skip`` says that the mask is false throughout.
    """
    scale = length.to(tl.float32) / size
    radius = tl.maximum(scale, 1.0)
    center = start + (output + 0.5) * scale
    first = tl.floor(center - radius + 0.5).to(tl.int32)
    red = tl.zeros_like(center)
    green = tl.zeros_like(center)
    blue = tl.zeros_like(center)
    weights = tl.zeros_like(center)
    for tap in range(tl.where(skip, 0, tl.ceil(2 * radius).to(tl.int32))):
        pixel = first + tap
        inside = mask & (pixel >= start) & (pixel < start + length)
        weight = tl.maximum(1 - tl.abs(pixel + 0.5 - center) / radius, 0.0)
        weight = tl.where(inside, weight, 0.0)
        r, g, b = _load_rgb(line + pixel * stride, inside)
        red += weight * r
        green += weight * g
        blue += weight * b
        weights += weight
    weights = tl.where(mask, weights, 1.0)
    return red / weights, green / weights, blue / weights


@triton.jit
def _shift_warp_brighten(images, n, position, size, augmentation):
    """Red, green, blue after padding crop, homography and brightness: all that comes before contrast."""
    image = images + n * size * size * 3
    mask = position < size * size
    y = position // size
    x = position % size
    if augmentation.homographies is None:
        rgb = _load_shifted(image, n, y, x, mask, size, augmentation)
    else:
        rgb = _load_warped(image, n, y, x, mask, size, augmentation)
    if augmentation.brightness is not None:
        factor = tl.load(augmentation.brightness + n)
        rgb = triton_color.clamp((rgb[0] * factor, rgb[1] * factor, rgb[2] * factor))
    return rgb


@triton.jit
def _load_shifted(image, n, y, x, mask, size, augmentation):
    """Pixel (y, x) of the padding crop of an image; black outside the image and where masked."""
    if augmentation.offsets is not None:
        y += tl.load(augmentation.offsets + 2 * n).to(tl.int32) - augmentation.pad_crop_pixels
        x += tl.load(augmentation.offsets + 2 * n + 1).to(tl.int32) - augmentation.pad_crop_pixels
        mask = mask & (y >= 0) & (y < size) & (x >= 0) & (x < size)
    return _load_rgb(image + (y * size + x) * 3, mask)


@triton.jit
def _load_warped(image, n, y, x, mask, size, augmentation):
    """Pixel (y, x) after the homography, interpolated bilinearly from the padding crop."""
    from_y, from_x = _source_point(augmentation.homographies + 9 * n, y, x, size)
    top = tl.floor(from_y)
    left = tl.floor(from_x)
    down = from_y - top
    right = from_x - left
    red = tl.zeros_like(from_x)
    green = tl.zeros_like(from_x)
    blue = tl.zeros_like(from_x)
    for corner in tl.static_range(4):
        yy = top.to(tl.int32) + corner // 2
        xx = left.to(tl.int32) + corner % 2
        weight = (down if corner // 2 else 1 - down) * (right if corner % 2 else 1 - right)
        r, g, b = _load_shifted(image, n, yy, xx, mask & (yy < size) & (xx < size), size, augmentation)
        red += weight * r
        green += weight * g
        blue += weight * b
    return red, green, blue


@triton.jit
def _source_point(homography, y, x, size):
    """Row and column in the input, reflected into it, that the homography sends pixel (y, x) to."""
    to_y = (2 * y + 1).to(tl.float32) / size - 1
    to_x = (2 * x + 1).to(tl.float32) / size - 1
    u = _dot_row(homography, to_x, to_y)
    v = _dot_row(homography + 3, to_x, to_y)
    w = _dot_row(homography + 6, to_x, to_y)
    from_y = _reflect(((v / w + 1) * size - 1) / 2, size)
    from_x = _reflect(((u / w + 1) * size - 1) / 2, size)
    return from_y, from_x


@triton.jit
def _dot_row(row, x, y):
    """A row of a 3 x 3 matrix times (x, y, 1)."""
    return (
        tl.load(row).to(tl.float32) * x
        + tl.load(row + 1).to(tl.float32) * y
        + tl.load(row + 2).to(tl.float32)
    )


@triton.jit
def _reflect(coordinate, size):
    """Reflect a coordinate in pixels, 0 being the center of the first one, into the image, as grid_sample."""
    coordinate = tl.abs(coordinate + 0.5)
    periods = tl.floor(coordinate / size)
    rest = coordinate - periods * size
    odd = (periods - 2 * tl.floor(periods / 2)) > 0.5
    coordinate = tl.where(odd, size - rest, rest) - 0.5
    return tl.minimum(tl.maximum(coordinate, 0.0), size - 1.0)


@triton.jit
def _mean_luma(luma_sums, n, pixels, LUMA_BLOCKS: tl.constexpr):
    """Mean luma of an image of so many pixels, from the sums of ``_sum_luma``."""
    block = tl.arange(0, LUMA_BLOCKS)
    blocks = tl.num_programs(0)
    return tl.sum(tl.load(luma_sums + n * blocks + block, mask=block < blocks, other=0.0), 0) / pixels
