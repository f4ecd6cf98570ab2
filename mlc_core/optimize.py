"""The weights as an optimizer steps them, optimizer and scheduler from Params, and the weights' moving average.

Not here: which values are allowed (params.py); the loop that steps them (training.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau, StepLR

from mlc_core.model import Classifier
from mlc_core.params import Cosine, Params, Plateau, Step


class Weights:
    """A network's weights as an optimizer steps them in one pass: convolutions and what is small in one buffer.

    Given convolutions one by one, whose memory is in channels_last order, an optimizer copies each there and back at
    every step. Matrices it steps where they are.

    Parameters
    ----------
    model : Classifier
        Its parameters, but for matrices, become views of the buffer, in channels_last order.

    Attributes
    ----------
    model : Classifier
    stepped : list of nn.Parameter, float32
        What the optimizer is given: the buffer, (weights,), then the matrices.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self._matrices = [weight for weight in model.parameters() if weight.dim() == 2]
        self._packed = [weight for weight in model.parameters() if weight.dim() != 2]
        buffer = torch.empty(sum(weight.numel() for weight in self._packed), device=self._packed[0].device)
        for weight, view in zip(self._packed, self._views(buffer), strict=True):
            view.copy_(weight.detach())
            weight.data = view
        slopes = torch.zeros_like(buffer)
        self._slopes = self._views(slopes)
        self.stepped = [nn.Parameter(buffer), *self._matrices]
        self.stepped[0].grad = slopes

    def differentiate(self, loss: Tensor) -> None:
        """Replace the slopes by those of a loss."""
        slopes = torch.autograd.grad(loss, [*self._packed, *self._matrices])
        torch._foreach_copy_(self._slopes, slopes[: len(self._packed)])
        for matrix, slope in zip(self._matrices, slopes[len(self._packed) :], strict=True):
            matrix.grad = slope

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights as they are stepped, and the statistics of batch normalization; not copied."""
        weights = {f"stepped.{place}": weight.detach() for place, weight in enumerate(self.stepped)}
        return {**weights, **dict(self.model.named_buffers())}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what another one's `state_dict` gave."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    def _views(self, buffer: Tensor) -> list[Tensor]:
        parts = torch.split(buffer, [weight.numel() for weight in self._packed])
        return [_channels_last(part, weight.shape) for part, weight in zip(parts, self._packed, strict=True)]


def _channels_last(part: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return part.view(shape)
    outputs, inputs, height, width = shape
    return part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def optimizer(params: Params, weights: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimizer; fused, which is one pass over the weights on CPU and CUDA alike."""
    match params.optimizer:
        case "adam":
            return Adam(weights, lr=params.lr, weight_decay=params.weight_decay, fused=True)
        case "adamw":
            return AdamW(weights, lr=params.lr, weight_decay=params.weight_decay, fused=True)
        case other:
            assert_never(other)


def scheduler(params: Params, optimizer: Optimizer) -> LRScheduler:
    """Build the scheduler, which `step` advances once an epoch."""
    match params.scheduler:
        case Step(step_size=step_size, gamma=gamma):
            return StepLR(optimizer, step_size=step_size, gamma=gamma)
        case Plateau(factor=factor, patience=patience):
            return ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
        case Cosine(t_max=t_max):
            return CosineAnnealingLR(optimizer, T_max=t_max)
        case other:
            assert_never(other)


def step(scheduler: LRScheduler, *, val_loss: float) -> None:
    """Advance by one epoch."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(val_loss)  # it needs the validation loss, so every scheduler steps after evaluation
    else:
        scheduler.step()


def current_lr(optimizer: Optimizer) -> float:
    """Learning rate of the next step."""
    return float(optimizer.param_groups[0]["lr"])


class Average:
    """Exponential moving average of a network's weights, its batch normalization's statistics among them.

    Source: Polyak & Juditsky 1992 for the idea; the decay grows from 1/10 as TensorFlow's
    ExponentialMovingAverage has it, so that the random start is soon forgotten.

    Parameters
    ----------
    weights : Weights
        Of the network that trains; never changed here.
    decay : float, in [0, 1)
        A step, once it has grown.

    Attributes
    ----------
    weights : Weights
        The averaged ones, of a network of their own.

    Notes
    -----
    torch.optim.swa_utils.AveragedModel keeps its count on the device and reads it at every step, for which the host
    would wait.
    """

    def __init__(self, weights: Weights, decay: float) -> None:
        self.weights = Weights(deepcopy(weights.model))
        self._decay, self._steps = decay, 0
        # Both networks change their tensors in place, so that a step need not look for them again.
        self._floats, self._counts = _by_kind(self.weights)
        self._new_floats, self._new_counts = _by_kind(weights)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step of the optimizer."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._floats, self._new_floats, 1 - decay)
        torch._foreach_copy_(self._counts, self._new_counts)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step needs."""
        return {"steps": self._steps, "weights": self.weights.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._steps = state["steps"]
        self.weights.load_state_dict(state["weights"])


def _by_kind(weights: Weights) -> tuple[list[Tensor], list[Tensor]]:
    """List weights and statistics, then the counts of batch normalization, which no average suits."""
    tensors = list(weights.state_dict().values())
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
