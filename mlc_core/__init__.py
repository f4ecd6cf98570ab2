"""Images, models and training of one multi-label ResNet; knows nothing of a search.

``fit``, ``load_dataset`` and what else needs torch load on first use (PEP 562): reading a
declaration or showing a status costs no torch.
"""

from __future__ import annotations

from mlc_core.errors import BadCheckpoint, BadData, BadParams, Diverged, MlcError, NoDevice, did_you_mean
from mlc_core.params import (
    KEYS,
    SCHEDULER_KEYS,
    SCHEDULERS,
    Cosine,
    Flat,
    Params,
    Plateau,
    Scheduler,
    Step,
    Value,
)
from mlc_core.records import EpochReport, OnEpoch
from mlc_core.seeds import Stream, stream_seed

__all__ = [
    "KEYS",
    "SCHEDULERS",
    "SCHEDULER_KEYS",
    "BadCheckpoint",
    "BadData",
    "BadParams",
    "Cosine",
    "Diverged",
    "EpochReport",
    "Flat",
    "MlcError",
    "NoDevice",
    "OnEpoch",
    "Params",
    "Plateau",
    "Scheduler",
    "Step",
    "Stream",
    "Value",
    "did_you_mean",
    "stream_seed",
]
