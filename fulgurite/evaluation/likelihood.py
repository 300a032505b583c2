"""Log-likelihoods of given continuations, as lm-evaluation-harness computes them for causal models.

Context and continuation are encoded together and split where the context's own tokens end; blanks at the end of the context count
to the continuation. What is longer than the model's window loses its beginning. The log-probabilities come from
`fulgurite.kernels.linear_log_probs`, at the continuation's positions only.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulgurite.data.encoding.continuations import encode_pair
from fulgurite.generation.identity import identify
from fulgurite.kernels import linear_log_probs
from fulgurite.models import FusedNetwork, find_decoder, head_options
from fulgurite.models.heads import usable_head
from fulgurite.models.modes import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChoiceLikelihoods", "ChoiceScorer", "ModelScorer", "encode_pair"]

_DEFAULT_WINDOW = 2048


@dataclass(frozen=True)
class ChoiceLikelihoods:
    """Of the choices of one item, in their order.

    Attributes:
        sums: log-likelihood of each, summed over its tokens.
        tokens: how many tokens each has.
        greedy: whether each is what greedy decoding writes; None where that was not asked for.
        cut: how many of them lost the beginning of their context.
    """

    sums: list[float]
    tokens: list[int]
    greedy: list[bool] | None = None
    cut: int = 0


class ChoiceScorer(ABC):
    """Whatever computes log-likelihoods of choices."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the log-likelihoods depend on beside the texts: plain data for JSON."""

    @abstractmethod
    def score(
        self, asked: Sequence[tuple[str, Sequence[str]]], greedy: bool = False
    ) -> Iterator[tuple[int, ChoiceLikelihoods]]:
        """The place and the log-likelihoods of each item, each once, as they are finished.

        Args:
            asked: contexts, each with its continuations.
            greedy: say also whether each continuation is what greedy decoding writes.
        """


@dataclass(frozen=True)
class _Row:
    """One continuation: its item, its number there, the tokens that the model reads, and how many targets end them."""

    place: int
    number: int
    ids: list[int]
    count: int
    cut: bool


class ModelScorer(ChoiceScorer):
    """A causal language model in this process, adapters included.

    Args:
        model: of transformers.
        tokenizer: its tokenizer.
        batch_size: continuations that are computed at once.

    Raises:
        ValueError: a model that isn't a causal language model.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> None:
        config: Any = getattr(model, "config", None)
        if isinstance(model, FusedNetwork) or config is None or getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"ModelScorer: {type(model).__name__} is no causal language model; choices are compared by one; leave out the "
                "tasks of choices"
            )
        if batch_size < 1:
            raise ValueError(f"ModelScorer: batch_size={batch_size}; a batch has at least one row")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._proved: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def identity(self) -> dict[str, Any]:
        """As of a backend: model, revision, hashes of weights and adapters, versions; no chat template, which is not used."""
        found = identify(self.model, self.tokenizer)
        found.pop("template")
        return {"backend": "likelihood", **found}

    def score(
        self, asked: Sequence[tuple[str, Sequence[str]]], greedy: bool = False
    ) -> Iterator[tuple[int, ChoiceLikelihoods]]:
        """As ChoiceScorer.score; long rows first, so that a lack of memory shows at once.

        Raises:
            ValueError: a continuation without a token, or one that is longer than the window.
        """
        rows = [
            self._row(place, number, *encode_pair(self.tokenizer, context, text))
            for place, (context, texts) in enumerate(asked)
            for number, text in enumerate(texts)
        ]
        return self._scored(rows, greedy)

    def score_tokens(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what greedy decoding writes.

        Args:
            pairs: the tokens of contexts, each with those of its continuation.

        Raises:
            ValueError: as of `score`.
        """
        rows = [self._row(place, 0, list(before), list(after)) for place, (before, after) in enumerate(pairs)]
        found = dict(self._scored(rows, True))
        return [(found[place].sums[0], bool((found[place].greedy or [False])[0])) for place in range(len(pairs))]

    def _scored(self, rows: list[_Row], greedy: bool) -> Iterator[tuple[int, ChoiceLikelihoods]]:
        missing: dict[int, int] = defaultdict(int)
        found: dict[int, dict[int, tuple[float, bool]]] = defaultdict(dict)
        cut: dict[int, int] = defaultdict(int)
        longest: dict[int, int] = defaultdict(int)
        tokens = {(row.place, row.number): row.count for row in rows}
        for row in rows:
            missing[row.place] += 1
            cut[row.place] += row.cut
            longest[row.place] = max(longest[row.place], len(row.ids))
        # Items stay together in about one batch, so that they are finished, and written down, one after the other.
        rows.sort(key=lambda row: (-longest[row.place], row.place, -len(row.ids)))
        for at in range(0, len(rows), self.batch_size):
            part = rows[at : at + self.batch_size]
            for row, outcome in zip(part, self._batch(part, greedy), strict=True):
                found[row.place][row.number] = outcome
                missing[row.place] -= 1
                if missing[row.place] == 0:
                    outcomes = [found[row.place][i] for i in range(len(found[row.place]))]
                    yield (
                        row.place,
                        ChoiceLikelihoods(
                            [total for total, _ in outcomes],
                            [tokens[row.place, i] for i in range(len(outcomes))],
                            [best for _, best in outcomes] if greedy else None,
                            cut[row.place],
                        ),
                    )
                    del found[row.place]

    def _row(self, place: int, number: int, before: list[int], after: list[int]) -> _Row:
        window = self.window
        if not after or not before:
            raise ValueError(
                f"ModelScorer: context or continuation {number + 1} of item {place + 1} has no token; give texts on both sides"
            )
        if len(after) > window:
            raise ValueError(
                f"ModelScorer: continuation {number + 1} of item {place + 1} has {len(after)} tokens and does not fit the model's "
                f"window of {window}"
            )
        whole = [*before, *after]
        return _Row(place, number, whole[-(window + 1) :], len(after), len(whole) > window + 1)

    @property
    def window(self) -> int:
        """How many tokens the model reads at once."""
        config = self.model.config.get_text_config()  # type: ignore[union-attr,operator]
        for name in ("n_positions", "max_position_embeddings", "n_ctx"):
            if getattr(config, name, None):
                return int(getattr(config, name))
        return _DEFAULT_WINDOW

    @torch.no_grad()
    def _batch(self, rows: Sequence[_Row], greedy: bool) -> list[tuple[float, bool]]:
        """Sum of log-probabilities of each row's last tokens, and whether each of these was the likeliest."""
        device = next(self.model.parameters()).device
        width = max(len(row.ids) for row in rows) - 1
        ids = torch.zeros((len(rows), width), dtype=torch.int64)
        mask, wanted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        targets = []
        for i, row in enumerate(rows):
            size = len(row.ids) - 1
            ids[i, :size], mask[i, :size] = torch.tensor(row.ids[:-1]), 1
            wanted[i, size - row.count : size] = True
            targets += row.ids[-row.count :]
        target = torch.tensor(targets, device=device)
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
        wanted = wanted.to(device)
        with evaluation_mode(self.model):
            # PEFT's wrapper is not the model that find_decoder knows; its logits are.
            head = None if hasattr(self.model, "peft_config") else usable_head(self.model, self._proved)
            if head is None or greedy:
                logits = self.model(**inputs).logits[wanted]
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                found = logits.log_softmax(-1).gather(-1, target[:, None]).squeeze(-1)
                best = logits.argmax(-1) == target
            else:
                hidden = find_decoder(self.model)(**inputs).last_hidden_state[wanted]
                found = linear_log_probs(hidden, head.weight, target, **head_options(head))
                best = torch.zeros_like(target, dtype=torch.bool)
        if found.isnan().any():
            raise ValueError(
                "ModelScorer: the model gives NaN in place of log-probabilities, by which no choice can be made; give --dtype "
                "float32, or look at its weights"
            )
        counts = [row.count for row in rows]
        return [
            (float(logs.double().sum()), bool(hits.all()))
            for logs, hits in zip(found.cpu().split(counts), best.cpu().split(counts), strict=True)
        ]
