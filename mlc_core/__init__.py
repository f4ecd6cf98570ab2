"""Images, models and training of one multi-label ResNet; knows nothing of a search.

``fit``, ``digits`` and what else needs torch load on first use (PEP 562): reading a
declaration or showing a status costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from mlc_core.errors import (
    BadCheckpoint,
    BadData,
    BadModel,
    BadParams,
    BadWeights,
    Diverged,
    MissingExtra,
    MlcError,
    NoDevice,
    did_you_mean,
)
from mlc_core.params import (
    DEFAULTS,
    EPOCHS,
    KEYS,
    SCHEDULER_KEYS,
    SCHEDULER_OF,
    SCHEDULERS,
    BackboneName,
    Cosine,
    Flat,
    Params,
    Plateau,
    Scheduler,
    SchedulerName,
    StemName,
    Step,
    Value,
)
from mlc_core.records import BEST, OBJECTIVES, Direction, EpochReport, Objective, OnEpoch, cost
from mlc_core.seeds import Stream, stream_seed

if TYPE_CHECKING:  # the checker sees the real signatures
    from mlc_core.cache import write_atomically as write_atomically
    from mlc_core.data.check import DataCheck as DataCheck
    from mlc_core.data.check import check as check
    from mlc_core.data.dataset import Dataset as Dataset
    from mlc_core.data.dataset import Split as Split
    from mlc_core.data.digits import digits as digits
    from mlc_core.data.from_torch import from_torch as from_torch
    from mlc_core.data.listing import SPLITS as SPLITS
    from mlc_core.data.listing import Listing as Listing
    from mlc_core.data.listing import Problem as Problem
    from mlc_core.data.listing import first_of as first_of
    from mlc_core.data.load import Loaded as Loaded
    from mlc_core.data.load import load_dataset as load_dataset
    from mlc_core.data.load import read_data as read_data
    from mlc_core.data.readers import FORMATS as FORMATS
    from mlc_core.data.store import OnProgress as OnProgress
    from mlc_core.device import Compute as Compute
    from mlc_core.device import choose as choose
    from mlc_core.machine import processors as processors
    from mlc_core.pretrained import check_weights as check_weights
    from mlc_core.training import fit as fit

__all__ = [
    "BEST",
    "DEFAULTS",
    "EPOCHS",
    "FORMATS",
    "KEYS",
    "OBJECTIVES",
    "SCHEDULERS",
    "SCHEDULER_KEYS",
    "SCHEDULER_OF",
    "SPLITS",
    "BackboneName",
    "BadCheckpoint",
    "BadData",
    "BadModel",
    "BadParams",
    "BadWeights",
    "Compute",
    "Cosine",
    "DataCheck",
    "Dataset",
    "Direction",
    "Diverged",
    "EpochReport",
    "Flat",
    "Listing",
    "Loaded",
    "MissingExtra",
    "MlcError",
    "NoDevice",
    "Objective",
    "OnEpoch",
    "OnProgress",
    "Params",
    "Plateau",
    "Problem",
    "Scheduler",
    "SchedulerName",
    "Split",
    "StemName",
    "Step",
    "Stream",
    "Value",
    "check",
    "check_weights",
    "choose",
    "cost",
    "did_you_mean",
    "digits",
    "first_of",
    "fit",
    "from_torch",
    "load_dataset",
    "processors",
    "read_data",
    "stream_seed",
    "write_atomically",
]

_ON_FIRST_USE: Final = {
    "Compute": "mlc_core.device",
    "DataCheck": "mlc_core.data.check",
    "Dataset": "mlc_core.data.dataset",
    "FORMATS": "mlc_core.data.readers",
    "Listing": "mlc_core.data.listing",
    "Loaded": "mlc_core.data.load",
    "OnProgress": "mlc_core.data.store",
    "Problem": "mlc_core.data.listing",
    "SPLITS": "mlc_core.data.listing",
    "Split": "mlc_core.data.dataset",
    "check": "mlc_core.data.check",
    "check_weights": "mlc_core.pretrained",
    "choose": "mlc_core.device",
    "digits": "mlc_core.data.digits",
    "first_of": "mlc_core.data.listing",
    "fit": "mlc_core.training",
    "from_torch": "mlc_core.data.from_torch",
    "load_dataset": "mlc_core.data.load",
    "processors": "mlc_core.machine",
    "read_data": "mlc_core.data.load",
    "write_atomically": "mlc_core.cache",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name in _ON_FIRST_USE:  # torch takes seconds to import
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
