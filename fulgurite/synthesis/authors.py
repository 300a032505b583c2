"""The models of a recipe: who writes, rates or criticises. A model in this process, or an OpenAI-compatible server's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.data.encoding.prompts import encode_prompt
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.runner.writers import in_process
from fulgurite.generation import ServerBackend, load_for_generation
from fulgurite.generation.protocol import Backend, SamplingSettings
from fulgurite.synthesis.account import Price

__all__ = ["Author", "ModelOptions", "open_authors"]

_BYTES_PER_TOKEN = 3  # where nobody can count; letters would take Chinese for a third of what it is
_TURN = 4  # tokens that a chat template lays around a turn


@dataclass(frozen=True)
class ModelOptions:
    """One model of a recipe.

    Args:
        model: hub id, folder, or playground; loaded in this process.
        adapter: folder of an adapter on it.
        template: chat template, where the model has none of its own.
        dtype: of the weights.
        device: where the model goes.
        batch_size: answers that are written at once.
        server: address of an OpenAI-compatible server, in place of a model.
        served_model: the name by which the server knows it.
        concurrency: requests at a time to the server.
        timeout: seconds of one request.
        retries: how often a request is repeated after an error of the server.
        group: ask a server for all draws of a prompt in one request, which pays the prompt once.
        extra: further fields of each request.
        temperature: of the draws.
        top_p: draw from the likeliest tokens that together have this probability.
        max_new_tokens: tokens of an answer at most.
        price: money for a million tokens of prompts and of answers.
        called: its name in the rows; none takes the recipe's.
    """

    model: str | None = None
    adapter: str | None = None
    template: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    batch_size: int = 8
    server: str | None = None
    served_model: str | None = None
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 4
    group: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    price: Price = field(default_factory=Price)
    called: str | None = None


@dataclass(frozen=True)
class Author:
    """A model that can be asked.

    Attributes:
        name: in the recipe.
        backend: writes the answers.
        settings: how they are drawn.
        price: of its tokens.
        called: its name in the rows.
        tokenizer: of a model in this process, to count tokens; None for a server's.
        window: tokens that the model can see; None where that is not known.
    """

    name: str
    backend: Backend
    settings: SamplingSettings
    price: Price = field(default_factory=Price)
    called: str = ""
    tokenizer: Any = None
    window: int | None = None

    def tokens(self, turns: Sequence[Turn]) -> int:
        """Tokens of a prompt, estimated from its bytes where nobody can count them."""
        if self.tokenizer is not None:
            return len(encode_prompt(self.tokenizer, list(turns)))
        return sum(self.letters(turn.content) + _TURN for turn in turns)

    @staticmethod
    def letters(text: str) -> int:
        """An estimate of a text's tokens, by its bytes in UTF-8."""
        return len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN + 1

    def identity(self) -> dict[str, Any]:
        """What its answers depend on beside the prompts."""
        return {"writer": dict(self.backend.identity()), "settings": self.settings.to_dict()}


def open_authors(options: Mapping[str, ModelOptions], seed: int) -> dict[str, Author]:
    """The models of a recipe, ready to be asked; those of equal weights are loaded once.

    Args:
        options: by name.
        seed: of all draws.

    Raises:
        ValueError: neither a model nor a server, or both.
    """
    loaded: dict[Any, Any] = {}
    found = {}
    for name, given in options.items():
        settings = SamplingSettings(given.max_new_tokens, given.temperature, given.top_p, seed=seed)
        tokenizer, window = None, None
        if (given.model is None and given.adapter is None) == (given.server is None):
            raise ValueError(
                f"synthesize: the model {name!r} needs either model (or adapter) or server; give one of them"
            )
        if given.server is not None:
            if given.served_model is None:
                raise ValueError(
                    f"synthesize: the model {name!r} has a server and no served_model; give the name by which the server knows it"
                )
            backend: Backend = ServerBackend(
                given.served_model,
                given.server,
                concurrency=given.concurrency,
                timeout=given.timeout,
                retries=given.retries,
                group=given.group,
                log_probs=False,
                extra=given.extra,
            )
        else:
            key = (given.model, given.adapter, given.template, given.dtype, given.device, given.batch_size)
            if key not in loaded:
                adapter = None if given.adapter is None else resolve_backbone(given.adapter)
                read = load_for_generation(given.model, adapter, given.template, given.dtype, given.device)
                window = getattr(getattr(read.model, "config", None), "max_position_embeddings", None)
                loaded[key] = (in_process(read, given.batch_size, True), window)
            writers, window = loaded[key]
            backend, tokenizer = writers.answers, writers.tokenizer
        found[name] = Author(name, backend, settings, given.price, given.called or name, tokenizer, window)
    return found
