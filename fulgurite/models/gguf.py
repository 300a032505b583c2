"""Backbones in a GGUF file: configuration, weights in full, and what transformers' reader leaves out of both.

transformers makes a configuration from the file's keys that it knows and drops the other ones without a word, scaled rotary
positions among them: Llama 3's lie in the tensor ``rope_freqs.weight``, those of other models in the keys ``rope.scaling.*``. What
can be told is put into the configuration, what cannot is refused. So is a file with weights for which the model has no place.
"""

from __future__ import annotations

import copy
import functools
import logging
from pathlib import Path
from typing import Any

import torch

from fulgurite.models.gguf_files import GGUFHeader, gguf_file, gguf_source, read_header

__all__ = ["dequantised", "gguf_config", "read_config"]

_ROPE = "rope_freqs.weight"
# Llama 3.1 and 3.3 stretch their positions by 8, Llama 3.2 by 32; the rest is the same in all of them.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_FACTORS = (8.0, 32.0, 16.0, 4.0, 2.0)
_log = logging.getLogger(__name__)


def read_config(name: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """The configuration of a backbone, of whichever format.

    Args:
        name: hub id, folder, or a GGUF file.
        trust_remote_code: run configuration code from the checkpoint's repository.
        options: entries that replace the configuration's, such as num_labels.

    Raises:
        OSError, ValueError: as transformers raises them; for a GGUF file as :func:`gguf_config` does.
    """
    from transformers import AutoConfig

    file = gguf_file(name)
    if file is None:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    config = gguf_config(file)
    for key, value in options.items():
        setattr(config, key, value)
    return config


def gguf_config(file: Path) -> Any:
    """The configuration that a GGUF file describes, with its rotary positions.

    Args:
        file: as :func:`fulgurite.models.gguf_files.gguf_file` gives it.

    Raises:
        ValueError: the file is not whole, of an architecture that transformers does not read, or its positions are stretched in a
            way that cannot be told.
        ImportError: the package gguf is not installed.
    """
    return copy.deepcopy(_config(read_header(file).file, file.stat().st_mtime_ns))


def dequantised(model: Any, file: Path, new: tuple[str, ...]) -> None:
    """Make a model that was just loaded from a GGUF file a plain one, after a look at whether all of the file is in it.

    Args:
        model: as transformers loaded it.
        file: it was loaded from.
        new: modules that the file does not hold.

    Raises:
        ValueError: the file holds weights that the model has no place for.
    """
    header = read_header(file)
    left_out = {_ROPE}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        left_out.add("output.weight")  # a classifier or reward model has no use for it
    stored = sum(scalars for name, (_, scalars) in header.tensors.items() if name not in left_out)
    held = sum(
        p.numel() for key, p in model.named_parameters() if not any(key.startswith(f"{place}.") for place in new)
    )
    buffers = sum(b.numel() for name, b in model.named_buffers() if name in model.state_dict())
    if stored > held + buffers:
        raise ValueError(
            f"backbone: {file} holds {stored:,} numbers, and transformers' {type(model).__name__} has places for {held:,}: it "
            "would compute something else than the file's model; take the model's original weights"
        )
    for entry in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, entry):
            delattr(model.config, entry)
    model.config.name_or_path = str(file)  # transformers writes the folder's, in which other models may lie
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model, "quantization_method"):
        del model.quantization_method
    _tell(str(file), header.stored_as, len(header.tensors), str(next(model.parameters()).dtype).removeprefix("torch."))


@functools.cache
def _tell(*what: Any) -> None:
    """Said once in a process, however often the file is loaded."""
    _log.warning(
        "%s is a GGUF file, stored mostly as %s: its %d tensors are held in full, as %s, and its own tokenizer and chat template "
        "are used",
        *what,
    )


@functools.lru_cache(maxsize=4)
def _config(file: Path, _: int) -> Any:
    from transformers import AutoConfig

    folder, options = gguf_source(str(file))
    header = read_header(file)
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"backbone: {file} is of the architecture {header.architecture!r}, which this version of transformers does not read "
            f"from GGUF ({str(error).splitlines()[0] if str(error) else type(error).__name__}); take the model's original weights"
        ) from error
    scaling = _scaling(config, header)
    if scaling is not None:
        _set_scaling(config, scaling)
    return config


def _scaling(config: Any, header: GGUFHeader) -> dict[str, Any] | None:
    """How the rotary positions are stretched, in transformers' words; None where they are not, or transformers has read it."""
    known = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if _ROPE in header.tensors:
        return _llama3(config, header)
    kind = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    if kind == "none" or known.get("rope_type", "default") != "default":
        return None
    factor = header.values.get(f"{header.architecture}.rope.scaling.factor")
    if kind in ("linear", "yarn") and isinstance(factor, float):
        original = header.values.get(f"{header.architecture}.rope.scaling.original_context_length")
        extra = {} if original is None else {"original_max_position_embeddings": original}
        return {"rope_type": kind, "factor": factor, **extra}
    raise ValueError(
        f"backbone: {header.file} stretches its positions by {kind!r}, which transformers does not read from GGUF; take the "
        "model's original weights"
    )


def _llama3(config: Any, header: GGUFHeader) -> dict[str, Any]:
    """Llama 3's stretch, known by the factors that llama.cpp stores of it."""
    kind, count = header.tensors[_ROPE]
    if kind == "F32":
        with header.file.open("rb") as stream:
            stream.seek(header.offsets[_ROPE])
            stored = torch.frombuffer(bytearray(stream.read(4 * count)), dtype=torch.float32)
        plain = _frequencies(config)
        for factor in _FACTORS:
            found = {"rope_type": "llama3", "factor": factor, **_LLAMA3}
            stretched = copy.deepcopy(config)
            _set_scaling(stretched, found)
            if plain.shape == stored.shape and torch.allclose(plain / _frequencies(stretched), stored, rtol=1e-3):
                return found
    raise ValueError(
        f"backbone: {header.file} stretches its positions by factors ({_ROPE}) that are not Llama 3's, which transformers does not "
        "read from GGUF; take the model's original weights"
    )


def _set_scaling(config: Any, scaling: dict[str, Any]) -> None:
    if isinstance(getattr(config, "rope_parameters", None), dict):  # transformers 5
        config.rope_parameters = {**config.rope_parameters, **scaling}
    else:
        config.rope_scaling = scaling


def _frequencies(config: Any) -> torch.Tensor:
    """The inverse frequencies that a model of this configuration computes with."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = settings.get("rope_type", "default")
    if kind != "default":
        frequencies: torch.Tensor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))[0]
        return frequencies
    base = settings.get("rope_theta") or config.rope_theta
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size))
