"""The study of the tests of holes, over plain Optuna's storage and over ours, and what they read of it.

Not here: processes that die (doomed.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search.ledger import Claim, Ledger
from search.storage import close, connect
from tests.contracts.doomed import let_a_day_pass

NAME = "holes"
GRACE = 43_200.0  # seconds; a day is more, whatever the machine does meanwhile is less


class Opened(NamedTuple):
    study: optuna.Study
    ledger: Ledger


@contextmanager
def ours(url: str) -> Iterator[Opened]:
    """Open the study over our storage, with retries enough for any test here."""
    storage = connect(url)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, study_name=NAME, load_if_exists=True, sampler=RandomSampler())
    try:
        yield Opened(study, Ledger(storage, study._study_id, retries=99))
    finally:
        close(storage)


def load(storage: RDBStorage) -> optuna.Study:
    return optuna.load_study(storage=storage, study_name=NAME)


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def beats(storage: RDBStorage) -> int:
    """Trials that ever beat."""
    with Session(storage.engine) as session:
        return session.execute(select(func.count()).select_from(models.TrialHeartbeatModel)).scalar_one()


def claimed_again(opened: Opened) -> Claim:
    """The trial of a worker that has been silent for a day."""
    let_a_day_pass(opened.ledger._storage.engine)
    claim = opened.ledger.claim("the living", grace=GRACE)
    assert isinstance(claim, Claim)
    return claim
