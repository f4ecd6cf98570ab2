"""A fit in a process that is really killed goes on in the next one to the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mlc_core import EpochReport, fit
from mlc_core.checkpoint import RESUME
from tests.crash.fit_aloud import EPOCHS, HALF_WRITTEN, PARAMS
from tests.mlc_core.tiny import tiny


@contextmanager
def fit_aloud(folder: Path, *deadly: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.crash.fit_aloud", str(folder), *map(str, deadly)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str], epochs: int | None = None) -> list[EpochReport]:
    """Listen for so many reports, or until the process ends; without the seconds, which differ each time."""
    assert process.stdout is not None
    reports: list[EpochReport] = []
    while len(reports) != epochs and (line := process.stdout.readline()):
        reports.append(replace(EpochReport(**json.loads(line)), seconds=0.0))
    return reports


@pytest.fixture(scope="module")
def uninterrupted() -> list[EpochReport]:
    reports: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> bool:
        reports.append(replace(report, seconds=0.0))
        return True

    fit(PARAMS, tiny(), seed=5, epochs=EPOCHS, precision="fp32", threads=1, on_epoch=on_epoch)
    return reports


def test_a_killed_fit_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: list[EpochReport]) -> None:
    with fit_aloud(tmp_path, 1) as process:
        assert heard(process) == uninterrupted[:1]
    assert process.returncode == -signal.SIGXFSZ  # in the middle of writing the second epoch's checkpoint
    (torn,) = tmp_path.glob(f".{RESUME}.*")
    assert torn.stat().st_size == HALF_WRITTEN < (tmp_path / RESUME).stat().st_size

    with fit_aloud(tmp_path) as process:
        assert heard(process, 2) == uninterrupted[:2]
        process.kill()  # somewhere in the third epoch
        process.wait()
    assert process.returncode == -signal.SIGKILL

    with fit_aloud(tmp_path) as process:
        resumed = heard(process)
    assert process.returncode == 0
    assert resumed == uninterrupted
