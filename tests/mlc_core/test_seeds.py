"""One seed, named streams: every number is a function of (seed, stream, epoch)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_core import Stream, stream_seed

SEEDS = st.integers(0, 2**63 - 1)
DRAWS = st.tuples(SEEDS, st.sampled_from(Stream), st.integers(0, 100_000))


@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_a_streams_seed_is_numpys_grandchild_of_the_seed(seed: int, stream: Stream) -> None:
    """numpy documents spawning as the way to independent streams; here it is done step by step."""
    children = np.random.SeedSequence(seed).spawn(len(Stream))[stream].spawn(4)

    spawned = [int(child.generate_state(1, np.uint64)[0]) // 2 for child in children]

    assert [stream_seed(seed, stream, epoch) for epoch in range(4)] == spawned


@given(DRAWS)
def test_a_streams_seed_is_one_that_torch_takes(draw: tuple[int, Stream, int]) -> None:
    assert 0 <= stream_seed(*draw) < 2**63


@given(DRAWS, DRAWS)
def test_two_streams_share_no_seed(one: tuple[int, Stream, int], other: tuple[int, Stream, int]) -> None:
    assert (stream_seed(*one) == stream_seed(*other)) == (one == other)


def test_streams_keep_their_numbers_because_old_seeds_keep_their_bits() -> None:
    numbers = {"INIT": 0, "SHUFFLE": 1, "AUGMENT": 2, "DROPOUT": 3, "SAMPLER": 4, "TRIAL": 5, "SPLIT": 6, "CONFIRM": 7}
    numbers |= {"BOOTSTRAP": 8, "PRETRAIN": 9}
    assert {stream.name: int(stream) for stream in Stream} == numbers


def test_an_epoch_of_its_own_is_not_the_stream_without_one() -> None:
    assert stream_seed(3, Stream.INIT) == stream_seed(3, Stream.INIT, 0) != stream_seed(3, Stream.INIT, 1)
