"""``pretrain``: features from images alone, for a search to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli import options
from search.cli.data import decoding
from search.cli.printing import show_json, talk

if TYPE_CHECKING:
    from mlc_core.data.unlabelled import Source
    from mlc_core.pretrain import Pretraining, PretrainReport
    from mlc_core.probe import Verdict


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pretrain")(pretrain)


def pretrain(
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the weights go, such as features.safetensors.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            envvar="MLC_DATA",
            help="A folder of images, or a data set, whose labels are not used and whose test split is left out; by "
            "default the embedded digit scenes.",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option("--format", help="As of other commands; or unlabelled: all images below a folder.")
    ] = "auto",
    skip_bad: options.SkipBad = False,
    method: Annotated[str, typer.Option("--method", help="vicreg or simsiam.")] = "vicreg",
    backbone: Annotated[str, typer.Option("--backbone", help="As a study's: resnet10, resnet18 ...")] = "resnet10",
    stem: Annotated[str, typer.Option("--stem", help="As a study's: standard or small.")] = "standard",
    image_size: Annotated[int, typer.Option("--image-size", help="Pixels, both sides; best as a study's.")] = 32,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the images.")] = 30,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images, each in two views.")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Highest learning rate.")] = 1e-3,
    seed: Annotated[
        int, typer.Option("--seed", help="Also of the splits, where the data do not say them: as the study's.")
    ] = 0,
    start: Annotated[
        str, typer.Option("--start", metavar="none|imagenet|FILE", help="What the backbone starts from.")
    ] = "none",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, tf32, bf16 or fp16.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; by default all.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Learn features from images without labels, and say whether they help.

    A search may then choose them: weights = ["none", "features.safetensors"]. Interrupted, the same command goes on.

    Example: mlc-search pretrain --data photos --out features.safetensors
    """
    from mlc_core.pretrain import Pretraining, learn

    if data is None and (format != "auto" or skip_bad):
        raise typer.BadParameter("--format and --skip-bad belong to --data PATH, which is missing.")
    asked = Pretraining(
        method=method,  # type: ignore[arg-type]  # the constructor checks it
        backbone=backbone,  # type: ignore[arg-type]
        stem=stem,  # type: ignore[arg-type]
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        start=start,
        seed=seed,
    )
    try:
        source = _gathered(data, format, asked, skip_bad=skip_bad)
        compute: dict[str, Any] = {"device": device, "threads": threads}
        reports = learn(asked, source, out, **compute, precision=precision, on_epoch=_tell)
        talk(f"The weights are {out}. Start from them: mlc-search fit weights={shlex.quote(str(out))}")
        verdict = _verdict(out, asked, source, compute)
    except KeyboardInterrupt:
        talk("Stopped. The same command goes on.")
        raise typer.Exit(130) from None
    if as_json:
        show_json(_table(out, source, reports, verdict))
    else:
        typer.echo(_sentence(verdict))


def _gathered(data: Path | None, format: str, asked: Pretraining, *, skip_bad: bool) -> Source:  # noqa: A002
    from mlc_core.data.unlabelled import gather

    with decoding() as on_progress:
        source = gather(
            data,
            format=format,
            image_size=asked.image_size,
            seed=asked.seed,
            skip_bad=skip_bad,
            on_progress=on_progress,
        )
    for problem in source.problems:
        talk(f"skipped: {problem}")
    without = "; labels are not used, the test split is left out" if source.data is not None else ""
    talk(f"Learning from {len(source.images)} images of {source.name}{without}.")
    return source


def _tell(report: PretrainReport) -> None:
    meter = f"spread {report.spread:.3f}  rank {report.rank:.1f}"
    talk(f"epoch {report.epoch:>3}/{report.epochs}  loss {report.loss:.4f}  {meter}  {report.seconds:.1f} s")
    if report.collapsed:
        talk(
            "Warning: the features have collapsed: all images look nearly the same to them. Try a lower --lr, a larger "
            "--batch-size or --method vicreg."
        )


def _verdict(out: Path, asked: Pretraining, source: Source, compute: dict[str, Any]) -> Verdict | None:
    if source.data is None:
        return None
    from mlc_core.probe import judge

    return judge(out, asked, source.data, **compute)


def _sentence(verdict: Verdict | None) -> str:
    if verdict is None:
        return "Whether it helped cannot be said without labels."
    return (
        f"Pretraining {'helped' if verdict.helped else 'did not help'}: a linear probe of its features has mAP "
        f"{verdict.learnt:.4f} on the validation split, of those at the start {verdict.start:.4f} "
        f"(difference {verdict.low:+.4f} to {verdict.high:+.4f}, 95 %)."
    )


def _table(
    out: Path, source: Source, reports: tuple[PretrainReport, ...], verdict: Verdict | None
) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "weights": str(out),
        "images": len(source.images),
        "collapsed": reports[-1].collapsed,
        "epochs": [asdict(report) for report in reports],
        "verdict": None if verdict is None else asdict(verdict) | {"helped": verdict.helped},
    }
