"""The items of a task: found in a file, a folder of data, on the hub, or made by the playground; broken rows are counted.

The hub is asked only where the user says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.sources.formats import near_name
from fulgurite.data.sources.hub import hub_rows
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.tasks.task import Item, Row, Task

__all__ = ["BAD_ROWS", "Items", "examples_of", "items_of", "refuse_shown"]

BAD_ROWS = ("few", "skip", "error")
_FEW = 0.1  # of the rows
_SHOWN = 5


@dataclass(frozen=True)
class Items:
    """What a task asks.

    Attributes:
        items: in the order of their rows.
        source: where they come from, for people.
        bad: what is wrong with each row that was left out.
        rows: how many rows were read.
    """

    items: list[Item]
    source: str
    bad: list[str]
    rows: int


def items_of(task: Task, path: str | None, limit: int | None = None, on_bad_row: str = "few") -> Items:
    """The items of a task.

    Args:
        task: the task.
        path: a file; a folder that holds one of the task's files; "hub"; "builtin".
        limit: the first so many; None for all.
        on_bad_row: rows that are no item are counted and left out ("skip"), as long as they are a tenth of all at most ("few"), or
            the first one is an error ("error").

    Raises:
        ValueError, FileNotFoundError: no rows there, or a broken row where it is not to be left out.
    """
    if on_bad_row not in BAD_ROWS:
        raise ValueError(f"evaluate: on_bad_row={on_bad_row!r}; allowed are {', '.join(BAD_ROWS)}")
    source, rows = _rows(task, path)
    items: list[Item] = []
    seen: dict[str, str] = {}
    bad: list[str] = []
    count = 0
    for place, row in rows:
        if limit is not None and len(items) >= limit:
            break
        count += 1
        try:
            item = task.item(row, place.row)
            if item.key in seen:
                raise ValueError(f"its id {item.key!r} stands at {seen[item.key]} already")
        except ValueError as error:
            bad.append(f"{place}: {error}")
            if on_bad_row == "error":
                raise ValueError(
                    f"{task.name}: {bad[-1]}; correct the row, or leave it out with on_bad_row skip"
                ) from error
            continue
        seen[item.key] = str(place)
        items.append(item)
    found = "\n  ".join([*bad[:_SHOWN], *([f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else [])])
    if not items:
        raise ValueError(
            f"{task.name}: none of {count} rows of {source} can be asked; is it a file of this task?\n  {found}"
        )
    if on_bad_row == "few" and len(bad) > _FEW * count:
        raise ValueError(
            f"{task.name}: {len(bad)} of {count} rows of {source} would be left out; allowed without a word is a tenth; correct "
            f"them, or accept it with on_bad_row skip\n  {found}"
        )
    return Items(items, source, bad, count)


def examples_of(task: Task, path: str | None, shots: int) -> str:
    """The examples in front of a prompt, each with a blank line behind it; "" for none.

    Args:
        task: the task.
        path: a file of rows of the task's training split; not needed where the examples are part of the task.
        shots: how many, from the file's beginning.

    Raises:
        ValueError: the task takes no examples, or there are fewer.
    """
    if shots == 0:
        return ""
    if task.fixed:
        written: Sequence[str] = task.fixed[:shots]
    elif task.example is None:
        raise ValueError(f"{task.name}: shots={shots}; this task takes no examples; leave shots out")
    elif path is None:
        raise ValueError(
            f"{task.name}: shots={shots} and no rows to take them from; give shots_path, a file of training rows"
        )
    else:
        example = task.example
        written = [example(item) for item in items_of(task, path, shots, "error").items]
    if len(written) < shots:
        raise ValueError(f"{task.name}: shots={shots}; there are {len(written)} examples; give fewer")
    return "".join(f"{text}\n\n" for text in written)


def refuse_shown(task: Task, items: Sequence[Item], examples: str) -> None:
    """Refuses examples that hold questions which are asked: their answers would stand in the prompt.

    Args:
        task: the task.
        items: that are asked.
        examples: as of `examples_of`.

    Raises:
        ValueError: one of the items is among the examples.
    """
    example = task.example
    shown = [item.key for item in items if example is not None and f"{example(item)}\n\n" in examples]
    if shown:
        raise ValueError(
            f"{task.name}: {len(shown)} of the questions that are asked stand with their answers among the examples, the first is "
            f"{shown[0]!r}; give rows of the training split as shots_path"
        )


def _rows(task: Task, path: str | None) -> tuple[str, Iterator[tuple[Place, Row]]]:
    """Where the rows lie, and a reading of them."""
    ways = ["a file"]
    ways += [f"--path hub, which fetches {task.hub.name}"] if task.hub is not None else []
    ways += ["--path builtin, rows of the playground"] if task.builtin is not None else []
    if path is None:
        raise ValueError(f"{task.name}: no rows were named; give --path with {', or '.join(ways)}")
    if path == "builtin":
        if task.builtin is None:
            raise ValueError(
                f"{task.name}: the playground has no rows of this task; give --path with {', or '.join(ways)}"
            )
        made = task.builtin()
        return f"builtin {task.name}", ((Place("builtin", number), row) for number, row in enumerate(made, 1))
    if path == "hub":
        if task.hub is None:
            raise ValueError(
                f"{task.name}: we know no data set of the hub for it; give --path with {', or '.join(ways)}"
            )
        hub = task.hub
        data = hub_rows(
            hub.name, hub.split, owner=task.name, revision=hub.revision, config=hub.config, advice="a local file"
        )
        name = f"{hub.name} {hub.split}@{hub.revision[:8]}"
        return name, ((Place(name, number), row) for number, row in enumerate(data, 1))
    place = Path(path).expanduser()
    if place.is_dir():
        found = next((place / name for name in task.files if (place / name).exists()), None)
        if found is None and any(place.rglob("*.*")) and not task.files:
            found = place
        if found is None:
            raise FileNotFoundError(
                f"{task.name}: the folder {place} holds none of its files ({', '.join(task.files)}); give --path {task.name}=FILE"
            )
        place = found
    elif not place.exists():
        raise FileNotFoundError(f"{task.name}: no such file: {place}; {near_name(place) or 'check the path'}")
    read = task.read or (lambda file: rows_of(file, owner=task.name))
    return str(place), read(place)
