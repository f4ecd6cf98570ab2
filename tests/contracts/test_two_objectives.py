"""Two objectives and limits in the database, on SQLite and PostgreSQL: both values or none; limits that move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mlc_core import Footprint
from search.artifacts import attach, keep_only_best, weights_path
from search.confirm import enqueue_repetitions, open_confirmation
from search.errors import BadDeclaration, StudyChanged
from search.extend import CannotExtend, extend_study
from search.footprints import CONSTRAINTS, OVER, Architecture, footprint_of, spelled
from search.ledger import Claim, Ledger
from search.objective import begin
from search.slots import Done, Plan
from search.storage import close, connect, resolve_url
from search.study import METRIC_NAMES, Study, open_study
from search.trials import value_of
from search.views import front, leaderboard, trial_rows
from search.weighing import NothingFits, weigh, weigh_space
from tests import weighed

FOOTPRINTS = {
    "resnet10": Footprint(latency=2.0, size=19.7),
    "resnet18": Footprint(latency=4.0, size=44.8),
    "resnet34": Footprint(latency=7.0, size=85.2),
}
ALL = tuple(FOOTPRINTS)


@contextmanager
def measured(url: str, file: Path) -> Iterator[Study]:
    """Open the study; what its networks take is remembered as if somebody else had measured it."""
    with open_study(str(file), url, create=True) as study:
        for backbone, footprint in FOOTPRINTS.items():
            study.ledger.remember(Architecture(backbone, "standard", 8).key, spelled(footprint))
        yield study


def claimed(study: Study) -> Claim:
    claim = study.ledger.claim("worker", budget_id=study.ledger.open_budget(1))
    assert isinstance(claim, Claim)
    return claim


def trial_of(study: Study, backbone: str, loss: float) -> FrozenTrial:
    """Run a trial of this network as a worker does, but for the training; its last report is its loss."""
    study.ledger.enqueue(f"{backbone} {loss}", params={"backbone": backbone}, user_attrs={})
    claim = claimed(study)
    trial, spec, _ = begin(study, claim, precision="fp32")
    footprint, said = weigh(study, trial, spec["params"], classes=10, precision="fp32")
    if said:
        assert study.ledger.finish(claim.trial_id, worker="worker", state=TrialState.PRUNED, value=None)
    else:
        assert footprint is not None
        against = study.declaration.against
        study.storage.set_trial_intermediate_value(claim.trial_id, 1, loss + 1)
        study.storage.set_trial_intermediate_value(claim.trial_id, 2, loss)
        second = footprint.of(against) if against else None
        ended = {"worker": "worker", "state": TrialState.COMPLETE}
        assert study.ledger.finish(claim.trial_id, value=loss, second=second, **ended)  # type: ignore[arg-type]
    return study.storage.get_trial(claim.trial_id)


def test_a_study_of_two_objectives_says_so_to_optuna_and_opens_again(storage_url: str, tmp_path: Path) -> None:
    file = weighed.declare(tmp_path)
    for _ in range(2):
        with open_study(str(file), storage_url, create=True) as study:
            assert study.optuna.directions == [StudyDirection.MINIMIZE] * 2
            assert study.optuna.metric_names == ["bce", "size"]
    file.write_text(file.read_text().replace('against = "size"', 'objective = "map"\nagainst = "size"'))
    with pytest.raises(StudyChanged, match="objective: bce, now map"), open_study(str(file), storage_url, create=True):
        pass
    with open_study(weighed.NAME, storage_url) as study:
        assert study.declaration.against == "size"


def test_an_optuna_study_of_that_name_with_one_objective_is_not_taken_over(storage_url: str, tmp_path: Path) -> None:
    storage = connect(storage_url)
    optuna.create_study(storage=storage, study_name=weighed.NAME)
    close(storage)
    file = weighed.declare(tmp_path)
    with (
        pytest.raises(BadDeclaration, match="another program made it"),
        open_study(str(file), storage_url, create=True),
    ):
        pass


def test_what_a_run_was_killed_between_creating_and_declaring_is_gone_on_with(storage_url: str, tmp_path: Path) -> None:
    storage = connect(storage_url)
    optuna.create_study(storage=storage, study_name=weighed.NAME, directions=["minimize", "minimize"])
    close(storage)
    with open_study(str(weighed.declare(tmp_path)), storage_url, create=True) as study:
        assert study.optuna.metric_names == ["bce", "size"]


def test_a_complete_trial_has_both_values_and_finishing_again_changes_nothing(storage_url: str, tmp_path: Path) -> None:
    with measured(storage_url, weighed.declare(tmp_path)) as study:
        done = trial_of(study, "resnet18", 0.4)
        assert (done.state, done.values) == (TrialState.COMPLETE, [0.4, 44.8])
        again = {"worker": "worker", "state": TrialState.COMPLETE, "value": 9.0, "second": 9.0}
        assert study.ledger.finish(done._trial_id, **again)  # type: ignore[arg-type]
        assert study.storage.get_trial(done._trial_id) == done
        assert value_of(done) == 0.4
        [best] = study.optuna.best_trials
        assert best.number == done.number


@pytest.mark.parametrize("second", [None, math.nan, math.inf])
def test_without_a_second_value_that_is_a_number_nothing_is_written(
    storage_url: str, tmp_path: Path, second: float | None
) -> None:
    with measured(storage_url, weighed.declare(tmp_path)) as study:
        claim = claimed(study)
        with pytest.raises(ValueError, match="value"):
            study.ledger.finish(claim.trial_id, worker="worker", state=TrialState.COMPLETE, value=0.5, second=second)
        trial = study.storage.get_trial(claim.trial_id)
        assert (trial.state, trial.values) == (TrialState.RUNNING, None)


def test_a_study_of_one_objective_takes_no_second_value(storage_url: str, tmp_path: Path) -> None:
    with measured(storage_url, weighed.declare(tmp_path, against=None)) as study:
        claim = claimed(study)
        with pytest.raises(ValueError, match="has 1 values, not 2"):
            study.ledger.finish(claim.trial_id, worker="worker", state=TrialState.COMPLETE, value=0.5, second=1.0)
        assert study.storage.get_trial(claim.trial_id).state == TrialState.RUNNING


def test_what_is_pruned_or_given_up_has_no_value_that_could_be_taken_for_a_point_of_the_front(
    storage_url: str, tmp_path: Path
) -> None:
    with measured(storage_url, weighed.declare(tmp_path)) as study:
        pruned, paused = claimed(study), claimed(study)
        for claim in (pruned, paused):
            study.storage.set_trial_intermediate_value(claim.trial_id, 1, 0.25)
        assert study.ledger.finish(pruned.trial_id, worker="worker", state=TrialState.PRUNED, value=None)
        assert study.ledger.pause(paused.trial_id, worker="worker")
        given_up = Plan(give_up=(paused.trial_id,))
        assert isinstance(study.ledger.claim("other", budget_id=paused.budget_id, plan=given_up), Done)
        for claim in (pruned, paused):
            trial = study.storage.get_trial(claim.trial_id)
            assert (trial.state, trial.values) == (TrialState.PRUNED, None)
        rows = trial_rows(study)
        assert [row.latest for row in rows] == [0.25, 0.25]
        assert front(rows) == []


def test_whoever_measures_first_decides_for_all(storage_url: str, tmp_path: Path) -> None:
    file = weighed.declare(tmp_path, backbones=ALL, limits="latency = 5.0")
    with measured(storage_url, file) as study:
        assert footprint_of(trial_of(study, "resnet10", 0.5)) == FOOTPRINTS["resnet10"]
    with open_study(weighed.NAME, storage_url) as study:
        assert footprint_of(trial_of(study, "resnet18", 0.5)) == FOOTPRINTS["resnet18"]
        weigh_space(study, classes=10, precision="fp32")  # all are known already: it measures none


def test_a_trial_over_a_limit_ends_untrained_and_optuna_knows_it_for_infeasible(
    storage_url: str, tmp_path: Path
) -> None:
    limits = "latency = 5.0\nsize = 80.0"
    with measured(storage_url, weighed.declare(tmp_path, backbones=ALL, limits=limits)) as study:
        over, good, better = (
            trial_of(study, *one) for one in (("resnet34", 0.1), ("resnet18", 0.4), ("resnet10", 0.6))
        )
        said = "latency 7 ms is over the limit of 5 ms, size 85.2 MB is over the limit of 80 MB"
        assert (over.state, over.values, over.intermediate_values) == (TrialState.PRUNED, None, {})
        assert over.user_attrs[OVER] == said
        assert over.system_attrs[CONSTRAINTS] == pytest.approx([2.0, 5.2])
        assert list(good.constraints.values()) == pytest.approx([-1.0, -35.2])
        row = trial_rows(study)[over.number]
        assert (row.note, row.over, row.seconds) == (said, said, None)
        assert [one.number for one in front(trial_rows(study))] == [good.number, better.number]
        assert {one.number for one in study.optuna.best_trials} == {good.number, better.number}


def test_a_replay_is_trained_over_a_limit_too_and_is_no_best_one(storage_url: str, tmp_path: Path) -> None:
    with measured(storage_url, weighed.declare(tmp_path, backbones=ALL, against=None, limits="size = 50")) as study:
        trial_of(study, "resnet10", 0.9)
        fit = {"params": {"backbone": "resnet34"}, "epochs": 2, "seed": 1}
        study.ledger.enqueue("replay", params={}, user_attrs={"paper": 1, "fit": fit})
        claim = claimed(study)
        trial, spec, replay = begin(study, claim, precision="fp32")
        assert replay
        assert weigh(study, trial, spec["params"], classes=10, precision="fp32")[1] == ""
        assert study.ledger.finish(claim.trial_id, worker="worker", state=TrialState.COMPLETE, value=0.1)
        best, last = leaderboard(trial_rows(study))
        assert (best.value, last.value) == (0.9, 0.1)
        assert last.over == "size 85.2 MB is over the limit of 50 MB"
        assert study.optuna.best_trial.number == best.number  # Optuna's own opinion


def test_a_space_in_which_nothing_fits_is_refused_and_the_nearest_named(storage_url: str, tmp_path: Path) -> None:
    file = weighed.declare(tmp_path, backbones=ALL, limits="latency = 1.5\nsize = 10")
    with measured(storage_url, file) as study, pytest.raises(NothingFits) as caught:
        weigh_space(study, classes=10, precision="fp32")
    assert caught.value.exit_code == 2
    assert "resnet10 with the standard stem at 8 pixels: latency 2 ms is over the limit of 1.5 ms, size 19.7" in str(
        caught.value
    )


def test_limits_move_with_a_study_that_is_extended_and_every_trial_is_judged_anew(
    storage_url: str, tmp_path: Path
) -> None:
    file = weighed.declare(tmp_path, backbones=ALL, limits="latency = 5.0")
    with measured(storage_url, file) as study:
        trials = [trial_of(study, *one) for one in (("resnet34", 0.1), ("resnet18", 0.4), ("resnet10", 0.6))]
    weighed.declare(tmp_path, backbones=ALL, limits="latency = 3.0\nsize = 100")
    lines = extend_study(str(file), storage_url)
    assert lines == ["limits.latency: 5.0, now 3.0", "limits.size: absent, now 100"]
    with open_study(str(file), storage_url) as study:
        after = study.optuna.get_trials()
        assert [one.values for one in after] == [one.values for one in trials]
        assert [list(one.constraints.values()) for one in after] == [
            pytest.approx([4.0, -14.8]),
            pytest.approx([1.0, -55.2]),
            pytest.approx([-1.0, -80.3]),
        ]
        rows = trial_rows(study)
        assert [row.number for row in front(rows)] == [2]
        assert rows[1].over == "latency 4 ms is over the limit of 3 ms"
        assert rows[0].note == "latency 7 ms is over the limit of 5 ms"  # why it was not trained then
    weighed.declare(tmp_path, backbones=ALL)
    extend_study(str(file), storage_url)
    with open_study(str(file), storage_url) as study:
        assert [row.number for row in front(trial_rows(study))] == [1, 2]
        assert {len(one.constraints) for one in study.optuna.get_trials()} == {0}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"against": "size"}, {"against": "latency"}, "against: size, now latency"),
        ({"against": "size"}, {"against": None}, "against: size, now None"),
        ({"against": None}, {"against": "size"}, "against: None, now size"),
        ({"against": None}, {"against": None, "limits": "size = 50"}, "its trial 0 was never measured"),
    ],
)
def test_what_trials_cannot_be_compared_by_is_no_extension(
    storage_url: str, tmp_path: Path, before: dict[str, str], after: dict[str, str], said: str
) -> None:
    file = weighed.declare(tmp_path, **before)  # type: ignore[arg-type]
    with measured(storage_url, file) as study:
        claim = claimed(study)
        trial, spec, _ = begin(study, claim, precision="fp32")
        weigh(study, trial, spec["params"], classes=10, precision="fp32")
        second = 19.7 if study.declaration.against else None
        ended = {"worker": "worker", "state": TrialState.COMPLETE, "value": 0.5, "second": second}
        assert study.ledger.finish(claim.trial_id, **ended)  # type: ignore[arg-type]
    weighed.declare(tmp_path, **after)  # type: ignore[arg-type]
    with pytest.raises(CannotExtend, match=said):
        extend_study(str(file), storage_url)


def test_the_front_is_confirmed_first_by_one_objective(storage_url: str, tmp_path: Path) -> None:
    with measured(storage_url, weighed.declare(tmp_path, backbones=ALL, limits="size = 80")) as study:
        for one in (("resnet18", 0.4), ("resnet18", 0.41), ("resnet18", 0.42), ("resnet10", 0.6), ("resnet34", 0.1)):
            trial_of(study, *one)
        with open_confirmation(study, resolve_url(storage_url), create=True) as confirmation:
            assert confirmation is not None
            assert enqueue_repetitions(study, confirmation, top=2, seeds=1) == 2
            assert [row.repeats for row in trial_rows(confirmation)] == [0, 3]
            assert (confirmation.declaration.against, confirmation.declaration.limits) == (None, {})
    weighed.declare(tmp_path, backbones=ALL, limits="size = 90")
    extend_study(str(tmp_path / "weighed.toml"), storage_url)
    with open_study(f"{weighed.NAME}-confirmation", storage_url) as confirmation:
        assert (confirmation.declaration.against, confirmation.declaration.limits) == (None, {})


def test_the_files_of_the_front_are_kept_beyond_those_that_are_asked_for(storage_url: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.mkdir()
    with measured(storage_url, weighed.declare(tmp_path)) as study:  # it keeps one
        for backbone, loss in (("resnet18", 0.5), ("resnet10", 0.6), ("resnet18", 0.4), ("resnet10", 0.7)):
            study.ledger.enqueue(f"{backbone} {loss}", params={"backbone": backbone}, user_attrs={})
            claim = claimed(study)
            trial, spec, _ = begin(study, claim, precision="fp32")
            footprint, _ = weigh(study, trial, spec["params"], classes=10, precision="fp32")
            assert footprint is not None
            (tmp_path / "best.safetensors").write_bytes(b"weights")
            study.storage.worker = "worker"
            attach(root, study, claim.trial_id, tmp_path / "best.safetensors")
            ended = {"worker": "worker", "state": TrialState.COMPLETE, "value": loss, "second": footprint.size}
            assert study.ledger.finish(claim.trial_id, **ended)  # type: ignore[arg-type]
            keep_only_best(root, study)
        assert [one.number for one in study.optuna.get_trials() if weights_path(root, one)] == [1, 2]


def test_a_ledger_of_a_second_database_connection_agrees(storage_url: str, tmp_path: Path) -> None:
    with measured(storage_url, weighed.declare(tmp_path)) as study:
        done = trial_of(study, "resnet10", 0.3)
        other = connect(resolve_url(storage_url))
        try:
            ledger = Ledger(other, study.optuna._study_id)
            again = {"worker": "worker", "state": TrialState.COMPLETE, "value": 1.0, "second": 1.0}
            assert ledger.finish(done._trial_id, **again)  # type: ignore[arg-type]
            assert other.get_trial(done._trial_id).values == [0.3, 19.7]
            assert other.get_study_system_attrs(study.optuna._study_id)[METRIC_NAMES] == ["bce", "size"]
        finally:
            close(other)


def test_a_declaration_from_before_there_were_limits_still_opens(storage_url: str, tmp_path: Path) -> None:
    file = weighed.declare(tmp_path, against=None)
    with open_study(str(file), storage_url, create=True) as study:
        table = study.declaration.to_table()
        assert not {"against", "limits"} & table.keys()
        assert replace(study.declaration, against=None, limits={}) == study.declaration
    with open_study(str(file), storage_url) as study:
        assert not study.declaration.weighs
