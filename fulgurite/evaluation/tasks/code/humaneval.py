"""HumanEval (arXiv 2107.03374) and its prompts in other languages: a function's signature and docstring are continued.

The prompt is given as it stands, its last line feed included: stripped of it, one model lost half its score
(bigcode-evaluation-harness, issue 159).
The test is HumanEval's ``check(candidate)``, run in the judge's process with the prompt's helper functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.sources.text_formats import read_jsonl
from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.tasks.code.programs import STOPS, from_continuation
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register
from fulgurite.sandbox import Job

__all__ = ["check_job"]

_LANGUAGES = {"en": "jsonl", "es": "json", "fr": "json", "zh": "jsonl"}
ASKED = (
    "Complete the following Python function. Answer with the whole function, its imports included, in one block of code.\n\n"
    "```python\n{0}\n```"
)


def check_job(item: Item, program: str) -> Job:
    """HumanEval's way of testing.

    Args:
        item: its data hold prompt, test and entry_point, and `helpers` where the prompt alone is no valid program.
        program: a whole program.
    """
    return Job(
        program, item.data["test"], item.data["entry_point"], helpers=item.data.get("helpers", item.data["prompt"])
    )


def _item(row: Row, number: int) -> Item:
    prompt, test = field_of(row, "prompt"), field_of(row, "test")
    entry_point = field_of(row, "entry_point")
    if "def check(" not in test:
        raise ValueError("'test' defines no check(candidate)")
    data = {"prompt": prompt, "test": test, "entry_point": entry_point}
    solution = str(row.get("canonical_solution") or "")
    key = str(field_of(row, "task_id", (str, int)))
    return Item(key, prompt, question=ASKED.format(prompt.rstrip()), solution=solution, data=data)


def _lines(path: Path) -> Iterator[tuple[Place, Row]]:
    """One object a line, whatever the file's ending."""
    return ((Place(str(path), number), row) for row, number in read_jsonl(path))


def _program(text: str, item: Item) -> str | None:
    return from_continuation(text, item.data["prompt"], item.data["entry_point"])


_JUDGE = ProgramJudge(check_job)

register(
    Task(
        "humaneval",
        "164 Python functions by signature and docstring, zero examples, prompt as it stands",
        1,
        _item,
        _JUDGE,
        Hub("openai/openai_humaneval", None, "test", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"),
        ("code/humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl.gz", "HumanEval.jsonl.gz", "HumanEval.jsonl"),
        stop=STOPS,
        max_new_tokens=512,
        answer=_program,
    )
)
for _language, _ending in _LANGUAGES.items():
    _file = f"humaneval_{_language}.{_ending}"
    register(
        Task(
            f"humaneval_prompts_{_language}",
            f"HumanEval with docstrings in the language {_language}",
            1,
            _item,
            _JUDGE,
            files=(f"code/humaneval-multilingual/{_file}", f"humaneval-multilingual/{_file}", _file),
            read=_lines,
            stop=STOPS,
            max_new_tokens=512,
            answer=_program,
        )
    )
