"""Images, models and training of one multi-label ResNet; knows nothing of a search.

``fit``, ``digits`` and what else needs torch load on first use (PEP 562): reading a
declaration or showing a status costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from mlc_core.errors import BadCheckpoint, BadData, BadParams, Diverged, MlcError, NoDevice, did_you_mean
from mlc_core.params import (
    DEFAULTS,
    EPOCHS,
    KEYS,
    SCHEDULER_KEYS,
    SCHEDULER_OF,
    SCHEDULERS,
    Cosine,
    Flat,
    Params,
    Plateau,
    Scheduler,
    SchedulerName,
    Step,
    Value,
)
from mlc_core.records import BEST, EpochReport, OnEpoch
from mlc_core.seeds import Stream, stream_seed

if TYPE_CHECKING:  # the checker sees the real signatures
    from mlc_core.data.dataset import Dataset as Dataset
    from mlc_core.data.dataset import Split as Split
    from mlc_core.data.digits import digits as digits
    from mlc_core.device import Compute as Compute
    from mlc_core.device import choose as choose
    from mlc_core.training import fit as fit

__all__ = [
    "BEST",
    "DEFAULTS",
    "EPOCHS",
    "KEYS",
    "SCHEDULERS",
    "SCHEDULER_KEYS",
    "SCHEDULER_OF",
    "BadCheckpoint",
    "BadData",
    "BadParams",
    "Compute",
    "Cosine",
    "Dataset",
    "Diverged",
    "EpochReport",
    "Flat",
    "MlcError",
    "NoDevice",
    "OnEpoch",
    "Params",
    "Plateau",
    "Scheduler",
    "SchedulerName",
    "Split",
    "Step",
    "Stream",
    "Value",
    "choose",
    "did_you_mean",
    "digits",
    "fit",
    "stream_seed",
]

_ON_FIRST_USE: Final = {
    "Compute": "mlc_core.device",
    "Dataset": "mlc_core.data.dataset",
    "Split": "mlc_core.data.dataset",
    "choose": "mlc_core.device",
    "digits": "mlc_core.data.digits",
    "fit": "mlc_core.training",
}


def __getattr__(name: str) -> object:
    if name in _ON_FIRST_USE:  # torch takes seconds to import
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
