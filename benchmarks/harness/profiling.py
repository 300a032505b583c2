"""What a step is made of: operators or kernels, host synchronisations, bytes moved against the floor.

CPU: every operator that reaches a backend is counted as it is dispatched, and the bytes of its inputs and outputs added up
(views move nothing). Operators that would make a GPU's host wait are counted by name. CUDA: kernels, waits and gaps from the
profiler, bytes as on the CPU; what a Triton kernel does inside counts as its operator's inputs and outputs. A gap is time between
the first and the last kernel of a step in which none runs: there the GPU waits for the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["profile_step", "summarise"]

_SYNCHRONISING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_STEP = "fulgurite step"


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.moved = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func.is_view or name in ("detach", "empty", "empty_like", "empty_strided", "set_"):
            return out
        self.calls[name] += 1
        self.waits += name in _SYNCHRONISING
        # Indexing by a boolean mask asks the device how many elements there are.
        masks = name in ("index", "index_put_", "index_put") and any(t.dtype == torch.bool for t in tensors)
        self.waits += masks
        results = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        known = {t.data_ptr() for t in tensors}
        fresh = [t for t in results if t.data_ptr() not in known]
        written_in_place = [t for t in results if t.data_ptr() in known]
        self.moved += sum(t.numel() * t.element_size() for t in tensors + fresh + written_in_place)
        return out


def profile_step(step: Callable[[], Any], device: str) -> dict[str, Any]:
    """Counts of one step, after two warm-up steps.

    Returns:
        ``operators`` and ``bytes``, ``synchronisations``, the five ``most_called``; on CUDA also ``kernels``, ``launches``
        from the host (a replayed graph is one), and ``host_ms``, ``busy_ms`` and ``gap_ms``.
    """
    for _ in range(2):
        step()
    with _Counter() as counter:
        step()
    result = {
        "operators": counter.calls.total(),
        "synchronisations": counter.waits,
        "bytes": counter.moved,
        "most_called": dict(counter.calls.most_common(5)),
    }
    if device.startswith("cuda"):
        from torch.profiler import ProfilerActivity, profile, record_function

        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            with record_function(_STEP):
                step()
            torch.cuda.synchronize()
        result |= summarise(trace.events())
    return result


def summarise(events: Iterable[Any]) -> dict[str, Any]:
    """What the profiler's events say of the one step that stands in a range called ``fulgurite step``.

    Args:
        events: with name, device_type and time_range (start and end in µs).
    """
    events = list(events)
    on_host = [e for e in events if e.device_type != torch.autograd.DeviceType.CUDA]
    (whole,) = [e for e in on_host if e.name == _STEP]
    # The profiler's own synchronisation, and ours behind the step, lie outside of its range.
    inside = [e for e in on_host if whole.time_range.start <= e.time_range.start <= whole.time_range.end]
    # The range itself appears on the device's side as well.
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA and e.name != _STEP]
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)
    busy, reached = 0.0, spans[0][0] if spans else 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return {
        "kernels": sum(1 for e in kernels if not e.name.startswith(("Memcpy", "Memset"))),
        "launches": sum(1 for e in inside if e.name.startswith(_LAUNCHES)),
        "synchronisations": sum(1 for e in inside if e.name in _WAITS),
        "host_ms": (whole.time_range.end - whole.time_range.start) / 1e3,
        "busy_ms": busy / 1e3,
        "gap_ms": (reached - spans[0][0] - busy) / 1e3 if spans else 0.0,
    }
