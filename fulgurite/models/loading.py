"""Loading a pretrained backbone for a task, and naming the modules that the checkpoint did not contain."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from fulgurite.models.gguf import dequantised, read_config
from fulgurite.models.gguf_files import gguf_file, gguf_source
from fulgurite.models.padding import keep_padding_apart
from fulgurite.models.quantised import keep_plain, quantisation_options, stored_as
from fulgurite.models.weight_files import check_values, not_found, unreachable, weight_files

__all__ = ["TASKS", "Backbone", "load_backbone"]

TASKS = ("classification", "regression", "causal_lm", "seq2seq")
_AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
_log = logging.getLogger(__name__)


class Backbone(NamedTuple):
    """A loaded model and the qualified names of the modules that its checkpoint lacked (new heads, randomly initialised)."""

    model: nn.Module
    new_heads: tuple[str, ...]


def load_backbone(
    name: str,
    task: str,
    *,
    num_labels: int | None = None,
    dtype: str = "float32",
    quantize: str | None = None,
    from_scratch: bool = False,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a transformers model.

    Args:
        name: hub id, folder, or a GGUF file, whose weights are written out in full.
        task: one of ``TASKS``.
        num_labels: classes of a classification head; regression has one output.
        dtype: dtype of the weights, such as "float32" or "bfloat16"; never the checkpoint's own by accident.
        quantize: pack linear layers while they are loaded, by bitsandbytes: "nf4" or "int8".
        from_scratch: only read the configuration and draw random weights.
        trust_remote_code: run model code from the checkpoint's repository.

    Raises:
        ValueError: an unknown task or dtype, a missing num_labels, a checkpoint of another architecture, a base that cannot be
            quantised.
        FileNotFoundError: no such folder or hub id, or no network.
    """
    import transformers

    if task not in TASKS:
        raise ValueError(f"load_backbone: task={task!r}; allowed are {', '.join(map(repr, TASKS))}.")
    torch_dtype = dtype_of(dtype)
    if task == "classification" and (num_labels is None or num_labels < 2):
        raise ValueError(f"load_backbone: num_labels={num_labels}; classification needs at least 2 classes.")
    check_folder(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if task in ("classification", "regression"):
        options["num_labels"] = num_labels if task == "classification" else 1
    auto_class = getattr(transformers, _AUTO_CLASSES[task])
    if from_scratch:
        if quantize is not None:
            raise ValueError(
                "load_backbone: quantize and from_scratch were given; random weights are not quantised, leave one out."
            )
        try:
            config = read_config(name, **options)
        except unreachable() as error:
            raise FileNotFoundError(not_found(name, error)) from None
        loaded = Backbone(auto_class.from_config(config, trust_remote_code=trust_remote_code).to(torch_dtype), ())
    else:
        loaded = checkpoint_model(auto_class, name, dtype, quantize, **options)
    if task in ("classification", "regression"):
        keep_padding_apart(loaded.model)
    if loaded.new_heads:
        _log.info("%s: %s not in the checkpoint, initialised anew and trained", name, ", ".join(loaded.new_heads))
    return loaded


def checkpoint_model(auto_class: Any, name: str, dtype: str, quantize: str | None = None, **options: Any) -> Backbone:
    """A model of a class of transformers with a checkpoint's weights.

    Args:
        auto_class: such as transformers.AutoModel.
        name: hub id or folder.
        dtype: dtype of the weights.
        quantize: of :func:`load_backbone`.
        options: further options of ``from_pretrained``.

    Raises:
        ValueError: weights that are cut short, that lack the embedding or a part of the repeated layers, or that hold NaN,
            infinity or whole numbers.
        FileNotFoundError: no such folder or hub id; a file of the weights that is missing.
    """
    file = gguf_file(name)
    if file is not None:
        if quantize is not None:
            raise ValueError(
                f"backbone: {name} is a GGUF file, which is held in full and cannot be quantised while it is loaded; make a folder "
                "of it with `fulgurite convert`, and give that with quantize"
            )
        options = _gguf_options(name, **options)
    elif Path(name).is_dir():
        weight_files(name)  # of the hub, a download is whole or an error
    try:
        if quantize is not None:
            config = read_config(name, options.get("trust_remote_code", False))
            options |= quantisation_options(quantize, name, config, dtype_of(dtype))
        with quiet():
            model, info = auto_class.from_pretrained(
                gguf_source(name)[0],
                output_loading_info=True,
                ignore_mismatched_sizes=False,
                dtype=dtype_of(dtype),
                **options,
            )
    except unreachable() as error:
        raise FileNotFoundError(not_found(name, error)) from None
    except ImportError as error:
        if quantize is not None or (method := stored_as(name, options.get("trust_remote_code", False))) is None:
            raise
        raise ImportError(
            f"backbone: {name} is stored quantised ({method}), and what computes with it is not installed "
            f"({' '.join(str(error).split())[:200]}); install that, or take the base in full precision"
        ) from error
    except (SafetensorError, EOFError, UnpicklingError) as error:
        raise ValueError(
            f"backbone: the weights of {name} cannot be read ({error or type(error).__name__}); download or copy them again"
        ) from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        kind = read_config(name, options.get("trust_remote_code", False)).model_type
        raise ValueError(
            f"backbone: {name} is a {kind} model, which {auto_class.__name__} does not have; take another task or another backbone "
            "(encoder-decoders such as T5 are for seq2seq, decoders such as Llama for causal_lm)."
        ) from None
    heads = _modules_of(model, info["missing_keys"])
    _check_missing(model, heads, name)
    if file is not None:
        dequantised(model, file, heads)
    keep_plain(model)
    check_values(model, name, heads)
    return Backbone(model, heads)


def check_folder(name: str) -> None:
    """Refuse a folder that holds something else than a model: an adapter, of which only the base would be loaded, or a run.

    Args:
        name: hub id or folder.

    Raises:
        ValueError: an adapter's folder, or an emulator's with shared layers.
        FileNotFoundError: a folder without config.json.
    """
    place = Path(name)
    if gguf_file(name) is not None or not place.is_dir():
        return
    if (place / "adapter_config.json").is_file() or (place / "adapter.json").is_file():
        raise ValueError(
            f"backbone: the folder {name!r} holds an adapter, not a model. Give it as --adapter to a command that takes one, "
            "beside the model it was trained on; to go on from its weights give an export of --format merged."
        )
    if (place / "config.json").is_file():
        return
    if (place / "emulator.json").is_file():
        raise ValueError(
            f"backbone: the folder {name!r} holds an emulator with shared layers, which plain transformers cannot load; train it "
            "with OffsiteTuningModule, or give it to fulgurite generate and evaluate"
        )
    checkpoints = [*place.glob("checkpoints/last.ckpt"), *place.glob("last.ckpt"), *sorted(place.glob("*.ckpt"))]
    advice = "give a folder that save_pretrained or `fulgurite export --format merged` wrote"
    if checkpoints:
        advice = (
            f"give the checkpoint, {checkpoints[0]}, to a command that takes one, or export it with --format merged"
        )
    raise FileNotFoundError(f"backbone: the folder {name!r} holds no config.json, so that it is no model; {advice}")


def _gguf_options(name: str, trust_remote_code: bool = False, **options: Any) -> dict[str, Any]:
    """What ``from_pretrained`` takes for a GGUF file; entries of the configuration are put into it here."""
    import transformers

    _, source = gguf_source(name)
    whole = {"config": read_config(name, trust_remote_code, **options), **source}
    kept_packed = getattr(
        transformers, "GgufConfig", None
    )  # transformers 5.20 and later can leave weights in their blocks
    return whole if kept_packed is None else {**whole, "quantization_config": kept_packed(dequantize=True)}


def dtype_of(dtype: str) -> torch.dtype:
    """The floating-point dtype of this name."""
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"load_backbone: dtype={dtype!r}; allowed are 'float32', 'bfloat16' and 'float16'.")
    return found


def _modules_of(model: nn.Module, missing: Any) -> tuple[str, ...]:
    """Modules that own the missing keys. A tied or shared parameter that another key filled is not missing."""
    owners = dict.fromkeys(key.rpartition(".")[0] for key in sorted(missing))
    return tuple(owner for owner in owners if owner)


def _check_missing(model: nn.Module, heads: tuple[str, ...], name: str) -> None:
    """Part of the repeated layers is missing: the checkpoint is not of this architecture; training would start from noise."""
    inside = [head for head in heads if any(part.isdigit() for part in head.split("."))]
    if inside:
        raise ValueError(
            f"load_backbone: {name} lacks {len(inside)} modules inside the layers of {type(model).__name__}, the first is "
            f"{inside[0]}; its weights are of another architecture. Check config.json, or ask for from_scratch."
        )
    loaded: Any = model
    embedding = loaded.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    lost = [head for head in heads if embedding is not None and model.get_submodule(head) is embedding]
    if lost:
        raise ValueError(
            f"load_backbone: the weights of {name} hold no input embedding ({lost[0]}), which would be random; a file of the "
            "weights is missing, or they are of another architecture. Download or copy the folder again, or ask for from_scratch."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers warns at length about heads that are trained on purpose, and draws a bar per load; we report heads ourselves."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
