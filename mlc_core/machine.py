"""What this process may use of the machine that it runs on; without torch.

Not here: how a fit computes (device.py).
"""

from __future__ import annotations

import os


def processors() -> int:
    """Count the processors that this process may use, where the system says so; else all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
