"""Log-probabilities under an output head, and their gradients, tile by tile in plain PyTorch: the CPU's path.

    z = c · tanh(logit_scale · (h Wᵀ + bias + low upᵀ) / c)      log p = z_y − log Σ exp z

A tile is some tokens × some columns of the vocabulary. Its logits come from the vendor's GEMM, and while they are in
the cache they become E = exp(z − ref), from which everything else follows by further GEMMs on the same tile:

    ∂log p/∂h = (1 − p_y) W_y − f · Σ_tiles E W,    ∂/∂W = − Eᵀ (f h) + (1 − p_y) h at row y,    f = (1 − p_y) / Σ E

as in flash attention with keys = values = W (Dao et al. 2022, arXiv 2205.14135), so that no element is read a second
time, nothing of tokens × vocabulary is kept and the normaliser f acts on (tokens, H) only. Two deviations:

* ``ref`` is not the running maximum but one that lags behind it by up to ``_LAG``: float32 and bfloat16 have the range,
  and accumulators are rescaled for a few tiles of a thousand only;
* the target's own column is taken out of every sum. With s = log Σ_{j≠y} exp z_j − z_y, log p = −log(1 + eˢ) and
  1 − p_y = sigmoid(s): no cancellation, so that a confident token keeps its gradient in bfloat16.

Statistics and accumulators are float32 (float64 for float64) whatever the dtype of the products.
"""

from __future__ import annotations

from typing import Any

import torch

from fulgurite.kernels.log_probs.outcome import Known, Outcome, Request, Result
from fulgurite.kernels.log_probs.products import Head, part_of, plus_product, raw_logits

__all__ = ["linear_log_probs"]

# Numbers in a tile and its largest height, measured on two cores with 1 MiB of L2 each: 2^19 to 2^21 are within a tenth. Smaller
# ones are more meetings of the threads, each of which waits for a turn where other processes want the cores.
_TILE_CPU, _HEIGHT_CPU = 1 << 20, 1024
# On a GPU a tile has to fill the device; 2^26 numbers of bfloat16 are 128 MiB.
_TILE_GPU, _HEIGHT_GPU = 1 << 26, 8192
# Numbers of E that are kept at once where the head is trained and its gradient is built in the forward.
_KEPT = 1 << 24
# Below these a tile is all overhead.
_MIN_HEIGHT, _MIN_WIDTH = 64, 256
# e^16 times a vocabulary stays far inside float32 and bfloat16.
_LAG = 16.0


def linear_log_probs(
    rows: torch.Tensor,
    low: torch.Tensor | None,
    head: Head,
    targets: torch.Tensor,
    request: Request,
) -> Outcome:
    """Log-probabilities of ``targets`` and the gradients that ``request.needs`` names.

    Args:
        rows: hidden states (N, H), all supervised.
        low: low-rank branch's inner values (N, r), or None with ``head.up``.
        head: the output head.
        targets: (N,) int64, inside the vocabulary.
        request: what is wanted of them.
    """
    known, coefficient, needs, scores = request
    count, vocabulary = rows.shape[0], head.weight.shape[0]
    wide = torch.promote_types(rows.dtype, torch.float32)
    keep = known is None and needs.head
    height, width = _tile(rows.device.type, count, vocabulary, keep)
    result = Result(rows, low, head, needs, wide)
    if head.up is not None:
        head = head._replace(up=head.up.to(rows.dtype))
    memory = rows.new_empty(height * (vocabulary if keep else width))
    for first in range(0, count, height):
        chunk = slice(first, min(first + height, count))
        tokens = _Tokens(
            rows[chunk],
            None if low is None else low[chunk],
            head,
            targets[chunk],
            None if known is None else Known(*(part[chunk] for part in known)),
            None if coefficient is None else coefficient[chunk],
            needs,
            scores,
            wide,
        )
        used = 0
        tiles: list[tuple[torch.Tensor, slice]] = []
        for start in range(0, vocabulary, width):
            stop = min(start + width, vocabulary)
            size = (chunk.stop - first) * (stop - start)
            tile = memory[used : used + size].view(-1, stop - start)
            tokens.add(tile, slice(start, stop), tiles)
            if keep:
                tiles.append((tile, slice(start, stop)))
                used += size
            elif needs.head:
                result.add_tile(tile, slice(start, stop), tokens, first == 0)
        tokens.finish()
        for tile, columns in tiles:
            result.add_tile(tile, columns, tokens, first == 0)
        result.add_tokens(chunk, tokens)
    return result.outcome()


def _tile(device: str, count: int, vocabulary: int, keep: bool) -> tuple[int, int]:
    """Tokens and columns of a tile."""
    size, height = (_TILE_CPU, _HEIGHT_CPU) if device == "cpu" else (_TILE_GPU, _HEIGHT_GPU)
    if keep:
        height = min(height, max(_MIN_HEIGHT, (_KEPT if device == "cpu" else 4 * _KEPT) // vocabulary))
    height = max(1, min(height, count))
    return height, min(vocabulary, max(_MIN_WIDTH, size // height))


class _Tokens:
    """The running sums of one chunk of tokens over the tiles of the vocabulary."""

    def __init__(self, rows, low, head, targets, known, coefficient, needs, scores, wide) -> None:  # type: ignore[no-untyped-def]
        self.rows, self.low, self.head, self.targets = rows, low, head, targets
        self.known, self.coefficient, self.needs, self.scores, self.wide = known, coefficient, needs, scores, wide
        self.lag = _LAG if rows.device.type == "cpu" and rows.dtype != torch.float16 else 0.0
        nothing = rows.new_zeros(rows.shape[0], dtype=wide)
        self.ref: Any = None if known is None else known.ref
        self.total, self.surprise, self.at_target = nothing, nothing, nothing
        self.best = torch.full_like(nothing, -torch.inf)
        self.best_column = torch.zeros_like(targets)
        self.sum_rows: Any = None
        self.sum_low: Any = None
        if known is not None:
            self._weigh()

    def add(self, tile, columns, earlier) -> None:  # type: ignore[no-untyped-def]
        """Fill ``tile`` with E of these columns and take it into the sums; ``earlier`` tiles follow a new ``ref``."""
        head, part = self.head, part_of(self.head, columns)
        raw_logits(self.rows, self.low, part, tile)
        z = tile if tile.dtype == self.wide else tile.to(self.wide)
        slope = None
        if head.softcap is not None:
            z.mul_(head.logit_scale / head.softcap).tanh_()
            if any(self.needs):
                slope = (z * z).neg_().add_(1)
            z.mul_(head.softcap)
        elif head.logit_scale != 1:
            z.mul_(head.logit_scale)
        self._take_out_target(z, columns)
        if self.known is None:
            self._raise_reference(z, columns, earlier)
        z.sub_(self.ref.unsqueeze(1))
        if self.scores:
            distance = z.clamp(min=-1e30)  # 0 · −inf would be NaN
        z.exp_()
        if self.known is None:
            self.total = self.total + z.sum(1)
        if self.scores:
            self.surprise = self.surprise + distance.mul_(z).sum(1)
        if slope is not None:
            z.mul_(slope)
        if z is not tile:
            tile.copy_(z)
        if self.needs.rows:
            self.sum_rows = plus_product(self.sum_rows, tile, part.weight, self.wide)
        if self.needs.low:
            self.sum_low = plus_product(self.sum_low, tile, part.up, self.wide)

    def _take_out_target(self, z, columns) -> None:  # type: ignore[no-untyped-def]
        """Remember the target's logit where it lies in these columns, and write −inf in its place."""
        inside = (self.targets >= columns.start) & (self.targets < columns.stop)
        place = (self.targets - columns.start).clamp(0, z.shape[1] - 1).unsqueeze(1)
        found = z.gather(1, place).squeeze(1)
        self.at_target = torch.where(inside, found, self.at_target)
        z.scatter_(1, place, found.masked_fill(inside, -torch.inf).unsqueeze(1))

    def _raise_reference(self, z, columns, earlier) -> None:  # type: ignore[no-untyped-def]
        if self.scores:
            top, place = z.max(1)
            better = top > self.best
            self.best_column = torch.where(better, place + columns.start, self.best_column)
            self.best = torch.where(better, top, self.best)
        else:
            top = z.amax(1)
        top = top.clamp(min=torch.finfo(self.wide).min)  # a tile may hold nothing but the target
        if self.ref is None:
            self.ref = top
            return
        grown = top > self.ref + self.lag
        if self.lag and not bool(grown.any()):
            return
        new = torch.where(grown, top, self.ref)
        step = self.ref - new
        ratio = step.exp()
        self.surprise = ratio * torch.where(grown, self.surprise + step * self.total, self.surprise)
        self.total = ratio * self.total
        self.ref = new
        for held in (self.sum_rows, self.sum_low, *(tile for tile, _ in earlier)):
            if held is not None:
                held.mul_(ratio.unsqueeze(1))

    def finish(self) -> None:
        """From sums to statistics."""
        if self.known is not None:
            return
        gap = self.total.log() - (self.at_target - self.ref)
        self.log_probs = -torch.logaddexp(gap, torch.zeros_like(gap))
        self.share = (-torch.expm1(self.log_probs) / self.total).masked_fill(self.total == 0, 0)
        self._weigh()

    def _weigh(self) -> None:
        """What E is multiplied by, (tokens,), to be Σ coefficient · ∂log p/∂(raw logit) in every column but the target's."""
        if self.known is not None:
            self.log_probs, self.share = self.known.log_probs, self.known.share
        coefficient = 1.0 if self.coefficient is None else self.coefficient
        self.weight = self.share * (-self.head.logit_scale * coefficient)
        if self.needs.weight:
            # float16 would lose the small weights of many tokens: there the largest is made 1.
            half = self.rows.dtype == torch.float16
            self.unit = self.weight.abs().amax().clamp(min=1e-30) if half else None
            weight = self.weight / self.unit if half else self.weight
            self.scaled = (self.rows * weight.unsqueeze(1)).to(self.rows.dtype)

    def target_weight(self) -> torch.Tensor:
        """(1 − p_y) times the slope of the target's logit times its coefficient."""
        miss = -torch.expm1(self.log_probs) * self.head.logit_scale
        if self.head.softcap is not None:
            miss = miss * (1 - (self.at_target / self.head.softcap).square())
        return miss if self.coefficient is None else miss * self.coefficient

    def correct(self) -> torch.Tensor:
        """Whether the target is the first of the largest logits."""
        first = (self.at_target == self.best) & (self.targets < self.best_column)
        return (self.at_target > self.best) | first

    def entropy(self) -> torch.Tensor:
        """−Σ p log p in nats."""
        others = self.surprise + self.share.log().masked_fill(self.share == 0, 0) * self.total
        own = torch.xlogy(self.log_probs.exp(), self.log_probs.exp())
        return -(self.share * others + own)
