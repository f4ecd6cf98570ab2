"""Workers and runs that are really killed and interrupted; nothing is lost and no bit changes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests import small
from tests.search.test_run import alone

PATIENCE = 120.0  # seconds


def start(*words: object, folder: Path, storage: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MLC_STORAGE": storage}
    return subprocess.Popen(
        small.command(*words), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("mlc-search-artifacts/checkpoints/*/*/resume.ckpt"))


def workers_of(run: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(run.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "search.worker" in child.cmdline():
                found.append(child)
    return found


def run_while_workers_are_killed(file: Path, *, folder: Path, storage: str, trials: int) -> None:
    """Kill the one worker of a run once its trial has a checkpoint; the run must end well all the same."""
    run = start("run", "--study", file, "--trials", trials, "--workers", 1, folder=folder, storage=storage)
    until(lambda: checkpoints(folder))
    for worker in workers_of(run):
        worker.kill()
    _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said


def test_a_killed_workers_trial_goes_on_from_its_checkpoint_to_the_same_bits(storage_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=6, pruner="none")
    run_while_workers_are_killed(file, folder=tmp_path, storage=storage_url, trials=2)

    rows = small.rows(tmp_path, storage_url)
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert "was killed by SIGKILL" in str(rows[0]["note"])
    assert rows[0]["value"] == alone(rows[0], tmp_path, storage_url)


@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_run_loses_nothing_and_goes_on(sqlite_url: str, tmp_path: Path, damaged: bool) -> None:
    file = small.declare(tmp_path, epochs=8, pruner="none")
    run = start("run", "--study", file, "--trials", 1, "--workers", 2, folder=tmp_path, storage=sqlite_url)
    until(lambda: checkpoints(tmp_path))
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130, said
    assert "Stopped after 0 of 1 trials.\nTo go on: mlc-search run --trials 1 --workers 2 --study" in said
    assert [row["state"] for row in small.rows(tmp_path, sqlite_url)] == ["waiting"]
    if damaged:
        (checkpoint,) = checkpoints(tmp_path)
        content = bytearray(checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        checkpoint.write_bytes(content)

    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=sqlite_url)

    (row,) = small.rows(tmp_path, sqlite_url)
    assert (row["state"], row["epoch"]) == ("complete", 8)
    assert row["value"] == alone(row, tmp_path, sqlite_url)


def test_workers_do_not_survive_a_killed_run_and_give_their_trial_back(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1000, pruner="none")
    run = start("run", "--study", file, "--trials", 3, "--workers", 2, folder=tmp_path, storage=sqlite_url)
    until(lambda: len(checkpoints(tmp_path)) == 2)
    workers = workers_of(run)
    run.kill()
    run.communicate()

    gone, alive = psutil.wait_procs(workers, timeout=PATIENCE)

    assert (len(gone), alive) == (2, [])
    assert [row["state"] for row in small.rows(tmp_path, sqlite_url)] == ["waiting", "waiting"]


def test_a_waiting_worker_does_what_a_run_elsewhere_asks_for(storage_url: str, tmp_path: Path) -> None:
    worker = start("worker", "--wait", "--study", "small", folder=tmp_path, storage=storage_url)
    file = small.declare(tmp_path, epochs=1)
    assert worker.stderr is not None
    first = worker.stderr.readline()
    assert "however long that takes, because of --wait" in first

    small.call("run", "--study", file, "--trials", 2, "--workers", 0, folder=tmp_path, storage=storage_url)
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=PATIENCE)

    assert worker.returncode == 0, said
    assert "It is there; going on." in said
    assert "This worker finished 2 trials." in said
    assert {row["state"] for row in small.rows(tmp_path, storage_url)} <= {"complete", "pruned"}
