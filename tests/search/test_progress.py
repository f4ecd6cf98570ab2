"""What a person sees while a search runs, on a terminal and without one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from rich.console import Console

from search.ledger import Claim, ask
from search.paper import paper_trials
from search.progress import Progress
from search.space import suggest
from search.study import Study, enqueue_paper, open_study
from tests import small


@pytest.fixture
def study(sqlite_url: str, tmp_path: Path) -> Iterator[Study]:
    file = small.declare(tmp_path, epochs=4, large_batches=False)
    with open_study(str(file), sqlite_url, create=True) as opened:
        enqueue_paper(opened, paper_trials()[1:2])
        yield opened


def begin(study: Study) -> Claim:
    """Claim a trial, draw its parameters and report an epoch."""
    claim = study.ledger.claim("w")
    assert isinstance(claim, Claim)
    trial = ask(study.optuna, claim)
    suggest(trial, study.declaration)
    trial.report(0.25, step=1)
    return claim


def finish(study: Study, claim: Claim) -> None:
    assert study.ledger.finish(claim.trial_id, worker="w", state=TrialState.COMPLETE, value=0.125)


def test_a_terminal_shows_done_and_asked_the_best_and_what_runs(study: Study) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140, color_system=None)
    with Progress(study, study.ledger.open_budget(3), console) as drawn:
        finish(study, begin(study))
        begin(study)
        drawn.look()
        picture = screen.getvalue()

    head = next(line for line in picture.splitlines() if "1/3 trials" in line)
    assert "Study small" in head
    assert "best 0.125 (trial 0)" in head
    assert "left about" in head
    running = next(line for line in picture.splitlines() if "trial 1 " in line)
    assert "epoch 1/4" in running
    assert "0.25" in running
    assert "optimizer=" in running


def test_without_a_terminal_each_finished_trial_is_one_line_once(study: Study) -> None:
    said = io.StringIO()
    budget_id = study.ledger.open_budget(2)
    with Progress(study, budget_id, Console(file=said, width=80)) as drawn:
        first = begin(study)
        drawn.look()
        finish(study, first)
        drawn.look()
        drawn.look()
        finish(study, begin(study))

    lines = said.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "trial 0 paper 2 complete 0.125 after 1/4 epochs",
        "trial 1 search complete 0.125 after 1/4 epochs",
    ]
    again = io.StringIO()
    with Progress(study, budget_id, Console(file=again)):
        pass
    assert again.getvalue() == ""
