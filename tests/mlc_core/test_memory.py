"""How much memory is free: the machine's, and that of the control groups around this process, of both versions."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from mlc_core import free_memory, oom_kills

GB = 2**30


def proc(folder: Path, *lines: str) -> Path:
    """A /proc of a machine with 8 GB free, whose process is in these groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GB // 1024} kB\n")
    (folder / "proc" / "self" / "cgroup").write_text("\n".join(lines))
    return folder / "proc"


def group(folder: Path, version: int, most: int | str, taken: int, idle: int = 0) -> None:
    """The files of one control group."""
    folder.mkdir(parents=True, exist_ok=True)
    limit, used, stat = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / limit).write_text(f"{most}\n")
    (folder / used).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"cache 5\n{stat} {idle}\n")


def test_on_this_machine_it_is_at_most_what_psutil_says_and_not_nothing() -> None:
    assert 0 < free_memory() <= 1.1 * psutil.virtual_memory().available


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    there = proc(tmp_path, "4:memory:/one", "0::/one")
    group(tmp_path / "groups" / "one", 2, "max", 5 * GB)
    group(tmp_path / "groups" / "memory" / "one", 1, 2**63 - 4096, 5 * GB)
    assert free_memory(proc=there, cgroups=tmp_path / "groups") == 8 * GB


@pytest.mark.parametrize(
    ("version", "line", "place"),
    [
        (2, "0::/", ""),
        (2, "0::/outer/inner", "outer/inner"),
        (2, "0::/outer/inner", "outer"),  # the limit of a group around it holds too
        (2, "0::/docker/of/the/host", ""),  # inside a container only its own root is there
        (1, "4:cpu,memory:/job", "memory/job"),
        (1, "4:memory:/docker/of/the/host", "memory"),
    ],
)
def test_the_limit_of_a_control_group_counts_and_files_it_only_read_are_free(
    version: int, line: str, place: str, tmp_path: Path
) -> None:
    group(tmp_path / "groups" / place, version, 4 * GB, 3 * GB, idle=2 * GB)
    assert free_memory(proc=proc(tmp_path, "1:name=systemd:/", line), cgroups=tmp_path / "groups") == 3 * GB


def test_where_linux_says_nothing_the_machine_is_taken_to_be_free(tmp_path: Path) -> None:
    assert free_memory(proc=tmp_path, cgroups=tmp_path) == pytest.approx(psutil.virtual_memory().total, rel=0.1)


def test_what_the_kernel_killed_is_counted_in_groups_of_both_versions_and_on_the_machine(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    for folder in (proc / "self", cgroups / "memory" / "job", cgroups / "slice"):
        folder.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("4:memory:/job\n0::/slice\n")
    assert oom_kills(proc=proc, cgroups=cgroups) == 0
    (proc / "vmstat").write_text("nr_free_pages 7\noom_kill 1\n")
    (cgroups / "memory" / "job" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (cgroups / "slice" / "memory.events").write_text("low 0\noom 9\noom_kill 4\n")

    assert oom_kills(proc=proc, cgroups=cgroups) == 7
