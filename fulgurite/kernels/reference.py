"""Plain-PyTorch twins of every kernel: same signature, ordinary autograd. They are the oracle of the tests.

Run them in float64 to obtain a reference; run them in the kernel's dtype to learn how exact plain PyTorch would be.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fulgurite.kernels.fusion import fused_log_probs as fused
from fulgurite.kernels.fusion import scores as fused_scores
from fulgurite.kernels.fusion.scores import FusedTokenScores
from fulgurite.kernels.log_probs.linear import Arguments, TokenScores, arguments
from fulgurite.kernels.low_rank import gated_lora
from fulgurite.kernels.low_rank.gated_lora import draw_seed, dropout_scale
from fulgurite.kernels.signatures import taking, twin_of
from fulgurite.kernels.sparse import delta as sparse
from fulgurite.kernels.steps import proximal

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


@twin_of(gated_lora.gated_lora_linear)
def gated_lora_linear(x, weight, bias, lora_a, gate, lora_b, scaling, dropout=0.0):  # type: ignore[no-untyped-def]
    """Twin of :func:`fulgurite.kernels.gated_lora_linear`; draws the dropout seed in the same way."""
    dropped = x * dropout_scale(x, dropout, draw_seed()) if dropout > 0 else x
    low = dropped @ lora_a.to(x.dtype).t()
    if gate is not None:
        low = low * gate.to(x.dtype)
    return F.linear(x, weight, bias) + scaling * (low @ lora_b.to(x.dtype).t())


def _log_softmax(hidden, weight, bias, logit_scale, softcap, lora_a, gate, lora_b, scaling) -> torch.Tensor:  # type: ignore[no-untyped-def]
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


@taking(arguments)
def linear_log_probs(given: Arguments) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.linear_log_probs`; keeps (…, V)."""
    return _picked(given, _log_softmax(given.hidden, *given.head))


@taking(arguments)
def linear_cross_entropy(given: Arguments) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.linear_cross_entropy`."""
    found = _picked(given, _log_softmax(given.hidden, *given.head))
    return -found.sum() / (given.targets != given.ignore_index).sum().clamp(min=1)


@taking(arguments)
def linear_token_scores(given: Arguments) -> TokenScores:
    """Twin of :func:`fulgurite.kernels.linear_token_scores`."""
    scores = _log_softmax(given.hidden, *given.head).detach()
    entropy = -torch.xlogy(scores.exp(), scores.exp()).sum(-1).masked_fill(given.targets == given.ignore_index, 0.0)
    return TokenScores(_picked(given, scores), scores.argmax(-1) == given.targets, entropy)


def _picked(given: Arguments, scores: torch.Tensor) -> torch.Tensor:
    """The targets' log-probabilities, 0 where ignored."""
    ignored = given.targets == given.ignore_index
    found = scores.gather(-1, given.targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    return found.masked_fill(ignored, 0.0)


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


@twin_of(fused_scores.fused_logits)
def fused_logits(hiddens, weights, gate_scores, blend="logits", *, options=None, names=None):  # type: ignore[no-untyped-def]
    """Twin of :func:`fulgurite.kernels.fused_logits`, with gradients."""
    each = _each_log_softmax(hiddens, weights, options, blend == "probs")
    if blend == "probs":
        return (each + gate_scores.to(each.dtype).log_softmax(-1).unsqueeze(-1)).logsumexp(-2)
    return (each * gate_scores.to(each.dtype).softmax(-1).unsqueeze(-1)).sum(-2)


@twin_of(fused.fused_log_probs)
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


@twin_of(fused_scores.fused_token_scores)
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


@twin_of(proximal.soft_threshold_)
def soft_threshold_(value: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.soft_threshold_`: sign(v)·max(|v| − t, 0), written into ``value``."""
    shrunk = torch.sign(value) * torch.clamp(value.abs() - threshold, min=0)
    with torch.no_grad():
        value.copy_(shrunk)
    return value


@twin_of(proximal.proximal_adamw_step_)
def proximal_adamw_step_(  # type: ignore[no-untyped-def]
    param, grad, exp_avg, exp_avg_sq, *, step, lr, beta1, beta2, eps, weight_decay, threshold, prox="soft"
):
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


@twin_of(sparse.live_values)
def live_values(tensor: torch.Tensor, delta: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.live_values`: a copy of the tensor, of which the entries at ``index`` depend on delta."""
    values = delta + (tensor.detach().reshape(-1)[index].to(delta.dtype) - delta.detach())
    return tensor.detach().reshape(-1).index_put((index,), values.to(tensor.dtype)).view(tensor.shape)


@twin_of(sparse.sparse_delta_linear)
def sparse_delta_linear(  # type: ignore[no-untyped-def]
    x, weight, bias, delta, index, *, transposed=False, plan=None, recompute=True
):
    """Twin of :func:`fulgurite.kernels.sparse_delta_linear`, whatever ``recompute``: clones the weight, computes its
    gradient whole.
    """
    live = live_values(weight, delta, index)
    return F.linear(x, live.t() if transposed else live, bias)


@twin_of(sparse.sparse_delta_embedding)
def sparse_delta_embedding(
    ids: torch.Tensor, weight: torch.Tensor, delta: torch.Tensor, index: torch.Tensor, padding_idx: int | None = None
) -> torch.Tensor:
    """Twin of :func:`fulgurite.kernels.sparse_delta_embedding`."""
    return F.embedding(ids, live_values(weight, delta, index), padding_idx)
