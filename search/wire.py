"""How a call to a storage or a ledger travels: in JSON, by name from a list, its types those of the method; no pickle.

Not here: who calls (remote.py); who answers, and whom (proxy.py).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from sys import intern
from typing import Any, Final, get_type_hints

import msgspec
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from search.errors import CodeChanged, StudyNotFound
from search.ledger import Claim, Ledger, Progress
from search.slots import Done, Wait
from search.trials import Trials, TrialTaken

SERVICE: Final = "mlc_search.StorageProxy"
CALL: Final = "Call"

Method = Callable[..., Any]


def _by_name(*methods: Method) -> Mapping[str, Method]:
    return {method.__name__: method for method in methods}


# Trials are begun and ended by the ledger alone: Optuna's ways to do so know no budget.
STORAGE: Final = _by_name(
    Trials.create_new_study,
    Trials.delete_study,
    Trials.get_all_studies,
    Trials.get_study_directions,
    Trials.get_study_id_from_name,
    Trials.get_study_name_from_id,
    Trials.get_study_system_attrs,
    Trials.get_study_user_attrs,
    Trials.set_study_system_attr,
    Trials.set_study_user_attr,
    Trials.count_study_system_attrs,
    Trials.get_trial,
    Trials._get_trials,
    Trials._get_best_trial_id,
    Trials.get_trial_id_from_study_id_trial_number,
    Trials._set_trial_param,
    Trials.set_trial_intermediate_value,
    Trials.set_trial_user_attr,
    Trials.set_trial_system_attr,
    Trials.forget,
    Trials.own,
    Trials.clock,
)
LEDGER: Final = _by_name(
    Ledger.open_budget,
    Ledger.keep_budget,
    Ledger.close_budget,
    Ledger.resize_budget,
    Ledger.wind_up,
    Ledger.budgets,
    Ledger.runners,
    Ledger.remaining,
    Ledger.claim,
    Ledger.beat,
    Ledger.enlist,
    Ledger.workers,
    Ledger.recover,
    Ledger.finish,
    Ledger.pause,
    Ledger.release,
    Ledger.fail,
    Ledger.give_back,
    Ledger.enqueue,
    Ledger.remember,
)
_NARROWER: Final = {"_get_trials": {"states": type(None)}}  # a container of any kind has no spelling
_ANSWERS: Final = {kind.__name__: kind for kind in (Claim, Wait, Done, Progress)}
ERRORS: Final = (
    StudyNotFound,
    CodeChanged,
    TrialTaken,
    UpdateFinishedTrialError,
    DuplicatedStudyError,
    KeyError,
    ValueError,
)


class BadCall(Exception):
    """A request is none that we know; its text says why."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Which ledger is meant, see `search.ledger.Ledger`."""

    study_id: int
    retries: int
    draws: bool


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    calls: list[tuple[str, dict[str, Any]]]  # names and arguments; several are writes that are one transaction
    worker: str | None = None  # who asks; a trial that another has claimed is not written
    unread: tuple[str, ...] = ()  # users' attributes that are left out where all trials are read
    ledger: Terms | None = None  # for its operations; without it the storage's methods are meant


def pack(request: Request) -> bytes:
    """Spell a request."""
    return _spell(request)


def unpack(data: bytes) -> Request:
    """Read a request, each argument as the method's type says.

    Raises
    ------
    BadCall
        It is no JSON, names what is not on the list, or has arguments of other names or types.
    """
    try:
        request = msgspec.convert(json.loads(data), Request)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise BadCall(f"the request cannot be read: {error}") from None
    if not request.calls or (request.ledger is not None and len(request.calls) > 1):
        raise BadCall("a request asks for one operation, or for writes to the storage")
    known = STORAGE if request.ledger is None else LEDGER
    calls = []
    for name, arguments in request.calls:
        if name not in known:
            raise BadCall(f"there is no operation {name!r}")
        try:
            hints = _hints(known[name])
            read = {key: msgspec.convert(value, hints[key], dec_hook=_read) for key, value in arguments.items()}
            signature(known[name]).bind(None, **read)
        except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            raise BadCall(f"arguments of {name!r}: {error}") from None
        calls.append((name, read))
    return replace(request, calls=calls)


def pack_answer(value: object) -> bytes:
    """Spell what a method returned."""
    return _spell({"kind": type(value).__name__, "answer": value})


def pack_error(error: Exception) -> bytes:
    """Spell one of ERRORS; its class may be a narrower one."""
    kind = next(kind for kind in ERRORS if isinstance(error, kind))
    return _spell(
        {
            "error": kind.__name__,
            "said": [one if isinstance(one, str | int) else str(one) for one in error.args],
            "holds": vars(error),
        }
    )


def unpack_answer(data: bytes, method: Method) -> Any:  # noqa: ANN401 - whatever the method returns
    """Read what the method returned, or raise what it raised."""
    said = json.loads(data)
    if "error" not in said:
        kind = _ANSWERS.get(said["kind"]) or _hints(method)["return"]
        return msgspec.convert(said["answer"], kind, dec_hook=_read)
    kind = next(kind for kind in ERRORS if kind.__name__ == said["error"])
    error = kind.__new__(kind, *said["said"])  # without its __init__, which would make the sentence anew
    vars(error).update(said["holds"])
    raise error


@cache
def signature(method: Method) -> inspect.Signature:
    """Inspect a method once."""
    return inspect.signature(method)


@cache
def _hints(method: Method) -> Mapping[str, Any]:
    return get_type_hints(method) | _NARROWER.get(method.__name__, {})


def _spell(value: object) -> bytes:
    # Not msgspec's: it has no NaN and no infinities, which are reported as any other value.
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: object) -> object:
    """Make a value plain, as far as JSON has no spelling for it by itself."""
    match value:
        case FrozenTrial():
            return _plain_trial(value)
        case FrozenStudy():
            return [value._study_id, value.study_name, value.directions, value.user_attrs, value.system_attrs]
        case BaseDistribution():
            return distribution_to_json(value)
        case Mapping():
            return dict(value)
        case set():
            return sorted(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} is not JSON serializable")  # as json says it


def _read(kind: type, value: Any) -> Any:  # noqa: ANN401 - one of the three kinds
    """Make one of Optuna's objects again."""
    if kind is FrozenTrial:
        return _read_trial(value)
    if kind is FrozenStudy:
        study_id, name, directions, user, system = value
        return FrozenStudy(name, None, user, system, study_id, directions=[StudyDirection(one) for one in directions])
    if kind is BaseDistribution:
        return _distribution(value)
    raise NotImplementedError(kind)


def _plain_trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "id": trial._trial_id,
        "number": trial.number,
        "state": trial.state,
        "values": trial.values,
        "start": _moment(trial.datetime_start),
        "complete": _moment(trial.datetime_complete),
        "params": {
            name: [value, distribution_to_json(trial.distributions[name])] for name, value in trial.params.items()
        },
        "user": trial.user_attrs,
        "system": trial.system_attrs,
        "reports": list(trial.intermediate_values.items()),
    }


def _read_trial(plain: dict[str, Any]) -> FrozenTrial:
    params: dict[str, tuple[Any, str]] = plain["params"]
    return FrozenTrial(
        trial_id=plain["id"],
        number=plain["number"],
        state=TrialState(plain["state"]),
        value=None,
        values=plain["values"],
        datetime_start=_local(plain["start"]),
        datetime_complete=_local(plain["complete"]),
        # A worker keeps all trials in memory, and their keys are few.
        params={intern(name): value for name, (value, _) in params.items()},
        distributions={intern(name): _distribution(text) for name, (_, text) in params.items()},
        user_attrs={intern(key): value for key, value in plain["user"].items()},
        system_attrs={intern(key): value for key, value in plain["system"].items()},
        intermediate_values=dict(plain["reports"]),
    )


@lru_cache(maxsize=1024)  # ten thousand trials share a dozen
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _moment(local: datetime | None) -> str | None:
    return None if local is None else local.astimezone(UTC).isoformat()  # machines' time zones differ


def _local(moment: str | None) -> datetime | None:
    return None if moment is None else datetime.fromisoformat(moment).astimezone().replace(tzinfo=None)
