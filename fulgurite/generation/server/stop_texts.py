"""Stop texts that begin in the prompt.

A stop text ends an answer that contains it. Some servers (transformers' own is one) look for it in prompt and answer together:
behind a prompt that ends with a newline, "\\n```" then ends an answer at its first "```", and the rest is lost without a word.
Such an answer is short and looks finished. It is recognised by what it begins with, asked for again without these stop texts, and
from then on they are not sent where a prompt could end with the beginning of one; the answer is cut here in any case.
"""

from __future__ import annotations

from collections.abc import Sequence

from fulgurite.generation.protocol import Prompt

__all__ = ["begun_in_prompt", "safe_stops"]

_OVERHANG = 16  # letters of the last token behind the stop text


def safe_stops(prompt: Prompt, chat: bool, stops: Sequence[str]) -> list[str]:
    """The stop texts that cannot begin in the prompt.

    Args:
        prompt: text, turns or ids; only of a text that is continued the end is known.
        chat: whether the server lays a template over it.
        stops: stop texts.
    """
    return [stop for stop in stops if not _beginnings(prompt, chat, stop)]


def begun_in_prompt(prompt: Prompt, chat: bool, text: str, stops: Sequence[str]) -> bool:
    """Whether an answer may have been ended by a stop text whose beginning stands in the prompt.

    Args:
        prompt: text, turns or ids.
        chat: whether the server lays a template over it.
        text: the answer, which the server calls finished.
        stops: stop texts that were sent.
    """
    return any(
        text.startswith(stop[j:]) and len(text) <= len(stop) - j + _OVERHANG
        for stop in stops
        for j in _beginnings(prompt, chat, stop)
    )


def _beginnings(prompt: Prompt, chat: bool, stop: str) -> list[int]:
    """Lengths of a stop text's beginnings with which the prompt ends, or may end."""
    lengths = range(1, len(stop))
    if chat or not isinstance(prompt, str):
        return list(lengths)
    return [j for j in lengths if prompt.endswith(stop[:j])]
