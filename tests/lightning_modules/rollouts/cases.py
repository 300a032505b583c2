"""Small policies on the playground's arithmetic, for the tests of this room."""

from __future__ import annotations

from typing import Any

from fulgurite.adapters import LoRA
from fulgurite.datamodules import PromptsDataModule
from fulgurite.lightning_modules import RLModule
from fulgurite.lightning_modules.rollouts.drawing import Answer, Group

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


def prompts(**options: Any) -> PromptsDataModule:
    """Twelve prompts, four of them in a step."""
    return PromptsDataModule(
        **{
            "path": "builtin",
            "tokenizer": "playground",
            "batch_size": 4,
            "limit_train": 12,
            "max_length": 64,
            **options,
        }
    )


def batch_of(data: PromptsDataModule) -> dict[str, Any]:
    """The first training batch."""
    data.setup("fit")
    found: dict[str, Any] = next(iter(data.train_dataloader()))
    return found
