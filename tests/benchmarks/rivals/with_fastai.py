"""fastai: a DataBlock of several labels an image and a Learner, as its tutorial on them has it.

Its transforms of the batch change light and contrast only, which is less work than what mlc-search does. Prints the
last validation loss.
"""

from __future__ import annotations

import pandas as pd
from fastai.vision.all import (
    BCEWithLogitsLossFlat,
    ColReader,
    DataBlock,
    ImageBlock,
    Learner,
    MultiCategoryBlock,
    Normalize,
    Resize,
    ResizeMethod,
    aug_transforms,
    imagenet_stats,
)
from pandas import DataFrame, Series

from tests.benchmarks.rivals.scenes import CLASSES, LR, WEIGHT_DECAY, WORKERS, network, task

DIGITS = [str(digit) for digit in range(CLASSES)]


def main() -> None:
    given = task()
    table = pd.read_csv(given.folder / "labels.csv")
    block = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock(encoded=True, vocab=DIGITS)),
        splitter=halves,
        get_x=ColReader("path", pref=f"{given.folder}/"),
        get_y=ColReader(DIGITS),
        item_tfms=Resize(given.size, method=ResizeMethod.Squish),
        batch_tfms=[
            *aug_transforms(do_flip=False, max_rotate=0, max_zoom=1, max_warp=0),
            Normalize.from_stats(*imagenet_stats),
        ],
    )
    used = table[table["split"].isin(["train", "val"])].reset_index(drop=True)
    loaders = block.dataloaders(used, bs=given.batch, num_workers=WORKERS)
    learner = Learner(loaders, network(given.backbone), loss_func=BCEWithLogitsLossFlat(), wd=WEIGHT_DECAY)
    if given.precision == "bf16":
        learner.to_bf16()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(given.epochs, LR)
    print(learner.recorder.values[-1][1])  # noqa: T201 - what the benchmark reads


def halves(table: DataFrame) -> tuple[list[int], list[int]]:
    """Split by the table's column."""
    split: Series = table["split"]
    return table.index[split == "train"].tolist(), table.index[split == "val"].tolist()


if __name__ == "__main__":
    main()
