"""BIG-bench Hard (arXiv 2210.09261): tasks of reasoning whose answer is a word, a number or a letter, asked directly.

Prompt of lm-evaluation-harness's zero-shot variant: the task's description, ``Q: …\\nA:``. The answer is the text's first line,
or what follows "the answer is"; upper and lower case, a full stop at the end, commas, quotes and backslashes don't count, nor
do round brackets around a single letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__ = ["canonical_answer"]

# What the paper's prompts say first.
_DESCRIPTIONS = {
    "boolean_expressions": "Evaluate the result of a random Boolean expression.",
    "causal_judgement": "Answer questions about causal attribution.",
    "date_understanding": "Infer the date from context.",
    "disambiguation_qa": "Clarify the meaning of sentences with ambiguous pronouns.",
    "dyck_languages": "Correctly close a Dyck-n word.",
    "formal_fallacies": "Distinguish deductively valid arguments from formal fallacies.",
    "geometric_shapes": "Name geometric shapes from their SVG paths.",
    "hyperbaton": "Order adjectives correctly in English sentences.",
    "logical_deduction_three_objects": "A logical deduction task which requires deducing the order of a sequence of objects.",
    "logical_deduction_five_objects": "A logical deduction task which requires deducing the order of a sequence of objects.",
    "logical_deduction_seven_objects": "A logical deduction task which requires deducing the order of a sequence of objects.",
    "movie_recommendation": "Recommend movies similar to the given list of movies.",
    "multistep_arithmetic_two": "Solve multi-step arithmetic problems.",
    "navigate": (
        "Given a series of navigation instructions, determine whether one would end up back at the starting point."
    ),
    "object_counting": "Questions that involve enumerating objects and asking the model to count them.",
    "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
    "reasoning_about_colored_objects": "Answer extremely simple questions about the colors of objects on a surface.",
    "ruin_names": "Select the humorous edit that 'ruins' the input movie or musical artist name.",
    "salient_translation_error_detection": "Detect the type of error in an English translation of a German source sentence.",
    "snarks": (
        "Determine which of two sentences is sarcastic. According to Cambridge University Dictionary, sarcasm is "
        "\"the use of remarks that clearly mean the opposite of what they say, made in order to hurt someone's feelings or "
        'to criticize something in a humorous way." Sarcastic sentences often contain satirical or ironic utterances, '
        "hyperboles, ambivalent or witty remarks."
    ),
    "sports_understanding": (
        "Determine whether an artificially constructed sentence relating to sports is plausible or not."
    ),
    "temporal_sequences": "Task description: Answer questions about which times certain events could have occurred.",
    "tracking_shuffled_objects_three_objects": (
        "A task requiring determining the final positions of a set of objects given their initial positions and a description of a "
        "sequence of swaps."
    ),
    "tracking_shuffled_objects_five_objects": (
        "A task requiring determining the final positions of a set of objects given their initial positions and a description of a "
        "sequence of swaps."
    ),
    "tracking_shuffled_objects_seven_objects": (
        "A task requiring determining the final positions of a set of objects given their initial positions and a description of a "
        "sequence of swaps."
    ),
    "web_of_lies": "Evaluate a random boolean function expressed as a word problem.",
    "word_sorting": "Sort a list of words.",
}
_SAID = re.compile(r"answer is:?\s*(.+)", re.IGNORECASE)
_LETTER = re.compile(r"^\(?([A-Z])\)?$")
_NOT_COUNTED = str.maketrans("", "", ',"\\')


def canonical_answer(text: str) -> str:
    """An answer as it is compared.

    Args:
        text: an answer.
    """
    plain = " ".join(text.translate(_NOT_COUNTED).split()).rstrip(".").strip()
    letter = _LETTER.match(plain)
    return (letter.group(1) if letter else plain).lower()


def _same(answer: str, target: Any) -> bool:
    return canonical_answer(answer) == canonical_answer(str(target))


def _answer(text: str, item: Item) -> str | None:
    said = _SAID.search(text)
    line = said.group(1) if said else next((line for line in text.splitlines() if line.strip()), "")
    chosen = re.match(r"\(([A-Z])\)", line.strip())  # "(B) 12/14/2026": the letter is the answer
    found = chosen.group(0) if chosen and re.fullmatch(r"\([A-Z]\)", str(item.target).strip()) else line.strip()
    return found or None


def _item(name: str) -> Callable[[Row, int], Item]:
    def item(row: Row, number: int) -> Item:
        asked, target = field_of(row, "input"), field_of(row, "target").strip()
        prompt = f"{_DESCRIPTIONS[name]}\n\nQ: {asked}\nA:"
        question = f"{_DESCRIPTIONS[name]}\n\n{asked}\n\nEnd with 'The answer is ANSWER.'"
        return Item(str(number), prompt, target, question=question, solution=target)

    return item


def _example(item: Item) -> str:
    return f"{item.prompt} {item.solution}"


for _name in _DESCRIPTIONS:
    register(
        Task(
            f"bbh_{_name}",
            f"BIG-bench Hard: {_name.replace('_', ' ')}, asked directly",
            1,
            _item(_name),
            TextJudge(_same, canonical_answer),
            files=(f"bbh/{_name}.json", f"BBH/{_name}.json", f"{_name}.json"),
            stop=("Q:",),
            max_new_tokens=256,
            answer=_answer,
            example=_example,
        )
    )
