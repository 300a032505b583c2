"""The blend of several specialists' heads as logits, for decoding, and the scores of tokens under it, for validation.

Neither needs a gradient; :func:`fused_token_scores` goes chunk by chunk of tokens, so that its memory is that of a few rows of
logits for each specialist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fulgurite.kernels.fusion.blocks import capped_
from fulgurite.kernels.fusion.fused_log_probs import Given, prepared
from fulgurite.kernels.log_probs import blocks
from fulgurite.kernels.log_probs.products import Head, raw_logits
from fulgurite.kernels.low_rank.factors import scaled_b

__all__ = ["FusedTokenScores", "fused_logits", "fused_token_scores"]

_GPU_NUMBERS = 1 << 25


class FusedTokenScores(NamedTuple):
    """What validation wants of each token, in the targets' shape, and of the gate.

    Attributes:
        log_probs: as fused_log_probs gives them, float32; 0 where ignored.
        correct: whether the target is the first of the blend's largest logits, bool; False where ignored.
        entropy: of the blend, in nats, float32; 0 where ignored.
        gate_weights: mean weight of each specialist over the tokens that are not ignored, (E,); NaN without any.
    """

    log_probs: torch.Tensor
    correct: torch.Tensor
    entropy: torch.Tensor
    gate_weights: torch.Tensor


@torch.no_grad()
def fused_logits(
    hiddens: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | torch.Tensor,
    gate_scores: torch.Tensor,
    blend: str = "logits",
    *,
    options: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Logits of the blend at every position, without gradients; arguments as in :func:`fused_log_probs`.

    Returns:
        (…, V), float32 or wider, V the shared vocabulary. Their softmax is the blend: for `probs` they are its
        log-probabilities, `logprobs` has the distribution of `logits`.
    """
    places = torch.zeros(gate_scores.shape[:-1], dtype=torch.int64, device=gate_scores.device)
    given = prepared("fused_logits", hiddens, weights, gate_scores, places, -100, blend, options, names)
    flat = [hidden.reshape(-1, hidden.shape[-1]) for hidden in given.hiddens]
    gate = given.gate_scores.reshape(-1, len(flat))
    with torch.autocast(places.device.type, enabled=False):
        return _blend(given, flat, gate, blend).reshape(*places.shape, given.heads[0].weight.shape[0])


@torch.no_grad()
def fused_token_scores(
    hiddens: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] | torch.Tensor,
    gate_scores: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int = -100,
    blend: str = "logits",
    *,
    options: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> FusedTokenScores:
    """Log-probability, correctness and entropy of each token, and the gate's mean weights, without gradients; arguments as in
    :func:`fused_log_probs`.
    """
    given = prepared("fused_token_scores", hiddens, weights, gate_scores, targets, ignore_index, blend, options, names)
    pick = lambda t: t if given.supervised is None else t.index_select(0, given.supervised)  # noqa: E731
    flat = [pick(hidden.reshape(-1, hidden.shape[-1])) for hidden in given.hiddens]
    gate, kept = pick(given.gate_scores.reshape(-1, len(flat))), pick(targets.flatten())
    numbers = blocks._TILE_CPU if targets.device.type == "cpu" else _GPU_NUMBERS
    height = max(1, numbers // given.heads[0].weight.shape[0])
    found: list[tuple[torch.Tensor, ...]] = []
    with torch.autocast(targets.device.type, enabled=False):
        for first in range(0, kept.shape[0], height):
            chunk = slice(first, first + height)
            found.append(_scores(given, [h[chunk] for h in flat], gate[chunk], kept[chunk], blend))
    wide = given.gate_scores.dtype
    columns = [torch.cat(parts) for parts in zip(*found, strict=True)] if found else [gate.new_zeros(0)] * 3
    result = []
    for column, dtype in zip(columns, (wide, torch.bool, wide), strict=True):
        out = torch.zeros(targets.numel(), dtype=dtype, device=targets.device)
        out = column.to(dtype) if given.supervised is None else out.index_copy_(0, given.supervised, column.to(dtype))
        result.append(out.reshape(targets.shape))
    log_probs, correct, entropy = result
    return FusedTokenScores(log_probs, correct, entropy, gate.softmax(-1).mean(0))


def _scores(given: Given, hiddens, gate, targets, blend) -> tuple[torch.Tensor, ...]:  # type: ignore[no-untyped-def]
    """log_probs, correct and entropy of a chunk."""
    logits = _blend(given, hiddens, gate, blend)
    correct = logits.argmax(-1) == targets
    scores = logits.log_softmax(-1)
    place = targets.unsqueeze(1)
    own = scores.gather(1, place).squeeze(1)
    if blend == "logprobs":
        each = [_logits(given, i, hidden).log_softmax(-1).gather(1, place) for i, hidden in enumerate(hiddens)]
        own = (gate.softmax(-1) * torch.cat(each, 1)).sum(-1)
    return own, correct, -torch.xlogy(scores.exp(), scores.exp()).sum(-1)


def _blend(given: Given, hiddens: Sequence[torch.Tensor], gate: torch.Tensor, blend: str) -> torch.Tensor:
    """(N, V) for hidden states (N, H_e) and gate scores (N, E)."""
    if blend == "probs":
        each = [_logits(given, i, hidden).log_softmax(-1) for i, hidden in enumerate(hiddens)]
        shares = gate.log_softmax(-1)
        mixed = each[0] + shares[:, :1]
        for i in range(1, len(each)):
            mixed = torch.logaddexp(mixed, each[i] + shares[:, i : i + 1])
        return mixed
    shares = gate.softmax(-1)
    if given.shared:
        blended = sum((shares[:, i : i + 1] * h for i, h in enumerate(hiddens)), start=shares.new_zeros(()))
        return _logits(given, 0, blended.to(hiddens[0].dtype))
    logits = _logits(given, 0, hiddens[0]).mul_(shares[:, :1])
    for i in range(1, len(hiddens)):
        logits.addcmul_(_logits(given, i, hiddens[i]), shares[:, i : i + 1])
    return logits


def _logits(given: Given, i: int, hidden: torch.Tensor) -> torch.Tensor:
    """One specialist's own logits (N, V), float32 or wider."""
    weight, bias, logit_scale, softcap, lora = given.heads[i]
    dtype, low, up = weight.dtype, None, None
    hidden = hidden.to(dtype)
    if lora is not None:
        low = hidden @ lora.lora_a.to(dtype).t()
        up = scaled_b(lora.lora_b, lora.gate, lora.scaling, dtype)
    head = Head(weight, None if bias is None else bias.to(dtype), up, logit_scale, softcap)
    out = hidden.new_empty(hidden.shape[0], head.weight.shape[0])
    raw_logits(hidden, low, head, out)
    return capped_(out.to(torch.promote_types(dtype, torch.float32)), head)
