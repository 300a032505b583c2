"""`PreferenceDataModule`: preferences of any published schema, as packs of trees.

`prepare_data` reads the rows, encodes each answer once, grows the trees (fulgurite.data.trees.prefix_tree) and writes them to a
cache file, which every rank reads. A "row" of the sampler is a pack of trees: the order of the packs is drawn anew in each epoch,
what is in a pack stays, and an interrupted epoch resumes to the same batches. `tokens_in_window` counts units: pairs,
labelled answers, or groups of scored answers.

With labels, packs hold wanted and unwanted answers alike (fulgurite.data.trees.packing).
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.records.findings import Finding, Tally
from fulgurite.data.records.preference import Labelled
from fulgurite.data.rows.encoded import Rows
from fulgurite.data.rows.report import LengthReport, length_report
from fulgurite.data.rows.store import cache_key, numbered
from fulgurite.data.sampling.mixing import mix
from fulgurite.data.sources.locate import RowSource
from fulgurite.data.trees.augmentation import Augmented
from fulgurite.data.trees.comparisons import KINDS, PAIR_RULES, Comparison, Kind, compare
from fulgurite.data.trees.encoding import ComparisonEncoder, EncodedComparison, Spool
from fulgurite.data.trees.growing import baseline_partners, grow_trees, load_trees, save_trees
from fulgurite.data.trees.packing import pack_trees
from fulgurite.data.trees.report import tree_report
from fulgurite.data.trees.rows import PackedTrees, TreeCollator, TreeRows, path_to
from fulgurite.datamodules.conversations import ConversationDataModule

__all__ = ["PreferenceDataModule"]

_log = logging.getLogger(__name__)
_FORMAT = 3  # raise it when preferences are read, encoded or laid out in another way: older caches are then not read
_CHUNK = 250


class PreferenceDataModule(ConversationDataModule):
    """Pairs of answers, answers with a label, or several answers with scores, in any schema.

    Attributes after `setup`: `objective_kind`, what a batch holds; `tag_names`, what the numbers in its `tag` stand for.

    Args:
        path: hub id; file; folder with files named after their split; "builtin"; or a list of these; None takes the hub
            id of the data set that the class is named after.
        val_path: file or folder of the validation rows; None takes those of path, or cuts val_fraction.
        test_path: file or folder of the test rows; None takes those of path.
        schema: how rows are read, see fulgurite.data.readers.preferences; "auto" guesses from the columns.
        columns: the file's name of columns that the schema calls otherwise.
        as_chat: lay the chat template over prompts and answers that are plain texts, instead of joining them as they are.
        template: None takes the tokenizer's own chat template or our default; or a known name; or a jinja file.
        objective_kind: what a loss sees: "pairs", "labels" (KTO) or "groups" (K-way); None: labels if the rows have them,
            else pairs.
        pair_rule: pairs of a row with several scored answers: "all", "best_vs_random" or "best_vs_worst".
        ties: best_vs_random may draw an answer as good as the best, as the published binarisation does.
        score: what ranks UltraFeedback's answers: "mean" of the ratings, "overall", or the name of an aspect.
        margin_scale: divides margins: a number, or "annotation" for the widest one that the ratings' scale allows (then at most
            1); None takes margins in points.
        augment: add Eurus's single-turn pairs of one instruction's actions (rows with a parent_id), for training only.
        trees: compute what answers share (prompt, earlier turns) once; False gives each pair rows of its own.
        packing: lay several trees into one row; False gives each answer a padded row of its own, without trees.
        token_budget: tokens of a pack; None takes twice max_length, for groups four times.
        on_bad_row: a row that is no preference is left out and counted ("skip") or stops the run ("error").
        val_fraction: share of the training rows that validate where there are none, whole groups; 0 for no validation.
        weights: share of each path's pairs in the training rows, by its short name (with one path, of each tag); None takes
            the rows as they are.
        mixing: with weights, an epoch ends when the first path's rows do, or has as many pairs as there are and repeats.
        revision: commit of the hub's data set; None takes the one that we know, or the newest.
        tokenizer: hub id, folder or playground name; None takes the backbone of the module that is trained.
        batch_size: packs per process and batch; without packing units (pairs, labels, groups).
        eval_batch_size: the same elsewhere; None takes batch_size.
        max_length: tokens of a prompt with its answer at most; longer ones are left out and counted, never cut.
        num_workers: processes that collate batches.
        seed: decides the order of the packs, random pairs, and the mismatched answers of KTO's baseline.
        cache_dir: folder of the tokenised rows; None takes $FULGURITE_CACHE or ~/.cache/fulgurite.
        limit_train: train on that many rows of random groups only.
        pad_multiple: lengths of batches are rounded up to a multiple of it.
    """

    builtin_schema = "ultrafeedback_binarized"
    used_for = "prefs"

    def __init__(
        self,
        path: str | list[str] | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        schema: str = "auto",
        columns: dict[str, str] | None = None,
        as_chat: bool = False,
        template: str | None = None,
        objective_kind: Literal["pairs", "labels", "groups"] | None = None,
        pair_rule: Literal["all", "best_vs_random", "best_vs_worst"] = "all",
        ties: bool = False,
        score: str = "mean",
        margin_scale: float | Literal["annotation"] | None = None,
        augment: bool = False,
        trees: bool = True,
        packing: bool = True,
        token_budget: int | None = None,
        on_bad_row: Literal["skip", "error"] = "skip",
        val_fraction: float = 0.05,
        weights: dict[str, float] | None = None,
        mixing: Literal["until_first_ends", "repeat"] = "until_first_ends",
        revision: str | None = None,
        tokenizer: str | None = None,
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        max_length: int = 2048,
        num_workers: int = 0,
        seed: int = 42,
        cache_dir: str | None = None,
        limit_train: int | None = None,
        pad_multiple: int = 1,
    ) -> None:
        self.score, self.as_chat, self.margin_scale, self.augment = score, as_chat, margin_scale, augment
        if isinstance(margin_scale, (int, float)) and not 0 < margin_scale < float("inf"):
            raise ValueError(
                f"{type(self).__name__}: margin_scale is {margin_scale}; allowed are numbers above 0, 'annotation' and None"
            )
        super().__init__(
            path=path,
            val_path=val_path,
            test_path=test_path,
            schema=schema,
            columns=columns,
            template=template,
            supervise="last",
            packing=packing,
            on_bad_row=on_bad_row,
            val_fraction=val_fraction,
            weights=weights,
            mixing=mixing,
            revision=revision,
            tokenizer=tokenizer,
            batch_size=batch_size,
            eval_batch_size=batch_size if eval_batch_size is None else eval_batch_size,
            max_length=max_length,
            num_workers=num_workers,
            seed=seed,
            cache_dir=cache_dir,
            limit_train=limit_train,
            pad_multiple=pad_multiple,
        )
        name = type(self).__name__
        for option, value, allowed in (("objective_kind", objective_kind, KINDS), ("pair_rule", pair_rule, PAIR_RULES)):
            if value is not None and value not in allowed:
                raise ValueError(f"{name}: {option} is {value!r}; allowed are {', '.join(map(repr, allowed))}")
        if token_budget is not None and token_budget < max_length:
            raise ValueError(
                f"{name}: token_budget is {token_budget}; a pack must hold one path of max_length={max_length} tokens at least; "
                "raise it, or lower max_length"
            )
        self.task_type = "preference"
        self.metric_names = ()
        self.pair_rule, self.ties = pair_rule, ties
        self.packing, self.trees = packing, trees and packing
        self.token_budget = token_budget
        self._given_kind: Kind | None = objective_kind
        self.objective_kind: Kind | None = objective_kind

    def load_tokenizer(self) -> Any:
        """The tokenizer with its chat template, loaded once."""
        # Preferences are for causal models, whose tokenizers get a template.
        task, self.task_type = self.task_type, "causal_lm"
        try:
            return super().load_tokenizer()
        finally:
            self.task_type = task

    def reports(self) -> list[LengthReport]:
        """Units, trees, tokens, packs and steps of every split that has been read."""
        return [self._length_report(split, rows) for split, rows in self._splits.items() if rows is not None]

    def sample_prompts(self, count: int) -> list[tuple[list[int], str]]:
        """Prompt ids and the better answer of the first validation trees; fewer where there are fewer.

        Args:
            count: how many.
        """
        trees: Any = self._rows("val")
        tokenizer, found = self.load_tokenizer(), []
        collator = TreeCollator(self._pad_token_id())
        for index in range(min(count, 0 if trees is None else len(trees))):
            batch = collator.rows([trees[index]])
            good = batch["pairs"][:, 0] if len(batch["pairs"]) else (batch["desirable"] != 0).nonzero().squeeze(1)
            if not len(good):
                continue
            best = int(good[0])
            prompt = path_to(batch, int(batch["sources"][batch["owner"] == best][0])).tolist()
            answer = batch["targets"][batch["owner"] == best].tolist()
            found.append((prompt, str(tokenizer.decode(answer, skip_special_tokens=True))))
        return found

    def fixed_order_dataloader(self, split: str) -> DataLoader[Any] | None:
        """All units of a split once, in an order that does not change; None where there is no such split.

        Args:
            split: "train", "val" or "test".
        """
        rows = self._rows(split)
        return None if rows is None else self._evaluation_loader(rows, split)

    def train_subset_dataloader(self, count: int = 1000, seed: int = 42) -> DataLoader[Any]:
        """Random training trees in evaluation mode, with about `count` units.

        Args:
            count: number of units; all of them where there are fewer.
            seed: decides which.
        """
        rows: Any = self._need("train", "fit")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        before = rows.targets()[order].cumsum(0) - rows.targets()[order]
        return self._evaluation_loader(rows, "train", order[before < count].sort().values)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of test rows; of validation rows where there is no test split."""
        rows: Any = self._rows("test")
        rows = self._need("val", "predict") if rows is None else rows
        # A plain loader: Lightning rebuilds it to keep track of the rows behind each prediction.
        packed: Any = self._packed(rows, None)
        collate: Callable[[list[Any]], Any] = self._collator().rows
        return DataLoader(packed, batch_size=self.eval_batch_size, collate_fn=collate, num_workers=self.num_workers)

    def _evaluation_loader(self, encoded: Any, split: str, chosen: Tensor | None = None) -> DataLoader[Any]:
        packed = encoded if isinstance(encoded, PackedTrees) else self._packed(encoded, chosen)
        return super()._evaluation_loader(packed, split)  # type: ignore[arg-type]

    def _reader(self, sources: Sequence[RowSource]) -> Any:
        return PreferenceReader(
            sources,
            self.schema,
            self.columns,
            self.on_bad_row,
            self.tags,
            tag_sources="all" if self.weights is not None and len(self.paths) > 1 else len(self.paths) > 1,
            score=self.score,
            as_chat=self.as_chat,
        )

    def _load_or_encode(self, split: str, sources: list[RowSource], part: str) -> Any:
        limit = self.limit_train if split == "train" else None
        how = [
            ["preference", _FORMAT, self.max_length, self.token_budget, self.on_bad_row, self.seed],
            [self._given_kind, self.pair_rule, self.ties, self.score, self.trees, self.as_chat, self.margin_scale],
            [self.schema, self.columns, self.tags and sorted(self.tags), len(self.paths) > 1, self.weights is not None],
            [self.augment and split == "train"],
            *self._identity(self.load_tokenizer(), sources),
            [part, self.val_fraction if part != "all" else None, limit],
            *self._reader_key(),
        ]
        path = self.cache_dir / "preferences" / f"{cache_key(how)}.safetensors"
        if path.is_file():
            try:
                return load_trees(path)
            except ValueError as error:
                _log.warning("the cache entry %s is damaged (%s); it is built again", path, error)
        save_trees(self._grown(split, sources, part, limit), path)
        return load_trees(path)

    def _grown(self, split: str, sources: list[RowSource], part: str, limit: int | None) -> TreeRows:
        """The trees of a split, built from its rows."""
        reader = self._reader(sources)
        keep = self._kept(reader, part, limit)
        kept: Any = numbered(reader, keep)
        if self.augment and split == "train":
            # Behind the division: new pairs must not move the line between training and validation rows.
            kept = Augmented(lambda: numbered(reader, keep), self.seed)
        records: Any = iter(self._shown(kept, f"encoding {split}"))
        first = next(records, None)
        kind = self._given_kind or ("labels" if isinstance(first, Labelled) else "pairs")
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder, Spool(Path(folder)) as spool:
            encoder = ComparisonEncoder(self.load_tokenizer(), self.max_length, spool, tally)
            encoded: list[EncodedComparison] = []
            records = chain([] if first is None else [first], records)
            while chunk := list(islice(records, _CHUNK)):
                compared = [
                    compare(record, kind, self.pair_rule, self.ties, self.seed, self.margin_scale) for record in chunk
                ]
                for item in compared:
                    if isinstance(item, Finding):
                        tally.add(item.where, item.reason, item.detail, item.lost)
                encoded += encoder.encode([item for item in compared if isinstance(item, Comparison)])
            partners = None
            if kind == "labels":
                self._check_labels(split, encoded, [*reader.tally.lines(), *tally.lines()])
                partners = baseline_partners(encoded, spool, self.max_length, self.seed)
            names = sorted({item.comparison.tag for item in encoded if item.comparison.tag is not None})
            writer = grow_trees(
                encoded,
                spool,
                token_budget=self._budget(kind),
                tally=tally,
                tags=names,
                trees=self.trees,
                partners=partners,
                progress=lambda families: self._shown(families, f"growing trees of {split}"),  # type: ignore[arg-type, return-value]
            )
            total = reader.tally
            total.merge(tally)
            if writer.trees == 0:
                found = "\n  ".join(total.lines())
                raise ValueError(
                    f"{type(self).__name__}: no preference of {', '.join(s.name for s in sources[:3])} is left for {split}; "
                    f"raise max_length, or correct the rows\n  {found}"
                )
            metadata = {"tally": json.dumps(total.state()), "tag_names": json.dumps(names), "kind": kind}
            return writer.finish({**metadata, "schemas": json.dumps(reader.schemas)})

    def _kept(self, reader: Any, part: str, limit: int | None) -> Tensor | None:
        """Which records are encoded; of limit_train random ones those of a group come together, as a tree needs them."""
        if limit is None:
            return super()._kept(reader, part, None)
        keys = [record.key for record in self._shown(reader, "dividing rows")]
        keep = torch.ones(len(keys), dtype=torch.bool) if part == "all" else super()._kept(reader, part, None)
        assert keep is not None
        groups: dict[str, list[int]] = {}
        for i in keep.nonzero().squeeze(1).tolist():
            groups.setdefault(keys[i], []).append(i)
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(self.seed)).tolist()
        members = list(groups.values())
        chosen = list(islice(chain.from_iterable(members[i] for i in order), limit))
        kept = torch.zeros_like(keep)
        kept[chosen] = True
        return kept

    def _check_labels(self, split: str, encoded: Sequence[EncodedComparison], left_out: Sequence[str]) -> None:
        """Training needs both labels; what is wrong with a validation of one label is told."""
        found = {desirable for item in encoded for _, desirable in item.comparison.labels}
        if len(found) == 1:
            problem = f"{type(self).__name__}: all labels of the {split} rows are {found.pop()}"
            if split == "train":
                found_too = "\n  ".join(left_out)
                raise ValueError(
                    f"{problem}; KTO needs desirable and undesirable answers; check the column 'label', or give pairs\n"
                    f"  {found_too}".rstrip()
                )
            _log.warning("%s", problem)

    def _budget(self, kind: str | None) -> int:
        return self.token_budget or (4 if kind == "groups" else 2) * self.max_length

    def _tagged(self, rows: Any) -> Any:
        """The rows with tags numbered as in `tag_names`, which grows by those that are new; the kind is set."""
        kind = rows.metadata["kind"]
        if self.objective_kind is not None and kind != self.objective_kind:
            raise ValueError(
                f"{type(self).__name__}: one split holds {self.objective_kind} and another {kind}; give rows of one kind, or "
                "set objective_kind"
            )
        self.objective_kind = kind
        names = json.loads(rows.metadata["tag_names"])
        self.tag_names = self.tag_names + sorted(set(names) - set(self.tag_names))
        if not names:
            del rows.tensors["tag"]
            return rows
        numbers = torch.tensor([*(self.tag_names.index(name) for name in names), -1], dtype=torch.int32)
        rows.tensors["tag"] = numbers[rows.tensors["tag"].long()]  # -1 takes the last
        return rows

    def _arranged(self, encoded: Any, mixed: bool = False) -> Rows:
        if isinstance(encoded, PackedTrees):
            return encoded
        if not mixed:
            return self._packed(encoded, None)
        if self._mixed is None or self._mixed[0] is not encoded:
            chosen = None
            if self.weights is not None:
                names = self.tag_names if _tree_tags(encoded) is not None else []
                tags = torch.full((len(encoded),), -1) if not names else _tree_tags(encoded)
                chosen = mix(tags, names, self.weights, self.mixing, self.seed, encoded.targets())  # type: ignore[arg-type]
            self._mixed = (encoded, chosen, self._packed(encoded, chosen))
        return self._mixed[2]

    def _packed(self, encoded: Any, chosen: Tensor | None) -> Rows:
        """Trees in packs; without packing each unit is a pack."""
        trees = torch.arange(len(encoded)) if chosen is None else chosen
        if not self.packing:
            return PackedTrees(encoded, trees[:, None].tolist())
        labels = self.objective_kind == "labels"
        return pack_trees(encoded, trees, self._budget(self.objective_kind), labels, self.seed)

    def _collator(self) -> Any:
        return TreeCollator(self._pad_token_id(), self.pad_multiple, self.packing)

    def _length_report(self, split: str, rows: Any) -> LengthReport:
        train = split == "train"
        arranged = self._arranged(rows, mixed=train)
        trainer = self.trainer
        tag, lengths, units = rows.tensors.get("tag"), rows.lengths, rows.targets()
        chosen = self._mixed[1] if train and self._mixed is not None else None
        if chosen is not None:  # shares are then those of units, as weights are
            lengths, units = lengths[chosen], units[chosen]
            tag = _tree_tags(rows)[chosen].repeat_interleave(units)  # type: ignore[index]
        base = length_report(
            split,
            lengths,
            units,
            self._budget(self.objective_kind),
            Tally(**json.loads(rows.metadata["tally"])),
            packs=len(arranged) if self.packing else None,
            rows_per_batch=(self.batch_size if train else self.eval_batch_size)
            * (trainer.world_size if trainer else 1),
            accumulate=self._accumulate() if train else 1,
            tags=None if tag is None else (tag, self.tag_names),
            schemas=json.loads(rows.metadata["schemas"]),
        )
        return tree_report(base, rows, self.objective_kind or "pairs", self.max_length, self.trees, chosen)


def _tree_tags(rows: Any) -> Tensor | None:
    """The tag of each tree, (trees,) int64: its first completion's."""
    tag = rows.tensors.get("tag")
    return None if tag is None else tag[rows.tensors["tree_completions"][:-1]].long()
