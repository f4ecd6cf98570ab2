"""What was best in an earlier study is tried first in this one, as ordinary trials, without its losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mlc_core import MlcError, Params
from search.errors import StudyNotFound
from search.ledger import Claim
from search.objective import begin
from search.study import FIT, Study, open_study
from search.warm_start import EACH, CannotWarmStart, WarmStart, warm_start
from tests import small

SPACE = """
[space]
optimizer = ["adam", "adamw"]
lr = { low = 1e-4, high = 1e-2, log = true }
dropout = { low = 0.0, high = 0.5 }
[space.scheduler.step]
[space.scheduler.cosine]
t_max = { low = 6, high = 40 }
[fixed]
image_size = 32
"""


def study_file(folder: Path, name: str, toml: str = SPACE) -> str:
    path = folder / f"{name}.toml"
    path.write_text(toml)
    return str(path)


def configuration(**params: Any) -> dict[str, Any]:
    flat = {"optimizer": "adamw", "lr": 1e-3, "dropout": 0.1, "scheduler": "cosine", "t_max": 12, **params}
    return {key: value for key, value in flat.items() if key != "t_max" or flat["scheduler"] == "cosine"}


def try_next(study: Study, value: float | None, *, worker: str = "worker") -> dict[str, Any]:
    """Begin the next trial as a worker does, and end it; pruned where it has no value."""
    claim = study.ledger.claim(worker, budget_id=study.ledger.open_budget(1))
    assert isinstance(claim, Claim)
    _, spec, _ = begin(study, claim, precision="fp32")
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    assert study.ledger.finish(claim.trial_id, worker=worker, state=state, value=value)
    return spec


def earlier(url: str, reference: str, *tried: tuple[dict[str, Any], float | None]) -> None:
    """Make a study with these trials, as they would have come out."""
    with open_study(reference, url, create=True) as study:
        for place, (params, value) in enumerate(tried):
            study.ledger.enqueue(f"{place}", params=params, user_attrs={})
            try_next(study, value)


def queue(study: Study) -> list[tuple[Any, Any]]:
    """Waiting trials: what they are to have, and where it comes from."""
    waiting = study.optuna.get_trials(states=(TrialState.WAITING,))
    return [(one.system_attrs["fixed_params"], one.user_attrs["warm_start"]["trial"]) for one in waiting]


def begun(url: str, reference: str, *studies: str, at: str | None = None) -> list[WarmStart]:
    with open_study(reference, url, create=True) as study:
        return warm_start(study, studies, at or url)


TRIED = (  # ten complete trials, so that five are the better half
    (configuration(lr=1e-3), 0.10),
    (configuration(lr=1.1e-3), 0.11),  # next to the best
    (configuration(lr=9e-3), 0.14),
    (configuration(optimizer="adam"), 0.13),
    (configuration(scheduler="step", dropout=0.5), 0.12),
    *((configuration(lr=2e-4, dropout=0.01 * place), 0.5 + place) for place in range(5)),
    (configuration(lr=3e-3), None),
)


def test_the_best_comes_first_then_what_is_unlike_it_and_never_the_worse_half(storage_url: str, tmp_path: Path) -> None:
    earlier(storage_url, study_file(tmp_path, "old"), *TRIED)
    (said,) = begun(storage_url, study_file(tmp_path, "new"), "old")
    assert said.added == (0, 4, 3, 2, 1)
    assert (said.complete, said.there, said.outside) == (10, (), {})
    with open_study("new", storage_url) as study:
        assert queue(study) == [(TRIED[number][0], number) for number in said.added]
        assert all(trial.value is None and not trial.intermediate_values for trial in study.optuna.get_trials())


def test_they_are_ordinary_trials_of_this_study(storage_url: str, tmp_path: Path) -> None:
    earlier(storage_url, study_file(tmp_path, "old"), *TRIED)
    toml = SPACE.replace("image_size = 32", "image_size = 64")
    reference = study_file(tmp_path, "new", f"epochs = 3\nseed = 5\n{toml}")
    begun(storage_url, reference, "old")
    with open_study(reference, storage_url) as study:
        first, second = try_next(study, 0.3), try_next(study, None)
        done = study.optuna.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert first["params"] == Params.from_flat({**TRIED[0][0], "image_size": 64}).to_flat()
    assert (first["epochs"], second["epochs"]) == (3, 3)
    assert first["seed"] != second["seed"]
    assert [trial.params for trial in done] == [TRIED[0][0], TRIED[4][0]]
    assert [trial.user_attrs[FIT] for trial in done] == [first, second]


def test_doing_it_again_adds_nothing_also_once_the_earlier_study_went_on(storage_url: str, tmp_path: Path) -> None:
    old = study_file(tmp_path, "old")
    earlier(storage_url, old, *TRIED)
    new = study_file(tmp_path, "new")
    begun(storage_url, new, "old")
    with open_study(new, storage_url) as study:
        try_next(study, 0.3)
    with open_study(old, storage_url) as study:
        study.ledger.enqueue("better", params=configuration(lr=5e-4), user_attrs={})
        try_next(study, 0.01)
    (said,) = begun(storage_url, new, "old")
    assert (said.added, said.there) == ((), (0, 1, 2, 3, 4))
    with open_study(new, storage_url) as study:
        assert len(study.optuna.get_trials()) == EACH


def test_what_was_cut_short_is_completed(storage_url: str, tmp_path: Path) -> None:
    earlier(storage_url, study_file(tmp_path, "old"), *TRIED)
    with open_study(study_file(tmp_path, "new"), storage_url, create=True) as study:
        enqueue, asked = study.ledger.enqueue, []

        def twice(*args: Any, **kwargs: Any) -> int | None:
            asked.append(args)
            if len(asked) > 2:
                raise ConnectionResetError
            return enqueue(*args, **kwargs)

        study.ledger.enqueue = twice  # type: ignore[method-assign]
        with pytest.raises(ConnectionResetError):
            warm_start(study, ["old"], storage_url)
    (said,) = begun(storage_url, "new", "old")
    assert (said.added, said.there) == ((3, 2, 1), (0, 4))


def test_the_earlier_study_may_be_in_another_database(storage_url: str, tmp_path: Path) -> None:
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    earlier(elsewhere, study_file(tmp_path, "mine"), *TRIED)
    with pytest.raises(StudyNotFound):
        begun(storage_url, study_file(tmp_path, "mine"), "absent", at=elsewhere)
    (said,) = begun(storage_url, "mine", "mine", at=elsewhere)  # the same name, another study
    assert said.added == (0, 4, 3, 2, 1)


def test_a_study_does_not_begin_from_itself(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(CannotWarmStart) as caught:
        begun(sqlite_url, study_file(tmp_path, "mine"), "mine")
    assert str(caught.value) == ("--warm-start mine: a study does not begin from itself. Name an earlier one.")


def test_what_the_space_would_never_draw_is_left_out_and_named(sqlite_url: str, tmp_path: Path) -> None:
    earlier(sqlite_url, study_file(tmp_path, "old"), *TRIED)
    narrow = SPACE.replace("high = 1e-2", "high = 5e-3").replace("[space.scheduler.step]\n", "")
    (said,) = begun(sqlite_url, study_file(tmp_path, "new", narrow), "old")
    assert said.added == (0, 3, 1)
    assert said.outside == {4: "scheduler = 'step'", 2: "lr = 0.009"}
    assert said.sentences() == [
        "Of study 'old' tried first: trials 0, 3, 1.",
        "Of study 'old' left out, as this study would never draw them: trial 4 has scheduler = 'step'; trial 2 has "
        "lr = 0.009.",
    ]


def test_what_the_earlier_study_held_constant_is_taken_where_this_one_searches_it(
    sqlite_url: str, tmp_path: Path
) -> None:
    earlier(sqlite_url, study_file(tmp_path, "old"), *TRIED[:2])
    wider = SPACE.replace("[space]\n", "[space]\nimage_size = [32, 64]\nflip = [0.0, 0.5]\n")
    wider = wider.replace("dropout = { low = 0.0, high = 0.5 }\n", "").replace("image_size = 32\n", "dropout = 0.3\n")
    begun(sqlite_url, study_file(tmp_path, "new", wider), "old")
    with open_study("new", sqlite_url) as study:
        known = {key: value for key, value in TRIED[0][0].items() if key != "dropout"}
        assert queue(study) == [({"image_size": 32, "flip": 0.0, **known}, 0)]
        assert try_next(study, 0.3)["params"]["dropout"] == 0.3


def test_of_several_studies_each_ones_best_comes_first_and_nothing_twice(sqlite_url: str, tmp_path: Path) -> None:
    earlier(sqlite_url, study_file(tmp_path, "old"), *TRIED[:4])
    best = ((configuration(lr=2e-3), 0.2), (configuration(lr=1e-3), 0.3), (configuration(optimizer="adam"), 0.4))
    earlier(sqlite_url, study_file(tmp_path, "older"), *best, *((configuration(lr=1e-4), 0.5),) * 3)
    earlier(sqlite_url, study_file(tmp_path, "empty"))
    first, second, third = begun(sqlite_url, study_file(tmp_path, "new"), "old", "older", "old", "empty")
    assert (first.added, second.added, third.added) == ((0, 1), (0, 2), ())
    assert third.sentences() == ["Study 'empty' has no complete trial to begin from."]
    with open_study("new", sqlite_url) as study:
        rates = [(params["optimizer"], params["lr"]) for params, _ in queue(study)]
    assert rates == [("adamw", 1e-3), ("adamw", 2e-3), ("adamw", 1.1e-3), ("adam", 1e-3)]


def test_one_that_was_given_up_is_tried_again(sqlite_url: str, tmp_path: Path) -> None:
    earlier(sqlite_url, study_file(tmp_path, "old"), *TRIED[:2])
    new = study_file(tmp_path, "new", f"retries = 0\n{SPACE}")
    begun(sqlite_url, new, "old")
    with open_study(new, sqlite_url) as study:
        claim = study.ledger.claim("worker", budget_id=study.ledger.open_budget(1))
        assert isinstance(claim, Claim)
        assert not study.ledger.fail(claim.trial_id, worker="worker", reason="the disk was full")
    (said,) = begun(sqlite_url, new, "old")
    assert said.added == (0,)


@pytest.mark.parametrize("names", [(), ("old", "absent")])
def test_nothing_is_added_where_one_is_not_there(names: tuple[str, ...], sqlite_url: str, tmp_path: Path) -> None:
    earlier(sqlite_url, study_file(tmp_path, "old"), *TRIED[:2])
    new = study_file(tmp_path, "new")
    if names:
        with pytest.raises(MlcError, match="There is no study 'absent'"):
            begun(sqlite_url, new, *names)
    else:
        assert begun(sqlite_url, new) == []
    with open_study("new", sqlite_url) as study:
        assert study.optuna.get_trials() == []


def test_a_trial_says_where_it_came_from(sqlite_url: str, tmp_path: Path) -> None:
    earlier(sqlite_url, study_file(tmp_path, "old"), *TRIED)
    begun(sqlite_url, study_file(tmp_path, "new"), "old")
    with open_study("new", sqlite_url) as study:
        try_next(study, 0.3)
        try_next(study, 0.3)
    words = ("show", 1, "--study", "new")
    shown = small.call(*words, folder=tmp_path, storage=sqlite_url).stdout
    assert "from             warm start: trial 4 of study 'old'" in shown
    told = json.loads(small.call(*words, "--json", folder=tmp_path, storage=sqlite_url).stdout)["warm_start"]
    assert (told["study"], told["trial"]) == ("old", 4)
