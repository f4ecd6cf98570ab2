"""How much memory processes here may still take; without torch.

Not here: how much a training takes (pace.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mlc_core.machine import CGROUPS, PROC, control_groups

_NO_LIMIT: Final = 2**60  # bytes; version 1 writes nearly 2**63 for none


def free_memory(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Count the bytes that are neither in use nor beyond the limit of a control group that this process is in.

    Parameters
    ----------
    proc, cgroups : Path
        Where Linux tells it; elsewhere all of the machine's memory is taken to be free.

    Notes
    -----
    Linux's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. What a group counts as used holds files
    that were read; those not in use are given up before anything else, so they count as free.
    """
    free = [_room(group) for group in control_groups("memory", proc=proc, cgroups=cgroups)]
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(free)


def oom_kills(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Count the processes that the kernel has killed for want of memory, as far as it tells this process.

    Notes
    -----
    Linux's Documentation/admin-guide/cgroup-v2.rst (memory.events), cgroup-v1/memory.rst (memory.oom_control) and
    vmstat: of the groups that this process is in, and of the whole machine.
    """
    files = [proc / "vmstat"]
    groups = control_groups("memory", proc=proc, cgroups=cgroups)
    files += [group / name for group in groups for name in ("memory.events", "memory.oom_control")]
    return sum(_oom_kills(file) for file in files)


def _oom_kills(file: Path) -> int:
    try:
        rows = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(rows.get("oom_kill", 0))


def _room(group: Path) -> int:
    """Tell how many bytes a group may still take."""
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = ((group / name).read_text().strip() for name in (limit, used))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most != "max":
            return min(int(most) - int(taken) + int(stat.get(idle, 0)), _NO_LIMIT)
    return _NO_LIMIT
