"""Parameters are valid or not at all, and survive the way through Optuna's flat dictionaries."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlc_core import (
    DEFAULTS,
    KEYS,
    SCHEDULER_KEYS,
    SCHEDULER_OF,
    SCHEDULERS,
    BadParams,
    Cosine,
    Params,
    Plateau,
    Scheduler,
    SchedulerName,
    Step,
)
from mlc_core.params import AUGMENTS, BACKBONES, LOSSES, OPTIMIZERS, RARE_AUGMENTS, STEMS, scheduler_name

EPOCHS = st.integers(1, 10_000)
SCHEDULER = st.one_of(
    st.builds(Step, step_size=EPOCHS, gamma=st.floats(0, 1, exclude_min=True)),
    st.builds(Plateau, factor=st.floats(0, 1, exclude_min=True, exclude_max=True), patience=st.integers(0, 10_000)),
    st.builds(Cosine, t_max=EPOCHS),
)
PARAMS = st.builds(
    Params,
    optimizer=st.sampled_from(OPTIMIZERS),
    lr=st.floats(0, 10, exclude_min=True),
    weight_decay=st.floats(0, 1),
    dropout=st.floats(0, 1, exclude_max=True),
    scheduler=SCHEDULER,
    batch_size=st.integers(2, 65_536),
    backbone=st.sampled_from(BACKBONES),
    stem=st.sampled_from(STEMS),
    image_size=st.integers(8, 2048),
    weights=st.text(min_size=1),
    augment=st.sampled_from(AUGMENTS),
    flip=st.floats(0, 1),
    rare_below=st.floats(0, 1),
    rare_repeat=st.floats(1, 100),
    rare_augment=st.sampled_from(RARE_AUGMENTS),
    loss=st.sampled_from(LOSSES),
    label_smoothing=st.floats(0, 1, exclude_max=True),
    pos_weight_power=st.floats(0, 1),
    focal_gamma=st.floats(0, 20),
    asymmetric_gamma_pos=st.floats(0, 20),
    asymmetric_gamma_neg=st.floats(0, 20),
    asymmetric_clip=st.floats(0, 1),
    ema=st.floats(0, 1, exclude_max=True),
)


class Range(NamedTuple):
    """What a parameter may be, written down a second time."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, number: float) -> bool:
        if math.isnan(number):
            return False
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)


NUMBERS = {
    "lr": Range(0, 10, open_low=True),
    "weight_decay": Range(0, 1),
    "dropout": Range(0, 1, open_high=True),
    "gamma": Range(0, 1, open_low=True),
    "factor": Range(0, 1, open_low=True, open_high=True),
    "flip": Range(0, 1),
    "rare_below": Range(0, 1),
    "rare_repeat": Range(1, 100),
    "label_smoothing": Range(0, 1, open_high=True),
    "ema": Range(0, 1, open_high=True),
    "pos_weight_power": Range(0, 1),
    "focal_gamma": Range(0, 20),
    "asymmetric_gamma_pos": Range(0, 20),
    "asymmetric_gamma_neg": Range(0, 20),
    "asymmetric_clip": Range(0, 1),
}
COUNTS = {
    "batch_size": Range(2, 65_536),
    "image_size": Range(8, 2048),
    "step_size": Range(1, 10_000),
    "t_max": Range(1, 10_000),
    "patience": Range(0, 10_000),
}
CHOICES = {
    "optimizer": OPTIMIZERS,
    "backbone": BACKBONES,
    "stem": STEMS,
    "augment": AUGMENTS,
    "rare_augment": RARE_AUGMENTS,
    "loss": LOSSES,
    "scheduler": SCHEDULERS,
}
WORDS = ("weights",)  # any, as it may be a path
OWNER: dict[str, SchedulerName] = {
    "step_size": "step",
    "gamma": "step",
    "factor": "plateau",
    "patience": "plateau",
    "t_max": "cosine",
}
ALL_KEYS = (
    "optimizer, lr, weight_decay, dropout, scheduler, t_max, batch_size, backbone, stem, image_size, weights, augment, "
    "flip, rare_below, rare_repeat, rare_augment, loss, label_smoothing, pos_weight_power, focal_gamma, "
    "asymmetric_gamma_pos, asymmetric_gamma_neg, asymmetric_clip, ema, step_size, gamma, factor, patience"
)


def from_flat(key: str, value: Any) -> Params:
    """Have one key from a user, beside the scheduler that it needs."""
    return Params.from_flat(({"scheduler": OWNER[key]} if key in OWNER else {}) | {key: value})


def near(limits: Range) -> st.SearchStrategy[float]:
    """Numbers of which many lie at the ends of the range and beyond."""
    ends = [math.nextafter(end, to) for end in (limits.low, limits.high) for to in (-math.inf, end, math.inf)]
    return st.sampled_from(ends) | st.floats(limits.low - 1, limits.high + 1) | st.floats()


@given(PARAMS)
def test_params_survive_the_way_through_optuna(params: Params) -> None:
    assert Params.from_flat(json.loads(json.dumps(params.to_flat()))) == params


@pytest.mark.parametrize("key", NUMBERS)
@given(data=st.data())
def test_a_number_is_taken_exactly_where_its_range_holds_it(key: str, data: st.DataObject) -> None:
    number = data.draw(near(NUMBERS[key]))
    if NUMBERS[key].holds(number):
        assert from_flat(key, number).to_flat()[key] == number
    else:
        with pytest.raises(BadParams, match=rf"^{key}: .* is not a number (in [\[(]|from [01] to \d+\.$)"):
            from_flat(key, number)


@pytest.mark.parametrize("key", COUNTS)
@given(data=st.data())
def test_a_count_is_taken_exactly_where_its_range_holds_it(key: str, data: st.DataObject) -> None:
    low, high = (int(end) for end in COUNTS[key][:2])
    ends = st.sampled_from([low - 1, low, low + 1, high - 1, high, high + 1, 10**400, -(10**400)])
    count = data.draw(ends | st.integers())
    if low <= count <= high:
        assert from_flat(key, count).to_flat()[key] == count
    else:
        with pytest.raises(BadParams, match=rf"^{key}: .* is not a whole number of \w+ from {low} to {high}\.$"):
            from_flat(key, count)


@pytest.mark.parametrize("key", [*NUMBERS, *COUNTS])
@given(value=st.text() | st.booleans() | st.none() | st.lists(st.integers()) | st.binary())
def test_what_is_no_number_is_never_taken_for_one(key: str, value: object) -> None:
    with pytest.raises(BadParams, match=rf"^{key}: "):
        from_flat(key, value)


@pytest.mark.parametrize("key", COUNTS)
@given(value=st.floats())
def test_a_count_is_never_a_float(key: str, value: float) -> None:
    with pytest.raises(BadParams, match=rf"^{key}: "):
        from_flat(key, value)


@pytest.mark.parametrize("key", CHOICES)
@given(value=st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text()))
def test_a_word_that_is_no_choice_is_named_with_those_that_are(key: str, value: object) -> None:
    assume(value not in CHOICES[key])
    with pytest.raises(BadParams) as caught:
        from_flat(key, value)
    told = str(caught.value)
    assert told.startswith(f"{key}: {value!r} is not one of {', '.join(CHOICES[key])}.")


@given(key=st.text(), value=st.integers() | st.text())
def test_an_unknown_key_is_named_with_those_that_are_known(key: str, value: int | str) -> None:
    assume(key not in KEYS)
    with pytest.raises(BadParams) as caught:
        Params.from_flat({key: value})
    assert str(caught.value).startswith(f"{key}: {value!r} is not a known parameter, one of {ALL_KEYS}.")


@pytest.mark.parametrize(
    ("flat", "sentence"),
    [
        ({"lr": 0.0}, "lr: 0.0 is not a number in (0, 10]."),
        ({"lr": math.nan}, "lr: nan is not a number in (0, 10]."),
        ({"lr": "1e-3"}, "lr: '1e-3' is not a number in (0, 10]."),
        ({"weight_decay": -1e-4}, "weight_decay: -0.0001 is not a number in [0, 1]."),
        ({"dropout": 1.0}, "dropout: 1.0 is not a number in [0, 1)."),
        ({"dropout": True}, "dropout: True is not a number in [0, 1)."),
        ({"batch_size": 1}, "batch_size: 1 is not a whole number of images from 2 to 65536."),
        ({"batch_size": 64.0}, "batch_size: 64.0 is not a whole number of images from 2 to 65536."),
        ({"image_size": 7}, "image_size: 7 is not a whole number of pixels from 8 to 2048."),
        ({"optimizer": "adam_w"}, "optimizer: 'adam_w' is not one of adam, adamw. Did you mean 'adamw'?"),
        ({"optimizer": "sgd"}, "optimizer: 'sgd' is not one of adam, adamw."),
        (
            {"backbone": "resnet51"},
            "backbone: 'resnet51' is not one of resnet10, resnet18, resnet34, resnet50, resnet101. "
            "Did you mean 'resnet50'?",
        ),
        ({"stem": "big"}, "stem: 'big' is not one of small, standard."),
        ({"augment": "lights"}, "augment: 'lights' is not one of none, light, medium, strong. Did you mean 'light'?"),
        ({"augment": "flip"}, "augment: 'flip' is not one of none, light, medium, strong."),
        ({"flip": 1.5}, "flip: 1.5 is not a number from 0 to 1."),
        ({"rare_repeat": 0.5}, "rare_repeat: 0.5 is not a number from 1 to 100."),
        (
            {"rare_augment": "sane"},
            "rare_augment: 'sane' is not one of same, none, light, medium, strong. Did you mean 'same'?",
        ),
        ({"loss": "asl"}, "loss: 'asl' is not one of bce, weighted, focal, asymmetric."),
        ({"label_smoothing": 1}, "label_smoothing: 1 is not a number in [0, 1)."),
        ({"ema": 1}, "ema: 1 is not a number in [0, 1)."),
        ({"focal_gamma": -1}, "focal_gamma: -1 is not a number from 0 to 20."),
        ({"weights": ""}, "weights: '' is not none, imagenet or the path of a file."),
        ({"weights": 3}, "weights: 3 is not none, imagenet or the path of a file."),
        (
            {"scheduler": "cosin"},
            "scheduler: 'cosin' is not one of step, plateau, cosine. Did you mean 'cosine'?",
        ),
        (
            {"scheduler": "step", "step_size": 0},
            "step_size: 0 is not a whole number of epochs from 1 to 10000.",
        ),
        ({"scheduler": "step", "gamma": 1.5}, "gamma: 1.5 is not a number in (0, 1]."),
        ({"scheduler": "plateau", "factor": 1}, "factor: 1 is not a number in (0, 1)."),
        (
            {"scheduler": "plateau", "patience": -1},
            "patience: -1 is not a whole number of epochs from 0 to 10000.",
        ),
        ({"t_max": 0}, "t_max: 0 is not a whole number of epochs from 1 to 10000."),
        (
            {"gamma": 0.5},
            "gamma: 0.5 is not a parameter of the cosine scheduler, which takes t_max. It belongs to step.",
        ),
        (
            {"scheduler": "plateau", "t_max": 9},
            "t_max: 9 is not a parameter of the plateau scheduler, which takes factor, patience. It belongs to cosine.",
        ),
        (
            {"weight_decy": 0.1},
            f"weight_decy: 0.1 is not a known parameter, one of {ALL_KEYS}. Did you mean 'weight_decay'?",
        ),
        ({"momentum": 0.9}, f"momentum: 0.9 is not a known parameter, one of {ALL_KEYS}."),
    ],
)
def test_a_bad_parameter_is_a_sentence_that_says_what_is_allowed(flat: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadParams) as caught:
        Params.from_flat(flat)
    assert str(caught.value) == sentence


def test_a_scheduler_in_the_constructor_is_a_scheduler_not_its_name() -> None:
    with pytest.raises(BadParams) as caught:
        Params(scheduler="cosine")  # type: ignore[arg-type]  # what a user without a type checker may write
    assert str(caught.value) == "scheduler: 'cosine' is not one of step, plateau, cosine."


@pytest.mark.parametrize("params", [Params(), Step(), Plateau(), Cosine()])
def test_nothing_of_valid_params_can_be_changed_afterwards(params: Params | Scheduler) -> None:
    field = next(iter(type(params).__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(params, field, "worse")


@pytest.mark.parametrize(
    ("scheduler", "own"),
    [
        (Step(step_size=3, gamma=0.5), {"scheduler": "step", "step_size": 3, "gamma": 0.5}),
        (Plateau(factor=0.5, patience=4), {"scheduler": "plateau", "factor": 0.5, "patience": 4}),
        (Cosine(t_max=40), {"scheduler": "cosine", "t_max": 40}),
    ],
)
def test_the_flat_form_holds_the_keys_of_the_chosen_scheduler_only(
    scheduler: Scheduler, own: dict[str, str | int | float]
) -> None:
    flat = Params(scheduler=scheduler).to_flat()
    assert {key: flat[key] for key in flat if key in (*SCHEDULER_KEYS, "scheduler")} == own
    assert scheduler_name(scheduler) == own["scheduler"]


def test_absent_keys_keep_their_defaults() -> None:
    assert Params.from_flat({}) == Params()
    assert Params.from_flat({"scheduler": "step", "gamma": 0.5}) == Params(scheduler=Step(gamma=0.5))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_listed_defaults_are_those_of_a_fit_that_is_told_nothing(name: SchedulerName) -> None:
    flat = Params.from_flat({"scheduler": name}).to_flat()
    assert {key: DEFAULTS[key] for key in flat} == flat | {"scheduler": DEFAULTS["scheduler"]}
    assert Params.from_flat({"scheduler": name}).scheduler == SCHEDULER_OF[name]()


def test_the_known_keys_are_each_known_once() -> None:
    assert sorted(KEYS) == sorted([*NUMBERS, *COUNTS, *CHOICES, *WORDS])
    assert sorted(SCHEDULER_KEYS) == sorted(OWNER)
