"""What a user is told, and the exit code that goes with it."""

from __future__ import annotations

import pytest

from mlc_core import BadCheckpoint, BadData, BadParams, Diverged, MlcError, NoDevice, did_you_mean


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (BadParams("lr", 0, "a number"), 2),
        (BadData("x"), 2),
        (BadCheckpoint("x"), 2),
        (NoDevice("x"), 2),
        (Diverged(1, "x"), 1),
    ],
)
def test_only_a_failed_run_exits_with_1_and_every_mistake_with_2(error: MlcError, exit_code: int) -> None:
    assert error.exit_code == exit_code


def test_a_bad_parameter_says_key_value_and_what_is_allowed_and_keeps_them_apart() -> None:
    error = BadParams("dropout", 1.0, "a number in [0, 1)", " Try 0.5.")

    assert str(error) == "dropout: 1.0 is not a number in [0, 1). Try 0.5."
    assert (error.key, error.got, error.allowed) == ("dropout", 1.0, "a number in [0, 1)")


def test_a_diverged_fit_says_when_and_why_and_what_to_try() -> None:
    error = Diverged(3, "the training loss is nan")

    assert str(error) == "Training diverged in epoch 3: the training loss is nan. Try a lower learning rate."
    assert (error.epoch, error.reason) == (3, "the training loss is nan")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("adamx", " Did you mean 'adam'?"), ("adam_w", " Did you mean 'adamw'?"), ("sgd", ""), ("", ""), (7, "")],
)
def test_only_a_near_word_is_taken_for_a_slip(word: object, hint: str) -> None:
    assert did_you_mean(word, ["adam", "adamw"]) == hint
