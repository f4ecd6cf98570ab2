"""Optimizer and scheduler from Params, when the scheduler steps, and the moving average of the weights.

Not here: which values are allowed (params.py); the loop that steps them (training.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, assert_never

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau, StepLR

from mlc_core.model import Classifier
from mlc_core.params import Cosine, Params, Plateau, Step


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
    model : Classifier
        The one that trains; never changed here.
    decay : float, in [0, 1)
        A step, once it has grown.

    Attributes
    ----------
    network : Classifier
        With the averaged weights.

    Notes
    -----
    torch.optim.swa_utils.AveragedModel keeps its count on the device and reads it at every step, for which the host
    would wait.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.network, self._model = deepcopy(model), model
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step of the optimizer."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        (floats, counts), (new_floats, new_counts) = _tensors(self.network), _tensors(self._model)
        torch._foreach_lerp_(floats, new_floats, 1 - decay)
        torch._foreach_copy_(counts, new_counts)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step needs."""
        return {"steps": self._steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._steps = state["steps"]
        self.network.load_state_dict(state["network"])


def _tensors(model: Classifier) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """List the weights and statistics, then the counts of batch normalization, which no average suits."""
    tensors = [*model.parameters(), *model.buffers()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
