"""What happens to a batch on its way into the network, against Pillow, torchvision, numpy and geometry."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import rgb_to_grayscale

from mlc_core.data.augment import (
    CONTRAST,
    ERASED,
    MEDIUM,
    SHIFT,
    STRONG,
    Reach,
    augment,
    normalize,
    vary,
    vary_within,
)
from mlc_core.params import AUGMENTS, AugmentName, Params

MEAN, STD = torch.tensor([10.0, 20.0, 30.0])[None, :, None, None], torch.tensor([2.0, 4.0, 8.0])[None, :, None, None]
NEUTRAL = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
VARYING = [policy for policy in AUGMENTS if policy != "none"]


def noise(n: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), generator=seeded(seed)).to(torch.uint8)


def batch_of(n: int, size: int, *, seed: int = 1) -> Tensor:
    images = torch.randn(n, 3, size, size, generator=seeded(seed))
    return images.contiguous(memory_format=torch.channels_last)


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


def plainly_normalized(images: Tensor, *, mean: Tensor, std: Tensor, size: int) -> Tensor:
    """The formula, a pass over the whole batch for each step."""
    floats = images.to(torch.float32, memory_format=torch.channels_last)
    if images.shape[-1] != size:
        floats = functional.interpolate(floats, size=(size, size), mode="bilinear", antialias=True)
    return (floats - mean) / std


def plainly_light(images: Tensor, generator: torch.Generator) -> Tensor:
    """The light policy's formula: each pixel is looked up where its draw says, in images with a border of 0."""
    n, _, size, _ = images.shape
    reach = max(1, round(size * SHIFT))
    draws = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=generator).to(images.device)
    padded = functional.pad(images, (reach, reach, reach, reach))
    rows, columns = (draws + torch.arange(size, device=images.device)).unbind()
    batch, channels = torch.arange(n)[:, None, None, None], torch.arange(3)[None, :, None, None]
    moved = padded[batch, channels, rows[:, None, :, None], columns[:, None, None, :]]
    factor = torch.rand((n, 1, 1, 1), generator=generator).mul_(2 * CONTRAST).add_(1 - CONTRAST)
    return moved * factor.to(images.device)


def bits(images: Tensor) -> NDArray[np.int32]:
    """What == takes for the same may differ: 0.0 and -0.0."""
    return images.cpu().numpy().view(np.int32)


def explain(image: Tensor, varied: Tensor, reach: int) -> tuple[int, int, float]:
    """Find by trying all of them which shift and contrast lead from one image to the other."""
    before, after = image.numpy(), varied.numpy()
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            moved = shifted(before, down, right)
            factor = float((after * moved).sum() / (moved * moved).sum())
            if np.allclose(after, factor * moved, atol=1e-5):
                return down, right, factor
    raise AssertionError("no shift and contrast explain the image")


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
    batch = batch_of(4, 16)
    assert augment(batch, "none", generator=seeded(0)) is batch
    assert vary(batch, torch.ones(4, dtype=torch.bool), Params(augment="none"), generator=seeded(0)) is batch


def test_light_shifts_each_image_by_up_to_a_twelfth_and_changes_its_contrast_by_up_to_a_fifth() -> None:
    assert (SHIFT, CONTRAST) == (1 / 12, 0.2)
    batch = batch_of(200, 24)

    varied = augment(batch, "light", generator=seeded(2))

    found = [explain(image, change, reach=3) for image, change in zip(batch, varied, strict=True)]
    downs, rights, factors = (set(column) for column in zip(*found, strict=True))
    assert downs == rights == {-2, -1, 0, 1, 2}  # 24 / 12
    assert 0.8 <= min(factors) < 0.85 < 1.15 < max(factors) <= 1.2
    assert len(factors) == 200  # each image by its own draw


def test_even_the_smallest_image_moves_by_a_pixel() -> None:
    batch = batch_of(50, 8)
    varied = augment(batch, "light", generator=seeded(2))
    shifts = {explain(image, change, reach=1)[:2] for image, change in zip(batch, varied, strict=True)}
    assert shifts == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("policy", AUGMENTS)
@pytest.mark.parametrize(("size", "n"), [(32, 1), (32, 129), (64, 67), (128, 33), (128, 10)])
def test_a_batch_has_the_bits_of_the_plain_formula(size: int, n: int, policy: AugmentName, device: str) -> None:
    images, none = noise(n, size, size).to(device), torch.zeros(n, dtype=torch.bool)
    mean, std = (torch.rand(1, 3, 1, 1, generator=seeded(seed)).mul(60).add(40).to(device) for seed in (1, 2))
    images[: n // 2] = torch.arange(n // 2, device=device)[:, None, None, None] % 2 * 255  # no noise: black and white
    mean[0, 0] = 255.0  # white becomes exactly the mean colour

    plain = plainly_normalized(images, mean=mean, std=std, size=size)
    batch = normalize(images, mean=mean, std=std, size=size)
    varied = vary(batch, none, Params(augment=policy, flip=0.5), generator=seeded(5))

    np.testing.assert_array_equal(bits(batch), bits(plain))
    generator = seeded(5)
    plainly = plainly_light if policy == "light" else partial(augment, policy=policy)
    expected = plainly(plain, generator=generator)
    mirrored = torch.rand((n, 1, 1, 1), generator=generator).to(device) < 0.5
    np.testing.assert_array_equal(bits(varied), bits(torch.where(mirrored, expected.flip(-1), expected)))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert varied.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("policy", AUGMENTS)
def test_in_parts_a_batch_has_the_bits_that_it_has_as_a_whole(
    policy: AugmentName, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, none = noise(23, 40, 40), torch.zeros(23, dtype=torch.bool)
    made = []
    for part in (1, 3 * 4 * 3 * 40 * 40, 2**30):  # bytes: an image each, three each, all
        monkeypatch.setattr("mlc_core.data.augment._PART", part)
        batch = normalize(images, mean=MEAN, std=STD, size=40)
        made.append(bits(vary(batch, none, Params(augment=policy), generator=seeded(2))))
    np.testing.assert_array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[1], made[2])


def test_a_batch_of_no_images_is_one_of_no_images() -> None:
    batch = normalize(noise(0, 16, 16), mean=MEAN, std=STD, size=16)
    assert batch.shape == augment(batch, "light", generator=seeded(0)).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("reach", [MEDIUM, STRONG])
def test_each_image_is_turned_scaled_and_shifted_within_reach(reach: Reach) -> None:
    """An image of its own coordinates tells where each pixel came from: bilinear sampling of a plane is exact."""
    n, size = 300, 24
    middle = torch.arange(size) - (size - 1) / 2
    x, y = middle.expand(size, size), middle[:, None].expand(size, size)
    here = torch.stack([x, y, torch.ones(size, size)])
    still = replace(reach, contrast=0, saturation=0, brightness=0, erase=0)

    moved = vary_within(still, here.expand(n, 3, size, size), generator=seeded(3))

    matrices = []
    for image in moved:
        inside = image[2] > 1 - 1e-6  # no part of such a pixel came from beyond the border
        assert inside.sum() > size * size / 3
        places = torch.stack([x[inside], y[inside], torch.ones(int(inside.sum()))], dim=1)
        origins = image[:2][:, inside].T
        matrix = torch.linalg.lstsq(places, origins).solution
        assert torch.allclose(places @ matrix, origins, atol=1e-3)
        matrices.append(matrix)
    (a, b), (c, d), shifts = (torch.stack([matrix[row] for matrix in matrices]).T for row in range(3))
    assert torch.allclose(a, d, atol=1e-4)
    assert torch.allclose(b, -c, atol=1e-4)  # turned and scaled, neither sheared nor mirrored
    degrees, scale = torch.atan2(b, a).rad2deg(), 1 / torch.hypot(a, b)
    for found, most in (
        (degrees, reach.rotation),
        (scale - 1, reach.scale),
        *((s / size, reach.shift) for s in shifts),
    ):
        assert -most - 1e-3 <= found.min() < -0.9 * most
        assert 0.9 * most < found.max() <= most + 1e-3
    for one, other in ((degrees, scale), (degrees, shifts[0]), (scale, shifts[1]), (shifts[0], shifts[1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.2  # drawn apart


@pytest.mark.parametrize("reach", [MEDIUM, STRONG])
def test_each_image_changes_saturation_contrast_and_brightness_within_reach(reach: Reach) -> None:
    batch = batch_of(300, 8)
    still = replace(reach, shift=0, rotation=0, scale=0, erase=0)

    varied = vary_within(still, batch, generator=seeded(3))

    told = []
    for before, after in zip(batch, varied, strict=True):
        parts = torch.stack([before, rgb_to_grayscale(before, num_output_channels=3), torch.ones_like(before)])
        kept, greyed, added = torch.linalg.lstsq(parts.flatten(1).T, after.flatten()[:, None]).solution[:, 0]
        assert torch.allclose(kept * parts[0] + greyed * parts[1] + added, after, atol=1e-3)
        told.append([kept / (kept + greyed) - 1, kept + greyed - 1, added])
    for found, most in zip(np.array(told).T, (reach.saturation, reach.contrast, reach.brightness), strict=True):
        assert -most - 1e-3 <= found.min() < -0.9 * most
        assert 0.9 * most < found.max() <= most + 1e-3
    assert np.abs(np.corrcoef(np.array(told).T) - np.eye(3)).max() < 0.2  # drawn apart


def test_half_of_the_images_lose_a_rectangle_to_the_mean_colour_the_others_nothing() -> None:
    n, size = 400, 40
    only = Reach(shift=0, rotation=0, scale=0, contrast=0, saturation=0, brightness=0, erase=0.5)
    batch = batch_of(n, size)
    whole = vary_within(replace(only, erase=0), batch, generator=seeded(4))
    torch.testing.assert_close(whole, batch, atol=1e-4, rtol=0)

    varied = vary_within(only, batch, generator=seeded(4))

    areas, ratios = [], []
    for before, after in zip(whole, varied, strict=True):
        changed = (before != after).any(dim=0)
        if not changed.any():
            continue
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert torch.equal(changed, rows[:, None] & columns)
        for side in (rows, columns):
            assert int(side.int().diff().abs().sum()) <= 2  # without a gap
        assert (after[:, changed] == 0).all()
        areas.append(float(changed.float().mean()))
        ratios.append(float(rows.sum() / columns.sum()))
    assert 0.4 * n < len(areas) < 0.6 * n
    assert ERASED == (0.02, 0.15)
    assert 0.01 < min(areas) < 0.04  # a border may fall either side of a pixel's centre
    assert 0.13 < max(areas) < 0.17
    assert 0.2 < min(ratios) < 0.5
    assert 2 < max(ratios) < 5


def test_strong_reaches_further_than_medium_and_alone_erases() -> None:
    for field in ("shift", "rotation", "scale", "contrast", "saturation", "brightness", "erase"):
        assert 0 <= getattr(MEDIUM, field) < getattr(STRONG, field)
    assert (MEDIUM.shift, MEDIUM.contrast, MEDIUM.erase) == (SHIFT, CONTRAST, 0)


@pytest.mark.parametrize("policy", AUGMENTS)
@pytest.mark.parametrize(("flip", "fewest", "most"), [(0.25, 30, 70), (0.5, 75, 125), (1.0, 200, 200)])
def test_each_image_is_mirrored_by_its_chance_whatever_the_policy(
    policy: AugmentName, flip: float, fewest: int, most: int
) -> None:
    batch, none = batch_of(200, 12), torch.zeros(200, dtype=torch.bool)
    params = Params(augment=policy)

    plain = vary(batch, none, params, generator=seeded(2))
    flipped = vary(batch, none, replace(params, flip=flip), generator=seeded(2))

    same = (flipped == plain).flatten(1).all(dim=1)
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~same)
    assert fewest <= mirrored.sum() <= most


@pytest.mark.parametrize("rare", [[0, 1, 0, 1, 1, 0], [1] * 6, [0] * 6])
def test_images_with_a_rare_class_get_the_policy_of_their_own(rare: list[int]) -> None:
    batch, mask = batch_of(6, 16), torch.tensor(rare, dtype=torch.bool)
    for params, kept in (
        (Params(augment="none", rare_augment="strong"), ~mask),
        (Params(augment="strong", rare_augment="none"), mask),
    ):
        varied = vary(batch, mask, params, generator=seeded(2))
        same = (varied == batch).flatten(1).all(dim=1)
        assert torch.equal(same, kept)
        assert varied.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("policy", AUGMENTS)
def test_without_a_policy_of_their_own_images_with_a_rare_class_are_drawn_like_all(policy: AugmentName) -> None:
    batch, mask = batch_of(6, 16), torch.tensor([True, False] * 3)
    alike = augment(batch, policy, generator=seeded(2))
    for rare, params in (
        (mask, Params(augment=policy)),
        (mask, Params(augment=policy, rare_augment=policy)),
        (torch.zeros(6, dtype=torch.bool), Params(augment=policy, rare_augment="strong")),
    ):
        assert torch.equal(vary(batch, rare, params, generator=seeded(2)), alike)


@pytest.mark.parametrize("policy", VARYING)
def test_the_same_seed_varies_a_batch_in_the_same_way_and_another_in_another(policy: AugmentName) -> None:
    batch = batch_of(8, 16)
    torch.manual_seed(0)
    once = augment(batch, policy, generator=seeded(5))
    torch.manual_seed(1)  # the global generator has no say
    assert torch.equal(once, augment(batch, policy, generator=seeded(5)))
    assert not torch.equal(once, augment(batch, policy, generator=seeded(6)))


@pytest.mark.parametrize("policy", VARYING)
def test_the_number_of_threads_changes_no_bit(policy: AugmentName) -> None:
    batch, threads = batch_of(67, 37), torch.get_num_threads()
    varied = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            varied.append(augment(batch, policy, generator=seeded(5)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(varied[0], varied[1])
    assert torch.equal(varied[0], varied[2])


@settings(deadline=None)
@given(st.sampled_from(AUGMENTS), st.integers(1, 5), st.integers(8, 40), st.integers(0, 99))
def test_whatever_the_batch_it_keeps_its_shape_and_layout_and_is_left_as_it_was(
    policy: AugmentName, n: int, size: int, seed: int
) -> None:
    batch = batch_of(n, size, seed=seed)
    before = batch.clone()

    varied = augment(batch, policy, generator=seeded(seed))

    assert varied.shape == batch.shape
    assert varied.dtype == torch.float32
    assert varied.is_contiguous(memory_format=torch.channels_last)
    assert varied.isfinite().all()
    assert torch.equal(batch, before)
