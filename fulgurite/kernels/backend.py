"""The one switch that chooses who computes a kernel: Triton or plain PyTorch.

``auto`` takes Triton where the kernel's Triton implementation has won its benchmark on a GPU (``_PROVEN``, from
benchmarks/results/) at about this size, does not refuse these tensors, they lie on a GPU and Triton can be imported; otherwise
PyTorch. ``use_backend("triton")`` takes it wherever it can compute.

Triton is imported at the first call that takes it, never before. The setting is process-wide on purpose: autograd runs
backward passes in threads of its own, where a thread-local or context-local setting would not be seen.

In Triton's interpreter (``TRITON_INTERPRET=1``, for tests) ``use_backend("triton")`` takes tensors on the CPU as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

__all__ = ["BACKENDS", "current_backend", "has_triton", "register_triton", "resolve", "use_backend"]

BACKENDS = ("auto", "triton", "torch")

_log = logging.getLogger(__name__)
_setting = "auto"
# Kernel -> the module that implements it: a function of the kernel's name, and ``refusal`` with its tensors as arguments.
_triton_modules: dict[str, str] = {
    "fused_log_probs": "fulgurite.kernels.fusion.triton_kernel",
    "gated_lora_linear": "fulgurite.kernels.low_rank.triton_autograd",
    "linear_log_probs": "fulgurite.kernels.log_probs.triton_kernel",
    "picked_entries": "fulgurite.kernels.sparse.triton_picked",
    "proximal_adamw_step_": "fulgurite.kernels.steps.triton_proximal",
    "sparse_delta_gradient": "fulgurite.kernels.sparse.triton_union",
}
# Kernels whose Triton implementation ``auto`` takes. A kernel enters with the result file that shows its win: log_probs_cuda,
# fusion_cuda and sparse_gradient_cuda (which holds both ways of a sparse gradient).
_PROVEN = frozenset({"fused_log_probs", "linear_log_probs", "picked_entries", "sparse_delta_gradient"})
_loaded: dict[str, tuple[Callable[..., Any], Callable[..., str | None], Callable[..., bool] | None]] = {}
_noticed: set[str] = set()


class use_backend:
    """Choose the backend of all kernels: ``use_backend("torch")`` for good, ``with use_backend("torch"):`` for a block.

    Args:
        name: ``"auto"`` (default at start-up), ``"triton"`` (raise where Triton cannot compute it) or ``"torch"``.

    Raises:
        ValueError: the name is none of these.
        RuntimeError: ``"triton"`` on a machine without Triton or without a GPU.
    """

    def __init__(self, name: str) -> None:
        global _setting
        if name not in BACKENDS:
            raise ValueError(f"use_backend: got {name!r}; allowed are {', '.join(map(repr, BACKENDS))}.")
        if name == "triton":
            _require_triton()
        self._previous = _setting
        _setting = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        global _setting
        _setting = self._previous


def current_backend() -> str:
    """The setting in force: ``"auto"``, ``"triton"`` or ``"torch"``."""
    return _setting


def has_triton() -> bool:
    """Whether the ``triton`` package can be found (it is not imported)."""
    return importlib.util.find_spec("triton") is not None


def register_triton(kernel: str, module: str) -> None:
    """Let ``module`` implement ``kernel`` in Triton.

    It is imported at first use and has a function called like the kernel and ``refusal(*tensors) -> str | None``, which
    says why these tensors cannot be computed. It may have ``too_small(*tensors) -> bool``: whether ``auto`` leaves these, which
    it could compute, to PyTorch, because launches cost more than what they save.
    """
    _triton_modules[kernel] = module
    _loaded.pop(kernel, None)


def resolve(kernel: str, *tensors: torch.Tensor | None) -> Callable[..., Any] | None:
    """The Triton implementation to call for ``kernel`` on ``tensors`` (all on the first one's device), or None for PyTorch.

    Raises:
        RuntimeError: ``use_backend("triton")`` is in force and Triton cannot compute this kernel here.
    """
    device = tensors[0].device if tensors[0] is not None else torch.device("cpu")
    if _setting == "torch" or (_setting == "auto" and (device.type != "cuda" or kernel not in _PROVEN)):
        return None
    if device.type != "cuda" and not _interpreting():
        raise RuntimeError(
            f"{kernel}: backend 'triton' was asked for, but the tensor is on {device}; "
            "Triton kernels need a GPU. Move the tensors there, or use use_backend('auto')."
        )
    why_not = _load(kernel)
    if why_not is None:
        function, refusal, too_small = _loaded[kernel]
        why_not = refusal(*tensors)
        if why_not is None:
            return None if _setting == "auto" and too_small is not None and too_small(*tensors) else function
    if _setting == "triton":
        raise RuntimeError(f"{kernel}: backend 'triton' was asked for, but {why_not}. Use use_backend('auto').")
    return None


def _load(kernel: str) -> str | None:
    """Put the Triton implementation of ``kernel`` into ``_loaded``, or say why there is none; 'auto' tells of a lack once."""
    if kernel in _loaded:
        return None
    if kernel not in _triton_modules:
        return f"this kernel has no Triton implementation (those that have: {', '.join(sorted(_triton_modules))})"
    reason = "the package triton is not installed"
    if has_triton():
        try:
            module = importlib.import_module(_triton_modules[kernel])
            _loaded[kernel] = getattr(module, kernel), module.refusal, getattr(module, "too_small", None)
            return None
        except ImportError as error:
            reason = f"the package triton cannot be used ({error})"
    if "triton" not in _noticed:
        _noticed.add("triton")
        _log.warning(
            "The tensors are on a GPU, but %s: fulgurite's kernels run in plain PyTorch. Install triton to make them "
            "faster, or call use_backend('torch') to silence this.",
            reason,
        )
    return reason


# What torch.compiler.assume_constant_result sets: torch.compile calls the function and does not trace it (it cannot trace
# an import). The decorator itself would import torch._dynamo, and with it triton, whenever these kernels are imported.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _require_triton() -> None:
    if not has_triton():
        raise RuntimeError(
            "use_backend: 'triton' was asked for, but the package triton is not installed. "
            "Install it (pip install triton), or use 'auto'."
        )
    if not torch.cuda.is_available() and not _interpreting():
        raise RuntimeError(
            "use_backend: 'triton' was asked for, but this machine has no GPU that PyTorch can use. Use 'auto' or 'torch'."
        )
