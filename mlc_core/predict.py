"""From uint8 images to probabilities: trained weights, one model or several, as a single network.

Not here: the folder that a model is shipped in (export.py); how good it is (evaluation.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mlc_core.data.augment import normalize
from mlc_core.data.dataset import Split, Uint8
from mlc_core.errors import BadParams, BadWeights
from mlc_core.heap import keeping_freed
from mlc_core.model import Classifier, build
from mlc_core.params import Params
from mlc_core.predictions import SURE, Blend, Predictions

BATCH: Final = 250  # images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """One trained network with what it needs to know of its images."""

    network: Classifier  # in evaluation mode, on the CPU
    params: Params
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # a channel, in units of [0, 255]
    std: tuple[float, ...]
    facts: dict[str, str]  # of its fit: epoch, objective, value, val_loss, data


def read_member(path: Path) -> Member:
    """Read the weights that a fit kept, with the network that they belong to; runs no code of the file.

    Raises
    ------
    BadWeights
        The file is not there, is damaged, or was not written by a fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        params = Params.from_flat(json.loads(facts.pop("params")))
        classes, mean, std = (tuple(json.loads(facts.pop(key))) for key in ("classes", "mean", "std"))
        network = build(
            backbone=params.backbone, stem=params.stem, dropout=params.dropout, classes=len(classes), seed=0
        )
        network.load_state_dict(tensors)
    except FileNotFoundError:
        raise BadWeights(f"{path} is not there.") from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, BadParams) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadWeights(f"{path} does not hold the weights of a fit, or is damaged ({said[:200]}).") from None
    return Member(network=network.eval(), params=params, classes=classes, mean=mean, std=std, facts=facts)


class Predictor(nn.Module):
    """Everything between uint8 images and probabilities, in one graph.

    Parameters
    ----------
    members : sequence of Member
        At least one; of the same classes.
    weights : sequence of float, optional
        Of the members in the average, adding up to 1; by default equal.
    average : "probabilities" or "logits"
        What is averaged over the members.
    scale, shift : sequence of float, optional
        A class each: a calibrated logit is scale * logit + shift. By default nothing is calibrated.
    """

    def __init__(
        self,
        members: Sequence[Member],
        weights: Sequence[float] | None = None,
        *,
        average: Blend = "probabilities",
        scale: Sequence[float] | None = None,
        shift: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        classes = len(members[0].classes)
        shares = [1 / len(members)] * len(members) if weights is None else weights
        self.networks = nn.ModuleList(_Normalized(member) for member in members)
        self.average: Blend = average
        self.register_buffer("weights", torch.tensor(shares, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor([1.0] * classes if scale is None else scale, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor([0.0] * classes if shift is None else shift, dtype=torch.float32))
        self.weights: Tensor
        self.scale: Tensor
        self.shift: Tensor
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) uint8 RGB -> (n, classes) calibrated probabilities, float32."""
        return torch.sigmoid(self.logits(images))

    def logits(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) uint8 RGB -> (n, classes) calibrated logits, float32."""
        told: list[Tensor] = [network(images) for network in self.networks]
        if len(told) == 1:
            return told[0] * self.scale + self.shift
        if self.average == "logits":
            blended = torch.stack(told, dim=-1) @ self.weights
        else:
            # As logit() of predictions.py: the farthest logits that float32 tells from 0 and 1.
            mean = (torch.sigmoid(torch.stack(told, dim=-1)) @ self.weights).clamp(SURE, 1 - SURE)
            blended = torch.log(mean) - torch.log1p(-mean)
        return blended * self.scale + self.shift


class _Normalized(nn.Module):
    """A network behind its own resizing and normalization."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.network, self.size = member.network, member.params.image_size
        self.register_buffer("mean", torch.tensor(member.mean, dtype=torch.float32)[None, :, None, None])
        self.register_buffer("std", torch.tensor(member.std, dtype=torch.float32)[None, :, None, None])
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(normalize(images, mean=self.mean, std=self.std, size=self.size))
        return logits


@torch.inference_mode()
def infer(predictor: Predictor, images: Uint8, rows: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Compute the logits of images, in batches, in float32.

    Parameters
    ----------
    predictor : Predictor
        On any device.
    images : (stored, 3, height, width), uint8
        May be mapped from a file.
    rows : (n,), int64, optional
        Which of them; by default all.

    Returns
    -------
    (n, classes), float64
    """
    device = predictor.weights.device
    chosen = np.arange(len(images)) if rows is None else rows
    with keeping_freed():
        told = [
            predictor.logits(torch.from_numpy(np.ascontiguousarray(images[chosen[at : at + BATCH]])).to(device)).cpu()
            for at in range(0, len(chosen), BATCH)
        ]
    return torch.cat(told).double().numpy() if told else np.empty((0, len(predictor.scale)))


def predict_split(members: Sequence[Member], split: Split) -> list[Predictions]:
    """Ask each member of its own what it says of a split."""
    return [
        Predictions(member.classes, infer(Predictor([member]), split.images, split.rows), split.labels)
        for member in members
    ]
