"""``log_probs``: log-probabilities of tokens or their mean under an output head, forward and backward, head frozen or trained.

The floor is plain torch, which holds tokens × vocabulary several times. TRL's way since 1.14 is its ``ChunkedLogProbFunction``,
with the chunk that its trainers take; before, it was ``selective_log_softmax`` on the logits of four sequences. Liger's fused loss
needs a GPU. All tokens are supervised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.contenders.low_rank import why_not
from benchmarks.contenders.trl import trl_missing
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, generator_on, largest_error
from fulgurite.kernels import linear_cross_entropy, linear_log_probs, reference

__all__ = ["BENCHMARK", "Case", "prepare"]

# One spacing of the dtype at the largest entry, and for float32 the order of summation over thousands of terms.
_SLACK = {torch.float32: 5e-6, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}
_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_SEQUENCES = 4
_TRL, _TRL_CHUNK = "TRL ChunkedLogProbFunction", 32768


@dataclass(frozen=True)
class Case:
    """Tokens, width of the hidden state, vocabulary; ``scalar``: the mean loss, else log-probabilities."""

    tokens: int
    width: int
    vocabulary: int
    dtype: torch.dtype
    scalar: bool
    trained: bool
    device: str = "cpu"

    def __str__(self) -> str:
        what = "loss" if self.scalar else "log-probs"
        sizes = f"{self.tokens}x{self.width}x{self.vocabulary} {_SHORT[self.dtype]}"
        return f"{sizes} {what}, head {'trained' if self.trained else 'frozen'}"


class _Batch:
    """Hidden states, the head's weight, targets, and the gradient that comes in."""

    def __init__(self, case: Case) -> None:
        generator = generator_on(case.device)
        random = partial(torch.randn, generator=generator, device=case.device)
        place = {"device": case.device, "dtype": case.dtype}
        self.hidden = random(case.tokens, case.width).to(**place).requires_grad_()
        self.weight = (random(case.vocabulary, case.width) / case.width**0.5).to(**place).requires_grad_(case.trained)
        self.targets = torch.randint(case.vocabulary, (case.tokens,), generator=generator, device=case.device)
        self.grad = torch.ones((), device=case.device) if case.scalar else random(case.tokens)


def _plain(batch: _Batch, scalar: bool) -> torch.Tensor:
    logits = F.linear(batch.hidden, batch.weight).float()
    if scalar:
        return F.cross_entropy(logits, batch.targets)
    return logits.log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)


def _trl(batch: _Batch, scalar: bool) -> torch.Tensor:
    """TRL's fused head, as :mod:`trl.trainer.utils` calls it for its log-probabilities alone."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer import utils

    chunk = getattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", _TRL_CHUNK)
    found: torch.Tensor = ChunkedLogProbFunction.apply(
        batch.hidden, batch.weight, None, batch.targets, 1.0, chunk, None, 1.0, ()
    )[0]
    return -found.mean() if scalar else found


def _trl_before(batch: _Batch, scalar: bool) -> torch.Tensor:
    """``selective_log_softmax`` of TRL before 1.14, whose loops run over the sequences of a batch."""
    logits = F.linear(batch.hidden, batch.weight).unflatten(0, (_SEQUENCES, -1))
    index = batch.targets.unflatten(0, (_SEQUENCES, -1)).unsqueeze(-1)
    if logits.dtype == torch.float32:
        chosen = logits.gather(-1, index).squeeze(-1)
        found = chosen - torch.stack([torch.logsumexp(row, -1) for row in logits])
    else:
        rows = [row.log_softmax(-1).gather(-1, i).squeeze(-1) for row, i in zip(logits, index, strict=True)]
        found = torch.stack(rows).float()
    return -found.mean() if scalar else found.flatten()


def _torch_chunked(batch: _Batch, scalar: bool) -> torch.Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    found = F.linear_cross_entropy(
        batch.hidden, batch.weight, batch.targets, reduction="mean" if scalar else "none", options=options
    )
    return found if scalar else -found.float()


def _liger(batch: _Batch, scalar: bool) -> torch.Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(batch.weight, batch.hidden, batch.targets)


def _ours(batch: _Batch, scalar: bool) -> torch.Tensor:
    function = linear_cross_entropy if scalar else linear_log_probs
    return function(batch.hidden, batch.weight, batch.targets)


_WAYS: dict[str, Callable[[_Batch, bool], torch.Tensor]] = {
    "plain torch": _plain,
    "torch linear_cross_entropy": _torch_chunked,
    _TRL: _trl,
    "TRL before 1.14": _trl_before,
    "Liger": _liger,
    OURS: _ours,
}


def prepare(contender: str, case: Case, batch: _Batch) -> Step:
    """One contender's forward and backward on a batch."""
    way = _WAYS[contender]

    def run() -> torch.Tensor:
        batch.hidden.grad = batch.weight.grad = None
        out = way(batch, case.scalar)
        out.backward(batch.grad.to(out.dtype))
        return out.detach()

    def results() -> dict[str, torch.Tensor]:
        out = run()
        found = {"out": out, "d_hidden": batch.hidden.grad, "d_weight": batch.weight.grad}
        return {name: value for name, value in found.items() if value is not None}

    plain = None if contender == "plain torch" else partial(_by_plain_torch, case)
    return Step(run, results, partial(_expected, case), plain, _SLACK[case.dtype] * (3 if plain is None else 1))


@lru_cache(maxsize=1)
def _by_plain_torch(case: Case) -> dict[str, torch.Tensor]:
    return dict(prepare("plain torch", case, _Batch(case)).results())


@lru_cache(maxsize=1)
def _expected(case: Case) -> dict[str, torch.Tensor]:
    """The same in float64, 512 tokens at a time."""
    batch = _Batch(case)
    hidden, weight = batch.hidden.detach().double(), batch.weight.detach().double().requires_grad_(case.trained)
    parts, grads = [], []
    for chunk in torch.arange(case.tokens, device=case.device).split(512):
        part = hidden[chunk].requires_grad_()
        out = reference.linear_log_probs(part, weight, batch.targets[chunk])
        out.backward(-torch.ones_like(out) / case.tokens if case.scalar else batch.grad[chunk].double())
        parts.append(out.detach())
        grads.append(part.grad)
    out = -torch.cat(parts).mean() if case.scalar else torch.cat(parts)
    found = {"out": out, "d_hidden": torch.cat([g for g in grads if g is not None])}
    return {**found, "d_weight": weight.grad} if weight.grad is not None else found


def _why_not(contender: str, case: Case) -> str | None:
    if contender == "torch linear_cross_entropy" and not hasattr(F, "linear_cross_entropy"):
        return f"torch {torch.__version__} has none"
    if contender == _TRL:
        return trl_missing("ChunkedLogProbFunction")
    if contender == "Liger":
        if not case.scalar:
            return "gives the loss only"
        return why_not("Liger", case.device, case.dtype, False)
    return None


def _workload(case: Case) -> Workload:
    contenders: dict[str, Callable[[Any], Step] | str] = {
        name: _why_not(name, case) or partial(prepare, name, case) for name in _WAYS
    }
    facts = {
        "tokens": case.tokens, "width": case.width, "vocabulary": case.vocabulary, "dtype": _SHORT[case.dtype],
        "scalar": case.scalar, "trained": case.trained,
    }  # fmt: skip
    return Workload(str(case), facts, partial(_Batch, case), contenders, floor="plain torch")


def _workloads(settings: Settings) -> list[Workload]:
    if settings.toy:
        sizes = [Case(32, 16, 100, torch.float32, False, False, settings.device)]
    elif settings.device.startswith("cuda"):
        first = Case(8192, 4096, 32000, torch.bfloat16, False, False, settings.device)
        sizes = [first, replace(first, vocabulary=128256)]
    else:
        sizes = [Case(2048, 512, 32000, torch.float32, False, False)]
    kinds = [(scalar, trained) for scalar in (False, True) for trained in (False, True)]
    return [_workload(replace(size, scalar=scalar, trained=trained)) for size in sizes for scalar, trained in kinds]


BENCHMARK = Benchmark(
    "log_probs",
    "Log-probabilities or mean loss under an output head, forward and backward, the head frozen or trained.",
    _workloads,
    largest_error,
)
