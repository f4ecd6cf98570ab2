"""A study whose trials take a second: the embedded scenes at 8 pixels in large batches; everything else is real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from search.options import SAMPLERS

NAME = "small"
_TOML = """
name = "small"
epochs = {epochs}
keep = 2

[sampler]
name = "{sampler}"
{startup}

[pruner]
name = "{pruner}"

[space]
optimizer = ["adam", "adamw"]
lr = {{ low = 1e-5, high = 1e-2, log = true }}
weight_decay = {{ low = 1e-6, high = 1e-2, log = true }}
dropout = {{ low = 0.0, high = 0.6 }}
batch_size = [64, 80, 1000]

[space.scheduler.step]
step_size = {{ low = 1, high = 12 }}
gamma = {{ low = 0.05, high = 0.9 }}

[space.scheduler.plateau]
factor = {{ low = 0.05, high = 0.9 }}
patience = {{ low = 0, high = 5 }}

[space.scheduler.cosine]
t_max = {{ low = 6, high = 40 }}

[fixed]
image_size = 8
"""


def declare(
    folder: Path,
    *,
    epochs: int = 2,
    sampler: str = "curves",
    pruner: str = "hyperband",
    large_batches: bool = True,
) -> Path:
    """Write the study's file. Large batches only, unless documented trials must lie in its space."""
    toml = _TOML.format(epochs=epochs, sampler=sampler, startup=startup(sampler), pruner=pruner)
    if large_batches:
        toml = toml.replace("[64, 80, 1000]", "[500, 1000]")
    file = folder / "small.toml"
    file.write_text(toml)
    return file


def startup(sampler: str) -> str:
    """Write the sampler's option by which most of a few draws are its own; empty where it has none."""
    return "startup = 3" if any(option.name == "startup" for option in fields(SAMPLERS[sampler])) else ""


def command(*words: object) -> list[str]:
    """Spell a call of the command line as this interpreter runs it, from whatever folder."""
    return [sys.executable, "-P", "-m", "search.cli", *map(str, words)]


def call(
    *words: object, folder: Path, storage: str, code: int = 0, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the folder; its exit code must be as expected."""
    environment = {**os.environ, "MLC_STORAGE": storage}
    environment.pop("MLC_ARTIFACTS", None)
    done = subprocess.run(
        command(*words), cwd=folder, env=environment, capture_output=True, text=True, input=stdin, timeout=300
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def rows(folder: Path, storage: str) -> list[dict[str, object]]:
    """Read the trials through the command line's JSON."""
    listed: list[dict[str, object]] = json.loads(
        call("trials", "--study", NAME, "--json", folder=folder, storage=storage).stdout
    )
    return listed
