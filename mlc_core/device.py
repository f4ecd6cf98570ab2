"""Where and how a fit computes: device, precision, threads; chosen by a measurement, kept as a record."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch.nn import functional

from mlc_core import optimize, small_maps
from mlc_core.errors import NoDevice
from mlc_core.heap import keep_freed
from mlc_core.measured import keep, recall
from mlc_core.micro_batches import ran_out
from mlc_core.model import build
from mlc_core.params import BackboneName, Params, StemName

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
HALVES: Final[dict[Precision, torch.dtype]] = {"bf16": torch.bfloat16, "fp16": torch.float16}

# What "auto" chooses from, in this order: a later one must be GAIN times as fast as the best before it, because below
# that exactness is worth more than speed. fp16 comes last: its range is so small that the loss must be scaled.
CANDIDATES: Final[dict[str, tuple[Precision, ...]]] = {"cpu": ("fp32", "bf16"), "cuda": PRECISIONS}
GAIN: Final = 1.1

FILE: Final = "precision.json"  # what was measured
MEASURED: Final = 0.5  # seconds of turns; with what comes before less than one, unless a step takes as long
STEP: Final = 0.1  # seconds that a measured step may take before it is given fewer images than the training's
FEWEST: Final = 2  # images of a measured step


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where and how a fit computes. With the same data, params and seed it determines the bits of the result."""

    device: str  # a torch device, such as "cpu" or "cuda:0"
    precision: Precision  # of the forward and backward pass; weights, optimizer and loss stay in fp32
    threads: int  # CPU threads inside one operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides how long a training step takes; the defaults are those of Params."""

    backbone: BackboneName = "resnet10"
    stem: StemName = "standard"
    image_size: int = 32  # pixels, both sides
    batch_size: int = 64  # images

    @classmethod
    def of(cls, params: Params) -> Shape:
        """Take it from a trial's parameters."""
        return cls(
            backbone=params.backbone,
            stem=params.stem,
            image_size=params.image_size,
            batch_size=params.batch_size,
        )

    def __str__(self) -> str:
        return f"{self.backbone} {self.stem}, {self.image_size} pixels, batch {self.batch_size}"


def choose(
    *, device: str = "auto", precision: str = "auto", threads: int | None = None, shape: Shape | None = None
) -> Compute:
    """Turn what a user asked for into a record, measuring what was left open.

    Parameters
    ----------
    device : str
        "auto" (a CUDA device where there is one), "cpu", "cuda" or "cuda:N".
    precision : str
        "fp32", "bf16", "fp16", on CUDA also "tf32", or "auto": what about a second's measurement finds fastest on
        this machine. The measurement is remembered in the cache folder, by processor, torch version, thread count
        and shape. On a CPU it never chooses fp16, which is slow there.
    threads : int, optional
        CPU threads; by default as many as torch uses now.
    shape : Shape, optional
        Of the training that is measured.

    Raises
    ------
    NoDevice
        Where the device or the precision is not known or not there.
    """
    chosen = _device(device)
    count = torch.get_num_threads() if threads is None else threads
    if count < 1:
        raise NoDevice(f"threads: {threads!r} is not a whole number of threads, at least 1.")
    if precision == "auto":
        return Compute(device=str(chosen), precision=_fastest(shape or Shape(), chosen, count), threads=count)
    if precision not in PRECISIONS:
        raise NoDevice(f"precision: {precision!r} is not one of auto, {', '.join(PRECISIONS)}.")
    if precision == "tf32" and chosen.type != "cuda":
        raise NoDevice(
            f"precision: 'tf32' is not there on {str(chosen)!r}, only on CUDA devices. Use 'fp32' or 'auto'."
        )
    return Compute(device=str(chosen), precision=precision, threads=count)


@contextmanager
def computing(compute: Compute) -> Iterator[None]:
    """Hold the process's thread count, the deterministic choice of kernels and tf32 or not while a fit runs."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    saved = cudnn.deterministic, cudnn.benchmark
    products: tuple[Any, ...] = torch.backends.cuda.matmul, cudnn.conv  # type: ignore[attr-defined]
    in_products = [kind.fp32_precision for kind in products]
    # cuBLAS reads it when its first handle is made; without it matrix products may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(compute.threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    for kind in products:  # cuDNN's convolutions would otherwise be in tf32
        kind.fp32_precision = "tf32" if compute.precision == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = saved
        for kind, before in zip(products, in_products, strict=True):
            kind.fp32_precision = before


def autocast(compute: Compute) -> torch.autocast:
    """Context in which the forward pass runs in the record's precision."""
    kind, half = torch.device(compute.device).type, HALVES.get(compute.precision)
    return torch.autocast(kind, half or torch.bfloat16, enabled=half is not None)


def loss_scaler(compute: Compute) -> torch.amp.GradScaler:
    """Scales the loss of fp16, whose small slopes would be 0; of any other precision it passes everything through.

    A fused optimizer divides by the scale itself, and leaves out a step whose slopes ran over, without the host.
    """
    return torch.amp.GradScaler(torch.device(compute.device).type, enabled=compute.precision == "fp16")


class Steps:
    """Training steps on made-up images of a shape, as training.py makes them; for a measurement.

    Parameters
    ----------
    shape : Shape
    device : torch.device
    images : int, optional
        A step; by default the shape's.
    """

    def __init__(self, shape: Shape, device: torch.device, *, images: int | None = None) -> None:
        keep_freed()  # as a fit does
        model = build(backbone=shape.backbone, stem=shape.stem, dropout=0.0, classes=10, seed=0)
        if device.type == "cpu":
            small_maps.fit_to(model, shape.image_size)
        self._weights = optimize.Weights(model.to(device))
        self._optimizer = optimize.optimizer(Params(), self._weights.stepped)
        self._device, self._shape = device, shape
        self._pixels, self._labels = self._batch(images or shape.batch_size)

    @property
    def images(self) -> int:
        """How many a step takes."""
        return len(self._labels)

    def fit_into(self, seconds: float, compute: Compute) -> None:
        """Take as many images a step, up to the shape's, as a step of so many seconds has room for."""
        images, most = min(FEWEST, self._shape.batch_size), self._shape.batch_size
        while True:
            before = self._pixels, self._labels
            try:
                self._pixels, self._labels = self._batch(images)
                first = self.seconds(compute)  # it also chooses kernels
            except (RuntimeError, MemoryError) as error:
                if images <= FEWEST or not ran_out(error):
                    raise
                self._pixels, self._labels = before
                return
            if images == most or first > 5 * seconds or self._quickest(compute) > seconds / 2:
                return
            images = min(2 * images, most)

    def _quickest(self, compute: Compute) -> float:
        return min(self.seconds(compute) for _ in range(2))

    def seconds(self, compute: Compute) -> float:
        """Make a step and wait for it; on CUDA several, as there training doesn't wait for each; seconds of one."""
        turns = 10 if self._device.type == "cuda" else 1
        scaler, start = loss_scaler(compute), time.perf_counter()
        with computing(compute):
            for _ in range(turns):
                with autocast(compute):
                    logits = self._weights.model(self._pixels)
                loss = functional.binary_cross_entropy_with_logits(logits, self._labels)
                self._weights.differentiate(scaler.scale(loss))
                scaler.step(self._optimizer)
                scaler.update()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        return (time.perf_counter() - start) / turns

    def _batch(self, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._shape.image_size
        # Not zeros, which slopes and weights would become too.
        pixels = torch.linspace(-1, 1, images * 3 * size**2, device=self._device).view(images, 3, size, size)
        return pixels.contiguous(memory_format=torch.channels_last), torch.ones(images, 10, device=self._device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise NoDevice(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N.") from None
    if device.type not in ("cpu", "cuda") or str(device) != name:  # torch reads cuda:256 as cuda:0
        raise NoDevice(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N.")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise NoDevice(
                f"device: {name!r} is not there; this machine has {count} CUDA devices. Use 'cpu' or 'auto'."
            )
    return device


def _fastest(shape: Shape, device: torch.device, threads: int) -> Precision:
    key = f"{hardware(device)} | {threads} threads | {shape}"
    known: Precision | None = recall(FILE, key)
    if known not in CANDIDATES[device.type]:
        known = most_exact(_seconds(shape, device, threads))
        keep(FILE, key, known)
    return known


def most_exact(seconds: Mapping[Precision, float]) -> Precision:
    """Choose among what was measured, seconds a step, most exact first: see GAIN."""
    chosen, *others = seconds
    for other in others:
        if seconds[chosen] > GAIN * seconds[other]:
            chosen = other
    return chosen


def _seconds(shape: Shape, device: torch.device, threads: int) -> dict[Precision, float]:
    """Seconds of a step in each precision: the fewest of its turns, as what else the machine does only adds to them."""
    computes = [Compute(device=str(device), precision=one, threads=threads) for one in CANDIDATES[device.type]]
    steps = Steps(shape, device, images=FEWEST)  # the whole batch may be more than there is memory
    steps.fit_into(STEP, computes[0])
    turns: list[list[float]] = []
    deadline = time.perf_counter() + MEASURED
    while not turns or time.perf_counter() < deadline:
        turns.append([steps.seconds(compute) for compute in computes])
    turns = turns[1:] or turns  # the first one also chooses kernels
    return {compute.precision: min(each) for compute, each in zip(computes, zip(*turns, strict=True), strict=True)}


def hardware(device: torch.device | None = None) -> str:
    """Name what computes, and by which torch: what a measurement holds for. By default the device "auto" finds."""
    chosen = device or _device("auto")
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else _processor()
    return f"{name} | torch {torch.__version__}"


def gpus() -> tuple[str, ...]:
    """Name the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES does."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    return tuple(name.strip() for name in names[:count]) if names[0] else tuple(map(str, range(count)))


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return f"{model} {torch.backends.cpu.get_cpu_capability()}"
