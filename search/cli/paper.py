"""``enqueue-paper-trials`` and ``compare-paper``: the documented trials."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from search.cli import options
from search.cli.printing import show, show_json, talk


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("enqueue-paper-trials")(enqueue_paper_trials)
    app.command("compare-paper")(compare_paper)


def enqueue_paper_trials(
    *,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="NUMBERS", help="Some of the five, such as 2,4.", show_default=False),
    ] = None,
    study: options.Study = "default",
    storage: options.Storage = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
) -> None:
    """Put the five documented trials in front of the queue; twice adds nothing.

    The next run takes them first, each once, with its own fixed seed, at full length and never pruned.

    Example: mlc-search enqueue-paper-trials --only 2,4
    """
    chosen = options.numbers(only)
    from search.paper import paper_trials
    from search.study import enqueue_paper, open_study

    known = {trial.number: trial for trial in paper_trials()}
    if strangers := [number for number in chosen or [] if number not in known]:
        raise typer.BadParameter(f"--only {strangers[0]}: the document has trials {', '.join(map(str, known))}.")
    trials = [known[number] for number in dict.fromkeys(chosen or known)]
    with open_study(study, storage, overrides=options.overrides(epochs=epochs, seed=seed), create=True) as opened:
        added = enqueue_paper(opened, trials)
        name = opened.name
    if as_json:
        show_json({"study": name, "added": [number for number, new in added.items() if new]})
        return
    for number, new in added.items():
        talk(f"Paper trial {number}: {'added' if new else 'was there already'}.")
    talk(f"Run them with: {options.command('run', '--study', name, '--storage', storage)}")


def compare_paper(
    *, study: options.Study = "default", storage: options.Storage = None, as_json: options.Json = False
) -> None:
    """Set the documented losses beside the replayed ones, with what was assumed and the rank correlation.

    Example: mlc-search compare-paper
    """
    from search.drawing import comparison_table, comparison_words
    from search.study import open_study
    from search.views import compare_paper as compare
    from search.views import trial_rows

    with open_study(study, storage) as opened:
        comparison = compare(trial_rows(opened))
    if as_json:
        show_json(asdict(comparison))
        return
    show(comparison_table(comparison), *comparison_words(comparison))
