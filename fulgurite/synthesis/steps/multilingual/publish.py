"""publish: dialogues as files in UltraLink's published schema, {language}_{kind}.jsonl with rows {id, data}."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.ledger import TableRows
from fulgurite.synthesis.multilingual.languages import name_of
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class PublishOptions:
    """What kind of dialogues they are.

    Args:
        kind: the second half of the files' names.
    """

    kind: Literal["chat_specific", "chat_agnostic", "code", "math"]


def _run(options: PublishOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    tables: dict[str, TableRows] = {}
    for row in rows:
        language = row.text("language")
        name_of(language)
        texts = row.data.get("dialogue")
        if not isinstance(texts, list):
            raise ValueError(
                f"synthesize: step {desk.step}: row {row.key} has no dialogue; put converse before it, or rows.reads: dialogues"
            )
        name = f"{language}_{options.kind}"
        table = tables.setdefault(name, TableRows())
        table.add({"id": f"{name}_{len(table.rows)}", "data": list(texts)}, row.key, row.made)
    if desk.dry is None:
        taken = sorted(set(tables) & set(desk.ledger.tables))
        if taken:
            raise ValueError(
                f"synthesize: step {desk.step}: {taken[0]} is written by an earlier step; publish each kind once"
            )
        desk.ledger.tables |= tables
    desk.count.figures = {f"rows of {name}": len(table.rows) for name, table in sorted(tables.items())}
    return list(rows)


register(Step("publish", "dialogues as UltraLink's files, one for each language", PublishOptions, _run))
