"""``fit`` and the epoch loop; nothing else."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from mlc_core import checkpoint as checkpoints
from mlc_core import micro_batches, optimize, small_maps
from mlc_core.data.batches import Images
from mlc_core.data.dataset import Dataset
from mlc_core.data.digits import digits
from mlc_core.data.sampling import Sampling
from mlc_core.device import Compute, Shape, choose, computing
from mlc_core.errors import BadData, Diverged, OutOfMemory
from mlc_core.heap import keeping_freed
from mlc_core.learner import EVAL_BATCH, Learner, Trained, evaluate, train
from mlc_core.loss import training_loss
from mlc_core.model import build
from mlc_core.params import EPOCHS, Flat, Params, one_of, whole
from mlc_core.pretrained import start_from, weights_digest
from mlc_core.records import OBJECTIVES, EpochReport, Objective, OnEpoch, best_epoch
from mlc_core.seeds import Stream, stream_seed

log = logging.getLogger(__name__)

RUNAWAY: Final = 10 * math.log(2)  # nats of BCE, whatever loss trains; ten times those of a coin's guess


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
    micro_batch: int | None = None,
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
        a state of this very fit, training goes on from there, to the same bits as without the interruption. The state
        before the last one stays there too, for when that is damaged.
    micro_batch : int, optional
        Images of one forward and backward pass; by default as the checkpoint has it, else the whole batch. The slopes
        of a batch's parts add up to those of its mean loss, for one step of the optimizer.

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
    OutOfMemory
        If even `SMALLEST_MICRO_BATCH` images are too many.

    Notes
    -----
    Where memory runs out, of the host or of a GPU, the fit starts again from its first epoch with half the micro-batch,
    to the bits of a fit that was given this one. It is another training all the same: batch normalization's statistics
    are those of a micro-batch, and evaluation, in smaller batches too, may differ in the last bits.
    """
    chosen = params if isinstance(params, Params) else Params.from_flat(params)
    whole("epochs", epochs, "a whole number from 1 to 100000", low=1, high=100_000)
    whole("seed", seed, "a whole number from 0 to 2**63 - 1", low=0, high=2**63 - 1)
    one_of("objective", objective, tuple(OBJECTIVES))
    if micro_batch is not None:
        most = chosen.batch_size
        whole("micro_batch", micro_batch, f"a whole number from 2 to the batch size, {most}", low=2, high=most)
    dataset = digits() if data is None else data
    if not isinstance(dataset, Dataset):
        raise BadData(f"data: {dataset!r} is not a Dataset. Make one with load_dataset(path) or from_torch(...).")
    compute = choose(device=device, precision=precision, threads=threads, shape=Shape.of(chosen))
    cuda = [torch.device(compute.device)] if compute.device.startswith("cuda") else []
    identity = checkpoints.Identity(
        params=chosen.to_flat(),
        start=weights_digest(chosen.weights, chosen.backbone),
        seed=seed,
        epochs=epochs,
        objective=objective,
        data=dataset.fingerprint,
        device=torch.device(compute.device).type,
        precision=compute.precision,
        threads=compute.threads,
        micro_batch=micro_batch,
    )
    reports: list[EpochReport] = []
    trained = _within_memory(chosen, dataset, compute, identity, None if checkpoint is None else Path(checkpoint))
    with keeping_freed(), computing(compute), torch.random.fork_rng(devices=cuda), closing(trained):
        for report in trained:
            reports[report.epoch - 1 :] = [report]  # epoch 1 once more where memory ran out
            if on_epoch is not None and not on_epoch(report):
                break
    return best_epoch(reports, objective).value(objective)


def _within_memory(
    params: Params, data: Dataset, compute: Compute, identity: checkpoints.Identity, checkpoint: Path | None
) -> Generator[EpochReport]:
    """Yield the epochs' reports, from the first one again whenever memory runs out."""
    state = None if checkpoint is None else checkpoints.read(checkpoint, identity, device=torch.device("cpu"))
    micro_batch = state.reports[0].micro_batch if state else identity.micro_batch or params.batch_size
    while True:
        attempt = _epochs(params, data, compute, replace(identity, micro_batch=micro_batch), checkpoint, state)
        state = None  # it is the attempt's alone
        try:
            yield from attempt
        except (MemoryError, RuntimeError) as error:
            if not micro_batches.ran_out(error):
                raise
            said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        else:
            return
        del attempt
        micro_batches.release()
        again = micro_batches.smaller(micro_batch)
        if again is None:
            raise OutOfMemory(
                f"Memory ran out even with {micro_batch} images at a time ({said}). Choose a smaller "
                "image_size or backbone, run fewer workers at once, or end other programs."
            )
        log.warning(
            "memory ran out with %d images at a time; the fit starts again with %d, and %d a step as before",
            micro_batch,
            again,
            params.batch_size,
        )
        micro_batch = again


def _epochs(
    params: Params,
    data: Dataset,
    compute: Compute,
    identity: checkpoints.Identity,
    checkpoint: Path | None,
    state: checkpoints.State | None,
) -> Generator[EpochReport]:
    """Yield the reports of the epochs already done, then train the others one by one."""
    device, objective = torch.device(compute.device), identity.objective
    model = build(
        backbone=params.backbone,
        stem=params.stem,
        dropout=params.dropout,
        classes=len(data.classes),
        seed=stream_seed(identity.seed, Stream.INIT),
    )
    if state is None:
        start_from(model, params.weights, backbone=params.backbone)
    if device.type == "cpu":
        small_maps.fit_to(model, params.image_size)
    learner = Learner.of(params, model.to(device), compute)
    best, reports = checkpoints.Best(checkpoint), () if state is None else state.reports
    if state is not None:
        learner.load(state, checkpoint)
        if best_epoch(reports, objective) is reports[-1]:
            best.hold(learner.judged, _card(params, data, reports[-1], objective))
        del state
        yield from reports
    elif checkpoint is not None:
        checkpoints.clear(checkpoint)
    shown, val = (Images(split, *data.channel_stats, params.image_size, device) for split in (data.train, data.val))
    sampling = Sampling.of(data.train.labels, params)
    loss = training_loss(params, data.train.labels, device)
    micro_batch = identity.micro_batch or params.batch_size
    eval_batch = max(1, EVAL_BATCH * micro_batch // params.batch_size)
    try:
        for epoch in range(len(reports) + 1, identity.epochs + 1):
            start, lr = time.perf_counter(), optimize.current_lr(learner.optimizer)
            trained = train(
                learner, shown, sampling, loss, compute, params, micro_batch, seed=identity.seed, epoch=epoch
            )
            scores = evaluate(learner.judged, val, compute, eval_batch)
            _check(epoch, trained, scores.loss)
            optimize.step(learner.scheduler, val_loss=scores.loss)
            report = EpochReport(
                epoch=epoch,
                epochs=identity.epochs,
                train_loss=trained.loss,
                val_loss=scores.loss,
                macro_f1=scores.macro_f1,
                mean_ap=scores.mean_ap,
                lr=lr,
                seconds=time.perf_counter() - start,
                micro_batch=micro_batch,
            )
            reports = (*reports, report)
            if checkpoint is not None:
                checkpoints.write(checkpoint, identity, learner.state(reports))
                if best_epoch(reports, objective) is report:
                    best.hold(learner.judged, _card(params, data, report, objective))
                else:
                    best.write()  # this state lacks them
            yield report
    finally:
        best.write()


def _check(epoch: int, trained: Trained, val_loss: float) -> None:
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
