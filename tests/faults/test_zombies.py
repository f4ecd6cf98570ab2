"""A worker that was halted beyond the grace and wakes up finds its trial another's, and writes nothing any more."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pkgutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from search.artifacts import weights_path
from search.study import PRECISION, Study, open_study
from tests import small
from tests.faults import audit
from tests.faults.hands import Place, replace, run
from tests.faults.simulated import losses

PATIENCE = 120.0  # seconds
NOTICES = 10.0  # seconds after which a worker has noticed that its trial is another's
TABLES = (
    "trials",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)
MOMENTS = {  # of a trial's life, each just before a function is called
    "it draws": "search.objective:suggest",
    "it reports": "search.trials:Trials.set_trial_intermediate_value",
    "it is judged": "optuna.trial:Trial.should_prune",
    "its note is written": "search.objective:Reporter.note",
    "its weights are kept": "search.artifacts:keep_weights",
    "its weights are noted": "search.artifacts:upload_artifact",
    "it ends": "search.ledger:Ledger.finish",
}


def halt_before(target: str, once: Path) -> None:
    """Have this process stop itself when it first calls that function."""
    module, _, path = target.partition(":")
    owner_path, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(f"{module}:{owner_path}" if owner_path else module)
    real: Callable[..., Any] = getattr(owner, name)

    def halted(*args: Any, **kwargs: Any) -> Any:
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(*args, **kwargs)

    replace(owner, name, halted)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def stopped(process: Any) -> bool:
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


@pytest.fixture
def study(tmp_path: Path, postgres_url: str) -> Iterator[Study]:
    file = small.declare(tmp_path, epochs=4, pruner="hyperband", large_batches=False)
    with open_study(str(file), postgres_url, create=True) as opened:
        opened.ledger.remember(PRECISION, "fp32")
        yield opened


@pytest.fixture
def place(tmp_path: Path, postgres_url: str, study: Study) -> Place:
    (tmp_path / "artifacts").mkdir()
    audit.begin(postgres_url)
    return Place(
        url=postgres_url,
        study=study.name,
        budget_id=study.ledger.open_budget(1),
        root=tmp_path / "artifacts",
        log=tmp_path / "log",
        said=tmp_path / "said",
        pace=0.01,
        grace=1.0,
        beat=0.2,
    )


def contents(url: str, root: Path) -> set[str]:
    """Everything that a worker can leave: a row or a file each."""
    with psycopg.connect(url) as connection:
        rows = {
            f"{table}: {row}"
            for table in TABLES
            for row in connection.execute(f"SELECT * FROM {table}".encode()).fetchall()
        }
        claims = connection.execute("SELECT trial_id, worker, attempts FROM mlc_claims").fetchall()
    files = {
        f"{path.relative_to(root)}: {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in root.rglob("*")
        if path.is_file()
    }
    return rows | files | {f"claim: {row}" for row in claims}


def start(place: Place, name: str, target: str | None = None) -> Any:
    """Start a worker; given a function, wait until it has halted before that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.hands", "search.model_figures"])
    halt = (partial(halt_before, target, place.log.with_name(f"{name} was halted")),) if target else ()
    process: Any = context.Process(target=run, args=(place, name, *halt), daemon=True)
    process.start()
    if target:
        until(lambda: stopped(process))
    return process


def wake(process: Any) -> None:
    os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_wakes_up_after_its_trial_was_finished_by_another_changes_nothing(
    study: Study, place: Place, postgres_url: str, moment: str
) -> None:
    zombie = start(place, "zombie", MOMENTS[moment])
    other = start(place, "other")
    other.join(PATIENCE)
    before = contents(postgres_url, place.root)

    wake(zombie)
    zombie.join(PATIENCE)

    assert (other.exitcode, zombie.exitcode) == (0, 0), place.said.read_text()
    (trial,) = study.optuna.get_trials()
    spec = trial.user_attrs["fit"]
    assert trial.value == min(report.val_loss for report in losses(spec["params"], spec["seed"], spec["epochs"]))
    after = contents(postgres_url, place.root)
    assert (after - before, before - after) == (set(), set())
    assert weights_path(place.root, trial) is not None
    assert audit.strangers(postgres_url) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_wakes_up_while_another_runs_its_trial_writes_nothing_to_it(
    study: Study, place: Place, postgres_url: str, moment: str
) -> None:
    zombie = start(place, "zombie", MOMENTS[moment])
    other = start(place, "other", "search.objective:Reporter.note")
    (trial,) = study.optuna.get_trials()
    before = contents(postgres_url, place.root)

    wake(zombie)
    deadline = time.monotonic() + NOTICES
    while "taken over" not in place.said.read_text() and time.monotonic() < deadline:
        study.ledger.beat(trial._trial_id, worker="other")  # its own heart stands still as well
        time.sleep(0.1)
    after = contents(postgres_url, place.root)
    wake(other)
    other.join(PATIENCE)
    zombie.join(PATIENCE)

    assert (other.exitcode, zombie.exitcode) == (0, 0), place.said.read_text()
    assert (after - before, before - after) == (set(), set())
    assert audit.strangers(postgres_url) == []
