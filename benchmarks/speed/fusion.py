"""``fusion``: log-probabilities of tokens under specialists that a gate blends, forward and backward.

The floor is the specialists' projections alone, without which there is no blend; naive autograd is what one writes with three
logits, a weighted sum and log_softmax. Three kinds: the gate alone is trained (UltraFuser's first stage); hidden states as well
(specialists are trained, their heads are not); and the gate over specialists that share one head. All tokens are supervised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, generator_on, largest_error
from fulgurite.kernels import fused_log_probs, reference

__all__ = ["BENCHMARK", "Case", "prepare"]

FLOOR, NAIVE = "the projections alone", "naive autograd"
# One spacing of the dtype at the largest entry, and for float32 the order of summation over thousands of terms.
_SLACK = {torch.float32: 5e-6, torch.bfloat16: 7.8e-3}
_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_ABOUT = {"gate": "gate trained", "hidden": "gate and hidden states trained", "shared": "one head, gate trained"}


@dataclass(frozen=True)
class Case:
    """Tokens, width of the hidden states, vocabulary, specialists; ``kind``: "gate", "hidden" or "shared"."""

    tokens: int
    width: int
    vocabulary: int
    specialists: int
    dtype: torch.dtype
    kind: str
    device: str = "cpu"

    def __str__(self) -> str:
        sizes = f"{self.specialists} x {self.tokens}x{self.width}x{self.vocabulary}"
        return f"{sizes} {_SHORT[self.dtype]}, {_ABOUT[self.kind]}"


class _Batch:
    """Hidden states, heads, gate scores, targets, and the gradient that comes in."""

    def __init__(self, case: Case) -> None:
        generator = generator_on(case.device)
        random = partial(torch.randn, generator=generator, device=case.device)
        place = {"device": case.device, "dtype": case.dtype}
        trained = case.kind == "hidden"
        self.hiddens = [
            random(case.tokens, case.width).to(**place).requires_grad_(trained) for _ in range(case.specialists)
        ]
        heads = 1 if case.kind == "shared" else case.specialists
        self.weights = [(random(case.vocabulary, case.width) / case.width**0.5).to(**place) for _ in range(heads)]
        self.scores = random(case.tokens, case.specialists).requires_grad_()
        self.targets = torch.randint(case.vocabulary, (case.tokens,), generator=generator, device=case.device)
        self.grad = random(case.tokens)

    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each specialist's hidden states and head."""
        heads = self.weights * len(self.hiddens) if len(self.weights) == 1 else self.weights
        return list(zip(self.hiddens, heads, strict=True))


def _naive(batch: _Batch) -> torch.Tensor:
    weights = batch.scores.softmax(-1)
    logits: Any = 0
    for i, (hidden, head) in enumerate(batch.pairs()):
        logits = logits + weights[:, i : i + 1].to(hidden.dtype) * F.linear(hidden, head)
    return logits.float().log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)


def _ours(batch: _Batch) -> torch.Tensor:
    weights = batch.weights[0] if len(batch.weights) == 1 else batch.weights
    return fused_log_probs(batch.hiddens, weights, batch.scores, batch.targets)


_WAYS: dict[str, Callable[[_Batch], torch.Tensor]] = {NAIVE: _naive, OURS: _ours}


def prepare(contender: str, case: Case, batch: _Batch) -> Step:
    """One contender's forward and backward on a batch."""
    way = _WAYS[contender]
    leaves = {"d_scores": batch.scores, **{f"d_hidden{i}": hidden for i, hidden in enumerate(batch.hiddens)}}

    def run() -> torch.Tensor:
        for leaf in leaves.values():
            leaf.grad = None
        out = way(batch)
        out.backward(batch.grad.to(out.dtype))
        return out.detach()

    def results() -> dict[str, torch.Tensor]:
        out = run()
        return {"out": out, **{name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}

    plain = None if contender == NAIVE else partial(_by_naive, case)
    return Step(run, results, partial(_expected, case), plain, _SLACK[case.dtype] * (3 if plain is None else 1))


def _floor(case: Case, batch: _Batch) -> Step:
    """The products that nobody can leave out, 1024 tokens at a time as a chunked loss has them: no result to check."""

    @torch.no_grad()
    def run() -> None:
        hiddens = batch.hiddens[:1] if case.kind == "shared" else batch.hiddens
        for hidden, head in zip(hiddens, batch.weights, strict=True):
            for part in hidden.split(1024):
                product = F.linear(part, head)
                if (
                    case.kind != "gate"
                ):  # hidden states' gradients, and those of a blend under one head, are a second product
                    product @ head

    return Step(run, dict, dict)


@lru_cache(maxsize=1)
def _by_naive(case: Case) -> dict[str, torch.Tensor]:
    return dict(prepare(NAIVE, case, _Batch(case)).results())


@lru_cache(maxsize=1)
def _expected(case: Case) -> dict[str, torch.Tensor]:
    """The same in float64, 256 tokens at a time."""
    batch = _Batch(case)
    heads = [head.double() for _, head in batch.pairs()]
    parts: list[dict[str, torch.Tensor]] = []
    for chunk in torch.arange(case.tokens, device=case.device).split(256):
        hiddens = [h.detach()[chunk].double().requires_grad_(h.requires_grad) for h in batch.hiddens]
        scores = batch.scores.detach()[chunk].double().requires_grad_()
        out = reference.fused_log_probs(hiddens, heads, scores, batch.targets[chunk])
        out.backward(batch.grad[chunk].double())
        found = {
            "out": out.detach(),
            "d_scores": scores.grad,
            **{f"d_hidden{i}": h.grad for i, h in enumerate(hiddens)},
        }
        parts.append({name: value for name, value in found.items() if value is not None})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _workload(case: Case) -> Workload:
    contenders: dict[str, Callable[[Any], Step] | str] = {FLOOR: partial(_floor, case)}
    contenders |= {name: partial(prepare, name, case) for name in _WAYS}
    facts = {
        "tokens": case.tokens, "width": case.width, "vocabulary": case.vocabulary, "specialists": case.specialists,
        "dtype": _SHORT[case.dtype], "kind": case.kind,
    }  # fmt: skip
    return Workload(str(case), facts, partial(_Batch, case), contenders, floor=FLOOR)


def _workloads(settings: Settings) -> list[Workload]:
    if settings.toy:
        sizes = [Case(32, 16, 100, 3, torch.float32, "gate", settings.device)]
    elif settings.device.startswith("cuda"):
        first = Case(8192, 4096, 32000, 3, torch.bfloat16, "gate", settings.device)
        sizes = [first, replace(first, vocabulary=128256)]
    else:
        sizes = [Case(512, 512, 32000, 3, torch.float32, "gate")]
    return [_workload(replace(size, kind=kind)) for size in sizes for kind in _ABOUT]


BENCHMARK = Benchmark(
    "fusion",
    "Log-probabilities under specialists that a gate blends, forward and backward, beside their projections alone.",
    _workloads,
    largest_error,
)
