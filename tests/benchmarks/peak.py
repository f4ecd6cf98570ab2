"""How much of what this machine's matrix products reach does training reach, and where does the rest go?

``python -m tests.benchmarks.peak``: FLOP/s of an epoch inside `fit` as the default study fixes it, against those of
the best large square matmul in the same precision on as many threads; then the seconds of a profiled epoch by what they
go into. A FLOP is a multiplication or an addition, of convolutions and products alone, forward and backward. About
10 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from statistics import median
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from mlc_core import Dataset, EpochReport, OnEpoch, Params, choose, digits, fit
from mlc_core.model import Classifier, build
from tests.benchmarks.throughput import LITTLE, enlarged

SQUARES: Final = (1024, 2048, 4096)  # rows and columns
EPOCHS: Final = 3  # counted ones
STEPS: Final = 16  # an epoch, at least

TRAINING, EVALUATION, CONVOLUTION = "network, training", "network, evaluation", "convolution"  # ranges of the profile
# What a profiled operation belongs to: the first row of which a word occurs in its name or an enclosing one.
PARTS: Final = {
    "evaluation": (EVALUATION,),
    "optimizer": ("Optimizer.",),
    "average of the weights": ("_foreach_lerp", "_foreach_copy"),
    "convolution, backward": ("ConvolutionBackward", "_ProductBackward"),
    "convolution, forward": (CONVOLUTION,),
    "batch norm": ("batch_norm", "BatchNorm"),
    "elementwise, pooling, head": (TRAINING, "autograd::"),
}
COPIES: Final = "casts and copies"
BATCHES: Final = "batches, augmentation, loss, scores"
PYTHON: Final = "Python, autograd's own"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--size", nargs="+", type=int, default=[32, 64, 128], help="pixels; multiples of 32")
    asked.add_argument("--batch", nargs="+", type=int, default=[16, 32, 64, 128])
    asked.add_argument("--threads", type=int, default=1, help="as in the default study")
    asked.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    chosen = asked.parse_args()
    console = Console()
    precision = choose(device="cpu", precision=chosen.precision, threads=chosen.threads).precision
    tries = [
        Case(default_params(size, batch), precision, chosen.threads)
        for size, batch in product(chosen.size, chosen.batch)
    ]
    measured = [case.measure() for case in tries]
    show(console, measured)
    show_profiles(console, [(one.case, one.case.profile()) for one in measured])


def default_params(size: int, batch: int) -> Params:
    """Take what the default study fixes, at another size."""
    fixed = tomllib.loads((files("studies") / "default.toml").read_text())["fixed"]
    return Params.from_flat(fixed | {"image_size": size, "batch_size": batch})


@dataclass(frozen=True, slots=True)
class Case:
    """One training to measure."""

    params: Params
    precision: str
    threads: int

    def measure(self) -> Measured:
        """Train with matrix products after each epoch, so that both meet the same machine."""
        seconds, peaks = [], []

        def on_epoch(report: EpochReport) -> bool:
            seconds.append(report.seconds)
            peaks.append(max(matmul(side, self.dtype) for side in SQUARES))
            return True

        data = self.data()
        self.fit(data, EPOCHS + 1, on_epoch)
        computed, images = self.computed(), len(data.train.labels)
        shares = [computed * images / taken / peak for taken, peak in zip(seconds[1:], peaks[1:], strict=True)]
        rate = images / median(seconds[1:])
        return Measured(self, rate, self.needed(), computed, median(peaks[1:]), median(shares))

    def profile(self) -> tuple[dict[str, float], float]:
        """Profile the second epoch: its seconds by part, and all of its seconds."""
        profiler = profile(activities=[ProfilerActivity.CPU])
        taken = []

        def on_epoch(report: EpochReport) -> bool:
            taken.append(report.seconds)
            if report.epoch == 1:
                profiler.start()
                return True
            profiler.stop()
            return False

        with ranges():
            self.fit(self.data(val=True), 2, on_epoch)
        return by_part(profiler, taken[-1]), taken[-1]

    def data(self, *, val: bool = False) -> Dataset:
        """Scenes for some steps; to validate a quarter as many, or hardly any."""
        images = min(STEPS * max(self.params.batch_size, 64), len(digits().train.labels))
        return enlarged(self.params.image_size, images=images, judged=images // 4 if val else LITTLE)

    def fit(self, data: Dataset, epochs: int, on_epoch: OnEpoch) -> None:
        """Train."""
        fit(
            self.params,
            data,
            epochs=epochs,
            device="cpu",
            precision=self.precision,
            threads=self.threads,
            on_epoch=on_epoch,
        )

    def computed(self) -> float:
        """Count the FLOPs that `fit` spends on an image, forward and backward; what it leaves out is not among them."""
        totals = []
        for steps in (1, 2):
            data = enlarged(self.params.image_size, images=steps * self.params.batch_size, judged=LITTLE)
            with FlopCounterMode(display=False) as counter:
                self.fit(data, 1, lambda _: True)
            totals.append(counter.get_total_flops())
        return float(totals[1] - totals[0]) / self.params.batch_size  # the difference has no evaluation in it

    def needed(self) -> float:
        """Count the FLOPs of an image, forward and backward, with the network as it is written down."""
        params = self.params
        model = build(backbone=params.backbone, stem=params.stem, dropout=params.dropout, classes=10, seed=0)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, 3, params.image_size, params.image_size)).sum().backward()
        return float(counter.get_total_flops()) / 2

    @property
    def dtype(self) -> torch.dtype:
        """Type of what is multiplied."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True, slots=True)
class Measured:
    """What a case reached."""

    case: Case
    rate: float  # images/s of training
    needed: float  # FLOPs of an image
    computed: float  # FLOPs that it took
    peak: float  # FLOP/s of the best matmul
    share: float  # of the peak; the median over epochs, each against the matmul after it


def matmul(side: int, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some products of two square matrices."""
    first, second = torch.randn(2, side, side).to(dtype)
    out = torch.empty(side, side, dtype=dtype)
    seconds = []
    for _ in range(max(2, 3 * 2048 // side)):
        start = time.perf_counter()
        torch.mm(first, second, out=out)
        seconds.append(time.perf_counter() - start)
    return float(2 * side**3 / min(seconds[1:]))  # the first chooses a kernel


@contextmanager
def ranges() -> Iterator[None]:
    """Let the profile tell training from evaluation and convolutions from the rest, by hooks around the passes."""
    entered: list[ExitStack] = []

    def enter(module: nn.Module, _inputs: object) -> None:
        entered.append(ExitStack())
        if isinstance(module, Classifier):
            entered[-1].enter_context(record_function(TRAINING if module.training else EVALUATION))
        elif "Conv2d" in type(module).__name__:  # ours for small maps consists of products
            entered[-1].enter_context(record_function(CONVOLUTION))

    def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
        entered.pop().close()

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_part(profiler: profile, whole: float) -> dict[str, float]:
    """Add up what each operation took itself; what no operation took is Python's. Seconds."""
    seconds = dict.fromkeys((*PARTS, COPIES, BATCHES), 0.0)
    for event in profiler.events() or ():  # type: ignore[no-untyped-call]
        if event.name.startswith("aten::"):
            seconds[part_of(event)] += event.self_cpu_time_total / 1e6
    return seconds | {PYTHON: whole - sum(seconds.values())}


def part_of(event: FunctionEvent) -> str:
    """Name the part that an operation belongs to."""
    names = []
    at: FunctionEvent | None = event
    while at is not None:
        names.append(at.name)
        at = at.cpu_parent
    enclosing = " ".join(names)
    part = next((part for part, words in PARTS.items() if any(word in enclosing for word in words)), BATCHES)
    copies = event.name in ("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone")
    return COPIES if copies and part not in ("evaluation", "optimizer", BATCHES) else part


def show(console: Console, measured: list[Measured]) -> None:
    """Print what each case reached."""
    case = measured[0].case
    table = Table(
        title=f"{case.params.backbone}, training without evaluation: {case.precision}, threads {case.threads}"
    )
    for heading in ("pixels", "batch", "images/s", "MFLOP an image", "computed", "GFLOP/s", "matmul", "share"):
        table.add_column(heading, justify="right")
    for one in measured:
        figures = (one.rate, one.needed / 1e6, one.computed / 1e6, one.rate * one.computed / 1e9, one.peak / 1e9)
        params = one.case.params
        sides = (str(params.image_size), str(params.batch_size))
        table.add_row(*sides, *(f"{figure:,.0f}" for figure in figures), f"{one.share:.1%}")
    console.print(table)


def show_profiles(console: Console, profiles: list[tuple[Case, tuple[dict[str, float], float]]]) -> None:
    """Print the share of an epoch that each part takes."""
    table = Table(title="Where an epoch goes, evaluation of a quarter as many images included; profiled")
    table.add_column("pixels x batch")
    for case, _ in profiles:
        table.add_column(f"{case.params.image_size} x {case.params.batch_size}", justify="right")
    for part in profiles[0][1][0]:
        table.add_row(part, *(f"{seconds[part] / whole:.1%}" for _, (seconds, whole) in profiles))
    table.add_row("ms a training step", *(f"{_step(case, whole):.1f}" for case, (_, whole) in profiles))
    console.print(table)


def _step(case: Case, whole: float) -> float:
    return 1000 * whole / (len(case.data().train.labels) / case.params.batch_size)


if __name__ == "__main__":
    main()
