"""The learning rate that a scheduler's parameters foretell, against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from mlc_core import Params, lr_factors
from mlc_core.optimize import current_lr, step
from mlc_core.optimize import scheduler as build_scheduler
from mlc_core.params import Cosine, Plateau, Scheduler, Step


@pytest.mark.parametrize(
    "scheduler",
    [Step(step_size=1, gamma=0.5), Step(step_size=4, gamma=0.1), Cosine(t_max=6), Cosine(t_max=40), Plateau()],
)
def test_the_learning_rate_is_as_foretold_while_the_loss_falls(scheduler: Scheduler) -> None:
    params = Params(lr=0.25, scheduler=scheduler)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=params.lr)
    stepped = build_scheduler(params, optimizer)
    seen = []
    for epoch in range(15):
        seen.append(current_lr(optimizer))
        optimizer.step()
        step(stepped, val_loss=1.0 / (epoch + 1))
    assert seen == pytest.approx([0.25 * factor for factor in lr_factors(scheduler, 15)], abs=1e-9)
