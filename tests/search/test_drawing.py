"""What is drawn of rows: exact lines, and tables whose cells are read back from what rich prints."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from search.drawing import (
    best_line,
    comparison_table,
    comparison_words,
    counted,
    duration,
    failures_table,
    finished_line,
    kind,
    number,
    params_table,
    settings,
    studies_table,
    trial_table,
    trials_table,
)
from search.views import PAUSED, STATES, Counts, TrialRow, compare_paper

SEARCHED = TrialRow(
    number=7,
    state="complete",
    objective="bce",
    value=0.04321987,
    val_loss=0.04321987,
    epoch=12,
    epochs=12,
    reports={1: 0.5, 12: 0.04321987},
    params={"optimizer": "adam", "lr": 0.00031622, "batch_size": 64, "scheduler": "step", "step_size": 3},
    paper=None,
    repeats=None,
    seed=2**62 + 1,
    seconds=3723.4,
    started=datetime(2026, 11, 25, 9, 32, 28, tzinfo=UTC),
    note="",
    failures=[],
    metrics={},
    fit={},
    compute={"precision": "bf16", "threads": 1, "micro_batch": 64},
)
REPLAY = replace(
    SEARCHED,
    number=12,
    state="failed",
    value=None,
    val_loss=None,
    epoch=0,
    reports={},
    params={"optimizer": "adamw", "lr": 1e-4, "scheduler": "cosine", "t_max": 35},
    paper=4,
    seed=None,
    seconds=None,
    started=None,
    note="KeyError: '[/conv] of [bold]' :warning:",
    compute={},
)


def printed(table: Table, *, width: int = 200) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def cells(table: Table) -> list[list[str]]:
    """Lines of cells; two spaces part them, as no cell of these rows holds two."""
    return [re.split(r"\s{2,}", line.strip()) for line in printed(table)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0516, "0.0516"), (0.04321987, "0.04322"), (0.0, "0"), (1234.56, "1235"), (1.5e-7, "1.5e-07")],
)
def test_a_loss_has_four_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.6, "1:00:00"),
        (3723.4, "1:02:03"),
        (100 * 3600, "100:00:00"),
    ],
)
def test_a_duration_has_hours_only_when_there_are_any(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(0, 10**7))
def test_a_duration_can_be_read_back(seconds: int) -> None:
    read = 0
    for part in duration(seconds).split(":"):
        read = 60 * read + int(part)
    assert read == seconds


def test_parameters_stand_in_one_line_with_three_significant_digits() -> None:
    assert settings(SEARCHED.params) == "optimizer=adam lr=0.000316 batch_size=64 scheduler=step step_size=3"
    assert settings({}) == ""


def test_a_trial_is_said_to_come_from_the_search_or_the_document() -> None:
    assert (kind(SEARCHED), kind(REPLAY)) == ("search", "paper 4")


def test_a_repetition_is_said_to_come_from_the_trial_that_it_repeats() -> None:
    assert kind(replace(SEARCHED, repeats=3)) == "trial 3"


def test_the_line_of_a_finished_trial_has_all_that_matters_of_it() -> None:
    assert finished_line(SEARCHED) == (
        "trial 7 search complete 0.04322 after 12/12 epochs: "
        "optimizer=adam lr=0.000316 batch_size=64 scheduler=step step_size=3"
    )


def test_the_line_of_a_failed_trial_ends_with_the_reason() -> None:
    assert finished_line(REPLAY) == (
        "trial 12 paper 4 failed - after 0/12 epochs: "
        "optimizer=adamw lr=0.0001 scheduler=cosine t_max=35 (KeyError: '[/conv] of [bold]' :warning:)"
    )


def test_the_best_trial_is_named_with_its_loss() -> None:
    assert best_line(SEARCHED) == "Best validation loss: 0.04322, trial 7"


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ((0, 0, 0, 0, 0), "0 complete, 0 pruned, 0 running"),
        ((5, 4, 3, 2, 1), "5 complete, 4 pruned, 3 running, 2 waiting, 1 failed"),
        ((5, 4, 3, 0, 1), "5 complete, 4 pruned, 3 running, 1 failed"),
    ],
)
def test_counts_name_waiting_and_failed_trials_only_if_there_are_any(figures: tuple[int, ...], line: str) -> None:
    names = ("complete", "pruned", "running", "waiting", "failed")
    assert counted(Counts(**dict(zip(names, figures, strict=True)))) == line


def test_the_table_of_trials_has_a_column_for_each_parameter_of_any() -> None:
    lines = printed(trials_table([SEARCHED, replace(REPLAY, state="waiting")], title="Best of study x"))
    title, head, *rows = lines
    assert title == "Best of study x"
    assert ", ".join(re.split(r"\s{2,}", head.strip())) == (
        "trial, from, state, validation loss, epochs, optimizer, lr, batch size, scheduler"
    )
    assert [row.split() for row in rows] == [
        ["7", "search", "complete", "0.04322", "12/12", "adam", "0.000316", "64", "step", "step_size=3"],
        ["12", "paper", "4", "waiting", "-", "0/12", "adamw", "0.0001", "cosine", "t_max=35"],
    ]
    # The value stands under its heading, not under that of a parameter which the trial has not.
    assert head.index("scheduler") == rows[0].index("step ") == rows[1].index("cosine")


@pytest.mark.parametrize("state", [*STATES.values(), PAUSED])
def test_the_table_of_trials_shows_every_state(state: str) -> None:
    assert cells(trials_table([replace(SEARCHED, state=state)], title="Study x"))[-1][2] == state


def test_the_table_of_no_trials_has_its_heading() -> None:
    assert cells(trials_table([], title="Study x: 0 trials"))[1:] == [
        ["trial", "from", "state", "validation loss", "epochs"]
    ]


def test_the_table_of_one_trial_has_everything_about_it() -> None:
    assert cells(trial_table(SEARCHED)) == [
        ["Trial 7"],
        ["from", "search"],
        ["state", "complete"],
        ["validation loss", "0.04322"],
        ["epochs", "12 of 12"],
        ["seed", "4611686018427387905"],
        ["trained for", "1:02:03"],
        ["started", "2026-11-25 09:32:28 UTC"],
        ["optimizer", "adam"],
        ["lr", "0.000316"],
        ["batch_size", "64"],
        ["scheduler", "step"],
        ["step_size", "3"],
        ["computed", "precision=bf16 threads=1 micro_batch=64"],
        ["by epoch", "0.5000 0.0432"],
    ]


def test_a_note_is_printed_letter_by_letter_even_where_it_looks_like_markup() -> None:
    assert cells(trial_table(REPLAY))[1:] == [
        ["from", "paper 4"],
        ["state", "failed"],
        ["validation loss", "-"],
        ["epochs", "0 of 12"],
        ["seed", "-"],
        ["trained for", "-"],
        ["started", "-"],
        ["optimizer", "adamw"],
        ["lr", "0.0001"],
        ["scheduler", "cosine"],
        ["t_max", "35"],
        ["computed", "-"],
        ["by epoch", "-"],
        ["note", "KeyError: '[/conv] of [bold]' :warning:"],
    ]


def test_each_failure_of_a_trial_is_told_and_the_list_of_failed_trials_tells_the_last() -> None:
    row = replace(REPLAY, failures=["first [x]", "second\nand more"], note="second\nand more")
    assert cells(trial_table(row))[-3:] == [["failure 1", "first [x]"], ["failure 2", "second"], ["and more"]]
    assert cells(failures_table([row]))[-1] == ["12", "failed", "2", "second"]


def test_a_narrow_terminal_folds_a_note_and_loses_nothing_of_it() -> None:
    note = "RuntimeError: " + " ".join(f"word{n}" for n in range(30))
    text = " ".join(" ".join(printed(trial_table(replace(REPLAY, note=note)), width=60)).split())
    assert text.endswith(f"note {note}")


def test_the_parameters_of_a_trial_come_with_the_fixed_ones_and_win_over_them() -> None:
    assert cells(params_table(SEARCHED, {"image_size": 32, "optimizer": "adamw"})) == [
        ["image size", "32"],
        ["optimizer", "adam"],
        ["lr", "0.000316"],
        ["batch size", "64"],
        ["scheduler", "step"],
        ["step size", "3"],
    ]


def test_the_table_of_studies_has_a_line_for_each() -> None:
    counts = Counts(complete=5, pruned=4, running=3, waiting=2, paused=6, failed=1)
    none = Counts(complete=0, pruned=0, running=0, waiting=0, paused=0, failed=0)
    assert cells(studies_table([("default", counts, 0.04321987), ("night run", none, None)])) == [
        ["Studies"],
        ["study", "complete", "pruned", "running", "paused", "waiting", "failed", "best"],
        ["default", "5", "4", "3", "6", "2", "1", "0.04322"],
        ["night run", "0", "0", "0", "0", "0", "0", "-"],
    ]


def replayed(losses: dict[int, float]) -> list[TrialRow]:
    return [replace(SEARCHED, number=n, value=loss, val_loss=loss, paper=n) for n, loss in losses.items()]


def test_the_comparison_keeps_documented_assumed_and_replayed_apart() -> None:
    assert cells(comparison_table(compare_paper(replayed({1: 0.125, 5: 0.25})))) == [
        ["The documented trials and their replays"],
        ["trial", "documented", "assumed", "documented loss", "replayed loss", "replay"],
        ["1", "optimizer=adam lr=0.0005 weight_decay=0.0001 dropout=0.5 scheduler=step",
         "batch_size=64 step_size=5 gamma=0.1", "0.0516", "0.125", "complete"],
        ["2", "optimizer=adam lr=0.0001 weight_decay=1e-05 dropout=0.4 scheduler=plateau",
         "batch_size=64 factor=0.1 patience=2", "0.033", "-", "not enqueued"],
        ["3", "optimizer=adam lr=0.0001 weight_decay=0.0007 dropout=0.5 scheduler=cosine t_max=25",
         "batch_size=64", "0.0419", "-", "not enqueued"],
        ["4", "optimizer=adamw lr=0.0001 weight_decay=0.0005 dropout=0.45 scheduler=cosine t_max=35 batch_size=64",
         "0.0481", "-", "not enqueued"],
        ["5", "optimizer=adamw lr=0.0001 weight_decay=0.0006 dropout=0.48 scheduler=cosine t_max=40 batch_size=80",
         "0.044", "0.25", "complete"],
    ]  # fmt: skip


CAVEATS = [
    "The document's data are not available and the replays train on others: only the order can be compared.",
    "Epochs, image size, ResNet depth and augmentation are the study's; the document states none of them.",
    "Replays average no weights and favour no rare classes, whatever the study does: the document did neither.",
]


def test_without_replays_the_comparison_says_how_to_get_them() -> None:
    assert comparison_words(compare_paper([SEARCHED])) == [
        *CAVEATS,
        "Rank correlation: too few complete replays. Enqueue the documented trials if they do not wait, then run.",
    ]


def test_with_replays_the_comparison_says_how_well_the_order_agrees_and_what_the_search_found() -> None:
    # Of the trials 1, 2, 3 the document's order is 2, 3, 1; here it is 1, 2, 3: 1 - 6 * 6 / (3 * 8) = -0.5.
    rows = [*replayed({1: 0.1, 2: 0.2, 3: 0.3}), replace(SEARCHED, value=0.05, val_loss=0.05)]
    assert comparison_words(compare_paper(rows)) == [
        *CAVEATS,
        "Rank correlation of documented and replayed losses (Spearman): -0.50.",
        "Best of the open search: 0.05, 0.50 times the best replay's 0.1.",
    ]


def test_with_replays_alone_nothing_is_said_of_the_search() -> None:
    words = comparison_words(compare_paper(replayed({1: 0.3, 2: 0.1, 3: 0.2})))
    assert words == [*CAVEATS, "Rank correlation of documented and replayed losses (Spearman): +1.00."]
