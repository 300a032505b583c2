"""A model of ours, adapters included, as a model of inspect_ai: `--model fulgurite/MODEL -M adapter=FOLDER`.

Requests that arrive at the same time are written in one refilled batch, which changes no answer. Draws depend on the seed, the
prompt, and on how often this prompt was asked before with these settings, so that epochs differ and a run can be repeated.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)

from fulgurite.data.encoding.prompts import encode_prompt, encode_source
from fulgurite.data.encoding.templates import NO_TEMPLATE, apply_template
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.plugins.inspect_harness.batching import Batches
from fulgurite.evaluation.plugins.inspect_harness.settings import MAX_TOKENS, sampling_of
from fulgurite.evaluation.plugins.inspect_harness.tasks import CONTINUED
from fulgurite.generation import Request, Sample, SamplingSettings, TransformersBackend, load_for_generation

__all__ = ["FulguriteModel"]

_LOG = logging.getLogger(__name__)
_OPTIONS = "adapter, template, dtype, device, batch_size"


@dataclass(frozen=True)
class _Asked:
    """One request with its settings."""

    request: Request
    settings: SamplingSettings


@dataclass(frozen=True)
class _Told:
    """The samples of one request, the tokens of its prompt, and the seconds of its batch."""

    samples: list[Sample]
    prompt_tokens: int
    seconds: float


class FulguriteModel(ModelAPI):
    """The model.

    Args:
        model_name: hub id, folder, or a playground name.
        base_url: refused, since the model runs in this process.
        api_key: not needed.
        config: inspect_ai's.
        adapter: folder of adapter.save() or of PEFT.
        template: auto, a template's name, a Jinja file, or none; None takes the stored one, and the usual one where there is none.
        dtype: of the weights; None takes float32 on a CPU and bfloat16 elsewhere.
        device: None takes a GPU if there is one.
        batch_size: answers that are written at once.
        unknown: what else was given, which is refused.

    Raises:
        ValueError: an option that we don't have, or a model or adapter that cannot write.
    """

    continues_texts = True

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        adapter: str | None = None,
        template: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int = 8,
        **unknown: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if base_url is not None:
            raise ValueError(f"fulgurite model: base_url={base_url}; the model runs in this process; leave it out")
        if unknown:
            raise ValueError(
                f"fulgurite model: -M {', '.join(unknown)}; known are {_OPTIONS}; leave it out (a model's own code is never "
                "run here)"
            )
        if model_name.endswith(".ckpt") or str(adapter).endswith(".ckpt"):
            raise ValueError(
                f"fulgurite model: {model_name if model_name.endswith('.ckpt') else adapter} is a checkpoint of a fit; export it "
                "first with `fulgurite export`, and give the folder"
            )
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        kind = dtype or ("float32" if place == "cpu" else "bfloat16")
        loaded = load_for_generation(model_name, adapter, template, kind, place)
        self.plain = template == NO_TEMPLATE
        self.tokenizer: Any = loaded.tokenizer
        self.backend: TransformersBackend | None = TransformersBackend(loaded.model, loaded.tokenizer, int(batch_size))
        self._seen: Counter[tuple[Any, SamplingSettings]] = Counter()
        self._batches: Batches[_Asked, _Told] = Batches(self._answers)

    async def generate(self, input: list[ChatMessage], tools: Any, tool_choice: Any, config: GenerateConfig) -> Any:
        """As ModelAPI.generate.

        Raises:
            ValueError: tools, pictures, options that we don't have, or a prompt that does not fit into the model's window.
        """
        if tools:
            raise ValueError(
                f"fulgurite model: {len(tools)} tools were given; a model in this process calls none; take a solver without tools, "
                "or serve the model and use inspect_ai's openai-api"
            )
        settings, choices = sampling_of(config.model_dump(exclude_none=True))
        prompt = self._prompt(input)
        key = ""
        if settings.temperature > 0:
            number = self._seen[prompt, settings]
            self._seen[prompt, settings] += 1
            key = str(number) if number else ""
        told = await self._batches.ask(_Asked(Request(prompt, key, tuple(range(choices))), settings))
        written = sum(len(sample.token_ids or ()) for sample in told.samples)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(sample, settings, bool(config.logprobs)) for sample in told.samples],
            usage=ModelUsage(
                input_tokens=told.prompt_tokens, output_tokens=written, total_tokens=told.prompt_tokens + written
            ),
            time=told.seconds,
            metadata={"seeds": [sample.seed for sample in told.samples], "made_with": dict(told.samples[0].made_with)},
        )

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text; inspect_ai's own count fetches a file from the internet."""
        return len(await self.tokenize(text))

    def max_tokens(self) -> int | None:
        """Where nothing is said."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """Enough that the batch is refilled as answers end."""
        return 4 * self.backend.batch_size if self.backend is not None else 1

    def collapse_user_messages(self) -> bool:
        """Chat templates want roles that alternate."""
        return True

    def close(self) -> None:
        """Lets go of the model."""
        self.backend = None

    def _prompt(self, messages: Sequence[ChatMessage]) -> str | tuple[Turn, ...]:
        """A text that is continued as it stands, where a task of ours says so; else the turns of a chat."""
        continued = [message for message in messages if (message.metadata or {}).get(CONTINUED)]
        if continued:
            if len(messages) > 1:
                raise ValueError(
                    f"fulgurite model: {len(messages)} messages with a text that is continued as it stands (chat=false); it stands "
                    "alone; leave out system messages and further turns"
                )
            return str(messages[0].text)
        turns = []
        for message in messages:
            extra = (
                [part.type for part in message.content if part.type != "text"]
                if not isinstance(message.content, str)
                else []
            )
            extra = [kind for kind in extra if kind != "reasoning"]
            if message.role not in ("system", "user", "assistant") or extra:
                raise ValueError(
                    f"fulgurite model: a message of {message.role} with {', '.join(extra) or 'results of tools'}; allowed are "
                    "texts of system, user and assistant; take another solver or other samples"
                )
            turns.append(Turn(message.role, message.text))
        if not self.tokenizer.chat_template:
            if self.plain:
                raise ValueError(
                    "fulgurite model: template=none and a chat; a chat needs a template; leave template out, or ask a task of ours "
                    "with -T chat=false"
                )
            apply_template(self.tokenizer)
            _LOG.warning("fulgurite model: %s has no chat template; the usual one is laid", self.model_name)
        return tuple(turns)

    def _answers(self, asked: Sequence[_Asked]) -> list[_Told | Exception]:
        """One batch for each kind of settings. Where a prompt is refused, before anything is drawn, each is asked alone."""
        found: list[_Told | Exception] = [RuntimeError("fulgurite model: no answer came")] * len(asked)
        groups: dict[SamplingSettings, list[int]] = defaultdict(list)
        for place, each in enumerate(asked):
            groups[each.settings].append(place)
        for places in groups.values():
            try:
                answers: list[_Told | Exception] = list(self._written([asked[place] for place in places]))
            except ValueError as error:
                answers = [error]
                if len(places) > 1:
                    answers = [self._alone(asked[place]) for place in places]
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return found

    def _alone(self, asked: _Asked) -> _Told | Exception:
        try:
            return self._written([asked])[0]
        except ValueError as error:
            return error

    def _written(self, asked: Sequence[_Asked]) -> list[_Told]:
        if self.backend is None:
            raise RuntimeError("fulgurite model: it was closed; get it anew")
        begun = time.monotonic()
        samples: list[list[Sample]] = [[] for _ in asked]
        for sample in self.backend.sample([each.request for each in asked], 1, asked[0].settings):
            samples[sample.prompt].append(replace(sample, prompt=0))
        seconds = time.monotonic() - begun
        return [
            _Told(sorted(own, key=lambda sample: sample.index), self._length(each.request.prompt), seconds)
            for each, own in zip(asked, samples, strict=True)
        ]

    def _length(self, prompt: Any) -> int:
        """Tokens of a prompt."""
        assert self.backend is not None
        encode = encode_source if self.backend.model.config.is_encoder_decoder else encode_prompt
        return len(encode(self.tokenizer, (Turn("prompt", prompt),) if isinstance(prompt, str) else prompt))

    def _choice(self, sample: Sample, settings: SamplingSettings, logprobs: bool) -> ChatCompletionChoice:
        full = len(sample.token_ids or ()) >= settings.max_new_tokens
        stop = "stop" if sample.finish == "stop" else "max_tokens" if full else "model_length"
        content = None
        if logprobs and sample.token_ids is not None and sample.model_log_probs is not None:
            content = Logprobs(
                content=[
                    Logprob(token=self.tokenizer.decode([token]), logprob=value)
                    for token, value in zip(sample.token_ids, sample.model_log_probs, strict=True)
                ]
            )
        message = ChatMessageAssistant(content=sample.text, model=self.model_name, source="generate")
        return ChatCompletionChoice(message=message, stop_reason=stop, logprobs=content)
