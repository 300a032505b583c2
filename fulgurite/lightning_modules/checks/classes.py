"""Task, number and names of the classes: what a module and its data must agree on.

Class numbers mean something only together with the order of the labels that were trained on.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

from torch import nn

__all__ = ["agreed_labels", "agreed_names", "check_task", "name_classes"]


def check_task(cls: type, mine: str, data: Any) -> None:
    """Refuse a datamodule of another task.

    Args:
        cls: the module's class, which may offer a choice of tasks.
        mine: its task.
        data: the datamodule, or None.

    Raises:
        ValueError: ``data.task_type`` is another task.
    """
    wanted = getattr(data, "task_type", None)
    if wanted is None or wanted == mine:
        return
    offered = inspect.signature(cls.__init__).parameters.get("task")  # type: ignore[misc]
    fits = offered is not None and repr(wanted) in str(offered.annotation)
    way = f"--model.task {wanted}, or " if fits else ""
    raise ValueError(
        f"{cls.__name__}: its task is {mine!r}, but {type(data).__name__} holds a {wanted} task. "
        f"Give {way}other data, or another module."
    )


def agreed_labels(owner: str, mine: int | None, data: Any) -> int | None:
    """The number of classes that module and data agree on; None where neither says one.

    Args:
        owner: class name of the module, for the message.
        mine: the module's number; None takes the data's.
        data: the datamodule, or None.

    Raises:
        ValueError: two different numbers.
    """
    found = getattr(data, "num_labels", None)
    if not found or mine in (None, found):
        return mine or found or None
    raise ValueError(
        f"{owner}: num_labels={mine}, but {type(data).__name__} has {found} classes "
        f"({', '.join(map(str, getattr(data, 'label_names', None) or []))}). Drop num_labels, or give other data."
    )


def agreed_names(owner: str, trained: list[str] | None, given: list[str] | None) -> list[str] | None:
    """The names, where those trained on and those of the data are the same in the same order; plain numbers fit any names.

    Args:
        owner: the module, for the message.
        trained: of the checkpoint, or taken from data earlier; None if unknown.
        given: of the data now; None if unknown.

    Raises:
        ValueError: other labels, or another order of them.
    """
    numbers = [str(place) for place in range(len(given or trained or ()))]
    if not trained or not given or trained == given or given == numbers:
        return trained or given
    if trained == numbers:
        return given
    raise ValueError(
        f"{owner}: the classes of the data are {', '.join(given)}, in this order; it was trained on {', '.join(trained)}, and "
        f"class numbers would mean other labels. Give --data.label_names '{json.dumps(trained)}', or the data it was trained on."
    )


def name_classes(network: nn.Module | None, names: list[str] | None) -> None:
    """Write the names into a transformers configuration, so that an export says what its classes are."""
    config: Any = getattr(network, "config", None)
    if names and config is not None and getattr(config, "num_labels", 0) == len(names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: place for place, name in enumerate(names)}
