"""Everything between the public functions and the tiles: autograd, torch.compile, and the choice of supervised rows.

In eager mode the tiles are called directly; while torch.compile traces, the same call stands behind one operator,
``fulgurite::log_probs``, because only the data tell how many rows are supervised. Outside of this file every tensor has a row for
every token; the rows of ignored tokens are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fulgurite.kernels.backend import resolve
from fulgurite.kernels.first_order import first_order_only
from fulgurite.kernels.log_probs import blocks as log_probs_blocks
from fulgurite.kernels.log_probs.outcome import Known, Needs, Outcome, Request
from fulgurite.kernels.log_probs.products import Head

__all__ = ["CrossEntropy", "Inputs", "LogProbs", "Settings", "token_scores"]

_NOTHING = Needs()


class Inputs(NamedTuple):
    """hidden (T, H), low (T, r) or None, weight (V, H), bias (V) or None, up (V, r) or None, targets (T)."""

    hidden: torch.Tensor
    low: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor | None
    up: torch.Tensor | None
    targets: torch.Tensor


class Settings(NamedTuple):
    """What is no tensor."""

    ignore_index: int
    logit_scale: float
    softcap: float | None


class Rows(NamedTuple):
    """Indices of the supervised tokens; None for all of them."""

    places: torch.Tensor | None


class LogProbs(torch.autograd.Function):
    """The six inputs, settings, needs -> (T)."""

    at_once = True

    @staticmethod
    def forward(ctx: Any, hidden, low, weight, bias, up, targets, settings, needs):  # type: ignore[no-untyped-def]
        inputs = Inputs(hidden, low, weight, bias, up, targets)
        ctx.settings, ctx.needs = settings, needs
        rows = _look(inputs, settings)
        found = _compute(inputs, settings, None, None, _NOTHING if needs.head else needs, rows=rows)
        if needs.head:
            ctx.rows = rows  # the backward need not look again
            ctx.save_for_backward(*inputs, found.log_probs, found.ref, found.share)
        else:
            ctx.save_for_backward(found.d_rows, found.d_low)
            ctx.dtype = hidden.dtype
        return found.log_probs

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        if not ctx.needs.head:
            scaled = (None if part is None else (part * grad.unsqueeze(1)).to(ctx.dtype) for part in ctx.saved_tensors)
            return (*scaled, *[None] * 6)
        saved = ctx.saved_tensors  # once: checkpointing refuses to unpack them again
        tensors, known = saved[:6], Known(*saved[6:])
        found = _compute(Inputs(*tensors), ctx.settings, known, grad.contiguous(), ctx.needs, rows=ctx.rows)
        return (*_cast(_gradients(found), tensors), *[None] * 3)


class CrossEntropy(torch.autograd.Function):
    """The six inputs, settings, needs -> mean of −log p over the supervised tokens, 0-dim."""

    at_once = True

    @staticmethod
    def forward(ctx: Any, hidden, low, weight, bias, up, targets, settings, needs):  # type: ignore[no-untyped-def]
        inputs = Inputs(hidden, low, weight, bias, up, targets)
        ctx.settings, ctx.needs = settings, needs
        wide = torch.promote_types(hidden.dtype, torch.float32)
        count = (targets != settings.ignore_index).sum().clamp(min=1).to(wide)
        each = (-1 / count).expand(targets.shape).contiguous()
        found = _compute(inputs, settings, None, each, needs)
        assert found.log_probs is not None
        gradients = _gradients(found)
        if torch.compiler.is_compiling():
            ctx.save_for_backward(*inputs, *gradients)
        else:
            # Held here and not as saved tensors: the first backward scales them in place and gives them away, so that the
            # head's gradient is never there twice.
            ctx.save_for_backward(*inputs, each)
            ctx.gradients = gradients
        return -found.log_probs.sum() / count

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        if torch.compiler.is_compiling():
            saved = ctx.saved_tensors
            tensors, gradients = saved[:6], saved[6:]
            scaled = [None if g is None else g * grad for g in gradients]
            return (*_cast(scaled, tensors), *[None] * 3)
        *tensors, each = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward through a retained graph
            gradients = _gradients(_compute(Inputs(*tensors), ctx.settings, None, each, ctx.needs))
        if grad.device.type != "cpu" or grad.item() != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad)
        return (*_cast(gradients, tensors), *[None] * 3)


def token_scores(inputs: Inputs, settings: Settings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log_probs, correct and entropy, each (T)."""
    found = _compute(inputs, settings, None, None, _NOTHING, scores=True)
    assert found.log_probs is not None and found.correct is not None and found.entropy is not None
    return found.log_probs, found.correct, found.entropy


def _compute(
    inputs: Inputs,
    settings: Settings,
    known: Known | None,
    coefficient: torch.Tensor | None,
    needs: Needs,
    scores: bool = False,
    rows: Rows | None = None,
) -> Outcome:
    """All tokens' outcome; with a forward's statistics ``known`` only gradients."""
    if not torch.compiler.is_compiling():
        return _select(inputs, settings, known, coefficient, needs, scores, rows)
    parts = _operator(*inputs, *(known or (None, None, None)), coefficient, *settings, list(needs), scores)
    there = _present(known is None, needs, scores)
    return Outcome(*(part if here else None for part, here in zip(parts, there, strict=True)))


def _select(
    inputs: Inputs,
    settings: Settings,
    known: Known | None,
    coefficient: torch.Tensor | None,
    needs: Needs,
    scores: bool,
    rows: Rows | None = None,
) -> Outcome:
    """Take the supervised rows out, let the backend compute them, and lay the results back among zeros."""
    hidden, low, weight, bias, up, targets = inputs
    index = (rows or Rows(_supervised(targets, settings.ignore_index, weight.shape[0]))).places
    pick = lambda t: t if t is None or index is None else t.index_select(0, index)  # noqa: E731
    head = Head(weight, bias, up, settings.logit_scale, settings.softcap)
    compute = resolve("linear_log_probs", hidden, weight, bias, low, up) or log_probs_blocks.linear_log_probs
    given = None if known is None else Known(*(pick(part) for part in known))
    request = Request(given, pick(coefficient), needs, scores)
    found = compute(pick(hidden), pick(low), head, pick(targets), request)
    if index is None:
        return found
    per_token = ("log_probs", "ref", "share", "d_rows", "d_low", "correct", "entropy")
    parts = {name: getattr(found, name) for name in per_token}
    return found._replace(
        **{
            name: part.new_zeros(targets.shape[0], *part.shape[1:]).index_copy_(0, index, part)
            for name, part in parts.items()
            if part is not None
        }
    )


def _look(inputs: Inputs, settings: Settings) -> Rows | None:
    """The supervised rows; None while torch.compile traces, when nobody can look."""
    if torch.compiler.is_compiling():
        return None
    return Rows(_supervised(inputs.targets, settings.ignore_index, inputs.weight.shape[0]))


def _supervised(targets: torch.Tensor, ignore_index: int, vocabulary: int) -> torch.Tensor | None:
    """Indices of the supervised tokens, or None for all; the count and the check of the targets are one synchronisation."""
    kept = targets != ignore_index
    outside = kept & ((targets < 0) | (targets >= vocabulary))
    count, wrong = torch.stack((kept.sum(), outside.sum())).tolist()
    if wrong:
        raise ValueError(
            f"linear_log_probs: target {int(targets[outside][0])} ({wrong} such in all); allowed are 0 to {vocabulary - 1} and "
            f"ignore_index={ignore_index}. Does the tokenizer belong to this head, and was the embedding resized with it?"
        )
    if count == targets.shape[0]:
        return None
    # Not nonzero: it would synchronise once more.
    return torch.sort((~kept).to(torch.uint8), stable=True).indices[:count]


def _gradients(found: Outcome) -> tuple[torch.Tensor | None, ...]:
    return found.d_rows, found.d_low, found.d_weight, found.d_bias, found.d_up


def _cast(gradients: Sequence[torch.Tensor | None], inputs: Sequence[Any]) -> tuple[torch.Tensor | None, ...]:
    return tuple(None if g is None else g.to(t.dtype) for g, t in zip(gradients, inputs[:5], strict=True))


def _present(statistics: bool, needs: Needs, scores: bool) -> tuple[bool, ...]:
    """Which fields of an Outcome are there."""
    return (statistics, statistics, statistics, *needs, scores, scores)


_TENSORS = "Tensor hidden, Tensor? low, Tensor weight, Tensor? bias, Tensor? up, Tensor targets"
_KNOWN = "Tensor? log_probs, Tensor? ref, Tensor? share, Tensor? coefficient"
_SETTINGS = "int ignore_index, float logit_scale, float? softcap, bool[] needs, bool scores"


@torch.library.custom_op(
    "fulgurite::log_probs",
    mutates_args=(),
    schema=f"({_TENSORS}, {_KNOWN}, {_SETTINGS}) -> ({', '.join(['Tensor'] * len(Outcome._fields))})",
)
def _operator(*arguments):  # type: ignore[no-untyped-def]
    inputs, coefficient = Inputs(*arguments[:6]), arguments[9]
    known = None if arguments[6] is None else Known(*arguments[6:9])
    settings, needs, scores = Settings(*arguments[10:13]), Needs(*arguments[13]), arguments[14]
    found = _select(inputs, settings, known, coefficient, needs, scores)
    there = _present(known is None, needs, scores)
    return tuple(part if here else inputs.hidden.new_empty(0) for part, here in zip(found, there, strict=True))


@_operator.register_fake
def _(*arguments):  # type: ignore[no-untyped-def]
    hidden, low, weight, bias, up, targets = arguments[:6]
    wide = torch.promote_types(hidden.dtype, torch.float32)
    out = wide if hidden.dtype == torch.float16 else hidden.dtype
    likes = [hidden, low, weight, bias, up]
    dtypes = [out, out, out, out, wide]
    likes, dtypes = [targets] * 3 + likes + [targets] * 2, [wide] * 3 + dtypes + [torch.bool, wide]
    there = _present(arguments[6] is None, Needs(*arguments[13]), arguments[14])
    return tuple(
        hidden.new_empty(like.shape, dtype=dtype) if here else hidden.new_empty(0)
        for like, dtype, here in zip(likes, dtypes, there, strict=True)
    )
