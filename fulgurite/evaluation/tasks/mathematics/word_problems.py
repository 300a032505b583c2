"""Word problems whose answer is one number: GSM8K, GSM-Plus, SVAMP, ASDiv, MGSM.

Prompt as in lm-evaluation-harness, ``Question: …\\nAnswer:``; examples, where wanted, are the first rows of another file with
their worked solutions. The answer is what follows ``####``, else ``\\boxed{}``, else "answer is", else the last number; numbers
are compared exactly, after thousands' commas and currency signs are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulgurite.data.playground.content.maths import maths_task
from fulgurite.data.playground.draw import Draw
from fulgurite.data.records.findings import Place
from fulgurite.data.sources.tables import rows_of
from fulgurite.data.sources.text_formats import lines_of
from fulgurite.evaluation.judging.numbers import canonical_number, final_number, is_number, same_number
from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register

__all__: list[str] = []

_LANGUAGES = ("en", "es", "fr", "de", "ru", "zh", "ja", "sw", "th", "bn", "te")
_JUDGE = TextJudge(same_number, canonical_number)
_ASKED = "{0}\nReason step by step, and give the answer as a number after '####' at the end."


def _item(key: str, question: str, target: str, solution: str) -> Item:
    if not is_number(target):
        raise ValueError(f"the right answer {target[:60]!r} is no number")
    asked = _ASKED.format(question)
    return Item(key, f"Question: {question}\nAnswer:", target, question=asked, solution=solution)


def _example(item: Item) -> str:
    return f"{item.prompt} {item.solution}"


def _gsm8k(row: Row, number: int) -> Item:
    answer = field_of(row, "answer")
    if "####" not in answer:
        raise ValueError(f"'answer' ends with no '#### NUMBER': {answer[-60:]!r}")
    return _item(str(number), field_of(row, "question"), answer.rpartition("####")[2].strip(), answer)


def _gsm_plus(row: Row, number: int) -> Item:
    target = str(field_of(row, "answer", (str, int, float)))
    return _item(str(number), field_of(row, "question"), target, str(row.get("solution") or target))


def _svamp(row: Row, number: int) -> Item:
    question = f"{field_of(row, 'Body').rstrip()} {field_of(row, 'Question').strip()}"
    target = str(field_of(row, "Answer", (str, int, float)))
    return _item(str(row.get("ID") or number), question, target, f"#### {target}")


def _asdiv(row: Row, number: int) -> Item:
    question = f"{field_of(row, 'body').rstrip()} {field_of(row, 'question').strip()}"
    target = field_of(row, "answer").partition(" (")[0]
    return _item(str(number), question, target, f"#### {target}")


def _mgsm(row: Row, number: int) -> Item:
    target = str(field_of(row, "answer_number", (str, int, float)))
    return _item(str(number), field_of(row, "question"), target, f"#### {target}")


def _mgsm_rows(path: Path) -> Iterator[tuple[Place, Row]]:
    """The published files have no header: a question, a tab, a number."""
    if path.suffix != ".tsv":
        yield from rows_of(path, owner="evaluate")
        return
    for line, number in lines_of(path):
        question, tab, answer = line.rstrip("\r\n").rpartition("\t")
        if line.strip():
            yield Place(str(path), number), {"question": question if tab else None, "answer_number": answer}


def _playground() -> list[Row]:
    draw = Draw("word problems", "test")
    tasks = [task for _ in range(300) if (task := maths_task(draw)).kind != "target"][:200]
    return [
        {"question": task.prompt, "answer": task.answer if "####" in task.answer else f"#### {task.answer}"}
        for task in tasks
    ]


def _number(text: str, item: Item) -> str | None:
    return final_number(text)


def _problems(
    name: str, summary: str, item: Callable[[Row, int], Item], files: Sequence[str], hub: Hub | None = None, **more: Any
) -> None:
    """Registers one of the family."""
    stop = ("Question:",)
    found = Task(name, summary, 1, item, _JUDGE, hub, tuple(files), stop=stop, answer=_number, example=_example)
    register(replace(found, **more))


_problems(
    "gsm8k",
    "grade-school word problems; the number after '####', else the last one",
    _gsm8k,
    ("math/gsm8k/test.jsonl", "gsm8k/test.jsonl", "gsm8k.jsonl"),
    Hub("openai/gsm8k", "main", "test", "740312add88f781978c0658806c59bc2815b9866"),
    builtin=_playground,
)
_problems(
    "gsm_plus",
    "GSM8K's problems, perturbed",
    _gsm_plus,
    ("math/gsm_plus/test.jsonl", "gsm_plus/test.jsonl", "gsm_plus.jsonl"),
)
_problems(
    "svamp",
    "one-step word problems with distracting numbers",
    _svamp,
    ("math/svamp/test.json", "svamp/test.json", "svamp.json", "SVAMP.json"),
)
_problems(
    "asdiv",
    "word problems of many kinds whose answer is a number",
    _asdiv,
    ("math/asdiv/validation.jsonl", "asdiv/validation.jsonl", "asdiv.jsonl"),
)
for _language in _LANGUAGES:
    _problems(
        f"mgsm_{_language}",
        f"250 of GSM8K's problems in the language {_language}, asked directly",
        _mgsm,
        (f"math/mgsm/mgsm_{_language}.tsv", f"mgsm/mgsm_{_language}.tsv", f"mgsm_{_language}.tsv"),
        read=_mgsm_rows,
    )
