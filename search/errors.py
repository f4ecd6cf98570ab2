"""What a user of a search can mend; the family continues `MlcError`.

::

    MlcError                   exit code 2 unless said otherwise
    └── SearchError
        ├── StorageDown        the database cannot be reached or opened; exit code 1
        │   └── NothingStarted no search has been started in it; exit code 2
        ├── BadStorage         the URL of the database cannot be used
        ├── StudyNotFound      no study of that name
        ├── TrialNotFound      no trial of that number
        ├── StudyBusy          trials of the study run
        ├── NoRun              no run of the study is under way
        ├── StudyChanged       the study was started with another declaration
        ├── DataChanged        the study was started with other data
        ├── CodeChanged        workers of other versions are at work
        └── BadDeclaration     a key of a study's TOML file is wrong

No URL enters these texts except through `search.storage.redacted`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from mlc_core import MlcError, did_you_mean


class SearchError(MlcError):
    """A mistake around a search that a user can mend."""


class StorageDown(SearchError):
    """The database cannot be reached or opened.

    Attributes
    ----------
    url : str
        The redacted URL.
    reason : str
        What the database or its driver said, as half a sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, url: str, reason: str, hint: str) -> None:
        super().__init__(f"Cannot use the database {url}: {reason}. {hint}")
        self.url, self.reason = url, reason


class NothingStarted(StorageDown):
    """No search has been started in the database, or its file is not there: often another was meant."""

    exit_code: ClassVar[int] = 2


class BadStorage(SearchError):
    """The URL of the database cannot be used: unreadable, not SQLite or PostgreSQL, or without its folder."""


class StudyNotFound(SearchError):
    """No study of that name is in the database.

    Attributes
    ----------
    name : str
        The name that was asked for.
    known : tuple of str
        The studies that are there.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        there = f"Studies: {', '.join(self.known)}." if self.known else "The database holds no study yet."
        super().__init__(f"There is no study {name!r}.{did_you_mean(name, self.known)} {there}")


class TrialNotFound(SearchError):
    """The study has no trial of that number.

    Attributes
    ----------
    study : str
    number : int
        The number that was asked for.
    """

    def __init__(self, study: str, number: int, trials: int) -> None:
        there = f"It has the trials 0 to {trials - 1}." if trials else "It has none yet."
        super().__init__(f"Study {study!r} has no trial {number}. {there}")
        self.study, self.number = study, number


class StudyBusy(SearchError):
    """Trials of the study run, so that it cannot be deleted."""

    def __init__(self, study: str, running: int) -> None:
        super().__init__(f"Study {study!r} has {running} running trials. Stop its workers first, or pass --force.")


class NoRun(SearchError):
    """No run of the study is under way, so that none can be changed."""

    def __init__(self, study: str) -> None:
        super().__init__(f"No run of study {study!r} is under way. Start one with mlc-search run.")


class StudyChanged(SearchError):
    """The study was started with another declaration.

    Attributes
    ----------
    differences : tuple of str
        One line for each key that differs.
    """

    def __init__(self, study: str, differences: Iterable[str]) -> None:
        self.study, self.differences = study, tuple(differences)
        lines = "".join(f"\n  {difference}" for difference in self.differences)
        super().__init__(
            f"Study {study!r} was started with another declaration:{lines}\n"
            "Go on by --study NAME alone or the same values; let it grow by mlc-search run --study FILE --extend; or "
            'name this one otherwise: name = "..." in its file.'
        )


class DataChanged(SearchError):
    """The study was started with other images, labels or splits, or they are not where they were."""

    def __init__(self, study: str, problem: str) -> None:
        super().__init__(f"The data of study {study!r}: {problem}.")


class CodeChanged(SearchError):
    """Workers of other versions are at work on the study; values of two versions cannot be compared.

    Attributes
    ----------
    known, ours : str
        The versions of those workers and of this one.
    """

    def __init__(self, worker: str, known: str, ours: str) -> None:
        super().__init__(
            f"Worker {worker} is at work with {known}; this one is {ours}. Install the same on every machine, or stop "
            "those workers: the study then goes on with whatever comes first."
        )
        self.known, self.ours = known, ours


class BadDeclaration(SearchError):
    """A key of a study declaration is wrong.

    Attributes
    ----------
    where : str
        The file.
    key : str
        The key, dotted.
    problem : str
        What is wrong and what is allowed, as a sentence.
    """

    def __init__(self, where: str, key: str, problem: str) -> None:
        super().__init__(f"{where}: {key}: {problem}")
        self.where, self.key, self.problem = where, key, problem
