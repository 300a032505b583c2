"""Reference log-probabilities that are computed once, kept on disk, and looked up in every later step and run.

A completion is identified by its `key`, a 63-bit hash of all token ids on its path: another template, tokenizer or row gives
another key. The file also names the weights that computed the figures. A file of other weights is refused, never silently used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
import xxhash
from torch import nn

from fulgurite.adapters import find_adapters
from fulgurite.data.rows.checksums import read_checked, write_checked
from fulgurite.lightning_modules.processes.sharding import whole
from fulgurite.whole_files import whole_file

__all__ = ["ReferenceCache", "same_weights", "weights_fingerprint"]

_SAMPLED = 257
_SAMPLED_DIGITS = 64  # of a sha256, against 32 of today's hash


def weights_fingerprint(model: nn.Module, salt: str = "") -> str:
    """A hash of every byte of the base's parameters and buffers, with their names, shapes and dtypes.

    One changed element changes it. Adapters' own tensors are left out. It is xxhash's 128 bits: the purpose is to notice other
    weights, not to withstand an attacker. 1 GB took 0.6 s on one busy core.

    Args:
        model: the reference model.
        salt: whatever else decides its outputs.
    """
    digest = xxhash.xxh3_128(salt.encode())
    # By identity: a base may have modules of its own that are called branches.
    branches = [branch for adapter in find_adapters(model) for branch in adapter.branches.values()]
    own = {id(tensor) for branch in branches for tensor in (*branch.parameters(), *branch.buffers())}
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda pair: pair[0]):
        if id(tensor) in own:
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(whole(tensor).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def same_weights(model: nn.Module, stored: str) -> bool:
    """Whether the model holds the weights of a stored fingerprint, by the rule that the fingerprint was made with.

    Args:
        model: as it would be hashed now.
        stored: of today, or of an earlier version, which looked at 257 evenly spaced elements of every tensor.
    """
    if len(stored) != _SAMPLED_DIGITS:
        return stored == weights_fingerprint(model)
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if ".branches." not in name:
            flat = parameter.detach().flatten()
            count = min(_SAMPLED, len(flat))
            picked = flat[torch.arange(count) * (len(flat) - 1) // max(count - 1, 1)]
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            digest.update(picked.float().cpu().numpy().tobytes())
    return stored == digest.hexdigest()


class ReferenceCache:
    """Log-probabilities by key.

    Args:
        keys: (N,) int64, any order; equal keys are one completion.
        values: (N,) float32.
        fingerprint: of the weights, see :func:`weights_fingerprint`.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, fingerprint: str) -> None:
        order = keys.argsort()
        keys, values = keys[order], values[order].float()
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        self.keys, self.values, self.fingerprint = keys[first], values[first], fingerprint

    def __len__(self) -> int:
        return len(self.keys)

    def look_up(self, keys: torch.Tensor) -> torch.Tensor | None:
        """(C,) float32 on the device of ``keys``; None if one of them is not here."""
        if not len(self.keys):
            return None
        wanted = keys.cpu()
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        if not bool((self.keys[place] == wanted).all()):
            return None
        return self.values[place].to(keys.device)

    def has(self, keys: Iterable[torch.Tensor]) -> bool:
        """Whether every key of these tensors is here."""
        return all(self.look_up(part) is not None for part in keys if len(part))

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        with whole_file(path) as scratch:
            write_checked({"keys": self.keys, "values": self.values}, scratch, {"weights": self.fingerprint})

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> ReferenceCache:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            fingerprint: of the reference's weights now.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, changed since it was written, or of other weights.
        """
        from safetensors import SafetensorError

        if not path.is_file():
            raise FileNotFoundError(f"ReferenceCache: {path}: no such file; leave reference_cache out to have it made")
        try:
            tensors, metadata = read_checked(path)
            keys, values, found = tensors["keys"], tensors["values"], metadata.get("weights", "")
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"ReferenceCache: {path} is damaged ({error}); delete it to have it made anew") from error
        if len(found) == _SAMPLED_DIGITS:
            raise ValueError(
                f"ReferenceCache: {path} was written by an earlier version, which looked at a sample of the weights only: it "
                "may belong to other weights; delete it to have it made anew"
            )
        if found != fingerprint:
            raise ValueError(
                f"ReferenceCache: {path} holds log-probabilities of other weights ({found[:12] or 'unnamed'}) than those of this "
                f"reference ({fingerprint[:12]}); delete it, or give the model it was made with"
            )
        return cls(keys, values, found)
