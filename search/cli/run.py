"""``run`` and ``worker``: what trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from search.cli import options
from search.cli.data import data_of
from search.cli.printing import error_console, show, show_json, talk

if TYPE_CHECKING:  # these import Optuna, which costs --help a second
    from pathlib import Path

    from search.convergence import Bound, Convergence
    from search.data import Source
    from search.declaration import Declaration
    from search.ledger import Progress
    from search.ray_pool import Cluster
    from search.signals import Stop
    from search.spending import Allowance
    from search.study import Study

INTERRUPTED = 130  # exit code of what Ctrl-C ended, as shells use it
TRIALS = 50  # that are to finish, where nothing else says when to end


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("worker")(worker)


def run(
    *,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            min=1,
            help="How many more trials are to finish, at most; by default 50, or as many as --budget or "
            "--until-converged let.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Search for 90m or 2h, or 4wh: hours of all workers together. Nothing is begun that would not finish.",
            show_default=False,
        ),
    ] = None,
    until_converged: Annotated[
        bool,
        typer.Option(
            "--until-converged", help="Begin no more trials once as many again would gain less than seeds differ by."
        ),
    ] = False,
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
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="Stop after 90 (seconds), 15m or 2h, whatever runs: the next run goes on with it.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = None,
    patience: options.Patience = None,
    ray: options.Ray = None,
    cpus_per_worker: options.Cpus = None,
    gpus_per_worker: options.Gpus = 0.0,
    extend: options.Extend = False,
    warm_start: options.WarmStart = None,
    warm_start_storage: options.WarmStartStorage = None,
    as_json: options.Json = False,
) -> None:
    """Search: run trials until that many more have finished, then show the best.

    Creates the study, or goes on with it. Ctrl-C stops cleanly: what runs goes back to the queue with its
    checkpoint, and the next run goes on from there. mlc-search change alters trials and workers meanwhile.

    --timeout is for a search that goes on later: at that time it stops, and trials wait half done. --budget is for one
    that ends then: near its end no trial is begun that would need longer than is left, by the time that trials have
    taken, the best paused ones train to their end in the time that is kept for them, and nothing runs longer.

    Example: mlc-search run --trials 50

    Example: mlc-search run --budget 2h --until-converged

    Example: mlc-search run --trials 50 --data photos/labels.csv

    Example: mlc-search run --ray auto --workers 64 --gpus-per-worker 0.5

    Example: mlc-search run --study mine.toml --extend --warm-start default
    """
    seconds, asked, allowed = options.seconds(timeout), options.workers(workers), options.allowance(budget)
    trials = trials or (TRIALS if allowed is None and not until_converged else None)
    waits = options.patience(patience)
    cluster = options.cluster(ray, cpus=cpus_per_worker, gpus=gpus_per_worker, workers=asked)
    from search.artifacts import artifacts_folder, sweep
    from search.extend import extend_study
    from search.patience import Patience
    from search.signals import Stop
    from search.storage import resolve_url
    from search.study import open_study
    from search.warm_start import warm_start as begin_from

    url = resolve_url(storage)
    source = options.source(data, format, skip_bad=skip_bad, corrections=corrections)
    wanted = options.overrides(epochs=epochs, seed=seed)
    for change in extend_study(study, url, overrides=wanted) if extend else ():
        talk(f"The study grows: {change}")
    stop = Stop()
    with stop.listening(), open_study(study, url, overrides=wanted, create=True) as opened:
        opened.storage.patience = Patience(waits, hurried=lambda: stop.asked)
        opened.ledger.recover()
        _warn(opened.declaration)
        if until_converged and opened.declaration.against:
            raise typer.BadParameter("--until-converged knows one objective; this study has two: --trials or --budget.")
        root = artifacts_folder(artifacts, url)
        sweep(root, opened)
        count = _prepare(opened, url, root, source=source, cluster=cluster, workers=asked, stop=stop)
        for begun in begin_from(opened, warm_start or (), warm_start_storage or url):
            for sentence in begun.sentences():
                talk(sentence)
        began = time.monotonic()
        end = _search(
            opened,
            url,
            root,
            trials=trials,
            workers=count,
            stop=stop,
            seconds=seconds,
            allowed=allowed,
            until_converged=until_converged,
            source=source,
            cluster=cluster,
        )
        took = time.monotonic() - began
        _report(opened, end, as_json=as_json)
    if end.bound is not None:
        _say_bound(end.bound)
    if end.why != "trials":
        talk(_why(end, budget))
    if end.why in ("timeout", "stopped"):
        # A study that has grown stays so, and what it begins from is in its queue: neither is needed twice.
        left = ("--trials", trials and end.progress.asked - end.progress.finished, "--workers", asked)
        spare = None if end.left is None else options.spelled(end.left.seconds, of_workers=end.left.of_workers)
        rest = options.spelled(seconds - took) if seconds is not None and end.why == "stopped" else None
        ends = ("--budget", spare, "--timeout", rest, "--until-converged", until_converged or None)
        said = ("--study", study, "--epochs", epochs, "--seed", seed, "--artifacts", artifacts, "--storage", storage)
        on = ("--ray", ray, "--cpus-per-worker", cpus_per_worker, "--gpus-per-worker", gpus_per_worker or None)
        named, skip = None if format == "auto" else format, skip_bad or None
        about = ("--data", data, "--format", named, "--skip-bad", skip, "--corrections", corrections)
        waits_for = ("--patience", patience)
        again = options.command("run", *left, *ends, *said, *about, *on, *waits_for)
        talk(f"To go on: {again}" if count else "Workers elsewhere go on: see mlc-search status.")
    if end.why == "stopped":
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


def _prepare(
    study: Study,
    url: str,
    root: Path,
    *,
    source: Source | None,
    cluster: Cluster | None,
    workers: int | None,
    stop: Stop,
) -> int:
    """Read the data and settle how many workers there are to be; Exit if the stop is asked meanwhile."""
    from search.layout import settle
    from search.ray_pool import join_cluster
    from search.signals import Interrupted

    try:
        # Else only workers elsewhere need the data.
        data = data_of(study, source, root, stop) if workers != 0 or source else None
    except Interrupted:
        talk("Stopped while images were decoded. The same command goes on where it was.")
        raise typer.Exit(INTERRUPTED) from None
    try:
        if cluster is not None:
            return join_cluster(study, url, cluster, workers=workers, say=talk)
        count = settle(study, workers=workers, stop=stop, say=talk)
    except Interrupted:
        talk("Stopped before the first trial. The same command starts again.")
        raise typer.Exit(INTERRUPTED) from None
    if data is not None and count and study.declaration.weighs:  # before workers keep the machine busy
        from search.objective import study_precision  # torch, which a run does without otherwise
        from search.weighing import weigh_space

        talk("Measuring what networks take…")
        weigh_space(study, classes=len(data.classes), precision=study_precision(study))
    return count


@dataclass(frozen=True, slots=True)
class _End:
    """How a search ended."""

    why: Literal["trials", "converged", "budget", "timeout", "stopped"]
    progress: Progress
    bound: Bound | None  # of --until-converged
    left: Allowance | None  # of --budget


def _search(
    study: Study,
    url: str,
    root: Path,
    *,
    trials: int | None,
    workers: int,
    stop: Stop,
    seconds: float | None,
    allowed: Allowance | None,
    until_converged: bool,
    source: Source | None,
    cluster: Cluster | None,
) -> _End:
    from search.convergence import Convergence
    from search.ledger import UNLIMITED
    from search.pool import Pool
    from search.progress import Progress
    from search.ray_pool import RayPool
    from search.spending import Spending

    budget_id = study.ledger.open_budget(UNLIMITED if trials is None else trials, own=workers > 0)
    spending, converging = None, None
    try:
        with Progress(study, budget_id, error_console()) as drawn:
            waits = study.storage.patience.seconds
            pool: Pool | RayPool = Pool(study, url, root, budget_id, source, waits, talk)
            if cluster is not None:
                pool = RayPool(study, url, root, budget_id, source, waits, cluster)
            watches: list[Callable[[], None]] = [drawn.watch]
            if until_converged:
                converging = Convergence(study, budget_id, url)
                watches.append(converging.watch)
            if allowed is not None:
                spending = Spending(study, budget_id, allowed, pool, drawn.say)
                watches.append(spending.watch)

            def watch() -> None:
                for one in watches:
                    one()

            timed_out = pool.run(workers, stop=stop, watch=watch, seconds=seconds)
    finally:
        if workers:  # else those elsewhere go on without us
            study.ledger.close_budget(budget_id)
    if converging is not None and not converging.reached:
        converging.look()
    progress = study.ledger.remaining(budget_id)
    spent = spending is not None and (spending.over or (spending.closing and not (stop.asked or timed_out)))
    why = _reason(converging, stop, progress, spent=spent, timed_out=timed_out)
    bound = None if converging is None else converging.bound
    return _End(why, progress, bound, None if spending is None else spending.left)


def _reason(
    converging: Convergence | None, stop: Stop, progress: Progress, *, spent: bool, timed_out: bool
) -> Literal["trials", "converged", "budget", "timeout", "stopped"]:
    if converging is not None and converging.reached:
        return "converged"
    if spent:
        return "budget"
    if progress.finished >= progress.asked:
        return "trials"
    return "timeout" if timed_out and not stop.asked else "stopped"


def _why(end: _End, budget: str | None) -> str:
    from search.ledger import UNLIMITED

    asked = "" if end.progress.asked == UNLIMITED else f" of {end.progress.asked}"
    finished = f"{end.progress.finished} trials"
    match end.why:
        case "converged":
            return f"Converged after {finished}."
        case "budget":
            return f"The budget of {budget} is used up after {finished}."
        case "timeout":
            return f"The time is up after {end.progress.finished}{asked} trials."
        case _:
            return f"Stopped after {end.progress.finished}{asked} trials."


def _say_bound(bound: Bound) -> None:
    from search.drawing import bound_line

    talk(bound_line(bound))


def _warn(declaration: Declaration) -> None:
    """Say once what of a study's file changes nothing."""
    from search.declaration import without_effect

    for sentence in without_effect(declaration):
        talk(f"Warning: {sentence}")


def _report(study: Study, end: _End, *, as_json: bool) -> None:
    from search.drawing import LEADERS, best_line, counted, duration, forecast_line, leaders_table, params_table
    from search.forecast import forecast
    from search.ledger import UNLIMITED
    from search.spending import epoch_seconds
    from search.views import counts, front, leaderboard, trial_rows

    rows, progress = trial_rows(study), end.progress
    leaders, coming = leaderboard(rows), forecast(rows)
    if as_json:
        show_json(
            {
                "study": study.name,
                "asked": None if progress.asked == UNLIMITED else progress.asked,
                "finished": progress.finished,
                "ended": end.why,
                "bound": None if end.bound is None else end.bound.to_table(),
                "forecast": None if coming is None else coming.to_table(),
                "best": leaders[0].to_table() if leaders else None,
                "leaderboard": [row.to_table() for row in leaders[:LEADERS]],
                "front": [row.to_table() for row in front(rows)],
            }
        )
        return
    if not leaders:
        pace, epochs = epoch_seconds(rows), study.declaration.epochs
        takes = (
            "" if pace is None else f": its {epochs} epochs take about {duration(pace * epochs)} here (minutes:seconds)"
        )
        talk(f"No trial is complete yet{takes}.")
        return
    title = f"Study {study.name}: {counted(counts(rows))}"
    show(
        leaders_table(rows, title=title, top=LEADERS),
        "",
        best_line(leaders[0]),
        params_table(leaders[0], study.declaration.fixed),
        *([] if coming is None else ["", forecast_line(coming)]),
    )
