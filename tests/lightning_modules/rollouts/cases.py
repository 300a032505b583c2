"""Small policies on the playground's arithmetic, for the tests of this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fulgurite.adapters import LoRA
from fulgurite.data.playground import builtin_rows
from fulgurite.datamodules import PromptsDataModule
from fulgurite.lightning_modules import RLModule
from fulgurite.lightning_modules.rollouts.drawing import Answer, Group

FOLDER: list[Path] = []
QUICK = {"answers": 3, "max_new_tokens": 16, "learning_rate": 1e-3}


def digits(groups: list[Group]) -> list[list[float]]:
    """A dense reward that differs between nearly all answers: the share of digits in the text."""
    return [[_digits(answer) for answer in group.answers] for group in groups]


def _digits(answer: Answer) -> float:
    return sum(letter.isdigit() for letter in answer.text) / (1 + len(answer.text))


REWARD = f"{__name__}:digits"


def policy(**options: Any) -> RLModule:
    """An untrained policy with LoRA; `options` replace its own."""
    return RLModule("playground", **{"rewards": REWARD, "adapter": LoRA(rank=4, alpha=8), **QUICK, **options})


def write_rows(folder: Path) -> None:
    """Twelve prompts to train on and six to validate on, of the playground, for `prompts`; reading all 2000 takes a second."""
    for split, name, count in (("train", "train", 12), ("validation", "val", 6)):
        lines = [json.dumps(row) + "\n" for row in builtin_rows("gsm8k", split, count=count)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    FOLDER.append(folder)


def prompts(**options: Any) -> PromptsDataModule:
    """The rows that conftest.py wrote, four prompts in a step."""
    defaults = {"path": str(FOLDER[-1]), "tokenizer": "playground", "batch_size": 4, "max_length": 64}
    return PromptsDataModule(**{**defaults, **options})


def batch_of(data: PromptsDataModule) -> dict[str, Any]:
    """The first training batch."""
    data.setup("fit")
    found: dict[str, Any] = next(iter(data.train_dataloader()))
    return found
