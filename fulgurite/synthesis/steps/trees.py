"""trees: UltraInteract's preference trees of rows with a right answer or tests; tables pair and sft in the published schemas."""

from __future__ import annotations

from collections.abc import Sequence

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.trees.growing import Grower, TreeOptions
from fulgurite.synthesis.trees.published import tables_of, tree_figures

__all__: list[str] = []


def _run(options: TreeOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    grower = Grower(options, desk)
    trees = grower.grow(rows)
    desk.count.figures = tree_figures(trees)
    if desk.dry is None:
        desk.ledger.tables["pair"], desk.ledger.tables["sft"] = tables_of(trees, desk, grower.identity)
    return [tree.row for tree in trees]


register(
    Step("trees", "pairs of a right and a wrong action per turn; only the wrong one is gone on from", TreeOptions, _run)
)
