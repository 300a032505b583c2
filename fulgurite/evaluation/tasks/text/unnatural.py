"""BIG-bench's unnatural in-context learning (Rong and Liang; arXiv 2206.04615), eight subtasks of rules that examples show.

A row's `input` with the words "Input:" and "Output:" in it is the whole prompt, examples included; any other one is asked as
``Input: …\\nOutput:``, with `--shots` and `--shots_path` for examples before it. The answer is the first line, compared with the
targets character by character: these rules are about characters, so that neither case nor spaces within are left out. PassUntil
(arXiv 2310.03262) asks 20 questions of each subtask, as `--limit 20` does.
"""

from __future__ import annotations

from typing import Any

from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register
from fulgurite.evaluation.tasks.text.bigbench import FILES, line_of, read_examples, targets_of

__all__ = ["SUBTASKS"]

SUBTASKS = (
    "identity",
    "dates",
    "dates_unnatural_content",
    "dates_unnatural_form",
    "dates_unnatural_content_and_form",
    "unnatural_addition_2_digit",
    "reverse_natural_content",
    "reverse_to_natural_content",
)


def _item(row: Row, number: int) -> Item:
    asked, targets = field_of(row, "input" if "input" in row else "inputs"), targets_of(row)
    prompt = asked.rstrip() if "Output:" in asked else f"Input: {asked}\nOutput:"
    return Item(str(number), prompt, targets, solution=targets[0].strip())


def _same(answer: str, target: Any) -> bool:
    return answer.strip() in [text.strip() for text in target]


def _example(item: Item) -> str:
    return f"{item.prompt} {item.solution}"


for _name in SUBTASKS:
    register(
        Task(
            f"bigbench_unnatural_{_name}",
            f"BIG-bench's unnatural in-context learning, {_name.replace('_', ' ')}: the text is written, and compared exactly",
            1,
            _item,
            TextJudge(_same, str.strip),
            read=read_examples,
            files=tuple(file.format(f"unnatural_in_context_learning/{_name}") for file in FILES),
            stop=("\nInput:",),
            max_new_tokens=64,
            answer=line_of,
            example=_example,
        )
    )
