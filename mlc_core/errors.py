"""What a user can mend, as one family of exceptions; anything else is a bug and keeps its traceback.

::

    MlcError                 exit code 2 unless said otherwise
    ├── BadParams            a parameter of a trial is not allowed
    ├── BadData              images or labels cannot be used
    ├── BadWeights           weights to start from are not there or do not fit
    ├── BadCheckpoint        a checkpoint is damaged or belongs to another fit
    ├── BadModel             a model folder is damaged or foreign, or cannot do what is asked
    ├── MissingExtra         a part that is installed on request is not there
    ├── NoDevice             the asked device or precision is not there
    ├── Diverged             the loss left the finite numbers or ran away; exit code 1
    └── OutOfMemory          even the smallest micro-batch is too much; exit code 1
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class MlcError(Exception):
    """A mistake a user can mend; its text is one sentence that says how."""

    exit_code: ClassVar[int] = 2


class BadParams(MlcError):
    """A parameter is not allowed.

    Attributes
    ----------
    key : str
        The parameter's name, as in a flat mapping.
    got : object
        The value that was given.
    allowed, hint : str
        What is allowed, as half a sentence, and what may have been meant.
    """

    def __init__(self, key: str, got: object, allowed: str, hint: str = "") -> None:
        super().__init__(f"{key}: {got!r} is not {allowed}.{hint}")
        self.key, self.got, self.allowed, self.hint = key, got, allowed, hint


class BadData(MlcError):
    """Images or labels cannot be used for training."""


class BadWeights(MlcError):
    """Weights to start from are not there, are damaged, or belong to another network."""


class BadCheckpoint(MlcError):
    """A checkpoint is damaged, or was written by a fit with other parameters, seed or data."""


class BadModel(MlcError):
    """A model's folder is damaged, was written by another program, or cannot do what is asked of it."""


class MissingExtra(MlcError):
    """A library that only some commands need is not installed.

    Attributes
    ----------
    extra : str
        Of pip, that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra. Install it: pip install 'mlc-search[{extra}]'")
        self.extra = extra


class NoDevice(MlcError):
    """The asked device or precision is not there."""


class Diverged(MlcError):
    """The loss became NaN or infinite, or ran away.

    Attributes
    ----------
    epoch : int
        The epoch (counted from 1) in which it happened.
    reason : str
        What was seen, as half a sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, epoch: int, reason: str) -> None:
        super().__init__(f"Training diverged in epoch {epoch}: {reason}. Try a lower learning rate.")
        self.epoch, self.reason = epoch, reason


class OutOfMemory(MlcError):
    """There is not even memory for the smallest micro-batch."""

    exit_code: ClassVar[int] = 1


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known word, or an empty string."""
    near = get_close_matches(word, list(known), n=1) if isinstance(word, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""
