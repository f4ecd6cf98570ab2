"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:  # Optuna costs --help a second
    from search.data import Source
    from search.ray_pool import Cluster
    from search.spending import Allowance

MOST_WORKERS: Final = 256  # that one may ask for
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

Study = Annotated[
    str, typer.Option("--study", metavar="NAME|FILE", help="A study's name, or the TOML file that declares it.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or grpc://HOST:PORT; by default MLC_STORAGE, "
        "else mlc-search.db in this folder. Prefer MLC_STORAGE for a URL with a password: other users can "
        "read a command line.",
        show_default=False,
    ),
]
Artifacts = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        metavar="DIR|s3://BUCKET/PREFIX",
        help="Folder, or place in S3, for checkpoints and weights; by default MLC_ARTIFACTS, else mlc-search-artifacts "
        "beside the SQLite file, else in this folder. Endpoint and credentials of S3 are boto3's: AWS_ENDPOINT_URL, "
        "AWS_PROFILE, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY.",
        show_default=False,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", min=1, max=100_000, help="Full length of a trial; by default the study's.", show_default=False
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="By default the study's.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        envvar="MLC_DATA",
        help="Images with their labels: a manifest, an annotation file or a folder; without it the study's own, else "
        "the embedded digit scenes.",
        show_default=False,
        show_envvar=True,
    ),
]
Format = Annotated[
    str, typer.Option("--format", help="How the data are written, if it cannot be seen: see mlc-search data --help.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without images and rows that cannot be used, and list them.")
]
Corrections = Annotated[
    Path | None,
    typer.Option(
        "--corrections",
        metavar="FILE",
        help="Labels to lay over those of --data: a CSV file, as mlc-search labels check writes it.",
        show_default=False,
    ),
]
Patience = Annotated[
    str | None,
    typer.Option(
        "--patience",
        metavar="TIME",
        help="How long to wait for a database or artifact folder that is away: 90 (seconds), 15m, 2h; by default 10m.",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|local|ADDRESS",
        help="Workers on the nodes of a Ray cluster: HOST:6379 or ray://HOST:10001; auto: the one that this machine "
        "belongs to, else a new one of this machine alone; local: that. The database must be PostgreSQL, artifacts in "
        "S3 or a folder that all nodes share, and data at the same path on each. Wants pip install 'mlc-search[ray]'.",
        show_default=False,
    ),
]
Cpus = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-worker",
        min=1,
        help="With --ray: reserved for each worker; also the threads of a trial, where the study leaves them open.",
        show_default=False,
    ),
]
Gpus = Annotated[
    float,
    typer.Option(
        "--gpus-per-worker", min=0.0, help="With --ray: reserved for each worker, such as 0.5; 0: it sees none."
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend",
        help="Let the study go on with what its file (--study FILE) says now: further choices, wider ranges, further "
        "schedulers, a parameter moved from [fixed] to [space], another sampler or pruner. Its trials keep all they "
        "had, which must lie in the new space. Nothing may run meanwhile.",
    ),
]
WarmStart = Annotated[
    list[str] | None,
    typer.Option(
        "--warm-start",
        metavar="STUDY",
        help="Try first what was best in an earlier study, on whatever data: up to five different trials of its better "
        "half, as far as this study's space holds them. Losses are not taken over. May be repeated; doing it again "
        "adds nothing.",
        show_default=False,
    ),
]
WarmStartStorage = Annotated[
    str | None,
    typer.Option(
        "--warm-start-storage",
        metavar="URL",
        envvar="MLC_WARM_START_STORAGE",
        help="The database that holds the studies of --warm-start, as in --storage; by default this one's.",
        show_default=False,
        show_envvar=True,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option("--certificate", metavar="FILE", help="Speak TLS with this chain, in PEM.", show_default=False),
]
Key = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Its key, in PEM; by default in the chain's file.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def workers(text: str) -> int | None:
    """Read ``auto``, which is None, or a number of processes."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > MOST_WORKERS:
        problem = f"{text!r} is not auto or a whole number from 0 to {MOST_WORKERS}."
        raise typer.BadParameter(problem, param_hint="--workers")
    return int(text)


def cluster(address: str | None, *, cpus: int | None, gpus: float, workers: int | None) -> Cluster | None:
    """Say which Ray cluster workers run on, if the command line does."""
    if address is None:
        if cpus is not None or gpus:
            raise typer.BadParameter("--cpus-per-worker and --gpus-per-worker belong to --ray, which is missing.")
        return None
    if workers == 0:
        raise typer.BadParameter("--ray starts workers, --workers 0 starts none: leave one of them away.")
    if not re.fullmatch(r"auto|local|(ray://)?[\w.-]+:[0-9]{1,5}", address, re.ASCII):
        raise typer.BadParameter(f"{address!r} is none of auto, local, HOST:PORT and ray://HOST:PORT.")
    if find_spec("ray") is None:
        raise typer.BadParameter("--ray needs Ray: pip install 'mlc-search[ray]'")
    from search.ray_pool import Cluster

    return Cluster(address, cpus, gpus)


def numbers(text: str | None) -> list[int] | None:
    """Read ``2,4`` as numbers; None stays None."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 2,4.")
    return [int(part) for part in parts]


def seconds(text: str | None) -> float | None:
    """Read ``90``, ``90s``, ``15m``, ``2h`` or ``1d``; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is not a duration such as 90, 15m or 2h.")
    return float(match[1]) * _SECONDS[match[2]]


def allowance(text: str | None) -> Allowance | None:
    """Read a budget of time: ``2h`` by the clock, ``4wh`` of workers together; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(w?)([smhd])", text.strip())
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is not a budget such as 90m, 2h or 4wh (hours of all workers together).")
    from search.spending import Allowance

    return Allowance(float(match[1]) * _SECONDS[match[3]], of_workers=bool(match[2]))


def spelled(seconds: float, *, of_workers: bool = False) -> str:
    """Spell a time that is left as `seconds` or `allowance` read it."""
    unit, each = ("m", 60) if seconds >= 600 else ("s", 1)
    return f"{max(1, round(seconds / each))}{'w' * of_workers}{unit}"


def patience(text: str | None) -> float:
    """Read how long a worker waits for what is away, in seconds."""
    from search.patience import WORKERS_SECONDS

    return seconds(text) or WORKERS_SECONDS


def overrides(**given: int | None) -> dict[str, int]:
    """Keep what was given on the command line."""
    return {key: value for key, value in given.items() if value is not None}


def source(
    data: Path | None,
    format: str,  # noqa: A002 - the option's name
    *,
    skip_bad: bool,
    corrections: Path | None = None,
) -> Source | None:
    """Say where data lie, if the command line does."""
    from search.data import Source

    if data is None and (format != "auto" or skip_bad or corrections is not None):
        raise typer.BadParameter("--format, --skip-bad and --corrections belong to --data PATH, which is missing.")
    return None if data is None else Source(data, format, skip_bad, corrections)


def command(name: str, *options: object) -> str:
    """Spell a command to copy, from pairs of option and value; what is None or as by default is left out.

    A password is not repeated: the URL that holds one is to be given as before.
    """
    from search.storage import redacted

    words = ["mlc-search", name]
    for option, value in zip(options[::2], options[1::2], strict=True):
        if value is None or (option, value) == ("--study", "default"):
            continue
        if value is True:
            words.append(str(option))
        elif option == "--storage" and redacted(str(value)) != value:
            words += ["--storage", "URL"]
        else:
            words += [str(option), str(value)]
    return shlex.join(words)
