"""The five documented trials, read from studies/paper.toml: what is documented, what assumed, what resulted."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from mlc_core import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTrial:
    """One documented trial."""

    number: int  # the document's
    documented: Mapping[str, Value]  # parameters as the document states them
    assumed: Mapping[str, Value]  # parameters on which it is silent
    seed: int  # of the replay
    val_loss: float  # the document's result, on other data

    @property
    def key(self) -> str:
        """Stable id, under which a study holds it at most once."""
        return f"paper/{self.number}"

    @property
    def params(self) -> dict[str, Value]:
        """Documented and assumed parameters together."""
        return {**self.documented, **self.assumed}


def paper_trials() -> tuple[PaperTrial, ...]:
    """Return the documented trials in the document's order."""
    table = tomllib.loads((files("studies") / "paper.toml").read_text(encoding="utf-8"))
    return tuple(
        PaperTrial(
            number=trial["number"],
            documented=trial["documented"],
            assumed={key: value for key, value in trial["assumed"].items() if key != "seed"},
            seed=trial["assumed"]["seed"],
            val_loss=trial["result"]["val_loss"],
        )
        for trial in table["trial"]
    )
