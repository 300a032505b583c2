"""The files of a pretrained model's weights: which they are, whether they are whole, and whether what they hold can be weights.

transformers loads a file with NaN or infinity, and casts integers to floats, without a word: such a model writes empty answers.
A file that was cut short ends in a traceback of the reader. Here each is one sentence that names file and tensor.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fulgurite.models.gguf_files import gguf_file

__all__ = [
    "WeightFiles",
    "check_finite",
    "check_peft_file",
    "check_peft_task",
    "check_tensor",
    "check_values",
    "first_not_finite",
    "not_found",
    "tensors_of",
    "unreachable",
    "weight_files",
]

# In the order in which transformers looks for them.
_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_POINTER = b"version https://git-lfs"
_AGAIN = "download or copy it again"
_WHOLE_NUMBERS = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})
_NAMES_OF = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip
_SUMMED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class WeightFiles(NamedTuple):
    """The files of a checkpoint's weights, and the type of each of its tensors in safetensors' words.

    Attributes:
        files: In the order of their names.
        types: By file and name of the tensor; of a PyTorch file in torch's words.
    """

    files: list[Path]
    types: dict[Path, dict[str, str]]

    @property
    def keys(self) -> set[str]:
        """The names of all tensors."""
        return {key for types in self.types.values() for key in types}


def weight_files(name: str, **options: Any) -> WeightFiles:
    """The files that transformers loads; no weights are read. Empty where there are none.

    Args:
        name: hub id or folder.
        options: of transformers' cached_file, such as local_files_only.

    Raises:
        FileNotFoundError: an index that names a file which is not there.
        ValueError: a file that is cut short, empty or a pointer of Git LFS; an index that does not fit its files.
    """
    from transformers.utils import cached_file

    if gguf_file(name) is not None:
        return WeightFiles([], {})  # its header is looked at elsewhere
    for wanted in _NAMES:
        try:
            found = cached_file(name, wanted, _raise_exceptions_for_missing_entries=False, **options)
        except unreachable():
            found = None
        if found is None:
            continue
        if wanted.endswith(".json"):
            return _indexed(name, Path(found), options)
        file = Path(found)
        return WeightFiles([file], {file: _types(file)})
    return WeightFiles([], {})  # whoever loads the weights says what is missing


def check_values(model: nn.Module, name: str, new: tuple[str, ...] = ()) -> None:
    """Refuses a model that has just been loaded if what its files hold cannot be weights.

    One pass over each parameter, without a copy of it.

    Args:
        model: as transformers loaded it.
        name: hub id or folder.
        new: modules that the files do not hold.

    Raises:
        ValueError: NaN, infinity, or whole numbers in place of a parameter's.
    """
    stored = weight_files(name, local_files_only=True)
    loaded = {key: p for key, p in model.named_parameters() if not any(key.startswith(f"{head}.") for head in new)}
    mine = {key: p for key, p in loaded.items() if p.is_floating_point()}
    if getattr(model.config, "quantization_config", None) is None:
        for file, types in stored.types.items():
            for key, kind in types.items():
                # Not every ".bias" is a parameter: GPT-2, GPT-NeoX and their kin stored causal masks as attn.bias.
                if kind in _WHOLE_NUMBERS and (key.endswith(".weight") or any(_same(key, own) for own in mine)):
                    raise _no_numbers(file, key, kind)
    for own, p in mine.items():
        if _finite(p):
            continue
        # Where transformers joins tensors (experts), the file has other names: then all of them are looked at.
        places = [(file, key) for file, types in stored.types.items() for key in types]
        for file, key in sorted(places, key=lambda place: not _same(place[1], own)):
            if (tensor := _tensor(file, key)).is_floating_point():
                check_tensor(file, key, tensor)
        raise ValueError(
            f"backbone: {own} of {name} does not fit into {str(p.dtype).removeprefix('torch.')} and became infinite; load it with "
            "dtype float32 or bfloat16"
        )


def check_tensor(file: Path, key: str, tensor: torch.Tensor, what: str = "backbone") -> None:
    """Refuses a tensor that cannot be a weight.

    Args:
        file: where it stands.
        key: its name there.
        tensor: its values.
        what: what the message begins with.

    Raises:
        ValueError: NaN, infinity or whole numbers.
    """
    if not tensor.is_floating_point():
        raise _no_numbers(file, key, str(tensor.dtype).removeprefix("torch."), what)
    if not _finite(tensor):
        raise ValueError(
            f"{what}: {file}: {key} holds NaN or infinity, so that the model would compute nothing of use; {_AGAIN}, or take an "
            "earlier version of it"
        )


def check_peft_task(folder: str | Path, what: str) -> None:
    """Refuses a PEFT adapter of a model that writes no text: its branches fit a language model, and its head would be left out.

    Args:
        folder: of the adapter; of a hub id nothing is looked at.
        what: what messages begin with.

    Raises:
        ValueError: it was trained for classes, tokens' classes, answers in a text, or features.
    """
    file = Path(folder) / "adapter_config.json"
    try:
        described = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        return  # PEFT says what is wrong with it
    task = described.get("task_type") if isinstance(described, dict) else None
    if task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"):
        raise ValueError(
            f"{what}: the PEFT adapter {folder} was trained for {task}, which writes no text; give one of a language model"
        )


def check_peft_file(folder: str | Path, what: str) -> None:
    """Refuses the weights in a folder of PEFT if they are cut short, or cannot be weights.

    Args:
        folder: of the adapter; of a hub id nothing is looked at.
        what: what messages begin with.

    Raises:
        ValueError: a file that is not whole; NaN, infinity or whole numbers.
    """
    for file in (Path(folder) / "adapter_model.safetensors", Path(folder) / "adapter_model.bin"):
        if file.is_file():
            _types(file, what)
            for key, tensor in tensors_of(file):
                if tensor.is_floating_point() or ".lora_" in key:  # other methods keep indices beside their weights
                    check_tensor(file, key, tensor, what)
            return


def check_finite(model: nn.Module) -> str | None:
    """The name of the first parameter that holds NaN or infinity; None where none does.

    Args:
        model: any module.
    """
    return first_not_finite(dict(model.named_parameters()))


def first_not_finite(tensors: Mapping[str, Any]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None where none does.

    Args:
        tensors: by name, as of a checkpoint; what is no tensor is not looked at.
    """
    return next((n for n, value in tensors.items() if isinstance(value, torch.Tensor) and not _finite(value)), None)


def unreachable() -> tuple[type[Exception], ...]:
    """What transformers and huggingface_hub raise for a name that is no folder and no model on the hub; versions differ."""
    from huggingface_hub.errors import HFValidationError

    return OSError, HFValidationError


def not_found(name: str, error: Exception) -> str:
    """What to say where transformers found no model.

    Args:
        name: hub id or folder.
        error: what it raised.
    """
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).is_dir():
        return f"backbone: the folder {name!r} holds no complete transformers model: {first}"
    return (
        f"backbone: {name!r} is neither a folder nor a model that can be reached on the hub ({first}). "
        "Give a folder with config.json and model.safetensors, a hub id, or 'playground'."
    )


def _indexed(name: str, index: Path, options: dict[str, Any]) -> WeightFiles:
    from transformers.utils import cached_file

    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"backbone: {index} is no index of weights ({error!r}); {_AGAIN}") from error
    types: dict[Path, dict[str, str]] = {}
    for shard in shards:
        try:
            found = cached_file(name, shard, **options)
        except unreachable():
            found = None
        if found is None:
            raise FileNotFoundError(
                f"backbone: {index} names the file {shard}, which is not there; download or copy the whole folder again"
            )
        file = Path(found)
        types[file] = _types(file)
        if absent := sorted(key for key, place in places.items() if place == shard and key not in types[file]):
            raise ValueError(
                f"backbone: {index} says that {absent[0]} stands in {shard}, which does not hold it; download or copy the whole "
                "folder again"
            )
    return WeightFiles(list(types), types)


def _types(file: Path, what: str = "backbone") -> dict[str, str]:
    """The type of each tensor; a ValueError where the file is not whole."""
    size = os.path.getsize(file)
    with file.open("rb") as stream:
        begin = stream.read(max(len(_POINTER), 8))
        if begin.startswith(_POINTER):
            raise ValueError(f"{what}: {file} is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
        if file.suffix != ".safetensors":
            return _pickled_types(file, size, what)
        length = int.from_bytes(begin[:8], "little")
        if size < 10 or length > size - 8:
            raise ValueError(
                f"{what}: {file} is not a whole safetensors file, its {size:,} bytes end too soon; {_AGAIN}"
            )
        stream.seek(8)
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
            types = {key: str(entry["dtype"]) for key, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{what}: {file} is no safetensors file ({error}); {_AGAIN}") from error
    if end != size:
        raise ValueError(f"{what}: {file} is not whole: it has {size:,} bytes, and its header names {end:,}; {_AGAIN}")
    return types


def _pickled_types(file: Path, size: int, what: str) -> dict[str, str]:
    with file.open("rb") as stream:
        packed = stream.read(2) == b"PK"
    if size == 0 or (packed and not zipfile.is_zipfile(file)):
        raise ValueError(f"{what}: {file} is not a whole file of weights, its {size:,} bytes end too soon; {_AGAIN}")
    try:
        tensors = torch.load(file, map_location="meta", weights_only=True)
        pairs = [(str(key), value) for key, value in tensors.items() if isinstance(value, torch.Tensor)]
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise ValueError(f"{what}: {file} cannot be read as weights ({first}); {_AGAIN}") from error
    return {key: _NAMES_OF.get(value.dtype, str(value.dtype)) for key, value in pairs}


def _tensor(file: Path, key: str) -> torch.Tensor:
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(key)
            return tensor
    loaded: torch.Tensor = torch.load(file, map_location="cpu", weights_only=True, mmap=True)[key]
    return loaded


def tensors_of(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file with their names.

    Args:
        file: of :func:`weight_files`.
    """
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        yield from load_file(file).items()
        return
    yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


def _finite(tensor: torch.Tensor) -> bool:
    """A sum is NaN or infinite where one of its terms is; it may overflow by itself, so that it alone proves nothing."""
    if tensor.is_meta or tensor.dtype not in _SUMMED or bool(torch.isfinite(tensor.detach().sum())):
        return True
    return bool(torch.isfinite(tensor.detach()).all())


def _same(key: str, own: str) -> bool:
    """Whether a file's name may be a parameter's: heads and wrappers put a prefix before one or the other."""
    return key == own or key.endswith(f".{own}") or own.endswith(f".{key}")


def _no_numbers(file: Path, key: str, kind: str, what: str = "backbone") -> ValueError:
    return ValueError(
        f"{what}: {file}: {key} is of type {kind}; weights are floating-point numbers, so that this file is not what the model "
        f"needs; {_AGAIN}, or take the model in its original precision"
    )
