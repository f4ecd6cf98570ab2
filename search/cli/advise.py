"""``importance`` and ``advise``: what one learns from a study."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from search.cli import options
from search.cli.printing import show, show_json, talk


class Method(StrEnum):
    """What --method takes."""

    PED_ANOVA = "ped-anova"
    FANOVA = "fanova"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("importance")(importance)
    app.command("advise")(advise)


def importance(
    *,
    method: Annotated[
        Method, typer.Option("--method", help="fanova says nothing of the schedulers' own parameters.")
    ] = Method.PED_ANOVA,
    study: options.Study = "default",
    storage: options.Storage = None,
    as_json: options.Json = False,
) -> None:
    """Say which parameters decided how good trials became, and what of that could be chance.

    Pruned trials count too: all are compared at one epoch, which is named.

    Example: mlc-search importance --method fanova
    """
    from search import importance as importances
    from search.advice_tables import importance_table, importance_words
    from search.study import open_study

    with open_study(study, storage) as opened:
        opened.ledger.recover()
        found = importances.importances(opened, importances.Method(method.value))
    if as_json:
        show_json({"study": opened.name, **found.to_table()})
        return
    if found.rows:
        show(importance_table(found))
    for line in importance_words(found):
        show(line) if found.rows else talk(line)


def advise(*, study: options.Study = "default", storage: options.Storage = None, as_json: options.Json = False) -> None:
    """Say which ranges to change, which trials were unstable, and whether the document's learnings hold here.

    Each finding names the trials behind it. Lines for a study's file are printed where one should change.

    Example: mlc-search advise --study mine
    """
    from search import advice
    from search.advice_tables import advice_tables, advice_words
    from search.confirm import open_confirmation, verdicts
    from search.storage import resolve_url
    from search.study import open_study

    url = resolve_url(storage)
    with open_study(study, url) as opened, open_confirmation(opened, url) as repeated:
        opened.ledger.recover()
        advised = advice.advise(opened, verdicts(opened, repeated) if repeated is not None else [])
        name = opened.name
    if as_json:
        show_json({"study": name, **advised.to_table()})
        return
    for table in advice_tables(advised.findings):
        show(table, "")
    for line in advice_words(advised):
        show(line)
    if advised.toml:
        show(
            "",
            "For the study's file; as another study by another name, or, where ranges only grow, by run --extend:",
            "",
        )
        typer.echo(advised.toml)
