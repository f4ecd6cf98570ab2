"""What a trial draws lies in the declared space, and `outside` says what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import Trial

from mlc_core import Params, Value
from search.declaration import Declaration, built_in, from_table
from search.space import outside, suggest
from tests.search.test_declaration import BRANCHES, DECLARATIONS, UNHURRIED
from tests.search.test_paper import FIXED, PLAIN, UNUSED

DRAWS = 300
SHARED = {"optimizer", "lr", "weight_decay", "dropout", "batch_size", "scheduler"}  # studies/default.toml, [space]
WHOLE = {"batch_size", "image_size", "step_size", "patience", "t_max"}

Drawn = tuple[Trial, dict[str, Value]]


def draws(declaration: Declaration, times: int, *, seed: int = 0) -> Iterator[Drawn]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(times):
        trial = study.ask()
        yield trial, suggest(trial, declaration)


@pytest.fixture(scope="module")
def many() -> list[Drawn]:
    """Draws from the open search."""
    return list(draws(built_in("default"), DRAWS))


def declared(**space: object) -> Declaration:
    return from_table({"name": "x", "space": space}, where="x")


def test_a_trial_draws_its_own_schedulers_parameters_and_no_others(many: list[Drawn]) -> None:
    for trial, drawn in many:
        assert trial.params.keys() == SHARED | set(BRANCHES[str(drawn["scheduler"])])
    assert {drawn["scheduler"] for _, drawn in many} == {"step", "plateau", "cosine"}


def test_every_draw_is_a_trial_that_can_be_trained(many: list[Drawn]) -> None:
    made = [Params.from_flat(drawn).to_flat() for _, drawn in many]
    assert made == [{**PLAIN, **UNUSED, **drawn} for _, drawn in many]
    assert len(made) == DRAWS


def test_the_fixed_parameters_come_along_and_are_not_drawn(many: list[Drawn]) -> None:
    for trial, drawn in many:
        assert drawn == {**FIXED, **trial.params}


def test_whole_parameters_stay_whole(many: list[Drawn]) -> None:
    kinds = {(key, type(value)) for _, drawn in many for key, value in drawn.items() if not isinstance(value, str)}
    assert kinds == {
        *((key, int) for key in WHOLE),
        *(
            (key, float)
            for key in ("lr", "weight_decay", "dropout", "gamma", "factor", "ema", "rare_below", "rare_repeat")
        ),
    }


def test_a_whole_range_reaches_both_its_ends(many: list[Drawn]) -> None:
    patience = {drawn["patience"] for _, drawn in many if "patience" in drawn}
    assert patience == {0, 1, 2, 3, 4, 5}


def test_a_logarithmic_range_gives_every_decade_its_share(many: list[Drawn]) -> None:
    # From 1e-5 to 1e-2: a third of 300 in each decade, give or take four standard deviations of a binomial count.
    for low in (1e-5, 1e-4, 1e-3):
        assert 100 - 33 < sum(low <= float(drawn["lr"]) < 10 * low for _, drawn in many) < 100 + 33


def test_a_range_with_steps_gives_its_steps_alone() -> None:
    space = declared(dropout={"low": 0.1, "high": 0.5, "step": 0.2}, batch_size={"low": 2, "high": 10, "step": 4})
    made = [drawn for _, drawn in draws(space, 50)]
    assert sorted({round(float(drawn["dropout"]), 9) for drawn in made}) == [0.1, 0.3, 0.5]
    assert {drawn["batch_size"] for drawn in made} == {2, 6, 10}


def test_a_study_with_one_scheduler_draws_its_parameters_always() -> None:
    space = declared(scheduler={"cosine": {"t_max": [6, 12]}})
    assert {tuple(drawn.items()) for _, drawn in draws(space, 30)} == {
        (("scheduler", "cosine"), ("t_max", 6)),
        (("scheduler", "cosine"), ("t_max", 12)),
    }


def test_a_fixed_scheduler_comes_with_its_fixed_parameters() -> None:
    fixed = {"scheduler": "step", "step_size": 3, "gamma": 0.5}
    space = from_table({"name": "x", "fixed": fixed, "space": {"lr": [0.1]}}, where="x")
    assert [drawn for _, drawn in draws(space, 1)] == [{**fixed, "lr": 0.1}]


@UNHURRIED
@given(DECLARATIONS, st.integers(0, 2**32 - 1))
def test_any_declaration_draws_trials_that_can_be_trained_and_lie_within_it(space: Declaration, seed: int) -> None:
    for _, drawn in draws(space, 5, seed=seed):
        assert Params.from_flat(drawn).to_flat().items() >= drawn.items()
        assert outside(space, drawn) is None


STEPS = {"low": 0.1, "high": 0.7, "step": 0.2}


@pytest.mark.parametrize(
    ("domain", "within", "beyond"),
    [
        ({"low": 0.1, "high": 0.5}, (0.1, 0.3333, 0.5), (0.0999, 0.5001)),
        ({"low": 0.1, "high": 0.5, "log": True}, (0.1, 0.3333, 0.5), (0.0999, 0.5001)),
        (STEPS, (0.1, 0.3, 0.1 + 2 * 0.2, 0.5, 0.7), (0.2, 0.31, 0.9)),
        ([0.1, 0.5], (0.1, 0.5), (0.3, 0.4)),
    ],
)
def test_what_a_domain_never_draws_is_outside(
    domain: object, within: tuple[float, ...], beyond: tuple[float, ...]
) -> None:
    space = declared(dropout=domain)
    assert [outside(space, {"dropout": value}) for value in within] == [None] * len(within)
    assert [outside(space, {"dropout": value}) for value in beyond] == [f"dropout = {value}" for value in beyond]


@pytest.mark.parametrize(
    ("flat", "stranger"),
    [
        ({"lr": 1e-3, "dropout": 0.61}, "dropout = 0.61"),
        ({"lr": 0.5, "dropout": 0.61}, "lr = 0.5"),
        ({"batch_size": 48}, "batch_size = 48"),
        ({"optimizer": "sgd"}, "optimizer = 'sgd'"),
        ({"scheduler": "cosine", "t_max": 41}, "t_max = 41"),
        ({"scheduler": "step", "gamma": 0.01, "step_size": 3}, "gamma = 0.01"),
        ({"lr": "0.001"}, "lr = '0.001'"),
    ],
)
def test_the_first_parameter_outside_is_named_with_its_value(flat: dict[str, Any], stranger: str) -> None:
    assert outside(built_in("default"), flat) == stranger


@pytest.mark.parametrize(
    "flat",
    [
        {"image_size": 64, "backbone": "resnet50"},  # fixed to others
        {"t_max": 1000},  # nobody's parameter, as no scheduler is chosen
        {"scheduler": "step", "t_max": 1000},  # another scheduler's
    ],
)
def test_what_the_study_does_not_search_is_never_outside(flat: dict[str, Any]) -> None:
    assert outside(built_in("default"), flat) is None


def test_a_scheduler_that_is_no_choice_is_outside() -> None:
    space = declared(scheduler={"step": {}, "cosine": {}})
    assert outside(space, {"scheduler": "plateau", "factor": 0.1}) == "scheduler = 'plateau'"
