"""A study of two objectives or with limits, whose trials take a second; everything else is real.

Sizes are used where a test must not hang on how fast the machine is: ResNet-10 has 19.7 MB, ResNet-18 44.8, ResNet-34
85.2.
"""

from __future__ import annotations

from pathlib import Path

from tests import small

NAME = "weighed"
_TOML = """
name = "weighed"
epochs = {epochs}
keep = 1
{top}

[sampler]
name = "{sampler}"
{startup}

[pruner]
name = "{pruner}"
{factor}

[space]
lr = {{ low = 1e-4, high = 1e-2, log = true }}
backbone = {backbones}

[fixed]
batch_size = 1000
image_size = 8

{limits}
"""


def declare(
    folder: Path,
    *,
    epochs: int = 2,
    against: str | None = "size",
    limits: str = "",
    sampler: str = "random",
    pruner: str = "none",
    backbones: tuple[str, ...] = ("resnet10", "resnet18"),
) -> Path:
    """Write the study's file."""
    file = folder / "weighed.toml"
    top = f'against = "{against}"' if against else ""
    table = f"[limits]\n{limits}" if limits else ""
    named = str(list(backbones)).replace("'", '"')
    factor = "reduction_factor = 2" if pruner == "promote" else ""
    told = {
        "sampler": sampler,
        "startup": small.startup(sampler),
        "pruner": pruner,
        "factor": factor,
        "backbones": named,
    }
    file.write_text(_TOML.format(epochs=epochs, top=top, limits=table, **told))
    return file
