"""Convolutions over maps of a few pixels, as matrix products of only those pixels and weights that meet.

Where a map is smaller than a kernel's reach, most of the kernel lies on padding: over a map of one pixel a 3 x 3 kernel
multiplies eight of its nine weights by zero, reads them, and has the optimizer step them. For images of 32 pixels the
deepest stages of a ResNet, where most of its weights are, have maps of 2 x 2 and of 1 x 1. On CPUs only: cuDNN chooses
among kernels of its own. Not here: the network (model.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from mlc_core.model import Classifier

LARGEST: Final = 2  # pixels, both sides, of an output; from 4 x 4 on oneDNN's convolutions were faster


class Alike(NamedTuple):
    """Output pixels that see the same weights, along one axis."""

    weights: slice  # counted from the first one that is kept
    outputs: tuple[int, ...]
    inputs: tuple[slice, ...]  # what each of them sees


@dataclass(frozen=True, slots=True)
class Meeting:
    """Which pixels and weights meet, along one axis.

    Attributes
    ----------
    kept : slice
        Of the kernel: the weights that meet anything.
    side : int
        Pixels of the output.
    groups : tuple of Alike
        Of all output pixels.
    """

    kept: slice
    side: int
    groups: tuple[Alike, ...]

    @classmethod
    def of(cls, size: int, *, kernel: int, stride: int, padding: int) -> Meeting:
        """Find out for a map of so many pixels."""
        starts = [output * stride - padding for output in range((size + 2 * padding - kernel) // stride + 1)]
        kept = slice(max(0, -starts[-1]), min(kernel, size - starts[0]))
        alike: dict[tuple[int, int], list[tuple[int, slice]]] = {}
        for output, start in enumerate(starts):
            first, last = max(start, 0), min(start + kernel, size)
            weights = first - start - kept.start, last - start - kept.start
            alike.setdefault(weights, []).append((output, slice(first, last)))
        groups = (Alike(slice(*weights), *zip(*pixels, strict=True)) for weights, pixels in alike.items())
        return cls(kept, len(starts), tuple(groups))


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
    weight : nn.Parameter, (height * width * inputs, outputs)
        What is left of the kernel: its part for one of its pixels is in one piece.
    """

    def __init__(self, convolution: nn.Conv2d, size: int) -> None:
        super().__init__()
        (kernel, _), (stride, _) = convolution.kernel_size, convolution.stride
        padding = convolution.padding[0]
        assert isinstance(padding, int)  # noqa: S101 - a text, such as "same", only where somebody asks for one
        self._kernel, self._meeting = kernel, Meeting.of(size, kernel=kernel, stride=stride, padding=padding)
        self.weight = nn.Parameter(self._narrowed(convolution.weight.detach()))

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, size, size) -> (n, outputs, height, width), channels_last, in the precision of autocast."""
        kind = images.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else images.dtype
        result: Tensor = _Product.apply(images.to(dtype), self.weight, self._meeting)
        return result

    def _narrowed(self, whole: Tensor) -> Tensor:
        kept = self._meeting.kept
        return whole[..., kept, kept].permute(2, 3, 1, 0).flatten(0, 2).clone(memory_format=torch.contiguous_format)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        key, kept, side = f"{prefix}weight", self._meeting.kept, self._meeting.kept.stop - self._meeting.kept.start
        ours = destination[key].unflatten(0, (side, side, -1)).permute(3, 2, 0, 1)
        destination[key] = ours.new_zeros(*ours.shape[:2], self._kernel, self._kernel)
        destination[key][..., kept, kept] = ours

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401
        key = f"{prefix}weight"
        if key in state_dict:
            state_dict[key] = self._narrowed(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Product(torch.autograd.Function):
    """One matrix product for all output pixels that see the same weights."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, meeting: Meeting) -> Tensor:  # noqa: ANN401
        pixels, factors = images.permute(0, 2, 3, 1), []
        kernel = _as_kernel(weight.to(images.dtype), pixels.shape[-1])
        outputs = pixels.new_empty(len(pixels), meeting.side, meeting.side, weight.shape[1])
        for rows, columns in product(meeting.groups, repeat=2):
            seen = [pixels[:, down, right].flatten(1) for down in rows.inputs for right in columns.inputs]
            met = kernel[rows.weights, columns.weights].flatten(0, 2)
            factors += [torch.cat(seen), met]
            told = (factors[-2] @ met).view(len(seen), len(pixels), -1)
            for (y, x), one in zip(product(rows.outputs, columns.outputs), told, strict=True):
                outputs[:, y, x] = one
        ctx.save_for_backward(*factors)
        ctx.meeting, ctx.pixels, ctx.weight = meeting, pixels.shape, (weight.shape, weight.dtype)
        return outputs.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor | None, None]:  # noqa: ANN401
        meeting: Meeting = ctx.meeting
        slopes, factors, (shape, dtype) = slope.permute(0, 2, 3, 1), iter(ctx.saved_tensors), ctx.weight
        of_pixels = slope.new_zeros(ctx.pixels)
        of_weight = torch.zeros(shape, dtype=dtype, device=slope.device) if len(meeting.groups) > 1 else None
        for rows, columns in product(meeting.groups, repeat=2):
            seen, met = next(factors), next(factors)
            here = torch.cat([slopes[:, y, x] for y, x in product(rows.outputs, columns.outputs)])
            if of_weight is None:
                of_weight = (seen.t() @ here).to(dtype)
            else:
                window = _as_kernel(of_weight, ctx.pixels[-1])[rows.weights, columns.weights]
                window += (seen.t() @ here).view(window.shape)
            each = (here @ met.t()).view(-1, len(slopes), met.shape[0])
            for (down, right), one in zip(product(rows.inputs, columns.inputs), each, strict=True):
                there = of_pixels[:, down, right]
                there += one.view(there.shape)
        return of_pixels.permute(0, 3, 1, 2), of_weight, None


def _as_kernel(weight: Tensor, inputs: int) -> Tensor:
    """See (height * width * inputs, outputs) as (height, width, inputs, outputs); the kernel is square."""
    side = math.isqrt(len(weight) // inputs)
    return weight.view(side, side, inputs, -1)


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
