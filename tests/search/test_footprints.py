"""Which architectures a space has, what of them is known, and what is said of those over a limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_core import Footprint
from search.declaration import Choice, Range, built_in
from search.footprints import Architecture, Footprints, architectures, constraints, over, parse, spelled

LIMITED = replace(built_in("default"), against="latency", limits={"latency": 5.0, "size": 50.0})
SMALL, LARGE = Footprint(latency=2.0, size=20.0), Footprint(latency=7.2, size=94.3)


def searching(**space: Any) -> Any:
    fixed = {key: value for key, value in LIMITED.fixed.items() if key not in space}
    return replace(LIMITED, space={**LIMITED.space, **space}, fixed=fixed)


def test_a_space_has_every_architecture_that_a_trial_may_draw_once() -> None:
    assert architectures(LIMITED) == [Architecture("resnet10", "standard", 32)]
    found = architectures(searching(backbone=Choice(("resnet50", "resnet10")), image_size=Range(32, 96, step=32)))
    assert [(one.backbone, one.image_size) for one in found] == [
        ("resnet50", 32),
        ("resnet50", 64),
        ("resnet50", 96),
        ("resnet10", 32),
        ("resnet10", 64),
        ("resnet10", 96),
    ]
    everything = searching(
        backbone=Choice(("resnet10", "resnet18", "resnet34", "resnet50", "resnet101")),
        stem=Choice(("small", "standard")),
        image_size=Range(8, 2048),
    )
    assert len(architectures(everything)) == 5 * 2 * 2041


def test_a_sentence_names_each_limit_that_is_passed_and_optuna_gets_by_how_much() -> None:
    assert over(SMALL, LIMITED.limits) == ""
    assert over(LARGE, {"latency": 5.0}) == "latency 7.2 ms is over the limit of 5 ms"
    assert over(LARGE, LIMITED.limits) == (
        "latency 7.2 ms is over the limit of 5 ms, size 94.3 MB is over the limit of 50 MB"
    )
    assert constraints(LARGE, LIMITED.limits) == pytest.approx([2.2, 44.3])
    assert max(constraints(SMALL, LIMITED.limits)) < 0
    assert over(LARGE, {"latency": 7.2, "size": 94.3}) == ""  # at the limit is within


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_what_a_study_remembers_is_read_back_to_the_bit(latency: float, size: float) -> None:
    footprint = Footprint(latency=latency, size=size)
    assert parse(spelled(footprint)) == footprint
    architecture = Architecture("resnet10", "small", 64)
    known = Footprints.of({architecture.key: spelled(footprint), "mlc:id": "x"}, LIMITED).known
    assert known == {architecture: footprint}


def test_what_nobody_has_measured_is_allowed_and_counts_as_its_nearest_kin_or_as_the_least() -> None:
    known = {
        Architecture("resnet10", "standard", 32): SMALL,
        Architecture("resnet50", "standard", 32): LARGE,
        Architecture("resnet50", "standard", 96): Footprint(latency=40.0, size=94.3),
    }
    footprints = Footprints(known, searching(backbone=Choice(("resnet10", "resnet18", "resnet50"))))
    assert footprints.allows({"backbone": "resnet10"})
    assert not footprints.allows({"backbone": "resnet50"})
    assert footprints.allows({"backbone": "resnet18"})
    assert footprints.second({"backbone": "resnet50"}) == 7.2
    assert footprints.second({"backbone": "resnet50", "image_size": 80}) == 40.0
    assert footprints.second({"backbone": "resnet18"}) == 2.0
    assert footprints.worst() == 2.0  # the others are over a limit
    assert Footprints({}, LIMITED).second({}) == Footprints({}, LIMITED).worst() == 1.0
