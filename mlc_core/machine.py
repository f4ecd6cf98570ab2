"""What this process may use of the machine that it runs on; without torch.

Not here: how much memory (memory.py), how a fit computes (device.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")


def processors(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Count the processors that this process may use, where the system says so; else all there are.

    Parameters
    ----------
    proc, cgroups : Path
        Where Linux tells it.

    Notes
    -----
    The quota of a control group, as containers and batch systems set it, is a share of time: of 2.5 processors two are
    counted, because a thread that is stopped until the next period makes all of a fit's others wait. Linux's
    Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (version 1).
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(group) for group in control_groups("cpu", proc=proc, cgroups=cgroups)]
    return max(1, min(there, *(int(quota) for quota in quotas if quota is not None), there))


def control_groups(controller: str, *, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """List the folders of this process's groups and of those around them, of both versions; some may not be there."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        roots = (cgroups / controller, cgroups / controllers) if controllers else (cgroups,)
        root = next((one for one in roots if one.is_dir()), roots[0])
        inside = PurePosixPath(name.lstrip("/"))  # of a container: a path that is not there, around it the root
        yield from (root / one for one in (inside, *inside.parents))


def _quota(group: Path) -> float | None:
    """Tell how many processors' time a group may take; None: as much as there is."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None
