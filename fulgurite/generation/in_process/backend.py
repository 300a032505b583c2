"""Answers of a transformers model or a fused network in this process.

A causal model's batch is refilled as rows finish (see refilling.py). Where that isn't possible (encoder-decoder, sliding window,
state-space layers, soft prompts), and for fused networks, batches are written whole by `generate`; a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.data.encoding.prompts import is_chat
from fulgurite.data.records.conversation import Turn
from fulgurite.generation.fused import FusedWriter
from fulgurite.generation.identity import identify
from fulgurite.generation.in_process.drawing import Row
from fulgurite.generation.in_process.refilling import Answers, Reader, RefilledBatch, why_not_refilled
from fulgurite.generation.in_process.stopping import cut_before, stops_of
from fulgurite.generation.in_process.whole_batches import Choice, batches_of
from fulgurite.generation.protocol import Job, Prompt, Request, Sample, SamplingSettings, jobs_of
from fulgurite.generation.writers import GenerationSettings, Writer, undisturbed
from fulgurite.models import FusedNetwork
from fulgurite.models.fusion.decoding import as_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FusedBackend", "TransformersBackend"]


class _InProcess:
    """What both backends share: encoding, texts, and the record of a sample."""

    kind = ""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"{type(self).__name__}: batch_size={batch_size}; a batch has at least one row")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def identity(self) -> dict[str, Any]:
        """Backend, model, revision, hashes of weights, adapters and chat template, versions of torch and transformers."""
        return {"backend": self.kind, **identify(self.model, self.tokenizer)}

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        """The wanted samples of each request, in the order in which they finish; see Backend.sample.

        All prompts are encoded, and refused if one does not fit, before the first token is drawn. While the caller works with a
        sample, the model is in the mode in which it was given.

        Raises:
            ValueError: a prompt that has no token, that the template refuses, or that does not fit into the model's window.
        """
        settings = settings or SamplingSettings()
        jobs = jobs_of(type(self).__name__, requests, n, settings)
        writer = self._writer(settings)
        stops = stops_of(self.tokenizer, writer.stops, settings.stop_ids, settings.stop)
        writer.stops = list(stops.tokens)
        rows = []
        for job in jobs:
            encoded = _encoded(writer, job.prompt)
            ids, limit = self._ids(writer, encoded), writer.room(encoded)
            rows += [(Row(job.place, i, seed, ids, limit, stops), encoded) for i, seed in job.seeds.items()]
        made_with = {**self.identity(), "settings": settings.to_dict()}
        return self._written(writer, rows, jobs, settings, made_with)

    def _written(
        self,
        writer: Writer,
        rows: list[tuple[Row, Any]],
        jobs: Sequence[Job],
        settings: SamplingSettings,
        made_with: dict[str, Any],
    ) -> Iterator[Sample]:
        chats = {job.place: not isinstance(job.prompt, str) and is_chat(_turns(job.prompt)) for job in jobs}
        for row in self._finished(writer, rows, settings, made_with):
            new = row.tokens if not writer.encoder_decoder else [writer.pad, *row.tokens]
            text = writer.text(row.ids, new)
            if chats[row.place]:
                text = text.removeprefix(writer.lead)
            text = cut_before(text, settings.stop)[0] if isinstance(row.stop, str) else text
            yield Sample(
                row.place,
                row.index,
                text,
                row.finish or "",
                row.stop,
                row.seed,
                tuple(row.tokens),
                tuple(row.log_probs),
                tuple(row.model_log_probs),
                made_with=made_with,
                usage=None if writer.encoder_decoder else (len(row.ids), len(row.tokens)),
            )

    def _writer(self, settings: SamplingSettings) -> Writer:
        return Writer(self.model, self.tokenizer, self._for_writer(settings))

    def _for_writer(self, settings: SamplingSettings) -> GenerationSettings:
        """Greedy and without a penalty: what is drawn, we draw."""
        return GenerationSettings(settings.max_new_tokens, batch_size=self.batch_size)

    def _ids(self, writer: Writer, encoded: Any) -> Sequence[int]:
        """The ids that the penalty counts and behind which the text stands: of an encoder-decoder only the decoder's start."""
        ids: Sequence[int] = as_list(writer.config.decoder_start_token_id) if writer.encoder_decoder else encoded
        return ids

    def _finished(
        self, writer: Writer, rows: list[tuple[Row, Any]], settings: SamplingSettings, made_with: Mapping[str, Any]
    ) -> Iterator[Row]:
        """Rows as they finish; in between the model is as it was given."""
        for batch in batches_of(rows, self.batch_size, writer.length):
            choice = Choice([row for row, _ in batch], writer.pad, settings)
            with undisturbed(self.model, None):
                self._generate(writer, batch, choice)
            yield from choice.rows

    def _generate(self, writer: Writer, batch: list[tuple[Row, Any]], choice: Choice) -> None:
        ids, mask = writer.padded([encoded for _, encoded in batch])
        config = writer.config
        config.max_new_tokens = batch[0][0].limit
        self.model.generation_config = config
        self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=_processors(choice),
            stopping_criteria=_criteria(choice),
        )


class TransformersBackend(_InProcess):
    """A language model of transformers, adapters of ours and of PEFT included.

    Args:
        model: a causal model or an encoder-decoder; its mode and generation settings stay what they are.
        tokenizer: its tokenizer, with the chat template that belongs to the model.
        batch_size: answers that are written at once. The cache holds that many rows of the longest prompt with its answer.

    Raises:
        ValueError: a model that does not write text, or a fused network.
    """

    kind = "transformers"

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> None:
        super().__init__(model, tokenizer, batch_size)
        if isinstance(model, FusedNetwork):
            raise ValueError("TransformersBackend: the model is a FusedNetwork; FusedBackend takes it")
        if not callable(getattr(model, "generate", None)):
            raise ValueError(
                f"TransformersBackend: {type(model).__name__} has no generate(); give a language model of transformers"
            )
        self._said = False
        self._proved: tuple[Any, ...] | None = None

    def _finished(
        self, writer: Writer, rows: list[tuple[Row, Any]], settings: SamplingSettings, made_with: Mapping[str, Any]
    ) -> Iterator[Row]:
        if not rows:
            return
        reader = Reader(self.model, writer.pad)
        longest = max(len(row.ids) + row.limit for row, _ in rows)
        reason = None
        proved = (made_with["weights"], made_with["adapter"], made_with["dtype"], longest)
        if proved != self._proved:  # the proof holds for these weights and these adapters
            with undisturbed(self.model, None):
                reason = why_not_refilled(reader, longest)
            self._proved = proved if reason is None else None
        if reason is not None:
            if not self._said:
                self._said = True
                warnings.warn(
                    f"TransformersBackend: rows of {type(self.model).__name__} cannot join a running batch ({reason}); batches are "
                    "written whole by transformers' generate, which takes longer where answers are of unequal length",
                    stacklevel=3,
                )
            yield from super()._finished(writer, rows, settings, made_with)
            return
        grouped: dict[int, list[Row]] = {}
        for row, _ in rows:
            grouped.setdefault(row.place, []).append(row)
        queue = sorted((Answers(some[0].ids, some) for some in grouped.values()), key=lambda each: -len(each.ids))
        batch = RefilledBatch(reader, queue, min(self.batch_size, len(rows)), settings)
        while batch:
            with undisturbed(self.model, None):
                finished = batch.until_some_finish()
            yield from finished


class FusedBackend(_InProcess):
    """UltraFuser's specialists: every token is chosen by their blend; prompts are laid out for each by its own template.

    Args:
        network: the fused network.
        tokenizer: of its specialists.
        batch_size: answers that are written at once.
    """

    kind = "fused"

    def __init__(self, network: FusedNetwork, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> None:
        super().__init__(network, tokenizer, batch_size)

    def _writer(self, settings: SamplingSettings) -> Writer:
        return FusedWriter(self.model, self.tokenizer, self._for_writer(settings))

    def _ids(self, writer: Writer, encoded: Any) -> Sequence[int]:
        ids: Sequence[int] = encoded[0]
        return ids

    def _generate(self, writer: Writer, batch: list[tuple[Row, Any]], choice: Choice) -> None:
        views = [writer.padded(own) for own in zip(*(encoded for _, encoded in batch), strict=True)]
        config = writer.config
        config.max_new_tokens = batch[0][0].limit
        self.model.generate(
            [ids for ids, _ in views],
            [mask for _, mask in views],
            config,
            logits_processor=[choice.process],
            stopping_criteria=[choice.stopped],
        )


def _encoded(writer: Writer, prompt: Prompt) -> Any:
    if isinstance(prompt, str):
        return writer.encode((Turn("prompt", prompt),))
    turns = _turns(prompt)
    return writer.encode(turns) if turns else writer.given([int(token) for token in prompt])  # type: ignore[arg-type]


def _turns(prompt: Prompt) -> Sequence[Turn]:
    """A prompt's turns; nothing where it is token ids."""
    return [part for part in prompt if isinstance(part, Turn)]


def _processors(choice: Choice) -> Any:
    from transformers import LogitsProcessor, LogitsProcessorList

    class Processor(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return choice.process(input_ids, scores)

    return LogitsProcessorList([Processor()])


def _criteria(choice: Choice) -> Any:
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Criterion(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return choice.stopped(input_ids, scores)

    return StoppingCriteriaList([Criterion()])
