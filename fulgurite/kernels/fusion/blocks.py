"""Log-probabilities of several specialists' blended logits, and all gradients, tile by tile in plain PyTorch: the CPU's path.

    z_j = Σ_e w_e l_e(j)      l_e = c_e · tanh(scale_e · (h_e W_eᵀ + b_e + low_e up_eᵀ) / c_e)      log p = z_y − log Σ_j exp z_j

The tiles are those of :mod:`fulgurite.kernels.log_probs.blocks`, and most functions too. A tile is some tokens × some columns of
all specialists at once; its logits become E = exp(z − ref) while they are in the cache. Two gradients are added to those of a
single head. That of a specialist's weight in the blend,

    ∂log p/∂w_e = l_e(y) − E_p[l_e] = (1 − p_y) · (l_e(y) − Σ_{j≠y} E_j l_e(j) / Σ_{j≠y} E_j)

takes one more sum for each specialist and no product with a head: UltraFuser's first stage (arXiv 2403.08281) trains the gate
alone. The other one, ∂log p/∂h_e, is the gradient of linear_log_probs with w_e multiplied into the token's factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fulgurite.kernels.log_probs import blocks
from fulgurite.kernels.log_probs.outcome import Known, Needs, Result
from fulgurite.kernels.log_probs.products import Head, part_of, plus_product, raw_logits

__all__ = ["FusedOutcome", "Gradients", "Specialist", "capped_", "fused_log_probs"]

# Numbers in one tile of all specialists and of the blend. On a GPU that is 190 MB, with float32 copies of bfloat16 logits.
_TILE_CPU, _HEIGHT_CPU = 1 << 21, 512
_TILE_GPU = 1 << 25


class Specialist(NamedTuple):
    """rows (N, H_e), low (N, r) or None with ``head.up``, and the head, cut to the shared vocabulary."""

    rows: torch.Tensor
    low: torch.Tensor | None
    head: Head


class Gradients(NamedTuple):
    """Of one specialist; None what is not wanted. Dtypes as in :class:`fulgurite.kernels.log_probs.outcome.Outcome`."""

    rows: torch.Tensor | None
    low: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    up: torch.Tensor | None


class FusedOutcome(NamedTuple):
    """Statistics (N,) (see Known), ∂log p/∂w (N, E) with no coefficient in it, and each specialist's gradients.

    With statistics that were known before, ``gate`` is None.
    """

    log_probs: torch.Tensor
    ref: torch.Tensor
    share: torch.Tensor
    gate: torch.Tensor | None
    gradients: tuple[Gradients, ...]


def fused_log_probs(
    specialists: Sequence[Specialist],
    weights: torch.Tensor,
    targets: torch.Tensor,
    known: Known | None,
    coefficient: torch.Tensor | None,
    needs: Sequence[Needs],
) -> FusedOutcome:
    """Log-probabilities of ``targets`` under the blend, and the gradients that ``needs`` names.

    Args:
        specialists: E of them; all tokens are supervised.
        weights: of the blend, (N, E), float32 at the least.
        targets: (N,) int64, inside the shared vocabulary.
        known: the statistics of an earlier call, which are then not computed anew. Heads' gradients need them.
        coefficient: (N,), what each token's gradient is multiplied by; None: 1.
        needs: the gradients that are wanted of each specialist.
    """
    rows, vocabulary = specialists[0].rows, specialists[0].head.weight.shape[0]
    count, number, wide = rows.shape[0], len(specialists), weights.dtype
    height, width = _tile(rows.device.type, number, count, vocabulary)
    results = [Result(s.rows, s.low, s.head, need, wide) for s, need in zip(specialists, needs, strict=True)]
    rounded = [
        s if s.head.up is None else s._replace(head=s.head._replace(up=s.head.up.to(s.rows.dtype))) for s in specialists
    ]
    memory, blend = rows.new_empty(number * height * width), rows.new_empty(height * width, dtype=wide)
    slopes = []
    for first in range(0, count, height):
        chunk = slice(first, min(first + height, count))
        tokens = _Blend(rounded, weights, targets, known, coefficient, needs, chunk)
        for start in range(0, vocabulary, width):
            columns = slice(start, min(start + width, vocabulary))
            shape = (chunk.stop - first, columns.stop - start)
            size = shape[0] * shape[1]
            tiles = memory[: number * size].view(number, *shape)
            products = tokens.add(tiles, blend[:size].view(shape), columns)
            for result, part, tile in zip(results, tokens.parts, products, strict=True):
                if tile is not None and part.needs.head:
                    result.add_tile(tile, columns, part, first == 0)
        slopes.append(tokens.finish())
        for result, part in zip(results, tokens.parts, strict=True):
            result.add_tokens(chunk, part)
    found = [result.outcome() for result in results]
    gate = None if known is not None else torch.cat(slopes) if slopes else weights.new_zeros(weights.shape)
    gradients = tuple(Gradients(*outcome[3:8]) for outcome in found)
    assert found[0].log_probs is not None and found[0].ref is not None and found[0].share is not None
    return FusedOutcome(found[0].log_probs, found[0].ref, found[0].share, gate, gradients)


def capped_(logits: torch.Tensor, head: Head) -> torch.Tensor:
    """The head's scale and cap, in place of raw logits in float32 or wider."""
    if head.softcap is not None:
        return logits.mul_(head.logit_scale / head.softcap).tanh_().mul_(head.softcap)
    return logits if head.logit_scale == 1 else logits.mul_(head.logit_scale)


def _tile(device: str, number: int, count: int, vocabulary: int) -> tuple[int, int]:
    """Tokens and columns of a tile of one specialist; with those of the others and of the blend it is as large as one alone."""
    size, height = (_TILE_CPU, _HEIGHT_CPU) if device == "cpu" else (_TILE_GPU, blocks._HEIGHT_GPU)
    height = max(1, min(height, count))
    return height, min(vocabulary, max(blocks._MIN_WIDTH, size // ((number + 1) * height)))


class _Part:
    """One specialist's share in a chunk of tokens, with the attributes that :class:`Result` reads."""

    scores = False

    def __init__(self, specialist, needs, targets, chunk, wide) -> None:  # type: ignore[no-untyped-def]
        self.rows, self.head, self.needs, self.targets = specialist.rows[chunk], specialist.head, needs, targets
        self.low = None if specialist.low is None else specialist.low[chunk]
        self.at_target = self.moment = torch.zeros(targets.shape, dtype=wide, device=targets.device)
        self.sum_rows: Any = None
        self.sum_low: Any = None

    def logits(self, tile, columns, wide) -> torch.Tensor:  # type: ignore[no-untyped-def]
        """The logits of these columns in float32 or wider; they are written into ``tile`` itself if it is wide enough."""
        raw_logits(self.rows, self.low, part_of(self.head, columns), tile)
        return capped_(tile if tile.dtype == wide else tile.to(wide), self.head)

    def product(self, exponential, logits, columns, narrow) -> torch.Tensor:  # type: ignore[no-untyped-def]
        """Take E times the cap's slope into the sums over the vocabulary, and return it in the products' dtype."""
        if self.head.softcap is not None:
            tile = logits.div_(self.head.softcap).square_().neg_().add_(1).mul_(exponential).to(narrow)
        else:
            tile = exponential.to(narrow)
        part = part_of(self.head, columns)
        if self.needs.rows:
            self.sum_rows = plus_product(self.sum_rows, tile, part.weight, logits.dtype)
        if self.needs.low:
            self.sum_low = plus_product(self.sum_low, tile, part.up, logits.dtype)
        return tile

    def weigh(self, known, factor) -> None:  # type: ignore[no-untyped-def]
        """What E is multiplied by; ``factor`` (tokens,): the gate's weight times the token's coefficient."""
        self.log_probs, self.ref, self.share = known
        self.factor = factor * self.head.logit_scale
        self.weight = -self.share * self.factor
        self.unit = None
        if self.needs.weight:
            weight = self.weight
            if self.rows.dtype == torch.float16:  # which would lose small weights: there the largest is made 1
                self.unit = weight.abs().amax().clamp(min=1e-30)
                weight = weight / self.unit
            self.scaled = (self.rows * weight.unsqueeze(1)).to(self.rows.dtype)

    def target_weight(self) -> torch.Tensor:
        """(1 − p_y) times the slope of this specialist's logit of the target, times ``factor``."""
        miss = -torch.expm1(self.log_probs) * self.factor
        return miss if self.head.softcap is None else miss * (1 - (self.at_target / self.head.softcap).square())


class _Blend:
    """The running sums of one chunk of tokens over the tiles of the vocabulary."""

    def __init__(self, specialists, weights, targets, known, coefficient, needs, chunk) -> None:  # type: ignore[no-untyped-def]
        self.weights, self.targets, self.wide = weights[chunk], targets[chunk], weights.dtype
        self.parts = [
            _Part(s, need, self.targets, chunk, self.wide) for s, need in zip(specialists, needs, strict=True)
        ]
        self.narrow = specialists[0].rows.dtype
        self.lag = blocks._LAG if weights.device.type == "cpu" and self.narrow != torch.float16 else 0.0
        self.known = None if known is None else Known(*(part[chunk] for part in known))
        self.factors = self.weights if coefficient is None else self.weights * coefficient[chunk].unsqueeze(1)
        self.total = self.at_target = torch.zeros(self.targets.shape, dtype=self.wide, device=weights.device)
        self.ref: Any = None if self.known is None else self.known.ref
        if self.known is not None:
            self._weigh(self.known)

    def add(self, tiles, z, columns) -> list[torch.Tensor | None]:  # type: ignore[no-untyped-def]
        """Fill ``tiles`` (E, tokens, columns) and ``z`` with logits, and take them into the sums.

        Returns each specialist's E times slope, None where it has no gradient.
        """
        each = [part.logits(tile, columns, self.wide) for part, tile in zip(self.parts, tiles, strict=True)]
        torch.mul(each[0], self.weights[:, :1], out=z)
        for i in range(1, len(each)):
            z.addcmul_(each[i], self.weights[:, i : i + 1])
        self._take_out_target(z, each, columns)
        if self.known is None:
            self._raise_reference(z)
        z.sub_(self.ref.unsqueeze(1)).exp_()
        if self.known is None:
            self.total = self.total + z.sum(1)
            for part, logits in zip(self.parts, each, strict=True):
                part.moment = part.moment + torch.linalg.vecdot(z, logits)
        return [
            part.product(z, logits, columns, self.narrow) if any(part.needs) else None
            for part, logits in zip(self.parts, each, strict=True)
        ]

    def _take_out_target(self, z, each, columns) -> None:  # type: ignore[no-untyped-def]
        """Remember the target's logits where they lie in these columns, and write −inf in the blend's place."""
        inside = (self.targets >= columns.start) & (self.targets < columns.stop)
        place = (self.targets - columns.start).clamp(0, z.shape[1] - 1).unsqueeze(1)
        found = z.gather(1, place).squeeze(1)
        self.at_target = torch.where(inside, found, self.at_target)
        for part, logits in zip(self.parts, each, strict=True):
            part.at_target = torch.where(inside, logits.gather(1, place).squeeze(1), part.at_target)
        z.scatter_(1, place, found.masked_fill(inside, -torch.inf).unsqueeze(1))

    def _raise_reference(self, z) -> None:  # type: ignore[no-untyped-def]
        top = z.amax(1).clamp(min=torch.finfo(self.wide).min)  # a tile may hold nothing but the target
        if self.ref is None:
            self.ref = top
            return
        grown = top > self.ref + self.lag
        if self.lag and not bool(grown.any()):
            return
        new = torch.where(grown, top, self.ref)
        ratio = (self.ref - new).exp()
        self.total, self.ref = ratio * self.total, new
        for part in self.parts:
            part.moment = ratio * part.moment
            for held in (part.sum_rows, part.sum_low):
                if held is not None:
                    held.mul_(ratio.unsqueeze(1))

    def finish(self) -> torch.Tensor:
        """From sums to statistics; ∂log p/∂w (tokens, E)."""
        if self.known is not None:
            return self.weights
        gap = self.total.log() - (self.at_target - self.ref)
        log_probs = -torch.logaddexp(gap, torch.zeros_like(gap))
        miss, alone = -torch.expm1(log_probs), self.total == 0
        self._weigh(Known(log_probs, self.ref, (miss / self.total).masked_fill(alone, 0)))
        slopes = [miss * (part.at_target - part.moment / self.total).masked_fill(alone, 0) for part in self.parts]
        return torch.stack(slopes, 1)

    def _weigh(self, known) -> None:  # type: ignore[no-untyped-def]
        for i, part in enumerate(self.parts):
            part.weigh(known, self.factors[:, i])
