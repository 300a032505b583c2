"""The support set of `fulgurite emulate` and `plug-in`: token ids of texts, or of a task's questions with their right answers.

A task's row is cut into tokens exactly as the evaluation scores it: question and answer are encoded together, the answer follows
one blank, and only the answer's tokens count in the perplexity. (The paper's code trains on answers without the blank that
its evaluation puts there.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.console import say
from fulgurite.data.encoding.continuations import encode_pair
from fulgurite.data.playground import builtin_rows
from fulgurite.data.records.findings import Place
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.evaluation.tasks.task import Item
from fulgurite.models.sizes import positions_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SupportRow", "fitting", "read_support"]


@dataclass(frozen=True)
class SupportRow:
    """One example.

    Attributes:
        ids: its tokens.
        start: of the first one that counts in the perplexity, at least 1.
        place: where it stands, for messages.
    """

    ids: list[int]
    start: int
    place: str


def read_support(
    verb: str,
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    task: str | None = None,
    column: str = "text",
    limit: int | None = None,
    max_length: int = 512,
    least: int = 1,
) -> list[SupportRow]:
    """The rows of a support set.

    Args:
        verb: who asks, for messages.
        tokenizer: of the model.
        path: a file or folder of rows with texts, or "builtin"; with a task whatever `fulgurite evaluate` takes for it.
        task: name of a task; None for texts.
        column: of the texts.
        limit: the first so many rows; None for all.
        max_length: tokens of a row at most: a text loses its end, a question its beginning.
        least: rows that are needed.

    Raises:
        FileNotFoundError, ValueError: no such file or task; a row without text; too few rows; a limit or a length below its least.
    """
    for name, value, lowest in (("limit", 1 if limit is None else limit, 1), ("max_length", max_length, 2)):
        if value < lowest:
            raise ValueError(f"{verb}: {name}={value} was given; give a larger number")
    if task is None:
        rows = [
            _of_text(verb, tokenizer, place, row, column, max_length)
            for place, row in islice(_texts(verb, path), limit)
        ]
    else:
        (known,) = find_tasks([task])
        found = items_of(known, path, limit)
        if found.bad:
            say(f"{verb}: {len(found.bad)} of {found.rows} rows were left out, the first: {found.bad[0]}")
        rows = [_of_item(verb, tokenizer, known.name, item, max_length) for item in found.items]
    if len(rows) < least:
        raise ValueError(
            f"{verb}: {path} holds {len(rows)} rows; layers are compared over {least} examples or more, some hundred are good; "
            "give more rows"
        )
    return rows


def fitting(model: nn.Module, max_length: int) -> int:
    """The tokens of a row at most: as asked for, or the model's positions where it has a table of fewer.

    Args:
        model: that reads the rows.
        max_length: as asked for.
    """
    return min(max_length, positions_of(model) or max_length)


def _texts(verb: str, path: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    if path == "builtin":
        yield from (
            (Place("builtin", number), row) for number, row in enumerate(builtin_rows("text", "train", count=512), 1)
        )
    else:
        yield from rows_of(path, owner=verb)


def _of_text(
    verb: str, tokenizer: PreTrainedTokenizerBase, place: Place, row: dict[str, Any], column: str, max_length: int
) -> SupportRow:
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        found = f"{column!r} is {text!r}" if column in row else f"the columns are {', '.join(map(repr, row))}"
        raise ValueError(
            f"{verb}: {place}: there is no text ({found}); name the column with --column, or correct the row"
        )
    ids = list(tokenizer(text, verbose=False)["input_ids"])[:max_length]
    return _checked(verb, SupportRow(ids, 1, str(place)))


def _of_item(verb: str, tokenizer: PreTrainedTokenizerBase, task: str, item: Item, max_length: int) -> SupportRow:
    answer = item.right_answer
    if answer is None:
        raise ValueError(
            f"{verb}: {task} has no answer written out for {item.key}; give a task of choices, or a file of texts"
        )
    before, after = encode_pair(tokenizer, item.prompt, answer)
    whole = [*before, *after]
    cut = max(0, len(whole) - max_length)
    return _checked(verb, SupportRow(whole[cut:], max(1, len(before) - cut), f"{task} {item.key}"))


def _checked(verb: str, row: SupportRow) -> SupportRow:
    if len(row.ids) <= row.start:
        raise ValueError(
            f"{verb}: {row.place} has {len(row.ids)} tokens, of which none is to be predicted; leave the row out"
        )
    return row
