"""Layers of which only some scalars are trained: live weights in the forward, sampled gradients in the backward.

APET (Su et al. 2023, arXiv 2306.02320) adds a vector δ (n,) at the flat positions ``index`` of a weight. Here the weight
tensor itself holds base + δ at those positions ("live": the adapter writes it after each optimizer step), so the forward is
the plain layer, ∂x needs nothing extra, and no dense copy of the weight exists. The backward computes only the n entries of
the weight's gradient,

    ∂δᵢ = Σ over tokens of ∂y[·, rowᵢ] · x[·, columnᵢ]

in one of the ways of :mod:`fulgurite.kernels.sparse.plan`; no gradient of the weight's size is ever alive. PEFT's SHiRA and
SuperTuning clone the weight in the forward and compute its gradient whole in the backward.

Deviation from a dense δ: with a half-precision weight the live value is base + δ rounded; the gradient goes straight
through that rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F

from fulgurite.kernels.first_order import first_order_only
from fulgurite.kernels.sparse.gradient import keeps_few, narrowed, selected_entries, share
from fulgurite.kernels.sparse.plan import SparsePlan, plan_sparse_delta

__all__ = ["live_values", "sparse_delta_embedding", "sparse_delta_linear"]

# Tells of saved-tensor hooks, privately. A version of torch without it keeps every layer's own input.
_HOOKS: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


class _SparseDeltaLinear(torch.autograd.Function):
    """x (M, K); weight (N, K), or (K, N) if transposed; bias (N) or None; delta (n,) -> (M, N)."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, delta, plan, transposed, dtype, recipe, node):  # type: ignore[no-untyped-def]
        need_x, need_delta = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        kept = _kept(x, plan, transposed) if need_delta else None
        ctx.recipe = recipe if kept is x else None
        ctx.shared = None
        if node is not None and kept is x and _reads_chunks(plan, transposed, dtype):
            ctx.shared = share(node[0], node[1], dtype)
        ctx.save_for_backward(weight if need_x else None, None if ctx.recipe is not None else kept)
        ctx.plan, ctx.transposed, ctx.delta_dtype, ctx.width = plan, transposed, delta.dtype, x.shape[1]
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _forward(x, weight, bias, transposed, dtype)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, dy):  # type: ignore[no-untyped-def]
        weight, kept = ctx.saved_tensors
        dbias = dy.sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        ddelta = dx = None
        if ctx.needs_input_grad[3]:

            def whole() -> torch.Tensor:
                return kept if ctx.recipe is None else ctx.recipe().reshape(-1, ctx.width).to(dy.dtype)

            side = whole() if ctx.shared is None else ctx.shared.take(whole)
            left, right = (side, dy) if ctx.transposed else (dy, side)
            ddelta = selected_entries(left, right, ctx.plan).to(ctx.delta_dtype)
            del side, left, right
        # Last: whoever goes on with ∂x finds it in the cache (a Llama step took 1.4 % less than the other way round).
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(dy, weight, ctx.transposed)
        return dx, None, dbias, ddelta, None, None, None, None, None


def _kept(x: torch.Tensor, plan: SparsePlan, transposed: bool) -> torch.Tensor:
    """What ∂delta needs of x: its columns where they are few, so that the layer keeps hardly more than a frozen one."""
    ids = plan.row_ids if transposed else plan.column_ids
    return narrowed(x, ids) if keeps_few(ids, x.shape[1]) else x


def _reads_chunks(plan: SparsePlan, transposed: bool, dtype: torch.dtype) -> bool:
    """Whether ∂delta reads all columns of x in transposed chunks, which layers that read the same x can share."""
    ids = plan.row_ids if transposed else plan.column_ids
    return ids is None and plan.index.device.type == "cpu" and plan.method(dtype) == "sampled"


def _node(x: torch.Tensor) -> tuple[Any, int] | None:
    """The autograd node that x comes from, and which of its outputs x is; None where the backward may not be the forward's."""
    if torch.compiler.is_compiling():  # it cannot trace nodes, and chooses itself what to recompute
        return None
    if x.grad_fn is None:
        return None
    return None if _HOOKS is None or _HOOKS(False) is not None else (x.grad_fn, x.output_nr)


def _recipe(x: torch.Tensor) -> Callable[[], torch.Tensor] | None:
    """How to compute x again from what autograd keeps anyway, if x is a product: then x need not be kept beside its factors.

    The widest input of a gated MLP, silu(gate) * up, is one, and so is what RMSNorm gives, w * (h / rms), where w is frozen.
    None where x is something else, and where hooks keep the saved tensors (activation checkpointing, offloading): those give
    each one back a single time.
    """
    return _product(x.grad_fn, x.shape, x.dtype, x.device, 2)


def _product(
    node: Any, shape: torch.Size, dtype: torch.dtype, device: torch.device, depth: int
) -> Callable[[], torch.Tensor] | None:
    if node is None or not depth:
        return None
    if node.name() == "ToCopyBackward0":
        wide = _product(node.next_functions[0][0], shape, torch.float32, device, depth)
        return None if wide is None or dtype.itemsize > 4 else lambda: wide().to(dtype)
    if node.name() != "MulBackward0":
        return None
    # A factor is kept for the gradient of the other one; one that nobody needs has to be a product itself.
    factors = node._saved_self, node._saved_other
    kept = [f for f in factors if f is not None]
    if any(f.device != device or f.dtype != dtype or not _broadcasts(f.shape, shape) for f in kept):
        return None
    if len(kept) == 2:
        full = any(f.shape == shape for f in kept)
        return (lambda: node._saved_self * node._saved_other) if full else None
    missing = 0 if factors[0] is None else 1
    inner = _product(node.next_functions[missing][0], shape, dtype, device, depth - 1)
    if inner is None or not kept:
        return None
    if missing == 0:
        return lambda: inner() * node._saved_other
    return lambda: node._saved_self * inner()


def _broadcasts(shape: torch.Size, wanted: torch.Size) -> bool:
    """torch.broadcast_shapes does as much, at a cost that shows in a step."""
    return len(shape) <= len(wanted) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(wanted), strict=False)
    )


def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool, dtype: torch.dtype
) -> torch.Tensor:
    live = weight.to(dtype)
    return F.linear(x, live.t() if transposed else live, None if bias is None else bias.to(dtype))


def _input_gradient(dy: torch.Tensor, weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    live = weight.to(dy.dtype)
    return dy @ (live.t() if transposed else live)


def sparse_delta_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    delta: torch.Tensor,
    index: torch.Tensor,
    *,
    transposed: bool = False,
    plan: SparsePlan | None = None,
    recompute: bool = True,
) -> torch.Tensor:
    """y = x Wᵀ + bias, where ``weight`` already holds base + delta at the flat positions ``index``.

    Args:
        x: input, (…, K).
        weight: the live weight as it is stored, contiguous: (N, K), or (K, N) if ``transposed``. It never gets a gradient.
        bias: (N,) or None; gets a gradient if it requires one.
        delta: the trained values, (n,), float32 or float64. Its values are not read: the weight holds them.
        index: positions in the stored weight, row by row, (n,) int64, sorted and unique.
        transposed: the weight is stored (K, N), as transformers' Conv1D does; ``index`` counts in that layout.
        plan: :func:`plan_sparse_delta` of this index, so that it is not made at every call.
        recompute: multiply x again in the backward where it is a product of what autograd keeps anyway. False where such a
            factor may be written in between, as a norm's live weight.

    Returns:
        (…, N), in the dtype of ``x``; under autocast in autocast's dtype.

    Dtypes: x and weight share one dtype outside autocast, which casts both (in the backward again: no cast copy is kept).
    The gradient of ``delta`` is summed in float32 and comes back in delta's dtype.

    Memory: x is kept for the backward; only its selected columns where they are few, and nothing where x is a product whose
    factors autograd keeps anyway (multiplied again in the backward). Of an x that several layers read, sampled products (CPU) hold
    one transposed float32 copy between these layers' backwards. On a GPU the backward of few scalars takes a transposed copy of x,
    at most 64 MiB at a time.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, named; a plan of another index.
    """
    plan = _checked_plan("sparse_delta_linear", weight, delta, index, plan)
    _check_linear(x, weight, bias, transposed)
    device = x.device.type
    dtype, node, autocast = x.dtype, _node(x), torch.is_autocast_enabled(device)
    recipe = None if node is None or not recompute else _recipe(x)
    if autocast:
        dtype = torch.get_autocast_dtype(device)
        x = x.to(dtype)
    elif x.dtype != weight.dtype:
        raise ValueError(
            f"sparse_delta_linear: x is {x.dtype} and weight is {weight.dtype}; outside autocast they must be equal. "
            "Cast one of them, or run under torch.autocast."
        )
    flat = x.reshape(-1, x.shape[-1])
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        y = _SparseDeltaLinear.apply(flat, weight.detach(), bias, delta, plan, transposed, dtype, recipe, node)
    return y.reshape(*x.shape[:-1], y.shape[-1])


class _LiveValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta, tensor, index):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(index)
        ctx.delta_dtype = delta.dtype
        return tensor.view_as(tensor)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        (index,) = ctx.saved_tensors
        return grad.reshape(-1).index_select(0, index).to(ctx.delta_dtype), None, None


def live_values(tensor: torch.Tensor, delta: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``tensor`` itself, which holds base + delta at ``index``, with a gradient to ``delta``: for any kind of layer.

    The layer's own backward computes the tensor's gradient whole, of which ``delta`` gets its entries: right for biases,
    LayerNorms and convolutions, whose gradients are small or a temporary of one layer. Linear layers and embeddings, whose
    gradients are large, have operators of their own.

    Args:
        tensor: the live tensor, any shape, contiguous; it never gets a gradient.
        delta: (n,), float32 or float64; not read.
        index: flat positions, (n,) int64, sorted and unique.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, named.
    """
    _check_delta("live_values", tensor, delta, index)
    return _LiveValues.apply(delta, tensor.detach(), index)


class _SparseDeltaEmbedding(torch.autograd.Function):
    """ids (T,); weight (V, D); delta (n,) -> (T, D)."""

    @staticmethod
    def forward(ctx: Any, ids, weight, delta, index, padding_idx):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(ids, index)
        ctx.width, ctx.padding_idx, ctx.delta_dtype = weight.shape[1], padding_idx, delta.dtype
        return weight.index_select(0, ids)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, dy):  # type: ignore[no-untyped-def]
        ids, index = ctx.saved_tensors
        wide = torch.promote_types(dy.dtype, torch.float32)
        tokens, n = ids.numel(), index.numel()
        if not tokens or not n:
            return None, None, dy.new_zeros(n, dtype=ctx.delta_dtype), None, None
        # Equal ids get one number below `tokens`; as many rows as there are tokens hold their sums, whatever the vocabulary.
        ordered, order = torch.sort(ids, stable=True)
        group = torch.zeros_like(ordered)
        torch.cumsum(ordered[1:] != ordered[:-1], 0, out=group[1:])
        sums = torch.ops.aten.embedding_dense_backward(dy.index_select(0, order).to(wide), group, tokens, -1, False)
        row, column = index // ctx.width, index % ctx.width
        place = torch.searchsorted(ordered, row).clamp_(max=tokens - 1)
        found = ordered[place] == row
        if ctx.padding_idx is not None:
            found &= row != ctx.padding_idx
        grad = sums[group[place], column].masked_fill_(~found, 0.0)
        return None, None, grad.to(ctx.delta_dtype), None, None


def sparse_delta_embedding(
    ids: torch.Tensor, weight: torch.Tensor, delta: torch.Tensor, index: torch.Tensor, padding_idx: int | None = None
) -> torch.Tensor:
    """F.embedding(ids, weight), where ``weight`` already holds base + delta at ``index``; the gradient reaches ``delta`` only.

    The backward sums ∂y over equal ids (at most as many rows as there are tokens) and picks the selected entries: its
    memory is ∂y's in float32, whatever the vocabulary.

    Args:
        ids: any shape, int64 or int32.
        weight: the live table (V, D), contiguous; it never gets a gradient.
        delta: (n,), float32 or float64; not read.
        index: flat positions in ``weight``, (n,) int64, sorted and unique.
        padding_idx: a row that gets no gradient, as in F.embedding.

    Returns:
        (*ids.shape, D) in weight's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, named.
    """
    _check_delta("sparse_delta_embedding", weight, delta, index)
    if weight.dim() != 2:
        raise ValueError(f"sparse_delta_embedding: weight {tuple(weight.shape)}; want (V, D).")
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]
    y = _SparseDeltaEmbedding.apply(ids.reshape(-1).long(), weight.detach(), delta, index, padding_idx)
    return y.reshape(*ids.shape, weight.shape[1])


def _checked_plan(
    name: str, weight: torch.Tensor, delta: torch.Tensor, index: torch.Tensor, plan: SparsePlan | None
) -> SparsePlan:
    _check_delta(name, weight, delta, index)
    if plan is None:
        return plan_sparse_delta(index, tuple(weight.shape))
    if not torch.compiler.is_compiling() and not plan.fits(index, tuple(weight.shape)):
        raise ValueError(
            f"{name}: the plan was made for {plan.index.numel()} positions in {plan.shape}, not for this index in "
            f"{tuple(weight.shape)}, or the index was changed since; call plan_sparse_delta anew."
        )
    return plan


def _check_delta(name: str, tensor: torch.Tensor, delta: torch.Tensor, index: torch.Tensor) -> None:
    if delta.dim() != 1 or index.dim() != 1 or delta.shape != index.shape or index.dtype != torch.int64:
        raise ValueError(
            f"{name}: delta {tuple(delta.shape)}, index {index.dtype} {tuple(index.shape)}; want (n,) and int64 (n,)."
        )
    if delta.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: delta is {delta.dtype}; keep it in float32, small steps are lost below.")
    if not tensor.dtype.is_floating_point or not tensor.is_contiguous():
        raise ValueError(
            f"{name}: the live tensor is {tensor.dtype} with strides {tensor.stride()}; it must be floating point and contiguous."
        )
    elsewhere = [f"{n} on {t.device}" for n, t in (("delta", delta), ("index", index)) if t.device != tensor.device]
    if elsewhere:
        raise ValueError(
            f"{name}: the weight is on {tensor.device}, but {', '.join(elsewhere)}; move them to one device."
        )


def _check_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool) -> None:
    if weight.dim() != 2:
        raise ValueError(f"sparse_delta_linear: weight {tuple(weight.shape)}; want a matrix.")
    n, k = reversed(weight.shape) if transposed else weight.shape
    if x.dim() < 1 or x.shape[-1] != k:
        raise ValueError(
            f"sparse_delta_linear: x {tuple(x.shape)} does not fit weight {tuple(weight.shape)}; want (…, {k})."
        )
    if bias is not None and tuple(bias.shape) != (n,):
        raise ValueError(f"sparse_delta_linear: bias {tuple(bias.shape)}; want ({n},).")
    if x.device != weight.device or not x.dtype.is_floating_point:
        raise ValueError(f"sparse_delta_linear: x is {x.dtype} on {x.device}, the weight on {weight.device}.")
