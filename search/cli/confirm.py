"""``confirm``: the best trials over fresh seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli import options
from search.cli.data import data_of
from search.cli.printing import error_console, show, show_json, talk
from search.cli.run import INTERRUPTED


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("confirm")(confirm)


def confirm(
    *,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="How many of the best trials.")] = 5,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="How many fresh seeds each.")] = 3,
    workers: Annotated[
        str,
        typer.Option("--workers", metavar="N|auto", help="As of run. 0: workers elsewhere do it."),
    ] = "auto",
    study: options.Study = "default",
    storage: options.Storage = None,
    artifacts: options.Artifacts = None,
    data: options.Data = None,
    format: options.Format = "auto",  # noqa: A002 - the option's name
    skip_bad: options.SkipBad = False,
    as_json: options.Json = False,
) -> None:
    """Train the best trials again over fresh seeds, and rank them by mean and spread.

    The repetitions are trials of a study of their own, STUDY-confirmation: other machines share them by
    mlc-search worker --study STUDY-confirmation. What is done already is not done again; Ctrl-C stops cleanly.

    Example: mlc-search confirm --top 5 --seeds 3
    """
    asked = options.workers(workers)
    from search.artifacts import artifacts_folder, sweep
    from search.confirm import enqueue_repetitions, open_confirmation, verdicts
    from search.drawing import confirmation_table, confirmation_words
    from search.layout import settle
    from search.pool import Pool
    from search.progress import Progress
    from search.signals import Interrupted, Stop
    from search.storage import resolve_url
    from search.study import open_study

    url = resolve_url(storage)
    source = options.source(data, format, skip_bad=skip_bad)
    stop = Stop()
    with stop.listening(), open_study(study, url) as opened, open_confirmation(opened, url, create=True) as repeated:
        assert repeated is not None  # noqa: S101 - it was to be created
        root = artifacts_folder(artifacts, url)
        sweep(root, repeated)
        left = enqueue_repetitions(opened, repeated, top=top, seeds=seeds)
        if left:
            try:
                if asked != 0:
                    data_of(repeated, source, root, stop)
                count = settle(repeated, workers=asked, stop=stop, say=talk)
            except Interrupted:
                talk("Stopped before the first repetition. The same command goes on where it was.")
                raise typer.Exit(INTERRUPTED) from None
            budget_id = repeated.ledger.open_budget(left)
            with Progress(repeated, budget_id, error_console()) as drawn:
                Pool(repeated, url, root, budget_id, source).run(count, stop=stop, watch=drawn.watch)
        rows = verdicts(opened, repeated)
        if as_json:
            show_json([row.to_table() for row in rows])
        else:
            show(confirmation_table(rows))
            for line in confirmation_words(rows):
                show(line)
    if stop.asked:
        talk("Stopped. The same command goes on.")
        raise typer.Exit(INTERRUPTED)
