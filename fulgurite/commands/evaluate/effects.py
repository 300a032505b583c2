"""Options of `fulgurite evaluate` that would change nothing beside the others, refused before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fulgurite.commands.shared.options import AskingOptions
from fulgurite.commands.shared.unused import COLD, cutting_options, model_options, refuse_unused
from fulgurite.data.encoding.templates import NO_TEMPLATE
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.tasks import Task

__all__ = ["CAP", "refuse_idle", "refuse_idle_shots"]

CAP = 100_000
_GIVEN = "on tasks of choices, whose given answers are compared and none is written"


def refuse_idle(
    tasks: Sequence[Task], asking: AskingOptions, phase: str, until_passes: int | None, options: dict[str, Any]
) -> None:
    """Refuses what was given and has no effect.

    Args:
        tasks: that are asked.
        asking: model or server, and how it draws.
        phase: all, generate or score.
        until_passes: as it was given.
        options: the command's own ones by name, as they were given.

    Raises:
        ValueError: the first combination in which an option has no effect.
    """

    def refuse(why: str, **defaults: object) -> None:
        mine = {name: (options[name], default) for name, default in defaults.items() if name in options}
        theirs = {name: (getattr(asking, name), default) for name, default in defaults.items() if name not in options}
        refuse_unused("evaluate", why, **mine, **theirs)

    if until_passes is None:
        refuse("without --until_passes", cap=CAP, until_passes_of="instance")
    if phase == "generate":
        refuse("with --phase generate, which reports nothing", k=None)
    if phase == "score":
        nothing = dict.fromkeys(("model", "adapter", "server", "served_model", "template", "dtype", "device"))
        refuse("with --phase score, which judges the samples that are there and takes no model", **nothing)
    elif asking.server is None:
        refuse("without --server", concurrency=AskingOptions.concurrency, max_requests=None, max_tokens=None)
    else:
        refuse_unused("evaluate", "with --server, which has loaded its model already", **model_options(asking))
    if not options["chat"] and phase != "score":
        refuse("without --chat: the text is continued as it stands", template=None)
    elif asking.template == NO_TEMPLATE:
        raise ValueError("evaluate: --template none with --chat, which lays a chat template; leave one of both out")
    if all(task.kind == "choices" for task in tasks):
        none = dict.fromkeys(("k", "max_new_tokens", "temperature"))
        refuse(_GIVEN, n=1, chat=False, top_p=1.0, top_k=0, repetition_penalty=1.0, **none)
    elif options["temperature"] == 0 or (options["temperature"] is None and options["n"] == 1 and until_passes is None):
        refuse_unused("evaluate", COLD, **cutting_options(asking))


def refuse_idle_shots(plans: Sequence[Plan], shots_path: str | None) -> None:
    """Refuses a file of examples from which none is taken.

    Args:
        plans: of the tasks.
        shots_path: as it was given.

    Raises:
        ValueError: no task takes examples from it.
    """
    if shots_path is None or any(plan.shots and not plan.task.fixed for plan in plans):
        return
    own = any(plan.shots for plan in plans)
    why = "on tasks whose examples are part of their definition" if own else "without --shots, the number of examples"
    refuse_unused("evaluate", why, shots_path=(shots_path, None))
