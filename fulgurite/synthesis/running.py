"""Running a recipe: its steps one after the other over all rows, and what comes out of it.

Nothing but answers and verdicts is kept between runs; what follows from them is computed anew each time, so that a run goes on
where it was stopped, with more rows or more steps if wanted. OUT/TABLE.jsonl (or .parquet) is exactly in its published schema;
OUT/TABLE.made.jsonl has a line for each of its rows: the recipe's row, and of each answer in it model, hashes of prompt and
templates, seed, tokens and money.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.prompt_files import PromptFiles
from fulgurite.evaluation.runner.record_file import read_records
from fulgurite.synthesis.account import Account
from fulgurite.synthesis.authors import Author
from fulgurite.synthesis.desk import ANSWER_KEY, Desk, Dry, open_desk
from fulgurite.synthesis.ledger import Ledger, StepCount, TableRows
from fulgurite.synthesis.recipe import Recipe
from fulgurite.synthesis.rows import Row
from fulgurite.whole_files import whole_file

__all__ = ["Ran", "run_recipe"]


@dataclass(frozen=True)
class Ran:
    """What a run leaves.

    Attributes:
        ledger: counts of the steps, and the tables.
        account: what all runs in the folder have used.
        files: of the tables, by name.
        new: answers that this run got.
        known: answers that stood there.
        stopped: why it could not go on; None if it could.
        dry: prompts of a dry run; None otherwise.
    """

    ledger: Ledger
    account: Account
    files: Mapping[str, Path]
    new: int
    known: int
    stopped: str | None
    dry: Dry | None


def run_recipe(
    recipe: Recipe,
    rows: tuple[list[Row], StepCount],
    authors: Mapping[str, Author],
    prompts: PromptFiles,
    folder: Path,
    how: How,
    dry: bool = False,
    overwrite: bool = False,
    silent: bool = False,
) -> Ran:
    """Runs all steps.

    Args:
        recipe: what to do.
        rows: with what they were counted as.
        authors: the recipe's models.
        prompts: the templates.
        folder: where everything is kept.
        how: what the user chose about judging.
        dry: ask nothing; collect the prompts.
        overwrite: begin anew.
        silent: show no progress.

    Raises:
        IdentityError: answers that are there belong to another model, seed or prompt.
    """
    if overwrite and not dry:
        for file in (*folder.glob("steps/*.jsonl"), *folder.glob("models/*.jsonl")):
            file.unlink()
    account = Account(recipe.budget)
    known = 0 if dry else _taken_up(folder, account)
    current, first = rows
    ledger, stopped, new = Ledger([first]), None, 0
    shown = Dry({}) if dry else None
    for use in recipe.steps:
        count = StepCount(use.name, len(current))
        ledger.steps.append(count)
        desk = Desk(
            use.name, authors, prompts, how, recipe.seed, folder, account, ledger, count, shown, silent, stopped
        )
        with open_desk(desk):
            current = use.step.run(use.options, current, desk)
        count.kept, new, stopped = len(current), new + desk.new, desk.stopped
    files = {} if dry else _write(ledger, folder, recipe.format)
    return Ran(ledger, account, files, new, known, stopped, shown)


def _taken_up(folder: Path, account: Account) -> int:
    """Counts the answers of earlier runs."""
    known = 0
    for file in sorted(folder.glob("steps/*.jsonl")):
        if file.name.endswith(".verdicts.jsonl"):
            continue
        _, records = read_records(file, ANSWER_KEY)
        for record in records:
            account.add(file.stem, record)
            known += 1
    return known


def _write(ledger: Ledger, folder: Path, kind: str) -> dict[str, Path]:
    files = {}
    for name, table in ledger.tables.items():
        file = folder / f"{name}.{kind}"
        other = folder / f"{name}.{'parquet' if kind == 'jsonl' else 'jsonl'}"
        with whole_file(file) as scratch:
            _write_rows(table, scratch, kind)
        with whole_file(folder / f"{name}.made.jsonl") as scratch:
            scratch.write_text(
                "".join(json.dumps(made, ensure_ascii=True) + "\n" for made in table.made), encoding="utf-8"
            )
        other.unlink(missing_ok=True)  # of a run in the other format: rows of two states must not lie side by side
        files[name] = file
    return files


def _write_rows(table: TableRows, scratch: Path, kind: str) -> None:
    if kind == "jsonl":
        scratch.write_text("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in table.rows), encoding="utf-8")
        return
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table.rows), scratch)
