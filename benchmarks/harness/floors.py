"""Floors: the floating-point operations and bytes that nobody can leave out, and the time that they take on a device.

Bytes are compulsory ones: what a forward or backward is given is read once, what it returns is written once, and nothing else
moves. A floor is the longer of both times, as if one hid the other entirely. Every function takes the facts of a workload
of the suite (``Workload.facts``) and says what one run of it does, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COSTS", "H200", "Cost", "Device", "Model", "low_rank_passes", "step_flops"]

Facts = Mapping[str, Any]
_SIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Device:
    """What a device can do at most, by its maker's data sheet.

    Attributes:
        name: of the device.
        bandwidth: bytes a second of its memory.
        flops: operations a second of dense bf16 or fp16 products.
        flops_float32: of products that are exact in float32, without tensor cores.
    """

    name: str
    bandwidth: float
    flops: float
    flops_float32: float

    def floor_ms(self, cost: Cost) -> float:
        """The longer of the time for the operations and the time for the bytes, in ms."""
        return 1e3 * max(cost.flops / self._rate(cost), cost.bytes / self.bandwidth)

    def bound(self, cost: Cost) -> str:
        """What decides the floor: "operations" or "bytes"."""
        return "operations" if cost.flops / self._rate(cost) > cost.bytes / self.bandwidth else "bytes"

    def _rate(self, cost: Cost) -> float:
        return self.flops_float32 if cost.float32 else self.flops


# Dense figures: sheets that name 1979 TFLOP/s count zeros of 2:4 sparsity.
H200 = Device("NVIDIA H200", 4.8e12, 989e12, 67e12)


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of one run; ``float32``: the products are exact in float32."""

    flops: float
    bytes: float
    float32: bool = False


@dataclass(frozen=True)
class Model:
    """Sizes of a Llama."""

    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(columns, rows) of a block's seven weights; the first three read the block's input."""
        narrow = self.width * self.kv_heads // self.heads
        return [
            (self.width, self.width), (self.width, narrow), (self.width, narrow), (self.width, self.width),
            (self.width, self.intermediate), (self.width, self.intermediate), (self.intermediate, self.width),
        ]  # fmt: skip


def step_flops(model: Model, lengths: Sequence[int], supervised: int, rank: int) -> float:
    """Operations of a training step with LoRA on all linear layers of the blocks, everything else frozen.

    Forward and gradient of every product, the head's for supervised tokens only; attention causal within each row, its
    backward twice its forward. Recomputation does not count.

    Args:
        model: its sizes.
        lengths: tokens of each row.
        supervised: tokens that are predicted.
        rank: of the adapters; 0 without.
    """
    tokens = sum(lengths)
    weights = sum(k * n for k, n in model.linears)
    first = sum(k * n for k, n in model.linears[:3])  # nobody asks for the gradient of the embeddings
    layers = 4 * tokens * (model.layers * weights) - 2 * tokens * first
    head = 4 * supervised * model.width * model.vocabulary
    attention = 3 * model.layers * model.width * sum(2 * n * n for n in lengths)
    branches = 6 * tokens * rank * model.layers * sum(k + n for k, n in model.linears)
    return float(layers + head + attention + branches)


def _linear(facts: Facts) -> Cost:
    """Base product, its gradient of x, and the low-rank branch."""
    m, k, n, r, size = *(int(facts[x]) for x in ("m", "k", "n", "rank")), _SIZE[facts["dtype"]]
    flops = 4 * m * n * k + 6 * m * r * (k + n)
    # Forward: x, W, y. Backward: ∂y, W, x again for ∂A, ∂x.
    moved = (3 * m * k + 2 * m * n + 2 * n * k) * size
    return Cost(flops, moved, size == 4)


def _log_probs(facts: Facts) -> Cost:
    t, h, v, size = *(int(facts[x]) for x in ("tokens", "width", "vocabulary")), _SIZE[facts["dtype"]]
    trained = bool(facts["trained"])
    return Cost((6 if trained else 4) * t * h * v, (2 * t * h + (2 if trained else 1) * v * h) * size, size == 4)


def _fusion(facts: Facts) -> Cost:
    t, h, v, e = (int(facts[x]) for x in ("tokens", "width", "vocabulary", "specialists"))
    size, kind = _SIZE[facts["dtype"]], facts["kind"]
    # One head for all: a blend of hidden states and one product suffice, and another for the gate's gradient.
    products, heads = (1, 1) if kind == "shared" else (e, e)
    gradient = kind != "gate"
    moved = (e * t * h * (2 if kind == "hidden" else 1) + heads * v * h) * size
    return Cost((4 if gradient else 2) * products * t * h * v, moved, size == 4)


def _sparse_linear(facts: Facts) -> Cost:
    m, k, n, size = *(int(facts[x]) for x in ("m", "k", "n")), _SIZE[facts["dtype"]]
    entries = facts["density"] * n * k
    return Cost(4 * m * n * k + 2 * m * entries, (3 * m * k + 2 * m * n + 2 * n * k) * size + 4 * entries, size == 4)


def _sparse_gradient(facts: Facts) -> Cost:
    m, k, n, size = *(int(facts[x]) for x in ("m", "k", "n")), _SIZE[facts["dtype"]]
    entries = facts["density"] * n * k
    return Cost(2 * m * entries, m * (k + n) * size + 12 * entries, size == 4)


def _gates(facts: Facts) -> Cost:
    """Parameter and two moments read and written, the gradient read; float32."""
    numbers = int(facts["modules"]) * int(facts["rank"])
    return Cost(20 * numbers, 7 * 4 * numbers, True)


def _tree_attention(facts: Facts) -> Cost:
    """Over ``sees`` pairs of query and key: two products forward, four backward."""
    heads, kv_heads, width, tokens = (int(facts[x]) for x in ("heads", "kv_heads", "width", "tokens"))
    size = _SIZE[facts["dtype"]]
    query, keys = heads * tokens * width * size, 2 * kv_heads * tokens * width * size
    # Forward: query, keys and values, output. Backward: these again, the output's gradient, and three gradients.
    moved = (2 * query + keys) + (3 * query + keys) + (query + keys)
    return Cost(12 * heads * width * int(facts["sees"]), moved, size == 4)


# Benchmark of the suite -> what one run of a workload costs at least.
COSTS: dict[str, Callable[[Facts], Cost]] = {
    "linear": _linear,
    "log_probs": _log_probs,
    "fusion": _fusion,
    "sparse_linear": _sparse_linear,
    "sparse_gradient": _sparse_gradient,
    "gates": _gates,
    "tree_attention": _tree_attention,
}


def low_rank_passes(m: int, k: int, n: int, device: Device, bandwidth: float | None = None) -> dict[str, float]:
    """µs that the reads and writes of x, y and their gradients take in the low-rank branch alone, by how it is written.

    Tensors of M × r and the accumulation that the big product hides are left out. docs/decisions/kernels.md quotes these.

    Args:
        m: rows of x.
        k: its columns.
        n: columns of y.
        device: whose bandwidth counts.
        bandwidth: bytes a second that were reached, in place of the data sheet's.
    """
    wide, deep = 2 * m * k, 2 * m * n  # bytes of x and of y in half precision
    rate = bandwidth or device.bandwidth
    # Forward: x read for t, y's small term written. Backward: ∂y read for u, ∂y for ∂B, x for ∂A, ∂x's small term written.
    passes = {
        "six launches": 3 * wide + 3 * deep,
        "∂y read once": 3 * wide + 2 * deep,
        "small terms inside the big products": 2 * wide + deep,
    }
    return {name: 1e6 * moved / rate for name, moved in passes.items()}
