"""What a study teaches: ranges to change, trials that were unstable, the document's learnings asked again.

Not here: each kind of finding (range_advice.py, stability_advice.py, learnings.py); how they are drawn
(advice_tables.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.confirm import Verdict
from search.evidence import Advice, Sample, comparable, toml
from search.learnings import learnings
from search.range_advice import range_advice
from search.stability_advice import stability_advice
from search.study import Study
from search.views import trial_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Advised:
    """All findings of a study."""

    sample: Sample  # what values are compared at
    findings: tuple[Advice, ...]

    @property
    def toml(self) -> str:
        """The lines of a study's file that should change; empty where none should."""
        return toml(advice.change for advice in self.findings if advice.change is not None)

    def to_table(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return {
            "compared": self.sample.to_table(),
            "findings": [advice.to_table() for advice in self.findings],
            "toml": self.toml,
        }


def advise(study: Study, confirmed: Sequence[Verdict]) -> Advised:
    """Look at a study's trials, and their repetitions if there are any.

    Each finding names the trials behind it; where they are too few, it says so and guesses nothing.
    """
    rows = trial_rows(study)
    sample = comparable(study, rows)
    declaration = study.declaration
    findings = (
        *range_advice(declaration, rows),
        *stability_advice(declaration, rows, confirmed),
        *learnings(sample, rows, [*declaration.space]),
    )
    return Advised(sample=sample, findings=findings)
