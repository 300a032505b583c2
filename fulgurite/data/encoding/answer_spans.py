"""Where the answers of a rendered chat stand, in characters.

Each answer is looked at by itself: the chat is rendered up to it with the generation prompt, and once with it. What the
second text has more is the answer, up to the mark that ends its turn. How a turn ends is found out once, from a small
chat. Answers follow each other in one piece of text as long as the template leaves earlier turns as they were; where
it rewrites them, a new piece begins.
"""

from typing import TYPE_CHECKING, NamedTuple

from fulgurite.data.encoding.templates import ChatRenderer
from fulgurite.data.records.conversation import Conversation, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Answer", "AnswerFinder", "Piece", "end_tokens"]

_PROBE = "Quizzaciously9"
_SHORTEST_OVERLAP = 3


class Answer(NamedTuple):
    """One answer.

    Attributes:
        prompt: The text before it, generation prompt included.
        text: What the template writes behind `prompt`, up to and with the end of the turn.
        skip: Characters at the beginning of `text` that `{% generation %}` marks leave out.
    """

    prompt: str
    text: str
    skip: int

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
        end: What the template writes behind an answer, up to the special token that ends the turn.
        end_token: That special token, None where there is none.
        ends_turn: Whether there is such a token; otherwise `end` is whatever visible text follows the answer.

    Raises:
        ValueError: a template that does not show an answer, or that refuses a user's turn with an answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.renderer = ChatRenderer(tokenizer)
        turns = [Turn("user", "a"), Turn("assistant", _PROBE)]
        text, marks = self.renderer.chat(turns)
        at = text.rfind(_PROBE)
        if at < 0:
            raise ValueError(
                "AnswerFinder: the chat template does not show the assistant's text, so that no token would be supervised; "
                "correct it, or choose another template"
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
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        found = [(self._tail.find(token), -len(token)) for token in special if token and token in self._tail]
        self.ends_turn = bool(found)
        self.end_token: str | None = None
        if found:
            position, length = min(found)
            self.end = self._tail[: position - length]
            self.end_token = self.end[length:]
        else:
            self.end = self._tail.rstrip()

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
            text, _ = self.renderer.chat(conversation.turns)
            answers = self._answers(conversation, False)
        except ValueError as error:
            raise ValueError(f"{conversation.where}: {error}") from error
        return Piece(text, [answer for answer in answers if text.startswith(answer.whole)])

    def _answers(self, conversation: Conversation, last_only: bool) -> list[Answer]:
        turns = conversation.turns
        places = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        found = [self._answer(turns[: i + 1]) for i in (places[-1:] if last_only else places)]
        if places and not any(found):
            raise ValueError(
                "the {% generation %} marks of the chat template leave every answer out, so that no token is supervised; "
                "correct them, or take them out"
            )
        return [answer for answer in found if answer is not None]

    def _answer(self, turns: tuple[Turn, ...]) -> Answer | None:
        """The last turn, an answer; None where the template's marks leave it out."""
        prompt = self.renderer.prompt(turns[:-1])
        text, marks = self.renderer.chat(turns)
        content = turns[-1].content
        if not text.startswith(prompt):
            # The generation prompt begins the answer (DeepSeek-R1's <think>) or is not what stands before a finished one.
            return Answer(prompt, content[_overlap(prompt, content) :] + self.end, 0)
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
        return Answer(prompt, text[len(prompt) : stop], skip)


def _overlap(prompt: str, content: str) -> int:
    """How many characters at the beginning of the answer stand at the prompt's end already, as an opening <think> may."""
    longest = min(len(prompt), len(content))
    return next((n for n in range(longest, _SHORTEST_OVERLAP - 1, -1) if prompt.endswith(content[:n])), 0)


def end_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids at which generation stops: eos, and the special token that ends a turn in the tokenizer's chat template."""
    names = [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        mark = AnswerFinder(tokenizer).end_token
        names.append(None if mark is None else tokenizer.convert_tokens_to_ids(mark))
    return list(dict.fromkeys(i for i in names if i is not None))
