"""A search of two objectives as a user runs it, from its file to the front, its models and its report; all real."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from typer.testing import CliRunner

from search.cli import app
from tests import small, weighed
from tests.search.test_dashboard import browser, opened, served  # noqa: F401 - a fixture

LIMIT = 80.0  # megabytes: ResNet-34 has more
TRIALS = 8


class Searched(NamedTuple):
    """A study of size against loss."""

    folder: Path
    storage: str

    def call(self, *words: object) -> str:
        """Run a command in this process; torch is imported already."""
        about = ["--study", weighed.NAME, "--storage", self.storage]
        done = CliRunner().invoke(app, [*map(str, words), *about], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *words: object) -> Any:
        return json.loads(self.call(*words, "--json"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("front")
    storage = f"sqlite:///{folder}/search.db"
    file = weighed.declare(
        folder, backbones=("resnet10", "resnet18", "resnet34"), limits=f"size = {LIMIT}", sampler="random"
    )
    # Random draws know no limit, so that some are over it.
    small.call("run", "--study", file, "--trials", TRIALS, "--workers", 2, folder=folder, storage=storage)
    return Searched(folder, storage)


def test_the_budget_is_exact_and_only_what_is_over_the_limit_was_not_trained(searched: Searched) -> None:
    rows = searched.json("trials")
    assert len(rows) == TRIALS
    over = [row for row in rows if row["size_mb"] > LIMIT]
    assert {row["params"]["backbone"] for row in over} == {"resnet34"}
    for row in rows:
        assert row["state"] == ("pruned" if row in over else "complete")
        assert bool(row["reports"]) == (row not in over)
    assert {row["note"] for row in over} == {f"size {over[0]['size_mb']:.3g} MB is over the limit of 80 MB"}
    latencies = {(row["params"]["backbone"], row["latency_ms"], row["size_mb"]) for row in rows}
    assert len(latencies) == 3  # one number each, whichever worker ran the trial


def test_best_shows_the_front_and_optuna_knows_no_other(searched: Searched) -> None:
    said = searched.json("best")
    rows = {row["number"]: row for row in searched.json("trials")}
    shown = [row["number"] for row in said["front"]]
    [name] = optuna.get_all_study_names(searched.storage)
    plain = optuna.load_study(study_name=name, storage=searched.storage)
    assert set(shown) == {one.number for one in plain.best_trials}
    assert [one.values for one in plain.best_trials] == [
        [rows[one.number]["value"], rows[one.number]["size_mb"]] for one in plain.best_trials
    ]
    complete = [row["value"] for row in rows.values() if row["state"] == "complete"]
    assert said["leaderboard"][0]["number"] == shown[0]
    assert rows[shown[0]]["value"] == min(complete)
    for better, smaller in pairwise(shown):
        assert rows[better]["value"] < rows[smaller]["value"]
        assert rows[better]["size_mb"] > rows[smaller]["size_mb"]
    table = searched.call("best")
    for number in shown:
        line = rf"^ +{number} +0\.\d+ +[\d.e-]+ ms +[\d.]+ MB +resnet\d\d +standard +8 +2/2 *$"
        assert re.search(line, table, re.MULTILINE), table
    status = searched.call("status")
    assert "The front" in status
    assert re.search(r"Not trained: trial [\d, ]+: size 85.\d MB is over the limit of 80 MB", status)
    assert [row["number"] for row in searched.json("status")["front"]] == shown


def test_show_tells_the_measures_and_the_limit(searched: Searched) -> None:
    rows = searched.json("trials")
    over, trained = (next(row for row in rows if (row["size_mb"] > LIMIT) is too_much) for too_much in (True, False))
    said = searched.call("show", over["number"])
    assert re.search(r"^limits +size 85.\d MB is over the limit of 80 MB *$", said, re.MULTILINE), said
    said = searched.call("show", trained["number"])
    assert re.search(r"^latency +[\d.e-]+ ms", said, re.MULTILINE)
    assert re.search(r"^size +[\d.]+ MB", said, re.MULTILINE)
    assert re.search(r"^limits +size 80 MB *$", said, re.MULTILINE)


def test_every_trial_of_the_front_can_be_evaluated_and_exported(searched: Searched) -> None:
    front = searched.json("best")["front"]
    told = [searched.json("evaluate", "--trial", row["number"])["members"][0]["trial"] for row in front]
    assert told == [row["number"] for row in front]
    assert searched.json("evaluate")["members"][0]["trial"] == front[0]["number"]
    last = front[-1]
    searched.call("export", searched.folder / "model", "--trial", last["number"])
    [weights] = (searched.folder / "model").glob("member-*.safetensors")
    assert weights.stat().st_size == pytest.approx(1e6 * last["size_mb"], rel=0.005)


def test_the_report_has_the_front_as_a_figure_and_a_table(searched: Searched) -> None:
    searched.call("report", "--out", searched.folder / "report.html")
    page = (searched.folder / "report.html").read_text()
    assert "The front" in page
    assert "megabytes of weights" in page
    assert "Limits: size 80 MB." in page
    assert re.search(r"Not trained: trial [\d, ]+: size 85.\d MB is over the limit of 80 MB", page)


def test_the_dashboard_draws_the_front(searched: Searched, browser: Any) -> None:  # noqa: F811 - a fixture
    front = searched.json("best")["front"]
    with served(searched.folder, searched.storage) as running:
        page, errors = opened(browser)
        page.goto(f"http://localhost:{running.port}/dashboard/studies/1")
        page.get_by_text("Pareto Front", exact=False).first.wait_for()
        page.locator("#graph-pareto-front .scatterlayer .point").first.wait_for()
        drawn = page.evaluate("document.getElementById('graph-pareto-front').data.map(one => [one.x, one.y])")
        points = {
            (round(x, 6), round(y, 6))
            for xs, ys in drawn
            for x, y in zip(xs, ys, strict=True)
            if x is not None  # of a trial that is not complete
        }
        assert {(round(row["value"], 6), round(row["size_mb"], 6)) for row in front} <= points
        page.context.close()
        assert errors == []
        assert "Traceback" not in running.said


def test_where_nothing_fits_run_ends_with_a_sentence_before_any_trial(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/search.db"
    file = weighed.declare(tmp_path, limits="size = 10")
    done = small.call("run", "--study", file, "--trials", 50, "--workers", 1, folder=tmp_path, storage=storage, code=2)
    assert "resnet10 with the standard stem at 8 pixels: size 19.7 MB is over the limit of 10 MB" in done.stderr
    assert "[limits]" in done.stderr
    listed = small.call("trials", "--study", weighed.NAME, "--json", folder=tmp_path, storage=storage)
    assert json.loads(listed.stdout) == []
    worked = small.call("worker", "--study", weighed.NAME, folder=tmp_path, storage=storage, code=2)
    assert "size 19.7 MB is over the limit of 10 MB" in worked.stderr


@pytest.mark.parametrize("sampler", ["curves", "tpe"])
def test_every_kind_of_search_ends_and_one_worker_and_one_seed_repeat_it(sampler: str, tmp_path: Path) -> None:
    backbones, limits = ("resnet10", "resnet18", "resnet34"), f"size = {LIMIT}"
    file = weighed.declare(tmp_path, epochs=6, sampler=sampler, pruner="promote", backbones=backbones, limits=limits)
    runs = []
    for name in ("first", "second"):
        storage = f"sqlite:///{tmp_path}/{name}.db"
        small.call("run", "--study", file, "--trials", 8, "--workers", 1, folder=tmp_path, storage=storage)
        listed = small.call("trials", "--study", weighed.NAME, "--json", folder=tmp_path, storage=storage)
        runs.append([{key: row[key] for key in ("state", "value", "params", "reports")}
                     for row in json.loads(listed.stdout)])  # fmt: skip
    assert runs[0] == runs[1]
    assert len(runs[0]) == 8
    states = [row["state"] for row in runs[0]]
    assert set(states) <= {"complete", "pruned"}
    assert "complete" in states
    if sampler == "curves":
        assert {row["params"]["backbone"] for row in runs[0]} == {"resnet10", "resnet18"}
