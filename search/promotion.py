"""Which trials pause at which epoch, and which of them go on: successive halving that never waits.

A trial pauses at each rung unless it is among the best of those that came as far; as others come, it may turn out to
be, and goes on from its checkpoint. Nothing here writes. Not here: claims and budgets (ledger.py); the declaration's
options (options.py).

References
----------
Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (ASHA, by promotion). Bohdal et al.,
"PASHA: Efficient HPO and NAS with Progressive Resource Allocation", ICLR 2023 (rungs whose ranking can be trusted).
Thorndike, "Personnel Selection", 1949: correlations under selection. Of two objectives see pareto.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState

from mlc_core import Objective, cost
from search.declaration import Declaration
from search.options import Promote
from search.pareto import standings
from search.ranks import spearman
from search.slots import Plan
from search.trials import is_replay, paused_at

WEAK: Final = 0.5  # rank correlation to the next rung below which twice as many go on
PAIRS: Final = 8  # trials at both rungs, before their correlation is believed
MOST_PAUSED: Final = 100  # trials; every claim reads all of them again


@dataclass(frozen=True, slots=True)
class Rung:
    """Where trials are compared."""

    epoch: int
    reached: tuple[float, ...]  # of all trials that came as far, by what they are compared, see `standings`; ascending
    share: float  # of them that goes on
    correlation: float | None  # of ranks here and at the next rung, had all gone on; None where too few trials tell
    pairs: int  # trials that were at both
    places: Mapping[int, float]  # what was reached, by the trial's number

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        correlation = {"rank_correlation": self.correlation, "trials_at_both": self.pairs}
        return {"epoch": self.epoch, "trials": len(self.reached), "share": self.share, **correlation}

    @property
    def quota(self) -> int:
        """How many of those that came as far go on."""
        return math.floor(len(self.reached) * self.share + 1e-9)

    def rank(self, number: int) -> int:
        """Count the trials that are better than this one."""
        own = self.places.get(number, math.inf)
        return sum(other < own for other in self.reached)


def rung_epochs(declaration: Declaration) -> list[int]:
    """List the epochs after which trials pause, ascending; the last one is far enough from the end to be worth it."""
    options = declaration.pruner
    if not isinstance(options, Promote):
        return []
    epochs = [options.min_resource]
    while epochs[-1] * options.reduction_factor * 2 <= declaration.epochs:
        epochs.append(epochs[-1] * options.reduction_factor)
    return [epoch for epoch in epochs if epoch < declaration.epochs]


def rungs(trials: Iterable[FrozenTrial], declaration: Declaration) -> list[Rung]:
    """Compare the trials at each rung, the lowest first; none where the study does not pause trials."""
    options = declaration.pruner
    if not isinstance(options, Promote):
        return []
    counted = [one for one in trials if one.state != TrialState.FAIL and one.intermediate_values and not is_replay(one)]
    epochs = [*rung_epochs(declaration), declaration.epochs]
    objective = declaration.objective
    reached = [
        {one.number: cost_at(one, epoch, objective) for one in counted if (one.last_step or 0) >= epoch}
        for epoch in epochs
    ]
    found = []
    for epoch, here, above in zip(epochs[:-1], reached[:-1], reached[1:], strict=True):
        places = standings(here, counted, declaration)
        correlation = _correlation(here, above)
        wider = 2 if correlation is not None and correlation < WEAK else 1
        share = min(1.0, wider / options.reduction_factor)
        found.append(Rung(epoch, tuple(sorted(places.values())), share, correlation, len(above), places))
    return found


def goes_on(trials: Sequence[FrozenTrial], number: int, epoch: int, declaration: Declaration) -> bool:
    """Tell whether a running trial that has just reported this epoch goes on without a pause."""
    at = next((rung for rung in rungs(trials, declaration) if rung.epoch == epoch), None)
    if at is None:
        return True
    return at.rank(number) < at.quota


def plan(trials: Sequence[FrozenTrial], declaration: Declaration, *, left: float) -> Plan | None:
    """Decide what becomes of the paused trials; None where the study does not pause any.

    Parameters
    ----------
    left : int or inf
        How many trials are still to begin; a paused one that they could not help any more is given up.
    """
    if not isinstance(declaration.pruner, Promote):
        return None
    at = {rung.epoch: rung for rung in rungs(trials, declaration)}
    paused = {trial._trial_id: (paused_at(trial), trial) for trial in trials if paused_at(trial)}
    places = {}
    for trial_id, (epoch, trial) in paused.items():
        if epoch in at:
            own = at[epoch].places.get(trial.number, math.inf)
            places[trial_id] = (at[epoch], at[epoch].rank(trial.number), own)
    order = sorted(places, key=lambda trial_id: (-places[trial_id][0].epoch, places[trial_id][2], trial_id))
    promoted = [one for one in order if places[one][1] < places[one][0].quota]
    hopeless = [
        one for one, (rung, rank, _) in places.items() if rank >= (len(rung.reached) + left) * rung.share and rank > 0
    ]
    crowd = sorted(places, key=lambda one: places[one][1] / len(places[one][0].reached))[MOST_PAUSED:]
    return Plan(
        promote=tuple(promoted),
        last=tuple(one for one in order if places[one][1] == 0),
        give_up=tuple({*hopeless, *crowd, *(paused.keys() - places.keys())}),
        paused=tuple((trial_id, paused[trial_id][0]) for trial_id in [*order, *sorted(paused.keys() - places.keys())]),
    )


def ranking(trials: Sequence[FrozenTrial], declaration: Declaration) -> list[int]:
    """Sort the paused trials' numbers, those first whose promotion is likeliest."""
    at = {rung.epoch: rung for rung in rungs(trials, declaration)}

    def place(trial: FrozenTrial) -> float:
        rung = at.get(paused_at(trial))
        if rung is None:
            return math.inf
        return (rung.rank(trial.number) + 1) / (len(rung.reached) * rung.share)

    return [trial.number for trial in sorted((one for one in trials if paused_at(one)), key=place)]


def cost_at(trial: FrozenTrial, epoch: int, objective: Objective) -> float:
    """Give the lowest cost until an epoch; infinite where none of its reports is a number."""
    until = [cost(value, objective) for step, value in trial.intermediate_values.items() if step <= epoch]
    return min((one for one in until if not math.isnan(one)), default=math.inf)


def _correlation(here: Mapping[int, float], above: Mapping[int, float]) -> float | None:
    """Correlate the ranks at two rungs, had all trials gone on; None where too few did.

    Only the best go on, and among those ranks agree less. The correction is Thorndike's second case: by how much less
    the ranks spread of those that went on.
    """
    if len(above) < PAIRS:
        return None
    found = spearman([here[number] for number in above], list(above.values()))
    ranks = {number: place for place, number in enumerate(sorted(here, key=here.__getitem__))}
    restricted = pstdev(ranks[number] for number in above)
    if found is None or restricted == 0:
        return None
    ratio = pstdev(ranks.values()) / restricted
    return found * ratio / math.sqrt(1 + found**2 * (ratio**2 - 1))
