"""A pretraining that is really killed, or interrupted, goes on by the same command to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

EPOCHS: Final = 3
COMMAND: Final = "import typer; from search.cli import pretrain; app = typer.Typer(); pretrain.register(app); app()"
IMAGES: Final = ["--data", "images", "--image-size", "16", "--batch-size", "16"]
OPTIONS: Final = [*IMAGES, "--seed", "5", "--precision", "fp32", "--threads", "1", "--epochs", str(EPOCHS)]


@contextmanager
def pretraining(folder: Path, out: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", COMMAND, *OPTIONS, "--out", out]
    with subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str], epochs: int = EPOCHS) -> list[str]:
    """Listen for so many epochs; without the seconds, which differ each time."""
    assert process.stderr is not None
    lines: list[str] = []
    while len(lines) < epochs and (line := process.stderr.readline()):
        if line.startswith("epoch "):
            lines.append(line[: line.rindex("  ")])
    return lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with images and what an uninterrupted pretraining made of them."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(32):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"images/{number:02}.png")
    with pretraining(folder, "whole") as process:
        lines = heard(process)
        assert process.wait() == 0
    assert len(lines) == EPOCHS
    return folder, lines


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_pretraining_goes_on_to_the_same_bits(how: signal.Signals, whole: tuple[Path, list[str]]) -> None:
    folder, lines = whole
    out = how.name.lower()
    with pretraining(folder, out) as process:
        assert heard(process, 1) == lines[:1]
        process.send_signal(how)  # somewhere in the second epoch, or as its state is written
        _, said = process.communicate()
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert said.endswith("Stopped. The same command goes on.\n") == (how is signal.SIGINT)
    assert not (folder / out).exists()

    with pretraining(folder, out) as process:
        assert heard(process) == lines
        assert process.wait() == 0
    expected, found = load_file(folder / "whole"), load_file(folder / out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not (folder / f"{out}.resume").exists()
