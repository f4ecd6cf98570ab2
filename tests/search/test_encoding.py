"""Configurations as points: what is near, what a draw may be, and what the learning rate tells of schedulers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_core import Params, Value
from search.declaration import Choice, Domain, Range, built_in
from search.encoding import Encoding
from search.fidelity_gp import distances
from search.space import outside

STUDY = built_in("default")
SPACE = Encoding.of(STUDY)
BASE: dict[str, Value] = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4, "dropout": 0.1, "batch_size": 32}


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.5))
def test_whatever_is_drawn_anywhere_or_nearby_lies_in_the_space(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    anywhere = SPACE.draw(rng)
    for drawn in (anywhere, SPACE.near(anywhere, scale, rng)):
        assert outside(STUDY, drawn) is None
        Params.from_flat({**STUDY.fixed, **drawn})  # exactly what one scheduler needs


def test_the_default_configuration_is_the_space_nearest_to_it() -> None:
    drawn = SPACE.near_default()
    assert outside(STUDY, drawn) is None
    assert drawn.keys() == {"optimizer", "lr", "weight_decay", "dropout", "batch_size", "scheduler", "t_max"}
    space: dict[str, Domain] = {
        "optimizer": Choice(("adam",)),
        "lr": Range(1e-5, 3e-4, log=True),
        "batch_size": Choice((16, 40, 100)),
        "ema": Range(0.9, 0.999),
        "augment": Choice(("strong", "medium")),
    }
    narrow = Encoding.of(replace(STUDY, space=space, branches={}, fixed={**STUDY.fixed, "scheduler": "plateau"}))
    assert narrow.near_default() == {
        "optimizer": "adam",
        "lr": pytest.approx(3e-4),
        "batch_size": 40,
        "ema": pytest.approx(0.9),
        "augment": "strong",
    }


def test_what_is_drawn_nearby_is_nearer_than_what_is_drawn_anywhere() -> None:
    rng = np.random.default_rng(0)
    lr = next(column for column in SPACE.columns if column.key == "lr")
    start = SPACE.draw(rng)
    at = lr.place(start["lr"])
    near = [abs(lr.place(SPACE.near(start, 0.05, rng)["lr"]) - at) for _ in range(200)]
    anywhere = [abs(lr.place(SPACE.draw(rng)["lr"]) - at) for _ in range(200)]
    assert np.mean(near) < 0.06 < 0.2 < np.mean(anywhere)


@pytest.mark.parametrize("epoch", [1, 3, 12])
def test_schedulers_that_do_the_same_to_the_learning_rate_differ_by_their_name_alone(epoch: int) -> None:
    flat: list[dict[str, Value]] = [
        {**BASE, "scheduler": "step", "step_size": 12, "gamma": 0.5},
        {**BASE, "scheduler": "plateau", "factor": 0.475, "patience": 2},  # the middle of their ranges
    ]
    first, second = (SPACE.features([one], epoch) for one in flat)
    apart = distances(first, second, SPACE.categories)[:, 0, 0]
    assert np.sum(apart > 0.02) == 1
    assert apart.max() == 1.0


def test_a_learning_rate_that_falls_soon_is_far_from_one_that_stays_but_not_in_its_first_epoch() -> None:
    soon: dict[str, Value] = {**BASE, "scheduler": "step", "step_size": 1, "gamma": 0.1}
    late: dict[str, Value] = {**BASE, "scheduler": "step", "step_size": 12, "gamma": 0.1}
    first, last = (
        distances(SPACE.features([soon], epoch), SPACE.features([late], epoch), SPACE.categories).sum()
        for epoch in (1, 12)
    )
    assert first == 0.0
    assert last > 0.1
