"""What happens to a batch of uint8 images on the compute device: resize, normalization, augmentation.

Each image is varied by a draw of its own, in operations over the whole batch. torchvision.transforms.v2 draws one
set of parameters for all images of a batch, and its functional kernels take one as well, so none of them is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, assert_never

import torch
from torch import Tensor
from torch.nn import functional

from mlc_core.params import AugmentName, Params

SHIFT: Final = 1 / 12  # of the image's side: far enough to teach position, near enough to keep every object in sight
CONTRAST: Final = 0.2  # half-width of the factor's range around 1
LUMA: Final = (0.299, 0.587, 0.114)  # of red, green, blue in a grey level (ITU-R BT.601)
ERASED: Final = (0.02, 0.15)  # share of an image that an erased rectangle takes; more would take whole objects
ASPECT: Final = 10 / 3  # largest ratio of a rectangle's sides, and its inverse (Zhong et al. 2020: 0.3 to 1 / 0.3)
_PART: Final = 2**21  # bytes of float32 images that a processor's cache holds from one step to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a policy may vary an image either way."""

    shift: float  # of the image's side
    rotation: float  # degrees
    scale: float  # of the size, around 1
    contrast: float  # of the factor, around 1
    saturation: float  # of the factor, around 1
    brightness: float  # standard deviations of a channel
    erase: float  # chance that a rectangle is erased


MEDIUM: Final = Reach(shift=SHIFT, rotation=10, scale=0.1, contrast=CONTRAST, saturation=0.2, brightness=0.2, erase=0.0)
STRONG: Final = Reach(shift=1 / 8, rotation=20, scale=0.2, contrast=0.4, saturation=0.4, brightness=0.4, erase=0.5)


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
    if images.shape[-2:] != (size, size):
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        # antialias: without it a strong reduction samples noise instead of averaging it away
        floats = functional.interpolate(floats, size=(size, size), mode="bilinear", antialias=True)
        return floats.sub_(mean).div_(std)
    normalized = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
    for part in _parts(normalized):
        # A channel of its own is one long run; in channels_last each three numbers would be a loop to start.
        normalized[part] = images[part].to(torch.float32).sub_(mean).div_(std)
    return normalized


def vary(images: Tensor, rare: Tensor, params: Params, *, generator: torch.Generator) -> Tensor:
    """Vary a normalized batch as the trial's parameters say.

    Parameters
    ----------
    images : Tensor, (n, 3, size, size), float32, normalized, channels_last
    rare : Tensor, (n,), bool, on the CPU
        Which images carry a rare class; they get the policy ``params.rare_augment``.
    params : Params
        Its `augment`, `rare_augment` and `flip`.
    generator : torch.Generator
        On the CPU whatever the images' device, so that the same seed means the same draws everywhere.

    Returns
    -------
    Tensor, (n, 3, size, size), float32, channels_last
    """
    rare_policy = params.augment if params.rare_augment == "same" else params.rare_augment
    if rare_policy == params.augment or not rare.any():
        varied = augment(images, params.augment, generator=generator)
    else:
        varied = torch.empty_like(images)
        for chosen, policy in ((~rare, params.augment), (rare, rare_policy)):
            if chosen.any():
                rows = chosen.nonzero()[:, 0].to(images.device)
                varied[rows] = augment(images[rows], policy, generator=generator)
    return _flip(varied, params.flip, generator)


def augment(images: Tensor, policy: AugmentName, *, generator: torch.Generator) -> Tensor:
    """Vary a normalized batch by one policy.

    Parameters
    ----------
    images : Tensor, (n, 3, size, size), float32, normalized
    policy : "none", "light", "medium" or "strong"
        Light shifts by whole pixels and changes the contrast. Medium also rotates, scales and changes saturation
        and brightness. Strong does so further, and erases a rectangle of half the images.
    generator : torch.Generator
        On the CPU.
    """
    match policy:
        case "none":
            return images
        case "light":
            return _shift_and_contrast(images, generator)
        case "medium":
            return vary_within(MEDIUM, images, generator=generator)
        case "strong":
            return vary_within(STRONG, images, generator=generator)
        case other:
            assert_never(other)


def vary_within(reach: Reach, images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Vary a normalized batch, each image by a uniform draw within the reach; arguments as `augment` takes them."""
    varied = _colour(_move(images, reach, generator), reach, generator)
    return _erase(varied, reach.erase, generator) if reach.erase else varied


def _shift_and_contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to SHIFT of its side, where what enters is the mean colour, and change its contrast."""
    n, _, size, _ = images.shape
    reach = max(1, round(size * SHIFT))
    down, right = torch.randint(0, 2 * reach + 1, (2, n), generator=generator).to(images.device)
    factor = torch.rand((n, 1, 1, 1), generator=generator).mul_(2 * CONTRAST).add_(1 - CONTRAST).to(images.device)
    varied = torch.empty_like(images, memory_format=torch.channels_last)
    for part in _parts(images):
        padded = functional.pad(images[part].permute(0, 2, 3, 1), (0, 0, reach, reach, reach, reach))
        # All places that an image can move to, as views: (n, down, right, size, size, 3).
        windows = padded.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
        moved = windows[torch.arange(len(padded), device=images.device), down[part], right[part]]
        torch.mul(moved.permute(0, 3, 1, 2), factor[part], out=varied[part])
    return varied


def _flip(images: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Mirror images left to right."""
    if chance == 0:
        return images
    mirrored = torch.rand((len(images), 1, 1, 1), generator=generator).to(images.device) < chance
    return torch.where(mirrored, images.flip(-1), images)


def _move(images: Tensor, reach: Reach, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image in one bilinear resampling; what enters is the mean colour."""
    angle, scale, right, down = _either_way(4, len(images), generator)
    angle, scale = angle * math.radians(reach.rotation), 1 + scale * reach.scale
    along, across = angle.cos() / scale, angle.sin() / scale
    right, down = right * (2 * reach.shift), down * (2 * reach.shift)  # the grid's coordinates go from -1 to 1
    rows = torch.stack([along, -across, right, across, along, down], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3).to(images.device), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def _colour(images: Tensor, reach: Reach, generator: torch.Generator) -> Tensor:
    """Change saturation, then contrast, then brightness, each image by one value for all of its pixels."""
    saturation, contrast, brightness = _either_way(3, len(images), generator)[..., None, None, None]
    saturation, contrast = 1 + saturation * reach.saturation, 1 + contrast * reach.contrast
    kept, greyed = (saturation * contrast).to(images.device), ((1 - saturation) * contrast).to(images.device)
    grey = LUMA[0] * images[:, 0:1] + LUMA[1] * images[:, 1:2] + LUMA[2] * images[:, 2:3]
    varied: Tensor = images * kept + (grey * greyed + (brightness * reach.brightness).to(images.device))
    return varied


def _erase(images: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Put the mean colour into a rectangle, in place (random erasing, Zhong et al. 2020)."""
    n, size = len(images), images.shape[-1]
    erased, area, aspect, top, left = torch.rand((5, n, 1), generator=generator)
    area = (ERASED[0] + area * (ERASED[1] - ERASED[0])) * (erased < chance)
    root = ASPECT ** (aspect - 0.5)  # of the ratio of height to width, from 1 / ASPECT to ASPECT in equal steps
    height, width = area.sqrt() * root, area.sqrt() / root
    top, left = top * (1 - height), left * (1 - width)
    centres = (torch.arange(size) + 0.5) / size
    rows = ((top <= centres) & (centres < top + height)).to(images.device)
    columns = ((left <= centres) & (centres < left + width)).to(images.device)
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _parts(images: Tensor) -> list[slice]:
    """Split a batch so that what is made of a part on the way stays in a cache; a GPU takes it whole."""
    most = len(images) if images.is_cuda else _PART // (4 * images.shape[1:].numel())
    return [slice(start, start + max(1, most)) for start in range(0, len(images), max(1, most))]


def _either_way(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Draw from [-1, 1): (count, n)."""
    return torch.rand((count, n), generator=generator).mul_(2).sub_(1)
