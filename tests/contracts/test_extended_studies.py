"""A study that grows keeps its history: on SQLite and PostgreSQL, for us, for plain Optuna, and for what waits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from mlc_core import MlcError
from search.confirm import enqueue_repetitions, open_confirmation
from search.extend import CannotExtend, changes, extend_study
from search.ledger import Claim
from search.objective import begin
from search.options import Tpe as TpeOptions
from search.paper import paper_trials
from search.space import domains
from search.storage import close, connect, resolve_url
from search.strategy import sampler
from search.study import Study, enqueue_paper, is_outdated, open_study
from search.tpe import Tpe
from tests.contracts.doomed import let_a_day_pass
from tests.search.test_declaration import DECLARATIONS, SHARED, domain

TOML = """
name = "mine"
[sampler]
startup = 4
[space]
optimizer = ["adam", "adamw"]
lr = { low = 1e-4, high = 1e-2, log = true }
batch_size = [16, 64]
[space.scheduler.step]
gamma = { low = 0.05, high = 0.9 }
[space.scheduler.cosine]
t_max = { low = 6, high = 40 }
[fixed]
image_size = 32
ema = 0.5
"""
GROWN = (  # the file and what it says instead
    ("batch_size = [16, 64]", "batch_size = [16, 32, 64, 128]"),
    ("low = 1e-4", "low = 1e-5"),
    ("[space.scheduler.cosine]", "[space.scheduler.plateau]\nfactor = [0.1, 0.5]\n[space.scheduler.cosine]"),
    ("[space.scheduler.step]\n", "[space.scheduler.step]\nstep_size = { low = 1, high = 12 }\n"),
    ("image_size = 32\n", ""),
    ("[space]\n", "[space]\nimage_size = [16, 32]\nflip = { low = 0.0, high = 0.5 }\n"),
    ("startup = 4", "startup = 5"),
)
HARMLESS = 'retries = 7\nkeep = 9\n[pruner]\nname = "median"\n'


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    return file


def rewritten(file: Path, *changed: tuple[str, str]) -> str:
    content = file.read_text()
    for old, new in changed:
        assert content.count(old) == 1, old
        content = content.replace(old, new)
    file.write_text(content)
    return str(file)


def trial_of(study: Study, value: float | None = None) -> FrozenTrial:
    """Draw a trial as a worker does; it ends with the value, or runs on."""
    claim = study.ledger.claim("worker", budget_id=study.ledger.open_budget(1))
    assert isinstance(claim, Claim)
    begin(study, claim, precision="fp32")
    if value is not None:
        assert study.ledger.finish(claim.trial_id, worker="worker", state=TrialState.COMPLETE, value=value)
    return study.storage.get_trial(claim.trial_id)


def made(url: str, file: Path, *, trials: int = 8) -> list[FrozenTrial]:
    """Start the study with that many complete trials."""
    with open_study(str(file), url, create=True) as study:
        return [trial_of(study, value=1.0 / (number + 1)) for number in range(trials)]


def stored(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of what an extension may write."""
    tables = ("trial_params", "trial_system_attributes", "study_user_attributes", "trials")
    storage = connect(url)
    try:
        with storage.engine.connect() as connection:
            return {
                name: sorted(tuple(row) for row in connection.execute(text(f"SELECT * FROM {name}"))) for name in tables
            }
    finally:
        close(storage)


@contextmanager
def plain(url: str, name: str = "mine") -> Iterator[optuna.Study]:
    """The study as another program that knows Optuna alone opens it."""
    storage = optuna.storages.RDBStorage(resolve_url(url))
    try:
        yield optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.TPESampler(seed=1))
    finally:
        storage.remove_session()
        storage.engine.dispose()


def refused(url: str, reference: str, error: type[MlcError] = CannotExtend, **overrides: int) -> str:
    """The sentence, if nothing was written."""
    before = stored(url)
    with pytest.raises(error) as caught:
        extend_study(reference, url, overrides=overrides)
    assert stored(url) == before
    return str(caught.value)


def test_all_that_may_grow_grows_at_once_and_every_trial_keeps_what_it_had(storage_url: str, mine: Path) -> None:
    before = made(storage_url, mine)

    lines = extend_study(rewritten(mine, *GROWN, ("[sampler]", f"{HARMLESS}[sampler]")), storage_url)

    assert "space.batch_size: [16, 64], now [16, 32, 64, 128]" in lines
    assert "fixed.image_size: 32, now absent" in lines
    with open_study(str(mine), storage_url) as study:
        after = study.optuna.get_trials()
        assert (study.declaration.retries, study.declaration.keep) == (7, 9)
    for old, new in zip(before, after, strict=True):
        joined = {"image_size": 32, "flip": 0.0} | ({"step_size": 5} if old.params["scheduler"] == "step" else {})
        assert new.params == {**old.params, **joined}
        assert (new.value, new.user_attrs) == (old.value, old.user_attrs)
        assert new.user_attrs["fit"]["params"].items() >= new.params.items()
        assert new.distributions["batch_size"] == CategoricalDistribution((16, 32, 64, 128))
        assert new.distributions["lr"] == FloatDistribution(1e-5, 1e-2, log=True)
        assert new.distributions["scheduler"] == CategoricalDistribution(("step", "plateau", "cosine"))


def test_a_study_that_grew_draws_from_the_new_space_as_a_worker_does(storage_url: str, mine: Path) -> None:
    made(storage_url, mine)
    extend_study(rewritten(mine, *GROWN), storage_url)
    with open_study(str(mine), storage_url) as study:
        drawn = [trial_of(study, value=0.5).params for _ in range(12)]
        everything = study.optuna.get_trials()
    assert {one["batch_size"] for one in drawn} & {32, 128}
    assert all({"flip", "image_size"} <= one.keys() for one in drawn)
    kinds = {key: {str(trial.distributions[key]) for trial in everything if key in trial.params} for key in drawn[0]}
    assert {key: len(kind) for key, kind in kinds.items()} == dict.fromkeys(drawn[0], 1)


def test_plain_optuna_reads_the_study_that_grew_and_goes_on(storage_url: str, mine: Path) -> None:
    before = made(storage_url, mine)
    extend_study(rewritten(mine, *GROWN), storage_url)
    with plain(storage_url) as study:
        assert study.best_params.items() >= before[-1].params.items()
        trial = study.ask()
        assert trial.suggest_categorical("batch_size", (16, 32, 64, 128)) in (16, 32, 64, 128)
        assert 1e-5 <= trial.suggest_float("lr", 1e-5, 1e-2, log=True) <= 1e-2
        study.tell(trial, 0.1)
        assert len(study.trials) == len(before) + 1


def test_plain_optuna_refuses_what_did_not_grow_with_the_study(storage_url: str, mine: Path) -> None:
    made(storage_url, mine)
    with plain(storage_url) as study, pytest.raises(ValueError, match="dynamic value space"):
        study.ask().suggest_categorical("batch_size", (16, 32, 64, 128))


def test_the_sampler_learns_from_every_trial_of_before(storage_url: str, mine: Path) -> None:
    before = made(storage_url, mine)
    extend_study(rewritten(mine, *GROWN), storage_url)
    with open_study(str(mine), storage_url) as study:
        ours = sampler(replace(study.declaration, sampler=TpeOptions()), len(before))
        assert isinstance(ours, Tpe)
        study.optuna.sampler = ours
        trial = study.optuna.ask()
        space = ours.infer_relative_search_space(study.optuna, study.storage.get_trial(trial._trial_id))
        shared = {key: space[key] for key in ("lr", "batch_size", "optimizer", "image_size", "flip", "scheduler")}
        numbers, columns = ours.history.having(shared, ours.history.split(2)[1])
    assert space["lr"] == FloatDistribution(1e-5, 1e-2, log=True)
    assert len(ours.history) == len(before)
    assert [one.params["batch_size"] for one in before if one.number in numbers] == [
        (16, 32, 64, 128)[int(index)] for index in columns["batch_size"]
    ]


def test_a_range_may_become_a_list_and_a_list_a_range(storage_url: str, mine: Path) -> None:
    rewritten(mine, ("lr = { low = 1e-4, high = 1e-2, log = true }", "lr = [1e-4, 1e-2]"))
    rewritten(mine, ("t_max = { low = 6, high = 40 }", "t_max = { low = 6, high = 8 }"))
    before = made(storage_url, mine)
    rewritten(mine, ("lr = [1e-4, 1e-2]", "lr = { low = 1e-6, high = 1.0, log = true }"))
    extend_study(rewritten(mine, ("t_max = { low = 6, high = 8 }", "t_max = [30, 8, 7, 6]")), storage_url)
    with open_study("mine", storage_url) as study:
        assert [trial.params for trial in study.optuna.get_trials()] == [trial.params for trial in before]
        assert trial_of(study, value=0.5).distributions["lr"] == FloatDistribution(1e-6, 1.0, log=True)


def test_a_space_may_shrink_as_far_as_its_trials_reach(storage_url: str, mine: Path) -> None:
    before = made(storage_url, mine)
    rates = sorted(trial.params["lr"] for trial in before)
    extend_study(rewritten(mine, ("low = 1e-4", f"low = {rates[0]!r}")), storage_url)
    sentence = refused(storage_url, rewritten(mine, (f"low = {rates[0]!r}", f"low = {rates[1]!r}")))
    first = next(trial.number for trial in before if trial.params["lr"] == rates[0])
    assert sentence == (
        f"Study 'mine' cannot be extended: its trial {first} has lr = {rates[0]!r}, which the new space does not hold. "
        "Let lr hold it; to go without it, start another study."
    )


APART = (
    ". Earlier trials could not be compared with later ones. Change that back; or start another study "
    "(name = \"...\" in its file), whose first trials --warm-start 'mine' takes from this one."
)
SENTENCES: tuple[tuple[tuple[str, str], str], ...] = (
    (('name = "mine"', 'name = "mine"\nepochs = 13'), f"epochs: 12, now 13{APART}"),
    (('name = "mine"', 'name = "mine"\nseed = 1'), f"seed: 0, now 1{APART}"),
    (('name = "mine"', 'name = "mine"\nthreads = 2'), f"threads: 1, now 2{APART}"),
    (('name = "mine"', 'name = "mine"\nobjective = "map"'), f"objective: bce, now map{APART}"),
    (
        ("image_size = 32", "image_size = 64"),
        "fixed.image_size: 32, now 64. Earlier trials trained with the former. Change that back, or search it: "
        "image_size = [32, 64] in [space].",
    ),
    (
        ("image_size = 32", "image_size = 32\nflip = 0.5"),
        "fixed.flip: 0.0, now 0.5. Earlier trials trained with the former. Change that back, or search it: "
        "flip = [0.0, 0.5] in [space].",
    ),
    (
        ("gamma = {", "gamma = [0.1]\n#"),
        "its trial 1 has gamma = ",  # the first is the default configuration, by another scheduler
    ),
    (
        ("image_size = 32\nema = 0.5", "image_size = 32"),
        "fixed.ema: 0.5, now 0.0. Earlier trials trained with the former. Change that back, or search it: "
        "ema = [0.5, 0.0] in [space].",
    ),
)


@pytest.mark.parametrize(("change", "sentence"), SENTENCES)
def test_what_would_set_earlier_trials_apart_is_refused_and_nothing_written(
    storage_url: str, mine: Path, change: tuple[str, str], sentence: str
) -> None:
    # A trial of each scheduler, so that the first one is known.
    rewritten(
        mine,
        ('optimizer = ["adam", "adamw"]\n', ""),
        ("[space.scheduler.cosine]\nt_max = { low = 6, high = 40 }\n", ""),
    )
    made(storage_url, mine, trials=2)
    assert refused(storage_url, rewritten(mine, change)).startswith(f"Study 'mine' cannot be extended: {sentence}")


def test_a_parameter_does_not_leave_the_space_nor_come_without_what_trials_had(storage_url: str, mine: Path) -> None:
    before = made(storage_url, mine, trials=1)
    kept = mine.read_text()
    drew = before[0].params["optimizer"]
    assert refused(storage_url, rewritten(mine, ('optimizer = ["adam", "adamw"]\n', ""))) == (
        f"Study 'mine' cannot be extended: its trial 0 drew optimizer = {drew!r}, and the new space does not search "
        "optimizer. Leave it there; to go without it, start another study."
    )
    mine.write_text(kept)
    rewritten(mine, ("image_size = 32\n", ""))
    assert refused(storage_url, rewritten(mine, ("[space]\n", "[space]\nimage_size = [64, 96]\n"))) == (
        "Study 'mine' cannot be extended: its trial 0 has image_size = 32, which the new space does not hold. "
        "Let image_size hold it, or leave image_size in [fixed]."
    )


def test_a_study_with_a_running_trial_is_left_alone_until_its_worker_has_died(storage_url: str, mine: Path) -> None:
    with open_study(str(mine), storage_url, create=True) as study:
        running = trial_of(study)
    rewritten(mine, *GROWN)
    assert refused(storage_url, str(mine)) == (
        "Study 'mine' cannot be extended: worker worker is at work on trial 0. Stop its workers first: Ctrl-C at their "
        "run, or SIGTERM. Their trials go on afterwards."
    )

    storage = connect(storage_url)
    let_a_day_pass(storage.engine)
    close(storage)
    assert extend_study(str(mine), storage_url)

    with open_study("mine", storage_url) as study:
        claim = study.ledger.claim("another")
        assert isinstance(claim, Claim)
        trial, spec, _ = begin(study, claim, precision="fp32")
        assert claim.number == running.number
        assert spec == running.user_attrs["fit"]
        assert trial.params.items() >= running.params.items()
        assert trial.params["image_size"] == 32


def test_a_study_with_a_run_at_work_or_another_programs_trial_is_left_alone(storage_url: str, mine: Path) -> None:
    made(storage_url, mine, trials=1)
    rewritten(mine, *GROWN)
    with open_study("mine", storage_url) as study:
        budget = study.ledger.open_budget(1, own=True)
        assert "a run is at work on it" in refused(storage_url, str(mine))
        study.ledger.close_budget(budget)
    with plain(storage_url) as foreign:
        trial = foreign.ask()
        assert refused(storage_url, str(mine)) == (
            "Study 'mine' cannot be extended: another program runs its trial 1, or died with it. End it there, by "
            "Optuna's study.tell."
        )
        foreign.tell(trial, 0.3)
    assert extend_study(str(mine), storage_url)


def test_what_waits_is_still_what_it_was_to_be(storage_url: str, tmp_path: Path) -> None:
    default = tmp_path / "default.toml"
    default.write_text((Path(__file__).parents[2] / "studies" / "default.toml").read_text())
    rewritten(default, ('threads = "auto"', "threads = 1"))
    with open_study(str(default), storage_url, create=True) as study:
        enqueue_paper(study, paper_trials()[:2])
        study.ledger.enqueue("mine", params={"lr": 1e-3, "optimizer": "adam"}, user_attrs={})
        before = study.optuna.get_trials()
    rewritten(default, ("image_size = 32 ", "# "), ("ema = 0.99 ", "# "))
    rewritten(default, ("[space]\n", "[space]\nimage_size = [32, 16]\nema = [0.999, 0.99, 0.0]\n"))

    assert extend_study(str(default), storage_url)

    with open_study("default", storage_url) as study:
        joined = [{"image_size": 32, "ema": 0.0}] * 2 + [{"image_size": 32, "ema": 0.99}]  # replays do not average
        for old, extra in zip(before, joined, strict=True):
            claim = study.ledger.claim("worker", budget_id=study.ledger.open_budget(1))
            assert isinstance(claim, Claim)
            trial, spec, _ = begin(study, claim, precision="fp32")
            assert trial.params.items() >= {**old.system_attrs["fixed_params"], **extra}.items()
            assert spec == old.user_attrs.get("fit", spec)
            assert spec["params"].items() >= trial.params.items()


def test_replays_that_the_new_space_would_not_hold_are_named(storage_url: str, tmp_path: Path) -> None:
    default = tmp_path / "default.toml"
    default.write_text((Path(__file__).parents[2] / "studies" / "default.toml").read_text())
    with open_study(str(default), storage_url, create=True) as study:
        enqueue_paper(study, paper_trials()[:1])
    rewritten(default, ("ema = 0.99 ", "# "), ("[space]\n", "[space]\nema = [0.99, 0.999]\n"))
    assert refused(storage_url, str(default)) == (
        "Study 'default' cannot be extended: its trial 0 has ema = 0.0, which the new space does not hold. Let ema "
        "hold it, or leave ema in [fixed]."
    )


def test_the_study_that_confirms_it_grows_with_it(storage_url: str, mine: Path) -> None:
    made(storage_url, mine)
    with open_study("mine", storage_url) as study, open_confirmation(study, storage_url, create=True) as confirmation:
        assert confirmation is not None
        enqueue_repetitions(study, confirmation, top=2, seeds=1)
        trial_of(confirmation, value=0.2)

    extend_study(rewritten(mine, *GROWN), storage_url)

    with open_study("mine", storage_url) as study, open_confirmation(study, storage_url, create=True) as confirmation:
        assert confirmation is not None
        assert confirmation.declaration.space == study.declaration.space
        done, waits = confirmation.optuna.get_trials()
        assert done.params["image_size"] == waits.system_attrs["fixed_params"]["image_size"] == 32
        assert enqueue_repetitions(study, confirmation, top=2, seeds=1) == 1
        assert trial_of(confirmation, value=0.3).number == waits.number


def test_each_extension_is_remembered_and_the_same_one_twice_is_one(storage_url: str, mine: Path) -> None:
    made(storage_url, mine, trials=2)
    first = extend_study(rewritten(mine, ("[16, 64]", "[16, 64, 128]")), storage_url)
    assert extend_study(str(mine), storage_url) == []
    second = extend_study(rewritten(mine, ("startup = 4", "startup = 5")), storage_url)
    with open_study("mine", storage_url) as study:
        remembered = changes(study)
        assert [list(one.differences) for one in remembered] == [first, second]
        assert [one.trials for one in remembered] == [2, 2]
        assert remembered[0].at <= remembered[1].at
        assert json.loads(json.dumps(remembered[0].to_table()))["differences"] == first


def test_whoever_had_opened_the_study_before_can_tell(storage_url: str, mine: Path) -> None:
    made(storage_url, mine, trials=1)
    with open_study("mine", storage_url) as study:
        assert not is_outdated(study)
        extend_study(rewritten(mine, ("[16, 64]", "[16, 64, 128]")), storage_url)
        assert is_outdated(study)


def test_a_study_that_is_not_there_yet_is_not_extended(storage_url: str, mine: Path) -> None:
    assert extend_study(str(mine), storage_url) == []
    connected = connect(storage_url)
    close(connected)
    assert extend_study(str(mine), storage_url) == []


def test_to_extend_a_study_takes_a_file(sqlite_url: str) -> None:
    with pytest.raises(MlcError) as caught:
        extend_study("mine", sqlite_url)
    assert str(caught.value) == (
        "the command line: --extend: it wants the file of the changed declaration, such as --study mine.toml, not "
        "'mine'."
    )


@contextmanager
def failing_at(fragment: str, times: int) -> Iterator[list[str]]:
    """Let statements that hold the fragment fail as a lost connection does, so many times."""
    seen: list[str] = []

    def execute(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if fragment in statement:
            seen.append(statement)
            if len(seen) <= times:
                raise ConnectionResetError

    event.listen(Engine, "before_cursor_execute", execute)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", execute)


def test_an_extension_that_is_cut_short_leaves_all_as_it_was(storage_url: str, mine: Path) -> None:
    made(storage_url, mine)
    before = stored(storage_url)
    rewritten(mine, *GROWN)
    with failing_at("UPDATE study_user_attributes", times=1) as seen, pytest.raises(ConnectionResetError):
        extend_study(str(mine), storage_url)
    assert len(seen) == 1
    assert stored(storage_url) == before
    assert extend_study(str(mine), storage_url)


@st.composite
def redeclared(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A declaration, and the same with other domains for some of what it searches or fixes."""
    table = {**draw(DECLARATIONS).to_table(), "threads": 1}
    after = json.loads(json.dumps(table))
    for key in draw(
        st.lists(st.sampled_from([key for key in table["space"] if key != "scheduler"] or [""]), unique=True)
    ):
        if key:
            after["space"][key] = draw(domain(key)) if draw(st.booleans()) else wider(after["space"][key])
    for key in [key for key in table["fixed"] if key in SHARED]:
        if draw(st.booleans()):
            after["space"][key] = [after["fixed"].pop(key)]
    return table, after


def wider(written: Any) -> Any:
    return [*reversed(written)] if isinstance(written, list) else {**written, "high": written["high"]}


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(redeclared(), st.integers(1, 4))
def test_any_other_declaration_is_taken_with_every_trial_inside_or_refused_without_a_trace(
    pair: tuple[dict[str, Any], dict[str, Any]], trials: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/search.db"
        file = Path(folder) / "mine.toml"
        file.write_text(toml(pair[0]))
        before = made(url, file, trials=trials)
        file.write_text(toml(pair[1]))
        untouched = stored(url)
        try:
            extend_study(str(file), url)
        except CannotExtend:
            assert stored(url) == untouched
            return
        with open_study(str(file), url) as study:
            for old, new in zip(before, study.optuna.get_trials(), strict=True):
                assert new.params.items() >= old.params.items()
                assert new.params.keys() == domains(study.declaration, new.params.get("scheduler")).keys()
            later = trial_of(study, value=0.5)
            for new in study.optuna.get_trials():
                for key in new.params.keys() & later.params.keys():
                    assert new.distributions[key] == later.distributions[key]


def toml(table: Mapping[str, Any]) -> str:
    """Spell a declaration as a file."""

    def spelled(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{ " + ", ".join(f"{key} = {spelled(each)}" for key, each in value.items()) + " }"
        return json.dumps(value, ensure_ascii=False)

    return "\n".join(f"{key} = {spelled(value)}" for key, value in table.items())
