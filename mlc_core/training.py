"""``fit`` and the epoch loop; nothing else."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch.amp import GradScaler
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlc_core import checkpoint as checkpoints
from mlc_core import optimize, small_maps
from mlc_core.data.augment import vary
from mlc_core.data.batches import Images
from mlc_core.data.dataset import Dataset
from mlc_core.data.digits import digits
from mlc_core.data.sampling import Sampling
from mlc_core.device import Compute, Shape, autocast, choose, computing, loss_scaler
from mlc_core.errors import BadData, Diverged
from mlc_core.loss import Loss, bce, training_loss
from mlc_core.metrics import macro_f1, mean_average_precision
from mlc_core.model import Classifier, build
from mlc_core.params import EPOCHS, Flat, Params, one_of, whole
from mlc_core.pretrained import start_from, weights_digest
from mlc_core.records import OBJECTIVES, EpochReport, Objective, OnEpoch, best_epoch
from mlc_core.seeds import Stream, stream_seed

log = logging.getLogger(__name__)

RUNAWAY: Final = 10 * math.log(2)  # nats of BCE, whatever loss trains; ten times those of a coin's guess
EVAL_BATCH: Final = 250  # images; with more, their maps leave the processor's caches


def fit(
    params: Params | Flat,
    data: Dataset | None = None,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    objective: Objective = "bce",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | str | None = None,
) -> float:
    """Train one multi-label ResNet and return how good its best epoch was.

    Parameters
    ----------
    params : Params or mapping
        What ``Params.from_flat`` takes, ``study.best_params`` among it; absent keys keep their defaults.
    data : Dataset, optional
        The embedded digit scenes by default.
    seed : int
        Same data, params, seed, threads and machine give the same bits.
    epochs : int
        Full length of the training.
    objective : "bce", "macro_f1" or "map"
        What the best epoch is chosen by, on the validation split: the lowest mean binary cross-entropy over
        image-label pairs, in nats, whatever loss trains; the highest mean over classes of F1; or of average
        precision.
    device, precision, threads
        As ``mlc_core.device.choose`` takes them.
    on_epoch : OnEpoch, optional
        Called after each epoch, once its checkpoint is on disk; returning False ends the fit. A fit that goes
        on from a checkpoint calls it first for the epochs already done, so that no report can be lost.
    checkpoint : Path or str, optional
        A folder for the state of the last epoch and, once the fit ends, the weights of the best one. If it holds
        a state of this very fit, training goes on from there, to the same bits as without the interruption.

    Returns
    -------
    float
        The objective's best value over the epochs done.

    Raises
    ------
    BadParams, BadData, BadWeights, BadCheckpoint, NoDevice
        Before any training.
    Diverged
        If the loss becomes NaN or infinite or runs away; the last good checkpoint stays.
    """
    chosen = params if isinstance(params, Params) else Params.from_flat(params)
    whole("epochs", epochs, "a whole number from 1 to 100000", low=1, high=100_000)
    whole("seed", seed, "a whole number from 0 to 2**63 - 1", low=0, high=2**63 - 1)
    one_of("objective", objective, tuple(OBJECTIVES))
    dataset = digits() if data is None else data
    if not isinstance(dataset, Dataset):
        raise BadData(f"data: {dataset!r} is not a Dataset. Make one with load_dataset(path) or from_torch(...).")
    compute = choose(device=device, precision=precision, threads=threads, shape=Shape.of(chosen))
    cuda = [torch.device(compute.device)] if compute.device.startswith("cuda") else []
    reports: list[EpochReport] = []
    folder = None if checkpoint is None else Path(checkpoint)
    trained = _epochs(chosen, dataset, compute, seed=seed, epochs=epochs, objective=objective, checkpoint=folder)
    with computing(compute), torch.random.fork_rng(devices=cuda), closing(trained):
        for report in trained:
            reports.append(report)
            if on_epoch is not None and not on_epoch(report):
                break
    return best_epoch(reports, objective).value(objective)


def _epochs(
    params: Params,
    data: Dataset,
    compute: Compute,
    *,
    seed: int,
    epochs: int,
    objective: Objective,
    checkpoint: Path | None,
) -> Generator[EpochReport]:
    """Yield the reports of the epochs already done, then train the others one by one."""
    device = torch.device(compute.device)
    model = build(
        backbone=params.backbone,
        stem=params.stem,
        dropout=params.dropout,
        classes=len(data.classes),
        seed=stream_seed(seed, Stream.INIT),
    )
    identity = checkpoints.Identity(
        params=params.to_flat(),
        start=weights_digest(params.weights, params.backbone),
        seed=seed,
        epochs=epochs,
        objective=objective,
        data=data.fingerprint,
        device=device.type,
        precision=compute.precision,
        threads=compute.threads,
    )
    state = None if checkpoint is None else _resumable(checkpoint, identity, objective)
    if state is None:
        start_from(model, params.weights, backbone=params.backbone)
    if device.type == "cpu":
        small_maps.fit_to(model, params.image_size)
    learner = _Learner.of(params, model.to(device), compute)
    best, reports = checkpoints.Best(checkpoint), () if state is None else state.reports
    if state is None:
        best.clear()
    else:
        learner.load(state)
        if best_epoch(reports, objective) is reports[-1]:
            best.hold(learner.judged, _card(params, data, reports[-1], objective))
        yield from reports
    train, val = (Images(split, *data.channel_stats, params.image_size, device) for split in (data.train, data.val))
    sampling = Sampling.of(data.train.labels, params)
    loss = training_loss(params, data.train.labels, device)
    try:
        for epoch in range(len(reports) + 1, epochs + 1):
            start, lr = time.perf_counter(), optimize.current_lr(learner.optimizer)
            trained = _train(learner, train, sampling, loss, compute, params, seed=seed, epoch=epoch)
            scores = _evaluate(learner.judged, val, compute)
            _check(epoch, trained, scores.loss)
            optimize.step(learner.scheduler, val_loss=scores.loss)
            seconds = time.perf_counter() - start
            report = EpochReport(epoch, epochs, trained.loss, scores.loss, scores.macro_f1, scores.mean_ap, lr, seconds)
            reports = (*reports, report)
            if checkpoint is not None:
                if best_epoch(reports, objective) is report:
                    best.hold(learner.judged, _card(params, data, report, objective))
                else:
                    best.write()  # the resume file is about to lose them
                checkpoints.write(checkpoint, identity, learner.state(reports))
            yield report
    finally:
        best.write()


def _resumable(folder: Path, identity: checkpoints.Identity, objective: Objective) -> checkpoints.State | None:
    """Read the state to go on from, unless its best weights are gone: then only a new start finds them again."""
    state = checkpoints.read(folder, identity, device=torch.device("cpu"))
    if state is None:
        return None
    best = best_epoch(state.reports, objective)
    return state if best is state.reports[-1] or checkpoints.best_on_disk(folder) == best.epoch else None


@dataclass(frozen=True, slots=True)
class _Learner:
    """What learns, with all that its next step needs."""

    weights: optimize.Weights
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: GradScaler
    average: optimize.Average | None

    @classmethod
    def of(cls, params: Params, model: Classifier, compute: Compute) -> _Learner:
        weights = optimize.Weights(model)
        optimizer = optimize.optimizer(params, weights.stepped)
        average = optimize.Average(weights, params.ema) if params.ema else None
        return cls(weights, optimizer, optimize.scheduler(params, optimizer), loss_scaler(compute), average)

    @property
    def judged(self) -> Classifier:
        """The network that is evaluated and kept; Plateau too heeds its loss, as it is the one that is reported."""
        return self.weights.model if self.average is None else self.average.weights.model

    def state(self, reports: tuple[EpochReport, ...]) -> checkpoints.State:
        return checkpoints.State(
            reports=reports,
            weights=self.weights.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler=self.scaler.state_dict(),
            average={} if self.average is None else self.average.state_dict(),
        )

    def load(self, state: checkpoints.State) -> None:
        self.weights.load_state_dict(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        self.scheduler.load_state_dict(state.scheduler)
        self.scaler.load_state_dict(state.scaler)
        if self.average is not None:
            self.average.load_state_dict(state.average)


class _Trained(NamedTuple):
    """Means over the image-label pairs of a pass over the training images, nats."""

    loss: float  # the one that trains
    bce: float


class _Scores(NamedTuple):
    """How good the network is on a split."""

    loss: float  # mean BCE over image-label pairs, nats
    macro_f1: float
    mean_ap: float


def _train(
    learner: _Learner,
    images: Images,
    sampling: Sampling,
    loss_of: Loss,
    compute: Compute,
    params: Params,
    *,
    seed: int,
    epoch: int,
) -> _Trained:
    """Make one pass over the training images."""
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
        with autocast(compute):
            logits = weights.model(batch)
        loss = loss_of(logits, labels)
        weights.differentiate(scaler.scale(loss))
        scaler.step(learner.optimizer)
        scaler.update()
        if average is not None:
            average.update()
        # Stays on the device: reading it would wait for the step.
        totals += torch.stack([loss.detach(), bce(logits.detach(), labels)]) * len(index)
        seen += len(index)
    return _Trained(*(totals / seen).tolist()) if seen else _Trained(math.nan, math.nan)


@torch.inference_mode()
def _evaluate(model: Classifier, images: Images, compute: Compute) -> _Scores:
    """Score the network on a split; the loss is summed in double precision."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    told = []
    for index in torch.split(torch.arange(len(images)), EVAL_BATCH):
        batch, labels = images.take(index)
        with autocast(compute):
            logits = model(batch)
        total += functional.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="sum")
        told.append(logits)
    told_logits, labels = torch.cat(told).cpu(), images.labels.cpu()
    loss = float(total) / images.labels.numel()
    return _Scores(loss, macro_f1(told_logits, labels), mean_average_precision(told_logits, labels))


def _generator(seed: int, stream: Stream, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, stream, epoch))


def _check(epoch: int, trained: _Trained, val_loss: float) -> None:
    for name, loss in (("training", trained.loss), ("validation", val_loss)):
        if not math.isfinite(loss):
            raise Diverged(epoch, f"the {name} loss is {loss}")
    # Not the loss that trains: a focal one never grows as large, a weighted one starts larger.
    if trained.bce > RUNAWAY:
        raise Diverged(epoch, f"the training loss ran away to {trained.bce:.3g} nats of BCE")


def _card(params: Params, data: Dataset, report: EpochReport, objective: Objective) -> dict[str, str]:
    """Write down what must travel inside the weights' file for them to be of use."""
    mean, std = data.channel_stats
    return {
        "params": json.dumps(params.to_flat()),
        "classes": json.dumps(data.classes),
        "mean": json.dumps(mean.tolist()),
        "std": json.dumps(std.tolist()),
        "epoch": str(report.epoch),
        "objective": objective,
        "value": repr(report.value(objective)),
        "val_loss": repr(report.val_loss),
        "data": data.fingerprint,
    }
