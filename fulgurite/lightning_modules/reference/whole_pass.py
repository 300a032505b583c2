"""The pass of the reference over all rows before the first step, and the file that remembers it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from fulgurite.lightning_modules.reference.cache import ReferenceCache, weights_fingerprint

if TYPE_CHECKING:
    from fulgurite.lightning_modules.finetune import FinetuneModule
    from fulgurite.lightning_modules.objectives.preference import PreferenceObjective

__all__ = ["cached_reference"]


def cached_reference(objective: PreferenceObjective) -> ReferenceCache | None:
    """Log-probabilities of every completion of the training and validation rows; None if the data cannot list its rows.

    Args:
        objective: of a module inside its trainer, at the start of a fit.

    Raises:
        ValueError: the given file is of other weights, or lacks completions of this data.
    """
    module = objective.module
    data: Any = getattr(module.trainer, "datamodule", None)
    if data is None or not hasattr(data, "fixed_order_dataloader"):
        rank_zero_info("the data cannot list its rows beforehand: the reference runs in every step")
        return None
    loaders = [data.fixed_order_dataloader(split) for split in ("train", "val")]
    loaders = [loader for loader in loaders if loader is not None]
    with _reference(objective) as (network, fingerprint):
        path = _path(objective, data, fingerprint)
        known: ReferenceCache | None = None
        if objective.cache_file is not None or path.is_file():
            known = ReferenceCache.load(path, fingerprint)
            if _everywhere(module, known.has(batch["key"] for loader in loaders for batch in loader)):
                rank_zero_info(f"reference log-probabilities of {len(known)} completions: {path}")
                return known
            if objective.cache_file is not None:
                raise ValueError(
                    f"{type(module).__name__}: {path} lacks completions of this data; it was made with other rows, another "
                    "template or another tokenizer; leave reference_cache out to have one made"
                )
        keys, values = _run(objective, network, loaders)
    before = (keys[:0], values[:0]) if known is None else (known.keys, known.values)
    cache = ReferenceCache(torch.cat([before[0], keys]), torch.cat([before[1], values]), fingerprint)
    if module.trainer.is_global_zero:
        cache.save(path)
    rank_zero_info(f"reference log-probabilities of {len(keys.unique())} completions computed, {len(cache)} in {path}")
    return cache


@contextlib.contextmanager
def _reference(objective: PreferenceObjective) -> Iterator[tuple[torch.nn.Module, str]]:
    """The reference network, ready to be asked, and its fingerprint; a second copy is dropped afterwards."""
    module = objective.module
    precision = str(module.trainer.precision)
    salt = str(module.dtype_name) if precision == "32-true" else f"{module.dtype_name} {precision}"
    if module.adapter is not None and objective.reference_model is None:
        network = module._network()
        with module.adapter.disabled():
            yield network, weights_fingerprint(network, salt)
        return
    second = objective.load_reference()
    yield second, weights_fingerprint(second, salt)
    del second


def _path(objective: PreferenceObjective, data: Any, fingerprint: str) -> Path:
    if objective.cache_file is not None:
        return Path(objective.cache_file)
    name = hashlib.sha256(f"{fingerprint}".encode()).hexdigest()[:32]
    return Path(data.cache_dir) / "reference" / f"{name}.safetensors"


def _everywhere(module: FinetuneModule, mine: bool) -> bool:
    """Whether it is so on every rank; all must go the same way, because the pass ends with a gathering."""
    if module.trainer.world_size == 1:
        return mine
    answers: list[Any] = [None] * module.trainer.world_size
    torch.distributed.all_gather_object(answers, mine)
    return all(answers)


@torch.no_grad()
def _run(
    objective: PreferenceObjective, network: torch.nn.Module, loaders: list[Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (N,) int64 and values (N,) float32 of this run's rows, over all ranks, on the CPU."""
    module = objective.module
    keys: list[torch.Tensor] = [torch.zeros(0, dtype=torch.int64)]
    values: list[torch.Tensor] = [torch.zeros(0)]
    batches = sum(len(loader) for loader in loaders)
    training = network.training
    network.eval()
    try:
        for batch in _shown(module, (b for loader in loaders for b in loader), batches):
            moved = module.trainer.strategy.batch_to_device(batch, module.device)
            keys.append(batch["key"].cpu())
            with module.trainer.precision_plugin.forward_context():  # as the policy's steps
                values.append(objective.log_probs(network, moved).float().cpu())
    finally:
        network.train(training)
    mine = (torch.cat(keys), torch.cat(values))
    if module.trainer.world_size == 1:
        return mine
    parts: list[Any] = [None] * module.trainer.world_size
    torch.distributed.all_gather_object(parts, mine)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _shown(module: FinetuneModule, batches: Iterator[Any], count: int) -> Any:
    if module.trainer.progress_bar_callback is None or not module.trainer.is_global_zero:
        return batches
    from tqdm import tqdm

    return tqdm(batches, total=count, desc="reference log-probabilities", unit=" batches", leave=False, delay=2.0)
