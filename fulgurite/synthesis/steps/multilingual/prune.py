"""prune: leaves out rows that mean nearly the same as an earlier one, by the cosine of their embeddings.

An embedding is the mean of a model's last hidden states over the tokens of a text. Those of all texts point nearly the same way, so
their common mean is taken off first: a threshold says something then, but what is left out depends on all rows of the run. Rows
whose words are nearly the same are the business of `deduplicate` with `near`, which is cheaper and goes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.generation import TransformersBackend
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.embedding import embeddings, nearest_before
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class PruneOptions:
    """Which rows count as near.

    Args:
        by: the model whose hidden states are taken; one in this process.
        similarity: cosine from which the later of two rows is left out.
        column: of the text.
        batch_size: texts that are embedded at once.
    """

    by: str
    similarity: float = 0.95
    column: str = "text"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise ValueError(f"synthesize: similarity={self.similarity}; allowed is a cosine above 0, up to 1")
        if self.batch_size < 1:
            raise ValueError(f"synthesize: batch_size={self.batch_size}; give 1 or more")


def _run(options: PruneOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    author = desk.author(options.by)
    backend = author.backend
    if not isinstance(backend, TransformersBackend):
        raise ValueError(
            f"synthesize: step {desk.step}: the model {options.by!r} tells no hidden states; name a model of this process (model: "
            "FOLDER), no server and no fused one"
        )
    if desk.dry is not None or len(rows) < 2:
        return list(rows)
    texts = [row.text(options.column) for row in rows]
    vectors, cut = embeddings(backend.model, backend.tokenizer, texts, options.batch_size, author.window)
    kept, seen = [], []
    for place, (near, cosine) in enumerate(nearest_before(vectors, options.similarity)):
        if near is None:
            kept.append(rows[place])
        else:
            desk.drop(rows[place], "nearly the same meaning", f"as row {rows[near].key}, cosine {cosine:.3f}")
        seen.append(cosine)
    for place in cut:
        desk.note(rows[place].key, "longer than the model's window: its beginning is compared")
    order = sorted(seen[1:])
    desk.count.figures = {
        f"cosine with the nearest kept row before, {name}": round(
            order[min(len(order) - 1, int(share * len(order)))], 3
        )
        for name, share in (("median", 0.5), ("90 %", 0.9), ("99 %", 0.99))
    }
    return kept


register(
    Step("prune", "leaves out rows that mean nearly the same as an earlier one, by embeddings", PruneOptions, _run)
)
