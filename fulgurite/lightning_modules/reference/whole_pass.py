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
from fulgurite.lightning_modules.processes.sharding import computed_with
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
        known = _load(trainer, path, fingerprint, must_be_there=file is not None)
        # Disks may be a node's own: each process says what it has, and all go the same way, because a pass ends with a gathering.
        complete = known is not None and known.has(batch["key"] for loader in loaders for batch in loader)
        if all(_of_all(trainer, complete)):
            assert known is not None
            rank_zero_info(f"reference log-probabilities of {len(known)} completions: {path}")
            return known
        if file is not None:
            raise ValueError(
                f"{reference.owner}: {path} lacks completions of this data, because it was made with other rows, another template "
                "or another tokenizer; leave reference_cache out to have it made"
            )
        keys, values = _run(log_probs, network, trainer, loaders)
    before = (keys[:0], values[:0]) if known is None else (known.keys, known.values)
    cache = ReferenceCache(torch.cat([before[0], keys]), torch.cat([before[1], values]), fingerprint)
    if trainer.local_rank == 0:  # once on every machine: the folder need not be a shared one
        cache.save(path)
    rank_zero_info(f"reference log-probabilities of {len(keys.unique())} completions computed, {len(cache)} in {path}")
    return cache


def _salt(dtype: str, precision: str) -> str:
    """What decides the reference's outputs beside its weights."""
    return dtype if precision == "32-true" else f"{dtype} {precision}"


def _path(data: Any, fingerprint: str) -> Path:
    name = hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
    return Path(data.cache_dir) / "reference" / f"{name}.safetensors"


def _load(trainer: Any, path: Path, fingerprint: str, must_be_there: bool) -> ReferenceCache | None:
    """The file's log-probabilities on this process; None where there is no file. An error of one process stops all of them."""
    known: ReferenceCache | None = None
    error: Exception | None = None
    if must_be_there or path.is_file():
        try:
            known = ReferenceCache.load(path, fingerprint)
        except (OSError, ValueError) as caught:
            error = caught
    said = _of_all(trainer, None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if any(said):
        raise ValueError(f"the reference cache of another process cannot be read: {next(filter(None, said))}")
    return known


def _of_all(trainer: Any, mine: Any) -> list[Any]:
    """What every process has to say, in the order of their ranks."""
    if trainer.world_size == 1:
        return [mine]
    answers: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(answers, mine)
    return answers


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
                values.append(computed_with(network, log_probs, moved).float().cpu())
    mine = (torch.cat(keys), torch.cat(values))
    parts = _of_all(trainer, mine)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _shown(trainer: Any, batches: Iterator[Any], count: int) -> Any:
    if trainer.progress_bar_callback is None or not trainer.is_global_zero:
        return batches
    from tqdm import tqdm

    return tqdm(batches, total=count, desc="reference log-probabilities", unit=" batches", leave=False, delay=2.0)
