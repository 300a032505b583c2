"""Text from a model, for many prompts at once or one word at a time.

The ids before the model are those of `encode_prompt`, which training has before its answers too. Batches are padded on
the left (an encoder's on the right) and hold prompts of like length. Generation is that of transformers, under settings
that say everything: what a model's own generation_config.json asks for (Llama's temperature, say) is not mixed in.
It stops at eos, at the template's own end of turn, and at whatever else the model's configuration ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.data.encoding.prompts import is_chat
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.loading import LoadedModel, load_for_generation
from fulgurite.evaluation.writers import GenerationSettings, Writer, in_batches
from fulgurite.models import FusedNetwork

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LoadedModel", "check_prompts", "generate_from_ids", "generate_text", "load_for_generation"]


def generate_text(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[Turn]],
    settings: GenerationSettings | None = None,
    write: Callable[[str], Any] | None = None,
) -> list[list[str]]:
    """Answers for each prompt, without the prompt and without the end of turn.

    The model's mode and its generation settings are afterwards what they were; with a seed so are the random numbers.

    Args:
        model: a transformers model that can generate, adapters included; or a FusedNetwork, which lays each specialist's own
            chat template over the prompts.
        tokenizer: its tokenizer.
        prompts: turns of a chat whose last one the user's, or a text, which is the user's turn if the tokenizer has a
            chat template and is continued as it is if not.
        settings: None for the likeliest tokens, 256 at most.
        write: gets the answer's text as it comes; for one prompt and one sample only.

    Returns:
        `num_samples` texts for each prompt, in order.

    Raises:
        ValueError: a prompt that does not fit into the model's window.
    """
    settings = settings or GenerationSettings()
    _refuse_silent(model)
    if write is not None and (len(prompts) != 1 or settings.num_samples != 1):
        raise ValueError(
            f"generate_text: write was given with {len(prompts)} prompts and {settings.num_samples} samples; it takes one of each"
        )
    histories = [_turns(tokenizer, prompt) for prompt in prompts]
    writer = _writer(model, tokenizer, settings)
    found = in_batches(
        writer, model, [writer.encode(turns) for turns in histories], partial(writer.answers, write=write)
    )
    return [
        [text.removeprefix(writer.lead) if is_chat(turns) else text for text in texts]
        for turns, texts in zip(histories, found, strict=True)
    ]


def check_prompts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Turn]], places: Sequence[str]
) -> None:
    """Refuses prompts that generate_text would refuse, by their places, before any is answered.

    Args:
        model: as generate_text has it.
        tokenizer: its tokenizer.
        prompts: turns of each.
        places: where each comes from.

    Raises:
        ValueError: the first prompt that has no token, does not fit into the window, or that the chat template refuses.
    """
    _refuse_silent(model)
    writer = _writer(model, tokenizer, GenerationSettings())
    refused: list[tuple[str, ValueError]] = []
    for turns, where in zip(prompts, places, strict=True):
        try:
            writer.encode(turns)
        except ValueError as error:
            refused.append((where, error))
    if refused:
        where, first = refused[0]
        more = f" ({len(refused) - 1} more rows are refused too)" if len(refused) > 1 else ""
        raise ValueError(f"{where}: {first}{more}") from first


def generate_from_ids(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings | None = None,
) -> list[list[str]]:
    """Answers for prompts that are token ids already, such as those of a training batch; otherwise as generate_text.

    Args:
        model: a transformers model that can generate, adapters included.
        tokenizer: its tokenizer.
        prompts: ids before each answer; what an encoder reads, special tokens included.
        settings: None for the likeliest tokens, 256 at most.

    Raises:
        ValueError: a prompt without a token, or one that does not fit into the model's window.
    """
    _refuse_silent(model)
    writer = Writer(model, tokenizer, settings or GenerationSettings())
    for ids in prompts:
        writer.check(ids, f"of {len(ids)} ids")
    return in_batches(writer, model, prompts, partial(writer.answers, write=None))


def _refuse_silent(model: nn.Module) -> None:
    if not callable(getattr(model, "generate", None)):
        raise ValueError(
            f"generate_text: {type(model).__name__} has no generate(); give a language model of transformers"
        )


def _writer(model: nn.Module, tokenizer: PreTrainedTokenizerBase, settings: GenerationSettings) -> Writer:
    from fulgurite.evaluation.fused_generation import FusedWriter

    if isinstance(model, FusedNetwork):
        return FusedWriter(model, tokenizer, settings)
    return Writer(model, tokenizer, settings)


def _turns(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Turn]) -> Sequence[Turn]:
    if isinstance(prompt, str):
        return (Turn("user" if tokenizer.chat_template else "prompt", prompt),)
    return prompt
