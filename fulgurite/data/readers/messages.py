"""Messages and tools as rows hold them.

A message is {role, content} or {from, value}. It may hold more: whether it is trained on, which tools it calls, the reasoning
behind an answer. All of it is kept for the chat template, so that nothing of a row vanishes unseen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.data.readers.base import BadRow, column_names, filled
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Finding, place

__all__ = ["TRAIN_KEYS", "messages", "tools_of", "two_systems"]

_ROLES = {"human": "user", "gpt": "assistant"}
TRAIN_KEYS = (
    "weight",
    "train",
    "training",
)  # OpenAI's and axolotl's names: 0 or false keeps an answer in the context only


def messages(items: object, column: str) -> tuple[Turn, ...]:
    """Messages as {role, content} or {from, value}; what else they hold goes into `Turn.train` and `Turn.extra`.

    Args:
        items: what the column holds.
        column: its name.
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise BadRow("not a list", f"column {column!r} holds {type(items).__name__}; a list of messages is needed")
    turns = []
    for item in items:
        if not isinstance(item, Mapping):
            raise BadRow("not a message", f"{column!r} holds {type(item).__name__}; an object per turn is needed")
        names = ("role", "content") if "role" in item else ("from", "value")
        calls = filled(item.get("tool_calls"))
        for name in names:
            if name not in item and not (calls and name == "content"):
                raise BadRow("missing column", f"no {name!r} in a message of {column!r}; found {column_names(item)}")
        given = item[names[0]]
        role = _ROLES.get(given, given) if isinstance(given, str) else repr(given)
        content: Any = item.get(names[1])
        content = "" if content is None and calls else content
        flags = (
            [_flag(item, name, column) for name in TRAIN_KEYS if item.get(name) is not None]
            if role == "assistant"
            else []
        )
        known = {*names, *(TRAIN_KEYS if role == "assistant" else ())}
        rest = {key: value for key, value in item.items() if key not in known and filled(value)}
        turns.append(Turn(role, content, all(flags), json.dumps(rest, sort_keys=True, default=str) if rest else None))
    return tuple(turns)


def two_systems(source: str, number: int) -> Finding:
    """What is told of a row whose column 'system' says something else than the system's turn that begins its messages.

    Args:
        source: where the row is from.
        number: its line.
    """
    told = "the messages begin with a system's text of their own, which is taken"
    return Finding(place(source, number), "a column 'system' beside another system's text", told, lost=False)


def _flag(item: Mapping[str, Any], name: str, column: str) -> bool:
    value = item[name]
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise BadRow("weight of a message", f"a message of {column!r} holds {name} {value!r}; 0 and 1 are allowed")


def tools_of(value: Any) -> str | None:
    """The tools that a row offers, a list or its JSON, as JSON; None for nothing.

    Args:
        value: what the column holds.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow(
                "tools", f"column 'tools' holds {value[:40]!r}, which is no JSON; a list of functions is needed"
            ) from None
    if not filled(value):
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow("tools", f"column 'tools' holds {type(value).__name__}; a list of functions is needed")
    return json.dumps(list(value), sort_keys=True, default=str)
