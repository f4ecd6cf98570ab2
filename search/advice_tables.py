"""Importances and advice as rich tables and lines of text.

Not here: what is found (importance.py, advice.py); other tables of a study (drawing.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from search.advice import Advised
from search.drawing import plain_table
from search.evidence import LEAST, Advice, Sample, Topic
from search.importance import Importances, Method

_TITLES: Final[dict[Topic, str]] = {
    "range": "The search space",
    "stability": "Stability",
    "learned": "What the documented project learned, asked of this study",
}
_COLOURS: Final = {"change": "yellow", "found": "green", "open": "dim", "too few": "dim"}
_AGREES: Final[Mapping[object, str]] = {True: ", as here", False: "; here it is otherwise", None: ""}
_NAMES: Final = {Method.PED_ANOVA: "PED-ANOVA", Method.FANOVA: "fANOVA"}


def sample_words(sample: Sample) -> list[str]:
    """Say which trials are compared, and by what."""
    if not sample.rows:
        return ["No trial has reported an epoch yet."]
    if sample.epoch == sample.epochs:
        lines = [f"Compared: {len(sample.rows)} trials of full length, by their best value."]
    else:
        lines = [
            f"Compared: {len(sample.rows)} trials, each by its best value up to epoch {sample.epoch} of "
            f"{sample.epochs}: many more than the {sample.complete} complete ones."
        ]
        if sample.agreement is not None:
            lines[0] += f" Of those, rank correlation with the final order: {sample.agreement:+.2f}."
    left = [
        f"{count} {what}"
        for count, what in (
            (sample.short, "that did not come so far"),
            (sample.paper, "documented, which train without what the study fixes"),
        )
        if count
    ]
    if left:
        lines.append(f"Left out: {'; '.join(left)}.")
    if sample.diverged:
        lines.append(f"{sample.diverged} diverged before and count as the worst.")
    return lines


def importance_table(found: Importances) -> Table:
    """One line a parameter, the most important first."""
    table = plain_table(f"Importance of the parameters ({_NAMES[found.method]})")
    table.add_column("parameter")
    for heading in ("importance", "chance alone gives up to", "p", "trials"):
        table.add_column(heading, justify="right")
    table.add_column("more than chance")
    for row in found.rows:
        chance = "-" if row.chance is None else f"{row.chance:.0%}" if row.chance < 1 else "all"
        told = {True: Text("yes", style="green"), False: Text("no", style="dim"), None: Text("-")}[row.told]
        p = "-" if row.p is None else f"{row.p:.2g}"
        table.add_row(row.key.replace("_", " "), f"{row.share:.0%}", chance, p, str(row.trials), told)
    return table


def importance_words(found: Importances) -> list[str]:
    """Say what stands behind the table, or why there is none."""
    if found.trials < LEAST:
        return [f"{found.trials} finished trials are too few to tell importances: at least {LEAST} are needed."]
    lines = [
        f"Of {found.trials} trials, the {found.complete} complete ones first, by their value; behind them those that "
        "were stopped, by how far they came."
    ]
    if found.top:
        lines.append(f"Importance: how far the best {found.top} keep to a part of what all of them drew.")
    if found.paper:
        lines.append(f"Left out: {found.paper} documented trials, which nobody drew.")
    if found.untold:
        lines.append(f"Nothing is told of {', '.join(found.untold)}, which only some trials have: --method ped-anova.")
    return lines


def advice_tables(findings: Collection[Advice]) -> list[Table]:
    """Draw one table for each kind of finding that there is."""
    of = {topic: [one for one in findings if one.topic == topic] for topic in _TITLES}
    return [_findings(of[topic], title) for topic, title in _TITLES.items() if of[topic]]


def advice_words(advised: Advised) -> list[str]:
    """Say what values were compared at."""
    return [
        *sample_words(advised.sample),
        "Trials were chosen by the sampler, not by chance: an effect is what goes with a parameter at equal others.",
    ]


def _findings(findings: Sequence[Advice], title: str) -> Table:
    table = plain_table(title)
    table.add_column("verdict")
    table.add_column("finding")
    table.add_column("trials", justify="right")
    for one in findings:
        said = Text(one.said)
        if one.claim:
            agrees = _AGREES[one.figures.get("agrees")]
            said.append(f"\nThe document: {one.claim.rstrip('.')}{agrees}.", style="dim")
        if one.evidence:
            said.append(f"\n{one.evidence[0].upper()}{one.evidence[1:]}.", style="dim")
        table.add_row(Text(one.verdict, style=_COLOURS[one.verdict]), said, str(one.trials))
    return table
