"""Built-in rows in the published schemas of conversations, made of the playground's tasks with checkable answers.

A question belongs to one split by its words (see ``draw``), so no question of validation or test is trained on; the
first rows do not depend on how many are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from fulgurite.data.playground.content.languages import KINDS, LANGUAGES, language_task
from fulgurite.data.playground.content.maths import maths_task
from fulgurite.data.playground.content.programs import code_task
from fulgurite.data.playground.content.text import text_task
from fulgurite.data.playground.draw import SPLITS, Draw, split_of
from fulgurite.data.playground.generators import DOMAINS, check
from fulgurite.data.playground.task import Task

__all__ = ["CONVERSATION_ROWS", "conversation_rows", "drawn_task", "made_conversations", "wrong_answer"]

Row = dict[str, Any]
Made = tuple[Row, list[Task]]

_COUNTS = {"train": 2000, "validation": 200, "test": 200}
_DOMAIN_TRAIN = 6000  # a specialist learns from one domain alone
_MAKERS: dict[str, Callable[[Draw], Task]] = {"text": text_task, "code": code_task, "maths": maths_task}
_MODELS = ("playground-large", "playground-small", "playground-wordy", "playground-guess")
_PRINCIPLES = ("helpfulness", "honesty", "truthfulness", "verbalized_calibration")


def conversation_rows(schema: str, split: str, seed: int = 0, count: int | None = None) -> list[Row]:
    """Rows of one split.

    Args:
        schema: one of ``CONVERSATION_ROWS``.
        split: train, validation or test.
        seed: equal seeds give equal rows.
        count: how many; None: 2000 for train (6000 of one domain), 200 for the others.
    """
    return [row for row, _ in made_conversations(schema, split, seed, count)]


def made_conversations(schema: str, split: str, seed: int = 0, count: int | None = None) -> Iterator[Made]:
    """Rows with the tasks that they were made of, in the order of their answers.

    Args:
        schema: one of ``CONVERSATION_ROWS``.
        split: train, validation or test.
        seed: equal seeds give equal rows.
        count: how many; None: 2000 for train (6000 of one domain), 200 for the others.
    """
    if split not in SPLITS:
        raise ValueError(f"conversation_rows: split {split!r}; allowed are {', '.join(SPLITS)}; choose one of them.")
    make = _ROWS[schema]
    wanted = _COUNTS[split] if count is None else count
    if count is None and split == "train" and schema.startswith("ultrachat2/"):
        wanted = _DOMAIN_TRAIN
    return (make(Draw(f"{schema}|{split}|{seed}|{index}", split), index) for index in range(wanted))


def drawn_task(draw: Draw, domain: str | None = None, kinds: tuple[str, ...] = ()) -> Task:
    """A task whose question belongs to the stream's split.

    Args:
        draw: the stream.
        domain: text, code or maths; None for any.
        kinds: kinds of tasks; none for any.
    """
    while True:
        task = _MAKERS[domain or draw.pick(DOMAINS)](draw)
        if split_of(task.prompt) == draw.split and (not kinds or task.kind in kinds):
            return task


def _some(draw: Draw) -> list[Task]:
    return [drawn_task(draw) for _ in range(draw.integer(1, 3))]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _ultrainteract(draw: Draw, index: int) -> Made:
    kind = draw.pick(("Coding", "Math_CoT", "Math_PoT", "Logic"))
    if kind == "Coding":
        task = drawn_task(draw, "code", ("function",))
        instruction, response = f"Write Python code to solve the task.\n{task.prompt}", f"```python\n{task.answer}```"
    elif kind == "Math_CoT":
        task = drawn_task(draw, "maths", ("steps", "story"))
        instruction = f"Solve the following math problem step-by-step.\n{task.prompt}"
        response = task.answer.replace("####", "Answer:")
    elif kind == "Math_PoT":
        task = drawn_task(draw, "maths", ("sum", "difference", "product"))
        expression = task.prompt.removeprefix("What is ").rstrip("?")
        instruction = f"Tool available:\n[1] Python interpreter\nSolve the following math problem.\n{task.prompt}"
        response = f"```python\nprint({expression})\n```\nAnswer: {task.answer}"
    else:
        task = drawn_task(draw, "text", ("follows", "same"))
        instruction, response = task.prompt, task.answer
    parent = _hash(task.prompt)
    row = {"task": kind, "dataset": f"playground_{task.domain}", "instruction": instruction, "response": response}
    return {**row, "id": f"{_hash(instruction)}_1_1", "parent_id": parent}, [task]


def _ultrachat(draw: Draw, index: int) -> Made:
    tasks = _some(draw)
    return {"id": str(index), "data": [text for task in tasks for text in (task.prompt, task.answer)]}, tasks


def _ultrachat_200k(draw: Draw, index: int) -> Made:
    tasks = _some(draw)
    messages = []
    for task in tasks:
        messages += [{"content": task.prompt, "role": "user"}, {"content": task.answer, "role": "assistant"}]
    return {"prompt": tasks[0].prompt, "prompt_id": _hash(tasks[0].prompt), "messages": messages}, tasks


def _ultralink(draw: Draw, index: int) -> Made:
    language, kind = draw.pick(LANGUAGES), draw.pick(KINDS)
    while True:
        tasks = language_task(draw, language, kind)
        # Numbers and things decide, not their wording: no sum is trained on in one language and asked for in another.
        if split_of(_meaning(kind, tasks)) == draw.split:
            break
    data = [text for task in tasks for text in (task.prompt, task.answer)]
    return {"id": f"{language}_{kind}_{index}", "data": data}, tasks


def _meaning(kind: str, tasks: list[Task]) -> str:
    return (
        tasks[0].prompt
        if kind == "chat_specific"
        else kind + "".join(c for c in tasks[0].prompt if c.isdigit() or c in "+-*%=x")
    )


def _ultrachat2(domain: str) -> Callable[[Draw, int], Made]:
    """One instruction of a domain with its answer, in UltraChat's columns: UltraChat 2 itself was not released."""

    def make(draw: Draw, index: int) -> Made:
        task = drawn_task(draw, domain)
        return {"id": f"{domain}_{index}", "data": [task.prompt, task.answer]}, [task]

    return make


def _sharegpt(draw: Draw, index: int) -> Made:
    tasks = _some(draw)
    turns = [{"from": "system", "value": "Answer briefly."}] if draw.chance(0.2) else []
    for task in tasks:
        turns += [{"from": "human", "value": task.prompt}, {"from": "gpt", "value": task.answer}]
    return {"id": f"playground_{index}", "conversations": turns}, tasks


def _alpaca(draw: Draw, index: int) -> Made:
    task = drawn_task(draw)
    if task.domain == "text":
        return {"instruction": "Answer the question about the text.", "input": task.prompt, "output": task.answer}, [
            task
        ]
    return {"instruction": task.prompt, "input": "", "output": task.answer}, [task]


def _prompt_completion(draw: Draw, index: int) -> Made:
    task = drawn_task(draw)
    return {"prompt": f"Question: {task.prompt}\nAnswer:", "completion": f" {task.answer}"}, [task]


def _ultrafeedback(draw: Draw, index: int) -> Made:
    task = drawn_task(draw)
    wrong = [wrong_answer(draw, task), wrong_answer(draw, task)]
    answers = [task.answer, f"I think that it is this: {task.answer}", wrong[0], f"Maybe it is this: {wrong[1]}"]
    completions = []
    for place, (model, response) in enumerate(zip(_MODELS, answers, strict=True)):
        right, terse = place < 2, place % 2 == 0
        ratings = {
            "instruction_following": "5" if right else draw.pick(("1", "2")),
            "honesty": "N/A"
            if draw.chance(0.3)
            else "5"
            if right and terse
            else draw.pick(("3", "4"))
            if right
            else "2",
            "truthfulness": draw.pick(("4", "5")) if right else "1",
            "helpfulness": ("5" if terse else "4") if right else draw.pick(("1", "2")),
        }
        known = [int(rating) for rating in ratings.values() if rating != "N/A"]
        score = (
            draw.pick((9.0, 10.0))
            if right and terse
            else draw.pick((7.0, 7.5, 8.0))
            if right
            else draw.pick((1.0, 2.0, 3.0))
        )
        completions.append(
            {
                "model": model,
                "principle": _PRINCIPLES[place],
                "custom_system_prompt": "As an AI assistant, answer briefly.",
                "response": response,
                "annotations": {aspect: _annotation(aspect, rating) for aspect, rating in ratings.items()},
                "critique": _critique(task, right, terse),
                "overall_score": score,
                "fine-grained_score": sum(known) / len(known),
            }
        )
    order = draw.shuffled(range(len(completions)))
    row = {
        "source": f"playground_{task.domain}",
        "instruction": task.prompt,
        "models": [completions[i]["model"] for i in order],
        "completions": [completions[i] for i in order],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }
    return row, [task]


def _annotation(aspect: str, rating: str) -> Row:
    reason = "It does not apply." if rating == "N/A" else f"It deserves {rating} of 5."
    if aspect in ("instruction_following", "honesty"):
        return {"Rating": rating, "Rationale": reason}
    return {
        "Type": ["None" if rating in "45" else "1"],
        "Rationale": reason,
        "Rating": rating,
        "Rationale For Rating": reason,
    }


def _critique(task: Task, right: bool, terse: bool) -> str:
    if right:
        return "The answer is right and short." if terse else "The answer is right. Leave out the words before it."
    what = {"maths": "Work through the numbers again", "code": "Try the function on some numbers", "text": "Read again"}
    return f"The answer is wrong. {what[task.domain]}{'' if terse else ', and say only what you know'}."


def wrong_answer(draw: Draw, task: Task) -> str:
    """The answer to another question of the same kind that is no answer to this one.

    Args:
        draw: the stream.
        task: the question.
    """
    while True:
        other = _MAKERS[task.domain](draw)
        if other.kind == task.kind and not check(task, other.answer):
            return other.answer


_ROWS: dict[str, Callable[[Draw, int], Made]] = {
    "ultrainteract_sft": _ultrainteract,
    "ultrachat": _ultrachat,
    "ultrachat_200k": _ultrachat_200k,
    "ultralink": _ultralink,
    "ultrafeedback": _ultrafeedback,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    **{f"ultrachat2/{domain}": _ultrachat2(domain) for domain in DOMAINS},
}
CONVERSATION_ROWS = tuple(_ROWS)
