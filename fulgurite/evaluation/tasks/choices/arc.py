"""ARC (arXiv 1803.05457) and OpenBookQA (arXiv 1809.02789): a question and the texts of its answers.

Rows as published ({id, question {stem, choices [{text, label}]}, answerKey}) and as on the hub ({id, question or question_stem,
choices {text, label}, answerKey}). Prompts of lm-evaluation-harness: ``Question: …\\nAnswer:`` for ARC, the bare stem for
OpenBookQA. ARC is there as a task of answers too, where the letter of the answer is to be written; such a task needs no
log-likelihoods.
"""

from __future__ import annotations

import re
from typing import Any

from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.choices.accuracy import accuracy, with_blank
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register

__all__: list[str] = []

_ARC = "210d026faf9955653af8916fad021475a3f00453"
_LETTER = re.compile(r"\b([A-E])\b")


def _parts(row: Row) -> tuple[str, str, list[str], int]:
    """Id, question, choices, and the right one's place."""
    question: Any = row.get("question")
    if isinstance(question, dict):
        stem, given = field_of(question, "stem"), field_of(question, "choices", list)
        labels = [str(field_of(choice, "label")) for choice in given]
        texts = [field_of(choice, "text") for choice in given]
    else:
        stem = field_of(row, "question_stem" if "question_stem" in row else "question")
        given = field_of(row, "choices", dict)
        labels, texts = [str(label) for label in field_of(given, "label", list)], list(field_of(given, "text", list))
    key = field_of(row, "answerKey").strip()
    if key not in labels:
        raise ValueError(f"'answerKey' is {key!r}; the choices are labelled {', '.join(labels)}")
    return str(field_of(row, "id", (str, int))), stem, texts, labels.index(key)


def _arc(row: Row, number: int) -> Item:
    key, stem, texts, right = _parts(row)
    return Item(key, f"Question: {stem}\nAnswer:", right, with_blank(texts))


def _openbookqa(row: Row, number: int) -> Item:
    key, stem, texts, right = _parts(row)
    return Item(key, stem, right, with_blank(texts))


def _letters(row: Row, number: int) -> Item:
    key, stem, texts, right = _parts(row)
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", texts, strict=False))
    prompt = f"Question: {stem}\n{lines}\nAnswer:"
    asked = f"{stem}\n{lines}\nAnswer with the letter alone."
    return Item(key, prompt, "ABCDE"[right], question=asked, solution="ABCDE"[right])


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
    _hub = Hub("allenai/ai2_arc", _config, "test", _ARC)
    register(
        Task(
            f"arc_{_name}",
            f"{_config}, science questions: the answer's text by log-likelihood",
            1,
            _arc,
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
        _openbookqa,
        hub=Hub("allenai/openbookqa", "main", "test", "388097ea7776314e93a529163e0fea805b8a6454"),
        files=("qa/openbookqa/test.jsonl", "openbookqa/test.jsonl", "qa/openbookqa/dev.jsonl", "openbookqa/dev.jsonl"),
        example=_example,
        metrics=accuracy,
    )
)
