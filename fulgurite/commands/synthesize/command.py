"""`fulgurite synthesize`: runs a recipe over its rows.

OUT/steps/STEP.jsonl grows by a line for each answer; a run goes on where it was stopped. OUT/TABLE.jsonl are the rows in their
published schema, OUT/TABLE.made.jsonl where each comes from; results.json and results.png say what became of all of them.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from fulgurite.commands.shared.options import JudgingOptions, with_options
from fulgurite.commands.synthesize.report import (
    cost_table,
    draw,
    forecast_lines,
    lengths_table,
    prompts_shown,
    steps_table,
    write_results,
)
from fulgurite.console import say, shortest
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.generation import ServerError
from fulgurite.synthesis import read_recipe, run_recipe
from fulgurite.synthesis.authors import open_authors
from fulgurite.synthesis.prompts import copy_templates, templates_of
from fulgurite.synthesis.recipe import OWN_RECIPES
from fulgurite.synthesis.running import Ran
from fulgurite.synthesis.sources import first_rows
from fulgurite.whole_files import write_text

__all__ = ["synthesize"]

_DRY_ROWS = 3


@with_options
def synthesize(
    recipe: str,
    path: str | None = None,
    out: str | None = None,
    *,
    judging: JudgingOptions,
    limit: int | None = None,
    prompts: str | None = None,
    write: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Makes data by a recipe of named steps: models draw, rate and criticise, programs run in the sandbox, rows are kept or not.

    Args:
        recipe: ultrainteract, ultrafeedback, ultralink_specific, ultralink_agnostic, ultrachat2, or a file of your own.
        path: where the rows are, in place of the recipe's: a file, a folder of data, hub (of a task), or builtin.
        out: the folder for answers, rows and results.
        judging: :class:`~fulgurite.commands.shared.options.JudgingOptions`.
        limit: the first so many rows.
        prompts: a folder of prompt templates that replace ours by name.
        write: write the recipe and our prompt templates into this folder, to be edited, and end.
        dry_run: show the prompts of the first rows and the most that a run may cost, and end.
        overwrite: replace answers that are there.
    """
    if write is not None:
        _write(recipe, Path(write))
        return
    what = read_recipe(recipe)
    if path is not None:
        what = replace(what, rows=replace(what.rows, path=path))
    if out is None and not dry_run:
        raise ValueError("synthesize: no --out was given; give a folder for answers and rows")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"synthesize: --out {out} is a file; give a folder for answers and rows")
    if limit is not None and limit < 1:
        raise ValueError(f"synthesize: limit={limit}; give 1 or more")
    begun, folder = time.monotonic(), Path(out or ".")
    templates = templates_of(None if prompts is None else Path(prompts))
    how = How(judging.sandbox, judging.time_limit, judging.workers)
    asked = min(limit or _DRY_ROWS, _DRY_ROWS) if dry_run else limit
    rows, count, there = first_rows(what.rows, asked, judging.on_bad_row)
    authors = open_authors(what.models, what.seed)
    ran = run_recipe(what, (rows, count), authors, templates, folder, how, dry_run, overwrite)
    if ran.dry is not None:
        say(prompts_shown(ran.dry))
        say(*forecast_lines(ran.dry, len(rows), min(there, limit or there)))
        return
    _say(ran, len(rows), there)
    write_results(what, ran, folder, time.monotonic() - begun)
    draw(ran, folder / "results.png")
    say(f"results: {shortest(folder / 'results.json')}   picture: {shortest(folder / 'results.png')}")
    if ran.stopped is not None:
        raise ServerError(
            f"synthesize: {ran.stopped}; run the same command again to go on, with more budget if that is used up"
        )


def _write(recipe: str, folder: Path) -> None:
    read_recipe(recipe)  # says what is wrong with it
    source = Path(recipe) if Path(recipe).is_file() else OWN_RECIPES / f"{recipe}.yaml"
    target = folder / source.name
    if target.exists():
        raise ValueError(f"synthesize: {target} is there already; edit it there, or give another folder")
    write_text(target, source.read_text(encoding="utf-8"))
    written = copy_templates(folder / "prompts")
    say(f"recipe: {shortest(target)}   {len(written)} templates: {shortest(folder / 'prompts')}")
    say(f"fulgurite synthesize {shortest(target)} --prompts {shortest(folder / 'prompts')} --out OUT")


def _say(ran: Ran, rows: int, there: int) -> None:
    if ran.known:
        say(f"{ran.known} answers were there already, {ran.new} answers are new")
    say(steps_table(ran.ledger))
    for step in ran.ledger.steps:
        for name, value in step.figures.items():
            say(f"{step.name}: {name}: {value}")
    if ran.account.by:
        say(cost_table(ran.account))
    if ran.ledger.tables:
        say(lengths_table(ran.ledger))
    for name, file in ran.files.items():
        say(f"{name}: {shortest(file)}, {len(ran.ledger.tables[name].rows)} rows")
    if rows < there and ran.account.spent.requests:
        each = ran.account.spent
        say(
            f"forecast for all {there} rows, from these {rows}: {there * each.requests // rows:,} answers, "
            f"{there * (each.prompt + each.answer) // rows:,} tokens, {there * each.money / rows:.4g} of money"
        )
    if ran.ledger.left:
        say(f"{len(ran.ledger.left)} rows wait for answers; the same command goes on with them")
