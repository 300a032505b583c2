"""What each layer makes of each example: one vector, taken from the layer's output while batches run through the model.

A forward hook at each layer pools its output (B, T, H) to (B, H) at once, so that one pass over the data is enough and n · L · H
numbers are kept in all; no states of tokens outlive their layer. The last layer's output is taken as it leaves the layer; in
transformers' own `hidden_states`, which the paper's code reads, it has gone through the final norm.

    weighted   Σ t · m_t · h_t / Σ t · m_t with t = 1 … T and the mask m: the features of the paper's training scripts
    mean       Σ m_t · h_t / Σ m_t
    last       h of the last token
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn

from fulgurite.models.emulator.layers import find_layers

__all__ = ["POOLING", "PooledStates"]

POOLING = ("weighted", "mean", "last")


class PooledStates:
    """Collects pooled states within a `with` block.

    Args:
        model: a causal language model of transformers.
        pooling: one of :data:`POOLING`.

    Raises:
        ValueError: another pooling, or layers that cannot be found.
    """

    def __init__(self, model: nn.Module, pooling: str = "weighted") -> None:
        if pooling not in POOLING:
            raise ValueError(f"PooledStates: pooling={pooling!r}; allowed are {', '.join(POOLING)}")
        self.layers, self.pooling = find_layers(model).modules, pooling
        self._weights: torch.Tensor | None = None
        self._rows: list[str] = []
        self._found: list[list[torch.Tensor]] = [[] for _ in self.layers]
        self._hooks: list[Any] = []

    def __enter__(self) -> PooledStates:
        """Puts the hooks in."""
        for number, layer in enumerate(self.layers):
            self._hooks.append(layer.register_forward_hook(self._keeper(number)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the hooks out."""
        for hook in self._hooks:
            hook.remove()

    def begin(self, mask: torch.Tensor, rows: list[str]) -> None:
        """Say what the next forward is about.

        Args:
            mask: (B, T), 1 for tokens, 0 for the padding behind them.
            rows: names of the examples, (B,), for messages.
        """
        weights = mask.float()
        if self.pooling == "weighted":
            weights = weights * torch.arange(1, mask.shape[1] + 1, device=mask.device)
        elif self.pooling == "last":
            weights = torch.nn.functional.one_hot(mask.sum(1).long() - 1, mask.shape[1]).float()
        self._weights, self._rows = weights / weights.sum(1, keepdim=True), rows

    def features(self) -> list[torch.Tensor]:
        """(n, H) float32 on the CPU of each layer, the examples in the order in which they came."""
        return [torch.cat(parts) for parts in self._found]

    def _keeper(self, number: int) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            assert self._weights is not None
            states: torch.Tensor = output[0] if isinstance(output, tuple) else output
            # The weights sum up to 1, so that their product with half precision's states stays in its range; summed in float32.
            pooled = torch.einsum("bt,bth->bh", self._weights, states.detach().float()).cpu()
            bad = ~pooled.isfinite().all(1)
            if bool(bad.any()):
                raise ValueError(
                    f"emulate: layer {number} gives NaN or infinity for {self._rows[int(bad.nonzero()[0])]}; look at the model's "
                    "weights, or compute in another dtype"
                )
            self._found[number].append(pooled)

        return keep
