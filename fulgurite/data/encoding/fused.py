"""Rows for several specialists: one answer behind as many prompts as there are specialists.

UltraFuser (https://arxiv.org/abs/2403.08281) wraps a sample in every specialist's own template. The prompts so differ in
length, the answer's tokens are the same; what is fused and trained on are the positions that predict them. Each prompt is,
token for token, what generation lays before that specialist, and the answer continues it:

    specialist e:  p_e[0] … p_e[n_e - 1]  a[0] a[1] … a[m - 1]      h_e[n_e - 1 + i] predicts a[i]

An answer begins with what the templates write behind their generation prompt, if that is the same for all (a space);
where it differs it belongs to the prompts. It ends with the mark that all templates end a turn with, else with eos.

In the file (see fulgurite.data.rows.store) a row's `input_ids` are the prompts one after the other, each behind its
length, and its `target_ids` the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from fulgurite.data.encoding.answer_spans import AnswerFinder
from fulgurite.data.encoding.conversations import NO_ANSWER, TOO_LONG, UNRENDERED, UNTRAINED, Omission
from fulgurite.data.encoding.prompts import TextEncoder, as_chat, is_chat
from fulgurite.data.records.conversation import Conversation, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NO_ROOM", "EncodedAnswer", "FusedEncoder"]

NO_ROOM = "the prompt leaves no room for the response"
_NO_QUESTION = "text without a question"
_CUT = "end cut off: longer than max_length"
_log = logging.getLogger(__name__)


class EncodedAnswer(NamedTuple):
    """One row: prompts behind their lengths, the answer, tokens of the longest view before shortening, what was done to it."""

    packed_prompts: list[int]
    answer: list[int]
    full_length: int
    note: str | None


class FusedEncoder:
    """Encodes conversations for all specialists.

    Args:
        tokenizers: one per specialist, each with its chat template, all of one vocabulary.
        max_length: tokens of a prompt with its answer at most, for every specialist.
        supervise: "assistant" for a row for every answer, "last" for the last of each conversation.
        too_long: a longer row is left out ("drop"), raises ("error"), or loses the end of its answer ("cut"). A prompt that
            leaves no room at all is left out, or raises under "error".
    """

    def __init__(
        self,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        max_length: int,
        supervise: Literal["assistant", "last"] = "assistant",
        too_long: Literal["drop", "error", "cut"] = "drop",
    ) -> None:
        self.tokenizers = list(tokenizers)
        self.max_length, self.supervise, self.too_long = max_length, supervise, too_long
        self._finders = [AnswerFinder(tokenizer) for tokenizer in tokenizers]
        self._texts = [TextEncoder(tokenizer) for tokenizer in tokenizers]
        leads = [finder.lead for finder in self._finders]
        same = len(set(leads)) == 1
        self._lead = leads[0] if same else ""
        self._prompt_leads = [""] * len(leads) if same else leads
        ends = {finder.end if finder.end_token is not None else None for finder in self._finders}
        self._end = next(iter(ends)) if len(ends) == 1 else None
        if len(ends) > 1:
            shown = ", ".join(repr(finder.end_token) for finder in self._finders)
            _log.warning("the specialists' templates end a turn with %s; fused answers end with eos", shown)

    def prompts(self, turns: Sequence[Turn]) -> list[list[int]]:
        """What each specialist is given before the answer to these turns, token ids.

        Args:
            turns: the history, its last turn the user's; or one turn "prompt".
        """
        if not is_chat(turns):
            return [text.begun(text.ids([turns[0].content])[0]) for text in self._texts]
        if unused := [key for finder in self._finders for key in finder.renderer.unused(turns)]:
            raise ValueError(
                f"FusedEncoder: the messages hold {', '.join(dict.fromkeys(unused))}, which a specialist's chat template never "
                "writes; take them out"
            )
        return [
            text.ids([finder.renderer.prompt(turns) + lead])[0]
            for finder, text, lead in zip(self._finders, self._texts, self._prompt_leads, strict=True)
        ]

    def encode(self, conversations: Sequence[Conversation]) -> list[list[EncodedAnswer | Omission]]:
        """The rows of each conversation, one per answer, or why it has none.

        Args:
            conversations: chats, and prompts with completions, which become chats: generation lays the templates too.
        """
        jobs: list[tuple[int, tuple[Turn, ...], str, bool]] = []
        found: list[list[EncodedAnswer | Omission]] = [[] for _ in conversations]
        for index, conversation in enumerate(map(as_chat, conversations)):
            turns = conversation.turns
            places = [i for i, turn in enumerate(turns) if turn.role in ("assistant", "completion")]
            if not places:
                missing = _NO_QUESTION if turns[0].role == "text" else NO_ANSWER
                found[index].append(Omission(conversation.where, missing))
                continue
            if unused := self._unused(conversation):
                found[index].append(Omission(conversation.where, UNRENDERED + ", ".join(unused)))
                continue
            places = [i for i in (places[-1:] if self.supervise == "last" else places) if turns[i].train]
            for i in places:
                jobs.append((index, turns[:i], turns[i].content, is_chat(turns)))
            if not places:
                found[index].append(Omission(conversation.where, UNTRAINED))
        by_specialist = [self._prompt_ids(e, [job[1:] for job in jobs]) for e in self._places()]
        answers = self._texts[0].continuations([self._answer_text(text, chat) for _, _, text, chat in jobs])
        for number, (index, _, _, chat) in enumerate(jobs):
            answer = answers[number] if chat and self._end is not None else self._texts[0].ended(answers[number])
            prompts = [rows[number] for rows in by_specialist]
            found[index].append(self._fit(conversations[index].where, prompts, answer))
        return found

    def _places(self) -> range:
        return range(len(self.tokenizers))

    def _answer_text(self, content: str, chat: bool) -> str:
        return self._lead + content + (self._end or "") if chat else content

    def _unused(self, conversation: Conversation) -> list[str]:
        """What the conversation holds beside its texts: fused answers are texts, so that answers may hold nothing else."""
        turns = conversation.turns
        given = [finder.renderer.unused(turns, conversation.tools) for finder in self._finders if is_chat(turns)]
        answers = [key for turn in turns if turn.role == "assistant" for key in turn.extra_keys]
        tools = [] if conversation.tools is None else ["tools"]
        return list(dict.fromkeys([*answers, *tools, *(key for keys in given for key in keys)]))

    def _prompt_ids(self, place: int, jobs: Sequence[tuple[tuple[Turn, ...], str, bool]]) -> list[list[int]]:
        finder, text, lead = self._finders[place], self._texts[place], self._prompt_leads[place]
        rendered = [
            finder.prompt_before(turns, answer) + lead if chat else turns[0].content for turns, answer, chat in jobs
        ]
        rows = text.ids(rendered)
        return [row if chat else text.begun(row) for row, (_, _, chat) in zip(rows, jobs, strict=True)]

    def _fit(self, where: str, prompts: list[list[int]], answer: list[int]) -> EncodedAnswer | Omission:
        longest = max(map(len, prompts))
        full, room = longest + len(answer), self.max_length - longest
        if full > self.max_length and self.too_long == "error":
            which = max(self._places(), key=lambda e: len(prompts[e]))
            told = "which leaves no room for the response" if room < 1 else f"and the response {len(answer)}"
            raise ValueError(
                f"{where}: the prompt has {longest} tokens in the template of specialist {which}, {told}; max_length is "
                f"{self.max_length}; raise it, shorten the row, or leave such rows out with too_long='drop'"
            )
        if room < 1:
            return Omission(where, NO_ROOM)
        if full > self.max_length and self.too_long == "drop":
            return Omission(where, TOO_LONG)
        packed = [token for prompt in prompts for token in (len(prompt), *prompt)]
        return EncodedAnswer(packed, answer[:room], full, _CUT if full > self.max_length else None)
