"""The one switch that chooses who computes a kernel: Triton or plain PyTorch.

``auto`` takes Triton where a Triton implementation is registered for the kernel, the tensors lie on a GPU and Triton can
be imported; otherwise PyTorch. The setting is process-wide on purpose: autograd runs backward passes in threads of
its own, where a thread-local or context-local setting would not be seen.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

__all__ = ["BACKENDS", "current_backend", "has_triton", "register_triton", "resolve", "use_backend"]

BACKENDS = ("auto", "triton", "torch")

_setting = "auto"
_triton_kernels: dict[str, Callable[..., Any]] = {}


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


def register_triton(kernel: str, function: Callable[..., Any]) -> None:
    """Make ``function`` the Triton implementation of the kernel called ``kernel``."""
    _triton_kernels[kernel] = function


def resolve(kernel: str, tensor: torch.Tensor) -> Callable[..., Any] | None:
    """The Triton implementation to call for ``kernel`` on ``tensor``'s device, or None for the PyTorch path.

    Raises:
        RuntimeError: ``use_backend("triton")`` is in force and Triton cannot compute this kernel here.
    """
    if _setting == "torch":
        return None
    function = _triton_kernels.get(kernel)
    if _setting == "auto":
        return function if function is not None and tensor.is_cuda and has_triton() else None
    if not tensor.is_cuda:
        raise RuntimeError(
            f"{kernel}: backend 'triton' was asked for, but the tensor is on {tensor.device}; "
            "Triton kernels need a GPU. Move the tensors there, or use use_backend('auto')."
        )
    if function is None:
        known = ", ".join(sorted(_triton_kernels)) or "none in this version"
        raise RuntimeError(
            f"{kernel}: backend 'triton' was asked for, but this kernel has no Triton implementation "
            f"(those that have: {known}). Use use_backend('auto')."
        )
    return function


def _require_triton() -> None:
    if not has_triton():
        raise RuntimeError(
            "use_backend: 'triton' was asked for, but the package triton is not installed. "
            "Install it (pip install triton), or use 'auto'."
        )
    if not torch.cuda.is_available():
        raise RuntimeError(
            "use_backend: 'triton' was asked for, but this machine has no GPU that PyTorch can use. Use 'auto' or 'torch'."
        )
