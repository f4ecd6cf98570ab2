"""The script that people write with torch and torchvision alone. Prints the last epoch's validation loss."""

from __future__ import annotations

import torch
from torch import nn

from tests.benchmarks.rivals.scenes import LR, WEIGHT_DECAY, loaders, network, task


def main() -> None:
    given = task()
    train, val = loaders(given)
    model = network(given.backbone)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=given.epochs)
    criterion = nn.BCEWithLogitsLoss()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16")
    val_loss = 0.0
    for _ in range(given.epochs):
        model.train()
        running = 0.0
        for images, labels in train:
            optimizer.zero_grad()
            with autocast:
                loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
        model.eval()
        total, seen = 0.0, 0
        with torch.no_grad():
            for images, labels in val:
                with autocast:
                    loss = criterion(model(images), labels)
                total += loss.item() * len(images)
                seen += len(images)
        scheduler.step()
        val_loss = total / seen
    print(val_loss)  # noqa: T201 - what the benchmark reads


if __name__ == "__main__":
    main()
