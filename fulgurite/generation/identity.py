"""What answers of a model in this process depend on, as plain data: model, revision, weights, adapters, template, versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulgurite.adapters.attaching import find_adapters
from fulgurite.adapters.config import config_to_dict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["folder_hash", "identify"]

_ELEMENTS = 256  # of each tensor of the base


def identify(model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Plain data for JSON.

    Args:
        model: a transformers model, with adapters of ours or of PEFT; or a fused network.
        tokenizer: with its chat template.

    Returns:
        ``model``: the name that it was loaded by; ``revision``: the hub's commit, None for a folder; ``weights``: a hash of up to
        256 evenly spaced numbers of each tensor (a training moves nearly all numbers, and hashing all of them takes minutes);
        ``adapter``: a hash of all the active adapters' numbers and their configuration, None without one; ``template``: a hash of
        the chat template, None without one; ``dtype``; ``torch`` and ``transformers``: versions.
    """
    import transformers

    config = model.config
    return {
        "model": str(getattr(config, "_name_or_path", "") or type(model).__name__),
        "revision": getattr(config, "_commit_hash", None),
        "weights": _sampled(model),
        "adapter": _adapter(model),
        "template": _of_text(tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def folder_hash(folder: Path) -> str | None:
    """A hash of an adapter's folder: the names and contents of its files; None where it is not on this machine.

    Args:
        folder: that adapter.export_peft() or PEFT wrote.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")):
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _sampled(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // _ELEMENTS)
        digest.update(_bytes(flat[::step]))
    return digest.hexdigest()


def _adapter(model: Any) -> str | None:
    """A hash of what adapters add to the base."""
    digest = hashlib.blake2b(digest_size=16)
    found = False
    for adapter in find_adapters(model):
        if adapter.name not in adapter.site.active:
            continue
        found = True
        digest.update(json.dumps([adapter.name, config_to_dict(adapter.config)], sort_keys=True, default=str).encode())
        _add(digest, adapter.stored_tensors().items())
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        active = model.active_adapter
        for name in [active] if isinstance(active, str) else active:
            found = True
            settings = {
                key: value for key, value in model.peft_config[name].to_dict().items() if key != "inference_mode"
            }
            digest.update(json.dumps(settings, sort_keys=True, default=sorted).encode())
            _add(digest, get_peft_model_state_dict(model, adapter_name=name).items())
    return digest.hexdigest() if found else None


def _add(digest: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in sorted(tensors):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.detach()))


def _bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes; NumPy has no bfloat16."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _of_text(text: str | None) -> str | None:
    return None if text is None else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
