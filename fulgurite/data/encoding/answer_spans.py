"""Where the answers of a rendered chat stand, in characters.

Each answer is looked at by itself: the chat up to it with the generation prompt, and the chat with it. What the second text
has more is the answer, up to the marks that end its turn. Two renderings of the whole chat tell all these texts where the
template writes turn after turn (fulgurite.data.encoding.prefixes); elsewhere each is rendered. How a turn ends is found out
once, from a small chat: by one special token (ChatML's <|im_end|>), by several in a row (Command R7B's
<|END_RESPONSE|><|END_OF_TURN_TOKEN|>),
or, inside a chat, by the token that begins the next turn (GLM-4's <|user|>). Answers follow each other in one piece of
text as long as the template leaves earlier turns as they were; where it rewrites them, a new piece begins.

A generation prompt may open the model's reasoning (DeepSeek-R1 ends it with <think>). An answer that brings its reasoning
continues that prompt; an answer without one is trained as the template shows it in a finished turn, so that no answer
stands inside an open <think>.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fulgurite.data.encoding.prefixes import Beginnings
from fulgurite.data.encoding.templates import ChatRenderer
from fulgurite.data.records.conversation import Conversation, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Answer", "AnswerFinder", "Piece", "end_tokens", "end_with_the_turn"]

_PROBE, _QUESTION = "Quizzaciously9", "Zenzizenzic7"
_SHORTEST_OVERLAP = 3
_MARKS = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
_OPEN_TAG = re.compile(r"<([A-Za-z][\w-]*)>\s*\Z")


class Answer(NamedTuple):
    """One answer.

    Attributes:
        prompt: The text before it, generation prompt included.
        text: What the template writes behind `prompt`, up to and with the end of the turn.
        skip: Characters at the beginning of `text` that `{% generation %}` marks leave out.
        closed: Whether the reasoning that the generation prompt opens was left out, because the answer has none.
    """

    prompt: str
    text: str
    skip: int
    closed: bool = False

    @property
    def whole(self) -> str:
        """The answer behind its prompt."""
        return self.prompt + self.text


class Piece(NamedTuple):
    """A text, and those answers whose `whole` is a beginning of it, in order."""

    text: str
    answers: list[Answer]


class AnswerFinder:
    """Finds the answers of chats under a tokenizer's template.

    Args:
        tokenizer: with a chat template.

    Attributes:
        lead: What the template writes between the generation prompt and an answer, such as a space.
        end: What the template writes behind an answer, up to and with the special tokens that end the turn.
        end_token: The first of those special tokens, None where the template writes no special token there.
        ends_turn: Whether there is such a token; otherwise `end` is whatever visible text follows the answer.
        next_mark: Where no token ends the turn: the special token (with the space before it) that begins the next turn and so
            ends an answer inside a chat; "" where there is no such token.
        stops: All special tokens of `end` and `next_mark`.
        behind: What the template writes behind the end of the last turn, such as ChatML's newline.

    Raises:
        ValueError: a template that does not show an answer, or that refuses a user's turn with an answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.renderer = ChatRenderer(tokenizer)
        turns = [Turn("user", _QUESTION), Turn("assistant", _PROBE)]
        text, marks = self.renderer.chat(turns)
        at = text.rfind(_PROBE)
        if at < 0:
            raise ValueError(
                "AnswerFinder: the chat template does not show the assistant's text, so that no token would be supervised; "
                "correct it, or choose another template"
            )
        if _QUESTION.lower() not in text.lower():
            raise ValueError(
                "AnswerFinder: the chat template does not show the user's text, so that answers would be trained without their "
                "questions; correct it, or choose another template"
            )
        stop = at + len(_PROBE)
        if marks is not None and not any(start <= at and stop <= end for start, end in marks):
            raise ValueError(
                "AnswerFinder: the {% generation %} marks of the chat template leave the assistant's text out, so that no "
                "token would be supervised; correct them, or take them out"
            )
        prompt = self.renderer.prompt(turns[:1])
        self.lead = text[len(prompt) : at] if text.startswith(prompt) else ""
        self._tail = text[stop:]
        special = {token for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()) if token}
        inside = self._inside(turns)
        marks_of_end = _first_marks(self._tail, special)
        self.ends_turn = bool(marks_of_end)
        self.end_token: str | None = marks_of_end[0] if marks_of_end else None
        self.next_mark = ""
        if marks_of_end:
            before = self._tail[: self._tail.index(marks_of_end[0])]
            # A mark that only the very end of a chat has (an eos behind the last turn) is no part of an answer.
            while (
                len(marks_of_end) > 1 and inside is not None and not inside.startswith(before + "".join(marks_of_end))
            ):
                marks_of_end.pop()
            self.end = before + "".join(marks_of_end)
        else:
            self.end = self._tail.rstrip()
            following = _first_marks(inside or "", special)
            if following and inside is not None and not inside[: inside.index(following[0])].strip():
                self.next_mark = inside[: inside.index(following[0])] + following[0]
        self.behind = self._tail[len(self.end) :]
        self.stops = [*marks_of_end, *([self.next_mark.strip()] if self.next_mark else [])]

    def pieces(self, conversation: Conversation, last_only: bool = False) -> list[Piece]:
        """The texts to be trained on with their supervised answers; none where no turn is the assistant's.

        Args:
            conversation: a chat.
            last_only: only the last answer is supervised.
        """
        try:
            answers = self._answers(conversation, last_only)
        except ValueError as error:
            raise ValueError(f"{conversation.where}: {error}") from error
        pieces: list[Piece] = []
        for answer in answers:
            if pieces and answer.prompt.startswith(pieces[-1].text):
                pieces[-1] = Piece(answer.whole, [*pieces[-1].answers, answer])
            else:
                pieces.append(Piece(answer.whole, [answer]))
        return pieces

    def whole(self, conversation: Conversation) -> Piece:
        """The chat in full, with the answers that stand in it as they were generated."""
        try:
            text, _ = self.renderer.chat(conversation.turns, conversation.tools)
            answers = self._answers(conversation, False)
        except ValueError as error:
            raise ValueError(f"{conversation.where}: {error}") from error
        return Piece(text, [answer for answer in answers if text.startswith(answer.whole)])

    def _inside(self, turns: list[Turn]) -> str | None:
        """What the template writes behind an answer that a further question follows; None where that cannot be told."""
        try:
            text, _ = self.renderer.chat([*turns, Turn("user", "b")])
        except ValueError:
            return None
        at = text.rfind(_PROBE)
        return None if at < 0 else text[at + len(_PROBE) :]

    def _answers(self, conversation: Conversation, last_only: bool) -> list[Answer]:
        turns = conversation.turns
        places = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        places = [i for i in (places[-1:] if last_only else places) if turns[i].train]
        rendered = self._rendered(turns[: places[-1] + 1], conversation.tools) if len(places) > 1 else (None, None)
        found = [self._answer(turns[: i + 1], conversation.tools, *rendered) for i in places]
        if self.next_mark:
            found = [
                answer._replace(text=answer.text + self.next_mark)
                if answer is not None and turns[i + 1 : i + 2] and turns[i + 1].role == "user"
                else answer
                for i, answer in zip(places, found, strict=True)
            ]
        if places and not any(found):
            raise ValueError(
                "the {% generation %} marks of the chat template leave every answer out, so that no token is supervised; "
                "correct them, or take them out"
            )
        return [answer for answer in found if answer is not None]

    def prompt_before(self, turns: Sequence[Turn], content: str) -> str:
        """The generation prompt, without a tag that it opens (<think>) where the answer neither repeats nor closes it.

        Args:
            turns: all turns before the answer.
            content: the answer.
        """
        prompt = self.renderer.prompt(turns)
        tag = _OPEN_TAG.search(prompt)
        return prompt[: tag.start()] if tag is not None and not _continues(tag[1], content) else prompt

    def _rendered(self, turns: Sequence[Turn], tools: str | None) -> tuple[Beginnings | None, Beginnings | None]:
        """All prompts and all chats that these turns begin with, where two renderings tell them."""
        prompts = self.renderer.beginnings(turns, tools, True)
        return prompts, None if prompts is None else self.renderer.beginnings(turns, tools, False)

    def _answer(
        self, turns: tuple[Turn, ...], tools: str | None, prompts: Beginnings | None, chats: Beginnings | None
    ) -> Answer | None:
        """The last turn, an answer; None where the template's marks leave it out."""
        known = None if prompts is None else prompts.of(len(turns) - 1)
        prompt = self.renderer.prompt(turns[:-1], tools) if known is None else known.text
        known = None if chats is None else chats.of(len(turns))
        text, marks = (
            self.renderer.chat(turns, tools)
            if known is None
            else (known.text, known.marks if self.renderer.marks else None)
        )
        content, closed = turns[-1].content, False
        if not text.startswith(prompt):
            # The generation prompt begins the answer (DeepSeek-R1's <think>) or is not what stands before a finished one.
            tag = _OPEN_TAG.search(prompt)
            if tag is not None and not _continues(tag[1], content) and text.startswith(prompt[: tag.start()]):
                prompt, closed = prompt[: tag.start()], True
            elif turns[-1].extra is not None:
                raise ValueError(
                    "the chat template's generation prompt is not what it writes before a finished answer, so that an answer's "
                    f"{', '.join(turns[-1].extra_keys)} cannot be placed; leave such rows out, or take another template"
                )
            else:
                return Answer(prompt, _rest(prompt, content, tag) + self.end, 0)
        if self._tail and text.endswith(self._tail):
            stop = len(text) - len(self._tail) + len(self.end)
        else:
            stop = text.rfind(self.end) + len(self.end) if self.end else len(text)
        if stop <= len(prompt):
            raise ValueError(
                f"the chat template writes nothing behind its generation prompt for the answer {content[:40]!r}, so that no "
                "token is supervised; correct the row or the template"
            )
        skip = 0
        if marks is not None:
            begins = [start for start, end in marks if end > len(prompt) and start < stop]
            if not begins:
                return None
            # The marks usually begin behind what the template writes first (a space); the model has to write that too.
            skip = max(0, min(begins) - len(prompt))
            skip = 0 if skip <= len(self.lead) else skip
        return Answer(prompt, text[len(prompt) : stop], skip, closed)


def _first_marks(text: str, special: set[str]) -> list[str]:
    """The first special token in a text and those that follow it without a character between."""
    found = [(text.find(token), -len(token), token) for token in special if token in text]
    if not found:
        return []
    at, _, token = min(found)
    marks = [token]
    at += len(token)
    while following := [token for token in special if text.startswith(token, at)]:
        marks.append(max(following, key=len))
        at += len(marks[-1])
    return marks


def _continues(tag: str, content: str) -> bool:
    """Whether an answer goes on inside a tag that its prompt has opened: it repeats the tag, or closes it."""
    return content.lstrip().startswith(f"<{tag}>") or f"</{tag}>" in content


def _rest(prompt: str, content: str, tag: re.Match[str] | None) -> str:
    """The answer without what the prompt's end has of it already, such as an opening <think>."""
    if tag is not None and content.lstrip().startswith(f"<{tag[1]}>"):
        rest = content.lstrip()[len(tag[1]) + 2 :]
        space = prompt[tag.end(1) + 1 :]
        return rest.removeprefix(space) if space else rest
    return content[_overlap(prompt, content) :]


def _overlap(prompt: str, content: str) -> int:
    """How many characters at the beginning of the answer stand at the prompt's end already, as an opening <think> may."""
    longest = min(len(prompt), len(content))
    return next((n for n in range(longest, _SHORTEST_OVERLAP - 1, -1) if prompt.endswith(content[:n])), 0)


def end_with_the_turn(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Changes the chat template so that a finished chat ends with the token that ends its last turn, where rewards are read.

    What the template writes behind that token is left out, and eos is added where the template ends no turn. Prompts for
    generation stay as they are.

    Args:
        tokenizer: its `chat_template` is set.
    """
    finder = AnswerFinder(tokenizer)
    added = "" if finder.ends_turn else str(tokenizer.eos_token or tokenizer.sep_token or "")
    cut = finder.behind
    if not cut and not added:
        return
    finished = f"rendered[:-{len(cut)}] if rendered.endswith({json.dumps(cut)}) else rendered" if cut else "rendered"
    finished = f"({finished}) + {json.dumps(added)}" if added else finished
    tokenizer.chat_template = (
        "{% set rendered %}"
        + _MARKS.sub(
            r"{#\1 \2#}", tokenizer.get_chat_template()
        )  # comments trim the space around them as the marks did
        + "{% endset %}{{ rendered if add_generation_prompt else ("
        + finished
        + ") }}"
    )


def end_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids at which generation stops: eos, and the special tokens that end a turn in the tokenizer's chat template."""
    names = [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        names += [tokenizer.convert_tokens_to_ids(mark) for mark in AnswerFinder(tokenizer).stops]
    return list(dict.fromkeys(i for i in names if i is not None))
