"""Trees in the schemas of openbmb/UltraInteract_pair and UltraInteract_sft.

A row's id is HASH_DEPTH_TURN: the SHA-256 of the instruction, the turns of its tree, and its own turn. A pair's trajectory has
2·turn − 1 turns and ends with the user's. SFT rows are right actions behind the instruction alone: the history is left out, as
Eurus trains on them. So a right action that needs the code of earlier turns is no SFT row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.synthesis.desk import Answer, Desk
from fulgurite.synthesis.ledger import TableRows
from fulgurite.synthesis.trees.environment import Trial, try_actions
from fulgurite.synthesis.trees.growing import Tree

__all__ = ["tables_of", "tree_figures"]


def tables_of(trees: Sequence[Tree], desk: Desk, identity: Mapping[str, Any]) -> tuple[TableRows, TableRows]:
    """Pairs and SFT rows.

    Args:
        trees: whole ones.
        desk: of the step.
        identity: of the verdicts.
    """
    pairs, right = TableRows(), TableRows()
    alone = _alone(trees, desk, identity)
    for tree in trees:
        parent = hashlib.sha256(tree.instruction.encode()).hexdigest()
        shared = {"task": tree.problem.kind, "dataset": tree.problem.dataset}
        before: list[Mapping[str, Any]] = []
        said: set[str] = set()
        for number, node in enumerate(tree.nodes):
            own = {"id": f"{parent}_{len(tree.nodes)}_{node.turn}", "parent_id": parent}
            made = [*before, *(action.made for action in (node.right, node.wrong) if action is not None)]
            if node.right is not None and node.wrong is not None:
                speakers = [{"from": turn.role, "value": turn.content} for turn in node.history]
                row = {**shared, "trajectory": speakers, "chosen": node.right.text, "rejected": node.wrong.text, **own}
                pairs.add(row, tree.row.key, made)
            if node.right is not None and node.right.text in said:
                desk.note(tree.row.key, "the same right action again: no second SFT row", f"turn {node.turn}")
            elif node.right is not None and alone.get((tree.row.key, node.turn), True):
                said.add(node.right.text)
                row = {**shared, "instruction": tree.instruction, "response": node.right.text, **own}
                right.add(row, tree.row.key, [node.right.made])
            before += [] if node.wrong is None else [node.wrong.made]
            before += tree.row.made[number : number + 1]
    return pairs, right


def _alone(trees: Sequence[Tree], desk: Desk, identity: Mapping[str, Any]) -> dict[tuple[str, int], bool]:
    """Whether the right code of later turns is right without that of the turns before it."""
    places, trials = [], []
    for tree in trees:
        for node in tree.nodes[1:] if tree.problem.kind == "Math_PoT" else ():
            if node.right is not None:
                places.append((tree.row.key, node.turn))
                trials.append(Trial(tree.row.key, tree.problem, (), Answer(node.right.text, "stop", node.right.made)))
    found = {}
    for place, action in zip(places, try_actions(trials, desk, identity), strict=True):
        found[place] = action is not None and action.correct
        if not found[place]:
            desk.note(place[0], "a right action that needs the turns before it: no SFT row", f"turn {place[1]}")
    return found


def tree_figures(trees: Sequence[Tree]) -> dict[str, Any]:
    """Counts as the paper's tables have them.

    Args:
        trees: whole ones.
    """
    nodes = [node for tree in trees for node in tree.nodes]
    turns = Counter(len(tree.nodes) for tree in trees)
    paired = Counter(node.turn for node in nodes if node.right is not None and node.wrong is not None)
    reached = Counter(node.turn for node in nodes)
    return {
        "instructions": len(trees),
        "trees by turns": {f"T{turn}": turns[turn] for turn in sorted(turns)},
        "pairs": sum(paired.values()),
        "right actions": sum(node.right is not None for node in nodes),
        "unpaired": sum((node.right is None) != (node.wrong is None) for node in nodes),
        "share of trees with a pair, by turn": {f"T{t}": round(paired[t] / reached[t], 4) for t in sorted(reached)},
        "right actions by rung": dict(Counter(node.rung for node in nodes if node.right is not None)),
    }
