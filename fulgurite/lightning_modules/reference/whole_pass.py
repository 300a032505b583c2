"""The pass of the reference over all rows before the first step, and the file that remembers its log-probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fulgurite.lightning_modules.objectives.step import Batch
from fulgurite.lightning_modules.reference.cache import ReferenceCache, weights_fingerprint
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.models.modes import evaluation_mode

__all__ = ["cached_reference"]

LogProbs = Callable[[nn.Module, Batch], torch.Tensor]


def cached_reference(
    reference: Reference, policy: nn.Module, log_probs: LogProbs, trainer: Any, file: str | None = None
) -> ReferenceCache | None:
    """Log-probabilities of every completion of the training and validation rows; None if the data cannot list its rows.

    Args:
        reference: whose log-probabilities are wanted.
        policy: the network that is about to be trained.
        log_probs: of a network and a batch, (C,).
        trainer: Lightning's, at the start of a fit.
        file: where the log-probabilities lie; None takes a file in the datamodule's cache folder, which is made if need be.

    Raises:
        ValueError: the given file is of other weights, or lacks completions of this data.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if data is None or not hasattr(data, "fixed_order_dataloader"):
        rank_zero_info("the data cannot list its rows beforehand: the reference runs in every step")
        return None
    loaders = [data.fixed_order_dataloader(split) for split in ("train", "val")]
    loaders = [loader for loader in loaders if loader is not None]
    with reference.network(policy, keep=False) as network:
        fingerprint = weights_fingerprint(network, _salt(reference.dtype_name, str(trainer.precision)))
        path = _path(data, fingerprint) if file is None else Path(file)
        known: ReferenceCache | None = None
        if file is not None or path.is_file():
            known = ReferenceCache.load(path, fingerprint)
            if _everywhere(trainer, known.has(batch["key"] for loader in loaders for batch in loader)):
                rank_zero_info(f"reference log-probabilities of {len(known)} completions: {path}")
                return known
            if file is not None:
                raise ValueError(
                    f"{reference.owner}: {path} lacks completions of this data; it was made with other rows, another template or "
                    "another tokenizer; leave reference_cache out to have one made"
                )
        keys, values = _run(log_probs, network, trainer, loaders)
    before = (keys[:0], values[:0]) if known is None else (known.keys, known.values)
    cache = ReferenceCache(torch.cat([before[0], keys]), torch.cat([before[1], values]), fingerprint)
    if trainer.is_global_zero:
        cache.save(path)
    rank_zero_info(f"reference log-probabilities of {len(keys.unique())} completions computed, {len(cache)} in {path}")
    return cache


def _salt(dtype: str, precision: str) -> str:
    """What decides the reference's outputs beside its weights."""
    return dtype if precision == "32-true" else f"{dtype} {precision}"


def _path(data: Any, fingerprint: str) -> Path:
    name = hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
    return Path(data.cache_dir) / "reference" / f"{name}.safetensors"


def _everywhere(trainer: Any, mine: bool) -> bool:
    """Whether it is so on every rank; all must go the same way, because the pass ends with a gathering."""
    if trainer.world_size == 1:
        return mine
    answers: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(answers, mine)
    return all(answers)


@torch.no_grad()
def _run(
    log_probs: LogProbs, network: nn.Module, trainer: Any, loaders: list[Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (N,) int64 and values (N,) float32 of this run's rows, over all ranks, on the CPU."""
    keys: list[torch.Tensor] = [torch.zeros(0, dtype=torch.int64)]
    values: list[torch.Tensor] = [torch.zeros(0)]
    batches = sum(len(loader) for loader in loaders)
    device = next(network.parameters()).device
    with evaluation_mode(network):
        for batch in _shown(trainer, (b for loader in loaders for b in loader), batches):
            moved = trainer.strategy.batch_to_device(batch, device)
            keys.append(batch["key"].cpu())
            with trainer.precision_plugin.forward_context():  # as the policy's steps
                values.append(log_probs(network, moved).float().cpu())
    mine = (torch.cat(keys), torch.cat(values))
    if trainer.world_size == 1:
        return mine
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _shown(trainer: Any, batches: Iterator[Any], count: int) -> Any:
    if trainer.progress_bar_callback is None or not trainer.is_global_zero:
        return batches
    from tqdm import tqdm

    return tqdm(batches, total=count, desc="reference log-probabilities", unit=" batches", leave=False, delay=2.0)
