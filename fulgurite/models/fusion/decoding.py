"""Decoding with several specialists: each has its own prompt and its own cache, and all read each token that the blend chose.

Everything around the models is transformers' own: GenerationConfig, its logits processors in their usual order, StoppingCriteria
and streamers. Where these want a single row of ids (a repetition penalty looks at the prompt), they get the first specialist's
prompt with the answer. There is no beam search, and a setting that this loop does not know is refused by its name.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from fulgurite.models.heads import find_decoder

__all__ = ["FusedGeneration", "as_list", "decode"]

Blend = Callable[[Sequence[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]

# Settings of transformers that mean something here, or that say nothing of how tokens are chosen.
_KNOWN = {
    "max_new_tokens", "max_length", "min_new_tokens", "max_time", "do_sample", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "renormalize_logits", "num_return_sequences", "eos_token_id", "pad_token_id",
    "bos_token_id", "decoder_start_token_id", "use_cache", "return_dict_in_generate", "transformers_version",
}  # fmt: skip
_MAX_LENGTH = 20  # transformers' own where nothing is given


class Specialists(Protocol):
    """What decoding asks of the network that holds the specialists."""

    names: list[str]
    generation_config: Any

    @property
    def device(self) -> torch.device:
        """Where hidden states and heads meet."""

    def specialist(self, place: int) -> nn.Module:
        """The model of one specialist."""

    def only(self, place: int) -> AbstractContextManager[None]:
        """Within the block that specialist's adapter is the only active one."""


class FusedGeneration(NamedTuple):
    """What generate gives with ``return_dict_in_generate``.

    Attributes:
        sequences: the first specialist's prompt and the answer, (B, T + N) int64, as transformers gives it.
        gate_weights: each specialist's weight in the choice of each of the N tokens, (B, N, E) float32; 0 behind the end.
    """

    sequences: torch.Tensor
    gate_weights: torch.Tensor


def decode(
    network: Specialists,
    blend: Blend,
    input_ids: Sequence[torch.Tensor] | torch.Tensor,
    attention_mask: Sequence[torch.Tensor] | torch.Tensor | None,
    generation_config: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    streamer: Any,
) -> torch.Tensor | FusedGeneration:
    """Answers to a batch of prompts.

    Args:
        network: the specialists.
        blend: hidden states of the E specialists, each (B, H_e), to logits (B, V) and weights (B, E).
        input_ids: of each specialist, (B, T_e) padded on the left; one tensor is all specialists' prompt.
        attention_mask: as the ids; None: nothing is padded.
        generation_config: transformers' settings; None takes the network's own.
        logits_processor: further processors, which come before temperature and truncation, as in transformers.
        stopping_criteria: further criteria; a row ends where one of them says so.
        streamer: gets the first specialist's prompt and then each token.

    Returns:
        (B · num_return_sequences, T + N) int64, or with ``return_dict_in_generate`` a :class:`FusedGeneration`.

    Raises:
        ValueError: settings that are not known here, prompts that do not fit the specialists, no room for a token.
    """
    config = _settings(network, generation_config)
    ids, masks = _prompts(network, input_ids, attention_mask, config.num_return_sequences or 1)
    sequence = ids[0].to(network.device)
    rows, prompt = sequence.shape
    room = config.max_new_tokens if config.max_new_tokens is not None else (config.max_length or _MAX_LENGTH) - prompt
    if room < 1:
        raise ValueError(
            f"generate: max_length={config.max_length}, and the prompt has {prompt} tokens already; set max_new_tokens, at least 1"
        )
    processors = _processors(config, prompt, masks[0].to(sequence.device), logits_processor, sequence.device)
    ends = torch.tensor(as_list(config.eos_token_id), dtype=torch.int64, device=sequence.device)
    pad = config.pad_token_id if config.pad_token_id is not None else next(iter(ends.tolist()), 0)
    readers = [_Reader(network, place, *part) for place, part in enumerate(zip(ids, masks, strict=True))]
    states = [reader.prompt().to(network.device) for reader in readers]
    open_ = torch.ones(rows, dtype=torch.bool, device=sequence.device)
    weights: list[torch.Tensor] = []
    start = time.monotonic()
    if streamer is not None:
        streamer.put(sequence.cpu())
    while True:
        logits, shares = blend(states)
        scores = processors(sequence, logits)
        if config.do_sample:
            tokens = torch.multinomial(scores.softmax(-1), 1).squeeze(1)
        else:
            tokens = scores.argmax(-1)
        tokens = tokens.where(open_, pad)
        weights.append(shares.masked_fill(~open_.unsqueeze(1), 0))
        sequence = torch.cat([sequence, tokens.unsqueeze(1)], 1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        open_ = open_ & ~torch.isin(tokens, ends)
        for criterion in stopping_criteria or ():
            open_ = open_ & ~torch.as_tensor(criterion(sequence, scores), device=open_.device)
        late = config.max_time is not None and time.monotonic() - start > config.max_time
        if len(weights) == room or late or not bool(open_.any()):
            break
        states = [reader.token(tokens).to(network.device) for reader in readers]
    if streamer is not None:
        streamer.end()
    return FusedGeneration(sequence, torch.stack(weights, 1)) if config.return_dict_in_generate else sequence


class _Reader:
    """One specialist with its cache."""

    def __init__(self, network: Specialists, place: int, ids: torch.Tensor, mask: torch.Tensor) -> None:
        self.network, self.place = network, place
        self.decoder = find_decoder(network.specialist(place))
        self.device = next(network.specialist(place).parameters()).device
        self.ids, self.mask = ids.to(self.device), mask.to(self.device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        accepted = inspect.signature(self.decoder.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.past: Any = None

    def prompt(self) -> torch.Tensor:
        """The state (B, H) that chooses the first token."""
        return self._read(self.ids, self.positions)

    def token(self, tokens: torch.Tensor) -> torch.Tensor:
        """The state (B, H) behind one more token for each row, (B,)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        self.positions = self.positions[:, -1:] + 1
        return self._read(tokens.to(self.device).unsqueeze(1), self.positions)

    def _read(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Models without position ids (BLOOM) take positions from the mask.
        more = {"position_ids": positions} if self.takes_positions else {}
        with self.network.only(self.place):
            out = self.decoder(
                input_ids=ids, attention_mask=self.mask, past_key_values=self.past, use_cache=True, **more
            )
        self.past = getattr(out, "past_key_values", None)
        if self.past is None:
            raise ValueError(
                f"generate: {self.network.names[self.place]!r} ({type(self.decoder).__name__}) keeps no key-value cache, which "
                "fused decoding needs; take another specialist"
            )
        state: torch.Tensor = out.last_hidden_state[:, -1]
        return state


def _settings(network: Specialists, given: Any) -> Any:
    from transformers import GenerationConfig

    config = given or network.generation_config or GenerationConfig()
    unknown = [name for name in config.to_diff_dict() if name not in _KNOWN and not name.startswith("_")]
    if unknown:
        raise ValueError(
            f"generate: the setting {unknown[0]}={getattr(config, unknown[0])!r} is not known to fused decoding; it knows "
            f"{', '.join(sorted(_KNOWN))}"
        )
    return config


def _prompts(
    network: Specialists,
    ids: Sequence[torch.Tensor] | torch.Tensor,
    masks: Sequence[torch.Tensor] | torch.Tensor | None,
    samples: int,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Ids and masks of each specialist, each row as often as it is answered."""
    number = len(network.names)
    each = [ids] * number if isinstance(ids, torch.Tensor) else list(ids)
    if masks is None:
        covers = [torch.ones_like(part) for part in each]
    else:
        covers = [masks] * number if isinstance(masks, torch.Tensor) else list(masks)
    shapes = [tuple(part.shape) for part in each]
    fits = len(each) == len(covers) == number and len({shape[0] for shape in shapes}) == 1
    if not fits or any(len(s) != 2 or s[1] < 1 or s != tuple(m.shape) for s, m in zip(shapes, covers, strict=True)):
        raise ValueError(
            f"generate: input_ids {shapes} with masks {[tuple(m.shape) for m in covers]} for the specialists "
            f"{', '.join(network.names)}; want (B, T) for each, with the same B and at least one token"
        )
    for name, cover in zip(network.names, covers, strict=True):
        if not bool(cover[:, -1].all()):
            raise ValueError(
                f"generate: the prompts of {name!r} are padded on the right, or empty; pad them on the left, so that every row's "
                "last token is its prompt's"
            )
    return [part.repeat_interleave(samples, 0) for part in each], [
        part.repeat_interleave(samples, 0) for part in covers
    ]


def _penalty(penalty: float, mask: torch.Tensor) -> Any:
    """transformers' repetition penalty, which in some versions counts padding, and in none knows a prompt's token outside the
    shared vocabulary; ``mask`` (B, T) of the prompt."""
    from transformers import LogitsProcessor

    class RepetitionPenalty(LogitsProcessor):
        def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
            known = input_ids < scores.shape[1]
            known[:, : mask.shape[1]] &= mask.bool()
            seen = torch.zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
            seen.scatter_(1, input_ids.masked_fill(~known, scores.shape[1]), True)
            lowered = torch.where(scores < 0, scores * penalty, scores / penalty)
            return torch.where(seen[:, :-1], lowered, scores)  # type: ignore[return-value]

    return RepetitionPenalty()


def _processors(config: Any, prompt: int, mask: torch.Tensor, further: Any, device: torch.device) -> Any:
    """transformers' processors for these settings, in the order in which its own generate has them."""
    from transformers.generation import logits_process as own

    found = own.LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        found.append(_penalty(float(config.repetition_penalty), mask))
    if config.min_new_tokens and config.eos_token_id is not None:
        ends = as_list(config.eos_token_id)
        found.append(
            own.MinNewTokensLengthLogitsProcessor(prompt, config.min_new_tokens, ends, device=device)  # type: ignore[arg-type]
        )
    found.extend(further or [])
    if config.do_sample:
        if config.temperature not in (None, 1.0):
            found.append(own.TemperatureLogitsWarper(float(config.temperature)))
        if config.top_k:
            found.append(own.TopKLogitsWarper(top_k=config.top_k))
        if config.top_p is not None and config.top_p < 1.0:
            found.append(own.TopPLogitsWarper(top_p=float(config.top_p)))
        if config.min_p is not None:
            found.append(own.MinPLogitsWarper(min_p=float(config.min_p)))
    if config.renormalize_logits:
        found.append(own.LogitNormalization())
    return found


def as_list(value: int | Sequence[int] | None) -> list[int]:
    """The ids of a setting that is one id, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
