"""The loss that trains, chosen by Params; each a mean over image-label pairs, in nats.

Not here: what tells good parameters from bad ones (records.py, metrics.py); no objective depends on this loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final, assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlc_core.data.dataset import Uint8
from mlc_core.params import Params

Loss = Callable[[Tensor, Tensor], Tensor]  # logits, targets: (n, classes), float32 -> a scalar

_LOWEST: Final = 1e-12  # stands for the probability 0, whose logarithm and powers have no finite gradient


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy."""
    return functional.binary_cross_entropy_with_logits(logits, targets)


def training_loss(params: Params, labels: Uint8, device: torch.device) -> Loss:
    """Choose the loss; parameters of another one have no effect.

    Parameters
    ----------
    params : Params
        `loss`, `label_smoothing` and what the chosen one takes.
    labels : (n, classes), uint8
        Of the training images; the weighted loss counts them.
    device : torch.device
        Where logits and targets will be.
    """
    return _smoothed(_hard(params, labels, device), params.label_smoothing)


def _hard(params: Params, labels: Uint8, device: torch.device) -> Loss:
    match params.loss:
        case "bce":
            return bce
        case "weighted":
            weights = _positive_weights(labels, params.pos_weight_power).to(device)
            return partial(functional.binary_cross_entropy_with_logits, pos_weight=weights)
        case "focal":
            gamma = params.focal_gamma
            return partial(asymmetric, gamma_pos=gamma, gamma_neg=gamma, clip=0.0)
        case "asymmetric":
            return partial(
                asymmetric,
                gamma_pos=params.asymmetric_gamma_pos,
                gamma_neg=params.asymmetric_gamma_neg,
                clip=params.asymmetric_clip,
            )
        case other:
            assert_never(other)


def _smoothed(loss: Loss, smoothing: float) -> Loss:
    """Move targets from 0 and 1 towards 1/2 (Szegedy et al. 2016, section 7, for two outcomes)."""
    if smoothing == 0:
        return loss
    return lambda logits, targets: loss(logits, targets * (1 - smoothing) + smoothing / 2)


def _positive_weights(labels: Uint8, power: float) -> Tensor:
    """(negatives / positives) ** power by class, (classes,), float32; 1 for a class that lacks one of the two."""
    positives = labels.sum(axis=0, dtype=np.int64)
    negatives = len(labels) - positives
    both = (positives > 0) & (negatives > 0)
    weights = np.where(both, negatives, 1) / np.where(both, positives, 1)
    return torch.from_numpy((weights**power).astype(np.float32))


def asymmetric(logits: Tensor, targets: Tensor, *, gamma_pos: float, gamma_neg: float, clip: float) -> Tensor:
    """Asymmetric loss, as a mean over pairs.

    With equal gammas and clip 0 it is the focal loss (Lin et al. 2017, eq. 4, without its alpha), with both gammas
    and clip 0 binary cross-entropy. Source: Ridnik et al. 2021, eq. 7.

    Parameters
    ----------
    logits, targets : Tensor, (n, classes), float32
        Targets may lie between 0 and 1; then a pair counts as a positive by so much, as a negative by the rest.
    gamma_pos, gamma_neg : float, at least 0
        How much less a pair counts the better it is told. The gradient goes through this factor too.
    clip : float, in [0, 1]
        A negative's probability is taken to be lower by so much, and at least 0 (eq. 5).

    Notes
    -----
    In logarithms of the sigmoid throughout: of a probability p that rounds to 1, log(1 - p) would be infinite.
    """
    log_p, log_not_p = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = (gamma_pos * log_not_p).exp() * log_p
    if clip > 0:
        log_p = (log_p.exp() - clip).clamp(min=_LOWEST).log()
        log_not_p = torch.logaddexp(log_not_p, log_not_p.new_tensor(math.log(clip))).clamp(max=0)
    negative = (gamma_neg * log_p).exp() * log_not_p
    return -(targets * positive + (1 - targets) * negative).mean()
