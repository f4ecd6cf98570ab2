"""A study is one declaration for life, whoever opens it; the documented trials enter it once and complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from mlc_core import MlcError, Params
from search.errors import BadDeclaration, StorageDown, StudyChanged, StudyNotFound
from search.paper import paper_trials
from search.storage import close, connect, redacted, resolve_url
from search.study import Study, enqueue_paper, fit_spec, open_study, study_names
from search.trials import Trials
from tests.crew import Crew, Together
from tests.search.test_declaration import DEFAULT
from tests.search.test_paper import FIXED, OFF, PLAIN, UNUSED

WORKERS = 4
REST: dict[str, Any] = {**PLAIN, **UNUSED, **FIXED}  # of a fit of studies/default.toml, beside what is searched

# The document's table and what studies/paper.toml assumes beside it, typed a second time.
REPLAYS: dict[int, dict[str, Any]] = {
    1: {"optimizer": "adam", "lr": 5e-4, "weight_decay": 1e-4, "dropout": 0.5, "batch_size": 64}
    | {"scheduler": "step", "step_size": 5, "gamma": 0.1},
    2: {"optimizer": "adam", "lr": 1e-4, "weight_decay": 1e-5, "dropout": 0.4, "batch_size": 64}
    | {"scheduler": "plateau", "factor": 0.1, "patience": 2},
    3: {"optimizer": "adam", "lr": 1e-4, "weight_decay": 7e-4, "dropout": 0.5, "batch_size": 64}
    | {"scheduler": "cosine", "t_max": 25},
    4: {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 5e-4, "dropout": 0.45, "batch_size": 64}
    | {"scheduler": "cosine", "t_max": 35},
    5: {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 6e-4, "dropout": 0.48, "batch_size": 80}
    | {"scheduler": "cosine", "t_max": 40},
}


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.end()


@contextmanager
def plain(url: str) -> Iterator[Trials]:
    """The database as another program that uses Optuna sees it."""
    storage = connect(url)
    try:
        yield storage
    finally:
        close(storage)


def file(folder: Path, toml: str, *, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(toml)
    return str(path)


def opened(reference: str, url: str, **how: Any) -> Study:
    """Open and close; what was read stays."""
    with open_study(reference, url, **how) as study:
        return study


def refusal(reference: str, url: str, error: type[MlcError], **how: Any) -> str:
    with pytest.raises(error) as caught:
        opened(reference, url, **how)
    return str(caught.value)


def names(url: str) -> list[str]:
    with plain(url) as storage:
        return [study.study_name for study in storage.get_all_studies()]


def test_a_built_in_study_is_created_once_and_then_opened(storage_url: str) -> None:
    first = opened("default", storage_url, create=True)
    second = opened("default", storage_url, create=True)
    third = opened("default", storage_url)
    assert first.identity == second.identity == third.identity
    assert re.fullmatch("[0-9a-f]{32}", first.identity)
    assert names(storage_url) == ["default"]


def test_a_built_in_study_holds_its_declaration(storage_url: str) -> None:
    opened("default", storage_url, create=True)
    with plain(storage_url) as storage:
        (study,) = storage.get_all_studies()
    assert study.directions == [optuna.study.StudyDirection.MINIMIZE]
    assert opened("default", storage_url).declaration.to_table() == DEFAULT


def test_a_study_of_the_same_name_made_after_deleting_is_another_one(storage_url: str) -> None:
    before = opened("default", storage_url, create=True)
    with plain(storage_url) as storage:
        optuna.delete_study(study_name="default", storage=storage)
    assert opened("default", storage_url, create=True).identity != before.identity


def test_a_study_from_a_file_needs_the_file_only_once(storage_url: str, tmp_path: Path) -> None:
    reference = file(tmp_path, 'name = "night run"\nseed = 4\n[space]\nlr = [0.1, 0.01]\n')
    made = opened(reference, storage_url, create=True)
    Path(reference).unlink()

    again = opened("night run", storage_url)

    assert (made.name, again.name) == ("night run", "night run")
    assert again.identity == made.identity
    assert again.declaration == made.declaration
    assert again.declaration.seed == 4


def test_a_study_keeps_the_overrides_it_was_started_with(storage_url: str) -> None:
    opened("default", storage_url, create=True, overrides={"epochs": 7})
    assert opened("default", storage_url, create=True).declaration.epochs == 7
    assert opened("default", storage_url, overrides={"epochs": 7}).declaration.epochs == 7


def changed(study: str, *lines: str) -> str:
    return (
        f"Study {study!r} was started with another declaration:\n"
        + "".join(f"  {line}\n" for line in lines)
        + "Go on by --study NAME alone or the same values; let it grow by mlc-search run --study FILE --extend; or "
        'name this one otherwise: name = "..." in its file.'
    )


def test_going_on_with_another_override_names_what_differs(storage_url: str) -> None:
    opened("default", storage_url, create=True)
    sentence = refusal("default", storage_url, StudyChanged, overrides={"epochs": 3, "seed": 1}, create=True)
    assert sentence == changed("default", "epochs: 12, now 3", "seed: 0, now 1")
    assert opened("default", storage_url).declaration.epochs == 12


def test_a_file_that_changed_since_names_what_differs(storage_url: str, tmp_path: Path) -> None:
    reference = file(tmp_path, "[space]\nlr = { low = 1e-4, high = 0.01 }\n")
    before = opened(reference, storage_url, create=True)
    file(tmp_path, "[space]\nlr = { low = 1e-4, high = 0.1 }\n")
    assert refusal(reference, storage_url, StudyChanged) == changed("mine", "space.lr.high: 0.01, now 0.1")
    assert opened("mine", storage_url).declaration == before.declaration


def test_an_override_that_cannot_be_is_refused_by_its_name(storage_url: str) -> None:
    opened("default", storage_url, create=True)
    assert refusal("default", storage_url, BadDeclaration, overrides={"epochs": 0}) == (
        "the command line: epochs: 0 is not a whole number from 1 to 100000."
    )


def test_an_unknown_study_is_named_beside_the_known_ones(storage_url: str, tmp_path: Path) -> None:
    opened("default", storage_url, create=True)
    opened(file(tmp_path, ""), storage_url, create=True)
    for create in (True, False):
        assert refusal("defualt", storage_url, StudyNotFound, create=create) == (
            "There is no study 'defualt'. Did you mean 'default'? Studies: default, mine."
        )
    assert names(storage_url) == ["default", "mine"]


def test_looking_at_a_study_does_not_start_it(storage_url: str, tmp_path: Path) -> None:
    opened(file(tmp_path, "", name="other"), storage_url, create=True)
    reference = file(tmp_path, "")
    assert refusal("default", storage_url, StudyNotFound) == "There is no study 'default'. Studies: other."
    assert refusal(reference, storage_url, StudyNotFound) == "There is no study 'mine'. Studies: other."
    assert names(storage_url) == ["other"]


def test_looking_into_an_empty_database_says_that_nothing_was_started(storage_url: str) -> None:
    assert refusal("default", storage_url, StorageDown) == (
        f"Cannot use the database {redacted(resolve_url(storage_url))}: no search has been started in it yet. "
        "Start a search with mlc-search run, or name another database with --storage."
    )


def test_a_file_that_is_wrong_is_refused_before_the_database_is_touched(sqlite_url: str, tmp_path: Path) -> None:
    reference = file(tmp_path, "epochs = 0")
    assert refusal(reference, sqlite_url, BadDeclaration, create=True) == (
        f"{reference}: epochs: 0 is not a whole number from 1 to 100000."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


FOREIGN = "study 'default': declaration: it has none, so another program made it. Name a study that mlc-search started."


def test_a_study_with_trials_that_another_program_made_is_left_alone(storage_url: str) -> None:
    with plain(storage_url) as storage:
        study = optuna.create_study(storage=storage, study_name="default")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for create in (True, False):
        assert refusal("default", storage_url, BadDeclaration, create=create) == FOREIGN
    with plain(storage_url) as storage:
        assert storage.get_all_studies()[0].user_attrs == {}


def test_an_empty_study_that_maximizes_is_not_taken_over(storage_url: str) -> None:
    with plain(storage_url) as storage:
        optuna.create_study(storage=storage, study_name="default", direction="maximize")
    assert refusal("default", storage_url, BadDeclaration, create=True) == FOREIGN


def test_a_study_whose_maker_died_before_declaring_it_is_declared_by_the_next(storage_url: str) -> None:
    with plain(storage_url) as storage:
        optuna.create_study(storage=storage, study_name="default", direction="minimize")
    assert refusal("default", storage_url, StudyNotFound) == (
        "There is no study 'default'. The database holds no study yet."
    )
    assert opened("default", storage_url, create=True).declaration.to_table() == DEFAULT


@contextmanager
def after_reading_the_studies(then: Any) -> Iterator[list[str]]:
    """Do something once, right after the first transaction that read the studies' attributes."""
    seen: list[str] = []

    def executed(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not seen and "FROM study_user_attributes" in statement:
            seen.append("read")

    def given_back(*_connection: object) -> None:
        if seen == ["read"]:
            seen.append("done")
            then()

    event.listen(Engine, "after_cursor_execute", executed)
    event.listen(Pool, "checkin", given_back)
    try:
        yield seen
    finally:
        event.remove(Engine, "after_cursor_execute", executed)
        event.remove(Pool, "checkin", given_back)


def test_a_study_that_another_starts_in_the_meantime_is_not_taken_for_a_foreign_one(storage_url: str) -> None:
    with plain(storage_url) as storage:  # the other has come as far as this
        optuna.create_study(storage=storage, study_name="default", direction="minimize")

    def start() -> None:
        with open_study("default", storage_url, create=True) as other:
            enqueue_paper(other, paper_trials()[:1])

    with after_reading_the_studies(start) as seen:
        study = opened("default", storage_url)

    assert seen == ["read", "done"]
    assert study.declaration.to_table() == DEFAULT


def test_only_our_studies_are_listed_by_name(storage_url: str, tmp_path: Path) -> None:
    with plain(storage_url) as storage:
        optuna.create_study(storage=storage, study_name="another program's")
    opened(file(tmp_path, "", name="mine"), storage_url, create=True)
    opened("default", storage_url, create=True)
    with plain(storage_url) as storage:
        assert study_names(storage) == ["default", "mine"]
    assert refusal("my", storage_url, StudyNotFound) == ("There is no study 'my'. Studies: default, mine.")


def test_two_studies_in_one_database_keep_their_trials_apart(storage_url: str, tmp_path: Path) -> None:
    with open_study("default", storage_url, create=True) as study:
        enqueue_paper(study, paper_trials())
    with open_study(file(tmp_path, "epochs = 3"), storage_url, create=True) as mine:
        added = enqueue_paper(mine, paper_trials()[:2])
        assert added == {1: True, 2: True}
        assert [trial.user_attrs["fit"]["epochs"] for trial in mine.optuna.trials] == [3, 3]
    with open_study("default", storage_url) as study:
        assert len(study.optuna.trials) == 5


def check_replays(study: Study) -> None:
    trials = {trial.user_attrs["paper"]: trial for trial in study.optuna.trials}
    assert len(study.optuna.trials) == len(trials) == 5
    for number, params in REPLAYS.items():
        trial = trials[number]
        assert trial.state == TrialState.WAITING
        assert trial.system_attrs == {"fixed_params": params}
        spec = {"params": {**params, **REST, **OFF}, "epochs": 12, "seed": number}
        assert trial.user_attrs == {"paper": number, "fit": spec}


def test_the_documented_trials_enter_with_all_that_they_need(storage_url: str) -> None:
    with open_study("default", storage_url, create=True) as study:
        assert enqueue_paper(study, paper_trials()) == dict.fromkeys(REPLAYS, True)
        check_replays(study)


def test_enqueueing_twice_adds_nothing(storage_url: str) -> None:
    with open_study("default", storage_url, create=True) as study:
        enqueue_paper(study, paper_trials()[1:3])
        assert enqueue_paper(study, paper_trials()) == {1: True, 2: False, 3: False, 4: True, 5: True}
    with open_study("default", storage_url) as study:
        assert enqueue_paper(study, paper_trials()) == dict.fromkeys(REPLAYS, False)
        check_replays(study)


def start_and_enqueue(rank: int, together: Together, url: str) -> tuple[str, list[int]]:  # noqa: ARG001 - all alike
    together()
    with open_study("default", url, create=True) as study:
        return study.identity, [n for n, added in enqueue_paper(study, paper_trials()).items() if added]


def test_processes_that_start_and_enqueue_at_once_make_one_study_with_five_trials(storage_url: str, crew: Crew) -> None:
    answers = crew.run(WORKERS, start_and_enqueue, storage_url)

    assert len({identity for identity, _ in answers}) == 1
    assert sorted(number for _, added in answers for number in added) == [1, 2, 3, 4, 5]
    with open_study("default", storage_url) as study:
        assert study.identity == answers[0][0]
        check_replays(study)


def test_a_study_that_would_never_draw_a_documented_value_gets_none_of_them(storage_url: str, tmp_path: Path) -> None:
    space = "[space]\nweight_decay = { low = 1e-6, high = 6.5e-4 }\n"
    with open_study(file(tmp_path, space), storage_url, create=True) as study:
        with pytest.raises(BadDeclaration) as caught:
            enqueue_paper(study, paper_trials())
        assert study.optuna.trials == []
        assert enqueue_paper(study, paper_trials()[3:]) == {4: True, 5: True}
    assert str(caught.value) == (
        "study 'mine': space: paper trial 3 has weight_decay = 0.0007, which this study would never draw. "
        "Replay it in the study 'default'."
    )


def test_a_study_without_a_documented_scheduler_gets_none_of_its_trials(storage_url: str, tmp_path: Path) -> None:
    with open_study(file(tmp_path, "[space.scheduler.cosine]\n"), storage_url, create=True) as study:
        with pytest.raises(BadDeclaration) as caught:
            enqueue_paper(study, paper_trials())
        assert enqueue_paper(study, paper_trials()[2:]) == {3: True, 4: True, 5: True}
    assert str(caught.value) == (
        "study 'mine': space: paper trial 1 has scheduler = 'step', which this study would never draw. "
        "Replay it in the study 'default'."
    )


HELD = """
[space]
lr = { low = 1e-5, high = 1e-2, log = true }
[fixed]
optimizer = "adamw"
batch_size = 16
scheduler = "step"
step_size = 9
image_size = 16
backbone = "resnet18"
"""


def test_a_replay_in_a_study_that_holds_keys_constant_is_still_the_documents(storage_url: str, tmp_path: Path) -> None:
    with open_study(file(tmp_path, HELD), storage_url, create=True) as study:
        enqueue_paper(study, paper_trials())
        specs = {trial.user_attrs["paper"]: trial.user_attrs["fit"]["params"] for trial in study.optuna.trials}
    open_keys = {**FIXED, **PLAIN, **UNUSED, "image_size": 16, "backbone": "resnet18"}
    assert specs == {number: {**params, **open_keys} for number, params in REPLAYS.items()}
    for spec in specs.values():
        assert Params.from_flat(spec).to_flat() == spec


def test_a_trial_of_the_open_search_is_spelled_like_a_replay(storage_url: str) -> None:
    with open_study("default", storage_url, create=True, overrides={"epochs": 3}) as study:
        spec = fit_spec(study.declaration, {**FIXED, **REPLAYS[2]}, seed=9)
    assert spec == {"params": {**REST, **REPLAYS[2]}, "epochs": 3, "seed": 9}


def test_whoever_remembers_first_decides_for_all(storage_url: str) -> None:
    with open_study("default", storage_url, create=True) as study:
        assert study.ledger.remember("mlc:precision", "bf16") == "bf16"
        assert study.ledger.remember("mlc:precision", "fp32") == "bf16"
        assert study.optuna.user_attrs["mlc:precision"] == "bf16"
        assert study.ledger.remember("another", "fp32") == "fp32"


def remember_my_rank(rank: int, together: Together, url: str) -> list[str]:
    with open_study("default", url) as study:
        answers = []
        for turn in range(5):
            together()
            answers.append(study.ledger.remember(f"turn {turn}", f"rank {rank}"))
        return answers


def test_processes_that_remember_at_once_agree_on_one_of_theirs(storage_url: str, crew: Crew) -> None:
    opened("default", storage_url, create=True)

    answers = crew.run(WORKERS, remember_my_rank, storage_url)

    assert [answer == answers[0] for answer in answers] == [True] * WORKERS
    assert set(answers[0]) <= {f"rank {rank}" for rank in range(WORKERS)}
    with open_study("default", storage_url) as study:
        assert [study.optuna.user_attrs[f"turn {turn}"] for turn in range(5)] == answers[0]
