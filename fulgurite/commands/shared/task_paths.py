"""Where the rows of several tasks are: one path for all of them, or NAME=PATH with commas between."""

from __future__ import annotations

from collections.abc import Sequence

from fulgurite.evaluation.tasks import TASKS, Task

__all__ = ["path_of_each"]


def path_of_each(verb: str, given: str | None, tasks: Sequence[Task]) -> dict[str, str | None]:
    """A path for each task.

    Args:
        verb: who asks, for the message.
        given: a path for all, or NAME=PATH with commas between; None where none was given.
        tasks: the tasks.

    Raises:
        ValueError: a part names none of the tasks, or one that has a path already, or no path.
    """
    if given is None or given.partition("=")[0] not in TASKS:
        return {task.name: given for task in tasks}
    found: dict[str, str | None] = {task.name: None for task in tasks}
    for part in given.split(","):
        name, sign, path = part.partition("=")
        if not sign or name not in found:
            raise ValueError(
                f"{verb}: path {part!r}; with NAME=PATH each part names one of the tasks {', '.join(found)}; correct it"
            )
        if found[name] is not None or not path.strip():
            what = (
                "has no path behind the =" if not path.strip() else f"gives {name} a second path beside {found[name]!r}"
            )
            raise ValueError(f"{verb}: path {part!r} {what}; give each task one path")
        found[name] = path.strip()
    return found
