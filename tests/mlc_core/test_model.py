"""The classifier, against torchvision's own networks and their documented sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from mlc_core.model import Classifier, build
from mlc_core.params import BACKBONES, STEMS, BackboneName, StemName

# torchvision's documentation gives num_params with 1000 classes; the fully connected layer is taken off here.
DOCUMENTED = {
    "resnet18": 11_689_512 - 513 * 1000,
    "resnet34": 21_797_672 - 513 * 1000,
    "resnet50": 25_557_032 - 2049 * 1000,
    "resnet101": 44_549_160 - 2049 * 1000,
}
# One block a stage instead of two: without two 3 x 3 convolutions of c channels and their batch normalizations.
DOCUMENTED["resnet10"] = DOCUMENTED["resnet18"] - sum(2 * 9 * c * c + 2 * 2 * c for c in (64, 128, 256, 512))
FEATURES = {"resnet10": 512, "resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}


def small(*, seed: int = 0, dropout: float = 0.0, stem: StemName = "standard", classes: int = 3) -> Classifier:
    return build(backbone="resnet10", stem=stem, dropout=dropout, classes=classes, seed=seed)


def pictures(n: int = 4, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_network_has_the_documented_size_and_gives_a_logit_a_class(
    backbone: BackboneName, stem: StemName
) -> None:
    model = build(backbone=backbone, stem=stem, dropout=0.1, classes=7, seed=0).eval()

    with torch.inference_mode():
        logits = model(pictures(2))

    assert (logits.shape, logits.dtype) == ((2, 7), torch.float32)
    smaller_stem = 3 * 64 * (7 * 7 - 3 * 3) if stem == "small" else 0
    head = (FEATURES[backbone] + 1) * 7
    assert sum(weights.numel() for weights in model.parameters()) == DOCUMENTED[backbone] - smaller_stem + head


@pytest.mark.parametrize(("backbone", "theirs"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_with_torchvisions_weights_the_logits_are_torchvisions(backbone: BackboneName, theirs: type[nn.Module]) -> None:
    reference = theirs(num_classes=5).eval()
    model = build(backbone=backbone, stem="standard", dropout=0.5, classes=5, seed=0).eval()
    weights = reference.state_dict()
    model.head.load_state_dict({"weight": weights.pop("fc.weight"), "bias": weights.pop("fc.bias")})
    model.resnet.load_state_dict(weights)

    with torch.inference_mode():
        assert torch.equal(model(pictures()), reference(pictures()))


@pytest.mark.parametrize(("stem", "sides"), [("standard", [8, 4, 2, 1]), ("small", [16, 8, 4, 2])])
def test_the_small_stem_keeps_an_image_twice_as_large_on_each_side(stem: StemName, sides: list[int]) -> None:
    model = small(stem=stem).eval()
    seen: list[int] = []
    for stage in (model.resnet.layer1, model.resnet.layer2, model.resnet.layer3, model.resnet.layer4):
        stage.register_forward_hook(lambda _module, _given, made: seen.append(made.shape[-1]))

    with torch.inference_mode():
        model(pictures(size=32))

    assert seen == sides


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (small(seed=seed, stem="small").state_dict() for seed in (3, 3, 4))

    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if name.endswith("conv1.weight") or name.startswith("head")]
    assert len(drawn) == 1 + 4 + 2  # the stem, a block a stage, the head
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_building_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small(seed=3).head.weight
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(small(seed=3).head.weight, first)


def test_dropout_zeroes_its_share_of_the_heads_input_and_enlarges_the_rest() -> None:
    model = small(dropout=0.25)
    pooled: list[Tensor] = []
    kept: list[Tensor] = []
    model.resnet.register_forward_hook(lambda _module, _given, made: pooled.append(made.detach()))
    model.head.register_forward_pre_hook(lambda _module, given: kept.append(given[0].detach()))

    model.train()(pictures(64))

    (features,), (dropped,) = pooled, kept
    assert features.shape == (64, 512)
    through = dropped != 0
    torch.testing.assert_close(dropped[through], features[through] / 0.75)
    share = through.sum().item() / (features != 0).sum().item()
    assert share == pytest.approx(0.75, abs=0.01)  # of 32,768 draws: four standard deviations


def test_nothing_is_dropped_in_evaluation_or_at_a_chance_of_zero() -> None:
    torch.manual_seed(0)
    model = small(dropout=0.9).eval()
    assert torch.equal(model(pictures()), model(pictures()))
    model = small(dropout=0.0).train()
    assert torch.equal(model(pictures()), model(pictures()))


def test_the_head_starts_with_no_class_preferred_by_its_position() -> None:
    heads = torch.stack([small(seed=seed, classes=4).head.bias.detach() for seed in range(5)])
    assert heads.abs().max() <= 512**-0.5  # torch's own initialization: uniform within 1 / sqrt(inputs)
    assert len(set(heads.flatten().tolist())) == 20


def test_logits_are_float32_even_where_the_network_computes_in_bfloat16() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert small().eval()(pictures()).dtype == torch.float32
