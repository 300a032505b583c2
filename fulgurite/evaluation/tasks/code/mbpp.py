"""MBPP (arXiv 2108.07732), all of it and the sanitised part, with the paper's prompt: the task, its three asserts, [BEGIN] …
[DONE].

Zero examples, or three: tasks 2, 3 and 4, those of lm-evaluation-harness and of the paper, given by --shots_path. Rows of the
conversion to HumanEval's form are refused: it lost set-up code and asserts. `test_setup_code`, which builds arguments with the
program's classes, and `test_imports` run before the asserts. The challenge asserts are not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fulgurite.data.playground.content.interpreter import Program
from fulgurite.data.playground.content.programs import function
from fulgurite.data.playground.draw import Draw
from fulgurite.data.records.findings import Place
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.judging.programs import ProgramJudge
from fulgurite.evaluation.tasks.code.programs import fenced
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register
from fulgurite.sandbox import Job

__all__ = ["mbpp_job"]

_REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
_ASSERT = re.compile(r"^[ \t]*assert\b", re.MULTILINE)
_MADE = 100  # rows of the playground
_FIRST, _LAST = 11, 510  # the test split; the file of all 974 tasks holds the others too


def mbpp_job(item: Item, program: str) -> Job:
    """The asserts of an item, as they stand.

    Args:
        item: its data hold tests, imports and setup.
        program: a whole program.
    """
    tests: tuple[str, ...] = tuple(item.data["tests"])
    if item.data["setup"]:  # it builds the asserts' arguments with the program's own classes
        tests = (item.data["setup"], *tests)
    return Job(program, "\n".join(tests), helpers="\n".join(item.data["imports"]))


def _item(row: Row, number: int) -> Item:
    if "test_list" not in row and "entry_point" in row:
        raise ValueError(
            "this is MBPP converted to HumanEval's form, which lost set-up code and asserts; take the published file"
        )
    text = field_of(row, "text" if row.get("text") else "prompt").strip()
    tests = field_of(row, "test_list", list)
    if not all(isinstance(test, str) and _ASSERT.search(test) for test in tests):
        raise ValueError("'test_list' holds something that is no assert, which every program would pass")
    imports = row.get("test_imports") or []
    if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
        raise ValueError(f"'test_imports' is {repr(imports)[:60]}; needed is a list of lines")
    asserts = "\n".join(tests)
    lead = f"You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n{asserts}\n"
    setup = str(row.get("test_setup_code") or "").replace("\r\n", "\n")
    data = {"tests": list(tests), "imports": list(imports), "setup": setup, "text": text}
    code = str(row.get("code") or "").replace("\r\n", "\n")
    question = f"{lead}\nAnswer with the whole program in one block of code."
    key = str(field_of(row, "task_id", (int, str)))
    return Item(key, f"{lead}[BEGIN]\n", question=question, solution=code, data=data)


def _example(item: Item) -> str:
    return f"{item.prompt}{item.solution}\n[DONE]"


def _program(text: str, item: Item) -> str | None:
    block = fenced(text)
    body = text.partition("[DONE]")[0] if block is None else block
    body = body.partition("[BEGIN]")[2] or body
    return f"{body}\n" if body.strip() else None


def _test_split(path: Path) -> Iterator[tuple[Place, Row]]:
    """The rows of the test split: ids 11 to 510. A file without any of them, such as one of examples, is taken whole."""
    rows = list(rows_of(path, owner="evaluate"))
    found = [(place, row) for place, row in rows if _within(row.get("task_id"))]
    yield from found or rows


def _playground() -> list[Row]:
    """Tiny functions of the playground in MBPP's schema; what their asserts expect comes from the playground's own interpreter."""
    draw = Draw("programs", "test")
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < _MADE:
        words, source, arity = function(draw)
        if words in seen:
            continue
        seen.add(words)
        name, program = source[4 : source.index("(")], Program(source)
        values = [tuple(draw.integer(0, 12) for _ in range(arity)) for _ in range(6)]
        calls = [
            (f"{name}({', '.join(map(str, given))})", program.call(name, *given)) for given in dict.fromkeys(values)
        ]
        tests = [f"assert {call} == {result}" for call, result in calls]
        rows.append(
            {"task_id": len(rows) + 1, "text": words, "code": source, "test_list": tests, "test_setup_code": ""}
        )
    return rows


def _within(key: object) -> bool:
    number = int(key) if isinstance(key, str) and key.strip().isdigit() else key
    return isinstance(number, int) and _FIRST <= number <= _LAST


_JUDGE = ProgramJudge(mbpp_job)

_SETS = (
    ("mbpp", "500 small Python programs by a sentence and three asserts (task ids 11 to 510)", "full", "mbpp.jsonl"),
    ("mbpp_sanitized", "the 257 hand-checked ones of MBPP's test split", "sanitized", "sanitized-mbpp.json"),
)
for _name, _about, _config, _file in _SETS:
    register(
        Task(
            _name,
            _about,
            1,
            _item,
            _JUDGE,
            Hub("google-research-datasets/mbpp", _config, "test", _REVISION),
            (f"code/mbpp/{_file}", f"mbpp/{_file}", _file),
            read=_test_split,
            builtin=_playground if _name == "mbpp" else None,
            stop=("[DONE]",),
            max_new_tokens=512,
            answer=_program,
            example=_example,
        )
    )
