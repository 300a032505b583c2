"""Conversations to token ids with a mask that says which of them are trained on. Masks go by position, never by id.

For every answer that is supervised, the ids before it are those of `encode_prompt` for the turns before it: what is
trained on is, token for token, what `generate` puts before the model. The supervised stretch is the answer with the
mark that ends its turn (eos, or the template's own such as <|im_end|>); what the template writes after that mark is not
supervised. If the template ends no turn, eos is appended to the row's last answer; answers inside the chat end with the
special token that begins the next turn, if there is one. Answers with `train=False` stand in the context only.

A chat is looked at up to each answer and with it, and tokenised in one piece. An answer whose prompt is not a
prefix of that piece gets a row of its own: templates that rewrite earlier turns (Qwen3 takes <think> out of them), and
answers whose first characters the tokenizer joins with the prompt's last ones. In the latter case the answer is
tokenised apart. Where the template has `{% generation %}` marks, answers that they leave out are not supervised.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from fulgurite.data.encoding.answer_spans import Answer, AnswerFinder, Piece
from fulgurite.data.encoding.prompts import TextEncoder, as_chat, encode_prompt, is_chat
from fulgurite.data.records.conversation import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "NO_ANSWER",
    "PLAIN_TEXT",
    "TOO_LONG",
    "UNRENDERED",
    "UNTRAINED",
    "ConversationEncoder",
    "EncodedConversation",
    "Omission",
    "encode_prompt",
]

Span = tuple[int, int]

TOO_LONG = "longer than max_length"
NO_ANSWER = "no assistant turn"
UNTRAINED = "no answer is to be trained on (weight 0 or train: false)"
UNRENDERED = "the chat template never writes "
_IGNORED = "keys of messages that the chat template never writes: "
_SPECIAL = "special tokens in a message's text, which are read as such: "
_APART = "prompt and answer share a token: tokenised apart"
_OWN_ROW = "an answer with a row of its own"
_SHORTENED = "last turns left out: longer than max_length"
_CUT = "end cut off: longer than max_length"
_SPLIT = "text split into several rows"
PLAIN_TEXT = "prompt and completion as plain text, without a chat template"
_CLOSED = "answer without the reasoning that the generation prompt opens: trained as the template's finished turn"


@dataclass(frozen=True)
class Omission:
    """A conversation, or a part of one, that is left out.

    Attributes:
        where: File and line.
        reason: A short fixed phrase, by which omissions are counted.
    """

    where: str
    reason: str


class EncodedConversation(NamedTuple):
    """One row: token ids, which of them are supervised, tokens before shortening, and what was done to it, if anything."""

    input_ids: list[int]
    supervised: list[bool]
    full_length: int
    note: str | None


class _Row(NamedTuple):
    """Token ids, supervised stretches, places where whole turns end, and what is appended to the last turn kept."""

    ids: list[int]
    spans: list[Span]
    ends: list[int]
    closing: list[int]
    notes: tuple[str, ...]


class ConversationEncoder:
    """Encodes conversations; thousands in one call are tokenised together.

    Args:
        tokenizer: with a chat template where chats are encoded (see fulgurite.data.encoding.templates.apply_template). A prompt
            with its completion is then a user's turn with its answer, because that is what `generate` puts before the model.
        max_length: tokens of a row at most.
        supervise: "assistant" for every answer, "last" for the last answer only, "all" for every token.
        too_long: what becomes of a longer row. "drop" leaves out its last turns, so that whole turns remain, and omits
            it if no supervised turn is left; "error" raises; "cut" takes the end off, within an answer if need be, and
            omits the row if no supervised token is left. Text without roles is split into several rows under "drop".
        plain: a prompt and its completion stay plain text even where the tokenizer has a chat template.

    Raises:
        ValueError: options outside those; a chat template that shows no answer.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        supervise: Literal["assistant", "last", "all"] = "assistant",
        too_long: Literal["drop", "error", "cut"] = "drop",
        plain: bool = False,
    ) -> None:
        allowed = {
            "supervise": (supervise, ("assistant", "last", "all")),
            "too_long": (too_long, ("drop", "error", "cut")),
        }
        for name, (value, values) in allowed.items():
            if value not in values:
                raise ValueError(
                    f"ConversationEncoder: {name}={value!r}; allowed are {', '.join(map(repr, values))}; choose one of them"
                )
        if max_length < 2:
            raise ValueError(
                f"ConversationEncoder: max_length is {max_length}; a row needs at least 2 tokens; raise it"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.supervise = supervise
        self.too_long = too_long
        self.plain = plain or not tokenizer.chat_template
        self._text = TextEncoder(tokenizer)
        self._finder: AnswerFinder | None = None
        # A special token that is matched before normalisation splits the text: what stands before it has no influence on
        # how the rest is tokenised. Slow tokenizers give no offsets, so that none can be used.
        added = tokenizer.added_tokens_decoder if tokenizer.is_fast else {}
        barriers = {i: t for i, t in added.items() if t.special and not (t.normalized or t.lstrip or t.rstrip)}
        self._barriers = {i: token.content for i, token in barriers.items()}
        special = sorted({t.content for t in added.values() if t.special and t.content}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def encode(self, conversations: Sequence[Conversation]) -> list[list[EncodedConversation | Omission]]:
        """The rows of each conversation, or why it has none.

        Args:
            conversations: chats, prompts with completions, and texts, in any mixture.

        Raises:
            ValueError: roles that the template refuses, an answer that it does not show, a row that is too long where
                that is an error; each names file and line.
        """
        if not self.plain:
            conversations = [as_chat(conversation) for conversation in conversations]
        kinds = [_kind(conversation) for conversation in conversations]
        rows: list[list[_Row]] = [[] for _ in conversations]
        refused = self._refused(conversations, kinds)
        kinds = ["" if i in refused else kind for i, kind in enumerate(kinds)]
        for kind, encode in (("chat", self._chats), ("prompt", self._completions), ("text", self._texts)):
            places = [i for i, found in enumerate(kinds) if found == kind]
            if places:
                for i, encoded in zip(places, encode([conversations[i] for i in places]), strict=True):
                    rows[i] = encoded
        return [
            [self._fit(c.where, row) for row in encoded] or [Omission(c.where, refused.get(i, NO_ANSWER))]
            for i, (c, encoded) in enumerate(zip(conversations, rows, strict=True))
        ]

    def _refused(self, conversations: Sequence[Conversation], kinds: Sequence[str]) -> dict[int, str]:
        """Chats that are left out, by their places, and why: the template drops a part of them, or no answer is trained on."""
        refused: dict[int, str] = {}
        for i, (conversation, kind) in enumerate(zip(conversations, kinds, strict=True)):
            turns = conversation.turns
            if kind != "chat":
                continue
            if unused := self._answers().renderer.unused(turns, conversation.tools):
                refused[i] = UNRENDERED + ", ".join(unused)
            flagged = [number for number, turn in enumerate(turns, 1) if not turn.train]
            if flagged and self.supervise == "all":
                raise ValueError(
                    f"{conversation.where}: message {flagged[0]} says that it is not to be trained on, and supervise='all' trains "
                    "every token; take supervise='assistant', or take the mark out"
                )
            answers = [turn for turn in turns if turn.role == "assistant"]
            if flagged and not any(turn.train for turn in (answers[-1:] if self.supervise == "last" else answers)):
                refused[i] = UNTRAINED
        return refused

    def _answers(self) -> AnswerFinder:
        if self._finder is None:
            self._finder = AnswerFinder(self.tokenizer)
        return self._finder

    def _completions(self, conversations: Sequence[Conversation]) -> list[list[_Row]]:
        prompts = self._text.ids([c.turns[0].content for c in conversations])
        rows = []
        for prompt, completion in zip(
            prompts, self._text.continuations([c.turns[1].content for c in conversations]), strict=True
        ):
            before = self._text.begun(prompt)
            ids = self._text.ended([*before, *completion])
            start = 0 if self.supervise == "all" else len(before)
            rows.append([_Row(ids, [(start, len(ids))], [], [], (PLAIN_TEXT,))])
        return rows

    def _texts(self, conversations: Sequence[Conversation]) -> list[list[_Row]]:
        """One row for each text, or as many as it takes; a last one of a single token, which predicts nothing, is not kept."""
        rows = []
        for text in self._text.ids([c.turns[0].content for c in conversations]):
            ids = self._text.ended(self._text.begun(text))
            if self.too_long != "drop" or len(ids) <= self.max_length:
                rows.append([_Row(ids, [(0, len(ids))], [], [], ())])
                continue
            blocks = [ids[at : at + self.max_length] for at in range(0, len(ids), self.max_length)]
            rows.append([_Row(b, [(0, len(b))], [], [], (_SPLIT,)) for b in blocks if len(b) > 1])
        return rows

    def _chats(self, conversations: Sequence[Conversation]) -> list[list[_Row]]:
        finder, everything = self._answers(), self.supervise == "all"
        closing = [] if finder.ends_turn else [self._text.end]
        if everything:
            found = [[finder.whole(c)] for c in conversations]
        else:
            found = [finder.pieces(c, last_only=self.supervise == "last") for c in conversations]
        owners = [i for i, pieces in enumerate(found) for _ in pieces]
        pieces = [piece for several in found for piece in several]
        rows: list[list[_Row]] = [[] for _ in conversations]
        apart: list[tuple[int, Answer]] = []
        for i, piece, (ids, spans) in zip(owners, pieces, self._align(pieces), strict=True):
            ignored = finder.renderer.ignored(conversations[i].turns)
            told: tuple[str, ...] = (_IGNORED + ", ".join(ignored),) if ignored else ()
            if special := self._special_in(conversations[i]):
                told += (_SPECIAL + ", ".join(special),)
            kept = [span for span in spans if span is not None]
            ends = [end for _, end in kept]
            if everything:
                rows[i].append(_Row(ids, [(0, len(ids))], ends, closing, told))
                continue
            if kept:
                notes: tuple[str, ...] = (_OWN_ROW,) if len(found[i]) > 1 else ()
                notes += (_CLOSED,) if any(answer.closed for answer in piece.answers) else ()
                notes += told
                rows[i].append(_Row(ids[: ends[-1]], kept, ends, closing, notes))
            apart.extend((i, a) for a, span in zip(piece.answers, spans, strict=True) if span is None)
        for (i, _), (ids, span, note) in zip(apart, self._apart([answer for _, answer in apart]), strict=True):
            rows[i].append(_Row(ids, [span], [span[1]], closing, (note,)))
        return rows

    def _special_in(self, conversation: Conversation) -> list[str]:
        """Special tokens that the texts of a chat spell out, such as <s> in a piece of HTML."""
        if self._special is None:
            return []
        return sorted({mark for turn in conversation.turns for mark in self._special.findall(turn.content)})

    def _align(self, pieces: Sequence[Piece]) -> list[tuple[list[int], list[Span | None]]]:
        """Token ids of each piece and the stretch of each answer, None where its prompt alone has other tokens.

        A prompt has the same tokens alone as in its piece up to the last barrier before the answer begins; from there on
        it is tokenised again and compared. Without a barrier all of it is.
        """
        if not pieces:
            return []
        encoded = self.tokenizer(
            [piece.text for piece in pieces], add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        rows = [list(ids) for ids in encoded["input_ids"]]
        edges = []  # for each answer its begin and its end: the token where the comparison begins, and the text from there
        for row, (piece, ids) in enumerate(zip(pieces, rows, strict=True)):
            # Offsets are asked for barrier by barrier: a list of all of them costs as much as the tokenisation.
            barriers = [
                (stop, start, at)
                for at in (place for place, i in enumerate(ids) if i in self._barriers)
                for start, stop in (encoded.token_to_chars(row, at),)
                if piece.text[start:stop] == self._barriers[ids[at]]
            ]
            for answer in piece.answers:
                for text in (answer.prompt, answer.whole):
                    before = bisect_right(barriers, len(text), key=itemgetter(0))
                    _, start, at = barriers[before - 1] if before else (0, 0, 0)
                    edges.append((at, text[start:]))
        unique = list(dict.fromkeys(text for _, text in edges))
        alone = dict(zip(unique, self._text.ids(unique), strict=True))
        lengths = iter([(at, alone[text]) for at, text in edges])
        found = []
        for row, (piece, ids) in enumerate(zip(pieces, rows, strict=True)):
            spans: list[Span | None] = []
            for answer in piece.answers:
                start, end = (_position(ids, *next(lengths)) for _ in range(2))
                if start is not None and end is not None and answer.skip:
                    places = encoded[row].offsets if self._barriers else []
                    start = _skipped(places, start, end, len(answer.prompt) + answer.skip)
                spans.append((start, end) if start is not None and end is not None and start < end else None)
            found.append((ids, spans))
        return found

    def _apart(self, answers: Sequence[Answer]) -> list[tuple[list[int], Span, str]]:
        """A row for each answer alone: prompt as generation has it, then the answer, tokenised apart where it must be."""
        prompts = self._text.ids([answer.prompt for answer in answers])
        wholes = self._text.ids([answer.whole for answer in answers])
        continued = self._text.continuations([answer.text for answer in answers])
        rows = []
        for prompt, whole, rest in zip(prompts, wholes, continued, strict=True):
            joined = whole[: len(prompt)] == prompt and len(whole) > len(prompt)
            ids, note = (whole, _OWN_ROW) if joined else (prompt + rest, _APART)
            rows.append((ids, (len(prompt), len(ids)), note))
        return rows

    def _ended(self, row: _Row, stop: int) -> bool:
        """Whether the row, cut there, ends with the token that begins a next turn, after which no eos may come."""
        mark = self._finder.next_mark.strip() if self._finder is not None else ""
        return bool(mark and row.closing and stop) and row.ids[stop - 1] == self.tokenizer.convert_tokens_to_ids(mark)

    def _fit(self, where: str, row: _Row) -> EncodedConversation | Omission:
        """The row with its mask, shortened as `too_long` says."""
        stop, notes = len(row.ids), row.notes
        closing = [] if self._ended(row, stop) else row.closing
        full = len(row.ids) + len(closing)
        if full > self.max_length:
            if self.too_long == "error":
                raise ValueError(
                    f"{where}: {full} tokens; max_length is {self.max_length}; raise it, shorten the row, or choose "
                    "too_long='drop' or 'cut'"
                )
            if self.too_long == "drop":
                fits = [
                    end
                    for end in row.ends
                    if end + (0 if self._ended(row, end) else len(row.closing)) <= self.max_length
                ]
                stop = max(fits, default=0)
                closing = [] if self._ended(row, stop) else row.closing
                notes = (*notes, _SHORTENED)
            else:
                stop, notes = min(stop, self.max_length), (*notes, _CUT)
        ids = [*row.ids[:stop], *closing][: self.max_length]
        supervised = [False] * len(ids)
        for start, end in row.spans:
            supervised[start:end] = [True] * (min(end, stop) - start) if start < stop else []
        if closing and len(ids) > stop:
            supervised[stop:] = [True] * (len(ids) - stop)
        if not stop or not any(supervised[1:]):
            if full > self.max_length:
                return Omission(where, TOO_LONG)
            raise ValueError(f"{where}: no token is supervised; the answer is empty; correct the row")
        return EncodedConversation(ids, supervised, full, "; ".join(notes) or None)


def _kind(conversation: Conversation) -> str:
    roles = [turn.role for turn in conversation.turns]
    if is_chat(conversation.turns):
        return "chat"
    if roles == ["prompt", "completion"]:
        return "prompt"
    if roles == ["text"]:
        return "text"
    raise ValueError(
        f"{conversation.where}: the roles are {roles}; allowed are those of a chat (system first, then user and assistant "
        "in turn), prompt and completion, or one text; correct the row"
    )


def _position(ids: list[int], at: int, tail: list[int]) -> int | None:
    """Where `tail`, which is to begin at `at`, ends in `ids`; None if something else stands there."""
    stop = at + len(tail)
    return stop if ids[at:stop] == tail else None


def _skipped(places: Sequence[Span], start: int, end: int, character: int) -> int:
    """The first token of `start` to `end` that reaches behind a character; `start` where no offsets are known."""
    return next((i for i in range(start, min(end, len(places))) if places[i][1] > character), start)
