"""What answers cost, and how much of it a run may use.

Money is counted by prices per million tokens of prompt and of answer. Before a request is sent, the most that it may take is held:
its prompt, estimated where nobody can count it, and the whole length that its answer may have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Account", "Budget", "Price", "Spent"]

_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """Money for a million tokens, in any currency that all prices of a recipe share.

    Args:
        prompt: of prompts.
        answer: of answers.
    """

    prompt: float = 0.0
    answer: float = 0.0

    def of(self, prompt: int, answer: int) -> float:
        """The money for so many tokens."""
        return (prompt * self.prompt + answer * self.answer) / _MILLION


@dataclass(frozen=True)
class Budget:
    """How much all runs in one folder together may use.

    Args:
        requests: answers that are asked for; None: any number.
        tokens: of prompts and answers; None: any number.
        money: by the models' prices; None: any sum.

    Raises:
        ValueError: a limit that is not above 0.
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise ValueError(f"synthesize: budget.{name}={value}; give more than 0, or leave it out for no limit")


@dataclass
class Spent:
    """What was used.

    Attributes:
        requests: answers that came.
        prompt: tokens of prompts.
        answer: tokens of answers.
        estimated: answers whose tokens nobody counted; they are estimated from letters.
        money: by the models' prices.
    """

    requests: int = 0
    prompt: int = 0
    answer: int = 0
    estimated: int = 0
    money: float = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts the record of an answer."""
        self.requests += 1
        self.prompt += record["tokens"][0]
        self.answer += record["tokens"][1]
        self.estimated += not record["counted"]
        self.money += record["money"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "money": round(self.money, 6)}


@dataclass
class Account:
    """What a folder's runs have used, and what is left.

    Attributes:
        budget: the limits.
        spent: in all.
        by: the same by step and model.
    """

    budget: Budget
    spent: Spent = field(default_factory=Spent)
    by: dict[tuple[str, str], Spent] = field(default_factory=dict)

    def add(self, step: str, record: Mapping[str, Any]) -> None:
        """Counts the record of an answer."""
        self.spent.add(record)
        self.by.setdefault((step, record["model"]), Spent()).add(record)

    def fitting(self, most: Sequence[tuple[int, float]]) -> int:
        """How many requests, from the first on, surely stay within what is left.

        Args:
            most: tokens and money that each may take at most.
        """
        tokens, money = self.spent.prompt + self.spent.answer, self.spent.money
        for number, (some, cost) in enumerate(most):
            tokens, money = tokens + some, money + cost
            limit = self.budget
            if (
                (limit.requests is not None and self.spent.requests + number + 1 > limit.requests)
                or (limit.tokens is not None and tokens > limit.tokens)
                or (limit.money is not None and money > limit.money)
            ):
                return number
        return len(most)

    def why(self, tokens: int, money: float) -> str:
        """Why a request does not fit.

        Args:
            tokens: that it may take.
            money: that it may cost.
        """
        limit, used = self.budget, self.spent
        if limit.requests is not None and used.requests >= limit.requests:
            return f"the budget of {limit.requests} requests is used up"
        if limit.tokens is not None and used.prompt + used.answer + tokens > limit.tokens:
            so_far = used.prompt + used.answer
            return f"the budget of {limit.tokens} tokens is used up ({so_far} used, the next request may take {tokens})"
        return (
            f"the budget of {limit.money:g} is used up ({used.money:.4g} used, the next request may cost {money:.4g})"
        )
