"""Names of the playground: its base model, and its rows by the published schema that they follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fulgurite.data.playground.generators import documents
from fulgurite.data.playground.glue import GLUE_COLUMNS, glue_rows

__all__ = ["BACKBONES", "SCHEMAS", "builtin_rows", "resolve_backbone"]

_BASE = Path(__file__).parent / "base"
BACKBONES: dict[str, Path] = {"playground": _BASE, "playground-base": _BASE}
SCHEMAS = (*(f"glue/{task}" for task in GLUE_COLUMNS), "text")
_TEXTS = {"train": 20_000, "validation": 500}


def resolve_backbone(name: str) -> str:
    """The folder that a playground name stands for; any other name comes back unchanged.

    Args:
        name: playground, playground-base, a folder, or an id on the hub.
    """
    if name in BACKBONES:
        return str(BACKBONES[name])
    if name.startswith("playground") and not Path(name).exists():
        raise ValueError(f"resolve_backbone: {name!r}; the playground has {', '.join(BACKBONES)}; choose one of them.")
    return name


def builtin_rows(schema: str, split: str, seed: int = 0, count: int | None = None) -> list[dict[str, Any]]:
    """Rows of the playground in a published schema.

    Args:
        schema: glue/cola and so on, or text (one column, ``text``).
        split: a split of that schema; text has train and validation.
        seed: equal seeds give equal rows.
        count: at most this many rows; for text, exactly this many (None: 20000 for train, 500 for validation).
    """
    if schema not in SCHEMAS:
        raise ValueError(f"builtin_rows: schema {schema!r}; allowed are {', '.join(SCHEMAS)}; choose one of them.")
    if schema == "text":
        wanted = _TEXTS.get(split, 0) if count is None else count
        return [{"text": text} for text in documents(seed, wanted, split=split)]
    return glue_rows(schema.removeprefix("glue/"), split, seed)[:count]
