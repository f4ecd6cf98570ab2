"""The space and the words that all of Syne Tune's releases share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from syne_tune.config_space import choice, loguniform, randint, uniform

from tests.benchmarks.search.peers.space import Choice, Domain, read
from tests.benchmarks.search.simulate import GO, PAUSE, STOP, Verdict

LOSS: Final = "val_loss"
RESOURCE: Final = "epoch"
FULL: Final = "epochs"  # of a trial, where the configuration says it
VERDICTS: Final[Mapping[str, Verdict]] = {"CONTINUE": GO, "PAUSE": PAUSE, "STOP": STOP}


def space_of() -> dict[str, Any]:
    """Give the flat space, as Syne Tune knows no conditions."""
    return {key: _domain(domain) for key, domain in read().flat.items()}


def params_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters of a configuration."""
    return {key: value for key, value in config.items() if key != FULL}


def verdict_of(decision: str) -> Verdict:
    """Give a decision of Syne Tune in the simulation's words."""
    return VERDICTS[decision]


def _domain(domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return choice(list(domain.values))
    if domain.whole:
        return randint(int(domain.low), int(domain.high))
    return (loguniform if domain.log else uniform)(domain.low, domain.high)
