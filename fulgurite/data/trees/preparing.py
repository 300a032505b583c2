"""From a reader of preferences to the trees of its splits, in one reading of the sources where that is possible.

The rows for training and those held out for validation come out of the same reading: every record is compared and encoded, and
what belongs to which split is decided at the end, when all groups are known. Where a split takes a limited number of records, or
adds pairs to those of each instruction, a first reading, which encodes nothing, tells which records it wants.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fulgurite.data.records.findings import Finding, Tally
from fulgurite.data.records.preference import Labelled, Preference, PreferenceRecord
from fulgurite.data.rows.writing import key_hash
from fulgurite.data.sampling.splits import chosen_records
from fulgurite.data.trees.augmentation import Augmenting
from fulgurite.data.trees.comparisons import Kind, compare
from fulgurite.data.trees.encoding import ComparisonEncoder, EncodedComparison, Spool
from fulgurite.data.trees.growing import baseline_partners, grow_trees
from fulgurite.data.trees.rows import TreeRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Selection", "TreeOptions", "prepare_trees"]

_log = logging.getLogger(__name__)

_CHUNK = 250


class Reader(Protocol):
    """Reads records; each iteration is one reading of the sources."""

    @property
    def tally(self) -> Tally: ...

    @property
    def schemas(self) -> dict[str, str]: ...

    def __iter__(self) -> Iterator[PreferenceRecord]: ...


@dataclass(frozen=True)
class Selection:
    """Which records belong to a split.

    Attributes:
        part: "all"; "train", without those that are held out; or "held out".
        val_fraction: Share of the records that is held out, whole groups.
        limit: That many records of random groups only; None: all.
        augment: Whether Eurus's single-turn pairs are added.
    """

    part: str
    val_fraction: float
    limit: int | None = None
    augment: bool = False

    @property
    def first_reading(self) -> bool:
        """Whether all records have to be seen before the first is encoded."""
        return self.limit is not None or self.augment

    def chosen(self, groups: Sequence[int], seed: int) -> Tensor:
        """Which records belong to the split, (records,) bool; of a limit's records those of a group come together.

        Args:
            groups: a hash of each record's group.
            seed: decides which groups a limit takes.
        """
        keep = chosen_records(torch.tensor(groups, dtype=torch.int64), self.part, self.val_fraction)
        if self.limit is None:
            return keep
        members: dict[int, list[int]] = {}
        for i in keep.nonzero().squeeze(1).tolist():
            members.setdefault(groups[i], []).append(i)
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist()
        named = list(members.values())
        kept = torch.zeros_like(keep)
        kept[list(islice(chain.from_iterable(named[i] for i in order), self.limit))] = True
        return kept


@dataclass(frozen=True)
class TreeOptions:
    """How records are compared and trees grown; as of `PreferenceDataModule`.

    Attributes:
        kind: What a loss sees; None: labels if the first record has one, else pairs.
        pair_rule: Which pairs a row with several scored answers has.
        ties: Whether an answer as good as the best may be drawn against it.
        margin_scale: Divides margins.
        max_length: Tokens of a prompt with its answer at most.
        token_budget: Tokens of a tree at most; None takes twice max_length, for groups four times.
        trees: Whether answers share what they have in common.
        seed: Decides random pairs, a limit's groups and KTO's mismatched answers.
    """

    kind: Kind | None
    pair_rule: str
    ties: bool
    margin_scale: Any
    max_length: int
    token_budget: int | None
    trees: bool
    seed: int

    def budget(self, kind: str | None) -> int:
        """Tokens of a tree, or pack, at most.

        Args:
            kind: what a loss sees.
        """
        return self.token_budget or (4 if kind == "groups" else 2) * self.max_length


def prepare_trees(
    reader: Reader,
    tokenizer: PreTrainedTokenizerBase,
    wanted: Mapping[str, Selection],
    options: TreeOptions,
    *,
    owner: str,
    sources: Sequence[str],
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> dict[str, TreeRows]:
    """The trees of some splits of the same sources.

    Args:
        reader: of the sources.
        tokenizer: with its chat template.
        wanted: the splits by name.
        options: how they are made.
        owner: what messages call the caller.
        sources: names of the sources, for messages.
        progress: wraps what is worked on, with a word for the work.
    """
    keeps: dict[str, Tensor] | None = None
    sizes: dict[str, Counter[str | None]] = {}
    if any(selection.first_reading for selection in wanted.values()):
        seen = [
            (key_hash(record.key), record.group if isinstance(record, Preference) else None)
            for record in progress(reader, "dividing rows")
        ]
        keeps = {name: selection.chosen([key for key, _ in seen], options.seed) for name, selection in wanted.items()}
        for name, keep in keeps.items():
            sizes[name] = Counter(seen[i][1] for i in keep.nonzero().squeeze(1).tolist())
        del seen
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder)) as spool:
        encoder = ComparisonEncoder(tokenizer, options.max_length, spool, tally)
        groups: list[int] = []
        records = _records(progress(reader, "encoding"), wanted, keeps, sizes, options.seed, groups)
        first = next(records, None)
        kind: Kind = options.kind or ("labels" if first is not None and isinstance(first[2], Labelled) else "pairs")
        encoded: list[tuple[str | None, int, EncodedComparison]] = []
        records = chain([] if first is None else [first], records)
        while chunk := list(islice(records, _CHUNK)):
            encoded += _encoded(chunk, kind, options, encoder, tally)
        found = reader.tally
        found.merge(tally)
        grown = {}
        for name, selection in wanted.items():
            if keeps is None:
                chosen = selection.chosen(groups, options.seed).tolist()
                mine = [item for _, index, item in encoded if chosen[index]]
            else:
                mine = [item for split, _, item in encoded if split == name]
            total = Tally(**json.loads(json.dumps(found.state())))
            rows = _grown(name, mine, kind, spool, options, total, owner, sources, progress)
            rows.metadata["schemas"] = json.dumps(reader.schemas)
            grown[name] = rows
    return grown


def _records(
    reader: Iterable[PreferenceRecord],
    wanted: Mapping[str, Selection],
    keeps: Mapping[str, Tensor] | None,
    sizes: Mapping[str, Counter[str | None]],
    seed: int,
    groups: list[int],
) -> Iterator[tuple[str | None, int, PreferenceRecord]]:
    """The records that some split wants, with its name, if it is known yet, and their number; `groups` gets the hash of each."""
    if keeps is None:
        for index, record in enumerate(reader):
            groups.append(key_hash(record.key))
            yield None, index, record
        return
    augmenting = {name: Augmenting(sizes[name], seed) for name, selection in wanted.items() if selection.augment}
    lists = {name: keep.tolist() for name, keep in keeps.items()}
    for index, record in enumerate(reader):
        for name, keep in lists.items():
            if not keep[index]:
                continue
            yield name, index, record
            # After the division: new pairs must not move the line between training and validation rows.
            for made in augmenting[name].after(record) if name in augmenting else ():
                yield name, index, made


def _encoded(
    chunk: Sequence[tuple[str | None, int, PreferenceRecord]],
    kind: Kind,
    options: TreeOptions,
    encoder: ComparisonEncoder,
    tally: Tally,
) -> list[tuple[str | None, int, EncodedComparison]]:
    """The comparisons of some records whose answers fit, each with its split and the number of its record."""
    places, compared = [], []
    for name, index, record in chunk:
        item = compare(record, kind, options.pair_rule, options.ties, options.seed, options.margin_scale)
        if isinstance(item, Finding):
            tally.add(item.where, item.reason, item.detail, item.lost)
        else:
            compared.append(item)
            places.append((name, index))
    kept = encoder.encode_each(compared)
    return [(*place, item) for place, item in zip(places, kept, strict=True) if item is not None]


def _grown(
    split: str,
    encoded: list[EncodedComparison],
    kind: Kind,
    spool: Spool,
    options: TreeOptions,
    tally: Tally,
    owner: str,
    sources: Sequence[str],
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> TreeRows:
    """The trees of one split; what does not fit into one is added to the tally, which they keep."""
    partners = None
    if kind == "labels":
        _check_labels(split, encoded, owner, tally.lines())
        partners = baseline_partners(encoded, spool, options.max_length, options.seed)
    names = sorted({item.comparison.tag for item in encoded if item.comparison.tag is not None})
    writer = grow_trees(
        encoded,
        spool,
        token_budget=options.budget(kind),
        tally=tally,
        tags=names,
        trees=options.trees,
        partners=partners,
        progress=lambda families: progress(families, f"growing trees of {split}"),
    )
    if writer.trees == 0:
        found = "\n  ".join(tally.lines())
        raise ValueError(
            f"{owner}: no preference of {', '.join(sources[:3])} is left for {split}; raise max_length, or correct the rows\n"
            f"  {found}"
        )
    return writer.finish({"tally": json.dumps(tally.state()), "tag_names": json.dumps(names), "kind": kind})


def _check_labels(split: str, encoded: Sequence[EncodedComparison], owner: str, left_out: Sequence[str]) -> None:
    """Training needs both labels; a validation with one label only is told."""
    found = {desirable for item in encoded for _, desirable in item.comparison.labels}
    if len(found) == 1:
        problem = f"{owner}: all labels of the {split} rows are {found.pop()}"
        if split == "train":
            found_too = "\n  ".join(left_out)
            raise ValueError(
                f"{problem}; KTO needs desirable and undesirable answers; check the column 'label', or give pairs\n"
                f"  {found_too}".rstrip()
            )
        _log.warning("%s", problem)
