"""What happens to a batch on its way into the network, against Pillow and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mlc_core.data.augment import CONTRAST, SHIFT, augment, normalize
from mlc_core.params import AugmentName

MEAN, STD = torch.tensor([10.0, 20.0, 30.0])[None, :, None, None], torch.tensor([2.0, 4.0, 8.0])[None, :, None, None]
NEUTRAL = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)


def noise(n: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), generator=seeded(seed)).to(torch.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifted(image: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """Move a (3, size, size) image; zeros come in."""
    moved = np.zeros_like(image)
    size = image.shape[-1]
    to_y, to_x = slice(max(down, 0), size + min(down, 0)), slice(max(right, 0), size + min(right, 0))
    from_y, from_x = slice(max(-down, 0), size + min(-down, 0)), slice(max(-right, 0), size + min(-right, 0))
    moved[:, to_y, to_x] = image[:, from_y, from_x]
    return moved


def explain(image: Tensor, varied: Tensor, reach: int) -> tuple[int, int, bool, float]:
    """Find by trying all of them which shift, mirroring and contrast lead from one image to the other."""
    before, after = image.numpy(), varied.numpy()
    for mirrored in (False, True):
        seen = after[:, :, ::-1] if mirrored else after
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                moved = shifted(before, down, right)
                factor = float((seen * moved).sum() / (moved * moved).sum())
                if np.allclose(seen, factor * moved, atol=1e-5):
                    return down, right, mirrored, factor
    raise AssertionError("no shift, mirroring and contrast explain the image")


def test_a_batch_of_the_right_size_is_only_normalized() -> None:
    images = noise(4, 16, 16)
    before = images.clone()

    batch = normalize(images, mean=MEAN, std=STD, size=16)

    expected = (images.numpy() - MEAN.numpy()) / STD.numpy()
    np.testing.assert_array_equal(batch.numpy(), expected.astype(np.float32))
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


@settings(deadline=None)
@given(st.integers(8, 48), st.integers(8, 48), st.integers(8, 48), st.integers(0, 99))
def test_resizing_agrees_with_pillow(height: int, width: int, size: int, seed: int) -> None:
    images = noise(1, height, width, seed=seed)

    batch = normalize(images, mean=NEUTRAL[0], std=NEUTRAL[1], size=size)

    assert batch.shape == (1, 3, size, size)
    for channel in range(3):
        level = Image.fromarray(images[0, channel].numpy().astype(np.float32))
        expected = np.asarray(level.resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(batch[0, channel].numpy(), expected, atol=0.01)


def test_no_augmentation_is_the_batch_itself() -> None:
    batch = torch.randn(4, 3, 16, 16)
    assert augment(batch, "none", generator=seeded(0)) is batch


@pytest.mark.parametrize(("policy", "mirrors"), [("light", False), ("flip", True)])
def test_each_image_is_shifted_by_up_to_a_twelfth_its_contrast_changed_by_up_to_a_fifth_and_flip_mirrors_half(
    policy: AugmentName, mirrors: bool
) -> None:
    assert (SHIFT, CONTRAST) == (1 / 12, 0.2)
    batch = torch.randn(200, 3, 24, 24, generator=seeded(1))

    varied = augment(batch, policy, generator=seeded(2))

    found = [explain(image, change, reach=3) for image, change in zip(batch, varied, strict=True)]
    downs, rights, mirrored, factors = (set(column) for column in zip(*found, strict=True))
    assert downs == rights == {-2, -1, 0, 1, 2}  # 24 / 12
    assert 0.8 <= min(factors) < 0.85 < 1.15 < max(factors) <= 1.2
    assert len(factors) == 200  # each image by its own draw
    assert mirrored == ({False, True} if mirrors else {False})
    if mirrors:
        assert 60 <= sum(mirror for _, _, mirror, _ in found) <= 140


def test_even_the_smallest_image_moves_by_a_pixel() -> None:
    batch = torch.randn(50, 3, 8, 8, generator=seeded(1))
    varied = augment(batch, "light", generator=seeded(2))
    shifts = {explain(image, change, reach=1)[:2] for image, change in zip(batch, varied, strict=True)}
    assert shifts == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


@pytest.mark.parametrize("policy", ["light", "flip"])
def test_the_same_seed_varies_a_batch_in_the_same_way_and_another_in_another(policy: AugmentName) -> None:
    batch = torch.randn(8, 3, 16, 16)
    torch.manual_seed(0)
    once = augment(batch, policy, generator=seeded(5))
    torch.manual_seed(1)  # the global generator has no say
    assert torch.equal(once, augment(batch, policy, generator=seeded(5)))
    assert not torch.equal(once, augment(batch, policy, generator=seeded(6)))
