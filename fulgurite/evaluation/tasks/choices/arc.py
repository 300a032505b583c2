"""ARC (arXiv 1803.05457) and OpenBookQA (arXiv 1809.02789): a question and the texts of its answers.

Rows and prompts: :mod:`fulgurite.data.tasks.questions.arc`. ARC is there as a task of answers too, where the letter of the answer
is to be written; such a task needs no log-likelihoods.
"""

from __future__ import annotations

import re
from typing import Any

from fulgurite.data.tasks.questions.arc import ARC, OPENBOOKQA, arc_item, openbookqa_item, parts_of
from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.choices.accuracy import accuracy
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, register

__all__: list[str] = []

_LETTERS = "ABCDE"
_LETTER = re.compile(r"\b([A-E])\b")


def _letters(row: Row, number: int) -> Item:
    key, stem, texts, right = parts_of(row)
    if len(texts) > len(_LETTERS):
        raise ValueError(f"there are {len(texts)} choices; the letters end with {_LETTERS[-1]}")
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(_LETTERS, texts, strict=False))
    prompt = f"Question: {stem}\n{lines}\nAnswer:"
    asked = f"{stem}\n{lines}\nAnswer with the letter alone."
    return Item(key, prompt, _LETTERS[right], question=asked, solution=_LETTERS[right])


def _letter(text: str, item: Item) -> str | None:
    found = _LETTER.search(text)
    return found.group(1) if found is not None else None


def _same(answer: str, target: Any) -> bool:
    return answer == str(target)


def _example(item: Item) -> str:
    right = item.choices[item.target] if item.choices else f" {item.solution}"
    return f"{item.prompt}{right}"


for _name, _config in (("easy", "ARC-Easy"), ("challenge", "ARC-Challenge")):
    _files = (f"qa/arc/{_config}-Test.jsonl", f"arc/{_config}-Test.jsonl", f"{_config}-Test.jsonl")
    _hub = Hub.of(ARC[_name], "test")
    register(
        Task(
            f"arc_{_name}",
            f"{_config}, science questions: the answer's text by log-likelihood",
            1,
            arc_item,
            hub=_hub,
            files=_files,
            example=_example,
            metrics=accuracy,
        )
    )
    register(
        Task(
            f"arc_{_name}_letters",
            f"{_config}: the choices are listed, and the letter of the answer is to be written",
            1,
            _letters,
            TextJudge(_same, str.strip),
            _hub,
            _files,
            stop=("\n",),
            max_new_tokens=16,
            answer=_letter,
            example=_example,
        )
    )
register(
    Task(
        "openbookqa",
        "elementary science: the text that completes the bare question, by log-likelihood",
        1,
        openbookqa_item,
        hub=Hub.of(OPENBOOKQA, "test"),
        files=("qa/openbookqa/test.jsonl", "openbookqa/test.jsonl", "qa/openbookqa/dev.jsonl", "openbookqa/dev.jsonl"),
        example=_example,
        metrics=accuracy,
    )
)
