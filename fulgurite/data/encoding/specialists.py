"""The tokenizers of several specialists: one vocabulary, a chat template each.

UltraFuser (https://arxiv.org/abs/2403.08281) feeds each sample to every specialist in that specialist's own template, and
blends their predictions token by token: token i must be the same piece of text for all. Vocabularies of unequal size may
be fused where one only adds tokens at the end (CodeLlama's 32,016 on Llama's 32,000); the shared rows are then used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fulgurite.data.encoding.templates import apply_template
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.sequences import common_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ADAPTER_FILES", "is_adapter_folder", "same_vocabulary", "specialist_tokenizers"]

ADAPTER_FILES = ("adapter.json", "adapter_config.json")
_TEMPLATE_FILE = "chat_template.jinja"
_PROBE = "def f(x):\n    return 12 + x  # Größe, 3.5 %\tNaïve\n"


def is_adapter_folder(path: str) -> bool:
    """Whether a folder holds an adapter and not a whole model.

    Args:
        path: a folder, or anything else.
    """
    return any((Path(path) / name).is_file() for name in ADAPTER_FILES) and not (Path(path) / "config.json").is_file()


def specialist_tokenizers(
    specialists: Sequence[str], base: str | None = None, templates: Sequence[str | None] | None = None
) -> list[PreTrainedTokenizerBase]:
    """A tokenizer for each specialist, with its chat template; all have been found to share their vocabulary.

    Args:
        specialists: hub ids, folders, playground names, or folders of adapters.
        base: what the adapters stand on; its tokenizer serves those that bring none.
        templates: for each specialist a template as in apply_template; None takes the specialist's own.

    Raises:
        ValueError: a specialist without a tokenizer, a number of templates that does not fit, vocabularies that differ.
    """
    if templates is not None and len(templates) != len(specialists):
        raise ValueError(
            f"specialist_tokenizers: {len(templates)} templates for {len(specialists)} specialists; give one for each, in "
            "their order, or none"
        )
    places = [Path(resolve_backbone(name)) for name in specialists]
    found = []
    for name, place in zip(specialists, places, strict=True):
        alone = is_adapter_folder(str(place)) and not (place / "tokenizer_config.json").is_file()
        if alone and base is None:
            raise ValueError(
                f"specialist_tokenizers: {name!r} is an adapter without a tokenizer, and no base was given; set backbone to "
                "the model that it was trained on"
            )
        found.append(load_tokenizer(base if alone and base is not None else name))
    same_vocabulary(found, specialists)
    for tokenizer, place, template in zip(found, places, templates or [None] * len(found), strict=True):
        if template is None and (place / _TEMPLATE_FILE).is_file():
            tokenizer.chat_template = (place / _TEMPLATE_FILE).read_text(encoding="utf-8")
        apply_template(tokenizer, template)
    return found


def same_vocabulary(tokenizers: Sequence[PreTrainedTokenizerBase], names: Sequence[str]) -> int:
    """The number of token ids that mean the same for all.

    Args:
        tokenizers: one per specialist.
        names: what messages call them.

    Raises:
        ValueError: the first token id that means different texts, or text that is cut in different ways.
    """
    first = _by_id(tokenizers[0])
    shared = len(first)
    for tokenizer, name in zip(tokenizers[1:], names[1:], strict=True):
        other = _by_id(tokenizer)
        shared = min(shared, len(other))
        for number in range(shared):
            if first.get(number) != other.get(number):
                raise ValueError(
                    f"same_vocabulary: token {number} is {first.get(number)!r} in {names[0]!r} and {other.get(number)!r} in "
                    f"{name!r}; only specialists of one tokenizer can be fused: take others, or tune them from one base"
                )
        cut = [t(_PROBE, add_special_tokens=False, verbose=False)["input_ids"] for t in (tokenizers[0], tokenizer)]
        if cut[0] != cut[1]:
            at = common_length(*cut)
            here, there = (_shown(t, ids, at) for t, ids in zip((tokenizers[0], tokenizer), cut, strict=True))
            raise ValueError(
                f"same_vocabulary: {names[0]!r} and {name!r} have the same tokens but cut text differently, first at {here} "
                f"and {there}; only specialists of one tokenizer can be fused: take others, or tune them from one base"
            )
    return shared


def _by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], at: int) -> str:
    return repr(tokenizer.convert_ids_to_tokens(ids[at])) if at < len(ids) else "the end"
