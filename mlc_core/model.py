"""The classifier: a ResNet from torchvision's blocks, dropout, and one fully connected layer.

The sigmoid is not here: training wants logits (loss.py would lose digits after it), prediction applies it.
"""

from __future__ import annotations

from typing import Final, assert_never

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from mlc_core.params import BackboneName, StemName

# Residual blocks a stage: He et al. 2016, table 1; resnet10 is its smallest member with one block a stage.
_LAYERS: Final[dict[BackboneName, tuple[type[BasicBlock | Bottleneck], list[int]]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}


class Classifier(nn.Module):
    """Images in, one logit a class out.

    Parameters
    ----------
    backbone : one of params.BACKBONES
    stem : "standard" or "small"
        The standard stem (7 x 7, stride 2, then max pooling) halves an image twice before the first block;
        the small one (3 x 3, stride 1, then max pooling) halves it once and suits images below 64 pixels.
    dropout : float, in [0, 1)
        Between the pooled features and the fully connected layer.
    classes : int
    """

    def __init__(self, *, backbone: BackboneName, stem: StemName, dropout: float, classes: int) -> None:
        super().__init__()
        block, layers = _LAYERS[backbone]
        self.resnet = ResNet(block, layers, num_classes=1)
        features = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        match stem:
            case "small":
                self.resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
                nn.init.kaiming_normal_(self.resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
            case "standard":
                pass
            case other:
                assert_never(other)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) normalized images -> (n, classes) logits, float32."""
        features: Tensor = self.resnet(images)
        logits: Tensor = self.head(self.dropout(features))
        return logits.float()


def build(*, backbone: BackboneName, stem: StemName, dropout: float, classes: int, seed: int) -> Classifier:
    """Build a classifier whose initial weights are a function of the seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(backbone=backbone, stem=stem, dropout=dropout, classes=classes)
