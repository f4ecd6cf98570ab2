"""Optimizers and learning rates, against the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import repeat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import Adam, AdamW

from mlc_core import Cosine, Params, Plateau, Scheduler, Step, optimize
from mlc_core.params import OptimizerName

LR = 1e-2
EPSILON = 1e-8  # Adam's, in the denominator


def weight(value: float, *, gradient: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor([value]))
    parameter.grad = torch.tensor([gradient])
    return parameter


def rates(scheduler: Scheduler, losses: Iterable[float], *, lr: float = LR) -> list[float]:
    """The learning rate of each epoch, one epoch a loss."""
    params = Params(lr=lr, scheduler=scheduler)
    optimizer = optimize.optimizer(params, [weight(1.0, gradient=0.0)])
    stepped = optimize.scheduler(params, optimizer)
    used = []
    for loss in losses:
        used.append(optimize.current_lr(optimizer))
        optimizer.step()
        optimize.step(stepped, val_loss=loss)
    return used


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("adamw", AdamW)])
def test_the_optimizer_is_the_named_one_with_the_rates_asked_for(name: OptimizerName, kind: type) -> None:
    built = optimize.optimizer(Params(optimizer=name, lr=0.03, weight_decay=0.02), [weight(1.0, gradient=0.0)])

    assert type(built) is kind
    (group,) = built.param_groups
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.03, 0.02, True)
    assert (group["betas"], group["eps"], group["amsgrad"]) == ((0.9, 0.999), EPSILON, False)  # the papers' defaults


@given(w=st.floats(0.5, 2), g=st.floats(0.5, 2), lr=st.floats(1e-4, 0.1), decay=st.floats(0, 1))
def test_adam_adds_the_decay_to_the_gradient_whose_size_its_first_step_cancels(
    w: float, g: float, lr: float, decay: float
) -> None:
    parameter = weight(w, gradient=g)

    optimize.optimizer(Params(optimizer="adam", lr=lr, weight_decay=decay), [parameter]).step()

    slope = g + decay * w
    assert parameter.item() == pytest.approx(w - lr * slope / (abs(slope) + EPSILON), rel=1e-6)


@given(w=st.floats(0.5, 2), g=st.floats(0.5, 2), lr=st.floats(1e-4, 0.1), decay=st.floats(0, 1))
def test_adamw_shrinks_the_weight_by_itself_beside_the_step(w: float, g: float, lr: float, decay: float) -> None:
    parameter = weight(w, gradient=g)

    optimize.optimizer(Params(optimizer="adamw", lr=lr, weight_decay=decay), [parameter]).step()

    assert parameter.item() == pytest.approx(w * (1 - lr * decay) - lr * g / (g + EPSILON), rel=1e-6)


@settings(deadline=None)
@given(size=st.integers(1, 6), gamma=st.floats(0.05, 1), epochs=st.integers(1, 15))
def test_step_stays_until_step_size_then_falls_by_gamma(size: int, gamma: float, epochs: int) -> None:
    expected = [LR * gamma ** (epoch // size) for epoch in range(epochs)]
    assert rates(Step(step_size=size, gamma=gamma), repeat(1.0, epochs)) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(t_max=st.integers(1, 12), epochs=st.integers(1, 30))
def test_cosine_follows_its_formula_to_zero_at_t_max_and_beyond(t_max: int, epochs: int) -> None:
    expected = [LR * (1 + math.cos(math.pi * epoch / t_max)) / 2 for epoch in range(epochs)]
    assert rates(Cosine(t_max=t_max), repeat(1.0, epochs)) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@settings(deadline=None)
@given(patience=st.integers(0, 4), factor=st.floats(0.1, 0.9), epochs=st.integers(1, 10))
def test_plateau_falls_only_after_more_than_patience_epochs_of_standstill(
    patience: int, factor: float, epochs: int
) -> None:
    # The first epoch is the best; each further patience + 1 without improvement cost one fall.
    falls = [max(epoch - 1, 0) // (patience + 1) for epoch in range(epochs)]
    # From 10, and over 10 epochs, torch's smallest change of a rate, which is absolute, does not show.
    expected = [10 * factor**fall for fall in falls]
    assert rates(Plateau(factor=factor, patience=patience), repeat(1.0, epochs), lr=10) == pytest.approx(expected)


@given(st.integers(0, 3))
@settings(deadline=None)
def test_plateau_never_falls_while_the_loss_does(patience: int) -> None:
    losses = [1 / epoch for epoch in range(1, 10)]
    assert rates(Plateau(patience=patience), losses) == [LR] * 9


def test_an_improvement_makes_plateau_patient_again() -> None:
    losses = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert rates(Plateau(patience=2, factor=0.1), losses) == pytest.approx([LR] * 7 + [LR * 0.1])


def test_only_plateau_looks_at_the_loss() -> None:
    for scheduler in (Step(step_size=2), Cosine(t_max=4)):
        assert rates(scheduler, [1.0, 2.0, math.inf, 0.1]) == rates(scheduler, [1.0] * 4)
    assert rates(Plateau(patience=0), [1.0, 2.0, 3.0]) != rates(Plateau(patience=0), [3.0, 2.0, 1.0])
