"""What ``mlc-search doctor`` finds, on machines where something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from search.storage import resolve_url
from search.study import open_study
from tests import small


def findings(folder: Path, storage: str, *words: object, code: int = 0) -> dict[str, list[dict[str, Any]]]:
    said = small.call("doctor", "--study", "small", "--json", *words, folder=folder, storage=storage, code=code).stdout
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(said):
        found.setdefault(finding["what"], []).append(finding)
    return found


def test_a_machine_that_can_search_gets_a_clean_bill_and_the_dead_lose_their_trials(
    storage_url: str, tmp_path: Path
) -> None:
    file = small.declare(tmp_path, epochs=1)
    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=storage_url)
    clean = findings(tmp_path, storage_url)
    assert {finding["level"] for found in clean.values() for finding in found} <= {"ok", "warning"}
    assert {"database", "artifacts", "disk for cache", "device", "study", "versions", "data"} <= clean.keys()
    assert "1 trials finished, 0 running" in clean["study"][0]["said"]

    with open_study("small", storage_url) as study:
        study.ledger.open_budget(1)
        study.ledger.enlist("dead", {"code": "another", "host": "elsewhere", "device": "abacus"})
        study.ledger.claim("dead")
    assert "abacus" in findings(tmp_path, storage_url)["worker"][0]["said"]
    engine = create_engine(resolve_url(storage_url))
    with engine.begin() as connection:  # an hour later
        for table in ("mlc_claims", "mlc_workers"):
            connection.execute(text(f"UPDATE {table} SET beat_at = beat_at - 3600"))
    engine.dispose()

    sick = findings(tmp_path, storage_url)

    assert "1 of workers that fell silent went back to the queue" in sick["study"][0]["said"]
    assert "worker" not in sick


def test_what_has_to_be_mended_is_said_and_the_exit_code_is_1(sqlite_url: str, tmp_path: Path) -> None:
    assert findings(tmp_path, sqlite_url, code=1)["database"][0]["level"] == "failed"  # nothing was started there

    file = small.declare(tmp_path, epochs=1)
    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=sqlite_url)
    other = tmp_path / "other"
    other.mkdir()
    (other / "red").mkdir()
    found = findings(tmp_path, sqlite_url, "--data", other, code=1)
    assert found["data"][0]["level"] == "failed"

    shutil.rmtree(tmp_path / "mlc-search-artifacts")
    (tmp_path / "mlc-search-artifacts").write_text("in the way")
    assert findings(tmp_path, sqlite_url, code=1)["artifacts"][0]["level"] == "failed"


def test_another_version_is_warned_of(sqlite_url: str, tmp_path: Path) -> None:
    file = small.declare(tmp_path, epochs=1)
    small.call("run", "--study", file, "--trials", 1, "--workers", 1, folder=tmp_path, storage=sqlite_url)
    engine = create_engine(resolve_url(sqlite_url))
    with engine.begin() as connection:
        change = "UPDATE study_user_attributes SET value_json = :code WHERE key = 'mlc:code'"
        connection.execute(text(change), {"code": json.dumps("mlc-search 0.0.1")})
    engine.dispose()

    found = findings(tmp_path, sqlite_url)

    assert found["versions"][0]["level"] == "warning"
    assert "0.0.1" in found["versions"][0]["said"]
