"""Importance on studies whose truth is known: what decides comes first, chance does not count, pruned trials do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from search.evidence import standing
from search.importance import Importance, Importances, Method, importances
from search.space import suggest
from search.study import DIVERGED, METRICS, Study, open_study
from search.trials import PAPER
from search.views import trial_rows
from tests.search.test_views import row
from tests.small import call

EPOCHS = 12
Curve = Callable[[Mapping[str, Any], np.random.Generator], Sequence[float]]


def curve(level: float) -> list[float]:
    """A loss that falls to the level."""
    return [level + 0.3 * math.exp(-epoch / 2) for epoch in range(1, EPOCHS + 1)]


def by_lr(params: Mapping[str, Any], random: np.random.Generator) -> list[float]:
    """The nearer the learning rate is to 1e-3, the better; nothing else matters."""
    return curve(0.1 * math.exp(0.8 * math.log10(params["lr"] / 1e-3) ** 2 + 0.1 * random.normal()))


def by_chance(_: Mapping[str, Any], random: np.random.Generator) -> list[float]:
    return curve(0.1 * math.exp(0.3 * random.normal()))


def add(
    study: Study,
    params: Mapping[str, Any],
    losses: Sequence[float],
    *,
    state: str = "COMPLETE",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Put a trial into the study as one that reported these losses."""
    mute = optuna.create_study()
    mute.enqueue_trial(dict(params))
    asked = mute.ask()
    suggest(asked, study.declaration)
    study.optuna.add_trial(
        create_trial(
            state=TrialState[state],
            value=min(losses) if state == "COMPLETE" else None,
            params=asked.params,
            distributions=asked.distributions,
            intermediate_values=dict(enumerate(losses, 1)),
            user_attrs=dict(attributes or {}),
        )
    )


def fill(study: Study, trials: int, losses: Curve, *, seed: int = 0, halving: bool = False) -> None:
    """Draw trials at random from the study's space; halved: three of four stop after epoch 1 if worse than others."""
    random = np.random.default_rng(seed)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    first: list[float] = []
    for _ in range(trials):
        asked = drawn.ask()
        suggest(asked, study.declaration)
        line = list(losses(asked.params, random))
        first.append(line[0])
        hopeless = halving and sum(one < line[0] for one in first) >= max(1, len(first) // 4)
        state = TrialState.PRUNED if hopeless else TrialState.COMPLETE
        line = line[:1] if hopeless else line
        study.optuna.add_trial(
            create_trial(
                state=state,
                value=None if hopeless else min(line),
                params=asked.params,
                distributions=asked.distributions,
                intermediate_values=dict(enumerate(line, 1)),
                user_attrs={METRICS: {"val_loss": line, "train_loss": [0.9 * one for one in line]}},
            )
        )


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with open_study("default", f"sqlite:///{tmp_path}/search.db", create=True) as opened:
        yield opened


def of(found: Importances, key: str) -> Importance:
    return next(one for one in found.rows if one.key == key)


def test_the_parameter_that_decides_comes_first_and_is_more_than_chance(study: Study) -> None:
    fill(study, 60, by_lr)
    found = importances(study)
    assert (found.trials, found.complete, found.top) == (60, 60, 6)
    assert found.rows[0].key == "lr"
    assert found.rows[0].told
    assert found.rows[0].share > 0.5
    assert sum(one.share for one in found.rows) == pytest.approx(1)
    assert sum(bool(one.told) for one in found.rows[1:]) <= 2  # one in twenty is more than chance by chance


def test_what_pruned_trials_show_counts_though_their_values_do_not(study: Study) -> None:
    fill(study, 80, by_lr, halving=True)
    found = importances(study)
    assert found.trials == 80
    assert found.complete < 40
    assert found.rows[0].key == "lr"
    assert of(found, "lr").p == pytest.approx(1 / 101)


def test_values_by_chance_make_nothing_important(study: Study) -> None:
    fill(study, 60, by_chance)
    found = importances(study)
    assert sum(bool(one.told) for one in found.rows) <= 2
    assert all(one.p is not None and 0 < one.p <= 1 for one in found.rows)


def test_shares_are_optunas_own_where_nothing_was_pruned(study: Study) -> None:
    fill(study, 40, by_lr)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=5 / 40)
    theirs = optuna.importance.get_param_importances(study.optuna, evaluator=evaluator)
    assert {one.key: one.share for one in importances(study).rows} == pytest.approx(theirs)


def test_a_schedulers_own_parameter_is_told_by_the_trials_that_have_it(study: Study) -> None:
    def losses(params: Mapping[str, Any], random: np.random.Generator) -> list[float]:
        level = 0.1 if params.get("t_max", 0) > 28 else 0.3
        return curve(level * math.exp(0.05 * random.normal()))

    fill(study, 90, losses)
    found = importances(study)
    having = sum("t_max" in one.params for one in trial_rows(study))
    assert of(found, "t_max").trials == having < 60
    assert of(found, "t_max").told
    assert found.untold == ()


@pytest.mark.filterwarnings("ignore")  # scikit-learn's, of its own parts
def test_fanova_finds_the_same_and_says_of_what_it_tells_nothing(study: Study) -> None:
    fill(study, 40, by_lr)
    found = importances(study, Method.FANOVA)
    assert found.rows[0].key == "lr"
    assert found.untold == ("factor", "gamma", "patience", "step_size", "t_max")
    assert {one.told for one in found.rows} == {None}


def test_replays_of_documented_trials_change_nothing(study: Study) -> None:
    fill(study, 30, by_lr)
    before = importances(study)
    for number in (1, 2, 3):
        add(study, {"lr": 1e-4, "optimizer": "adam", "scheduler": "cosine"}, curve(0.001), attributes={PAPER: number})
    after = importances(study)
    assert (after.rows, after.trials, after.paper) == (before.rows, before.trials, 3)


def test_of_too_few_trials_nothing_is_told(study: Study) -> None:
    fill(study, 9, by_lr)
    assert importances(study).rows == ()
    fill(study, 1, by_lr, seed=1)
    assert importances(study).rows


PRUNED = st.tuples(st.integers(1, 11), st.floats(0.01, 1))


@given(st.lists(st.floats(0.01, 1), max_size=5), st.lists(PRUNED, max_size=8))
def test_a_stopped_trial_never_stands_before_a_complete_one_nor_an_earlier_before_a_later(
    complete: list[float], pruned: list[tuple[int, float]]
) -> None:
    rows = [row(at, value=value, reports={12: value}, epoch=12) for at, value in enumerate(complete)]
    rows += [
        row(100 + at, "pruned", value, reports={epoch: value}, epoch=epoch) for at, (epoch, value) in enumerate(pruned)
    ]
    rows += [row(200, "pruned", note="epoch 1: the training loss is nan"), row(201, "running", reports={1: 0.001})]
    ranked = standing(rows)
    assert ranked[-1].number == 200
    assert [one.value for one in ranked[: len(complete)]] == sorted(complete)
    assert [(-one.epoch, one.value) for one in ranked[len(complete) : -1]] == sorted((-e, v) for e, v in pruned)


def test_a_paused_trial_stands_among_the_stopped_and_one_that_never_began_nowhere() -> None:
    rows = [
        row(0, "paused", reports={1: 0.5, 2: 0.4}, epoch=2),
        row(1, "waiting"),
        row(4, "waiting", reports={1: 0.3}, epoch=1),  # it was interrupted
        row(2, "pruned", 0.45, reports={2: 0.45}, epoch=2),
        row(3, value=0.6, reports={12: 0.6}, epoch=12),
    ]
    assert [one.number for one in standing(rows)] == [3, 0, 2, 4]


def test_the_command_prints_a_table_or_json_and_of_too_few_trials_a_sentence(study: Study, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/search.db"
    early = call("importance", folder=tmp_path, storage=storage)
    assert early.stdout == ""
    assert early.stderr == "0 finished trials are too few to tell importances: at least 10 are needed.\n"
    fill(study, 60, by_lr)
    add(study, {"lr": 1e-2, "scheduler": "step"}, [], state="PRUNED", attributes={DIVERGED: "epoch 1: the loss is nan"})

    drawn = call("importance", folder=tmp_path, storage=storage).stdout
    told = json.loads(call("importance", "--json", folder=tmp_path, storage=storage).stdout)

    assert "Of 61 trials, the 60 complete ones first" in drawn
    assert told["study"] == "default"
    assert (told["method"], told["trials"], told["complete"]) == ("ped-anova", 61, 60)
    assert told["rows"][0].keys() == {"key", "share", "chance", "p", "trials", "told"}
    assert told["rows"][0]["key"] == "lr"
    call("importance", "--method", "guess", folder=tmp_path, storage=storage, code=2)
