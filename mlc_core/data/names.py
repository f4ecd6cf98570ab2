"""Class names that may be meant as one: "Dog" and "dog", "bicycle" and "bicylce"."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import combinations
from typing import Final

LONG: Final = 7  # letters from which on a word that differs in one of them may be a slip


def suspicious(names: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, str], ...]]:
    """Find class names that may be meant as one.

    Returns
    -------
    same : tuple of tuple of str
        Names that differ in nothing but case, spaces, hyphens, underscores, width or invisible characters.
    similar : tuple of pairs of str
        Names of which one is the other's plural, or whose longer words differ by one letter, or by two that changed
        places. Such as class1 and class2, type A and type B, or cat and car are not among them.
    """
    bare: dict[str, list[str]] = {}
    for name in names:
        bare.setdefault(_bare(name), []).append(name)
    # Words that differ by one letter share what is left when one letter is taken away (Garbe's SymSpell).
    with_gap: dict[str, list[str]] = {}
    for word in bare:
        for gapped in {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}:
            with_gap.setdefault(gapped, []).append(word)
        if word.endswith("y"):
            with_gap.setdefault(f"{word[:-1]}ies", []).append(word)
        for ending in ("s", "es"):
            with_gap.setdefault(f"{word}{ending}", []).append(word)
    pairs = {pair for words in with_gap.values() for pair in combinations(sorted(set(words)), 2) if _slip(*pair)}
    same = tuple(tuple(own) for own in bare.values() if len(own) > 1)
    return same, tuple((bare[one][0], bare[other][0]) for one, other in sorted(pairs))


def _bare(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    shown = "".join(" " if c in "-_" or c.isspace() else c for c in folded if unicodedata.category(c) != "Cf")
    return " ".join(shown.split())


def _slip(one: str, other: str) -> bool:
    """Whether two names differ in one word, and there by a plural or by one slip of the fingers."""
    first, second = one.split(), other.split()
    apart = [pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]]
    if len(first) != len(second) or len(apart) != 1:
        return False
    short, long = sorted(apart[0], key=lambda word: (len(word), word))
    if not (short + long).isalpha():
        return False
    if len(short) > 2 and long in (f"{short}s", f"{short}es", f"{short[:-1]}ies" if short.endswith("y") else ""):
        return True
    start = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < LONG:
        return False
    tails = short[start:], long[start:]
    changed = len(short) == len(long) and tails[0][1:] == tails[1][1:]
    swapped = tails[0][:2] == tails[1][1::-1] and tails[0][2:] == tails[1][2:]
    return changed or swapped or tails[0] == tails[1][1:]
