"""timm: its ResNet, transforms, loader, optimizer and schedule, put together as its train.py does.

The package ships the recipe's parts, not the script. Random resized crops, which it starts from, would cut digits
out of sight, so that the scene is only squeezed. Prints the last validation loss.
"""

from __future__ import annotations

import torch
from timm.data import create_loader
from timm.models.resnet import BasicBlock, ResNet
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.benchmarks.rivals.scenes import CLASSES, LAYERS, LR, WEIGHT_DECAY, WORKERS, Scenes, Task, task


def main() -> None:
    given = task()
    train, val = (loader(given, split) for split in ("train", "val"))
    model = ResNet(BasicBlock, LAYERS[given.backbone], num_classes=CLASSES)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    schedule, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=given.epochs)
    criterion = nn.BCEWithLogitsLoss()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16")
    losses = AverageMeter()
    for epoch in range(epochs):
        model.train()
        losses.reset()
        for images, labels in train:
            with autocast:
                loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
        model.eval()
        losses.reset()
        with torch.inference_mode():
            for images, labels in val:
                with autocast:
                    loss = criterion(model(images), labels)
                losses.update(loss.item(), len(images))
        schedule.step(epoch + 1)
    print(losses.avg)  # noqa: T201 - what the benchmark reads


def loader(given: Task, split: str) -> DataLoader[tuple[Tensor, Tensor]]:
    """Make timm's loader, which sets its own transform and normalizes whole batches."""
    made: DataLoader[tuple[Tensor, Tensor]] = create_loader(
        Scenes(given.folder, split, transform=torch.as_tensor),  # replaced by the loader's own
        input_size=(3, given.size, given.size),
        batch_size=given.batch,
        is_training=split == "train",
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        hflip=0.0,  # a mirrored digit is another
        color_jitter=0.2,
        crop_pct=1.0,
        num_workers=WORKERS,
        device=torch.device("cpu"),
    )
    return made


if __name__ == "__main__":
    main()
