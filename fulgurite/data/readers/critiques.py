"""UltraFeedback's critiques as conversations (UltraCM; Cui et al., arXiv 2310.01377): answer in, feedback and score out.

A row holds an instruction and the completions of several models, each with a critique and an overall score from 1 to 10.
Each completion is one conversation: a system text, the request for feedback with `### Instruction`, `### Answer` and the
format of the reply, and the reply `### Feedback\\n<critique>\\nOverall Score: <score>`. The conversations of a row are one
group: no instruction is in training and validation at once.

Ratings and overall scores are read as fulgurite.data.readers.ultrafeedback describes: an overall score of 10 beside a mean
rating of at most 2 is read as 1.

Deviation: the request is worded here; whoever trains on with weights that know another wording gives it as `prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fulgurite.data.readers.base import BadRow
from fulgurite.data.readers.ultrafeedback import overall_score
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.records.findings import Finding, place

__all__ = ["CRITIQUE_PROMPT", "CRITIQUE_SYSTEM", "critique", "critique_reader"]

CRITIQUE_SYSTEM = (
    "A chat of one turn: the user shows an answer, and the assistant judges it in a detailed and polite way."
)
CRITIQUE_PROMPT = (
    "Here is my answer to an instruction. Judge it as a teacher would: consider how helpful, truthful and honest it is "
    "and how well it follows the instruction, say what is weak, and suggest how to improve it without writing the "
    "answer for me. End with a score from 1 (worst) to 10 (best).\n---\n\n### Instruction\n{instruction}\n\n"
    "### Answer\n{answer}\n---\n\n*Format*\n### Feedback\n[Your feedback]\nOverall Score: [1-10]"
)
_MARKS = re.compile(r"(\{instruction\}|\{answer\})")


def critique(
    row: Mapping[str, Any], source: str, number: int, prompt: str = CRITIQUE_PROMPT
) -> Iterator[Conversation | Finding]:
    """The critiques of one row.

    Args:
        row: columns `instruction` and `completions`.
        source: where it is from.
        number: its line.
        prompt: the request, with {instruction} and {answer} in it.
    """
    where = place(source, number)
    instruction, completions = row["instruction"], row["completions"]
    if not isinstance(instruction, str) or not isinstance(completions, list):
        yield Finding(where, "not a string", "a text 'instruction' and a list 'completions' are needed")
        return
    if not completions:
        yield Finding(where, "no completion", "the row has no completion to judge")
    for index, completion in enumerate(completions, 1):
        found = _judged(completion)
        if isinstance(found, tuple):
            yield Finding(where, found[0], f"completion {index}: {found[1]}")
            continue
        score, corrected = overall_score(completion)
        if corrected is not None:
            yield Finding(where, "overall_score 10 read as 1", f"completion {index} is rated {corrected:g}", lost=False)
        # Not str.format: texts hold braces.
        values = {"{instruction}": instruction, "{answer}": str(completion["response"])}
        request = "".join(values.get(piece, piece) for piece in _MARKS.split(prompt))
        reply = f"### Feedback\n{completion['critique'].strip()}\nOverall Score: {score:g}"
        turns = (Turn("system", CRITIQUE_SYSTEM), Turn("user", request), Turn("assistant", reply))
        yield Conversation(turns, source, number, group=instruction)


def critique_reader(prompt: str) -> Callable[[dict[str, Any], str, int], Iterator[Conversation | Finding]]:
    """`critique` with another wording of the request.

    Args:
        prompt: the request, with {instruction} and {answer} in it.
    """
    missing = [mark for mark in ("{instruction}", "{answer}") if mark not in prompt]
    if missing:
        raise ValueError(f"critique_reader: the prompt lacks {' and '.join(missing)}; both are needed; write them in")
    return lambda row, source, number: critique(row, source, number, prompt)


def _judged(completion: object) -> tuple[str, str] | None:
    if not isinstance(completion, Mapping):
        return "not an object", f"{type(completion).__name__} was found"
    for name in ("response", "critique", "overall_score"):
        if name not in completion or completion[name] is None:
            return "missing column", f"no {name!r}; found {', '.join(map(repr, completion))}"
        if name != "overall_score" and not isinstance(completion[name], str):
            return "not a string", f"{name!r} holds {type(completion[name]).__name__}"
    if not completion["response"].strip():
        return "empty answer", "there is nothing to judge"
    if not completion["critique"].strip():
        return "empty critique", "there is nothing to learn"
    try:
        score, _ = overall_score(completion)
    except BadRow:
        score = None
    if score is None:
        return "no overall score", f"{completion['overall_score']!r} was found; a number from 1 to 10 is needed"
    return None
