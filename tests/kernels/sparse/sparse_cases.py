"""Inputs of sparse layers for tests."""

from __future__ import annotations

import pytest
import torch

from fulgurite.kernels.sparse import delta as sparse_delta

# Without it layers keep their inputs: the same numbers, more memory.
TELLS = sparse_delta._HOOKS is not None
tells_of_hooks = pytest.mark.skipif(not TELLS, reason=f"torch {torch.__version__} does not tell of saved-tensor hooks")


def positions(n, numel, seed=0):
    return torch.randperm(numel, generator=torch.Generator().manual_seed(seed))[:n].sort()[0]


def make(shape, outputs, n, dtype, *, transposed=False, bias=True, index=None, seed=0):
    """Inputs drawn in ``dtype``, so that the float64 reference sees the very same numbers."""
    g = torch.Generator().manual_seed(seed)
    k = shape[-1]
    weight = torch.randn(*((k, outputs) if transposed else (outputs, k)), generator=g).to(dtype)
    index = positions(n, weight.numel(), seed) if index is None else index
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        "x": torch.randn(*shape, generator=g).to(dtype).requires_grad_(),
        "weight": weight.requires_grad_(),
        "bias": torch.randn(outputs, generator=g).to(dtype).requires_grad_() if bias else None,
        "delta": torch.randn(index.numel(), generator=g, dtype=wide).requires_grad_(),
        "index": index,
    }
