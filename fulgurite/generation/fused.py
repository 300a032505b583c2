"""Text from a fused network: each specialist gets the prompt in its own chat template, and every token tells whose it is.

Each specialist reads, token for token, the same prompt as in training (see fulgurite.data.encoding.fused). An answer ends with the
end of turn of any specialist's template, or with any end token of their configurations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fulgurite.data.encoding.answer_spans import AnswerFinder, end_tokens
from fulgurite.data.encoding.fused import FusedEncoder
from fulgurite.data.encoding.prompts import encode_prompt, is_chat
from fulgurite.data.records.conversation import Turn
from fulgurite.generation.writers import GenerationSettings, Writer, in_batches, prompt_name
from fulgurite.models import FusedNetwork
from fulgurite.models.fusion.decoding import as_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FusedAnswer", "FusedWriter", "generate_fused"]


class FusedAnswer(NamedTuple):
    """An answer with the gate's say in it.

    Attributes:
        text: without the prompt and the end of turn.
        pieces: the same, token by token.
        weights: of each specialist in the choice of each token, (N, E) float32 on the CPU.
    """

    text: str
    pieces: list[str]
    weights: torch.Tensor


def generate_fused(
    model: FusedNetwork,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[Turn]],
    settings: GenerationSettings | None = None,
) -> list[list[FusedAnswer]]:
    """As generate_text, with the tokens of each answer and the gate's weights.

    Args:
        model: the fused network.
        tokenizer: of its specialists.
        prompts: turns of a chat whose last one the user's, or a text.
        settings: None for the likeliest tokens, 256 at most.

    Returns:
        `num_samples` answers for each prompt, in order.
    """
    settings = settings or GenerationSettings()
    writer = FusedWriter(model, tokenizer, settings)
    role = "user" if writer.chat else "prompt"
    histories = [(Turn(role, prompt),) if isinstance(prompt, str) else prompt for prompt in prompts]
    return in_batches(writer, model, [writer.encode(turns) for turns in histories], writer.detailed)


class FusedWriter(Writer):
    """Generates for batches of prompts that are encoded for each specialist.

    Args:
        model: the fused network; its ``chat_templates`` are the specialists', without them the tokenizer's holds for all.
        tokenizer: of the specialists.
        settings: of the answers.
    """

    def __init__(self, model: FusedNetwork, tokenizer: PreTrainedTokenizerBase, settings: GenerationSettings) -> None:
        super().__init__(model, tokenizer, settings)
        templates = model.chat_templates or [tokenizer.chat_template] * len(model.names)
        if len(templates) != len(model.names):
            raise ValueError(
                f"FusedWriter: {len(templates)} chat templates for {len(model.names)} specialists; give one for each"
            )
        tokenizers = []
        for template in templates:
            own = copy.copy(tokenizer)
            own.chat_template = template  # type: ignore[assignment]
            tokenizers.append(own)
        self.device = model.device
        models = [model.specialist(place) for place in range(len(model.names))]
        windows = [_window(part) for part in models]
        self.window = min((window for window in windows if window is not None), default=None)
        ends = [as_list(getattr(getattr(part, "generation_config", None), "eos_token_id", None)) for part in models]
        marks = [end_tokens(own) for own in tokenizers]
        self.stops = list(dict.fromkeys(token for tokens in (*ends, *marks) for token in tokens))
        self.config = self.configured(None)
        self.tokenizers, self.chat = tokenizers, all(templates)
        self.lead = ""
        self._encoder: FusedEncoder | None = None
        if self.chat:
            self._encoder = FusedEncoder(tokenizers, self.window or 1 << 30)
            leads = {AnswerFinder(own).lead for own in tokenizers}
            self.lead = leads.pop() if len(leads) == 1 else ""

    def encode(self, turns: Sequence[Turn]) -> list[list[int]]:
        """The prompt's ids for each specialist; refused where one does not fit."""
        if self._encoder is not None and is_chat(turns):
            rows = self._encoder.prompts(turns)
        else:
            rows = [encode_prompt(tokenizer, turns) for tokenizer in self.tokenizers]
        for ids in rows:
            self.check(ids, prompt_name(turns))
        return rows

    def given(self, ids: Sequence[int]) -> list[list[int]]:
        """The same ids for each specialist."""
        self.check(ids, f"of {len(ids)} ids")
        return [list(ids) for _ in self.tokenizers]

    def length(self, ids: Any) -> int:
        """Tokens of the longest specialist's prompt."""
        return max(map(len, ids))

    def answers(self, rows: Sequence[Any], write: Callable[[str], Any] | None) -> list[list[str]]:
        """Texts for one batch of prompts."""
        return [[self.text(row[0], new) for new, _ in samples] for row, samples in zip(rows, self._new(rows, write))]

    def detailed(self, rows: Sequence[Any]) -> list[list[FusedAnswer]]:
        """Texts with their tokens and weights for one batch of prompts."""
        return [
            [self._answer(row[0], new, weights) for new, weights in samples]
            for row, samples in zip(rows, self._new(rows, None), strict=True)
        ]

    def _new(
        self, rows: Sequence[Any], write: Callable[[str], Any] | None
    ) -> list[list[tuple[list[int], torch.Tensor]]]:
        """New tokens and weights (N, E) of each sample of each row."""
        views = [self.padded(own) for own in zip(*rows, strict=True)]
        config = copy.deepcopy(self.config)
        config.max_new_tokens, config.return_dict_in_generate = min(map(self.room, rows)), True
        ids, masks = [part[0] for part in views], [part[1] for part in views]
        found = self.model.generate(ids, masks, config, streamer=self.streamer(write))
        new, weights = found.sequences[:, ids[0].shape[1] :].tolist(), found.gate_weights.float().cpu()
        pairs, samples = list(zip(new, weights, strict=True)), self.settings.num_samples
        return [pairs[i * samples : (i + 1) * samples] for i in range(len(rows))]

    def _answer(self, prompt: Sequence[int], new: Sequence[int], weights: torch.Tensor) -> FusedAnswer:
        tokens = self.ended(new)
        text = self.text(prompt, new)
        # Each piece is what a token adds, so that bytes of one letter stand together and spaces stay.
        shown = [self.text(prompt, tokens[:i]) for i in range(len(tokens) + 1)]
        pieces = [
            later.removeprefix(before) if later.startswith(before) else str(self.tokenizer.decode([token]))
            for before, later, token in zip(shown, shown[1:], tokens, strict=False)
        ]
        if pieces and text.startswith(self.lead):
            text, pieces[0] = text.removeprefix(self.lead), pieces[0].removeprefix(self.lead)
        return FusedAnswer(text, pieces, weights[: len(tokens)])


def _window(model: Any) -> int | None:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    window: int | None = getattr(config, "max_position_embeddings", None)
    return window
