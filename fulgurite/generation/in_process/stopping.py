"""Stop texts: they are looked for in the text, since one may begin in one token and end in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fulgurite.generation.in_process.drawing import Stops

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["cut_before", "stops_of"]

_CONTEXT = 6  # the prompt's last tokens: alone, sentencepiece takes the space off an answer's first token
_UNFINISHED = "\ufffd"  # what a letter looks like whose bytes are not all there


def stops_of(
    tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], ids: Sequence[int], texts: Sequence[str]
) -> Stops:
    """What ends an answer.

    Args:
        tokenizer: of the model.
        ends: the model's own end tokens.
        ids: further end tokens.
        texts: stop texts.
    """
    tokens: dict[int, int | str] = {token: token for token in (*ends, *ids)}
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    tokens |= {special[text]: text for text in texts if text in special}
    written = tuple(text for text in texts if text not in special)

    def follow(prompt: Sequence[int]) -> Callable[[int], str | None]:
        return _Follower(tokenizer, prompt, written)

    return Stops(tokens, follow if written else None)


def cut_before(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first stop text in it, and that stop text (the longest of those that begin there).

    Args:
        text: an answer.
        stops: stop texts.
    """
    places = [(text.find(stop), -len(stop), stop) for stop in stops if stop in text]
    if not places:
        return text, None
    place, _, stop = min(places)
    return text[:place], stop


class _Follower:
    """The text of an answer as it grows; each token costs the decoding of a few tokens, not of the whole answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self.reach = max(map(len, stops)) - 1
        self.ids = list(prompt[-_CONTEXT:])
        self.begin, self.read = 0, len(self.ids)
        self.text = ""

    def __call__(self, token: int) -> str | None:
        self.ids.append(token)
        before, now = self._decoded(self.ids[self.begin : self.read]), self._decoded(self.ids[self.begin :])
        if len(now) <= len(before) or now.endswith(_UNFINISHED):
            return None
        new = now[len(before) :]
        self.begin, self.read = self.read, len(self.ids)
        self.text = self.text[-self.reach :] + new if self.reach else new
        return cut_before(self.text, self.stops)[1]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
