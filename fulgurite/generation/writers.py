"""How an answer is written: settings, the loop over batches of prompts, and the answer with its reason to stop."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from fulgurite.data.encoding.answer_spans import AnswerFinder, end_tokens
from fulgurite.data.encoding.prompts import encode_prompt, encode_source
from fulgurite.data.records.conversation import Turn
from fulgurite.models.fusion.decoding import as_list
from fulgurite.models.modes import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GenerationSettings", "Writer", "check_drawing", "in_batches", "prompt_name", "undisturbed"]

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class GenerationSettings:
    """How text is drawn.

    Args:
        max_new_tokens: tokens of an answer at most.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        top_p: draw from the likeliest tokens that together have this probability.
        top_k: draw from that many tokens; 0 for all.
        repetition_penalty: above 1, tokens that stand there already become less likely.
        num_samples: answers for each prompt.
        batch_size: answers that are generated at once.
        seed: of the draws; None goes on with the process's own random numbers.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    num_samples: int = 1
    batch_size: int = 8
    seed: int | None = None

    def __post_init__(self) -> None:
        more = (
            ("num_samples", self.num_samples >= 1, "1 and more"),
            ("batch_size", self.batch_size >= 1, "1 and more"),
        )
        check_drawing(self, more)
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"GenerationSettings: num_samples={self.num_samples} with temperature 0 would give the same answer each time; "
                "set temperature above 0, such as 0.8"
            )


def check_drawing(settings: Any, more: Sequence[tuple[str, bool, str]] = ()) -> None:
    """Refuses settings of how tokens are drawn that mean nothing.

    Args:
        settings: with max_new_tokens, temperature, top_p, top_k, repetition_penalty and seed.
        more: further rules: name of the value, whether it is fine, what is allowed.

    Raises:
        ValueError: the first value that is out of its range.
    """
    cold, seed = settings.temperature == 0, settings.seed
    rules = (
        ("max_new_tokens", settings.max_new_tokens >= 1, "1 and more"),
        (
            "temperature",
            cold or 1e-6 <= settings.temperature < float("inf"),
            "0 (always the likeliest token), or 1e-6 and more",
        ),
        ("top_p", 0 < settings.top_p <= 1, "above 0, up to 1"),
        ("top_k", settings.top_k >= 0, "0 (all tokens) and more"),
        ("repetition_penalty", settings.repetition_penalty > 0, "above 0; 1 changes nothing"),
        *more,
        ("seed", seed is None or abs(seed) < 2**63, "whole numbers of at most 63 bits"),
    )
    for name, fine, allowed in rules:
        if not fine:
            raise ValueError(
                f"{type(settings).__name__}: {name}={getattr(settings, name)}; allowed is {allowed}; correct it"
            )


def in_batches(
    writer: Writer, model: nn.Module, ids: Sequence[Any], answer: Callable[[list[Any]], list[list[Answer]]]
) -> list[list[Answer]]:
    """The answers to every prompt, in order; batches hold prompts of like length, the longest first.

    Prompts behind which the window leaves less room than was asked for stand only with others of the same room, so that none
    shortens the answers of its neighbours.

    Args:
        writer: knows the prompts' lengths, batch size, samples and seed.
        model: what writes; its mode and generation settings come back.
        ids: the encoded prompts.
        answer: encoded prompts of a batch to the samples of each.
    """
    settings = writer.settings
    found: list[list[Answer]] = [[] for _ in ids]
    order = sorted(range(len(ids)), key=lambda i: (-writer.length(ids[i]), i))
    step = max(1, settings.batch_size // settings.num_samples)
    with undisturbed(model, settings.seed):
        for _, alike in groupby(order, key=lambda i: writer.room(ids[i])):
            places = list(alike)
            for batch in (places[at : at + step] for at in range(0, len(places), step)):
                for i, answers in zip(batch, answer([ids[i] for i in batch]), strict=True):
                    found[i] = answers
    return found


def prompt_name(turns: Sequence[Turn]) -> str:
    """How messages call a prompt: the beginning of its last turn."""
    return f"{turns[-1].content[:40]!r}..."


@contextlib.contextmanager
def undisturbed(model: nn.Module, seed: int | None) -> Iterator[None]:
    """Evaluation mode without gradients; modes of all modules, generation settings and seeded random numbers come back."""
    kept = getattr(model, "generation_config", None)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        model.generation_config = kept  # type: ignore[assignment]


class Writer:
    """Generates for batches of token ids."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, settings: GenerationSettings) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.device = next(model.parameters()).device
        self.encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
        text_config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        # T5's relative positions have no end; GPT-2 and its kin call theirs n_positions, which transformers maps.
        self.window: int | None = getattr(text_config, "max_position_embeddings", None)
        own = copy.deepcopy(getattr(model, "generation_config", None))
        chat = tokenizer.chat_template and not self.encoder_decoder
        self.lead = AnswerFinder(tokenizer).lead if chat else ""
        self.stops = list(dict.fromkeys([*as_list(getattr(own, "eos_token_id", None)), *end_tokens(tokenizer)]))
        self.pad = next((i for i in (tokenizer.pad_token_id, *self.stops) if i is not None), 0)
        self.config = self.configured(own)

    def configured(self, own: Any) -> Any:
        """Generation settings of transformers; from the model's own only what is no choice (where a decoder starts)."""
        from transformers import GenerationConfig

        settings = self.settings
        drawn = settings.temperature > 0
        kept = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
        return GenerationConfig(
            **{name: getattr(own, name) for name in kept if getattr(own, name, None) is not None},
            do_sample=drawn,
            temperature=settings.temperature if drawn else None,
            top_p=settings.top_p if drawn else None,
            top_k=(settings.top_k or None) if drawn else None,
            repetition_penalty=settings.repetition_penalty,
            num_return_sequences=settings.num_samples,
            eos_token_id=self.stops or None,
            pad_token_id=self.pad,
            use_cache=True,
        )

    def encode(self, turns: Sequence[Turn]) -> Any:
        """The prompt's ids; refused where they do not fit."""
        ids = (encode_source if self.encoder_decoder else encode_prompt)(self.tokenizer, turns)
        self.check(ids, prompt_name(turns))
        return ids

    def given(self, ids: Sequence[int]) -> Any:
        """A prompt that is token ids already; refused where it does not fit."""
        self.check(ids, f"of {len(ids)} ids")
        return ids

    def check(self, ids: Sequence[int], name: str) -> None:
        """Raises a ValueError for a prompt without a token, or without room behind it."""
        if not ids:
            raise ValueError(f"generate_text: the prompt {name} has no token; give one with text")
        if self.window is not None and len(ids) >= self.window:
            raise ValueError(
                f"generate_text: the prompt {name} has {len(ids)} tokens; the model's window holds {self.window}, answer "
                "included; shorten it"
            )

    def length(self, ids: Any) -> int:
        """Tokens of an encoded prompt."""
        return len(ids)

    def room(self, ids: Any) -> int:
        """Tokens that the answer to an encoded prompt may have."""
        asked = self.settings.max_new_tokens
        return asked if self.window is None or self.encoder_decoder else min(asked, self.window - self.length(ids))

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of a batch, (B, T) on the model's device."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if self.encoder_decoder else slice(width - len(row), width)
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return ids.to(self.device), mask.to(self.device)

    def answers(self, rows: Sequence[Any], write: Callable[[str], Any] | None) -> list[list[str]]:
        """Texts for one batch of prompts."""
        ids, mask = self.padded(rows)
        width = ids.shape[1]
        config = copy.deepcopy(self.config)
        config.max_new_tokens = min(map(self.room, rows))
        self.model.generation_config = config
        streamer = self.streamer(write)
        out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer)
        new = out.tolist() if self.encoder_decoder else out[:, width:].tolist()
        samples = self.settings.num_samples
        return [[self.text(row, new[i * samples + j]) for j in range(samples)] for i, row in enumerate(rows)]

    def streamer(self, write: Callable[[str], Any] | None) -> Any:
        """transformers' streamer that hands whole words to `write`, or None."""
        return None if write is None else _streamer(self.tokenizer, write, self.lead, not self.encoder_decoder)

    def ended(self, new: Sequence[int]) -> list[int]:
        """The answer's own tokens: without the decoder's start, up to the end."""
        start = 1 if self.encoder_decoder else 0  # the decoder's start token, which may be eos
        stop = next((i for i in range(start, len(new)) if new[i] in self.stops), len(new))
        return list(new[start:stop])

    def text(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """The answer as text."""
        answer = self.ended(new)
        alone = str(self.tokenizer.decode(answer, skip_special_tokens=True))
        if self.encoder_decoder:
            return alone
        # A sentencepiece tokenizer takes the first space off whatever it decodes; behind the prompt it stays.
        before = str(self.tokenizer.decode(list(prompt), skip_special_tokens=True))
        whole = str(self.tokenizer.decode([*prompt, *answer], skip_special_tokens=True))
        return whole[len(before) :] if whole.startswith(before) else alone


def _streamer(tokenizer: PreTrainedTokenizerBase, write: Callable[[str], Any], lead: str, skip_prompt: bool) -> Any:
    """transformers' streamer of whole words, writing to `write`; what the template puts before an answer is left out."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        begun = False

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text and not self.begun:
                self.begun = True
                text = text.removeprefix(lead)
            if text:
                write(text)

    return Streamer(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)
