"""One seed, named streams. No state: every number is a function of (seed, stream, epoch).

Because the order of images, their augmentation and the dropout masks of an epoch depend on nothing else,
a fit that goes on from a checkpoint draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """What a random number is for. Append only, so that old seeds keep their bits."""

    INIT = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3
    SAMPLER = 4
    TRIAL = 5
    SPLIT = 6
    CONFIRM = 7
    BOOTSTRAP = 8
    PRETRAIN = 9


def stream_seed(seed: int, stream: Stream, epoch: int = 0) -> int:
    """Derive a stream's seed, in [0, 2**63), for one epoch or one trial (0: not tied to any).

    Source: numpy.random.SeedSequence, spawn keys.
    """
    import numpy as np  # costs a tenth of a second, which --help has not

    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), epoch))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
