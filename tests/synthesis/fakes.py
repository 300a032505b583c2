"""Models that answer by a rule, recipes written in a test, and a sandbox that is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.generation.protocol import Prompt, Request, Sample, SamplingSettings, jobs_of
from fulgurite.synthesis.account import Price
from fulgurite.synthesis.authors import Author
from fulgurite.synthesis.prompts import templates_of
from fulgurite.synthesis.recipe import Recipe, read_recipe
from fulgurite.synthesis.running import Ran, run_recipe
from fulgurite.synthesis.sources import first_rows

# (model, row, part, index, text of the whole prompt) -> answer; None for one that cannot be had
Rule = Callable[[str, str, str, int, str], str | None]


class Table:
    """Answers by a rule and notes what it was asked for."""

    def __init__(self, name: str, rule: Rule, price: Price | None = None) -> None:
        self.name, self.rule = name, rule
        self.asked: list[tuple[str, str, str, int]] = []
        self.price = price or Price()

    def identity(self) -> dict[str, Any]:
        return {"backend": "table", "model": self.name}

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        for job, request in zip(jobs_of("Table", requests, n, settings or SamplingSettings()), requests, strict=True):
            assert isinstance(request, Request) and not isinstance(request.prompt, str)
            _, row, part = request.key.split("/", 2)
            text = "\n".join(turn.content for turn in request.prompt)  # type: ignore[union-attr]
            for index, seed in job.seeds.items():
                self.asked.append((self.name, row, part, index))
                answer = self.rule(self.name, row, part, index, text)
                if answer is None:
                    yield Sample(job.place, index, "", "error", error="the server said 500")
                else:
                    usage = (len(text.split()), len(answer.split()))
                    yield Sample(job.place, index, answer, "stop", seed=seed, usage=usage)


def written(folder: Path, recipe: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] | None = None) -> Recipe:
    """A recipe in a file, with its rows in another one."""
    import json

    given = dict(recipe)
    if rows is not None:
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given["rows"] = {"path": str(file), **given.get("rows", {})}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return read_recipe(str(file))


def authors_of(recipe: Recipe, rule: Rule) -> tuple[dict[str, Author], dict[str, Table]]:
    """A table for each model of a recipe."""
    tables = {name: Table(name, rule) for name in recipe.models}
    authors = {
        name: Author(name, table, SamplingSettings(64, 0.8, seed=recipe.seed), recipe.models[name].price, name)
        for name, table in tables.items()
    }
    return authors, tables


def ran(recipe: Recipe, folder: Path, rule: Rule, **options: Any) -> tuple[Ran, list[tuple[str, str, str, int]]]:
    """A run, and what was asked for in it."""
    authors, tables = authors_of(recipe, rule)
    rows, count, _ = first_rows(recipe.rows, options.pop("limit", None), options.pop("on_bad_row", "few"))
    how = options.pop("how", How(seconds=5.0))
    done = run_recipe(recipe, (rows, count), authors, templates_of(), folder, how, silent=True, **options)
    return done, [one for table in tables.values() for one in table.asked]
