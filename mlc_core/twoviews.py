"""Learning from two views of an image: how the views are made, VICReg, SimSiam, and a meter of their collapse.

Not here: the loop over the epochs (pretrain.py).
"""

from __future__ import annotations

import math
from typing import Final, Literal, assert_never, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlc_core.data.augment import Reach, vary_within
from mlc_core.device import Compute, autocast
from mlc_core.model import Classifier

Method = Literal["vicreg", "simsiam"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

VIEW: Final = Reach(shift=1 / 8, rotation=15, scale=0.2, contrast=0.4, saturation=0.6, brightness=0.6, erase=0.0)
WINDOW: Final = 5 / 8  # of an image's side, that is shown to both views: of the digit scenes, a digit and a half
SMALLEST: Final = 17  # pixels of a window: below, a ResNet's last stage sees one, and only its kernels' middle learns
MARGIN: Final = 1 / 16  # of the image's side, around the window, that comes into sight when it is moved
TINT: Final = 0.8  # standard deviations by which a channel may become lighter or darker by itself
GREY: Final = 0.3  # share of the views without colours

WIDTH: Final = 512  # of the embeddings
BOTTLENECK: Final = 128  # of SimSiam's predictor


def vicreg(one: Tensor, other: Tensor) -> Tensor:
    """Keep two views' embeddings alike, each dimension varied, and dimensions apart.

    Source: Bardes, Ponce & LeCun 2022, eq. 1 to 6, with the weights 25, 25 and 1; the variance is the mean over the
    two views, as in the authors' code, where eq. 6 has their sum.

    Parameters
    ----------
    one, other : Tensor, (n, d), float32
    """
    n, d = one.shape
    alike = functional.mse_loss(one, other)
    varied, apart = one.new_zeros(()), one.new_zeros(())
    for views in (one, other):
        centred = views - views.mean(dim=0)
        varied = varied + functional.relu(1 - (centred.var(dim=0) + 1e-4).sqrt()).mean() / 2
        covariance = centred.T @ centred / (n - 1)
        apart = apart + (covariance.square().sum() - covariance.diagonal().square().sum()) / d
    return 25 * alike + 25 * varied + apart


def simsiam(told: tuple[Tensor, Tensor], embedded: tuple[Tensor, Tensor]) -> Tensor:
    """Predict each view's embedding from the other's, through which no gradient flows.

    Source: Chen & He 2021, eq. 1 to 4.

    Parameters
    ----------
    told : pair of Tensor, (n, d), float32
        The predictor's answers for the two views.
    embedded : pair of Tensor, (n, d), float32
        What the predictor was given.
    """
    (p1, p2), (z1, z2) = told, embedded
    one, other = functional.cosine_similarity(p1, z2.detach()), functional.cosine_similarity(p2, z1.detach())
    return -(one.mean() + other.mean()) / 2


class Learner(nn.Module):
    """A backbone with what is thrown away after pretraining: the projector, and SimSiam's predictor.

    Parameters
    ----------
    classifier : Classifier
        Whose backbone learns, from its present weights.
    method : one of METHODS
    seed : int
        Of the other weights.
    """

    def __init__(self, classifier: Classifier, method: Method, *, seed: int) -> None:
        super().__init__()
        self.backbone = classifier.resnet
        self.predictor: nn.Module | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [*_layer(classifier.head.in_features, WIDTH), *_layer(WIDTH, WIDTH)]
            last = nn.Linear(WIDTH, WIDTH, bias=False)
            match method:
                case "vicreg":
                    self.projector = nn.Sequential(*layers, last)
                case "simsiam":
                    self.projector = nn.Sequential(*layers, last, nn.BatchNorm1d(WIDTH, affine=False))
                    self.predictor = nn.Sequential(*_layer(WIDTH, BOTTLENECK), nn.Linear(BOTTLENECK, WIDTH))
                case other:
                    assert_never(other)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, size, size) normalized images -> (n, WIDTH) embeddings, float32."""
        embedded: Tensor = self.projector(self.backbone(images))
        return embedded.float()

    def loss(self, one: Tensor, other: Tensor, compute: Compute) -> Tensor:
        """Compare two views of the same images by the method's own loss, which is computed in float32."""
        with autocast(compute):
            z1, z2 = self(one), self(other)  # apart, so that each view has batch statistics of its own
            if self.predictor is not None:
                p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        return vicreg(z1, z2) if self.predictor is None else simsiam((p1, p2), (z1, z2))


def _layer(width: int, out: int) -> list[nn.Module]:
    return [nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.ReLU(inplace=True)]


def two_views(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut one window out of each image, and vary it twice more than a supervised training would.

    Both views of an image show the same window: cut apart, one would hold objects that the other has not, and what
    is told apart would be scenes, not what is in them. Never mirrored, because a mirrored digit is none.

    Parameters
    ----------
    images : Tensor, (n, 3, size, size), float32, normalized
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    pair of Tensor, (n, 3, side, side), float32, channels_last
    """
    size = images.shape[-1]
    side = min(size, max(SMALLEST, round(size * WINDOW)))
    margin = min(round(size * MARGIN), (size - side) // 2)
    windows = _windows(images, side + 2 * margin, generator)
    inner = slice(margin, margin + side)
    one, other = (
        _colour(vary_within(VIEW, windows, generator=generator)[:, :, inner, inner], generator) for _ in range(2)
    )
    return one, other


def _windows(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cut a square out of each image, at a place of its own."""
    n, size = len(images), images.shape[-1]
    corners = torch.randint(0, size - side + 1, (2, n, 1), generator=generator).to(images.device)
    span = torch.arange(side, device=images.device)
    rows, columns = corners[0] + span, corners[1] + span
    batch = torch.arange(n, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Make each channel lighter or darker by itself; take the colours of some images away."""
    n = len(images)
    tint = torch.rand((n, 3, 1, 1), generator=generator).mul_(2 * TINT).sub_(TINT).to(images.device)
    grey = (torch.rand((n, 1, 1, 1), generator=generator) < GREY).to(images.device)
    tinted = images + tint
    varied = torch.where(grey, tinted.mean(dim=1, keepdim=True), tinted)
    return varied.contiguous(memory_format=torch.channels_last)


def meter(embeddings: Tensor) -> tuple[float, float]:
    """Measure how far embeddings are from having collapsed.

    Parameters
    ----------
    embeddings : Tensor, (n, d), float32

    Returns
    -------
    spread : float
        Mean over dimensions of the standard deviation of l2-normalized embeddings, times the root of d: 0 where all
        are one, 1 where they are spread evenly (Chen & He 2021, section 4.1).
    rank : float
        Exponential of the entropy of the singular values' shares: 1 where all are one or opposite, at most
        min(n, d) (Roy & Vetterli 2007; as a measure of features Garrido et al. 2023).
    """
    unit = functional.normalize(embeddings.double().cpu(), dim=1)
    spread = unit.std(dim=0, correction=0).mean() * math.sqrt(unit.shape[1])
    values = torch.linalg.svdvals(unit)
    shares = values / values.sum()
    return float(spread), float(torch.special.entr(shares).sum().exp())
