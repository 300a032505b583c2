"""Repairing a program: HumanEvalPack's fix task (arXiv 2308.07124) and CodeError (INTERVENOR, arXiv 2311.09868).

HumanEvalPack, tests variant: the buggy function, its tests, the instruction "Fix bugs in NAME.", then the function's beginning,
which is continued. CodeError: the buggy program and its error message; the whole program is to be written. Both are judged by
HumanEval's check.
"""

from __future__ import annotations

from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.tasks.code.humaneval import check_job
from fulgurite.evaluation.tasks.code.programs import STOPS, from_continuation, whole_program
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__: list[str] = []


def _pack(row: Row, number: int) -> Item:
    start, test, name = field_of(row, "declaration"), field_of(row, "test"), field_of(row, "entry_point")
    buggy = f"{start}{field_of(row, 'buggy_solution')}"
    lead = f"{buggy}\n{test.strip()}\n\nFix bugs in {name}.\n"
    data = {"prompt": start, "test": test, "entry_point": name, "buggy": buggy, "bug": str(row.get("bug_type") or "")}
    data["helpers"] = str(row.get("prompt") or f"{start}    pass\n")  # the declaration alone has no body
    data["examples"] = str(row.get("example_test") or "")
    question = f"{lead}\nAnswer with the whole corrected function, its imports included, in one block of code."
    return Item(
        str(field_of(row, "task_id", (str, int))),
        f"{lead}{start}",
        question=question,
        solution=str(row.get("canonical_solution") or ""),
        data=data,
    )


def _pack_program(text: str, item: Item) -> str | None:
    return from_continuation(text, item.data["prompt"], item.data["entry_point"])


def _codeerror(row: Row, number: int) -> Item:
    buggy, test, name = field_of(row, "buggy_code"), field_of(row, "test"), field_of(row, "entry_point")
    message = field_of(row, "error_message").strip()
    lead = (
        f"This Python program is wrong:\n\n```python\n{buggy.rstrip()}\n```\n\nIts error message is:\n\n{message}\n\n"
    )
    data = {"prompt": "", "test": test, "entry_point": name, "buggy": buggy, "bug": str(row.get("error_type") or "")}
    data |= {"start": str(row.get("prompt") or ""), "original": str(row.get("original_task_id") or "")}
    asked = f"{lead}Answer with the whole corrected program in one block of code."
    return Item(
        str(field_of(row, "task_id", (str, int))),
        f"{lead}The corrected program:\n\n```python\n",
        question=asked,
        solution=str(row.get("canonical_code") or ""),
        data=data,
    )


def _codeerror_program(text: str, item: Item) -> str | None:
    return whole_program(text, item.data["entry_point"])


register(
    Task(
        "humanevalfix_python",
        "HumanEvalPack's repair in Python: 164 functions with one bug, given with their tests",
        1,
        _pack,
        ProgramJudge(check_job),
        files=(
            "code/humanevalpack/humanevalpack_python.jsonl",
            "humanevalpack/humanevalpack_python.jsonl",
            "humanevalpack_python.jsonl",
        ),
        stop=STOPS,
        max_new_tokens=512,
        answer=_pack_program,
    )
)
register(
    Task(
        "codeerror",
        "CodeError: 327 Python programs with an error and its message, to be written anew",
        1,
        _codeerror,
        ProgramJudge(check_job),
        files=("code/codeerror/codeerror_python.jsonl", "codeerror/codeerror_python.jsonl", "codeerror_python.jsonl"),
        stop=("\n```",),
        max_new_tokens=768,
        answer=_codeerror_program,
    )
)
