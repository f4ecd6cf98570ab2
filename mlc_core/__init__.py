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
    OutOfMemory,
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
    without_effect,
)
from mlc_core.records import (
    BEST,
    OBJECTIVES,
    Direction,
    EpochReport,
    Footprint,
    Measure,
    Objective,
    OnEpoch,
    best_epoch,
    cost,
)
from mlc_core.schedule import lr_factors
from mlc_core.seeds import Stream, stream_seed

if TYPE_CHECKING:  # the checker sees the real signatures
    from mlc_core.cache import cache_dir as cache_dir
    from mlc_core.cache import write_atomically as write_atomically
    from mlc_core.calibration import Calibration as Calibration
    from mlc_core.calibration import calibrate as calibrate
    from mlc_core.card import Card as Card
    from mlc_core.card import DataCard as DataCard
    from mlc_core.checkpoint import best_on_disk as best_on_disk
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
    from mlc_core.device import Shape as Shape
    from mlc_core.device import choose as choose
    from mlc_core.device import gpus as gpus
    from mlc_core.device import hardware as hardware
    from mlc_core.ensemble import blend as blend
    from mlc_core.ensemble import select as select
    from mlc_core.evaluation import Average as Average
    from mlc_core.evaluation import ClassScores as ClassScores
    from mlc_core.evaluation import Interval as Interval
    from mlc_core.evaluation import Scores as Scores
    from mlc_core.evaluation import multilabel_confusion as multilabel_confusion
    from mlc_core.evaluation import reliability as reliability
    from mlc_core.evaluation import score as score
    from mlc_core.explain import heat_maps as heat_maps
    from mlc_core.explain import write_picture as write_picture
    from mlc_core.export import Part as Part
    from mlc_core.export import save_model as save_model
    from mlc_core.footprint import measure as measure
    from mlc_core.footprint import seconds_of as seconds_of
    from mlc_core.machine import processors as processors
    from mlc_core.measured import keep as keep
    from mlc_core.measured import recall as recall
    from mlc_core.memory import free_memory as free_memory
    from mlc_core.memory import oom_kills as oom_kills
    from mlc_core.micro_batches import SMALLEST_MICRO_BATCH as SMALLEST_MICRO_BATCH
    from mlc_core.onnx_model import write_onnx as write_onnx
    from mlc_core.onnx_model import write_torch_export as write_torch_export
    from mlc_core.predict import Member as Member
    from mlc_core.predict import Predictor as Predictor
    from mlc_core.predict import infer as infer
    from mlc_core.predict import predict_split as predict_split
    from mlc_core.predict import read_member as read_member
    from mlc_core.predictions import Blend as Blend
    from mlc_core.predictions import Predictions as Predictions
    from mlc_core.pretrained import check_weights as check_weights
    from mlc_core.shipped import Model as Model
    from mlc_core.shipped import Prediction as Prediction
    from mlc_core.shipped import find_images as find_images
    from mlc_core.shipped import load_model as load_model
    from mlc_core.thresholds import Goal as Goal
    from mlc_core.thresholds import Thresholds as Thresholds
    from mlc_core.thresholds import one_for_all as one_for_all
    from mlc_core.thresholds import per_class as per_class
    from mlc_core.thresholds import tune as tune
    from mlc_core.thresholds import tune_with_evidence as tune_with_evidence
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
    "SMALLEST_MICRO_BATCH",
    "SPLITS",
    "Average",
    "BackboneName",
    "BadCheckpoint",
    "BadData",
    "BadModel",
    "BadParams",
    "BadWeights",
    "Blend",
    "Calibration",
    "Card",
    "ClassScores",
    "Compute",
    "Cosine",
    "DataCard",
    "DataCheck",
    "Dataset",
    "Direction",
    "Diverged",
    "EpochReport",
    "Flat",
    "Footprint",
    "Goal",
    "Interval",
    "Listing",
    "Loaded",
    "Measure",
    "Member",
    "MissingExtra",
    "MlcError",
    "Model",
    "NoDevice",
    "Objective",
    "OnEpoch",
    "OnProgress",
    "OutOfMemory",
    "Params",
    "Part",
    "Plateau",
    "Prediction",
    "Predictions",
    "Predictor",
    "Problem",
    "Scheduler",
    "SchedulerName",
    "Scores",
    "Shape",
    "Split",
    "StemName",
    "Step",
    "Stream",
    "Thresholds",
    "Value",
    "best_epoch",
    "best_on_disk",
    "blend",
    "cache_dir",
    "calibrate",
    "check",
    "check_weights",
    "choose",
    "cost",
    "did_you_mean",
    "digits",
    "find_images",
    "first_of",
    "fit",
    "free_memory",
    "from_torch",
    "gpus",
    "hardware",
    "heat_maps",
    "infer",
    "keep",
    "load_dataset",
    "load_model",
    "lr_factors",
    "measure",
    "multilabel_confusion",
    "one_for_all",
    "oom_kills",
    "per_class",
    "predict_split",
    "processors",
    "read_data",
    "read_member",
    "recall",
    "reliability",
    "save_model",
    "score",
    "seconds_of",
    "select",
    "stream_seed",
    "tune",
    "tune_with_evidence",
    "without_effect",
    "write_atomically",
    "write_onnx",
    "write_picture",
    "write_torch_export",
]

_ON_FIRST_USE: Final = {
    "Average": "mlc_core.evaluation",
    "Blend": "mlc_core.predictions",
    "Calibration": "mlc_core.calibration",
    "Card": "mlc_core.card",
    "ClassScores": "mlc_core.evaluation",
    "Compute": "mlc_core.device",
    "DataCard": "mlc_core.card",
    "DataCheck": "mlc_core.data.check",
    "Dataset": "mlc_core.data.dataset",
    "FORMATS": "mlc_core.data.readers",
    "Goal": "mlc_core.thresholds",
    "Interval": "mlc_core.evaluation",
    "Listing": "mlc_core.data.listing",
    "Loaded": "mlc_core.data.load",
    "Member": "mlc_core.predict",
    "Model": "mlc_core.shipped",
    "OnProgress": "mlc_core.data.store",
    "Part": "mlc_core.export",
    "Prediction": "mlc_core.shipped",
    "Predictions": "mlc_core.predictions",
    "Predictor": "mlc_core.predict",
    "Problem": "mlc_core.data.listing",
    "SPLITS": "mlc_core.data.listing",
    "Scores": "mlc_core.evaluation",
    "Shape": "mlc_core.device",
    "Split": "mlc_core.data.dataset",
    "Thresholds": "mlc_core.thresholds",
    "blend": "mlc_core.ensemble",
    "calibrate": "mlc_core.calibration",
    "check": "mlc_core.data.check",
    "check_weights": "mlc_core.pretrained",
    "choose": "mlc_core.device",
    "digits": "mlc_core.data.digits",
    "find_images": "mlc_core.shipped",
    "first_of": "mlc_core.data.listing",
    "fit": "mlc_core.training",
    "SMALLEST_MICRO_BATCH": "mlc_core.micro_batches",
    "best_on_disk": "mlc_core.checkpoint",
    "cache_dir": "mlc_core.cache",
    "free_memory": "mlc_core.memory",
    "oom_kills": "mlc_core.memory",
    "from_torch": "mlc_core.data.from_torch",
    "gpus": "mlc_core.device",
    "hardware": "mlc_core.device",
    "heat_maps": "mlc_core.explain",
    "infer": "mlc_core.predict",
    "keep": "mlc_core.measured",
    "load_dataset": "mlc_core.data.load",
    "load_model": "mlc_core.shipped",
    "measure": "mlc_core.footprint",
    "multilabel_confusion": "mlc_core.evaluation",
    "one_for_all": "mlc_core.thresholds",
    "per_class": "mlc_core.thresholds",
    "predict_split": "mlc_core.predict",
    "processors": "mlc_core.machine",
    "read_data": "mlc_core.data.load",
    "read_member": "mlc_core.predict",
    "recall": "mlc_core.measured",
    "reliability": "mlc_core.evaluation",
    "save_model": "mlc_core.export",
    "score": "mlc_core.evaluation",
    "seconds_of": "mlc_core.footprint",
    "select": "mlc_core.ensemble",
    "tune": "mlc_core.thresholds",
    "tune_with_evidence": "mlc_core.thresholds",
    "write_atomically": "mlc_core.cache",
    "write_onnx": "mlc_core.onnx_model",
    "write_picture": "mlc_core.explain",
    "write_torch_export": "mlc_core.onnx_model",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name in _ON_FIRST_USE:  # torch takes seconds to import
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
