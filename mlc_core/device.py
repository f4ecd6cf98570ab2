"""Where and how a fit computes: device, precision, threads; chosen by a measurement, kept as a record."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from torch.nn import functional

from mlc_core.cache import cache_dir, write_atomically
from mlc_core.errors import NoDevice
from mlc_core.model import build

Precision = Literal["fp32", "bf16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

GAIN: Final = 1.1  # bf16 must be this much faster than fp32: below it, exactness is worth more than speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where and how a fit computes. With the same data, params and seed it determines the bits of the result."""

    device: str  # a torch device, such as "cpu" or "cuda:0"
    precision: Precision  # of the forward and backward pass; weights, optimizer and loss stay in fp32
    threads: int  # CPU threads inside one operation


def choose(*, device: str = "auto", precision: str = "auto", threads: int | None = None) -> Compute:
    """Turn what a user asked for into a record, measuring what was left open.

    Parameters
    ----------
    device : str
        "auto" (a CUDA device where there is one), "cpu", "cuda" or "cuda:N".
    precision : str
        "fp32", "bf16", or "auto": what about a second's measurement finds faster on this machine. The
        measurement is remembered in the cache folder, by processor, torch version and thread count.
    threads : int, optional
        CPU threads; by default as many as torch uses now.

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
        return Compute(device=str(chosen), precision=_fastest(chosen, count), threads=count)
    if precision not in PRECISIONS:
        raise NoDevice(f"precision: {precision!r} is not one of auto, {', '.join(PRECISIONS)}.")
    return Compute(device=str(chosen), precision=precision, threads=count)


@contextmanager
def computing(compute: Compute) -> Iterator[None]:
    """Hold the process's thread count and the deterministic choice of kernels while a fit runs."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    saved = cudnn.deterministic, cudnn.benchmark
    # cuBLAS reads it when its first handle is made; without it matrix products may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(compute.threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = saved


def autocast(compute: Compute) -> torch.autocast:
    """Context in which the forward pass runs in the record's precision."""
    kind = torch.device(compute.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=compute.precision == "bf16")


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


def _fastest(device: torch.device, threads: int) -> Precision:
    path = cache_dir() / "precision.json"
    key = f"{_processor(device)} | torch {torch.__version__} | {threads} threads"
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError):
        read = None
    known: dict[str, Precision] = read if isinstance(read, dict) else {}
    if known.get(key) not in PRECISIONS:
        seconds = {p: _step_seconds(Compute(device=str(device), precision=p, threads=threads)) for p in PRECISIONS}
        known[key] = "bf16" if seconds["fp32"] > GAIN * seconds["bf16"] else "fp32"
        with suppress(OSError):  # then the next process measures again
            write_atomically(path, json.dumps(known, indent=1).encode())
    return known[key]


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return f"{model} {torch.backends.cpu.get_cpu_capability()}"


def _step_seconds(compute: Compute, *, steps: int = 6) -> float:
    """Median seconds of a training step of the smallest ResNet, batch 32 of 32 x 32 pixels."""
    device = torch.device(compute.device)
    model = build(backbone="resnet10", stem="small", dropout=0.0, classes=10, seed=0)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(32, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(32, 10, device=device)
    seconds = []
    with computing(compute):
        for _ in range(steps):
            start = time.perf_counter()
            with autocast(compute):
                logits = model(images)
            loss = functional.binary_cross_entropy_with_logits(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[(steps - 1) // 2]  # the first step chooses kernels
