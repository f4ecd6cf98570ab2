"""A batch in parts that memory has room for, and one step all the same; what it looks like when memory runs out.

Not here: starting again with smaller parts (training.py); how much memory there is (memory.py).
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from mlc_core.heap import give_back
from mlc_core.optimize import Weights

# Images; of fewer, batch normalization's statistics are mostly noise (Wu & He 2018, figure 1).
SMALLEST_MICRO_BATCH: Final = 4
_SAID: Final = (
    "DefaultCPUAllocator: ",
    "std::bad_alloc",
    "could not create a memory object",  # oneDNN
    "could not create a primitive",  # oneDNN, whose primitives have buffers
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def parts(images: int, micro_batch: int) -> list[slice]:
    """Cut a batch of at least two images evenly into parts of at most `micro_batch`, as few as there can be.

    None of them is a single image, of which batch normalization cannot estimate a variance: rather one of three.
    """
    count = min(-(-images // micro_batch), images // 2)
    ends = [images * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def differentiate(weights: Weights, losses: Iterable[Tensor]) -> None:
    """Replace the slopes by those of a sum of losses; each is computed once the one before needs no memory any more."""
    for number, loss in enumerate(losses):
        earlier = [slope.clone() for slope in _slopes(weights)] if number else []
        weights.differentiate(loss)
        if earlier:
            torch._foreach_add_(_slopes(weights), earlier)


def smaller(micro_batch: int) -> int | None:
    """Return the next size to try where memory ran out with this one; None where it is the smallest."""
    return None if micro_batch <= SMALLEST_MICRO_BATCH else max(SMALLEST_MICRO_BATCH, -(-micro_batch // 2))


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that there was no memory, of the host or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def release() -> None:
    """Give back what a failed attempt held; nothing may refer to it any more."""
    gc.collect()
    give_back()
    torch.cuda.empty_cache()


def _slopes(weights: Weights) -> list[Tensor]:
    return [weight.grad for weight in weights.stepped if weight.grad is not None]
