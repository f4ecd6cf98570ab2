"""``learn``: the loop that turns images without labels into a backbone's weights; resumable, like a fit.

Not here: what is learnt by (twoviews.py); whether it helped (probe.py); how a fit starts from it (pretrained.py).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import AdamW, Optimizer

from mlc_core import checkpoint as checkpoints
from mlc_core.data.batches import Images
from mlc_core.data.unlabelled import Source
from mlc_core.device import Compute, autocast, choose, computing
from mlc_core.errors import BadCheckpoint, BadParams, Diverged
from mlc_core.heap import keeping_freed
from mlc_core.model import build
from mlc_core.params import BackboneName, Params, StemName, Value, one_of, whole
from mlc_core.pretrained import start_from, weights_digest
from mlc_core.seeds import Stream, stream_seed
from mlc_core.twoviews import METHODS, Learner, Method, meter, two_views

DECAY: Final = 1e-4  # of the weights
WARM_UP: Final = 0.1  # share of the steps in which the rate grows
BATCH: Final = 250  # images, of what is only looked at
SAMPLE: Final = 1000  # images that the meter looks at, at most
COLLAPSED: Final = 0.2  # spread below which too little is told apart; a random start has about 0.3
FEWEST: Final = 3.0  # effective rank below which it is as well

_CURE: Final = "Name another file, or delete it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """What decides a pretraining, but for images and machine.

    Raises
    ------
    BadParams
        From the constructor.
    """

    method: Method = "vicreg"
    backbone: BackboneName = "resnet10"
    stem: StemName = "standard"
    image_size: int = 32  # pixels, both sides
    epochs: int = 30
    batch_size: int = 128  # images, two views each
    lr: float = 1e-3
    start: str = "none"  # or imagenet, or a file
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        whole("epochs", self.epochs, "a whole number from 1 to 100000", low=1, high=100_000)
        whole("seed", self.seed, "a whole number from 0 to 2**63 - 1", low=0, high=2**63 - 1)
        Params(
            backbone=self.backbone,
            stem=self.stem,
            image_size=self.image_size,
            batch_size=self.batch_size,
            lr=self.lr,
            weights=self.start,
        )


@dataclass(frozen=True, slots=True)
class PretrainReport:
    """What one epoch of pretraining measured."""

    epoch: int  # counted from 1
    epochs: int
    loss: float  # the method's own, mean over the epoch
    spread: float  # of l2-normalized embeddings: standard deviation a dimension, times the root of their number
    rank: float  # effective, of the same embeddings
    seconds: float

    @property
    def collapsed(self) -> bool:
        """Whether all images are given nearly the same embedding, or nearly the same few."""
        return self.spread < COLLAPSED or self.rank < FEWEST


OnPretrainEpoch = Callable[[PretrainReport], object]


def learn(
    asked: Pretraining,
    source: Source,
    out: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    on_epoch: OnPretrainEpoch | None = None,
) -> tuple[PretrainReport, ...]:
    """Learn features and write the backbone to a file, from which a fit can start (``weights``).

    Parameters
    ----------
    out : Path
        Of the file, safetensors. Beside it lies, until all is done, the state of the last epoch; if there is one
        of this very pretraining, it goes on from there, to the same bits as without the interruption.
    device, precision, threads
        As ``mlc_core.device.choose`` takes them.
    on_epoch : callable, optional
        Called after each epoch, once its state is on disk; also for those already done.

    Raises
    ------
    BadParams, BadWeights, NoDevice
        Before any training.
    BadCheckpoint
        Where the file, or the state beside it, is of another pretraining, or cannot be written.
    Diverged
        If the loss becomes NaN or infinite.
    """
    if len(source.images) < asked.batch_size:
        allowed = f"at most {len(source.images)}, the number of images"
        raise BadParams("batch_size", asked.batch_size, allowed)
    compute = choose(device=device, precision=precision, threads=threads)
    reports = []
    with keeping_freed(), computing(compute):
        for report in _epochs(asked, source, out, compute):
            reports.append(report)
            if on_epoch is not None:
                on_epoch(report)
    return tuple(reports)


def _epochs(asked: Pretraining, source: Source, out: Path, compute: Compute) -> Iterator[PretrainReport]:
    """Yield the reports of the epochs already done, then train the others one by one, then write the file."""
    device = torch.device(compute.device)
    identity = _identity(asked, source, compute)
    state_file = out.with_name(f"{out.name}.resume")
    done = _finished(out, identity)
    if done is not None:
        state_file.unlink(missing_ok=True)  # left by a process that died just before it would have
        yield from done
        return
    learner = _learner(asked).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = AdamW(learner.parameters(), lr=asked.lr, weight_decay=DECAY, fused=True)
    reports: tuple[PretrainReport, ...] = ()
    saved = _saved(state_file, identity, device)
    if saved is not None:
        learner.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        reports = tuple(PretrainReport(**report) for report in saved["reports"])
        yield from reports
    images = Images(source.images, source.mean, source.std, asked.image_size, device)
    for epoch in range(len(reports) + 1, asked.epochs + 1):
        start = time.perf_counter()
        loss = _train(learner, optimizer, images, compute, asked, epoch=epoch)
        if not math.isfinite(loss):
            raise Diverged(epoch, f"the training loss is {loss}")
        spread, rank = meter(_embeddings(learner, images, compute))
        report = PretrainReport(epoch, asked.epochs, loss, spread, rank, time.perf_counter() - start)
        reports = (*reports, report)
        content = {
            "reports": [asdict(report) for report in reports],
            "model": learner.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        checkpoints.write_state(state_file, identity, content)
        yield report
    checkpoints.write_weights(out, learner.backbone.state_dict(), _card(identity, source, reports))
    state_file.unlink()


def _learner(asked: Pretraining) -> Learner:
    seed = stream_seed(asked.seed, Stream.PRETRAIN)
    classifier = build(backbone=asked.backbone, stem=asked.stem, dropout=0, classes=1, seed=seed)
    start_from(classifier, asked.start, backbone=asked.backbone)
    return Learner(classifier, asked.method, seed=seed)


def _identity(asked: Pretraining, source: Source, compute: Compute) -> dict[str, Value]:
    """Say what a pretraining is; a file of another one is refused."""
    return asdict(asked) | {
        "start": weights_digest(asked.start, asked.backbone),
        "data": source.fingerprint,
        "device": torch.device(compute.device).type,
        "precision": compute.precision,
        "threads": compute.threads,
    }


def _card(identity: dict[str, Value], source: Source, reports: tuple[PretrainReport, ...]) -> dict[str, str]:
    last = reports[-1]
    return {
        "pretraining": json.dumps(identity),
        "method": str(identity["method"]),
        "epochs": str(last.epochs),
        "seed": str(identity["seed"]),
        "data": source.fingerprint,
        "images": str(len(source.images)),
        "spread": repr(last.spread),
        "rank": repr(last.rank),
        "reports": json.dumps([asdict(report) for report in reports]),
        "mean": json.dumps(source.mean.tolist()),
        "std": json.dumps(source.std.tolist()),
    }


def _finished(out: Path, identity: dict[str, Value]) -> tuple[PretrainReport, ...] | None:
    """Read the reports from a finished pretraining's file; None where there is none."""
    try:
        with safe_open(out, framework="pt") as file:
            card: dict[str, str] = file.metadata() or {}
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        card = {}
    if "pretraining" not in card:
        raise BadCheckpoint(f"{out} is there already, and no pretraining wrote it. Name another file.")
    theirs = json.loads(card["pretraining"])
    for key, ours in identity.items():
        if theirs.get(key) != ours:
            raise BadCheckpoint(
                f"{out} holds another pretraining: its {key} is {theirs.get(key)!r}, asked for is {ours!r}. {_CURE}"
            )
    return tuple(PretrainReport(**report) for report in json.loads(card["reports"]))


def _saved(file: Path, identity: dict[str, Value], device: torch.device) -> dict[str, Any] | None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return checkpoints.read_state(file, identity, device=device, training="pretraining", cure=_CURE)
    except OSError as error:
        raise BadCheckpoint(f"{file.parent} cannot be used: {error.strerror}. Name another file.") from None


def _train(
    learner: Learner, optimizer: Optimizer, images: Images, compute: Compute, asked: Pretraining, *, epoch: int
) -> float:
    """Make one pass over the images and return the mean loss."""
    generator = torch.Generator().manual_seed(stream_seed(asked.seed, Stream.PRETRAIN, epoch))
    order = torch.randperm(len(images), generator=generator)
    steps = len(images) // asked.batch_size  # a smaller last batch would have other statistics
    total = torch.zeros((), dtype=torch.float64, device=images.device)
    learner.train()
    for number, index in enumerate(torch.split(order[: steps * asked.batch_size], asked.batch_size)):
        rate = asked.lr * _share_of_rate((epoch - 1) * steps + number, steps * asked.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = learner.loss(*two_views(images.take(index)[0], generator), compute)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach()
    return float(total) / steps


def _share_of_rate(step: int, steps: int) -> float:
    """Grow linearly, then fall by half a cosine; a function of the step alone, so that no state is kept."""
    return min((step + 1) / max(1, WARM_UP * steps), (1 + math.cos(math.pi * step / steps)) / 2)


@torch.inference_mode()
def _embeddings(learner: Learner, images: Images, compute: Compute) -> Tensor:
    """Embed evenly spaced images as they are: (n, WIDTH), float32."""
    learner.eval()
    index = torch.linspace(0, len(images) - 1, min(len(images), SAMPLE)).long()
    with autocast(compute):
        return torch.cat([learner(images.take(part)[0]) for part in torch.split(index, BATCH)])
