"""Memory that a training step frees stays with the process, for its next step; glibc alone hands large maps back.

Not here: how much memory there is (memory.py).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

# What mallopt(3) calls them.
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4

_AS_LARGE_AS_CAN_BE: Final = 2**31 - 1  # bytes; it takes a C int
_USERS_OWN: Final = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Keep what is freed inside, and hand it back at the end."""
    keep_freed()
    try:
        yield
    finally:
        give_back()


@cache
def keep_freed() -> None:
    """Have glibc keep what is freed, for the rest of the process; elsewhere, or where the user told it, do nothing.

    Notes
    -----
    glibc takes blocks of more than 32 MiB from the kernel one by one and hands each back when it is freed (mallopt(3),
    M_MMAP_THRESHOLD). The kernel clears their pages anew in every step: 30 % of one of 128 pixels and 64 images.
    The price: until 2.38 glibc gives the place of an aligned block to another as large only where free memory lies
    behind it, so that a training comes to hold some maps more, at most 8 % more memory with ResNets 10 to 50.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(os.environ.get(name) for name in _USERS_OWN):
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _AS_LARGE_AS_CAN_BE)


def give_back() -> None:
    """Hand back what is free, where the C library can (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
