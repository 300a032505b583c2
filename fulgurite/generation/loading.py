"""A language model with its adapter, and the chat template and conditions that belong to both, ready to generate."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.adapters.loading import load_adapter
from fulgurite.data.conditions.objectives import CONDITION_FILE, Objectives
from fulgurite.data.encoding.templates import apply_template
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone, same_backbone
from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import is_emulator, load_emulator
from fulgurite.models.gguf import read_config
from fulgurite.models.loading import check_folder
from fulgurite.models.sizes import check_vocabulary, vocabulary_of
from fulgurite.models.weight_files import check_peft_file, check_peft_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LoadedModel", "load_for_generation"]

_log = logging.getLogger(__name__)

_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate; unpacks into model and tokenizer, as generate_text takes them.

    Attributes:
        model: in evaluation mode.
        tokenizer: with the chat template that belongs to the model, if there is one.
        conditions: the objectives that it was trained to be controlled by, if there are any.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    conditions: Objectives | None = None

    def __iter__(self) -> Iterator[Any]:
        """The model, then the tokenizer."""
        return iter((self.model, self.tokenizer))


def load_for_generation(
    model: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> LoadedModel:
    """A language model with its adapter, ready for generate_text.

    Args:
        model: hub id, folder, or a playground name; None takes the base that a PEFT folder names.
        adapter: folder that adapter.save() or PEFT wrote. A tokenizer or chat_template.jinja in it goes before the model's.
        template: chat template, as in apply_template; None takes the stored one and lays none where there is none.
        dtype: dtype of the weights, such as "float32" or "bfloat16".
        device: where the model goes, such as "cpu" or "cuda".

    Raises:
        FileNotFoundError, ValueError: a model or adapter that is not there, or that does not generate text.
    """
    peft = _peft_base(adapter)
    name = model or peft
    if name is None:
        raise ValueError(
            "load_for_generation: no model was given, and the adapter names none; give the base that it was trained on"
        )
    base = resolve_backbone(name)
    if adapter is not None and peft and model is not None:
        _tell_other_base(adapter, peft, model)
    if is_emulator(base):
        network: nn.Module = load_emulator(base, dtype).model
    else:
        network = _language_model(name, base, dtype)
    known = vocabulary_of(network)
    if adapter is not None and peft is not None:
        network = _with_peft(network, adapter, name)
    elif adapter is not None:
        load_adapter(network, adapter)
    tokenizer = _tokenizer(name, adapter)
    check_vocabulary("load_for_generation", known, tokenizer, name)
    if template is not None:
        apply_template(tokenizer, template)
    return LoadedModel(network.to(device).eval(), tokenizer, _conditions(adapter) or _conditions(name))


def _tell_other_base(adapter: str, trained: str, model: str) -> None:
    """Says that an adapter goes onto another base than the one it names: of the same shape it fits without a word."""
    if not same_backbone(trained, model):
        _log.warning("the adapter %s names the base %s, and is put onto %s as --model says", adapter, trained, model)


def _language_model(name: str, base: str, dtype: str) -> nn.Module:
    check_folder(base)
    loaded = load_backbone(base, _task(base), dtype=dtype)
    if loaded.new_heads:
        raise ValueError(
            f"load_for_generation: the weights of {name!r} hold no {', '.join(loaded.new_heads)}, so that it cannot write text; "
            "give a language model"
        )
    return loaded.model


def _peft_base(adapter: str | None) -> str | None:
    """The base that a PEFT folder names ("" where it names none); None where the folder is not PEFT's."""
    file = Path(adapter) / "adapter_config.json" if adapter is not None else None
    if file is None or not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"load_for_generation: {file} is not PEFT's configuration ({error}); save it again") from error


def _task(base: str) -> str:
    try:
        config = read_config(base)
    except (OSError, ValueError):
        return "causal_lm"  # load_backbone says what is wrong
    return "seq2seq" if config.is_encoder_decoder else "causal_lm"


def _with_peft(network: nn.Module, adapter: str, name: str) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"load_for_generation: {adapter} is a PEFT adapter; pip install peft to load it") from error
    check_peft_task(adapter, "load_for_generation")
    check_peft_file(adapter, "load_for_generation")
    try:
        loaded: nn.Module = PeftModel.from_pretrained(network, adapter)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:  # shapes that differ; layers that are not there
        trained = _peft_base(adapter)
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "size mismatch" in line), lines[0])[:200]
        raise ValueError(
            f"load_for_generation: the adapter {adapter} does not fit the model {name} ({reason}); give the model that it was "
            f"trained on{f', {trained}' if trained else ''}"
        ) from error
    return loaded


def _conditions(folder: str | None) -> Objectives | None:
    """The objectives that a folder of an adapter or a model came with."""
    file = Path(folder) / CONDITION_FILE if folder is not None else None
    if file is None or not file.is_file():
        return None
    try:
        return Objectives.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"load_for_generation: {file} is damaged ({error}); export the adapter again") from error


def _tokenizer(name: str, adapter: str | None) -> PreTrainedTokenizerBase:
    folder = Path(adapter) if adapter is not None else None
    own = folder is not None and (folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(str(folder) if own else name)
    if folder is not None and (folder / _TEMPLATE_FILE).is_file():
        apply_template(tokenizer, str(folder / _TEMPLATE_FILE))
    return tokenizer
