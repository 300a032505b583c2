"""Trees of preferences as rows: flat tensors with offsets, packs of trees, and batches in which branches know their place.

An item (a tree, a pack, or all packs of a batch, laid one behind the other) holds

| key | shape | meaning |
|---|---|---|
| input_ids, position_ids | (t,) int64 | tokens, and the depth of each on its path |
| node_lengths, parents | (s,) int64 | tokens of each node, and its parent's index, -1 for a root |
| sources, targets, owner | (k,) int64 | where a supervised token is predicted, its id, its completion |
| ends, lengths | (c,) int64 | a completion's last token, and how many of its tokens are supervised |
| pairs | (p, 2) int64 | chosen and rejected completion |
| pair_weight, pair_margin | (p,) float32 | margin 0 where nobody gave one |
| desirable | (c,) int8 | 1, 0, or -1 where there is no label |
| kl | (c,) bool | an answer to another prompt, for KTO's baseline |
| group, score | (c,) int64, float32 | for losses over several scored answers; -1 and NaN elsewhere |
| completion_weight | (c,) float32 | |
| key | (c,) int64 | a hash of the path's ids and of where its answer begins |
| tag | (c,) int64 | for metrics by group, -1 for none; only where rows have tags |
| reference | (c,) float32 | log-probability under the reference; only after `set_reference` |

A node's first token is predicted from the last token of its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fulgurite.data.sampling.windows import Batch

__all__ = ["PackedTrees", "TreeCollator", "TreeRows", "join", "path_to"]

Item = dict[str, Tensor]

_PER_COMPLETION = ("desirable", "kl", "group", "score", "completion_weight", "key", "tag", "reference")
_WIDE = ("group", "tag")  # stored narrow
_NEEDED = {
    "input_ids", "node_offsets", "parents", "depths", "tree_nodes", "completion_node", "completion_start", "tree_completions",
    "chosen", "rejected", "pair_weight", "pair_margin", "pair_direct", "tree_pairs", "units", "alone",
    *(name for name in _PER_COMPLETION if name not in ("tag", "reference")),
}  # fmt: skip


class TreeRows(Dataset[Item]):
    """Trees; an item is one of them.

    Args:
        tensors: as `fulgurite.data.trees.growing.TreeWriter` makes them: input_ids (tokens,) int32; of each node its
            offsets into them, parent and depth; of each completion its node, the depth at which its answer begins, and
            the values of the table above; pairs; offsets of nodes, completions and pairs by tree; of each tree its units
            and the tokens that they have as rows of their own.
        metadata: what was counted when they were made.
    """

    def __init__(self, tensors: Item, metadata: dict[str, str] | None = None) -> None:
        missing = sorted(_NEEDED - set(tensors))
        if missing:
            raise ValueError(f"TreeRows: no {', '.join(missing)}; build the trees again")
        trees = len(tensors["units"])
        if any(len(tensors[name]) != trees + 1 for name in ("tree_nodes", "tree_completions", "tree_pairs")) or int(
            tensors["node_offsets"][-1]
        ) != len(tensors["input_ids"]):
            raise ValueError("TreeRows: the offsets do not fit the trees; build them again")
        self.tensors = tensors
        self.metadata = metadata or {}

    def __len__(self) -> int:
        return len(self.tensors["units"])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each tree, (trees,) int64."""
        return self.tensors["node_offsets"][self.tensors["tree_nodes"]].diff()

    def targets(self) -> Tensor:
        """Units (pairs, labels or groups) of each tree, (trees,) int64."""
        return self.tensors["units"].long()

    @property
    def path_lengths(self) -> Tensor:
        """Tokens of each completion's path, (completions,) int64."""
        tensors = self.tensors
        first = tensors["tree_nodes"][:-1].repeat_interleave(tensors["tree_completions"].diff())
        node = first + tensors["completion_node"].long()
        return tensors["depths"][node].long() + tensors["node_offsets"][node + 1] - tensors["node_offsets"][node]

    def supervised(self) -> int:
        """Tokens of answers that are predicted, each as often as a completion names it."""
        return int((self.path_lengths - self.tensors["completion_start"]).sum())

    def labels(self) -> Tensor:
        """Desirable minus undesirable answers of each tree, (trees,) int64."""
        signs = torch.where(self.tensors["desirable"] < 0, 0, 2 * self.tensors["desirable"].long() - 1)
        total = torch.cat([torch.zeros(1, dtype=torch.int64), signs.cumsum(0)])
        return total[self.tensors["tree_completions"]].diff()

    def set_reference(self, keys: Tensor, values: Tensor) -> None:
        """Gives each completion the reference's log-probability; items then have `reference`.

        Args:
            keys: as items have them, (n,) int64, in any order.
            values: log-probability of each, (n,) float32.
        """
        order = keys.argsort()
        ordered, wanted = keys[order], self.tensors["key"]
        at = torch.searchsorted(ordered, wanted).clamp(max=max(0, len(ordered) - 1))
        found = ordered[at] == wanted if len(ordered) else torch.zeros_like(wanted, dtype=torch.bool)
        if not bool(found.all()):
            raise ValueError(
                f"TreeRows: {int((~found).sum())} of {len(wanted)} completions have no reference log-probability; the "
                "reference was computed from other rows, another tokenizer or another template; compute it again"
            )
        self.tensors = {**self.tensors, "reference": values[order][at].float()}

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"TreeRows: tree {index} of {len(self)}")
        index %= len(self)
        tensors = self.tensors
        node, last_node = tensors["tree_nodes"][index : index + 2].tolist()
        first, last = tensors["tree_completions"][index : index + 2].tolist()
        pair, last_pair = tensors["tree_pairs"][index : index + 2].tolist()
        bounds = tensors["node_offsets"][node : last_node + 1] - tensors["node_offsets"][node]
        begin = int(tensors["node_offsets"][node])
        ids = tensors["input_ids"][begin : begin + int(bounds[-1])].long()
        lengths, parents = bounds.diff(), tensors["parents"][node:last_node].long()
        depths = tensors["depths"][node:last_node].long()
        starts = bounds[:-1]
        item = {
            "input_ids": ids,
            "position_ids": torch.arange(len(ids)) + (depths - starts).repeat_interleave(lengths),
            "node_lengths": lengths,
            "parents": parents,
        }
        ends = tensors["completion_node"][first:last].long()
        begins = tensors["completion_start"][first:last].tolist()
        rows = _paths(starts.tolist(), lengths.tolist(), parents.tolist(), sorted(set(ends.tolist())))
        sources, targets, counts = [], [], []
        for end, start in zip(ends.tolist(), begins, strict=True):
            path = rows[end]
            sources.append(path[start - 1 : -1])
            targets.append(ids[path[start:]])
            counts.append(len(path) - start)
        item["sources"], item["targets"] = torch.cat(sources), torch.cat(targets)
        item["lengths"] = torch.tensor(counts, dtype=torch.int64)
        item["owner"] = torch.arange(last - first).repeat_interleave(item["lengths"])
        item["ends"] = starts[ends] + lengths[ends] - 1
        item["pairs"] = torch.stack([tensors[side][pair:last_pair].long() for side in ("chosen", "rejected")], 1)
        for name in ("pair_weight", "pair_margin", "pair_direct"):
            item[name] = tensors[name][pair:last_pair]
        for name in _PER_COMPLETION:
            if name in tensors:
                values = tensors[name][first:last]
                item[name] = values.long() if name in _WIDE else values
        return item


def _paths(starts: list[int], lengths: list[int], parents: list[int], ends: list[int]) -> dict[int, Tensor]:
    """For each node of `ends` the places of all tokens on its path, (depth,) int64."""
    found: dict[int, Tensor] = {}
    for end in ends:
        stretches, node = [], end
        while node >= 0:
            stretches.append(torch.arange(starts[node], starts[node] + lengths[node]))
            node = parents[node]
        found[end] = torch.cat(stretches[::-1])
    return found


class PackedTrees(Dataset[Item]):
    """Packs of trees; an item is one pack.

    Args:
        trees: the trees.
        packs: indices of trees, one list per pack, none empty.
    """

    def __init__(self, trees: TreeRows, packs: Sequence[Sequence[int]]) -> None:
        self.trees = trees
        self._sizes = torch.tensor([len(pack) for pack in packs], dtype=torch.int64)
        self._trees = torch.tensor([tree for pack in packs for tree in pack], dtype=torch.int64)
        self._ends = self._sizes.cumsum(0)
        empty = (self._sizes == 0).nonzero()
        if len(empty):
            raise ValueError(f"PackedTrees: pack {int(empty[0])} holds no tree; drop it")

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"PackedTrees: pack {index} of {len(self)}")
        end = int(self._ends[index])
        return join([self.trees[tree] for tree in self._trees[end - int(self._sizes[index]) : end].tolist()])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each pack, (packs,) int64."""
        return self._sum(self.trees.lengths)

    def targets(self) -> Tensor:
        """Units (pairs, labels or groups) of each pack, (packs,) int64."""
        return self._sum(self.trees.targets())

    def _sum(self, per_tree: Tensor) -> Tensor:
        pack = torch.arange(len(self)).repeat_interleave(self._sizes)
        return torch.zeros(len(self), dtype=torch.int64).index_add_(0, pack, per_tree[self._trees])


def join(items: Sequence[Item]) -> Item:
    """Items laid one behind the other; what counts tokens, nodes, completions or groups goes on counting.

    Args:
        items: trees or packs with the same keys.
    """
    if len(items) == 1:
        return items[0]
    tokens = _offsets([len(item["input_ids"]) for item in items])
    nodes = _offsets([len(item["parents"]) for item in items])
    completions = _offsets([len(item["ends"]) for item in items])
    groups = _offsets([int(item["group"].max()) + 1 if len(item["group"]) else 0 for item in items])
    shift = {"sources": tokens, "ends": tokens, "owner": completions, "pairs": completions}
    hole = {"parents": nodes, "group": groups}  # -1 stays
    joined = {}
    for name in items[0]:
        pieces = [item[name] for item in items]
        if name in shift:
            pieces = [piece + offset for piece, offset in zip(pieces, shift[name], strict=True)]
        elif name in hole:
            pieces = [torch.where(p < 0, p, p + offset) for p, offset in zip(pieces, hole[name], strict=True)]
        joined[name] = torch.cat(pieces)
    return joined


def _offsets(sizes: Sequence[int]) -> list[int]:
    found, total = [], 0
    for size in sizes:
        found.append(total)
        total += size
    return found


class TreeCollator:
    """Packs of a batch to tensors.

    With packing all trees lie in one row: `input_ids` and `position_ids` (1, T), `cu_seq_lens` (S + 1,) int32, the nodes'
    boundaries, and `parents` (S,) int32. Without it each completion must be a root of its own and becomes a row:
    `input_ids` and `attention_mask` (B, T), padded on the right. `sources` and `ends` index the flattened rows. The other
    keys are those of the items.

    Args:
        pad_token_id: stands in padded positions; in a packed row these are a node of their own at its end.
        pad_multiple: T is rounded up to a multiple of it.
        packing: False for one row per completion.
    """

    def __init__(self, pad_token_id: int, pad_multiple: int = 1, packing: bool = True) -> None:
        if pad_multiple < 1:
            raise ValueError(f"TreeCollator: pad_multiple is {pad_multiple}; it must be at least 1")
        self.pad_token_id = pad_token_id
        self.pad_multiple = pad_multiple
        self.packing = packing

    def rows(self, rows: Sequence[Item]) -> dict[str, Any]:
        """The batch of these packs."""
        item = dict(join(rows))
        lengths, parents = item.pop("node_lengths"), item.pop("parents")
        return self._packed(item, lengths, parents) if self.packing else self._padded(item, lengths, parents)

    def __call__(self, rows_and_batch: tuple[Sequence[Item], Batch]) -> dict[str, Tensor]:
        """The tensors of one `Batch`, with `tokens_in_window` where it has one; packs that fill it up count for nothing."""
        rows, batch = rows_and_batch
        real = len(rows) - batch.padding
        tensors = self.rows([*rows[:real], *map(_silent, rows[real:])])
        if batch.tokens_in_window is not None:
            tensors["tokens_in_window"] = torch.tensor(batch.tokens_in_window, dtype=torch.int64)
        return tensors

    def _packed(self, item: Item, lengths: Tensor, parents: Tensor) -> Item:
        padding = -int(lengths.sum()) % self.pad_multiple
        ids, positions = item.pop("input_ids"), item.pop("position_ids")
        if padding:
            ids = torch.cat([ids, torch.full((padding,), self.pad_token_id)])
            positions = torch.cat([positions, torch.arange(padding)])
            lengths = torch.cat([lengths, torch.tensor([padding])])
            parents = torch.cat([parents, torch.tensor([-1])])
        boundaries = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        structure = {"cu_seq_lens": boundaries.int(), "parents": parents.int()}
        return {"input_ids": ids[None], "position_ids": positions[None], **structure, **item}

    def _padded(self, item: Item, lengths: Tensor, parents: Tensor) -> Item:
        if bool((parents >= 0).any()):
            raise ValueError("TreeCollator: trees cannot be padded; build the rows with trees=False")
        ids, depth = item.pop("input_ids"), item.pop("position_ids")
        width = -(-int(lengths.max()) // self.pad_multiple) * self.pad_multiple
        place = torch.arange(len(lengths)).repeat_interleave(lengths) * width + depth
        padded = torch.full((len(lengths) * width,), self.pad_token_id)
        mask = torch.zeros(len(lengths) * width, dtype=torch.int64)
        padded[place], mask[place] = ids, 1
        item["sources"], item["ends"] = place[item["sources"]], place[item["ends"]]
        return {"input_ids": padded.view(-1, width), "attention_mask": mask.view(-1, width), **item}


def _silent(item: Item) -> Item:
    """The item without anything that a loss or a metric could count."""
    silent = dict(item)
    for name in ("pairs", "pair_weight", "pair_margin", "pair_direct"):
        silent[name] = item[name][:0]
    silent["desirable"] = torch.full_like(item["desirable"], -1)
    silent["kl"] = torch.zeros_like(item["kl"])
    silent["group"] = torch.full_like(item["group"], -1)
    silent["score"] = torch.full_like(item["score"], float("nan"))
    silent["completion_weight"] = torch.zeros_like(item["completion_weight"])
    if "tag" in item:
        silent["tag"] = torch.full_like(item["tag"], -1)
    return silent


def path_to(batch: Mapping[str, Tensor], position: int) -> Tensor:
    """The tokens of a path, from its root up to and with a position, (t,) int64.

    Args:
        batch: what `TreeCollator` makes.
        position: index into the flattened tokens, such as one of `sources`.
    """
    ids = batch["input_ids"]
    if "cu_seq_lens" not in batch:
        row = ids[position // ids.shape[1], : position % ids.shape[1] + 1]
        return row[batch["attention_mask"][position // ids.shape[1], : len(row)].bool()]
    edges = batch["cu_seq_lens"].tolist()
    node = next(i for i in range(len(edges) - 1) if edges[i] <= position < edges[i + 1])
    parts = [ids[0, edges[node] : position + 1]]
    while (node := int(batch["parents"][node])) >= 0:
        parts.insert(0, ids[0, edges[node] : edges[node + 1]])
    return torch.cat(parts)
