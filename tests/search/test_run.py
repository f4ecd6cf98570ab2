"""Searches as a user runs them: the command line, worker processes, real training, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import mlc_core
from tests import small

FIGURES = ("state", "value", "epoch", "params", "seed", "reports")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose own files bear the names of our packages."""
    for name in ("search.py", "mlc_core.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('the user\\'s own file was imported')")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "paper.toml").write_text("not ours")
    return tmp_path


def alone(row: dict[str, object], folder: Path, storage: str) -> float:
    """Fit what the trial fitted, in this process, with nothing of a study around it."""
    told = small.call("show", row["number"], "--study", "small", "--json", folder=folder, storage=storage)
    return alone_as(json.loads(told.stdout))


def alone_as(shown: dict[str, Any]) -> float:
    """Fit what a trial fitted, as `show --json` tells it."""
    return mlc_core.fit(
        shown["fit"]["params"],
        seed=shown["fit"]["seed"],
        epochs=shown["fit"]["epochs"],
        precision=shown["compute"]["precision"],
        threads=shown["compute"]["threads"],
    )


def test_a_run_finishes_exactly_the_trials_asked_and_prints_the_best(storage_url: str, hostile: Path) -> None:
    file = small.declare(hostile)

    done = small.call(
        "run", "--study", file, "--trials", 4, "--workers", 2, "--json", folder=hostile, storage=storage_url
    )

    printed = json.loads(done.stdout)
    rows = small.rows(hostile, storage_url)
    values = [float(str(row["value"])) for row in rows if row["state"] == "complete"]
    assert (printed["asked"], printed["finished"]) == (4, 4)
    assert len(rows) == 4
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert printed["best"]["value"] == min(values)
    lines = [line for line in done.stderr.splitlines() if line.startswith("trial ")]
    assert sorted(int(line.split()[1]) for line in lines) == [0, 1, 2, 3]


@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "hyperband"), ("curves", "promote")])
def test_one_worker_and_one_seed_give_the_same_trials_twice_to_the_bit(
    sampler: str, pruner: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, sampler=sampler, pruner=pruner)
    runs = []
    for name in ("first", "second"):
        storage = f"sqlite:///{tmp_path}/{name}.db"
        small.call("run", "--study", file, "--trials", 6, "--workers", 1, folder=tmp_path, storage=storage)
        runs.append([{key: row[key] for key in FIGURES} for row in small.rows(tmp_path, storage)])

    assert runs[0] == runs[1]
    assert len({row["seed"] for row in runs[0]}) == 6


def test_paper_trials_come_first_once_each_and_give_the_bits_they_give_alone(storage_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1, large_batches=False)
    for added in (5, 0):
        words = ("enqueue-paper-trials", "--study", file, "--json")
        said = small.call(*words, folder=tmp_path, storage=storage_url)
        assert len(json.loads(said.stdout)["added"]) == added

    small.call("run", "--study", file, "--trials", 6, "--workers", 4, folder=tmp_path, storage=storage_url)

    rows = small.rows(tmp_path, storage_url)
    assert [(row["paper"], row["state"]) for row in rows[:5]] == [(n, "complete") for n in (1, 2, 3, 4, 5)]
    assert rows[5]["paper"] is None
    for row in (rows[1], rows[4]):
        assert row["value"] == alone(row, tmp_path, storage_url)


def test_documented_trials_enqueued_with_a_seed_are_run_with_it(sqlite_url: str, tmp_path: Path) -> None:
    same = ("--study", small.declare(tmp_path, large_batches=False), "--seed", 1, "--epochs", 1)
    small.call("enqueue-paper-trials", "--only", 2, *same, folder=tmp_path, storage=sqlite_url)
    small.call("run", "--trials", 1, "--workers", 1, *same, folder=tmp_path, storage=sqlite_url)
    assert [(row["paper"], row["state"]) for row in small.rows(tmp_path, sqlite_url)] == [(2, "complete")]


@pytest.mark.parametrize("workers", ["-1", "257", "many", "1.0", ""])
def test_workers_that_are_no_number_are_refused(workers: str, sqlite_url: str, tmp_path: Path) -> None:
    done = small.call("run", f"--workers={workers}", folder=tmp_path, storage=sqlite_url, code=2)
    assert f"{workers!r} is not auto or a whole number from 0 to 256." in " ".join(done.stderr.split())
    assert not (tmp_path / "search.db").exists()


def test_only_the_best_trials_keep_their_weights_and_finished_ones_no_checkpoint(
    sqlite_url: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, epochs=1, pruner="none")

    small.call("run", "--study", file, "--trials", 4, "--workers", 2, folder=tmp_path, storage=sqlite_url)

    root = tmp_path / "mlc-search-artifacts"
    files = [path for path in root.iterdir() if path.is_file()]
    curves = [path for path in files if path.read_bytes().startswith(b"<svg ")]
    assert len(curves) == 4  # every trial's
    losses = []
    for weights in set(files) - set(curves):
        with safe_open(weights, "pt") as opened:
            losses.append(float(opened.metadata()["val_loss"]))
    values = sorted(float(str(row["value"])) for row in small.rows(tmp_path, sqlite_url))
    assert sorted(losses) == values[:2]
    assert not list(root.glob("checkpoints/*/*"))


def test_a_diverging_trial_is_pruned_with_its_reason_and_never_retried(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path)
    toml = file.read_text().replace("lr = { low = 1e-5, high = 1e-2, log = true }", "lr = [10.0]")
    file.write_text(toml.replace('["adam", "adamw"]', '["adam"]'))

    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=sqlite_url)

    (row,) = small.rows(tmp_path, sqlite_url)
    assert row["state"] == "pruned"
    assert "loss ran away to" in str(row["note"]) or "loss is" in str(row["note"])
    assert row["value"] is None or math.isfinite(float(str(row["value"])))


def test_when_every_trial_fails_the_run_ends_with_the_reason_and_exit_code_1(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path)
    toml = file.read_text().replace("[500, 1000]", "[4000]").replace("image_size = 8", "image_size = 2048")
    file.write_text(toml)  # a batch of 200 GB, which no machine that runs this has

    words = ("run", "--study", file, "--trials", 3, "--workers", 1)
    done = small.call(*words, folder=tmp_path, storage=sqlite_url, code=1)

    assert "Error: " in done.stderr
    assert "6 attempts in a row failed on this worker, the last with: Memory ran out" in done.stderr
    rows = small.rows(tmp_path, sqlite_url)
    assert [row["state"] for row in rows] == ["failed", "failed"]
    assert all("emory" in str(row["note"]) for row in rows)


def test_files_that_cannot_be_written_end_the_run_and_cost_the_trial_nothing(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path)
    root = tmp_path / "mlc-search-artifacts"
    root.mkdir()
    (root / "checkpoints").write_text("a file where the folder should be")

    words = ("run", "--study", file, "--trials", 1, "--workers", 1, "--patience", "3s")
    done = small.call(*words, folder=tmp_path, storage=sqlite_url, code=1)
    waiting = small.rows(tmp_path, sqlite_url)
    (root / "checkpoints").unlink()
    small.call(*words, folder=tmp_path, storage=sqlite_url)

    assert "Not a directory. Waiting for it, 3 seconds at most." in done.stderr
    assert "Not a directory. The trial waits with its checkpoint." in done.stderr
    assert [(row["state"], row["note"]) for row in waiting] == [("waiting", "")]
    (row,) = small.rows(tmp_path, sqlite_url)
    assert row["state"] == "complete"


def test_a_run_whose_time_is_up_stops_cleanly_and_says_how_to_go_on(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1000, pruner="none")

    done = small.call(
        "run", "--study", file, "--trials", 3, "--workers", 1, "--timeout", "12s", folder=tmp_path, storage=sqlite_url
    )

    assert "The time is up after 0 of 3 trials.\nTo go on: mlc-search run --trials 3 --workers 1 --study" in done.stderr
    assert {row["state"] for row in small.rows(tmp_path, sqlite_url)} <= {"waiting"}
