"""What tiles are asked for and what they give: statistics of tokens, and the gradients that all chunks of tokens fill together."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fulgurite.kernels.log_probs.products import wide_product

__all__ = ["Known", "Needs", "Outcome", "Request", "Result"]


class Needs(NamedTuple):
    """Which gradients are wanted."""

    rows: bool = False
    low: bool = False
    weight: bool = False
    bias: bool = False
    up: bool = False

    @property
    def head(self) -> bool:
        """Whether any gradient mixes tokens: those cannot be scaled token by token afterwards."""
        return self.weight or self.bias or self.up


class Known(NamedTuple):
    """Statistics of a forward, each (N,): the probability of any column but the target's is share · exp(z − ref).

    Not the log of the sum: in float32 it is rounded to 1e-5 where logits are about 200, and so were all probabilities.
    """

    log_probs: torch.Tensor
    ref: torch.Tensor
    share: torch.Tensor


class Request(NamedTuple):
    """What is computed of supervised tokens.

    Attributes:
        known: the statistics of an earlier call, which are then not computed anew.
        coefficient: (N,), what each token's gradient is multiplied by; None: 1.
        needs: the gradients that are wanted.
        scores: also ``correct`` (bool, whether the target is the first largest logit) and ``entropy`` (nats).
    """

    known: Known | None
    coefficient: torch.Tensor | None
    needs: Needs
    scores: bool


class Outcome(NamedTuple):
    """Per token (N,): log_probs, ref and share (see Known), correct, entropy; and gradients of Σ coefficient · log p.

    Gradients are in the rows' dtype, in float16's case in float32: they are yet to be multiplied by a loss scale.
    ``d_up`` is float32 at the least. What was given or is not wanted is None.
    """

    log_probs: torch.Tensor | None
    ref: torch.Tensor | None
    share: torch.Tensor | None
    d_rows: torch.Tensor | None = None
    d_low: torch.Tensor | None = None
    d_weight: torch.Tensor | None = None
    d_bias: torch.Tensor | None = None
    d_up: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


class Result:
    """The tensors that all chunks together fill."""

    def __init__(self, rows, low, head, needs, wide) -> None:  # type: ignore[no-untyped-def]
        self.needs, self.dtype, self.wide = needs, rows.dtype, wide
        # float16 gradients are yet to be scaled up: kept wide, or small ones would be lost here.
        self.out = wide if rows.dtype == torch.float16 else rows.dtype
        count = rows.shape[0]
        self.empty = rows.new_empty(0, dtype=wide)
        self.log_probs, self.ref, self.share, self.correct, self.entropy = [], [], [], [], []  # type: ignore[var-annotated]
        make = rows.new_empty if count else rows.new_zeros
        self.d_rows = rows.new_empty(rows.shape, dtype=self.out) if needs.rows else None
        self.d_low = rows.new_empty(low.shape, dtype=self.out) if needs.low else None
        self.d_weight = make(head.weight.shape, dtype=wide) if needs.weight else None
        self.d_bias = make(head.bias.shape, dtype=wide) if needs.bias else None
        self.d_up = make(head.up.shape, dtype=wide) if needs.up else None

    def add_tile(self, tile, columns, tokens, first) -> None:  # type: ignore[no-untyped-def]
        """What a tile of E gives to the head's gradients; the first chunk of tokens overwrites."""
        beta = 0 if first else 1
        if self.d_weight is not None:
            scaled = tokens.scaled
            if self.dtype == self.wide:
                self.d_weight[columns].addmm_(tile.t(), scaled, beta=beta)
            else:
                product = tile.t() @ scaled if tokens.unit is None else wide_product(tile.t(), scaled).mul_(tokens.unit)
                self.d_weight[columns] = product if first else self.d_weight[columns].add_(product)
        if self.d_bias is not None:
            self.d_bias[columns].addmv_(tile.t().to(self.wide), tokens.weight, beta=beta)
        if self.d_up is not None:
            scaled = tokens.low.to(self.wide) * tokens.weight.unsqueeze(1)
            self.d_up[columns].addmm_(tile.t().to(self.wide), scaled, beta=beta)

    def add_tokens(self, chunk, tokens) -> None:  # type: ignore[no-untyped-def]
        """Statistics of a chunk of tokens, and what the targets' columns give to every gradient."""
        self.log_probs.append(tokens.log_probs)
        self.ref.append(tokens.ref)
        self.share.append(tokens.share)
        if tokens.scores:
            self.correct.append(tokens.correct())
            self.entropy.append(tokens.entropy())
        weight, hit = tokens.weight.unsqueeze(1), tokens.target_weight().unsqueeze(1)
        for grad, total, factor in (
            (self.d_rows, tokens.sum_rows, tokens.head.weight),
            (self.d_low, tokens.sum_low, tokens.head.up),
        ):
            if grad is not None:
                grad[chunk] = total.mul_(weight).addcmul_(factor[tokens.targets].to(self.wide), hit)
        if self.d_weight is not None:
            self.d_weight.index_add_(0, tokens.targets, tokens.rows * hit)
        if self.d_bias is not None:
            self.d_bias.index_add_(0, tokens.targets, hit.squeeze(1))
        if self.d_up is not None:
            self.d_up.index_add_(0, tokens.targets, tokens.low * hit)

    def outcome(self) -> Outcome:
        """Everything, in the dtypes that are promised."""
        empty = self.empty
        join = lambda parts: torch.cat(parts) if parts else empty  # noqa: E731
        return Outcome(
            join(self.log_probs),
            join(self.ref),
            join(self.share),
            self.d_rows,
            self.d_low,
            None if self.d_weight is None else self.d_weight.to(self.out),
            None if self.d_bias is None else self.d_bias.to(self.out),
            self.d_up,
            join(self.correct) if self.correct else None,
            join(self.entropy) if self.entropy else None,
        )
