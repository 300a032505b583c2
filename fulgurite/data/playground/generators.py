"""Tasks with checkable answers in three domains, and running text to train a tiny base on; all from a seed.

Equal arguments give equal results on every machine and Python version (see ``draw``), and the first rows do not depend
on how many are asked for. Nothing that a checker reads is ever executed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

from fulgurite.data.playground.content.maths import check_maths, maths_task
from fulgurite.data.playground.content.programs import check_code, code_task, function
from fulgurite.data.playground.content.reviews import rated
from fulgurite.data.playground.content.text import check_text, describe, paired, story, text_task
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.task import Task, conversation

__all__ = ["DOMAINS", "Task", "check", "documents", "tasks"]

DOMAINS = ("text", "code", "maths")
_MAKERS: dict[str, Callable[[Draw], Task]] = {"text": text_task, "code": code_task, "maths": maths_task}
_CHECKERS: dict[str, Callable[[Task, str], bool]] = {"text": check_text, "code": check_code, "maths": check_maths}
# Text is what the built-in classification tasks are made of, so it gets most of the running text.
_SHARES = {"text": 6, "code": 1, "maths": 1}


def tasks(domain: str, seed: int, count: int) -> list[Task]:
    """Tasks of one domain.

    Args:
        domain: text, code or maths.
        seed: equal seeds give equal tasks.
        count: how many.
    """
    maker = _MAKERS[_known("tasks", domain)]
    return [maker(Draw(f"task|{domain}|{seed}|{index}")) for index in range(count)]


def check(task: Task, answer_text: str) -> bool:
    """Whether a text answers a task rightly; never raises for a wrong answer and never executes it.

    Args:
        task: the task.
        answer_text: what a model wrote.
    """
    return _CHECKERS[_known("check", task.domain)](task, answer_text)


def documents(
    seed: int, count: int, domains: Sequence[str] = DOMAINS, split: str = "train", start: int = 0
) -> Iterator[str]:
    """Running text: stories, reviews, descriptions, functions with their results, worked arithmetic, conversations.

    Train and validation share no document: which split a document belongs to is read off its CRC-32.

    Args:
        seed: equal seeds give equal documents.
        count: how many.
        domains: what they are about.
        split: train or validation.
        start: how many documents of the stream to leave out first.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"documents: split {split!r}; allowed are train and validation; choose one of them.")
    weighted = [_known("documents", domain) for domain in domains for _ in range(_SHARES.get(domain, 1))]
    made = index = 0
    while made < start + count:
        text = _document(Draw(f"document|{seed}|{index}"), weighted)
        index += 1
        if (zlib.crc32(text.encode()) % 20 == 0) != (split == "validation"):
            continue
        made += 1
        if made > start:
            yield text


def _known(caller: str, domain: str) -> str:
    if domain not in DOMAINS:
        raise ValueError(f"{caller}: domain {domain!r}; allowed are {', '.join(DOMAINS)}; choose one of them.")
    return domain


def _document(draw: Draw, domains: Sequence[str]) -> str:
    domain = draw.pick(domains)
    if draw.chance(0.35):
        return conversation(_MAKERS[domain](draw))
    if domain == "text":
        return draw.pick((story, story, describe, describe, rated, rated, paired))(draw)
    if domain == "code":
        prompt, source, _ = function(draw)
        task = code_task(draw)
        result = f" {task.answer}" if task.kind == "result" else ""
        return f"# {prompt}\n{source}\n" + (f"# {task.prompt}{result}" if result else "")
    return "\n".join(f"{task.prompt} {task.answer}" for task in (maths_task(draw) for _ in range(draw.integer(1, 3))))
