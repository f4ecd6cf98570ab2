"""A fit in a process that is really killed goes on in the next one to the same bits."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlc_core import BEST, EpochReport, fit
from mlc_core.checkpoint import PREVIOUS, RESUME
from tests.crash.fit_aloud import EPOCHS, HALF_WRITTEN, PARAMS
from tests.mlc_core.fits import same_weights, state
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


class Told(NamedTuple):
    """What a child of fit_killed.py said."""

    ended: int  # exit code
    reports: list[dict[str, Any]]
    calls: int | None  # that change a file, where it was not killed
    error: str | None


class Children:
    """The process that forks them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fit(self, folder: Path, *, deadly: int | None = None) -> Told:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "deadly": deadly}) + "\n")
        self._process.stdin.flush()
        reports: list[dict[str, Any]] = []
        said: dict[str, Any] = {}
        while "ended" not in said:
            line = json.loads(self._process.stdout.readline())
            if "epoch" in line:
                reports.append(line)
            else:
                said |= line
        return Told(said["ended"], reports, said.get("calls"), said.get("error"))


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    command = [sys.executable, "-m", "tests.crash.fit_killed"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Children(process)
        assert process.stdin is not None
        process.stdin.close()


def spoil(file: Path, how: int) -> None:
    """Cut it off, flip a bit, empty it, or leave what a disk returns for lost blocks."""
    content = bytearray(file.read_bytes())
    if how % 4 == 0:
        del content[len(content) // 2 :]
    elif how % 4 == 1:
        content[len(content) // 3] ^= 4
    elif how % 4 == 2:
        content.clear()
    else:
        content[4096:8192] = bytes(4096)
    file.write_bytes(content)


def test_killed_between_any_two_system_calls_a_fit_goes_on_to_the_same_bits(children: Children, tmp_path: Path) -> None:
    """Also where, on top of that, the newest state is damaged: then from the one before."""
    undisturbed = tmp_path / "undisturbed"
    whole = children.fit(undisturbed)
    losses = [report["val_loss"] for report in whole.reports]
    assert losses[2] < losses[0] < losses[1]
    assert losses[2] < losses[3]
    expected = state(undisturbed)
    assert whole.calls == 27  # 4 a state, 1 more where there is one before, 4 the best weights, twice

    fallen_back = 0
    for deadly in range(2, whole.calls + 1):
        folder, spoilt = tmp_path / f"{deadly}", tmp_path / f"{deadly} spoilt"
        assert children.fit(folder, deadly=deadly).ended == -signal.SIGKILL
        shutil.copytree(folder, spoilt)
        two = (spoilt / RESUME).exists() and (spoilt / PREVIOUS).exists()
        fallen_back += two
        if two:
            spoil(spoilt / RESUME, deadly)
        for each in (folder, spoilt) if two else (folder,):
            resumed = children.fit(each)
            assert (resumed.ended, resumed.error, resumed.reports) == (0, None, whole.reports), (deadly, each)
            assert same_weights(each, undisturbed), (deadly, each)
            assert state(each) == expected, (deadly, each)
            assert sorted(path.name for path in each.iterdir()) == [BEST, RESUME, PREVIOUS]
            shutil.rmtree(each)
    assert fallen_back > 15


def test_where_both_states_are_damaged_the_fit_is_refused_with_a_sentence(children: Children, tmp_path: Path) -> None:
    children.fit(tmp_path, deadly=12)
    for name in (RESUME, PREVIOUS):
        spoil(tmp_path / name, 1)
    told = children.fit(tmp_path)
    assert (told.ended, told.reports) == (0, [])
    assert told.error == (
        f"{tmp_path / RESUME} is damaged: its checksum does not match. Delete it to start this fit again."
    )
