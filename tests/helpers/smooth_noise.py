"""Random images without sharp edges, on which ways to resample an image agree closely."""

import torch
from torch import Tensor


def smooth_noise(n: int, height: int, width: int) -> Tensor:
    """``[n, 3, height, width]`` float32 in 0..255, always the same."""
    noise = torch.rand(n, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)


def smooth_images(n: int = 6, height: int = 48, width: int = 40) -> Tensor:
    """``[n, height, width, 3]`` uint8, as packed images are."""
    return smooth_noise(n, height, width).permute(0, 2, 3, 1).contiguous().to(torch.uint8)
