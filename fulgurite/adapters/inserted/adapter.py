"""Handle of bottlenecks and soft prompts: modules beside layers, which do their work through forward hooks.

The modules live in ``layer.branches[name]``, as every adapter's do, so that keys, checkpoints, saving and freezing are the same;
the hooks are removed when the adapter is detached. A soft prompt lengthens what goes into the base model by dummy tokens, lays its
vectors over their embeddings, and takes their positions out of the last hidden states again: whatever comes after the base model,
pooling and heads, sees the given tokens only. With a cache only the first call is lengthened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fulgurite.adapters.groups import decayed_groups
from fulgurite.adapters.handle import Adapter

__all__ = ["InsertedAdapter"]


class InsertedAdapter(Adapter):
    """Handle of every method whose modules work through hooks; see :class:`fulgurite.adapters.Adapter`.

    They change no weights: they cannot be merged, and PEFT has no layout that computes the same.
    """

    _described_as = "shape of each tensor"

    @property
    def can_merge(self) -> bool:
        """False: there is no weight that could take a module in."""
        return False

    @property
    def fits_peft(self) -> bool:
        """False."""
        return False

    def merge(self, reversible: bool = False) -> int:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"merge: {self.kind} does not change weights and cannot be folded into them; export with --format adapter, or keep the "
            "adapter attached."
        )

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"export_peft: {self.kind} has no layout that PEFT loads with the same outputs; use save(), which load_adapter reads."
        )

    def summary(self) -> list[tuple[str, str]]:
        """(what, figure) for people."""
        return [("inserted modules", str(len(self.layer_names))), ("parameters", f"{self._own_parameters():,}")]

    def description(self) -> dict[str, Any]:
        """{"inserted": {layer name: {tensor: shape}}}."""
        return {
            "inserted": {
                name: {key: list(value.shape) for key, value in branch.state_dict().items()}
                for name, branch in self.branches.items()
            }
        }

    def _own_groups(self, lr: float, weight_decay: float, gate_lr: float | None) -> list[dict[str, Any]]:
        params = [p for branch in self.branches.values() for p in branch.parameters()]
        return decayed_groups("inserted", params, lr, weight_decay)

    def _own_parameters(self) -> int:
        return sum(p.numel() for branch in self.branches.values() for p in branch.parameters())

    def _branch_keys(self) -> list[tuple[str, str]]:
        return [(name, next(iter(branch.state_dict()))) for name, branch in self.branches.items()]
