"""Comparisons to token ids: for each answer the path from the prompt's first token to the mark that ends the answer.

A path is what `ConversationEncoder` makes of the prompt and the answer: the ids before the answer are those that `generate`
puts before the model. A path longer than max_length is left out with its pairs and labels; no answer is ever cut. The
token ids of a whole data set lie in a temporary file, so that they need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from fulgurite.data.encoding.conversations import TOO_LONG, ConversationEncoder, Omission
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.records.findings import Tally
from fulgurite.data.records.preference import EQUAL
from fulgurite.data.trees.comparisons import Comparison

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ComparisonEncoder", "EncodedComparison", "Spool"]


@dataclass(frozen=True)
class EncodedComparison:
    """A comparison whose answers are paths in a `Spool`.

    Attributes:
        comparison: What is compared with what; its prompt and answers are no longer needed and empty.
        paths: For each answer its number in the spool.
        starts: For each answer the number of tokens before it.
    """

    comparison: Comparison
    paths: tuple[int, ...]
    starts: tuple[int, ...]


class Spool:
    """Token ids in a temporary file, written one after the other and then read in any order; a context manager.

    Args:
        folder: where the file is made; it is removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "paths"
        self._ends = [0]
        self._pages: np.ndarray | None = None

    def __enter__(self) -> Spool:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._pages = None
        self._path.unlink(missing_ok=True)

    def add(self, ids: Sequence[int]) -> int:
        """Appends a sequence; returns its number."""
        self._pages = None
        self._file.write(np.asarray(ids, dtype=np.int32).tobytes())
        self._ends.append(self._ends[-1] + len(ids))
        return len(self._ends) - 2

    def __getitem__(self, number: int) -> np.ndarray:
        """The token ids with this number, (tokens,) int32."""
        if self._pages is None:
            self._file.flush()
            self._pages = np.memmap(self._path, np.int32, mode="r", shape=(self._ends[-1],))
        return np.asarray(self._pages[self._ends[number] : self._ends[number + 1]])

    def length(self, number: int) -> int:
        """Its tokens."""
        return self._ends[number + 1] - self._ends[number]


class ComparisonEncoder:
    """Encodes comparisons into a spool; hundreds in one call are tokenised together.

    Args:
        tokenizer: with a chat template where chats are encoded.
        max_length: tokens of a path at most.
        spool: where paths go.
        tally: counts what is left out and why.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, spool: Spool, tally: Tally) -> None:
        self._encoder = ConversationEncoder(tokenizer, max_length, supervise="last", too_long="drop", plain=True)
        self.spool = spool
        self.tally = tally

    def encode(self, comparisons: Sequence[Comparison]) -> list[EncodedComparison]:
        """Those of the comparisons that are left.

        Args:
            comparisons: of any kind.
        """
        return [item for item in self.encode_each(comparisons) if item is not None]

    def encode_each(self, comparisons: Sequence[Comparison]) -> list[EncodedComparison | None]:
        """The comparisons, None in the place of one of which nothing is left.

        Args:
            comparisons: of any kind.
        """
        conversations = []
        for comparison in comparisons:
            role = "completion" if comparison.prompt[0].role == "prompt" else "assistant"
            for answer in comparison.completions:
                turns = (*comparison.prompt, Turn(role, answer))
                conversations.append(Conversation(turns, comparison.source, comparison.row))
        rows = iter(self._encoder.encode(conversations))
        found: list[EncodedComparison | None] = []
        for comparison in comparisons:
            answers: list[tuple[list[int], int] | None] = []
            for _ in comparison.completions:
                row = next(rows)[0]
                if isinstance(row, Omission):
                    answers.append(None)
                    continue
                if row.note:
                    self.tally.add(comparison.where, row.note, lost=False)
                # Something must stand before the first token that is to be predicted.
                answers.append((row.input_ids, max(1, row.supervised.index(True))))
            found.append(self._kept(comparison, answers))
        return found

    def _kept(
        self, comparison: Comparison, answers: Sequence[tuple[list[int], int] | None]
    ) -> EncodedComparison | None:
        """The comparison without answers that are too long, and without pairs of equal ids; None if nothing is left."""
        kept = [i for i, answer in enumerate(answers) if answer is not None]
        number = {answer: place for place, answer in enumerate(kept)}
        pairs = [(number[a], number[b], m) for a, b, m in comparison.pairs if a in number and b in number]
        labels = [(number[i], label) for i, label in comparison.labels if i in number]
        scores = [comparison.scores[i] for i in kept] if comparison.scores and len(kept) > 1 else []
        paths = [answer for answer in answers if answer is not None]
        if scores and len({tuple(ids) for ids, _ in paths}) < 2:
            scores = []
        different = [pair for pair in pairs if paths[pair[0]][0] != paths[pair[1]][0]]
        before, after = (
            max(len(p), len(x), len(s))
            for p, x, s in (
                (comparison.pairs, comparison.labels, comparison.scores),
                (different, labels, scores),
            )
        )
        if after < before:
            reason = TOO_LONG if len(kept) < len(answers) else EQUAL
            lost = after == 0
            self.tally.add(comparison.where, reason, "" if lost else f"{before - after} of {before} are left out", lost)
            if lost:
                return None
        bare = replace(
            comparison,
            prompt=(),
            completions=(),
            pairs=tuple(different),
            labels=tuple(labels),
            scores=tuple(scores),
        )
        return EncodedComparison(
            bare, tuple(self.spool.add(ids) for ids, _ in paths), tuple(start for _, start in paths)
        )
