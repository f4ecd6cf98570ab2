"""How many processors there are to use: the affinity's, and the quotas of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlc_core import processors

THERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MANY = pytest.mark.skipif(THERE < 2, reason="a quota cannot be told from one processor")


def proc(folder: Path, *lines: str) -> Path:
    """A /proc whose process is in these groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text("\n".join(lines))
    return folder / "proc"


def group(folder: Path, version: int, quota: int | None) -> None:
    """The files of one control group; the quota in hundredths of a processor."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{'max' if quota is None else quota * 1000} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota * 500}\n")
        (folder / "cpu.cfs_period_us").write_text("50000\n")


def test_without_a_quota_it_is_what_the_affinity_says(tmp_path: Path) -> None:
    there = proc(tmp_path, "2:cpu,cpuacct:/one", "0::/one")
    assert processors(proc=there, cgroups=tmp_path / "groups") == THERE  # no file at all
    group(tmp_path / "groups" / "one", 2, None)
    group(tmp_path / "groups" / "cpu" / "one", 1, None)
    assert processors(proc=there, cgroups=tmp_path / "groups") == THERE
    assert processors(proc=tmp_path / "none", cgroups=tmp_path / "groups") == THERE
    assert processors() <= THERE


@MANY
@pytest.mark.parametrize(
    ("version", "line", "place"),
    [
        (2, "0::/", ""),
        (2, "0::/outer/inner", "outer/inner"),
        (2, "0::/outer/inner", "outer"),  # the quota of a group around it holds too
        (2, "0::/docker/of/the/host", ""),  # inside a container only its own root is there
        (1, "2:cpu,cpuacct:/job", "cpu/job"),
        (1, "2:cpu,cpuacct:/job", "cpu,cpuacct/job"),
        (1, "2:cpu:/docker/of/the/host", "cpu"),
    ],
)
@pytest.mark.parametrize(("quota", "counted"), [(10, 1), (100, 1), (190, 1), (THERE * 100 + 50, THERE)])
def test_a_quota_counts_whole_processors_and_at_least_one(
    version: int, line: str, place: str, quota: int, counted: int, tmp_path: Path
) -> None:
    group(tmp_path / "groups" / place, version, quota)
    assert processors(proc=proc(tmp_path, line), cgroups=tmp_path / "groups") == counted


@MANY
@pytest.mark.parametrize("quotas", [(100, 150, None), (None, 100, 200), (200, None, 100)])
def test_the_tightest_of_several_quotas_holds(quotas: tuple[int | None, ...], tmp_path: Path) -> None:
    for place, quota in zip(("", "outer", "outer/inner"), quotas, strict=True):
        group(tmp_path / "groups" / place, 2, quota)
    assert processors(proc=proc(tmp_path, "0::/outer/inner"), cgroups=tmp_path / "groups") == 1


@pytest.mark.parametrize("content", ["", "fast\n", "100000\n", "max\n"])
def test_a_file_that_says_something_else_is_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "cpu.max").write_text(content)
    assert processors(proc=proc(tmp_path, "0::/"), cgroups=tmp_path / "groups") == THERE
