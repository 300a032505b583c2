"""Log-probabilities of tokens under an output head, and their mean, without ever holding tokens × vocabulary.

    log p_t = log softmax(c · tanh(logit_scale · (h_t Wᵀ + bias + scaling · ((h_t Aᵀ) ⊙ g) Bᵀ) / c))[target_t]

c is Gemma 2's ``softcap`` (None: no tanh), ``logit_scale`` Cohere's, or 1 / Granite's ``logits_scaling``; A, g, B are a
low-rank branch on the head itself. Ignored tokens are taken out first and cost nothing. What is kept for the backward:

* the head is frozen: ∂log p_t/∂h_t is built beside the logits, while they are in the cache, and scaled by the incoming
  gradient later. Nothing is computed twice;
* the head is trained: its gradient mixes tokens, each with its own incoming gradient, so linear_log_probs computes the
  logits a second time in the backward (a fourth product instead of memory for tokens × vocabulary);
* linear_cross_entropy is one number: all tokens share its incoming gradient, and all gradients are built in the
  forward (the idea of Liger Kernel, arXiv 2410.10989), for frozen and for trained heads.

The work itself is done by :mod:`fulgurite.kernels.log_probs.blocks` or by Triton (see :mod:`fulgurite.kernels.backend`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fulgurite.kernels.log_probs.autograd import CrossEntropy, Inputs, LogProbs, Settings, token_scores
from fulgurite.kernels.log_probs.outcome import Needs
from fulgurite.kernels.low_rank.factors import check_parts, scaled_b
from fulgurite.kernels.output_head import OutputHead, head_from
from fulgurite.kernels.signatures import taking

__all__ = ["TokenScores", "linear_cross_entropy", "linear_log_probs", "linear_token_scores", "prepare"]


class TokenScores(NamedTuple):
    """What validation wants of each token, in the targets' shape.

    Attributes:
        log_probs: log-probability of the target in nats, float32; 0 where ignored.
        correct: whether the target is the first largest logit, bool; False where ignored.
        entropy: of the predicted distribution, in nats, float32; 0 where ignored.
    """

    log_probs: torch.Tensor
    correct: torch.Tensor
    entropy: torch.Tensor


class Arguments(NamedTuple):
    """What the three functions are given; the head is still in single tensors."""

    hidden: torch.Tensor
    targets: torch.Tensor
    ignore_index: int
    head: tuple[Any, ...]

    def prepared(self, name: str) -> tuple[Inputs, Settings, Needs]:
        """As :func:`prepare`; ``name`` is the public function's, for messages."""
        return prepare(name, self.hidden, head_from(name, *self.head), self.targets, self.ignore_index)


def arguments(
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
) -> Arguments:
    """The signature of the three functions; :func:`linear_log_probs` describes it."""
    head = (weight, bias, logit_scale, softcap, lora_a, gate, lora_b, scaling)
    return Arguments(hidden, targets, ignore_index, head)


@taking(arguments)
def linear_log_probs(given: Arguments) -> torch.Tensor:  # noqa: D417  it is called with those of `arguments`
    """Log-probability of each target, differentiable in every floating-point argument.

    Args:
        hidden: hidden states, (…, H), any strides.
        weight: the head's weight, (V, H), any strides; it may be tied with the embedding.
        targets: (…), int64, in [0, V) or ``ignore_index``. They stand beside the hidden states that predict them: nothing
            is shifted here.
        bias: (V,) or None.
        ignore_index: target of the tokens that are left out.
        logit_scale: multiplies the logits, before ``softcap``.
        softcap: c > 0 of c · tanh(logits / c), or None.
        lora_a: down projection of a low-rank branch on the head, (r, H), or None.
        gate: (r,), or None for plain LoRA.
        lora_b: up projection, (V, r); given exactly when ``lora_a`` is.
        scaling: α / r of the branch.

    Returns:
        (…), in the targets' shape: log-probabilities in nats, never above 0, exactly 0 where ignored; float32, or float64 for
        float64 inputs.

    Dtypes: hidden and weight share one dtype (autocast casts both); the bias is cast to it; A, gate and B may be wider and
    are rounded to it for the products only, the gate after it was multiplied into B in float32. Statistics are float32 at the
    least. Each gradient comes back in its own tensor's dtype.

    Memory: a tile of logits and, with a frozen head, ∂/∂hidden. With a trained head the backward computes the logits again.
    On a GPU, counting the supervised tokens is the one synchronisation. There is no second derivative: asking for it raises.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a target outside the vocabulary, named.
        RuntimeError: ``use_backend("triton")`` where Triton cannot compute it.
    """
    inputs, settings, needs = given.prepared("linear_log_probs")
    with torch.autocast(given.hidden.device.type, enabled=False):
        return LogProbs.apply(*inputs, settings, needs).reshape(given.targets.shape)


@taking(arguments)
def linear_cross_entropy(given: Arguments) -> torch.Tensor:
    """Mean of −log p over the targets that are not ignored; arguments as in :func:`linear_log_probs`.

    All gradients are built in the forward. A second backward through a retained graph computes them anew.

    Returns:
        A 0-dim tensor, float32 (float64 for float64 inputs). Without a supervised token it is 0 with zero gradients (and not
        NaN, which one empty micro-batch would spread to all weights).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a target outside the vocabulary, named.
        RuntimeError: ``use_backend("triton")`` where Triton cannot compute it.
    """
    inputs, settings, needs = given.prepared("linear_cross_entropy")
    with torch.autocast(given.hidden.device.type, enabled=False):
        return CrossEntropy.apply(*inputs, settings, needs)


@taking(arguments)
@torch.no_grad()
def linear_token_scores(given: Arguments) -> TokenScores:
    """Log-probability, correctness and entropy of each token in one pass, without gradients; arguments as in
    :func:`linear_log_probs`.
    """
    inputs, settings, _ = given.prepared("linear_token_scores")
    with torch.autocast(given.hidden.device.type, enabled=False):
        found = token_scores(inputs, settings)
    return TokenScores(*(part.reshape(given.targets.shape) for part in found))


def prepare(
    name: str, hidden: torch.Tensor, head: OutputHead, targets: torch.Tensor, ignore_index: int
) -> tuple[Inputs, Settings, Needs]:
    """Tensors of one dtype and of (tokens, …) shapes, what is no tensor, and which tensors get a gradient.

    Args:
        name: of the public function, for messages.
        hidden: (…, H).
        head: the output head.
        targets: (…) int64.
        ignore_index: target of the tokens that are left out.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check(name, hidden, head, targets)
    weight, device = head.weight, hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    elif hidden.dtype != weight.dtype:
        raise ValueError(
            f"{name}: hidden is {hidden.dtype} and weight is {weight.dtype}; outside autocast they must be equal. "
            "Cast one of them, or run under torch.autocast."
        )
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    bias = None if head.bias is None else head.bias.to(rows.dtype)
    low = up = None
    if (lora := head.lora) is not None:
        # The branch is two small tensors of ordinary autograd, so that A, gate and B get theirs through these. Ignored tokens
        # go in as zeros: a NaN in padding times their zero gradient would be NaN in ∂A.
        with torch.autocast(device, enabled=False):
            supervised = rows.masked_fill((flat == ignore_index).unsqueeze(1), 0)
            low = supervised @ lora.lora_a.to(rows.dtype).t()
            wide = torch.promote_types(lora.lora_b.dtype, torch.float32)
            up = scaled_b(lora.lora_b, lora.gate, lora.scaling, wide)
    wanted = (rows, low, weight, bias, up)
    needs = Needs(*(t is not None and t.requires_grad and torch.is_grad_enabled() for t in wanted))
    settings = Settings(ignore_index, head.logit_scale, head.softcap)
    return Inputs(rows, low, weight, bias, up, flat), settings, needs


def _check(name: str, hidden: torch.Tensor, head: OutputHead, targets: torch.Tensor) -> None:
    weight, bias, softcap = head.weight, head.bias, head.softcap
    lora_a, gate, lora_b = (None, None, None) if head.lora is None else head.lora[:3]
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{name}: hidden {tuple(hidden.shape)} does not fit weight {tuple(weight.shape)}; want (…, H) and (V, H)."
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{name}: targets {tuple(targets.shape)} do not fit hidden {tuple(hidden.shape)}; want {tuple(hidden.shape[:-1])}."
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"{name}: targets are {targets.dtype}; want torch.int64.")
    if not hidden.dtype.is_floating_point or not weight.dtype.is_floating_point:
        raise ValueError(f"{name}: hidden is {hidden.dtype} and weight {weight.dtype}; both must be floating point.")
    parts = {"targets": targets, "bias": bias, "lora_a": lora_a, "gate": gate, "lora_b": lora_b}
    check_parts(name, "hidden", hidden.device, weight, **parts)
    if softcap is not None and not softcap > 0:
        raise ValueError(f"{name}: softcap={softcap}; allowed is a number above 0, or None for no cap.")
