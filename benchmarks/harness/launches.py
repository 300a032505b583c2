"""What each Triton kernel would be launched with, noted without a GPU.

The launchers run on ``meta`` tensors of real shapes while a recorder stands in the kernel's place. Each function here returns
the launches of one family of kernels as pairs (kernel, arguments by name).
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "DTYPES",
    "FEATURES",
    "fused_launches",
    "log_probs_launches",
    "proximal_launches",
    "recorded_launches",
    "sparse_launches",
]

DTYPES = ("bfloat16", "float16", "float32")
FEATURES = 4096  # K and N of a 7-billion-parameter model


class _Recorder:
    """Stands where a kernel stood: notes what it would be launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._launch

    def _launch(self, *args: Any, **kwargs: Any) -> None:
        self.launches.append((self.kernel, {**dict(zip(self.kernel.arg_names, args)), **kwargs}))


def recorded_launches(
    dtype: str, rank: int, rows: int, dropout: float, features: int = FEATURES
) -> list[tuple[Any, dict[str, Any]]]:
    """(kernel, arguments by name) of a forward and a backward of the gated linear layer, with bias, float32 adapters."""
    import torch

    from fulgurite.kernels.low_rank import triton_launch

    wide, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    x, weight = empty(rows, features, dtype=wide), empty(features, features, dtype=wide)
    a, gate, b, bias = empty(rank, features), empty(rank), empty(features, rank), empty(features, dtype=wide)
    seed = empty((), dtype=torch.int64) if dropout else None
    names = [name for name in vars(triton_launch) if name.endswith("_kernel")]
    kernels = {name: getattr(triton_launch, name) for name in names}
    try:
        for name, kernel in kernels.items():
            setattr(triton_launch, name, _Recorder(kernel, launches))
        y, t = triton_launch.forward(x, weight, bias, a, gate, b, seed, 2.0, dropout)
        triton_launch.backward(y, x, weight, a, gate, b, t, seed, 2.0, dropout, True, True, True, True)
    finally:
        for name, kernel in kernels.items():
            setattr(triton_launch, name, kernel)
    return launches


def proximal_launches() -> list[tuple[Any, dict[str, Any]]]:
    """The step over a small arena and over a large one, both rules."""
    import torch

    from fulgurite.kernels.steps import triton_proximal
    from fulgurite.kernels.steps.proximal import PROX_RULES, AdamW

    launches: list[tuple[Any, dict[str, Any]]] = []
    kernel = triton_proximal.proximal_adamw_kernel
    triton_proximal.proximal_adamw_kernel = _Recorder(kernel, launches)
    try:
        for n in (3584, 1 << 20):
            for prox in PROX_RULES:
                arenas = [torch.empty(n, device="meta") for _ in range(4)]
                step = torch.empty((), device="meta")
                settings = AdamW(1e-3, 0.9, 0.999, 1e-8, 0.0, 1e-3, prox)
                triton_proximal.proximal_adamw_step_(*arenas, step, settings)
    finally:
        triton_proximal.proximal_adamw_kernel = kernel
    return launches


def log_probs_launches(dtype: str, vocabulary: int = 32000) -> list[tuple[Any, dict[str, Any]]]:
    """Statistics with gradient, the backward's gradient alone, and validation's scores; with and without a cap."""
    import torch

    from fulgurite.kernels.log_probs import triton_kernel as triton_log_probs
    from fulgurite.kernels.log_probs.outcome import Known, Needs, Request
    from fulgurite.kernels.log_probs.products import Head

    narrow, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=narrow: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    kernel = triton_log_probs.log_probs_kernel
    triton_log_probs.log_probs_kernel = _Recorder(kernel, launches)
    rows, weight, targets = empty(2048, 64), empty(vocabulary, 64), empty(2048, dtype=torch.int64)
    each = empty(2048, dtype=torch.float32)
    try:
        for softcap in (None, 30.0):
            head = Head(weight, None, None, 1.0, softcap)
            run = lambda *rest, head=head: triton_log_probs.linear_log_probs(rows, None, head, targets, Request(*rest))  # noqa: E731
            run(None, None, Needs(rows=True), False)
            run(None, each, Needs(rows=True, weight=True), False)
            run(Known(each, each, each), each, Needs(rows=True, weight=True), False)
            run(None, None, Needs(), True)
    finally:
        triton_log_probs.log_probs_kernel = kernel
    return launches


def sparse_launches(dtype: str, rows: int = 8192, features: int = FEATURES) -> list[tuple[Any, dict[str, Any]]]:
    """The union kernel on masks whose blocks of 64 rows select up to 10, 30 and 254 columns (0.1 % of 4096²), and the picking."""
    import torch

    from fulgurite.kernels.sparse import triton_picked
    from fulgurite.kernels.sparse import triton_union as triton_sparse_delta
    from fulgurite.kernels.sparse.plan import UNION_ROWS, UnionColumns

    narrow, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=torch.int32: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    blocks, n = -(-features // UNION_ROWS), -(-features * features // 1000)
    sides = [empty(rows, features, dtype=narrow) for _ in range(2)]
    kernels = [
        (module, name, getattr(module, name))
        for module in (triton_sparse_delta, triton_picked)
        for name in ("union_kernel", "transpose_kernel", "pick_kernel")
        if hasattr(module, name)
    ]
    for module, name, kernel in kernels:
        setattr(module, name, _Recorder(kernel, launches))
    try:
        triton_picked.picked_entries(
            empty(features, dtype=narrow), empty(n, dtype=torch.int64), empty(n, dtype=torch.float32), 0, n, 0
        )
        for widest in (10, 30, 254):
            wide = min(widest, features)
            u = blocks * wide
            union = UnionColumns(empty(blocks + 1), empty(u), empty(u, dtype=torch.int64), empty(u), empty(n), wide)
            triton_sparse_delta.launch(*sides, union)
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)
    return launches


def fused_launches(dtype: str, number: int, vocabulary: int = 32000) -> list[tuple[Any, dict[str, Any]]]:
    """The gate alone, hidden states as well, and the backward of trained heads, for some specialists; with and without a cap."""
    import torch

    from fulgurite.kernels.fusion import triton_kernel as triton_fused
    from fulgurite.kernels.fusion.blocks import Specialist
    from fulgurite.kernels.log_probs.outcome import Known, Needs
    from fulgurite.kernels.log_probs.products import Head

    narrow, launches = getattr(torch, dtype), []
    empty = lambda *shape, dtype=narrow: torch.empty(*shape, dtype=dtype, device="meta")  # noqa: E731
    kernel = triton_fused.fused_log_probs_kernel
    triton_fused.fused_log_probs_kernel = _Recorder(kernel, launches)
    rows, weight, targets = empty(2048, 64), empty(vocabulary, 64), empty(2048, dtype=torch.int64)
    each, gate = empty(2048, dtype=torch.float32), empty(2048, number, dtype=torch.float32)
    try:
        for softcap in (None, 30.0):
            specialists = [Specialist(rows, None, Head(weight, None, None, 1.0, softcap))] * number
            run = lambda known, weighing, needs, group=specialists: triton_fused.fused_log_probs(  # noqa: E731
                group, gate, targets, known, weighing, [needs] * number
            )
            run(None, None, Needs())
            run(None, None, Needs(rows=True))
            run(Known(each, each, each), each, Needs(rows=True, weight=True))
    finally:
        triton_fused.fused_log_probs_kernel = kernel
    return launches
