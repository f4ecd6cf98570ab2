"""Our `fit` against the bare loop, the practical limit, against itself in fp32, and end to end against what people use.

``python -m tests.benchmarks.throughput``. The rivals (rivals/) are installed on first use into an environment of their
own, with the torch of this one, by pip as it is configured: where it finds wheels for CUDA only, set
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. About 75 minutes on 2 cores; ``--only limit`` 25 of them,
``--only precision`` 6.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Final

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from mlc_core import BackboneName, Dataset, EpochReport, Flat, Split, choose, digits, fit, processors
from mlc_core.cache import cache_dir
from mlc_core.device import Shape
from mlc_core.model import build

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("ours, cold", "ours, warm")
RIVALS: Final = {"plain": "plain", "fastai": "with_fastai", "lightning": "with_lightning", "timm": "with_timm"}
PACKAGES: Final = ("fastai", "lightning", "timm")
JPEG_SIZE: Final = 160  # pixels, both sides
BATCH: Final = 64  # of the end-to-end comparison
LIMIT_IMAGES: Final = 1024  # an epoch; every batch size divides it
LIMIT_EPOCHS: Final = 4  # counted ones
LITTLE: Final = 8  # images of a validation split that takes no time
SEEDS: Final = 3  # of fp32 and bf16
NEAR, FASTER_THAN_FP32, FASTER_THAN_PLAIN, FASTER_THAN_RIVALS = 0.93, 1.4, 2.5, 1.5  # the bars

PROCESS: Final = """
import sys
from mlc_core import fit, load_dataset
folder, backbone, size, batch, epochs, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
data = load_dataset(folder + "/labels.csv", image_size=size)
params = {"backbone": backbone, "image_size": size, "batch_size": batch, "t_max": epochs}
print(fit(params, data, epochs=epochs, device="cpu", threads=threads))
"""


def main() -> None:
    """Print the tables; the exit code is 1 where a bar is missed."""
    asked = argparse.ArgumentParser(description=__doc__)
    parts = ("limit", "precision", *RIVALS)
    asked.add_argument("--only", nargs="+", choices=parts, default=parts)
    asked.add_argument("--size", nargs="+", type=int, default=[64, 128], help="pixels; multiples of 32")
    asked.add_argument("--backbone", nargs="+", default=["resnet10", "resnet18"], help="of the limit; else resnet10")
    asked.add_argument("--batch", nargs="+", type=int, default=[32, 64, 128], help=f"of the limit; else {BATCH}")
    asked.add_argument("--images", type=int, default=2000, help="for training end to end; a quarter more to validate")
    asked.add_argument("--epochs", type=int, default=10, help="end to end")
    asked.add_argument("--rounds", type=int, default=2, help="end to end")
    asked.add_argument("--threads", type=int, default=processors())
    asked.add_argument("--rivals-precision", choices=("fp32", "bf16"), default="fp32", help="fp32 is their default")
    asked.add_argument("--environment", type=Path, help="the rivals' own; by default in the cache folder")
    chosen = asked.parse_args()
    console, met = Console(), []
    rivals = [name for name in RIVALS if name in chosen.only]
    if "limit" in chosen.only:
        cases = product(chosen.backbone, chosen.size, chosen.batch)
        met.append(compare_with_limit(console, cases, threads=chosen.threads))
    if "precision" in chosen.only:
        met.append(compare_precisions(console, chosen.size, epochs=chosen.epochs, threads=chosen.threads))
    if rivals:
        python = install(chosen.environment or cache_dir() / "rivals", console)
        with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as folder:
            write_scenes(Path(folder), chosen.images)
            for size in chosen.size:
                race = Race(
                    Path(folder), python, size, chosen.images, chosen.epochs, chosen.threads, chosen.rivals_precision
                )
                met.append(compare_with_rivals(console, race, rivals, rounds=chosen.rounds))
    sys.exit(not all(met))


def enlarged(size: int, *, images: int, judged: int) -> Dataset:
    """Enlarge digit scenes in whole steps, without a file: so many for training, so many for validation."""
    data = digits()
    times = size // data.train.images.shape[-1]  # pixels
    train, val = (
        Split(split.images[:count].repeat(times, axis=2).repeat(times, axis=3), split.labels[:count])
        for split, count in ((data.train, images), (data.val, judged))
    )
    return Dataset("enlarged", data.classes, train, val, val, f"{data.fingerprint}:{size}:{images}:{judged}")


def compare_with_limit(console: Console, cases: Iterable[tuple[BackboneName, int, int]], *, threads: int) -> bool:
    """Print images/s of training inside `fit` beside those of the bare loop."""
    precision = choose(device="cpu", threads=threads).precision
    table = Table(title=f"Training inside fit against the bare loop: {precision}, threads {threads}")
    for heading in ("network", "pixels", "batch", "bare, images/s", "fit, images/s", "ratio", "evaluation's share"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    ratios = []
    for backbone, size, batch in cases:
        params = {"backbone": backbone, "image_size": size, "batch_size": batch}
        bare = bare_loop(backbone, size, batch, precision)
        seconds, theirs = alternated(params, size, LITTLE, bare, precision=precision, threads=threads)
        # A quarter as many to validate as to train, as in the embedded data.
        whole, beside = alternated(params, size, LIMIT_IMAGES // 4, bare, precision=precision, threads=threads)
        slower, slower_whole = (
            median(our / their for our, their in zip(*pair, strict=True))
            for pair in ((seconds, theirs), (whole, beside))
        )
        ratios.append(1 / slower)
        rates = (f"{LIMIT_IMAGES / median(taken):,.0f}" for taken in (theirs, seconds))
        table.add_row(backbone, str(size), str(batch), *rates, f"{ratios[-1]:.3f}", f"{1 - slower / slower_whole:.1%}")
    console.print(table)
    console.print(f"Least ratio {min(ratios):.3f}, at least {NEAR}: {'yes' if min(ratios) >= NEAR else 'NO'}")
    return min(ratios) >= NEAR


def bare_loop(backbone: BackboneName, size: int, batch: int, precision: str) -> Callable[[], float]:
    """Give an epoch of batches that lie in memory, ready and not augmented; it returns its seconds."""
    model = build(backbone=backbone, stem="standard", dropout=0.0, classes=10, seed=0)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    images = torch.randn(4, batch, 3, size, size)
    labels = torch.randint(0, 2, (4, batch, 10)).float()
    batches = [part.contiguous(memory_format=torch.channels_last) for part in images]

    def epoch() -> float:
        start = time.perf_counter()
        for step in range(LIMIT_IMAGES // batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(batches[step % 4])
            loss = functional.binary_cross_entropy_with_logits(logits, labels[step % 4])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - start

    return epoch


def alternated(
    params: Flat, size: int, judged: int, bare: Callable[[], float], *, precision: str, threads: int
) -> tuple[list[float], list[float]]:
    """Train, with an epoch of the bare loop after each of ours: seconds of both, without the first."""
    ours, theirs = [], []

    def on_epoch(report: EpochReport) -> bool:
        ours.append(report.seconds)
        theirs.append(bare())  # with the threads that the fit has set
        return True

    data = enlarged(size, images=LIMIT_IMAGES, judged=judged)
    fit(
        params,
        data,
        epochs=LIMIT_EPOCHS + 1,
        device="cpu",
        precision=precision,
        threads=threads,
        on_epoch=on_epoch,
    )
    return ours[1:], theirs[1:]


def compare_precisions(console: Console, sizes: Iterable[int], *, epochs: int, threads: int) -> bool:
    """Print seconds and losses of whole trainings in fp32 and in bf16, one after the other for each seed."""
    table = Table(
        title=f"bf16 against fp32: resnet10, batch {BATCH}, {epochs} epochs, {SEEDS} seeds; threads {threads}"
    )
    for heading in ("pixels", "chosen", "fp32, s", "bf16, s", "ratio", "loss in fp32", "loss in bf16"):
        table.add_column(heading, justify="right")
    met = []
    for size in sizes:
        data = enlarged(size, images=LIMIT_IMAGES, judged=LIMIT_IMAGES // 4)
        params: Flat = {"image_size": size, "batch_size": BATCH, "t_max": epochs}
        seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
        losses: dict[str, list[float]] = {"fp32": [], "bf16": []}
        for seed, precision in product(range(SEEDS), seconds):
            start = time.perf_counter()
            loss = fit(params, data, seed=seed, epochs=epochs, device="cpu", precision=precision, threads=threads)
            seconds[precision].append(time.perf_counter() - start)
            losses[precision].append(loss)
        chosen = choose(device="cpu", threads=threads, shape=Shape(image_size=size, batch_size=BATCH)).precision
        ratio = _ratio(seconds["fp32"], seconds["bf16"])
        alike = abs(mean(losses["bf16"]) - mean(losses["fp32"])) <= max(map(_spread, losses.values()))
        met.append(chosen == "fp32" or (ratio >= FASTER_THAN_FP32 and alike))
        times = (f"{median(taken):.1f}" for taken in seconds.values())
        told = (f"{mean(each):.4f} ({min(each):.4f} to {max(each):.4f})" for each in losses.values())
        table.add_row(str(size), chosen, *times, f"{ratio:.2f} x", *told)
    console.print(table)
    console.print(
        f"Where bf16 is chosen, at least {FASTER_THAN_FP32} x and as good within the spread of the seeds: "
        + ("yes" if all(met) else "NO")
    )
    return all(met)


def install(folder: Path, console: Console) -> Path:
    """Make the rivals' environment, or find it there as it should be; its interpreter."""
    python, note = folder / "bin" / "python", folder / "installed.txt"
    torches = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision")]
    wanted = [*torches, *PACKAGES]
    if not note.exists() or note.read_text() != "\n".join(wanted):
        console.print(f"Installing the rivals into {folder}; they are kept.")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        note.write_text("\n".join(wanted))
    return python


def write_scenes(folder: Path, images: int) -> None:
    """Write enlarged digit scenes as JPEGs, and their labels beside them as a 0/1 column a class."""
    data = digits()
    counts = {"train": images, "val": images // 4, "test": LITTLE}
    rows = [(name, number) for name, count in counts.items() for number in range(count)]
    splits = {"train": data.train, "val": data.val, "test": data.test}

    def write(row: tuple[str, int]) -> list[str]:
        split, number = splits[row[0]], row[1]
        scene = Image.fromarray(split.images[split.rows[number]].transpose(1, 2, 0))
        path = f"{row[0]}-{number:05}.jpg"
        scene.resize((JPEG_SIZE, JPEG_SIZE), Image.Resampling.BICUBIC).save(folder / path, quality=90)
        return [path, row[0], *map(str, split.labels[number])]

    with ThreadPoolExecutor() as pool, (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split", *data.classes], *pool.map(write, rows)])


@dataclass(frozen=True, slots=True)
class Race:
    """One training that everybody does from the same files, each in processes of its own."""

    folder: Path
    python: Path  # of the rivals
    size: int  # pixels
    images: int  # an epoch, validation aside
    epochs: int
    threads: int
    rivals_precision: str

    def run(self, name: str, cache: Path) -> tuple[float, float]:
        """Train from the start of a process to its end: seconds, and the validation loss that it printed."""
        task = [str(self.folder), "resnet10", *map(str, (self.size, BATCH, self.epochs))]
        if name in OURS:
            command = [sys.executable, "-P", "-c", PROCESS, *task, str(self.threads)]
        else:
            module = f"tests.benchmarks.rivals.{RIVALS[name]}"
            command = [str(self.python), "-m", module, *task, self.rivals_precision]
        environment = {**os.environ, "MLC_CACHE": str(cache), "OMP_NUM_THREADS": str(self.threads)}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        return seconds, float(done.stdout.split()[-1])


def compare_with_rivals(console: Console, race: Race, rivals: Sequence[str], *, rounds: int) -> bool:
    """Print seconds from start to end of the processes; ours cold decodes and measures first, as on a first day."""
    names = (*OURS, *rivals)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="mlc-benchmark-cache-") as cache:
            for name in names:
                taken, losses[name] = race.run(name, Path(cache))
                seconds[name].append(taken)
    table = Table(
        title=f"{race.images} JPEGs at {race.size} pixels, resnet10, batch {BATCH}, {race.epochs} epochs, start-up "
        f"included; threads {race.threads}, rivals in {race.rivals_precision}"
    )
    for heading in ("who", "seconds", "images/s", "validation loss", "of ours, cold", "of ours, warm"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    for name in names:
        rate = race.images * race.epochs / median(seconds[name])
        ratios = (f"{_ratio(seconds[name], seconds[ours]):.2f} x" for ours in OURS)
        table.add_row(name, f"{median(seconds[name]):.1f}", f"{rate:,.0f}", f"{losses[name]:.4f}", *ratios)
    console.print(table)
    slower = {name: _ratio(seconds[name], seconds[OURS[0]]) for name in rivals}
    bars = {name: FASTER_THAN_PLAIN if name == "plain" else FASTER_THAN_RIVALS for name in rivals}
    for name in rivals:
        met = slower[name] >= bars[name]
        console.print(f"{name}: {slower[name]:.2f} x, at least {bars[name]} x: {'yes' if met else 'NO'}")
    return all(slower[name] >= bars[name] for name in rivals)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Take the median over the rounds, each of which holds both."""
    return median(their / our for their, our in zip(theirs, ours, strict=True))


if __name__ == "__main__":
    main()
