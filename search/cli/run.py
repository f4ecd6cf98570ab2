"""``run`` and ``worker``: what trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.data import data_of
from search.cli.printing import error_console, show, show_json, talk

if TYPE_CHECKING:  # these import Optuna, which costs --help a second
    from pathlib import Path

    from search.data import Source
    from search.ledger import Progress
    from search.ray_pool import Cluster
    from search.signals import Stop
    from search.study import Study

INTERRUPTED = 130  # exit code of what Ctrl-C ended, as shells use it


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("worker")(worker)


def run(
    *,
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many more trials are to finish.")] = 50,
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            metavar="N|auto",
            help="Processes on this machine. auto: what reaches most together, measured once, as far as memory goes; "
            "with a study whose threads are auto, the threads of each as well. 0: only ask for the trials and watch "
            "what workers elsewhere do.",
        ),
    ] = "auto",
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    corrections: options.Corrections = None,
    epochs: options.Epochs = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="Stop after 90 (seconds), 15m or 2h.", show_default=False),
    ] = None,
    seed: options.Seed = None,
    patience: options.Patience = None,
    ray: options.Ray = None,
    cpus_per_worker: options.Cpus = None,
    gpus_per_worker: options.Gpus = 0.0,
    as_json: options.Json = False,
) -> None:
    """Search: run trials until that many more have finished, then show the best.

    Creates the study, or goes on with it. Ctrl-C stops cleanly: what runs goes back to the queue with its
    checkpoint, and the next run goes on from there.

    Example: mlc-search run --trials 50

    Example: mlc-search run --trials 50 --data photos/labels.csv

    Example: mlc-search run --ray auto --workers 64 --gpus-per-worker 0.5
    """
    seconds, asked = options.seconds(timeout), options.workers(workers)
    waits = options.patience(patience)
    cluster = options.cluster(ray, cpus=cpus_per_worker, gpus=gpus_per_worker, workers=asked)
    from search.artifacts import artifacts_folder, sweep
    from search.layout import settle
    from search.patience import Patience
    from search.ray_pool import join_cluster
    from search.signals import Interrupted, Stop
    from search.storage import resolve_url
    from search.study import open_study

    url = resolve_url(storage)
    source = options.source(data, format, skip_bad=skip_bad, corrections=corrections)
    wanted = options.overrides(epochs=epochs, seed=seed)
    stop = Stop()
    with stop.listening(), open_study(study, url, overrides=wanted, create=True) as opened:
        opened.storage.patience = Patience(waits, hurried=lambda: stop.asked)
        opened.ledger.recover()
        root = artifacts_folder(artifacts, url)
        sweep(root, opened)
        try:
            if asked != 0 or source:  # else only workers elsewhere need the data
                data_of(opened, source, root, stop)
        except Interrupted:
            talk("Stopped while images were decoded. The same command goes on where it was.")
            raise typer.Exit(INTERRUPTED) from None
        try:
            count = (
                settle(opened, workers=asked, stop=stop, say=talk)
                if cluster is None
                else join_cluster(opened, url, cluster, workers=asked, say=talk)
            )
        except Interrupted:
            talk("Stopped before the first trial. The same command starts again.")
            raise typer.Exit(INTERRUPTED) from None
        progress, timed_out = _search(
            opened, url, root, trials=trials, workers=count, stop=stop, seconds=seconds, source=source, cluster=cluster
        )
        _report(opened, progress, as_json=as_json)
    if progress.finished == progress.asked:
        return
    why = "The time is up" if timed_out else "Stopped"
    talk(f"{why} after {progress.finished} of {progress.asked} trials.")
    if count == 0:
        talk("Workers elsewhere go on: see mlc-search status.")
    else:
        left = ("--trials", progress.asked - progress.finished, "--workers", asked)
        said = ("--study", study, "--epochs", epochs, "--seed", seed, "--artifacts", artifacts, "--storage", storage)
        on = ("--ray", ray, "--cpus-per-worker", cpus_per_worker, "--gpus-per-worker", gpus_per_worker or None)
        about = (
            "--data",
            data,
            "--format",
            None if format == "auto" else format,
            "--skip-bad",
            skip_bad or None,
            "--corrections",
            corrections,
        )

        talk(f"To go on: {options.command('run', *left, *said, *about, *on)}")
    if not timed_out:
        raise typer.Exit(INTERRUPTED)


def worker(
    *,
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    corrections: options.Corrections = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay, also before the study is there, until stopped by a signal.")
    ] = False,
    patience: options.Patience = None,
) -> None:
    """Join a study from any machine that reaches its database, until nothing is left to do.

    The trials to do are those that a run asked for, here or elsewhere.

    Example: MLC_STORAGE=postgresql://me:secret@db/mlc mlc-search worker --wait
    """
    from search.artifacts import artifacts_folder
    from search.signals import Stop
    from search.storage import resolve_url
    from search.worker import join

    url = resolve_url(storage)
    stop, waits = Stop(), options.patience(patience)
    with stop.listening():
        source = options.source(data, format, skip_bad=skip_bad, corrections=corrections)
        root = artifacts_folder(artifacts, url)
        finished = join(study, url, root=root, stop=stop, wait=wait, source=source, patience=waits)
    talk(f"This worker finished {finished} trials.")
    if stop.asked and not wait:
        raise typer.Exit(INTERRUPTED)  # so that a scheduler does not take the search for done


def _search(
    study: Study,
    url: str,
    root: Path,
    *,
    trials: int,
    workers: int,
    stop: Stop,
    seconds: float | None,
    source: Source | None,
    cluster: Cluster | None,
) -> tuple[Progress, bool]:
    from search.pool import Pool
    from search.progress import Progress
    from search.ray_pool import RayPool

    budget_id = study.ledger.open_budget(trials, own=workers > 0)
    try:
        with Progress(study, budget_id, error_console()) as drawn:
            waits = study.storage.patience.seconds
            pool: Pool | RayPool = Pool(study, url, root, budget_id, source, waits, talk)
            if cluster is not None:
                pool = RayPool(study, url, root, budget_id, source, waits, cluster)
            timed_out = pool.run(workers, stop=stop, watch=drawn.watch, seconds=seconds)
    finally:
        if workers:  # else those elsewhere go on without us
            study.ledger.close_budget(budget_id)
    return study.ledger.remaining(budget_id), timed_out


def _report(study: Study, progress: Progress, *, as_json: bool) -> None:
    from search.drawing import LEADERS, best_line, counted, params_table, trials_table
    from search.views import counts, leaderboard, trial_rows

    rows = trial_rows(study)
    leaders = leaderboard(rows)
    if as_json:
        show_json(
            {
                "study": study.name,
                "asked": progress.asked,
                "finished": progress.finished,
                "best": leaders[0].to_table() if leaders else None,
                "leaderboard": [row.to_table() for row in leaders[:LEADERS]],
            }
        )
        return
    if not leaders:
        talk("No trial is complete yet.")
        return
    title = f"Study {study.name}: {counted(counts(rows))}"
    show(
        trials_table(leaders[:LEADERS], title=title),
        "",
        best_line(leaders[0]),
        params_table(leaders[0], study.declaration.fixed),
    )
