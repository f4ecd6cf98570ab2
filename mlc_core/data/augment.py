"""What happens to a batch of uint8 images on the compute device: resize, augmentation, normalization."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from mlc_core.params import AugmentName

SHIFT = 1 / 12  # of the image's side: far enough to teach position, near enough to keep every object in sight
CONTRAST = 0.2  # half-width of the factor's range around 1


def normalize(images: Tensor, *, mean: Tensor, std: Tensor, size: int) -> Tensor:
    """Resize and normalize.

    Parameters
    ----------
    images : Tensor, (n, 3, height, width), uint8
    mean, std : Tensor, (1, 3, 1, 1), float32, in units of [0, 255]
    size : int
        Pixels on both sides of what comes out.

    Returns
    -------
    Tensor, (n, 3, size, size), float32, channels_last
    """
    floats = images.to(torch.float32, memory_format=torch.channels_last)
    if images.shape[-2:] != (size, size):
        # antialias: without it a strong reduction samples noise instead of averaging it away
        floats = functional.interpolate(floats, size=(size, size), mode="bilinear", antialias=True)
    return floats.sub_(mean).div_(std)


def augment(images: Tensor, policy: AugmentName, *, generator: torch.Generator) -> Tensor:
    """Vary a normalized batch; each image by its own draw.

    Parameters
    ----------
    images : Tensor, (n, 3, size, size), float32, normalized
    policy : "none", "light" (shift, contrast) or "flip" (light, and mirrored left to right half the time)
    generator : torch.Generator
        On the CPU whatever the images' device, so that the same seed means the same draws everywhere.
    """
    match policy:
        case "none":
            return images
        case "light":
            return _contrast(_shift(images, generator), generator)
        case "flip":
            return _flip(_contrast(_shift(images, generator), generator), generator)
        case other:
            assert_never(other)


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to SHIFT of its side; what enters is the mean colour."""
    n, _, size, _ = images.shape
    reach = max(1, round(size * SHIFT))
    draws = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=generator).to(images.device)
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, reach, reach, reach, reach))
    span = torch.arange(size, device=images.device)
    rows, columns = draws[0] + span, draws[1] + span
    batch = torch.arange(n, device=images.device)[:, None, None]
    moved = padded[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # (n, size, size, 3) seen as (n, 3, size, size) is channels_last


def _contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    factor = torch.rand((len(images), 1, 1, 1), generator=generator).mul_(2 * CONTRAST).add_(1 - CONTRAST)
    return images * factor.to(images.device)


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = torch.rand((len(images), 1, 1, 1), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)
