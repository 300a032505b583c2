"""Live weights: a tensor holds base + δ at the trained positions, and base everywhere else; and AdamW on δ that writes them.

The write goes through ``tensor.data``, which has a version counter of its own: a policy forward, a reference forward with the
base values put back, and a backward through the first may follow each other.

δ of many tensors lies in one flat arena, as do its gradient and both moments (arXiv 1711.05101 for the step). On a GPU the step
and all writes are one Triton launch; on the CPU the step is PyTorch's fused one, base + δ is rounded at once, and each tensor
takes its share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fulgurite.kernels.backend import resolve
from fulgurite.kernels.steps.proximal import proximal_adamw_step_

__all__ = ["LiveWeights", "sparse_adamw_step_", "write_live_"]


@torch.no_grad()
def write_live_(
    tensor: torch.Tensor, index: torch.Tensor, base: torch.Tensor, delta: torch.Tensor | None = None
) -> None:
    """tensor[index] = base + delta, in place, without autograd and without raising the tensor's version.

    Args:
        tensor: the live weight, any shape, contiguous.
        index: flat positions, (n,) int64, unique.
        base: the untouched values, (n,), in tensor's dtype: the undone tensor is then the old one bit for bit.
        delta: (n,), float32 or float64; added in its own precision and rounded once. None writes ``base`` back.

    Raises:
        ValueError: a tensor that is not contiguous, or numbers that do not fit.
    """
    _check("write_live_", tensor, index, base)
    if delta is not None and delta.shape != index.shape:
        raise ValueError(f"write_live_: delta {tuple(delta.shape)} for {index.numel()} positions; want one value each.")
    values = base if delta is None else (base.to(delta.dtype) + delta).to(tensor.dtype)
    tensor.data.view(-1).index_copy_(0, index, values)


class LiveWeights:
    """The live tensors that a flat arena of δ belongs to, one stretch each, in order.

    Args:
        tensors: the weights, contiguous, all of one dtype on one device.
        indexes: for each its flat positions, (nᵢ,) int64, unique.
        bases: for each the untouched values there, (nᵢ,), in the weights' dtype.

    ``indexes`` and ``bases`` are kept as views of one arena each: a layer that holds these views keeps nothing twice.

    Raises:
        ValueError: nothing given, several dtypes or devices, or numbers that do not fit.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], indexes: Sequence[torch.Tensor], bases: Sequence[torch.Tensor]
    ) -> None:
        if not tensors or not len(tensors) == len(indexes) == len(bases):
            raise ValueError(
                f"LiveWeights: {len(tensors)} tensors, {len(indexes)} indexes, {len(bases)} bases; "
                "want as many of each, at least one."
            )
        kinds = {f"{t.dtype} on {t.device}" for t in tensors}
        if len(kinds) > 1:
            raise ValueError(f"LiveWeights: tensors of {', '.join(sorted(kinds))}; make one for each.")
        for tensor, index, base in zip(tensors, indexes, bases, strict=True):
            _check("LiveWeights", tensor, index, base)
        sizes = [index.numel() for index in indexes]
        self.tensors = list(tensors)
        self.positions, self.base = torch.cat(list(indexes)), torch.cat(list(bases))
        self.indexes, self.bases = self.positions.split(sizes), self.base.split(sizes)
        self._table: tuple[list[int], torch.Tensor] | None = None

    @torch.no_grad()
    def write_(self, delta: torch.Tensor | None) -> None:
        """Write base + delta into every tensor; ``delta`` (n,) float32 or float64, or None for base alone."""
        if delta is not None and delta.shape != self.base.shape:
            raise ValueError(f"LiveWeights: delta {tuple(delta.shape)} for {self.base.numel()} positions.")
        values = self.base if delta is None else (self.base.to(delta.dtype) + delta).to(self.base.dtype)
        shares = values.split([index.numel() for index in self.indexes])
        for tensor, index, share in zip(self.tensors, self.indexes, shares, strict=True):
            tensor.data.view(-1).index_copy_(0, index, share)

    def table(self, block: int) -> torch.Tensor:
        """int64 (programs, 3) on the device: address of a tensor, and begin and end of at most ``block`` numbers of its stretch.

        Made anew when a tensor has moved: a write to where it was would hit somebody else's memory.
        """
        addresses = [tensor.data_ptr() for tensor in self.tensors]
        if self._table is None or self._table[0] != addresses:
            rows, begin = [], 0
            for address, index in zip(addresses, self.indexes, strict=True):
                end = begin + index.numel()
                rows += [(address, first, min(first + block, end)) for first in range(begin, end, block)]
                begin = end
            on_device = torch.tensor(rows, dtype=torch.int64).view(-1, 3).to(self.base.device)
            self._table = addresses, on_device
        return self._table[1]


def sparse_adamw_step_(
    delta: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    live: LiveWeights,
    *,
    step: torch.Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step on a flat δ, in place, and base + δ written into the live tensors.

    Args:
        delta: (n,) float32 (float64 in tests), the stretches of ``live`` one behind the other.
        grad: (n,), same dtype and device.
        exp_avg: first moment, (n,).
        exp_avg_sq: second moment, (n,).
        live: where δ lives.
        step: steps done so far, 0-dim float32 on the CPU, so that nothing synchronises; raised by one here, in place.
        lr: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the denominator.
        weight_decay: decoupled decay of δ, towards the base and not towards zero.

    Raises:
        ValueError: as many numbers as ``live`` has are not given, or a step count that is not on the CPU.
    """
    sizes = {"delta": delta, "grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    wrong = [f"{name} {tuple(t.shape)}" for name, t in sizes.items() if t.shape != live.base.shape]
    if wrong or step.device.type != "cpu":
        raise ValueError(
            f"sparse_adamw_step_: {', '.join(wrong) or 'fitting sizes'}, step on {step.device}; "
            f"want ({live.base.numel()},) each and the step count on the CPU."
        )
    function = resolve("sparse_adamw_step_", delta, grad, exp_avg, exp_avg_sq, live.base)
    if function is not None:
        step.add_(1)
        function(delta, grad, exp_avg, exp_avg_sq, live, float(step), lr, beta1, beta2, eps, weight_decay)
        return
    on_device = step if delta.device.type == "cpu" else step.to(delta.device)
    proximal_adamw_step_(
        delta,
        grad,
        exp_avg,
        exp_avg_sq,
        step=on_device,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        threshold=0.0,
    )
    if on_device is not step:
        step.add_(1)
    live.write_(delta)


def _check(name: str, tensor: torch.Tensor, index: torch.Tensor, base: torch.Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: the live tensor's strides are {tensor.stride()}; it must be contiguous.")
    if index.dim() != 1 or index.dtype != torch.int64 or base.dtype != tensor.dtype or base.shape != index.shape:
        raise ValueError(
            f"{name}: index {index.dtype} {tuple(index.shape)}, base {base.dtype} {tuple(base.shape)} for {tensor.dtype}; "
            "want int64 (n,) and one value per position in the tensor's dtype."
        )
