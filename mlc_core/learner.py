"""What learns, one pass of it over the training images, and how good it then is; not the loop over epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlc_core import checkpoint as checkpoints
from mlc_core import micro_batches, optimize
from mlc_core.data.augment import vary
from mlc_core.data.batches import Images
from mlc_core.data.sampling import Sampling
from mlc_core.device import Compute, autocast, loss_scaler
from mlc_core.errors import BadCheckpoint
from mlc_core.loss import Loss, bce
from mlc_core.metrics import macro_f1, mean_average_precision
from mlc_core.model import Classifier
from mlc_core.params import Params
from mlc_core.records import EpochReport
from mlc_core.seeds import Stream, stream_seed

EVAL_BATCH: Final = 250  # images; with more, their maps leave the processor's caches; fewer where memory ran out


@dataclass(frozen=True, slots=True)
class Learner:
    """What learns, with all that its next step needs."""

    weights: optimize.Weights
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: GradScaler
    average: optimize.Average | None

    @classmethod
    def of(cls, params: Params, model: Classifier, compute: Compute) -> Learner:
        """Build what the parameters ask for, around a network on its device."""
        weights = optimize.Weights(model)
        optimizer = optimize.optimizer(params, weights.stepped)
        average = optimize.Average(weights, params.ema) if params.ema else None
        return cls(weights, optimizer, optimize.scheduler(params, optimizer), loss_scaler(compute), average)

    @property
    def judged(self) -> Classifier:
        """The network that is evaluated and kept; Plateau too heeds its loss, as it is the one that is reported."""
        return self.weights.model if self.average is None else self.average.weights.model

    def state(self, reports: tuple[EpochReport, ...]) -> checkpoints.State:
        """Return everything that the next epoch needs; tensors are not copied."""
        return checkpoints.State(
            reports=reports,
            weights=self.weights.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler=self.scaler.state_dict(),
            average={} if self.average is None else self.average.state_dict(),
        )

    def load(self, state: checkpoints.State, folder: Path | None) -> None:
        """Go on from a state of the folder.

        Raises
        ------
        BadCheckpoint
            Where it has another form than ours; a kernel would read beyond its tensors.
        """
        ours = self.state(())
        ours.optimizer["state"] = {  # which only a step would make
            place: {"step": torch.zeros(()), "exp_avg": weight.detach(), "exp_avg_sq": weight.detach()}
            for place, weight in enumerate(self.weights.stepped)
        }
        pairs = ((getattr(state, part), getattr(ours, part)) for part in checkpoints.PARTS)
        if not all(checkpoints.alike(saved, mine) for saved, mine in pairs):
            raise BadCheckpoint(f"{folder} does not hold this network's state. Delete it to start this fit again.")
        self.weights.load_state_dict(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        self.scheduler.load_state_dict(state.scheduler)
        self.scaler.load_state_dict(state.scaler)
        if self.average is not None:
            self.average.load_state_dict(state.average)


class Trained(NamedTuple):
    """Means over the image-label pairs of a pass over the training images, nats."""

    loss: float  # the one that trains
    bce: float


class Scores(NamedTuple):
    """How good the network is on a split."""

    loss: float  # mean BCE over image-label pairs, nats
    macro_f1: float
    mean_ap: float


def train(
    learner: Learner,
    images: Images,
    sampling: Sampling,
    loss_of: Loss,
    compute: Compute,
    params: Params,
    micro_batch: int,
    *,
    seed: int,
    epoch: int,
) -> Trained:
    """Make one pass over the training images.

    How an image is varied, and what dropout leaves out, depends on (seed, epoch) and on the image's place in the order,
    which depends on these as well: nothing of the order needs to be kept. It does not depend on `micro_batch`, but for
    dropout.
    """
    torch.manual_seed(stream_seed(seed, Stream.DROPOUT, epoch))  # dropout can only draw from the global generator
    order = sampling.order(_generator(seed, Stream.SHUFFLE, epoch))
    variation = _generator(seed, Stream.AUGMENT, epoch)
    rare = torch.from_numpy(sampling.rare)
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    seen = 0
    weights, scaler, average = learner.weights, learner.scaler, learner.average
    weights.model.train()
    for index in torch.split(order, params.batch_size):
        if len(index) == 1:
            continue  # batch normalization has no variance to estimate from one image of one pixel
        batch, labels = images.take(index)
        batch = vary(batch, rare[index], params, generator=variation)
        micro_batches.differentiate(weights, _losses(learner, batch, labels, loss_of, compute, micro_batch, totals))
        scaler.step(learner.optimizer)
        scaler.update()
        if average is not None:
            average.update()
        seen += len(index)
    return Trained(*(totals / seen).tolist()) if seen else Trained(math.nan, math.nan)


def _losses(
    learner: Learner,
    batch: Tensor,
    labels: Tensor,
    loss_of: Loss,
    compute: Compute,
    micro_batch: int,
    totals: Tensor,
) -> Iterator[Tensor]:
    """Yield what each part of a batch adds to its mean loss, scaled; add up the losses of its images in `totals`."""
    for part in micro_batches.parts(len(batch), micro_batch):
        with autocast(compute):
            logits = learner.weights.model(batch[part])
        told, images = labels[part], len(logits)
        loss = loss_of(logits, told)
        # Stays on the device: reading it would wait for the step.
        totals += torch.stack([loss.detach(), bce(logits.detach(), told)]) * images
        yield learner.scaler.scale(loss * (images / len(batch)))


@torch.inference_mode()
def evaluate(model: Classifier, images: Images, compute: Compute, batch_size: int) -> Scores:
    """Score the network on a split; the loss is summed in double precision."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    told = []
    for index in torch.split(torch.arange(len(images)), batch_size):
        batch, labels = images.take(index)
        with autocast(compute):
            logits = model(batch)
        total += functional.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="sum")
        told.append(logits)
    told_logits, labels = torch.cat(told).cpu(), images.labels.cpu()
    loss = float(total) / images.labels.numel()
    return Scores(loss, macro_f1(told_logits, labels), mean_average_precision(told_logits, labels))


def _generator(seed: int, stream: Stream, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, stream, epoch))
