"""What an evaluation of one task consists of: its items, its rendered prompts, its settings, and the identity of its samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.tasks.rows import Items, examples_of, items_of, refuse_shown
from fulgurite.evaluation.tasks.task import Item, Task
from fulgurite.generation.protocol import SamplingSettings
from fulgurite.whole_files import write_text

__all__ = ["Plan", "plan_of", "text_hash"]


@dataclass(frozen=True)
class Plan:
    """One task of a run.

    Attributes:
        task: the task.
        found: its items.
        folder: where its files go.
        settings: how answers are drawn; its stop texts are the task's.
        n: samples of each item.
        chat: ask as a chat's user, not with a text that is continued.
        examples: what stands before each prompt.
        shots: how many examples these are.
    """

    task: Task
    found: Items
    folder: Path
    settings: SamplingSettings
    n: int = 1
    chat: bool = False
    examples: str = ""
    shots: int = 0

    @property
    def items(self) -> list[Item]:
        """The items in order."""
        return self.found.items

    @property
    def samples_file(self) -> Path:
        """Where the samples are."""
        return self.folder / "samples.jsonl"

    @property
    def scores_file(self) -> Path:
        """Where the scores are."""
        return self.folder / "scores.jsonl"

    def prompt(self, item: Item) -> str | list[Turn]:
        """What the model gets for an item: a text that it continues, or the turns of a chat."""
        if not self.chat or self.task.kind == "choices":
            return self.examples + item.prompt
        return [Turn("user", self.examples + (item.question or item.prompt))]

    def request(self, item: Item) -> str:
        """A hash of everything that is sent for an item beside the settings."""
        return self._requests[item.key]

    @cached_property
    def _requests(self) -> dict[str, str]:
        return {item.key: text_hash([plain(self.prompt(item)), list(item.choices)]) for item in self.items}

    def identity(self, writer: Mapping[str, Any]) -> dict[str, Any]:
        """What the samples depend on beside the requests.

        Args:
            writer: what the backend says of itself.
        """
        shared = {"task": self.task.name, "version": self.task.version, "shots": self.shots, "writer": dict(writer)}
        if self.task.kind == "choices":
            return shared
        return {**shared, "chat": self.chat, "settings": self.settings.to_dict()}

    def write_requests(self) -> None:
        """Writes each item's prompt and target, so that samples can be read without the task's rows."""
        lines = [
            json.dumps(
                {
                    "item": item.key,
                    "request": self.request(item),
                    "prompt": plain(self.prompt(item)),
                    **({"choices": list(item.choices)} if item.choices else {}),
                    "target": item.target,
                },
                default=str,
            )
            for item in self.items
        ]
        write_text(self.folder / "requests.jsonl", "\n".join(lines) + "\n")


def plan_of(
    task: Task,
    path: str | None,
    folder: Path,
    drawn: SamplingSettings,
    *,
    n: int = 1,
    limit: int | None = None,
    shots: int | None = None,
    shots_path: str | None = None,
    chat: bool = False,
    max_new_tokens: int | None = None,
    on_bad_row: str = "few",
) -> Plan:
    """The plan of a task from what a user chose; its rows are read.

    Args:
        task: the task.
        path: where its rows are, as items_of takes it.
        folder: where its files go.
        drawn: how answers are drawn; stop texts and the length are the task's.
        n: samples of each item.
        limit: the first so many items; None for all.
        shots: examples before each prompt; None for as many as the task is defined with.
        shots_path: a file of training rows from which the examples come.
        chat: ask as a chat's user.
        max_new_tokens: of an answer; None for the task's.
        on_bad_row: "few", "skip" or "error", as items_of takes it.

    Raises:
        ValueError, FileNotFoundError: no rows, broken rows, examples that are asked too, or a task that is not asked in a chat.
    """
    if chat and not task.chat:
        raise ValueError(f"evaluate: {task.name} is not asked in a chat; leave out chat")
    count = (len(task.fixed) if task.kind == "answers" else 0) if shots is None else shots
    length = task.max_new_tokens if max_new_tokens is None else max_new_tokens
    settings = replace(drawn, max_new_tokens=length, stop=() if chat else tuple(task.stop))
    examples = examples_of(task, shots_path, count)
    found = items_of(task, path, limit, on_bad_row)
    if shots_path is not None:
        refuse_shown(task, found.items, examples)
    return Plan(task, found, folder, settings, n, chat, examples, count)


def plain(prompt: str | Sequence[Turn]) -> Any:
    """A prompt as plain data."""
    return prompt if isinstance(prompt, str) else [{"role": turn.role, "content": turn.content} for turn in prompt]


def text_hash(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
