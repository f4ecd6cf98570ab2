"""What must hold of a study when its budget is done, whatever happened meanwhile; read from the database, logs, files.

Not here: what happened (chaos.py); the audit that PostgreSQL keeps (audit.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from mlc_core import EpochReport, best_epoch
from search.artifacts import weights_path
from search.ledger import FAILURE
from search.paper import paper_trials
from search.study import FIT, Study, paper_params
from search.tables import CLAIMS
from search.trials import PAPER
from tests.faults import audit
from tests.faults.hands import Line, Place, digest_of, read_log
from tests.faults.simulated import REASON, raises, weights_are_of

_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
_SHOWN: Final = 5  # violations of one invariant

Undisturbed = Callable[[Mapping[str, Any], int], Sequence[EpochReport]]  # (what a fit is given, epochs) -> its reports


@dataclass(frozen=True, slots=True)
class Evidence:
    """A study after its budget, and what was noted on the way."""

    study: Study
    place: Place
    asked: int
    documented: bool  # whether the documented trials were in the queue
    enqueued: Mapping[str, Mapping[str, Any]]  # parameters that were put into the queue, by key
    undisturbed: Undisturbed
    trials: Sequence[FrozenTrial]
    lines: Sequence[Line]
    claims: Mapping[int, Any]  # rows by trial id
    ends: Sequence[audit.End] | None  # None: nobody audited
    strangers: Sequence[audit.Stranger]


def gather(
    study: Study,
    place: Place,
    *,
    asked: int,
    documented: bool,
    enqueued: Mapping[str, Mapping[str, Any]],
    undisturbed: Undisturbed,
    audited: str | None,
) -> Evidence:
    """Read all that is looked at; `audited` is the URL of a database that kept an audit."""
    with study.storage.engine.connect() as connection:
        rows = connection.execute(select(CLAIMS).where(CLAIMS.c.study_id == study.optuna._study_id))
        claims = {row.trial_id: row for row in rows}
    return Evidence(
        study,
        place,
        asked,
        documented,
        enqueued,
        undisturbed,
        study.optuna.get_trials(deepcopy=False),
        read_log(place.log),
        claims,
        audit.ends(audited) if audited else None,
        audit.strangers(audited) if audited else (),
    )


def violations(evidence: Evidence) -> dict[str, list[str]]:
    """Check everything; what is wrong, by invariant, an empty list where all is well."""
    return {name: check(evidence) for name, check in INVARIANTS.items()}


def _finished(evidence: Evidence) -> list[FrozenTrial]:
    return [trial for trial in evidence.trials if trial.state in _FINISHED]


def _budget(evidence: Evidence) -> list[str]:
    progress = evidence.study.ledger.remaining(evidence.place.budget_id)
    finished = len(_finished(evidence))
    good = progress.finished == progress.asked == evidence.asked == finished
    return [] if good else [f"asked {evidence.asked}, finished {finished}, the ledger says {progress}"]


def _each_once(evidence: Evidence) -> list[str]:
    logged = Counter(line.trial_id for line in evidence.lines if line.what == "ended")
    wrong = [f"trial {trial} was ended {times} times by workers" for trial, times in logged.items() if times > 1]
    holders = {trial: row.worker for trial, row in evidence.claims.items()}
    wrong += [
        f"trial {line.trial_id} was ended by {line.worker}, but it is {holders.get(line.trial_id)}'s"
        for line in evidence.lines
        if line.what == "ended" and line.worker != holders.get(line.trial_id)
    ]
    if evidence.ends is None:
        return wrong
    written = Counter(end.trial_id for end in evidence.ends)
    wrong += [f"trial {trial} got {times} ends in the database" for trial, times in written.items() if times > 1]
    wrong += [f"trial {trial._trial_id} has no end" for trial in _finished(evidence) if not written[trial._trial_id]]
    return wrong


def _none_left(evidence: Evidence) -> list[str]:
    left = [trial for trial in evidence.trials if not trial.state.is_finished()]
    wrong = [f"trial {trial.number} is {trial.state.name}" for trial in left]
    wrong += [
        f"trial {trial.number} has no claim" for trial in evidence.trials if trial._trial_id not in evidence.claims
    ]
    return wrong


def _no_gap(evidence: Evidence) -> list[str]:
    numbers = [trial.number for trial in evidence.trials]
    return [] if numbers == list(range(len(numbers))) else ["the trials' numbers have gaps or doubles"]


def _parameters(evidence: Evidence) -> list[str]:
    begun: dict[int, set[str]] = defaultdict(set)
    for line in evidence.lines:
        if line.what == "began":
            begun[line.trial_id].add(line.detail)
    wrong = []
    for trial in evidence.trials:
        if trial.state == TrialState.FAIL and FIT not in trial.user_attrs:
            continue  # given up before anything was drawn
        if begun[trial._trial_id] != {digest_of(trial.user_attrs.get(FIT, {}))}:
            wrong.append(f"trial {trial.number} was begun with {len(begun[trial._trial_id])} sets of parameters")
    for key, params in evidence.enqueued.items():
        there = [trial for trial in evidence.trials if trial.user_attrs.get("enqueued") == key]
        if len(there) != 1 or any(there[0].params.get(name) != value for name, value in params.items()):
            wrong.append(f"what was enqueued as {key} is there {len(there)} times, with {[t.params for t in there]}")
    return wrong


def _values(evidence: Evidence) -> list[str]:
    wrong = []
    for trial in _finished(evidence):
        spec, length = trial.user_attrs[FIT], len(trial.intermediate_values)
        whole = trial.state == TrialState.COMPLETE
        reports = evidence.undisturbed(spec, spec["epochs"] if whole else length)
        told = {report.epoch: report.val_loss for report in reports}
        value = best_epoch(reports, "bce").val_loss if whole else reports[-1].val_loss
        if trial.intermediate_values != told or trial.value != value:
            wrong.append(f"trial {trial.number} has {trial.value} and {trial.intermediate_values}, not {value}, {told}")
    return wrong


def _paper(evidence: Evidence) -> list[str]:
    wrong = []
    for paper in paper_trials() if evidence.documented else ():
        replays = [trial for trial in evidence.trials if trial.user_attrs.get(PAPER) == paper.number]
        given = {"params": paper_params(evidence.study.declaration, paper).to_flat(), "seed": paper.seed}
        good = (
            len(replays) == 1
            and replays[0].state == TrialState.COMPLETE
            and {key: replays[0].user_attrs[FIT][key] for key in given} == given
        )
        if not good:
            wrong.append(f"paper trial {paper.number}: {[(trial.state.name, trial.user_attrs) for trial in replays]}")
    return wrong  # that a replay has its bits is among the values


def _attempts(evidence: Evidence) -> list[str]:
    wrong, retries = [], evidence.study.declaration.retries
    for trial in evidence.trials:
        claim, reasons = evidence.claims.get(trial._trial_id), trial.user_attrs.get(FAILURE, [])
        seed = trial.user_attrs.get(FIT, {}).get("seed")
        simulated = evidence.place.pace is not None and seed is not None
        doomed = simulated and raises(seed, always=True)
        if claim is None or claim.attempts < 1 or claim.failures > retries + 1:
            wrong.append(f"trial {trial.number} has the claim {claim}")
        if (trial.state == TrialState.FAIL) != doomed:
            wrong.append(f"trial {trial.number} is {trial.state.name}, {reasons}")
        raised = simulated and raises(seed, always=False)
        # Whoever raised may have been killed before it could say so; then another says that it fell silent.
        if (doomed or raised) and not any(REASON in reason or "lost" in reason for reason in reasons):
            wrong.append(f"trial {trial.number} raised, and its reasons are {reasons}")
    return wrong


def _no_stranger(evidence: Evidence) -> list[str]:
    return [f"{one.worker} wrote to trial {one.trial_id} of {one.holder}: {one.table}" for one in evidence.strangers]


def _weights(evidence: Evidence) -> list[str]:
    complete = [trial for trial in evidence.trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda trial: (trial.value, trial.number))
    wrong = []
    for trial in ranked[: evidence.study.declaration.keep]:
        path, spec = weights_path(evidence.place.root, trial), trial.user_attrs[FIT]
        if path is None:
            wrong.append(f"the weights of trial {trial.number}, one of the best, are gone")
        elif evidence.place.pace is not None:
            best = best_epoch(evidence.undisturbed(spec, spec["epochs"]), "bce").epoch
            if not weights_are_of(path, spec["seed"], best):
                wrong.append(f"the weights of trial {trial.number} are not those of its best epoch")
    return wrong


INVARIANTS: Final[dict[str, Callable[[Evidence], list[str]]]] = {
    "exactly the trials that were asked for": _budget,
    "each finished once, by whom it was": _each_once,
    "none running, waiting or unclaimed": _none_left,
    "no trial lost": _no_gap,
    "no parameter vector lost or changed": _parameters,
    "every report and value to the bit": _values,
    "every documented trial replayed": _paper,
    "attempts within bounds, reasons kept": _attempts,
    "nobody wrote to another's trial": _no_stranger,
    "weights of the best are there": _weights,
}


def shown(wrong: Mapping[str, Sequence[str]]) -> str:
    """Spell what is wrong, a line each; empty if all is well."""
    lines = [f"{name}: {text}" for name, texts in wrong.items() for text in texts[:_SHOWN]]
    return "\n".join(lines)
