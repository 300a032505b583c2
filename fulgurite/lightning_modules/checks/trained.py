"""What a run says of itself before step 0: what is trained, and the memory that this takes beside weights and activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from fulgurite.adapters import Adapter
from fulgurite.adapters.counting import scalars_in
from fulgurite.optim.masters import needs_master

__all__ = ["memory_of", "refuse_untrained", "what_is_trained"]


def refuse_untrained(owner: str, trained: bool) -> None:
    """Refuse to test weights that nobody trained.

    Args:
        owner: class name of the module, for the message.
        trained: whether a checkpoint was loaded or something was fitted.

    Raises:
        RuntimeError: neither.
    """
    if not trained:
        raise RuntimeError(
            f"{owner}: test was called on untrained weights (no checkpoint was loaded and nothing was fitted). Give --ckpt_path "
            "with a checkpoint; to measure the untrained model use validate."
        )


def what_is_trained(
    network: nn.Module,
    adapter: Adapter | None,
    kept: Sequence[nn.Parameter] = (),
    part: str = "the whole network",
) -> str:
    """One line: trained and all scalars, where they are, and what gradients and optimizer take.

    Args:
        network: with its adapter.
        adapter: in it, or None.
        kept: float32 parameters that have masters, because autocast casts them.
        part: what is trained without an adapter.
    """
    total, trained = scalars_in(network), scalars_in(network, trained=True)
    what = part if adapter is None else f"{adapter.kind} on {len(adapter.layer_names)} layers"
    what += "" if adapter is None else "".join(f", {head}" for head in adapter.head_names)
    return (
        f"training {trained:,} of {total:,} parameters ({100 * trained / max(1, total):.2f} %): {what}; "
        f"{memory_of((p for p in network.parameters() if p.requires_grad), kept)}"
    )


def memory_of(parameters: Iterable[nn.Parameter], kept: Sequence[nn.Parameter] = ()) -> str:
    """Memory of gradients and ProximalAdamW's state in words.

    Args:
        parameters: that are trained.
        kept: those of them in float32 that have masters, because autocast casts them.
    """
    grads = state = 0
    cast, narrow = set(kept), set()
    for p in parameters:
        has_master = needs_master(p) or p in cast
        grads += p.numel() * p.element_size()
        # Two moments in float32, and a master beside them.
        state += p.numel() * (12 if has_master else 2 * p.element_size())
        if has_master:
            narrow.add("what autocast casts" if p in cast else f"what is in {str(p.dtype).removeprefix('torch.')}")
    masters = f", with float32 masters of {' and '.join(sorted(narrow))}" if narrow else ""
    return f"gradients {grads / 2**20:,.1f} MiB, optimizer {state / 2**20:,.1f} MiB{masters}"
