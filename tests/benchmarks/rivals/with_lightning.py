"""Lightning: a LightningModule and its Trainer, as its introduction has them. Prints the last validation loss."""

from __future__ import annotations

from typing import Any

import lightning as L  # noqa: N812 - as its documentation writes it
import torch
from torch import Tensor, nn

from tests.benchmarks.rivals.scenes import LR, WEIGHT_DECAY, Task, loaders, network, task


class LitClassifier(L.LightningModule):  # type: ignore[misc]  # untyped where it is not installed
    """Network, loss and optimizer."""

    def __init__(self, given: Task) -> None:
        super().__init__()
        self.epochs = given.epochs
        self.model = network(given.backbone)
        self.criterion = nn.BCEWithLogitsLoss()

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        loss: Tensor = self.criterion(self.model(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, labels = batch
        self.log("val_loss", self.criterion(self.model(images), labels), prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main() -> None:
    given = task()
    train, val = loaders(given)
    trainer = L.Trainer(
        max_epochs=given.epochs,
        accelerator="cpu",
        precision="bf16-mixed" if given.precision == "bf16" else "32-true",
        logger=False,  # neither files of metrics nor checkpoints: the other rivals write none
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(LitClassifier(given), train, val)
    print(float(trainer.callback_metrics["val_loss"]))  # noqa: T201 - what the benchmark reads


if __name__ == "__main__":
    main()
