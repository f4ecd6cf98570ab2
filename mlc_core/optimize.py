"""Optimizer and scheduler from Params, and when the scheduler steps.

Not here: which values are allowed (params.py); the loop that steps them (training.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau, StepLR

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
