"""BIG-bench (arXiv 2206.04615), JSON tasks: a choice by log-likelihood where the examples have `target_scores`, or a text written.

A task's file says how it is asked: `example_input_prefix` ("\\nQ: "), `example_output_prefix` ("\\nA: "), `task_prefix`, and
whether the choices are listed (`append_choices_to_input`). Here the published defaults stand: the rows are read one by one.
`multiple_choice_grade` is the score of the choice with the largest log-likelihood; exact_str_match compares with any of the
targets.

`bigbench_emoji_movie` and `bigbench_date_understanding` are the written task on those two files, asked freely as PassUntil asks
them (arXiv 2310.03262): the choices are not shown. A short common title can still be guessed; PassUntil leaves such items out and
does not name them, so that none are left out here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fulgurite.data.records.findings import Place
from fulgurite.data.sources.json_list import unique_keys
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.choices.accuracy import chosen, with_blank
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__ = ["FILES", "line_of", "read_examples", "targets_of"]

# Where a task's file lies: in a folder of data, in BIG-bench's repository, in a folder of one file a task.
FILES = ("bigbench/{0}.json", "bigbench/benchmark_tasks/{0}/task.json", "{0}/task.json", "{0}.json")


def _choice(row: Row, number: int) -> Item:
    scores = field_of(row, "target_scores", dict)
    if not scores or not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in scores.values()):
        raise ValueError("'target_scores' holds no score from 0 to 1 for each choice")
    if len(set(scores.values())) < 2:
        raise ValueError("'target_scores' gives all choices the same score, so that nothing is right or wrong")
    listed = "".join(f"\n  choice: {text}" for text in scores)
    prompt = f"Q: {field_of(row, 'input')}{listed}\nA:"
    return Item(str(number), prompt, list(scores.values()), with_blank(list(scores)))


def _grade(item: Item, sums: Sequence[float], greedy: Sequence[bool] | None) -> dict[str, float]:
    return {"multiple_choice_grade": float(item.target[chosen(sums)])}


def read_examples(path: Path) -> Iterator[tuple[Place, Row]]:
    """The rows of a task's file: the list `examples` beside other lists (keywords, metrics); other formats are read as usual.

    Args:
        path: task.json of a task, or a file of rows.
    """
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
        except ValueError as error:
            raise ValueError(f"{path}: no JSON that can be read ({error}); give a task's task.json") from error
        if isinstance(content, dict) and isinstance(content.get("examples"), list):
            yield from ((Place(str(path), number), row) for number, row in enumerate(content["examples"], 1))
            return
    yield from rows_of(path, owner="evaluate")


def targets_of(row: Row) -> list[str]:
    """The right answers of a row: its `target` (or the hub's `targets`), else its choices with the highest score.

    Args:
        row: in BIG-bench's columns.

    Raises:
        ValueError: there are none.
    """
    target = row.get("target", row.get("targets"))
    if target is None and isinstance(row.get("target_scores"), dict):
        scores = row["target_scores"]
        if not scores or not all(isinstance(score, (int, float)) for score in scores.values()):
            raise ValueError("'target_scores' holds no score for each choice")
        target = [text for text, score in scores.items() if score == max(scores.values())]
    targets = [target] if isinstance(target, str) else target
    if not isinstance(targets, list) or not targets or not all(isinstance(text, str) for text in targets):
        raise ValueError("there is no 'target'")
    return targets


def _written(row: Row, number: int) -> Item:
    targets, asked = targets_of(row), field_of(row, "input")
    return Item(str(number), f"Q: {asked}\nA:", targets, question=asked, solution=targets[0])


def _canonical(text: str) -> str:
    return " ".join(text.split()).lower()


def _same(answer: str, target: Any) -> bool:
    return _canonical(answer) in [_canonical(text) for text in target]


def line_of(text: str, item: Item) -> str | None:
    """The first line that is not blank.

    Args:
        text: an answer.
        item: unused.
    """
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


register(
    Task(
        "bigbench_choices",
        "any BIG-bench JSON task with target_scores (name its file by --path): the choice by log-likelihood",
        1,
        _choice,
        files=("task.json",),
        read=read_examples,
        metrics=_grade,
    )
)
for _name, _summary, _files in (
    ("written", "any BIG-bench JSON task (name its file by --path)", ("task.json",)),
    ("emoji_movie", "BIG-bench's emoji_movie, asked without choices", None),
    ("date_understanding", "BIG-bench's date_understanding, asked without choices", None),
):
    register(
        Task(
            f"bigbench_{_name}",
            f"{_summary}: the text is written, and compared exactly",
            1,
            _written,
            TextJudge(_same, _canonical),
            files=_files or tuple(file.format(_name) for file in FILES),
            read=read_examples,
            stop=("\nQ:",),
            max_new_tokens=64,
            answer=line_of,
        )
    )
