"""Convolutions over maps of a few pixels, as matrix products of only those pixels and weights that meet.

Where a map is smaller than a kernel's reach, most of the kernel lies on padding: over a map of one pixel a 3 x 3 kernel
multiplies eight of its nine weights by zero, reads them, and has the optimizer step them. For images of 32 pixels the
deepest stages of a ResNet, where most of its weights are, have maps of 2 x 2 and of 1 x 1. On CPUs only: cuDNN chooses
among kernels of its own. Not here: the network (model.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from mlc_core.model import Classifier

LARGEST: Final = 2  # pixels, both sides, of an output; from 4 x 4 on oneDNN's convolutions were faster


class Pixel(NamedTuple):
    """What one output pixel sees, along one axis."""

    inputs: slice
    weights: slice


class Tap(NamedTuple):
    """Where one of the kernel's weights acts, along one axis."""

    inputs: slice
    outputs: slice


@dataclass(frozen=True, slots=True)
class Meeting:
    """Which pixels and weights meet along one axis.

    Attributes
    ----------
    kept : slice
        Of the kernel: the weights that meet anything.
    pixels : tuple of Pixel
        One an output pixel; its weights are counted from the first one kept.
    taps : tuple of Tap
        One a weight kept.
    """

    kept: slice
    pixels: tuple[Pixel, ...]
    taps: tuple[Tap, ...]

    @classmethod
    def of(cls, size: int, *, kernel: int, stride: int, padding: int) -> Meeting:
        """Find out for a map of so many pixels."""
        starts = [output * stride - padding for output in range((size + 2 * padding - kernel) // stride + 1)]
        kept = slice(max(0, -starts[-1]), min(kernel, size - starts[0]))
        pixels = []
        for start in starts:
            first, last = max(start, 0), min(start + kernel, size)
            pixels.append(Pixel(slice(first, last), slice(first - start - kept.start, last - start - kept.start)))
        taps = []
        for weight in range(kept.start, kept.stop):
            acts = [output for output, start in enumerate(starts) if 0 <= start + weight < size]
            first, last = (starts[output] + weight for output in (acts[0], acts[-1]))
            taps.append(Tap(slice(first, last + 1, stride), slice(acts[0], acts[-1] + 1)))
        return cls(kept, tuple(pixels), tuple(taps))


class SmallMapConv2d(nn.Module):
    """A convolution that holds, of its kernel, what meets the map; its state is that of the one it stands for.

    Weights that meet nothing are zero in its state: they say nothing of the images, and nothing asks for them.

    Parameters
    ----------
    convolution : nn.Conv2d
        Square, without bias, groups or dilation, and padded by at most half of its kernel.
    size : int
        Pixels of its input map, both sides.

    Attributes
    ----------
    weight : nn.Parameter, (outputs, inputs, height, width), channels_last
        What is left of the kernel.
    """

    def __init__(self, convolution: nn.Conv2d, size: int) -> None:
        super().__init__()
        (kernel, _), (stride, _) = convolution.kernel_size, convolution.stride
        padding = convolution.padding[0]
        assert isinstance(padding, int)  # noqa: S101 - a text, such as "same", only where somebody asks for one
        self._meeting = Meeting.of(size, kernel=kernel, stride=stride, padding=padding)
        self._kernel, self._kept = kernel, self._meeting.kept
        kept = convolution.weight.detach()[..., self._kept, self._kept]
        self.weight = nn.Parameter(kept.clone(memory_format=torch.channels_last))

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, size, size) -> (n, outputs, height, width), channels_last, in the precision of autocast."""
        kind = images.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
        result: Tensor = _Product.apply(images.to(dtype), self.weight, self._meeting)
        return result

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        kept = destination[f"{prefix}weight"]
        whole = kept.new_zeros(*kept.shape[:2], self._kernel, self._kernel)
        whole[..., self._kept, self._kept] = kept
        destination[f"{prefix}weight"] = whole

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401
        key = f"{prefix}weight"
        if key in state_dict:
            state_dict[key] = state_dict[key][..., self._kept, self._kept]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Product(torch.autograd.Function):
    """Forward one matrix product an output pixel, backward also one a weight of the kernel."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, meeting: Meeting) -> Tensor:  # noqa: ANN401
        pixels, kernel = images.permute(0, 2, 3, 1), weight.to(images.dtype).permute(0, 2, 3, 1)
        outputs = images.new_empty(len(images), len(meeting.pixels), len(meeting.pixels), len(kernel))
        factors = []
        for (y, row), (x, column) in product(enumerate(meeting.pixels), repeat=2):
            factors.append(kernel[:, row.weights, column.weights].flatten(1))
            outputs[:, y, x] = pixels[:, row.inputs, column.inputs].flatten(1) @ factors[-1].t()
        ctx.save_for_backward(pixels, *factors)
        ctx.meeting, ctx.kept_in = meeting, weight.dtype
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        pixels, *factors = ctx.saved_tensors
        meeting: Meeting = ctx.meeting
        slopes, of_pixels = slope.permute(0, 2, 3, 1), torch.zeros_like(pixels)
        for ((y, row), (x, column)), factor in zip(product(enumerate(meeting.pixels), repeat=2), factors, strict=True):
            seen = of_pixels[:, row.inputs, column.inputs]
            seen += (slopes[:, y, x] @ factor).view(seen.shape)
        taps, outputs, inputs = len(meeting.taps), slopes.shape[-1], pixels.shape[-1]
        of_weight = pixels.new_empty(outputs, taps, taps, inputs, dtype=ctx.kept_in)
        for (y, down), (x, right) in product(enumerate(meeting.taps), repeat=2):
            acts = slopes[:, down.outputs, right.outputs].reshape(-1, outputs)
            of_weight[:, y, x] = acts.t() @ pixels[:, down.inputs, right.inputs].reshape(-1, inputs)
        return of_pixels.permute(0, 3, 1, 2), of_weight.permute(0, 3, 1, 2), None


def fit_to(model: Classifier, size: int) -> None:
    """Replace, in place, the convolutions that see small maps in images of this size, both sides, in pixels."""
    for name, side in _maps(model, size).items():
        convolution = model.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)  # noqa: S101 - `_maps` lists no others
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, SmallMapConv2d(convolution, side))


def _maps(model: Classifier, size: int) -> dict[str, int]:
    """Find the convolutions with small outputs: the sides of their input maps, by name."""
    found: dict[str, int] = {}

    def look(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape[-1] <= LARGEST:
            found[name] = inputs[0].shape[-1]

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: look(name, inputs, output))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    tensors = (*model.named_parameters(), *model.named_buffers())
    images = torch.empty(2, 3, size, size, device="meta")  # two: batch normalization refuses a single pixel
    torch.func.functional_call(model, {name: tensor.to("meta") for name, tensor in tensors}, images)
    for hook in hooks:
        hook.remove()
    return found
