"""Plain-PyTorch twins of every kernel: same signature, ordinary autograd. They are the oracle of the tests.

Run them in float64 to obtain a reference; run them in the kernel's dtype to learn how exact plain PyTorch would be.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fulgurite.kernels.fusion.scores import FusedTokenScores
from fulgurite.kernels.log_probs.linear import TokenScores
from fulgurite.kernels.low_rank.gated_lora import draw_seed, dropout_scale
from fulgurite.kernels.sparse.plan import SparsePlan

__all__ = [
    "fused_log_probs",
    "fused_logits",
    "fused_token_scores",
    "gated_lora_linear",
    "linear_cross_entropy",
    "linear_log_probs",
    "linear_token_scores",
    "live_values",
    "proximal_adamw_step_",
    "soft_threshold_",
    "sparse_delta_embedding",
    "sparse_delta_linear",
]


def gated_lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.gated_lora_linear`; draws the dropout seed in the same way."""
    dropped = x * dropout_scale(x, dropout, draw_seed()) if dropout > 0 else x
    low = dropped @ lora_a.to(x.dtype).t()
    if gate is not None:
        low = low * gate.to(x.dtype)
    return F.linear(x, weight, bias) + scaling * (low @ lora_b.to(x.dtype).t())


def _log_softmax(hidden, weight, bias, logit_scale, softcap, lora_a, gate, lora_b, scaling):  # type: ignore[no-untyped-def]
    """Log-probabilities of the whole vocabulary, (…, V), float32 or wider."""
    logits = F.linear(hidden, weight, bias)
    if lora_a is not None:
        low = hidden @ lora_a.to(hidden.dtype).t()
        if gate is not None:
            low = low * gate.to(hidden.dtype)
        logits = logits + scaling * (low @ lora_b.to(hidden.dtype).t())
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1)


def linear_log_probs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    ignore_index: int = -100,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    *,
    lora_a: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    lora_b: torch.Tensor | None = None,
    scaling: float = 1.0,
) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.linear_log_probs`; keeps (…, V)."""
    scores = _log_softmax(hidden, weight, bias, logit_scale, softcap, lora_a, gate, lora_b, scaling)
    ignored = targets == ignore_index
    found = scores.gather(-1, targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    return found.masked_fill(ignored, 0.0)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    ignore_index: int = -100,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    *,
    lora_a: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    lora_b: torch.Tensor | None = None,
    scaling: float = 1.0,
) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.linear_cross_entropy`."""
    branch = {"lora_a": lora_a, "gate": gate, "lora_b": lora_b, "scaling": scaling}
    found = linear_log_probs(hidden, weight, targets, bias, ignore_index, logit_scale, softcap, **branch)  # type: ignore[arg-type]
    return -found.sum() / (targets != ignore_index).sum().clamp(min=1)


def linear_token_scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    ignore_index: int = -100,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    *,
    lora_a: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    lora_b: torch.Tensor | None = None,
    scaling: float = 1.0,
) -> TokenScores:
    """Twin of :func:`fulgurite.kernels.linear_token_scores`."""
    scores = _log_softmax(hidden, weight, bias, logit_scale, softcap, lora_a, gate, lora_b, scaling).detach()
    ignored = targets == ignore_index
    found = scores.gather(-1, targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    entropy = -torch.xlogy(scores.exp(), scores.exp()).sum(-1)
    return TokenScores(found.masked_fill(ignored, 0.0), scores.argmax(-1) == targets, entropy.masked_fill(ignored, 0.0))


def _each_log_softmax(hiddens, weights, options, normalised):  # type: ignore[no-untyped-def]
    """Every specialist's logits or log-probabilities of the shared vocabulary, (…, E, V)."""
    heads = [weights] * len(hiddens) if isinstance(weights, torch.Tensor) else weights
    more = (
        [{}] * len(hiddens) if options is None else [options] * len(hiddens) if isinstance(options, dict) else options
    )
    vocabulary = min(weight.shape[0] for weight in heads)
    found = []
    for hidden, weight, each in zip(hiddens, heads, more, strict=True):
        logits = F.linear(hidden, weight, each.get("bias"))
        if each.get("lora_a") is not None:
            low = hidden @ each["lora_a"].to(hidden.dtype).t()
            low = low if each.get("gate") is None else low * each["gate"].to(hidden.dtype)
            logits = logits + each.get("scaling", 1.0) * (low @ each["lora_b"].to(hidden.dtype).t())
        logits = logits[..., :vocabulary].to(torch.promote_types(logits.dtype, torch.float32)) * each.get(
            "logit_scale", 1.0
        )
        if each.get("softcap") is not None:
            logits = each["softcap"] * torch.tanh(logits / each["softcap"])
        found.append(logits.log_softmax(-1) if normalised else logits)
    return torch.stack(found, -2)


def fused_logits(hiddens, weights, gate_scores, blend="logits", *, options=None, names=None):  # type: ignore[no-untyped-def]
    """Twin of :func:`fulgurite.kernels.fused_logits`, with gradients."""
    each = _each_log_softmax(hiddens, weights, options, blend == "probs")
    if blend == "probs":
        return (each + gate_scores.to(each.dtype).log_softmax(-1).unsqueeze(-1)).logsumexp(-2)
    return (each * gate_scores.to(each.dtype).softmax(-1).unsqueeze(-1)).sum(-2)


def fused_log_probs(  # type: ignore[no-untyped-def]
    hiddens, weights, gate_scores, targets, ignore_index=-100, blend="logits", *, options=None, names=None
):
    """Twin of :func:`fulgurite.kernels.fused_log_probs`; keeps (…, E, V)."""
    ignored = targets == ignore_index
    place = targets.masked_fill(ignored, 0).unsqueeze(-1)
    if blend == "logprobs":
        each = _each_log_softmax(hiddens, weights, options, True)
        own = each.gather(-1, place.unsqueeze(-2).expand(*gate_scores.shape, 1)).squeeze(-1)
        found = (own * gate_scores.to(each.dtype).softmax(-1)).sum(-1)
    else:
        scores = fused_logits(hiddens, weights, gate_scores, blend, options=options).log_softmax(-1)
        found = scores.gather(-1, place).squeeze(-1)
    return found.masked_fill(ignored, 0.0)


def fused_token_scores(  # type: ignore[no-untyped-def]
    hiddens, weights, gate_scores, targets, ignore_index=-100, blend="logits", *, options=None, names=None
):
    """Twin of :func:`fulgurite.kernels.fused_token_scores`."""
    scores = fused_logits(hiddens, weights, gate_scores, blend, options=options).log_softmax(-1).detach()
    ignored = targets == ignore_index
    found = fused_log_probs(hiddens, weights, gate_scores, targets, ignore_index, blend, options=options).detach()
    entropy = -torch.xlogy(scores.exp(), scores.exp()).sum(-1).masked_fill(ignored, 0.0)
    gate = gate_scores.to(scores.dtype).softmax(-1)[~ignored].mean(0).detach()
    return FusedTokenScores(found, scores.argmax(-1) == targets, entropy, gate)


def soft_threshold_(value: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.soft_threshold_`: sign(v)·max(|v| − t, 0), written into ``value``."""
    shrunk = torch.sign(value) * torch.clamp(value.abs() - threshold, min=0)
    with torch.no_grad():
        value.copy_(shrunk)
    return value


def proximal_adamw_step_(
    param: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    *,
    step: torch.Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    threshold: float,
    prox: str = "soft",
) -> None:
    """Twin of :func:`fulgurite.kernels.proximal_adamw_step_`, term by term as the formulas are written."""
    step.add_(1)
    param.mul_(1 - lr * weight_decay)
    exp_avg.copy_(beta1 * exp_avg + (1 - beta1) * grad)
    exp_avg_sq.copy_(beta2 * exp_avg_sq + (1 - beta2) * grad * grad)
    mean = exp_avg / (1 - beta1 ** float(step))
    variance = exp_avg_sq / (1 - beta2 ** float(step))
    param.sub_(lr * mean / (variance.sqrt() + eps))
    if prox == "soft":
        soft_threshold_(param, threshold)
    else:
        param[param > threshold] -= threshold
        param[param < -threshold] += threshold
        param[param.abs() < threshold] = 0.0


def live_values(tensor: torch.Tensor, delta: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.live_values`: a copy of the tensor, of which the entries at ``index`` depend on delta."""
    values = delta + (tensor.detach().reshape(-1)[index].to(delta.dtype) - delta.detach())
    return tensor.detach().reshape(-1).index_put((index,), values.to(tensor.dtype)).view(tensor.shape)


def sparse_delta_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    delta: torch.Tensor,
    index: torch.Tensor,
    *,
    transposed: bool = False,
    plan: SparsePlan | None = None,
) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.sparse_delta_linear`; clones the weight and computes its gradient whole."""
    live = live_values(weight, delta, index)
    return F.linear(x, live.t() if transposed else live, bias)


def sparse_delta_embedding(
    ids: torch.Tensor, weight: torch.Tensor, delta: torch.Tensor, index: torch.Tensor, padding_idx: int | None = None
) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.sparse_delta_embedding`."""
    return F.embedding(ids, live_values(weight, delta, index), padding_idx)
