"""The five documented trials, typed from the document a second time."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mlc_core import Cosine, Params, Plateau, Scheduler, Step, Value
from search.declaration import built_in
from search.paper import paper_result, paper_trials
from search.space import outside
from search.study import paper_params


class Row(NamedTuple):
    """A row of the document's table; None where it says "default"."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    dropout: float
    scheduler: str
    t_max: int | None
    batch_size: int | None
    best_validation_loss: float


class ClassRow(NamedTuple):
    """A row of the document's table of its final model, percent."""

    precision: float
    recall: float
    f1: float


TABLE = {
    1: Row("Adam", 0.0005, 1e-4, 0.5, "StepLR", None, None, 0.0516),
    2: Row("Adam", 0.0001, 1e-5, 0.4, "ReduceLROnPlateau", None, None, 0.0330),
    3: Row("Adam", 0.0001, 7e-4, 0.5, "CosineAnnealingLR", 25, None, 0.0419),
    4: Row("AdamW", 0.0001, 5e-4, 0.45, "CosineAnnealingLR", 35, 64, 0.0481),
    5: Row("AdamW", 0.0001, 6e-4, 0.48, "CosineAnnealingLR", 40, 80, 0.0440),
}
CLASS_TABLE = {
    "0": ClassRow(85.54, 96.86, 90.85),
    "1": ClassRow(84.96, 90.24, 87.52),
    "2": ClassRow(97.01, 87.43, 91.97),
    "3": ClassRow(97.37, 84.09, 90.24),
    "4": ClassRow(94.86, 95.45, 95.15),
    "5": ClassRow(97.66, 93.28, 95.42),
    "6": ClassRow(100.00, 90.09, 94.79),
    "7": ClassRow(99.45, 98.37, 98.91),
    "8": ClassRow(99.16, 95.33, 97.21),
    "9": ClassRow(98.44, 92.20, 95.21),
}
OURS = {"Adam": "adam", "AdamW": "adamw", "StepLR": "step", "ReduceLROnPlateau": "plateau"}
OURS |= {"CosineAnnealingLR": "cosine"}
# Beside what is searched, studies/default.toml says:
FIXED: dict[str, Value] = {
    "backbone": "resnet10",
    "stem": "standard",
    "image_size": 32,
    "augment": "light",
    "ema": 0.99,
    "rare_below": 0.3,
    "rare_repeat": 4.0,
}
PLAIN: dict[str, Value] = {  # what holds where neither speaks: nothing that the document does not speak of
    "weights": "none",
    "flip": 0.0,
    "rare_below": 0.0,
    "rare_repeat": 1.0,
    "rare_augment": "same",
    "loss": "bce",
    "label_smoothing": 0.0,
    "ema": 0.0,
}
UNUSED: dict[str, Value] = {  # by that loss
    "pos_weight_power": 0.5,
    "focal_gamma": 2.0,
    "asymmetric_gamma_pos": 0.0,
    "asymmetric_gamma_neg": 4.0,
    "asymmetric_clip": 0.05,
}
OFF: dict[str, Value] = {"ema": 0.0, "rare_below": 0.0}  # of what the study fixes, the document had not
TRIALS = paper_trials()


def documented(row: Row) -> dict[str, Value]:
    stated: dict[str, Value] = {
        "optimizer": OURS[row.optimizer],
        "lr": row.learning_rate,
        "weight_decay": row.weight_decay,
        "dropout": row.dropout,
        "scheduler": OURS[row.scheduler],
    }
    if row.t_max is not None:
        stated["t_max"] = row.t_max
    if row.batch_size is not None:
        stated["batch_size"] = row.batch_size
    return stated


def test_the_documented_parameters_are_the_documents_and_no_others() -> None:
    assert {trial.number: trial.documented for trial in TRIALS} == {n: documented(row) for n, row in TABLE.items()}


def test_the_documented_losses_are_the_documents() -> None:
    assert {trial.number: trial.val_loss for trial in TRIALS} == {
        number: row.best_validation_loss for number, row in TABLE.items()
    }


def test_the_final_models_figures_are_the_documents() -> None:
    result = paper_result()
    columns = zip(result.classes, result.precision, result.recall, result.f1, strict=True)
    assert {name: pytest.approx([100 * share for share in shares]) for name, *shares in columns} == {
        name: list(row) for name, row in CLASS_TABLE.items()
    }
    means = (result.accuracy, result.macro_precision, result.macro_recall, result.macro_f1)
    assert [100 * share for share in means] == pytest.approx([98.43, 95.44, 92.33, 93.73])


def test_the_trials_come_in_the_documents_order() -> None:
    assert [trial.number for trial in TRIALS] == [1, 2, 3, 4, 5]


def test_exactly_what_the_document_is_silent_on_is_assumed() -> None:
    # "Not stated: the default batch size, StepLR's step size and gamma, the plateau's factor and patience".
    assert {trial.number: set(trial.assumed) for trial in TRIALS} == {
        1: {"batch_size", "step_size", "gamma"},
        2: {"batch_size", "factor", "patience"},
        3: {"batch_size"},
        4: set(),
        5: set(),
    }


def test_nothing_is_both_documented_and_assumed() -> None:
    assert [trial.documented.keys() & trial.assumed.keys() for trial in TRIALS] == [set()] * 5


def test_what_the_document_had_not_is_switched_off_in_every_replay() -> None:
    assert [trial.off for trial in TRIALS] == [OFF] * 5


def test_the_default_batch_size_is_assumed_to_be_one_for_all() -> None:
    assert len({trial.assumed["batch_size"] for trial in TRIALS if "batch_size" in trial.assumed}) == 1


def test_no_two_replays_share_a_seed_or_a_key() -> None:
    assert len({trial.seed for trial in TRIALS}) == 5
    assert [trial.key for trial in TRIALS] == ["paper/1", "paper/2", "paper/3", "paper/4", "paper/5"]


@pytest.mark.parametrize(
    ("number", "scheduler"),
    [
        (1, Step(step_size=5, gamma=0.1)),
        (2, Plateau(factor=0.1, patience=2)),
        (3, Cosine(t_max=25)),
        (4, Cosine(t_max=35)),
        (5, Cosine(t_max=40)),
    ],
)
def test_documented_and_assumed_values_make_a_trial_that_can_be_trained(number: int, scheduler: Scheduler) -> None:
    params = Params.from_flat(TRIALS[number - 1].params)
    assert (params.scheduler, params.batch_size) == (scheduler, TABLE[number].batch_size or 64)


def test_a_replay_takes_what_the_document_leaves_open_from_the_study_and_else_trains_plainly() -> None:
    for trial in TRIALS:
        flat = paper_params(built_in("default"), trial).to_flat()
        assert flat == {**PLAIN, **UNUSED, **FIXED, **trial.documented, **trial.assumed, **OFF}


def test_the_open_search_could_draw_each_of_the_five() -> None:
    default = built_in("default")
    assert [outside(default, paper_params(default, trial).to_flat()) for trial in TRIALS] == [None] * 5
