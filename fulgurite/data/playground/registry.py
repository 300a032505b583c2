"""Names of the playground: its base model, its specialists, and its rows by the published schema that they follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fulgurite.data.playground.generators import DOMAINS, documents
from fulgurite.data.playground.rows.answers import ANSWER_ROWS, answer_rows
from fulgurite.data.playground.rows.conversations import CONVERSATION_ROWS, conversation_rows
from fulgurite.data.playground.rows.glue import GLUE_COLUMNS, glue_rows
from fulgurite.data.playground.rows.levels import level_rows
from fulgurite.data.playground.rows.preferences import PREFERENCE_ROWS, preference_rows
from fulgurite.data.playground.rows.prompts import PROMPT_ROWS, prompt_rows

__all__ = ["BACKBONES", "SCHEMAS", "SPECIALISTS", "builtin_rows", "resolve_backbone", "same_backbone"]

_BASE = Path(__file__).parent / "base"
BACKBONES: dict[str, Path] = {"playground": _BASE, "playground-base": _BASE}
# Adapters on the base, each tuned on one domain (configs/ultrafuser_specialist.yaml), with a chat template of its own.
SPECIALISTS: dict[str, Path] = {
    f"playground-{domain}": Path(__file__).parent / f"specialist_{domain}" for domain in DOMAINS
}
_GLUE = tuple(f"glue/{task}" for task in GLUE_COLUMNS)
SCHEMAS = (*_GLUE, *ANSWER_ROWS, *CONVERSATION_ROWS, *PREFERENCE_ROWS, *PROMPT_ROWS, "cpo", "text")
_TEXTS = {"train": 20_000, "validation": 500}


def resolve_backbone(name: str) -> str:
    """The folder that a playground name stands for; any other name comes back unchanged.

    Args:
        name: playground, playground-base, an adapter on it (playground-text, -code, -maths), a folder, or an id on the hub.
    """
    known = {**BACKBONES, **SPECIALISTS}
    if name in known:
        return str(known[name])
    if name.startswith("playground") and not Path(name).exists():
        raise ValueError(f"resolve_backbone: {name!r}; the playground has {', '.join(known)}; choose one of them.")
    return name


def same_backbone(first: str, second: str) -> bool:
    """Whether two names stand for one folder or one id on the hub.

    Args:
        first: a playground name, a folder, or an id on the hub.
        second: another.
    """
    known = {**BACKBONES, **SPECIALISTS}
    return len({Path(known.get(name, name)).expanduser().resolve() for name in (first, second)}) == 1


def builtin_rows(schema: str, split: str, seed: int = 0, count: int | None = None) -> list[dict[str, Any]]:
    """Rows of the playground in a published schema.

    Args:
        schema: glue/cola and so on; nq_open, samsum and the like; ultrachat, alpaca and the other schemas of conversations
            and preferences; or text (one column).
        split: a split of that schema; text has train and validation, conversations have test too.
        seed: equal seeds give equal rows.
        count: at most this many rows; for text and conversations, exactly this many (None: 20000 texts for train and 500
            for validation; 2000 conversations for train and 200 for validation and test).
    """
    if schema not in SCHEMAS:
        raise ValueError(f"builtin_rows: schema {schema!r}; allowed are {', '.join(SCHEMAS)}; choose one of them.")
    if schema == "text":
        wanted = _TEXTS.get(split, 0) if count is None else count
        return [{"text": text} for text in documents(seed, wanted, split=split)]
    if schema in ANSWER_ROWS:
        return answer_rows(schema, split, seed, count)
    if schema == "cpo":
        return level_rows(split, seed, count)
    if schema in PREFERENCE_ROWS:
        return preference_rows(schema, split, seed, count)
    if schema in PROMPT_ROWS:
        return prompt_rows(schema, split, seed, count)
    if schema in CONVERSATION_ROWS:
        return conversation_rows(schema, split, seed, count)
    return glue_rows(schema.removeprefix("glue/"), split, seed)[:count]
