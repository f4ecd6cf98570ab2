"""Studies that grow, and that begin from others, as a user runs them: real workers, real training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from tests import small

CHANGES = [
    "space.batch_size: [500, 1000], now [500, 800, 1000]",
    "fixed.image_size: 8, now absent",
    "space.image_size: absent, now [8, 10]",
]


def grow(file: Path) -> None:
    """Let the study's file say more than the study was started with."""
    said = file.read_text()
    for old, new in (
        ("[500, 1000]", "[500, 800, 1000]"),
        ("[fixed]\nimage_size = 8\n", ""),
        ("[space]\n", "[space]\nimage_size = [8, 10]\n"),
    ):
        assert said.count(old) == 1
        said = said.replace(old, new)
    file.write_text(said)


def params(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [dict(row["params"]) for row in rows]  # type: ignore[call-overload]


def test_a_study_grows_on_demand_and_begins_another_one(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1, pruner="none")
    run = ("run", "--study", file, "--trials", 1, "--workers", 1)
    small.call(*run, folder=tmp_path, storage=sqlite_url)
    grow(file)

    refused = small.call(*run, folder=tmp_path, storage=sqlite_url, code=2)
    assert "mlc-search run --study FILE --extend" in refused.stderr
    done = small.call(*run, "--extend", folder=tmp_path, storage=sqlite_url)

    said = [line.removeprefix("The study grows: ") for line in done.stderr.splitlines() if "grows" in line]
    assert said == CHANGES
    rows = small.rows(tmp_path, sqlite_url)
    first, second = params(rows)
    assert first["image_size"] == 8
    assert second["image_size"] in (8, 10)
    shown = json.loads(small.call("status", "--study", "small", "--json", folder=tmp_path, storage=sqlite_url).stdout)
    assert [(change["trials"], change["differences"]) for change in shown["changes"]] == [(1, CHANGES)]

    other = f"sqlite:///{tmp_path}/other.db"
    another = ("--warm-start", "small", "--warm-start-storage", sqlite_url)
    begun = small.call(*run, *another, folder=tmp_path, storage=other)
    best = min(rows, key=lambda row: float(str(row["value"])))
    assert f"Of study 'small' tried first: trial {best['number']}." in begun.stderr
    (only,) = small.rows(tmp_path, other)
    assert (only["params"], only["state"]) == (best["params"], "complete")


def test_a_worker_that_waits_draws_from_the_space_that_has_grown_since(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1, pruner="none")
    ask = ("run", "--study", file, "--trials", 1, "--workers", 0)
    environment = {**os.environ, "MLC_STORAGE": sqlite_url}
    environment.pop("MLC_ARTIFACTS", None)
    worker = subprocess.Popen(small.command("worker", "--study", "small", "--wait"), cwd=tmp_path, env=environment)
    try:
        small.call(*ask, folder=tmp_path, storage=sqlite_url)
        grow(file)
        small.call(*ask, "--extend", folder=tmp_path, storage=sqlite_url)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0
    rows = small.rows(tmp_path, sqlite_url)
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert all("image_size" in one for one in params(rows))
    assert not any(row["failures"] for row in rows)
