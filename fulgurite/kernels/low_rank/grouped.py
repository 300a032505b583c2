"""One product for each group of rows, as experts of a mixture need it: rows that chose the same expert stand together.

    y[i] = x[i] W[e(i)]     with e(i) the group of row i

PyTorch's ``grouped_mm`` (2.10) computes it in one call for float32, bfloat16 and float16 whose rows fill multiples of 16 bytes; for
what it does not take there is one product for each group that has rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["Groups", "grouped_linear"]

_NATIVE = (torch.float32, torch.bfloat16, torch.float16)


class Groups:
    """Rows in order of their groups.

    Args:
        chosen: (S,) int64, the group of each row, sorted.
        count: number of groups; some may have no rows.
    """

    def __init__(self, chosen: torch.Tensor, count: int) -> None:
        self.of_row, self.count = chosen, count

    @cached_property
    def ends(self) -> torch.Tensor:
        """(count,) int32: where each group ends."""
        every = torch.arange(self.count, device=self.of_row.device)
        return torch.searchsorted(self.of_row, every, right=True).to(torch.int32)

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each group, as numbers: a GPU is waited for."""
        ends = self.ends.tolist()
        return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def grouped_linear(x: torch.Tensor, weight: torch.Tensor, groups: Groups) -> torch.Tensor:
    """The rows of each group times the group's weight.

    Args:
        x: (S, K), rows in order of their groups.
        weight: (E, K, N) of the same dtype, any strides; it gets a gradient if it requires one, zeros for groups without rows.
        groups: of E groups.

    Returns:
        (S, N).
    """
    if _takes(x, weight):
        grouped_mm: Any = F.grouped_mm
        found: torch.Tensor = grouped_mm(x, weight, offs=groups.ends)
        return found
    rows, parts = x.split(groups.sizes), weight.unbind(0)
    products = [part @ w for part, w in zip(rows, parts, strict=True) if len(part)]
    return torch.cat(products) if products else x @ parts[0]


def _takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether PyTorch's operator computes the product and its gradients here."""
    if not hasattr(F, "grouped_mm") or x.dtype not in _NATIVE or x.dtype != weight.dtype or not len(x):
        return False
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 0):
        return False
    if x.device.type not in ("cpu", "cuda"):
        return False
    step = 16 // x.element_size()
    sides = (*weight.shape[1:], *x.stride()[:-1], *(stride for stride in weight.stride() if stride != 1))
    aligned = all(side % step == 0 for side in sides) and x.stride(-1) == 1 and 1 in weight.stride()[1:]
    return aligned and (torch.compiler.is_compiling() or (x.data_ptr() | weight.data_ptr()) % 16 == 0)
