"""Decoding once against decoding in each epoch: seconds, images/s, and the memory of workers that share a store.

``python -m tests.benchmarks.prepare``. The rival is the usual loop: a torch DataLoader, PIL, two workers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data

from mlc_core.data.batches import Images
from mlc_core.data.dataset import Dataset, Split
from mlc_core.data.listing import Entry, Listing
from mlc_core.data.store import prepare

WIDTH, HEIGHT = 500, 375  # pixels
BATCH: Final = 64
EPOCHS: Final = 3  # the first is not counted
RIVALS_WORKERS: Final = 2
SHARING: Final = 4  # processes on one store
FASTER, LARGER = 5.0, 1.3  # the bars
PAUSE: Final = 0.02  # seconds between two looks at the memory


def main() -> None:
    """Print the table; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=128, help="pixels on both sides after resizing")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as folder:
        os.environ["MLC_CACHE"] = f"{folder}/cache"
        root = Path(folder) / "images"
        root.mkdir()
        with ThreadPoolExecutor() as pool:
            taken = sum(pool.map(lambda number: photo(root / f"{number:06}.jpg", number), range(chosen.images)))
        say(
            f"{chosen.images} JPEGs of {WIDTH} x {HEIGHT}, {taken / chosen.images / 1000:.0f} kB each, to {chosen.size}"
        )
        start = time.perf_counter()
        prepare(everything(root), chosen.size)  # its result goes at once, and its map with it
        first = time.perf_counter() - start
        say("prepare, once", f"{first:.1f} s", f"{chosen.images / first:,.0f} images/s")
        # Before this process maps the store as well: it would take a share of every page from those that are measured.
        one, many = (memory(root, chosen.size, processes) for processes in (1, SHARING))
        start = time.perf_counter()
        dataset = opened(root, chosen.size)
        say("open it again", f"{time.perf_counter() - start:.2f} s")
        ours = throughput(lambda: batches(dataset, chosen.size), chosen.images)
        theirs = throughput(decoding(root, dataset, chosen.size), chosen.images)
    faster, larger = ours / theirs, many / one
    say("later epochs, ours", f"{ours:,.0f} images/s")
    say(f"later epochs, DataLoader, {RIVALS_WORKERS} workers", f"{theirs:,.0f} images/s")
    say("ratio", f"{faster:.1f} x", f"at least {FASTER} x: {'yes' if faster >= FASTER else 'NO'}")
    say("memory of 1 process", f"{one / 1e6:,.0f} MB")
    say(f"memory of {SHARING} processes", f"{many / 1e6:,.0f} MB")
    say("ratio", f"{larger:.2f} x", f"at most {LARGER} x: {'yes' if larger <= LARGER else 'NO'}")
    sys.exit(faster < FASTER or larger > LARGER)


def say(what: str, *figures: str) -> None:
    """Print one row."""
    sys.stdout.write(f"{what:36}" + "".join(f"{figure:>20}" for figure in figures) + "\n")
    sys.stdout.flush()


def photo(path: Path, seed: int) -> int:
    """Write something as hard to compress as a photograph: clouds of three scales and grain; its bytes."""
    rng = np.random.default_rng(seed)
    picture = rng.normal(0, 10, (HEIGHT, WIDTH, 3))
    for cells, strength in ((4, 1.0), (16, 0.4), (64, 0.2)):
        cloud = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += strength / 1.6 * np.asarray(cloud.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)
    return path.stat().st_size


def everything(root: Path) -> Listing:
    """List all images of a folder."""
    paths = sorted(path.name for path in root.iterdir())
    entries = tuple(Entry(path=path, labels=(0,), where=path) for path in paths)
    return Listing(root=root, format="folder", classes=("a", "b"), entries=entries)


def opened(root: Path, size: int) -> Dataset:
    """Take all images for training, as a worker would."""
    images = prepare(everything(root), size).images
    labels = np.zeros((len(images), 2), np.uint8)
    whole, little = Split(images, labels), Split(images, labels[:1], np.arange(1))
    return Dataset("photos", ("a", "b"), train=whole, val=little, test=little, fingerprint="photos")


def batches(dataset: Dataset, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """One epoch as `fit` takes it, in a random order."""
    images = Images(dataset.train, *dataset.channel_stats, size, torch.device("cpu"))
    return (images.take(index) for index in torch.split(torch.randperm(len(images)), BATCH))


class Decoding(data.Dataset[tuple[Tensor, Tensor]]):
    """What people write: open, convert, resize, normalize, in each epoch again."""

    def __init__(self, paths: Sequence[Path], dataset: Dataset, size: int) -> None:
        self.paths, self.size = paths, size
        self.mean, self.std = (torch.from_numpy(part)[:, None, None] for part in dataset.channel_stats)
        self.labels = torch.from_numpy(dataset.train.labels).float()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.paths[index]) as image:
            small = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
        return (pixels - self.mean) / self.std, self.labels[index]


def decoding(root: Path, dataset: Dataset, size: int) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    """Give epochs of a DataLoader whose workers stay."""
    images = Decoding(sorted(root.iterdir()), dataset, size)
    loader = data.DataLoader(images, BATCH, shuffle=True, num_workers=RIVALS_WORKERS, persistent_workers=True)
    return lambda: loader


def throughput(epoch: Callable[[], Iterable[tuple[Tensor, Tensor]]], images: int) -> float:
    """Images a second over the epochs after the first."""
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        seen = sum(len(batch) for batch, _ in epoch())
        seconds.append(time.perf_counter() - start)
        if seen != images:
            raise AssertionError(f"{seen} of {images} images came")
    return images * (EPOCHS - 1) / sum(seconds[1:])


WORKER: Final = """
import sys
from pathlib import Path
from tests.benchmarks.prepare import EPOCHS, batches, opened, without_data
root, size = Path(sys.argv[1]), int(sys.argv[2])
for start in (without_data, opened):
    print("ready", flush=True)
    sys.stdin.readline()
    dataset = start(root, size)
    for _ in range(EPOCHS):
        for _ in batches(dataset, size):
            pass
print("ready", flush=True)
sys.stdin.readline()
"""


def without_data(root: Path, size: int) -> Dataset:
    """Give as many rows, all of one image: the same batches, of no data."""
    rows = np.zeros(len(everything(root).entries), np.int64)
    one = Split(np.zeros((1, 3, size, size), np.uint8), np.zeros((len(rows), 2), np.uint8), rows)
    return Dataset("one", ("a", "b"), train=one, val=one, test=one, fingerprint="one")


def memory(root: Path, size: int, processes: int) -> int:
    """Peak bytes of so many workers together over some epochs, beyond that of the same loop without data."""
    command = [sys.executable, "-c", WORKER, str(root), str(size)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    with ThreadPoolExecutor(processes) as pool:
        all(pool.map(heard, workers))
        without, having = (peak(workers, pool) for _ in range(2))
    for worker in workers:
        worker.communicate()
    return having - without


def peak(workers: Sequence[subprocess.Popen[str]], pool: ThreadPoolExecutor) -> int:
    """Let all go on together, and look at their memory until each is ready again."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    ready = [pool.submit(heard, worker) for worker in workers]
    most = 0
    while not all(one.done() for one in ready):
        most = max(most, sum(map(proportional, workers)))
        time.sleep(PAUSE)
    return max(most, sum(map(proportional, workers)))


def heard(worker: subprocess.Popen[str]) -> str:
    """Wait until a worker is ready."""
    assert worker.stdout is not None
    if (said := worker.stdout.readline()) != "ready\n":
        raise AssertionError(f"a worker said {said!r}")
    return said


def proportional(worker: subprocess.Popen[str]) -> int:
    """Bytes of a process, each shared page counted by its share (PSS)."""
    rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
    return 1024 * int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])


if __name__ == "__main__":
    main()
