"""A question to a study's trials, whether values differ with a parameter, and the finding that answers it.

Not here: which questions are asked (learnings.py); how an effect is told (effects.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mlc_core import Value
from search.effects import Effect, confounders, effect, holm
from search.evidence import GROUP, LEAST, Advice, Figures, Verdict
from search.views import TrialRow

SURE: Final = 0.05  # of all questions together


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether values are lower with one choice than with another, or with more of a number."""

    about: str
    key: str
    pair: tuple[Value, Value] | None  # the first against the second; None: along a number
    unit: float  # of a number's logarithm that an effect is told for: ln 10, tenfold; ln 2, twice
    more: str  # the first of the pair, or what a unit more of the number is
    rows: Sequence[TrialRow]
    values: Sequence[float]  # one a row
    measure: str  # what the values are
    told: Callable[[float], str]  # a difference of them, with its sign
    better: str  # a sentence, if values are lower with the first, or with more
    worse: str
    claim: str
    holds: Callable[[float], bool]  # whether a difference that was found is what the document found
    where: str  # at which epochs


def answers(questions: Sequence[Question], keys: Sequence[str]) -> list[Advice]:
    """Answer each question, with p-values that are adjusted for their number (Holm 1979).

    Parameters
    ----------
    keys : sequence of str
        What every trial of the study draws.
    """
    found = [_answer(question, keys) for question in questions]
    adjusted = iter(holm([one.p for one in found if isinstance(one, Effect)]))
    return [
        _told(question, one, next(adjusted)) if isinstance(one, Effect) else _untold(question, one)
        for question, one in zip(questions, found, strict=True)
    ]


def _answer(question: Question, keys: Sequence[str]) -> Effect | str:
    """Tell the effect, or what is missing."""
    if question.key not in keys:
        return "the study does not search it"
    held = [at for at, row in enumerate(question.rows) if _concerns(question, row)]
    rows, values = [question.rows[at] for at in held], [question.values[at] for at in held]
    if (missing := _missing(question, rows)) is not None:
        return missing
    if len(set(values)) == 1:
        return f"{question.measure}: {values[0]:.3g} in all {len(values)} trials"
    if question.pair is None:
        asked = [math.log(float(row.params[question.key])) / question.unit for row in rows]
    else:
        asked = [float(row.params[question.key] == question.pair[0]) for row in rows]
    found = effect(values, asked, confounders(rows, question.key, keys))
    return found if found is not None else "it varies only together with the others"


def _missing(question: Question, rows: Sequence[TrialRow]) -> str | None:
    given = [row.params[question.key] for row in rows]
    if question.pair is not None:
        counts = [given.count(value) for value in question.pair]
        if min(counts) >= GROUP and sum(counts) >= LEAST:
            return None
        return f"{_counts(question)}; {GROUP} of each and {LEAST} in all are needed"
    if len(rows) < LEAST:
        return f"{_counts(question)}; {LEAST} are needed"
    if any(isinstance(value, str) or value <= 0 for value in given):
        return "it has values that are not above 0"
    return None


def _told(question: Question, found: Effect, p: float) -> Advice:
    sure = p < SURE and not found.low <= 0 <= found.high
    said = question.better if found.size < 0 else question.worse
    others = ", ".join(name.replace("lr", "learning rate").replace("_", " ") for name in found.adjusted)
    ends = " to ".join(map(question.told, (found.low, found.high)))
    evidence = (
        f"{question.measure} {question.told(found.size)} with {question.more} (95 %: {ends}; p = {p:.2g}), "
        f"{f'at equal {others}, ' if others else ''}{_counts(question)}, {question.where}"
    )
    figures: Figures = {
        "effect": found.size,
        "low": found.low,
        "high": found.high,
        "p": p,
        "p_alone": found.p,
        "agrees": question.holds(found.size) if sure else None,
        "at_equal": ", ".join(found.adjusted),
    }
    if not sure:
        said = f"{_capital(question.about)}: these trials do not tell."
    return _advice(question, "found" if sure else "open", said, evidence, figures)


def _untold(question: Question, reason: str) -> Advice:
    said = f"{_capital(question.about)}: cannot be told ({reason})."
    return _advice(question, "too few", said, "", {"agrees": None})


def _advice(question: Question, verdict: Verdict, said: str, evidence: str, figures: Figures) -> Advice:
    return Advice(
        topic="learned",
        about=question.about,
        verdict=verdict,
        said=said,
        evidence=evidence,
        trials=sum(_concerns(question, row) for row in question.rows),
        figures=figures,
        claim=question.claim,
    )


def _concerns(question: Question, row: TrialRow) -> bool:
    return question.key in row.params and (question.pair is None or row.params[question.key] in question.pair)


def _counts(question: Question) -> str:
    given = [row.params[question.key] for row in question.rows if _concerns(question, row)]
    if question.pair is None:
        return f"{len(given)} trials"
    return " and ".join(f"{given.count(value)} {value}" for value in question.pair) + " trials"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
