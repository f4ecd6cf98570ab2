"""A search begins where earlier ones ended: the best of what they tried, on whatever data, is tried here first.

Values of other data do not compare with ours, so none is taken over, and no sampler sees them: what is taken are
parameters, which train here like those of any trial. The best of each earlier study comes first (Feurer et al.,
"Initializing Bayesian Hyperparameter Optimization via Meta-Learning", AAAI 2015). The further ones of a study cover its
better half: each is the one farthest from those before it, which leaves none farther away than twice the least
possible (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985); the next best alone would be the
first once more, as a search ends where it found it. Not here: the queue (ledger.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, cast

from optuna.trial import TrialState

from mlc_core import Value
from search.declaration import Choice, Declaration, Domain
from search.errors import SearchError
from search.space import domains, outside
from search.study import Study, open_study
from search.trials import WARM_START
from search.views import TrialRow, leaderboard, trial_rows

EACH: Final = 5  # trials of an earlier study, at most


class CannotWarmStart(SearchError):
    """What is to be begun from is no earlier study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What was taken from one earlier study; trials by their numbers there."""

    study: str
    complete: int  # trials that it has
    added: tuple[int, ...]  # in the order in which they are tried
    there: tuple[int, ...]  # since an earlier call
    outside: Mapping[int, str]  # of the better half, what this study would never draw: its first such parameter

    def sentences(self) -> list[str]:
        """Say it to a person."""
        said = []
        if not self.complete:
            said.append(f"Study {self.study!r} has no complete trial to begin from.")
        if self.there:
            said.append(f"Of study {self.study!r} here already: {_listed(self.there)}.")
        if self.added:
            said.append(f"Of study {self.study!r} tried first: {_listed(self.added)}.")
        if self.outside:
            what = "; ".join(f"trial {number} has {stranger}" for number, stranger in self.outside.items())
            said.append(f"Of study {self.study!r} left out, as this study would never draw them: {what}.")
        return said


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A trial of an earlier study, in this one's space."""

    number: int
    params: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class _Earlier:
    """What an earlier study offers."""

    name: str
    identity: str
    complete: int
    candidates: Sequence[_Candidate]  # best first
    outside: Mapping[int, str]


def warm_start(study: Study, references: Sequence[str], storage_url: str | None) -> list[WarmStart]:
    """Put the best trials of earlier studies into the queue; what was put there once is left alone.

    They are ordinary trials: pruned if they are worse than others, and counted by a budget. What this study holds
    constant, they have as this study has it.

    Parameters
    ----------
    references : sequence of str
        The earlier studies' names.
    storage_url : str, optional
        Of their database, as `search.storage.resolve_url` takes it.

    Raises
    ------
    CannotWarmStart
        One of them is this study; nothing was added.
    StudyNotFound, BadDeclaration, BadStorage, StorageDown
        Nothing was added.
    """
    earlier = [_read(study, reference, storage_url) for reference in dict.fromkeys(references)]
    there = {one.identity: _there(study, one.identity) for one in earlier}
    picked: dict[str, list[_Candidate]] = {}
    taken: list[Mapping[str, Value]] = []  # of any of them: a second time it would tell nothing
    for one in earlier:
        known = [each for each in one.candidates if each.number in there[one.identity]]
        others = [each for each in one.candidates if each not in known and each.params not in taken]
        room = EACH - len(there[one.identity])
        picked[one.identity] = _spread(others, known, room, study.declaration)
        taken += [each.params for each in (*known, *picked[one.identity])]
    for turn in zip_longest(*picked.values()):
        for one, each in zip(earlier, turn, strict=True):
            if each is not None:
                source = {"study": one.name, "id": one.identity, "trial": each.number}
                key = f"warm start/{one.identity}/{each.number}"
                study.ledger.enqueue(key, params=each.params, user_attrs={WARM_START: source})
    return [
        WarmStart(
            study=one.name,
            complete=one.complete,
            added=tuple(each.number for each in picked[one.identity]),
            there=tuple(sorted(there[one.identity])),
            outside=one.outside,
        )
        for one in earlier
    ]


def _read(study: Study, reference: str, storage_url: str | None) -> _Earlier:
    with open_study(reference, storage_url) as earlier:
        if earlier.identity == study.identity:
            raise CannotWarmStart(f"--warm-start {reference}: a study does not begin from itself. Name an earlier one.")
        leaders = leaderboard(trial_rows(earlier))
        candidates: list[_Candidate] = []
        strangers: dict[int, str] = {}
        for row in leaders[: math.ceil(len(leaders) / 2)]:
            flat = _flat(earlier, row)
            stranger = outside(study.declaration, flat)
            if stranger is not None:
                strangers[row.number] = stranger
                continue
            searched = domains(study.declaration, flat.get("scheduler"))
            params = {key: flat[key] for key in searched if key in flat}
            if params and params not in [each.params for each in candidates]:
                candidates.append(_Candidate(row.number, params))
        return _Earlier(earlier.name, earlier.identity, len(leaders), candidates, strangers)


def _flat(earlier: Study, row: TrialRow) -> Mapping[str, Value]:
    """Give all parameters that a trial trained with, those included which its study held constant."""
    known = cast("Mapping[str, Value]", row.fit.get("params", {}))
    return known or {**earlier.declaration.fixed, **row.params}


def _there(study: Study, identity: str) -> set[int]:
    """Find the trials of an earlier study that are here; one that was given up is not."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
    sources = [one.user_attrs.get(WARM_START) for one in study.optuna.get_trials(deepcopy=False, states=states)]
    return {int(source["trial"]) for source in sources if source is not None and source["id"] == identity}


def _spread(
    candidates: Sequence[_Candidate], known: Sequence[_Candidate], room: int, declaration: Declaration
) -> list[_Candidate]:
    """Choose the first, then each time the farthest from all chosen and known; of equally far ones the better."""
    chosen: list[_Candidate] = []
    left = list(candidates)
    while left and len(chosen) < room:
        before = [*known, *chosen]
        farthest = max(left, key=lambda one: min((_distance(one, each, declaration) for each in before), default=0.0))
        chosen.append(farthest)
        left.remove(farthest)
    return chosen


def _distance(first: _Candidate, second: _Candidate, declaration: Declaration) -> float:
    """Sum how far apart they are in each parameter that both have (Gower 1971): from 0 to 1, a choice 0 or 1."""
    searched = domains(declaration, first.params.get("scheduler"))
    return sum(
        _apart(searched[key], first.params[key], second.params[key]) for key in first.params if key in second.params
    )


def _apart(domain: Domain, first: Value, second: Value) -> float:
    if first == second:
        return 0.0
    if isinstance(domain, Choice) or isinstance(first, str) or isinstance(second, str):
        return 1.0
    scale = math.log if domain.log else float
    return abs(scale(first) - scale(second)) / (scale(domain.high) - scale(domain.low))


def _listed(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
