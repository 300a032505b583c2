"""``tree_attention``: attention of an UltraInteract tree, forward and backward, against its paths packed and padded.

The tree holds each shared turn once; packed, every path is a segment of its own; padded, every path is a row, and all rows are as
long as the longest. Queries, keys and values of the packed and padded forms are the tree's own, copied before the clock starts.
Block masks, which all layers of a model share, are made before it as well. The gradient that comes in is divided among the
copies: summed over them, outputs and gradients are those of the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, generator_on, largest_error
from benchmarks.speed.preference import tree_batch, ultra_interact
from fulgurite.models.packing.attention_functions import Rule, attend
from fulgurite.models.packing.segments import Segments

__all__ = ["BENCHMARK", "Case", "prepare"]

_PACKED, _PADDED = "paths packed", "paths padded"
_SLACK = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Case:
    """Heads and key heads of ``width`` columns each; what the lengths of the tree are divided by."""

    heads: int
    kv_heads: int
    width: int
    dtype: torch.dtype
    divisor: int = 1
    device: str = "cpu"


@cache
def _structure(divisor: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Boundaries and parents of the tree's nodes, and the tokens of each path from the root to a leaf."""
    batch = tree_batch(ultra_interact(divisor), True)
    edges, parents = batch["cu_seq_lens"].tolist(), batch["parents"].tolist()
    paths = []
    for own in (node for node in range(len(parents)) if node not in set(parents)):
        nodes = [own]
        while parents[nodes[0]] >= 0:
            nodes.insert(0, parents[nodes[0]])
        paths.append(torch.cat([torch.arange(edges[n], edges[n + 1]) for n in nodes]))
    return batch["cu_seq_lens"], batch["parents"], paths


class _Tree:
    """The tree's tokens: structure, queries, keys and values (H, T, D), the gradient that comes in (T, H, D), and its paths."""

    def __init__(self, case: Case) -> None:
        self.boundaries, self.parents, self.paths = _structure(case.divisor)
        tokens = int(self.boundaries[-1])
        random = partial(torch.randn, generator=generator_on(case.device), device=case.device)
        self.heads = [random(n, tokens, case.width).to(case.dtype) for n in (case.heads, case.kv_heads, case.kv_heads)]
        self.grad = random(tokens, case.heads, case.width).to(case.dtype)
        self.copies = torch.bincount(torch.cat(self.paths), minlength=tokens).to(case.device)


def prepare(contender: str, case: Case, tree: _Tree) -> Step:
    """One contender's forward and backward."""
    place, forward = _FORMS[contender](tree, case)
    leaves = [head[:, place].clone().requires_grad_() for head in tree.heads]
    share = tree.copies[place].view(-1, 1, 1).to(torch.float32)
    grad = (tree.grad[place] / (1 if contender == OURS else share)).to(case.dtype)

    def run() -> torch.Tensor:
        for leaf in leaves:
            leaf.grad = None
        out = forward(*leaves)
        out.backward(grad)
        return out

    def results() -> dict[str, torch.Tensor]:
        out = run().detach()
        tokens = len(tree.copies)
        whole = out.new_zeros(tokens, *out.shape[1:]).index_copy(0, place, out)
        sums = {
            name: leaf.new_zeros(leaf.shape[0], tokens, leaf.shape[2], dtype=torch.float64).index_add(
                1, place, leaf.grad.double()
            )
            for name, leaf in zip(("d_query", "d_key", "d_value"), leaves, strict=True)
            if leaf.grad is not None
        }
        return {"out": whole, **sums}

    facts = {"tokens": len(place)}
    return Step(run, results, partial(_expected, tree), slack=_SLACK[case.dtype], facts=lambda: facts)


def _as_tree(tree: _Tree, case: Case) -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    segments = Segments(tree.boundaries.to(case.device), tree.parents.to(case.device))
    return torch.arange(len(tree.copies), device=case.device), _attention(segments, case)


def _as_pack(tree: _Tree, case: Case) -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    lengths = torch.tensor([len(path) for path in tree.paths])
    segments = Segments(F.pad(lengths.cumsum(0), (1, 0)).to(case.device, torch.int32))
    return torch.cat(tree.paths).to(case.device), _attention(segments, case)


def _attention(segments: Segments, case: Case) -> Callable[..., torch.Tensor]:
    rule = Rule(case.width**-0.5)
    return lambda q, k, v: attend(q[None], k[None], v[None], segments, rule)[0]


def _as_rows(tree: _Tree, case: Case) -> tuple[torch.Tensor, Callable[..., torch.Tensor]]:
    """Rows of the longest path's length; a causal row does not see the padding behind its tokens."""
    longest = max(len(path) for path in tree.paths)
    inside = torch.zeros(len(tree.paths), longest, dtype=torch.bool)
    for row, path in enumerate(tree.paths):
        inside[row, : len(path)] = True
    where = inside.flatten().nonzero().squeeze(1).to(case.device)
    shape = (len(tree.paths), longest)

    def rows(head: torch.Tensor) -> torch.Tensor:
        padded = head.new_zeros(head.shape[0], shape[0] * shape[1], head.shape[2]).index_copy(1, where, head)
        return padded.unflatten(1, shape).transpose(0, 1)

    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        grouped = q.shape[0] != k.shape[0]
        out = F.scaled_dot_product_attention(rows(q), rows(k), rows(v), is_causal=True, enable_gqa=grouped)
        return out.transpose(1, 2).flatten(0, 1).index_select(0, where)

    return torch.cat(tree.paths).to(case.device), forward


_FORMS: dict[str, Callable[[_Tree, Case], tuple[torch.Tensor, Callable[..., torch.Tensor]]]] = {
    _PADDED: _as_rows,
    _PACKED: _as_pack,
    OURS: _as_tree,
}


def _expected(tree: _Tree) -> dict[str, torch.Tensor]:
    """In float64, each path alone, with masks of its own."""
    heads = [head.double().requires_grad_() for head in tree.heads]
    out: Any = torch.zeros(tree.grad.shape, dtype=torch.float64, device=tree.grad.device)
    share = tree.copies.view(-1, 1, 1)
    total: Any = 0
    for path in tree.paths:
        place = path.to(out.device)
        q, k, v = (head[:, place] for head in heads)
        k, v = (each.repeat_interleave(len(q) // len(each), 0) for each in (k, v))
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(
            torch.ones(len(place), len(place), dtype=torch.bool, device=out.device).triu(1), float("-inf")
        )
        found = (scores.softmax(-1) @ v).transpose(0, 1)
        out = out.index_copy(0, place, found.detach())
        total = total + (found * (tree.grad.double() / share)[place]).sum()
    grads = torch.autograd.grad(total, heads)
    return {"out": out, **dict(zip(("d_query", "d_key", "d_value"), grads, strict=True))}


def _workloads(settings: Settings) -> list[Workload]:
    cuda = settings.device.startswith("cuda")
    if settings.toy:
        case = Case(2, 1, 16, torch.float32, 20, settings.device)
    elif cuda:
        case = Case(32, 8, 64, torch.bfloat16, 1, settings.device)
    else:
        case = Case(8, 8, 64, torch.float32, 1, settings.device)
    contenders: dict[str, Any] = {name: partial(prepare, name, case) for name in _FORMS}
    depth = torch.zeros(int(_structure(case.divisor)[0][-1]), dtype=torch.int64)
    for path in _structure(case.divisor)[2]:
        depth[path] = torch.arange(1, len(path) + 1)
    facts = {
        "heads": case.heads, "kv_heads": case.kv_heads, "width": case.width, "tokens": len(depth), "sees": int(depth.sum()),
        "dtype": str(case.dtype).removeprefix("torch."),
    }  # fmt: skip
    name = f"UltraInteract tree, {case.heads} heads of {case.width}, {facts['dtype']}"
    return [Workload(name, facts, partial(_Tree, case), contenders, floor=_PADDED)]


BENCHMARK = Benchmark(
    "tree_attention",
    "Attention of a tree of five turns, forward and backward, against the same paths packed and padded.",
    _workloads,
    largest_error,
)
