"""What cannot train on shards is refused by name before anything is loaded, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from fulgurite.adapters import AdapterConfig
from fulgurite.adapters.methods import UNPROVED, method_of

__all__ = ["refuse_on_shards"]


class Trains(Protocol):
    """What is asked of a module."""

    whole_because: str | None
    task: str
    adapter_config: AdapterConfig | None
    dtype_name: str
    quantize: str | None
    vocabulary: Any


def refuse_on_shards(module: Trains, data: Any, precision: str) -> None:
    """Refuse a module, its options or its data where a network that is cut into shards would compute something else, or hang.

    Args:
        module: that is about to train.
        data: the datamodule, or None.
        precision: the trainer's.

    Raises:
        ValueError: what was given, and why it needs the whole network on each process.
    """
    for what, reason in _reasons(module, data, precision):
        if reason is not None:
            raise ValueError(
                f"{type(module).__name__}: {what} was given with the strategy fsdp2, which cuts the network into shards: {reason}; "
                "change that, or give --trainer.strategy ddp or one device"
            )


def _reasons(module: Trains, data: Any, precision: str) -> Iterator[tuple[str, str | None]]:
    """What was given, and why it cannot be; None where it can."""
    adapter = module.adapter_config
    yield "this module", module.whole_because
    if module.task == "seq2seq":
        yield "an encoder-decoder", UNPROVED
    if module.quantize is not None:
        yield f"quantize={module.quantize}", "packed weights cannot be cut"
    if module.vocabulary.mode is not None:
        yield "resize_embeddings", "the new rows lie in the embedding, which is cut"
    if adapter is not None:
        yield f"the adapter {type(adapter).__name__}", method_of(adapter).whole_because
    elif module.dtype_name != "float32":
        yield f"dtype={module.dtype_name} without an adapter", "float32 masters are rounded over whole weights"
    if precision not in (("32-true",) if adapter is None else ("32-true", "bf16-mixed")):
        yield f"precision {precision}", "allowed are 32-true, and with an adapter bf16-mixed"
    if hasattr(data, "choices"):
        yield (
            type(data).__name__,
            "its validation answers row by row, for which each process takes another number of steps",
        )
