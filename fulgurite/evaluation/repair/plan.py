"""What a run of the repair loop consists of: problems, feedback mode, turns, prompts, and who plays the two roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.repair.problems import Problem, judge_of, problem_of
from fulgurite.evaluation.repair.prompts import Templates, stops_of
from fulgurite.evaluation.tasks.rows import Items
from fulgurite.evaluation.tasks.task import Task
from fulgurite.generation.protocol import Backend, SamplingSettings

__all__ = ["FEEDBACK", "METHODS", "RepairPlan", "Role", "SAMPLING", "SHARED", "sent"]

FEEDBACK = {
    "hidden": "errors of the hidden tests, by which programs are scored too (the paper's way: the numbers are no pass@1)",
    "visible": "errors of the examples that the problem shows; scored on the hidden tests",
    "selfgen": "errors of tests that the model wrote from the problem's text; scored on the hidden tests",
}
SHARED = "shared"  # the first program, from which every method of repair goes on, and the model's own tests
SAMPLING = "sampling"
# What a turn of each method asks, in order: the step's name and its template.
METHODS: dict[str, tuple[tuple[str, str], ...]] = {
    "intervenor": (("explanation", "teach"), ("program", "repair")),
    "self_repair": (("program", "repair_error"),),
    "step_by_step": (("program", "repair_steps"),),
}


@dataclass(frozen=True)
class Role:
    """Learner or teacher.

    Attributes:
        backend: writes the answers.
        settings: how they are drawn; stop texts come with each prompt.
        chat: ask as a chat's user, not with a text that is continued.
        tokenizer: of a model in this process, to count the tokens of prompts; None where they cannot be counted.
        window: tokens that the model can see; None where that is not known.
    """

    backend: Backend
    settings: SamplingSettings
    chat: bool = False
    tokenizer: Any = None
    window: int | None = None

    def prompt(self, text: str) -> str | list[Turn]:
        """A rendered template as the backend takes it."""
        return [Turn("user", text)] if self.chat else text

    def tokens(self, text: str) -> int | None:
        """Tokens of a prompt; None where they cannot be counted."""
        if self.tokenizer is None:
            return None
        turns = [Turn("user", text)] if self.chat else [Turn("prompt", text)]
        return len(encode_prompt(self.tokenizer, turns))

    def drawn(self, template: str, ends: Sequence[str], temperature: float | None = None) -> SamplingSettings:
        """The settings of one prompt.

        Args:
            template: its name.
            ends: texts that end the program that a completion continues; nothing where it writes all of it.
            temperature: in place of the role's.
        """
        stop = () if self.chat else stops_of(template, ends)
        return replace(
            self.settings, stop=stop, temperature=self.settings.temperature if temperature is None else temperature
        )


@dataclass(frozen=True)
class RepairPlan:
    """One task in one feedback mode.

    Attributes:
        task: the task.
        found: its items.
        folder: where its files go.
        feedback: one of FEEDBACK.
        learner: who writes programs, and tests where the mode wants some.
        teacher: who explains.
        templates: the prompts.
        how: what the user chose about judging.
        turns: repairs at most.
        n: chains of each item.
        baselines: whether self-repair, step by step and independent sampling are run as well.
        sampling_temperature: of the independent samples.
        max_programs: no turn begins once INTERVENOR has written so many programs in all chains; None for any number.
        max_tokens: the same of the tokens of its prompts and answers.
    """

    task: Task
    found: Items
    folder: Path
    feedback: str
    learner: Role
    teacher: Role
    templates: Templates
    how: How
    turns: int = 3
    n: int = 1
    baselines: bool = True
    sampling_temperature: float = 0.8
    max_programs: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.feedback not in FEEDBACK:
            raise ValueError(
                f"repair: feedback={self.feedback!r}; allowed are {', '.join(FEEDBACK)}; choose among them"
            )
        limits = (("max_programs", self.max_programs, 1), ("max_tokens", self.max_tokens, 1))
        for name, value, least in (("turns", self.turns, 0), ("n", self.n, 1), *limits):
            if value is not None and value < least:
                raise ValueError(f"repair: {name}={value}; allowed are {least} and more; give more")
        if self.n > 1 and self.learner.settings.temperature == 0:
            raise ValueError(
                f"repair: n={self.n} with temperature 0 would give the same chain {self.n} times; set temperature above 0, such as "
                "0.8, or n=1"
            )
        other = next((problem.language for problem in self.problems if problem.language != "Python"), None)
        if self.feedback == "selfgen" and other is not None:
            raise ValueError(
                f"repair: feedback='selfgen' with {self.task.name}; tests that a model writes are asserts of Python, and these "
                f"programs are {other}; take visible or hidden"
            )
        if self.baselines and self.sampling_temperature <= 0:
            raise ValueError(
                f"repair: sampling_temperature={self.sampling_temperature}; independent samples at temperature 0 are all the same; "
                "give more, such as 0.8"
            )

    @cached_property
    def problems(self) -> list[Problem]:
        """The items as problems, in order."""
        return [problem_of(self.task, item) for item in self.found.items]

    @property
    def methods(self) -> list[str]:
        """Names of the ways to repair, ours first."""
        return list(METHODS) if self.baselines else ["intervenor"]

    @property
    def file(self) -> Path:
        """Where everything that is asked, answered and run is."""
        return self.folder / "chains.jsonl"

    def identity(self) -> dict[str, Any]:
        """What every record depends on. Turns, chains of an item and items are not in it: there may be more of them later."""
        roles = {
            name: {"writer": dict(role.backend.identity()), "chat": role.chat, "settings": sent(role.settings)}
            for name, role in (("learner", self.learner), ("teacher", self.teacher))
        }
        return {
            "task": self.task.name,
            "version": self.task.version,
            "feedback": self.feedback,
            **roles,
            "sampling_temperature": self.sampling_temperature,
            "templates": self.templates.hashes,
            "judge": judge_of(self.task).identity(self.how),
        }


def sent(settings: SamplingSettings) -> Mapping[str, Any]:
    """Settings as plain data, without the stop texts, which come with each prompt."""
    return {name: value for name, value in settings.to_dict().items() if name != "stop"}
