"""Our generative tasks as tasks of inspect_ai: `inspect eval fulgurite/humaneval -T path=FILE --model …`.

One function makes all of them from `fulgurite.evaluation.tasks`. They ask as a chat's user, since that is what inspect_ai's models
are; `-T chat=false` gives a model of ours the text to continue, as `fulgurite evaluate` does without `--chat`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inspect_ai import Task as InspectTask
from inspect_ai import task as inspect_task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from inspect_ai.solver import generate, solver

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.plugins.inspect_harness.scoring import as_plain, verdict
from fulgurite.evaluation.runner.plan import Plan, plan_of
from fulgurite.evaluation.tasks import TASKS, Item, Task
from fulgurite.generation.protocol import SamplingSettings

__all__ = ["CONTINUED", "INSPECT_TASKS", "continue_text"]

CONTINUED = "fulgurite_continued"  # marks a message whose text is continued as it stands
_LOG = logging.getLogger(__name__)


@solver
def continue_text() -> Any:
    """Writes on from the prompt; refuses models that can only chat, whose scores would mean something else."""
    write = generate()

    async def solve(state: Any, generate: Any) -> Any:
        model = get_model()
        if not getattr(model.api, "continues_texts", False):
            raise ValueError(
                f"fulgurite task: chat=false gives a text to continue, which {model} cannot; allowed are models fulgurite/…; leave "
                "chat=false out"
            )
        return await write(state, generate)

    return solve


def _made(
    ours: Task,
    path: str | None,
    limit: int | None,
    shots: int | None,
    shots_path: str | None,
    chat: bool,
    sandbox: str,
    time_limit: float,
    on_bad_row: str,
) -> InspectTask:
    assert ours.judge is not None
    if chat and not ours.chat:
        raise ValueError(f"fulgurite task: {ours.name} is not asked in a chat; give -T chat=false")
    how = How(sandbox, float(time_limit))
    ours.judge.check(how)
    plan = plan_of(
        ours,
        path,
        Path(),
        SamplingSettings(),
        limit=limit,
        shots=shots,
        shots_path=shots_path,
        chat=chat,
        on_bad_row=on_bad_row,
    )
    found, settings = plan.found, plan.settings
    if found.bad:
        _LOG.warning("%s: %d of %d rows left out, the first: %s", ours.name, len(found.bad), found.rows, found.bad[0])
    return InspectTask(
        dataset=MemoryDataset([_sample(plan, item) for item in plan.items], name=ours.name, location=found.source),
        solver=generate() if chat else continue_text(),
        scorer=verdict(ours.name, sandbox, float(time_limit)),
        config=GenerateConfig(
            max_tokens=settings.max_new_tokens, temperature=0.0, stop_seqs=list(settings.stop) or None
        ),
        version=ours.version,
        metadata={
            "judge": ours.judge.identity(how),
            "chat": chat,
            "shots": plan.shots,
            "rows_left_out": len(found.bad),
        },
    )


def _sample(plan: Plan, item: Item) -> Sample:
    prompt = plan.prompt(item)
    if isinstance(prompt, str):
        message = ChatMessageUser(content=prompt, metadata={CONTINUED: True})
    else:
        message = ChatMessageUser(content=prompt[0].content)
    target = item.solution if item.target is None else item.target
    return Sample(input=[message], target=str(target), id=item.key, metadata={"item": as_plain(item)})


def _entry(ours: Task) -> Callable[..., InspectTask]:
    """A task of ours by the options that `-T` gives it."""

    def build(
        path: str | None = None,
        limit: int | None = None,
        shots: int | None = None,
        shots_path: str | None = None,
        chat: bool = True,
        sandbox: str = "auto",
        time_limit: float = 10.0,
        on_bad_row: str = "few",
    ) -> InspectTask:
        return _made(ours, path, limit, shots, shots_path, chat, sandbox, time_limit, on_bad_row)

    build.__name__ = ours.name
    build.__doc__ = ours.summary
    made: Callable[..., InspectTask] = inspect_task(name=ours.name)(build)
    return made


INSPECT_TASKS = {name: _entry(ours) for name, ours in TASKS.items() if ours.kind == "answers"}
