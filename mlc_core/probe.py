"""Whether learnt features tell the classes better than those at the start: a linear probe of both.

Not here: how features are learnt (pretrain.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mlc_core.data.dataset import Dataset
from mlc_core.device import choose, computing
from mlc_core.metrics import mean_average_precision
from mlc_core.model import build
from mlc_core.params import Params
from mlc_core.predict import Member, Predictor, infer
from mlc_core.pretrain import Pretraining
from mlc_core.pretrained import start_from
from mlc_core.seeds import Stream, stream_seed

PROBED: Final = 2000  # training images that the probe looks at, at most
STRENGTH: Final = 0.01  # inverse of the probe's penalty; small enough for it to converge soon
RESAMPLES: Final = 200  # for the interval of the difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a linear probe makes of the features: mean average precision on the validation split."""

    learnt: float
    start: float  # of the features that the pretraining started from, random ones mostly
    low: float  # end of the 95 % interval of the difference, bootstrapped over images
    high: float

    @property
    def helped(self) -> bool:
        """Whether the features are better than those at the start, beyond chance."""
        return self.low > 0


def judge(out: Path, asked: Pretraining, data: Dataset, *, device: str = "auto", threads: int | None = None) -> Verdict:
    """Compare a pretraining's file with what it started from.

    Logistic regression on the frozen, standardized features of training images, scored on the validation split.
    """
    compute = choose(device=device, precision="fp32", threads=threads)
    with computing(compute):
        start, learnt = (_probe(weights, asked, data, compute.device) for weights in (asked.start, str(out)))
    targets = data.val.labels
    rng = np.random.default_rng(stream_seed(asked.seed, Stream.BOOTSTRAP))
    gains = [
        mean_average_precision(learnt[rows], targets[rows]) - mean_average_precision(start[rows], targets[rows])
        for rows in rng.integers(len(targets), size=(RESAMPLES, len(targets)))
    ]
    low, high = np.quantile(gains, (0.025, 0.975))
    return Verdict(
        learnt=mean_average_precision(learnt, targets),
        start=mean_average_precision(start, targets),
        low=float(low),
        high=float(high),
    )


def _probe(weights: str, asked: Pretraining, data: Dataset, device: str) -> NDArray[np.float64]:
    """Score the validation images by a linear probe on a backbone's features: (n, classes)."""
    from sklearn.linear_model import LogisticRegression  # costs a second, needed once a pretraining
    from sklearn.preprocessing import StandardScaler

    features = _features(weights, asked, data).to(device)
    shown = np.linspace(0, len(data.train) - 1, min(len(data.train), PROBED)).astype(np.int64)
    train = infer(features, data.train.images, data.train.rows[shown])
    scaler = StandardScaler().fit(train)
    train, val = scaler.transform(train), scaler.transform(infer(features, data.val.images, data.val.rows))
    scores = np.zeros((len(data.val), len(data.classes)))
    for column, labels in enumerate(data.train.labels[shown].T):
        if labels.min() != labels.max():
            fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(train, labels)
            scores[:, column] = fitted.decision_function(val)
    return scores


def _features(weights: str, asked: Pretraining, data: Dataset) -> Predictor:
    """From uint8 images to a backbone's features, each as if it were a class."""
    seed = stream_seed(asked.seed, Stream.PRETRAIN)
    network = build(backbone=asked.backbone, stem=asked.stem, dropout=0, classes=1, seed=seed)
    start_from(network, weights, backbone=asked.backbone)
    names = tuple(str(number) for number in range(network.head.in_features))
    network.head = nn.Identity()  # type: ignore[assignment]
    mean, std = (tuple(each.tolist()) for each in data.channel_stats)
    params = Params(backbone=asked.backbone, stem=asked.stem, image_size=asked.image_size)
    return Predictor([Member(network=network.eval(), params=params, classes=names, mean=mean, std=std, facts={})])
