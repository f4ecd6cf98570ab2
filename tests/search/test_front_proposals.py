"""What is proposed where limits and a second objective count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from mlc_core import Footprint, Value
from search import front_proposals
from search.curve_sampler import CurveSampler, Memory, believe, propose
from search.declaration import Choice, built_in
from search.encoding import Encoding, Flat
from search.footprints import LATENCY, OVER, SIZE, Architecture, Footprints, spelled
from search.improvement import improvement
from search.options import Curves, Promote
from search.space import suggest
from search.strategy import sampler
from tests.search.test_curve_sampler import frozen

_DEFAULT = built_in("default")
BACKBONES = ("resnet10", "resnet18", "resnet50")
STUDY = replace(
    _DEFAULT,
    sampler=Curves(startup=5),
    pruner=Promote(min_resource=1, reduction_factor=7),
    space={**_DEFAULT.space, "backbone": Choice(BACKBONES)},
    fixed={key: value for key, value in _DEFAULT.fixed.items() if key != "backbone"},
    against="latency",
    limits={"latency": 10.0},
)
SPACE = Encoding.of(STUDY)
LATENCIES = {"resnet10": 2.0, "resnet18": 4.0, "resnet50": 30.0}
KNOWN = Footprints(
    {
        Architecture(name, "standard", 32): Footprint(latency=latency, size=10 * latency)
        for name, latency in LATENCIES.items()
    },
    STUDY,
)


def losses_of(flat: Mapping[str, Value], *, deep: Mapping[str, float]) -> list[float]:
    """A bowl around the learning rate 1e-3, and so many times as deep or high where the network is deeper."""
    bowl = (math.log10(float(flat["lr"])) + 3) ** 2 / 2
    return [math.exp(bowl) * deep.get(str(flat["backbone"]), 1.0) / (1 + epoch) for epoch in range(1, 13)]


def trained(trials: int, *, deep: Mapping[str, float], footprints: Footprints | None = KNOWN) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    drawn = [front_proposals.draw(SPACE, rng, footprints) for _ in range(trials)]
    return [frozen_of(number, flat, losses_of(flat, deep=deep)) for number, flat in enumerate(drawn)]


def frozen_of(number: int, flat: Flat, losses: list[float]) -> FrozenTrial:
    """As `frozen`, with the backbone among what is drawn."""
    rest = {key: value for key, value in flat.items() if key != "backbone"}
    made = frozen(number, rest, losses)
    made.distributions = {**made.distributions, "backbone": SPACE.distributions["backbone"]}
    made.params = dict(flat)
    latency = LATENCIES[str(flat["backbone"])]
    made.values = [min(losses), latency]
    made.set_user_attr(LATENCY, latency)
    made.set_user_attr(SIZE, 10 * latency)
    return made


def test_what_is_known_to_be_over_a_limit_is_never_proposed() -> None:
    beliefs = believe(trained(20, deep={"resnet50": 0.1}, footprints=None), STUDY, SPACE, Memory())
    for seed in range(3):
        assert propose(beliefs, np.random.default_rng(seed))["backbone"] == "resnet50"  # it is by far the best
        assert propose(beliefs, np.random.default_rng(seed), KNOWN)["backbone"] != "resnet50"
    assert {front_proposals.draw(SPACE, np.random.default_rng(seed), KNOWN)["backbone"] for seed in range(40)} == {
        "resnet10",
        "resnet18",
    }


def searched(trials: int, *, deep: Mapping[str, float]) -> optuna.Study:
    """Search as workers do, one trial after the other."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    for architecture, footprint in KNOWN.known.items():
        study.set_user_attr(architecture.key, spelled(footprint))
    for number in range(trials):
        study.sampler = sampler(STUDY, number, earlier=study.sampler)
        trial = Trial(study, study._storage.create_new_trial(study._study_id))
        flat = suggest(trial, STUDY)
        latency = LATENCIES[str(flat["backbone"])]
        trial.set_user_attr(LATENCY, latency)
        trial.set_user_attr(SIZE, 10 * latency)
        losses = losses_of(flat, deep=deep)
        for epoch, loss in enumerate(losses, start=1):
            study._storage.set_trial_intermediate_value(trial._trial_id, epoch, loss)
        study.tell(trial, [losses[-1], latency])
    return study


def test_the_first_trials_try_every_network_equally_often() -> None:
    rng, tried = np.random.default_rng(0), list[FrozenTrial]()
    for number in range(8):
        flat = front_proposals.begin(SPACE, rng, KNOWN, tried)
        tried.append(frozen_of(number, flat, [1.0]))
    assert Counter(one.params["backbone"] for one in tried) == {"resnet10": 4, "resnet18": 4}
    for footprints in (None, replace(KNOWN, declaration=replace(STUDY, against=None))):  # of one objective by chance
        drawn = front_proposals.begin(SPACE, np.random.default_rng(3), footprints, tried)
        assert drawn == front_proposals.draw(SPACE, np.random.default_rng(3), footprints)


def test_each_network_of_the_front_is_brought_near_its_best() -> None:
    found = searched(26, deep={"resnet18": 0.5})
    front = {one.params["backbone"]: one for one in found.best_trials}
    assert set(front) == {"resnet10", "resnet18"}
    for one in front.values():
        assert abs(math.log10(one.params["lr"]) + 3) < 0.4
    assert {one.params["backbone"] for one in found.trials} == {"resnet10", "resnet18"}


def test_a_deeper_network_that_is_worse_than_a_small_one_is_hardly_tried() -> None:
    beliefs = believe(trained(40, deep={"resnet18": 4.0}), STUDY, SPACE, Memory())
    proposed = [propose(beliefs, np.random.default_rng(seed), KNOWN)["backbone"] for seed in range(3)]
    assert proposed == ["resnet10"] * 3


def test_without_a_second_objective_it_is_the_expected_improvement_on_the_best() -> None:
    beliefs = believe(trained(12, deep={}), STUDY, SPACE, Memory())
    candidates = [SPACE.draw(np.random.default_rng(seed)) for seed in range(6)]
    foretold, known = beliefs.foretell(candidates), (beliefs.means, beliefs.trials)
    expected = improvement(*foretold, float(beliefs.means.min()))
    one = replace(KNOWN, declaration=replace(STUDY, against=None))
    for footprints in (None, one):
        assert front_proposals.expected(candidates, foretold, known, footprints) == pytest.approx(expected)
        assert front_proposals.ranking(beliefs.means, beliefs.trials, footprints) is beliefs.means


def test_a_trial_that_was_not_trained_as_it_was_over_a_limit_teaches_the_model_nothing() -> None:
    trials = trained(12, deep={})
    untrained = frozen_of(12, {**trials[0].params, "backbone": "resnet50"}, [1.0])
    untrained.state, untrained.values, untrained.intermediate_values = TrialState.PRUNED, None, {}
    untrained.set_user_attr(OVER, "latency 30 ms is over the limit of 10 ms")
    with_it, without = (believe(some, STUDY, SPACE, Memory()) for some in ([*trials, untrained], trials))
    assert [one.number for one in with_it.trials] == [one.number for one in without.trials]
    assert with_it.means == pytest.approx(without.means)


def test_candidates_stay_where_nothing_is_within_the_limits() -> None:
    nothing = replace(KNOWN, declaration=replace(STUDY, limits={"latency": 1.0}))
    candidates = [SPACE.draw(np.random.default_rng(seed)) for seed in range(3)]
    assert front_proposals.within(candidates, nothing) == candidates
    assert front_proposals.draw(SPACE, np.random.default_rng(0), nothing)["backbone"] in BACKBONES
    assert isinstance(sampler(STUDY, 0), CurveSampler)
