"""Memory that training frees: kept for the next step, handed back at the end, and left alone where the user chose."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

STEPS = 4
PROGRAM = f"""
import json
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
import torch
from mlc_core.device import Compute, Shape, Steps
from mlc_core.heap import keeping_freed

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

def faults():
    return getrusage(RUSAGE_SELF).ru_minflt

compute = Compute(device="cpu", precision="fp32", threads=1)
with keeping_freed():
    steps = Steps(Shape(image_size=128), torch.device("cpu"))
    for _ in range(3):
        steps.seconds(compute)
    before = faults()
    for _ in range({STEPS}):
        steps.seconds(compute)
    again, held = faults() - before, resident()
print(json.dumps({{"a_step": again / {STEPS}, "given_back": held - resident()}}))
"""
MAP = 64 * 64 * 64 * 64 * 4 / os.sysconf("SC_PAGE_SIZE")  # pages of the first convolution's

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")


def told(**environment: str) -> dict[str, float]:
    command = [sys.executable, "-P", "-c", PROGRAM]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def test_a_step_takes_the_memory_of_the_one_before_and_the_last_one_hands_it_back() -> None:
    found = told()
    assert found["a_step"] < MAP
    assert found["given_back"] > 4 * MAP


def test_where_the_user_told_the_c_library_that_holds() -> None:
    assert told(MALLOC_MMAP_THRESHOLD_=str(2**20))["a_step"] > 10 * MAP
