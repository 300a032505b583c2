"""Embeddings of texts by a causal language model in this process, and which of them are near an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

__all__ = ["embeddings", "nearest_before"]

_ROWS = 1024  # kept vectors that are compared at once grow by so many


@torch.no_grad()
def embeddings(
    model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int, window: int | None
) -> tuple[torch.Tensor, list[int]]:
    """Mean last hidden state of each text, without the mean of all, of length 1.

    Args:
        model: of transformers.
        tokenizer: its own.
        texts: at least one.
        batch_size: texts at once.
        window: tokens of a text at most; None: any number.

    Returns:
        (texts, hidden) in float32 on the CPU, and the places of texts of which only the beginning was taken.
    """
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    cut = [place for place, row in enumerate(ids) if window is not None and len(row) > window]
    found: list[torch.Tensor | None] = [None] * len(ids)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            rows = [ids[place][:window] or [0] for place in places]
            most = max(map(len, rows))
            tokens = torch.tensor([row + [0] * (most - len(row)) for row in rows], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (most - len(row)) for row in rows], device=device)
            hidden = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states[-1].float()
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            for place, vector in zip(places, mean.cpu(), strict=True):
                found[place] = vector
    finally:
        model.train(training)
    whole = torch.stack([vector for vector in found if vector is not None])
    whole = whole - whole.mean(0)
    return whole / whole.norm(dim=1, keepdim=True).clamp_min(1e-12), cut


def nearest_before(vectors: torch.Tensor, threshold: float) -> Iterator[tuple[int | None, float]]:
    """Of each vector the place of the nearest one that was kept before it, None where it is kept itself; and the cosine of both.

    Args:
        vectors: (count, size), of length 1.
        threshold: cosine from which a vector is not kept.
    """
    kept = vectors.new_empty((0, vectors.shape[1]))
    places: list[int] = []
    for place, vector in enumerate(vectors):
        if not places:
            near, cosine = None, -1.0
        else:
            value, at = (kept[: len(places)] @ vector).max(0)
            cosine = float(value)
            near = places[int(at)] if cosine >= threshold else None
        if near is None:
            if len(places) == len(kept):
                kept = torch.cat([kept, vectors.new_empty((_ROWS, vectors.shape[1]))])
            kept[len(places)] = vector
            places.append(place)
        yield near, cosine
