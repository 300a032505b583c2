"""Encoded comparisons to trees: which rows share one, what each holds, and the file that they are kept in.

Rows of one group (UltraInteract's `parent_id`), or with the same prompt, are one tree, as far as their token ids agree. A
unit is what a loss looks at: a pair; a labelled answer; a group of scored answers. An answer that several units name is
computed once. Without trees each unit has rows of its own, and nothing is shared.

KTO's baseline needs, for each labelled answer, the answer to another prompt: its neighbour in one shuffled circle over
all of them, the next that has another prompt and other ids and fits into max_length. It is a sibling branch of the answer.
Deviation: TRL and HALOs turn the circle within a micro-batch. Turning it once over the data set estimates the same mean,
works for a micro-batch of one pack, and leaves reference log-probabilities that can be kept for all epochs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fulgurite.data.records.findings import Tally
from fulgurite.data.rows.checksums import read_checked, write_checked
from fulgurite.data.trees.encoding import EncodedComparison, Spool
from fulgurite.data.trees.prefix_tree import Tree, build_tree, cluster, cut
from fulgurite.data.trees.rows import TreeRows
from fulgurite.whole_files import CACHE_ADVICE, whole_file

__all__ = ["TreeWriter", "baseline_partners", "grow_answers", "grow_trees", "load_trees", "save_trees"]

TOO_LARGE = "larger than token_budget"
_TRIES = 64


@dataclass
class _Completion:
    """A completion of a tree that is being built."""

    path: np.ndarray
    start: int
    tag: int
    desirable: int = -1
    kl: bool = False
    group: int = -1
    score: float = math.nan
    weight: float = 1.0


@dataclass
class _Unit:
    """What is kept together: completions, as indices; a pair's figures; where it is from."""

    completions: list[int]
    pairs: list[tuple[int, int, float, float, bool]] = field(default_factory=list)
    where: str = ""


class TreeWriter:
    """Collects trees, in flat arrays."""

    def __init__(self) -> None:
        self._flat: dict[str, list[Any]] = {}
        self._bounds = {"node_offsets": [0], "tree_nodes": [0], "tree_completions": [0], "tree_pairs": [0]}
        self.trees = 0

    def add(self, completions: Sequence[_Completion], units: Sequence[_Unit], shared: bool = True) -> None:
        """Appends the tree of some units.

        Args:
            completions: those that the units name, and perhaps others, which are left out.
            units: what the tree holds.
            shared: False makes each completion a root of its own.
        """
        used = sorted({i for unit in units for i in unit.completions})
        number = {old: new for new, old in enumerate(used)}
        chosen = [completions[i] for i in used]
        paths = [completion.path for completion in chosen]
        tree = build_tree(paths) if shared else _apart(paths)
        groups = {group: i for i, group in enumerate(dict.fromkeys(c.group for c in chosen if c.group >= 0))}
        self._put("input_ids", np.concatenate(tree.pieces))
        for piece in tree.pieces:
            self._bounds["node_offsets"].append(self._bounds["node_offsets"][-1] + len(piece))
        self._put("parents", tree.parents)
        self._put("depths", tree.depths)
        self._put("completion_node", tree.ends)
        self._put("completion_start", [c.start for c in chosen])
        self._put("desirable", [c.desirable for c in chosen])
        self._put("kl", [c.kl for c in chosen])
        self._put("group", [groups.get(c.group, -1) for c in chosen])
        self._put("score", [c.score for c in chosen])
        self._put("completion_weight", [c.weight for c in chosen])
        self._put("tag", [c.tag for c in chosen])
        self._put("key", [_key(c.path, c.start) for c in chosen])
        pairs = [pair for unit in units for pair in unit.pairs]
        self._put("chosen", [number[pair[0]] for pair in pairs])
        self._put("rejected", [number[pair[1]] for pair in pairs])
        self._put("pair_margin", [pair[2] for pair in pairs])
        self._put("pair_weight", [pair[3] for pair in pairs])
        self._put("pair_direct", [pair[4] for pair in pairs])
        self._put("units", [len(units)])
        self._put("alone", [sum(len(completions[i].path) for unit in units for i in unit.completions)])
        for name, size in (
            ("tree_nodes", len(tree.pieces)),
            ("tree_completions", len(used)),
            ("tree_pairs", len(pairs)),
        ):
            self._bounds[name].append(self._bounds[name][-1] + size)
        self.trees += 1

    def _put(self, name: str, values: Any) -> None:
        self._flat.setdefault(name, []).append(np.asarray(values, dtype=_TYPES[name]))

    def finish(self, metadata: dict[str, str]) -> TreeRows:
        """All that was added, as rows.

        Args:
            metadata: texts that are kept with them.
        """
        tensors = {
            name: torch.from_numpy(np.concatenate(self._flat[name]) if name in self._flat else np.zeros(0, dtype))
            for name, dtype in _TYPES.items()
        }
        tensors |= {name: torch.tensor(ends, dtype=torch.int64) for name, ends in self._bounds.items()}
        return TreeRows(tensors, metadata)


_TYPES: dict[str, Any] = {
    "input_ids": np.int32, "parents": np.int32, "depths": np.int32, "completion_node": np.int32,
    "completion_start": np.int32, "desirable": np.int8, "kl": np.bool_, "group": np.int32, "score": np.float32,
    "completion_weight": np.float32, "tag": np.int32, "key": np.int64, "chosen": np.int32, "rejected": np.int32,
    "pair_weight": np.float32, "pair_margin": np.float32, "pair_direct": np.bool_, "units": np.int32, "alone": np.int64,
}  # fmt: skip


def grow_trees(
    encoded: Sequence[EncodedComparison],
    spool: Spool,
    *,
    token_budget: int,
    tally: Tally,
    tags: Sequence[str] = (),
    trees: bool = True,
    partners: dict[tuple[int, int], tuple[int, int]] | None = None,
    progress: Callable[[Iterable[list[int]]], Iterable[list[int]]] = lambda items: items,
) -> TreeWriter:
    """All trees of a data set, in the order of their first rows.

    Args:
        encoded: the comparisons.
        spool: with their paths.
        token_budget: tokens of a tree at most; a unit that is larger by itself is left out and counted.
        tally: where it is counted.
        tags: names of tags, by number.
        trees: False gives each unit rows of its own.
        partners: of `baseline_partners`, for labels.
        progress: wraps the rows of each tree, to show how far it is.
    """
    writer = TreeWriter()
    tag_numbers = {name: number for number, name in enumerate(tags)}
    for rows in progress(_families(encoded, spool)):
        completions, units = _contents([encoded[row] for row in rows], rows, spool, partners or {}, tag_numbers)
        paths = [completion.path for completion in completions]
        if trees:
            parts, left_out = cut(paths, [unit.completions for unit in units], token_budget)
        else:
            sizes = [sum(len(paths[i]) for i in unit.completions) for unit in units]
            parts = [[i] for i, size in enumerate(sizes) if size <= token_budget]
            left_out = [i for i, size in enumerate(sizes) if size > token_budget]
        for i in left_out:
            tally.add(units[i].where, TOO_LARGE, f"more than {token_budget} tokens")
        for part in parts:
            writer.add(completions, [units[i] for i in part], trees)
    return writer


def _families(encoded: Sequence[EncodedComparison], spool: Spool) -> list[list[int]]:
    """The rows that share a tree."""
    named: dict[tuple[str, object], list[int]] = {}
    for row, item in enumerate(encoded):
        group = item.comparison.group
        if group is None:
            prompt = spool[item.paths[0]][: item.starts[0]]
            name: tuple[str, object] = ("prompt", hashlib.blake2b(prompt.tobytes(), digest_size=16).digest())
        else:
            name = ("group", group)
        named.setdefault(name, []).append(row)
    found = []
    for (kind, _), rows in named.items():
        if kind == "prompt" or len(rows) == 1:
            found.append(rows)
            continue
        paths = [[spool[number] for number in encoded[row].paths] for row in rows]
        prompts = [each[0][: encoded[row].starts[0]] for row, each in zip(rows, paths, strict=True)]
        found.extend([rows[i] for i in part] for part in cluster(prompts, paths))
    return sorted(found, key=min)


def _contents(
    items: Sequence[EncodedComparison],
    rows: Sequence[int],
    spool: Spool,
    partners: dict[tuple[int, int], tuple[int, int]],
    tags: dict[str, int],
) -> tuple[list[_Completion], list[_Unit]]:
    """Completions and units of one family; an answer that several pairs name is one completion."""
    completions: list[_Completion] = []
    known: dict[tuple[Any, ...], int] = {}
    units: list[_Unit] = []

    def place(completion: _Completion) -> int:
        key = (completion.path.tobytes(), completion.start, completion.group)
        if key not in known:
            known[key] = len(completions)
            completions.append(completion)
        return known[key]

    for group, (row, item) in enumerate(zip(rows, items, strict=True)):
        comparison = item.comparison
        tag = -1 if comparison.tag is None else tags[comparison.tag]
        paths = [spool[number] for number in item.paths]
        for better, worse, margin in comparison.pairs:
            pair = [place(_Completion(paths[i], item.starts[i], tag)) for i in (better, worse)]
            figures = (margin, comparison.weight, comparison.direct)
            units.append(_Unit(pair, [(pair[0], pair[1], *figures)], where=comparison.where))
        compared: set[int] = set()
        for i, desirable in comparison.labels:
            # An answer with several labels is as many completions that end at one node: losses and metrics count them all.
            completions.append(_Completion(paths[i], item.starts[i], tag, int(desirable), weight=comparison.weight))
            units.append(_Unit([len(completions) - 1], where=comparison.where))
            if (row, i) in partners and i not in compared:
                compared.add(i)
                other, start = partners[row, i]
                mismatched = np.concatenate([paths[i][: item.starts[i]], spool[other][start:]])
                completions.append(_Completion(mismatched, item.starts[i], tag, kl=True))
                units[-1].completions.append(len(completions) - 1)
        if comparison.scores:
            members = [
                place(_Completion(path, start, tag, group=group, score=score, weight=comparison.weight))
                for path, start, score in zip(paths, item.starts, comparison.scores, strict=True)
            ]
            units.append(_Unit(sorted(set(members)), where=comparison.where))
    return completions, units


def grow_answers(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], trees: bool = True) -> TreeRows:
    """One tree for each prompt with all of its answers, which are its completions in the order given.

    Args:
        groups: token ids of each prompt, and of its answers, each with at least one token; at least one answer to a prompt.
        trees: False makes each answer, behind a prompt of its own, a root.
    """
    writer = TreeWriter()
    for prompt, answers in groups:
        paths = [np.asarray([*prompt, *answer], dtype=np.int32) for answer in answers]
        completions = [_Completion(path, len(prompt), -1, group=0) for path in paths]
        writer.add(completions, [_Unit(list(range(len(completions))))], trees)
    return writer.finish({})


def baseline_partners(
    encoded: Sequence[EncodedComparison], spool: Spool, max_length: int, seed: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """For each labelled answer (row, answer) the path in the spool, and where it begins there, of an answer to another prompt.

    An answer without a partner that fits within 64 neighbours has none; it still counts itself, but not in the baseline.

    Args:
        encoded: the comparisons.
        spool: with their paths.
        max_length: tokens of prompt and answer at most.
        seed: decides the circle.
    """
    places = [(row, i) for row, item in enumerate(encoded) for i in dict.fromkeys(i for i, _ in item.comparison.labels)]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
    circle = [places[i] for i in order]
    prompts, answers = {}, {}
    for row, i in places:
        path, start = spool[encoded[row].paths[i]], encoded[row].starts[i]
        prompts[row, i], answers[row, i] = hash(path[:start].tobytes()), hash(path[start:].tobytes())
    found = {}
    for at, mine in enumerate(circle):
        start = encoded[mine[0]].starts[mine[1]]
        for step in range(1, min(len(circle), _TRIES + 1)):
            row, i = other = circle[(at + step) % len(circle)]
            number, begin = encoded[row].paths[i], encoded[row].starts[i]
            fits = start + spool.length(number) - begin <= max_length
            if fits and prompts[other] != prompts[mine] and answers[other] != answers[mine]:
                found[mine] = (number, begin)
                break
    return found


def _apart(paths: Sequence[np.ndarray]) -> Tree:
    """Each path as a root of its own."""
    return Tree(list(paths), [-1] * len(paths), [0] * len(paths), list(range(len(paths))))


def _key(path: np.ndarray, start: int) -> int:
    """63 bits that are the same for the same ids and start in every run."""
    digest = hashlib.blake2b(path.astype("<i4").tobytes() + int(start).to_bytes(4, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def save_trees(rows: TreeRows, path: Path) -> None:
    """Writes trees to a file, whole or not at all.

    Args:
        rows: the trees.
        path: the file to make.
    """
    with whole_file(path, "the trees", CACHE_ADVICE) as scratch:
        write_checked(rows.tensors, scratch, rows.metadata)


def load_trees(path: Path) -> TreeRows:
    """The trees of a file; one that is not whole, or whose content has changed, is a ValueError.

    Args:
        path: written by `save_trees`.
    """
    from safetensors import SafetensorError

    try:
        return TreeRows(*read_checked(path))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole file of trees ({error}); delete it, and it is made again") from error
