"""AdamW that lets marked groups take a proximal step after each update: sparse gates for SoRA.

A group with a ``threshold`` (not None) is updated as p ← prox_τ(p − lr·m̂/(√v̂ + eps)) with

* ``threshold_scaling="constant"``: τ = threshold at every step. This is what SoRA's released code does; the paper (arXiv
  2311.11696) collapses η_t·λ into one number ξ.
* ``threshold_scaling="lr"``: τ = threshold · lr_t / peak_lr, the textbook proximal step of η_t·λ that the paper's equation
  states, with λ = threshold / peak_lr, so that the number given keeps ξ's unit: it is the threshold at the peak.

Why it matters: an Adam step is at most about lr_t, so once a decaying lr_t falls below a constant threshold no gate can
grow and all of them shrink until the end.

All proximal parameters of a group lie in flat arenas (values, gradients, both moments): the step is one kernel over
thousands of gates instead of some twenty small operations per module. Users still see ordinary parameters and gradients, which
are views into the arenas; a gradient that somebody replaced is copied into its arena before the step.

Groups without a threshold are updated by torch.optim.AdamW; parameters in half precision are stepped through float32 masters
(:mod:`fulgurite.optim.masters`). Deviation from the released SparseAdamW: eps is added to the
bias-corrected √v̂ (PyTorch's AdamW), not to √v before correction (transformers' old AdamW).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fulgurite.kernels.steps.proximal import PROX_RULES, proximal_adamw_step_
from fulgurite.optim.masters import (
    Kept,
    keep_master,
    needs_master,
    release_master,
    restore_masters,
    to_masters,
    write_back,
)

__all__ = ["ProximalAdamW"]

_SCALINGS = ("constant", "lr")
_grad_of = operator.attrgetter("grad")


class _Arena:
    """Flat storage for the proximal parameters of one group on one device: values, gradients, moments, all (n,)."""

    def __init__(self, params: list[torch.nn.Parameter], state: dict[Any, dict[str, Any]]) -> None:
        self.params = params
        sizes = [p.numel() for p in params]
        first = params[0]
        self.value, self.grad, self.exp_avg, self.exp_avg_sq = (
            torch.zeros(sum(sizes), dtype=first.dtype, device=first.device) for _ in range(4)
        )
        self.step_count = torch.zeros((), device=first.device)
        self._rebinds = self._calls = 0
        values, self.grads, means, variances = (
            [piece.view_as(p) for piece, p in zip(flat.split(sizes), params, strict=True)]
            for flat in (self.value, self.grad, self.exp_avg, self.exp_avg_sq)
        )
        for p, value, grad, mean, variance in zip(params, values, self.grads, means, variances, strict=True):
            value.copy_(p.detach())
            if p.grad is not None:
                grad.copy_(p.grad)
            if old := state.get(p):
                mean.copy_(old["exp_avg"])
                variance.copy_(old["exp_avg_sq"])
                self.step_count.fill_(float(old["step"]))
            state[p] = {"step": self.step_count, "exp_avg": mean, "exp_avg_sq": variance}
            p.data = value
            p.grad = grad
        self.pointers = [p.data_ptr() for p in params]

    def ready(self) -> bool:
        """Whether all values and gradients lie here; gradients that something replaced or dropped are brought back.

        False if a parameter was moved, resized or replaced: then the arena has to be packed anew. The ends are looked at on
        every call, the rest on every 16th, because 224 look-ups cost as much as the step itself.
        """
        self._calls += 1
        watched = range(len(self.params)) if self._calls % 16 == 0 else (0, -1)
        if any(self.params[i].data_ptr() != self.pointers[i] for i in watched):
            return False
        if all(map(operator.is_, map(_grad_of, self.params), self.grads)):
            return True
        loose = [(p, view) for p, view in zip(self.params, self.grads, strict=True) if p.grad is not view]
        if any(p.shape != view.shape for p, view in loose):
            return False
        for p, view in loose:
            if p.grad is None:
                view.zero_()
            elif p.grad.data_ptr() != view.data_ptr():
                view.copy_(p.grad)
            if self._rebinds < 3 or p.grad is None:
                p.grad = view
        # Somebody, such as DDP with its bucket views, replaces the gradients at every step: after three tries we leave them, and
        # copy their values into the arena instead.
        self._rebinds += 1
        return True

    def zero_grad(self) -> None:
        self.grad.zero_()
        for p, view in zip(self.params, self.grads, strict=True):
            if p.grad is not view:
                if self._rebinds < 3 or p.grad is None:
                    p.grad = view
                else:
                    p.grad.zero_()


class ProximalAdamW(torch.optim.AdamW):
    """AdamW with a proximal step on the groups that carry a ``threshold``.

    Args:
        params: parameters or groups, as ``adapter.param_groups(...)`` gives them. Group keys beside AdamW's: ``threshold``
            (None: plain AdamW), ``threshold_scaling`` ("constant" or "lr"), ``peak_lr`` (for "lr"; default: the group's lr
            when it is added), ``prox`` ("soft" or "reference"), ``proximal_eps`` (``eps`` of this group).
        lr: learning rate of groups that name none.
        betas: decay of both moments.
        eps: added to the denominator.
        weight_decay: decoupled decay.
        foreach: passed to torch.optim.AdamW for the plain groups.
        fused: passed to torch.optim.AdamW for the plain groups; default: fused on the CPU, PyTorch's choice elsewhere.

    Proximal parameters keep a zero gradient instead of None after ``zero_grad`` and are therefore updated at every step,
    whether or not their layer ran.

    Raises:
        ValueError: a negative threshold, an unknown rule, or proximal parameters in half precision, where small steps
            round to nothing.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        self._arenas: dict[int, list[_Arena]] = {}
        self._packed: dict[int, tuple[list[torch.nn.Parameter], int]] = {}
        self._rounded: list[Kept] = []
        self._cast: dict[torch.Tensor, torch.dtype] = {}
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=foreach, fused=fused)
        self._leave_scaling_to_the_scaler()

    def _leave_scaling_to_the_scaler(self) -> None:
        """A GradScaler leaves unscaling and skipping to fused optimizers, which proximal groups do not do."""
        if any(group["threshold"] is not None for group in self.param_groups):
            self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see the class for the keys that a proximal group has."""
        param_group.setdefault("threshold", None)
        if param_group["threshold"] is not None:
            param_group.setdefault("threshold_scaling", "constant")
            param_group.setdefault("peak_lr", param_group.get("lr", self.defaults["lr"]))
            param_group.setdefault("prox", "soft")
        if "proximal_eps" in param_group:  # a name that other optimizers pass over: Adafactor's eps is a pair
            param_group.setdefault("eps", param_group.pop("proximal_eps"))
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _check_group(group)
        if group["threshold"] is None and group["fused"] is None and group["foreach"] is None:
            group["fused"] = _fused_wins(group) or None
        self._leave_scaling_to_the_scaler()

    def keep_masters(self, parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype = torch.bfloat16) -> None:
        """Step float32 parameters through masters of their own, because autocast casts them to `dtype` in each forward.

        The parameters then hold the rounded masters, so that small steps reach the forward; 4 bytes a parameter more.

        Args:
            parameters: float32, of groups without a threshold, whose values `dtype` holds.
            dtype: what autocast casts them to.
        """
        self._cast = dict.fromkeys(parameters, dtype)

    def _kept(self, parameter: torch.Tensor) -> torch.dtype | None:
        """What a parameter with a master is rounded to; None for one that is stepped itself."""
        return parameter.dtype if needs_master(parameter) else self._cast.get(parameter)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all groups; ``closure`` reevaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if any(group["threshold"] is None for group in self.param_groups):
            _plain_adamw_step(self)
            write_back(self._rounded)
            self._rounded = []
        for index, group in enumerate(self.param_groups):
            if group["threshold"] is not None:
                self._proximal_step(index, group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in PyTorch, but proximal gradients are zeroed in place: they are views of an arena."""
        kept: set[int] = set()
        for arenas in self._arenas.values():
            for arena in arenas:
                arena.zero_grad()
                kept.update(map(id, arena.params))
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and id(p) not in kept:
                    if set_to_none:
                        p.grad = None
                    else:
                        p.grad = p.grad.detach().zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in PyTorch; the arenas are packed anew at the next step."""
        super().load_state_dict(state_dict)
        restore_masters(self, state_dict)
        self._arenas.clear()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._arenas, self._packed, self._rounded = {}, {}, []
        self.__dict__.setdefault("_cast", {})  # loading a state comes here too, and changes nothing of it
        for group in self.param_groups:
            group.setdefault("threshold", None)

    def _init_group(self, group: dict[str, Any], *lists: Any) -> bool:
        if group["threshold"] is not None:
            return False
        for p in group["params"]:
            if p.grad is None:
                continue
            if (dtype := self._kept(p)) is not None:
                on_device = bool(group["capturable"] or group["fused"])
                step = torch.zeros((), dtype=torch.float32, device=p.device if on_device else "cpu")
                keep_master(p, self.state[p], step=step, amsgrad=group["amsgrad"], dtype=dtype)
            elif p in self.state and "master" in self.state[p]:
                release_master(p, self.state[p])
        complex_ = bool(super()._init_group(group, *lists))
        self._rounded += to_masters(lists[0], lists[1], self.state, self._kept)
        return complex_

    def _proximal_step(self, index: int, group: dict[str, Any]) -> None:
        arenas = self._arenas.get(index)
        params = group["params"]
        # Who replaces parameters (pruning does) gives the group a new list; comparing 224 entries would cost as the step does.
        packed = self._packed.get(index)
        same = packed is not None and packed[0] is params and packed[1] == len(params)
        if arenas is None or not same or not all(a.ready() for a in arenas):
            arenas = self._arenas[index] = self._pack(group)
            self._packed[index] = params, len(params)
        beta1, beta2 = group["betas"]
        lr = float(group["lr"])
        threshold = group["threshold"]
        if group["threshold_scaling"] == "lr":
            threshold = threshold * lr / group["peak_lr"] if group["peak_lr"] else 0.0
        for arena in arenas:
            proximal_adamw_step_(
                arena.value,
                arena.grad,
                arena.exp_avg,
                arena.exp_avg_sq,
                step=arena.step_count,
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                threshold=threshold,
                prox=group["prox"],
            )

    @torch.no_grad()
    def _pack(self, group: dict[str, Any]) -> list[_Arena]:
        places: dict[Any, list[torch.nn.Parameter]] = {}
        for p in group["params"]:
            places.setdefault((p.device, p.dtype), []).append(p)
        return [_Arena(params, self.state) for params in places.values()]


def _plain_adamw_step(optimizer: ProximalAdamW) -> None:
    """torch.optim.AdamW's step without its hook wrapper: ours already runs the optimizer's step hooks, once."""
    plain: Any = torch.optim.AdamW.step
    while getattr(plain, "hooked", False):
        plain = plain.__wrapped__
    plain(optimizer)


def _fused_wins(group: dict[str, Any]) -> bool:
    """On the CPU PyTorch loops over parameters by default; its fused step took 1.2 ms where the loop took 3.9 (42 adapters of
    a 768-wide model, two cores). Elsewhere PyTorch's own default stays: under fp16 a fused step forbids gradient clipping."""
    if group.get("capturable") or group.get("differentiable"):
        return False
    return all(p.device.type == "cpu" and p.dtype.is_floating_point for p in group["params"])


def _check_group(group: dict[str, Any]) -> None:
    if group["threshold"] is None:
        return
    if not group["threshold"] >= 0:
        raise ValueError(
            f"ProximalAdamW: threshold={group['threshold']}; it must be a number >= 0, or None for plain AdamW."
        )
    if group["threshold_scaling"] not in _SCALINGS:
        raise ValueError(f"ProximalAdamW: threshold_scaling={group['threshold_scaling']!r}; allowed are {_SCALINGS}.")
    if group["prox"] not in PROX_RULES:
        raise ValueError(f"ProximalAdamW: prox={group['prox']!r}; allowed are {PROX_RULES}.")
    narrow = {str(p.dtype) for p in group["params"] if p.dtype not in (torch.float32, torch.float64)}
    if narrow:
        raise ValueError(
            f"ProximalAdamW: proximal parameters in {', '.join(sorted(narrow))}; small steps are lost there. "
            "Keep gates in float32 and let autocast or the layer round them for the products."
        )
