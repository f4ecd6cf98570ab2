"""The five documented trials, read from studies/paper.toml: what is documented, what assumed, what resulted."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mlc_core import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTrial:
    """One documented trial."""

    number: int  # the document's
    documented: Mapping[str, Value]  # parameters as the document states them
    assumed: Mapping[str, Value]  # parameters on which it is silent
    off: Mapping[str, Value]  # parameters by which a replay does without what the document had not
    seed: int  # of the replay
    val_loss: float  # the document's result, on other data

    @property
    def key(self) -> str:
        """Stable id, under which a study holds it at most once."""
        return f"paper/{self.number}"

    @property
    def params(self) -> dict[str, Value]:
        """All parameters of the replay that are not the study's."""
        return {**self.documented, **self.assumed, **self.off}


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperResult:
    """The document's final model on its own test images; shares from 0 to 1."""

    accuracy: float  # element-wise
    macro_precision: float
    macro_recall: float
    macro_f1: float
    classes: tuple[str, ...]
    precision: tuple[float, ...]  # a class
    recall: tuple[float, ...]
    f1: tuple[float, ...]


def paper_trials() -> tuple[PaperTrial, ...]:
    """Return the documented trials in the document's order."""
    document = _document()
    return tuple(
        PaperTrial(
            number=trial["number"],
            documented=trial["documented"],
            assumed={key: value for key, value in trial["assumed"].items() if key != "seed"},
            off=document["off"],
            seed=trial["assumed"]["seed"],
            val_loss=trial["result"]["val_loss"],
        )
        for trial in document["trial"]
    )


def paper_result() -> PaperResult:
    """Return what the document's final model reached."""
    table = _document()["result"]
    precision, recall, f1 = (tuple(percent / 100 for percent in table[key]) for key in ("precision", "recall", "f1"))
    return PaperResult(
        accuracy=table["accuracy"] / 100,
        macro_precision=table["macro_precision"] / 100,
        macro_recall=table["macro_recall"] / 100,
        macro_f1=table["macro_f1"] / 100,
        classes=tuple(table["classes"]),
        precision=precision,
        recall=recall,
        f1=f1,
    )


def _document() -> dict[str, Any]:
    return tomllib.loads((files("studies") / "paper.toml").read_text(encoding="utf-8"))
