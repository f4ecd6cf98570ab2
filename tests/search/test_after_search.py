"""From a searched study to a model and a report: what the commands say is what the shipped model does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from playwright.sync_api import sync_playwright
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from typer.testing import CliRunner

from mlc_core import digits, load_model
from search.artifacts import weights_path
from search.chosen import Way
from search.cli import app
from search.confirm import enqueue_repetitions, open_confirmation, verdicts
from search.signals import Stop
from search.study import Study, open_study
from search.worker import work
from tests.search.test_dashboard import chromium
from tests.small import NAME, declare

WAYS: tuple[Way, ...] = ("0.5", "global", "per class", "tuned")


class Searched(NamedTuple):
    """A study of two complete trials, and its confirmation of one seed each."""

    study: Study
    confirmation: Study
    url: str
    folder: Path

    def call(self, *words: object, code: int = 0) -> str:
        """Run a command in this process; torch is imported already."""
        about = ["--study", NAME, "--storage", self.url, "--artifacts", str(self.folder / "artifacts")]
        done = CliRunner().invoke(app, [*map(str, words), *about], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.stdout


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    folder = tmp_path_factory.mktemp("searched")
    url = f"sqlite:///{folder / 'search.db'}"
    root = folder / "artifacts"
    root.mkdir()
    with open_study(str(declare(folder, epochs=1, pruner="none")), url, create=True) as study:
        study.ledger.open_budget(2)
        assert work(study, name="searcher", root=root, stop=Stop()) == 2
        with open_confirmation(study, url, create=True) as confirmation:
            assert confirmation is not None
            confirmation.ledger.open_budget(enqueue_repetitions(study, confirmation, top=2, seeds=1))
            assert work(confirmation, name="confirmer", root=root, stop=Stop()) == 2
            yield Searched(study, confirmation, url, folder)


@pytest.fixture(scope="module")
def told(searched: Searched) -> dict[str, dict[str, Any]]:
    """What evaluate says of each kind of model, as JSON."""
    return {
        "best": json.loads(searched.call("evaluate", "--json")),
        "trial": json.loads(searched.call("evaluate", "--trial", 1, "--json", "--goal", "recall:0.8")),
        "ensemble": json.loads(searched.call("evaluate", "--ensemble", "--json")),
    }


def test_the_best_is_the_first_of_the_confirmation_by_its_best_seed(
    searched: Searched, told: dict[str, dict[str, Any]]
) -> None:
    first = verdicts(searched.study, searched.confirmation)[0].row
    (member,) = told["best"]["members"]
    assert member["study"] == searched.confirmation.name
    assert member["seed"] in first.values
    assert told["best"]["why"] == f"trial {first.trial.number} was confirmed as the best over 1 seeds"
    assert [told["trial"]["members"][0][key] for key in ("study", "trial")] == [NAME, 1]


def test_an_ensemble_is_made_of_all_kept_weights_and_its_shares_add_up(told: dict[str, dict[str, Any]]) -> None:
    members = told["ensemble"]["members"]
    assert {member["study"] for member in members} <= {NAME, f"{NAME}-confirmation"}
    assert sum(member["share"] for member in members) == pytest.approx(1)
    assert told["ensemble"]["why"] == "selected greedily from 4 kept models on the validation split"


@pytest.mark.parametrize("which", ["best", "trial", "ensemble"])
def test_the_shipped_model_does_on_test_what_evaluate_says(
    searched: Searched, told: dict[str, dict[str, Any]], which: str
) -> None:
    """Recomputed from the exported folder, by scikit-learn."""
    asked = {"best": ["--best"], "trial": ["--trial", "1", "--goal", "recall:0.8"], "ensemble": ["--ensemble"]}
    folder = searched.folder / f"model-{which}"
    searched.call("export", folder, *asked[which], "--license", "CC0-1.0")
    test = digits().test
    model = load_model(folder)
    said = model.predict(test.images[test.rows])
    predicted = np.array([[name in one.labels for name in model.classes] for one in said])
    scores = told[which]["test"]
    assert scores["accuracy"] == pytest.approx(accuracy_score(test.labels.ravel(), predicted.ravel()), abs=1e-6)
    assert scores["macro"]["f1"] == pytest.approx(
        f1_score(test.labels, predicted, average="macro", zero_division=0), abs=1e-6
    )
    _, recall, _, support = precision_recall_fscore_support(test.labels, predicted, zero_division=0)
    assert [one["recall"] for one in scores["classes"]] == pytest.approx(recall.tolist(), abs=1e-6)
    assert [one["support"] for one in scores["classes"]] == support.tolist()
    assert dict(zip(model.classes, model.card.thresholds, strict=True)) == told[which]["thresholds"]
    assert model.card.license == "CC0-1.0"
    assert model.card.metrics == scores
    assert list(told[which]["by_thresholds"]) == list(WAYS)
    assert told[which]["by_thresholds"]["tuned"] == scores


def test_the_tables_are_printed_beside_the_documented_figures(searched: Searched) -> None:
    printed = searched.call("evaluate")
    for words in ("Test split, 1000 images", "By class, with 95 % intervals", "class-wise, guarded", "98.43 %"):
        assert words in printed


def test_a_trial_that_is_not_there_is_said_with_those_that_are(searched: Searched) -> None:
    with pytest.raises(Exception, match=rf"Study '{NAME}' has no trial 77\. It has the trials 0 to 1\."):
        searched.call("evaluate", "--trial", 77)


def test_a_trial_whose_weights_are_gone_is_said_with_those_that_are_there(searched: Searched) -> None:
    file = weights_path(searched.folder / "artifacts", searched.study.optuna.trials[1])
    assert file is not None
    aside = file.rename(file.with_suffix(".aside"))
    try:
        with pytest.raises(Exception, match=r"The weights of trial 1 .* are not kept; there are those of: 0\."):
            searched.call("evaluate", "--trial", 1)
    finally:
        aside.rename(file)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trial", 1, "--best"], "--trial, --best and --ensemble: choose one."),
        (["--figures", "x", "--as", "gif"], "--as gif: not one of html, png, svg, pdf."),
    ],
)
def test_bad_usage_ends_with_exit_code_2(searched: Searched, words: list[object], said: str) -> None:
    about = ["--study", NAME, "--storage", searched.url]
    done = CliRunner().invoke(app, ["evaluate", *map(str, words), *about])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_the_report_stands_alone_in_a_browser(searched: Searched, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    searched.call("report", "--out", file)
    assert file.stat().st_size < 5_000_000
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        boxes = page.locator(".drawn")
        for place in range(boxes.count()):
            box = boxes.nth(place)
            box.scroll_into_view_if_needed()
            box.locator(".main-svg").first.wait_for()
        headings = page.locator("h2").all_inner_texts()
        words = page.locator("body").inner_text()
        drawn = boxes.count()
        browser.close()
    assert drawn >= 11
    assert not said
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert headings == [
        "What came out",
        "The data",
        "The study small",
        "What mattered",
        "The documented trials, replayed",
        "Confirmed over fresh seeds",
        "The chosen model",
        "Class-wise thresholds",
        "The ensemble",
        "How to reproduce this",
    ]
    assert "mlc-search run --trials 2 --study small" in words


def test_the_dashboard_gets_figures_of_the_best_on_validation(searched: Searched) -> None:
    attributes = searched.study.optuna._storage.get_study_system_attrs(searched.study.optuna._study_id)
    best = searched.study.optuna.best_trial.number
    spelled = "".join(str(value) for key, value in attributes.items() if "plot_data" in key)
    for name in ("Loss by epoch", "Precision and recall", "Multi-label confusion matrix"):
        assert f"Best so far, trial {best}, on validation: {name}" in spelled


def test_a_deleted_study_takes_its_confirmation_and_all_files_along(searched: Searched) -> None:
    """Last, as nothing is left after it."""
    done = CliRunner().invoke(
        app,
        ["delete", NAME, "--yes", "--storage", searched.url, "--artifacts", str(searched.folder / "artifacts")],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    assert json.loads(CliRunner().invoke(app, ["studies", "--storage", searched.url, "--json"]).stdout) == []
    assert not [path for path in (searched.folder / "artifacts").rglob("*") if path.is_file()]
